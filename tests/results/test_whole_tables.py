"""Tables of whole assets: which rows they hold, what they cost, what is marked, and that no line is lost."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from mdtbench.base.errors import UsageError
from mdtbench.results.frames import assets_frame, rows_frame
from mdtbench.results.render_json import Report
from mdtbench.results.render_rich import to_rich
from mdtbench.results.report import FORMATS, RunResults, report, tables
from mdtbench.results.tables import Measured
from mdtbench.results.verdicts import verdicts
from mdtbench.results.whole_tables import is_whole, stages_apart, table_1, whole_tables


def measured(rows) -> Measured:
    frame = rows_frame(rows)
    return Measured.of(frame, tuple(verdicts(frame, assets_frame(()))))


HERE = Path(__file__).parent
NAMES = ["table_1", "table_2", "table_3", "stage_structure", "stages_apart"]
COSTS = {"structure_s", "slat_s", "decode_s", "latency_s"}


@pytest.fixture
def shown(make):
    """The tables of a whole run by name."""
    return {table.name: table for table in tables(RunResults(rows_frame(make.whole_run())))}


def of_stage(rows, stage):
    return [row for row in rows if row.stage == stage]


def values(table, key):
    """By label cells (method and, in the stages apart, who samples what) and steps."""
    labels = [column.key for column in table.columns if column.kind == "label"]
    names = zip(*(table.column(label) for label in labels), strict=True)
    cells = zip(names, table.rows, table.column(key), strict=True)
    return {(*(cell.text for cell in name), line.steps): cell.value for name, line, cell in cells}


def marked(table, key):
    cells = zip(table.rows, table.column(key), strict=True)
    return [(line.group, line.method) for line, c in cells if c.best]


def test_the_order_of_tables_and_what_is_whole(make, shown):
    assert list(shown) == NAMES
    assert not is_whole(rows_frame(make.run()))
    assert is_whole(rows_frame([*make.run(), make.row(stage="teacher+slat")]))


@pytest.mark.parametrize(("format", "ending"), [("markdown", "md"), ("csv", "csv")])
def test_structures_alone_are_reported_as_before_whole_assets(make, format, ending):
    assert report(RunResults(rows_frame(make.run())), format) == (HERE / f"structure_run.{ending}").read_text(
        encoding="utf-8"
    )


def test_table_1_has_a_line_per_sampled_method_and_steps(shown):
    table = shown["table_1"]
    assert [(group, [line.cells[0].text for line in lines]) for group, lines in table.groups()] == [
        ("Teacher", ["Teacher"]),
        ("1 step per stage", ["CM", "PCM", "sCM", "VM", "VM+VD", "Undistilled, CFG"]),
        ("2 steps per stage", ["CM", "PCM", "sCM", "VM", "VM+VD", "Undistilled, CFG"]),
    ]
    assert [cell.text for cell in table.column("steps")] == ["25x2", *["1x2"] * 6, *["2x2"] * 6]
    assert [cell.value for cell in table.column("nfe")] == [88, *[2] * 6, *[4] * 6]
    assert [column.heading for column in table.columns] == [
        "Method",
        "Steps",
        "NFE (both stages)",
        "structure (s/asset) ↓",
        "SLAT (s/asset) ↓",
        "decode (s/asset) ↓",
        "total (s/asset) ↓",
        "FD_gs ↓",
        "ULIP_tiny (x100) ↑",
        "ok/n",
        "paper: FD_incep ↓",
        "paper: FD_dinov2 ↓",
        "paper: ULIP_I ↑",
        "paper: seconds (s) ↓",
    ]


def test_seconds_are_split_and_never_metrics(shown):
    for table in shown.values():
        assert not COSTS & {column.key for column in table.columns if column.kind != "cost"}
    per_step = {"structure_s": 0.125, "slat_s": 0.25, "decode_s": 0.5, "latency_s": 0.875}
    for key, seconds in per_step.items():
        assert [cell.value for cell in shown["table_1"].column(key)] == [s * seconds for s in (25, *[1] * 6, *[2] * 6)]
    assert values(shown["table_2"], "latency_s")["CM", 2] == 1.75


def test_table_1_shows_the_papers_table_1_alone(shown):
    table = shown["table_1"]
    seconds = {k: v for k, v in values(table, "paper:seconds").items() if v is not None}
    assert seconds == {("Teacher", 25): 6.1, ("VM+VD", 1): 0.68, ("VM+VD", 2): 0.94}
    scores = {k: v for k, v in values(table, "paper:FD_incep").items() if v is not None}
    assert scores == {("Teacher", 25): 11.80, ("VM+VD", 1): 18.09, ("VM+VD", 2): 14.16}
    assert values(shown["table_2"], "paper:FD_incep")["CM", 1] == 20.06


@pytest.mark.parametrize("name", ["table_1", "table_2", "table_3"])
def test_whole_tables_hold_no_row_of_another_stage(make, shown, name):
    alone = tables(RunResults(rows_frame(of_stage(make.whole_run(), "both"))))
    assert shown[name] == {table.name: table for table in alone}[name]
    found = values(shown[name], "FD_gs")
    assert found["VM+VD", 1] == 100.5  # 100 and 101; of one stage alone it is 900.5 or 1900.5
    assert values(shown[name], "ULIP_tiny")["VM+VD", 2] == 69.0  # of structures 39.1
    assert "FD_tiny2d" not in [column.key for column in shown[name].columns]


def test_tables_2_and_3_have_the_papers_lines_at_steps_spelled_its_way(shown):
    block = ["1 step per stage", "2 steps per stage", "Controls"]
    for name, first in (("table_2", "CM"), ("table_3", "no VM, no VD (undistilled)")):
        assert [group for group, _ in shown[name].groups()] == block
        assert shown[name].rows[0].cells[0].text == first
        assert shown[name].column("steps")[0].text == "1x2"
        assert values(shown[name], "nfe")["VM+VD", 2] == 4
    controls = [line.cells[0].text for line in shown["table_2"].rows if line.role == "control"]
    assert controls == [
        "Floor (held-out reference)",
        "Ground truth",
        "Ground truth, shuffled pairs",
        "Reconstruction (VAE)",
        "Teacher",
        *["Undistilled, CFG"] * 2,
    ]


def test_the_structure_table_is_of_structures_with_every_method(make, shown):
    table = shown["stage_structure"]
    assert table == whole_tables(measured([*make.run(), make.row(stage="both")]))[3]
    assert {(line.method, line.variant, line.steps) for line in table.rows} == {
        (row.method, row.variant, row.steps) for row in make.run()
    }
    assert values(table, "ULIP_tiny")["VM", 1] == pytest.approx(38.1)
    assert [cell.text for cell in table.column("steps")][:6] == ["1"] * 5 + ["2"]
    assert not any(column.kind == "paper" for column in table.columns)
    assert marked(table, "FD_tiny2d") == [("1 step", "mdt"), ("2 steps", "mdt")]


def test_stages_apart_stand_side_by_side_below_the_teacher(shown):
    table = shown["stages_apart"]
    order = [("own", "own", "{}x2"), ("own", "teacher's", "{}"), ("teacher's", "own", "{}")]
    block = ["CM", "VM+VD", "Undistilled, CFG"]
    lines = [
        (method, structure, slat, spelled.format(steps))
        for steps in (1, 2)
        for method in block
        for structure, slat, spelled in order
    ]
    assert [tuple(cell.text for cell in line.cells[:4]) for line in table.rows] == [
        ("Teacher", "teacher's", "teacher's", "25x2"),
        *lines,
    ]
    fd, nfe = values(table, "FD_gs"), values(table, "nfe")
    assert fd["Teacher", "teacher's", "teacher's", 25] == 7.0
    assert fd["CM", "own", "own", 1] == 500.5
    assert fd["CM", "own", "teacher's", 1] == 1000 - 500 + 0.5
    assert fd["CM", "teacher's", "own", 2] == 2000 - 250 + 0.5
    assert (nfe["CM", "own", "own", 2], nfe["CM", "own", "teacher's", 2], nfe["CM", "teacher's", "own", 1]) == (
        4,
        46,
        45,
    )


def test_best_of_stages_apart_is_among_lines_with_the_same_stages(shown):
    table = shown["stages_apart"]
    for steps, group in ((1, "1 step per own stage"), (2, "2 steps per own stage")):
        mine = [line for line in table.rows if line.steps == steps]
        index = [column.key for column in table.columns].index("FD_gs")
        assert {line.group for line in mine} == {group}
        found = {(line.method, *(c.text for c in line.cells[1:3])): line.cells[index] for line in mine}
        # Both together have the better mdt, each alone the better cm; the undistilled one is best but no student.
        assert [who for who, cell in found.items() if cell.best] == [
            ("cm", "own", "teacher's"),
            ("cm", "teacher's", "own"),
            ("mdt", "own", "own"),
        ]


def test_every_line_of_whole_assets_is_in_a_table(make):
    rows = [*make.whole_run(), make.row("plugin", "FD_gs", stage="both"), make.row("kd", "FD_gs", stage="teacher+slat")]
    rows += [make.row("cm", "FD_gs", 3.0, variant="v", sampler="euler", extra_sampler=True, stage=stage, steps=2)
             for stage in ("both", "structure+teacher")]  # fmt: skip
    found = {
        table.name: {(line.method, line.variant, line.steps) for line in table.rows}
        for table in whole_tables(measured(rows))
    }
    for stage, names in {"both": NAMES[:3], "teacher+slat": NAMES[4:], "structure+teacher": NAMES[4:]}.items():
        wanted = {(row.method, row.variant, row.steps) for row in of_stage(rows, stage)}
        assert wanted <= set().union(*(found[name] for name in names))
    apart = stages_apart(measured(rows))
    assert ("CM [v], euler", "own", "teacher's", 2) in values(apart, "FD_gs")
    assert not any(line.method == "plugin" for line in apart.rows)  # it has nothing to compare


def test_what_a_run_lacks_has_no_table(make):
    both, slat = make.row(stage="both"), make.row(stage="teacher+slat")
    assert [table.name for table in whole_tables(measured([both]))] == NAMES[:3]
    assert [table.name for table in whole_tables(measured([both, slat]))] == [*NAMES[:3], NAMES[4]]
    assert [table.name for table in whole_tables(measured([slat]))] == NAMES[4:]
    lone = table_1(measured([make.row("floor", stage="both", steps=None)]))
    assert lone.rows == ()
    assert [table.name for table in whole_tables(measured([both, make.row(stage="slat")]))] == [
        *NAMES[:3],
        "stage_slat",
    ]


def test_failures_say_in_which_stage(make):
    rows = [make.row("cm", value=None, stage=stage) for stage in ("both", "structure+teacher", "teacher+slat")]
    rows += [make.row("cm", "latency_s", None, stage="both"), make.row("cm", "slat_s", None, stage="both")]
    assert table_1(measured(of_stage(rows, "both"))).footnotes == ("CM, 1x2: failed: loss is not finite",)
    assert [cell.text for cell in table_1(measured(of_stage(rows, "both"))).rows[0].cells[3:7]] == [
        "-",
        "failed",
        "-",
        "failed",
    ]
    assert stages_apart(measured(rows)).footnotes == (
        "CM, 1x2: failed: loss is not finite",
        "CM, 1 step, SLAT by the teacher: failed: loss is not finite",
        "CM, 1 step, structure by the teacher: failed: loss is not finite",
    )


@pytest.mark.parametrize("changes", [{"metric_version": 2}, {"split": "train"}, {"unit": "x100"}])
def test_stages_of_different_definitions_are_refused(make, changes):
    with pytest.raises(UsageError, match="more than one"):
        stages_apart(measured([make.row(stage="both"), make.row(stage="teacher+slat", **changes)]))


@pytest.mark.parametrize("format", sorted(FORMATS))
def test_every_format_has_all_tables(make, format):
    text = report(RunResults(rows_frame(make.whole_run())), format)
    assert text.endswith("\n")
    if format == "csv":
        assert list(dict.fromkeys(line["table"] for line in csv.DictReader(io.StringIO(text)))) == NAMES
    elif format == "json":
        assert [table["name"] for table in json.loads(text)["tables"]] == NAMES
        assert TypeAdapter(Report).validate_json(text).tables == tables(RunResults(rows_frame(make.whole_run())))
    else:
        titles = ["Quality against cost", "Structure stage alone", "Stages apart: which stage loses what"]
        assert all(text.count(title) == 1 for title in titles)
        assert "25x2" in text.replace(r"$\times$", "x")
    if format == "latex":
        assert text.count(r"\begin{table*}") == len(NAMES)


def test_csv_tells_stages_and_parts_of_the_time_apart(make):
    lines = list(csv.DictReader(io.StringIO(report(RunResults(rows_frame(make.whole_run())), "csv"))))
    apart = {
        line["label"]: (line["value"], line["nfe"])
        for line in lines
        if (line["table"], line["method"], line["metric"], line["steps"]) == ("stages_apart", "cm", "FD_gs", "1")
    }
    assert apart == {
        "CM, own, own": ("500.5", "2"),
        "CM, own, teacher's": ("500.5", "45"),
        "CM, teacher's, own": ("1500.5", "45"),
    }
    first = [line for line in lines if (line["table"], line["method"], line["steps"]) == ("table_1", "mdt", "1")]
    ours = {line["metric"]: line["value"] for line in first if line["source"] == "run"}
    assert ours == {
        "structure_s": "0.125",
        "slat_s": "0.25",
        "decode_s": "0.5",
        "latency_s": "0.875",
        "FD_gs": "100.5",
        "ULIP_tiny": "69.0",
    }


@pytest.mark.parametrize("width", [70, 120])
def test_narrow_panels_still_say_whose_stages(make, width):
    text = to_rich([stages_apart(measured(make.whole_run()))], width=width)
    assert max(map(len, text.split("\n"))) <= width
    headings = re.findall(r"^Method .*$", text, flags=re.MULTILINE)
    assert headings
    assert all(re.match(r"Method +Structure +SLAT +Steps", heading) for heading in headings)
