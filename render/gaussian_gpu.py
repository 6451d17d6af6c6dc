"""Pictures of 3D Gaussians on a GPU, by gsplat: the image model of `gaussian_rasteriser`, with gradients."""

from __future__ import annotations

from importlib import import_module

import torch
from torch import Tensor

from ..base.errors import MissingError, UsageError
from ..geometry.cameras import Camera
from ..geometry.gaussians import GaussianTensors
from .gaussian_rasteriser import MIP, Lens, Splatting

ALPHA_MAX = 0.999  # compiled into gsplat up to 1.5.3, which does not tell it; later ones do


def installed_alpha_max() -> float:
    """The greatest alpha of one splat in the gsplat that is installed."""
    try:
        return float(import_module("gsplat.cuda._constants").MAX_ALPHA)
    except (ImportError, AttributeError):
        return ALPHA_MAX


def render_cuda(
    gaussians: GaussianTensors, camera: Camera, size: int | tuple[int, int], *, mode: Splatting = MIP
) -> Tensor:
    """A picture without a background, [H, W, 4] on the GPU: see `gaussian_rasteriser.render`.

    Raises:
        MissingError: gsplat is not installed.
        UsageError: a bound of alpha that gsplat does not have.
    """
    if mode.alpha_max != (bound := installed_alpha_max()):
        raise UsageError(
            f"The installed gsplat cannot bound alpha at {mode.alpha_max} - it has {bound}. Draw these Gaussians on "
            "the CPU, or install gsplat 1.5.3, whose image model the CPU's is."
        )
    try:
        from gsplat import rasterization  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise MissingError(
            f"gsplat cannot be imported ({error}). Install it with `pip install mdtbench[gpu]`, or draw on the CPU."
        ) from error
    lens = Lens.of(camera, size)
    colours, alphas, _ = rasterization(
        means=gaussians.means,
        quats=gaussians.rotations,
        scales=gaussians.scales,
        opacities=gaussians.opacities,
        colors=gaussians.colours,
        viewmats=gaussians.means.new_tensor(lens.extrinsics)[None],
        Ks=gaussians.means.new_tensor(lens.matrix)[None],
        width=lens.width,
        height=lens.height,
        near_plane=mode.near,
        eps2d=mode.blur,
        rasterize_mode="antialiased" if mode.compensated else "classic",
        packed=False,
    )
    return torch.cat([colours[0], alphas[0]], dim=-1)
