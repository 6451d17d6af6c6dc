"""The test assets of a run: what every method is shown of each, and what there is to compare with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from ...assets.blend import Blender, find_blender
from ...assets.folder import FolderAsset, FolderSource, id_of, walk
from ...assets.images import read_rgba
from ...assets.source import SOURCES, Asset, Source
from ...assets.toys import ToySource
from ...assets.toys4k import Toys4kAsset, Toys4kSource
from ...assets.trellis_latents import Choice, LatentSource, open_latents
from ...base.errors import AssetError, MissingError, UsageError, unknown_name
from ...base.files import digest_of, file_sha256
from ...base.groups import grouped
from ...base.seeds import seed_of
from ...geometry.mesh import Mesh
from ...render.preprocess import preprocess_image
from ..engine.engine import Engine
from ..engine.jobs import Place
from ..protocol.model import Protocol, load_protocol
from ..protocol.rules import SHA256, Identity, select
from ..settings.config import Config, Places
from .paths import safe_path
from .prepare import OwnRenderer, Preparation, Shows, prepare_jobs
from .toys4k import PREFIX, BlenderLook, Toys4kReference, folder_of, meshes_of, open_toys4k, variant_of
from .world import WorldFile

OWN_RENDERER = "own-renderer"  # the variant of a protocol whose reference pictures are drawn here, not by Blender
DRAWN_HERE = "mdtbench's own renderer, not by Blender"
PICTURES = (".png", ".jpg", ".jpeg", ".webp")


@dataclass(frozen=True)
class Subject:
    """A test asset that can be used.

    Attributes:
        asset: the shape itself.
        prepared, row: where its occupancy and its conditioning pictures are; None where nothing is made of it.
        notes: what was not taken from its file as the file says.
    """

    identity: Identity
    asset: Asset
    prepared: Place | None = None
    row: int = 0
    notes: str = ""

    @property
    def id(self) -> str:
        return self.identity.id

    @property
    def key(self) -> list[object]:
        """What decides its picture and its occupancy, as JSON."""
        return [self.identity.id, self.prepared.digest if self.prepared else self.identity.sha256, self.row]


@dataclass(frozen=True)
class TestSet:
    """The usable test assets, in the order of their source, and why the others are not.

    Attributes:
        failures: (id, reason) of assets that cannot be used, which are counted. dropped: of those that a protocol
            leaves out on both sides, which are not.
        name: of the source. digest: of the source. drawn_by: whose pictures of the truth are compared.
        files: whether assets are files, each of which may come or go.
    """

    __test__ = False  # pytest would take it for a class of tests

    name: str
    digest: str
    subjects: tuple[Subject, ...]
    failures: tuple[tuple[str, str], ...]
    dropped: tuple[tuple[str, str], ...]
    drawn_by: str
    files: bool

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(subject.id for subject in self.subjects)

    @property
    def total(self) -> int:
        return len(self.subjects) + len(self.failures)

    def first(self, count: int | None) -> TestSet:
        """The first `count` usable assets; None: all, and the failures."""
        return self if count is None else replace(self, subjects=self.subjects[:count], failures=())

    def without(self, reasons: Mapping[str, str]) -> TestSet:
        """Without assets that turned out not to be usable."""
        kept = tuple(subject for subject in self.subjects if subject.id not in reasons)
        gone = tuple((subject.id, reasons[subject.id]) for subject in self.subjects if subject.id in reasons)
        return replace(self, subjects=kept, dropped=(*self.dropped, *gone))


@lru_cache(maxsize=8)
def _arrays(place: Place | None) -> Mapping[str, NDArray]:
    assert place is not None, "nothing was prepared of these assets"
    return place.get()


def conditioning_images(subjects: Sequence[Subject]) -> NDArray[np.uint8]:
    """Conditioning pictures as they are, [n, S, S, 3]."""
    return np.stack([_arrays(subject.prepared)["images"][subject.row, 0] for subject in subjects])


def occupancies(subjects: Sequence[Subject]) -> NDArray[np.bool_]:
    """[n, R, R, R], of subjects that were prepared with it."""
    return np.stack([_arrays(subject.prepared)["occupancy"][subject.row] for subject in subjects])


# --------------------------------------------------------------------------------------------------- where from, which


def test_source(option: str, config: Config, cache: Path) -> Source:
    """Toys; a folder of meshes; toys4k:FOLDER; or NAME:TEXT of a plug-in.

    Toys4k under a protocol that says nothing of Blender's pictures is a folder of meshes, which Blender converts.

    Raises:
        MissingError: no such folder, no Blender. UsageError: an unknown name.
    """
    if not option:
        return ToySource("test", config.data.test, config.data.seed)
    toys4k, blender = folder_of(option), config.places.blender
    if toys4k:
        protocol = load_protocol(config.protocol.name)
        if protocol.values.gt_render is None:
            return meshes_of(toys4k, find_blender(blender), cache.expanduser())
        return Toys4kTests(option, protocol, blender, cache)
    if ":" in option and not Path(option).exists():
        name, _, text = option.partition(":")
        if name not in SOURCES.names():
            hint = "A folder is given by its path, which must exist; a source of your own needs --plugin FILE."
            raise unknown_name("source", name, [*SOURCES.names(), PREFIX.removesuffix(":")], hint)
        return SOURCES.get(name).value(text)
    return FolderSource(Path(option).expanduser())


@dataclass(frozen=True)
class Toys4kTests:
    """Toys4k under a protocol, as a source: assets are those of the protocol's subset, by id.

    Attributes:
        blender: to use; "" for that of MDTBENCH_BLENDER or the path. threads: of one Blender.
    """

    option: str
    protocol: Protocol
    blender: str
    cache: Path
    threads: int = 1

    @property
    def name(self) -> str:
        return self.reference.name

    @cached_property
    def found(self) -> Blender:
        """Raises MissingError when there is none."""
        return find_blender(self.blender)

    @property
    def drawn(self) -> Protocol:
        """The protocol in its variant with this Blender's pictures. Raises UsageError: no protocol has them."""
        variant, applied = variant_of(self.found), {one.name for one in self.protocol.applied}
        return self.protocol.variant(variant) if variant and variant not in applied else self.protocol

    @cached_property
    def reference(self) -> Toys4kReference:
        """Raises the errors of `open_toys4k`."""
        folder = folder_of(self.option)
        assert folder is not None
        return open_toys4k(folder, self.drawn.values, self.found, self.cache.expanduser(), threads=self.threads)

    def assets(self) -> Sequence[Toys4kAsset]:
        return [self.reference.assets[name] for name in self.reference.ids]

    def digest(self) -> str:
        reference = self.reference
        return digest_of([reference.drawn_by, list(reference.ids)])


