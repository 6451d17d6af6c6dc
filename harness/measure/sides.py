"""The two sides of a comparison: what was made, and what it is held against, shard by shard.

A side knows the jobs that make what a metric needs of it, and gives it to the metric when they are done.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray

from ...assets.folder import FolderAsset
from ...assets.source import Lawful
from ...base.errors import printable
from ...base.files import digest_of
from ...base.text import joined_notes
from ...metrics import Cells, NotMeasured, Seen
from ..engine.jobs import Job, Place
from ..generate.made import EMPTY, NOT_FINITE, AssetsJob, StructuresJob
from ..inputs.subjects import Subject, occupancies
from ..inputs.toys4k import BlenderLook
from .extractors import Extractor
from .features import FeaturesJob, gathered
from .looks import (
    AssetLooks,
    ConditionLooks,
    FileLooks,
    LooksJob,
    Studio,
    TruthAssets,
    TruthVoxels,
    VoxelLooks,
)
from .pairs import Files

RAW = ("occupancy", "latents", "cells", "law")  # what is no look: it is what was made itself, and what could have been


@dataclass(frozen=True)
class Side(ABC):
    """N assets in the order of their ids.

    Attributes:
        root: folder of the store where looks and features of them go.
        by_asset: the fields with a value per asset, of sides that can be divided.
    """

    root: Path
    subjects: tuple[Subject, ...]
    studio: Studio
    by_asset: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def shards(self, names: tuple[str, ...]) -> list[LooksJob]:
        """The jobs of some looks, in the order of the assets."""

    def part(self, rows: Sequence[int]) -> Self:
        """Some of the assets."""
        assert self.by_asset, "what was made in shards is not divided"
        whole = {name: getattr(self, name) for name in self.by_asset}
        return replace(self, **{name: tuple(values[i] for i in rows) for name, values in whole.items() if values})

    def raw(self, name: str) -> tuple[Any, Sequence[str]]:
        """What was made itself, and why each is not there, "" where it is. Raises NotMeasured: it was not made."""
        raise NotMeasured(f"of these assets there are no {name}")

    @property
    def makers(self) -> Sequence[Job]:
        """The jobs that made it; none of what was there."""
        return ()

    def jobs(self, needs: Iterable[str], extractors: Mapping[str, Extractor]) -> list[Job]:
        """All jobs behind some needs, without those of pictures that are there: what was seen may be gone since."""
        needs, jobs = set(needs), list[Job]()
        shards = self._shards(needs)
        for need in sorted(needs):
            look, extractor = _split(need)
            if extractor:
                jobs += [FeaturesJob(self.root, shard, look, extractors[extractor]) for shard in shards]
            elif look in RAW:
                jobs += self.makers
            else:
                jobs += [shard for shard in shards if not shard.place(look).exists()]
        return jobs

    def look_bytes(self, needs: Iterable[str]) -> int:
        """What pictures and points take on disk, at most."""
        names = {_split(need)[0] for need in needs} - set(RAW)
        return len(self.subjects) * sum(self.studio.blank(name).nbytes for name in names)

    def spent(self, needs: Iterable[str]) -> list[Place]:
        """Looks that only extractors read: once there are features, nothing does."""
        looks = {_split(need) for need in needs}
        names = {look for look, extractor in looks if extractor} - {look for look, extractor in looks if not extractor}
        return [shard.place(name) for shard in self._shards(names) for name in names]

    def key(self, needs: Iterable[str], extractors: Mapping[str, Extractor]) -> list[str]:
        """Digests of all that is behind some needs."""
        needs = set(needs)
        whose = [subject.key if needs & set(RAW) else subject.id for subject in self.subjects]
        shards, places = self._shards(needs), list[Place]()
        for need in sorted(needs):
            if need in RAW:
                places += [place for job in self.makers for place in job.places]
            else:
                places += self._places(need, shards, extractors)
        return [digest_of(whose), *(place.digest for place in places)]

    def seen(self, needs: Sequence[str], extractors: Mapping[str, Extractor]) -> Seen:
        """What a metric asked for. All jobs behind it are done. Raises NotMeasured: there is no such thing."""
        data: dict[str, Any] = {}
        ok = np.ones(len(self.subjects), bool)
        shards = self._shards(set(needs))
        for need in needs:
            look, extractor = _split(need)
            if look in RAW:
                data[need], errors = self.raw(look)
                there = np.array([not error for error in errors], bool)
            else:
                places = self._places(need, shards, extractors)
                data[need], there = gathered(places, "features" if extractor else "data", self.root)
            ok = ok & there
        return Seen(tuple(subject.id for subject in self.subjects), ok, data)

    def errors(self, needs: Iterable[str], extractors: Mapping[str, Extractor]) -> dict[str, tuple[str, ...]]:
        """By look why each asset failed in it, "" where it did not. All jobs behind the needs are done."""
        needs = set(needs)
        found = {need: tuple(self.raw(need)[1]) for need in sorted(needs & set(RAW))}
        for look, reasons in self._said("errors", needs, extractors).items():
            found[look] = tuple(_of_file(why, self.file_of(look, row)) for row, why in enumerate(reasons))
        return found

    def file_of(self, look: str, row: int) -> Path | None:
        """The file that a look of an asset is of, where it is of one."""
        return None

    def notes(self, needs: Iterable[str], extractors: Mapping[str, Extractor]) -> tuple[str, ...]:
        """What is not shown of each asset's files as they say, "" where all is. All jobs are done."""
        found = self._said("notes", set(needs), extractors).values()
        if not found:
            return ("",) * len(self.subjects)
        return tuple(joined_notes(texts) for texts in zip(*found, strict=True))

    def _said(self, what: str, needs: set[str], extractors: Mapping[str, Extractor]) -> dict[str, tuple[str, ...]]:
        """By look what is kept of each asset beside the data."""
        found: dict[str, tuple[str, ...]] = {}
        shards = self._shards(needs)
        for need in sorted(needs - set(RAW)):
            look, _ = _split(need)
            if look not in found:
                arrays = [place.get() for place in self._places(need, shards, extractors)]
                found[look] = tuple(str(one) for a in arrays for one in a.get(what, [""] * len(a["ok"])))
        return found

    def _places(self, need: str, shards: Sequence[LooksJob], extractors: Mapping[str, Extractor]) -> list[Place]:
        look, extractor = _split(need)
        if not extractor:
            return [shard.place(look) for shard in shards]
        return [FeaturesJob(self.root, shard, look, extractors[extractor]).place for shard in shards]

    def _shards(self, needs: set[str]) -> list[LooksJob]:
        names = tuple(sorted({_split(need)[0] for need in needs} - set(RAW)))
        return self.shards(names) if names else []


