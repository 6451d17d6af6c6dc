"""A world is complete and unchanged, or it is not used."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from mdtbench.base.errors import MissingError, UsageError
from mdtbench.harness.world import World, load_world, read_world_file, verify_world, world_digest, world_folder


@pytest.fixture
def copied(tiny_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_folder, tmp_path / "world"))


def change_json(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_the_shipped_world_loads(tiny_world: World, tiny_folder: Path):
    assert tiny_world.digest == world_digest(tiny_folder)
    assert (tiny_world.pictures.name, tiny_world.points.name) == ("tiny2d", "tiny3d")
    for extractor, name in ((tiny_world.pictures, "tiny2d"), (tiny_world.points, "tiny3d")):
        assert extractor.weights_sha256 == tiny_world.file.sha256[f"ckpts/{name}.safetensors"]
        assert extractor.dim == len(extractor.network.scale)
    networks = [tiny_world.pipeline.flow, tiny_world.pipeline.decoder, tiny_world.pictures.network, tiny_world.dual]
    assert not any(network.training for network in networks)
    assert tiny_world.preparation.resolution == tiny_world.file.preparation.resolution


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
    digests = {world_digest(tiny_folder)}
    assert world_digest(copied) in digests
    pipeline, world = json.loads((copied / "pipeline.json").read_text()), read_world_file(copied)
    pipeline["args"]["sparse_structure_sampler"]["params"]["cfg_strength"] += 1
    (copied / "pipeline.json").write_text(json.dumps(pipeline))
    digests.add(world_digest(copied))
    change_json(copied / "world.json", window={"share": [0.1, 0.2], "clear": 0.0})
    digests.add(world_digest(copied))
    change_json(copied / "world.json", sha256={**world.sha256, "ckpts/ss_flow.safetensors": "0" * 64})
    digests.add(world_digest(copied))
    assert len(digests) == 4


def test_a_world_is_found_by_name_and_by_folder(copied: Path):
    assert world_folder("tiny").name == "tiny"
    assert world_folder(str(copied)) == copied
    with pytest.raises(UsageError, match="Did you mean 'tiny'"):
        world_folder("tny")
