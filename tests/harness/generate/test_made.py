"""Latents of both stages: of asset, seed and networks alone; what fails is counted with its reason."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from inprocess import in_process
from numpy.typing import NDArray
from small_stage import CHANNELS, FINE, SIDE, pictures, structures
from torch import Tensor, nn

from mdtbench.base.errors import AssetError, MissingError
from mdtbench.flow.samplers import Euler, Phase, Renoise, Sampler
from mdtbench.harness.engine.files import save_tensors
from mdtbench.harness.engine.jobs import Place
from mdtbench.harness.engine.store import Address
from mdtbench.harness.generate import made
from mdtbench.harness.generate.made import (
    AssetsJob,
    Decoded,
    Maker,
    StructuresJob,
    decoded_assets,
    microbatches,
    slat,
    with_weights,
)
from mdtbench.harness.inputs.cells import one_voxels, ragged
from mdtbench.harness.inputs.subjects import Subject
from mdtbench.harness.inputs.world import World, load_world
from mdtbench.harness.protocol.model import load_protocol
from mdtbench.harness.protocol.rules import Identity, noise_seed
from mdtbench.harness.protocol.values import Stage, Values
from mdtbench.render.appearance import coarse_coords
from mdtbench.trellis.pipeline import StructurePipeline
from mdtbench.trellis.sparse import SparseTensor

IDS = ("chair", "void", "lamp", "jug", "table")
COUNTS = (5, 0, 9, 3, 6)  # coarse cells of each structure; the second is empty
NAN_CELLS, BARE_CELLS = 9, 3  # what is spoilt is told by its number of cells
VALUES = load_protocol("tiny-v3").values
DIGITS = load_protocol("trellis-v1").values  # the other rule of seeds
RENOISE = Renoise(2)  # it draws noise of its own between the steps


@dataclass(frozen=True)
class Bench:
    """Five assets with random pictures, and structures of `COUNTS` cells."""

    root: Path
    world: Path

    def maker(self, stage: Stage, sampler: Sampler = RENOISE, weights: Path | None = None) -> Maker:
        return Maker(self.world, "cpu", "networks", stage, weights, str(weights or ""), sampler)

    def subjects(self, rows: Sequence[int] = range(5)) -> tuple[Subject, ...]:
        place = Place(self.root, Address("prepared", {"of": "these tests"}))
        if not place.exists():
            place.put({"images": pictures(5)[:, None], "occupancy": structures(COUNTS)})
        return tuple(Subject(Identity(IDS[i], f"{i:064x}"), None, place, i) for i in rows)  # type: ignore[arg-type]

    def structures(
        self, rows: Sequence[int] = range(5), maker: Maker | None = None, seed: int = 5, batch: int = 8,
        values: Values = VALUES,
    ) -> StructuresJob:  # fmt: skip
        maker = maker or self.maker("structure")
        return StructuresJob(self.root, maker, self.subjects(rows), values, seed, batch)

    def assets(
        self, rows: Sequence[int] = range(5), maker: Maker | None = None, seed: int = 4, values: Values = VALUES
    ) -> AssetsJob:
        """On structures that are put there rather than made: those of `COUNTS`."""
        grids, job = structures(COUNTS)[list(rows)], self.structures(rows, seed=seed, values=values)
        job.places[0].put({"occupancy": grids, "ok": np.ones(len(grids), bool)})
        return AssetsJob(self.root, maker or self.maker("slat"), job, self.subjects(rows), values, seed)


@pytest.fixture
def bench(tmp_path: Path, small_folder: Path) -> Bench:
    return Bench(tmp_path, small_folder)


@pytest.fixture(scope="module")
def world(small_folder: Path) -> World:
    return load_world(small_folder)


class Diverging(nn.Module):
    """The teacher, with a velocity that is not finite on objects of `NAN_CELLS` cells."""

    def __init__(self, flow: nn.Module):
        super().__init__()
        self.flow, self.in_channels, self.resolution = flow, flow.in_channels, flow.resolution

    def forward(self, x: SparseTensor, t: Tensor, cond: Tensor) -> SparseTensor:
        v = self.flow(x, t, cond)
        return v.replace(v.feats / 0) if NAN_CELLS in v.voxels.lengths else v


class Bare(nn.Module):
    """A mesh decoder that finds no surface in objects of `BARE_CELLS` cells."""

    def __init__(self, decoder: nn.Module):
        super().__init__()
        self.decoder = decoder

    def forward(self, x: SparseTensor) -> SparseTensor:
        out = self.decoder(x)
        return out.replace(out.feats + 10.0) if BARE_CELLS in x.voxels.lengths else out

    def to_meshes(self, out: SparseTensor):
        return self.decoder.to_meshes(out)


@pytest.fixture
def spoilt(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs find networks that fail on some objects."""
    slat = world.whole
    bad = replace(slat, flow=Diverging(slat.flow), mesh_decoder=Bare(slat.mesh_decoder))  # type: ignore[arg-type]
    monkeypatch.setattr(made, "load_cached", lambda folder, device: replace(world, slat=bad))


