"""What students of a stage are distilled on: encoded toys in memory, or TRELLIS latents, read when they are drawn.

Every sample of a batch read from disk has a generator of its own, which draws instance and view; so readers may work
in parallel, and an instance that cannot be read is replaced by that generator's next without a trace in the others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...assets.trellis_latents import METADATA, Choice, LatentSource, Slat, open_latents
from ...base.errors import AssetError, RunError, UsageError
from ...base.files import digest_of, read_json, write_json
from ...base.seeds import seed_of
from ...flow.layout import DenseLayout, Layout
from ...trellis.slat_pipeline import voxel_layout
from ...trellis.sparse import Voxels
from ..engine.jobs import Job
from ..inputs.cells import EncodeJob, ragged
from ..inputs.world import World
from ..protocol.values import Stage

READERS = 8  # threads: decoding and scaling a picture of 1024 px takes longer than anything else here
GIVE_UP_AFTER = 20  # instances in a row, for one sample, that cannot be read
EVERY = slice(None)
CHOICES: dict[Stage, Choice] = {"structure": Choice(slat_model=""), "slat": Choice(structure_model="")}


@dataclass(frozen=True)
class Samples:
    """Objects that were drawn for a batch.

    Attributes:
        x_0: their latents, in `layout`.
        images: [B, 3, S, S] uint8, one conditioning picture of each.
    """

    x_0: Tensor
    layout: Layout
    images: Tensor


class Data(Protocol):
    """The objects that students of a stage learn on."""

    def drawn(self, count: int, source: np.random.Generator, kept: slice = EVERY) -> Samples:
        """Those that are `kept` of `count` objects, which are a function of the generator alone."""
        ...


class TrainingSet(Protocol):
    """What students of a stage learn on, as plain data; `open` is called in the process that trains.

    Attributes:
        digest: of all that decides what is drawn. jobs: what must be done before: all whose results `open` reads.
    """

    @property
    def digest(self) -> str: ...

    @property
    def jobs(self) -> Sequence[Job]: ...

    def open(self, world: World, out: Path) -> Data:
        """out: folder of the run, for notes of what cannot be read."""
        ...


# ------------------------------------------------------------------------------------------------------ encoded assets


@dataclass(frozen=True)
class EncodedSet:
    """Assets of a source through the world's own encoder."""

    digest: str
    encoded: tuple[EncodeJob, ...]

    @property
    def jobs(self) -> Sequence[Job]:
        return [one for job in self.encoded for one in (job.prepare, job.cells, job) if one is not None]

    def open(self, world: World, out: Path) -> Data:
        prepared = [job.prepare.place.get() for job in self.encoded]
        images = np.concatenate([arrays["images"] for arrays in prepared if len(arrays["ids"])])
        latents = torch.from_numpy(np.concatenate([job.place.get()["latents"] for job in self.encoded]))
        if self.encoded[0].cells is None:
            return DenseData(latents, images)
        cells = [job.cells.place.get() for job in self.encoded if job.cells]
        counts, coords = (np.concatenate([arrays[name] for arrays in cells]) for name in ("counts", "coords"))
        return SparseData(counts, coords, latents, images)


@dataclass(frozen=True)
class DenseData:
    """Structures in memory.

    Attributes:
        latents: [N, C, r, r, r].
        images: [N, views, S, S, 3] conditioning pictures.
    """

    latents: Tensor
    images: NDArray[np.uint8]

    def drawn(self, count: int, source: np.random.Generator, kept: slice = EVERY) -> Samples:
        rows, images = views_of(self.images, count, source, kept)
        return dense_samples(self.latents[torch.from_numpy(rows)], images)


@dataclass(frozen=True)
class SparseData:
    """Latents of N objects of the second stage, in memory.

    Attributes:
        counts: [N] cells of each. coords: [M, 3] int32, latents: [M, C]: of all cells, object by object.
        images: [N, views, S, S, 3] conditioning pictures.
    """

    counts: NDArray[np.int64]
    coords: NDArray[np.int32]
    latents: Tensor
    images: NDArray[np.uint8]

    def drawn(self, count: int, source: np.random.Generator, kept: slice = EVERY) -> Samples:
        rows, images = views_of(self.images, count, source, kept)
        index = cell_rows(self.counts, rows)
        x_0 = self.latents[torch.from_numpy(index)]
        return sparse_samples([self.coords[part] for part in _parts(self.counts, rows)], x_0, images)


def views_of(
    images: NDArray[np.uint8], count: int, source: np.random.Generator, kept: slice = EVERY
) -> tuple[NDArray[np.int64], Tensor]:
    """Objects drawn for a batch, and one view of each.

    Args:
        images: [N, views, S, S, 3] conditioning pictures. kept: of the `count` that are drawn.
    Returns:
        [n] rows of `images`; [n, 3, S, S] uint8.
    """
    rows = source.integers(0, len(images), count)[kept]
    views = source.integers(0, images.shape[1], count)[kept]
    return rows, torch.from_numpy(images[rows, views]).permute(0, 3, 1, 2)


