"""A run against a baseline: closed-form differences, what is paired, every verdict, and how often chance gives one."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest

from mdtbench.base.errors import MissingError, UsageError
from mdtbench.results.compare import BLIND_SPREADS, SPREADS
from mdtbench.results.compare import compare as compare_frames
from mdtbench.results.compare_tables import comparison_table
from mdtbench.results.compare_within import within
from mdtbench.results.differences import ALPHA, Comparison, Difference
from mdtbench.results.frames import assets_frame, rows_frame
from mdtbench.results.render_markdown import to_markdown
from mdtbench.results.render_rich import to_rich
from mdtbench.results.rows import Row
from mdtbench.results.tolerances import Tolerance, read_tolerances
from mdtbench.results.verdicts import verdicts


def compare(run: Sequence[Row], baseline: Sequence[Row], **options) -> Comparison:
    return compare_frames(rows_frame(run), rows_frame(baseline), **options)


SCORES = ("FD_tiny2d", "MSE_teacher", "ULIP_tiny")  # of the last, more is better
NO_MATTER = {"default": Tolerance(absolute=0.0), "controls": Tolerance(absolute=0.0)}


def only(comparison: Comparison, **wanted) -> Difference:
    [found] = [one for one in comparison.differences if all(getattr(one, k) == v for k, v in wanted.items())]
    return found


def lines(make, values: dict[str, Sequence[float]], *, first_seed: int = 0, **changes) -> list[Row]:
    """One line per method with its values by generation seed."""
    return [
        make.row(method, value=value, seed=first_seed + seed, **changes)
        for method, found in values.items()
        for seed, value in enumerate(found)
    ]


def drawn(
    make, rng: np.random.Generator, *, runs: Sequence[float], train_seeds: Sequence[int | None] = (None,)
) -> list[list[Row]]:
    """Runs of 16 lines, 3 metrics, 3 seeds, with the same means but for FD, which is up by so many of a line's sd.

    Each line and metric has its own sd: variances of 4 over chi-square of 4 degrees of freedom, as of a student of t.
    """
    scales, rows = np.sqrt(4 / rng.chisquare(4, (16, 3))), [[] for _ in runs]
    for (i, j), scale in np.ndenumerate(scales):
        at = {"steps": 1 + i % 2}
        for seeds in itertools.product(train_seeds, range(3)):
            for run, shift in zip(rows, runs, strict=True):
                value = 100.0 * (j + 1) + scale * (rng.standard_normal() + shift * (j == 0))
                run.append(make.row(f"m{i // 2}", SCORES[j], value, train_seed=seeds[0], seed=seeds[1], **at))
    return rows


def test_a_run_against_itself_is_the_same_everywhere(make):
    found = compare(make.run(), make.run())
    assert found.tests == 0
    assert found.summary == "0 worse, 0 better, 27 same, 0 not comparable (10 of seconds: not judged)"


def test_differences_are_of_means_over_seeds_and_paired(make):
    noise = [1.0, -2.0, 4.0]  # common to both runs
    baseline = lines(make, {"cm": noise})
    run = lines(make, {"cm": [n + d for n, d in zip(noise, [0.25, 0.5, 1.5], strict=True)]})
    one = only(compare(run, baseline))
    assert (one.run, one.baseline, one.difference) == (1.75, 1.0, 0.75)
    # Standard error of 0.25, 0.5, 1.5: sqrt(0.4375 / 3); the noise of 3 is not in it.
    assert one.stderr == pytest.approx(math.sqrt(0.4375 / 3), rel=1e-12)
    assert (one.pairing, one.n) == ("seeds", 3)
    # t of two degrees of freedom at 1 - 0.005: 9.924843
    assert one.bound == pytest.approx(9.924843 * math.sqrt(0.4375 / 3), rel=1e-6)


def test_other_seeds_are_not_paired(make):
    baseline, run = lines(make, {"cm": [1.0, -2.0, 4.0]}), lines(make, {"cm": [1.0, 2.0, 6.0]}, first_seed=3)
    one = only(compare(run, baseline))
    assert one.pairing == "none"
    assert one.stderr == pytest.approx(math.sqrt((9 + 7) / 3), rel=1e-12)  # variances 9 and 7 of three values


def test_both_kinds_of_seed_count(make):
    values = {(0, 0): 0.0, (0, 1): 1.0, (1, 0): 4.0, (1, 1): 9.0}
    baseline = [make.row(value=7.0 + s, train_seed=t, seed=s) for t, s in values]
    run = [make.row(value=7.0 + s + d, train_seed=t, seed=s) for (t, s), d in values.items()]
    one = only(compare(run, baseline))
    # means by training seed 0.5, 6.5 (variance 18), by generation seed 2, 5 (variance 4.5), two of each
    assert one.stderr == pytest.approx(math.sqrt(18 / 2 + 4.5 / 2), rel=1e-12)


def test_the_tolerance_is_in_spreads_of_the_baseline(make):
    values = {"cm": [1.0, 2.0, 3.0], "vm": [2.0, 4.0, 6.0]}  # variances 1 and 4
    spread = math.sqrt(2.5)
    run = {"cm": [1.5, 2.5, 3.5], "vm": [2.0, 4.0, 6.0]}
    blind = only(compare(lines(make, run), lines(make, values)), method="cm")
    assert blind.tolerance == pytest.approx(BLIND_SPREADS * spread, rel=1e-12)
    seen = only(compare(lines(make, run, train_seed=None), lines(make, values, train_seed=None)), method="cm")
    assert seen.tolerance == pytest.approx(SPREADS * spread, rel=1e-12)


@pytest.mark.parametrize(("metric", "sign", "verdict"), [("FD_tiny2d", 1, "worse"), ("ULIP_tiny", 1, "better")])
def test_the_verdict_follows_the_direction_of_the_metric(make, metric: str, sign: int, verdict: str):
    values = {"cm": [1.0, 2.0, 3.0]}
    opposite = {"worse": "better", "better": "worse"}[verdict]
    for shift, expected in ((sign, verdict), (-sign, opposite)):
        run = lines(make, {"cm": [v + 100 * shift for v in values["cm"]]}, metric=metric)
        assert only(compare(run, lines(make, values, metric=metric))).verdict == expected


def test_a_difference_counts_beyond_the_tolerance_only(make):
    baseline, run = lines(make, {"cm": [1.0, 2.0, 3.0]}), lines(make, {"cm": [1.5, 2.5, 3.5]})
    for size, verdict in ((0.5, "same"), (0.4999, "worse")):
        given = {"FD_tiny2d": Tolerance(absolute=size)}
        assert only(compare(run, baseline, tolerances=given)).verdict == verdict
    assert only(compare(run, baseline, tolerances={"default": Tolerance(relative=0.24)})).verdict == "worse"
    assert only(compare(run, baseline, tolerances={"default": Tolerance(relative=0.25)})).verdict == "same"
    assert only(compare(run, baseline, tolerances={"default": Tolerance(spreads=0.49)})).verdict == "worse"
    assert only(compare(run, baseline, tolerances={"default": Tolerance(spreads=0.51)})).verdict == "same"


def test_a_difference_that_chance_makes_does_not_count(make):
    baseline = lines(make, {"cm": [1.0, 2.0, 3.0]})
    run = lines(make, {"cm": [1.1, 2.5, 4.0]})
    assert only(compare(run, baseline, tolerances=NO_MATTER)).verdict == "same"  # 2 standard errors of 2 d.f.
    for size, verdict in ((0.5, "worse"), (0.6, "same")):  # the difference is 0.533
        alone = {"default": Tolerance(absolute=size, chance=False)}
        assert only(compare(run, baseline, tolerances=alone)).verdict == verdict


def test_many_lines_lend_each_other_their_degrees_of_freedom(make):
    noise = np.random.Generator(np.random.PCG64(1)).standard_normal((20, 3))
    names = [f"m{i}" for i in range(20)]
    baseline = lines(make, {name: [0.0, 1.0, 2.0] for name in names})
    run = lines(
        make, {name: [0.0 + a, 1.0 + b, 2.0 + c] for name, (a, b, c) in zip(names, noise.tolist(), strict=True)}
    )
    shifted = [*run[3:], *lines(make, {"m0": [6.0, 8.5, 7.0]})]
    assert only(compare(shifted, baseline, tolerances=NO_MATTER), method="m0").verdict == "worse"
    alone = [row for row in baseline if row.method == "m0"]
    apart = only(compare(shifted[-3:], alone, tolerances=NO_MATTER))
    together = only(compare(shifted, baseline, tolerances=NO_MATTER), method="m0")
    assert together.bound < 0.7 * apart.bound  # though it is one of 20 tests, not the only one


def test_missing_and_failed_are_worse(make):
    baseline = lines(make, {"cm": [1.0, 2.0], "vm": [1.0, 2.0], "mdt": [1.0, 2.0]})
    run = [*lines(make, {"cm": [1.0, 2.0]}), make.row("vm", seed=0), make.row("vm", value=None, seed=1)]
    found = compare(run, baseline)
    assert [(one.method, one.verdict) for one in found.differences] == [
        ("cm", "same"),
        ("vm", "worse"),
        ("mdt", "worse"),
    ]
    assert only(found, method="vm").reason == "1 of 2 failed: loss is not finite"
    assert only(found, method="mdt").reason == "missing in the run"
    back = compare(baseline, run)
    assert only(back, method="mdt").reason == "only in the run"
    assert only(back, method="mdt").verdict == "not comparable"
    assert only(back, method="vm").pairing == "none"  # what is left of the baseline are other seeds


def test_what_a_machine_lost_is_worse_as_if_missing_and_the_reason_says_so(make):
    baseline = lines(make, {"cm": [1.0, 2.0]})
    lost = make.row(value=None, status="lost", error="out of memory", seed=1)
    one = only(compare([baseline[0], lost], baseline))
    assert (one.verdict, one.reason) == ("worse", "1 of 2 lost: out of memory; the same command tries again")
    back = only(compare(baseline[1:], [lost]))
    assert (back.verdict, back.reason) == ("not comparable", "lost in the baseline")


def test_failed_on_both_sides_is_no_regression(make):
    rows = [make.row(value=None, seed=seed) for seed in range(3)]
    one = only(compare(rows, rows))
    assert (one.verdict, one.reason) == ("not comparable", "failed in the baseline")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"n_total": 65}, "other number of assets (65, baseline 64)"),
        ({"metric_version": 2}, "other version of the metric (2, baseline 1)"),
        ({"split": "validation"}, "other split (validation, baseline test)"),
        ({"reference_sha": "a" * 64}, "other reference (aaaaaaaaaaaa, baseline None)"),
        ({"weights_sha": "b" * 64}, "other networks (bbbbbbbbbbbb, baseline None)"),
        ({"unit": "x100"}, "other unit (x100, baseline '')"),
        ({"higher_is_better": True}, "other direction (True, baseline False)"),
    ],
)
def test_measurements_of_other_things_are_not_comparable(make, changes: dict, reason: str):
    one = only(compare([make.row(value=9.0, **changes)], [make.row()]))
    assert (one.verdict, one.reason) == ("not comparable", reason)


def test_another_configuration_is_comparable_but_not_another_protocol(make):
    other = {"config_sha": "beef"}
    assert only(compare([make.row(**other)], [make.row()])).verdict == "same"
    one = only(compare([make.row(stage="evaluation", **other)], [make.row(stage="evaluation")]))
    assert one.reason == "other protocol (beef, baseline c0ffee)"


def test_one_seed_tells_no_chance_unless_it_is_an_average(make):
    one = only(compare([make.row(value=2.0)], [make.row(value=1.0)]))
    assert one.verdict == "not comparable"
    assert "one seed" in one.reason
    spread = lines(make, {"vm": [1.0, 2.0, 3.0]})  # that other lines have a spread does not help
    one = only(compare([make.row(value=2.0), *spread], [make.row(value=1.0), *spread]), method="cm")
    assert one.verdict == "not comparable"
    average = {"metric": "ULIP_tiny", "stderr": 3.0}
    near = only(compare([make.row(value=10.0, **average)], [make.row(value=1.0, **average)]))
    assert (near.verdict, near.pairing) == ("same", "assets")
    assert near.stderr == pytest.approx(math.sqrt(18), rel=1e-12)
    assert only(compare([make.row(value=20.0, **average)], [make.row(value=1.0, **average)])).verdict == "better"


def test_a_control_that_moves_is_worse_whichever_way(make):
    none = {"steps": None, "nfe": None, "train_seed": None, "seed": None}
    base = [*make.run()]
    spread = 1.0  # of FD over seeds 0, 1, 2
    for move, verdict in ((0.11, "worse"), (-0.11, "worse"), (0.09, "same")):
        moved = [row for row in base if row.method != "floor"] + [make.row("floor", value=0.1 + move * spread, **none)]
        baseline = [row for row in base if row.method != "floor"] + [make.row("floor", value=0.1, **none)]
        assert only(compare(moved, baseline), method="floor").verdict == verdict


def test_seconds_are_judged_only_with_a_tolerance(make):
    def timed(seconds: float) -> list[Row]:
        return [make.row(metric="latency_s", value=seconds, wall_s=seconds, seed=s, unit="s") for s in range(3)]

    assert only(compare(timed(9.0), timed(1.0))).verdict == "not judged"
    given = {"latency_s": Tolerance(relative=0.5)}
    assert only(compare(timed(9.0), timed(1.0), tolerances=given)).verdict == "worse"
    assert only(compare(timed(1.4), timed(1.0), tolerances=given)).verdict == "same"
    assert not compare(timed(9.0), timed(1.0)).judged


def test_the_sd_over_repeats_is_no_uncertainty_of_seconds(make):
    def timed(seconds: float, **changes) -> list[Row]:
        return [make.row(metric="latency_s", value=seconds, stderr=0.5, unit="s", n_ok=1, n_total=1, **changes)]

    given = {"latency_s": Tolerance(relative=0.5)}
    one = only(compare(timed(1.6), timed(1.0), tolerances=given))
    assert (one.verdict, one.bound) == ("worse", None)
    [note] = [note for note in comparison_table(compare(timed(3.0), timed(2.0)), "t").notes if "latency_s" in note]
    assert note.startswith("latency_s: 1.50 times the baseline's")
    apart = comparison_table(compare(timed(3.0, metric_version=2), timed(2.0)), "t").notes
    reason = "other version of the metric (2, baseline 1)"
    assert [note for note in apart if "latency_s" in note] == [f"latency_s: not compared in 1 lines: {reason}."]


def test_assets_that_are_lost_are_worse(make):
    baseline = lines(make, {"cm": [1.0, 2.0, 3.0]})
    lost = only(compare(lines(make, {"cm": [1.1, 2.2, 3.1]}, n_ok=32), baseline))
    assert (lost.verdict, lost.reason) == ("worse", "more assets lost: 50% measured, baseline 100%")
    assert only(compare(lines(make, {"cm": [1.1, 2.2, 3.1]}, n_ok=63), baseline)).verdict == "same"
    assert only(compare(baseline, lines(make, {"cm": [1.1, 2.2, 3.1]}, n_ok=32))).verdict == "not comparable"


def test_methods_of_one_run_can_be_held_against_each_other(make):
    found = compare(make.run(), make.run(), methods=["cm=mdt"], metrics=["FD_tiny2d"])
    assert found.notes == ("cm of the run against mdt of the baseline.",)
    one = only(found, method="mdt", steps=1)
    assert (one.baseline, one.run) == (11.0, 51.0)
    assert one.verdict == "worse"
    assert {one.method for one in found.differences} == {"mdt", "floor", "reconstruction"}


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"metrics": ["FD_tiny2"]}, "Unknown metric 'FD_tiny2'. Did you mean 'FD_tiny2d'?"),
        ({"methods": ["mtd"]}, "Unknown method 'mtd'. Did you mean 'mdt'?"),
        ({"methods": ["cm=mdt", "vm=mdt"]}, "named twice"),
    ],
)
def test_mistakes_are_named(make, options: dict, part: str):
    with pytest.raises(UsageError, match=r"named twice|Unknown") as error:
        compare(make.run(), make.run(), **options)
    assert part in str(error.value)


@pytest.mark.parametrize("train_seeds", [(None,), (0, 1, 2)])
def test_chance_gives_a_verdict_in_at_most_one_of_a_hundred_comparisons(make, train_seeds):
    rng = np.random.Generator(np.random.PCG64(3))
    times = 100 if len(train_seeds) == 1 else 30
    alarms = 0
    for _ in range(times):
        found = compare(*drawn(make, rng, runs=(0.0, 0.0), train_seeds=train_seeds), tolerances=NO_MATTER)
        assert found.tests == 48
        alarms += bool(found.of("worse") or found.of("better"))
    # More than this has probability 6e-4 (3e-4) when each comparison has 0.01: binomial of 100 (30) trials.
    assert alarms <= {100: 5, 30: 3}[times]
    assert ALPHA == 0.01


def test_a_shifted_metric_is_worse(make):
    rng = np.random.Generator(np.random.PCG64(4))
    found = compare(*drawn(make, rng, runs=(12.0, 0.0)))
    worse = found.of("worse")
    assert {one.metric for one in worse} == {"FD_tiny2d"}
    assert len(worse) >= 8  # half of the lines, each up by 12 of its own sd
    assert not found.of("better")


def test_the_table_lists_worse_lines_first_and_merges_what_is_missing(make):
    run = [row for row in make.run() if row.method != "vm"]
    run = [row.model_copy(update={"value": row.value + 90}) if row.method == "cm" else row for row in run]
    found = compare(run, make.run(), metrics=["FD_tiny2d", "ULIP_tiny"])
    table = comparison_table(found, "today against yesterday")
    text = to_rich([table], width=160)
    assert [group for group, _ in table.groups()] == ["Worse", "Better"]
    assert [cell.text for cell in table.column("metric")][:2] == ["2 metrics", "2 metrics"]  # vm at 1 and 2 steps
    assert "[1] missing in the run" in text
    assert found.summary.startswith("6 worse, 2 better, ")
    everything = comparison_table(found, "all", everything=True)
    assert "Same" in [group for group, _ in everything.groups()]


def test_a_table_without_lines_says_so_without_a_head(make):
    table = comparison_table(compare(make.run(), make.run()), "a run against itself")
    assert table.rows == ()
    for text in (to_rich([table], width=160), to_markdown([table])):
        assert "No method's line differs." in " ".join(text.replace("\\", "").split())
        assert "Baseline" not in text
    full = comparison_table(compare(make.run(), make.run()), "all", everything=True)
    assert "No method's line" not in to_rich([full], width=160)


def test_what_could_have_been_shown_and_what_would_show_more(make):
    baseline = lines(make, {"cm": [1.0, 2.0, 3.0]})
    run = lines(make, {"cm": [1.1, 1.9, 3.3]})  # differences .1, -.1, .3
    found = compare(run, baseline, tolerances=NO_MATTER)
    one, error = only(found), math.sqrt(0.04 / 3)
    assert one.verdict == "same"
    # t of two degrees of freedom: 9.924843 at 1 - 0.005, and 1.060660 at 0.8
    assert one.smallest == pytest.approx((9.924843 + 1.060660) * error, rel=1e-6)
    assert one.more == {"3 times the generation seeds": pytest.approx(1 / math.sqrt(3))}
    table = comparison_table(found, "a")
    (line,) = table.rows
    assert line.group == "Same"
    assert [cell.text for cell in line.cells[1:4]] == ["FD_tiny2d ↓", "structure 1", "+0.10 ± 0.12"]
    notes = " ".join(table.notes)
    assert "3 times the generation seeds to 0.58 of it, twice the assets at best to 0.71 of it." in notes
    assert "The chance of training is not in these numbers" in notes


def test_a_tolerance_is_the_least_that_can_be_shown(make):
    baseline, run = lines(make, {"cm": [1.0, 2.0, 3.0]}), lines(make, {"cm": [1.001, 2.002, 3.001]})
    one = only(compare(run, baseline, tolerances={"default": Tolerance(absolute=50.0)}))
    assert one.smallest == pytest.approx(50.0, rel=1e-3)


def test_both_kinds_of_seed_fall_apart(make):
    """Training seeds alone differ: three times as many leave the root of a third, generation seeds nothing."""
    at = [(t, s) for t in (0, 1, 2) for s in (0, 1)]
    baseline = [make.row(value=1.0 + s, train_seed=t, seed=s) for t, s in at]
    run = [make.row(value=1.0 + s + (0.2, -0.1, 0.3)[t], train_seed=t, seed=s) for t, s in at]
    one = only(compare(run, baseline, tolerances=NO_MATTER))
    assert one.more["3 times the training seeds"] == pytest.approx(1 / math.sqrt(3))
    assert one.more["3 times the generation seeds"] == pytest.approx(1.0)


def test_methods_of_one_run_are_judged_as_in_its_report(make):
    rng, names = np.random.default_rng(0), {"cm": 0.0, "vm": 0.5, "mdt": 2.0}
    rows, values = [], []
    for seed, (name, mean) in itertools.product(range(3), names.items()):
        scores = mean + 0.2 * rng.standard_normal(20)
        at = {"train_seed": seed, "n_ok": 20, "n_total": 20}
        rows.append(make.row(name, "ULIP_tiny", float(scores.mean()), **at))
        values += [make.asset(f"a{i}", {"ULIP_tiny": float(v)}, name, train_seed=seed) for i, v in enumerate(scores)]
    rows.append(make.row("floor", train_seed=None, seed=None))
    frame = rows_frame(rows)
    (verdict,) = verdicts(frame, assets_frame(values))
    found = within(compare(rows, rows, methods=["cm=mdt"]), [verdict], {"mdt": "cm"})
    one = only(found)
    [behind] = [behind for behind in verdict.standing.worse if behind.who[0] == "cm"]
    assert (one.method, one.verdict, one.tolerance) == ("mdt", "worse", None)
    assert (-one.difference, one.stderr) == (pytest.approx(behind.difference), pytest.approx(behind.sd))
    assert one.bound < one.smallest
    # nearly all of chance is the noise of single values: assets and training seeds count alike
    assert one.more["twice the assets"] == pytest.approx(math.sqrt(1 / 2), abs=0.12)
    assert one.more["3 times the training seeds"] == pytest.approx(math.sqrt(1 / 3), abs=0.12)
    other = only(within(compare(rows, rows, methods=["mdt=cm"]), [verdict], {"cm": "mdt"}))
    assert (other.verdict, other.difference) == ("better", pytest.approx(-one.difference))
    table = comparison_table(found, "cm against mdt")
    assert "method" not in [column.key for column in table.columns]
    assert found.summary == "1 worse, 0 better, 0 same, 0 not comparable"


def test_tolerances_are_read_and_checked(tmp_path):
    path = tmp_path / "t.toml"
    path.write_text("FD = { relative = 0.05 }\n[default]\nspreads = 0.5\n")
    found = read_tolerances(path, ["FD"])
    assert found["FD"].of(-10.0, None) == 0.5
    assert found["default"].of(3.0, 0.5) == 0.25
    assert found["default"].of(3.0, None) is None
    for text, part in [
        ("FD = 0.05", "bad tolerance of FD"),
        ("FD = {}", "one of absolute"),
        ("FD = { absolute = -1 }", "at least 0"),
        ("FD = { absolute = 1, relative = 1 }", "one of absolute"),
        ("DF = { absolute = 1 }", "Did you mean 'FD'?"),
        ("FD = ", "is not TOML"),
    ]:
        path.write_text(text)
        with pytest.raises(UsageError) as error:
            read_tolerances(path, ["FD"])
        assert part in str(error.value)
    with pytest.raises(MissingError, match="Missing file"):
        read_tolerances(tmp_path / "none.toml", [])
