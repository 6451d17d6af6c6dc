from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path

import fake_blender
import numpy as np
import pytest
from PIL import Image

from mdtbench.assets.blend import (
    BlendCache,
    ExportJob,
    RenderJob,
    View,
    condition_views,
    coverage,
    find_blender,
    on_black,
    scripts_digest,
)
from mdtbench.assets.mesh_files import read_mesh
from mdtbench.base.errors import AssetError, MissingError
from mdtbench.geometry.cameras import PROTOCOL_FOV, PROTOCOL_PITCH, PROTOCOL_RADIUS, PROTOCOL_YAWS, orbit
from mdtbench.render.meshes import MeshRenderer

REAL = os.environ.get("MDTBENCH_BLENDER", "")
needs_blender = pytest.mark.skipif(not REAL, reason="MDTBENCH_BLENDER names no Blender or Python with bpy")
FD_VIEWS = tuple(View(yaw, PROTOCOL_PITCH, PROTOCOL_RADIUS, PROTOCOL_FOV) for yaw in PROTOCOL_YAWS)


@pytest.fixture
def blender(tmp_path):
    return fake_blender.install(tmp_path)


@pytest.fixture
def cache(tmp_path, blender):
    return BlendCache(tmp_path / "cache", find_blender(str(blender)), timeout_s=20)


def picture(path, rgba=(200, 100, 50, 128), covered=slice(None)):
    pixels = np.zeros((10, 10, 4), np.uint8)
    pixels[covered] = rgba
    Image.fromarray(pixels).save(path)
    return path


# --- finding Blender


def test_the_argument_goes_before_the_variable_and_that_before_the_path(tmp_path, monkeypatch):
    folders = [tmp_path / name for name in "abc"]
    for folder, version in zip(folders, ("1", "2", "3"), strict=True):
        folder.mkdir()
        fake_blender.install(folder, version)
    monkeypatch.setenv("PATH", str(folders[2]))
    monkeypatch.delenv("MDTBENCH_BLENDER", raising=False)
    assert find_blender().version == "3"
    monkeypatch.setenv("MDTBENCH_BLENDER", str(folders[1] / "blender"))
    assert find_blender().version == "2"
    assert find_blender(str(folders[0] / "blender")).version == "1"


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (None, "is not an executable"),
        ("#!/bin/sh\necho GIMP 3.0", "is neither Blender nor Python"),
        ("#!/bin/sh\necho libX.so is missing >&2; exit 127", "fails: libX.so is missing"),
        (
            '#!/bin/sh\n[ "$1" = --version ] && echo Python 3.11.7 && exit\necho No module bpy >&2; exit 1',
            "No module bpy",
        ),
        ("no shebang", "does not start"),
    ],
)
def test_without_blender_the_message_says_what_to_install(tmp_path, script, reason):
    path = tmp_path / "tool"
    if script is not None:
        path.write_text(script)
        path.chmod(0o755)
    with pytest.raises(MissingError) as caught:
        find_blender(str(path))
    assert reason in str(caught.value)
    assert "pip install 'bpy==4.5.*'" in str(caught.value)
    assert "\n" not in str(caught.value)


# --- the process


def test_a_job_is_done_once(tmp_path, blender, cache):
    blend = fake_blender.write_blend(tmp_path / "a.blend")
    made = cache.made(blend, ExportJob())
    assert made.result["materials"] == {"n_lost": 1}
    assert (made.folder / "shape.glb").read_bytes() == blend.with_suffix(".glb").read_bytes()
    again = cache.made(blend, ExportJob())
    assert (again.folder, dict(again.result)) == (made.folder, dict(made.result))
    assert fake_blender.calls(blender) == 1
    assert sorted(path.name for path in made.folder.iterdir()) == ["entry.json", "shape.glb"]
    assert [path.name for path in made.folder.parent.iterdir()] == [made.folder.name]


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("segfault", "was ended by signal 11: Read blend: line one | line two | Writing: crash.txt"),
        (
            "exit",
            "failed with exit code 3: Read blend: line one | line two | RuntimeError: the file has no visible mesh",
        ),
        ("silent", "ended without a result"),
        ("garbage", "result is not one"),
        ("liar", "reports that it made shape.glb, which is not there"),
    ],
)
def test_failures_are_failures_of_the_asset(tmp_path, cache, kind, reason):
    blend = fake_blender.write_blend(tmp_path / "a.blend", kind)
    with pytest.raises(AssetError) as caught:
        cache.made(blend, ExportJob())
    assert str(caught.value).startswith("a.blend: ")
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list(cache.root.rglob("entry.json"))
    assert not [path for path in cache.root.rglob("*") if path.is_dir() and len(path.name) > 2]


