"""Runs of `mdtbench run --preset paper` with miniatures of all that it needs, and what tests read of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from official_site import Ended, Site, call

from mdtbench.results.rows import COST_METRICS, Row, read_rows

COLUMNS_OF_PAPER = {"FD_incep[random]", "FD_dinov2[random]", "ULIP_I[random]"}
ALWAYS = [("teacher", "", 25), *(("none", variant, steps) for steps in (1, 2) for variant in ("cfg", ""))]
COMPUTING = {"structures", "assets", "pictures and points", "scores", "distil", "seconds, alone on the machine"}


def run(site: Site, out: Path, *words: object, stop_after: int | None = None, **changes: str) -> Ended:
    """changes: keys of --set, with __ for the dot."""
    usual = ("--preset", "paper", "--device", "cpu", "--cache", site.root / "cache", "--out", out)
    return call("run", *usual, *site.words(**changes), *words, stop_after=stop_after)


def few(site: Site, out: Path, *words: object, methods: str = "none", **changes: str) -> Ended:
    """Of two test assets; without training by default."""
    return run(site, out, "--limit", 2, "--methods", methods, *words, **changes)


def rows_of(out: Path) -> list[Row]:
    return read_rows(out / "rows.jsonl")


def values(rows: Sequence[Row], *line: object) -> dict[str, float | None]:
    """Values by column of a line (method, variant, steps), seconds left out."""
    mine = [row for row in rows if (row.method, row.variant, row.steps) == line]
    return {row.metric: row.value for row in mine if row.metric not in COST_METRICS}


def timeless(rows: Sequence[Row], *, seconds: bool = True) -> list[dict[str, Any]]:
    """Rows without what differs between two runs of the same; seconds: whether those are the same."""
    apart = {"created_utc", "git_dirty", "git_commit"}
    return [row.model_dump(exclude=apart) for row in rows if seconds or row.metric not in COST_METRICS]


def students_in(out: Path) -> list[Path]:
    """Files of weights."""
    return sorted((out / "students").rglob("*.safetensors"))
