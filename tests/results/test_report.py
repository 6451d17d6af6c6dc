from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys

import pytest
from pydantic import TypeAdapter

from mdtbench.base.errors import UsageError
from mdtbench.results.frames import rows_frame
from mdtbench.results.render_json import Report
from mdtbench.results.render_latex import escape as latex_escape
from mdtbench.results.render_rich import to_rich
from mdtbench.results.report import FORMATS, RunResults, report, tables

NASTY = r"a_b|c&d%#$^~{x}<y>\[bold]*`z"


def nasty_run(make):
    return [*make.run(), make.row(NASTY, value=None, error=f"no _file_ {NASTY} ± → 漢")]


@pytest.mark.parametrize("format", sorted(FORMATS))
def test_every_format_ends_in_a_newline_and_names_both_tables(make, format):
    text = report(RunResults(rows_frame(make.run())), format)
    assert text.endswith("\n")
    assert "VM+VD" in text
    assert "no VM, no VD" in text


def test_unknown_format(make):
    with pytest.raises(UsageError, match="Did you mean 'latex'"):
        report(RunResults(rows_frame(make.run())), "latx")


@pytest.mark.parametrize("width", [70, 120, 160])
def test_rich_fits_and_cuts_nothing(make, width):
    table = tables(RunResults(rows_frame(nasty_run(make))))[0]
    text = to_rich([table], width=width)
    assert max(map(len, text.split("\n"))) <= width
    assert "…" not in text
    for line in table.rows:
        for cell in line.cells:
            assert cell.text in text
    assert "51.00 ± 1.00*" not in text
    assert "11.00 ± 1.00*" in text  # the best of one step
    assert "\x1b" not in text


def test_rich_keeps_the_paper_apart(make):
    lines = to_rich(tables(RunResults(rows_frame(make.run())))[:1], width=160).split("\n")
    ours = next(line for line in lines if "VM+VD" in line)
    left, right = ours.split("│")
    assert "11.00 ± 1.00" in left
    assert "164.2" in right


def test_rich_colours_what_is_marked(make):
    text = to_rich(tables(RunResults(rows_frame(make.run())))[:1], color=True)
    assert "\x1b[1m11.00 ± 1.00\x1b[0m" in text
    assert "\x1b[1m31.00" not in text


def test_markdown_has_equal_columns(make):
    text = report(RunResults(rows_frame(nasty_run(make))), "markdown")
    *blocks, verdicts = text.split("### ")[1:]
    assert verdicts.startswith("Verdicts\n")
    for block in blocks:
        counts = [len(re.findall(r"(?<!\\)\|", line)) for line in block.split("\n") if line.startswith("|")]
        assert len(counts) > 10
        assert len(set(counts)) == 1
    assert "**11.00 ± 1.00**" in text
    assert r"a\_b\|c\&d%\#\$^\~\{x\}\<y\>\\\[bold\]\*\`z" in text
    assert "failed<sup>1</sup>" in text


def test_latex_escapes_and_balances(make):
    text = report(RunResults(rows_frame(nasty_run(make))), "latex")
    body = text.partition("\n")[2]
    assert not re.search(r"(?<!\\)_", body)
    assert not re.search(r"(?<!\\)#", body)
    assert body.isascii()  # arrows and ± are commands, what T1 lacks is a question mark
    bare = re.sub(r"\\[{}]", "", body)
    assert bare.count("{") == bare.count("}")
    assert body.count(r"\begin{table*}") == body.count(r"\end{table*}") == 2
    assert r"\textbf{11.00 $\pm$ 1.00}" in body
    columns = body.count("&", body.index("Method"), body.index("\n", body.index("Method"))) + 1
    for line in body.split(r"\end{table*}")[0].split("\n"):
        if line.endswith(r"\\") and "multicolumn" not in line:
            assert len(re.findall(r"(?<!\\)&", line)) == columns - 1


def test_latex_spelling():
    assert latex_escape("a_b & 5% \\ [x]") == r"a\_b \& 5\% \textbackslash{} {[}x{]}"


def test_csv_is_tidy_and_exact(make):
    rows = list(csv.DictReader(io.StringIO(report(RunResults(rows_frame(nasty_run(make))), "csv"))))
    cm = next(r for r in rows if (r["method"], r["metric"], r["steps"]) == ("cm", "FD_tiny2d", "1"))
    assert (cm["table"], cm["source"], cm["group"], cm["role"]) == ("table_2", "run", "1 step", "student")
    assert (float(cm["value"]), float(cm["sd"]), cm["n"], cm["nfe"]) == (51.0, 1.0, "3", "1")
    assert (cm["higher_is_better"], cm["n_ok"], cm["n_total"], cm["sd_train"]) == ("False", "64", "64", "")
    published = next(r for r in rows if (r["method"], r["metric"]) == ("cm", "FD_incep"))
    assert (published["source"], published["value"]) == ("paper", "20.06")
    failed = next(r for r in rows if r["method"] == NASTY)
    assert (failed["status"], failed["value"], failed["n_failed"]) == ("failed", "", "1")
    assert "漢" in failed["notes"]
    assert {r["metric"] for r in rows if r["source"] == "run"} == {"FD_tiny2d", "ULIP_tiny", "latency_s"}


def test_json_round_trips(make):
    rows = [*nasty_run(make), make.row("cm2", value=0.1 + 0.2)]
    text = report(RunResults(rows_frame(rows)), "json")
    assert TypeAdapter(Report).validate_json(text).tables == tables(RunResults(rows_frame(rows)))
    parsed = json.loads(text)
    assert parsed["schema_version"] == 3
    values = [cell["value"] for line in parsed["tables"][0]["rows"] for cell in line["cells"]]
    assert 0.1 + 0.2 in values


@pytest.mark.parametrize("format", sorted(FORMATS))
def test_every_format_says_what_was_lost(make, format):
    rows = [*make.run(), make.row("lossy", value=None, status="lost", error="the disk was full")]
    text = " ".join(report(RunResults(rows_frame(rows)), format).split())
    for words in ("lost: the disk was full; the same command tries again", "failed"):
        assert words in text
    if format == "csv":
        found = next(
            r
            for r in csv.DictReader(io.StringIO(report(RunResults(rows_frame(rows)), format)))
            if r["method"] == "lossy"
        )
        assert (found["status"], found["value"], found["n_failed"]) == ("failed", "", "1")


def test_results_import_no_torch():
    code = "import sys, mdtbench.results.report, mdtbench.results.grid; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", ["=cmd|' /C calc'!A0", "@SUM(1)", "+1", "-2+3"])
def test_csv_holds_no_formula(make, name):
    text = report(RunResults(rows_frame([*make.run(), make.row(name)])), "csv")
    cells = [cell for line in csv.reader(io.StringIO(text)) for cell in line]
    assert f"'{name}" in cells
    assert not [cell for cell in cells if cell.startswith(("=", "@")) or cell == name]
