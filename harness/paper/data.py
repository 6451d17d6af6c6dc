"""Training data of a stage, read from TRELLIS' layout on disk when a batch is drawn.

Every sample of a batch has a generator of its own, which draws instance and view; so readers may work in parallel,
and an instance that cannot be read is replaced by that generator's next without a trace in the other samples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...assets.trellis_latents import Choice, LatentSource, Slat
from ...base.errors import AssetError, RunError, UsageError
from ...base.files import digest_of, read_json, write_json
from ...base.seeds import seed_of
from ...flow.layout import DenseLayout
from ...trellis.slat_pipeline import voxel_layout
from ...trellis.sparse import Voxels
from ..protocol.values import Stage
from ..task import Samples

READERS = 8  # threads: decoding and scaling a picture of 1024 px takes longer than anything else here
GIVE_UP_AFTER = 20  # instances in a row, for one sample, that cannot be read
CHOICES: dict[Stage, Choice] = {"ss": Choice(slat_model=""), "slat": Choice(structure_model="")}

Latent = TypeVar("Latent")


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
            write_json(self._path, self.reasons)
            self._saved = len(self.reasons)


@dataclass(frozen=True)
class Instances(Generic[Latent]):
    """What may be drawn, and how it is read.

    Attributes:
        latent: of an instance. Raises AssetError when it cannot be read.
    """

    source: LatentSource
    names: Sequence[str]
    latent: Callable[[str], Latent]
    unreadable: Unreadable = field(default_factory=Unreadable)

    def drawn(self, count: int, source: np.random.Generator) -> list[tuple[Latent, NDArray[np.uint8]]]:
        """Latents and conditioning pictures [518, 518, 3] of `count` instances.

        Raises:
            RunError: too many in a row cannot be read.
        """
        seeds = source.integers(0, 2**63, count, dtype=np.int64).tolist()
        with ThreadPoolExecutor(READERS) as readers:
            found = list(readers.map(self._drawn, seeds))
        self.unreadable.save()
        return found

    def read(self, instance: str, source: np.random.Generator) -> tuple[Latent, NDArray[np.uint8]]:
        """One instance. Raises AssetError."""
        return self.latent(instance), self.source.condition(instance, source)

    def _drawn(self, seed: int) -> tuple[Latent, NDArray[np.uint8]]:
        source, reason = np.random.Generator(np.random.PCG64(seed)), ""
        for _ in range(GIVE_UP_AFTER):
            instance = self.names[int(source.integers(len(self.names)))]
            try:
                return self.read(instance, source)
            except AssetError as error:
                reason = str(error)
                self.unreadable.add(instance, reason)
        raise RunError(
            f"{GIVE_UP_AFTER} of {len(self.names)} training instances in a row cannot be read (the last: {reason}). "
            "Make these latents and pictures again, or correct places.latents."
        )


@dataclass(frozen=True)
class StructureLatents:
    """Structure latents [8, 16, 16, 16], as they are: TRELLIS does not normalise them."""

    instances: Instances[NDArray[np.float32]]

    def drawn(self, count: int, source: np.random.Generator) -> Samples:
        return self._samples(self.instances.drawn(count, source))

    def one(self, instance: str, source: np.random.Generator) -> Samples:
        """A batch of one instance. Raises AssetError when it cannot be read."""
        return self._samples([self.instances.read(instance, source)])

    def _samples(self, rows: Sequence[tuple[NDArray[np.float32], NDArray[np.uint8]]]) -> Samples:
        x_0 = torch.from_numpy(np.stack([latent for latent, _ in rows]))
        return Samples(x_0, DenseLayout(tuple(x_0.shape)), _pictures(rows))


@dataclass(frozen=True)
class SlatLatents:
    """Structured latents [N, 8] on their voxels, normalised: (raw - mean) / std.

    Attributes:
        mean, std: [8] of the pipeline, on the CPU.
    """

    instances: Instances[Slat]
    mean: Tensor
    std: Tensor

    def drawn(self, count: int, source: np.random.Generator) -> Samples:
        return self._samples(self.instances.drawn(count, source))

    def one(self, instance: str, source: np.random.Generator) -> Samples:
        """A batch of one instance. Raises AssetError when it cannot be read."""
        return self._samples([self.instances.read(instance, source)])

    def _samples(self, rows: Sequence[tuple[Slat, NDArray[np.uint8]]]) -> Samples:
        slats = [slat for slat, _ in rows]
        raw = torch.from_numpy(np.concatenate([slat.feats for slat in slats]))
        sample = np.repeat(np.arange(len(slats), dtype=np.int32), [len(slat.coords) for slat in slats])
        coords = np.concatenate([sample[:, None], np.concatenate([slat.coords for slat in slats])], axis=1)
        layout = voxel_layout(Voxels(torch.from_numpy(coords), len(slats)), raw.shape[1])
        return Samples((raw - self.mean) / self.std, layout, _pictures(rows))


def held_out(instances: Sequence[str], count: int, seed: int) -> tuple[list[str], list[str]]:
    """Instances that students never see, and the others, in their order.

    Which they are follows from an instance's own id and the seed, so that further data moves as few as it can.

    Raises:
        UsageError: nothing would be left.
    """
    if len(instances) <= count:
        raise UsageError(
            f"grid.assets holds out {count} instances, and places.latents has {len(instances)}. "
            "Lower grid.assets or name more folders."
        )
    held = sorted(instances, key=lambda instance: seed_of("held out", instance, seed))[:count]
    apart = set(held)
    return held, [instance for instance in instances if instance not in apart]


def data_digest(source: LatentSource, names: Sequence[str]) -> str:
    """Identity of training data: which assets (ids are their digests) and which encoders; files are not read."""
    return digest_of([source.choice.structure_model, source.choice.slat_model, list(names)])


def _pictures(rows: Sequence[tuple[object, NDArray[np.uint8]]]) -> Tensor:
    return torch.from_numpy(np.stack([picture for _, picture in rows])).permute(0, 3, 1, 2)
