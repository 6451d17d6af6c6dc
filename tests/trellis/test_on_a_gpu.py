"""Attention and convolution on a GPU, by every library that is there, against float64 on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from ragged import context_one_by_one, one_by_one, randn, random_voxels
from torch import Tensor

from mdtbench.harness.engine.device import settle
from mdtbench.trellis.kernels import OURS, SDPA, SPCONV, VARLEN, XFORMERS, Choice, Kernels, kernels_as
from mdtbench.trellis.slat_flow import SLatFlowModel
from mdtbench.trellis.sparse import SparseTensor, Voxels
from mdtbench.trellis.sparse_attention import attend_context, attend_within, attention_choice
from mdtbench.trellis.sparse_convolution import SparseConv3d, convolution_choice

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
GPU = torch.device("cuda")
LENGTHS = (300, 0, 41, 1, 130)
# Of the largest value. Kernels round the softmax to half precision before they multiply: a few steps of 2^-10 or 2^-7.
# float32: sums of hundreds.
SHARE = {torch.float16: 6e-3, torch.bfloat16: 5e-2, torch.float32: 1e-5}


@pytest.fixture(autouse=True)
def _as_in_a_run() -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled()
    settle(GPU)
    yield
    torch.use_deterministic_algorithms(before)


def both(here: Callable[..., Tensor], there: Callable[..., Tensor], inputs: list[Tensor], dtype: torch.dtype) -> None:
    """Values and gradients. here: on the CPU in float64; there: on the GPU in `dtype`."""
    inputs = [x.to(dtype) for x in inputs]
    exact, rounded = [x.double().requires_grad_() for x in inputs], [x.to(GPU).requires_grad_() for x in inputs]
    expected, got = here(*exact), there(*rounded)
    assert (got.dtype, got.device.type) == (dtype, "cuda")
    pull = randn(*expected.shape, seed=9).to(dtype)
    wanted = (expected, *torch.autograd.grad((expected * pull.double()).sum(), exact))
    found = (got, *torch.autograd.grad(got, rounded, pull.to(GPU)))
    for a, b in zip(found, wanted, strict=True):
        error, size = (a.cpu().double() - b).abs().max(), b.abs().max()
        assert error <= SHARE[dtype] * size, f"{error:.3g} of {size:.3g}"


def needed(choice: Choice, name: str) -> None:
    if choice.name != name:
        pytest.skip(str(choice))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("name", [SDPA, VARLEN])
@pytest.mark.parametrize("where", ["samples", "windows", "context"])
def test_attention_forward_and_backward(where: str, name: str, dtype: torch.dtype):
    with kernels_as(Kernels(name)):
        needed(attention_choice(GPU, dtype, 32, gradient=True), name)
        here, there, inputs = _attention(where)
        both(here, there, inputs, dtype)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("where", ["samples", "windows", "context"])
def test_xformers_attends_without_a_backward_pass(where: str, dtype: torch.dtype):
    with kernels_as(Kernels(XFORMERS)), torch.no_grad():
        needed(attention_choice(GPU, dtype, 32, gradient=False), XFORMERS)
        here, there, inputs = _attention(where)
        given = [x.to(dtype) for x in inputs]
        expected, got = here(*(x.double() for x in given)), there(*(x.to(GPU) for x in given))
        error = (got.cpu().double() - expected).abs().max()
        assert error <= SHARE[dtype] * expected.abs().max()


def test_torch_has_its_kernel_for_half_precision_here():
    """Capability 8 and newer: what the default rests on."""
    if torch.cuda.get_device_capability()[0] >= 8:
        for dtype in (torch.float16, torch.bfloat16):
            for gradient in (False, True):
                assert attention_choice(GPU, dtype, 64, gradient=gradient).name == VARLEN


@pytest.mark.parametrize("name", [SDPA, VARLEN])
def test_attention_repeats_its_bits(name: str):
    """Long sequences, whose parts of a gradient are added up by several blocks of threads."""
    voxels = random_voxels(16, 3000, 1100).to(GPU)
    q, k, v = (randn(len(voxels), 4, 64, seed=i).half().to(GPU).requires_grad_() for i in range(3))

    def run() -> list[Tensor]:
        out = attend_within(q, k, v, voxels.sequences)
        return [out, *torch.autograd.grad(out.square().sum(), (q, k, v))]

    with kernels_as(Kernels(name)):
        needed(attention_choice(GPU, torch.float16, 64, gradient=True), name)
        first = run()
        for _ in range(3):
            assert all(torch.equal(a, b) for a, b in zip(first, run(), strict=True))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("name", [OURS, SPCONV])
@pytest.mark.parametrize("on_children", [False, True])
def test_convolution_forward_and_backward(on_children: bool, name: str, dtype: torch.dtype):
    voxels, (inside, outside) = random_voxels(8, *LENGTHS), (16, 32)
    moved = Voxels(voxels.coords.to(GPU), voxels.batch_size)  # which finds its neighbours there
    inputs = [randn(len(voxels), inside), randn(outside, 3, 3, 3, inside, seed=2) / 20, randn(outside, seed=3)]

    def run(feats: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        x, conv = SparseTensor(feats, voxels if feats.device.type == "cpu" else moved), SparseConv3d(inside, outside, 3)
        del conv.conv.weight, conv.conv.bias
        conv.conv.weight, conv.conv.bias = weight, bias  # type: ignore[assignment]
        return (conv.on_children(x) if on_children else conv(x)).feats

    with kernels_as(Kernels(convolution=name)):
        needed(convolution_choice(GPU, dtype, inside, outside), name)
        both(run, run, inputs, dtype)


def test_what_follows_from_coordinates_is_found_there_too():
    here = random_voxels(12, *LENGTHS)
    there = Voxels(here.coords.to(GPU), here.batch_size)
    for a, b in ((here, there), (here.halved()[0], there.halved()[0]), (here.subdivided()[0], there.subdivided()[0])):
        assert torch.equal(a.coords, b.coords.cpu())
        assert torch.equal(a.neighbours, b.neighbours.cpu())
        for mine, others in ((a.sequences, b.sequences), (a.windows(4, 2), b.windows(4, 2))):
            assert torch.equal(mine.bounds, others.bounds.cpu())
            assert mine.lengths == others.lengths


def test_a_network_of_the_second_stage_learns_there():
    """Convolutions, attention within samples and to contexts together, in float32 against the CPU."""
    torch.manual_seed(0)
    args = {"resolution": 8, "in_channels": 4, "out_channels": 4, "model_channels": 64, "cond_channels": 16}
    args |= {"num_blocks": 2, "num_heads": 2, "patch_size": 2, "num_io_res_blocks": 1, "qk_rms_norm": True}
    network, voxels = SLatFlowModel(**args, io_block_channels=[32]), random_voxels(8, 90, 31)
    for parameter in network.parameters():  # none stays at zero
        torch.nn.init.normal_(parameter, std=0.05)
    feats, cond, t = randn(121, 4).float(), randn(2, 7, 16, seed=2).float(), torch.tensor([100.0, 700.0])

    def run(where: torch.device) -> list[Tensor]:
        network.to(where)
        placed = Voxels(voxels.coords.to(where), 2)
        out = network(SparseTensor(feats.to(where), placed), t.to(where), cond.to(where)).feats
        return [x.cpu() for x in (out, *torch.autograd.grad(out.square().sum(), list(network.parameters())))]

    for a, b in zip(run(GPU), run(torch.device("cpu")), strict=True):
        assert (a - b).abs().max() <= 1e-4 * b.abs().max()  # some hundred roundings of 6e-8 in a row


def _attention(where: str) -> tuple[Callable[..., Tensor], Callable[..., Tensor], list[Tensor]]:
    """The same on the CPU and on the GPU, and inputs."""
    voxels = random_voxels(8, *LENGTHS)
    moved, rows = Voxels(voxels.coords.to(GPU), len(LENGTHS)), len(voxels)
    inputs = [randn(rows, 2, 32, seed=i) for i in range(3)]
    if where == "context":
        inputs[1:] = [randn(len(LENGTHS), 77, 2, 32, seed=i) for i in (1, 2)]
        return (
            lambda q, k, v: context_one_by_one(q, k, v, voxels.sample),
            lambda q, k, v: attend_context(q, k, v, moved.sequences),
            inputs,
        )
    owner, sequences = voxels.sample, moved.sequences
    if where == "windows":
        window = torch.cat([voxels.coords[:, :1], (voxels.coords[:, 1:] + 2) // 4], 1)
        owner, sequences = torch.unique(window, dim=0, return_inverse=True)[1], moved.windows(4, 2)
    return (
        lambda q, k, v: one_by_one(q, k, v, owner),
        lambda q, k, v: attend_within(q, k, v, sequences),
        inputs,
    )