def test_a_failure_keeps_its_log_and_is_tried_again(tmp_path, blender, cache):
    blend = fake_blender.write_blend(tmp_path / "a.blend", "segfault")
    for _ in range(2):
        with pytest.raises(AssetError) as caught:
            cache.made(blend, ExportJob())
    assert "line two" in Path(str(caught.value).split(" - see ")[1]).read_text()
    assert fake_blender.calls(blender) == 2


def test_a_job_that_takes_too_long_is_ended(tmp_path, blender):
    cache = BlendCache(tmp_path / "cache", find_blender(str(blender)), timeout_s=0.5)
    start = time.monotonic()
    with pytest.raises(AssetError, match=r"took longer than 0\.5 s"):
        cache.made(fake_blender.write_blend(tmp_path / "a.blend", "hang"), ExportJob())
    assert time.monotonic() - start < 20  # it would have slept for 60


# --- the cache


def test_every_input_changes_the_address(tmp_path, cache):
    job = RenderJob(FD_VIEWS, 512)
    other_scripts = tmp_path / "scripts"
    other_scripts.mkdir()
    (other_scripts / "run_job.py").write_text("pass")
    newer = find_blender(str(fake_blender.install(tmp_path, "9.9.10")))
    addresses = [
        cache.inputs("aa", job),
        cache.inputs("bb", job),
        cache.inputs("aa", ExportJob()),
        cache.inputs("aa", RenderJob(FD_VIEWS[:3], 512)),
        cache.inputs("aa", RenderJob(FD_VIEWS, 511)),
        cache.inputs("aa", RenderJob(FD_VIEWS, 512, samples=64)),
        cache.inputs("aa", RenderJob(FD_VIEWS, 512, seed=1)),
        cache.inputs("aa", RenderJob(FD_VIEWS, 512, as_is=True)),
        cache.inputs("aa", RenderJob(FD_VIEWS, 512, device="CUDA")),
        BlendCache(cache.root, newer).inputs("aa", job),
        BlendCache(cache.root, cache.blender, scripts=other_scripts).inputs("aa", job),
    ]
    assert len({json.dumps(inputs, sort_keys=True) for inputs in addresses}) == len(addresses)


def test_threads_and_patience_do_not_change_the_address(cache):
    patient = BlendCache(cache.root, cache.blender, timeout_s=1e6, threads=7)
    assert patient.inputs("aa", ExportJob()) == cache.inputs("aa", ExportJob())


def test_the_content_of_the_file_decides_not_its_name(tmp_path, blender, cache):
    first = cache.made(fake_blender.write_blend(tmp_path / "a.blend"), ExportJob())
    (tmp_path / "b.blend").write_bytes((tmp_path / "a.blend").read_bytes())
    assert cache.made(tmp_path / "b.blend", ExportJob()).folder == first.folder
    (tmp_path / "a.blend").write_text("good changed")
    assert cache.made(tmp_path / "a.blend", ExportJob()).folder != first.folder
    assert fake_blender.calls(blender) == 2


def flip_a_bit(folder):
    data = bytearray((folder / "shape.glb").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "shape.glb").write_bytes(data)


@pytest.mark.parametrize(
    "spoil",
    [
        flip_a_bit,
        lambda folder: (folder / "shape.glb").unlink(),
        lambda folder: (folder / "entry.json").unlink(),
        lambda folder: (folder / "entry.json").write_text("{"),
        lambda folder: (folder / "entry.json").write_text("[]"),
    ],
)
def test_a_spoilt_entry_is_put_aside_and_made_again(tmp_path, blender, cache, spoil):
    blend = fake_blender.write_blend(tmp_path / "a.blend")
    folder = cache.made(blend, ExportJob()).folder
    spoil(folder)
    with pytest.warns(UserWarning, match="put aside as"):
        made = cache.made(blend, ExportJob())
    assert (made.folder / "shape.glb").read_bytes() == blend.with_suffix(".glb").read_bytes()
    assert fake_blender.calls(blender) == 2
    assert len(list(folder.parent.glob(f"{folder.name}.corrupt-*"))) == 1


def test_pictures_come_in_the_order_of_the_views(tmp_path, blender, cache):
    picture(blender.with_suffix(".png"))
    made = cache.made(fake_blender.write_blend(tmp_path / "a.blend"), RenderJob(FD_VIEWS, 512))
    assert [path.name for path in made.pictures] == ["000.png", "001.png", "002.png", "003.png"]


# --- views and pictures


