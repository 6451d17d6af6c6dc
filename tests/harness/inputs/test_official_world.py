"""A world in the official layout: no world.json, no encoders in pipeline.json, a conditioner of the DINOv2 hub."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import official_site
import pytest
import torch
from official_site import COND, CONDITIONER_FILE, HUB, MEAN, NETWORKS, SMALL_HUB
from small_stage import network

from mdtbench.base.errors import MissingError
from mdtbench.harness.inputs import world as worlds
from mdtbench.harness.inputs.world import load_world, world_info
from mdtbench.trellis.pipeline import SLAT_FLOW
from mdtbench.trellis.weights import save_checkpoint


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        official_site.small_official(patch)
        made = tmp_path_factory.mktemp("weights") / "trellis-image-large"
        official_site.write_repository(made)
        yield made


@pytest.fixture
def copied(folder: Path, tmp_path: Path) -> Path:
    """With all that lies beside it."""
    return Path(shutil.copytree(folder.parent, tmp_path / "weights")) / folder.name


def test_it_has_both_stages_and_one_conditioner(folder: Path):
    world, info = load_world(folder), world_info(folder)
    assert world.structure.conditioner is world.whole.conditioner
    pictures = torch.randint(0, 256, (3, 3, 518, 518), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    tokens = world.structure.condition(pictures)
    assert tokens.shape == (3, 1374, COND)
    # layer-normalised without parameters, as what the flow networks were trained on
    torch.testing.assert_close(tokens.mean(2), torch.zeros(3, 1374), atol=1e-5, rtol=0)
    torch.testing.assert_close(tokens.std(2, correction=0), torch.ones(3, 1374), atol=1e-3, rtol=0)
    assert world.whole.mean.tolist() == MEAN
    spec = info.file.preparation
    assert (info.name, spec.image_size, spec.resolution) == (folder.name, 518, 64)
    assert world.structure.decode(torch.zeros(1, 8, 16, 16, 16)).shape == (1, 64, 64, 64)
    assert set(info.samplers) == {"structure", "slat"}


def test_its_digest_is_of_networks_pipeline_and_conditioner(folder: Path, copied: Path):
    usual = world_info(folder).digest
    assert world_info(copied).digest == usual
    stem, name, args = NETWORKS[SLAT_FLOW]
    save_checkpoint(copied / stem, network(name, args, 99), {"name": name, "args": args})
    second = world_info(copied).digest
    with (copied.parent / CONDITIONER_FILE.file).open("ab") as stream:
        stream.write(b"other")
    assert len({usual, second, world_info(copied).digest}) == 3


def test_another_conditioner_than_the_known_one_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch):
    spec = replace(SMALL_HUB, weights=replace(CONDITIONER_FILE, sha256="0" * 64))
    monkeypatch.setitem(worlds.HUB_CONDITIONERS, HUB, spec)
    with pytest.raises(MissingError, match=rf"{CONDITIONER_FILE.file} has sha256 .*, expected 0000"):
        load_world(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"models": {}}, "names no sparse_structure_flow_model"),
        ({"slat_normalization": {}}, "has no 'mean'"),
        ({"image_cond_model": 3}, "has no models or image_cond_model"),
    ],
)
def test_a_pipeline_without_what_is_needed(copied: Path, change: Mapping[str, object], message: str):
    path = copied / "pipeline.json"
    path.write_text(json.dumps({"args": json.loads(path.read_text())["args"] | change}))
    with pytest.raises(MissingError, match=message):
        load_world(copied)
