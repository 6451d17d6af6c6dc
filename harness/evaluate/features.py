"""What the networks of a protocol see in pictures and points. One network is in memory at a time.

A network is built only when the cache lacks some of its features. Shapes: V views or clouds, D features.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...base.errors import MissingError
from ...base.files import file_sha256
from ...metrics.official import picture_extractors, ulip
from ...metrics.official.picture_extractors import SPECS, PictureSpec
from ...metrics.official.ulip import POINT_SPECS, SLIP_SPEC, PointSpec, load_slip
from ...metrics.official.weights import RANDOM
from ..cache import Address, Store
from ..progress import Reporter
from ..protocol.values import Values
from ..weights_lock import LockEntry, read_lock
from .looks import is_kept
from .options import SECONDARY, Settings, ulip_variant
from .spool import Spool

Features = NDArray[np.float32]
See = Callable[[NDArray], Features]  # pictures [V, 3, S, S] or clouds [V, P, 6] -> [V, D]


@dataclass(frozen=True)
class Tower:
    """A network that is loaded when it is needed.

    Attributes:
        version: of the extractor, weights included; decides its features.
        points: P of the clouds that it takes; 0 for one of pictures.
    """

    version: str
    load: Callable[[], See]
    points: int = 0

    def address(self, seen: Address) -> Address:
        """Of the features of a cache entry."""
        return Address("features", {"of": seen.digest, "extractor": self.version})


@dataclass(frozen=True)
class Towers:
    """The networks of an evaluation.

    Attributes:
        distances: by the ending of their columns: incep, dinov2, ...
        ulip_pictures, ulip_points: the two sides of ULIP_I.
        clip: of the CLIP score; None where there is none.
        random: whether their weights are noise.
    """

    distances: dict[str, Tower]
    ulip_pictures: Tower
    ulip_points: Tower
    random: bool
    clip: Tower | None = None

    @property
    def versions(self) -> dict[str, str]:
        every = {**self.distances, "ulip_pictures": self.ulip_pictures, "ulip_points": self.ulip_points}
        every |= {"clip": self.clip} if self.clip else {}
        return {name: tower.version for name, tower in every.items()}


@dataclass(frozen=True)
class Seen:
    """Something that a tower looks at. batch: [V, ...], read or made when it is needed."""

    address: Address
    batch: Callable[[], NDArray]


def towers_of(values: Values, settings: Settings, folder: Path, *, geometry_only: bool, conditions: bool) -> Towers:
    """The networks that a protocol names.

    Args:
        folder: of official weights.
        conditions: whether there are condition images to compare with.
    Raises:
        MissingError: files are not there; names all of them.
    """
    variant = ulip_variant(values)
    of_ulip = {**SPECS, SLIP_SPEC.name: SLIP_SPEC}[variant.pictures]
    clip = [SPECS[values.clip_score.extractor]] if conditions and not geometry_only else []
    named = {"incep": values.fd.incep.extractor, "dinov2": values.fd.dinov2.extractor}
    named |= {ending: extractor for extractor, ending in SECONDARY.items() if extractor in settings.columns}
    pictures = {} if geometry_only else {ending: SPECS[extractor] for ending, extractor in named.items()}
    if settings.extractors == RANDOM:
        picture, point = partial(_random_pictures, seed=settings.seed), partial(_random_points, seed=settings.seed)
    else:
        _check_present(folder, [*pictures.values(), *clip, of_ulip, POINT_SPECS[variant.points]])
        lock = read_lock(folder)
        picture, point = partial(_pictures, folder=folder, lock=lock), partial(_points, folder=folder, lock=lock)
    return Towers(
        {ending: picture(spec) for ending, spec in pictures.items()},
        picture(of_ulip),
        point(POINT_SPECS[variant.points]),
        settings.extractors == RANDOM,
        picture(clip[0]) if clip else None,
    )


def features(tower: Tower, seen: Sequence[Seen], store: Store, report: Reporter, label: str) -> Spool:
    """[V, D] of each entry by the digest of its address; entries may repeat.

    The network is gone when this returns, and none of the features stays in memory.
    """
    by_digest = {one.address.digest: one for one in seen}
    spool = Spool(store.root)
    for digest, one in by_digest.items():
        arrays = store.get(tower.address(one.address))
        if arrays is not None:
            spool.add(digest, arrays["features"])
    todo = [digest for digest in by_digest if digest not in spool]
    if todo:
        task = report.start(label, len(by_digest), len(by_digest) - len(todo))
        see = tower.load()
        for count, digest in enumerate(todo, len(by_digest) - len(todo) + 1):
            found = see(by_digest[digest].batch())
            spool.add(digest, found)
            store.put(tower.address(by_digest[digest].address), {"features": found})
            report.update(task, count)
    return spool


def lacks(store: Store, tower: Tower, address: Address) -> bool:
    """Whether features have still to be computed."""
    return not is_kept(store, tower.address(address))


def _random_pictures(spec: PictureSpec, *, seed: int) -> Tower:
    version = picture_extractors.version_of(spec, f"{RANDOM}:{seed}")
    return Tower(version, partial(picture_extractors.random_extractor, spec, seed))


def _random_points(spec: PointSpec, *, seed: int) -> Tower:
    version = ulip.version_of(spec, f"{RANDOM}:{seed}")
    return Tower(version, partial(ulip.random_extractor, spec, seed), spec.preparation.count)


def _pictures(spec: PictureSpec, *, folder: Path, lock: dict[str, LockEntry]) -> Tower:
    path, sha256 = folder / spec.weights.file, _digest(spec, folder, lock)
    version = picture_extractors.version_of(spec, sha256)
    if spec is SLIP_SPEC:  # one of two networks in its file
        return Tower(version, partial(load_slip, path, sha256=sha256))
    return Tower(version, partial(picture_extractors.load, spec, path, sha256=sha256))


def _points(spec: PointSpec, *, folder: Path, lock: dict[str, LockEntry]) -> Tower:
    path, sha256 = folder / spec.weights.file, _digest(spec, folder, lock)
    version = ulip.version_of(spec, sha256)
    return Tower(version, partial(ulip.load, spec, path, sha256=sha256), spec.preparation.count)


def _digest(spec: PictureSpec | PointSpec, folder: Path, lock: dict[str, LockEntry]) -> str:
    """What the file must have; loading compares. A file that neither we nor the lock know is read for it."""
    file = spec.weights.file
    return spec.weights.sha256 or (lock[file].sha256 if file in lock else file_sha256(folder / file))


def _check_present(folder: Path, specs: Sequence[PictureSpec | PointSpec]) -> None:
    wanted = list(dict.fromkeys(spec.weights.file for spec in specs))
    missing = [file for file in wanted if not (folder / file).is_file()]
    if missing:
        raise MissingError(
            f"{len(missing)} of {len(wanted)} files of weights are not in {folder}: {', '.join(missing)}. Get them "
            f"with `mdtbench fetch --preset paper --out {folder}`, or try everything out with --set extractors=random."
        )
