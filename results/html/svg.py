"""Small charts as inline SVG. Colours and text sizes are the page's: see the classes in report.css."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

COLOURS = 10  # classes c0 to c9 of report.css
MARKERS = ("circle", "square", "diamond", "triangle")
DECADE = 10.0  # an axis that spans more is logarithmic
PAD = 0.06  # of an axis' length that is left free at either end
TICK, LABEL_GAP = 4.0, 15.0  # pixels: length of a tick, least distance of labels' base lines


@dataclass(frozen=True)
class Axis:
    """From data to pixels. `low`, `high` are data; `start`, `end` the pixels that they lie at."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def at(self, value: float) -> float:
        """The pixel of a value."""
        low, high, here = (math.log(v) if self.log else v for v in (self.low, self.high, value))
        return self.start + (here - low) / (high - low) * (self.end - self.start)

    def ticks(self, count: int = 5) -> list[float]:
        """Round values within the axis: about `count`; 1, 2 and 5 of each decade on a log axis."""
        return _log_ticks(self.low, self.high, count) if self.log else _ticks(self.low, self.high, count)


def axis(values: Sequence[float], start: float, end: float, *, log: bool | None = None) -> Axis:
    """The axis of some finite values, with room at both ends. log None: where they are positive and span a decade."""
    low, high = min(values), max(values)
    if log is None:
        log = low > 0 and high / low > DECADE
    if log:
        room = max((high / low) ** PAD, 1.05)
        return Axis(low / room, high * room, start, end, log=True)
    room = (high - low) * PAD or abs(high) * 0.1 or 1.0
    return Axis(low - room, high + room, start, end)


def number(value: float) -> str:
    """A short spelling for ticks and titles."""
    if value and not 1e-3 <= abs(value) < 1e5:
        return f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e")
    return f"{value:.4g}"


def identifier(name: str) -> str:
    """A name as an id of the page, without spaces or punctuation."""
    return "".join(letter if letter.isalnum() else "_" for letter in name)


@dataclass(frozen=True)
class Point:
    """One marker. colour: 0 to COLOURS - 1, None for ink. text: of its tooltip. label: beside it, "" for none."""

    x: float
    y: float
    colour: int | None
    marker: str
    text: str
    label: str = ""
    error: float = 0.0
    shift: float = 0.0  # pixels to the right, so that error bars of equal x do not hide each other


@dataclass(frozen=True)
class Polyline:
    """A line through points. style: its classes. shifts: as of `Point`, one per point; none where empty."""

    points: Sequence[tuple[float, float]]
    style: str
    text: str = ""
    shifts: Sequence[float] = ()


@dataclass(frozen=True)
class Level:
    """A horizontal line of reference."""

    y: float
    label: str


@dataclass(frozen=True)
class Chart:
    """A chart to be drawn. `name` is unique in the page; `title` and `description` are for screen readers.

    log_x, log_y: None where the values decide.
    """

    name: str
    title: str
    description: str
    x_label: str
    y_label: str
    points: Sequence[Point] = ()
    lines: Sequence[Polyline] = ()
    levels: Sequence[Level] = ()
    width: float = 480
    height: float = 330
    log_x: bool | None = None
    log_y: bool | None = None
    margins: tuple[float, float, float, float] = field(default=(14, 16, 44, 62))  # top, right, bottom, left


def draw(chart: Chart) -> Markup:
    """The chart as an <svg> element; its text is escaped."""
    top, right, bottom, left = chart.margins
    lines = [point for line in chart.lines for point in line.points]
    xs = [point.x for point in chart.points] + [x for x, _ in lines]
    ys = [y for p in chart.points for y in (p.y - p.error, p.y + p.error)]
    ys += [y for _, y in lines] + [level.y for level in chart.levels]
    x = axis(xs, left, chart.width - right, log=chart.log_x)
    y = axis(ys, chart.height - bottom, top, log=chart.log_y)
    parts = [_axes(chart, x, y)]
    parts += [_level(level, x, y) for level in chart.levels]
    parts += [_polyline(line, x, y) for line in chart.lines]
    parts += [_point(point, x, y) for point in chart.points]
    parts += _labels(chart.points, x, y)
    head = Markup(
        '<svg class="chart" viewBox="0 0 {0:g} {1:g}" role="img" aria-labelledby="{2}-title {2}-desc">'
        '<title id="{2}-title">{3}</title><desc id="{2}-desc">{4}</desc>'
    ).format(chart.width, chart.height, identifier(chart.name), chart.title, chart.description)
    return head + Markup("").join(parts) + Markup("</svg>")