def eye(view):
    """Where TRELLIS's Blender script puts the camera."""
    radius, yaw, pitch = view["radius"], view["yaw"], view["pitch"]
    return radius * np.array([np.cos(yaw) * np.cos(pitch), np.sin(yaw) * np.cos(pitch), np.sin(pitch)])


def test_a_view_stands_where_our_cameras_stand():
    for view in (*FD_VIEWS, *condition_views(5)):
        ours = orbit(view.yaw, view.pitch, view.radius, view.fov)
        # 1e-12: one sine of the same angle in radians, in another order of float64 operations
        np.testing.assert_allclose(eye(view.in_blender()), ours.eye, atol=1e-12 * view.radius)


def test_condition_views_are_drawn_as_in_the_script_of_trellis():
    random = np.random.RandomState(1234)
    first, second = random.rand(), random.rand()
    # that script draws a million and uses the first 24
    lowest, highest = (np.sin(np.deg2rad(fov / 2)) ** 2 / 0.75 for fov in (10, 70))
    k = random.uniform(lowest, highest, 10**6)
    views = condition_views(1234)
    assert len(views) == 24
    for i, view in enumerate(views):
        mirrored = int(f"{i:05b}"[::-1], 2) / 32  # radical inverse in base 2
        u = i / 24 + first / 24
        u = 2 * u if u < 0.25 else 2 / 3 * u + 1 / 3
        expected = {
            "yaw": (mirrored + second) * 2 * np.pi,
            "pitch": np.arccos(1 - 2 * u) - np.pi / 2,
            "radius": k[i] ** -0.5,
            "fov": 2 * np.arcsin(3**0.5 / 2 * k[i] ** 0.5),
        }
        found = view.in_blender()
        # 1e-10: degrees and back, near the ends of arcsin and arccos
        assert found == pytest.approx(expected, abs=1e-10, rel=1e-10)
        assert 10 <= view.fov <= 70


def test_coverage_is_the_mean_alpha(tmp_path):
    half = picture(tmp_path / "a.png", (255, 255, 255, 51), np.s_[:5])
    assert coverage(half) == pytest.approx(0.1)


def test_compositing_on_black_rounds(tmp_path):
    # 200 * 128 / 255 = 100.39, 100 * 128 / 255 = 50.2, 51 * 128 / 255 = 25.6
    composited = on_black(picture(tmp_path / "a.png", (200, 100, 51, 128)))
    assert composited.shape == (10, 10, 3)
    assert composited[0, 0].tolist() == [100, 50, 26]


def test_other_pictures_are_refused(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "rgb.png")
    (tmp_path / "no.png").write_text("no")
    with pytest.raises(AssetError, match="kind RGB"):
        on_black(tmp_path / "rgb.png")
    with pytest.raises(AssetError, match="not a readable picture"):
        coverage(tmp_path / "no.png")


# --- with a real Blender

MAKE_TOY = """
import sys
import bpy

bpy.ops.wm.read_factory_settings(use_empty=True)


def material(name, rgb, shader):
    new = bpy.data.materials.new(name)
    new.use_nodes = True
    nodes, links = new.node_tree.nodes, new.node_tree.links
    nodes.clear()
    node, out = nodes.new(shader), nodes.new("ShaderNodeOutputMaterial")
    node.inputs[0].default_value = (*rgb, 1)
    links.new(node.outputs[0], out.inputs["Surface"])
    return new


def box(where, scale, *look):
    bpy.ops.mesh.primitive_cube_add(size=1, location=where)
    bpy.context.object.scale = scale
    bpy.context.object.data.materials.append(material(*look))
    return bpy.context.object


box((10, 5, 3), (4, 1, 1), "red", (1, 0, 0), "ShaderNodeBsdfPrincipled")
box((11.5, 5.75, 3), (0.6, 0.6, 0.6), "green", (0, 1, 0), "ShaderNodeBsdfDiffuse")
box((8.5, 5, 3.75), (0.5, 0.5, 0.5), "blue", (0, 0, 1), "ShaderNodeBsdfPrincipled")
box((100, 0, 0), (1, 1, 1), "unseen", (1, 1, 1), "ShaderNodeBsdfPrincipled").hide_render = True
world = bpy.data.worlds.new("bright")
world.use_nodes = True
world.node_tree.nodes["Background"].inputs[1].default_value = 3
bpy.context.scene.world = world
bpy.context.scene.view_settings.view_transform = "AgX"
bpy.ops.wm.save_as_mainfile(filepath=sys.argv[-1])
"""


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """A red bar along x, a green (diffuse) box on its +y side near the +x end, a blue one on top near the -x end."""
    folder = tmp_path_factory.mktemp("toy")
    (folder / "make.py").write_text(MAKE_TOY)
    real = find_blender(REAL)
    command = [*real.command, str(folder / "make.py"), *real.tail, str(folder / "toy.blend")]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    return folder / "toy.blend", BlendCache(folder / "cache", real, timeout_s=120, threads=1)


