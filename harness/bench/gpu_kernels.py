"""Checks of `mdtbench bench gpu`: ceilings, attention, convolution, neighbours, the rasteriser."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...geometry.cameras import protocol_views
from ...geometry.gaussians import GaussianTensors
from ...render.gaussian_gpu import render_cuda
from ...render.gaussian_rasteriser import CLASSIC, MIP, render
from ...trellis import create
from ...trellis.kernels import OURS, SDPA, SPCONV, Kernels, kernels_as
from ...trellis.sparse import SparseTensor, Voxels
from ...trellis.sparse_attention import RAGGED, attend_within, attention_choice
from ...trellis.sparse_convolution import SparseConv3d, convolution_choice, convolve
from .full_size import Shell
from .gpu_session import Line, Session, difference, randn, randomised
from .render import sphere_of_gaussians

HEAD = 64  # channels of a head
BOTH_WAYS = 3.5  # attention forward and backward, in forward passes
SPREAD = 0.6  # of the samples' sizes, up and down


def ceilings(session: Session) -> Iterator[Line]:
    """Matrix products and a copy: what the rest is held against."""
    side, size = (8192, 2**30) if session.real else (256, 2**20)
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        a, b = (randn(side, side, like=session, dtype=dtype, seed=seed) for seed in (1, 2))
        rate = 2 * side**3 / session.seconds(lambda a=a, b=b: a @ b) / 1e12
        if dtype == torch.float16:
            session.peak_tflops = rate
        yield {"what": "matrix product", "dtype": _name(dtype), "tflops": round(rate, 3)}
    data = torch.empty(size, dtype=torch.uint8, device=session.device)
    yield {"what": "copy", "tb_per_s": round(2 * size / session.seconds(data.clone) / 1e12, 3)}


def neighbour_table(session: Session) -> Iterator[Line]:
    """Found on the device, with nothing known, and equal to the CPU's."""
    here = Shell(session.sizes.voxels, session.sizes.side).voxels(samples=2, spread=0.2)
    coords = here.coords.to(session.device)
    equal = torch.equal(Voxels(coords, 2).neighbours.cpu(), here.neighbours)
    seconds = session.seconds(lambda: Voxels(coords, 2).neighbours)
    yield {"equal_to_cpu": equal, "voxels": len(here), "ms": _ms(seconds)}


