"""Tables of runs with whole assets: quality against cost, the paper's tables, each stage alone, the stages apart."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
from pandas import DataFrame, MultiIndex

from .cells import Column
from .frames import distinct
from .paper_columns import NOTHING, TABLE_1
from .places import (
    ALL_METHODS,
    LINE,
    Place,
    block_places,
    control_places,
    other_methods,
    step_group,
)
from .rows import (
    BOTH,
    DECODE_SECONDS,
    LATENCY_METRIC,
    SLAT_SECONDS,
    STRUCTURE_SECONDS,
    STRUCTURE_THEN_TEACHER,
    TEACHER_THEN_SLAT,
    WHOLE_ASSETS,
)
from .tables import LEAD, METHOD, STEPS, Measured, Table, build, check_definitions, checked, table_2, table_3

SECONDS = {STRUCTURE_SECONDS: "structure", SLAT_SECONDS: "SLAT", DECODE_SECONDS: "decode", LATENCY_METRIC: "total"}
COSTS = (
    METHOD,
    STEPS,
    Column("nfe", "NFE", "count", unit="both stages"),
    *(Column(metric, title, "cost", higher_is_better=False, unit="s/asset") for metric, title in SECONDS.items()),
)
MAKERS = (METHOD, Column("structure", "Structure", "label"), Column("slat", "SLAT", "label"), *LEAD[1:])
TEACHER, UNDISTILLED = "teacher", "none"
TEACHER_GROUP = "Teacher"
APART_NOTE = (
    "own: the stage is sampled with the line's method, at its steps. teacher's: with the teacher and its own sampler. "
    "What a stage loses is the distance of the line where it alone is the method's own from the teacher's line."
)


def is_whole(rows: DataFrame) -> bool:
    """Whether a run made whole assets."""
    return bool(rows["stage"].isin(WHOLE_ASSETS).any())


def whole_tables(measured: Measured) -> tuple[Table, ...]:
    """Tables 1, 2 and 3 of whole assets, one table per stage measured alone, the stages apart; those with rows.

    Raises:
        UsageError: rows of different runs, splits or definitions of a metric.
    """
    stages = distinct(measured.rows["stage"])
    both = measured.of_stage(BOTH)
    of_both = (table_1(both), table_2(both), table_3(both)) if BOTH in stages else ()
    of_stages = [stage_table(measured.of_stage(stage)) for stage in stages if stage not in WHOLE_ASSETS]
    apart = not {STRUCTURE_THEN_TEACHER, TEACHER_THEN_SLAT}.isdisjoint(stages)
    return (*of_both, *of_stages, *([stages_apart(measured)] if apart else []))


def table_1(measured: Measured) -> Table:
    """Quality against cost: the teacher, then per number of steps the methods and the undistilled teacher.

    Raises:
        UsageError: as `table_2`.
    """
    rows = checked(measured)
    sampled = _sampled_methods(rows)
    places = [*_teacher_places(rows), *block_places(rows, sampled)]
    shown = rows[rows["method"].isin((TEACHER, *sampled))]  # a metric of other controls alone is no column
    measured = measured if shown.empty else replace(measured, rows=shown)
    return build("table_1", "Table 1. Quality against cost", measured, places, lead=COSTS, beside=TABLE_1)


def stage_table(measured: Measured) -> Table:
    """One stage alone: all methods, then the controls. Without the paper's numbers, which are of whole assets.

    Raises:
        UsageError: as `table_2`.
    """
    rows = checked(measured)
    stage = rows["stage"].iloc[0]
    places = [*block_places(rows, (*ALL_METHODS, *other_methods(rows))), *control_places(rows)]
    return build(f"stage_{stage}", f"{stage.capitalize()} stage alone", measured, places, beside=NOTHING)


def stages_apart(measured: Measured) -> Table:
    """Which stage loses what: the teacher, then each method with both stages, its structure and its SLAT alone.

    Args:
        rows: Of a whole run. Methods that were not measured with a single stage have no line.

    Raises:
        UsageError: no such rows, or rows of different runs, splits or definitions of a metric.
    """
    stages = [measured.of_stage(stage) for stage in WHOLE_ASSETS]
    whole = pd.concat([checked(one) for one in stages])
    lines = MultiIndex.from_frame(whole[LINE].drop(columns="stage"))
    shown = whole[lines.isin(lines[whole["stage"] != BOTH]) | (whole["method"] == TEACHER)]
    check_definitions(shown)
    blocks = block_places(shown, _sampled_methods(shown))
    grouped = [replace(place, group=f"{step_group(place.steps)} per own stage") for place in blocks]
    places = [*_teacher_places(shown), *grouped]
    measured, title = replace(measured, rows=shown), "Stages apart: which stage loses what"
    table = build("stages_apart", title, measured, places, lead=MAKERS, beside=NOTHING)
    return replace(table, notes=(APART_NOTE, *table.notes))


def _sampled_methods(rows: DataFrame) -> tuple[str, ...]:
    return (*ALL_METHODS, *other_methods(rows), UNDISTILLED)


def _teacher_places(rows: DataFrame) -> list[Place]:
    """In a block of its own."""
    return [replace(place, group=TEACHER_GROUP) for place in control_places(rows) if place.method == TEACHER]
