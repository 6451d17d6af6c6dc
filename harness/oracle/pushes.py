"""How hard VD pushes over time, before and after its bound: `python -m mdtbench.harness.oracle.pushes RUN`.

RUN is a run of preset `modes` with `vm` and `mdt:lambda1` students. Of each of these, and of the student that starts as
the teacher, samples of one step are diffused to t, and r' is taken there. The rows are root mean squares over 1,024
samples: of r', of VD's push (1 - t) r' as the paper has it, and of (1 - t) r' / (rms(r') + c) as the bound makes it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from ...base.files import read_json
from ...base.seeds import seed_of
from ...flow.layout import DenseLayout, rms
from ...flow.path import diffuse
from ...methods import Step
from ...methods.residual import BackwardDifference, ResidualRms, pushed
from .config import OracleConfig
from .jobs import network_of
from .plan import OraclePlan, family, plan_oracle

TIMES = (0.05, 0.1, 0.3, 0.5, 0.7, 0.9, 0.98)
COUNT = 1024
DELTA = 0.01
WHO = ("undistilled", "vm", "mdt:lambda1")


@torch.no_grad()
def pushes(network: nn.Module, config: OracleConfig, time: float) -> tuple[float, float, float]:
    """Root mean squares of r', of the push without and with the bound, at samples of one step diffused to `time`."""
    problems, layout = family(config), DenseLayout((COUNT, family(config).dim))
    generator = torch.Generator().manual_seed(seed_of("pushes"))
    noise, classes = problems.questions(COUNT, generator)
    t, again = torch.full((COUNT,), time), layout.randn([generator])

    def velocity(x: Tensor, at: Tensor) -> Tensor:
        return network(x, at, classes)

    x_t = diffuse(noise - velocity(noise, torch.ones(COUNT)), again, t, layout)
    teacher = problems.teacher(classes)
    step = Step(
        index=0,
        total=1,
        x_0=noise,
        noise=again,
        t=t,
        t_min=0.0,
        x_t=x_t,
        layout=layout,
        student=velocity,
        frozen_student=velocity,
        teacher=teacher,
        attached_teacher=teacher,
        generator=generator,
    )
    at = pushed(step, x_t, t, teacher(x_t, t, 0.0), rule=BackwardDifference(), scaling=ResidualRms(), delta=DELTA)
    size = [float(rms(layout, value).square().mean().sqrt()) for value in (at.residual, at.push)]
    return size[0], (1 - time) * size[0], (1 - time) * size[1]


def table(rows: Sequence[tuple[str, float, tuple[float, float, float]]]) -> str:
    lines = ["| student | t | rms r' | push, no bound | push, bounded |", "|---|---|---|---|---|"]
    lines += [f"| {who} | {t:g} | {r:.3f} | {free:.3f} | {bound:.3f} |" for who, t, (r, free, bound) in rows]
    return "\n".join(lines) + "\n"


def _networks(plan: OraclePlan, out: Path) -> dict[str, nn.Module]:
    """Of the first training seed; the student that has not begun is the teacher."""
    first = {t.entrant.label: t for t in reversed(plan.trainings) if t.entrant.label in WHO}
    trained = {label: network_of(plan.config, out, first[label]) for label in WHO[1:]}
    return {WHO[0]: family(plan.config).student(0)} | {label: net for label, net in trained.items() if net is not None}


def main(folder: str) -> None:
    manifest = read_json(Path(folder) / "manifest.json")
    plan = plan_oracle(OracleConfig.model_validate(manifest["config"]), WHO[1:], manifest["train_seeds"])
    found = [
        (who, time, pushes(network.eval(), plan.config, time))
        for who, network in _networks(plan, Path(folder)).items()
        for time in TIMES
    ]
    sys.stdout.write(table(found))


if __name__ == "__main__":
    main(sys.argv[1])
