"""Assets become arrays: occupancy and conditioning pictures. Made once, kept in a cache addressed by content."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..assets.mesh import Mesh
from ..assets.source import Asset, Source
from ..assets.voxels import surface_voxels
from ..base.errors import AssetError
from ..base.files import digest_of, replacing
from ..base.seeds import seed_of
from ..render.cameras import orbit
from ..render.meshes import MeshRenderer
from ..render.preprocess import preprocess_image
from .pool import Workers, tick
from .storage import load_arrays

SHARD = 32  # assets per cache file: small enough to lose little, large enough to be few
VISIBLE_ALPHA = 0.85  # a pixel of the object itself; TRELLIS' preprocessing frames what exceeds 0.8
CODE_VERSION = 1  # part of the cache's address: raise it when this module computes something else


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
class _Shard:
    assets: tuple[Asset, ...]
    spec: Preparation
    path: Path


def prepare(source: Source, spec: Preparation, cache: Path, team: Workers, limit: int | None = None) -> Prepared:
    """The assets of a source (the first `limit` of its list) as arrays, from the cache where it has them."""
    assets = source.assets()
    if limit is not None and limit < len(assets):
        whole_shards = -(-limit // SHARD) * SHARD  # the cache has whole ones only, which any limit can use
        first = {asset.id for asset in assets[:limit]}
        return _only(_prepare(source, assets[:whole_shards], spec, cache, team), first)
    return _prepare(source, assets, spec, cache, team)


def _prepare(source: Source, assets: Sequence[Asset], spec: Preparation, cache: Path, team: Workers) -> Prepared:
    address = digest_of([CODE_VERSION, source.name, source.digest(), asdict(spec)])[:16]
    folder = cache / f"prepared-{source.name}-{address}"
    shards = [
        _Shard(tuple(assets[i : i + SHARD]), spec, folder / f"{i // SHARD:05d}.npz")
        for i in range(0, len(assets), SHARD)
    ]
    todo = [shard for shard in shards if not shard.path.exists()]
    total = sum(len(shard.assets) for shard in todo)
    team.map(_make_shard, todo, f"prepare {source.name}", total)
    return _joined([load_arrays(shard.path) for shard in shards])


def first_of(prepared: Prepared, count: int | None) -> Prepared:
    """The first `count` usable assets; None: all, and the failures."""
    return prepared if count is None else _only(prepared, set(prepared.ids[:count]))


def prepare_asset(asset: Asset, spec: Preparation) -> tuple[NDArray[np.bool_], NDArray[np.uint8]]:
    """Occupancy [R, R, R] and conditioning pictures [views, S, S, 3] of one asset. Raises AssetError."""
    mesh = asset.load()
    occupancy = surface_voxels(mesh, spec.resolution)
    if not occupancy.any():
        raise AssetError("no voxel is occupied")
    return occupancy, conditioning_pictures(mesh, asset.id, spec)


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


def _make_shard(shard: _Shard) -> None:
    good: list[tuple[Asset, NDArray, NDArray]] = []
    failures: list[tuple[str, str]] = []
    for asset in shard.assets:
        try:
            good.append((asset, *prepare_asset(asset, shard.spec)))
        except AssetError as error:
            failures.append((asset.id, str(error)))
        tick()
    spec = shard.spec
    occupancy = np.array([occupancy for _, occupancy, _ in good], bool)
    images = np.array([images for _, _, images in good], np.uint8)
    with replacing(shard.path) as part, part.open("wb") as stream:
        np.savez_compressed(
            stream,
            ids=np.array([asset.id for asset, _, _ in good], str),
            categories=np.array([asset.category for asset, _, _ in good], str),
            occupancy=occupancy.reshape(-1, *[spec.resolution] * 3),
            images=images.reshape(-1, spec.views, spec.image_size, spec.image_size, 3),
            failures=np.array(failures, str).reshape(-1, 2),
        )


def _only(prepared: Prepared, names: Container[str]) -> Prepared:
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


def _joined(shards: Sequence) -> Prepared:
    def texts(key: str) -> tuple[str, ...]:
        return tuple(str(text) for shard in shards for text in shard[key])

    failures = tuple((str(a), str(b)) for shard in shards for a, b in shard["failures"])
    return Prepared(
        texts("ids"),
        texts("categories"),
        np.concatenate([shard["occupancy"] for shard in shards]),
        np.concatenate([shard["images"] for shard in shards]),
        failures,
    )
