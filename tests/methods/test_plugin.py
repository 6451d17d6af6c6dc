"""A new method is one file: another package's `mine` is found, built and trained without a change here."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from steps import F64, Mlp, bind, dense, randn, seeded
from torch import Tensor

from mdtbench.flow.guidance import combine
from mdtbench.flow.oracles import GaussianOracle
from mdtbench.flow.path import diffuse
from mdtbench.methods import METHODS, Distillation, Step

STRENGTH = 2.0


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The package `my-package` with one entry point, on the path and forgotten afterwards."""
    info = tmp_path / "my_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[mdtbench.methods]\nmine = my_package\n")
    (tmp_path / "my_package.py").write_text((Path(__file__).parent / "plugin_method.py").read_text())
    monkeypatch.setattr(METHODS, "_entries", dict(METHODS._entries))
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("my_package", None)


def train(made: Distillation, network: torch.nn.Module, steps: int) -> list[float]:
    """Residuals along a training on N(mu, Sigma) with a guided exact teacher."""
    cov = torch.tensor([[0.5, 0.2], [0.2, 0.3]], dtype=F64)
    cond = GaussianOracle(torch.tensor([1.0, -0.5], dtype=F64), cov)
    neg = GaussianOracle(torch.zeros(2, dtype=F64), cov)
    layout, generator = dense(128, 2), seeded(1)
    factor = torch.linalg.cholesky(cov)
    optimiser, residuals = torch.optim.Adam(network.parameters(), lr=5e-2), []

    def teacher(x: Tensor, t: Tensor, s: float) -> Tensor:
        return combine(cond.velocity(x, t), neg.velocity(x, t), s)

    for index in range(steps):
        noise = layout.randn([generator])
        x_0 = cond.mean + layout.randn([generator]) @ factor.T
        t = 0.01 + 0.99 * torch.rand(128, generator=generator, dtype=F64)
        velocity = bind(network, layout)
        step = Step(
            index=index,
            total=steps,
            x_0=x_0,
            noise=noise,
            t=t,
            t_min=0.01,
            x_t=diffuse(x_0, noise, t, layout),
            layout=layout,
            student=velocity,
            frozen_student=velocity,
            teacher=teacher,
            attached_teacher=teacher,
            generator=generator,
        )
        loss = made.loss(step)
        optimiser.zero_grad()
        loss.value.backward()
        optimiser.step()
        residuals.append(loss.diagnostics["rms_residual"].item())
    return residuals


@pytest.mark.usefixtures("installed")
def test_a_method_of_another_package_trains():
    assert "mine" in METHODS.names()
    assert "my_package" not in sys.modules  # listing imports nothing
    made = METHODS.get("mine").value(cfg_strength=STRENGTH)
    assert isinstance(made, Distillation)
    assert (made.cost(), made.sampler(4).steps) == (5, 4)
    residuals = train(made, Mlp(2, 1, width=64), 300)
    start, end = sum(residuals[:5]) / 5, sum(residuals[-20:]) / 20
    assert end < start / 8  # observed 1.16 to 0.063


def test_forgotten_after_the_test():
    assert "mine" not in METHODS.names()
    assert randn(1, seed=0).dtype == F64
