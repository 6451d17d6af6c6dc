"""From rows to the paper's Tables 2 and 3, as data that no layout has touched.

Which lines there are is told in `places`, how a cell comes about in `cells`, whole assets in `whole_tables`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from pandas import DataFrame, MultiIndex, Series

from ..base.errors import UsageError
from ..base.groups import grouped
from . import paper
from .cells import (
    FAILED,
    NO_VALUE,
    Cell,
    Column,
    decimals_of,
    failure_notes,
    measured,
    number_of,
    ok_shares,
    summary,
    with_counts,
)
from .frames import distinct, latest, records
from .paper_columns import SCORES, Beside
from .places import (
    CONTROLS,
    LINE,
    TABLE_2_METHODS,
    TABLE_3_METHODS,
    Key,
    Place,
    Role,
    block_places,
    control_places,
    keyed,
    label_of,
    other_methods,
    step_group,
    step_order,
)
from .rows import COST_METRICS, LATENCY_METRIC, STRUCTURE_THEN_TEACHER, TEACHER_THEN_SLAT, WHOLE_ASSETS
from .verdicts import Verdict

ABLATED = ("none", "cfg")  # method and variant of the ablation's first row: the teacher as it is, guided
_INDEX = ["group", "method", "variant", "sampler", "steps"]
_SHOWN = [  # columns that tables need; frames with more are slower
    *(*LINE, "steps", "train_seed", "seed", "metric", "split", "sampler", "own_sampler", "nfe", "note"),
    *("metric_version", "unit", "higher_is_better", "value", "n_ok", "n_total", "status", "error"),
]
METHOD = Column("method", "Method", "label")
STEPS = Column("steps", "Steps", "count")
LEAD = (
    METHOD,
    STEPS,
    Column("nfe", "NFE", "count"),
    Column(LATENCY_METRIC, "time", "cost", higher_is_better=False, unit="s/asset"),
)


@dataclass(frozen=True)
class Line:
    """One row of a table; one cell per column."""

    group: str
    method: str
    variant: str
    steps: int | None
    role: Role
    cells: tuple[Cell, ...]
    sampler: str | None = None


@dataclass(frozen=True)
class Table:
    """`rows` of one `group` are adjacent; renderers draw a rule between groups."""

    name: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[Line, ...]
    notes: tuple[str, ...] = ()
    footnotes: tuple[str, ...] = ()

    def column(self, key: str) -> list[Cell]:
        """The cells of one column, top to bottom."""
        index = [column.key for column in self.columns].index(key)
        return [line.cells[index] for line in self.rows]

    def frame(self, of: str = "value") -> DataFrame:
        """The table as a data frame: a line per line, a column per column, by key.

        Args:
            of: A field of `Cell`: "value" (the mean, NaN where there is none), "sd", "n", ..., or "text" (as printed).
        Returns:
            Indexed by group, method, variant, sampler and steps. Labels and counts as "63/64" are always text.
        """
        named = {column.key: i for i, column in enumerate(self.columns) if column.key not in _INDEX}
        as_text = {key for key, i in named.items() if self.columns[i].kind in ("label", "count") and key != "nfe"}
        lines = [
            {key: getattr(line.cells[i], "text" if key in as_text else of) for key, i in named.items()}
            for line in self.rows
        ]
        index = DataFrame([[getattr(line, name) for name in _INDEX] for line in self.rows], columns=_INDEX)
        frame = DataFrame(lines, columns=list(named), index=MultiIndex.from_frame(index.astype({"steps": "Int64"})))
        numbers = [] if of == "text" else [key for key in named if key not in as_text]
        return frame.astype(dict.fromkeys(numbers, "float64")) if of in ("value", "sd", "sd_train") else frame

    def groups(self) -> list[tuple[str, list[Line]]]:
        """The rows by group, in order."""
        return list(grouped(self.rows, lambda line: line.group).items())


@dataclass(frozen=True)
class Measured:
    """The rows of tables, the latest of each measurement, and what cells and lines say of them.

    Attributes:
        rows: With the columns `LINE`.
        cells: As `cells.summary`, by line and metric. lines: By line: passes, notes, sampler, counts of assets.
        verdicts: What is marked; nothing without them.
    """

    rows: DataFrame
    cells: Mapping[tuple, Mapping[str, Any]]
    lines: Mapping[Key, Mapping[str, Any]]
    verdicts: tuple[Verdict, ...] = ()

    @staticmethod
    def of(rows: DataFrame, verdicts: Sequence[Verdict] = ()) -> Measured:
        """Raises UsageError when there are no rows, or two runs hold the same measurement."""
        if rows.empty:
            raise UsageError("No rows to show - a table needs at least one - make them with `mdtbench run`.")
        rows = keyed(latest(rows))[_SHOWN]
        return Measured(rows, summary(rows, [*LINE, "metric"]), _of_lines(rows), tuple(verdicts))

    def of_stage(self, stage: str) -> Measured:
        return replace(self, rows=self.rows[self.rows["stage"] == stage])

    @cached_property
    def marked(self) -> frozenset[tuple[Key, str]]:
        """Lines, with a metric each, that cannot be told from the best."""
        return frozenset(
            ((method, variant, order, "", one.stage), one.metric)
            for one in self.verdicts
            for method, variant, order in one.standing.marked
        )

    def note_of_marks(self, race: str) -> tuple[str, ...]:
        """What the marks in a table of these rows mean; nothing where no two students race."""
        of_rows = [one for one in self.verdicts if one.stage in {*self.rows["stage"]}]
        if not of_rows:
            return ()
        note = f"Marked: all that the verdicts cannot tell from the best {race}."
        unknown = {one.metric: None for one in of_rows if one.standing.smallest is None}
        without = f" Nothing in {', '.join(unknown)}: one value per line gives no uncertainty." if unknown else ""
        return (note + without,)


def table_2(measured: Measured) -> Table:
    """The comparison of methods: CM, PCM, sCM, VM+VD, other methods, then the controls.

    Raises:
        UsageError: rows of different stages, splits or definitions of a metric.
    """
    rows = checked(measured)
    places = [*block_places(rows, (*TABLE_2_METHODS, *other_methods(rows))), *control_places(rows)]
    return build("table_2", "Table 2. Distillation methods under equal conditions", measured, places)


def table_3(measured: Measured) -> Table:
    """The ablation: no VM and no VD, VM, VM+VD, then the controls.

    Raises:
        UsageError: as `table_2`.
    """
    rows = checked(measured)
    controls = control_places(rows)
    ablated = [place for place in controls if (place.method, place.variant) == ABLATED]
    label = "no VM, no VD (undistilled)"
    first = [replace(place, group=step_group(place.steps, place.stage), label=label) for place in ablated]
    # The sort is stable: within a block the undistilled row stays first.
    blocks = sorted([*first, *block_places(rows, TABLE_3_METHODS)], key=lambda place: step_order(place.steps))
    rest = [place for place in controls if place not in ablated]
    return build("table_3", "Table 3. Ablation of velocity matching and distillation", measured, [*blocks, *rest])


def build(
    name: str,
    title: str,
    measured: Measured,
    places: Sequence[Place],
    *,
    lead: tuple[Column, ...] = LEAD,
    beside: Beside = SCORES,
) -> Table:
    """A table with a line per place: the leading columns, the metrics of the rows, ok/n, the paper's numbers.

    Marked are the students that the verdicts cannot tell from the best of their block and stage.
    """
    rows = measured.rows
    columns = (*lead, *_metric_columns(rows), Column("n", "ok/n", "count"), *beside.columns(places))
    maker = Lines(measured, decimals_by_metric(rows), beside, [])
    lines = tuple(maker.line(place, columns) for place in places)
    notes = (*_notes(measured, columns), *_sampler_notes(measured, places))
    return Table(name, title, columns, lines, notes, tuple(maker.footnotes))


def checked(measured: Measured) -> DataFrame:
    """The rows, all of one stage and split, each metric of one definition.

    Raises:
        UsageError: they are not.
    """
    check_single("stage", {*measured.rows["stage"]})
    check_definitions(measured.rows)
    return measured.rows


def check_definitions(rows: DataFrame) -> None:
    """Raises UsageError when rows are of different splits or definitions of a metric."""
    check_single("split", {*rows["split"]})
    names = {"metric_version": "version", "unit": "unit", "higher_is_better": "better direction"}
    quality = rows.loc[~rows["metric"].isin(COST_METRICS), ["metric", *names]].drop_duplicates()
    for metric in quality.loc[quality["metric"].duplicated(), "metric"]:
        for name, title in names.items():
            found = quality.loc[quality["metric"] == metric, name]
            check_single(f"{title} of {metric}", {*found.map(repr if name == "unit" else str)})


def check_single(what: str, found: set[str]) -> None:
    """Raises UsageError when more than one `what` was found."""
    if len(found) > 1:
        raise UsageError(
            f"Rows with more than one {what} (got {', '.join(sorted(found))}) - a table shows one - select the rows."
        )


def _metric_columns(rows: DataFrame) -> list[Column]:
    """In order of first appearance, costs apart, under the names that the rows give: a metric is never renamed."""
    fields = ["metric", "higher_is_better", "unit", "metric_version"]
    first = rows.loc[~rows["metric"].isin(COST_METRICS), fields].drop_duplicates("metric")
    about = [tuple(one.values()) for one in records(first)]
    return [Column(name, name, "metric", higher, unit, version) for name, higher, unit, version in about]


def _notes(measured: Measured, columns: Sequence[Column]) -> tuple[str, ...]:
    rows, stages = measured.rows, {*measured.rows["stage"]}
    notes = [_measured_note(rows.iloc[0], whole=stages <= {*WHOLE_ASSETS})]
    if rows["seed"].nunique() > 1:
        notes.append("Mean ± sd over generation seeds.")
    notes += measured.note_of_marks(f"student of the block{' with the same own stages' if len(stages) > 1 else ''}")
    if rows["train_seed"].nunique() > 1:
        notes.append("Means are over all training seeds; the sd over training seeds is in the CSV and JSON.")
    if any(column.kind == "paper" for column in columns):
        notes.append(paper.PROTOCOL_NOTE)
    return tuple(notes)


def _measured_note(row: Series, *, whole: bool) -> str:
    what = "Whole assets" if whole else f"Stage {row.stage}"
    counted = "both stages and both passes of guidance" if whole else "both passes of guidance"
    return (
        f"{what}, split {row.split}. NFE: network forward passes per asset, {counted} counted. ok/n: assets measured, "
        f"in the seed that lost most."
    )


def _sampler_notes(measured: Measured, places: Sequence[Place]) -> list[str]:
    """Which samplers there are, which are not what a method is made for, and what the lines with another one are."""
    plain = [place for place in places if not place.other_sampler]
    used, foreign = (_users(measured, plain, name) for name in ("samplers", "foreign"))
    notes = [f"Samplers: {used}."] if used else []
    if foreign:
        notes.append(f"The protocol's sampler is not the method's own: {foreign}.")
    if len(plain) < len(places):
        notes.append(
            "A method's name with a sampler: the same students with that sampler. It has no line where it computes "
            "the same as the plain line, as samplers mostly do at 1 step."
        )
    return notes


def _users(measured: Measured, places: Iterable[Place], which: str) -> str:
    """Which methods each sampler is used for."""
    users: dict[str, dict[str, None]] = {}
    for place in places:
        label = "Undistilled" if place.method == "none" else label_of(place.method, place.variant)
        found = measured.lines[place.key][which]
        for name in () if found is None else found:
            users.setdefault(name, {})[label] = None
    return "; ".join(f"{name} for {', '.join(labels)}" for name, labels in users.items())


def _of_lines(rows: DataFrame) -> dict[Key, dict[str, Any]]:
    """Of each line: passes, notes, samplers and those that are not the method's own, counts where most was lost."""
    groups = rows.groupby(LINE, sort=False)
    about = groups["nfe"].agg(["min", "max"]).astype(object)
    about["notes"] = groups["note"].agg(lambda notes: [note for note in distinct(notes) if note])
    about["sampler"] = rows.drop_duplicates(LINE).set_index(LINE)["sampler"]
    about["samplers"] = groups["sampler"].agg(distinct)
    about["foreign"] = rows[~rows["own_sampler"]].groupby(LINE, sort=False)["sampler"].agg(distinct)
    quality = rows[~rows["metric"].isin(COST_METRICS)]
    worst = quality.assign(share=ok_shares(quality)).sort_values("share", kind="stable").drop_duplicates(LINE)
    about[["n_ok", "n_total"]] = worst.set_index(LINE)[["n_ok", "n_total"]].astype(object)
    return dict(zip(about.index, records(about), strict=True))


