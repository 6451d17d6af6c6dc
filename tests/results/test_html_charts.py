"""Charts of the HTML report: matplotlib's, in the page's colours, with ids of their own, saying what they show."""

from __future__ import annotations

import itertools
import math
import re
from importlib.resources import files
from xml.etree import ElementTree

import numpy as np
import pytest

from mdtbench.results.figures.names import write_names
from mdtbench.results.figures.style import COLOURS, COLUMN, INK, looks_of_run, new_figure, settings
from mdtbench.results.frames import rows_frame
from mdtbench.results.html.curves import stages
from mdtbench.results.html.inline_svg import PAGE_COLOURS, inline_svg
from mdtbench.results.html.logs import TrainingLog
from mdtbench.results.html.pareto import families
from mdtbench.results.pareto import plotted_tables, spots_of
from mdtbench.results.report import RunResults, tables
from mdtbench.results.tables import Table

CSS = files("mdtbench.results.html").joinpath("static/report.css").read_text(encoding="utf-8")
NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
ROUNDED = 0.006  # of a coordinate, to two decimals


def plotted(rows) -> list[Table]:
    frame = rows_frame(rows)
    return plotted_tables(frame, tables(RunResults(frame)))


@pytest.fixture(scope="module")
def pareto_charts(make):
    """[(spots, chart)] of all charts of quality against cost, as elements."""
    shown = plotted(make.whole_run())
    drawn = [c for family in families(shown, looks_of_run(shown, ())) for f in family.figures for c in f.charts]
    spots = [
        spots_of(table, column.key, cost)
        for table in shown
        for column in table.columns
        if column.kind == "metric"
        for cost in ("nfe", "latency_s")
    ]
    several = [mine for mine in spots if len({spot.cost for spot in mine}) > 1]
    return list(zip(several, map(ElementTree.fromstring, drawn), strict=True))


def logs_of(**curves) -> list[TrainingLog]:
    return [
        TrainingLog("structure", method, seed, {"loss": ((0, 1.0), (5, 4.0), (10, 2.0)), **curves})
        for method in ("cm", "mdt:own")
        for seed in (0, 1)
    ]


def training(logs):
    [stage] = stages(logs, looks_of_run((), logs))
    return stage


def figure_with(colour: str):
    with settings():
        figure = new_figure(2.0, 1.0)
        axes = figure.add_axes((0.2, 0.2, 0.7, 0.7))
        axes.plot([0, 1, 2], [0, 1, 0], "o-", color=colour, gid="curve-0")
    return figure


def numbers(text: str) -> list[float]:
    return [float(number) for number in NUMBER.findall(text)]


def classed(svg: ElementTree.Element, kind: str) -> list[ElementTree.Element]:
    return [element for element in svg.iter("g") if element.get("class") == kind]


def middle(point: ElementTree.Element) -> tuple[float, float]:
    use = point.find("use")
    assert use is not None
    return float(use.attrib["x"]), float(use.attrib["y"])


def tick_texts(svg: ElementTree.Element) -> list[str]:
    """Left of the axis."""
    texts = [(text.text or "", text.attrib["style"]) for text in svg.findall("text")]
    return [text for text, style in texts if "text-anchor:end" in style and "var(--ink)" in style]


def value_axis(svg: ElementTree.Element) -> tuple[float, float]:
    """Slope and offset from pixels to values, of the numbers left of the axis and where their rules are."""
    ticks = [float(text) for text in tick_texts(svg)]
    rules = [numbers(p.attrib["d"])[1] for p in svg.findall("path") if "var(--faint)" in p.get("style", "")]
    (slope, offset), residual, *_ = np.polyfit(rules, ticks, 1, full=True)
    assert all(value < 1e-3 * abs(slope) for value in residual)
    return slope, offset


def test_points_and_bars_are_where_their_values_are(pareto_charts):
    """Between the page's own numbers at the axis, to the rounding of coordinates."""
    charts = pareto_charts
    assert len(charts) > 4
    for spots, svg in charts:
        points = classed(svg, "point")
        assert len(points) == len(spots)
        slope, offset = value_axis(svg)
        assert slope < 0  # high values are at the top
        by_name = {(point.findtext("title") or "").rpartition(":")[0]: point for point in points}
        for spot in spots:
            name = spot.line.cells[0].text + (f", {spot.line.cells[1].text}" if spot.steps is not None else "")
            x, y = middle(by_name[name])
            assert math.isclose(slope * y + offset, spot.value, abs_tol=3 * ROUNDED * abs(slope))
            path = by_name[name].find("path")
            assert path is not None
            bar = numbers(path.attrib["d"])
            assert set(bar[::2]) == {x}
            assert math.isclose((max(bar[1::2]) - min(bar[1::2])) * -slope, 2 * spot.sd, abs_tol=3 * ROUNDED * -slope)