def one(arrays: dict[str, NDArray], row: int) -> list[NDArray]:
    """What there is of an asset."""
    if "counts" in arrays:
        mine = ragged(arrays["counts"])[row]
        return [arrays["coords"][mine], arrays["latents"][mine], arrays["errors"][row]]
    return [arrays[name][row] for name in ("latents", "occupancy", "ok")]


def same(a: list[NDArray], b: list[NDArray]) -> bool:
    return all(x.dtype.kind == y.dtype.kind and np.array_equal(x, y) for x, y in zip(a, b, strict=True))


# --------------------------------------------------------------------------------------------------------- both stages


@pytest.mark.parametrize("kind", ["structures", "assets"])
def test_batches_order_and_shards_change_no_bit(bench: Bench, kind: str):
    def job(rows: Sequence[int], **options: int) -> dict[str, NDArray]:
        return (bench.structures(rows, **options) if kind == "structures" else bench.assets(rows)).compute()[0]

    whole = job([0, 1, 2, 3, 4])
    order, alone = ([4, 2, 0], [3]) if kind == "assets" else ([4, 2, 0], [1])
    turned, single = job(order), job(alone, **({"batch": 1} if kind == "structures" else {}))
    assert all(same(one(turned, i), one(whole, row)) for i, row in enumerate(order))
    assert same(one(single, 0), one(whole, alone[0]))
    distinct = {one(whole, row)[kind == "assets"].tobytes() for row in (0, 2, 3, 4)}
    assert len(distinct) == 4


@pytest.mark.parametrize("values", [VALUES, DIGITS], ids=["named", "digits"])
@pytest.mark.parametrize("stage", ["structure", "slat"])
def test_the_noise_is_that_of_the_protocols_seed_whatever_the_method(
    bench: Bench, world: World, stage: Stage, values: Values, monkeypatch: pytest.MonkeyPatch
):
    """As the network is given it: torch's normal numbers from the seed of asset, stage and run."""
    monkeypatch.setattr(made, "load_cached", lambda folder, device: world)
    seen: list[Tensor] = []
    flow = world.stage(stage).flow
    hook = flow.register_forward_pre_hook(lambda _, args: seen.append(getattr(args[0], "feats", args[0])))
    try:
        for sampler in (Renoise(1), Euler(1, rescale_t=3.0, cfg_strength=0.0)):
            maker, rows = bench.maker(stage, sampler), [0, 2]
            job = bench.structures(rows, maker, values=values) if stage == "structure" else None
            (job or bench.assets(rows, maker, seed=5, values=values)).compute()
    finally:
        hook.remove()
    shapes = [(1, CHANNELS, SIDE, SIDE, SIDE)] * 2 if stage == "structure" else [(5, CHANNELS), (9, CHANNELS)]
    for i, (subject, shape) in enumerate(zip(bench.subjects([0, 2]), shapes, strict=True)):
        seed = noise_seed(values, subject.identity, 5, stage)
        expected = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
        assert torch.equal(seen[i], expected)
        assert torch.equal(seen[2 + i], expected)
    stages: list[Stage] = ["structure", "slat"]
    assert len({noise_seed(values, s.identity, 5, at) for s in bench.subjects() for at in stages}) == 10


@pytest.mark.parametrize("stage", ["structure", "slat"])
def test_latents_follow_picture_seed_sampler_and_weights(bench: Bench, world: World, stage: Stage, tmp_path: Path):
    weights = tmp_path / "student.safetensors"
    state = world.stage(stage).flow.state_dict()
    save_tensors(weights, {key: 1.1 * value for key, value in state.items()})

    def run(sampler: Sampler = RENOISE, *, row: int = 0, seed: int = 5, weights: Path | None = None) -> bytes:
        make: Callable[..., StructuresJob | AssetsJob] = bench.structures if stage == "structure" else bench.assets
        job = make([row], bench.maker(stage, sampler, weights), seed=seed)
        places.add(job.places[0].digest)
        return job.compute()[0]["latents"].tobytes()

    places: set[str] = set()
    first = run()
    assert first == run()
    assert len(places) == 1
    others = [run(seed=1), run(Renoise(3)), run(Euler(2)), run(Euler(2, cfg_strength=1.0)), run(weights=weights)]
    assert len({first, *others}) == len(places) == 6
    assert run(Phase(2, 4)) == others[2]  # another name for what Euler computes, found at the same address
    assert len(places) == 6


