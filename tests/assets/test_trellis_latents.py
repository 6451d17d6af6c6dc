from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from PIL import Image

from mdtbench.assets.trellis_latents import Choice, crop_condition, open_latents
from mdtbench.base.errors import AssetError, MissingError, UsageError

SS, SLAT = "ss_tiny", "slat_tiny"
CHOICE = Choice(SS, SLAT, max_voxels=100)
COLUMNS = ("sha256", "aesthetic_score", "num_voxels", "cond_rendered", f"ss_latent_{SS}", f"latent_{SLAT}")
GOOD = {
    "aesthetic_score": 5.5,
    "num_voxels": 50,
    "cond_rendered": True,
    f"ss_latent_{SS}": True,
    f"latent_{SLAT}": True,
}


def write_metadata(root, rows, columns=COLUMNS):
    root.mkdir(parents=True, exist_ok=True)
    with (root / "metadata.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows({"sha256": name, **GOOD, **row} for name, row in rows.items())
    return root


def write_npz(path, **arrays):
    """As encode_latent.py and encode_ss_latent.py of TRELLIS do."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **arrays)


def write_instance(root, name, seed=0, views=3):
    random = np.random.default_rng(seed)
    write_npz(root / "ss_latents" / SS / f"{name}.npz", mean=random.standard_normal((8, 16, 16, 16), np.float32))
    coords = random.permutation(64**3)[:50]
    coords = np.stack(np.unravel_index(coords, (64, 64, 64)), axis=1).astype(np.uint8)
    write_npz(root / "latents" / SLAT / f"{name}.npz", feats=random.standard_normal((50, 8), np.float32), coords=coords)
    folder = root / "renders_cond" / name
    folder.mkdir(parents=True, exist_ok=True)
    for view in range(views):
        pixels = np.zeros((40, 40, 4), np.uint8)
        pixels[10:30, 12:24] = (80 * view, 10, 20, 255)
        Image.fromarray(pixels).save(folder / f"{view:03d}.png")
    frames = [{"file_path": f"{view:03d}.png", "camera_angle_x": 0.7} for view in range(views)]
    (folder / "transforms.json").write_text(json.dumps({"aabb": [], "scale": 1.0, "frames": frames}))


@pytest.fixture
def root(tmp_path):
    write_metadata(tmp_path, {"a": {}, "b": {}})
    write_instance(tmp_path, "a", seed=1)
    write_instance(tmp_path, "b", seed=2)
    return tmp_path


# --- which instances


def test_the_filters_are_those_of_trellis_in_its_order(tmp_path):
    rows = {
        "good": {},
        "just": {"aesthetic_score": 4.5, "num_voxels": 100},
        "as_update_leaves_it": {"cond_rendered": "1.0", "num_voxels": "50.0"},
        "no_structure": {f"ss_latent_{SS}": False},
        "no_slat": {f"latent_{SLAT}": "False"},
        "never_set": {f"latent_{SLAT}": ""},
        "ugly": {"aesthetic_score": 4.49},
        "unrated": {"aesthetic_score": ""},
        "big": {"num_voxels": 101},
        "unseen": {"cond_rendered": "0.0"},
    }
    source = open_latents([write_metadata(tmp_path, rows)], CHOICE)
    assert source.instances() == ["good", "just", "as_update_leaves_it"]
    assert source.counts == (
        ("total", 10),
        ("with structure latents", 9),
        ("with structured latents", 7),
        ("aesthetic score >= 4.5", 5),
        ("voxels <= 100", 4),
        ("with conditioning views", 3),
    )


def test_what_is_not_asked_for_does_not_filter(tmp_path):
    rows = {"a": {f"latent_{SLAT}": False}, "b": {"num_voxels": 10**6}, "c": {"cond_rendered": False}}
    write_metadata(tmp_path, rows)
    assert open_latents([tmp_path], Choice(SS, "")).instances() == ["a", "b"]
    assert open_latents([tmp_path], Choice("", SLAT, conditions=False)).instances() == ["c"]


def test_the_first_of_several_folders_has_an_instance(tmp_path):
    first = write_metadata(tmp_path / "x", {"a": {}})
    second = write_metadata(tmp_path / "y", {"a": {}, "b": {}})
    write_instance(first, "a", seed=1)
    write_instance(second, "a", seed=2)
    write_instance(second, "b", seed=3)
    source = open_latents([first, second], CHOICE)
    assert source.instances() == ["a", "b"]
    alone = open_latents([first], CHOICE)
    np.testing.assert_array_equal(source.structure_latent("a"), alone.structure_latent("a"))
    assert source.slat("b").feats.shape == (50, 8)


def test_malformed_lists(tmp_path):
    with pytest.raises(MissingError, match="dataset_toolkits"):
        open_latents([tmp_path], CHOICE)
    write_metadata(tmp_path, {"a": {}}, COLUMNS[:-1])
    with pytest.raises(UsageError, match=r"no column 'latent_slat_tiny' \(found: sha256, aesthetic_score"):
        open_latents([tmp_path], CHOICE)
    write_metadata(tmp_path, {"a": {"cond_rendered": "maybe"}})
    with pytest.raises(UsageError, match="line 2, column cond_rendered: 'maybe' is neither True nor False"):
        open_latents([tmp_path], CHOICE)
    write_metadata(tmp_path, {"a": {"num_voxels": "many"}})
    with pytest.raises(UsageError, match="line 2, column num_voxels: 'many'"):
        open_latents([tmp_path], CHOICE)
    write_metadata(tmp_path, {"a": {"aesthetic_score": 1}})
    with pytest.raises(UsageError, match=r"No instance is left \(total: 1, .*aesthetic score >= 4.5: 0"):
        open_latents([tmp_path], CHOICE)


# --- latents


def test_latents_come_back_as_written(root):
    source = open_latents([root], CHOICE)
    with np.load(root / "latents" / SLAT / "b.npz") as file:
        slat = source.slat("b")
        np.testing.assert_array_equal(slat.feats, file["feats"])
        np.testing.assert_array_equal(slat.coords, file["coords"])
    assert (slat.coords.dtype, slat.feats.dtype) == (np.int32, np.float32)
    with np.load(root / "ss_latents" / SS / "a.npz") as file:
        np.testing.assert_array_equal(source.structure_latent("a"), file["mean"])


F, C = np.zeros((2, 8), np.float32), np.array([[0, 0, 0], [63, 63, 63]], np.uint8)


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"feats": F}, "has no array 'coords'"),
        ({"feats": F[:, :7], "coords": C}, r"feats \[2, 7\]"),
        ({"feats": F[:1], "coords": C}, r"coords \[2, 3\] of uint8 and feats \[1, 8\]"),
        ({"feats": F[:0], "coords": C[:0]}, "N >= 1"),
        ({"feats": F, "coords": C.astype(np.float32)}, "of float32"),
        ({"feats": F, "coords": C + np.uint8(1)}, "coords from 1 to 64 - 0 to 63"),
        ({"feats": F, "coords": C.astype(np.int16) - 1}, "coords from -1"),
        ({"feats": F, "coords": C[[1, 1]]}, "two rows of coords are equal"),
        ({"feats": F + np.float32(np.nan), "coords": C}, "finite"),
        ({"feats": F.astype(np.int32), "coords": C}, r"feats \(int32\)"),
        ({"feats": F.astype(object), "coords": C}, "not a readable npz"),
    ],
)
def test_malformed_structured_latents_are_failures(root, arrays, reason):
    write_npz(root / "latents" / SLAT / "a.npz", **arrays)
    with pytest.raises(AssetError, match=f"^a: .*{reason}"):
        open_latents([root], CHOICE).slat("a")


def test_malformed_structure_latents_are_failures(root):
    path = root / "ss_latents" / SS / "a.npz"
    source = open_latents([root], CHOICE)
    write_npz(path, mean=np.zeros((1, 8, 16, 16, 16), np.float32))
    with pytest.raises(AssetError, match=r"shape \[1, 8, 16, 16, 16\] - \[8, 16, 16, 16\] is needed"):
        source.structure_latent("a")
    whole = (root / "ss_latents" / SS / "b.npz").read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(AssetError, match="not a readable npz file"):
        source.structure_latent("a")
    path.unlink()
    with pytest.raises(AssetError, match="there is no"):
        source.structure_latent("a")
    with pytest.raises(AssetError, match="not among the 2 instances"):
        source.structure_latent("zzz")


# --- conditioning pictures


def trellis_crop(rgba, size):
    """ImageConditionedMixin of TRELLIS in its own words: floats, no rounding."""
    ys, xs = rgba[..., 3].nonzero()
    cx, cy = (xs.min() + xs.max()) / 2, (ys.min() + ys.max()) / 2
    reach = 1.2 * max(xs.max() - xs.min(), ys.max() - ys.min()) / 2
    box = (int(cx - reach), int(cy - reach), int(cx + reach), int(cy + reach))
    image = Image.fromarray(rgba).crop(box).resize((size, size), Image.Resampling.LANCZOS)
    return np.asarray(image.convert("RGB")) / 255 * np.asarray(image.getchannel(3))[..., None] / 255


@pytest.mark.parametrize("corner", [(0, 0), (7, 11), (19, 24)])
def test_the_crop_is_that_of_training(corner):
    random = np.random.default_rng(3)
    rgba = np.zeros((48, 48, 4), np.uint8)
    y, x = corner
    rgba[y : y + 21, x : x + 12] = random.integers(0, 256, (21, 12, 4))
    rgba[y, x, 3] = 1  # nearly transparent, and yet part of the box
    ours = crop_condition(rgba, 64)
    assert ours.shape == (64, 64, 3)
    # half a grey level: what rounding to 8 bits costs
    assert np.abs(ours / 255 - trellis_crop(rgba, 64)).max() <= 0.5 / 255 + 1e-9


def test_pictures_without_a_shape_are_failures():
    with pytest.raises(AssetError, match="no pixel"):
        crop_condition(np.zeros((8, 8, 4), np.uint8))
    one = np.zeros((8, 8, 4), np.uint8)
    one[3, 3] = 255
    with pytest.raises(AssetError, match="only one pixel"):
        crop_condition(one)


SEEDS = (0, 1, 11)  # draw the three views in turn


def test_a_condition_is_one_of_the_views_drawn_by_the_generator(root):
    source = open_latents([root], CHOICE)
    drawn = [source.condition("a", np.random.default_rng(seed)) for seed in SEEDS]
    assert {picture.shape for picture in drawn} == {(518, 518, 3)}
    assert {int(picture[259, 259, 0]) for picture in drawn} == {0, 80, 160}
    np.testing.assert_array_equal(drawn[2], source.condition("a", np.random.default_rng(11)))


def test_malformed_views_are_failures(root):
    source = open_latents([root], CHOICE)
    folder = root / "renders_cond" / "a"
    (folder / "000.png").write_text("no picture")
    Image.new("RGB", (8, 8)).save(folder / "001.png")
    (folder / "002.png").unlink()
    reasons = set()
    for seed in range(20):
        with pytest.raises(AssetError) as caught:
            source.condition("a", np.random.default_rng(seed))
        reasons.add(str(caught.value).split(" (")[0])
    assert reasons == {
        "a/000.png: it is not a readable picture",
        "a/001.png: it is a picture of the kind RGB - RGBA is needed",
        "a/002.png: there is no such picture",
    }
    for text, reason in (
        ("{", "not a list of views"),
        ('{"frames": []}', "lists no view"),
        ("[]", "not a list of views"),
    ):
        (folder / "transforms.json").write_text(text)
        with pytest.raises(AssetError, match=reason):
            source.views("a")
    (folder / "transforms.json").unlink()
    with pytest.raises(AssetError, match="there is no"):
        source.views("a")
