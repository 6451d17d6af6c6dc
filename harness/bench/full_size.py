"""Networks of TRELLIS-image-large by their arguments, smaller ones of the same kinds, structures to try them on.

For measurements: weights are random, shapes and the operations on them are the real ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch

from ...trellis.pipeline import SamplerParams
from ...trellis.sparse import Voxels

RADIUS = 0.4  # of the sphere of voxels, in sides of the grid
SAMPLER = SamplerParams(25, 5.0, (0.5, 1.0), 3.0)
CONDITION_TOKENS = 1374  # 37^2 patches of 518 px, a class token, 4 registers
_FLOW = {"in_channels": 8, "out_channels": 8, "cond_channels": 1024, "num_blocks": 24, "num_heads": 16}
_FLOW |= {"model_channels": 1024, "qk_rms_norm": True, "use_fp16": True}
STRUCTURE_FLOW = MappingProxyType({**_FLOW, "resolution": 16, "patch_size": 1})  # ss_flow_img_dit_L_16l8_fp16
SLAT_FLOW = MappingProxyType(  # slat_flow_img_dit_L_64l8p2_fp16
    {**_FLOW, "resolution": 64, "patch_size": 2, "num_io_res_blocks": 2, "io_block_channels": [128]}
)
_SMALL = {"model_channels": 256, "cond_channels": 256, "num_blocks": 2, "num_heads": 4, "use_fp16": False}
_DECODER = {"latent_channels": 8, "model_channels": 768, "num_heads": 12}
GAUSSIANS = {
    "lr": {"_xyz": 1.0, "_features_dc": 1.0, "_opacity": 1.0, "_scaling": 1.0, "_rotation": 0.1},
    "perturb_offset": True,
    "voxel_size": 1.5,
    "num_gaussians": 32,
    "2d_filter_kernel_size": 0.1,
    "3d_filter_kernel_size": 9e-4,
    "scaling_bias": 4e-3,
    "opacity_bias": 0.1,
    "scaling_activation": "softplus",
}


@dataclass(frozen=True)
class Sizes:
    """What a measurement is made at.

    Attributes:
        networks: class and arguments, by name.
        voxels, side: of a structure, and of its grid. tokens: of a condition.
    """

    networks: Mapping[str, tuple[str, Mapping[str, Any]]]
    voxels: int
    side: int
    tokens: int = CONDITION_TOKENS


def _networks(small: Mapping[str, Any], side: int, decoder_blocks: int, widths: list[int]) -> dict[str, Any]:
    structure, slat = STRUCTURE_FLOW | small, SLAT_FLOW | small | {"resolution": side}
    half = structure["use_fp16"]
    decoder = _DECODER | {"resolution": side, "num_blocks": decoder_blocks, "use_fp16": half}
    return {
        "structure flow": ("SparseStructureFlowModel", structure | {"resolution": side // 4}),
        "slat flow": ("SLatFlowModel", slat),
        "structure decoder": (
            "SparseStructureDecoder",
            {"out_channels": 1, "latent_channels": 8, "num_res_blocks": 2, "channels": widths, "use_fp16": half},
        ),
        "Gaussian decoder": ("SLatGaussianDecoder", decoder | {"representation_config": GAUSSIANS}),
        "mesh decoder": ("SLatMeshDecoder", decoder | {"representation_config": {"use_color": True}}),
    }


FULL = Sizes(_networks({}, 64, 12, [512, 128, 32]), 20_000, 64)  # an asset has about 20,000 voxels in TRELLIS
SMALL = Sizes(_networks(_SMALL, 16, 1, [32, 32, 32]), 100, 16, 84)


@dataclass(frozen=True)
class Shell:
    """Voxels on a sphere, as those of a decoded structure lie on its surface. side: cells along the grid's."""

    count: int
    side: int

    def voxels(self, device: str | torch.device = "cpu", samples: int = 1, spread: float = 0.0) -> Voxels:
        """The cells nearest to the sphere.

        Args:
            samples: of the batch; their counts rise from 1 - spread to 1 + spread times `count`.
        """
        centre = (torch.arange(self.side) + 0.5) / self.side - 0.5
        order = (torch.cartesian_prod(centre, centre, centre).norm(dim=1) - RADIUS).abs().argsort(stable=True)
        rows = []
        for i in range(samples):
            share = 1 + spread * (2 * i / max(1, samples - 1) - 1)
            cell = order[: int(self.count * share)].sort().values
            place = [torch.full_like(cell, i), cell // self.side**2, cell // self.side % self.side, cell % self.side]
            rows.append(torch.stack(place, 1))
        return Voxels.of(torch.cat(rows), samples).to(device)
