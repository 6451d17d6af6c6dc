"""3D Gaussians as PLY files: the convention of 3D Gaussian splatting, which the usual viewers open.

Opacities are stored as logits, scales as logarithms, rotations as (w, x, y, z), colours as coefficients of spherical
harmonics. As save_ply of microsoft/TRELLIS does, (x, y, z) is turned into (x, -z, y), and the rotations with it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.lib.recfunctions import structured_to_unstructured
from numpy.typing import NDArray

from ..base.errors import AssetError
from ..base.files import replacing
from ..geometry.gaussians import Gaussians
from .ply_files import CODES

PLACE, NORMAL, COLOUR, OPACITY = ("x", "y", "z"), ("nx", "ny", "nz"), ("f_dc_0", "f_dc_1", "f_dc_2"), ("opacity",)
SCALE, ROTATION = ("scale_0", "scale_1", "scale_2"), ("rot_0", "rot_1", "rot_2", "rot_3")
COLUMNS = (*PLACE, *NORMAL, *COLOUR, *OPACITY, *SCALE, *ROTATION)
NEEDED = (*PLACE, *COLOUR, *OPACITY, *SCALE, *ROTATION)
ORDERS = {"binary_little_endian": "<", "binary_big_endian": ">"}

SMALLEST = float(np.finfo(np.float32).tiny)  # has a finite logarithm
MOST_OPAQUE = 1 - 2.0**-24  # the float64 nearest to 1 among those that float32 could still tell from it
HALF_TURN = np.sqrt(0.5)  # cosine and sine of half the quarter turn about x


def write_gaussians(path: Path, gaussians: Gaussians) -> None:
    """Write a PLY file; complete or absent.

    Raises:
        RunError: the file cannot be written.
    """
    opacity = np.clip(gaussians.opacities.astype(np.float64), SMALLEST, MOST_OPAQUE)
    x, y, z = gaussians.means.T
    columns = np.concatenate(
        [
            np.stack([x, -z, y], axis=1),
            np.zeros_like(gaussians.means),
            gaussians.sh_dc,
            np.log(opacity / (1 - opacity))[:, None],
            np.log(np.maximum(gaussians.scales.astype(np.float64), SMALLEST)),
            _turned(gaussians.rotations.astype(np.float64), HALF_TURN),
        ],
        axis=1,
    )
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(gaussians)}"]
    header += [*(f"property float {name}" for name in COLUMNS), "end_header", ""]
    with replacing(path) as part:
        part.write_bytes("\n".join(header).encode() + columns.astype("<f4").tobytes())


def read_gaussians(path: Path) -> Gaussians:
    """Read what `write_gaussians`, TRELLIS or another program in this convention has written.

    Of the colours only degree 0 is kept: those that change with the direction (f_rest_*) are not drawn here.

    Raises:
        AssetError: the file cannot be read or is not a PLY file of Gaussians.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise AssetError(f"Cannot read {path}: {error.strerror}.") from error
    rows = _rows(data, path)
    missing = [name for name in NEEDED if name not in (rows.dtype.names or ())]
    if missing:
        raise AssetError(f"{path} is not a PLY file of Gaussians: it lacks {', '.join(missing)}.")
    place, sh_dc, logit, log_scale, rotation = (
        structured_to_unstructured(rows[list(names)], np.float64) for names in (PLACE, COLOUR, OPACITY, SCALE, ROTATION)
    )
    norm = np.linalg.norm(rotation, axis=1, keepdims=True)
    # A logit may be infinite: opacity 1, as TRELLIS writes it.
    numbers = (place, sh_dc, log_scale, rotation)
    if np.isnan(logit).any() or not all(np.isfinite(n).all() for n in numbers) or not norm.all():
        raise AssetError(f"{path} has Gaussians with values that are not finite, or with a rotation of length 0.")
    x, y, z = place.T
    means, rotations = np.stack([x, z, -y], axis=1), _turned(rotation / norm, -HALF_TURN)
    opacities = 0.5 * (1 + np.tanh(0.5 * logit[:, 0]))
    fields = (means, np.exp(log_scale), rotations, opacities, sh_dc)
    return Gaussians(*(field.astype(np.float32) for field in fields))


def _turned(rotations: NDArray[np.float64], sine: float) -> NDArray[np.float64]:
    """Quaternions [G, 4] after a turn about x: the product (cos, sin, 0, 0) * q, cos = HALF_TURN."""
    w, x, y, z = rotations.T
    c, s = HALF_TURN, sine
    return np.stack([c * w - s * x, c * x + s * w, c * y - s * z, c * z + s * y], axis=1)


def _rows(data: bytes, path: Path) -> NDArray:
    """The vertices of a binary PLY file as a structured array. Raises AssetError."""
    end = data.find(b"end_header")
    newline = data.find(b"\n", end)
    if not data.startswith(b"ply") or end < 0 or newline < 0:
        raise AssetError(f"{path} is not a PLY file: its header is missing or has no end.")
    try:
        dtype, count = _vertex_type([line.split() for line in data[:end].decode("ascii").splitlines()])
    except (KeyError, ValueError, IndexError) as error:
        raise AssetError(
            f"{path} has a PLY header that is not understood ({error}) - vertices with scalar properties, first in a "
            "binary file, are allowed. Export it as a binary 3DGS PLY file."
        ) from error
    if len(data) - newline - 1 < count * dtype.itemsize:
        raise AssetError(f"{path} ends too early: {count} Gaussians are announced. Copy or make it again.")
    return np.frombuffer(data, dtype, count, newline + 1)


def _vertex_type(header: list[list[str]]) -> tuple[np.dtype, int]:
    """Type and number of the vertices. Raises KeyError, ValueError, IndexError on other than the allowed headers."""
    (order,) = [ORDERS[words[1]] for words in header if words[:1] == ["format"]]
    elements = [i for i, words in enumerate(header) if words[:1] == ["element"]]
    first, end = elements[0], [*elements[1:], len(header)][0]
    if header[first][1] != "vertex":
        raise ValueError(f"first element {header[first][1]}")
    properties = [words for words in header[first + 1 : end] if words[:1] == ["property"]]
    count = int(header[first][2])
    if count < 0:
        raise ValueError(f"{count} vertices")
    return np.dtype([(words[2], order + CODES[words[1]]) for words in properties]), count
