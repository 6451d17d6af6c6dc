"""Figures hold the numbers of the run, under their names; the same run gives the same bytes."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from mdtbench.base.errors import MissingError, UsageError
from mdtbench.base.files import write_json, write_text
from mdtbench.harness.cli.app import main
from mdtbench.harness.cli.figure import figure_file
from mdtbench.results.exported import read_exported
from mdtbench.results.figures.choice import Choice
from mdtbench.results.figures.curves import draw_curves, panels_of
from mdtbench.results.figures.grid import ABSENT, FAILED, draw_grid, grid_of
from mdtbench.results.figures.pareto import DODGE, draw_pareto, pareto_of
from mdtbench.results.figures.report import figure_of
from mdtbench.results.figures.style import COLOURS, COLUMN, DPI, PAGE, WHITE, looks_of, looks_of_run, save
from mdtbench.results.frames import rows_frame
from mdtbench.results.html.logs import read_logs
from mdtbench.results.pareto import plotted_tables
from mdtbench.results.report import RunResults, tables
from mdtbench.results.rows import write_rows

IDS = ("toy-0", "toy-1", "sub/toy & <2>")
MAKERS = ("cm-1x2", "cm-2x2", "mdt-1x2", "mdt-2x2", "none_cfg-1x2", "teacher-25x2")
LOGS = {"cm": {"loss": (2.0, 1.0), "rms_gap": (0.5, 0.25)}, "mdt": {"loss": (4.0, 3.0), "grad_norm": (100.0, 1.0)}}


@pytest.fixture
def folder(make, tmp_path):
    """A run with rows, exported pictures and logs; cm at 1 step failed for the last asset."""
    run = tmp_path / "run"
    write_rows(run / "rows.jsonl", make.whole_run())
    assets = []
    for i, name in enumerate(IDS):
        files = {maker: [f"{maker}/{i}.png"] for maker in ("condition", "truth", *MAKERS)}
        if i == 2:
            files["cm-1x2"], files["condition"] = [], []
        for k, paths in enumerate(files.values()):
            for path in paths:
                (run / "export" / path).parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (16, 16), (10 * k, 40 * i, 0)).save(run / "export" / path)
        assets.append({"id": name, "files": files})
    write_json(run / "export" / "index.json", {"format": 1, "assets": assets})
    write_text(run / "export" / "failures.csv", f'made_by,id,reason\ncm-1x2,"{IDS[2]}",empty\n')
    for stage in ("", "slat-"):
        for method, curves in LOGS.items():
            lines = [{"step": 10 * i, **{name: values[i] for name, values in curves.items()}} for i in range(2)]
            text = "".join(json.dumps(line) + "\n" for line in lines)
            write_text(run / "students" / f"{stage}{method}-seed0-abc123" / "log.jsonl", text)
    return run


def plotted(rows):
    return plotted_tables(rows_frame(rows), tables(RunResults(rows_frame(rows))))


def whole(make):
    return plotted(make.whole_run())


def drawn_spots(figure):
    """{colour: [(x, y, sd)]} of the markers with their bars."""
    [axes] = figure.axes
    found = {}
    for line in axes.lines:
        if (line.get_gid() or "").startswith("point-"):
            (x, *same), (low, y, high) = line.get_data()
            assert line.get_markevery() == [1]
            assert same == [x, x]
            assert math.isclose(y, (high + low) / 2)
            found.setdefault(line.get_color(), []).append((x, y, (high - low) / 2))
    return found


def drawn(tables, choice):
    return draw_pareto(pareto_of(tables, choice), looks_of_run(tables, ()))


def run_logs(folder):
    logs = read_logs(folder, ())
    return logs, looks_of_run((), logs)


def texts(figure):
    from matplotlib.text import Text

    return {text.get_text() for text in figure.findobj(Text)} - {""}


def test_points_are_means_and_bars_are_sd(make):
    figure = drawn(whole(make), Choice(metric="FD_gs"))
    spots = sorted(spot for mine in drawn_spots(figure).values() for spot in mine)
    # FD_gs is 100 * index / steps plus seed 0 or 1: means end in a half, the sd is sqrt(1/2). Teacher: 7, one seed.
    expected = [(100.0 * i / k + 0.5, math.sqrt(0.5)) for k in (1, 2) for i in range(1, 7)] + [(7.0, 0.0)]
    np.testing.assert_allclose(sorted(spot[1:] for spot in spots), sorted(expected), rtol=1e-12)
    [axes] = figure.axes
    for cost, count in ((2.0, 6), (4.0, 6), (88.0, 1)):
        beside = [math.log(x / cost) for x, *_ in spots if 0.75 < x / cost < 1.33]
        assert len(beside) == count
        assert math.isclose(sum(beside), 0.0, abs_tol=1e-9)  # around their cost
        pixels = np.sort([axes.transData.transform((cost * math.exp(by), 1.0))[0] for by in beside])
        np.testing.assert_allclose(np.diff(pixels), DODGE / 72 * figure.dpi, rtol=1e-9)
    assert axes.get_xscale() == "log"
    low, high = axes.get_ylim()
    assert low < 7.0
    assert high > 600.5 + math.sqrt(0.5)


def test_all_points_are_within_their_axes(make):
    """Of either scale, and however many have the same cost: a chart of a page is not clipped."""
    crowd = [make.row(f"method {i}", value=float(i), nfe=1 + (i == 23)) for i in range(24)]
    cases = [(plotted(crowd), Choice())]
    cases += [(whole(make), choice) for choice in (Choice(), Choice(against="seconds"), Choice(methods=("cm",)))]
    for shown, choice in cases:
        figure = drawn(shown, choice)
        (left, right), (bottom, top) = figure.axes[0].get_xlim(), figure.axes[0].get_ylim()
        for x, y, sd in (spot for mine in drawn_spots(figure).values() for spot in mine):
            assert left < x < right
            assert bottom < y - sd
            assert y + sd < top


def test_front_is_of_the_points_that_nothing_beats(make):
    data = pareto_of(whole(make), Choice(metric="FD_gs", methods=("cm", "mdt", "teacher")))
    assert data.front == ((2.0, 100.5), (4.0, 50.5), (88.0, 7.0))
    higher = pareto_of(whole(make), Choice(metric="ULIP_tiny", methods=("cm", "mdt", "teacher")))
    assert higher.front == ((2.0, 69.0), (88.0, 75.0))
    figure = draw_pareto(data, looks_of_run(whole(make), ()))
    front = next(line for line in figure.axes[0].lines if line.get_gid() == "front-0")
    spots = {(x, y) for mine in drawn_spots(figure).values() for x, y, _ in mine}
    path = [*zip(*front.get_data(), strict=True)]
    assert [y for _, y in path] == [y for _, y in data.front]
    assert set(path) <= spots  # it goes through the markers, wherever they were moved
    assert front.get_drawstyle() == "steps-post"


def test_against_seconds(make):
    data = pareto_of(whole(make), Choice(metric="FD_gs", methods=("vm",), against="seconds"))
    assert [(spot.cost, spot.value) for spot in data.spots] == [(0.875, 200.5), (1.75, 100.5)]
    figure = drawn(whole(make), Choice(metric="FD_gs", methods=("vm",), against="seconds"))
    assert "seconds per asset" in figure.axes[0].get_xlabel()
    assert figure.axes[0].get_ylabel() == "FD_gs ↓"


def test_a_method_looks_the_same_whichever_are_shown(make):
    def colour(choice):
        figure = drawn(whole(make), choice)
        return {c: ys for c, spots in drawn_spots(figure).items() if (ys := [y for _, y, _ in spots])}

    alone = colour(Choice(metric="FD_gs", methods=("mdt",)))
    assert len(alone) == 1
    [(mine, values)] = alone.items()
    assert colour(Choice(metric="FD_gs"))[mine] == values == [100.5, 50.5]


def test_looks_of_many_methods_differ():
    looks = looks_of([(f"m{i}", "") for i in range(20)] + [("teacher", ""), ("none", ""), ("floor", "")])
    assert ("floor", "") not in looks
    assert len({(look.colour, look.marker) for look in looks.values()}) == len(looks) == 22
    assert {look.colour for look in looks.values()} > {*COLOURS}


def test_a_method_looks_the_same_in_all_kinds_of_figures(folder):
    """The order of the tables decides, also where the logs have another."""
    pareto, curves = (figure_of(kind, folder, Choice(methods=("mdt",))) for kind in ("pareto", "curves"))
    [colour] = drawn_spots(pareto)
    assert {line.get_color() for axes in curves.axes for line in axes.lines} == {colour}
    assert colour == COLOURS[4]  # the fifth of the tables, the second of the logs


def test_a_run_of_structures_shows_all_methods(make, tmp_path):
    write_rows(tmp_path / "rows.jsonl", make.run())
    figure = figure_of("pareto", tmp_path, Choice(methods=("vm",)))
    assert sorted(y for spots in drawn_spots(figure).values() for _, y, _ in spots) == [11.0, 21.0]


def test_steps_leave_the_teacher(make):
    data = pareto_of(whole(make), Choice(metric="FD_gs", steps=(2,)))
    assert {spot.steps for spot in data.spots} == {2, 25}


def test_open_markers_are_more_steps(make):
    figure = drawn(whole(make), Choice(metric="FD_gs", methods=("cm",)))
    lines = [line for line in figure.axes[0].lines if (line.get_gid() or "").startswith("point-")]
    faces = {line.get_xdata()[0]: line.get_markerfacecolor() for line in lines}
    assert faces == {2.0: lines[0].get_color(), 4.0: WHITE}


def test_references_only_where_they_are_near(make):
    rows = [*make.run(), make.row("floor", value=9.0, steps=None, nfe=None, train_seed=None, seed=1)]
    far = pareto_of(plotted(make.run()), Choice(methods=("cm",)))
    assert far.levels == {}  # the floor is 0.1, cm at 26 to 51
    near = pareto_of(plotted(rows), Choice(methods=("mdt", "pcm")))
    assert near.levels == {"floor": pytest.approx(4.55)}  # the mean of 0.1 and 9


def test_losses_apart_and_diagnostics_together(folder):
    logs, looks = run_logs(folder)
    panels = panels_of(logs, Choice())
    found = [(panel.stage, panel.quantity, [log.method for log in panel.logs]) for panel in panels]
    one = [("loss", ["cm"]), ("loss", ["mdt"]), ("rms_gap", ["cm"]), ("grad_norm", ["mdt"])]
    assert found == [(stage, *panel) for stage in ("structure", "slat") for panel in one]
    figure = draw_curves(panels, looks)
    assert len(figure.axes) == len(panels)
    assert [*zip(*figure.axes[1].lines[0].get_data(), strict=True)] == [(0.0, 4.0), (10.0, 3.0)]
    assert [axes.get_yscale() for axes in figure.axes[:4]] == ["linear", "linear", "linear", "log"]
    assert {"Structure stage", "SLAT stage", "training step", "loss, CM", "loss, VM+VD"} <= texts(figure)
    assert figure.get_size_inches()[0] == PAGE


def test_one_quantity_of_one_method(folder):
    logs, looks = run_logs(folder)
    panels = panels_of(logs, Choice(metric="grad_norm", methods=("mdt",)))
    assert [(panel.stage, panel.quantity) for panel in panels] == [("structure", "grad_norm"), ("slat", "grad_norm")]
    assert draw_curves(panels, looks).get_size_inches()[0] == COLUMN


def grid(folder, make, values=(), **choice):
    return grid_of(read_exported(folder), rows_frame(make.whole_run()), values, Choice(**choice))


def test_grid_is_condition_methods_truth(folder, make):
    made = grid(folder, make)
    assert [heading.title for heading in made.headings] == [
        "Condition",
        "CM",
        "VM+VD",
        "Teacher",
        "Undistilled, CFG",
        "Ground truth",
    ]
    assert [heading.detail for heading in made.headings[1:4]] == ["1×2, 0.88 s", "1×2, 0.88 s", "25×2, 22 s"]
    assert [asset for asset, _ in made.rows] == list(IDS)
    pictures = [tile.picture.parent.name for tile in made.rows[0][1]]
    assert pictures == ["condition", "cm-1x2", "mdt-1x2", "teacher-25x2", "none_cfg-1x2", "truth"]
    assert [tile.reason for tile in made.rows[2][1]] == [ABSENT, FAILED, "", "", "", ""]


def test_grid_in_the_order_that_is_asked_for(folder, make):
    made = grid(folder, make, methods=("mdt", "cm"), assets=(IDS[2], IDS[0]), steps=(1, 2))
    assert [heading.detail[:3] for heading in made.headings[1:-1]] == ["1×2", "2×2", "1×2", "2×2"]
    assert [heading.title for heading in made.headings[1:-1]] == ["VM+VD"] * 2 + ["CM"] * 2
    assert [asset for asset, _ in made.rows] == [IDS[2], IDS[0]]


def test_what_lost_an_asset_has_failed(folder, make):
    values = [make.asset("toy-1", method="mdt", stage="both", ok=False, error="no surface")]
    (folder / "export" / "mdt-1x2" / "1.png").unlink()
    (folder / "export" / "mdt-1x2" / "0.png").unlink()
    rows = dict(grid(folder, make, values).rows)
    assert [rows[name][2].reason for name in IDS] == [ABSENT, FAILED, ""]


def test_grid_shows_the_pixels(folder, make):
    made = grid(folder, make)
    figure = draw_grid(made)
    images = [axes.images[0].get_array() for axes in figure.axes if axes.images]
    assert len(images) == 3 * 6 - 2
    assert images[0].shape == (16, 16, 3)
    assert np.asarray(images[5])[0, 0].tolist() == [10, 0, 0]  # of the first asset the truth, the second that was made
    assert {"failed", "no picture", "toy-0", "Condition"} <= texts(figure)
    sides = {tuple(np.round(axes.get_position().bounds[2:] * figure.get_size_inches(), 6)) for axes in figure.axes}
    assert len(sides) == 1
    [(width, height)] = sides
    assert width == pytest.approx(height)


@pytest.mark.parametrize(
    ("kind", "suffix"), [("grid", ".pdf"), ("grid", ".png"), ("pareto", ".png"), ("curves", ".pdf")]
)
def test_same_run_same_bytes(folder, kind, suffix, tmp_path):
    paths = [tmp_path / f"{i}{suffix}" for i in range(2)]
    for path in paths:
        save(figure_of(kind, folder, Choice()), path)
    first, second = (path.read_bytes() for path in paths)
    assert first == second
    assert b"CreationDate" not in first
    if suffix == ".png":
        with Image.open(paths[0]) as picture:
            assert picture.info["dpi"] == pytest.approx((DPI, DPI), abs=0.1)
            width = picture.width / DPI
            assert picture.convert("RGB").getpixel((0, 0)) == (255, 255, 255)
        assert width == pytest.approx(COLUMN if kind == "pareto" else PAGE, abs=0.05)  # pictures have a largest size


@pytest.mark.skipif(not shutil.which("pdftotext"), reason="pdftotext is not installed")
def test_text_of_a_pdf_is_text(folder, tmp_path):
    save(figure_of("grid", folder, Choice()), tmp_path / "grid.pdf")
    shown = subprocess.run(
        ["pdftotext", str(tmp_path / "grid.pdf"), "-"], capture_output=True, check=True
    ).stdout.decode()
    for word in ("Condition", "VM+VD", "25×2, 22 s", "failed", "Ground truth"):
        assert word in shown


def test_names_that_look_like_mathematics_are_names(make, tmp_path):
    rows = [*make.run(), make.row("$a_b^{c$ 漢 \\x", value=3.0)]
    shown = plotted(rows)
    figure = drawn(shown, Choice())
    save(figure, tmp_path / "a.pdf")
    assert "$a_b^{c$ 漢 \\x" in texts(figure)


@pytest.mark.parametrize(
    ("kind", "choice", "message"),
    [
        ("gird", Choice(), "Did you mean 'grid'"),
        ("pareto", Choice(metric="FD_g"), "Did you mean 'FD_gs'"),
        ("pareto", Choice(methods=("mtd",)), "Did you mean 'mdt'"),
        ("pareto", Choice(against="second"), "Did you mean 'seconds'"),
        ("pareto", Choice(steps=(3,)), "No method has 3 steps in this run - 1, 2 are there"),
        ("pareto", Choice(assets=("toy-0",)), "--assets has no meaning for `figure pareto`"),
        ("grid", Choice(assets=("toy-9",)), "Did you mean 'toy-"),
        ("grid", Choice(methods=("scm",)), "Unknown method 'scm'.*Available: cm, mdt, none:cfg, teacher"),
        ("grid", Choice(metric="FD_gs"), "--metric has no meaning"),
        ("grid", Choice(steps=(25,)), "No method has 25 steps"),
        ("curves", Choice(metric="los"), "Did you mean 'loss'"),
        ("curves", Choice(methods=("vm",)), "Unknown method 'vm'"),
        ("curves", Choice(steps=(1,)), "--steps has no meaning"),
    ],
)
def test_unknown_names(folder, kind, choice, message):
    with pytest.raises(UsageError, match=message):
        figure_of(kind, folder, choice)


def test_what_a_run_lacks(make, tmp_path):
    write_rows(tmp_path / "rows.jsonl", make.whole_run())
    with pytest.raises(MissingError, match="--export png"):
        figure_of("grid", tmp_path, Choice())
    with pytest.raises(MissingError, match="no training logs"):
        figure_of("curves", tmp_path, Choice())
    with pytest.raises(MissingError, match=r"rows\.jsonl"):
        figure_of("pareto", tmp_path / "no", Choice())


def test_a_damaged_picture_is_named(folder, make):
    (folder / "export" / "truth" / "0.png").write_bytes(b"no picture")
    with pytest.raises(MissingError, match=r"0\.png is not a picture"):
        draw_grid(grid(folder, make))


def test_command_writes_where_it_says(folder, tmp_path, monkeypatch, capsys):
    assert figure_file("pareto", [folder], None, Choice()) == folder / "figure-pareto.pdf"
    assert (folder / "figure-pareto.pdf").read_bytes().startswith(b"%PDF")
    out = tmp_path / "new" / "grid.png"
    monkeypatch.setattr("sys.argv", ["mdtbench", "figure", "grid", str(folder), "--out", str(out), "--assets", "toy-1"])
    with pytest.raises(SystemExit) as exit:
        main()
    assert exit.value.code == 0
    assert capsys.readouterr().out == f"{out}\n"
    assert out.is_file()


@pytest.mark.parametrize("name", ["a.jpg", "a", "a.svg"])
def test_other_formats_are_refused_before_anything_is_read(tmp_path, name):
    with pytest.raises(UsageError, match=re.escape(f"got '{name}'")):
        figure_file("pareto", [tmp_path], tmp_path / name, Choice())


def test_several_runs(folder, make, tmp_path):
    other = tmp_path / "other"
    write_rows(other / "rows.jsonl", [make.row("ours", "FD_gs", 33.0, stage="both", nfe=2)])
    with pytest.raises(UsageError, match="needs --out"):
        figure_file("pareto", [folder, other], None, Choice())
    out = tmp_path / "both.pdf"
    assert figure_file("pareto", [folder, other], out, Choice(methods=("ours", "mdt"), metric="FD_gs")) == out
    assert figure_file("grid", [folder, other], tmp_path / "g.pdf", Choice()).is_file()
    assert not list(other.glob("*.pdf"))


def test_long_lists_of_methods_fit(make, tmp_path):
    rows = [make.row(f"method number {i} with a long name", value=float(i), nfe=i + 1) for i in range(24)]
    shown = plotted(rows)
    figure = drawn(shown, Choice())
    save(figure, tmp_path / "a.png")
    legend = figure.legends[0].get_window_extent()
    axes = figure.axes[0].get_tightbbox()
    assert legend.y1 <= axes.y0 + 1  # a pixel: of rounding
    assert legend.x0 >= 0
    assert legend.x1 <= figure.bbox.width
