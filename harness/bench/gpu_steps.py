"""Checks of `mdtbench bench gpu`: the encoder, training steps, passes, and the pipeline from noise to an asset."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from ...flow.samplers import Euler
from ...metrics.official.networks import vision_transformer
from ...metrics.official.picture_extractors import SPECS
from ...trellis.pipeline import StructurePipeline
from ...trellis.slat_pipeline import SlatPipeline
from ...trellis.sparse import SparseTensor
from ..inputs.world import HubConditioner
from ..plan.flops import encoder_forward
from ..protocol.values import Stage
from ..settings.config import Train
from ..settings.methods import entrant
from ..train.data import EVERY, Samples, dense_samples, sparse_samples
from ..train.loop import Student, advance
from ..train.ranks import Ranks
from ..train.task import StageTask, compile_blocks
from .full_size import SAMPLER, Shell
from .gpu_session import Line, Session, difference, randn, randomised

SPREAD = 0.4  # of the voxels of a batch's samples, up and down
STEPS = 3  # of a training, the first of which is not timed
# label, samples at a time, whether blocks recompute their activations
Case = tuple[str, int, bool]
STRUCTURE_STEPS: Sequence[Case] = (
    ("cm", 8, True), ("cm", 4, False), ("mdt:official", 8, True), ("vm:official", 8, True), ("pcm", 8, True),
    ("scm:fd", 8, True), ("scm", 1, True),
)  # fmt: skip
SLAT_STEPS: Sequence[Case] = (
    ("cm", 8, True), ("cm", 2, False), ("mdt:official", 8, True), ("vm:official", 8, True), ("pcm", 8, True),
    ("scm:fd", 8, True), ("scm", 1, True),
)  # fmt: skip


def encoder(session: Session) -> Iterator[Line]:
    """DINOv2 of conditions: as a run on this device has it, and in float32."""
    count, tflop = (16, 16 * encoder_forward() / 1e12) if session.real else (1, 0.0)
    network = SPECS["fd_dinov2_reg518"].create() if session.real else _small_encoder()
    conditioner = HubConditioner(randomised(network)).to(session.device)
    pictures = torch.randint(
        0, 256, (count, 3, 518, 518), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    pictures, plain = pictures.to(session.device), HubConditioner(conditioner.network)
    plain.half_on = frozenset()
    with torch.no_grad():
        exact = plain(pictures)
        for how, one in (("as in a run", conditioner), ("float32", plain)):
            seconds = session.seconds(lambda one=one: one(pictures), 3)
            cost = {"seconds_per_sample": seconds / count, **session.memory(), **session.speed(tflop, seconds)}
            yield {"how": how, "relative_difference": difference(one(pictures), exact), **cost}


def _small_encoder() -> nn.Module:
    return vision_transformer("vit_large_patch14_reg4_dinov2", 518, depth=1, embed_dim=64, num_heads=2)


def structure_steps(session: Session) -> Iterator[Line]:
    yield from _steps(session, "structure", STRUCTURE_STEPS)


def slat_steps(session: Session) -> Iterator[Line]:
    yield from _steps(session, "slat", SLAT_STEPS)


@dataclass(frozen=True)
class RandomData:
    """Latents and pictures of no meaning; structures are shells of different size."""

    stage: Stage
    session: Session

    def drawn(self, count: int, source: np.random.Generator, kept: slice = EVERY) -> Samples:
        count = len(range(count)[kept])
        generator = torch.Generator().manual_seed(int(source.integers(2**31)))
        images, sizes = torch.zeros(count, 3, 8, 8, dtype=torch.uint8), self.session.sizes
        if self.stage == "structure":
            side = sizes.networks["structure flow"][1]["resolution"]
            return dense_samples(torch.randn(count, 8, side, side, side, generator=generator), images)
        voxels = Shell(sizes.voxels, sizes.side).voxels(samples=count, spread=SPREAD)
        coords = [part.numpy() for part in voxels.coords[:, 1:].split(voxels.lengths)]
        return sparse_samples(coords, torch.randn(len(voxels), 8, generator=generator), images)


class AnyCondition(nn.Module):
    """Tokens of no meaning: the encoder is timed apart."""

    def __init__(self, session: Session):
        super().__init__()
        self.shape = (session.sizes.tokens, session.sizes.networks["slat flow"][1]["cond_channels"])
        self.device = session.device

    def forward(self, images: Tensor) -> Tensor:
        return torch.zeros(len(images), *self.shape, device=self.device)


def _steps(session: Session, stage: Stage, cases: Sequence[Case]) -> Iterator[Line]:
    for label, samples, recomputed in cases if session.real else [("cm", 1, True)]:
        what = {"stage": stage, "method": label, "samples_at_once": samples, "recomputed": recomputed}
        if session.left < 30:
            yield {**what, "skipped": f"{session.left:.0f} s left"}
            continue
        session.forget()
        try:
            yield {**what, **_step(session, stage, label, samples, recomputed)}
        except (RuntimeError, MemoryError) as error:  # too large for this GPU, or no such kernel: the next may fit
            yield {**what, "error": " ".join(f"{type(error).__name__}: {error}".split())[:400]}


def _step(session: Session, stage: Stage, label: str, samples: int, recomputed: bool) -> Line:
    """Two parts of a batch, as a run trains them; a student as large as a run's, which is not kept."""
    train = Train(
        steps=10 * STEPS, batch=2 * samples, warmup=0, ema=0.9999, clip_percentile=95.0, lr=1e-8, parts=2,
        precision="float16" if session.real else "bfloat16", checkpoint_blocks=recomputed, more_ema=(0.0,),
    )  # fmt: skip
    task = StageTask(stage, pipelines(session)[stage], RandomData(stage, session), train.batch, train.precision)
    method = entrant(label, {}, SAMPLER).distillation
    with TemporaryDirectory() as folder:
        student, seconds = Student(label, method, task.student(), train, train.steps, Path(folder) / "student"), []
        for index in range(STEPS):
            failures = advance([student], task, train, 0, index, Ranks())
            if failures:
                raise RuntimeError(next(iter(failures.values())).reason)
            seconds.append(student.seconds - sum(seconds))
    best = min(seconds[1:])
    tflop = session.forward_tflop(stage) * method.cost() * train.batch
    return {
        "seconds_per_sample": best / train.batch, "seconds_of_256": round(256 * best / train.batch, 2),
        "skipped_steps": student.learner.skipped, **session.memory(), **session.speed(tflop, best),
    }  # fmt: skip


