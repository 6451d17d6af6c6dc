"""The toys that a world is made from, as arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ...assets.source import Asset
from ...assets.toys import CATEGORIES, ToySource
from ...base.files import digest_of, replacing
from ...base.seeds import seed_of
from ...trellis.sparse import SparseTensor
from ..appearance import Appearances, Looks, appearances
from ..config import ObservationSection, Pretrain, SecondStage
from ..observe import observe
from ..pool import Workers, tick
from ..prepare import Preparation, Prepared, prepare
from ..slat_task import cells_of

CHUNK = 128


@dataclass(frozen=True)
class Collection:
    """N toys. occupancy [N, R, R, R] bool; images [N, views, S, S, 3] uint8; pictures [N, 4, 3, P, P] uint8;
    points [N, n, 6] float32; labels [N] int64 into `categories`."""

    occupancy: NDArray[np.bool_]
    images: NDArray[np.uint8]
    pictures: NDArray[np.uint8]
    points: NDArray[np.float32]
    labels: NDArray[np.int64]
    categories: tuple[str, ...] = CATEGORIES

    @property
    def resolution(self) -> int:
        return self.occupancy.shape[-1]


@dataclass(frozen=True)
class Objects:
    """N toys with all that the second stage learns from. images: [N, views, S, S, 3] whole conditioning pictures."""

    assets: Sequence[Asset]
    seen: Appearances
    images: NDArray[np.uint8]
    resolution: int

    def picked(self, rows: NDArray[np.int64]) -> SparseTensor:
        """Cell features of some objects."""
        cells, voxels = cells_of(self.seen.counts, self.seen.coords, rows)
        return SparseTensor(torch.from_numpy(self.seen.features[cells.numpy()]), voxels)


@dataclass(frozen=True)
class _Chunk:
    ids: tuple[str, ...]
    occupancy: NDArray[np.bool_]
    section: ObservationSection
    path: Path


def collections(recipe: Pretrain, cache: Path, team: Workers) -> tuple[Collection, Collection]:
    """Training and held-out toys (splits `train` and `validation`)."""
    train, held_out = (
        observed(toys(recipe, split, count, cache, team), recipe.observation, cache, team)
        for split, count in (("train", recipe.assets), ("validation", recipe.held_out))
    )
    return train, held_out


def toys(recipe: Pretrain, split: str, count: int, cache: Path, team: Workers) -> Prepared:
    """Occupancy and conditioning pictures of a split."""
    return prepare(ToySource(split, count), Preparation(**recipe.preparation.model_dump()), cache, team)


def objects(recipe: Pretrain, second: SecondStage, split: str, count: int, cache: Path, team: Workers) -> Objects:
    """The first toys of a split, with what the second stage is made from."""
    looks = Looks(**second.looks.model_dump())
    source, prepared = ToySource(split, count), toys(recipe, split, count, cache, team)
    seen = appearances(source, prepared, looks, cache, team)
    return Objects(source.assets(), seen, prepared.images, looks.resolution)


def as_seen(objects: Objects, collection: Collection) -> Collection:
    """The first toys of a collection, with coloured pictures and points in place of those of their structures."""
    n = len(objects.assets)
    return replace(
        collection,
        occupancy=collection.occupancy[:n],
        images=collection.images[:n],
        pictures=objects.seen.pictures,
        points=objects.seen.points,
        labels=collection.labels[:n],
    )


def observed(prepared: Prepared, section: ObservationSection, cache: Path, team: Workers) -> Collection:
    address = digest_of([prepared.ids, section.model_dump(), prepared.occupancy.shape, int(prepared.occupancy.sum())])
    folder = cache / f"observed-{address[:16]}"
    chunks = [
        _Chunk(
            prepared.ids[i : i + CHUNK], prepared.occupancy[i : i + CHUNK], section, folder / f"{i // CHUNK:05d}.npz"
        )
        for i in range(0, len(prepared.ids), CHUNK)
    ]
    todo = [chunk for chunk in chunks if not chunk.path.exists()]
    team.map(_observe_chunk, todo, "observe toys", sum(len(chunk.ids) for chunk in todo))
    arrays = [np.load(chunk.path, allow_pickle=False) for chunk in chunks]
    labels = np.array([CATEGORIES.index(category) for category in prepared.categories], np.int64)
    pictures = np.concatenate([array["pictures"] for array in arrays])
    points = np.concatenate([array["points"] for array in arrays])
    return Collection(prepared.occupancy, prepared.images, pictures, points, labels)


def _observe_chunk(chunk: _Chunk) -> None:
    seen = [
        observe(grid, chunk.section.picture_size, chunk.section.points, seed_of("points", asset_id))
        for asset_id, grid in zip(chunk.ids, chunk.occupancy, strict=True)
    ]
    with replacing(chunk.path) as part, part.open("wb") as stream:
        np.savez_compressed(
            stream, pictures=np.stack([s.pictures for s in seen]), points=np.stack([s.points for s in seen])
        )
    tick(len(chunk.ids))
