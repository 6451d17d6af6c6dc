"""Columns of things whose law is known, against counts by hand and probabilities in closed form."""

from __future__ import annotations

import numpy as np
import pytest

from mdtbench.geometry.law import Law
from mdtbench.metrics import METRICS, Comparison, NotMeasured, Seen
from mdtbench.metrics.law import nearest_asset, nearest_structure, shown_share

RED, BLUE = (1.0, 0.0, 0.0), (0.0, 0.0, 1.0)


def law(name="slabs"):
    """Four slabs of 10 cells: at the floor or the ceiling, red or blue."""
    occupancy, colours = np.zeros((4, 4, 4, 4), bool), np.zeros((4, 4, 4, 4, 3), np.float32)
    choices = np.array([[where, paint] for where in (0, 1) for paint in (0, 1)])
    for k, (where, paint) in enumerate(choices):
        occupancy[k, :, :, 3 * where] = True
        occupancy[k, :2, :3, 3 * where] = False
        colours[k][occupancy[k]] = (RED, BLUE)[paint]
    return Law(name, occupancy, colours, choices, ("where", "paint"))


def coloured(k, *, of=None):
    of = of or law()
    return np.concatenate([of.colours[k], of.occupancy[k][..., None].astype(np.float32)], axis=-1)


def compared(name, things, ok=None, laws=None):
    metric, count = METRICS.get(name).value, len(things)
    seen = Seen(tuple(map(str, range(count))), np.ones(count, bool) if ok is None else ok, {metric.made[0]: things})
    truth = Seen(seen.ids, np.ones(count, bool), {"law": [law()] * count if laws is None else laws})
    return metric.score(seen, Comparison(truth=truth))


def test_iou_with_the_nearest_is_counted_by_hand():
    grid = law().occupancy[2].copy()
    assert nearest_structure(law(), grid).iou == 1
    assert nearest_structure(law(), grid).choice == (1, 0)
    grid[tuple(np.argwhere(grid)[0])] = False  # one cell of ten is missing, and one too many
    grid[0, 0, 1] = True
    assert nearest_structure(law(), grid).iou == pytest.approx(9 / 11)


def test_colours_count_cell_by_cell():
    cells = coloured(3)
    assert nearest_asset(law(), cells).choice == (1, 1)
    three = np.argwhere(cells[..., 3] > 0)[:3]
    cells[tuple(three.T)] = (*RED, 1)
    assert nearest_asset(law(), cells).iou == pytest.approx(7 / 10)
    cells[..., :3] = 0.5  # the mean of both colours is neither
    assert nearest_asset(law(), cells).iou == 0
    almost = coloured(0)
    almost[..., :3] += 0.14
    assert nearest_asset(law(), almost).iou == 1


def test_a_grid_of_another_size_is_no_number():
    with pytest.raises(NotMeasured, match="8 cells a side, their law 4"):
        nearest_structure(law(), np.zeros((8, 8, 8), bool))
    with pytest.raises(NotMeasured, match="8 cells a side, their law 4"):
        nearest_asset(law(), np.zeros((8, 8, 8, 4), np.float32))


def test_valid_counts_what_fits_and_what_failed_as_not():
    blur = law().occupancy[0] | law().occupancy[2]
    things = np.stack([law().occupancy[0], law().occupancy[2], blur, law().occupancy[2]])
    score = compared("valid", things, np.array([True, True, True, False]))
    assert score.per_asset.tolist() == [1, 1, 0, 0]
    assert score.value == 0.5
    assert compared("IoU_law", things).value == pytest.approx((1 + 1 + 0.5 + 1) / 4)


def test_assets_without_a_law_have_no_value():
    assert compared("valid", law().occupancy, laws=[law(), None, law(), law()]) is None


def test_coverage_of_one_option_alone_and_of_all():
    """Of 16 things of two equally probable options: all alike, half of the options; 8 and 8, 120 / (2 * 56) pairs."""
    metric = METRICS.get("coverage_rgb").value
    assert metric.opens == ("paint",)
    same = np.stack([coloured(k) for k in [0, 2] * 8])
    assert compared("coverage_rgb", same).value == pytest.approx(1 / 2)
    both = np.stack([coloured(k) for k in [0, 1] * 8])
    assert compared("coverage_rgb", both).value == pytest.approx(120 / (2 * 56))


def test_things_of_different_pictures_are_no_pairs():
    """Each picture collapses to an option of its own: together they show all, and each shows half."""
    laws = [law("a")] * 8 + [law("b")] * 8
    things = np.stack([coloured(0)] * 8 + [coloured(1)] * 8)
    assert compared("coverage_rgb", things, laws=laws).value == pytest.approx(1 / 2)


@pytest.mark.parametrize("count", [8, 64])
def test_coverage_has_no_bias_from_few_things(count):
    """1 / (K share) of uniform draws; the share of like pairs has the mean 1 / K at any count.

    3000 repetitions: 4 standard errors of the mean of the shares are allowed.
    """
    random, options = np.random.default_rng(0), 4
    shares = []
    for _ in range(3000):
        drawn = [(int(k),) for k in random.integers(0, options, count)]
        shares.append(sum(a == b for i, a in enumerate(drawn) for b in drawn[:i]) / (count * (count - 1) / 2))
        found = shown_share(drawn, ["x"] * count, options)
        if shares[-1]:
            assert found == pytest.approx(1 / (options * shares[-1]))
    assert abs(np.mean(shares) - 1 / options) < 4 * np.std(shares) / np.sqrt(len(shares))


def test_too_few_pairs_say_nothing():
    assert shown_share([(0,), (1,)], ["x", "x"], 4) is None
    assert shown_share([(0,), (1,)], ["x", "y"], 1) is None
