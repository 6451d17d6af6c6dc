"""NumPy archives of anybody: nothing is unpickled, and no memory is taken for what is not there."""

from __future__ import annotations

import math
import tokenize
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import IO

from numpy.lib import format as npy
from numpy.typing import NDArray

from .errors import BROKEN_FILE
from .limits import MB, excess

_NPY = ".npy"
_FAULTS = (*BROKEN_FILE, tokenize.TokenError, zipfile.BadZipFile)


def read_arrays(path: Path, only: Collection[str] | None = None) -> dict[str, NDArray]:
    """The arrays of an .npz file by name.

    Args:
        only: the names that are wanted; all by default. Those that are absent are left out.
    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged or beyond the limits; says what is wrong.
    """
    if not path.is_file() and path.exists():
        raise ValueError("it is no regular file")
    try:
        with zipfile.ZipFile(path) as archive:
            members = [one for one in archive.infolist() if only is None or one.filename.removesuffix(_NPY) in only]
            reason = excess("unpacked_mb", sum(one.file_size for one in members) / MB, "it")
            if reason:
                raise ValueError(reason)
            return {one.filename.removesuffix(_NPY): _array(archive, one) for one in members}
    except FileNotFoundError:
        raise
    except _FAULTS as error:
        raise ValueError(str(error) or type(error).__name__) from error


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> NDArray:
    with archive.open(member) as stream:
        _check_header(stream, member)
    with archive.open(member) as stream:
        return npy.read_array(stream, allow_pickle=False)


def _check_header(stream: IO[bytes], member: zipfile.ZipInfo) -> None:
    """Raises ValueError where it announces other numbers than there are."""
    version = npy.read_magic(stream)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, _, dtype = read(stream)
    announced, there = math.prod(shape) * dtype.itemsize, member.file_size - stream.tell()
    if dtype.hasobject or announced != there:
        raise ValueError(f"{member.filename} announces {announced} bytes of {dtype}, and has {there}")