def _axes(chart: Chart, x: Axis, y: Axis) -> Markup:
    lines = [
        Markup('<path class="grid" d="{}"/>').format(
            "".join(f"M{x.start:g} {y.at(v):.1f}H{x.end:g}" for v in y.ticks())
        )
    ]
    lines += [_text(x.start - 7, y.at(v) + 4, number(v), "tick", "end") for v in y.ticks()]
    lines += [_text(x.at(v), y.start + 17, number(v), "tick", "middle") for v in x.ticks()]
    marks = "".join(f"M{x.at(v):.1f} {y.start:g}v{TICK:g}" for v in x.ticks())
    lines.append(Markup('<path class="axis" d="M{:g} {:g}H{:g}{}"/>').format(x.start, y.start, x.end, marks))
    if chart.x_label:
        lines.append(_text((x.start + x.end) / 2, chart.height - 8, chart.x_label, "name", "middle"))
    if chart.y_label:
        middle = (y.start + y.end) / 2
        turned = '<text class="name" text-anchor="middle" transform="translate(13 {:.1f}) rotate(-90)">{}</text>'
        lines.append(Markup(turned).format(middle, chart.y_label))
    return Markup("").join(lines)


def _text(x: float, y: float, text: str, style: str, anchor: str = "start") -> Markup:
    form = '<text class="{}" x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>'
    return Markup(form).format(style, x, y, anchor, text)


def _level(level: Level, x: Axis, y: Axis) -> Markup:
    here = y.at(level.y)
    line = Markup('<path class="level" d="M{:g} {:.1f}H{:g}"/>').format(x.start, here, x.end)
    return line + _text(x.end, here - 4, level.label, "tick", "end")


def _polyline(line: Polyline, x: Axis, y: Axis) -> Markup:
    shifts = line.shifts or [0.0] * len(line.points)
    path = " ".join(f"{x.at(a) + by:.1f},{y.at(b):.1f}" for (a, b), by in zip(line.points, shifts, strict=True))
    title = Markup("<title>{}</title>").format(line.text) if line.text else ""
    return Markup('<polyline class="{}" points="{}">{}</polyline>').format(line.style, path, title)


def _point(point: Point, x: Axis, y: Axis) -> Markup:
    across, down = x.at(point.x) + point.shift, y.at(point.y)
    bar = Markup("")
    if point.error:
        ends = y.at(point.y - point.error), y.at(point.y + point.error)
        bar = Markup('<path class="bar" d="M{:.1f} {:.1f}V{:.1f}"/>').format(across, *ends)
    style = "ink" if point.colour is None else f"c{point.colour}"
    form = '<g class="point {}"><title>{}</title>{}{}</g>'
    return Markup(form).format(style, point.text, bar, marker(point.marker, across, down))


def marker(name: str, x: float, y: float, size: float = 4.5) -> Markup:
    """The outline of a marker around a pixel."""
    if name == "circle":
        return Markup('<circle cx="{:.1f}" cy="{:.1f}" r="{:g}"/>').format(x, y, size)
    shapes = {
        "square": ((-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)),
        "diamond": ((0, -1.25), (1.25, 0), (0, 1.25), (-1.25, 0)),
        "triangle": ((0, -1.2), (1.15, 0.9), (-1.15, 0.9)),
    }
    corners = " ".join(f"{x + size * a:.1f},{y + size * b:.1f}" for a, b in shapes[name])
    return Markup('<polygon points="{}"/>').format(corners)


def _labels(points: Iterable[Point], x: Axis, y: Axis) -> list[Markup]:
    """Beside their points, moved apart where they would overlap; to the left where there is no room to the right."""
    placed: list[tuple[float, float, float]] = []  # left, right, base line
    texts = []
    for point in sorted((p for p in points if p.label), key=lambda p: y.at(p.y)):
        width = 6.6 * len(point.label)
        right = x.at(point.x) + point.shift + 9
        left = right if right + width <= x.end + 12 else right - 18 - width
        base = y.at(point.y) + 4
        for other_left, other_right, other_base in sorted(placed, key=lambda place: place[2]):
            if left < other_right and other_left < left + width and abs(base - other_base) < LABEL_GAP:
                base = other_base + LABEL_GAP
        placed.append((left, left + width, base))
        texts.append(_text(left, base, point.label, "label"))
    return texts


def _ticks(low: float, high: float, count: int) -> list[float]:
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    first = math.ceil(low / step)
    return [round(i * step, 12) for i in range(first, math.floor(high / step) + 1)]


def _log_ticks(low: float, high: float, count: int) -> list[float]:
    """Powers of ten where the axis is long, with 2 and 5 between them where it is short."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    fine = [10.0**power * factor for power in powers for factor in (1, 2, 5)]
    within = [round(value, 12) for value in fine if low <= value <= high]
    if len(within) <= 2 * count - 2:
        return within if len(within) > 1 else _ticks(low, high, count)
    tens = [value for value in within if math.isclose(math.log10(value), round(math.log10(value)))]
    return tens[:: math.ceil(len(tens) / (count + 2))]