def attention(session: Session) -> Iterator[Line]:
    """Dense attention; then among samples of different size, padded and by each kernel for ragged sequences."""
    length, heads = (4096, 16) if session.real else (64, 4)
    q, k, v = (
        randn(8, heads, length, HEAD, like=session, dtype=_half(session), seed=i).requires_grad_() for i in range(3)
    )
    tflop = BOTH_WAYS * 4 * 8 * heads * length**2 * HEAD / 1e12
    seconds = session.seconds(lambda: _back(F.scaled_dot_product_attention(q, k, v), q, k, v))
    yield {"what": "dense, forward and backward", "ms": _ms(seconds), **session.speed(tflop, seconds)}
    shell = Shell(session.sizes.voxels // 4, session.sizes.side // 2)
    voxels = shell.voxels(session.device, samples=8, spread=SPREAD)
    q, k, v = (
        randn(len(voxels), heads, HEAD, like=session, dtype=_half(session), seed=i).requires_grad_() for i in range(3)
    )
    tflop = BOTH_WAYS * 4 * sum(n * n for n in voxels.lengths) * heads * HEAD / 1e12
    with kernels_as(Kernels(SDPA)):
        padded = attend_within(q, k, v, voxels.sequences).detach()
    for name in (SDPA, *RAGGED):
        yield {"what": name, **_ragged(session, name, q, k, v, voxels, padded, tflop)}


def _ragged(
    session: Session, name: str, q: Tensor, k: Tensor, v: Tensor, voxels: Voxels, padded: Tensor, tflop: float
) -> Line:
    with kernels_as(Kernels(name)):
        choices = [attention_choice(q.device, q.dtype, HEAD, gradient=gradient) for gradient in (False, True)]
        if choices[0].name != name:
            return {"refused": choices[0].reason}
        run = partial(attend_within, q, k, v, voxels.sequences)
        with torch.no_grad():
            found = {"relative_difference": difference(run(), padded), "forward_ms": _ms(session.seconds(run))}
        if choices[1].name != name:
            return {**found, "backward_refused": choices[1].reason}
        seconds = session.seconds(lambda: _back(run(), q, k, v))
        return {**found, "both_ways_ms": _ms(seconds), **session.speed(tflop, seconds)}


def convolutions(session: Session) -> Iterator[Line]:
    """Against a dense convolution; then the layers of the second stage, ours and spconv's."""
    yield {"what": "against a dense one", "relative_difference": _against_dense(session)}
    samples, layers = (8, [(128, 128), (2048, 128)]) if session.real else (1, [(32, 32)])
    voxels = Shell(session.sizes.voxels, session.sizes.side).voxels(session.device, samples)
    assert voxels.neighbours is not None  # found before anything is timed
    for inside, outside in layers:
        layer = SparseConv3d(inside, outside, 3).to(session.device)
        x = randn(len(voxels), inside, like=session).requires_grad_()
        tflop = 3 * 2 * 27 * len(voxels) * inside * outside / 1e12 if session.real else 0.0
        for name in (OURS, SPCONV):
            choice = convolution_choice(session.device, _half(session), inside, outside, Kernels(convolution=name))
            what = {"what": f"{inside} -> {outside}", "by": name}
            if choice.name != name:
                yield {**what, "refused": choice.reason}
                continue
            session.forget()
            with kernels_as(Kernels(convolution=name)), torch.autocast(session.device.type, _half(session)):
                run = lambda: layer(SparseTensor(x, voxels)).feats  # noqa: B023, E731 - called before the next turn
                far = difference(run(), convolve(x, layer.conv.weight, layer.conv.bias, voxels.neighbours))
                seconds = session.seconds(lambda: _back(run(), x, *layer.parameters()), 3)  # noqa: B023
            yield {
                **what, "relative_difference": far, "both_ways_ms": _ms(seconds), **session.memory(),
                **session.speed(tflop, seconds),
            }  # fmt: skip


def _against_dense(session: Session) -> float:
    side = 12
    voxels = Shell(300, side).voxels(session.device)
    layer, x = SparseConv3d(32, 48, 3).to(session.device), randn(300, 32, like=session)
    place = tuple(voxels.coords[:, 1:].long().T)
    grid = torch.zeros(side, side, side, 32, device=session.device).index_put(place, x).permute(3, 0, 1, 2)[None]
    weight = layer.conv.weight.permute(0, 4, 1, 2, 3)
    dense = F.conv3d(grid, weight, layer.conv.bias, padding=1)[0].permute(1, 2, 3, 0)[place]
    return difference(layer(SparseTensor(x, voxels)).feats, dense)


def against_the_cpu(session: Session) -> Iterator[Line]:
    """Small networks of both stages in float32, there and here; and whether a repetition has the same bits."""
    small = {"model_channels": 128, "cond_channels": 64, "num_blocks": 3, "num_heads": 4, "qk_rms_norm": True}
    small |= {"in_channels": 8, "out_channels": 8}
    t, cond = torch.tensor([300.0, 800.0]), torch.randn(2, 20, 64, generator=torch.Generator().manual_seed(1))
    structure = create("SparseStructureFlowModel", small | {"resolution": 8, "patch_size": 1})
    slat = create("SLatFlowModel", small | {"resolution": 16, "patch_size": 2, "io_block_channels": [32]})
    voxels = Shell(500, 16).voxels(samples=2, spread=0.3)
    feats = torch.randn(len(voxels), 8, generator=torch.Generator().manual_seed(2))
    grid = torch.randn(2, 8, 8, 8, 8, generator=torch.Generator().manual_seed(3))

    def run(network: nn.Module, sparse: bool, where: torch.device) -> list[Tensor]:
        network = network.to(where)
        x = SparseTensor(feats.to(where), Voxels(voxels.coords.to(where), 2)) if sparse else grid.to(where)
        out = network(x, t.to(where), cond.to(where))
        out = out.feats if isinstance(out, SparseTensor) else out
        return [out, *torch.autograd.grad(out.square().sum(), list(network.parameters()))]

    for name, network in (("structure", structure), ("slat", slat)):
        randomised(network).requires_grad_(True)
        here = [x.cpu() for x in run(network, name == "slat", torch.device("cpu"))]
        there, again = (run(network, name == "slat", session.device) for _ in range(2))
        pairs = zip(there[1:], here[1:], strict=True)
        yield {
            "stage": name,
            "relative_difference": difference(there[0], here[0]),
            "of_gradients": max(difference(a, b) for a, b in pairs if b.any()),
            "repeats_its_bits": all(torch.equal(a, b) for a, b in zip(there, again, strict=True)),
        }


def gaussians(session: Session) -> Iterator[Line]:
    """gsplat against the CPU rasteriser. It builds its kernels at first use, for which it needs nvcc."""
    cloud = sphere_of_gaussians(640_000 if session.real else 2000)
    camera, side = protocol_views()[0], 512 if session.real else 64
    for name, mode in (("mip", MIP), ("classic", CLASSIC)):
        wanted = render(cloud, camera, side, mode=mode)
        if not session.real:
            yield {"mode": name, "drawn_by": "the CPU alone", "mean_alpha": float(wanted[..., 3].mean())}
            continue
        moved = GaussianTensors.of(cloud).to(session.device)
        draw: Callable[[], Tensor] = partial(render_cuda, moved, camera, side, mode=mode)
        far = np.abs(draw().cpu().numpy() - wanted) * 255
        yield {
            "mode": name, "largest_of_255": float(far.max()), "mean_of_255": float(far.mean()),
            "pixels_over_1": int((far.max(-1) > 1).sum()), "ms": _ms(session.seconds(draw)),
        }  # fmt: skip


def _back(out: Tensor, *inputs: Tensor) -> None:
    torch.autograd.grad(out, inputs, torch.ones_like(out))


def _half(session: Session) -> torch.dtype:
    """float16 on a GPU; the CPU's kernels of it are slow."""
    return torch.float16 if session.real else torch.bfloat16


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _ms(seconds: float) -> float:
    return round(1e3 * seconds, 3)
