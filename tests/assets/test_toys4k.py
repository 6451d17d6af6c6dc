from __future__ import annotations

import csv
import hashlib
import pickle

import fake_blender
import numpy as np
import pytest

from mdtbench.assets.blend import BlendCache, find_blender
from mdtbench.assets.toys4k import COLUMNS, Row, Toys4kSource, faults, pick, read_rows, subset_key
from mdtbench.base.errors import AssetError, MissingError, UsageError
from mdtbench.base.files import file_sha256
from mdtbench.geometry.mesh import NORMALISED_SIDE


def sha(text):
    return hashlib.sha256(text.encode()).hexdigest()


def write_csv(path, rows, columns=COLUMNS):
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(columns)
        writer.writerows(rows)
    return path


@pytest.fixture
def source(tmp_path):
    """Four assets: two good ones, one below the threshold, and one that Blender crashes on."""
    folder = tmp_path / "toys4k_blend_files"
    names = {
        "airplane/airplane_000/a.blend": "good",
        "car/car_1/b.blend": "good",
        "car/c.blend": "good",
        "d.blend": "exit",
    }
    rows = []
    for (name, kind), score in zip(names.items(), (4.5, 6.1, 4.499, 5), strict=True):
        rows.append((file_sha256(fake_blender.write_blend(folder / name, kind)), name, score, '["a toy, red", "toy"]'))
    listing = write_csv(tmp_path / "Toys4k.csv", rows)
    blender = find_blender(str(fake_blender.install(tmp_path)))
    return Toys4kSource(listing, folder, BlendCache(tmp_path / "cache", blender, timeout_s=20))


def by_name(source):
    return {asset.row.file_identifier: asset for asset in source.assets()}


# --- the list


def test_rows_are_read(source):
    rows = read_rows(source.csv)
    assert len(rows) == 4
    assert rows[0].file_identifier == "airplane/airplane_000/a.blend"
    assert rows[0].aesthetic_score == 4.5
    assert rows[0].captions == '["a toy, red", "toy"]'


def test_a_wrong_list_says_what_was_found_and_expected(tmp_path):
    path = write_csv(tmp_path / "x.csv", [], ("id", "file", "category"))
    with pytest.raises(UsageError) as caught:
        read_rows(path)
    assert "found the columns id, file, category" in str(caught.value)
    assert "expected sha256, file_identifier, aesthetic_score, captions" in str(caught.value)


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        (("abc", "a.blend", 5, ""), "line 2, column sha256: 'abc'"),
        ((sha("a"), "../a.blend", 5, ""), "line 2, column file_identifier: '../a.blend'"),
        ((sha("a"), "/a.blend", 5, ""), "column file_identifier"),
        ((sha("a"), "a.obj", 5, ""), "column file_identifier"),
        ((sha("a"), "a.blend", "", ""), "column aesthetic_score: ''"),
        ((sha("a"), "a.blend", "nan", ""), "column aesthetic_score: 'nan'"),
    ],
)
def test_a_malformed_row_is_named(tmp_path, row, complaint):
    with pytest.raises(UsageError) as caught:
        read_rows(write_csv(tmp_path / "x.csv", [row]))
    assert complaint in str(caught.value)


