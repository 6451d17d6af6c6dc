"""What the index says first: which method is best in the leading metrics, by how much, and what that means."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from pandas import DataFrame

from ..cells import Column, decimals_of
from ..leading import LEADING, leading_metrics
from ..places import CONTROLS, keyed, label_of, problem_of, step_group
from ..rows import BOTH, EVALUATION, STRUCTURE
from ..tables import Table
from ..verdict_table import cautions
from ..verdicts import Standing, Verdict, Who, number, uncertain

LEVELS = (BOTH, EVALUATION, STRUCTURE)  # answers are of the first that has any
STEP_COUNTS = 2  # numbers of steps, the fewest first
NAMED = 4  # methods in a sentence; the others are counted
BEST_NAMED, WORSE_NAMED = 2, 3  # with their values, where some are worse
BESIDE = ("teacher", "none")  # controls that answers name
WHAT = {EVALUATION: "system"}


@dataclass(frozen=True)
class Answer:
    """One metric at one number of steps. decided: whether a method is shown to be worse. beside: of controls."""

    metric: str
    where: str
    says: str
    decided: bool
    detail: str
    beside: str = ""


@dataclass(frozen=True)
class Answers:
    """headline: of all answers in one sentence. cautions: what they mean, and what is not in them."""

    headline: str
    answers: tuple[Answer, ...]
    cautions: tuple[str, ...] = ()


def answers(found: Sequence[Verdict], rows: DataFrame, tables: Sequence[Table]) -> Answers:
    """Of the verdicts; where there are none, the first values of what was measured.

    Args:
        found: all of the run.
    """
    shown = _leading(found, rows)
    if not shown:
        alone = {line.cells[0].text for table in tables[:1] for line in table.rows if line.method not in CONTROLS}
        return Answers(f"Values of {alone.pop()}" if len(alone) == 1 else "Values", tuple(_values(tables)))
    means, what = _means(rows), _what(shown[0])
    said = headline([one.standing for one in shown], what)
    return Answers(said, tuple(_answer(one, means) for one in shown), tuple(cautions(shown)))


def headline(found: Sequence[Standing], what: str = "method") -> str:
    """Who is best in all that differ, in one sentence."""
    decided = [one for one in found if one.worse]
    if not decided:
        return f"No {what} is shown to be better than another."
    everywhere = [who for who in decided[0].top if all(who[:2] in [other[:2] for other in one.top] for one in decided)]
    if not everywhere:
        return f"No {what} is best in all that is compared."
    tied = any(len(one.top) > len(everywhere) for one in decided)
    said = f"{_listed([_label(who) for who in everywhere])} {'are' if len(everywhere) > 1 else 'is'} "
    said += "best, or cannot be told from the best" if tied else "best"
    if len(decided) < len(found):
        said += f", where a difference is shown ({len(decided)} of {len(found)})"
    return f"{said}."


def _leading(found: Sequence[Verdict], rows: DataFrame) -> list[Verdict]:
    """Of the first level: its leading metrics at the fewest steps."""
    problems = dict.fromkeys(one.stage for one in found if problem_of(one.stage))
    for level in (*LEVELS, *problems):
        mine = [one for one in found if one.stage == level]
        judged = rows["metric"].isin({one.metric for one in mine})
        metrics = leading_metrics(rows[(rows["stage"] == level) & ~rows["extra_sampler"] & judged])
        steps = sorted({one.steps or 0 for one in mine})[:STEP_COUNTS]
        shown = [one for one in mine if one.metric in metrics and (one.steps or 0) in steps]
        if shown:
            return sorted(shown, key=lambda one: (one.steps or 0, metrics.index(one.metric)))
    return []


def _answer(found: Verdict, means: Mapping[tuple, float]) -> Answer:
    standing = found.standing
    heading = Column(found.metric, found.metric, "metric", found.higher_is_better, found.unit).heading
    where = step_group(found.steps, found.stage) if found.steps is not None else ""
    return Answer(
        heading, where, _says(standing, _what(found)), bool(standing.worse), _detail(found), _beside(found, means)
    )


def _says(found: Standing, what: str) -> str:
    if found.alike:
        return f"{found.alike[:1].upper()}{found.alike[1:]}"
    if not found.worse:
        return "No difference shown" if found.smallest is not None else f"One value per {what}, so no uncertainty"
    return f"{_listed([_label(who) for who in found.top])} {'are' if found.tied else 'is'} best"


def _detail(found: Verdict) -> str:
    """The values of the best; who is worse, and by how much; what could have been shown."""
    standing, means = found.standing, found.race.means
    decimals = _decimals(found)
    top = [f"{_label(who)} {means[who]:.{decimals}f}" for who in standing.top]
    worse = [f"{_label(late.who)} by {uncertain(late.difference, late.sd)}" for late in standing.worse]
    told = f"{_first(top, BEST_NAMED)}; worse: {_first(worse, WORSE_NAMED)}" if worse else _first(top, NAMED)
    reach = f" Differences of {number(standing.smallest)} and more would show." if standing.smallest else ""
    return f"{told}.{reach}"


def _first(words: Sequence[str], most: int) -> str:
    """And how many more there are."""
    return ", ".join(words[:most]) + (f", {len(words) - most} more" if len(words) > most else "")


def _beside(found: Verdict, means: Mapping[tuple, float]) -> str:
    """What the teacher and the undistilled score, and whether that beats all students."""
    decimals, sign = _decimals(found), found.race.better
    best = next(iter(found.race.means.values()))
    told = []
    for (method, variant, order, stage, metric), value in means.items():
        if (stage, metric) == (found.stage, found.metric) and (method == "teacher" or order == (found.steps or 0)):
            ahead = method != "teacher" and sign * (value - best) > 0
            told.append(f"{label_of(method, variant)} {value:.{decimals}f}{', better than all students' * ahead}")
    return f"{'; '.join(told)}." if told else ""


def _means(rows: DataFrame) -> Mapping[tuple, float]:
    """Of teacher and undistilled: by method, variant, steps, stage and metric."""
    mine = keyed(rows[rows["method"].isin(BESIDE) & ~rows["extra_sampler"]])
    by = ["method", "variant", "order", "stage", "metric"]
    means = mine.groupby(by, sort=False)["value"].mean().dropna().to_dict()
    return dict(sorted(means.items(), key=lambda one: BESIDE.index(one[0][0])))  # type: ignore[index]


def _values(tables: Sequence[Table]) -> Iterator[Answer]:
    """Of the first table, where there is nobody to compare with: its one system's leading metrics."""
    lines = [line for table in tables[:1] for line in table.rows if line.method not in CONTROLS]
    if len(lines) != 1:
        return
    cells = zip(tables[0].columns, lines[0].cells, strict=True)
    known = [(column, cell) for column, cell in cells if column.kind == "metric" and cell.value is not None]
    for column, cell in known[: LEADING + 1]:
        beside = [
            f"{line.cells[0].text} {line.cells[tables[0].columns.index(column)].text}"
            for line in tables[0].rows
            if line.method in CONTROLS and line.cells[tables[0].columns.index(column)].value is not None
        ]
        yield Answer(column.heading, "", cell.text, decided=True, detail="", beside="; ".join(beside))


def _decimals(found: Verdict) -> int:
    """Digits after the point that show the difference which could be shown."""
    values = list(found.race.means.values())
    scale = found.standing.smallest or max(map(abs, values), default=0.0) / 100
    return decimals_of(scale, significant=2) if scale else 1


def _listed(names: Sequence[str]) -> str:
    if len(names) > NAMED:
        return f"{', '.join(names[: NAMED - 1])} and {len(names) - NAMED + 1} more"
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def _label(who: Who) -> str:
    return label_of(*who[:2])


def _what(found: Verdict) -> str:
    return WHAT.get(found.stage, "method")
