from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from mdtbench.base.errors import UsageError
from mdtbench.results.grid import FAILED_FILL, GAP, PAGE, grid


def flat(color, height=40, width=60):
    return np.full((height, width, 3), color, np.uint8)


def test_pictures_lie_where_the_layout_says(tmp_path):
    rng = np.random.default_rng(0)
    pictures = [[rng.integers(0, 255, (40, 60, 3), np.uint8) for _ in range(3)] for _ in range(2)]
    layout = grid(pictures, ["Ground truth", "CM"], ["a", "b", "c"], tmp_path / "grid.png")
    page = np.asarray(Image.open(tmp_path / "grid.png"))
    assert (page.shape[1], page.shape[0]) == layout.size
    for i, row in enumerate(pictures):
        for j, picture in enumerate(row):
            x, y = layout.corner(i, j)
            np.testing.assert_array_equal(page[y : y + 40, x : x + 60], picture)
    x, y = layout.corner(1, 1)
    assert (page[y, x - GAP : x] == PAGE).all()
    assert (page[y - GAP : y, x] == PAGE).all()


def test_labels_are_drawn_outside_the_pictures(tmp_path):
    white = [[flat(255)] * 2]
    layout = grid(white, ["method"], ["asset", "an asset name that is much too long"], tmp_path / "g.png")
    page = np.asarray(Image.open(tmp_path / "g.png")).astype(int)
    x, y = layout.corner(0, 0)
    inside = page[y : y + 40, x:]
    assert inside.min() == 255
    assert page[y : y + 40, : x - 2].min() < 100  # row label
    for j in range(2):
        x, _ = layout.corner(0, j)
        assert page[:y, x : x + 60].min() < 100  # column labels
    assert page[:y, x + 60 :].min() == 255  # the long one is cut


def test_a_failed_picture_is_marked(tmp_path):
    layout = grid([[None, flat(0)]], ["CM"], ["a", "b"], tmp_path / "g.png")
    page = np.asarray(Image.open(tmp_path / "g.png"))
    x, y = layout.corner(0, 0)
    assert tuple(page[y, x]) == FAILED_FILL
    assert (page[y : y + 40, x : x + 60] != FAILED_FILL).any()


@pytest.mark.parametrize(
    ("pictures", "rows", "columns", "name", "message"),
    [
        ([[flat(0)], [flat(0, 41)]], ["a", "b"], ["c"], "g.png", "different sizes"),
        ([[flat(0).astype(float)]], ["a"], ["c"], "g.png", "wrong kind"),
        ([[flat(0)[..., 0]]], ["a"], ["c"], "g.png", "wrong kind"),
        ([[flat(0)]], ["a", "b"], ["c"], "g.png", "Labels"),
        ([[flat(0)], [flat(0)] * 2], ["a", "b"], ["c"], "g.png", "Labels"),
        ([[None]], ["a"], ["c"], "g.png", "without pictures"),
        ([[flat(0)]], ["a"], ["c"], "g.jpg", "unknown format"),
    ],
)
def test_refuses(tmp_path, pictures, rows, columns, name, message):
    with pytest.raises(UsageError, match=message):
        grid(pictures, rows, columns, tmp_path / name)
    assert not list(tmp_path.iterdir())
