from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from mdtbench.assets.folder import FolderSource
from mdtbench.base.errors import AssetError, MissingError, UsageError
from mdtbench.base.files import file_sha256
from mdtbench.geometry.mesh import NORMALISED_SIDE

OBJ = "v 0 0 0\nv 2 0 0\nv 2 4 0\nf 1 2 3\n"
REAL = Path(os.environ.get("MDTBENCH_TEST_ASSETS", Path(__file__).parents[3] / "shared" / "assets"))


def fill(folder, names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(OBJ)


def manifest(folder, text):
    (folder / "manifest.csv").write_text(text)
    return FolderSource(folder)


def test_every_mesh_below_the_folder_is_an_asset(tmp_path):
    fill(
        tmp_path,
        [
            "b.obj",
            "cars/red/a.OBJ",
            "cars/red/a.png",
            "cars/a.bin",
            "dogs/x.fbx",
            ".hidden/c.obj",
            "cars/._d.obj",
        ],
    )
    source = FolderSource(tmp_path)
    assert [(a.id, a.category) for a in source.assets()] == [
        ("b", ""),
        ("cars/red/a", "cars"),
        ("dogs/x", "dogs"),
    ]
    assert source.name == tmp_path.name


def test_ids_that_would_clash_keep_their_suffix(tmp_path):
    fill(tmp_path, ["a.obj", "a.ply", "b.obj"])
    assert [a.id for a in FolderSource(tmp_path).assets()] == ["a.obj", "a.ply", "b"]
    fill(tmp_path, ["a.obj.stl"])
    assert [a.id for a in FolderSource(tmp_path).assets()] == ["a.obj", "a.obj.stl", "a.ply", "b.obj"]


def test_loading_normalises_and_turns_upright(tmp_path):
    fill(tmp_path, ["a.obj"])
    mesh = FolderSource(tmp_path).assets()[0].load()
    np.testing.assert_allclose(mesh.vertices.max(0), [NORMALISED_SIDE / 4, 0, NORMALISED_SIDE / 2], atol=1e-12)
    np.testing.assert_allclose(mesh.vertices.min(0), -mesh.vertices.max(0), atol=1e-12)


def test_formats_that_are_not_read_count_as_failures(tmp_path):
    fill(tmp_path, ["a.blend"])
    with pytest.raises(AssetError, match=r"a\.blend.*\.blend"):
        FolderSource(tmp_path).assets()[0].load()


def test_manifest_decides(tmp_path):
    fill(tmp_path, ["x/a.obj", "x/b.obj", "pictures/c.png"])
    rows = "two,x/b.obj,dog,z\none,x/a.obj,cat,\npicture,pictures/c.PNG,image,\n"
    one, two = manifest(tmp_path, "id,file,category,up\n" + rows).assets()
    assert (one.id, one.category, two.id, two.category) == ("one", "cat", "two", "dog")
    assert np.ptp(one.load().vertices, axis=0).argmin() == 1  # flat in y: z of the file, which has y up
    assert np.ptp(two.load().vertices, axis=0).argmin() == 2


def test_manifest_digest_of_a_file_is_checked(tmp_path):
    fill(tmp_path, ["a.obj"])
    good = file_sha256(tmp_path / "a.obj")
    text = "id,file,category,sha256\na,a.obj,c,{}\n"
    assert len(manifest(tmp_path, text.format(good.upper())).assets()[0].load().faces) == 1
    with pytest.raises(AssetError, match=r"a\.obj: its sha256 is " + good[:12]):
        manifest(tmp_path, text.format("0" * 64)).assets()[0].load()


def test_a_file_of_the_manifest_that_is_missing_is_an_asset_error(tmp_path):
    source = manifest(tmp_path, "id,file,category\na,gone.obj,c\n")
    source.digest()
    with pytest.raises(AssetError, match=r"gone\.obj"):
        source.assets()[0].load()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("id,file\na,a.obj\n", "line 1: no column 'category'"),
        ("", "line 1: no column 'id'"),
        ("id,file,category\na,a.obj,c\nb,b.obj,c\na,c.obj,c\n", "line 4, column id: 'a' is also on line 2"),
        ("id,file,category\na,../a.obj,c\n", "line 2, column file: '../a.obj' is outside"),
        ("id,file,category\na,/etc/a.obj,c\n", "line 2, column file: '/etc/a.obj' is outside"),
        ("id,file,category\n,a.obj,c\n", "line 2, column id: it is empty"),
        ("id,file,category\na\n", "line 2, column file: it is empty"),
        ("id,file,category,up\na,a.obj,c,x\n", "line 2, column up: 'x'"),
        ('id,file,category\na,"a.obj\n', "not a CSV file"),
    ],
)
def test_malformed_manifest(tmp_path, text, words):
    with pytest.raises(UsageError) as caught:
        manifest(tmp_path, text).assets()
    assert words in str(caught.value)
    assert str(tmp_path / "manifest.csv") in str(caught.value)


def test_missing_and_empty_folders(tmp_path):
    with pytest.raises(MissingError, match="gone"):
        FolderSource(tmp_path / "gone").assets()
    fill(tmp_path, ["a.png"])
    with pytest.raises(MissingError, match=r"\.glb, \.gltf, \.obj"):
        FolderSource(tmp_path).assets()


def test_digest_follows_content_of_meshes_and_companions(tmp_path):
    fill(tmp_path, ["a.png"])
    (tmp_path / "a.obj").write_text("mtllib a.mtl\n" + OBJ)
    (tmp_path / "a.mtl").write_text("newmtl m\nmap_Kd a.png\n")
    source = FolderSource(tmp_path)
    seen = [source.digest(), source.digest()]
    for name in ("a.obj", "a.png", "b.obj"):
        with (tmp_path / name).open("a") as stream:
            stream.write((OBJ if name == "b.obj" else "") + "# changed\n")
        seen.append(source.digest())
    assert seen[0] == seen[1]
    assert len(set(seen)) == 4


def test_digest_is_that_of_the_content_not_of_the_place(tmp_path):
    fill(tmp_path, ["here/x/a.obj", "there/x/a.obj"])
    assert FolderSource(tmp_path / "here").digest() == FolderSource(tmp_path / "there").digest()


@pytest.mark.skipif(not (REAL / "manifest.csv").is_file(), reason="the real assets are not here")
def test_real_assets_load_or_say_why():
    reasons = {}
    for asset in FolderSource(REAL).assets():
        try:
            check_real_mesh(asset, asset.load())
        except AssetError as error:
            reasons[asset.path] = str(error)
    assert not [path for path in reasons if "models" in path.relative_to(REAL).parts], reasons
    assert all(len(reason) > len(path.name) + 10 for path, reason in reasons.items()), reasons


def check_real_mesh(asset, mesh):
    assert np.isfinite(mesh.vertices).all()
    np.testing.assert_allclose(np.ptp(mesh.vertices, axis=0).max(), NORMALISED_SIDE, rtol=1e-9)
    assert np.isfinite(mesh.corner_rgba).all()
    if "models" in asset.path.relative_to(REAL).parts:  # each has two colours at least
        assert mesh.textures or len(np.unique(mesh.corner_rgba.reshape(-1, 4), axis=0)) > 1, asset.id
