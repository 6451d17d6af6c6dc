"""Variance components by hand and on simulated data, what a run not made yet could show, and the file of both."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mdtbench.base.errors import MissingError
from mdtbench.results.frames import assets_frame, rows_frame
from mdtbench.results.recorded import Record, Recording, file_of, read_recording, recording_of, to_json
from mdtbench.results.report import RunResults
from mdtbench.results.variances import Components, components
from mdtbench.results.verdicts import ALPHA, Race, verdicts


def differences(rng: np.random.Generator, shape: tuple[int, int], sd: tuple[float, float, float]) -> np.ndarray:
    a, b, e = (rng.standard_normal(size) for size in ((shape[0], 1), (1, shape[1]), shape))
    return sd[0] * a + sd[1] * b + sd[2] * e


def race(rng: np.random.Generator, shape: tuple[int, int], sd: tuple[float, float, float], methods: int) -> Race:
    """Methods whose differences have these sd; what assets have in common is far larger and no part of them."""
    shared, half = 5 * rng.standard_normal((1, shape[1])), tuple(one / math.sqrt(2) for one in sd)
    tables = [shared + differences(rng, shape, half) for _ in range(methods)]
    return Race(
        {(str(i), "", 1): {t: dict(enumerate(row)) for t, row in enumerate(one)} for i, one in enumerate(tables)}, True
    )


def test_components_by_hand():
    found = components([np.array([[1.0, 2.0, 3.0], [2.0, 3.0, 7.0]])])
    # mean squares 6 (training seeds), 6.5 (assets), 1.5 (rest); see test_crossed
    assert (found.training, found.unit, found.rest) == (
        pytest.approx(4.5 / 3),
        pytest.approx(5 / 2),
        pytest.approx(1.5),
    )
    # training 1.5 / 2, unit 2.5 / 3, rest 1.5 / 6: what `crossed.mean_variance` says of these six values
    assert found.of_mean(2, 3) == pytest.approx((6 + 6.5 - 1.5) / 6)
    assert found.of_mean(6, 3) == pytest.approx(1.5 / 6 + 2.5 / 3 + 1.5 / 18)


def test_components_that_one_factor_leaves():
    values = np.array([1.0, 2.0, 4.0, 9.0])
    assert components([values[None]]) == Components(None, pytest.approx(np.var(values, ddof=1)), 0.0)
    assert components([values[:, None]]) == Components(pytest.approx(np.var(values, ddof=1)), 0.0, 0.0)
    assert components([np.ones((1, 1)), np.ones((0, 0))]) is None


@pytest.mark.parametrize("sd", [(1.0, 0.5, 2.0), (0.2, 2.0, 1.0)])
def test_components_are_right_on_the_average(sd):
    """Means of 2,000 tables of 3 x 16: within 5 % of the whole, six standard errors or more."""
    rng = np.random.default_rng(0)
    found = components([differences(rng, (3, 16), sd) for _ in range(2000)])
    whole = sum(one**2 for one in sd)
    for part, one in zip((found.training, found.unit, found.rest), sd, strict=True):
        assert part == pytest.approx(one**2, abs=0.05 * whole)


@pytest.mark.parametrize(
    ("shape", "sd", "methods"),
    [((3, 12), (0.3, 1, 1), 3), ((3, 48), (0.3, 0.5, 1), 3), ((5, 48), (0.5, 0.5, 1), 5), ((1, 12), (0, 0.5, 1), 3)],
)
def test_the_smallest_difference_is_foretold(shape, sd, methods):
    """As runs of that size say afterwards, on the average of 100, to 15 %: they know their variances from few seeds."""
    rng = np.random.default_rng(1)
    said = np.mean([race(rng, shape, sd, methods).smallest for _ in range(100)])
    foretold = Components(*(one**2 for one in sd)).smallest(*shape, methods, ALPHA)
    assert foretold == pytest.approx(said, rel=0.15)


def test_what_is_measured_in_a_small_run_foretells_a_larger_one():
    """Components of 20 runs of 3 x 12, for 9 x 48."""
    rng, sd = np.random.default_rng(2), (0.4, 0.6, 1.0)
    small = [race(rng, (3, 12), sd, 3).components for _ in range(20)]
    known = Components(*(np.mean([getattr(one, name) for one in small]) for name in ("training", "unit", "rest")))
    said = np.mean([race(rng, (9, 48), sd, 3).smallest for _ in range(40)])
    assert known.smallest(9, 48, 3, ALPHA) == pytest.approx(said, rel=0.2)


def test_more_of_either_never_hides_a_difference():
    for known in (Components(0.0, 0.0, 1.0), Components(1.0, 0.5, 1.0), Components(0.0, 1.0, 0.0)):
        for shape in ((1, 3), (3, 3), (3, 12)):
            now = known.smallest(*shape, 3, ALPHA)
            assert known.smallest(3 * shape[0], shape[1], 3, ALPHA) <= now
            assert known.smallest(shape[0], 2 * shape[1], 3, ALPHA) < now
    assert Components(1.0, 1.0, 1.0).smallest(1, 1, 3, ALPHA) is None


def recorded(make) -> tuple[RunResults, Recording]:
    rng, rows, assets = np.random.default_rng(0), [], []
    for name in ("cm", "vm", "mdt"):
        for t in range(3):
            scores = rng.standard_normal(8)
            at = {"train_seed": t, "n_ok": 8, "n_total": 8}
            rows += [make.row(name, "FD_tiny2d", float(v), seed=s, **at) for s, v in enumerate(rng.standard_normal(3))]
            rows += [make.row(name, "ULIP_tiny", float(scores.mean()), seed=s, **at) for s in range(3)]
            assets += [make.asset(f"a{i}", {"ULIP_tiny": v}, name, train_seed=t) for i, v in enumerate(scores)]
    run = RunResults(rows_frame(rows), assets=assets_frame(assets))
    return run, recording_of(run, "w0")


def test_a_run_records_what_its_verdicts_know(make):
    run, found = recorded(make)
    assert (found.run_id, found.date, found.world, found.methods) == ("run", "2026-11-21", "w0", ("cm", "vm", "mdt"))
    assert [(one.metric, one.over) for one in found.records] == [
        ("FD_tiny2d", "generation seeds"),
        ("ULIP_tiny", "assets"),
    ]
    for one, verdict in zip(found.records, verdicts(run.rows, run.assets), strict=True):
        known = verdict.race.components
        assert (one.training, one.unit, one.rest) == pytest.approx((known.training, known.unit, known.rest), rel=1e-3)
        assert (one.trainings, one.assets, one.generation_seeds) == (3, 8, 3)


def test_only_what_was_measured_in_the_same_way_is_found(make):
    _, found = recorded(make)
    same = ("structure", 1, "ULIP_tiny", 1, 3)
    assert found.find(*same).over == "assets"
    for place, other in enumerate(("both", 2, "FD", 2, 1)):
        assert found.find(*(other if i == place else one for i, one in enumerate(same))) is None


def test_noise_of_distances_falls_with_the_assets_and_of_averages_it_is_in_their_number():
    common = {"stage": "structure", "steps": 1, "metric": "M", "metric_version": 1, "trainings": 3, "assets": 12}
    common |= {"generation_seeds": 3, "training": 1.0, "unit": 2.0, "rest": 4.0}
    distance, average = (Record(over=over, **common) for over in ("generation seeds", "assets"))
    assert distance.components(24) == Components(1.0, 1.0, 2.0)
    assert average.components(24) == Components(1.0, 2.0, 4.0)


def test_the_file_stands_beside_the_preset(make, tmp_path):
    _, found = recorded(make)
    preset = tmp_path / "mine.toml"
    assert read_recording(str(preset)) is None
    path = tmp_path / "mine.variances.json"
    assert file_of(str(preset)) == path
    path.write_text(to_json(found), encoding="utf-8")
    assert read_recording(str(preset)) == found
    path.write_text("{}", encoding="utf-8")
    with pytest.raises(MissingError, match=r"mine.variances.json holds no variances"):
        read_recording(str(preset))
    assert read_recording("smoke").find("structure", 1, "FD_tiny2d", 1, 3) is not None
