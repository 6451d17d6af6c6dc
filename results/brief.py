"""A run on one screen: a line per method and number of steps, the leading columns of each level, short verdicts.

Levels are whole assets and structures; of a run on problems with exact answers its problems.

What does not fit is folded, and the last note says how much: first columns, the last of each level before the first
ones, then lines, those far behind before the best of each number of steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Final

from pandas import DataFrame

from ..base.text import counted
from .cells import NO_VALUE, Cell, Column, number_of
from .evaluation_tables import is_evaluation
from .frames import distinct
from .leading import LEADING, leading_metrics
from .oracle_tables import is_oracle
from .paper_columns import NOTHING
from .places import ALL_METHODS, CONTROLS, Key, label_of, other_methods, place_of, problem_of, step_group
from .render_rich import panels, to_rich
from .report import RunResults, with_verdicts
from .rows import BOTH, LATENCY_METRIC, STRUCTURE
from .tables import METHOD, STEPS, Line, Lines, Measured, Table, decimals_by_metric
from .verdicts import Standing, Verdict, Who, number, uncertain, verdicts

LEVELS: Final = (BOTH, STRUCTURE)
SECONDS: Final = Column(LATENCY_METRIC, "s per\nasset", "cost")
LEAD: Final = (METHOD, STEPS, Column("nfe", "NFE", "count"), SECONDS)
TEACHER: Final = "teacher"
UNDISTILLED: Final = "none"
GUIDED: Final = (UNDISTILLED, "cfg")
Levels = Mapping[str, Sequence[Column]]  # leading columns by stage
WIDE: Final = 9  # letters: longer headings get two lines
FEWEST: Final = 4  # lines that are shown on the smallest screen
NAMED, NAMED_FOLDED = 5, 2  # methods on either side of a verdict
SEEDS: Final = {"generation seeds": "seed", "training seeds": "train_seed"}  # columns; ± is over the first of several
SENTENCES: Final = 3  # verdicts and failures that are told where not all fit


@dataclass(frozen=True)
class Screen:
    """How much text fits: letters per line, and lines."""

    width: int = 80
    height: int = 24


def brief_tables(run: RunResults, rest: str, screen: Screen | None = None) -> tuple[Table, ...]:
    """One table of a run; all tables of evaluations, which are short.

    Args:
        rest: The last note: where all else is.
        screen: What the table must fit, all of its notes included; None: nothing is folded.

    Raises:
        UsageError: as `report.tables`.
    """
    if is_evaluation(run.rows):
        return with_verdicts(run)
    brief = _Brief.of(run, rest)
    return (brief.fitting(screen) if screen else brief.table(brief.levels, brief.whos, folded=False),)


@dataclass(frozen=True)
class _Brief:
    """All that may be shown. levels: leading columns. whos: lines in their order. found: verdicts of these columns."""

    run: RunResults
    rest: str
    rows: DataFrame
    measured: Measured
    found: Sequence[Verdict]
    levels: Levels
    whos: Sequence[Who]

    @staticmethod
    def of(run: RunResults, rest: str) -> _Brief:
        found = tuple(verdicts(run.rows, run.assets))
        measured = Measured.of(run.rows, found)
        stages = tuple(stage for stage in distinct(run.rows["stage"]) if problem_of(stage)) or LEVELS
        rows = measured.rows[measured.rows["stage"].isin(stages) & (measured.rows["other_sampler"] == "")]
        levels = {stage: leading for stage in stages if (leading := _leading(rows[rows["stage"] == stage]))}
        leads = {(stage, column.key) for stage, columns in levels.items() for column in columns}
        said = rows[[cell in leads for cell in zip(rows["stage"], rows["metric"], strict=True)]]
        return _Brief(run, rest, rows, measured, found, levels, _whos(said))

    def fitting(self, screen: Screen) -> Table:
        """As much as the screen holds: all, else the most columns that leave all lines, else one block of lines."""
        whole = self.table(self.levels, self.whos, folded=False)
        if _height(whole, screen) <= screen.height:
            return whole
        choices = list(_fewer(self.levels))
        for levels in choices:
            table = self.table(levels, self.whos)
            if _height(table, screen) <= screen.height:
                return table
        one_block = (levels for levels in choices if len(panels(self.table(levels, self.whos), screen.width)) == 1)
        levels = next(one_block, choices[-1])
        count = len(self.whos)
        while True:
            table = self.table(levels, self._foremost(count, levels))
            over = _height(table, screen) - screen.height
            if over <= 0 or count <= FEWEST:
                return table
            count = max(FEWEST, count - over)

    def table(self, levels: Levels, whos: Sequence[Who], *, folded: bool = True) -> Table:
        """folded: whether only so many sentences are told."""
        maker = Lines(self.measured, decimals_by_metric(self.rows), NOTHING, [])
        lines = [_line(maker, who, levels, self.lead) for who in whos]
        problem = problem_of if len(self.levels) > 1 else lambda _: ""
        metrics = (_heading(column, problem(stage)) for stage, columns in levels.items() for column in columns)
        failures, most = tuple(maker.footnotes), SENTENCES if folded else None
        lines = tuple(_with_notes_up_to(len(failures[:most]), line) for line in lines)
        notes = (*self.run.notes, *_notes(self.found, self.levels, levels, most), *self._legend(levels))
        hidden = {
            "line": len(self.whos) - len(whos),
            "column": sum(map(len, self.levels.values())) - sum(map(len, levels.values())),
            "verdict": len(_decided_of(self.found, self.levels)[most:]) if folded else 0,
            "failure": len(failures[most:]) if folded else 0,
        }
        more = [f"{n} more {what}{'s' * (n > 1)}" for what, n in hidden.items() if n]
        rest = f"{', '.join(more)}. {self.rest}" if more else self.rest
        columns = (*self.lead, *metrics)
        return Table("brief", _title(self.run.rows), columns, lines, (*notes, rest), failures[:most])

    @property
    def lead(self) -> tuple[Column, ...]:
        """Without seconds where nothing was timed."""
        timed = (self.rows["metric"] == LATENCY_METRIC).any()
        return LEAD if timed else tuple(column for column in LEAD if column is not SECONDS)

    def _legend(self, levels: Levels) -> Iterator[str]:
        """What marks and columns mean. levels: that are shown."""
        spread = next((seeds for seeds, name in SEEDS.items() if self.rows[name].nunique() > 1), "")
        shown = _shown(self.found, levels)
        legend = [f"±: sd over {spread}."] if spread else []
        legend += ["*: within chance of the best student."] if any(one.standing.marked for one in shown) else []
        if len(levels) > 1 and BOTH in levels:
            legend.append(f"Whole assets: {', '.join(one.key for one in levels[BOTH])}.")
        if shown and min(one.standing.trainings for one in shown) < 2:
            legend.append("One training seed: its chance is in no verdict (`--seeds 0,1,2`).")
        if legend:
            yield " ".join(legend)

    def _foremost(self, count: int, levels: Levels) -> list[Who]:
        """So many lines: the teacher, then of each number of steps the best, the undistilled, the next ones."""
        [(stage, columns), *_] = levels.items()
        place = {
            who: rank
            for one in self.found
            if (one.stage, one.metric) == (stage, columns[0].key)
            for rank, who in enumerate((*one.standing.top, *(late.who for late in one.standing.worse)))
        }
        blocks: dict[int, list[Who]] = {}
        for who in sorted(self.whos, key=lambda who: (who[2], place.get(who, len(place)))):
            if who[0] not in (TEACHER, UNDISTILLED):
                blocks.setdefault(who[2], []).append(who)
        best, *others = zip_longest(*blocks.values()) if blocks else [()]
        controls = [[who for who in self.whos if who[0] == name] for name in (TEACHER, UNDISTILLED)]
        ranked = [*controls[0], *best, *controls[1], *(who for later in others for who in later)]
        kept = [who for who in ranked if who is not None][:count]
        return [who for who in self.whos if who in kept]


def _height(table: Table, screen: Screen) -> int:
    return to_rich([table], width=screen.width).count("\n")


def _fewer(levels: Levels) -> Iterator[Levels]:
    """With one leading column less each time, down to two: the last of each level go first."""
    order = [(stage, i) for i in range(LEADING) for stage, columns in levels.items() if i < len(columns)]
    for count in range(len(order) - 1, LEADING - 1, -1):
        kept = order[:count]
        chosen = {
            stage: [column for i, column in enumerate(columns) if (stage, i) in kept]
            for stage, columns in levels.items()
        }
        yield {stage: columns for stage, columns in chosen.items() if columns}
    if len(order) <= LEADING:
        yield levels


def _title(rows: DataFrame) -> str:
    runs = ", ".join(distinct(rows["run_id"]))
    parts = [
        counted(rows["n_total"].max(), "sample" if is_oracle(rows) else "test asset"),
        counted(rows["seed"].nunique(), "generation seed"),
        counted(rows["train_seed"].nunique(), "training seed"),
    ]
    return f"Run {runs}: {', '.join(parts)}"


def _leading(rows: DataFrame) -> list[Column]:
    """The leading columns of a level."""
    about = rows.drop_duplicates("metric")[["metric", "higher_is_better", "unit"]].itertuples(index=False, name=None)
    columns = {metric: Column(metric, metric, "metric", bool(higher), unit) for metric, higher, unit in about}
    return [columns[metric] for metric in leading_metrics(rows)]


def _heading(column: Column, problem: str = "") -> Column:
    """Of two lines, so that numbers decide the width; units are in the full tables."""
    if problem:
        return replace(column, title=f"{problem}\n{column.title}", unit="")
    head, mark, tail = column.title.rpartition("_")
    title = f"{head}\n{mark}{tail}" if head and len(column.title) > WIDE else f"{column.title}\n"
    return replace(column, title=title, unit="")


def _whos(rows: DataFrame) -> list[Who]:
    """Method, variant and steps of the lines: the teacher, then per number of steps students and the undistilled."""
    methods = (TEACHER, *ALL_METHODS, *other_methods(rows), UNDISTILLED)
    found = rows.loc[rows["method"].isin(methods), ["method", "variant", "order"]].drop_duplicates()
    whos = [(str(m), str(v), int(o)) for m, v, o in found.itertuples(index=False, name=None)]
    if any(who[:2] == GUIDED for who in whos):
        whos = [who for who in whos if who[:2] != (UNDISTILLED, "")]
    return sorted(whos, key=lambda who: (who[0] != TEACHER, who[2], methods.index(who[0]), who[1]))


def _line(maker: Lines, who: Who, levels: Levels, every: Sequence[Column]) -> Line:
    """Passes and seconds are those of the first level that has the line, remarks those of all."""
    method, variant, order = who
    label, lead = label_of(method, variant), every[1:]
    first: Line | None = None
    metrics: list[Cell] = []
    remarks: dict[int, None] = {}
    for stage in dict.fromkeys((*levels, *LEVELS)):
        columns = levels.get(stage, ())
        key: Key = (method, variant, order, "", stage)
        if key not in maker.of.lines:
            metrics += [Cell(NO_VALUE)] * len(columns)
            continue
        place = place_of(key, "", "control" if method in CONTROLS else "student", label)
        line = maker.line(place, (*lead, *columns))
        first = first or line
        metrics += map(_short, line.cells[len(lead) :])
        remarks |= {number_of(f"{label}: {note}", maker.footnotes): None for note in maker.of.lines[key]["notes"]}
    assert first is not None
    return replace(first, cells=(Cell(label, notes=tuple(remarks)), *first.cells[: len(lead)], *metrics))


def _with_notes_up_to(last: int, line: Line) -> Line:
    return replace(line, cells=tuple(replace(c, notes=tuple(n for n in c.notes if n <= last)) for c in line.cells))


def _short(cell: Cell) -> Cell:
    """With as many digits as the sd leaves certain: one or two of its own. Of one generation seed over trainings."""
    sd = cell.sd_train if cell.sd is None else cell.sd
    if cell.value is None or sd is None:
        return cell
    share = cell.text[cell.text.index(" (") :] if cell.text.endswith(")") else ""
    if not sd:
        return replace(cell, text=cell.text.replace(" ± ", "±"))
    return replace(cell, text=uncertain(cell.value, sd, "±") + share)


def _notes(found: Sequence[Verdict], levels: Levels, visible: Levels, most: int | None) -> Iterator[str]:
    """Verdicts, those of visible columns before those of folded ones. most: that are told; all by default."""
    shown = _shown(found, levels)
    seen = [(stage, column.key) for stage, columns in visible.items() for column in columns]
    for one in sorted(_decided_of(found, levels), key=lambda one: (one.stage, one.metric) not in seen)[:most]:
        yield f"{_metric(one, levels)}, {_steps(one)}: {_decided(one.standing, NAMED_FOLDED if most else NAMED)}."
    undecided = [one for one in shown if not one.standing.worse and one.standing.smallest is not None]
    if undecided:
        yield f"No difference shown in {_listed(undecided, levels, _reach, most)}."
    unknown = [one for one in shown if one.standing.smallest is None]
    if unknown:
        yield f"No uncertainty, of one value each: {_listed(unknown, levels, _steps, most)}."


def _shown(found: Sequence[Verdict], levels: Levels) -> list[Verdict]:
    """Of the leading columns, the fewest steps first."""
    order = [(stage, column.key) for stage, columns in levels.items() for column in columns]
    shown = [one for one in found if (one.stage, one.metric) in order]
    return sorted(shown, key=lambda one: (one.steps or 0, order.index((one.stage, one.metric))))


def _decided_of(found: Sequence[Verdict], levels: Levels) -> list[Verdict]:
    """In which a method is shown to be worse."""
    return [one for one in _shown(found, levels) if one.standing.worse]


def _metric(one: Verdict, levels: Levels) -> str:
    """Of several problems with the problem's name."""
    problem = problem_of(one.stage) if len(levels) > 1 else ""
    return f"{problem} {one.metric}".lstrip()


