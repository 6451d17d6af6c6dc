"""What a metric declares is checked, what it is given is what it asked for, and means say what they are of."""

from __future__ import annotations

import numpy as np
import pytest

from mdtbench.base.errors import UsageError
from mdtbench.metrics import METRICS, Comparison, Metric, NotMeasured, Score, Seen
from mdtbench.metrics.contract import CONTROLS, LOOKS, ONLY_OF, check_metric, known_mean

LOWER = {"FD_tiny2d", "FD_tiny3d", "MSE_teacher"}, {"FD_tiny_gs", "FD_tiny_mesh", "MSE_slat"}
HIGHER = (
    {"valid", "IoU_law", "coverage", "IoU_teacher", "IoU_truth", "ULIP_tiny"},
    {"valid_rgb", "IoU_law_rgb", "coverage_rgb", "ULIP_tiny_mesh"},
)
OWN = [METRICS.get(name).value for name in METRICS.names()]


class Mine(Metric):
    """Says nothing."""

    name, version, higher_is_better, level = "mine", 1, True, "structure"
    made = ("voxels:tiny2d",)

    def score(self, made: Seen, against: Comparison) -> Score | None:
        return None


def mine(**declared: object) -> Metric:
    return type("Mine", (Mine,), declared)()


def test_metrics_say_what_they_are():
    for level, lower, higher in zip(("structure", "assets"), LOWER, HIGHER, strict=True):
        found = {metric.name: metric.higher_is_better for metric in OWN if metric.level == level}
        assert found == dict.fromkeys(lower, False) | dict.fromkeys(higher, True)
    for name in METRICS.names():
        entry = METRICS.get(name)
        assert (entry.value.name, entry.value.version) == (name, entry.version)
        check_metric(entry.value)


def test_controls_have_the_metrics_that_they_say_something_of():
    assert {one: {metric.name for metric in OWN if one in metric.controls} for one in CONTROLS} == {
        "reconstruction": {
            "FD_tiny2d", "FD_tiny3d", "ULIP_tiny", "IoU_truth", "FD_tiny_gs", "FD_tiny_mesh", "ULIP_tiny_mesh",
            "valid", "IoU_law", "coverage", "valid_rgb", "IoU_law_rgb", "coverage_rgb",
        },
        "truth": {"ULIP_tiny", "ULIP_tiny_mesh"},
        "shuffled": {"ULIP_tiny", "ULIP_tiny_mesh"},
        "floor": {"FD_tiny2d", "FD_tiny3d", "FD_tiny_mesh"},
    }  # fmt: skip


def test_a_metric_needs_what_it_names_of_any_side():
    metric = mine(truth=("occupancy",), teacher=("occupancy", "latents"), condition=("condition:x",))
    assert metric.needs() == {"voxels:tiny2d", "occupancy", "latents", "condition:x"}
    check_metric(metric)


def test_a_control_that_there_is_not_is_refused():
    with pytest.raises(UsageError, match="Did you mean 'floor'"):
        check_metric(mine(controls=("truth", "flor")))


@pytest.mark.parametrize(
    ("side", "need", "level"),
    [
        ("made", "voxel", "structure"),  # misspelt
        ("truth", "mesh:tiny_rgb", "structure"),  # of the other level
        ("teacher", "latents", "assets"),
        ("population", "cell_colours", "assets"),  # only what is made has Gaussians
        ("made", "law", "structure"),  # and only the truth a law
        ("condition", "voxels:tiny2d", "structure"),  # there is a picture alone
        ("made", "condition:ulip_tiny", "assets"),
        ("made", ":tiny2d", "structure"),
    ],
)
def test_a_look_that_there_is_not_is_refused(side: str, need: str, level: str):
    metric = mine(level=level, **({"made": ("cells",)} if level == "assets" else {}) | {side: (need,)})
    with pytest.raises(UsageError, match=rf"Unknown look '{need}'.*Of the metric mine, {side}\."):
        check_metric(metric)


def test_every_look_can_be_asked_for():
    for level in ("structure", "assets"):
        made, truth = (
            [look for look in LOOKS[level] if side in ONLY_OF.get(look, (side,))] for side in ("made", "truth")
        )
        assert set(made) | set(truth) == LOOKS[level].keys()
        check_metric(mine(level=level, made=tuple(made), truth=tuple(f"{look}:any" for look in truth)))


def test_the_mean_and_its_standard_error():
    found = known_mean(np.array([1.0, 2.0, 3.0, 6.0], np.float32))
    assert found.value == 3.0
    assert found.stderr == pytest.approx(np.sqrt(14 / 3) / 2)  # variance (4 + 1 + 0 + 9) / 3, over n = 4
    assert found.n_ok == 4
    assert known_mean(np.array([2.0])) == Score(2.0, None, n_ok=1)


def test_a_mean_keeps_what_it_is_of():
    found = known_mean(np.array([1, 2, 3], np.float32))
    assert found.per_asset is not None
    assert (found.per_asset.dtype, found.per_asset.tolist()) == (np.float64, [1, 2, 3])
    some = known_mean(np.array([1.0, 7.0, 4.0]), np.array([True, False, True]))
    assert (some.value, some.n_ok) == (2.5, 2)
    assert some.stderr == pytest.approx(1.5, rel=1e-12)  # of 1 and 4 alone: sd sqrt(4.5), over sqrt(2)
    assert some.per_asset is not None
    assert np.array_equal(some.per_asset, [1, np.nan, 4], equal_nan=True)
    assert known_mean(np.array([5.0, np.inf]), np.array([True, False])) == Score(5.0, None, n_ok=1)


def test_a_mean_of_nothing_is_not_measured():
    with pytest.raises(NotMeasured, match=r"^no pair$"):
        known_mean(np.array([1.0, 2.0]), np.array([False, False]), why="no pair")
    with pytest.raises(NotMeasured, match="no asset can be measured"):
        known_mean(np.zeros(0))


def test_things_are_indexed_by_what_was_asked_for():
    seen = Seen(("a", "b"), np.array([True, False]), {"voxels:tiny2d": np.ones((2, 4, 3))})
    assert len(seen) == 2
    assert seen["voxels:tiny2d"].shape == (2, 4, 3)
    with pytest.raises(KeyError, match="latents"):
        seen["latents"]