def protocol_for(protocol: Protocol, source: Source) -> Protocol:
    """The protocol in its variant with the renderer of the truth's pictures, where it says who draws them."""
    if protocol.values.gt_render is None:
        return protocol
    if isinstance(source, Toys4kTests):
        return source.drawn
    applied = {variant.name for variant in protocol.applied}
    return protocol if OWN_RENDERER in applied else protocol.variant(OWN_RENDERER)


# ------------------------------------------------------------------------------------------------------------ pictures


@dataclass(frozen=True)
class PictureFiles:
    """Conditioning pictures as the user has them, by asset id."""

    paths: Mapping[str, tuple[Path, str]]
    size: int

    def key(self, asset: Asset) -> str:
        return digest_of([self.paths[asset.id][1] if asset.id in self.paths else "", self.size])

    def pictures(self, asset: Asset, mesh: Mesh | None) -> NDArray[np.uint8]:
        if asset.id not in self.paths:
            raise AssetError("there is no conditioning picture of it")
        return preprocess_image(read_rgba(self.paths[asset.id][0]), self.size)[None]


@dataclass(frozen=True)
class BlenderPictures:
    """Conditioning pictures that Blender renders of Toys4k."""

    looks: Mapping[str, BlenderLook]
    size: int

    def key(self, asset: Asset) -> str:
        return digest_of([self.looks[asset.id].content, self.size])

    def pictures(self, asset: Asset, mesh: Mesh | None) -> NDArray[np.uint8]:
        return preprocess_image(self.looks[asset.id].shown(), self.size)[None]


def shows_of(places: Places, source: Source, file: WorldFile, ids: Sequence[str]) -> Shows:
    """Where conditioning pictures come from: a folder, Blender for Toys4k, else our own renderer."""
    spec = Preparation(**file.preparation.model_dump())
    if places.conditions:
        found = pictures_in(Path(places.conditions).expanduser(), ids)
        return PictureFiles({name: (path, file_sha256(path)) for name, path in found.items()}, spec.image_size)
    if isinstance(source, Toys4kTests):
        reference = source.reference
        return BlenderPictures({name: reference.look(name) for name in reference.ids}, spec.image_size)
    return OwnRenderer(spec)


def pictures_in(folder: Path, ids: Sequence[str]) -> dict[str, Path]:
    """Pictures by asset id; ids without one are left out.

    Raises:
        MissingError: no such folder, or no picture in it belongs to any asset.
        UsageError: two pictures of one asset.
    """
    if not folder.is_dir():
        raise MissingError(f"There is no folder {folder}. Name the folder of the conditioning pictures.")
    paths: dict[str, Path] = {}
    for inner in (path for path in walk(folder) if path.suffix.lower() in PICTURES):
        path, name = folder / inner, id_of(inner.with_suffix(""))
        if name in paths:
            raise UsageError(
                f"Two pictures of asset '{name}' (got {paths[name].name} and {path.name}) - one of each is allowed - "
                "remove one."
            )
        paths[name] = path
    keys = matched(ids, paths)
    if not keys:
        shown = ", ".join(ids[:3]) + (", ..." if len(ids) > 3 else "")
        raise MissingError(
            f"None of the {len(paths)} pictures in {folder} has the id of an asset ({len(ids)} are missing: {shown}) - "
            f"name each after the asset's id, such as {PurePosixPath(ids[0]).name}.png."
        )
    return {name: paths[key] for name, key in keys.items()}


