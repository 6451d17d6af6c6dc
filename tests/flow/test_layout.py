"""Dense and sparse layouts: one meaning of sum, mean, norm and noise."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from steps import F64, dense, ragged, randn, seeded, worst

from mdtbench.flow.layout import (
    DenseLayout,
    SparseLayout,
    norm,
    per_sample_mean,
    rms,
)

LENGTHS = st.lists(st.integers(1, 6), min_size=1, max_size=5).map(tuple)


@settings(max_examples=25, deadline=None)
@given(lengths=LENGTHS, channels=st.integers(1, 4), seed=st.integers(0, 99))
def test_sparse_reductions_are_those_of_each_sample_alone(lengths: tuple[int, ...], channels: int, seed: int):
    layout, x = ragged(lengths, channels), randn(sum(lengths), channels, seed=seed)
    parts = x.split(lengths)
    assert layout.count(x).tolist() == [part.numel() for part in parts]
    assert worst(layout.sum(x), torch.stack([part.sum() for part in parts])) < 1e-13
    assert worst(norm(layout, x), torch.stack([part.norm() for part in parts])) < 1e-13
    assert worst(rms(layout, x), torch.stack([part.square().mean().sqrt() for part in parts])) < 1e-13
    assert worst(per_sample_mean(layout, x), torch.stack([part.mean() for part in parts]).mean()) < 1e-13


@settings(max_examples=25, deadline=None)
@given(batch=st.integers(1, 4), rows=st.integers(1, 5), channels=st.integers(1, 4), seed=st.integers(0, 99))
def test_sparse_samples_of_one_length_are_dense(batch: int, rows: int, channels: int, seed: int):
    x, flat = randn(batch, rows, channels, seed=seed), randn(batch, rows, channels, seed=seed).flatten(0, 1)
    full, sparse, t = dense(batch, rows, channels), ragged((rows,) * batch, channels), randn(batch, seed=seed)
    for reduce in (norm, rms, per_sample_mean):
        assert worst(reduce(full, x), reduce(sparse, flat)) < 1e-13
    assert torch.equal((full.expand(t) * x).flatten(0, 1), sparse.expand(t) * flat)
    shared, own = [seeded(seed)], [seeded(seed)]
    assert torch.equal(full.randn(shared).flatten(0, 1), sparse.randn(own))
    each = [[seeded(i) for i in range(batch)] for _ in range(2)]
    assert torch.equal(full.randn(each[0]).flatten(0, 1), sparse.randn(each[1]))


def test_a_sample_without_rows_does_not_shift_the_others():
    layout = SparseLayout(torch.tensor([0, 2]), 3, 2, F64)
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=F64)
    assert layout.sum(x).tolist() == [3.0, 0.0, 7.0]
    assert layout.count(x).tolist() == [2.0, 0.0, 2.0]


def test_a_sample_with_its_own_generator_does_not_depend_on_its_batch():
    seeds = (3, 5, 8)
    alone = [dense(1, 2, 4).randn([seeded(seed)])[0] for seed in seeds]
    together = dense(3, 2, 4).randn([seeded(seed) for seed in seeds])
    assert torch.equal(together, torch.stack(alone))
    sparse = ragged((2, 5, 1), 3).randn([seeded(seed) for seed in seeds])
    assert torch.equal(sparse[2:7], ragged((5,), 3).randn([seeded(5)]))


def test_noise_is_standard_normal_of_the_layouts_type():
    noise = DenseLayout((200, 100)).randn([seeded(1)])
    assert noise.dtype == torch.float32
    assert abs(noise.mean().item()) < 0.03  # 4 standard errors of 20000 draws
    assert abs(noise.std().item() - 1) < 0.03
    assert dense(2, 3).randn([seeded(1)]).dtype == F64


def test_norm_counts_all_axes_of_a_sample():
    x = torch.full((2, 3, 4, 5), 2.0, dtype=F64)
    layout = dense(2, 3, 4, 5)
    assert worst(norm(layout, x), 2 * 60**0.5) < 1e-12
    assert worst(rms(layout, x), 2.0) < 1e-12
