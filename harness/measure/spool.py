"""What was seen, on disk while it is scored, so that memory does not grow with the number of assets.

Shapes: M rows, N assets, V views. A row is of any shape: (D,) of features, (3, S, S) of pictures.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from ...base.errors import RunError


@dataclass(frozen=True, eq=False)
class Spooled:
    """Rows of a spool in any order, read when they are asked for; of features a `Features`.

    Attributes:
        places: of the rows in the file, [N, V] or [M]. row, dtype: shape and type of one.
    """

    file: IO[bytes]
    places: NDArray[np.intp]
    row: tuple[int, ...]
    dtype: np.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return *self.places.shape, *self.row

    @property
    def rows(self) -> Spooled:
        """[N, V, ...] as [N V, ...]."""
        return replace(self, places=self.places.reshape(-1))

    def rolled(self) -> Spooled:
        """Everything one place further to the front, and the first last."""
        return replace(self, places=np.roll(self.places, -1, axis=0))

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, chosen: int | slice | NDArray | tuple[slice, int], /) -> NDArray:
        places = np.asarray(self.places[chosen])
        found = np.empty((places.size, *self.row), self.dtype)
        _read(self.file, places.reshape(-1), found)
        return found.reshape(*places.shape, *self.row)


class Spool:
    """Takes things of one shape and type into a file without a name.

    A file that is mapped would count as memory of the process; this one is read. It is gone with the process.
    """

    def __init__(self, folder: Path):
        """folder: where the file lies if it can be written, else that of temporary files."""
        writable = folder.is_dir() and os.access(folder, os.W_OK)
        where = folder if writable else None
        self._file = tempfile.TemporaryFile(dir=where, buffering=0)  # noqa: SIM115  # closed with the spool
        self._count = 0
        self._row: tuple[int, ...] = ()
        self._dtype = np.dtype(np.float32)

    def add(self, part: NDArray) -> NDArray[np.intp]:
        """Keeps the rows of a part [n, V, ...]; returns their places [n, V]. Raises RunError when the disk is full."""
        part = np.ascontiguousarray(part)
        if not self._count:
            self._row, self._dtype = part.shape[2:], part.dtype
        assert (part.shape[2:], part.dtype) == (self._row, self._dtype), "all of a spool are alike"
        try:
            self._file.seek(0, os.SEEK_END)
            written = self._file.write(part.data)
        except OSError as error:
            raise RunError(f"Features cannot be written ({error.strerror}). Free the disk or move --cache.") from error
        if written != part.nbytes:
            raise RunError("Features cannot be written (disk full). Free the disk or move --cache.")
        first, count = self._count, part.shape[0] * part.shape[1]
        self._count += count
        return np.arange(first, first + count).reshape(part.shape[:2])

    def at(self, places: NDArray[np.intp]) -> Spooled:
        """The rows at places [N, V] that `add` gave, which may repeat: [N, V, ...]."""
        return Spooled(self._file, places, self._row, self._dtype)


def _read(file: IO[bytes], places: NDArray[np.intp], found: NDArray) -> None:
    """Rows at `places` [m] into `found` [m, ...]; neighbours in the file are read together."""
    breaks = np.flatnonzero(np.diff(places) != 1) + 1
    for start, end in zip([0, *breaks], [*breaks, len(places)], strict=True):
        if start < end:
            file.seek(int(places[start]) * found.strides[0])
            left = found[start:end].data.cast("B")
            while left:  # a call reads 2 GB at most
                left = left[file.readinto(left) :]  # pyright: ignore[reportAttributeAccessIssue]
