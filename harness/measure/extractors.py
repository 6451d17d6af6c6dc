"""The networks that look: a world's own tiny ones, official ones, official ones with random weights.

An `Extractor` says which network it is; the process that uses it loads it, and keeps it until a job wants another.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...base.errors import MissingError, UsageError, unknown_name
from ...base.files import file_sha256
from ...base.text import counted
from ...metrics.extractors import DualEncoder, NetworkExtractor
from ...metrics.official import picture_extractors, ulip
from ...metrics.official.picture_extractors import SPECS
from ...metrics.official.ulip import POINT_SPECS, SLIP_SPEC
from ...metrics.official.weights import RANDOM
from ..engine.device import settle
from ..engine.held import held
from ..inputs.weights_lock import LockEntry, read_lock
from ..inputs.world import WorldInfo, load_extractor
from ..protocol.values import Values
from ..settings.config import ProtocolSection

See = Callable[[NDArray], NDArray[np.float32]]  # pictures [V, 3, S, S] or clouds [V, P, 6] -> [V, D]
TINY = ("tiny2d", "tiny3d", "tiny_rgb", "ulip_tiny", "ulip_tiny_mesh")
GB_PER_TOWER = {"clip_bigg": 8.0, "fd_dinov2": 1.5, "fd_dinov2_reg518": 2.5, "clip_l14": 1.5, "ulip1_slip": 1.0}


@dataclass(frozen=True)
class Extractor(ABC):
    """A network, by name.

    Attributes:
        version: decides its features, weights included.
        points: of the clouds that it takes; 0 of one that takes pictures alone.
    """

    name: str
    version: str
    device: str
    points: int = 0

    @property
    def official(self) -> bool:
        return self.name not in TINY

    @property
    def memory_gb(self) -> float:
        """Of a process that has it loaded."""
        return GB_PER_TOWER.get(self.name, 0.0)

    @abstractmethod
    def load(self) -> See:
        """Raises MissingError: its file is absent, or another."""


@dataclass(frozen=True)
class TinyExtractor(Extractor):
    """Of a world made by `mdtbench pretrain`."""

    world: Path = Path()

    def load(self) -> See:
        network, sha = load_extractor(self.world, self.name, self.device)
        if not isinstance(network, DualEncoder):
            extractor = NetworkExtractor(self.name, "1", sha, len(network.scale), network)  # type: ignore[arg-type]
            return extractor

        @torch.inference_mode()
        def see(batch: NDArray) -> NDArray[np.float32]:
            given = torch.from_numpy(np.ascontiguousarray(batch))
            embed = network.embed_pictures if batch.dtype == np.uint8 else network.embed_points
            return embed(given).cpu().numpy()

        return see


@dataclass(frozen=True)
class OfficialExtractor(Extractor):
    """By the official kind of network.

    Attributes:
        file: of its weights; None: random ones, of `seed`. sha256: that the file must have.
    """

    file: Path | None = None
    sha256: str = ""
    seed: int = 0

    def load(self) -> See:
        settle(self.device)
        device: dict[str, Any] = {"device": self.device}
        if self.name in POINT_SPECS:
            spec = POINT_SPECS[self.name]
            if self.file is None:
                return ulip.random_extractor(spec, self.seed, **device)
            return ulip.load(spec, self.file, sha256=self.sha256, **device)
        if self.file is None:
            return picture_extractors.random_extractor(_picture_specs()[self.name], self.seed, **device)
        if self.name == SLIP_SPEC.name:  # one of two networks in its file
            return ulip.load_slip(self.file, sha256=self.sha256, **device)
        return picture_extractors.load(SPECS[self.name], self.file, sha256=self.sha256, **device)


def loaded(extractor: Extractor) -> See:
    """The network, kept for the next job of it."""
    return held(extractor, extractor.load, extractor.version, extractor.memory_gb)


def points_of(extractors: Mapping[str, Extractor], values: Values) -> int:
    """Points drawn on a surface: as many as the networks take, else the protocol's."""
    own = values.surface.points if values.surface else 0
    return max((one.points for one in extractors.values()), default=0) or own


def extractors_of(
    names: Iterable[str],
    section: ProtocolSection,
    world: WorldInfo | None,
    weights: Path,
    device: str,
    get: str = "mdtbench fetch --preset paper",
) -> dict[str, Extractor]:
    """Extractors by name.

    Args:
        world: whose tiny extractors there are; None: there are none. weights: folder of official ones.
        get: the command that fetches what is missing.
    Raises:
        MissingError: files of weights are not there; names all of them.
        UsageError: an unknown name, or a tiny one where there is no tiny world.
    """
    wanted = list(dict.fromkeys(names))
    official = [name for name in wanted if name not in TINY]
    known = {**_picture_specs(), **POINT_SPECS}
    for name in official:
        if name not in known:
            raise unknown_name("extractor", name, [*known, *TINY])
    if section.extractors == RANDOM:
        made: Mapping[str, Extractor] = {name: _random(name, section.seed, device) for name in official}
    else:
        check_present(official, weights, get)
        lock = read_lock(weights) if official else {}
        made = {name: _with_file(name, weights, lock, device) for name in official}
    tiny = {name: _tiny(name, world, device) for name in wanted if name in TINY}
    return {name: {**made, **tiny}[name] for name in wanted}


def check_present(names: Iterable[str], weights: Path, get: str) -> None:
    """Raises MissingError when the weights of official extractors are not there; names all that are not."""
    specs = {**_picture_specs(), **POINT_SPECS}
    wanted = list(dict.fromkeys(specs[name].weights.file for name in names))
    missing = [file for file in wanted if not (weights / file).is_file()]
    if missing:
        raise MissingError(
            f"{len(missing)} of {counted(len(wanted), 'file')} of weights missing in {weights}: {', '.join(missing)}. "
            f"Get them with `{get} --out {weights}`, or try everything out with --set protocol.extractors=random (of "
            "`evaluate`: --set extractors=random)."
        )


def _picture_specs() -> dict[str, Any]:
    return {**SPECS, SLIP_SPEC.name: SLIP_SPEC}


def _random(name: str, seed: int, device: str) -> OfficialExtractor:
    digest = f"{RANDOM}:{seed}"
    return OfficialExtractor(name, _version(name, digest), device, _points(name), None, "", seed)


def _with_file(name: str, weights: Path, lock: Mapping[str, LockEntry], device: str) -> OfficialExtractor:
    """The file's digest is what we or the lock know; one that neither knows is read for it."""
    spec = {**_picture_specs(), **POINT_SPECS}[name].weights
    path = weights / spec.file
    digest = spec.sha256 or (lock[spec.file].sha256 if spec.file in lock else file_sha256(path))
    return OfficialExtractor(name, _version(name, digest), device, _points(name), path, digest)


def _version(name: str, digest: str) -> str:
    if name in POINT_SPECS:
        return ulip.version_of(POINT_SPECS[name], digest)
    return picture_extractors.version_of(_picture_specs()[name], digest)


def _points(name: str) -> int:
    return POINT_SPECS[name].preparation.count if name in POINT_SPECS else 0


def _tiny(name: str, world: WorldInfo | None, device: str) -> TinyExtractor:
    if world is None or name not in world.file.extractors:
        has = f"world '{world.name}' has none of that name" if world else "there is no world here"
        raise UsageError(
            f"The extractor '{name}' is one of a tiny world's, and {has}. Choose another --set protocol=, for example "
            "trellis-v1, or a tiny world."
        )
    sha = world.file.sha256[f"{world.file.extractors[name]}.safetensors"]
    return TinyExtractor(name, f"{name}-1/{sha[:16]}", device, 0, world.folder)
