"""Voxels, sparse convolution and ragged attention against dense and per-sample computations."""

from __future__ import annotations

import pytest
import torch
from ragged import one_by_one, randn, random_voxels
from torch import Tensor
from torch.nn import functional as F

from mdtbench.base.errors import UsageError
from mdtbench.trellis import sparse_convolution
from mdtbench.trellis.attention import attend
from mdtbench.trellis.sparse import SparseTensor, Voxels, downsample, subdivide, upsample
from mdtbench.trellis.sparse_attention import attend_context, attend_within
from mdtbench.trellis.sparse_blocks import SparseTransformerBlock
from mdtbench.trellis.sparse_convolution import SparseConv3d, convolve

F64 = torch.float64


def on_grid(feats: Tensor, voxels: Voxels, side: int) -> Tensor:
    """[N, C] -> [B, C, R, R, R], zero at free cells."""
    grid = feats.new_zeros(voxels.batch_size, side, side, side, feats.shape[1])
    return grid.index_put(tuple(voxels.coords.long().T), feats).permute(0, 4, 1, 2, 3)


def at_voxels(grid: Tensor, voxels: Voxels) -> Tensor:
    return grid.permute(0, 2, 3, 4, 1)[tuple(voxels.coords.long().T)]


@pytest.mark.parametrize("lengths", [(60,), (30, 0, 125, 1)])
def test_convolution_and_its_gradients_are_the_dense_ones(lengths):
    voxels = random_voxels(5, *lengths)
    given = [randn(len(voxels), 3), randn(4, 3, 3, 3, 3, seed=2), randn(4, seed=3)]
    sparse, dense = ([value.clone().requires_grad_() for value in given] for _ in range(2))
    out = convolve(*sparse, voxels.neighbours)
    weight = dense[1].permute(0, 4, 1, 2, 3)
    expected = at_voxels(F.conv3d(on_grid(dense[0], voxels, 5), weight, dense[2], padding=1), voxels)
    pull = randn(*out.shape, seed=4)
    torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-10)  # sums of 81 terms in another order
    got, wanted = (torch.autograd.grad((y * pull).sum(), xs) for y, xs in ((out, sparse), (expected, dense)))
    for a, b in zip(got, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_forward_derivative_of_the_convolution_and_its_gradient():
    """The derivative of a bilinear map is known, and so is the gradient of that derivative."""
    voxels = random_voxels(4, 20, 9)
    given = [randn(29, 3), randn(2, 3, 3, 3, 3, seed=2), randn(2, seed=3)]
    steps = [randn(*value.shape, seed=9) for value in given]
    feats, weight, bias = (value.requires_grad_() for value in given)
    _, got = torch.func.jvp(lambda *args: convolve(*args, voxels.neighbours), (feats, weight, bias), tuple(steps))
    expected = convolve(steps[0], weight, steps[2], voxels.neighbours)
    expected = expected + convolve(feats, steps[1], torch.zeros_like(bias), voxels.neighbours)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)  # the same sums in another order
    gradients = (torch.autograd.grad(y.square().sum(), (feats, weight)) for y in (got, expected))
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_convolution_repeats_its_bits():
    voxels, conv = random_voxels(8, 200, 150), SparseConv3d(16, 16, 3)
    x = SparseTensor(randn(350, 16).float().requires_grad_(), voxels)

    def run() -> list[Tensor]:
        out = conv(x).feats
        return [out, *torch.autograd.grad(out.square().sum(), [x.feats, *conv.parameters()])]

    assert all(torch.equal(a, b) for a, b in zip(run(), run(), strict=True))


def test_pointwise_convolution_reads_its_weight_in_memory_order():
    conv, x = SparseConv3d(2, 3, 1), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    with torch.no_grad():
        conv.conv.weight.copy_(torch.arange(6.0).reshape(3, 1, 1, 1, 2))
        conv.conv.bias.zero_()
        out = conv(SparseTensor.of(x, torch.zeros(2, 4, dtype=torch.int32))).feats
    assert out.tolist() == [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]  # rows of [in, out], not columns of [out, in]


def test_neighbours_do_not_cross_samples_nor_edges():
    coords = torch.tensor([[0, 0, 0, 3], [0, 0, 1, 0], [1, 0, 0, 0], [1, 0, 0, 1]])
    voxels = Voxels.of(coords)
    met = [[(place, int(row)) for place, row in enumerate(rows) if row < 4] for rows in voxels.neighbours]
    assert met == [[(13, 0)], [(13, 1)], [(13, 2), (14, 3)], [(12, 2), (13, 3)]]


