"""What encoders read of assets and what they make of it: one asset at a time, found again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from inprocess import in_process
from small_stage import CHANNELS, FINE, IMAGE, RESOLUTION, SIDE

from mdtbench.assets.toys import ToySource
from mdtbench.harness.inputs.cells import CellsJob, EncodeJob, one_voxels, ragged
from mdtbench.harness.inputs.prepare import OwnRenderer, Preparation, PrepareJob, prepare_jobs
from mdtbench.harness.inputs.world import World, load_world
from mdtbench.render.appearance import N_FEATURES, coarse_coords, voxel_features

SPEC = Preparation(resolution=FINE, image_size=IMAGE)


@pytest.fixture(scope="module")
def world(small_folder: Path) -> World:
    return load_world(small_folder)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> PrepareJob:
    """Three toys."""
    [job] = prepare_jobs(ToySource("train", 3), OwnRenderer(SPEC), FINE, tmp_path_factory.mktemp("cache"))
    in_process()[0].do([job])
    return job


def test_every_asset_has_its_own_cells_and_features(prepared: PrepareJob):
    job = CellsJob(prepared, RESOLUTION)
    in_process()[0].do([job])
    arrays, grids = job.places[0].get(), prepared.places[0].get()["occupancy"]
    assert arrays["features"].shape == (arrays["counts"].sum(), N_FEATURES)
    for asset, grid, rows in zip(prepared.assets, grids, ragged(arrays["counts"]), strict=True):
        coords = coarse_coords(grid, RESOLUTION)
        assert np.array_equal(arrays["coords"][rows], coords)
        assert np.array_equal(arrays["features"][rows], voxel_features(asset.load(), coords, RESOLUTION))
    assert CellsJob(prepared, RESOLUTION // 2).places[0].digest != job.places[0].digest


def test_latents_are_encoded_one_at_a_time(prepared: PrepareJob, world: World, small_folder: Path):
    """Of both stages; and found again until networks, assets or cells are others."""
    structures = EncodeJob(small_folder, "cpu", "networks", prepared)
    cells = CellsJob(prepared, RESOLUTION)
    second = replace(structures, cells=cells)
    engine, team = in_process()
    engine.do([structures, second])
    engine.do([replace(structures), replace(second)])
    assert {label: count for label, count in team.given.items() if "latents" in label} == {
        "latents of toys-train": 1, "slat latents of toys-train": 1
    }  # fmt: skip
    latents, grids = structures.places[0].get()["latents"], prepared.places[0].get()["occupancy"]
    assert latents.shape == (3, CHANNELS, SIDE, SIDE, SIDE)
    for latent, grid in zip(latents, grids, strict=True):
        assert np.array_equal(latent, world.structure.encode(torch.from_numpy(grid)[None])[0].numpy())
    whole, arrays = second.places[0].get()["latents"], cells.places[0].get()
    for rows in ragged(arrays["counts"]):
        features = torch.from_numpy(arrays["features"][rows])
        expected = world.whole.encode(features, one_voxels(arrays["coords"][rows])).numpy()
        assert np.array_equal(whole[rows], expected)
    others = [replace(structures, networks_sha="x"), second, replace(second, cells=CellsJob(prepared, 4)), structures]
    assert len({job.places[0].digest for job in others}) == 4


def test_assets_that_cannot_be_used_leave_nothing(small_folder: Path, prepared: PrepareJob, tmp_path: Path):
    """A shard of failures alone."""
    none = replace(prepared, root=tmp_path, assets=prepared.assets[:1])
    empty = np.zeros(0, np.uint8)
    none.places[0].put({"ids": np.zeros(0, str), "occupancy": empty, "images": empty})
    cells = CellsJob(none, RESOLUTION)
    in_process()[0].do([cells])
    arrays = cells.places[0].get()
    assert (arrays["counts"].shape, arrays["coords"].shape) == ((0,), (0, 3))
    for job, shape in (
        (EncodeJob(small_folder, "cpu", "n", none), (0, CHANNELS, SIDE, SIDE, SIDE)),
        (EncodeJob(small_folder, "cpu", "n", none, cells), (0, CHANNELS)),
    ):
        assert job.compute()[0]["latents"].shape == shape


def test_ragged_rows_follow_the_counts():
    assert ragged(np.array([2, 0, 3])) == [slice(0, 2), slice(2, 2), slice(2, 5)]
    voxels = one_voxels(np.array([[1, 2, 3], [0, 0, 7]], np.int32))
    assert voxels.coords.tolist() == [[0, 1, 2, 3], [0, 0, 0, 7]]
    assert voxels.batch_size == 1
