"""Tables of runs with whole assets: quality against cost, the paper's tables, each stage alone, the stages apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from .cells import Column
from .paper_columns import NOTHING, TABLE_1
from .places import (
    ALL_METHODS,
    Place,
    block_places,
    control_places,
    key_of,
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
    Row,
)
from .tables import LEAD, METHOD, STEPS, Table, build, check_definitions, checked, table_2, table_3

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


def is_whole(rows: Sequence[Row]) -> bool:
    """Whether a run made whole assets."""
    return any(row.stage in WHOLE_ASSETS for row in rows)


def whole_tables(rows: Sequence[Row]) -> tuple[Table, ...]:
    """Tables 1, 2 and 3 of whole assets, one table per stage measured alone, the stages apart; those with rows.

    Raises:
        UsageError: rows of different runs, splits or definitions of a metric.
    """
    both = [row for row in rows if row.stage == BOTH]
    alone = dict.fromkeys(row.stage for row in rows if row.stage not in WHOLE_ASSETS)
    of_both = (table_1(both), table_2(both), table_3(both)) if both else ()
    of_stages = [stage_table([row for row in rows if row.stage == stage]) for stage in alone]
    apart = any(row.stage in (STRUCTURE_THEN_TEACHER, TEACHER_THEN_SLAT) for row in rows)
    return (*of_both, *of_stages, *([stages_apart(rows)] if apart else []))


def table_1(rows: Sequence[Row]) -> Table:
    """Quality against cost: the teacher, then per number of steps the methods and the undistilled teacher.

    Raises:
        UsageError: as `table_2`.
    """
    rows = checked(rows)
    sampled = _sampled_methods(rows)
    places = [*_teacher_places(rows), *block_places(rows, sampled)]
    shown = [row for row in rows if row.method in (TEACHER, *sampled)]  # a metric of other controls alone is no column
    return build("table_1", "Table 1. Quality against cost", shown or rows, places, lead=COSTS, beside=TABLE_1)


def stage_table(rows: Sequence[Row]) -> Table:
    """One stage alone: all methods, then the controls. Without the paper's numbers, which are of whole assets.

    Raises:
        UsageError: as `table_2`.
    """
    rows = checked(rows)
    stage = rows[0].stage
    places = [*block_places(rows, (*ALL_METHODS, *other_methods(rows))), *control_places(rows)]
    return build(f"stage_{stage}", f"{stage.capitalize()} stage alone", rows, places, beside=NOTHING)


def stages_apart(rows: Sequence[Row]) -> Table:
    """Which stage loses what: the teacher, then each method with both stages, its structure and its SLAT alone.

    Args:
        rows: Of a whole run. Methods that were not measured with a single stage have no line.

    Raises:
        UsageError: no such rows, or rows of different runs, splits or definitions of a metric.
    """
    checked_rows = [row for stage in WHOLE_ASSETS for row in _checked_stage(rows, stage)]
    apart = {key_of(row)[:-1] for row in checked_rows if row.stage != BOTH}
    shown = [row for row in checked_rows if key_of(row)[:-1] in apart or row.method == TEACHER]
    check_definitions(shown)
    blocks = block_places(shown, _sampled_methods(shown))
    grouped = [replace(place, group=f"{step_group(place.steps)} per stage of its own") for place in blocks]
    places = [*_teacher_places(shown), *grouped]
    table = build("stages_apart", "Stages apart: which stage loses what", shown, places, lead=MAKERS, beside=NOTHING)
    return replace(table, notes=(APART_NOTE, *table.notes))


def _checked_stage(rows: Sequence[Row], stage: str) -> list[Row]:
    mine = [row for row in rows if row.stage == stage]
    return checked(mine) if mine else []


def _sampled_methods(rows: Sequence[Row]) -> tuple[str, ...]:
    return (*ALL_METHODS, *other_methods(rows), UNDISTILLED)


def _teacher_places(rows: Sequence[Row]) -> list[Place]:
    """In a block of its own."""
    return [replace(place, group=TEACHER_GROUP) for place in control_places(rows) if place.method == TEACHER]
