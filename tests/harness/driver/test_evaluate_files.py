"""Folders as people have them: names, links, files beside each other; and notes beside the numbers."""

from __future__ import annotations

import csv
import json
import os
import shutil
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pytest
from case_facts import CASES
from evaluations import Files, box, small_evaluations, splats

from mdtbench.assets.folder import FolderSource, walk
from mdtbench.base.errors import MissingError, UsageError
from mdtbench.harness.measure.pairs import files_in
from mdtbench.results.asset_values import read_asset_values


@pytest.fixture(scope="module", autouse=True)
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with small_evaluations(tmp_path_factory.mktemp("small")):
        yield


@pytest.fixture
def files(tmp_path: Path) -> Files:
    for name in ("a", "b"):
        for side in ("truth", "made"):
            box(tmp_path / side / f"{name}.glb", (1, 2, 1 + (name == "b")))
    return Files(tmp_path)


def notes_in(out: Path) -> dict[str, str]:
    return {value.asset: value.note for value in read_asset_values(out) if value.method == "Sys"}


def test_notes_stand_beside_the_number(files):
    shutil.copy(CASES / "13-materials/variants.glb", files.made / "a.glb")
    shutil.copy(CASES / "01-float-colours-above-one/over.ply", files.truth / "b.ply")
    (files.truth / "b.glb").unlink()
    result = files.evaluated(geometry_only=True)
    assert notes_in(result.out) == {
        "a": "of its variants of materials the default is shown",
        "b": "reference: some of its colours lie outside [0, 1] (up to 1.003) and are clipped",
    }
    note = result.rows["Sys", "ULIP_I"].note
    assert "1 of 2 assets has notes (assets.jsonl)" in note
    assert "1 of 2 assets of the reference has notes" in note
    again = files.evaluated(geometry_only=True, out="again")
    assert (again.out / "assets.jsonl").read_bytes() == (result.out / "assets.jsonl").read_bytes()


def test_each_reason_names_its_own_file(files):
    shutil.copytree(CASES / "38-dup-broken", files.root / "case")
    result = files.evaluated(
        folder=files.root / "case/made", reference=str(files.root / "case/truth"), geometry_only=True
    )
    assert {name: reason.partition(":")[0] for (_, name), reason in result.failures.items()} == {
        "b": "b.glb",
        "c": "c.glb",
    }


def test_a_match_by_the_last_part_of_a_name_is_noted(files):
    case = CASES / "32-last-part-collision"
    result = files.evaluated(folder=case / "made", reference=str(case / "truth"), geometry_only=True)
    notes = notes_in(result.out)
    assert "'banana/model' matched by the last part of the name alone" in notes["apple/model"]
    assert notes["pear/object"] == ""


def test_names_that_are_not_utf8_and_names_of_two_spellings(files):
    """After all has been computed, its files must hold what was found."""
    os.rename(os.fsencode(files.made / "a.glb"), os.fsencode(files.made) + b"/caf\xe9.glb")
    os.rename(os.fsencode(files.truth / "a.glb"), os.fsencode(files.truth) + b"/caf\xe9.glb")
    composed, split = unicodedata.normalize("NFC", "Grün"), unicodedata.normalize("NFD", "Grün")
    (files.made / "b.glb").rename(files.made / f"{split}.glb")
    (files.truth / "b.glb").rename(files.truth / f"{composed}.glb")
    with open(os.fsencode(files.made) + b"/\xff.glb", "wb") as stream:
        stream.write(b"rubbish")
    box(files.truth / "%FF.glb", (1, 1, 1))
    result = files.evaluated(geometry_only=True)
    assert result.rows["Sys", "ULIP_I"].n_ok == 2
    assert result.found.ids == ("%FF", composed, "caf%E9")
    with (result.out / "failures.csv").open(encoding="utf-8", newline="") as stream:
        assert [row["id"] for row in csv.DictReader(stream)] == ["%FF"]
    assert json.loads((result.out / "manifest.json").read_text("utf-8"))["reference"]["ids"] == list(result.found.ids)


def test_links_are_followed_once_around(tmp_path):
    box(tmp_path / "there" / "x" / "a.glb", (1, 1, 1))
    (tmp_path / "here").mkdir()
    (tmp_path / "here/link").symlink_to(tmp_path / "there")
    (tmp_path / "there/x/back").symlink_to(tmp_path / "there")
    assert [asset.id for asset in FolderSource(tmp_path / "here").assets()] == ["link/x/a"]
    assert [path.as_posix() for path in walk(tmp_path / "here")] == ["link/x/a.glb"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_cannot_be_read_is_named(tmp_path):
    box(tmp_path / "shut" / "a.glb", (1, 1, 1))
    (tmp_path / "shut").chmod(0)
    with pytest.raises(MissingError, match="shut cannot be read"):
        walk(tmp_path)


def test_two_spellings_of_one_name_are_refused(tmp_path):
    for form in ("NFC", "NFD"):
        box(tmp_path / f"{unicodedata.normalize(form, 'Grün')}.glb", (1, 1, 1))
    with pytest.raises(UsageError, match="spelled differently"):
        FolderSource(tmp_path).assets()


def test_what_is_not_read_stands_for_an_asset_only_where_nothing_else_does(tmp_path):
    for case, kept in (("mesh+rgb", True), ("mesh+compressed", True), ("mesh+standard", True)):
        found = files_in(CASES / "22-mesh-and-gaussians-same-id" / case)["toy"]
        assert found.mesh is not None
        assert (found.gaussians is not None) is kept
    box(tmp_path / "a.glb", (1, 1, 1))
    splats(tmp_path / "a.ply", 0)
    for name in ("a.spz", "a.fbx", "b.spz", "c.fbx"):
        (tmp_path / name).write_bytes(b"x")
    found = files_in(tmp_path)
    assert found["a"].gaussians == tmp_path / "a.ply"
    assert found["a"].notes == ("a.fbx is not read, and left out", "a.spz is not read, and left out")
    assert (found["b"].mesh, found["b"].gaussians) == (None, tmp_path / "b.spz")
    assert found["c"].mesh is not None


def test_a_manifest_may_name_a_mesh_and_gaussians_of_one_asset():
    folder = CASES / "49-manifest-both"
    found = files_in(folder)
    assert {name: (one.mesh.path.name, one.gaussians.name) for name, one in found.items()} == {
        "t0": ("t0.glb", "g0.ply"),
        "t1": ("t1.glb", "g1.ply"),
    }
    assert [asset.path.name for asset in FolderSource(folder).assets()] == ["t0.glb", "t1.glb"]


def test_splats_of_other_kinds_fail_alone(files):
    (files.made / "a.glb").unlink()
    shutil.copy(CASES / "21-3dgs-ply/cloud.spz", files.made / "a.spz")
    shutil.copy(CASES / "21-3dgs-ply/huge_scene.ply", files.made / "b.ply")
    result = files.evaluated()
    assert result.failures["gaussians", "a"] == (
        "a.spz: not usable as 3D Gaussians: files of the kind '.spz' are not read. Export it as a 3DGS PLY file."
    )
    assert result.rows["Sys", "FD_incep"].n_ok == 1
    assert "outside the unit cube" in notes_in(result.out)["b"]


@pytest.mark.parametrize("name", ["x" * 240, "é" * 120])
def test_long_names(files, name):
    for side in (files.made, files.truth):
        (side / "a.glb").rename(side / f"{name}.glb")
    assert files.evaluated(geometry_only=True).rows["Sys", "ULIP_I"].n_ok == 2
