"""Muon in float32 against torch's own, which rounds its matrices to bfloat16."""

from __future__ import annotations

import pytest
import torch

from mdtbench.harness.train.muon import Muon, orthogonalised

SHAPES = ((8, 20), (20, 8), (8, 20), (16, 16))


def test_it_steps_as_torch_does_to_the_precision_of_bfloat16():
    """After 20 steps of size about lr each; bfloat16 has 8 bits, so its updates are off by up to a few per cent."""
    generator = torch.Generator().manual_seed(0)
    start = [torch.randn(shape, generator=generator) for shape in SHAPES]
    mine, theirs = ([torch.nn.Parameter(tensor.clone()) for tensor in start] for _ in range(2))
    ours = Muon(mine, 1e-2, 0.95, weight_decay=0.1)
    reference = torch.optim.Muon(theirs, lr=1e-2, momentum=0.95, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for _ in range(20):
        for a, b in zip(mine, theirs, strict=True):
            a.grad = torch.randn(a.shape, generator=generator)
            b.grad = a.grad.clone()
        ours.step()
        reference.step()
    for a, b, first in zip(mine, theirs, start, strict=True):
        moved = (b - first).detach().norm()
        assert moved > 0.1
        assert (a - b).detach().norm() < 0.03 * moved


@pytest.mark.parametrize("shape", [(3, 8, 20), (2, 20, 8)])
def test_singular_values_come_near_one_and_vectors_stay(shape):
    """The quintic's fifth iterate lies within [.68, 1.13] for singular values above a hundredth of the largest."""
    given = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    made = orthogonalised(given)
    assert made.shape == given.shape
    values = torch.linalg.svdvals(made)
    assert values.min() > 0.6
    assert values.max() < 1.25
    u, _, vh = torch.linalg.svd(given, full_matrices=False)
    inner = torch.einsum("nir,nij,nrj->nr", u, made, vh)
    assert (inner > 0.6).all()