def test_downsampling_divides_by_one_more_than_the_count():
    coords = torch.tensor([[0, 3, 2, 2], [0, 0, 0, 1], [0, 0, 1, 0], [1, 1, 1, 1]])
    x = SparseTensor.of(torch.tensor([[2.0], [3.0], [6.0], [8.0]]), coords)
    low = downsample(x)
    assert low.coords.tolist() == [[0, 0, 0, 0], [0, 1, 1, 1], [1, 0, 0, 0]]
    assert low.feats[:, 0].tolist() == [3.0, 1.0, 4.0]
    assert upsample(low, x.voxels).feats[:, 0].tolist() == [1.0, 3.0, 3.0, 4.0]
    assert low.voxels.batch_size == 2


def test_subdivision_lists_the_children_of_a_parent_together():
    x = SparseTensor.of(torch.tensor([[5.0], [7.0]]), torch.tensor([[0, 1, 0, 2], [1, 0, 0, 0]]))
    fine = subdivide(x)
    assert fine.coords[:3].tolist() == [[0, 2, 0, 4], [0, 2, 0, 5], [0, 2, 1, 4]]
    assert fine.coords[8].tolist() == [1, 0, 0, 0]
    assert fine.feats[:, 0].tolist() == [5.0] * 8 + [7.0] * 8
    assert fine.voxels.halved()[0].coords.tolist() == x.coords.tolist()
    assert torch.equal(fine.voxels.subdivided()[1], torch.arange(16).repeat_interleave(8))


