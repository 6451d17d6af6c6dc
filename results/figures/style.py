"""How all figures look, and how they become files. Nothing of it depends on, or changes, a user's matplotlib."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from ...base.errors import UsageError
from ...base.files import replacing
from ..html.pareto import styles_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.typing import RcKeyType

Dash = Literal["-", "--", "-.", ":"]  # as matplotlib spells styles of lines

COLUMN, PAGE = 3.3, 7.0  # inches: widths of a column and of the text of a two-column paper
SMALL = 6.0  # points: of what is beside the point
INK, GREY, PALE = "#222222", "#6e6e6e", "#e4e4e4"
# Okabe and Ito's colours, which colour-blind readers tell apart; their yellow is too pale for lines on white.
COLOURS: Final = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#8C6D1F", "#5E4FA2")
MARKERS: Final = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p")
LINES: Final[tuple[Dash, ...]] = ("-", "--", "-.", ":")
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
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "pdf.fonttype": 42,  # text that readers can select and publishers accept
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


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, in inches; draw into it and `save` it under `settings()`.

    Raises:
        UsageError: matplotlib is not installed.
    """
    _check_matplotlib()
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height))


def settings() -> AbstractContextManager[None]:
    """A context in which matplotlib has our settings, and no user's."""
    _check_matplotlib()
    import matplotlib

    return matplotlib.rc_context({**matplotlib.rcParamsDefault, **SETTINGS, "backend": "agg"})


def looks_of(whos: Sequence[tuple[str, str]]) -> dict[tuple[str, str], Look]:
    """A colour, marker and line for each method and variant, in the given order; greys for teacher and undistilled."""
    looks = {}
    for i, (who, style) in enumerate(styles_of(whos).items()):
        colour = (INK if who[0] == "teacher" else GREY) if style.colour is None else COLOURS[i % len(COLOURS)]
        looks[who] = Look(style.label, colour, MARKERS[i % len(MARKERS)], LINES[(i // len(COLOURS)) % len(LINES)])
    return looks


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


def _check_matplotlib() -> None:
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise UsageError(
            f"Figures need matplotlib, which is not installed ({error}). Run: pip install 'mdtbench[figures]'"
        ) from error
