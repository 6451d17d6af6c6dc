"""`mdtbench run --preset paper` that is interrupted, fails for an asset, or lacks what it needs."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path

import fake_blender
import official_site
import pytest
from official_runs import ALWAYS, few, rows_of, run, timeless, values
from official_site import IDS, OWN, Site, call, picture
from PIL import Image

from mdtbench.assets.toys4k import COLUMNS
from mdtbench.base.files import file_sha256, read_json
from mdtbench.base.text import counted
from mdtbench.harness.driver import needs
from mdtbench.harness.generate.made import StructuresJob
from mdtbench.results.rows import COST_METRICS
from mdtbench.trellis.students import SLAT_STUDENT, STRUCTURE_STUDENT


@pytest.fixture(scope="module")
def plain(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two assets without any student."""
    out = tmp_path_factory.mktemp("plain") / "out"
    assert few(site, out).code == 0
    return out


@pytest.mark.parametrize("jobs", [4, 12])
def test_an_interrupted_run_goes_on(jobs: int, plain: Path, site: Site, tmp_path: Path):
    """In the middle of generation, and of measurement; the rows are those of a run in one go."""
    out = tmp_path / "out"
    assert few(site, out, stop_after=jobs).code == 130
    assert not (out / "rows.jsonl").exists()
    kinds = ("structures", "assets")  # pictures are thrown away once they are measured
    made = [path for kind in kinds for path in (out / "store").glob(f"entries-*/{kind}/*/*.json")]
    kept = {path: path.stat().st_mtime_ns for path in made}
    assert 0 < len(kept) <= jobs
    ended = few(site, out)
    assert ended.code == 0
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert timeless(rows_of(out), seconds=False) == timeless(rows_of(plain), seconds=False)
    assert sum(ended.given[kind] for kind in kinds) == 2 * 5 - len(kept)


def test_an_asset_without_a_picture_or_with_nothing_in_it_is_counted(site: Site, tmp_path: Path):
    shown, out = tmp_path / "shown", tmp_path / "out"
    shutil.copytree(site.root / "shown", shown)
    (shown / f"{IDS[1]}.png").unlink()
    Image.new("RGBA", (32, 32)).save(shown / f"{IDS[2]}.png")
    changes = {"places__conditions": str(shown)}
    ended = run(site, out, "--methods", "none", **changes)
    assert ended.code == 0
    made = [row for row in rows_of(out) if row.steps and row.metric not in COST_METRICS]
    assert {(row.n_ok, row.n_total) for row in made} == {(2, 4)}
    with (out / "failures.csv").open(encoding="utf-8", newline="") as stream:
        reasons = {(row["where"], row["id"]): row["reason"] for row in csv.DictReader(stream)}
    assert "no conditioning picture" in reasons["test", IDS[1]]
    assert "no pixel has alpha" in reasons["test", IDS[2]]
    assert f"{IDS[1]}: there is no conditioning picture of it" in ended.out
    # The picture has come: this asset counts; what was made of the others stays.
    shutil.copy(site.root / "shown" / f"{IDS[1]}.png", shown / f"{IDS[1]}.png")
    assert run(site, out, "--methods", "none", "--overwrite", **changes).code == 0
    made = [row for row in rows_of(out) if row.steps and row.metric not in COST_METRICS]
    assert {(row.n_ok, row.n_total) for row in made} == {(3, 4)}


