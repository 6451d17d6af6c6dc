"""Assets become what networks take: occupancy and conditioning pictures. Made once, kept in the cache."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ...assets.source import Asset, Lawful, Source
from ...assets.toys4k import Toys4kAsset
from ...base.errors import AssetError
from ...base.files import digest_of
from ...base.seeds import seed_of
from ...base.text import joined_notes
from ...geometry.cameras import orbit
from ...geometry.mesh import Mesh
from ...geometry.voxels import surface_voxels
from ...render.meshes import MeshRenderer
from ...render.preprocess import preprocess_image
from ..engine.engine import Engine
from ..engine.jobs import OneResult
from ..engine.store import Arrays

SHARD = 32  # assets per entry of the cache: small enough to lose little, large enough to be few
VISIBLE_ALPHA = 0.85  # a pixel of the object itself; TRELLIS' preprocessing frames what exceeds 0.8
VERSION = 1  # part of every address: raise it when this module computes something else


@dataclass(frozen=True)
class Preparation:
    """What is made of an asset.

    Attributes:
        resolution: cells along a side of the occupancy grid.
        image_size: side of the preprocessed conditioning pictures, in pixels.
        views: conditioning pictures per asset.
        yaw_deg, pitch_deg: ranges of the conditioning camera; yaw 90 looks at the +x side, an asset's front.
    """

    resolution: int = 32
    image_size: int = 64
    views: int = 1
    yaw_deg: tuple[float, float] = (30.0, 150.0)
    pitch_deg: tuple[float, float] = (10.0, 35.0)


class Shows(Protocol):
    """Where the conditioning pictures of assets come from. Plain data: worker processes ask it."""

    def key(self, asset: Asset) -> str:
        """Digest of all that decides an asset's pictures, besides the asset itself."""
        ...

    def pictures(self, asset: Asset, mesh: Mesh | None) -> NDArray[np.uint8]:
        """[views, S, S, 3], preprocessed, on black. mesh: the asset's, where it is at hand. Raises AssetError."""
        ...


@dataclass(frozen=True)
class OwnRenderer:
    """Pictures drawn here, from cameras drawn for each asset, through TRELLIS' preprocessing.

    Of a toy they show the lower half, from the toy's own front.
    """

    spec: Preparation

    def key(self, asset: Asset) -> str:
        return digest_of(asdict(self.spec))

    def pictures(self, asset: Asset, mesh: Mesh | None) -> NDArray[np.uint8]:
        if isinstance(asset, Lawful):
            mesh = asset.shown()
        return conditioning_pictures(asset.load() if mesh is None else mesh, asset.id, self.spec)


@dataclass(frozen=True)
class Prepared:
    """Arrays of N usable assets, and the failures among the rest.

    Attributes:
        ids, categories: of the usable assets.
        occupancy: [N, R, R, R] bool.
        images: [N, views, S, S, 3] uint8, preprocessed, on black.
        failures: (id, reason) of every asset that cannot be used.
    """

    ids: tuple[str, ...]
    categories: tuple[str, ...]
    occupancy: NDArray[np.bool_]
    images: NDArray[np.uint8]
    failures: tuple[tuple[str, str], ...]

    @property
    def total(self) -> int:
        return len(self.ids) + len(self.failures)


@dataclass(frozen=True)
class PrepareJob(OneResult):
    """Occupancy and pictures of some assets of a source.

    Attributes:
        source: name and digest of where they are from.
        resolution: of occupancy; 0: none is made.
    """

    root: Path
    source: tuple[str, str]
    assets: tuple[Asset, ...]
    shows: Shows
    resolution: int

    kind, entry = "prepare", "prepared"

    @property
    def label(self) -> str:  # type: ignore[override]
        return f"prepare {self.source[0]}"

    @property
    def units(self) -> int:
        return len(self.assets)

    @property
    def done(self) -> bool:
        """What Blender failed at is tried again: a file that was missing may be there now."""
        again = any(isinstance(asset, Toys4kAsset) for asset in self.assets)
        return super().done and not (again and len(self.place.get()["failures"]))

    @property
    def inputs(self) -> dict[str, Any]:
        shown = [[asset.id, self.shows.key(asset)] for asset in self.assets]
        return {"version": VERSION, "source": list(self.source), "assets": shown, "resolution": self.resolution}

    def result(self) -> Arrays:
        good: list[tuple[Asset, NDArray, NDArray, str]] = []
        failures: list[tuple[str, str]] = []
        for asset in self.assets:
            try:
                good.append((asset, *self._made(asset)))
            except AssetError as error:
                failures.append((asset.id, str(error)))
        empty, notes = np.zeros(0, np.uint8), [note for *_, note in good]
        arrays = {
            "ids": np.array([asset.id for asset, *_ in good], str),
            "categories": np.array([asset.category for asset, *_ in good], str),
            "occupancy": np.stack([occupancy for _, occupancy, *_ in good]) if good else empty,
            "images": np.stack([images for *_, images, _ in good]) if good else empty,
            "failures": np.array(failures, str).reshape(-1, 2),
        }
        return arrays | ({"notes": np.array(notes, str)} if any(notes) else {})

    def _made(self, asset: Asset) -> tuple[NDArray[np.bool_], NDArray[np.uint8], str]:
        mesh = asset.load() if self.resolution else None
        occupancy = np.zeros((0, 0, 0), bool) if mesh is None else occupied(mesh, self.resolution)
        return occupancy, self.shows.pictures(asset, mesh), joined_notes(mesh.notes if mesh else ())


