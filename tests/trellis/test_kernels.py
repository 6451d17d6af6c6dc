"""Libraries for GPUs behind attention and convolution: what they are given, when they are used, what else is used."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any

import fake_libraries
import pytest
import torch
from ragged import agree, context_one_by_one, one_by_one, randn, random_voxels
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention import varlen as torchs_varlen
from torch.utils._python_dispatch import TorchDispatchMode

from mdtbench.trellis import sparse, sparse_convolution
from mdtbench.trellis.kernels import OURS, SDPA, SPCONV, VARLEN, XFORMERS, Kernels, asked, kernels_as, use_kernels
from mdtbench.trellis.sequences import equal_blocks
from mdtbench.trellis.sparse import SparseTensor, Voxels
from mdtbench.trellis.sparse_attention import attend_context, attend_within, attention_choice
from mdtbench.trellis.sparse_convolution import SparseConv3d, convolution_choice, convolve, convolve_with_spconv

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
INSTALL = {VARLEN: fake_libraries.install_varlen, XFORMERS: fake_libraries.install_xformers}
# What is computed is exact before it is rounded once to float16: by 2^-11 of a value, or 2^-25 of the smallest.
HALF = {"rtol": 6e-4, "atol": 1e-7}


@pytest.fixture(autouse=True)
def _on_cpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    fake_libraries.on_cpu(monkeypatch)
    yield
    assert asked() == Kernels()
    fake_libraries.on_cpu(monkeypatch)


def half(*shape: int, seed: int) -> Tensor:
    return randn(*shape, seed=seed).half()


def attention(device: torch.device, dtype: torch.dtype, *, gradient: bool = True) -> tuple[str, str]:
    choice = attention_choice(device, dtype, 64, gradient=gradient)
    return choice.name, choice.reason


# ------------------------------------------------------------------------------------------------------------ attention


@pytest.mark.parametrize("name", INSTALL)
@pytest.mark.parametrize("lengths", [(40,), (20, 20), (33, 5, 0, 64), (0, 7)])
def test_rows_of_samples_are_given_in_blocks(name: str, lengths: tuple[int, ...], monkeypatch: pytest.MonkeyPatch):
    calls, voxels = INSTALL[name](monkeypatch), random_voxels(6, *lengths)
    inputs, pull = [half(len(voxels), 2, 8, seed=i) for i in range(3)], randn(len(voxels), 16, seed=7)
    with kernels_as(Kernels(name)):
        agree(
            lambda q, k, v: attend_within(q, k, v, voxels.sequences),
            lambda q, k, v: one_by_one(q, k, v, voxels.sample),
            inputs, pull, **HALF,
        )  # fmt: skip
    assert calls[name] > 1  # beside the trial


@pytest.mark.parametrize("name", INSTALL)
@pytest.mark.parametrize(("side", "size", "shift"), [(6, 3, 0), (6, 4, 2), (13, 6, 3)])
def test_rows_of_windows_come_back_where_they_were(
    name: str, side: int, size: int, shift: int, monkeypatch: pytest.MonkeyPatch
):
    calls, voxels = INSTALL[name](monkeypatch), random_voxels(side, 180, 0, 90, 7)
    window = torch.cat([voxels.coords[:, :1], (voxels.coords[:, 1:] + shift) // size], 1)
    owner = torch.unique(window, dim=0, return_inverse=True)[1]
    inputs, pull = [half(len(voxels), 2, 8, seed=i) for i in range(3)], randn(len(voxels), 16, seed=7)
    with kernels_as(Kernels(name)):
        agree(
            lambda q, k, v: attend_within(q, k, v, voxels.windows(size, shift)),
            lambda q, k, v: one_by_one(q, k, v, owner),
            inputs, pull, **HALF,
        )  # fmt: skip
    assert calls[name] > 1


@pytest.mark.parametrize("name", INSTALL)
@pytest.mark.parametrize("lengths", [(12, 31), (12, 0, 31), (0, 4, 0)])
def test_every_sample_attends_to_its_own_context(name: str, lengths: tuple[int, ...], monkeypatch: pytest.MonkeyPatch):
    """Contexts of samples without voxels are not given, and their gradient is 0."""
    calls, voxels = INSTALL[name](monkeypatch), random_voxels(6, *lengths)
    inputs = [half(len(voxels), 2, 8, seed=1), *(half(len(lengths), 5, 2, 8, seed=i) for i in (2, 3))]
    with kernels_as(Kernels(name)):
        agree(
            lambda q, k, v: attend_context(q, k, v, voxels.sequences),
            lambda q, k, v: context_one_by_one(q, k, v, voxels.sample),
            inputs, randn(len(voxels), 16, seed=7), **HALF,
        )  # fmt: skip
    assert calls[name] > 1


def test_bounds_are_those_of_sequences_that_hold_rows():
    voxels = random_voxels(6, 9, 0, 5)
    blocks = voxels.sequences.blocks
    assert (blocks.bounds.tolist(), blocks.bounds.dtype, blocks.lengths, blocks.longest) == (
        [0, 9, 14], torch.int32, (9, 5), 9,
    )  # fmt: skip
    assert voxels.sequences.order is None  # rows of samples come as they are
    windows = voxels.windows(4, 2)
    assert windows.bounds.diff().tolist() == list(windows.lengths)
    assert windows.order is not None
    assert sorted(windows.order.tolist()) == list(range(14))
    assert equal_blocks(3, 4, CPU).bounds.tolist() == [0, 4, 8, 12]


def test_the_default_is_torchs_kernel_for_the_dtypes_that_it_takes(monkeypatch: pytest.MonkeyPatch):
    calls = fake_libraries.install_varlen(monkeypatch)
    assert attention(CPU, torch.float16) == attention(CPU, torch.bfloat16) == (VARLEN, "the default")
    name, reason = attention(CPU, torch.float32)
    assert (name, "varlen refuses: RuntimeError: FlashAttention only support fp16 and bf16" in reason) == (SDPA, True)
    before = calls[VARLEN]
    assert before == 3
    attention(CPU, torch.float16)
    assert calls[VARLEN] == before  # tried once


def test_the_installed_torch_knows_the_arguments_but_has_no_kernel_for_a_cpu():
    """Of the real function: what it is given fits, and it refuses the device, which is caught."""
    name, reason = attention(CPU, torch.float16)
    assert name == SDPA
    assert "varlen refuses: NotImplementedError" in reason
    assert "window_size" in fake_libraries.VARLEN_SIGNATURE.parameters


def test_a_torch_without_windows_is_given_none(monkeypatch: pytest.MonkeyPatch):
    """2.10: seven arguments, causal or not, and no other kernel than FlashAttention."""

    def varlen_attn(query: Tensor, key: Tensor, value: Tensor, cu_seq_q: Tensor, cu_seq_k: Tensor,
                    max_q: int, max_k: int, is_causal: bool = False, return_aux: Any = None) -> Tensor:  # fmt: skip
        assert not is_causal
        return query * 1

    monkeypatch.setattr(torchs_varlen, "varlen_attn", varlen_attn)
    assert attention(CPU, torch.float16)[0] == VARLEN


def test_xformers_is_asked_whether_it_can(monkeypatch: pytest.MonkeyPatch):
    """It has no deterministic backward pass: students are padded where the teacher is not."""
    fake_libraries.install_xformers(monkeypatch)
    with kernels_as(Kernels(XFORMERS)):
        assert attention(CPU, torch.float16) == (XFORMERS, "asked for")
        torch.use_deterministic_algorithms(True)
        try:
            assert attention(CPU, torch.float16, gradient=False) == (XFORMERS, "asked for")
            name, reason = attention(CPU, torch.float16)
        finally:
            torch.use_deterministic_algorithms(False)
    assert (name, reason) == (
        SDPA, "xformers refuses: NotImplementedError: No operator found for `memory_efficient_attention_forward`",
    )  # fmt: skip


@pytest.mark.parametrize(
    "fault", [ImportError("built for another torch"), OSError("libcudart.so"), NotImplementedError("no operator"),
              RuntimeError("no kernel image"), TypeError("unexpected argument"), AssertionError("")]
)  # fmt: skip
def test_a_library_that_fails_is_not_used_and_the_reason_is_kept(fault: Exception, monkeypatch: pytest.MonkeyPatch):
    def attend(*_: Any, **__: Any) -> Tensor:
        raise fault

    monkeypatch.setattr(torchs_varlen, "varlen_attn", attend)
    name, reason = attention(CPU, torch.float16)
    assert (name, f"varlen refuses: {type(fault).__name__}: {fault}".strip()) == (SDPA, reason.strip())


@pytest.mark.parametrize("fault", [torch.OutOfMemoryError("full"), KeyError("a fault of ours")])
def test_what_says_nothing_about_a_library_is_raised(fault: Exception, monkeypatch: pytest.MonkeyPatch):
    def attend(*_: Any, **__: Any) -> Tensor:
        raise fault

    monkeypatch.setattr(torchs_varlen, "varlen_attn", attend)
    with pytest.raises(type(fault)):
        attention(CPU, torch.float16)


def test_a_library_that_is_not_installed_is_not_used(monkeypatch: pytest.MonkeyPatch):
    for name in ("xformers", "xformers.ops", "spconv", "spconv.pytorch"):
        monkeypatch.setitem(sys.modules, name, None)
    with kernels_as(Kernels(XFORMERS, SPCONV)):
        name, reason = attention(CPU, torch.float16)
        convolution = convolution_choice(CPU, torch.float16, 8, 8)
        x = SparseTensor(randn(5, 3).float(), random_voxels(4, 5))
        assert SparseConv3d(3, 2, 3)(x).feats.shape == (5, 2)
    assert (name, convolution.name) == (SDPA, OURS)
    for why in (reason, convolution.reason):
        assert "refuses: ModuleNotFoundError" in why


def test_a_cpu_and_a_forward_derivative_use_no_library(monkeypatch: pytest.MonkeyPatch):
    fake_libraries.install_varlen(monkeypatch)
    fake_libraries.install_spconv(monkeypatch)
    with kernels_as(Kernels(VARLEN, SPCONV)):
        with sdpa_kernel(SDPBackend.MATH):
            found = [attention(CPU, torch.float16), tuple(vars(convolution_choice(CPU, torch.float16, 8, 8)).values())]
        assert {name for name, _ in found} == {SDPA, OURS}
        assert all("derivative in forward mode" in reason for _, reason in found)
        monkeypatch.setattr("mdtbench.trellis.kernels.DEVICES", {"cuda"})
        assert attention(CPU, torch.float16) == (SDPA, "libraries are for CUDA, and this is cpu")
        assert convolution_choice(CPU, torch.float16, 8, 8).name == OURS
    with kernels_as(Kernels(SDPA, OURS)):
        assert attention(CUDA, torch.float16) == (SDPA, "asked for")
        assert str(convolution_choice(CUDA, torch.float16, 8, 8)) == "ours (asked for)"


def test_kernels_are_asked_for_in_a_process_or_in_a_block():
    with kernels_as(Kernels(XFORMERS)):
        use_kernels(Kernels(SDPA))
        assert asked() == Kernels(SDPA)
    assert asked() == Kernels()


# ---------------------------------------------------------------------------------------------------------- convolution


@pytest.fixture
def spconv(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    calls = fake_libraries.install_spconv(monkeypatch)
    with kernels_as(Kernels(convolution=SPCONV)):
        yield calls


@pytest.mark.parametrize("lengths", [(60,), (30, 0, 125, 1)])
def test_spconv_is_given_our_layouts(lengths: tuple[int, ...], spconv: Counter[str]):
    voxels = random_voxels(5, *lengths)
    inputs = [randn(len(voxels), 3).float(), randn(4, 3, 3, 3, 3, seed=2).float(), randn(4, seed=3).float()]
    agree(
        lambda *given: convolve_with_spconv(*given, voxels),
        lambda *given: convolve(*given, voxels.neighbours),
        inputs, randn(len(voxels), 4, seed=9), rtol=2e-7, atol=1e-7,  # float32, rounded once
    )  # fmt: skip
    assert spconv["spconv"] == 1


def test_a_layer_leaves_voxels_and_their_children_to_spconv(spconv: Counter[str]):
    x, conv = SparseTensor(randn(39, 3).float(), random_voxels(5, 30, 0, 9)), SparseConv3d(3, 4, 3)
    with kernels_as(Kernels(convolution=OURS)):
        expected = conv(x).feats, conv.on_children(x).feats
    assert not spconv
    for got, wanted in zip((conv(x), conv.on_children(x)), expected, strict=True):
        torch.testing.assert_close(got.feats, wanted, rtol=1e-5, atol=1e-6)  # ours adds up 81 terms in float32
    assert (spconv["spconv"], spconv["tables"]) == (3, 3)  # the trial, the voxels, their children


def test_spconv_looks_for_neighbours_once_for_each_set_of_voxels(spconv: Counter[str]):
    first, second, conv = random_voxels(5, 40), random_voxels(5, 30, 9), SparseConv3d(3, 3, 3)
    conv(SparseTensor(randn(40, 3).float(), first))
    tried = spconv["tables"] - 1
    for voxels in (first, second, first, second):
        conv(SparseTensor(randn(len(voxels), 3).float(), voxels))
    assert spconv["tables"] == tried + 2
    known = len(sparse_convolution._TABLES)
    del first, voxels
    assert len(sparse_convolution._TABLES) == known - 1  # kept as long as its voxels


def test_spconv_computes_in_the_dtype_of_a_matrix_product(spconv: Counter[str]):
    voxels, conv = random_voxels(4, 20), SparseConv3d(3, 2, 3)
    x = SparseTensor(randn(20, 3).float(), voxels)
    with torch.autocast("cpu", torch.float16):
        assert conv(x).feats.dtype == torch.float16
    assert spconv["spconv"] == 2
    with torch.autocast("cpu", torch.bfloat16):
        assert conv(x).feats.dtype == torch.bfloat16
    assert spconv["spconv"] == 3  # tried, and refused
    assert "not implemented for bfloat16" in convolution_choice(CPU, torch.bfloat16, 3, 2).reason


def test_pointwise_kernels_and_no_voxels_at_all_are_ours(spconv: Counter[str]):
    voxels = random_voxels(4, 20)
    assert SparseConv3d(3, 2, 1)(SparseTensor(randn(20, 3).float(), voxels)).feats.shape == (20, 2)
    none = SparseTensor(torch.zeros(0, 3), Voxels(torch.zeros(0, 4, dtype=torch.int32), 0))
    assert SparseConv3d(3, 2, 3)(none).feats.shape == (0, 2)
    assert not spconv


def test_our_convolution_is_the_default():
    choice = convolution_choice(CUDA, torch.float16, 8, 8)
    assert (choice.name, choice.reason) == (OURS, "the default: its bits repeat")


# ------------------------------------------------------------------------------------------------------------- integers


class NoIntegerProducts(TorchDispatchMode):
    """CUDA has no matrix product of integers."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket in {torch.ops.aten.mm, torch.ops.aten.mv, torch.ops.aten.bmm, torch.ops.aten.addmv,
                                   torch.ops.aten.addmm, torch.ops.aten.dot}:  # fmt: skip
            assert args[0].is_floating_point(), f"{func} of {args[0].dtype}"
        return func(*args, **(kwargs or {}))


def test_nothing_about_voxels_is_a_matrix_product_of_integers():
    sparse.read_by_children.cache_clear()
    sparse_convolution.folds.cache_clear()
    voxels = random_voxels(6, 30, 0, 12)
    with NoIntegerProducts():
        with pytest.raises(AssertionError, match="int64"):
            torch.arange(3) @ torch.arange(3)
        for of in (voxels, voxels.halved()[0], voxels.subdivided()[0]):
            assert of.neighbours.shape == (len(of), 27)
            assert len(of.sequences.blocks.lengths) > 0
            assert len(of.windows(4, 2).lengths) > 0
        conv, x = SparseConv3d(3, 2, 3), SparseTensor(randn(42, 3).float(), voxels)
        assert conv.on_children(x).feats.shape == (336, 2)
