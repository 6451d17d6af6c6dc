"""What whole assets are measured against and second stages are trained on: coloured pictures, points, cell features.

Made beside `prepare`'s arrays, which every run needs, in files of their own, which only whole assets need.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..assets.mesh import Mesh
from ..assets.source import Asset, Source
from ..base.files import digest_of
from ..base.seeds import seed_of
from ..render.appearance import coarse_coords, voxel_features
from ..render.meshes import protocol_pictures
from ..render.points import sample_surface
from .pool import Workers, tick
from .prepare import Prepared
from .storage import load_arrays, save_arrays

SHARD = 32  # assets per cache file
APPEARANCE_VERSION = 1  # part of the cache's address: raise it when this module computes something else


@dataclass(frozen=True)
class Looks:
    """How whole assets are looked at.

    Attributes:
        resolution: cells along a side of the second stage's grid; divides that of the structures.
        picture_size: side of the four protocol pictures, in pixels.
        points: coloured surface points.
    """

    resolution: int
    picture_size: int
    points: int


@dataclass(frozen=True)
class Appearances:
    """N assets as they look, in the order asked for.

    Attributes:
        pictures: [N, 4, 3, P, P] uint8, the protocol views on black.
        points: [N, n, 6] float32, xyz and sRGB.
        counts: [N] cells of each asset. coords: [M, 3] int32, features: [M, F] float32: of all cells, asset by asset.
    """

    pictures: NDArray[np.uint8]
    points: NDArray[np.float32]
    counts: NDArray[np.int64]
    coords: NDArray[np.int32]
    features: NDArray[np.float32]

    def cells(self, row: int) -> slice:
        """Where the cells of an asset lie."""
        stop = int(self.counts[: row + 1].sum())
        return slice(stop - int(self.counts[row]), stop)

    def part(self, start: int, stop: int) -> Appearances:
        """The assets start to stop."""
        first, last = int(self.counts[:start].sum()), int(self.counts[:stop].sum())
        return Appearances(
            self.pictures[start:stop],
            self.points[start:stop],
            self.counts[start:stop],
            self.coords[first:last],
            self.features[first:last],
        )


@dataclass(frozen=True)
class _Shard:
    assets: tuple[Asset, ...]
    occupancy: NDArray[np.bool_]
    looks: Looks
    path: Path


def appearances(source: Source, prepared: Prepared, looks: Looks, cache: Path, team: Workers) -> Appearances:
    """The prepared assets of a source as they look, from the cache where it has them."""
    by_id = {asset.id: asset for asset in source.assets()}
    address = digest_of([APPEARANCE_VERSION, source.name, source.digest(), asdict(looks)])[:16]
    folder, shards = cache / f"appearance-{source.name}-{address}", []
    for start in range(0, len(prepared.ids), SHARD):
        ids = prepared.ids[start : start + SHARD]
        path = folder / f"{digest_of(list(ids))[:16]}.npz"
        shards.append(_Shard(tuple(by_id[i] for i in ids), prepared.occupancy[start : start + SHARD], looks, path))
    todo = [shard for shard in shards if not shard.path.exists()]
    team.map(_make_shard, todo, f"look at {source.name}", sum(len(shard.assets) for shard in todo))
    return _joined([load_arrays(shard.path) for shard in shards])


def pictures_and_points(mesh: Mesh, asset_id: str, looks: Looks) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """A mesh as the extractors of whole assets see it. Raises AssetError when it has no area."""
    generator = np.random.Generator(np.random.PCG64(seed_of("surface points", asset_id)))
    return protocol_pictures(mesh, looks.picture_size), sample_surface(mesh, looks.points, generator)


def _make_shard(shard: _Shard) -> None:
    looks, seen = shard.looks, []
    for asset, occupancy in zip(shard.assets, shard.occupancy, strict=True):
        mesh = asset.load()
        coords = coarse_coords(occupancy, looks.resolution)
        features = voxel_features(mesh, coords, looks.resolution)
        seen.append((*pictures_and_points(mesh, asset.id, looks), coords, features))
        tick()
    pictures, points, coords, features = zip(*seen, strict=True)
    save_arrays(
        shard.path,
        {
            "pictures": np.stack(pictures),
            "points": np.stack(points),
            "counts": np.array([len(cells) for cells in coords], np.int64),
            "coords": np.concatenate(coords),
            "features": np.concatenate(features),
        },
    )


def _joined(shards: Sequence[dict[str, NDArray]]) -> Appearances:
    names = ("pictures", "points", "counts", "coords", "features")
    return Appearances(**{name: np.concatenate([shard[name] for shard in shards]) for name in names})
