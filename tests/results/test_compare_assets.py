"""Lines of a single seed are paired by asset: closed forms, what is not paired, how often chance gives a verdict."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from scipy.special import stdtrit

from mdtbench.results.asset_values import AssetValue
from mdtbench.results.compare import compare
from mdtbench.results.compare_tables import comparison_table
from mdtbench.results.differences import Difference
from mdtbench.results.frames import rows_frame
from mdtbench.results.render_rich import to_rich
from mdtbench.results.rows import Row
from mdtbench.results.tolerances import Tolerance

METRIC = "ULIP_tiny"  # more is better
BEFORE = [10.0, 20.0, 60.0, 30.0]
AFTER = [11.0, 23.0, 62.0, 32.0]  # up by 1, 3, 2, 2: mean 2, variance 2/3


def line(
    make, values: Sequence[float], method: str = "cm", metric: str = METRIC, names: str = "abcdefgh", **changes
) -> tuple[list[Row], list[AssetValue]]:
    """A row and what it is the average of."""
    stderr = float(np.std(values, ddof=1) / math.sqrt(len(values)))
    row = make.row(method, metric, float(np.mean(values)), stderr=stderr, **changes)
    known = {key: value for key, value in changes.items() if key in AssetValue.model_fields}
    return [row], [make.asset(n, {metric: v}, method, **known) for n, v in zip(names, values, strict=False)]


def held(run, baseline, **options) -> Difference:
    found = compare(
        rows_frame(run[0]), rows_frame(baseline[0]), run_assets=run[1], baseline_assets=baseline[1], **options
    )
    [one] = found.differences
    return one


def test_one_seed_is_paired_by_asset(make):
    one = held(line(make, AFTER), line(make, BEFORE))
    assert (one.difference, one.pairing, one.assets) == (2.0, "assets", 4)
    assert one.stderr == pytest.approx(math.sqrt(2 / 3 / 4), rel=1e-12)
    assert one.bound == pytest.approx(stdtrit(3, 1 - 0.005) * math.sqrt(2 / 3 / 4), rel=1e-9)  # 5.84 of them
    assert one.verdict == "same"  # 2 against 2.38
    unpaired = held((line(make, AFTER)[0], []), line(make, BEFORE))
    assert (unpaired.pairing, unpaired.assets) == ("assets", 0)
    assert unpaired.stderr > 10  # assets differ by more than the runs


@pytest.mark.parametrize(("sign", "verdict"), [(1, "better"), (-1, "worse")])
def test_a_difference_that_all_assets_share_counts(make, sign: int, verdict: str):
    shifts = [1.0, 1.1, 0.9, 1.0]
    run = line(make, [b + sign * s for b, s in zip(BEFORE, shifts, strict=True)])
    assert held(run, line(make, BEFORE)).verdict == verdict
    assert held((run[0], []), line(make, BEFORE)).verdict == "same"  # which without assets nobody can see


def test_assets_are_found_by_name_not_by_place(make):
    rows, values = line(make, AFTER)
    one = held((rows, values[::-1]), line(make, BEFORE))
    assert one.stderr == pytest.approx(math.sqrt(2 / 3 / 4), rel=1e-12)


def test_other_seeds_of_the_same_assets_are_paired(make):
    one = held(line(make, AFTER, seed=7, train_seed=3), line(make, BEFORE))
    assert (one.assets, one.stderr) == (4, pytest.approx(math.sqrt(2 / 3 / 4), rel=1e-12))


@pytest.mark.parametrize(
    "run_assets",
    [
        lambda values: [],
        lambda values: values[:3],
        lambda values: [v.model_copy(update={"asset": v.asset + "'"}) for v in values],
        lambda values: [v.model_copy(update={"run_id": "another"}) for v in values],
        lambda values: [v.model_copy(update={"steps": 2}) for v in values],
        lambda values: [v.model_copy(update={"stage": "both"}) for v in values],
        lambda values: [v.model_copy(update={"seed": 1}) for v in values],
        lambda values: [v.model_copy(update={"sampler": "euler", "extra_sampler": True}) for v in values],
        lambda values: [v.model_copy(update={"values": {"IoU": 1.0}}) for v in values],
    ],
)
def test_values_of_other_assets_or_cells_are_not_paired(make, run_assets):
    rows, values = line(make, AFTER)
    assert held((rows, run_assets(values)), line(make, BEFORE)).assets == 0


def test_several_seeds_stay_paired_by_seed(make):
    run, baseline = ([], []), ([], [])
    for seed in range(3):
        for side, values in ((run, AFTER), (baseline, BEFORE)):
            rows, assets = line(make, [v + 3 * seed + seed**2 * (side is run) for v in values], seed=seed)
            side[0].extend(rows)
            side[1].extend(assets)
    one = held(run, baseline)
    assert (one.pairing, one.assets) == ("seeds", 0)
    assert one.stderr == pytest.approx(np.std([2, 3, 6], ddof=1) / math.sqrt(3), rel=1e-12)


def test_methods_of_one_run_are_paired_by_asset(make):
    mine, theirs = line(make, AFTER, "mine"), line(make, BEFORE, "mdt")
    run = mine[0] + theirs[0], mine[1] + theirs[1]
    one = held(run, run, methods=["mine=mdt"])
    assert (one.method, one.difference, one.assets) == ("mdt", 2.0, 4)
    assert one.stderr == pytest.approx(math.sqrt(2 / 3 / 4), rel=1e-12)


def test_seconds_are_medians_and_their_uncertainty_too(make):
    """Seconds drawn from a normal distribution: of unrelated medians the variance is known, pi / 2 times a mean's."""
    rng, n = np.random.Generator(np.random.PCG64(0)), 400
    names = [f"{i:03}" for i in range(n)]

    def side(seconds: np.ndarray) -> tuple[list[Row], list[AssetValue]]:
        rows = [make.row(metric="latency_s", value=float(np.median(seconds)))]
        return rows, [make.asset(name, {"latency_s": s}) for name, s in zip(names, seconds.tolist(), strict=True)]

    before, after = side(rng.normal(9, 0.5, n)), side(rng.normal(9, 0.5, n))
    assert held(after, before).verdict == "not judged"
    one = held(after, before, tolerances={"latency_s": Tolerance(relative=0.01)})
    # 20 %: the bootstrap's own error (3 %) and that of the densities at the medians of 400 values
    assert one.stderr == pytest.approx(math.sqrt(2 * math.pi / 2 * 0.25 / n), rel=0.2)
    assert one.assets == n
    longer = side(np.array([v.values["latency_s"] for v in before[1]]) * 1.5)
    assert held(longer, before, tolerances={"latency_s": Tolerance(relative=0.01)}).verdict == "worse"


