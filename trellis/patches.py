"""A voxel grid with a block of cells per position as channels: [B, p^3, R/p, R/p, R/p] <-> [B, 1, R, R, R].

The official structure VAE has one channel at 64^3 (p = 1). A small one works on blocks, which makes its first
and last layers, the costly ones, p^3 times cheaper. p follows from the number of channels.
"""

from __future__ import annotations

from torch import Tensor


def block_side(channels: int) -> int:
    """p of p^3 channels. Raises ValueError when there is no such p."""
    side = round(channels ** (1 / 3))
    if side**3 != channels:
        raise ValueError(f"{channels} channels are not the cells of a cubic block (1, 8, 27, ...)")
    return side


def to_blocks(voxels: Tensor, channels: int) -> Tensor:
    """[B, 1, R, R, R] -> [B, p^3, R/p, R/p, R/p]."""
    p = block_side(channels)
    b, _, r, _, _ = voxels.shape
    n = r // p
    return voxels.reshape(b, n, p, n, p, n, p).permute(0, 2, 4, 6, 1, 3, 5).reshape(b, channels, n, n, n)


def from_blocks(blocks: Tensor) -> Tensor:
    """The inverse of `to_blocks`."""
    b, channels, n, _, _ = blocks.shape
    p = block_side(channels)
    return blocks.reshape(b, p, p, p, n, n, n).permute(0, 4, 1, 5, 2, 6, 3).reshape(b, 1, n * p, n * p, n * p)
