"""The kinds of figures: from a run's folder to a drawing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ...base.errors import UsageError, unknown_name
from ..asset_values import read_asset_values
from ..exported import read_exported
from ..html.logs import read_logs
from ..pareto import plotted_tables
from ..report import RunResults, read_run, tables
from .choice import Choice
from .curves import draw_curves, panels_of
from .grid import draw_grid, grid_of
from .pareto import draw_pareto, pareto_of
from .style import Looks, looks_of_run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Draw = Callable[[Path, RunResults, Choice], "Figure"]
NEEDLESS: Final = {  # options without a meaning for a kind
    "grid": ("metric", "against"),
    "pareto": ("assets",),
    "curves": ("assets", "steps", "against"),
}


def figure_of(kind: str, folder: Path, choice: Choice) -> Figure:
    """One figure of a run.

    Raises:
        UsageError: an unknown kind, or what its data raise.
        MissingError: the run lacks what the figure shows.
    """
    check(kind, choice)
    return DRAW[kind](folder, read_run(folder), choice)


def check(kind: str, choice: Choice) -> None:
    """Raises UsageError for an unknown kind, or an option that it has no use for."""
    if kind not in DRAW:
        raise unknown_name("figure", kind, DRAW)
    for name in NEEDLESS[kind]:
        if getattr(choice, name):
            raise UsageError(f"--{name} has no meaning for `figure {kind}`. Leave it out.")


def _grid(folder: Path, run: RunResults, choice: Choice) -> Figure:
    return draw_grid(grid_of(read_exported(folder), run.rows, read_asset_values(folder), choice))


def _pareto(folder: Path, run: RunResults, choice: Choice) -> Figure:
    return draw_pareto(pareto_of(plotted_tables(run.rows, tables(run)), choice), _looks(folder, run))


def _curves(folder: Path, run: RunResults, choice: Choice) -> Figure:
    logs = read_logs(folder, run.students, run.sweeps)
    return draw_curves(panels_of(logs, choice), _looks(folder, run))


def _looks(folder: Path, run: RunResults) -> Looks:
    own = tables(run)
    return looks_of_run([*own, *plotted_tables(run.rows, own)], read_logs(folder, run.students, run.sweeps))


DRAW: Final[dict[str, Draw]] = {"grid": _grid, "pareto": _pareto, "curves": _curves}