def test_a_costlier_point_is_further_right(pareto_charts):
    for spots, svg in pareto_charts:
        places = [middle(point)[0] for point in classed(svg, "point")]
        told = [float((p.findtext("title") or "").rpartition(" ")[2]) for p in classed(svg, "point")]
        assert sorted(told) == pytest.approx(sorted(spot.cost for spot in spots), rel=1e-3)  # four digits
        for (x, cost), (other_x, other_cost) in itertools.combinations(zip(places, told, strict=True), 2):
            assert (x < other_x) == (cost < other_cost) or cost == other_cost


def test_all_that_is_drawn_lies_within_the_chart(pareto_charts):
    """As nothing is clipped."""
    charts = [svg for _, svg in pareto_charts]
    stage = training(logs_of(grad_norm=((0, 1e-3), (10, 5.0)), rms_phi=((0, -3.0), (10, 0.0))))
    charts += [ElementTree.fromstring(chart.drawn) for chart in (*stage.losses, *stage.diagnostics)]
    for svg in charts:
        left, top, right, bottom = numbers(svg.attrib["viewBox"])
        shapes = {path.attrib["id"]: path for path in svg.iter("path") if "id" in path.attrib}
        at = [(float(use.attrib["x"]), float(use.attrib["y"])) for use in svg.iter("use")]
        for path in svg.iter("path"):
            if path not in shapes.values():
                values = numbers(path.attrib["d"])
                at += zip(values[::2], values[1::2], strict=True)
        assert len(at) > 10
        assert all(left <= x <= right and top <= y <= bottom for x, y in at)


def test_training_curves_are_those_of_the_log():
    [cm, mdt] = training(logs_of()).losses
    assert (cm.title, cm.note) == ("CM", "2 training seeds")
    svg = ElementTree.fromstring(cm.drawn)
    [first, second] = classed(svg, "curve")
    assert [curve.findtext("title") for curve in (first, second)] == ["CM, seed 0", "CM, seed 1"]
    slope, offset = value_axis(svg)
    path = first.find("path")
    assert path is not None
    xs, ys = np.array(numbers(path.attrib["d"])).reshape(3, 2).T
    np.testing.assert_allclose(slope * ys + offset, [1.0, 4.0, 2.0], atol=3 * ROUNDED * abs(slope))
    np.testing.assert_allclose((xs - xs[0]) / (xs[2] - xs[0]), [0, 0.5, 1], atol=1e-3)
    assert "CM, seed 0: from 1 to 2; CM, seed 1: from 1 to 2." in cm.drawn
    assert "var(--c0)" in cm.drawn
    assert "var(--c1)" in mdt.drawn


@pytest.mark.parametrize(
    ("low", "high", "log"), [(1.0, 9.9, False), (1.0, 10.1, True), (0.0, 100.0, False), (-1.0, 100.0, False)]
)
def test_axes_are_logarithmic_where_positive_values_span_a_decade(low, high, log):
    [chart] = training(logs_of(grad_norm=((0, low), (5, (low + high) / 2), (10, high)))).diagnostics
    svg = ElementTree.fromstring(chart.drawn)
    path = classed(svg, "curve")[0].find("path")
    assert path is not None
    first, second, third = numbers(path.attrib["d"])[1::2]
    share = (first - second) / (first - third)
    linear = 0.5
    assert math.isclose(share, math.log((low + high) / 2 / low) / math.log(high / low) if log else linear, abs_tol=1e-3)
    assert len(tick_texts(svg)) >= 2


def test_a_screen_reader_is_told_what_a_chart_shows(pareto_charts):
    for spots, svg in pareto_charts:
        assert svg.get("role") == "img"
        title, desc = svg.find("title"), svg.find("desc")
        assert title is not None
        assert desc is not None
        assert svg.get("aria-labelledby") == f"{title.attrib['id']} {desc.attrib['id']}"
        assert " against " in (title.text or "")
        assert (desc.text or "").startswith(f"{len(spots)} points; ")
    assert 'aria-hidden="true"' in inline_svg(figure_with(COLOURS[0]), "ornament")


def test_a_chart_is_as_wide_as_what_holds_it():
    svg = ElementTree.fromstring(inline_svg(figure_with(COLOURS[0]), "a", "A", "a"))
    assert numbers(svg.attrib["viewBox"]) == [0, 0, 144, 72]
    assert "width" not in svg.attrib
    assert "height" not in svg.attrib
    assert svg.get("class") == "chart"


