"""Lines beside the paper's: the ranges of a preset, and who is judged when."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from plans import planned

from mdtbench.harness.driver.ranges import Verdict, expected_of, ranges
from mdtbench.harness.plan.plan import Plan
from mdtbench.results.evaluation_tables import CALIBRATION, SEPARATOR
from mdtbench.results.rows import BOTH, STRUCTURE, Row

N = 3218
TEACHER = {"FD_incep": 11.8, "FD_dinov2": 60.0, "ULIP_I": 39.0}  # within the calibration's tolerances
MDT = {"FD_incep": 18.09, "FD_dinov2": 164.2, "ULIP_I": 36.88}  # the paper's own


@pytest.fixture(scope="module")
def plan() -> Plan:
    return planned(preset="paper", methods=("mdt:released", "cm"))


def rows(method: str, steps: int, values: dict[str, float], variant: str = "", **fields: Any) -> list[Row]:
    """A row per metric, as of a run of trellis-v1 with official networks."""
    given = {"method": method, "variant": variant, "steps": steps, "stage": BOTH, "seed": 0, "split": "toys4k-full"}
    given |= {"run_id": "r", "status": "ok", "method_version": 1, "metric_version": 1, "n_ok": N, "n_total": N}
    given |= {"higher_is_better": False, "config_sha": "c", "torch": "2", "device": "cpu", "created_utc": "2026-01-01"}
    return [Row.model_validate(given | {"metric": name, "value": value} | fields) for name, value in values.items()]


def verdicts(plan: Plan, found: Sequence[Row], label: str, steps: int) -> dict[str, Verdict]:
    expected = expected_of(plan, found)
    assert expected is not None
    return {one.metric: one for one in expected.verdicts if (one.method, one.steps) == (label, steps)}


def inside(plan: Plan, found: Sequence[Row], label: str, steps: int) -> dict[str, bool | None]:
    return {name: one.inside for name, one in verdicts(plan, found, label, steps).items()}


def test_the_ranges_are_the_presets(plan: Plan):
    by_line = {(line.label, line.steps): line for line in plan.lines}
    for label, steps, metric, low, high in (
        ("teacher", 25, "FD_incep", 11.8 * 0.9, 11.8 * 1.1),
        ("teacher", 25, "ULIP_I", 38.53, 40.53),
        ("cm", 1, "FD_incep", 20.06 * 0.8, 20.06 * 1.2),
        ("mdt:released", 2, "FD_dinov2", 110.9 * 0.9, 110.9 * 1.1),
    ):
        line = by_line[label, steps]
        found = ranges(line.paper, line.tolerance)[metric]
        assert (found.low, found.high) == pytest.approx((low, high))
    for label in ("none", "cm"):  # no such line in the paper
        line = by_line[label, 2]
        assert ranges(line.paper, line.tolerance) == {}


def test_a_line_is_judged_where_the_teacher_is_calibrated(plan: Plan):
    """By the mean over training and generation seeds; rows beside the protocol's sampler do not count."""
    teacher, mdt = rows("teacher", 25, TEACHER), rows("mdt", 1, MDT, "released")
    expected = expected_of(plan, [*teacher, *mdt])
    assert expected is not None
    assert expected.calibration.verdict == "calibrated"
    assert inside(plan, [*teacher, *mdt], "mdt:released", 1) == dict.fromkeys(MDT, True)
    assert inside(plan, [*teacher, *mdt], "teacher", 25) == dict.fromkeys(MDT, True)
    other = rows("mdt", 1, {name: 1.4 * value for name, value in MDT.items()}, "released", seed=1)
    found = verdicts(plan, [*teacher, *mdt, *other], "mdt:released", 1)
    assert found["FD_incep"].found == pytest.approx(18.09 * 1.2)
    assert {name: one.inside for name, one in found.items()} == dict.fromkeys(MDT, False)
    for beside in ({"extra_sampler": True}, {"stage": STRUCTURE}, {"variant": "official"}, {"method": "vm"}):
        more = [row.model_copy(update=beside) for row in other]
        assert inside(plan, [*teacher, *mdt, *more], "mdt:released", 1) == dict.fromkeys(MDT, True)
    edge = rows("mdt", 1, {**MDT, "ULIP_I": 36.88 + 1.0}, "released")
    assert inside(plan, [*teacher, *edge], "mdt:released", 1)["ULIP_I"] is True


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({}, "calibrated"),
        ({"value": 1.0}, "uncalibrated"),
        ({"n_ok": 100, "n_total": 100}, "not judged"),
        ({"steps": 12}, "not judged"),
        ({"seed": 1}, "not measured"),  # not the main one
    ],
)
def test_nothing_is_judged_beside_another_teacher(plan: Plan, changes: dict, verdict: str):
    teacher = [row.model_copy(update=changes) for row in rows("teacher", 25, TEACHER)]
    found = [*teacher, *rows("mdt", 1, MDT, "released")]
    expected = expected_of(plan, found)
    assert expected is not None
    assert expected.calibration.verdict == verdict
    judged = verdict in ("calibrated", "uncalibrated")
    assert set(inside(plan, found, "mdt:released", 1).values()) == {True if judged else None}


def test_random_networks_are_not_judged(plan: Plan):
    random = [row.model_copy(update={"metric": f"{row.metric}[random]"}) for row in rows("teacher", 25, TEACHER)]
    expected = expected_of(plan, random)
    assert expected is not None
    assert "random weights" in expected.calibration.line
    assert {one.inside for one in expected.verdicts} == {None}
    assert verdicts(plan, random, "teacher", 25)["ULIP_I"].found == 39.0


def test_the_text_the_record_and_the_note_say_the_same(plan: Plan):
    found = [*rows("teacher", 25, TEACHER, note="a note"), *rows("mdt", 1, {"FD_incep": 30.0}, "released")]
    expected = expected_of(plan, found)
    assert expected is not None
    text = expected.text()
    assert text.startswith("Calibration: calibrated (FD_incep 11.80, published 11.80")
    assert re.search(r"teacher +25x2 +11\.8 inside 11\.8 \(10\.62 to 12\.98\)", text)
    assert re.search(r"mdt:released +1x2 +30 outside 18\.09 .* failed not judged 164\.2", text)
    record = expected.record()
    assert record["calibration"] == expected.calibration.line
    [one] = [r for r in record["rows"] if (r["method"], r["steps"], r["metric"]) == ("mdt:released", 1, "FD_incep")]
    assert one == {
        "method": "mdt:released", "steps": 1, "metric": "FD_incep", "found": 30.0, "inside": False,
        "published": 18.09, "low": pytest.approx(16.281), "high": pytest.approx(19.899),
    }  # fmt: skip
    noted = expected.noted(found)
    assert [row.note for row in noted[3:]] == [""]
    assert noted[0].note.startswith(f"a note{SEPARATOR}{CALIBRATION}calibrated")
    assert SEPARATOR not in noted[0].note.partition(SEPARATOR)[2]  # the calibration is one part of it


def test_toys_and_structures_alone_have_no_published_teacher():
    assert expected_of(planned(), []) is None
    plan = planned(preset="paper", methods=("cm",))
    assert expected_of(replace(plan, config=plan.config.first_stage), []) is None