def _split(need: str) -> tuple[str, str]:
    """Look and extractor of it, "" where there is none."""
    look, _, extractor = need.partition(":")
    return look, extractor


def _of_file(reason: str, path: Path | None) -> str:
    """What failed of a file begins with its name."""
    return f"{printable(path.name)}: {reason}" if reason and path is not None else reason


@dataclass(frozen=True)
class StructuresSide(Side):
    """Structures that a cell made. seed: the cell's."""

    made: tuple[StructuresJob, ...]
    seed: int

    @property
    def makers(self) -> Sequence[Job]:
        return self.made

    def shards(self, names: tuple[str, ...]) -> list[LooksJob]:
        return [VoxelLooks(self.root, job.subjects, names, self.studio, self.seed, job) for job in self.made]

    def raw(self, name: str) -> tuple[Any, Sequence[str]]:
        arrays = [job.place.get() for job in self.made]
        found, finite, grids = (np.concatenate([one[key] for one in arrays]) for key in (name, "ok", "occupancy"))
        empty = _empty(grids) if name == "occupancy" else [""] * len(grids)
        return found, [why if ok else NOT_FINITE for ok, why in zip(finite, empty, strict=True)]


@dataclass(frozen=True)
class AssetsSide(Side):
    """Whole assets that a cell made. seed: the cell's."""

    made: tuple[AssetsJob, ...]
    seed: int

    @property
    def makers(self) -> Sequence[Job]:
        return self.made

    def shards(self, names: tuple[str, ...]) -> list[LooksJob]:
        return [AssetLooks(self.root, job.subjects, names, self.studio, self.seed, job) for job in self.made]

    def raw(self, name: str) -> tuple[Any, Sequence[str]]:
        arrays = [job.place.get() for job in self.made]
        cells = (np.concatenate([one[key] for one in arrays]) for key in ("counts", "coords", "latents"))
        return Cells(*cells), [str(error) for one in arrays for error in one["errors"]]


@dataclass(frozen=True)
class TruthSide(Side):
    """The test assets themselves. shard: assets of a job.

    Attributes:
        content: digest of each. blender: what Blender shows of each, where it draws the truth.
    """

    level: Literal["structure", "assets"]
    content: tuple[str, ...]
    seed: int
    shard: int
    blender: tuple[BlenderLook, ...] = ()
    by_asset = ("subjects", "content", "blender")

    def shards(self, names: tuple[str, ...]) -> list[LooksJob]:
        jobs: list[LooksJob] = []
        for start in range(0, len(self.subjects), self.shard):
            part = slice(start, start + self.shard)
            given = self.root, self.subjects[part], names, self.studio, self.seed
            if self.level == "structure":
                jobs.append(TruthVoxels(*given))
            else:
                jobs.append(TruthAssets(*given, self.content[part], self.blender[part]))
        return jobs

    def file_of(self, look: str, row: int) -> Path | None:
        asset = self.subjects[row].asset
        return asset.path if isinstance(asset, FolderAsset) else None

    def raw(self, name: str) -> tuple[Any, Sequence[str]]:
        if name == "law":
            assets = [subject.asset for subject in self.subjects]
            return [asset.law() if isinstance(asset, Lawful) else None for asset in assets], [""] * len(assets)
        if name != "occupancy":
            return super().raw(name)
        grids = occupancies(self.subjects)
        return grids, _empty(grids)


@dataclass(frozen=True)
class FilesSide(Side):
    """Files that any system made of the test assets."""

    files: tuple[Files, ...]
    content: tuple[tuple[str, str], ...]
    seed: int
    by_asset = ("subjects", "files", "content")

    def shards(self, names: tuple[str, ...]) -> list[LooksJob]:
        return [
            FileLooks(self.root, (subject,), names, self.studio, self.seed, (files,), (content,))
            for subject, files, content in zip(self.subjects, self.files, self.content, strict=True)
        ]

    def file_of(self, look: str, row: int) -> Path | None:
        files = self.files[row]
        if look.startswith("gaussians"):
            return files.gaussians
        return files.mesh.path if files.mesh else None


@dataclass(frozen=True)
class ConditionSide(Side):
    """The conditioning pictures. shard: assets of a job."""

    shard: int
    by_asset = ("subjects",)

    def shards(self, names: tuple[str, ...]) -> list[LooksJob]:
        starts = range(0, len(self.subjects), self.shard)
        return [ConditionLooks(self.root, self.subjects[i : i + self.shard], names, self.studio) for i in starts]


def _empty(grids: NDArray[np.bool_]) -> list[str]:
    return ["" if grid.any() else EMPTY for grid in grids]
