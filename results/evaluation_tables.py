"""The table of `mdtbench evaluate`: systems side by side under one protocol, then the controls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain

from pandas import DataFrame, Series

from . import paper
from .cells import Cell, Column, decimals_of
from .frames import latest
from .paper_columns import NOTHING, TABLE_1
from .places import CONTROLS, LINE, Place, control_places, keyed, keys_of, place_of
from .rows import COST_METRICS, EVALUATION, LATENCY_METRIC
from .tables import METHOD, STEPS, Line, Measured, Table, build, check_definitions, check_single
from .verdicts import Verdict

RANDOM_MARK = "[random]"  # ends the names of metrics whose extractors have random weights
SEPARATOR = "; "  # between the parts of a row's note
CALIBRATION = "calibration: "  # begins the part of a note that says how the teacher compares with its published row
NOT_CALIBRATED = "not calibrated: no teacher was evaluated with this setup"
GROUP = "Systems"
ERRORS_NOTE = (
    "±: for ULIP_I and CLIP_score the standard error over assets, for KD the sd over its subsets, for seconds the sd "
    "over repeats. FD has none: evaluate several generation seeds."
)
FIRST = ("FD_incep", "FD_dinov2", "ULIP_I")  # columns, as in the paper; then the others as they come
NFE = Column("nfe", "NFE", "count")
TIME = Column(LATENCY_METRIC, "time", "cost", higher_is_better=False, unit="s/asset")


def is_evaluation(rows: DataFrame) -> bool:
    """Whether rows are those of systems' assets."""
    return bool((rows["stage"] == EVALUATION).any())


def evaluation_table(rows: DataFrame, verdicts: Sequence[Verdict] = ()) -> Table:
    """One line per system, and the controls. The paper's numbers of a system stand beside official metrics only.

    Rows of several evaluations may come together: of other systems, of a system's other seeds (mean ± sd), and of the
    teacher, whose calibration then counts for all.

    Raises:
        UsageError: no rows, or rows of one column that differ in protocol, reference, number of assets, extractor or
            definition.
    """
    rows = keyed(latest(rows))
    check_single("stage", {*rows["stage"]})
    check_definitions(rows)
    _check_comparable(rows)
    places = [*_system_places(rows), *control_places(rows)]
    rows, shared = _without_shared_notes(_calibrated(rows.sort_values("metric", key=_ranks, kind="stable")))
    known = {STEPS: rows["steps"].notna(), NFE: rows["nfe"].notna(), TIME: rows["metric"] == LATENCY_METRIC}
    lead = (METHOD, *(column for column, mine in known.items() if mine.any()))
    beside = NOTHING if rows["metric"].str.endswith(RANDOM_MARK).any() else replace(TABLE_1, find=_published)
    measured = Measured.of(rows, verdicts)
    table = build("evaluation", "Evaluation", measured, places, lead=lead, beside=beside)
    seeds = rows["seed"].nunique() > 1
    table = table if seeds else _with_errors(table, rows, places)
    marks = measured.note_of_marks("system")
    notes = (*_notes(table, marks, seeds=seeds), *(f"{note[:1].upper()}{note[1:]}." for note in shared))
    return replace(table, notes=notes)


def _check_comparable(rows: DataFrame) -> None:
    quality = rows[~rows["metric"].isin(COST_METRICS)]
    check_single("protocol", {*rows["config_sha"]})
    check_single("reference", {*rows["reference_sha"].fillna("None")})
    check_single("number of assets", {*quality["n_total"].map(str)})
    for metric, mine in rows[rows["metric"] != LATENCY_METRIC].groupby("metric", sort=False):
        check_single(f"extractor of {metric}", {*mine["weights_sha"].fillna("None")})


def _ranks(metrics: Series) -> Series:
    names = metrics.str.removesuffix(RANDOM_MARK)
    return names.map(lambda name: FIRST.index(name) if name in FIRST else len(FIRST))


def _system_places(rows: DataFrame) -> list[Place]:
    keys = keys_of(rows[~rows["method"].isin(CONTROLS)])
    return [place_of(key, GROUP, "student", key[0]) for key in keys]


def _calibrated(rows: DataFrame) -> DataFrame:
    """Rows without the words that no teacher was evaluated, where one is among them."""
    parts = rows["note"].map(_parts)
    if not any(part.startswith(CALIBRATION) for part in chain.from_iterable(parts)):
        return rows
    return rows.assign(note=[SEPARATOR.join(one for one in found if one != NOT_CALIBRATED) for found in parts])


def _with_errors(table: Table, rows: DataFrame, places: Sequence[Place]) -> Table:
    """The table with the error of each value that has one, spelled as the sd over seeds would be."""
    errors = rows[rows["stderr"] > 0].groupby([*LINE, "metric"])["stderr"].last().to_dict()

    def line_with(line: Line, place: Place) -> Line:
        pairs = zip(table.columns, line.cells, strict=True)
        cells = tuple(_with_error(cell, errors.get((*place.key, column.key))) for column, cell in pairs)
        return replace(line, cells=cells)

    lines = tuple(line_with(line, place) for line, place in zip(table.rows, places, strict=True))
    return replace(table, rows=lines)


def _with_error(cell: Cell, error: float | None) -> Cell:
    if error is None or cell.value is None:
        return cell
    number, _, counted = cell.text.partition(" ")
    decimals = max(len(number.partition(".")[2]), decimals_of(error, significant=1))
    spelled = f"{cell.value:.{decimals}f} ± {error:.{decimals}f}"
    return replace(cell, text=f"{spelled} {counted}".rstrip())


def _without_shared_notes(rows: DataFrame) -> tuple[DataFrame, list[str]]:
    """Rows with only the parts of their notes that some system's rows lack, and the others' parts once."""
    parts = rows["note"].map(_parts)
    systems = rows["method"].where(~rows["method"].isin(CONTROLS)).rename("system")
    of_systems = [list(chain.from_iterable(mine)) for _, mine in parts.groupby(systems, sort=False)]
    first = dict.fromkeys(of_systems[0]) if of_systems else ()
    shared = [part for part in first if all(part in one for one in of_systems)]
    own = [SEPARATOR.join(one for one in found if one not in shared) for found in parts]
    return rows.assign(note=own), shared


def _parts(note: str) -> list[str]:
    return [part for part in note.split(SEPARATOR) if part]


def _notes(table: Table, marks: Sequence[str], *, seeds: bool) -> list[str]:
    notes = ["ok/n: assets measured; those that failed are black pictures in distances and 0 in ULIP_I."]
    if seeds:
        notes.append("Mean ± sd over generation seeds, of systems with several.")
    elif any("±" in cell.text for line in table.rows for cell in line.cells):
        notes.append(ERRORS_NOTE)
    notes += marks
    if any(column.kind == "paper" for column in table.columns):
        notes.append(paper.PROTOCOL_NOTE)
    return notes


def _published(name: str, steps: int | None, tables: tuple[paper.PaperTable, ...]) -> paper.PaperRow | None:
    """The authors' own row of a system, by its name in the paper; None where its steps leave it open which.

    Rows that the paper quotes are of other assets and have no place beside ours.
    """
    found = [
        row
        for table in tables
        for row in table.rows
        if row.label.lower() == name.lower() and row.measured_by == "authors" and steps in (None, row.steps)
    ]
    return found[0] if len(found) == 1 else None
