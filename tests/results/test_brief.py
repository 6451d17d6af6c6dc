"""The screen that ends a run: what is on it, that it fits, and that all tables fit terminals of any usual width."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from mdtbench.results.brief import Screen, brief_tables
from mdtbench.results.frames import rows_frame
from mdtbench.results.render_rich import to_rich
from mdtbench.results.report import RunResults, with_verdicts

REST = "All tables: mdtbench report runs/today --all; with pictures: --format html."
WIDTHS = [60, 80, 100, 140]
METRICS = {
    "both": ("FD_tiny_gs", "FD_tiny_mesh", "ULIP_tiny_mesh"),
    "structure": ("FD_tiny2d", "ULIP_tiny", "IoU"),
}
STUDENTS = ("cm", "vm", "mdt")


def whole_run(make, methods=STUDENTS, *, swap: bool = False) -> RunResults:
    """Of both levels with three metrics each, 1 and 2 steps, 3 training and 3 generation seeds; VM+VD is best."""
    rng, rows = np.random.default_rng(0), []
    for stage, metrics in METRICS.items():
        for metric in reversed(metrics) if swap else metrics:
            for name in (*methods, "none", "teacher", "floor"):
                rows += _rows(make, rng, stage, metric, name)
    return RunResults(rows_frame(rows))


def _rows(make, rng, stage, metric, name):
    mean = 5.0 if name == "mdt" else 20.0
    at = {"stage": stage, "higher_is_better": False}
    for steps in (1, 2) if name not in ("teacher", "floor") else (25,):
        for train in range(3) if name in ("cm", "vm", "mdt", "pcm", "scm") else (None,):
            for seed in range(3):
                where = {"train_seed": train, "seed": seed, "steps": steps, "nfe": 2 * steps}
                where |= {"variant": "cfg"} if name == "none" else {}
                yield make.row(name, metric, mean + rng.standard_normal(), **at | where)
                if metric.startswith("FD_tiny2d") or metric.startswith("FD_tiny_gs"):
                    yield make.row(name, "latency_s", 0.3, unit="s", wall_s=0.3, **at | where)


def shown(run: RunResults, width: int) -> list[str]:
    return to_rich(brief_tables(run, REST), width=width).rstrip("\n").split("\n")


def test_a_run_of_three_methods_fits_a_screen(make):
    lines = shown(whole_run(make), 80)
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    assert lines[0] == "Run run: 64 test assets, 3 generation seeds, 3 training seeds"
    words = [line.split() for line in lines]
    [cm, _] = [line for line in words if line[:1] == ["CM"]]
    assert cm[1:4] == ["1x2", "2", "0.300"]
    assert len(cm) == 4 + 4  # two columns of each level
    text = " ".join(" ".join(lines).split())
    for metric in METRICS["both"][:2]:
        assert f"{metric}, 1x2: VM+VD best; worse: " in text
    assert "FD_tiny2d, 2 steps: VM+VD best; worse: " in text
    assert "ULIP_tiny_mesh" not in text
    assert text.endswith(REST)


@pytest.mark.parametrize("width", WIDTHS)
def test_no_cell_is_cut_and_controls_come_once(make, width):
    run = whole_run(make)
    lines = shown(run, width)
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    assert "…" not in text
    (table,) = brief_tables(run, REST)
    for line in table.rows:
        for cell in line.cells:
            assert cell.text in text
    blocks = text.count("Steps")
    assert blocks == (1 if width >= 80 else 2)
    assert text.count("Teacher") == blocks
    assert text.count("Undistilled") == 2 * blocks  # at 1 and at 2 steps
    assert "Floor" not in text


@pytest.mark.parametrize("width", WIDTHS)
def test_all_tables_fit_too(make, width):
    text = to_rich(with_verdicts(RunResults(rows_frame(make.whole_run()))), width=width)
    assert max(map(len, text.split("\n"))) <= width
    assert "…" not in text
    for words in ("Table 1. Quality", "Table 2. Distillation", "Table 3. Ablation", "Verdicts"):
        assert words in text


MANY = ("cm", "pcm", "scm", "vm", "mdt", "gd", "kd", "my_method", "another")
HEIGHT = 23  # of 24, one is the prompt's


def many(make, *, failing: int = 0) -> RunResults:
    """Nine students at five numbers of steps in both stages; the later in the list, the better: 51 lines."""
    rng, rows = np.random.default_rng(0), []
    for stage, metrics in METRICS.items():
        for metric in metrics:
            rows += [make.row("teacher", metric, 1.0, stage=stage, steps=25, seed=s, train_seed=None) for s in range(3)]
            for steps in (1, 2, 4, 8, 16):
                at = {"stage": stage, "steps": steps, "nfe": steps, "higher_is_better": False}
                rows += [make.row("none", metric, 90.0, seed=s, train_seed=None, **at) for s in range(3)]
                for rank, name in enumerate(reversed(MANY)):
                    for train, seed in ((t, s) for t in range(3) for s in range(3)):
                        value = None if rank < failing and steps > 1 else 10 * rank + rng.standard_normal()
                        at["error"] = f"{name} was not lucky at {steps}" if value is None else None
                        rows.append(make.row(name, metric, value, train_seed=train, seed=seed, **at))
    return RunResults(rows_frame(rows))


@pytest.mark.parametrize("width", WIDTHS)
def test_a_run_of_51_lines_fits_a_screen_and_says_what_is_folded(make, width):
    tables = brief_tables(many(make), REST, Screen(width, HEIGHT))
    text = to_rich(tables, width=width)
    lines = text.split("\n")
    assert text.count("\n") <= HEIGHT
    assert max(map(len, lines)) <= width
    (table,) = tables
    assert len(table.rows) >= 5
    assert len([line for line in lines if line.startswith("Teacher  ")]) == 1
    best = {(line.method, line.steps) for line in table.rows if line.method == "another"}
    assert len(best) >= 4  # of as many numbers of steps as lines allow
    hidden = 4 - len([column for column in table.columns if column.kind == "metric"])
    more = f"{51 - len(table.rows)} more lines" + (f", {hidden} more column{'s' * (hidden > 1)}" if hidden else "")
    verdicts = 5 * 4 - 3  # of each leading column and number of steps, folded ones too; three are told
    assert table.notes[-1] == f"{more}, {verdicts} more verdicts. {REST}"
    assert any("another best; worse: my_method by " in note and note.endswith("more.") for note in table.notes)


def test_on_a_tall_screen_nothing_is_folded(make):
    (table,) = brief_tables(many(make), REST, Screen(140, 100))
    assert len(table.rows) == 1 + 5 * 10
    assert table.notes[-1] == REST
    assert brief_tables(many(make), REST) == (table,)


def test_columns_go_before_lines_do(make):
    run = whole_run(make)
    (whole,) = brief_tables(run, REST, Screen(60, 60))
    assert len(whole.columns) == 4 + 4
    (table,) = brief_tables(run, REST, Screen(60, 25))
    assert [len(t.rows) for t in (whole, table)] == [9, 9]
    assert [column.key for column in table.columns[4:]] == ["FD_tiny_gs", "FD_tiny2d"]
    assert table.notes[-1] == f"2 more columns, 5 more verdicts. {REST}"


def test_of_many_failures_the_first_are_told(make):
    (table,) = brief_tables(many(make, failing=9), REST, Screen(80, HEIGHT))
    text = to_rich([table], width=80)
    assert text.count("\n") <= HEIGHT + 4  # reasons are longer than the lines that they take the place of
    assert len(table.footnotes) == 3
    assert {n for line in table.rows for cell in line.cells for n in cell.notes} == {1, 2, 3}
    assert "more failure" in table.notes[-1]


def test_values_that_are_all_the_same_are_said_to_be(make):
    rows = [make.row(name, "valid", 0.0, seed=s, higher_is_better=True) for name in ("cm", "vm") for s in range(3)]
    rows += [make.row(name, "IoU", s / 4, seed=s, higher_is_better=True) for name in ("cm", "vm") for s in range(3)]
    run = RunResults(rows_frame(rows))
    (table,) = brief_tables(run, REST)
    assert "No difference shown in valid (1 step: all are 0), IoU (1 step: all are equal)." in table.notes
    told = " ".join(with_verdicts(run)[-1].notes)
    assert "valid ↑, structure, 1 step: no difference shown: all are 0." in told
    assert "IoU ↑, structure, 1 step: no difference shown: all are equal." in told


def test_leading_columns_are_those_that_come_first(make):
    (table,) = brief_tables(whole_run(make, swap=True), REST)
    metrics = [column.key for column in table.columns if column.kind == "metric"]
    assert metrics == ["ULIP_tiny_mesh", "FD_tiny_mesh", "IoU", "ULIP_tiny"]


def test_marks_are_those_of_the_verdicts_and_ties_are_told(make):
    (table,) = brief_tables(whole_run(make), REST)
    marked = {(line.method, line.steps) for line in table.rows for cell in line.cells if cell.best}
    assert marked == {("mdt", 1), ("mdt", 2)}
    near = whole_run(make, ("cm", "vm"))
    (table,) = brief_tables(near, REST)
    assert {line.method for line in table.rows for cell in line.cells if cell.best} == {"cm", "vm"}
    [note] = [note for note in table.notes if note.startswith("No difference shown in ")]
    assert note.count("needs") == 8  # four columns at 1 and 2 steps
    assert not any("best; worse" in note for note in table.notes)


def test_single_values_tell_nothing_and_failures_are_explained(make):
    rows = [make.row("cm", value=1.5), make.row("vm", value=2.5), make.row("pcm", value=None)]
    (table,) = brief_tables(RunResults(rows_frame(rows)), REST)
    assert [line.cells[-1].text for line in table.rows] == ["1.500", "failed", "2.500"]
    assert table.footnotes == ("PCM, 1 step: failed: loss is not finite",)
    assert "No uncertainty, of one value each: FD_tiny2d (1 step)." in table.notes
    assert not any("*" in note for note in table.notes)
    assert any("One training seed" in note for note in table.notes)


def test_digits_follow_the_deviation(make):
    rows = [make.row("cm", value=20.0 + v, seed=s) for s, v in enumerate((-1.0, 0.0, 1.0))]
    rows += [make.row("vm", value=20.0 + 0.05 * v, seed=s) for s, v in enumerate((-1.0, 0.0, 1.0))]
    (table,) = brief_tables(RunResults(rows_frame(rows)), REST)
    assert [line.cells[-1].text for line in table.rows] == ["20.0±1.0", "20.00±0.05"]


def oracle_run(make, problems: tuple[str, ...]) -> RunResults:
    """Two methods and the teacher, one and two steps, three training seeds; cm is better in `valid`, not in SW2."""
    rng, rows = np.random.default_rng(0), []
    for problem in problems:
        for metric, mean in {"valid": 0.5, "SW2": 0.25}.items():
            at = {"stage": f"oracle/{problem}", "higher_is_better": metric == "valid", "n_total": 64}
            rows.append(make.row("teacher", metric, 0.9, steps=25, nfe=25, train_seed=None, **at))
            for name, steps, seed in product(("cm", "vm"), (1, 2), range(3)):
                value = mean + (0.1 if name == "cm" and metric == "valid" else 0.0) + rng.standard_normal() / 100
                rows.append(
                    make.row(name, metric, value, steps=steps, nfe=steps, train_seed=seed, sampler="euler", **at)
                )
    return RunResults(rows_frame(rows))


def test_a_run_with_exact_answers_fits_a_screen_and_has_its_verdicts(make):
    run = oracle_run(make, ("pictures",))
    lines = shown(run, 80)
    assert len(lines) <= 24
    assert lines[0] == "Run run: 64 samples, 1 generation seed, 3 training seeds"
    text = " ".join(" ".join(lines).split())
    assert "s per" not in text  # nothing was timed
    for steps in ("1 step", "2 steps"):
        assert f"valid, {steps}: CM best; worse: VM by " in text
    assert "No difference shown in SW2 (1 step: needs " in text
    assert "±: sd over training seeds." in text
    verdicts = with_verdicts(run)[-1]
    assert verdicts.name == "verdicts"
    assert verdicts.notes[0].startswith("valid ↑, pictures, 1 step: CM is best; worse: VM by ")
    assert not any("generation seeds" in note for note in verdicts.notes)


def test_of_several_problems_columns_and_verdicts_name_theirs(make):
    lines = shown(oracle_run(make, ("plane", "modes")), 80)
    text = " ".join(" ".join(lines).split())
    assert text.count("plane") > 2
    assert "plane valid, 1 step: CM best; worse: VM by " in text
    assert "modes valid, 2 steps: CM best; worse: VM by " in text


def test_each_problem_s_column_has_its_own_values(make):
    """Columns of one metric in several problems have one key."""
    values = {"gaussian": 0.125, "product": 0.25, "modes": 0.5}
    at = {"steps": 25, "nfe": 25, "train_seed": None, "n_total": 64, "higher_is_better": False}
    rows = [make.row("teacher", "SW2", value, stage=f"oracle/{name}", **at) for name, value in values.items()]
    [line] = [line for line in shown(RunResults(rows_frame(rows)), 80) if line.startswith("Teacher")]
    assert [float(word) for word in line.split()[3:]] == list(values.values())
