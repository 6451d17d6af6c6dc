"""The test assets of a run: which, shown how, and what becomes of those that cannot be used."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from inprocess import in_process
from PIL import Image
from small_stage import FINE, IMAGE
from solids import ellipsoid

from mdtbench.assets.folder import FolderSource
from mdtbench.assets.mesh_export import write_glb
from mdtbench.assets.source import SOURCES
from mdtbench.assets.toys import ToyAsset, ToySource
from mdtbench.base.errors import AssetError, MissingError, UsageError
from mdtbench.base.files import digest_of, file_sha256
from mdtbench.harness.inputs import subjects as subjects_module
from mdtbench.harness.inputs.prepare import OwnRenderer, Preparation, conditioning_pictures, occupied
from mdtbench.harness.inputs.subjects import (
    Chosen,
    LatentAsset,
    PictureFiles,
    TestSet,
    conditioning_images,
    identity_of,
    occupancies,
    open_tests,
    pictures_in,
    protocol_for,
    shows_of,
)
from mdtbench.harness.inputs.world import WorldFile, read_world_file
from mdtbench.harness.protocol.model import Protocol, load_protocol
from mdtbench.harness.settings.config import Places, load_config
from mdtbench.render.preprocess import preprocess_image

source_of = subjects_module.test_source  # by its own name pytest would take it for a test
BALL = ellipsoid((0.1, 0, 0.2), (0.3, 0.2, 0.1), (0.2, 0.5, 0.7), segments=8)
FLAT = ellipsoid((0, 0, 0), (0.4, 0.3, 0.05), (0.9, 0.1, 0.1), segments=8)
TINY = load_protocol("tiny-v3")


NOTED = Path(__file__).parents[2] / "cases" / "01-float-colours-above-one" / "over.glb"


@pytest.fixture(scope="session")
def file(small_folder: Path) -> WorldFile:
    return read_world_file(small_folder)


@pytest.fixture
def meshes(tmp_path: Path) -> Path:
    """Two meshes, one that is broken, and one of a kind that cannot be read."""
    folder = tmp_path / "meshes"
    (folder / "sub").mkdir(parents=True)
    for name, mesh in (("ball", BALL), ("sub/flat", FLAT)):
        write_glb(folder / f"{name}.glb", mesh.vertices, mesh.faces, np.full((len(mesh.vertices), 3), 0.5, np.float32))
    (folder / "broken.glb").write_bytes(b"glTF")
    (folder / "closed.fbx").write_bytes(b"x")
    return folder


@pytest.fixture
def opened(file: WorldFile, tmp_path: Path) -> Callable[..., TestSet]:
    def open_them(source: object, shows: object = None, protocol: Protocol = TINY, **options: object) -> TestSet:
        shows = shows or OwnRenderer(Preparation(**file.preparation.model_dump()))
        given = {"limit": None, "occupancy": True, **options}
        return open_tests(source, shows, file, protocol, tmp_path / "cache", in_process()[0], **given)  # type: ignore[arg-type]

    return open_them


# -------------------------------------------------------------------------------------------------------------- opened


def test_files_that_cannot_be_read_are_counted_with_reasons(opened: Callable[..., TestSet], meshes: Path):
    source = FolderSource(meshes)
    tests = opened(source)
    assert (tests.ids, tests.total, tests.files) == (("ball", "sub/flat"), 4, True)
    assert (tests.name, tests.digest) == ("meshes", source.digest())
    assert [name for name, _ in tests.failures] == ["broken", "closed"]
    assert all(reason for _, reason in tests.failures)
    assert [subject.identity.sha256 for subject in tests.subjects] == [
        file_sha256(meshes / "ball.glb"), file_sha256(meshes / "sub" / "flat.glb")
    ]  # fmt: skip


def test_each_asset_has_its_own_picture_and_structure(opened: Callable[..., TestSet], file: WorldFile, meshes: Path):
    spec = Preparation(**file.preparation.model_dump())
    for source in (FolderSource(meshes), ToySource("test", 3)):
        for subject in opened(source).subjects:
            asset, mesh = subject.asset, subject.asset.load()
            shown = conditioning_pictures(asset.shown() if isinstance(asset, ToyAsset) else mesh, subject.id, spec)
            assert np.array_equal(occupancies([subject])[0], occupied(mesh, FINE))
            assert np.array_equal(conditioning_images([subject])[0], shown[0])


def test_what_is_not_taken_from_a_file_as_it_says_is_noted(opened: Callable[..., TestSet], meshes: Path):
    shutil.copy(NOTED, meshes / "ball.glb")
    first, second = opened(FolderSource(meshes)).subjects
    assert first.notes == "some of its colours lie outside [0, 1] (up to 1.003) and are clipped"
    assert second.notes == ""


def test_a_limit_takes_the_first_assets_of_the_source(opened: Callable[..., TestSet], meshes: Path):
    tests = opened(FolderSource(meshes), limit=2)
    assert (tests.ids, [name for name, _ in tests.failures], tests.total) == (("ball",), ["broken"], 2)
    few, more = opened(ToySource("test", 5), limit=2), opened(ToySource("test", 5))
    assert few.subjects == more.subjects[:2]


def test_without_structures_none_are_made(opened: Callable[..., TestSet]):
    [subject] = opened(ToySource("test", 1), occupancy=False).subjects
    assert occupancies([subject]).shape == (1, 0, 0, 0)
    assert conditioning_images([subject]).shape == (1, IMAGE, IMAGE, 3)
    assert subject.key != opened(ToySource("test", 1)).subjects[0].key


def test_a_protocol_may_choose_among_the_assets(opened: Callable[..., TestSet], meshes: Path):
    """By digests of their files and a prefix, so that the others say nothing; failures count among the chosen."""
    assets = TINY.values.assets.model_copy(update={"subset": "smoke", "smoke_size": 2, "subset_prefix": "p/"})
    protocol = replace(TINY, values=TINY.values.model_copy(update={"assets": assets}))
    source = FolderSource(meshes)
    ranked = sorted(source.assets(), key=lambda one: hashlib.sha256(f"p/{file_sha256(one.path)}".encode()).hexdigest())
    tests = opened(source, protocol=protocol)
    chosen = sorted(asset.id for asset in ranked[:2])
    assert sorted([*tests.ids, *(name for name, _ in tests.failures)]) == chosen
    assert [asset.id for asset in Chosen(source, protocol).assets()] == chosen
    assert tests.digest != source.digest()


def test_counts_of_test_assets():
    subjects = tuple(LatentAsset(name) for name in "abc")
    tests = TestSet("x", "d", subjects, (("e", "bad"),), (("f", "thin"),), "", False)  # type: ignore[arg-type]
    assert tests.total == 4  # what a protocol leaves out on both sides is not counted
    assert tests.first(None) == tests
    assert (tests.first(2).ids, tests.first(2).total) == (("a", "b"), 2)
    left = tests.without({"b": "too thin"})
    assert (left.ids, left.total, left.dropped) == (("a", "c"), 3, (("f", "thin"), ("b", "too thin")))


def test_seeds_know_assets_by_their_files_or_ids(meshes: Path):
    [ball, *_, flat] = FolderSource(meshes).assets()
    sha = "0123456789abcdef" * 4
    assert identity_of(ball).sha256 == file_sha256(ball.path)
    assert identity_of(replace(ball, id=f"TRELLIS/{sha}")).sha256 == sha
    assert identity_of(replace(flat, path=meshes / "gone.glb")).sha256 == digest_of(flat.id)
    assert identity_of(LatentAsset("x")).sha256 == digest_of("x")


# ------------------------------------------------------------------------------------------------------------ pictures


def picture(path: Path, shade: int = 200) -> np.ndarray:
    """A grey square on nothing, written; [S, S, 4]."""
    rgba = np.zeros((40, 40, 4), np.uint8)
    rgba[10:30, 10:30] = shade, shade, shade, 255
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rgba).save(path)
    return rgba


def test_pictures_of_ones_own_are_shown_by_asset(
    opened: Callable[..., TestSet], file: WorldFile, meshes: Path, tmp_path: Path
):
    shown = tmp_path / "shown"
    rgba, source = picture(shown / "flat.png"), FolderSource(meshes)

    def usable() -> TestSet:
        return opened(
            source, shows_of(Places(conditions=str(shown)), source, file, [one.id for one in source.assets()])
        )

    tests = usable()
    assert tests.ids == ("sub/flat",)
    assert dict(tests.failures)["ball"] == "there is no conditioning picture of it"
    assert np.array_equal(conditioning_images(tests.subjects)[0], preprocess_image(rgba, IMAGE))
    picture(shown / "flat.png", shade=100)
    assert usable().subjects[0].key != tests.subjects[0].key
    picture(shown / "ball.png")
    assert usable().ids == ("ball", "sub/flat")


def test_our_own_renderer_shows_what_nobody_else_does(file: WorldFile):
    found = shows_of(Places(), ToySource("test", 1), file, [])
    assert isinstance(found, OwnRenderer)
    assert (found.spec.image_size, found.spec.resolution) == (IMAGE, FINE)


def test_pictures_belong_to_assets_by_name(tmp_path: Path):
    for name in ("a.png", "deep/b.jpg", "c.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert pictures_in(tmp_path, ["a", "x/b", "c"]) == {"a": tmp_path / "a.png", "x/b": tmp_path / "deep" / "b.jpg"}
    with pytest.raises(MissingError, match=r"None of the 2 pictures in .* \(1 are missing: q\).*such as q\.png"):
        pictures_in(tmp_path, ["q"])
    with pytest.raises(MissingError, match="There is no folder"):
        pictures_in(tmp_path / "none", ["q"])
    (tmp_path / "a.webp").write_bytes(b"")
    with pytest.raises(UsageError, match=r"Two pictures of asset 'a' .*a\.png and a\.webp"):
        pictures_in(tmp_path, ["a"])


def test_a_picture_that_cannot_be_read_is_that_assets_failure(tmp_path: Path):
    (tmp_path / "x.png").write_bytes(b"no picture")
    shows = PictureFiles({"x": (tmp_path / "x.png", "sha")}, IMAGE)
    with pytest.raises(AssetError, match=r"x\.png"):
        shows.pictures(LatentAsset("x"), None)


# ------------------------------------------------------------------------------------------------------------- sources


def test_sources_are_toys_folders_and_plug_ins(meshes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    @dataclass(frozen=True)
    class Own:
        text: str
        name: str = "own"

        def assets(self) -> Sequence[LatentAsset]:
            return []

        def digest(self) -> str:
            return self.text

    monkeypatch.setattr(SOURCES, "_entries", dict(SOURCES._entries))
    SOURCES.register("own", version=1, source="a test")(Own)
    config = load_config("smoke", ["data.test=7", "data.seed=3"])
    assert source_of("", config, tmp_path) == ToySource("test", 7, 3)
    assert source_of(str(meshes), config, tmp_path) == FolderSource(meshes)
    assert source_of("own:some text", config, tmp_path) == Own("some text")
    with pytest.raises(UsageError, match=r"Unknown source 'owm'.*Did you mean 'own'"):
        source_of("owm:text", config, tmp_path)


def test_a_protocol_says_who_draws_the_truth():
    toys = ToySource("test", 1)
    assert protocol_for(TINY, toys) is TINY
    drawn = protocol_for(load_protocol("trellis-v1"), toys)
    assert [one.name for one in drawn.applied] == [subjects_module.OWN_RENDERER]
    assert protocol_for(drawn, toys) == drawn


def test_of_a_training_instance_there_is_no_shape():
    with pytest.raises(AssetError, match="no shape"):
        LatentAsset("x").load()
