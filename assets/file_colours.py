"""Colours of mesh files, brought to one form: sRGB corner colours and, where there is one, a texture.

docs/assets.md says what of each format is taken for the colour.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..base.errors import AssetError
from ..geometry.mesh import PLAIN, Sampler

# sRGB value of red, green and blue of a surface whose file gives it no colour.
UNCOLOURED = 0.6
# How far floats may be above 1 without a word: exporters round.
SLACK = 1e-3


@dataclass(frozen=True)
class Surface:
    """Colours of F triangles. Attributes: as the fields of `Mesh`, with at most one texture [H, W, 4] uint8."""

    rgba: NDArray[np.float32]
    uv: NDArray[np.float32] | None = None
    texture: NDArray[np.uint8] | None = None
    sampler: Sampler = PLAIN
    cutoff: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Part:
    """Triangles of a file without materials.

    Attributes:
        vertices: [V, 3]. faces: [F, 3].
        rgba: [F, 3, 4] of corners; None where the file has no colours.
        corner_uv: [F, 3, 2] coordinates of the file's texture, v up.
    """

    vertices: NDArray[np.float64]
    faces: NDArray[np.int64]
    rgba: NDArray[np.float32] | None
    corner_uv: NDArray[np.floating] | None = None


def unit_rgba(colours: ArrayLike, note: Callable[[str], None]) -> NDArray[np.float64]:
    """Colours of a file as [N, 4] in [0, 1]: by their type, integers by its range and floats as they are.

    Floats above 1 are clipped; those of a file that has whole numbers only are the bytes of a careless exporter. Of
    types without a customary range (32-bit integers) numbers are bytes. Alpha is 1 if absent.

    Args:
        colours: [N, 3] or [N, 4].
        note: is told what cannot be meant so.
    Raises:
        AssetError: a colour is not a finite number.
    """
    raw = np.asarray(colours)
    values = raw.astype(np.float64)
    if not np.isfinite(values).all():
        raise AssetError("a vertex or face colour is NaN or infinite: give every vertex a colour in [0, 1]")
    top = float(values.max(initial=0))
    if raw.dtype.kind in "ui":
        values /= 65535 if raw.dtype.itemsize == 2 else 255
        if raw.dtype.itemsize == 2 and 0 < top <= 255:
            note("its 16-bit colours are below 256 of 65535, which is nearly black")
    elif top >= 2 and (values == np.rint(values)).all():
        values /= 255
        note("its colours are floats and whole numbers up to 255: they are taken for bytes")
    if values.max(initial=0) > 1 + SLACK or values.min(initial=0) < -SLACK:
        note(f"some of its colours lie outside [0, 1] (up to {values.max():.5g}) and are clipped")
    if values.shape[1] == 3:
        values = np.column_stack([values, np.ones(len(values))])
    return np.clip(values, 0, 1)


def corners(vertex_rgba: NDArray, faces: NDArray) -> NDArray[np.float32]:
    """[F, 3, 4] of colours [V, 4]."""
    return vertex_rgba[faces].astype(np.float32)


def of_faces(face_rgba: NDArray) -> NDArray[np.float32]:
    """[F, 3, 4] of colours [F, 4]."""
    return np.repeat(face_rgba[:, None], 3, axis=1).astype(np.float32)


def finite(corner_uv: NDArray) -> NDArray[np.float32]:
    """Raises AssetError where a texture coordinate is not a number."""
    if not np.isfinite(corner_uv).all():
        raise AssetError("a texture coordinate is NaN or infinite: unwrap the mesh again")
    return corner_uv.astype(np.float32)


def plain(faces: NDArray, rgb: ArrayLike = UNCOLOURED) -> Surface:
    """One colour."""
    rgba = np.ones((len(faces), 3, 4), np.float32)
    rgba[..., :3] = rgb
    return Surface(rgba)