def test_chance_gives_a_verdict_in_at_most_one_of_a_hundred_comparisons(make):
    rng, alarms = np.random.Generator(np.random.PCG64(5)), 0
    for _ in range(100):
        run, baseline = ([], []), ([], [])
        for method in "abcdefghij":
            asset = rng.normal(50, 10, 8)
            for side in (run, baseline):
                rows, values = line(make, asset + rng.normal(0, 1, 8), method)
                side[0].extend(rows)
                side[1].extend(values)
        found = compare(rows_frame(run[0]), rows_frame(baseline[0]), run_assets=run[1], baseline_assets=baseline[1])
        assert {one.assets for one in found.differences} == {8}
        alarms += bool(found.of("worse") or found.of("better"))
    assert alarms <= 5  # more has probability 6e-4 when each has 0.01: binomial of 100


def test_the_table_says_what_is_paired(make):
    run, baseline = line(make, AFTER), line(make, BEFORE)
    for assets, words in ((run[1], "of the differences of the same assets"), ([], "are over assets, not paired")):
        found = compare(rows_frame(run[0]), rows_frame(baseline[0]), run_assets=assets, baseline_assets=baseline[1])
        text = " ".join(to_rich([comparison_table(found, "t")], width=200).split())
        assert "1 differences are of one seed" in text
        assert words in text