def matched(ids: Sequence[str], made: Mapping[str, object]) -> dict[str, str]:
    """Id of the reference -> key in `made`; ids without files are left out.

    A file is named by the asset's id, by what `run --export` makes of the id, or by the last part of the id where no
    other asset has the same.
    """
    stems = grouped(made, lambda key: PurePosixPath(key).name)
    ends = Counter(PurePosixPath(name).name for name in ids)
    found: dict[str, str] = {}
    for name in ids:
        end = PurePosixPath(name).name
        last = stems.get(end, []) if ends[end] == 1 else []
        keys = [key for key in (name, safe_path(name).as_posix()) if key in made] or (last if len(last) == 1 else [])
        if keys:
            found[name] = keys[0]
    return found


# -------------------------------------------------------------------------------------------------------------- opened


def open_tests(
    source: Source,
    shows: Shows,
    file: WorldFile,
    protocol: Protocol,
    cache: Path,
    engine: Engine,
    *,
    limit: int | None,
    occupancy: bool,
) -> TestSet:
    """The test assets, prepared: pictures, and occupancy where it is asked for."""
    files, drawn_by = isinstance(source, FolderSource | Toys4kSource | Toys4kTests), DRAWN_HERE
    if isinstance(source, Toys4kTests):
        drawn_by = source.reference.drawn_by
    elif protocol.values.assets.subset != "full":
        source = Chosen(source, protocol)
    resolution = file.preparation.resolution if occupancy else 0
    jobs = prepare_jobs(source, shows, resolution, cache, limit, shard=1 if files else 32)
    engine.do(jobs)
    by_id = {asset.id: asset for asset in source.assets()}
    wanted = {asset.id for asset in source.assets()[:limit]}
    subjects: list[Subject] = []
    failures: list[tuple[str, str]] = []
    for job in jobs:
        arrays = job.place.get()
        notes = arrays.get("notes", [""] * len(arrays["ids"]))
        for row, (name, note) in enumerate(zip(map(str, arrays["ids"]), map(str, notes), strict=True)):
            if name in wanted:
                subjects.append(Subject(identity_of(by_id[name]), by_id[name], job.place, row, note))
        failures += [(str(name), str(reason)) for name, reason in arrays["failures"] if str(name) in wanted]
    return TestSet(source.name, source.digest(), tuple(subjects), tuple(failures), (), drawn_by, files)


@dataclass(frozen=True)
class Chosen:
    """The assets of a source that a protocol's subset has."""

    source: Source
    protocol: Protocol

    @property
    def name(self) -> str:
        return self.source.name

    def assets(self) -> Sequence[Asset]:
        by_sha = grouped(self.source.assets(), lambda asset: identity_of(asset).sha256)
        chosen = [asset for sha in select(self.protocol.values, by_sha) for asset in by_sha[sha]]
        return sorted(chosen, key=lambda asset: asset.id)

    def digest(self) -> str:
        return digest_of([self.source.digest(), self.protocol.values.assets.model_dump(mode="json")])


def identity_of(asset: Asset) -> Identity:
    """An asset as seeds know it: by its id where that is a sha256 (TRELLIS-500K's), else by its file's."""
    end = PurePosixPath(asset.id).name
    if SHA256.fullmatch(end):
        return Identity(asset.id, end)
    if isinstance(asset, FolderAsset) and asset.path.is_file():
        return Identity(asset.id, file_sha256(asset.path))
    return Identity(asset.id, digest_of(asset.id))


# ---------------------------------------------------------------------------------------------------- held-out latents


@dataclass(frozen=True)
class LatentAsset:
    """A training instance that no student has seen: there is a picture of it, and no shape."""

    id: str
    category: str = ""

    def load(self) -> Mesh:
        raise AssetError("of training instances there are latents here, no shapes")


@dataclass(frozen=True)
class HeldOut:
    """Held-out instances of TRELLIS' layout on disk, as a source and as what shows them."""

    folders: tuple[Path, ...]
    choice: Choice
    instances: tuple[str, ...]
    seed: int
    name: str = "held-out"

    def assets(self) -> Sequence[LatentAsset]:
        return [LatentAsset(instance) for instance in sorted(self.instances)]

    def digest(self) -> str:
        return digest_of([self.name, sorted(self.instances), self.seed])

    def key(self, asset: Asset) -> str:
        """With the picture itself: one that is missing or damaged may be made again."""
        try:
            views = _latents(self.folders, self.choice).views(asset.id)
            content = file_sha256(views[int(self._random(asset).integers(len(views)))])
        except (AssetError, MissingError):
            content = ""
        return digest_of([asset.id, self.seed, content])

    def pictures(self, asset: Asset, mesh: Mesh | None) -> NDArray[np.uint8]:
        return _latents(self.folders, self.choice).condition(asset.id, self._random(asset))[None]

    def _random(self, asset: Asset) -> np.random.Generator:
        return np.random.Generator(np.random.PCG64(seed_of("grid picture", asset.id, self.seed)))


@lru_cache(maxsize=4)
def _latents(folders: tuple[Path, ...], choice: Choice) -> LatentSource:
    """Long lists, of which every picture would read all."""
    return open_latents(folders, choice)
