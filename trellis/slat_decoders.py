"""Structured latent -> 3D Gaussians, meshes or radiance-field features.

Each network gives one feature vector per voxel (`forward`), a conversion makes the representation of every sample.
Source: TRELLIS (arXiv:2412.01506, section 3.2), trellis/models/structured_latent_vae; state-dict keys are the same.
N voxels, n Gaussians per voxel, R resolution.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..base.errors import UsageError, unknown_name
from ..geometry.cameras import hammersley
from ..geometry.gaussians import SCALINGS, Activations, Exponential, GaussianTensors, RawGaussians, Softplus, activated
from ..geometry.mesh import Mesh
from .flexicubes import DualMesh
from .mesh_extraction import coloured_mesh, extract_mesh, feature_channels
from .precision import half_torso
from .slat_base import SlatDecoder, zero_linear
from .sparse import SparseTensor
from .subdivision import NORM_GROUPS, SubdivideBlock

# Features of one Gaussian, in this order in the last layer: each of all n Gaussians before the next.
FIELDS = {"_xyz": 3, "_features_dc": 3, "_scaling": 3, "_rotation": 4, "_opacity": 1}


@dataclass(frozen=True)
class GaussianSettings:
    """representation_config of the Gaussian decoder.

    Attributes:
        count: Gaussians per voxel.
        reach: side of the cube around a voxel's centre that holds its Gaussians, in voxels (config: voxel_size).
        spread: whether the Gaussians of a voxel start out apart, on a Hammersley set.
        gains: factor on the raw values of each of FIELDS (config: lr, it acts as a learning rate).
        screen_kernel: variance of the smoothing filter in the image, px^2 (config: 2d_filter_kernel_size).
        activations: from raw values to Gaussians.
    """

    count: int
    reach: float
    spread: bool
    gains: Mapping[str, float]
    screen_kernel: float
    activations: Activations

    @classmethod
    def of(cls, config: Mapping) -> GaussianSettings:
        """Raises UsageError for an entry that is missing or cannot be used."""
        try:
            settings = cls(
                config["num_gaussians"],
                config["voxel_size"],
                config["perturb_offset"],
                {name: config["lr"][name] for name in FIELDS},
                config["2d_filter_kernel_size"],
                Activations(
                    _scaling(config["scaling_activation"]),
                    config["scaling_bias"],
                    config["opacity_bias"],
                    config["3d_filter_kernel_size"],
                ),
            )
        except KeyError as error:
            raise UsageError(
                f"representation_config has no {error}. Add it, as in the official configuration."
            ) from error
        if settings.count < 1 or not settings.reach > 1:
            raise UsageError(
                f"representation_config: num_gaussians {settings.count}, voxel_size {settings.reach}; "
                "allowed: 1 or more, and above 1."
            )
        return settings


def _scaling(name: str) -> Exponential | Softplus:
    if name not in SCALINGS:
        raise unknown_name("scaling_activation", name, SCALINGS)
    return SCALINGS[name]


class SLatGaussianDecoder(SlatDecoder):
    """Latent [N, latent_channels] -> raw Gaussians [N, 14 n]. See `SlatDecoder` for the arguments.

    Args:
        representation_config: see `GaussianSettings`.

    Raises:
        UsageError: an argument that cannot be used.
    """

    offset_perturbation: Tensor  # [n, 3]

    def _build(self, width: int, config: Mapping, use_fp16: bool) -> None:
        self.settings = GaussianSettings.of(config)
        self.out_layer = zero_linear(width, self.settings.count * sum(FIELDS.values()))
        # Official checkpoints hold the bits of float32 arithmetic; numbers are made on the CPU even for a meta device.
        points = torch.tensor(hammersley(self.settings.count, 3), dtype=torch.float32, device="cpu") * 2 - 1
        offsets = torch.atanh(points / self.settings.reach)
        self.register_buffer("offset_perturbation", offsets.to(self.out_layer.weight.device))

    def forward(self, x: SparseTensor) -> SparseTensor:
        h = self.normed_torso(x)
        return h.replace(self.out_layer(h.feats))

    def to_gaussians(self, decoded: SparseTensor) -> list[GaussianTensors]:
        """The Gaussians of each sample, with gradients. decoded: what `forward` returned, [N, 14 n]."""
        gaussians = activated(self._raw(decoded), self.settings.activations)
        sizes = [length * self.settings.count for length in decoded.voxels.lengths]
        fields = (gaussians.means, gaussians.scales, gaussians.rotations, gaussians.opacities, gaussians.sh_dc)
        return [GaussianTensors(*parts) for parts in zip(*(field.split(sizes) for field in fields), strict=True)]

    def _raw(self, decoded: SparseTensor) -> RawGaussians:
        """All [N n] Gaussians of the batch, voxel by voxel."""
        count, gains = self.settings.count, self.settings.gains
        parts = decoded.feats.split([count * size for size in FIELDS.values()], dim=1)
        values = {name: part.unflatten(1, (count, -1)) * gains[name] for name, part in zip(FIELDS, parts, strict=True)}
        centres = (decoded.coords[:, 1:] + 0.5) / self.resolution
        offsets = values["_xyz"] + self.offset_perturbation if self.settings.spread else values["_xyz"]
        positions = centres[:, None] + torch.tanh(offsets) / self.resolution * 0.5 * self.settings.reach
        others = (values[name].flatten(0, 1) for name in ("_scaling", "_rotation", "_opacity", "_features_dc"))
        return RawGaussians(positions.flatten(0, 1), *others)


class SLatMeshDecoder(SlatDecoder):
    """Latent [N, latent_channels] -> mesh features [64 N, 53 or 101] at 4 R. See `SlatDecoder` for the arguments.

    Args:
        representation_config: {"use_color": bool}, false if absent.

    Raises:
        UsageError: an argument that cannot be used; the group norms need model_channels to be a multiple of 256.
    """

    def _build(self, width: int, config: Mapping, use_fp16: bool) -> None:
        if width % (8 * NORM_GROUPS):
            raise UsageError(f"model_channels {width} of the mesh decoder is not a multiple of 256. Change it.")
        self.mesh_resolution = 4 * self.resolution
        self.upsample = nn.ModuleList([SubdivideBlock(width, width // 4), SubdivideBlock(width // 4, width // 8)])
        self.out_layer = zero_linear(width // 8, feature_channels(config.get("use_color", False)))
        if use_fp16:
            half_torso(self.upsample)

    def forward(self, x: SparseTensor) -> SparseTensor:
        h = self.torso(x)
        for block in self.upsample:
            h = block(h)
        return h.replace(self.out_layer(h.feats.to(x.feats.dtype)))

    def extract(self, decoded: SparseTensor) -> list[DualMesh]:
        """The mesh of each sample, with gradients, empty where there is no surface. decoded: from `forward`."""
        coords, lengths = decoded.coords[:, 1:], decoded.voxels.lengths
        samples = zip(coords.split(lengths), decoded.feats.split(lengths), strict=True)
        return [extract_mesh(voxels, feats, self.mesh_resolution) for voxels, feats in samples]

    def to_meshes(self, decoded: SparseTensor) -> list[Mesh]:
        """Coloured mesh of each sample.

        Raises:
            AssetError: a sample has no surface; `extract` and `coloured_mesh` tell which.
        """
        return [coloured_mesh(mesh) for mesh in self.extract(decoded)]


class SLatRadianceFieldDecoder(SlatDecoder):
    """Latent [N, latent_channels] -> features of a radiance field. See `SlatDecoder` for the arguments.

    The features of a voxel are, for `rank` factors: three vectors of length `dim` (to which 1 is added), one
    density, one colour. There is no renderer for them here.

    Args:
        representation_config: {"rank": int, "dim": int}.

    Raises:
        UsageError: an argument that cannot be used.
    """

    def _build(self, width: int, config: Mapping, use_fp16: bool) -> None:
        if not {"rank", "dim"} <= config.keys():
            raise UsageError(f"representation_config has only {sorted(config)}. Give rank and dim.")
        self.out_layer = zero_linear(width, config["rank"] * (3 * config["dim"] + 4))

    def forward(self, x: SparseTensor) -> SparseTensor:
        h = self.normed_torso(x)
        return h.replace(self.out_layer(h.feats))
