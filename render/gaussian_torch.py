"""Pictures of 3D Gaussians with gradients: to train a decoder, on a CPU on small images.

The projection is torch and differentiates itself. The tiles are drawn by the kernels of `gaussian_rasteriser`, with a
kernel of their own for the way back: the picture is that of `gaussian_rasteriser.render`, at a few times its cost.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor

from ..geometry.cameras import Camera
from ..geometry.gaussians import GaussianTensors
from .gaussian_gpu import render_cuda
from .gaussian_kernels import LEAST_TRANSMITTANCE, columns_of, falloff_at, reach_of, rows_of, tile_window
from .gaussian_rasteriser import MIP, Lens, Splatting, Tiles, bin_splats, composite


def render_tensors(
    gaussians: GaussianTensors, camera: Camera, size: int | tuple[int, int], *, mode: Splatting = MIP
) -> Tensor:
    """A picture without a background, with gradients to all fields of the Gaussians.

    What decides which splat a pixel sees (order, the faintest alpha, the least transmittance) has no gradient, nor has
    an alpha at its bound; as in 3D Gaussian splatting.

    Args:
        gaussians: On the CPU, float32 or float64; those on a GPU are drawn by gsplat.
        size: side of a square picture in pixels, or its height and width.
    Returns:
        [H, W, 4]: see `gaussian_rasteriser.render`.
    Raises:
        MissingError, UsageError: on a GPU, see `gaussian_gpu.render_cuda`.
    """
    if gaussians.means.is_cuda:
        return render_cuda(gaussians, camera, size, mode=mode)
    lens = Lens.of(camera, size)
    splats, depths = project_tensors(gaussians, lens, mode)
    tiles = bin_splats(_numpy(splats), _numpy(depths), lens)
    return _Composite.apply(splats, tiles, lens, mode)


def project_tensors(gaussians: GaussianTensors, lens: Lens, mode: Splatting) -> tuple[Tensor, Tensor]:
    """Splats [G', 9] of the Gaussians that are deep enough and their depths [G']; `gaussian_rasteriser.project`."""
    extrinsics = gaussians.means.new_tensor(lens.extrinsics)
    in_camera = gaussians.means @ extrinsics[:3, :3].T + extrinsics[:3, 3]
    # Those behind the camera go first: their projections could make gradients that are not finite.
    kept = torch.nonzero(in_camera[:, 2] > mode.near).squeeze(1)
    in_camera, depth = in_camera[kept], in_camera[kept, 2:]
    focal, centre = in_camera.new_tensor(lens.focal), in_camera.new_tensor(lens.centre)
    slopes = in_camera[:, :2] / depth
    low, high = in_camera.new_tensor(lens.slopes.T)
    axes = extrinsics[:3, :3] @ axes_of(gaussians.rotations[kept], gaussians.scales[kept])
    bounded = slopes.clamp(low, high)
    # [G', 2, 3]: images of the Gaussian's axes under the projection linearised at its mean.
    u, v = ((focal / depth)[..., None] * (axes[:, :2] - bounded[..., None] * axes[:, 2:])).unbind(1)
    conic, compensation = _blurred(u, v, mode.blur)
    opacities = gaussians.opacities[kept, None]
    opacities = opacities * compensation if mode.compensated else opacities
    return torch.cat([slopes * focal + centre, conic, opacities, gaussians.colours[kept]], dim=1), depth.squeeze(1)


def axes_of(rotations: Tensor, scales: Tensor) -> Tensor:
    """[G, 3, 3] the axes of Gaussians as columns, as long as their scales: A A^T is the covariance.

    Args:
        rotations: [G, 4] quaternions (w, x, y, z), normalised here.
        scales: [G, 3].
    """
    w, x, y, z = torch.nn.functional.normalize(rotations, dim=-1).unbind(-1)
    matrix = torch.stack(
        [
            *(1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
            *(2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
            *(2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
        ],
        dim=-1,
    )
    return matrix.unflatten(-1, (3, 3)) * scales[:, None, :]


def _blurred(u: Tensor, v: Tensor, blur: float) -> tuple[Tensor, Tensor]:
    """Inverse covariance [G, 3] (a, b, c) and compensation [G, 1] of splats with axes (u, v), [G, 3] each."""
    xx, xy, yy = (u * u).sum(1), (u * v).sum(1), (v * v).sum(1)
    # Square root of xx * yy - xy * xy by Lagrange's identity: no cancellation, and a gradient of 0 where it is 0.
    sharp = torch.linalg.vector_norm(torch.linalg.cross(u, v), dim=1)
    det = sharp.square() + blur * (xx + yy) + blur**2
    return torch.stack([yy + blur, -xy, xx + blur], dim=1) / det[:, None], (sharp / det.sqrt())[:, None]


def _numpy(tensor: Tensor) -> np.ndarray:
    return np.ascontiguousarray(tensor.detach().double().numpy())


class _Composite(torch.autograd.Function):
    """`gaussian_rasteriser.composite` with gradients to the splats."""

    @staticmethod
    def forward(ctx: Any, splats: Tensor, tiles: Tiles, lens: Lens, mode: Splatting) -> Tensor:
        image = composite(_numpy(splats), tiles, lens, mode)
        ctx.save_for_backward(splats)
        ctx.tiles, ctx.mode, ctx.image = tiles, mode, image
        return torch.from_numpy(image).to(splats.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        (splats,) = ctx.saved_tensors
        found, upstream = np.zeros(splats.shape), _numpy(gradient)
        totals = (ctx.image * upstream).sum(-1)
        tiles = ctx.tiles.starts, ctx.tiles.members
        _composite_backward(_numpy(splats), *tiles, ctx.mode.alpha_max, upstream, totals, found)
        return torch.from_numpy(found).to(splats.dtype), None, None, None


@njit(cache=True, error_model="numpy", nogil=True)
def _composite_backward(splats, starts, members, alpha_max, gradient, deeper, found):
    """Adds the gradient of sum(image * gradient) to `found` [G, 9]: the loop of the kernel forward, once more.

    With w = T alpha the weight of a splat, T what the nearer ones let through, and f = (colour, 1) . gradient,
    the sum is that of w f. A splat's alpha dims all deeper ones: d/d alpha = T f - (sum of deeper w f) / (1 - alpha).

    Args:
        deeper: [H, W] sums of w f over all splats of each pixel; overwritten.
    """
    through = np.ones(deeper.shape)
    for tile in range(len(starts) - 1):
        top, bottom, left, right = tile_window(tile, *deeper.shape)
        live = (bottom - top) * (right - left)
        for i in range(starts[tile], starts[tile + 1]):
            if live == 0:
                break
            splat, out = splats[members[i]], found[members[i]]
            reach = reach_of(splat)
            first_row, last_row = rows_of(splat, reach, top, bottom)
            for row in range(first_row, last_row + 1):
                dy = row + 0.5 - splat[1]
                first, last = columns_of(splat, reach, dy, left, right)
                for column in range(first, last + 1):
                    before = through[row, column]
                    if before == 0:
                        continue
                    dx = column + 0.5 - splat[0]
                    falloff = falloff_at(splat, dx, dy)
                    alpha = min(alpha_max, splat[5] * falloff)
                    after = before * (1 - alpha)
                    if after <= LEAST_TRANSMITTANCE:
                        through[row, column] = 0
                        live -= 1
                        continue
                    through[row, column] = after
                    f = _add_to_colour(splat, out, gradient[row, column], alpha * before)
                    deeper[row, column] -= alpha * before * f
                    if splat[5] * falloff < alpha_max:
                        _add_to_shape(splat, out, dx, dy, falloff, before * f - deeper[row, column] / (1 - alpha))


@njit(cache=True, error_model="numpy")
def _add_to_colour(splat, out, gradient, weight):
    """Gradients of a splat's colour in one pixel. Returns f."""
    f = gradient[3]
    for channel in range(3):
        out[6 + channel] += weight * gradient[channel]
        f += splat[6 + channel] * gradient[channel]
    return f


@njit(cache=True, error_model="numpy")
def _add_to_shape(splat, out, dx, dy, falloff, to_alpha):
    """Gradients of a splat's centre, inverse covariance and opacity in one pixel, from that of its alpha there."""
    to_power = -splat[5] * falloff * to_alpha
    out[0] -= to_power * (splat[2] * dx + splat[3] * dy)
    out[1] -= to_power * (splat[3] * dx + splat[4] * dy)
    out[2] += to_power * 0.5 * dx * dx
    out[3] += to_power * dx * dy
    out[4] += to_power * 0.5 * dy * dy
    out[5] += falloff * to_alpha
