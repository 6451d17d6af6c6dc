"""The first screen of a report: what it says of the verdicts, which pictures it shows, no note twice."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from report_run import HOSTILE, IDS, NO_SURFACE, write_run

from mdtbench.results.asset_values import write_asset_values
from mdtbench.results.figures.curves import smoothed
from mdtbench.results.frames import assets_frame, rows_frame
from mdtbench.results.html.answers import Answers, answers, headline
from mdtbench.results.html.assets import write_asset_pages
from mdtbench.results.html.data import read_data
from mdtbench.results.html.environment import environment, ticked
from mdtbench.results.html.report import write_report
from mdtbench.results.html.tables import view, with_notes_once
from mdtbench.results.places import label_of
from mdtbench.results.report import RunResults, tables
from mdtbench.results.rows import write_rows
from mdtbench.results.verdicts import Behind, Standing, verdicts

VM, MDT, CM = ("vm", "", 1), ("mdt", "", 1), ("cm", "", 1)
MDT_NAME = label_of("mdt")


def standing(*top: tuple[str, str, int], worse: tuple[tuple[str, str, int], ...] = ()) -> Standing:
    return Standing(top[0], top[1:], tuple(Behind(who, 1.0, 0.1) for who in worse), 0.5, 8, 1)


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ([standing(VM, CM)], "No method is shown to be better than another."),
        ([standing(VM, worse=(CM,)), standing(VM, worse=(CM, MDT))], "VM is best."),
        ([standing(VM, worse=(CM,)), standing(VM, CM)], "VM is best, where a difference is shown (1 of 2)."),
        ([standing(VM, worse=(CM,)), standing(CM, VM, worse=(MDT,))], "VM is best, or cannot be told from the best."),
        ([standing(VM, CM, worse=(MDT,))], "VM and CM are best."),
        ([standing(VM, worse=(CM,)), standing(CM, worse=(VM,))], "No method is best in all that is compared."),
    ],
)
def test_the_headline_says_who_is_best_in_all_that_differs(found: list[Standing], said: str):
    assert headline(found) == said


def run_of(make: ModuleType, means: dict[str, float], *, undistilled: float, assets: int = 40) -> RunResults:
    """Whole assets of some methods: ULIP_tiny of each asset is the mean and noise of its own, sd 1."""
    noise = np.random.default_rng(0).standard_normal((len(means), assets))
    noise -= noise.mean(1, keepdims=True)
    rows, values = [], []
    for (method, mean), mine in zip(means.items(), noise, strict=True):
        known = {"stage": "both", "unit": "x100", "nfe": 2}
        rows.append(make.row(method, "ULIP_tiny", mean, **known))
        values += [
            make.asset(f"a{i}", {"ULIP_tiny": mean + float(x)}, method, stage="both") for i, x in enumerate(mine)
        ]
    none = {"stage": "both", "train_seed": None, "unit": "x100", "nfe": 2}
    rows.append(make.row("none", "ULIP_tiny", undistilled, **none))
    rows.append(make.row("teacher", "ULIP_tiny", 61.0, **none | {"steps": 25}))
    return RunResults(rows_frame(rows), assets=assets_frame(values))


def answers_of(run: RunResults) -> Answers:
    return answers(tuple(verdicts(run.rows, run.assets)), run.rows, tables(run))


def test_an_answer_tells_who_is_best_by_how_much_and_what_controls_score(make: ModuleType):
    found = answers_of(run_of(make, {"vm": 55.0, "mdt": 58.0, "cm": 50.0}, undistilled=40.0))
    assert found.headline == f"{MDT_NAME} is best."
    [answer] = found.answers
    assert (answer.metric, answer.where) == ("ULIP_tiny (x100) ↑", "1 step per stage")
    assert answer.says == f"{MDT_NAME} is best"
    assert answer.decided
    assert answer.detail.startswith(f"{MDT_NAME} 58.00; worse: VM by 3.00 ± 0.")
    assert ", CM by 8.00 ± 0." in answer.detail
    assert answer.beside.startswith("Teacher 61.")
    assert "better than" not in answer.beside


def test_an_answer_says_when_nothing_is_shown_and_when_a_control_beats_all(make: ModuleType):
    found = answers_of(run_of(make, {"vm": 55.0, "mdt": 55.1}, undistilled=59.5))
    assert found.headline == "No method is shown to be better than another."
    [answer] = found.answers
    assert not answer.decided
    assert answer.says == "No difference shown"
    assert "Differences of 0." in answer.detail
    assert f"{label_of('none')} 59.50, better than all students" in answer.beside
    assert any("--seeds 0,1,2" in caution for caution in found.cautions)


def test_equal_values_are_said_to_be_equal(make: ModuleType):
    known = {"stage": "both", "nfe": 2}
    rows = [make.row(name, "valid", 0.0, seed=seed, **known) for name in ("vm", "mdt") for seed in range(3)]
    [answer] = answers_of(RunResults(rows_frame(rows))).answers
    assert answer.says == "All are 0"
    assert answer.detail.startswith(("VM 0.0", f"{MDT_NAME} 0.0"))


def test_a_system_alone_has_its_values_beside_the_controls(make: ModuleType):
    common = {"stage": "evaluation", "steps": 5, "train_seed": None, "nfe": None}
    controls = common | {"steps": None, "seed": None, "run_id": "reference"}
    rows = [
        make.row("Sys", "FD_incep", 12.5, **common),
        make.row("floor", "FD_incep", 3.5, **controls),
    ]
    run = RunResults(rows_frame(rows))
    found = answers_of(run)
    assert found.headline == "Values of Sys"
    [answer] = found.answers
    assert answer.metric == "FD_incep ↓"
    assert answer.says.startswith("12.5")
    assert answer.beside.startswith("Floor (held-out reference) 3.5")


def test_the_gallery_has_a_row_per_method_and_says_why_tiles_are_blank(tmp_path: Path):
    run = write_run(tmp_path / "run", models=False)
    index = write_asset_pages(read_data(run), tmp_path / "out", environment())
    assert index.gallery is not None
    assert [asset for asset, _ in index.gallery.assets] == list(IDS)
    rows = {row.label: row for row in index.gallery.rows}
    assert list(rows) == ["Condition", "Ground truth", "CM", MDT_NAME]  # 2x2 has no files, and the order is the tables'
    assert all((tmp_path / "out" / str(tile.picture)).is_file() for tile in rows[MDT_NAME].tiles)
    lost = rows["CM"].tiles[IDS.index(HOSTILE)]
    assert (lost.picture, lost.blank, lost.reason) == (None, "failed", NO_SURFACE)
    assert index.gallery.notes == (f"Failed: CM 1x2 steps, {HOSTILE}: {NO_SURFACE}.",)
    assert index.picture("chair", "cm-1x2") == "media/cm-1x2/chair.png"
    assert index.picture(HOSTILE, "cm-1x2") is None


def test_a_run_without_files_of_assets_shows_its_grid(tmp_path: Path):
    run = write_run(tmp_path / "run", models=False, pictures=False)
    (run / "grid.png").write_bytes(b"picture")
    page = write_report(run, tmp_path / "out").read_text(encoding="utf-8")
    assert 'src="media/grid.png"' in page
    assert (tmp_path / "out" / "media" / "grid.png").read_bytes() == b"picture"
    assert '<table class="gallery">' not in page


def test_verdicts_and_pictures_come_before_the_tables(tmp_path: Path):
    page = write_report(write_run(tmp_path / "run"), tmp_path / "out").read_text(encoding="utf-8")
    places = [page.index(text) for text in ("<h1", 'class="answers"', 'class="gallery"', 'id="glance"', 'id="tables"')]
    assert places == sorted(places)
    assert "<h1>Run run</h1>" in page
    assert "<title>Run run - mdtbench report</title>" in page


def test_each_note_is_there_once(make: ModuleType):
    views = [view(table) for table in tables(RunResults(rows_frame(make.whole_run())))]
    said = [note for one in views for note in one.notes]
    shown, common = with_notes_once(views)
    assert len(common) > 2
    assert set(said) == {*common, *(note for one in shown for note in one.notes)}
    kept = [*common, *(note for one in shown for note in one.notes)]
    assert len(kept) == len(set(kept)) < len(said)


def test_backticks_become_code_and_html_stays_text():
    assert ticked("a <b> `--seeds 0,1` c") == "a &lt;b&gt; <code>--seeds 0,1</code> c"


def test_curves_of_many_points_are_smoothed_and_others_are_not():
    few = ((0.0, 1.0), (1.0, 5.0), (2.0, 1.0))
    assert smoothed(few) == few
    noise = np.random.default_rng(0).standard_normal(120)
    curve = tuple((float(i), 2.0 * i + 9 * float(x)) for i, x in enumerate(noise))
    found = smoothed(curve)
    assert [step for step, _ in found] == [step for step, _ in curve]
    assert found[60][1] == pytest.approx(np.mean([value for _, value in curve[50:71]]))
    assert found[0][1] == pytest.approx(np.mean([value for _, value in curve[:11]]))
    assert np.std([value - 2.0 * i for i, (_, value) in enumerate(found[12:-12], 12)]) < 9 / 3


def test_pages_and_lists_say_why_there_is_no_picture(tmp_path: Path):
    run = write_run(tmp_path / "run", models=False, pictures=False)
    index = write_asset_pages(read_data(run), tmp_path / "out", environment())
    page = (tmp_path / "out" / index.pages["chair"]).read_text(encoding="utf-8")
    assert "The run wrote no pictures of what methods made of this asset." in page
    [script] = (tmp_path / "out" / "media").glob("list-*.js")
    entries = json.loads(script.read_text().removeprefix("mdtbenchAssets.push(...").removesuffix(");\n"))
    assert [entry["blank"] for entry in entries] == [*["no picture written"] * len(IDS), "cannot be used"]


def test_an_asset_of_which_a_structure_alone_was_made_says_so(make: ModuleType, tmp_path: Path):
    write_rows(tmp_path / "run" / "rows.jsonl", make.whole_run())
    write_asset_values(tmp_path / "run", [make.asset("a", {"ULIP_tiny": 1.0})])
    index = write_asset_pages(read_data(tmp_path / "run"), tmp_path / "out", environment())
    page = (tmp_path / "out" / index.pages["a"]).read_text(encoding="utf-8")
    assert "Of this asset structures alone were made; pictures are of whole assets." in page
    [script] = (tmp_path / "out" / "media").glob("list-*.js")
    assert '"blank":"structure alone: no picture"' in script.read_text()


def test_of_many_methods_an_answer_names_those_that_are_worse(make: ModuleType):
    """However many tie for the best."""
    means = {"vm": 55.0, "mdt": 55.1, "cm": 55.2, "pcm": 54.9, "scm": 50.0}
    [answer] = answers_of(run_of(make, means, undistilled=40.0)).answers
    assert answer.says == f"CM, {MDT_NAME}, VM and PCM are best"
    assert answer.detail.startswith(f"CM 55.20, {MDT_NAME} 55.10, 2 more; worse: sCM by 5.20 ± 0.")