def test_guidance_takes_two_passes_and_other_steps_one(bench: Bench):
    """t = 1, 2/3 lie in the interval, 1/3 does not."""
    guided = Euler(3, cfg_strength=2.0, cfg_interval=(0.5, 1.0))
    for sampler, passes in ((guided, 5), (RENOISE, 2), (Euler(3), 3)):
        assert bench.structures([0], bench.maker("structure", sampler)).compute()[0]["nfe"] == passes
        assert bench.assets([0], bench.maker("slat", sampler)).compute()[0]["nfe"] == passes


def test_a_students_weights_must_fit(world: World, tmp_path: Path):
    save_tensors(tmp_path / "w.safetensors", {"x": torch.zeros(1)})
    with pytest.raises(MissingError, match=r"w\.safetensors"):
        with_weights(world.structure.flow, tmp_path / "w.safetensors")


# ----------------------------------------------------------------------------------------------------------- structures


def test_one_step_of_a_structure_is_noise_minus_velocity(bench: Bench, world: World):
    """x_0 = noise - v(noise, 1), decoded; the network is shown the whole picture."""
    arrays = bench.structures([3], bench.maker("structure", Euler(1))).compute()[0]
    [subject] = bench.subjects([3])
    seed = noise_seed(VALUES, subject.identity, 5, "structure")
    noise = torch.randn((1, CHANNELS, SIDE, SIDE, SIDE), generator=torch.Generator().manual_seed(seed))
    with torch.inference_mode():
        cond = world.structure.conditioner(torch.from_numpy(pictures(5)[3:4]).permute(0, 3, 1, 2))
        latent = noise - world.structure.flow(noise, torch.tensor([1000.0]), cond)
    assert np.array_equal(arrays["latents"], latent.numpy())
    assert np.array_equal(arrays["occupancy"], world.structure.decode(latent).numpy())
    assert arrays["ok"].tolist() == [True]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_latent_that_is_not_finite_is_a_counted_failure(
    bench: Bench, world: World, bad: float, monkeypatch: pytest.MonkeyPatch
):
    """One number of it is enough, and whatever the decoder makes of the others."""
    monkeypatch.setattr(made, "load_cached", lambda folder, device: world)
    full = torch.ones(1, FINE, FINE, FINE, dtype=torch.bool)
    monkeypatch.setattr(StructurePipeline, "decode", lambda self, latents: full)
    good, calls = bench.structures([0, 1, 2]).compute()[0], []

    def spoil(_: nn.Module, args: object, out: Tensor) -> Tensor:
        calls.append(args)
        if len(calls) == 4:  # the last step of the second asset
            out[0, 0, 0, 0, 0] = bad
        return out

    hook = world.structure.flow.register_forward_hook(spoil)
    arrays = bench.structures([0, 1, 2]).compute()[0]
    hook.remove()
    assert arrays["ok"].tolist() == [True, False, True]
    assert np.isfinite(arrays["latents"]).all()
    assert not arrays["occupancy"][1].any()
    assert all(same(one(arrays, row), one(good, row)) for row in (0, 2))


def test_microbatches_cover_all_rows_one_at_a_time_on_a_cpu():
    def rows(count: int, batch: int, device: str) -> list[list[int]]:
        return [list(range(count))[part] for part in microbatches(count, batch, torch.device(device))]

    assert rows(3, 8, "cpu") == [[0], [1], [2]]
    assert rows(5, 2, "cuda") == [[0, 1], [2, 3], [4]]
    assert rows(0, 2, "cpu") == []


def test_the_batch_decides_a_result_on_a_gpu_alone(bench: Bench):
    def digest(device: str, batch: int) -> str:
        maker = replace(bench.maker("structure"), device=device)
        return bench.structures(maker=maker, batch=batch).places[0].digest

    assert digest("cpu", 2) == digest("cpu", 8)
    assert digest("cuda", 2) != digest("cuda", 8)


