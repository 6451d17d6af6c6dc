"""What the pages of an evaluation show: whose pictures they are, which meshes there are, what failed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from evaluations import SIDE, Files, box, small_evaluations, splats
from PIL import Image

from mdtbench.assets.mesh_files import read_mesh
from mdtbench.harness.driver import export
from mdtbench.harness.driver.export import small
from mdtbench.harness.driver.export_folder import FEW
from mdtbench.results.html.data import read_data
from mdtbench.results.html.report import write_report
from mdtbench.results.merged_folder import merged_folder

NAMES = "abcdef"
LOST = "e"  # was not generated


@pytest.fixture(scope="module", autouse=True)
def networks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with small_evaluations(tmp_path_factory.mktemp("small")):
        yield


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    found = Files(tmp_path_factory.mktemp("files"))
    for i, name in enumerate(NAMES):
        box(found.truth / f"{name}.glb", (1, 1 + i, 2), 0.1 * i)
        if name != LOST:
            box(found.made / f"{name}.glb", (1, 1 + i, 1), 0.1 * i)
            splats(found.made / f"{name}.ply", i)
    (found.root / "shown").mkdir()
    for name in "ab":
        Image.new("RGBA", (300, 600), (200, 100, 50, 128)).save(found.root / "shown" / f"{name}.png")
    found.evaluated(conditions=found.root / "shown")
    return found


def picture(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_pictures_are_those_that_distances_are_of(files: Files):
    found, root = files.resolved(), files.root / "out" / "export"
    for side, folder in ((found.made, "made/Sys"), (found.truth, "truth")):
        [looks] = side.seen(["gaussians"], found.extractors).data.values()
        for i, name in enumerate(NAMES):
            if (folder, name) != ("made/Sys", LOST):
                written = picture(root / folder / f"{name}.png")
                assert written.shape == (SIDE, SIDE, 3)
                assert (written == looks[i][0].transpose(1, 2, 0)).all()
    condition = picture(root / "condition" / "a.png")
    assert condition.shape == (256, 128, 3)
    assert tuple(condition[0, 0]) == (100, 50, 25)  # 128 / 255 of it, on black
    assert not (root / "condition" / "c.png").exists()


def test_meshes_are_of_the_first_assets_in_the_unit_cube(files: Files):
    root = files.root / "out" / "export"
    for folder in ("made/Sys", "truth"):
        there = {path.stem for path in (root / folder).glob("*.glb")}
        assert there == set(NAMES[:FEW])
        vertices = read_mesh(root / folder / "b.glb").vertices
        assert np.ptp(vertices, axis=0).max() == pytest.approx(1, abs=1e-5)


def test_the_index_names_the_system_and_the_list_of_failures_says_why(files: Files):
    root = files.root / "out" / "export"
    index = {asset["id"]: asset["files"] for asset in json.loads((root / "index.json").read_text())["assets"]}
    assert list(index) == list(NAMES)
    assert index["a"]["Sys"] == ["made/Sys/a.glb", "made/Sys/a.png"]
    assert index[LOST]["Sys"] == []
    assert index["f"]["condition"] == []
    assert (root / "failures.csv").read_text().splitlines() == ["made_by,id,reason", f"Sys,{LOST},not generated"]


def test_what_is_there_is_not_written_again(files: Files, monkeypatch: pytest.MonkeyPatch):
    root = files.root / "out" / "export"
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*.[gp][ln][bg]")}
    (root / "truth" / "c.png").unlink()
    seen = []
    monkeypatch.setattr(export, "small", lambda one: seen.append(one) or small(one))
    files.evaluated(conditions=files.root / "shown")
    after = {path: path.stat().st_mtime_ns for path in root.rglob("*.[gp][ln][bg]")}
    assert before.keys() == after.keys()
    assert [path.name for path in after if after[path] != before[path]] == ["c.png"]
    assert len(seen) == 1


def test_the_pages_of_an_evaluation_have_pictures_and_the_systems_name(files: Files, tmp_path: Path):
    page = write_report(files.root / "out", tmp_path / "pages").read_text(encoding="utf-8")
    assert "<h1>System Sys</h1>" in page
    assert 'src="media/sys-' in page
    asset = (tmp_path / "pages" / "assets" / "a.html").read_text(encoding="utf-8")
    assert asset.count("<img") == 3  # condition, truth, system
    assert asset.count("data-model") == 2
    assert "ULIP_I" in asset
    lost = (tmp_path / "pages" / "assets" / f"{LOST}.html").read_text(encoding="utf-8")
    assert "Failed: not generated" in lost


def test_systems_that_are_compared_have_the_pictures_of_each(files: Files, tmp_path: Path):
    other = Files(files.root)
    other.evaluated(out="second", name="Other", folder=files.truth, conditions=None)
    with merged_folder([files.root / "out", files.root / "second"]) as folder:
        data = read_data(folder)
        page = write_report(folder, tmp_path / "pages").read_text(encoding="utf-8")
    assert {*data.rows["method"]} >= {"Sys", "Other"}
    assert "<h1>Systems Sys, Other</h1>" in page
    asset = (tmp_path / "pages" / "assets" / "a.html").read_text(encoding="utf-8")
    for name in ("Condition", "Ground truth", "Sys", "Other"):
        assert f"<strong>{name}</strong>" in asset
