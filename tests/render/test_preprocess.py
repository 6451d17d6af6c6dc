"""Image preparation against microsoft/TRELLIS's own (golden fixtures) and its rules."""

from __future__ import annotations

import golden_io
import numpy as np
import pytest

from mdtbench.base.errors import AssetError
from mdtbench.render.preprocess import preprocess_image


@pytest.mark.parametrize("name", golden_io.names("preprocess"))
def test_pictures_are_those_of_trellis(name):
    sidecar, arrays = golden_io.load("preprocess", name)
    ours = preprocess_image(arrays["rgba"])
    difference = np.abs(ours.astype(int) - arrays["out_rgb"])
    # Another release of Pillow may round a resampled value the other way.
    assert difference.max() <= sidecar["tolerance"]["uint8_max_abs"]
    assert (difference == 0).mean() >= sidecar["tolerance"]["identical_fraction_at_least"]


def picture(left, top, right, bottom, size=200):
    """An object of one colour whose pixels span the inclusive box."""
    rgba = np.zeros((size, size, 4), np.uint8)
    rgba[..., :3] = 90  # background colour that must not show
    rgba[top : bottom + 1, left : right + 1] = [200, 100, 50, 255]
    return rgba


def test_object_is_centred_and_fills_its_share():
    ours = preprocess_image(picture(20, 60, 120, 140), size=240)
    assert ours.shape == (240, 240, 3)
    assert ours.dtype == np.uint8
    rows, columns = np.nonzero(ours.max(-1) > 50)
    # 101 pixels in a crop of int(100 * 1.2) = 120, doubled: 202 of 240, +-1 for the soft edge.
    assert np.ptp(columns) + 1 == pytest.approx(202, abs=1)
    assert np.ptp(rows) + 1 == pytest.approx(162, abs=1)
    assert columns.mean() == pytest.approx(119.5, abs=1.01)
    np.testing.assert_array_equal(ours[120, 120], [200, 100, 50])


def test_background_is_black_also_beyond_the_image():
    ours = preprocess_image(picture(0, 0, 100, 100), size=120)
    assert not ours[:8].any()
    assert not ours[:, :8].any()
    assert not ours[-8:].any()


def test_pixels_below_the_threshold_do_not_widen_the_crop():
    rgba = picture(80, 80, 120, 120)
    rgba[5, 5, 3] = 204  # 0.8 * 255 is not above 0.8 * 255
    np.testing.assert_array_equal(preprocess_image(rgba, 64), preprocess_image(picture(80, 80, 120, 120), 64))
    rgba[5, 5, 3] = 205
    assert (preprocess_image(rgba, 64) != preprocess_image(picture(80, 80, 120, 120), 64)).any()


def test_half_transparent_colours_are_darkened():
    rgba = picture(50, 50, 150, 150)
    rgba[90:111, 90:111, 3] = 128
    ours = preprocess_image(rgba, 240)
    # 200 * 128 / 255 = 100.4; Pillow resamples colours premultiplied in 8 bits, which costs up to a level.
    np.testing.assert_allclose(ours[120, 120], [100, 50, 25], atol=1)


@pytest.mark.parametrize("alpha", [0, 204, 255])
def test_no_mask_is_an_asset_error(alpha):
    rgba = np.full((32, 32, 4), alpha, np.uint8)
    with pytest.raises(AssetError, match=r"alpha mask.*no background remover"):
        preprocess_image(rgba)


@pytest.mark.parametrize(
    "image", [np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), np.uint8), np.zeros((8, 8, 4), np.float32)]
)
def test_other_arrays_are_an_asset_error(image):
    with pytest.raises(AssetError, match="needs an alpha mask"):
        preprocess_image(image)


def test_object_of_one_pixel_is_an_asset_error():
    with pytest.raises(AssetError, match="1 x 1"):
        preprocess_image(picture(7, 7, 7, 7))