# --------------------------------------------------------------------------------------------------------- whole assets


def test_failures_are_counted_with_their_reasons(bench: Bench, spoilt: None, small_folder: Path):
    """Two good assets, and three that fail each in its own way; one of them when its mesh is asked for."""
    job = bench.assets()
    arrays = job.compute()[0]
    assert arrays["counts"].tolist() == list(COUNTS)  # the cells of failed ones stay
    assert len(arrays["coords"]) == len(arrays["latents"]) == sum(COUNTS)
    assert np.isfinite(arrays["latents"]).all()
    found = list(decoded_assets(small_folder, "cpu", arrays))
    whys = [asset if isinstance(asset, str) else "" for asset in found]
    assert whys == list(arrays["errors"]) == ["", made.EMPTY, "the latent of the second stage is not finite", "", ""]
    assert isinstance(found[3], Decoded)
    assert len(found[3].gaussians)
    with pytest.raises(AssetError, match="surface"):
        _ = found[3].mesh
    assert arrays["nfe"] == 2


def test_good_assets_are_the_same_among_failures(bench: Bench, world: World, monkeypatch: pytest.MonkeyPatch):
    alone = [bench.assets([row]).compute()[0] for row in (0, 4)]
    bad = replace(world.whole, flow=Diverging(world.whole.flow))  # type: ignore[arg-type]
    monkeypatch.setattr(made, "load_cached", lambda folder, device: replace(world, slat=bad))
    among = bench.assets().compute()[0]
    assert same(one(among, 0), one(alone[0], 0))
    assert same(one(among, 4), one(alone[1], 0))


def test_of_a_structure_that_failed_there_is_no_asset(bench: Bench):
    job = bench.assets([0, 2])
    grids = structures(COUNTS)[[0, 2]]
    grids[0] = False
    job.structures.places[0].put({"occupancy": grids, "ok": np.array([False, True])})
    arrays = job.compute()[0]
    assert arrays["counts"].tolist() == [0, 9]
    assert arrays["errors"].tolist() == ["the latent of the structure is not finite", ""]


def test_assets_of_empty_structures_alone_are_empty(bench: Bench):
    arrays = bench.assets([1]).compute()[0]
    assert (arrays["counts"].tolist(), arrays["errors"].tolist(), int(arrays["nfe"])) == ([0], [made.EMPTY], 0)
    assert (arrays["coords"].shape, arrays["latents"].shape) == ((0, 3), (0, CHANNELS))


def test_one_step_of_an_asset_is_noise_minus_velocity(world: World):
    coords, image = coarse_coords(structures([7])[0], 8), pictures(1)[0]
    found, passes = slat(world.whole, world.whole.flow, Euler(1), coords, image, 3)
    noise = torch.randn((7, CHANNELS), generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        cond = world.whole.conditioner(torch.from_numpy(image).permute(2, 0, 1)[None])
        v = world.whole.flow(SparseTensor(noise, one_voxels(coords)), torch.tensor([1000.0]), cond).feats
    assert torch.equal(found, noise - v)
    assert passes == 1


def test_decoders_are_given_raw_latents(world: World):
    pipeline, coords = world.whole, coarse_coords(structures([6])[0], 8)
    latents = torch.randn(6, CHANNELS, generator=torch.Generator().manual_seed(0))
    asset = Decoded(pipeline, coords, latents.numpy())
    raw = SparseTensor(latents * pipeline.std + pipeline.mean, one_voxels(coords))
    with torch.no_grad():
        [gaussians] = pipeline.gaussian_decoder.to_gaussians(pipeline.gaussian_decoder(raw))
        [mesh] = pipeline.mesh_decoder.to_meshes(pipeline.mesh_decoder(raw))
    assert np.array_equal(asset.gaussians.means, gaussians.means.numpy())
    assert np.array_equal(asset.mesh.vertices, mesh.vertices)
    other = Decoded(pipeline, coords, latents.numpy() + 0.5)
    assert not np.array_equal(asset.gaussians.means, other.gaussians.means)


def test_what_is_made_is_found_again(bench: Bench):
    """By a job of another process, whatever the order of its needs."""
    job, engine = bench.assets([0, 4]), in_process()[0]
    engine.do([job])
    engine.do([bench.assets([0, 4])])
    assert engine.team.given == {"assets": 1}  # type: ignore[attr-defined]
    assert same(one(job.places[0].get(), 1), one(bench.assets([4]).compute()[0], 0))
