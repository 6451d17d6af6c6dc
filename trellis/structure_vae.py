"""Occupancy grid <-> structure latent: the 3-D convolutional VAE of TRELLIS stage 1.

Source: TRELLIS (arXiv:2412.01506, section 3.3), trellis/models/sparse_structure_vae.py; state-dict keys are
the same. B batch, C channels, R latent resolution, S = R * 2^(len(channels) - 1) grid resolution.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..base.errors import UsageError, unknown_name
from .precision import half_torso, linear_dtype, widened

NORM_GROUPS = 32


class ChannelLayerNorm(nn.LayerNorm):
    """Layer norm over the channels of [B, C, ...]; the result is channels-last, as convolutions like it."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(widened(input).movedim(1, -1)).movedim(-1, 1).to(input.dtype)


class WideGroupNorm(nn.GroupNorm):
    """Group norm that computes in at least float32."""

    def __init__(self, channels: int):
        super().__init__(NORM_GROUPS, channels)

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(widened(input)).to(input.dtype)


NORMS: dict[str, Callable[[int], nn.Module]] = {"layer": ChannelLayerNorm, "group": WideGroupNorm}


class ResBlock3d(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))))), layer norm whatever the norm_type of the network."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm1 = ChannelLayerNorm(channels)
        self.norm2 = ChannelLayerNorm(channels)
        self.conv1 = nn.Conv3d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv3d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)  # the block starts as the identity
        nn.init.zeros_(_bias(self.conv2))

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        return x + self.conv2(F.silu(self.norm2(h)))


class Downsample3d(nn.Module):
    """Half the resolution: a 2^3 convolution with stride 2."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.conv = nn.Conv3d(in_channels, out_channels, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Upsample3d(nn.Module):
    """Twice the resolution: a convolution to eight times the channels, then a pixel shuffle."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.conv = nn.Conv3d(in_channels, 8 * out_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return pixel_shuffle_3d(self.conv(x))


def pixel_shuffle_3d(x: Tensor) -> Tensor:
    """[B, 8 C, X, Y, Z] -> [B, C, 2 X, 2 Y, 2 Z]; the 8 channels of an output are its (x, y, z) offsets."""
    b, c, nx, ny, nz = x.shape
    parts = x.reshape(b, c // 8, 2, 2, 2, nx, ny, nz).permute(0, 1, 5, 2, 6, 3, 7, 4)
    return parts.reshape(b, c // 8, 2 * nx, 2 * ny, 2 * nz)


class SparseStructureEncoder(nn.Module):
    """Occupancy [B, in_channels, S, S, S] -> latent [B, latent_channels, R, R, R].

    Args:
        channels: Of each stage, fine to coarse; every stage but the last halves the resolution.
        norm_type: "layer" or "group", of the output layer only.
        use_fp16: Store and compute the blocks in float16.

    Raises:
        UsageError: an unknown norm_type, or no channels.
    """

    def __init__(
        self,
        in_channels: int,
        latent_channels: int,
        num_res_blocks: int,
        channels: Sequence[int],
        num_res_blocks_middle: int = 2,
        norm_type: str = "layer",
        use_fp16: bool = False,
    ):
        super().__init__()
        _check(channels, norm_type)
        self.latent_channels = latent_channels
        self.input_layer = nn.Conv3d(in_channels, channels[0], 3, padding=1)
        self.blocks = _stages(channels, num_res_blocks, Downsample3d)
        self.middle_block = _res_blocks(channels[-1], num_res_blocks_middle)
        self.out_layer = _out_layer(norm_type, channels[-1], 2 * latent_channels)
        if use_fp16:
            half_torso(self.blocks)
            half_torso(self.middle_block)

    def forward(
        self,
        x: Tensor,
        sample_posterior: bool = False,
        return_raw: bool = False,
        *,
        generator: torch.Generator | None = None,
        noise: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, Tensor, Tensor]:
        """Encode occupancy grids.

        Args:
            x: [B, in_channels, S, S, S], 1 where occupied.
            sample_posterior: Draw z from the posterior instead of taking its mean.
            return_raw: Return (z, mean, logvar) instead of z.
            generator: Source of the posterior noise.
            noise: The posterior noise itself, [B, latent_channels, R, R, R]; takes the place of `generator`.
        Raises:
            UsageError: sample_posterior with neither a generator nor noise.
        """
        h = self.input_layer(x).to(linear_dtype(self.blocks))
        for block in self.blocks:
            h = block(h)
        h = self.out_layer(self.middle_block(h).to(x.dtype))
        mean, logvar = h.chunk(2, dim=1)
        z = mean
        if sample_posterior:
            z = mean + torch.exp(0.5 * logvar) * posterior_noise(mean, generator, noise)
        return (z, mean, logvar) if return_raw else z


class SparseStructureDecoder(nn.Module):
    """Latent [B, latent_channels, R, R, R] -> logits [B, out_channels, S, S, S], occupied where > 0.

    Args:
        channels: Of each stage, coarse to fine; every stage but the last doubles the resolution.
        norm_type: "layer" or "group", of the output layer only.
        use_fp16: Store and compute the blocks in float16.

    Raises:
        UsageError: an unknown norm_type, or no channels.
    """

    def __init__(
        self,
        out_channels: int,
        latent_channels: int,
        num_res_blocks: int,
        channels: Sequence[int],
        num_res_blocks_middle: int = 2,
        norm_type: str = "layer",
        use_fp16: bool = False,
    ):
        super().__init__()
        _check(channels, norm_type)
        self.latent_channels = latent_channels
        self.input_layer = nn.Conv3d(latent_channels, channels[0], 3, padding=1)
        self.middle_block = _res_blocks(channels[0], num_res_blocks_middle)
        self.blocks = _stages(channels, num_res_blocks, Upsample3d)
        self.out_layer = _out_layer(norm_type, channels[-1], out_channels)
        if use_fp16:
            half_torso(self.blocks)
            half_torso(self.middle_block)

    def forward(self, x: Tensor) -> Tensor:
        h = self.middle_block(self.input_layer(x).to(linear_dtype(self.blocks)))
        for block in self.blocks:
            h = block(h)
        return self.out_layer(h.to(x.dtype))


def _stages(channels: Sequence[int], num_res_blocks: int, resample: Callable[[int, int], nn.Module]) -> nn.ModuleList:
    parts = nn.ModuleList()
    for index, width in enumerate(channels):
        parts.extend(ResBlock3d(width) for _ in range(num_res_blocks))
        if index + 1 < len(channels):
            parts.append(resample(width, channels[index + 1]))
    return parts


def _res_blocks(channels: int, count: int) -> nn.Sequential:
    return nn.Sequential(*[ResBlock3d(channels) for _ in range(count)])


def _out_layer(norm_type: str, channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(NORMS[norm_type](channels), nn.SiLU(), nn.Conv3d(channels, out_channels, 3, padding=1))


def posterior_noise(mean: Tensor, generator: torch.Generator | None, noise: Tensor | None) -> Tensor:
    if noise is not None:
        return noise
    if generator is None:
        raise UsageError("sample_posterior needs randomness (got neither generator nor noise). Pass one of them.")
    return torch.randn(mean.shape, generator=generator, device=generator.device, dtype=mean.dtype).to(mean.device)


def _bias(conv: nn.Conv3d) -> Tensor:
    return dict(conv.named_parameters())["bias"]


def _check(channels: Sequence[int], norm_type: str) -> None:
    if not channels:
        raise UsageError("channels is empty. Give the channels of at least one stage.")
    if norm_type not in NORMS:
        raise unknown_name("norm_type", norm_type, NORMS)