@pytest.mark.parametrize("lengths", [(40,), (20, 20), (33, 5, 0, 64)])
def test_attention_within_samples(lengths):
    voxels = random_voxels(6, *lengths)
    q, k, v = (randn(len(voxels), 2, 4, seed=i).requires_grad_() for i in range(3))
    got, expected = attend_within(q, k, v, voxels.sequences), one_by_one(q, k, v, voxels.sample)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)  # the same sums in float64
    for a, b in zip(*(torch.autograd.grad(y.square().sum(), (q, k, v)) for y in (got, expected)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("side", "size", "shift"), [(6, 3, 0), (6, 4, 2), (13, 6, 3), (9, 8, 4)])
def test_attention_within_windows(side, size, shift):
    voxels = random_voxels(side, 180, 0, 90, 7)
    window = torch.cat([voxels.coords[:, :1], (voxels.coords[:, 1:] + shift) // size], 1)
    owner = torch.unique(window, dim=0, return_inverse=True)[1]
    q, k, v = (randn(len(voxels), 2, 4, seed=i) for i in range(3))
    got = attend_within(q, k, v, voxels.windows(size, shift))
    torch.testing.assert_close(got, one_by_one(q, k, v, owner), rtol=1e-12, atol=1e-12)


def test_windows_are_padded_to_less_than_twice_their_size():
    voxels = random_voxels(32, 3000, 40, seed=2)
    sequences = voxels.windows(16)
    for group in sequences.groups:
        filled = group.length if group.mask is None else group.mask.sum(-1).min()
        assert group.length <= 16 or group.length <= 2 * filled
    assert sum(sequences.lengths) == len(voxels)
    assert sum(group.count for group in sequences.groups) == len(sequences.lengths)


def test_one_window_over_everything_is_full_attention():
    voxels = random_voxels(6, 50, 20)
    full, windowed = (SparseTransformerBlock(8, 2, window_size=size, qk_rms_norm=True) for size in (None, 8))
    windowed.load_state_dict(full.state_dict())
    x = SparseTensor(randn(70, 8).float(), voxels)
    torch.testing.assert_close(windowed(x).feats, full(x).feats, rtol=1e-5, atol=1e-6)  # sums in another order


def test_attention_to_the_context_of_the_sample():
    voxels = random_voxels(6, 12, 0, 31)
    q, k, v = randn(43, 2, 4), randn(3, 5, 2, 4, seed=2), randn(3, 5, 2, 4, seed=3)
    got = attend_context(q, k, v, voxels.sequences)
    for i in range(3):
        rows = voxels.sample == i
        expected = attend(q[rows][None], k[i : i + 1], v[i : i + 1])[0]
        torch.testing.assert_close(got[rows], expected, rtol=1e-12, atol=1e-12)


def test_gradients_stay_numbers_beside_an_empty_sample():
    voxels = random_voxels(4, 9, 0, 5)
    x = randn(14, 8).float().requires_grad_()
    block = SparseTransformerBlock(8, 2, qk_rms_norm=True)
    block(SparseTensor(x, voxels)).feats.square().sum().backward()
    assert x.grad.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in block.parameters())


def test_no_voxels_at_all():
    voxels = Voxels(torch.zeros(0, 4, dtype=torch.int32), 2)
    x = SparseTensor(torch.zeros(0, 8), voxels)
    assert SparseConv3d(8, 3, 3)(x).feats.shape == (0, 3)
    assert downsample(x).feats.shape == subdivide(x).feats.shape == (0, 8)
    for size in (None, 4):
        assert SparseTransformerBlock(8, 2, window_size=size)(x).feats.shape == (0, 8)


def test_voxels_of_a_batch():
    voxels = Voxels.of(torch.tensor([[0, 1, 2, 3], [2, 0, 0, 0]]))
    assert (voxels.batch_size, voxels.lengths, voxels.coords.dtype) == (3, [1, 0, 1], torch.int32)
    assert voxels.sample.tolist() == [0, 2]
    assert voxels.to("cpu") is voxels


@pytest.mark.parametrize(
    ("coords", "batch_size", "message"),
    [
        (torch.zeros(3, 3, dtype=torch.int32), None, r"\[3, 3\]"),
        (torch.zeros(3, 4), None, "float32"),
        (torch.tensor([[1, 0, 0, 0], [0, 0, 0, 0]]), None, "not ordered by sample"),
        (torch.tensor([[0, 0, -1, 0]]), None, "negative"),
        (torch.tensor([[2, 0, 0, 0]]), 2, "3 samples .*batch_size 2"),
    ],
)
def test_coordinates_that_are_refused(coords, batch_size, message):
    with pytest.raises(UsageError, match=message):
        Voxels.of(coords, batch_size)


def test_features_and_voxels_must_match():
    with pytest.raises(UsageError, match="2 rows of features on 1 voxels"):
        SparseTensor.of(torch.zeros(2, 3), torch.zeros(1, 4, dtype=torch.int32))


def test_kernel_sizes():
    with pytest.raises(UsageError, match="kernel size 2"):
        SparseConv3d(1, 1, 2)


def test_a_convolution_of_children_is_that_of_the_subdivided_voxels():
    """The folded kernel against the plain one: gradients too, with missing neighbours and several samples."""
    voxels, conv = random_voxels(4, 25, 0, 12), SparseConv3d(3, 5, 3).double()
    x = SparseTensor(randn(37, 3).requires_grad_(), voxels)
    folded, plain = conv.on_children(x), conv(subdivide(x))
    assert torch.equal(folded.coords, plain.coords)
    torch.testing.assert_close(folded.feats, plain.feats, rtol=1e-12, atol=1e-12)  # the same sums in another order
    pull = randn(*plain.feats.shape, seed=5)
    for a, b in zip(
        *(torch.autograd.grad((y.feats * pull).sum(), [x.feats, *conv.parameters()]) for y in (folded, plain)),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_neighbours_of_children_are_those_that_a_search_finds():
    children, _ = random_voxels(4, 25, 0, 12).subdivided()
    assert torch.equal(children.neighbours, Voxels(children.coords, 3).neighbours)


@pytest.fixture
def products_first(monkeypatch):
    """As on a GPU."""
    monkeypatch.setattr(sparse_convolution, "PRODUCTS_FIRST", {"cpu"})


@pytest.mark.parametrize("lengths", [(60,), (30, 0, 125, 1)])
def test_products_may_come_before_they_are_gathered(lengths, products_first):
    voxels, conv = random_voxels(5, *lengths), SparseConv3d(3, 4, 3).double()
    x = SparseTensor(randn(len(voxels), 3).requires_grad_(), voxels)
    out, expected = conv(x).feats, convolve(x.feats, conv.conv.weight, conv.conv.bias, voxels.neighbours)
    assert "ProductsFirst" in type(out.grad_fn).__name__
    inputs, pull = [x.feats, *conv.parameters()], randn(*out.shape, seed=4)
    torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-12)  # sums of 81 terms in another order
    for a, b in zip(*(torch.autograd.grad((y * pull).sum(), inputs) for y in (out, expected)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_a_convolution_of_upsampled_rows_reads_the_coarse_ones(products_first):
    voxels, conv = random_voxels(6, 70, 0, 25), SparseConv3d(3, 5, 3).double()
    coarse = voxels.halved()[0]
    x = SparseTensor(randn(len(coarse), 3).requires_grad_(), coarse)
    out, expected = conv.on_finer(x, voxels), conv(upsample(x, voxels))
    assert out.voxels is voxels
    torch.testing.assert_close(out.feats, expected.feats, rtol=1e-12, atol=1e-12)
    pull = randn(*out.feats.shape, seed=5)
    inputs = [x.feats, *conv.parameters()]
    for a, b in zip(*(torch.autograd.grad((y.feats * pull).sum(), inputs) for y in (out, expected)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_products_are_half_precision_under_autocast_and_their_sums_are_not(products_first):
    voxels, conv = random_voxels(5, 80), SparseConv3d(16, 8, 3)
    x = SparseTensor(randn(80, 16).float().requires_grad_(), voxels)
    with torch.autocast("cpu", torch.bfloat16):
        out = conv(x).feats
    gradients = torch.autograd.grad(out.square().sum(), [x.feats, *conv.parameters()])
    assert (out.dtype, {g.dtype for g in gradients}) == (torch.bfloat16, {torch.float32})
    exact = convolve(x.feats, conv.conv.weight, conv.conv.bias, voxels.neighbours)
    assert (out - exact).abs().max() < 2e-2 * exact.abs().max()  # bfloat16: 2^-8 of each of 27 products
