"""Whole assets from structures: what fails is counted, and an asset depends on nothing but itself and the seed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from small_stage import CHANNELS, LOOKS, objects, pictures, small_stage, structures
from torch import Tensor, nn

from mdtbench.flow.samplers import Euler, Renoise
from mdtbench.harness import asset_jobs
from mdtbench.harness.appearance import Appearances
from mdtbench.harness.assemble import Assembled, assemble, decoded, joined, one_voxels, reassemble, sampled
from mdtbench.harness.asset_jobs import (
    AssembleJob,
    CellsJob,
    SlatSet,
    load_assembled,
    load_assets,
    load_picture_embedding,
    run_assemble,
    run_asset_reconstruction,
    run_asset_truth,
    run_encode_cells,
    save_assembled,
)
from mdtbench.harness.config import Train
from mdtbench.harness.storage import load_arrays, save_arrays, save_tensors
from mdtbench.harness.world import SecondStage
from mdtbench.metrics import WholeAssets
from mdtbench.render.appearance import N_FEATURES, coarse_coords
from mdtbench.trellis.sparse import SparseTensor

COUNTS = (5, 0, 9, 3, 6)  # cells of each structure; the second is empty
IDS = ("chair", "void", "lamp", "jug", "table")
NAN_CELLS, BARE_CELLS = 9, 3  # what is spoilt is told by its number of cells
SAMPLER = Renoise(2)  # it draws noise of its own between the steps
GUIDED = Euler(3, cfg_strength=1.0)
SEED = 4
FIELDS = ("ok", "gaussian_features", "mesh_features", "embedding", "counts", "coords", "latents")


class Diverging(nn.Module):
    """The teacher, with a velocity that is not finite on objects of `NAN_CELLS` cells."""

    def __init__(self, flow: nn.Module):
        super().__init__()
        self.flow = flow

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


@pytest.fixture(scope="module")
def stage() -> SecondStage:
    return small_stage()


@pytest.fixture(scope="module")
def spoilt(stage: SecondStage) -> SecondStage:
    return replace(stage, pipeline=replace(stage.pipeline, mesh_decoder=Bare(stage.pipeline.mesh_decoder)))


def made_of(stage: SecondStage, network: nn.Module, rows: list[int]) -> Assembled:
    grids, images = structures(COUNTS), pictures(len(COUNTS))
    return assemble(stage, network, SAMPLER, grids[rows], images[rows], [IDS[i] for i in rows], SEED)


@pytest.fixture(scope="module")
def whole(stage: SecondStage, spoilt: SecondStage) -> Assembled:
    """Two good assets and three that fail, each in its own way."""
    return made_of(spoilt, Diverging(stage.pipeline.flow), [0, 1, 2, 3, 4])


def cells(assets: WholeAssets, row: int) -> slice:
    stop = int(assets.counts[: row + 1].sum())
    return slice(stop - int(assets.counts[row]), stop)


def same(a: WholeAssets, row: int, b: WholeAssets, other: int) -> bool:
    """Whether two assets agree to the last bit."""
    whole = all(np.array_equal(getattr(a, n)[row], getattr(b, n)[other]) for n in FIELDS[:5])
    mine, theirs = cells(a, row), cells(b, other)
    return (
        whole
        and np.array_equal(a.coords[mine], b.coords[theirs])
        and np.array_equal(a.latents[mine], b.latents[theirs])
    )


def test_failures_are_counted_with_their_reasons(whole: Assembled):
    assert whole.assets.ok.tolist() == [True, False, False, False, True]
    assert whole.errors[0] == whole.errors[4] == ""
    for row, text in ((1, "structure is empty"), (2, "not finite"), (3, "surface")):
        assert text in whole.errors[row]
    assert whole.assets.counts.tolist() == list(COUNTS)  # the cells of failed ones stay
    assert len(whole.assets.coords) == len(whole.assets.latents) == sum(COUNTS)
    assert all(np.isfinite(getattr(whole.assets, name)).all() for name in FIELDS)


def test_a_failed_asset_looks_like_nothing(whole: Assembled, stage: SecondStage):
    black = stage.pictures(np.zeros((4, 3, LOOKS.picture_size, LOOKS.picture_size), np.uint8))
    for row in (1, 2, 3):
        assert not whole.assets.embedding[row].any()
        assert np.array_equal(whole.assets.gaussian_features[row], black)
        assert np.array_equal(whole.assets.mesh_features[row], black)
    for row in (0, 4):
        assert np.linalg.norm(whole.assets.embedding[row]) == pytest.approx(1, rel=1e-5)
        assert not np.allclose(whole.assets.gaussian_features[row], black, atol=1e-3)
        assert not np.allclose(whole.assets.mesh_features[row], black, atol=1e-3)


def test_an_asset_does_not_depend_on_its_neighbours_or_their_order(
    whole: Assembled, stage: SecondStage, spoilt: SecondStage
):
    """Among failures, alone, and last: the same bits."""
    turned = made_of(spoilt, Diverging(stage.pipeline.flow), [4, 3, 0])
    alone = made_of(stage, stage.pipeline.flow, [0])
    assert same(whole.assets, 4, turned.assets, 0)
    assert same(whole.assets, 0, turned.assets, 2)
    assert same(whole.assets, 0, alone.assets, 0)
    assert not same(whole.assets, 0, whole.assets, 4)


def test_the_cost_of_every_asset_is_what_was_spent_on_it(whole: Assembled):
    """A failure of the decoder took the network's passes and time; an empty structure took neither."""
    assert whole.nfe.tolist() == [2, 0, 2, 2, 2]
    assert (whole.slat_s > 0).tolist() == [True, False, True, True, True]
    assert (whole.decode_s > 0).tolist() == [True, False, True, True, True]
    assert whole.slat_s.shape == whole.decode_s.shape == (5,)


