"""Verdicts on simulated runs whose truth is known: who is called worse, how often chance is, what could be shown."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from pandas import DataFrame

from mdtbench.results.frames import assets_frame, rows_frame
from mdtbench.results.oracle_tables import oracle_tables
from mdtbench.results.verdict_table import verdict_table
from mdtbench.results.verdicts import ALPHA, Standing, Verdict, sentence, verdicts

NO_ASSETS = assets_frame(())


def frame(values: Mapping[str, np.ndarray], unit: str, *, higher: bool = True) -> DataFrame:
    """values: by method [training seeds, assets or generation seeds]."""
    about = {"stage": "structure", "steps": 1, "metric": "M", "unit": "", "variant": "", "extra_sampler": False}
    return DataFrame(
        [
            about | {"method": name, "train_seed": t, unit: u, "value": value, "higher_is_better": higher}
            for name, table in values.items()
            for (t, u), value in np.ndenumerate(table)
        ]
    )


def judged(values: Mapping[str, np.ndarray], **options) -> Standing:
    return verdict_on(values, **options).standing


def verdict_on(values: Mapping[str, np.ndarray], *, higher: bool = True, over: str = "asset") -> Verdict:
    rows = frame({name: table.mean(1, keepdims=True) for name, table in values.items()}, "seed", higher=higher)
    if over == "seed":
        rows, assets = frame(values, "seed", higher=higher), NO_ASSETS
    else:
        assets = frame(values, "asset", higher=higher)
    (found,) = verdicts(rows, assets)
    return found


def simulated(rng: np.random.Generator, means: Mapping[str, float], shape: tuple[int, int]) -> dict[str, np.ndarray]:
    """Assets differ much and alike for all methods; what is left of a difference is small."""
    shared = 5 * rng.standard_normal((1, shape[1]))
    return {
        name: mean + shared + 0.2 * rng.standard_normal((shape[0], 1)) + 0.5 * rng.standard_normal(shape)
        for name, mean in means.items()
    }


@pytest.mark.parametrize("over", ["asset", "seed"])
def test_what_is_far_better_wins_and_what_is_near_ties(over):
    values = simulated(np.random.default_rng(0), {"a": 0.0, "b": 3.0, "c": 3.05}, (3, 40))
    up = judged(values, over=over)
    assert {who[0] for who in up.top} == {"b", "c"}
    assert up.marked == up.top
    assert [one.who for one in up.worse] == [("a", "", 1)]
    assert up.worse[0].difference == pytest.approx(3.0, abs=0.5)
    assert (up.units, up.trainings) == (40, 3)
    assert verdict_on(values, over=over).over == {"asset": "assets", "seed": "generation seeds"}[over]
    down = judged(values, higher=False, over=over)
    assert down.top == (("a", "", 1),)
    assert {one.who[0] for one in down.worse} == {"b", "c"}


def test_shared_noise_does_not_hide_a_difference():
    """Assets vary by 5, methods by .6: unpaired, 40 assets would show differences from 3 on."""
    found = judged(simulated(np.random.default_rng(1), {"a": 0.0, "b": 0.6}, (1, 40)))
    assert found.best == ("b", "", 1)
    assert found.worse
    assert found.smallest < 0.6


def test_equal_methods_are_seldom_called_worse():
    rng = np.random.default_rng(2)
    wrong = sum(bool(judged(simulated(rng, dict.fromkeys("abcde", 1.0), (3, 12))).worse) for _ in range(300))
    assert wrong / 300 <= ALPHA + 3 * (ALPHA * (1 - ALPHA) / 300) ** 0.5


def test_many_methods_do_not_hide_a_difference_of_thirty_standard_errors():
    """Three training seeds, and among fifteen methods some that vary much more than the others."""
    rng, sds = np.random.default_rng(5), [0.01 * 1.3**i for i in range(15)]
    values = {name: sd * rng.standard_normal((3, 1)) for name, sd in zip("abcdefghijklmno", sds, strict=True)}
    noisy = values["o"].std(ddof=1) / 3**0.5
    values["a"] += values["o"].mean() + 30 * noisy
    found = judged(values, over="seed")
    assert found.best == ("a", "", 1)
    assert "o" in {one.who[0] for one in found.worse}


def test_the_smallest_difference_is_found_with_about_the_promised_power():
    """Two in three at least: a variance from few training seeds is a guess, more often too small than too large."""
    rng = np.random.default_rng(3)
    smallest = np.mean([judged(simulated(rng, {"a": 0.0, "b": 0.0}, (3, 24))).smallest for _ in range(100)])
    found = [judged(simulated(rng, {"a": 0.0, "b": smallest}, (3, 24))) for _ in range(300)]
    assert 0.65 < np.mean([one.best[0] == "b" and bool(one.worse) for one in found]) < 0.95


def test_a_single_value_per_method_tells_nothing():
    found = judged({"a": np.array([[1.0]]), "b": np.array([[2.0]])}, over="seed")
    assert (found.best, found.tied, found.worse, found.smallest) == (("b", "", 1), (("a", "", 1),), (), None)
    assert found.marked == ()


def test_seeds_that_only_one_method_has_are_left_out():
    values = {"a": np.array([[1.0, 2.0, 3.0], [9.0, 9.0, 9.0]]), "b": np.array([[2.0, 3.1, 4.0]])}
    found = judged(values, over="seed")
    assert (found.trainings, found.units) == (1, 3)


def test_a_method_that_failed_does_not_race():
    rows = frame({"a": np.ones((1, 2)), "b": np.ones((1, 2)), "c": np.full((1, 2), np.nan)}, "seed")
    (found,) = verdicts(rows, NO_ASSETS)
    assert {who[0] for who in found.standing.top} == {"a", "b"}


def test_sentences():
    values = simulated(np.random.default_rng(0), {"a": 0.0, "b": 3.0, "c": 3.05}, (3, 40))

    def said(found: Standing) -> str:
        return sentence(found, lambda who: who[0].upper())

    assert said(judged(values)).startswith("B and C are best, within chance of each other; worse: A by 2.9")
    assert said(judged(values, higher=False)).startswith("A is best; worse: ")
    near = {name: values[name] for name in "bc"}
    assert said(judged(near)).startswith("no method is shown to be better: B and C lie within chance. This run shows")


def test_the_report_says_them_and_their_limits(make):
    rows = rows_frame(make.whole_run())
    table = verdict_table(list(verdicts(rows, NO_ASSETS)))
    assert table.rows == ()
    wholes = [note for note in table.notes if "whole assets, 1 step per stage" in note]
    assert [note.split()[0] for note in wholes] == list(dict.fromkeys(note.split()[0] for note in wholes))
    assert all("CM" in note and "VM+VD" in note for note in wholes)
    assert not any("Undistilled" in note or "Teacher" in note for note in table.notes)
    assert not any("latency" in note or "structure_s" in note for note in table.notes)
    assert any("generation seeds" in note for note in table.notes)
    assert verdict_table(list(verdicts(rows[rows["method"].isin(["cm", "teacher"])], NO_ASSETS))) is None


def test_systems_race_whatever_their_steps_and_seconds_never(make):
    at = {"stage": "evaluation", "train_seed": None}
    rows = [
        make.row(name, value=value + seed / 10, seed=seed, steps=steps, **at)
        for name, value, steps in (("A", 1.0, None), ("B", 5.0, 4), ("B", 1.02, 50))
        for seed in range(3)
    ]
    rows += [make.row(name, "latency_s", 1.0, unit="s", steps=1) for name in "ab"]
    (found,) = verdicts(rows_frame(rows), NO_ASSETS)
    assert (found.stage, found.steps) == ("evaluation", None)
    assert found.standing.top == (("A", "", -1),)
    assert [one.who for one in found.standing.worse] == [("B", "", 50), ("B", "", 4)]
    table = verdict_table([found])
    assert table.notes[0].startswith("FD_tiny2d ↓, systems: A is best; worse: B by 0.02")
    assert not any("training" in note for note in table.notes)  # nobody's training is known


def test_exact_problems_mark_what_their_training_seeds_cannot_tell_apart(make):
    def marks(values: Mapping[str, tuple[float, ...]]) -> list[str]:
        at = {"stage": "oracle/plane", "metric": "SW2", "sampler": "euler"}
        rows = [make.row(name, value=v, train_seed=t, **at) for name, vs in values.items() for t, v in enumerate(vs)]
        (table,) = oracle_tables(rows_frame(rows))
        return [line.method for line, cell in zip(table.rows, table.column("SW2"), strict=True) if cell.best]

    assert marks({"a": (1.0, 1.2, 1.1), "b": (1.1, 1.0, 1.2), "c": (4.0, 4.1, 3.9)}) == ["a", "b"]
    assert marks({"a": (1.0,), "b": (2.0,)}) == []