def decimals_by_metric(rows: DataFrame) -> dict[str, int]:
    """Four significant digits of each metric's largest student value (largest of all without students)."""
    largest = rows["value"].abs().fillna(0.0).groupby([rows["metric"], rows["method"].isin(CONTROLS)]).max()
    first = largest.groupby(level="metric").first()  # False, students, comes first
    return {str(metric): decimals_of(value, significant=4) for metric, value in first.items()}


@dataclass(frozen=True)
class Lines:
    """Makes the lines of a table. footnotes: grow with each."""

    of: Measured
    decimals: Mapping[str, int]
    beside: Beside
    footnotes: list[str]

    def line(self, place: Place, columns: Sequence[Column]) -> Line:
        metrics = [self._metric(place, column.key) for column in columns if column.kind == "metric"]
        counted = iter(with_counts(metrics))
        cells = tuple(next(counted) if column.kind == "metric" else self._other(place, column) for column in columns)
        sampler = self.of.lines[place.key]["sampler"]
        return Line(place.group, place.method, place.variant, place.steps, place.role, cells, sampler)

    def _metric(self, place: Place, metric: str) -> Cell:
        cell = measured(self.of.cells.get((*place.key, metric)), self.decimals[metric], place.where, self.footnotes)
        return replace(cell, best=(place.key, metric) in self.of.marked)

    def _other(self, place: Place, column: Column) -> Cell:
        if column.kind == "paper":
            return self.beside.cell(place, column.title)
        if column.key in COST_METRICS:
            return self._seconds(place, column.key)
        about = self.of.lines[place.key]
        match column.key:
            case "method":
                notes = (number_of(f"{place.where}: {note}", self.footnotes) for note in about["notes"])
                return Cell(place.label, notes=tuple(notes))
            case "structure":
                return _maker(place, TEACHER_THEN_SLAT)
            case "slat":
                return _maker(place, STRUCTURE_THEN_TEACHER)
            case "steps":
                return Cell(NO_VALUE) if place.steps is None else Cell(place.sampling, float(place.steps))
            case "nfe":
                return _range(about["min"], about["max"])
        if about["n_ok"] is None:
            return Cell(NO_VALUE)
        return Cell(f"{about['n_ok']}/{about['n_total']}", n_ok=about["n_ok"], n_total=about["n_total"])

    def _seconds(self, place: Place, metric: str) -> Cell:
        about = self.of.cells.get((*place.key, metric))
        if about is None:
            return Cell(NO_VALUE)
        notes, failed = failure_notes(about, place.where, self.footnotes), len(about["reasons"] or ())
        mean = about["value"]
        if mean is None:
            return Cell(FAILED, n_failed=failed, notes=notes)
        text = f"{mean:.{decimals_of(mean, significant=3)}f}"
        return Cell(text, mean, about["sd_all"], about["n"], n_failed=failed, notes=notes)


def _maker(place: Place, teachers: str) -> Cell:
    """Who samples a stage; `teachers` names the rows in which it is the teacher."""
    return Cell("teacher's" if teachers == place.stage or place.method == "teacher" else "own")


def _range(low: int | None, high: int | None) -> Cell:
    if low is None or high is None:
        return Cell(NO_VALUE)
    return Cell(str(low), float(low)) if low == high else Cell(f"{low}-{high}")