def _listed(found: Sequence[Verdict], levels: Levels, say: Callable[[Verdict], str], most: int | None) -> str:
    """Metrics with what is said of each of their numbers of steps."""
    metrics: dict[str, list[str]] = {}
    for one in found:
        metrics.setdefault(_metric(one, levels), []).append(say(one))
    return ", ".join(f"{metric} ({_capped(said, most)})" for metric, said in metrics.items())


def _reach(one: Verdict) -> str:
    """From where on a difference would have been shown."""
    standing = one.standing
    return f"{_steps(one)}: {standing.alike or f'needs {number(standing.smallest or 0.0)}'}"


def _steps(verdict: Verdict) -> str:
    return step_group(verdict.steps) if verdict.stage != BOTH else f"{verdict.steps}x2"


def _decided(one: Standing, most: int) -> str:
    worse = [f"{label_of(*late.who[:2])} by {uncertain(late.difference, late.sd, '±')}" for late in one.worse]
    top = [label_of(*who[:2]) for who in one.top]
    return f"{_capped(top, most, ' = ')} best; worse: {_capped(worse, most)}"


def _capped(words: Sequence[str], most: int | None, between: str = ", ") -> str:
    """The first ones, and how many more there are."""
    hidden = len(words[most:]) if most is not None else 0
    if hidden == 1:  # its name is no longer than the remark
        hidden, most = 0, None
    return between.join(words[:most]) + (f" and {hidden} more" if hidden else "")
