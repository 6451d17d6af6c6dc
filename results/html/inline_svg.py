"""Matplotlib's figures as SVG within a page: its fonts, its colours in light and dark, its screen readers."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from io import StringIO
from typing import TYPE_CHECKING, Final
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from markupsafe import Markup

from ..figures.style import COLOURS, GREY, INK, RULE, WHITE, settings
from .tables import identifier

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Properties of report.css by what the figures are drawn with.
PAGE_COLOURS: Final = {
    INK: "--ink",
    GREY: "--quiet",
    RULE: "--faint",
    WHITE: "--page",
    **{colour.lower(): f"--c{i}" for i, colour in enumerate(COLOURS)},
}
LEFT_OUT: Final = ("metadata", "style", "clipPath")  # all that is drawn lies within its axes
KEPT: Final = ("d", "x", "y", "href", "transform")
DECIMALS: Final = 2  # of lengths: hundredths of a point
_NUMBER = re.compile(r"-?\d+\.\d+")
_BETWEEN = re.compile(r"\s*([A-Za-z])\s*")  # commands of a path
_COLOUR = re.compile(r"#[0-9a-f]{6}")


def inline_svg(
    figure: Figure, name: str, title: str = "", description: str = "", notes: Mapping[str, str] | None = None
) -> Markup:
    """A figure as an <svg> element as wide as what holds it; the same figure gives the same text.

    Args:
        figure: In the colours of `PAGE_COLOURS`; other colours are a KeyError, as nobody could say whether they can be
            read in the dark. The artists with a gid "kind-number" are of the class `kind`.
        name: Unique in the page, as are all ids then: they begin with it or are salted by it.
        title, description: For screen readers; a chart without a title is ornament, and hidden from them.
        notes: Tooltips by gid.
    """
    name = identifier(name)
    notes = notes or {}
    root = ElementTree.fromstring(_drawn(figure, name))
    svg = Element("svg", {"class": "chart", "viewBox": root.attrib["viewBox"]})
    if title:
        svg.attrib |= {"role": "img", "aria-labelledby": f"{name}-title {name}-desc"}
        svg.extend([_text("title", title, f"{name}-title"), _text("desc", description, f"{name}-desc")])
    else:
        svg.attrib |= {"aria-hidden": "true"}
    for child in root:
        svg.extend(_converted(child, notes))
    return Markup(ElementTree.tostring(svg, encoding="unicode"))


def _drawn(figure: Figure, salt: str) -> str:
    for patch in (figure.patch, *(axes.patch for axes in figure.axes)):
        patch.set_visible(False)  # the page's own ground
    text = StringIO()
    with settings(salt), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # the page's fonts may have it
        figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()


def _converted(element: Element, notes: Mapping[str, str]) -> list[Element]:
    """An element of matplotlib's for the page: groups that only structure its drawing give way to their content."""
    tag = element.tag.rpartition("}")[2]
    if tag in LEFT_OUT:
        return []
    children = [new for child in element for new in _converted(child, notes)]
    gid = element.get("id", "")
    kind, ours, _ = gid.partition("-")
    if (tag == "g" and not ours) or (tag == "defs" and not children):
        return children
    return [_made(tag, element, children, kind if ours else "", notes.get(gid, ""))]


def _made(tag: str, element: Element, children: list[Element], kind: str, note: str) -> Element:
    new = Element(tag, {"class": kind} if kind else {})
    for key, value in element.attrib.items():
        key = key.rpartition("}")[2]
        if key in KEPT and not value.startswith("rotate(-0 "):
            new.set(key, _short(key, value))
    if tag == "path" and "id" in element.attrib:  # a marker, which has the style of its uses
        new.set("id", element.attrib["id"])
    elif style := _style(element.get("style", "")):
        new.set("style", style)
    if note:
        new.append(_text("title", note))
    new.text = element.text if tag == "text" else None
    new.extend(children)
    return new


def _short(key: str, value: str) -> str:
    short = _NUMBER.sub(lambda number: f"{round(float(number[0]), DECIMALS):g}", value)
    return _BETWEEN.sub(r"\1", short).strip() if key == "d" else short


def _style(text: str) -> str:
    """In the page's colours and fonts."""
    pairs = [pair.strip().split(": ", 1) for pair in text.split(";") if pair.strip()]
    kept = [f"{key}:{value}" for key, value in pairs if key not in ("font-family", "stroke-dashoffset")]
    return _COLOUR.sub(lambda colour: f"var({PAGE_COLOURS[colour[0]]})", ";".join(kept))


def _text(tag: str, text: str, name: str = "") -> Element:
    element = Element(tag, {"id": name} if name else {})
    element.text = text
    return element