def passes(session: Session) -> Iterator[Line]:
    """A forward pass of the teachers, and of the structures' one with compiled blocks."""
    count = 8 if session.real else 1
    width = session.sizes.networks["structure flow"][1]["cond_channels"]
    x = RandomData("structure", session).drawn(count, np.random.default_rng(0)).x_0.to(session.device)
    t, cond = (
        torch.full((count,), 500.0, device=session.device),
        randn(count, session.sizes.tokens, width, like=session),
    )
    network, tflop = session.network("structure flow"), count * session.forward_tflop("structure")
    with torch.no_grad():
        eager, seconds = network(x, t, cond), session.seconds(lambda: network(x, t, cond), 3)
        yield {"stage": "structure", "seconds_per_sample": seconds / count, **session.speed(tflop, seconds)}
        samples = RandomData("slat", session).drawn(count, np.random.default_rng(0))
        voxels = cast(Any, samples.layout).voxels.to(session.device)
        sparse, feats = session.network("slat flow"), samples.x_0.to(session.device)
        seconds = session.seconds(lambda: sparse(SparseTensor(feats, voxels), t, cond), 3)
        tflop = count * session.forward_tflop("slat")
        yield {"stage": "slat", "seconds_per_sample": seconds / count, **session.speed(tflop, seconds)}
        if session.real:
            made = copy.deepcopy(network)
            compile_blocks(made)
            seconds = session.seconds(lambda: made(x, t, cond), 3)
            far = difference(made(x, t, cond), eager)
            yield {"stage": "structure, compiled", "seconds_per_sample": seconds / count, "relative_difference": far}


def pipeline(session: Session) -> Iterator[Line]:
    """Seconds of an asset by part: structure, latents on a shell (weights are random), decoders."""
    made, sizes = pipelines(session), session.sizes
    structure, slat = cast(StructurePipeline, made["structure"]), cast(SlatPipeline, made["slat"])
    voxels = Shell(sizes.voxels, sizes.side).voxels(session.device)
    cond = randn(1, sizes.tokens, sizes.networks["slat flow"][1]["cond_channels"], like=session)
    cases = (("25x2", 25, 5.0), ("2x2", 2, 5.0), ("1x2", 1, 5.0), ("1x2, no guidance", 1, 0.0))
    with torch.inference_mode():
        _asset(session, structure, slat, voxels, cond, Euler(1, 3.0, 0.0))
        for name, steps, strength in cases if session.real else cases[2:]:
            sampler = Euler(steps, SAMPLER.rescale_t, strength, SAMPLER.cfg_interval)
            runs = [_asset(session, structure, slat, voxels, cond, sampler) for _ in range(2 if session.real else 1)]
            yield {"steps": name, **min(runs, key=lambda run: run["total_s"]), **session.memory()}


def _asset(session: Session, structure: Any, slat: Any, voxels: Any, cond: Tensor, sampler: Euler) -> Line:
    times = [time.perf_counter()]

    def lap() -> None:
        if session.real:
            torch.cuda.synchronize(session.device)
        times.append(time.perf_counter())

    layout, generators = structure.layout(1), [torch.Generator().manual_seed(0)]
    latent = sampler.sample(
        structure.velocity(structure.flow, cond, layout), layout.randn(generators), layout, generators
    )
    structure.decode(latent)
    lap()
    layout = slat.layout(voxels)
    latent = sampler.sample(slat.velocity(slat.flow, cond, layout), layout.randn(generators), layout, generators)
    latent = torch.nan_to_num(latent).clamp(-3, 3)
    lap()
    splats = slat.gaussians(latent, voxels)[0]
    lap()
    decoded = slat.mesh_decoder(SparseTensor(latent, voxels))
    lap()
    parts = dict(zip(("structure_s", "latent_s", "gaussians_s", "mesh_network_s"), np.diff(times), strict=True))
    found = {name: round(float(seconds), 4) for name, seconds in parts.items()}
    return {**found, "total_s": round(times[-1] - times[0], 4), "splats": len(splats), "mesh_cells": len(decoded.feats)}


def pipelines(session: Session) -> dict[Stage, StructurePipeline | SlatPipeline]:
    """Of both stages, without encoders, under any condition."""
    none, zero = cast(Any, None), torch.zeros(8, device=session.device)
    network, condition = session.network, AnyCondition(session)
    structure = cast(Any, network("structure flow")), cast(Any, network("structure decoder"))
    slat = (
        cast(Any, network("slat flow")),
        none,
        cast(Any, network("Gaussian decoder")),
        cast(Any, network("mesh decoder")),
    )
    return {
        "structure": StructurePipeline(*structure, none, condition, SAMPLER),
        "slat": SlatPipeline(*slat, condition, SAMPLER, zero, zero + 1),
    }
