"""3D Gaussians: what a decoder makes and every rasteriser takes.

The world is that of the meshes: z up, the cube [-0.5, 0.5]^3. Colours are sRGB values, as in the pictures of meshes.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

# The spherical harmonic of degree 0, 1 / (2 sqrt(pi)), in the digits that 3D Gaussian splatting uses.
SH_C0 = 0.28209479177387814
# Origin and extent of the box whose unit coordinates decoders speak in.
BOX_ORIGIN, BOX_EXTENT = -0.5, 1.0


@dataclass(frozen=True)
class Gaussians:
    """G Gaussians, activated: ready to be drawn or written.

    Attributes:
        means: [G, 3] float32 centres.
        scales: [G, 3] float32 standard deviations along the axes of the rotation, positive.
        rotations: [G, 4] float32 unit quaternions (w, x, y, z), from the Gaussian's axes to the world's.
        opacities: [G] float32 in [0, 1].
        sh_dc: [G, 3] float32 coefficients of the spherical harmonic of degree 0; see `colours`.
    """

    means: NDArray[np.float32]
    scales: NDArray[np.float32]
    rotations: NDArray[np.float32]
    opacities: NDArray[np.float32]
    sh_dc: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.means)

    @property
    def colours(self) -> NDArray[np.float32]:
        """[G, 3] sRGB; not below 0, as in 3D Gaussian splatting, but not bounded above."""
        return np.maximum(self.sh_dc * np.float32(SH_C0) + np.float32(0.5), 0)


@dataclass(frozen=True)
class GaussianTensors:
    """The same as torch tensors of one device and type, with gradients: see `Gaussians` for the fields."""

    means: Tensor
    scales: Tensor
    rotations: Tensor
    opacities: Tensor
    sh_dc: Tensor

    def __len__(self) -> int:
        return len(self.means)

    @property
    def colours(self) -> Tensor:
        """[G, 3] sRGB, not below 0; there the gradient is 0, as in 3D Gaussian splatting."""
        return (self.sh_dc * SH_C0 + 0.5).clamp(min=0)

    def detached(self) -> Gaussians:
        """Without gradients, as numpy arrays in main memory."""
        return Gaussians(*(getattr(self, field.name).detach().float().cpu().numpy() for field in fields(self)))

    def to(self, device: torch.device | str) -> GaussianTensors:
        """The same Gaussians on a device."""
        return GaussianTensors(*(getattr(self, field.name).to(device) for field in fields(self)))

    @classmethod
    def of(cls, gaussians: Gaussians, dtype: torch.dtype = torch.float32) -> GaussianTensors:
        """Copies, on the CPU."""
        return cls(*(torch.tensor(getattr(gaussians, field.name), dtype=dtype) for field in fields(gaussians)))


@dataclass(frozen=True)
class Exponential:
    """Scales are exp(raw)."""

    def forward(self, raw: Tensor) -> Tensor:
        return raw.exp()

    def inverse(self, scale: float) -> float:
        return float(np.log(scale))


@dataclass(frozen=True)
class Softplus:
    """Scales are log(1 + exp(raw))."""

    def forward(self, raw: Tensor) -> Tensor:
        return F.softplus(raw)

    def inverse(self, scale: float) -> float:
        return float(scale + np.log(-np.expm1(-scale)))


SCALINGS: dict[str, Exponential | Softplus] = {"exp": Exponential(), "softplus": Softplus()}


@dataclass(frozen=True)
class Activations:
    """From the outputs of a network to Gaussians; gaussian_model.py of microsoft/TRELLIS.

    The defaults are those of TRELLIS-image-large.

    Attributes:
        scaling: positive function of the raw scales; `SCALINGS` has those of TRELLIS' configurations by name.
        scaling_bias: scale where the raw scale is 0.
        opacity_bias: opacity where the raw opacity is 0.
        kernel_size: standard deviation of the smoothing filter in world space: lower bound of all scales
            (TRELLIS: 3d_filter_kernel_size).
    """

    scaling: Exponential | Softplus = SCALINGS["softplus"]
    scaling_bias: float = 4e-3
    opacity_bias: float = 0.1
    kernel_size: float = 9e-4


@dataclass(frozen=True)
class RawGaussians:
    """What a network says about G Gaussians, before `activated`.

    Attributes:
        positions: [G, 3] in the unit cube, (0, 0, 0) being the corner (-0.5, -0.5, -0.5) of the world's.
        scales: [G, 3], of any sign.
        rotations: [G, 4] quaternions (w, x, y, z), added to the identity and then normalised.
        opacities: [G] or [G, 1], of any sign.
        sh_dc: [G, 3] or [G, 1, 3].
    """

    positions: Tensor
    scales: Tensor
    rotations: Tensor
    opacities: Tensor
    sh_dc: Tensor


def activated(raw: RawGaussians, settings: Activations | None = None) -> GaussianTensors:
    """Gaussians of a network's outputs, with gradients to all of them.

    Args:
        settings: None: those of TRELLIS-image-large.
    """
    settings = settings or Activations()
    # Constants from float64; added to a tensor, they are rounded to its type once.
    scales = settings.scaling.forward(raw.scales + settings.scaling.inverse(settings.scaling_bias))
    opacity_offset = float(np.log(settings.opacity_bias / (1 - settings.opacity_bias)))
    identity = raw.rotations.new_tensor([1.0, 0.0, 0.0, 0.0])
    return GaussianTensors(
        means=raw.positions * BOX_EXTENT + BOX_ORIGIN,
        scales=(scales.square() + settings.kernel_size**2).sqrt(),
        rotations=F.normalize(raw.rotations + identity, dim=-1),
        opacities=torch.sigmoid(raw.opacities.reshape(-1) + opacity_offset),
        sh_dc=raw.sh_dc.reshape(-1, 3),
    )