def test_noise_is_of_asset_and_seed_alone(stage: SecondStage):
    """A sampler that hands the noise back: what the networks are has no part in it."""
    seen: list[Tensor] = []

    class Echo(Euler):
        def sample(self, velocity, noise, layout, generators):
            seen.append(noise)
            return noise

    coords, image = coarse_coords(structures([7])[0], 8), pictures(2)
    calls = [("lamp", 0, image[0]), ("lamp", 0, image[1]), ("lamp", 1, image[0]), ("jug", 0, image[0])]
    for asset, seed, picture in calls:
        latents, nfe = sampled(stage, stage.pipeline.flow, Echo(1), coords, picture, asset, seed)
        assert latents is seen[-1]
        assert nfe == 0
    assert torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[0], seen[2])
    assert not torch.equal(seen[0], seen[3])
    assert seen[0].shape == (7, CHANNELS)


def test_sampling_follows_the_condition_the_seed_and_the_sampler(stage: SecondStage):
    coords, image = coarse_coords(structures([7])[0], 8), pictures(2)
    flow = stage.pipeline.flow

    def run(sampler: Euler = GUIDED, picture: NDArray = image[0], seed: int = 0) -> tuple[Tensor, int]:
        return sampled(stage, flow, sampler, coords, picture, "lamp", seed)

    first, nfe = run()
    assert nfe == 6  # three guided steps
    assert run(Euler(3))[1] == 3
    assert torch.equal(first, run()[0])
    for other in (run(picture=image[1]), run(seed=1), run(Euler(3)), run(Euler(2, cfg_strength=1.0))):
        assert not torch.equal(first, other[0])


def test_one_euler_step_is_noise_minus_velocity(stage: SecondStage):
    """Time, sign and condition of the second stage, by hand: x_0 = noise - v(noise, 1)."""
    coords, image = coarse_coords(structures([7])[0], 8), pictures(1)[0]
    found, _ = sampled(stage, stage.pipeline.flow, Euler(1), coords, image, "lamp", 0)
    noises: list[Tensor] = []

    class Noting(Euler):
        def sample(self, velocity, noise, layout, generators):
            noises.append(noise)
            return noise

    sampled(stage, stage.pipeline.flow, Noting(1), coords, image, "lamp", 0)
    with torch.inference_mode():
        cond = stage.pipeline.conditioner(torch.from_numpy(image).permute(2, 0, 1)[None])
        v = stage.pipeline.flow(SparseTensor(noises[0], one_voxels(coords)), torch.tensor([1000.0]), cond).feats
    assert torch.equal(found, noises[0] - v)