@needs_blender
def test_real_export_is_upright_in_the_unit_cube_and_counts_what_is_lost(toy):
    blend, cache = toy
    made = cache.made(blend, ExportJob())
    corners = read_mesh(made.folder / "shape.glb").triangles.reshape(-1, 3)
    # the box of the three parts, 4 x 1.55 x 1.5 with the bar from 2.5 to 3.5 and the top to 4, over its longest side;
    # 1e-6: float32 in Blender and in the file
    np.testing.assert_allclose(np.ptp(corners, axis=0), np.array([4, 1.55, 1.5]) / 4, atol=1e-6)
    np.testing.assert_allclose(corners.min(0) + corners.max(0), 0, atol=1e-6)
    top = corners[corners[:, 2] > 0.5 / 4]
    assert (top[:, 0] < 0).all()
    assert made.result["scale"] == pytest.approx(1 / 4)
    materials = made.result["materials"]
    assert (materials["n_used"], materials["n_lost"], materials["faces"], materials["faces_lost"]) == (3, 1, 18, 6)
    assert "BSDF_DIFFUSE" in materials["lost"]["green"]
    assert made.result["file"]["view_transform"] == "AgX"
    assert made.result["file"]["world"] == "bright"


@needs_blender
def test_real_pictures_are_those_of_our_cameras(toy):
    blend, cache = toy
    made = cache.made(blend, RenderJob(FD_VIEWS, 96, samples=16))
    mesh = MeshRenderer(read_mesh(cache.made(blend, ExportJob()).folder / "shape.glb"))
    for view, path in zip(FD_VIEWS, made.pictures, strict=True):
        ours = mesh.render(orbit(view.yaw, view.pitch, view.radius, view.fov), 96, 4)[..., 3]
        theirs = np.asarray(Image.open(path))[..., 3] / 255
        # filters and samples differ on the outline (0.6 to 0.9 per cent at 64 samples); half a pixel is 5 per cent
        assert np.abs(ours - theirs).sum() / np.maximum(ours, theirs).sum() < 0.03
    listing = json.loads((made.folder / "transforms.json").read_text())
    matrix = np.array(listing["frames"][1]["transform_matrix"])
    # float32 in Blender
    np.testing.assert_allclose(matrix[:3, 3], orbit(90, 30, 2, 40).eye, atol=1e-5)
    np.testing.assert_allclose(matrix[:3, 2], orbit(90, 30, 2, 40).eye / 2, atol=1e-5)
    assert listing["frames"][1]["camera_angle_x"] == pytest.approx(np.deg2rad(40))


@needs_blender
def test_real_pictures_do_not_depend_on_the_files_world_unless_asked_to(toy, tmp_path):
    blend, cache = toy
    job = RenderJob(FD_VIEWS[1:2], 64, samples=4)
    pinned = on_black(cache.made(blend, job).pictures[0]).astype(int)
    as_is = on_black(cache.made(blend, RenderJob(job.views, 64, samples=4, as_is=True)).pictures[0]).astype(int)
    # a red bar under Standard has little blue; a white world under AgX washes it out
    red = (pinned[..., 0] > 150) & (pinned[..., 1] < 60)
    assert red.mean() > 0.02
    assert pinned[red][:, 2].mean() < 40
    assert as_is[red][:, 2].mean() > 1.5 * pinned[red][:, 2].mean()
    assert np.abs(as_is - pinned)[red].mean() > 20
    again = BlendCache(tmp_path, cache.blender, timeout_s=120).made(blend, job).pictures[0]
    np.testing.assert_array_equal(on_black(again), pinned)  # the files differ: they name the time it took


@needs_blender
def test_a_file_that_blender_cannot_open_is_a_failure(toy, tmp_path):
    (tmp_path / "no.blend").write_text("no Blender file")
    with pytest.raises(AssetError, match=r"no\.blend: Blender failed with exit code \d"):
        toy[1].made(tmp_path / "no.blend", ExportJob())


def test_the_digest_of_the_scripts_covers_all_of_them(tmp_path):
    (tmp_path / "a.py").write_text("1")
    one = scripts_digest(tmp_path)
    (tmp_path / "b.py").write_text("1")
    assert scripts_digest(tmp_path) != one
    assert scripts_digest() == scripts_digest()