def prepare_jobs(
    source: Source, shows: Shows, resolution: int, cache: Path, limit: int | None = None, shard: int = SHARD
) -> list[PrepareJob]:
    """One per `shard` assets of a source; of the first `limit` those that have them."""
    assets, known = source.assets(), (source.name, source.digest())
    stop = len(assets) if limit is None else min(limit, len(assets))
    starts = range(0, stop, shard)
    return [PrepareJob(cache, known, tuple(assets[i : i + shard]), shows, resolution) for i in starts]


def prepare(source: Source, spec: Preparation, cache: Path, engine: Engine, limit: int | None = None) -> Prepared:
    """The assets of a source (the first `limit` of its list) as arrays, from the cache where it has them."""
    jobs = prepare_jobs(source, OwnRenderer(spec), spec.resolution, cache, limit)
    engine.do(jobs)
    prepared = _joined([job.place.get() for job in jobs], spec)
    return prepared if limit is None else only(prepared, {asset.id for asset in source.assets()[:limit]})


def prepare_asset(asset: Asset, spec: Preparation) -> tuple[NDArray[np.bool_], NDArray[np.uint8]]:
    """Occupancy [R, R, R] and conditioning pictures [views, S, S, 3] of one asset. Raises AssetError."""
    mesh = asset.load()
    return occupied(mesh, spec.resolution), OwnRenderer(spec).pictures(asset, mesh)


def occupied(mesh: Mesh, resolution: int) -> NDArray[np.bool_]:
    """Cells that the surface of a mesh touches, [R, R, R]. Raises AssetError when there is none."""
    occupancy = surface_voxels(mesh, resolution)
    if not occupancy.any():
        raise AssetError("no voxel is occupied")
    return occupancy


def conditioning_pictures(mesh: Mesh, asset_id: str, spec: Preparation) -> NDArray[np.uint8]:
    """Pictures from cameras drawn for this asset, through TRELLIS' preprocessing: [views, S, S, 3] on black."""
    renderer = MeshRenderer(mesh)
    generator = np.random.Generator(np.random.PCG64(seed_of("conditioning camera", asset_id)))
    pictures = []
    for _ in range(spec.views):
        camera = orbit(generator.uniform(*spec.yaw_deg), generator.uniform(*spec.pitch_deg), 2.0, 40.0)
        rgba = renderer.render(camera, 2 * spec.image_size, supersampling=2)
        if not (rgba[..., 3] > VISIBLE_ALPHA).any():
            raise AssetError("too little of it is visible from its conditioning camera: it is too thin or too small")
        pictures.append(preprocess_image(straight_uint8(rgba), spec.image_size))
    return np.stack(pictures)


def straight_uint8(premultiplied: NDArray[np.float32]) -> NDArray[np.uint8]:
    """An image file's RGBA (colour not multiplied by alpha) of a premultiplied picture."""
    alpha = premultiplied[..., 3:]
    colour = np.divide(premultiplied[..., :3], alpha, out=np.zeros_like(premultiplied[..., :3]), where=alpha > 0)
    return np.round(np.concatenate([colour, alpha], -1).clip(0, 1) * 255).astype(np.uint8)


def only(prepared: Prepared, names: Container[str]) -> Prepared:
    """The part with these ids."""
    rows = [i for i, name in enumerate(prepared.ids) if name in names]
    return replace(
        prepared,
        ids=tuple(prepared.ids[i] for i in rows),
        categories=tuple(prepared.categories[i] for i in rows),
        occupancy=prepared.occupancy[rows],
        images=prepared.images[rows],
        failures=tuple(failure for failure in prepared.failures if failure[0] in names),
    )


def _joined(shards: Sequence[Arrays], spec: Preparation) -> Prepared:
    def texts(key: str) -> tuple[str, ...]:
        return tuple(str(text) for shard in shards for text in shard[key])

    def stacked(key: str, shape: tuple[int, ...], dtype: type) -> NDArray:
        parts = [shard[key] for shard in shards if len(shard["ids"])]
        return np.concatenate(parts) if parts else np.zeros((0, *shape), dtype)

    side = spec.image_size
    return Prepared(
        texts("ids"),
        texts("categories"),
        stacked("occupancy", (spec.resolution,) * 3, bool),
        stacked("images", (spec.views, side, side, 3), np.uint8),
        tuple((str(a), str(b)) for shard in shards for a, b in shard["failures"]),
    )
