"""The test assets through encoder and decoder: one at a time, failures counted."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_stage import RESOLUTION
from small_world import opened, small_plan

from mdtbench.base.errors import AssetError
from mdtbench.geometry.mesh import Mesh
from mdtbench.harness.driver.measuring import Measuring
from mdtbench.harness.generate.made import decoded_assets
from mdtbench.harness.generate.reconstruct import ReconstructedAssets, ReconstructedStructures, can_encode_assets
from mdtbench.harness.inputs.cells import one_voxels, ragged
from mdtbench.harness.inputs.subjects import occupancies
from mdtbench.harness.inputs.world import World, load_world
from mdtbench.render.appearance import coarse_coords, voxel_features


@dataclass(frozen=True)
class Unreadable:
    id: str
    category: str = ""

    def load(self) -> Mesh:
        raise AssetError("the file is gone")


@pytest.fixture(scope="module")
def bench(small_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Measuring:
    root = tmp_path_factory.mktemp("run")
    return opened(small_plan(small_folder, cache=root), root)


@pytest.fixture(scope="module")
def world(small_folder: Path) -> World:
    return load_world(small_folder)


def test_structures_are_decoded_from_the_means_of_their_latents(bench: Measuring, world: World, tmp_path: Path):
    maker = bench.maker(bench.plan.cells[0].structure)
    subjects = bench.tests.subjects[:2]
    arrays = ReconstructedStructures(tmp_path, maker, subjects).compute()[0]
    for i, grid in enumerate(occupancies(subjects)):
        latent = world.structure.encode(torch.from_numpy(grid)[None])
        assert np.array_equal(arrays["latents"][i], latent[0].numpy())
        assert np.array_equal(arrays["occupancy"][i], world.structure.decode(latent)[0].numpy())
    assert arrays["ok"].all()


def test_assets_are_encoded_one_at_a_time_and_failures_counted(bench: Measuring, world: World, tmp_path: Path):
    maker = bench.maker(bench.plan.cells[0].structure)
    first, second, third = bench.tests.subjects[:3]
    bad = replace(second, asset=Unreadable(second.id))
    arrays = ReconstructedAssets(tmp_path, maker, (first, bad, third)).compute()[0]
    assert arrays["errors"].tolist() == ["", "the file is gone", ""]
    rows = ragged(arrays["counts"])
    for i, subject in ((0, first), (2, third)):
        cells = coarse_coords(occupancies([subject])[0], RESOLUTION)
        features = torch.from_numpy(voxel_features(subject.asset.load(), cells, RESOLUTION))
        assert np.array_equal(arrays["coords"][rows[i]], cells)
        assert np.array_equal(
            arrays["latents"][rows[i]], world.whole.encode(features, one_voxels(cells)).numpy().astype(np.float32)
        )
    made = list(decoded_assets(maker.world, "cpu", arrays))
    assert made[1] == "the file is gone"
    assert not isinstance(made[0], str)


def test_a_world_says_whether_its_encoder_reads_what_is_made_here(small_folder: Path, tmp_path: Path):
    copied = shutil.copytree(small_folder, tmp_path / "world")
    assert can_encode_assets(copied)
    config = copied / "ckpts" / "slat_encoder.json"
    content = json.loads(config.read_text())
    content["args"]["in_channels"] = 1024
    config.write_text(json.dumps(content))
    assert not can_encode_assets(copied)
    config.unlink()
    assert not can_encode_assets(copied)
