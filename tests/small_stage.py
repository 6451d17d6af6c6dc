"""Both stages small enough for tests: random networks, random structures, nothing trained.

Their networks see differences (no layer is left at zero), and the mesh decoder finds a surface around any cells.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from mdtbench.harness.protocol.values import Stage
from mdtbench.harness.train.data import DenseData, SparseData
from mdtbench.harness.train.task import StageTask
from mdtbench.render.appearance import N_FEATURES
from mdtbench.trellis import create
from mdtbench.trellis.pipeline import SamplerParams, StructurePipeline
from mdtbench.trellis.slat_pipeline import SlatPipeline

RESOLUTION, FINE = 8, 16  # cells along a side: of the latents, of the structures
CHANNELS, COND, IMAGE = 4, 16, 16
SAMPLER = SamplerParams(steps=3, cfg_strength=1.0, cfg_interval=(0.0, 1.0), rescale_t=1.0)
COMMON = {"resolution": RESOLUTION, "latent_channels": CHANNELS, "num_blocks": 1, "num_heads": 2}
GAUSSIANS = {
    "lr": {"_xyz": 1.0, "_features_dc": 1.0, "_opacity": 1.0, "_scaling": 1.0, "_rotation": 0.1},
    "perturb_offset": True,
    "voxel_size": 1.5,
    "num_gaussians": 2,
    "2d_filter_kernel_size": 0.1,
    "3d_filter_kernel_size": 9e-4,
    "scaling_bias": 8e-2,
    "opacity_bias": 0.9,
    "scaling_activation": "softplus",
}
FLOW = {
    "resolution": RESOLUTION,
    "in_channels": CHANNELS,
    "out_channels": CHANNELS,
    "model_channels": 32,
    "cond_channels": COND,
    "num_blocks": 1,
    "num_heads": 2,
    "patch_size": 2,
    "num_io_res_blocks": 1,
    "io_block_channels": [16],
    "qk_rms_norm": True,
}
NETWORKS = {
    "flow": ("SLatFlowModel", FLOW),
    "encoder": ("SLatEncoder", {**COMMON, "in_channels": N_FEATURES, "model_channels": 32}),
    "gaussian_decoder": ("SLatGaussianDecoder", {**COMMON, "model_channels": 32, "representation_config": GAUSSIANS}),
    "mesh_decoder": (
        "SLatMeshDecoder",
        {**COMMON, "model_channels": 256, "representation_config": {"use_color": True}},
    ),
    "conditioner": ("ImageConditioner", {"image_size": IMAGE, "channels": COND, "layers": 1}),
}
SIDE = 4  # of structure latents
STRUCTURE_FLOW = {
    "resolution": SIDE,
    "in_channels": CHANNELS,
    "out_channels": CHANNELS,
    "model_channels": 32,
    "cond_channels": COND,
    "num_blocks": 1,
    "num_heads": 2,
    "patch_size": 2,
    "qk_rms_norm": True,
}
STRUCTURE_VAE = {"latent_channels": CHANNELS, "num_res_blocks": 1, "channels": [8, 8], "num_res_blocks_middle": 1}
STRUCTURE_NETWORKS = {
    "flow": ("SparseStructureFlowModel", STRUCTURE_FLOW),
    "encoder": ("SparseStructureEncoder", {**STRUCTURE_VAE, "in_channels": 8}),
    "decoder": ("SparseStructureDecoder", {**STRUCTURE_VAE, "out_channels": 8}),
    "conditioner": NETWORKS["conditioner"],
}


def network(name: str, args: Mapping[str, object], seed: int, noise: float = 0.05) -> nn.Module:
    """With noise on all weights: layers that start at zero would hide what comes before them."""
    made, generator = create(name, args), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(noise * torch.randn(parameter.shape, generator=generator))
    return made.eval().requires_grad_(False)


def small_pipeline() -> SlatPipeline:
    made = {key: network(name, args, seed) for seed, (key, (name, args)) in enumerate(NETWORKS.items())}
    with torch.no_grad():  # signed distances below zero in all cells: the surface lies around them
        made["mesh_decoder"].out_layer.weight.mul_(0.02)
        made["mesh_decoder"].out_layer.bias[:8] = -0.5
    mean, std = torch.tensor([0.5, -1.0, 0.0, 2.0]), torch.tensor([2.0, 0.5, 1.0, 3.0])
    return SlatPipeline(**made, sampler=SAMPLER, mean=mean, std=std)  # type: ignore[arg-type]


def small_structure_pipeline() -> StructurePipeline:
    made = {key: network(name, args, seed) for seed, (key, (name, args)) in enumerate(STRUCTURE_NETWORKS.items())}
    return StructurePipeline(**made, sampler=SAMPLER)  # type: ignore[arg-type]


def small_task(stage: Stage, batch: int = 4) -> StageTask:
    """Random latents under random pictures, for the networks above."""
    if stage == "structure":
        return StageTask(stage, small_structure_pipeline(), shapes(), batch)
    return StageTask(stage, small_pipeline(), objects(), batch)


def structures(counts: Sequence[int], seed: int = 0) -> NDArray[np.bool_]:
    """Occupancy [N, 16, 16, 16] with so many coarse cells each; 0: empty."""
    random = np.random.Generator(np.random.PCG64(seed))
    grids = np.zeros((len(counts), *[FINE] * 3), bool)
    for grid, count in zip(grids, counts, strict=True):
        coarse = np.stack(np.unravel_index(random.permutation(RESOLUTION**3)[:count], [RESOLUTION] * 3), axis=1)
        fine = 2 * coarse + random.integers(0, 2, (count, 3))
        grid[tuple(fine.T)] = True
    return grids


def pictures(count: int, seed: int = 5) -> NDArray[np.uint8]:
    """[N, S, S, 3]."""
    return np.random.Generator(np.random.PCG64(seed)).integers(0, 256, (count, IMAGE, IMAGE, 3), np.uint8)


def objects(counts: Sequence[int] = (5, 9, 3, 7, 6), views: int = 2, seed: int = 0) -> SparseData:
    """Random latents on random cells with random pictures."""
    coords = [np.argwhere(grid)[:, :3] // 2 for grid in structures(counts, seed)]
    cells = np.concatenate(coords).astype(np.int32)
    latents = torch.randn(len(cells), CHANNELS, generator=torch.Generator().manual_seed(seed))
    images = np.stack([pictures(views, seed + i) for i in range(len(counts))])
    return SparseData(np.array(counts), cells, latents, images)


def shapes(count: int = 5, views: int = 2, seed: int = 0) -> DenseData:
    """Random latents of structures with random pictures."""
    latents = torch.randn(count, CHANNELS, SIDE, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))
    images = np.stack([pictures(views, seed + i) for i in range(count)])
    return DenseData(latents, images)
