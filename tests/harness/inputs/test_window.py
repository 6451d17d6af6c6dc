"""What of a picture networks are shown."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from small_stage import pictures

from mdtbench.base.seeds import seed_of
from mdtbench.harness.engine.jobs import Place
from mdtbench.harness.engine.store import Address
from mdtbench.harness.inputs.subjects import Subject, shown_pictures, whole_pictures
from mdtbench.harness.inputs.window import HIDDEN, keep_window
from mdtbench.harness.protocol.rules import Identity


def random(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


def test_a_keep_window_shows_one_rectangle_of_the_asked_size():
    image = random(1).integers(0, 100, (50, 50, 3), np.uint8)  # never HIDDEN
    corners = set()
    for seed in range(30):
        shown = keep_window(image, (0.3, 0.5), random(seed))
        kept = (shown != HIDDEN).all(2)
        rows, columns = np.flatnonzero(kept.any(1)), np.flatnonzero(kept.any(0))
        assert 15 <= len(rows) <= 25
        assert 15 <= len(columns) <= 25
        assert kept.sum() == len(rows) * len(columns)  # a full rectangle
        assert np.array_equal(shown[kept], image[kept])
        assert (shown[~kept] == HIDDEN).all()
        corners.add((rows[0], columns[0]))
    assert len(corners) > 20


def test_a_window_of_the_whole_picture_shows_it():
    image = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    shown = keep_window(image, (1.0, 1.0), random(0))
    assert np.array_equal(shown, image)
    assert shown is not image


def test_a_test_asset_has_a_window_of_its_own_whatever_is_beside_it(tmp_path: Path):
    place, images = Place(tmp_path, Address("prepared", {})), np.repeat(pictures(1), 3, axis=0)
    place.put({"images": images[:, None]})
    a, b, c = (Subject(Identity(name, "0" * 64), None, place, row) for row, name in enumerate("abc"))  # type: ignore[arg-type]
    shown = shown_pictures([a, b, c], (0.3, 0.55))
    assert np.array_equal(shown_pictures([c, a], (0.3, 0.55)), shown[[2, 0]])
    assert not np.array_equal(shown[0], shown[1])  # the pictures are the same
    assert np.array_equal(shown[1], keep_window(images[1], (0.3, 0.55), random(seed_of("window", "b"))))
    assert np.array_equal(whole_pictures([b, c]), images[1:])