def test_decoders_are_given_raw_latents(stage: SecondStage):
    pipeline, coords = stage.pipeline, coarse_coords(structures([6])[0], 8)
    latents, voxels = torch.randn(6, CHANNELS, generator=torch.Generator().manual_seed(0)), one_voxels(coords)
    made = decoded(stage, coords, latents)
    raw = SparseTensor(latents * pipeline.std + pipeline.mean, voxels)
    with torch.no_grad():
        [gaussians] = pipeline.gaussian_decoder.to_gaussians(pipeline.gaussian_decoder(raw))
        [mesh] = pipeline.mesh_decoder.to_meshes(pipeline.mesh_decoder(raw))
    assert np.array_equal(made.gaussians.means, gaussians.means.numpy())
    assert np.array_equal(made.mesh.vertices, mesh.vertices)
    assert not np.array_equal(made.gaussians.means, decoded(stage, coords, latents + 0.5).gaussians.means)
    features = torch.randn(6, N_FEATURES, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        mean = pipeline.encoder(SparseTensor(features, voxels)).feats
    found = pipeline.encode(features, voxels)
    torch.testing.assert_close(found * pipeline.std + pipeline.mean, mean, rtol=0, atol=1e-6)  # float32


def test_latents_that_were_kept_make_the_same_asset(whole: Assembled, stage: SecondStage):
    """grid.png decodes them again."""
    assets = whole.assets
    rows = [0, 4]
    pairs = [(assets.coords[cells(assets, i)], torch.from_numpy(assets.latents[cells(assets, i)])) for i in rows]
    again = reassemble(stage, pairs, [IDS[i] for i in rows])
    assert same(again.assets, 0, assets, 0)
    assert same(again.assets, 1, assets, 4)
    assert again.nfe.tolist() == [0, 0]


def test_asset_files_round_trip(whole: Assembled, tmp_path: Path):
    """Two files of one cell are its assets in order; costs of both stages are added up."""
    parts = [Assembled(_part(whole.assets, rows), whole.nfe[rows], whole.slat_s[rows], whole.decode_s[rows], errors)
             for rows, errors in ((slice(0, 2), whole.errors[:2]), (slice(2, 5), whole.errors[2:]))]  # fmt: skip
    paths = [tmp_path / "a.npz", tmp_path / "b.npz"]
    save_assembled(paths[0], parts[0], np.array([50, 51]), np.array([0.5, 0.25]))
    save_assembled(paths[1], parts[1], np.array([52, 53, 54]), np.array([1.0, 2.0, 3.0]))
    found = load_assembled(paths)
    for name in FIELDS:
        assert np.array_equal(getattr(found.assets, name), getattr(whole.assets, name)), name
        assert np.array_equal(getattr(load_assets(paths), name), getattr(whole.assets, name)), name
    assert found.errors == whole.errors
    assert found.nfe.tolist() == [52, 51, 54, 55, 56]
    assert found.seconds["structure_s"].tolist() == [0.5, 0.25, 1.0, 2.0, 3.0]
    assert np.array_equal(found.seconds["slat_s"], whole.slat_s)
    assert np.array_equal(found.seconds["decode_s"], whole.decode_s)
    assert same(joined(parts).assets, 4, whole.assets, 4)


def _part(assets: WholeAssets, rows: slice) -> WholeAssets:
    before, inside = int(assets.counts[: rows.start].sum()), int(assets.counts[rows].sum())
    ragged = slice(before, before + inside)
    fixed = {name: getattr(assets, name)[rows] for name in FIELDS[:5]}
    return WholeAssets(**fixed, coords=assets.coords[ragged], latents=assets.latents[ragged])


@pytest.fixture
def in_world(stage: SecondStage, monkeypatch: pytest.MonkeyPatch) -> SecondStage:
    """Jobs find this stage in whatever folder they name."""
    file = SimpleNamespace(window=SimpleNamespace(share=(0.5, 0.75)))
    monkeypatch.setattr(asset_jobs, "load_cached", lambda folder, device: SimpleNamespace(whole=stage, file=file))
    return stage


def seen_assets() -> Appearances:
    data, random = objects((4, 6)), np.random.Generator(np.random.PCG64(3))
    size = LOOKS.picture_size
    return Appearances(
        random.integers(0, 256, (2, 4, 3, size, size), np.uint8),
        random.random((2, LOOKS.points, 6), np.float32),
        data.counts,
        data.coords,
        random.random((10, N_FEATURES), np.float32),
    )


def test_jobs_encode_and_look_at_assets_one_at_a_time(in_world: SecondStage, tmp_path: Path):
    seen = seen_assets()
    job = CellsJob(Path("w"), seen, pictures(2), ("a", "b"), tmp_path / "both.npz")
    run_encode_cells(job)
    latents = load_arrays(job.path)["latents"]
    run_asset_truth(job)
    truth, embedding = load_assets([job.path]), load_picture_embedding([job.path])
    run_asset_reconstruction(job)
    rebuilt = load_assets([job.path])
    second = CellsJob(Path("w"), seen.part(1, 2), pictures(2)[1:], ("b",), tmp_path / "second.npz")
    run_encode_cells(second)
    assert np.array_equal(load_arrays(second.path)["latents"], latents[4:])
    run_asset_truth(second)
    assert np.array_equal(load_assets([second.path]).mesh_features[0], truth.mesh_features[1])
    assert np.array_equal(load_picture_embedding([second.path])[0], embedding[1])
    assert np.array_equal(truth.gaussian_features, truth.mesh_features)
    assert np.array_equal(truth.mesh_features[0], in_world.pictures(seen.pictures[0]))
    assert truth.ok.all()
    assert rebuilt.ok.all()
    assert np.array_equal(rebuilt.latents, latents)
    assert np.array_equal(rebuilt.coords, seen.coords)
    assert not np.array_equal(rebuilt.mesh_features, truth.mesh_features)


def test_students_are_distilled_on_all_cells_in_order(in_world: SecondStage, tmp_path: Path):
    data = objects()
    first = int(data.counts[:2].sum())
    paths = (tmp_path / "0.npz", tmp_path / "1.npz")
    save_arrays(paths[0], {"latents": data.latents[:first].numpy()})
    save_arrays(paths[1], {"latents": data.latents[first:].numpy()})
    train = Train(steps=1, batch=3)
    task = SlatSet(Path("w"), train, data.images, data.counts, data.coords, paths).task()
    assert torch.equal(task.data.latents, data.latents)
    assert (task.batch_size, task.data.window) == (3, (0.5, 0.75))
    assert task.draw(0, 0).layout.batch_size == 3


def test_an_assemble_job_takes_structures_from_the_file_and_weights_of_the_student(
    in_world: SecondStage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    grids, images = structures([5, 0]), pictures(2)
    generated = SimpleNamespace(
        shapes=SimpleNamespace(occupancy=grids), nfe=np.array([50, 50]), seconds=np.array([0.5, 0.25])
    )
    monkeypatch.setattr(asset_jobs, "load_generated", lambda path: generated)
    weights = tmp_path / "student.safetensors"
    save_tensors(weights, {key: 1.1 * value for key, value in in_world.pipeline.flow.state_dict().items()})
    found = {}
    for source in (None, weights):
        job = AssembleJob(
            Path("w"), Path("s"), source, Euler(2, cfg_strength=1.0), images, ("a", "b"), 0, tmp_path / "out.npz"
        )
        run_assemble(job)
        found[source] = load_assembled([job.path])
    direct = assemble(in_world, in_world.pipeline.flow, Euler(2, cfg_strength=1.0), grids, images, ("a", "b"), 0)
    assert same(found[None].assets, 0, direct.assets, 0)
    assert not np.array_equal(found[weights].assets.latents, direct.assets.latents)
    assert found[None].nfe.tolist() == [54, 50]
    assert found[None].seconds["structure_s"].tolist() == [0.5, 0.25]
