"""A world is complete and unchanged, or it is not used."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mdtbench.base.errors import MissingError, UsageError
from mdtbench.harness.inputs.world import (
    World,
    load_extractor,
    load_world,
    read_world_file,
    verify_world,
    world_folder,
    world_info,
)


@pytest.fixture
def copied(tiny_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_folder, tmp_path / "world"))


def change_json(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_the_shipped_world_loads(tiny_world: World, tiny_folder: Path):
    info = world_info(tiny_folder)
    assert (info.name, info.file) == ("tiny", tiny_world.file)
    assert set(info.samplers) == {"structure", "slat"}
    for stage, sampler in info.samplers.items():
        pipeline = tiny_world.stage(stage)
        assert pipeline.sampler == sampler
        assert pipeline.device == torch.device("cpu")
        assert not any(network.training for network in (pipeline.flow, pipeline.encoder, pipeline.conditioner))
    assert (tiny_world.stage("structure"), tiny_world.stage("slat")) == (tiny_world.structure, tiny_world.whole)


def test_a_world_of_structures_alone_says_so(tiny_world: World):
    with pytest.raises(UsageError, match="'tiny' has no second stage"):
        _ = replace(tiny_world, slat=None).whole


@pytest.mark.parametrize("name", ["tiny2d", "tiny3d", "tiny_rgb", "ulip_tiny", "ulip_tiny_mesh"])
def test_its_extractors_load_one_by_one(tiny_folder: Path, name: str):
    network, sha = load_extractor(tiny_folder, name)
    assert sha == read_world_file(tiny_folder).sha256[f"ckpts/{name}.safetensors"]
    assert not network.training


def test_an_extractor_is_the_one_that_its_digest_says(copied: Path):
    with pytest.raises(UsageError, match="Did you mean 'tiny2d'"):
        load_extractor(copied, "tiny2")
    path = copied / "ckpts" / "tiny2d.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(MissingError, match=r"tiny2d\.safetensors"):
        load_extractor(copied, "tiny2d")


def test_a_folder_in_the_official_layout_needs_no_world_file(copied: Path, tiny_folder: Path):
    """Its networks say how large structures and pictures are; its digest covers the weights all the same."""
    tiny = read_world_file(copied)
    (copied / "world.json").unlink()
    file, digest = read_world_file(copied), world_info(copied).digest
    assert (file.name, file.extractors) == ("world", {})
    for key in ("resolution", "image_size"):
        assert getattr(file.preparation, key) == getattr(tiny.preparation, key)
    assert load_world(copied).whole.resolution == load_world(tiny_folder).whole.resolution
    weights = copied / "ckpts" / "ss_flow.safetensors"
    weights.write_bytes(weights.read_bytes() + b" ")
    assert world_info(copied).digest != digest


def test_every_checkpoint_file_is_listed_with_its_digest(tiny_folder: Path):
    listed = set(read_world_file(tiny_folder).sha256)
    assert listed == {f"ckpts/{path.name}" for path in (tiny_folder / "ckpts").glob("*")}


@pytest.mark.parametrize("name", ["ss_flow", "ulip_tiny"])
def test_a_changed_byte_is_found_and_the_file_is_named(copied: Path, name: str):
    path = copied / "ckpts" / f"{name}.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    for check in (verify_world, load_world):
        with pytest.raises(MissingError, match=f"{name}.safetensors.*sha256"):
            check(copied)


def test_a_missing_file_is_named(copied: Path):
    (copied / "ckpts" / "tiny2d.safetensors").unlink()
    with pytest.raises(MissingError, match=r"tiny2d\.safetensors"):
        load_world(copied)


@pytest.mark.parametrize("name", ["pipeline.json", "ckpts/tiny3d.json", "ckpts/ss_flow.json"])
def test_a_missing_or_malformed_description_is_named(copied: Path, name: str):
    (copied / name).write_text("{")
    with pytest.raises(MissingError, match=Path(name).name):
        load_world(copied)
    (copied / name).unlink()
    with pytest.raises(MissingError, match=Path(name).name):
        load_world(copied)


def test_another_format_is_refused(copied: Path):
    change_json(copied / "world.json", format=2)
    with pytest.raises(MissingError, match="format 2"):
        load_world(copied)


@pytest.mark.parametrize("values", [{"surplus": 1}, {"observation": {"points": 0}}])
def test_a_world_file_with_other_content_is_refused(copied: Path, values: dict):
    change_json(copied / "world.json", **values)
    with pytest.raises(MissingError, match=r"world\.json"):
        read_world_file(copied)


def test_the_digest_covers_everything_that_decides_a_result(copied: Path, tiny_folder: Path):
    digests = {world_info(tiny_folder).digest}
    assert world_info(copied).digest in digests
    pipeline, world = json.loads((copied / "pipeline.json").read_text()), read_world_file(copied)
    pipeline["args"]["sparse_structure_sampler"]["params"]["cfg_strength"] += 1
    (copied / "pipeline.json").write_text(json.dumps(pipeline))
    digests.add(world_info(copied).digest)
    change_json(copied / "world.json", preparation={**world.preparation.model_dump(mode="json"), "views": 7})
    digests.add(world_info(copied).digest)
    change_json(copied / "world.json", sha256={**world.sha256, "ckpts/ss_flow.safetensors": "0" * 64})
    digests.add(world_info(copied).digest)
    assert len(digests) == 4


def test_a_world_is_found_by_name_and_by_folder(copied: Path):
    assert world_folder("tiny").name == "tiny"
    assert world_folder(str(copied)) == copied
    with pytest.raises(UsageError, match="Did you mean 'tiny'"):
        world_folder("tny")
