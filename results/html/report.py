"""The report of a run as a folder of pages that open from disk, without network. See `write_report`."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment
from markupsafe import Markup

from ...base.errors import UsageError
from ...base.files import write_json, write_text
from ..figures.style import Look, draw_sample, looks_of_run
from ..pareto import plotted_tables
from ..verdict_table import cautions, said, sentences
from .answers import answers
from .assets import AssetIndex, write_asset_pages
from .curves import stages
from .data import ReportData, read_data
from .environment import copy_package_files, environment
from .extremes import extremes
from .inline_svg import inline_svg
from .logs import TrainingLog, read_logs
from .pareto import families, first_charts
from .provenance import provenances
from .summary import LISTED, controls, failed_assets, failed_students, failed_values, head
from .tables import view, with_notes_once

MARKER: Final = "report.json"  # tells a folder that this module made, and may write again
OWN_FOLDERS: Final = ("assets", "media")  # of an earlier report: their pages may be of assets that are gone
PAPER_URL: Final = "https://arxiv.org/abs/2509.04406"


def write_report(folder: Path, out: Path) -> Path:
    """Write the report of a run; again over an earlier report. Returns the path of index.html.

    Args:
        folder: Of the run. out: Of the report; all of it is written below, nothing elsewhere.

    Raises:
        UsageError: `out` holds something that is no report, or rows that do not belong in one table.
        MissingError: the run has no rows, or a file of it is damaged.
        RunError: a file cannot be written.
    """
    data = read_data(folder)
    logs = read_logs(folder, data.students, data.sweeps)
    _claim(out, data)
    copy_package_files("static", out)
    env = environment()
    assets = write_asset_pages(data, out, env)
    page = out / "index.html"
    write_text(page, index_page(data, logs, assets, env))
    return page


def index_page(data: ReportData, logs: Sequence[TrainingLog], assets: AssetIndex, env: Environment) -> str:
    """The text of index.html. assets: The pages that it leads to."""
    return env.get_template("index.html").render(root="", **_content(data, logs, assets))


def _content(data: ReportData, logs: Sequence[TrainingLog], assets: AssetIndex) -> dict[str, Any]:
    plots = plotted_tables(data.rows, data.tables)
    looks = looks_of_run([*data.tables, *plots], logs)
    figures = families(plots, looks)
    plotted = {who for family in figures for who in family.whos}
    trained = {(log.method, log.variant) for log in logs}
    judged, first = said(data.verdicts), answers(data.verdicts, data.rows, data.tables)
    shown, common = with_notes_once([view(table) for table in data.tables])
    return {
        "head": head(data),
        "answers": first,
        "verdicts": sentences(judged),
        "cautions": [one for one in (cautions(judged) if judged else []) if one not in first.cautions],
        "tables": shown,
        "common_notes": common,
        "first_charts": first_charts(plots, looks),
        "families": figures,
        "first_legend": _legend("first", [look for who, look in looks.items() if who in plotted], marker=True),
        "plotted": _legend("cost", [look for who, look in looks.items() if who in plotted], marker=True),
        "trained": _legend("training", [look for who, look in looks.items() if who in trained], marker=False),
        "stages": stages(logs, looks),
        "extremes": extremes(data.rows, data.asset_values),
        "assets": assets,
        "failures": data.failures,
        "failed_values": failed_values(data.rows),
        "failed_students": failed_students(data),
        "failed_assets": failed_assets(data),
        "listed": LISTED,
        "controls": controls(data.rows),
        "provenances": provenances(data),
        "paper_url": PAPER_URL,
    }


def _legend(section: str, looks: Sequence[Look], *, marker: bool) -> list[tuple[str, Markup]]:
    """Names with a sample each."""
    return [
        (look.label, inline_svg(draw_sample(look, marker=marker), f"sample-{section}-{i}"))
        for i, look in enumerate(looks)
    ]


def _claim(out: Path, data: ReportData) -> None:
    """Make `out` the folder of a report. Raises UsageError when it holds something else."""
    if out.is_file() or (out.is_dir() and any(out.iterdir()) and not (out / MARKER).is_file()):
        raise UsageError(
            f"{out} exists and is not an earlier report - a report is written into a new or empty folder, or over "
            "a report - choose another --out."
        )
    write_json(out / MARKER, {"format": 1, "made_by": "mdtbench report", "run_id": data.rows["run_id"].iloc[0]})
    for name in OWN_FOLDERS:
        if (out / name).is_symlink():
            (out / name).unlink()  # what it leads to is not ours
        elif (out / name).is_dir():
            shutil.rmtree(out / name)
