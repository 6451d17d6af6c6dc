"""What the verb `figure` does. Imports no torch, and matplotlib only when it draws."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ...base.errors import UsageError
from ...results.figures.choice import Choice
from ...results.figures.report import check, figure_of
from ...results.figures.style import check_suffix, save
from ...results.merged_folder import merged_folder
from .report import newest_run


def figure_file(kind: str, folders: Sequence[Path], out: Path | None, choice: Choice) -> Path:
    """The file of one figure of a run, or of several that are comparable; options as those of the verb."""
    check(kind, choice)
    if out is not None:
        check_suffix(out)
    folders = folders or (newest_run(Path("runs")),)
    path = out or folders[0] / f"figure-{kind}.pdf"
    if len(folders) == 1:
        save(figure_of(kind, folders[0], choice), path)
        return path
    if out is None:
        raise UsageError("A figure of several runs needs --out FILE.pdf, as no run's folder is that of all.")
    with merged_folder(folders) as folder:
        save(figure_of(kind, folder, choice), path)
    return path
