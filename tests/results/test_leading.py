"""Which metrics summaries lead with: the same on the terminal, in the page's verdicts and in its first charts."""

from __future__ import annotations

from types import ModuleType

import pytest

from mdtbench.results.brief import brief_tables
from mdtbench.results.figures.style import looks_of_run
from mdtbench.results.frames import rows_frame
from mdtbench.results.html.answers import answers
from mdtbench.results.html.pareto import first_charts
from mdtbench.results.leading import leading, leading_metrics
from mdtbench.results.pareto import plotted_tables
from mdtbench.results.report import RunResults, tables
from mdtbench.results.verdicts import verdicts


@pytest.mark.parametrize(
    ("races", "found"),
    [
        ({"a": [[1, 2]], "b": [[3, 4]], "c": [[5, 6]]}, ["a", "b"]),
        ({"a": [[0, 0]], "b": [[3, 4]], "c": [[5, 6]]}, ["b", "c"]),
        ({"a": [[0, 0], [1, 1]], "b": [[3, 4]], "c": [[5, 6]]}, ["b", "c"]),
        ({"a": [[0, 0], [1, 2]], "b": [[3, 4]], "c": [[5, 6]]}, ["a", "b"]),
        ({"a": [[0, 0]], "b": [[3, 4]], "c": []}, ["a", "b"]),
        ({"a": [[0, 0]], "b": [[7, 7]], "c": [[5, 6]]}, ["a", "c"]),
        ({"a": [[0, 0]], "b": [[7, 7]], "c": [[1, 1]]}, ["a", "b"]),
        ({"a": [[0, 0]]}, ["a"]),
        ({}, []),
    ],
)
def test_metrics_that_tell_lines_apart_come_first(races: dict[str, list[list[float]]], found: list[str]):
    assert leading(races) == found


METRICS = {"valid": (0.0, 0.0), "IoU": (0.5, 0.7), "coverage": (0.1, 0.1), "ULIP": (40.0, 30.0), "FD": (3.0, 4.0)}


def run_of(make: ModuleType, methods: tuple[str, ...] = ("cm", "vm")) -> RunResults:
    """Whole assets; of all methods `valid` and `coverage` are equal at one step, and at two."""
    rows = []
    for metric, means in METRICS.items():
        for seed, steps in ((seed, steps) for seed in range(3) for steps in (1, 2)):
            for name, mean in zip(methods, means, strict=False):
                known = {"stage": "both", "higher_is_better": True, "nfe": 2 * steps, "steps": steps, "seed": seed}
                rows.append(make.row(name, metric, (mean + seed / 100 * (mean > 0)) * steps, **known))
        for seed in range(3):
            none = {"stage": "both", "train_seed": None, "seed": seed, "higher_is_better": True}
            rows.append(make.row("none", metric, 0.0, nfe=2, **none))
            rows.append(make.row("teacher", metric, 0.5, nfe=50, steps=25, **none))
    return RunResults(rows_frame(rows))


def test_terminal_verdicts_and_charts_lead_with_the_same(make: ModuleType):
    run = run_of(make)
    (table,) = brief_tables(run, "")
    assert [column.key for column in table.columns if column.kind == "metric"] == ["IoU", "ULIP"]
    said = answers(tuple(verdicts(run.rows, run.assets)), run.rows, tables(run))
    assert [one.metric for one in said.answers] == ["IoU ↑", "ULIP ↑"] * 2  # at one and two steps
    plots = plotted_tables(run.rows, tables(run))
    charts = first_charts(plots, looks_of_run(plots, ()))
    assert [chart.partition("<title")[2].partition(" against ")[0].rpartition(">")[2] for chart in charts] == [
        "IoU",
        "ULIP",
    ]


def test_one_student_alone_is_compared_with_the_teacher(make: ModuleType):
    run = run_of(make, ("vm",))
    assert leading_metrics(run.rows) == ["valid", "IoU"]  # valid: 0 of the student, 0.5 of the teacher