def test_missing_and_empty_lists(tmp_path):
    with pytest.raises(MissingError, match="TRELLIS-500K"):
        read_rows(tmp_path / "Toys4k.csv")
    with pytest.raises(UsageError, match="no rows"):
        read_rows(write_csv(tmp_path / "x.csv", []))
    (tmp_path / "b.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="not a CSV file"):
        read_rows(tmp_path / "b.csv")


def test_one_file_under_two_names_counts_once(tmp_path):
    rows = [(sha("a"), "a.blend", 5, ""), (sha("b"), "b.blend", 5, ""), (sha("a").upper(), "c.blend", 7, "")]
    assert [row.file_identifier for row in read_rows(write_csv(tmp_path / "x.csv", rows))] == ["a.blend", "b.blend"]


# --- subsets


def test_the_key_of_the_subset_is_that_of_the_protocol():
    # printf 'trellis-v1/1250/aaa...a' | sha256sum
    assert subset_key("a" * 64) == "f675a2c048833d13e5825b9a55b552c34806e095fcd34e2a4ba3ccc38ce23909"


def test_subsets():
    rows = [Row(sha(str(i)), f"{i}.blend", 4.5 if i % 7 else 4.49) for i in range(1500)]
    full = pick(rows, "full")
    assert len(full) == 1285  # 1500 less the 215 multiples of seven
    assert {row.aesthetic_score for row in full} == {4.5}
    ranked = sorted((sha(f"trellis-v1/1250/{row.sha256}"), row.sha256) for row in full)
    for subset, count in (("sub1250", 1250), ("smoke", 64)):
        assert [row.sha256 for row in pick(rows, subset)] == sorted(s for _, s in ranked[:count])
        assert pick(rows[::-1], subset) == pick(rows, subset)


def test_an_unknown_subset_suggests_the_nearest():
    with pytest.raises(UsageError, match="Did you mean 'sub1250'"):
        pick([], "sub1205")


# --- the source


def test_assets_are_named_by_content_and_sorted(source):
    assets = source.assets()
    assert [a.id for a in assets] == sorted(a.id for a in assets)
    assert {a.row.file_identifier: a.category for a in assets} == {
        "airplane/airplane_000/a.blend": "airplane",
        "car/car_1/b.blend": "car",
        "d.blend": "",
    }
    assert source.name == "toys4k-full"
    assert [a.id for a in pickle.loads(pickle.dumps(source)).assets()] == [a.id for a in assets]


def test_loading_goes_through_blender_and_normalises(source):
    mesh = by_name(source)["car/car_1/b.blend"].load()
    corners = mesh.triangles.reshape(-1, 3)
    # 4 x 1 x 2 in the stand-in, z up; 1e-6: the file is float32
    np.testing.assert_allclose(np.ptp(corners, axis=0), np.array([4, 1, 2]) / 4 * NORMALISED_SIDE, atol=1e-6)


def test_missing_changed_and_crashing_files_are_failures_with_a_reason(source):
    (source.folder / "airplane/airplane_000/a.blend").unlink()
    (source.folder / "car/car_1/b.blend").write_text("good other")
    assets = by_name(source)
    reasons = {}
    for name, asset in assets.items():
        with pytest.raises(AssetError) as caught:
            asset.load()
        reasons[name] = str(caught.value)
    assert "missing in toys4k_blend_files" in reasons["airplane/airplane_000/a.blend"]
    assert f"Toys4k.csv says {assets['car/car_1/b.blend'].id[:12]}" in reasons["car/car_1/b.blend"]
    assert "no visible mesh" in reasons["d.blend"]
    found = faults(assets.values())
    assert set(found) == {assets[n].id for n in ("airplane/airplane_000/a.blend", "car/car_1/b.blend")}


def test_missing_folder(source, tmp_path):
    with pytest.raises(MissingError, match="rehg-lab/lowshot-shapebias"):
        Toys4kSource(source.csv, tmp_path / "nowhere", source.blender).assets()


def test_the_digest_sees_the_list_the_files_and_blender(source, tmp_path):
    digests = [source.digest()]
    assert source.digest() == digests[0]
    digests.append(Toys4kSource(source.csv, source.folder, source.blender, "smoke").digest())
    assert digests[1] == digests[0]  # a digest is that of the shapes: three assets are the first 64 of themselves
    newer = find_blender(str(fake_blender.install(tmp_path, "9.9.10")))
    digests.append(Toys4kSource(source.csv, source.folder, BlendCache(source.blender.root, newer)).digest())
    (source.folder / "d.blend").unlink()
    digests.append(source.digest())
    assert len({digests[0], *digests[2:]}) == 3