@pytest.mark.parametrize("empty", [slice(1, 2), slice(None)], ids=["one", "all"])
def test_an_empty_structure_is_a_failed_asset(
    empty: slice, plain: Path, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    compute, out = StructuresJob.compute, tmp_path / "out"

    def emptied(self: StructuresJob) -> list:
        [arrays] = compute(self)
        arrays["occupancy"][empty] = False
        return [arrays]

    monkeypatch.setattr(StructuresJob, "compute", emptied)
    ended = few(site, out)
    assert ended.code == 0
    gone = len(range(2)[empty])
    made = [row for row in rows_of(out) if row.steps and row.metric not in COST_METRICS]
    assert {(row.n_ok, row.n_total) for row in made} == {(2 - gone, 2)}
    assert f"{counted(5 * gone, 'generated asset')} failed:" in ended.out
    single = [json.loads(line) for line in (out / "assets.jsonl").read_text().splitlines()]
    failed = [one for one in single if one["method"] in ("teacher", "none") and one["asset"] in IDS[:2][empty]]
    assert len(failed) == 5 * gone
    assert {(one["ok"], one["error"]) for one in failed} == {(False, "the structure is empty")}
    assert {one["values"]["ULIP_I[random]"] for one in failed} == {0.0}
    assert "the structure is empty" in (out / "failures.csv").read_text(encoding="utf-8")
    whole, here = values(rows_of(plain), "teacher", "", 25), values(rows_of(out), "teacher", "", 25)
    # Cosines of random networks have either sign: those of failed assets are zero.
    assert abs(here["ULIP_I[random]"]) < abs(whole["ULIP_I[random]"])  # type: ignore[arg-type]


def test_what_is_missing_is_listed_and_nothing_computed(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """All is there but a GPU, unless the CPU is named; and for a method that trains, latents."""
    monkeypatch.setattr(needs, "cuda_devices", list)
    given = ("run", "--preset", "paper", "--out", tmp_path / "out", *site.words(data__latents="[]"))
    for words, missing in (
        (("--methods", "mdt:released"), ["a GPU"]),
        (("--methods", "cm"), ["training latents", "a GPU"]),
        (("--methods", "cm", "--device", "cpu"), ["training latents"]),
    ):
        ended = call(*given, *words)
        assert (ended.code, ended.given) == (4, {})
        head, *details = ended.err.splitlines()
        assert re.match(
            rf"mdtbench: {len(missing)} of \d+ things are missing: {'; '.join(missing)}\. Nothing was", head
        )
        assert len(details) == len(missing)
        assert ("no folder is named" in ended.err) is ("training latents" in missing)
    assert not (tmp_path / "out").exists()


def test_a_released_student_that_does_not_fit_is_told(site: Site, tmp_path: Path):
    weights = tmp_path / "weights"
    shutil.copytree(site.root / "weights", weights)
    structure, slat = (weights / "mdt-dist" / name for name in (STRUCTURE_STUDENT, SLAT_STUDENT))
    shutil.copy(slat, structure)
    ended = few(site, tmp_path / "out", methods="mdt:released", places__weights=str(weights))
    assert ended.code == 4
    assert structure.name in ended.err


def test_meshes_are_shown_by_the_own_renderer_where_there_are_no_pictures(site: Site, tmp_path: Path):
    """Of structures alone, which are other ones then."""
    found, words = [], ("--stages", "structure", "--plugin", OWN)
    with official_site.registries():
        for name, changes in (("given", {}), ("drawn", {"places__conditions": ""})):
            assert few(site, tmp_path / name, *words, **changes).code == 0
            found.append([values(rows_of(tmp_path / name), *line)["cells"] for line in ALWAYS])
    assert found[0] != found[1]


def test_toys4k_is_shown_and_compared_through_blender(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Blender makes the conditioning pictures, the true pictures and the true meshes; it fails on one of three."""
    monkeypatch.delenv("MDTBENCH_BLENDER", raising=False)
    toys, rows = tmp_path / "toys", []
    for seed, (name, kind) in enumerate({"a": "good", "b": "good", "c": "exit"}.items()):
        path = fake_blender.write_blend(toys / "toys4k_blend_files" / f"{name}.blend", kind)
        for side in (32, 1024):
            picture(seed).resize((side, side)).save(path.with_name(f"{name}-{side}.png"))
        rows.append((file_sha256(path), path.name, 5.0, ""))
    with (toys / "Toys4k.csv").open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([COLUMNS, *rows])
    blender = str(fake_blender.install(tmp_path, "3.0.1"))
    changes = {"places__test": f"toys4k:{toys}", "places__blender": blender, "places__conditions": ""}
    ended = run(site, tmp_path / "out", "--methods", "none", **changes)
    assert ended.code == 0, ended.err
    made = [row for row in rows_of(tmp_path / "out") if row.steps and row.metric not in COST_METRICS]
    good = sorted(sha for sha, *_ in rows[:2])
    manifest = read_json(tmp_path / "out" / "manifest.json")
    assert manifest["test_ids"] == good
    assert manifest["protocol"]["name"] == "trellis-v1"  # itself: no variant
    assert {row.n_ok for row in made} == {2}
    assert {"drawn by Blender 3.0.1" in row.note for row in made if row.method == "teacher"} == {True}
    assert rows[2][0] in (tmp_path / "out" / "failures.csv").read_text(encoding="utf-8")
