"""Assets as arrays: what cannot be shown is a counted failure with a reason that speaks of the asset."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from inprocess import in_process

from mdtbench.assets.toys import Choices, ToyAsset, ToySource
from mdtbench.base.errors import AssetError
from mdtbench.geometry.mesh import Mesh
from mdtbench.harness.inputs import prepare as prepare_module
from mdtbench.harness.inputs.prepare import (
    OwnRenderer,
    Preparation,
    conditioning_pictures,
    occupied,
    prepare,
    prepare_asset,
    prepare_jobs,
    straight_uint8,
)


@dataclass(frozen=True)
class Needle:
    """A triangle of no width: it marks voxels, and no ray hits it."""

    id: str = "needle"
    category: str = ""

    def load(self) -> Mesh:
        corners = np.array([[-0.4, 0.0, 0.0], [0.4, 0.0, 0.0], [0.4, 1e-9, 0.0]])
        return Mesh.of_faces(corners, np.array([[0, 1, 2]]), np.ones((1, 3)))


def test_an_asset_that_no_camera_sees_says_so():
    with pytest.raises(AssetError, match="visible from its conditioning camera"):
        prepare_asset(Needle(), Preparation())


def test_a_toy_becomes_occupancy_and_pictures_that_depend_on_its_id_alone():
    toy = ToySource("test", 3).assets()[2]
    spec = Preparation(views=2)
    occupancy, images = prepare_asset(toy, spec)
    again, same = prepare_asset(ToySource("test", 5).assets()[2], spec)
    assert occupancy.shape == (32, 32, 32)
    assert images.shape == (2, 64, 64, 3)
    assert not np.array_equal(images[0], images[1])
    assert np.array_equal(occupancy, again)
    assert np.array_equal(images, same)


def test_the_picture_of_a_toy_shows_its_lower_half_from_its_own_front():
    """Whatever stands on it and however it is turned; its structure is the whole toy, as it stands."""
    toy, spec = ToyAsset("test-00000", Choices(2, 1, 0, 0, 1, 2)), Preparation()
    occupancy, images = prepare_asset(toy, spec)
    other = ToyAsset("test-00000", Choices(2, 1, 0, 3, 2, 0))
    other_occupancy, same = prepare_asset(other, spec)
    assert np.array_equal(images, same)
    assert np.array_equal(images, OwnRenderer(spec).pictures(toy, toy.load()))
    assert np.array_equal(images, conditioning_pictures(toy.choices.shown(), toy.id, spec))
    assert not np.array_equal(images, conditioning_pictures(toy.load(), toy.id, spec))
    assert np.array_equal(occupancy, occupied(toy.load(), spec.resolution))
    assert not np.array_equal(occupancy, other_occupancy)


def test_straight_colours_are_recovered_from_premultiplied_ones():
    premultiplied = np.array([[[0.5, 0.25, 0.0, 0.5], [0.0, 0.0, 0.0, 0.0]]], np.float32)
    assert straight_uint8(premultiplied).tolist() == [[[255, 128, 0, 128], [0, 0, 0, 0]]]


@dataclass(frozen=True)
class WithNeedle:
    """Toys of which the second is too thin to be seen."""

    name: str = "needle"

    def assets(self) -> list:
        toys = ToySource("test", 7).assets()
        return [toys[0], Needle("test-00001"), *toys[2:]]

    def digest(self) -> str:
        return "d"


def test_a_limit_prepares_its_first_assets_only_and_finds_them_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(prepare_module, "prepare_jobs", partial(prepare_jobs, shard=2))
    engine, team = in_process()
    some = prepare(WithNeedle(), Preparation(), tmp_path, engine, limit=3)
    assert team.given.total() == 2  # whole shards of two
    assert some.ids == ("test-00000", "test-00002")
    assert [name for name, _ in some.failures] == ["test-00001"]
    assert some.total == 3
    every = prepare(WithNeedle(), Preparation(), tmp_path, engine)
    assert team.given.total() == 2 + 2
    assert len(every.ids) == 6
    assert np.array_equal(every.images[:2], some.images)
    assert prepare(WithNeedle(), Preparation(), tmp_path, engine, limit=99).ids == every.ids
    assert prepare(WithNeedle(), Preparation(), tmp_path, engine, limit=1).failures == ()
    assert team.given.total() == 2 + 2
