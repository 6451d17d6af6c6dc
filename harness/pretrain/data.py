"""The toys that a world is made from, as arrays: what they are, and how they look to extractors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...assets.source import Asset, Source
from ...assets.toys import CATEGORIES, AllToys, ToySource
from ...base.errors import RunError
from ...base.files import digest_of
from ...metrics.contract import Level
from ...trellis.sparse import SparseTensor, Voxels
from ..engine.engine import Engine
from ..engine.store import Arrays
from ..generate.made import SHARD
from ..inputs.cells import CellsJob
from ..inputs.prepare import OwnRenderer, Preparation, prepare, prepare_jobs
from ..inputs.subjects import TestSet, open_tests
from ..inputs.world import WorldFile
from ..measure.looks import Studio
from ..measure.sides import TruthSide
from ..protocol.model import load_protocol
from ..protocol.values import Values
from ..settings.config import LooksSection, ObservationSection, Pretrain
from ..train.data import cell_rows

PROTOCOL = "tiny-v3"  # whose cameras and seeds extractors are trained with
JUDGED = 512  # toys that the finished teachers are measured on; whole assets on the first JUDGED_WHOLE
JUDGED_WHOLE = 64


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
    """N toys with all that the second stage learns from.

    Attributes:
        images: [N, views, S, S, 3] whole conditioning pictures.
        pictures: [N, 4, 3, P, P] uint8 and points: [N, n, 6] of the objects themselves, in colour.
        counts: [N] cells of each. coords: [M, 3] int32, features: [M, F] float32: of all cells, object by object.
        resolution: cells along a side of the second stage's grid.
    """

    assets: Sequence[Asset]
    images: NDArray[np.uint8]
    pictures: NDArray[np.uint8]
    points: NDArray[np.float32]
    counts: NDArray[np.int64]
    coords: NDArray[np.int32]
    features: NDArray[np.float32]
    resolution: int

    def cells(self, rows: NDArray[np.int64]) -> tuple[Tensor, Voxels]:
        """Where the cells of some objects lie among all, and these cells as a batch."""
        index = cell_rows(self.counts, rows)
        sample = np.repeat(np.arange(len(rows)), self.counts[rows])
        batch = np.concatenate([sample[:, None], self.coords[index]], axis=1).astype(np.int32)
        return torch.from_numpy(index), Voxels(torch.from_numpy(batch), len(rows))

    def picked(self, rows: NDArray[np.int64]) -> SparseTensor:
        """Cell features of some objects."""
        index, voxels = self.cells(rows)
        return SparseTensor(torch.from_numpy(self.features[index.numpy()]), voxels)


@dataclass(frozen=True)
class Toys:
    """The toys of a recipe, split by split: to train on, held out (`validation`), to judge the finished world by.

    Attributes:
        root: folder of the store that keeps what is made of them.
    """

    recipe: Pretrain
    root: Path
    engine: Engine

    @property
    def spec(self) -> Preparation:
        return Preparation(**self.recipe.preparation.model_dump())

    @property
    def looks(self) -> LooksSection:
        """How objects are looked at, of a recipe with whole assets."""
        assert self.recipe.second is not None
        return self.recipe.second.looks

    def source(self, split: str) -> ToySource:
        held_out = self.recipe.held_out
        return ToySource(split, {"train": self.recipe.assets, "test": JUDGED}.get(split, held_out))

    def usable(self, split: str, limit: int | None = None) -> TestSet:
        """The toys of a split, or the first `limit`, with their structures and conditioning pictures."""
        return self._opened(self.source(split), limit)

    def others(self, count: int) -> TestSet:
        """Toys that are neither trained nor judged on."""
        return self._opened(ToySource("validation", count), None)

    def all(self, colours: int) -> TestSet:
        """Every structure in some colours: what distributions are held against."""
        return self._opened(AllToys(colours), None)

    def _opened(self, source: Source, limit: int | None) -> TestSet:
        file = WorldFile(name="", preparation=self.recipe.preparation)
        shows, protocol = OwnRenderer(self.spec), load_protocol(PROTOCOL)
        return open_tests(source, shows, file, protocol, self.root, self.engine, limit=limit, occupancy=True)

    def truth(self, tests: TestSet, level: Level) -> TruthSide:
        """Toys themselves, as the extractors of a level see them."""
        section = self.recipe.observation if level == "structure" else self.looks
        content = tuple(digest_of([tests.name, tests.digest, name]) for name in tests.ids)
        return TruthSide(self.root, tests.subjects, studio(section), level, content, 0, SHARD)

    def collection(self, split: str) -> Collection:
        """A split with pictures and points of its structures."""
        prepared = prepare(self.source(split), self.spec, self.root, self.engine)
        pictures, points = self._looks(self.truth(self.usable(split), "structure"), "voxels", "voxel_points")
        labels = np.array([CATEGORIES.index(category) for category in prepared.categories], np.int64)
        return Collection(prepared.occupancy, prepared.images, pictures, points[:, 0], labels)

    def objects(self, split: str, count: int) -> Objects:
        """The first toys of a split, with what the second stage is made from."""
        source, resolution = self.source(split), self.looks.resolution
        tests = self.usable(split, count)
        pictures, points = self._looks(self.truth(tests, "assets"), "mesh", "points")
        jobs = prepare_jobs(source, OwnRenderer(self.spec), self.spec.resolution, self.root, count)
        cells = [CellsJob(job, resolution) for job in jobs]
        self.engine.do(cells)
        counts, coords, features = _joined([job.place.get() for job in cells], "counts", "coords", "features")
        counts = counts[: len(tests.subjects)]  # jobs are of whole shards
        images = prepare(source, self.spec, self.root, self.engine, count).images
        assets, n_cells = [subject.asset for subject in tests.subjects], int(counts.sum())
        return Objects(assets, images, pictures, points[:, 0], counts, coords[:n_cells], features[:n_cells], resolution)

    def _looks(self, side: TruthSide, *names: str) -> list[NDArray]:
        """[N, V, ...] of each look. Raises RunError for a toy that cannot be looked at."""
        jobs, found = side.shards(names), []
        self.engine.do(jobs)
        for name in names:
            arrays = [job.place(name).get() for job in jobs]
            errors = [str(error) for one in arrays for error in one["errors"] if error]
            if errors:
                raise RunError(f"A toy cannot be drawn ({errors[0]}). Correct what makes it.")
            found += _joined(arrays, "data")
        return found


def _joined(shards: Sequence[Arrays], *names: str) -> list[NDArray]:
    return [np.concatenate([arrays[name] for arrays in shards]) for name in names]


def judging() -> Values:
    """What toys are looked at and judged by."""
    return load_protocol(PROTOCOL).values


def studio(section: ObservationSection | LooksSection) -> Studio:
    """The protocol's cameras and seeds, with pictures and points of the size that the recipe has."""
    values = judging()
    views = values.views.model_copy(update={"resolution": section.picture_size})
    cells = section.resolution if isinstance(section, LooksSection) else 0
    return Studio.of(values.model_copy(update={"views": views}), section.points, cells)


def as_seen(objects: Objects, collection: Collection) -> Collection:
    """The first toys of a collection, with coloured pictures and points in place of those of their structures."""
    n = len(objects.assets)
    return replace(
        collection,
        occupancy=collection.occupancy[:n],
        images=collection.images[:n],
        pictures=objects.pictures,
        points=objects.points,
        labels=collection.labels[:n],
    )
