"""LaTeX tables compile, fit the page and can be read. Everything else about them is in test_report.py."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from mdtbench.results.frames import assets_frame, rows_frame
from mdtbench.results.render_latex import BREAK, LAST_T1_LETTER, escape, label, to_latex
from mdtbench.results.report import RunResults, tables
from mdtbench.results.tables import Measured, table_2
from mdtbench.results.verdicts import verdicts


def measured(rows) -> Measured:
    frame = rows_frame(rows)
    return Measured.of(frame, tuple(verdicts(frame, assets_frame(()))))


DOCUMENT = (
    "\\documentclass[{options}]{{article}}\n\\usepackage[T1]{{fontenc}}\\usepackage{{booktabs}}\\usepackage{{graphicx}}\n"
    "\\begin{{document}}\n{body}\n\\end{{document}}\n"
)
OVERFULL = 5.0  # points: less is not seen
LONG = "a_very_long_method_name_without_any_space_" * 4
NAMES = (
    r"\input{x} $a_b^c$ 5% #1 & ~{[}]|\\\\ \"`<>",
    "漢字 β-VM ± ﬁne Ħŧ ſ naïve Łódź →",
    "x\x1b[31m\x00\x85\u200b\x7f",
    LONG,
)
needs_latex = pytest.mark.skipif(not shutil.which("pdflatex"), reason="pdflatex is not installed")


def awkward_run(make):
    rows = make.whole_run()
    for i, name in enumerate(NAMES):
        for stage in ("structure", "both"):
            at = {"stage": stage, "variant": name[:20], "note": f"{name} is a name"}
            rows.append(make.row(f"m{i} {name}", "FD_gs" if stage == "both" else "FD_tiny2d", 1234.5 + i, **at))
            rows.append(make.row(f"m{i} {name}", "ULIP_tiny", None, error=f"because of {name}", unit="x100", **at))
    return rows


def long_metric_run(make):
    rows = make.run()
    return rows + [make.row(row.method, LONG, 2.5, steps=row.steps) for row in rows if row.metric == "FD_tiny2d"][:1]


RUNS = {
    "structure": lambda make: make.run(),
    "whole": lambda make: make.whole_run(),
    "awkward": awkward_run,
    "long metric": long_metric_run,
}


def compiled(folder, body: str, options: str = "") -> str:
    """The log of pdflatex; the document is doc.pdf."""
    (folder / "doc.tex").write_text(DOCUMENT.format(options=options, body=body), encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-no-shell-escape", "doc.tex"]
    subprocess.run(command, cwd=folder, capture_output=True, timeout=120, check=False)
    return (folder / "doc.log").read_text(encoding="utf-8", errors="replace")


def check_log(log: str) -> None:
    assert not [line for line in log.splitlines() if line.startswith("!")]
    assert "Missing character" not in log
    assert [w for w in re.findall(r"Overfull \\[hv]box \(([0-9.]+)pt", log) if float(w) > OVERFULL] == []


@needs_latex
@pytest.mark.parametrize("options", ["", "twocolumn"])
@pytest.mark.parametrize("name", RUNS)
def test_tables_compile_and_fit(make, tmp_path, name, options):
    text = to_latex(tables(RunResults(rows_frame(RUNS[name](make)))))
    check_log(compiled(tmp_path, text, options))
    if shutil.which("pdftotext"):
        shown = subprocess.run(["pdftotext", "-layout", "doc.pdf", "-"], cwd=tmp_path, capture_output=True, check=True)
        lines = [line.split() for line in shown.stdout.decode().splitlines()]
        vm = next(line for line in lines if line[:2] in (["VM", "1"], ["VM", "1×2"]))
        # FD: 20 and the mean of seeds 0, 1 and 2; of whole assets 200 and the mean of seeds 0 and 1.
        assert {("21.00", "±", "1.00"), ("200.5", "±", "0.7")} & {*zip(vm, vm[1:], vm[2:], strict=False)}
        assert any(
            line[0] == "sCM" and line[-3:] == ["19.29", "186.0", "35.04"] for line in lines if line
        )  # the paper's


@needs_latex
def test_every_letter_compiles(tmp_path):
    letters = [chr(code) for code in range(ord(LAST_T1_LETTER) + 300)]
    check_log(compiled(tmp_path, "\n\n".join(f"x{escape(letter)}x" for letter in letters)))


@pytest.mark.parametrize(
    ("text", "spelled"),
    [
        ("β-VM Ω", r"$\beta$-VM $\Omega$"),
        ("λ", r"$\lambda$"),
        ("ﬁ ſ", "fi s"),
        ("漢", "?"),
        ("Ħ", "?"),
        ("é Ł", "é Ł"),
        ("a\x1bb", "a?b"),
        ("`", r"\textasciigrave{}"),
    ],
)
def test_letters(text, spelled):
    assert escape(text) == spelled


def test_names_are_set_as_the_paper_does(make):
    text = to_latex(tables(RunResults(rows_frame(make.whole_run()))))
    first = text.partition(r"\end{table*}")[0]
    assert r"\caption{Quality against cost}" in first
    assert first.index(r"\caption") < first.index(r"\toprule") < first.index(r"\midrule") < first.index(r"\bottomrule")
    assert r"FD\textsubscript{incep} $\downarrow$" in first
    assert r"FD\textsubscript{gs} $\downarrow$" in first
    assert r"\emph{1 step per stage}" in first
    assert r"VM+VD & 1$\times$2 & 2 & 0.875 & \textbf{100.5 $\pm$ 0.7} &" in first
    assert r"(\texttimes100)" in first or r"($\times$100)" in first


def test_only_the_sum_of_the_time_is_shown(make):
    first, *_ = tables(RunResults(rows_frame(make.whole_run())))
    assert {"structure_s", "slat_s", "decode_s", "latency_s"} <= {column.key for column in first.columns}
    heading = next(line for line in to_latex([first]).splitlines() if line.startswith("Method &"))
    assert "total" in heading
    assert not re.search("structure|SLAT|decode", heading)


def test_notes_are_short_and_speak_of_what_is_seen(make):
    text = to_latex([table_2(measured(make.run()))])
    assert "Bold: all that the verdicts cannot tell from the best student of the block." in text
    assert "arXiv:2509.04406v1; measured under another protocol" in text
    assert text.count(r"\scriptsize") == 1


def test_long_names_are_broken_not_cut(make):
    text = to_latex([table_2(measured([*make.run(), make.row(LONG, note="n")]))])
    cell = next(line for line in text.splitlines() if line.startswith(r"\begin{tabular}[t]"))
    inside = cell.partition("@{}}")[2].partition(r"\end{tabular}")[0].replace(r"\\", "")
    assert inside == escape(LONG)
    assert max(len(line.replace(r"\_", "_")) for line in cell.partition(r"\end{tabular}")[0].split(r"\\")[1:]) <= 34
    note = text.partition(r"\scriptsize")[2].replace(BREAK, "")
    assert escape(LONG) in note


def test_negative_values_have_a_minus(make):
    text = to_latex([table_2(measured([*make.run(), make.row("worse", value=-2.5)]))])
    assert re.search(r"worse & .* & .*\$-\$2\.50*\}? &", text)


def test_heads_break_no_word_and_say_apart_that_weights_are_random(make):
    common = {"stage": "evaluation", "steps": 5, "train_seed": None}
    names = ("FD_incep[random]", "precision_dinov2_mesh[random]", "a_very_long_name_of_a_plug_in_metric")
    rows = [make.row("Sys", name, 12.5, **common) for name in names]
    text = to_latex(tables(RunResults(rows_frame(rows))))
    assert r"FD\textsubscript{incep} $\downarrow$ &" in text
    assert r"precision\textsubscript{dinov2 mesh} $\downarrow$ &" in text
    assert r"a\textsubscript{very long name of a plug in metric} $\downarrow$" in text
    heading = next(line for line in text.splitlines() if line.startswith("Method &"))
    assert "rand" not in heading
    assert r"\begin{tabular}[t]" not in heading
    assert text.count("{[}random{]}") >= 2  # in the line of units


def test_tables_have_labels_of_their_own(make):
    found = tables(RunResults(rows_frame(make.whole_run())))
    text = to_latex(found)
    labels = re.findall(r"\\caption\{.*\}\\label\{(.*?)\}", text)
    assert labels == [label(table) for table in found]
    assert labels[0] == "tab:table-1"
    assert len(set(labels)) == len(found)
    assert all(re.fullmatch(r"tab:[A-Za-z0-9-]+", one) for one in labels)