def test_text_is_text_in_the_font_of_the_page(pareto_charts):
    _, svg = pareto_charts[0]
    words = {text.text for text in svg.iter("text")}
    assert {"FD_gs ↓", "NFE (network forward passes per asset), log scale", "VM+VD, 1x2"} <= words
    assert "font-family" not in ElementTree.tostring(svg, encoding="unicode")
    labels = [label.findtext("text") for label in classed(svg, "label")]
    assert labels == ["Teacher, 25x2", "VM+VD, 2x2", "VM+VD, 1x2"]


def test_the_same_chart_twice_has_ids_of_its_own():
    one, same, other = (inline_svg(figure_with(COLOURS[0]), name, "t", "d") for name in ("a", "a", "b"))
    assert one == same
    ids = [set(re.findall(r'\bid="([^"]+)"', svg)) for svg in (one, other)]
    assert len(ids[0]) == len(ids[1]) > 2
    assert not ids[0] & ids[1]
    for svg, mine in zip((one, other), ids, strict=True):
        assert set(re.findall(r'href="#([^"]+)"', svg)) <= mine
        assert "clip" not in svg
        assert "xmlns" not in svg
        assert "<style" not in svg


def test_colours_are_properties_of_the_page():
    svg = inline_svg(figure_with(COLOURS[2]), "a", "t", "d")
    assert "stroke:var(--c2)" in svg
    assert "fill:var(--c2)" in svg
    assert "var(--ink)" in svg
    assert not re.search(r"#[0-9a-f]{6}[;\"]", svg.replace('href="#', ""))
    with pytest.raises(KeyError, match="#123456"):
        inline_svg(figure_with("#123456"), "a", "t", "d")


def page_colours(name: str) -> tuple[str, str]:
    found = re.search(rf"{name}: light-dark\((#\w{{6}}), (#\w{{6}})\);", CSS)
    assert found, name
    return found[1], found[2]


def luminance(colour: str) -> float:
    """Relative, of WCAG 2."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_charts_can_be_seen_in_light_and_dark():
    """Contrasts of WCAG 2: 3 for graphics, 4.5 for text. Rules are to be faint."""
    grounds = page_colours("--page")
    for drawn, name in PAGE_COLOURS.items():
        if name in ("--page", "--faint"):
            continue
        least = 4.5 if drawn == INK else 3.0
        for colour, ground in zip(page_colours(name), grounds, strict=True):
            low, high = sorted((luminance(colour), luminance(ground)))
            assert (high + 0.05) / (low + 0.05) >= least, (name, colour)


def test_names_overlap_neither_each_other_nor_the_edge():
    from matplotlib.text import Text

    with settings():
        figure = new_figure(COLUMN, 2.0)
        axes = figure.add_axes((0.15, 0.2, 0.8, 0.75))
        axes.set(xlim=(0, 10), ylim=(0, 10))
        points = [(9.5, 5.0), (9.4, 5.1), (9.3, 5.2), (0.2, 9.8), (0.3, 0.2)]
        write_names(axes, points, {i: f"method {i}, 2x2" for i in range(len(points))})
        figure.draw_without_rendering()
        boxes = [Text.get_window_extent(text) for text in axes.texts]  # without the line to its point
    assert [text.get_gid() for text in axes.texts] == [f"label-{i}" for i in range(5)]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    for box in boxes:
        assert axes.bbox.x0 <= box.x0
        assert box.x1 <= figure.bbox.x1
        assert axes.bbox.y0 <= box.y0
        assert box.y1 <= axes.bbox.y1


def test_a_name_stands_at_its_point():
    """At the side where no other point is; moved only where both are covered."""
    with settings():
        figure = new_figure(COLUMN, 2.0)
        axes = figure.add_axes((0.15, 0.2, 0.8, 0.75))
        axes.set(xlim=(0, 10), ylim=(0, 10))
        points = [(5.0, 2.0), (6.0, 2.0), (5.0, 5.0), (5.0, 8.0), (5.8, 8.0), (4.2, 8.0)]
        write_names(axes, points, {0: "left", 2: "right", 3: "moved"})
        left, right, moved = axes.texts
    assert (left.get_ha(), left.xyann[1]) == ("right", 0)
    assert (right.get_ha(), right.xyann[1]) == ("left", 0)
    assert moved.xyann[1] != 0
    assert moved.arrow_patch is not None
    assert left.arrow_patch is None
    assert [text.xy for text in (left, right, moved)] == [points[0], points[2], points[3]]
