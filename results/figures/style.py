"""How all charts look, of papers and of pages, and how they become files.

Nothing of it depends on, or changes, a user's matplotlib.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from ...base.errors import UsageError
from ...base.files import replacing
from ..html.logs import TrainingLog
from ..places import CONTROLS, label_of
from ..tables import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.typing import RcKeyType

Dash = Literal["-", "--", "-.", ":"]  # as matplotlib spells styles of lines

SAMPLE = 0.1  # inches: height of a sample in a page's legend
COLUMN, PAGE = 3.3, 7.0  # inches: widths of a column and of the text of a two-column paper
SMALL = 6.0  # points: of what is beside the point
MARKER = 4.2  # points
WHITE, INK, GREY, PALE, RULE = "#ffffff", "#222222", "#6e6e6e", "#e4e4e4", "#ececec"
# Okabe and Ito's colours, which colour-blind readers tell apart; their yellow is too pale for lines on white.
COLOURS: Final = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#8C6D1F", "#5E4FA2")
MARKERS: Final = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p")
LINES: Final[tuple[Dash, ...]] = ("-", "--", "-.", ":")
INKED: Final = {"teacher": INK, "none": GREY}  # controls with a cost; they have no colour of their own
DPI: Final = 300  # of PNG
SETTINGS: Final[dict[RcKeyType, Any]] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so that all machines draw the same
    "font.size": 7.0,
    "axes.titlesize": 7.0,
    "axes.labelsize": 7.0,
    "xtick.labelsize": 6.5,
    "ytick.labelsize": 6.5,
    "legend.fontsize": 6.5,
    "axes.linewidth": 0.6,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "lines.linewidth": 1.0,
    "lines.solid_capstyle": "butt",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": WHITE,
    "savefig.facecolor": WHITE,
    "pdf.fonttype": 42,  # text that readers can select and publishers accept
    "svg.fonttype": "none",  # text in the page's font
    "text.parse_math": False,  # a name with $ in it is a name
    "axes.formatter.useoffset": False,
}
METADATA: Final[Mapping[str, dict[str, None]]] = {  # nothing that differs between two times of drawing
    ".pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    ".png": {"Software": None},
}


@dataclass(frozen=True)
class Look:
    """Of a method in all figures of a run."""

    label: str
    colour: str
    marker: str
    line: Dash


Looks = Mapping[tuple[str, str], Look]


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, in inches; draw into it and `save` it under `settings()`."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height))


def settings(salt: str = "") -> AbstractContextManager[None]:
    """A context in which matplotlib has our settings, and no user's.

    Args:
        salt: Of the ids in an SVG; charts of one page need different ones.
    """
    import matplotlib

    return matplotlib.rc_context({**matplotlib.rcParamsDefault, **SETTINGS, "svg.hashsalt": salt, "backend": "agg"})


def looks_of(whos: Sequence[tuple[str, str]]) -> dict[tuple[str, str], Look]:
    """A colour, marker and line for each method and variant, in the given order; greys for teacher and undistilled.

    Controls that generate nothing have none.
    """
    distinct = [who for who in dict.fromkeys(whos) if who[0] not in CONTROLS or who[0] in INKED]
    distinct.sort(key=lambda who: who[0] in INKED)
    return {who: _look(i, who) for i, who in enumerate(distinct)}


def looks_of_run(tables: Sequence[Table], logs: Sequence[TrainingLog]) -> dict[tuple[str, str], Look]:
    """Those of all charts of a run, whatever each of them shows: in the order of the tables, then of the logs.

    Args:
        tables: The run's own, and those of `plotted_tables`.
    """
    of_tables = [(line.method, line.variant) for table in tables for line in table.rows]
    return looks_of([*of_tables, *((log.method, log.variant) for log in logs)])


def sample(look: Look, *, marker: bool) -> Line2D:
    """A piece of line, or a marker alone, for legends."""
    from matplotlib.lines import Line2D

    shape, line = (look.marker, "") if marker else ("", look.line)
    return Line2D([], [], color=look.colour, label=look.label, marker=shape, markersize=MARKER, linestyle=line)


def draw_sample(look: Look, *, marker: bool) -> Figure:
    """A `sample` alone, for legends of pages."""
    with settings():
        figure = new_figure(SAMPLE if marker else 2 * SAMPLE, SAMPLE)
        line = sample(look, marker=marker)
        line.set_data([0.5] if marker else [0.05, 0.95], [0.5] if marker else [0.5, 0.5])
        line.set_transform(figure.transFigure)
        figure.add_artist(line)
    return figure


def _look(i: int, who: tuple[str, str]) -> Look:
    colour = INKED.get(who[0], COLOURS[i % len(COLOURS)])
    return Look(label_of(*who), colour, MARKERS[i % len(MARKERS)], LINES[(i // len(COLOURS)) % len(LINES)])


def check_suffix(path: Path) -> None:
    """Raises UsageError for a file of a kind that figures are not."""
    if path.suffix not in METADATA:
        raise UsageError(
            f"A figure in an unknown format (got '{path.name}') - .pdf and .png are possible - name --out accordingly."
        )


def save(figure: Figure, path: Path) -> None:
    """Write a .pdf or .png; the same figure gives the same bytes, and the file is complete or unchanged.

    Raises:
        UsageError: another suffix. RunError: the file cannot be written.
    """
    check_suffix(path)
    with settings(), replacing(path) as part, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # of a name in another script: a box stands for it
        figure.savefig(part, format=path.suffix.removeprefix("."), dpi=DPI, metadata=METADATA[path.suffix])


def shortened(text: str, length: int) -> str:
    """The text, or its beginning and end."""
    half = (length - 1) // 2
    return text if len(text) <= length else f"{text[:half]}…{text[len(text) - half :]}"
