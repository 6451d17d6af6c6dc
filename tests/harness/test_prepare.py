"""Assets as arrays: what cannot be shown is a counted failure with a reason that speaks of the asset."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from mdtbench.assets.mesh import Mesh
from mdtbench.assets.toys import ToySource
from mdtbench.base.errors import AssetError
from mdtbench.harness.prepare import Preparation, prepare_asset, straight_uint8


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


def test_straight_colours_are_recovered_from_premultiplied_ones():
    premultiplied = np.array([[[0.5, 0.25, 0.0, 0.5], [0.0, 0.0, 0.0, 0.0]]], np.float32)
    assert straight_uint8(premultiplied).tolist() == [[[255, 128, 0, 128], [0, 0, 0, 0]]]