def cell_rows(counts: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where the cells of some objects lie among all."""
    return np.concatenate([np.arange(part.start, part.stop) for part in _parts(counts, rows)])


def _parts(counts: NDArray[np.int64], rows: NDArray[np.int64]) -> list[slice]:
    every = ragged(counts)
    return [every[row] for row in rows]


def dense_samples(x_0: Tensor, images: Tensor) -> Samples:
    return Samples(x_0, DenseLayout(tuple(x_0.shape)), images)


def sparse_samples(coords: Sequence[NDArray[np.int32]], x_0: Tensor, images: Tensor) -> Samples:
    """coords: [n, 3] of each object; x_0: [M, C] of all of them."""
    sample = np.repeat(np.arange(len(coords), dtype=np.int32), [len(cells) for cells in coords])
    batch = np.concatenate([sample[:, None], np.concatenate(coords)], axis=1).astype(np.int32)
    return Samples(x_0, voxel_layout(Voxels(torch.from_numpy(batch), len(coords)), x_0.shape[1]), images)


# ------------------------------------------------------------------------------------------------------ latents on disk


@dataclass(frozen=True)
class LatentSet:
    """Latents in TRELLIS' layout on disk.

    Attributes:
        folders: of the layout. held_out: so many instances are left to the choice of settings, by `seed`.
    """

    stage: Stage
    folders: tuple[Path, ...]
    held_out: int
    seed: int

    @property
    def jobs(self) -> Sequence[Job]:
        return ()

    @property
    def source(self) -> LatentSource:
        """Raises MissingError or UsageError for an absent or malformed list."""
        return open_latents(self.folders, CHOICES[self.stage])

    @property
    def absent(self) -> list[Path]:
        """Folders without their list."""
        return [folder for folder in self.folders if not (folder / METADATA).is_file()]

    @property
    def digest(self) -> str:
        """A plan needs no data: while there is none, the digest says so."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        if self.absent or not self.folders:
            return "not there"
        source = self.source
        names = split_held_out(source.instances(), self.held_out, self.seed)[1]
        return digest_of([source.choice.structure_model, source.choice.slat_model, list(names)])

    def open(self, world: World, out: Path) -> Data:
        source = self.source
        names = split_held_out(source.instances(), self.held_out, self.seed)[1]
        unreadable = Unreadable(unreadable_file(out, self.stage))
        if self.stage == "structure":
            return LatentData(source, names, source.structure_latent, stacked_structures, unreadable)
        mean, std = world.whole.mean.cpu(), world.whole.std.cpu()
        return LatentData(source, names, source.slat, lambda rows, images: _slats(rows, images, mean, std), unreadable)


def unreadable_file(out: Path, stage: Stage) -> Path:
    """Where a run lists the training instances that it could not read; absent where it could read all."""
    return out / f"unreadable-{stage}.json"


class Unreadable:
    """Instances that could not be read, each with the reason, kept in a file over interruptions.

    Args:
        path: None keeps them in memory alone.
    """

    def __init__(self, path: Path | None = None):
        self._path = path
        self.reasons: dict[str, str] = dict(read_json(path)) if path and path.exists() else {}
        self._saved = len(self.reasons)

    def add(self, instance: str, reason: str) -> None:
        self.reasons.setdefault(instance, reason)

    def save(self) -> None:
        """Write what was added since the last time."""
        if self._path and len(self.reasons) > self._saved:
            there = read_json(self._path) if self._path.exists() else {}  # of processes that train other students
            self.reasons = {**there, **self.reasons}
            write_json(self._path, self.reasons)
            self._saved = len(self.reasons)


@dataclass(frozen=True)
class LatentData:
    """What may be drawn, and how it is read.

    Attributes:
        latent: of an instance; raises AssetError when it cannot be read. samples: of latents and their pictures.
    """

    source: LatentSource
    names: Sequence[str]
    latent: Callable[[str], Any]
    samples: Callable[[Sequence[Any], Tensor], Samples]
    unreadable: Unreadable = field(default_factory=Unreadable)

    def drawn(self, count: int, source: np.random.Generator, kept: slice = EVERY) -> Samples:
        """Raises RunError: too many instances in a row cannot be read."""
        seeds = source.integers(0, 2**63, count, dtype=np.int64)[kept].tolist()
        with ThreadPoolExecutor(READERS) as readers:
            found = list(readers.map(self._one, seeds))
        self.unreadable.save()
        images = torch.from_numpy(np.stack([picture for _, picture in found])).permute(0, 3, 1, 2)
        return self.samples([latent for latent, _ in found], images)

    def _one(self, seed: int) -> tuple[Any, NDArray[np.uint8]]:
        source, reason = np.random.Generator(np.random.PCG64(seed)), ""
        for _ in range(GIVE_UP_AFTER):
            instance = self.names[int(source.integers(len(self.names)))]
            try:
                return self.latent(instance), self.source.condition(instance, source)
            except AssetError as error:
                reason = str(error)
                self.unreadable.add(instance, reason)
        raise RunError(
            f"{GIVE_UP_AFTER} of {len(self.names)} training instances in a row cannot be read (the last: {reason}). "
            "Make these latents and pictures again, or correct data.latents."
        )


def split_held_out(instances: Sequence[str], count: int, seed: int) -> tuple[list[str], list[str]]:
    """Instances that students never see, and the others, in their order.

    Which they are follows from an instance's own id and the seed, so that further data moves as few as it can.

    Raises:
        UsageError: nothing would be left.
    """
    if len(instances) <= count:
        raise UsageError(
            f"sweep.assets holds out {count} instances, and data.latents has {len(instances)}. "
            "Lower sweep.assets or name more folders."
        )
    held = sorted(instances, key=lambda instance: seed_of("held out", instance, seed))[:count]
    apart = set(held)
    return held, [instance for instance in instances if instance not in apart]


def stacked_structures(rows: Sequence[NDArray[np.float32]], images: Tensor) -> Samples:
    """Structure latents as they are: TRELLIS does not normalise them."""
    return dense_samples(torch.from_numpy(np.stack(rows)), images)


def _slats(rows: Sequence[Slat], images: Tensor, mean: Tensor, std: Tensor) -> Samples:
    """Normalised: (raw - mean) / std."""
    raw = torch.from_numpy(np.concatenate([slat.feats for slat in rows]))
    return sparse_samples([slat.coords for slat in rows], (raw - mean) / std, images)
