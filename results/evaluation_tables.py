"""The table of `mdtbench evaluate`: systems side by side under one protocol, then the controls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from . import paper
from .cells import Cell, Column, decimals_of
from .paper_columns import NOTHING, TABLE_1, Beside
from .places import CONTROLS, Place, control_places, key_of
from .rows import COST_METRICS, LATENCY_METRIC, Row
from .tables import METHOD, STEPS, Line, Table, build, check_single, checked

EVALUATION = "evaluation"  # the stage of all these rows
RANDOM_MARK = "[random]"  # ends the names of metrics whose extractors have random weights
SEPARATOR = "; "  # between the parts of a row's note
CALIBRATION = "calibration: "  # begins the part of a note that says how the teacher compares with its published row
NOT_CALIBRATED = "not calibrated: no teacher was evaluated with this setup"
GROUP = "Systems"
ERRORS_NOTE = (
    "±: of ULIP_I and CLIP_score the standard error over assets, of KD the sd over its subsets, of seconds that over "
    "repeats. An FD has none: evaluate several generation seeds."
)
FIRST = ("FD_incep", "FD_dinov2", "ULIP_I")  # columns, as in the paper; then the others as they come
NFE = Column("nfe", "NFE", "count")
TIME = Column(LATENCY_METRIC, "time", "cost", higher_is_better=False, unit="s/asset")


def is_evaluation(rows: Sequence[Row]) -> bool:
    """Whether rows are those of systems' assets."""
    return any(row.stage == EVALUATION for row in rows)


def evaluation_table(rows: Sequence[Row]) -> Table:
    """One line per system, and the controls. The paper's numbers of a system stand beside official metrics only.

    Rows of several evaluations may come together: of other systems, of a system's other seeds (mean ± sd), and of the
    teacher, whose calibration then counts for all.

    Raises:
        UsageError: no rows, or rows of one column that differ in protocol, reference, number of assets, extractor or
            definition.
    """
    rows = checked(rows)
    _check_comparable(rows)
    places = [*_system_places(rows), *control_places(rows)]
    rows, shared = _without_shared_notes(_calibrated(sorted(rows, key=_rank)))
    lead = (METHOD, *((STEPS,) if _any(rows, "steps") else ()), *((NFE,) if _any(rows, "nfe") else ()))
    timed = any(row.metric == LATENCY_METRIC for row in rows)
    beside = NOTHING if any(row.metric.endswith(RANDOM_MARK) for row in rows) else replace(TABLE_1, find=_published)
    table = build("evaluation", "Evaluation", rows, places, lead=(*lead, *((TIME,) if timed else ())), beside=beside)
    seeds = len({row.seed for row in rows} - {None}) > 1
    table = table if seeds else _with_errors(table, rows, places)
    notes = (*_notes(table, beside, seeds=seeds), *(f"{note[:1].upper()}{note[1:]}." for note in shared))
    return replace(table, notes=notes)


def _check_comparable(rows: Sequence[Row]) -> None:
    check_single("protocol", {row.config_sha for row in rows})
    check_single("reference", {str(row.reference_sha) for row in rows})
    check_single("number of assets", {str(row.n_total) for row in rows if row.metric not in COST_METRICS})
    for metric in dict.fromkeys(row.metric for row in rows if row.metric != LATENCY_METRIC):
        check_single(f"extractor of {metric}", {str(row.weights_sha) for row in rows if row.metric == metric})


def _rank(row: Row) -> int:
    name = row.metric.removesuffix(RANDOM_MARK)
    return FIRST.index(name) if name in FIRST else len(FIRST)


def _system_places(rows: Sequence[Row]) -> list[Place]:
    keys = dict.fromkeys(key_of(row) for row in rows if row.method not in CONTROLS)
    return [Place(*key, GROUP, "student", key[0]) for key in keys]


def _calibrated(rows: Sequence[Row]) -> list[Row]:
    """Rows without the words that no teacher was evaluated, where one is among them."""
    if not any(part.startswith(CALIBRATION) for row in rows for part in _parts(row)):
        return list(rows)
    kept = [SEPARATOR.join(part for part in _parts(row) if part != NOT_CALIBRATED) for row in rows]
    return [row.model_copy(update={"note": note}) for row, note in zip(rows, kept, strict=True)]


def _with_errors(table: Table, rows: Sequence[Row], places: Sequence[Place]) -> Table:
    """The table with the error of each value that has one, spelled as the sd over seeds would be."""
    errors = {(key_of(row), row.metric): row.stderr for row in rows if row.stderr}

    def line_with(line: Line, place: Place) -> Line:
        pairs = zip(table.columns, line.cells, strict=True)
        cells = tuple(_with_error(cell, errors.get((place.key, column.key))) for column, cell in pairs)
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


def _without_shared_notes(rows: Sequence[Row]) -> tuple[list[Row], list[str]]:
    """Rows with only the parts of their notes that some system's rows lack, and the others' parts once."""
    parts = {row.method: dict.fromkeys([]) for row in rows if row.method not in CONTROLS}
    for row in rows:
        if row.method in parts:
            parts[row.method].update(dict.fromkeys(_parts(row)))
    first = next(iter(parts.values()), {})
    shared = [part for part in first if all(part in of_one for of_one in parts.values())]
    own = [SEPARATOR.join(part for part in _parts(row) if part not in shared) for row in rows]
    return [row.model_copy(update={"note": note}) for row, note in zip(rows, own, strict=True)], shared


def _parts(row: Row) -> list[str]:
    return [part for part in row.note.split(SEPARATOR) if part]


def _notes(table: Table, beside: Beside, *, seeds: bool) -> list[str]:
    notes = ["ok/n: assets measured; those that failed are black pictures in distances and 0 in ULIP_I."]
    if seeds:
        notes.append("Mean ± sd over generation seeds, of systems with several.")
    elif any("±" in cell.text for line in table.rows for cell in line.cells):
        notes.append(ERRORS_NOTE)
    if sum(line.role == "student" for line in table.rows) > 1:
        notes.append("Marked: the best system, and the second best where the format can.")
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


def _any(rows: Sequence[Row], name: str) -> bool:
    return any(getattr(row, name) is not None for row in rows)
