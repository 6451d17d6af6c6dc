"""3D Gaussians as PLY files: the convention of 3D Gaussian splatting, which the usual viewers open.

Opacities are stored as logits, scales as logarithms, rotations as (w, x, y, z), colours as coefficients of spherical
harmonics. As save_ply of microsoft/TRELLIS does, (x, y, z) is turned into (x, -z, y), and the rotations with it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from plyfile import PlyData, PlyElement

from ..base.errors import AssetError
from ..base.files import replacing
from ..geometry.gaussians import Gaussians
from .ply_files import columns, read_ply
from .sniff import SPLATS, Kind, head_of, ply_kind, refuse_foreign

PLACE, NORMAL, COLOUR, OPACITY = ("x", "y", "z"), ("nx", "ny", "nz"), ("f_dc_0", "f_dc_1", "f_dc_2"), ("opacity",)
SCALE, ROTATION = ("scale_0", "scale_1", "scale_2"), ("rot_0", "rot_1", "rot_2", "rot_3")
COLUMNS = (*PLACE, *NORMAL, *COLOUR, *OPACITY, *SCALE, *ROTATION)
NEEDED = (*PLACE, *COLOUR, *OPACITY, *SCALE, *ROTATION)

SMALLEST = float(np.finfo(np.float32).tiny)  # has a finite logarithm
MOST_OPAQUE = 1 - 2.0**-24  # the float64 nearest to 1 among those that float32 could still tell from it
SIGMOID_OF_1 = np.float32(1 / (1 + np.exp(-1.0)))
CUBE = 0.5  # half the side of the cube that Gaussians are drawn in
FEW = 0.01  # share of Gaussians that may stray without a word
HALF_TURN = np.sqrt(0.5)  # cosine and sine of half the quarter turn about x


def write_gaussians(path: Path, gaussians: Gaussians) -> None:
    """Write a PLY file; complete or absent.

    Raises:
        RunError: the file cannot be written.
    """
    opacity = np.clip(gaussians.opacities.astype(np.float64), SMALLEST, MOST_OPAQUE)
    x, y, z = gaussians.means.T
    values = np.concatenate(
        [
            np.stack([x, -z, y], axis=1),
            np.zeros_like(gaussians.means),
            gaussians.sh_dc,
            np.log(opacity / (1 - opacity))[:, None],
            np.log(np.maximum(gaussians.scales.astype(np.float64), SMALLEST)),
            _turned(gaussians.rotations.astype(np.float64), HALF_TURN),
        ],
        axis=1,
        dtype="<f4",
    )
    rows = values.view([(name, "<f4") for name in COLUMNS])[:, 0]
    with replacing(path) as part:
        PlyData([PlyElement.describe(rows, "vertex")], byte_order="<").write(part)


def read_gaussians(path: Path) -> Gaussians:
    """Read what `write_gaussians`, TRELLIS or another program in this convention has written.

    Of the colours only degree 0 is kept: those that change with the direction (f_rest_*) are not drawn here.

    Raises:
        AssetError: the file cannot be read or is not a PLY file of Gaussians.
    """
    try:
        head = head_of(path)
        if path.suffix.lower() in SPLATS:
            raise AssetError(f"files of the kind '{path.suffix}' are not read")
        refuse_foreign(head, ".ply")
        if ply_kind(head) is Kind.SPLAT:
            raise AssetError("its Gaussians are compressed, which is not read")
        values = columns(read_ply(path), "vertex", NEEDED).astype(np.float64)
    except AssetError as error:
        raise AssetError(f"{path.name}: not usable as 3D Gaussians: {error}. Export it as a 3DGS PLY file.") from error
    place, sh_dc, logit, log_scale, rotation = np.split(values, [3, 6, 7, 10], axis=1)
    norm = np.linalg.norm(rotation, axis=1, keepdims=True)
    # A logit may be infinite: opacity 1, as TRELLIS writes it.
    with np.errstate(over="ignore"):
        scale = np.exp(log_scale).astype(np.float32)
    numbers = (place, sh_dc, log_scale, scale, rotation)
    if np.isnan(logit).any() or not all(np.isfinite(n).all() for n in numbers) or not norm.all():
        raise AssetError(
            f"{path.name}: it has Gaussians with values that are not finite, or with a rotation of length 0"
        )
    x, y, z = place.T
    means, rotations = np.stack([x, z, -y], axis=1), _turned(rotation / norm, -HALF_TURN)
    opacities = 0.5 * (1 + np.tanh(0.5 * logit[:, 0]))
    fields = (means, scale, rotations, opacities, sh_dc)
    return Gaussians(*(field.astype(np.float32) for field in fields))


def misplaced(gaussians: Gaussians) -> tuple[str, ...]:
    """What cannot be meant as the files of this convention have it: a scene elsewhere, values that are activated."""
    notes = []
    outside = float((np.abs(gaussians.means) > CUBE).any(1).mean())
    if outside > FEW:
        notes.append(
            f"{100 * outside:.0f} % of its Gaussians are outside the unit cube, which is what is drawn: scale it"
        )
    if np.median(gaussians.scales.max(1)) > CUBE / 2:
        notes.append("half of its Gaussians are larger than a quarter of the unit cube: are its scales logarithms?")
    if len(gaussians) > 1 and ((gaussians.opacities >= 0.5) & (gaussians.opacities <= SIGMOID_OF_1)).all():
        notes.append("all its opacities are stored as numbers from 0 to 1, and are taken for logits")
    return tuple(notes)


def _turned(rotations: NDArray[np.float64], sine: float) -> NDArray[np.float64]:
    """Quaternions [G, 4] after a turn about x: the product (cos, sin, 0, 0) * q, cos = HALF_TURN."""
    w, x, y, z = rotations.T
    c, s = HALF_TURN, sine
    return np.stack([c * w - s * x, c * x + s * w, c * y - s * z, c * z + s * y], axis=1)
