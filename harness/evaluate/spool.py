"""Features on disk while they are scored, so that memory does not grow with the number of assets.

Shapes: M rows, D features, N assets, V views.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from ...base.errors import RunError


@dataclass(frozen=True, eq=False)
class Spooled:
    """Rows of a spool in any order and shape, read when they are asked for; a `Features`.

    Attributes:
        places: of the rows in the file, [N, V] or [M].
    """

    file: IO[bytes]
    places: NDArray[np.intp]
    dim: int

    @property
    def shape(self) -> tuple[int, ...]:
        return *self.places.shape, self.dim

    @property
    def rows(self) -> Spooled:
        """[N, V, D] as [N V, D]."""
        return Spooled(self.file, self.places.reshape(-1), self.dim)

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, chosen: slice | NDArray | tuple[slice, int], /) -> NDArray[np.float32]:
        places = self.places[chosen]
        return _read(self.file, places.reshape(-1), self.dim).reshape(*places.shape, self.dim)


class Spool:
    """Takes the features of one entry after the other, each [V, D] float32, into a file without a name.

    A file that is mapped would count as memory of the process; this one is read. It is gone with the process.
    """

    def __init__(self, folder: Path):
        """folder: where the file lies if it can be written, else that of temporary files."""
        writable = folder.is_dir() and os.access(folder, os.W_OK)
        self._file = tempfile.TemporaryFile(dir=folder if writable else None, buffering=0)  # noqa: SIM115  # closed with the spool
        self._places: dict[str, NDArray[np.intp]] = {}
        self._count = 0
        self._dim = 0

    def __contains__(self, digest: str) -> bool:
        return digest in self._places

    def add(self, digest: str, features: NDArray[np.float32]) -> None:
        """Raises RunError when the disk is full."""
        features = np.ascontiguousarray(features, np.float32)
        try:
            self._file.seek(0, os.SEEK_END)
            written = self._file.write(features.data)
        except OSError as error:
            raise RunError(f"Features cannot be written ({error.strerror}). Free the disk or move --cache.") from error
        if written != features.nbytes:
            raise RunError("Features cannot be written (disk full). Free the disk or move --cache.")
        self._places[digest] = np.arange(self._count, self._count + len(features))
        self._count, self._dim = self._count + len(features), features.shape[1]

    def of(self, digests: Iterable[str]) -> Spooled:
        """[N, V, D]; digests may repeat."""
        return Spooled(self._file, np.stack([self._places[digest] for digest in digests]), self._dim)


def _read(file: IO[bytes], places: NDArray[np.intp], dim: int) -> NDArray[np.float32]:
    """[m] -> [m, D]; neighbours in the file are read together."""
    found = np.empty((len(places), dim), np.float32)
    breaks = np.flatnonzero(np.diff(places) != 1) + 1
    for start, end in zip([0, *breaks], [*breaks, len(places)], strict=True):
        if start < end:
            file.seek(int(places[start]) * found.strides[0])
            file.readinto(found[start:end].data.cast("B"))  # pyright: ignore[reportAttributeAccessIssue]
    return found
