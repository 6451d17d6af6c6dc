"""Floating-point operations of one forward pass of TRELLIS' full-size networks, counted from their layers.

A multiply-add counts two. Matrix products, attention and convolutions are counted; norms, activations and
embeddings of positions (below 1 %) are not. L tokens, N voxels, T tokens of the condition, d channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

TIME_FEATURES = 256
KERNEL_PLACES = 27
CONDITION_TOKENS = 1374  # 37^2 patches of 518 px, a class token, 4 registers
LATENT_CHANNELS = 8


@dataclass(frozen=True)
class Flow:
    """A flow transformer of TRELLIS.

    Attributes:
        parameters: their number.
        io_channels: of the residual blocks on finer grids than the tokens', finest first; each halves the grid.
        io_blocks: such blocks per grid, before and after the transformer alike.
    """

    parameters: int
    channels: int = 1024
    condition_channels: int = 1024
    blocks: int = 24
    mlp_ratio: int = 4
    io_channels: tuple[int, ...] = ()
    io_blocks: int = 2

    def forward(self, tokens: int, voxels: tuple[int, ...] = (), condition_tokens: int = CONDITION_TOKENS) -> int:
        """Operations for one sample.

        Args:
            tokens: L, of the transformer.
            voxels: on each finer grid, finest first; as many as `io_channels`.
        """
        d, io = self.channels, self._io(tokens, voxels)
        block = block_products(tokens, condition_tokens, d, self.condition_channels, self.mlp_ratio)
        time = TIME_FEATURES * d + d * d
        first = LATENT_CHANNELS * (self.io_channels[0] if self.io_channels else d)
        ends = 2 * (voxels[0] if voxels else tokens) * first
        return 2 * (time + self.blocks * (block + 6 * d * d) + ends + io)

    def _io(self, tokens: int, voxels: tuple[int, ...]) -> int:
        """Products of the residual blocks; those after the transformer also read what their opposites returned."""
        widths, rows = pairwise([*self.io_channels, self.channels]), pairwise([*voxels, tokens])
        same, total = self.io_blocks - 1, 0
        for (width, wider), (fine, coarse) in zip(widths, rows, strict=True):
            total += same * self._residual(fine, width, width) + self._residual(coarse, width, wider)
            total += self._residual(fine, 2 * wider, width) + same * self._residual(fine, 2 * width, width)
        return total

    def _residual(self, rows: int, channels: int, out: int) -> int:
        convolutions = rows * KERNEL_PLACES * (channels * out + out * out)
        skip = 0 if channels == out else rows * channels * out
        return convolutions + skip + self.channels * 2 * out


def block_products(tokens: int, condition_tokens: int, channels: int, condition_channels: int, mlp_ratio: int) -> int:
    """Multiply-adds of a block for one sample.

    L (4 + 2 + 2 r) d^2 for the tokens' own layers, 2 T d c for the condition's keys and values, 2 L^2 d and 2 L T d
    for the two attentions.
    """
    own = tokens * (4 + 2 + 2 * mlp_ratio) * channels**2
    condition = 2 * condition_tokens * channels * condition_channels
    return own + condition + 2 * tokens * (tokens + condition_tokens) * channels


def encoder_forward(tokens: int = CONDITION_TOKENS, channels: int = 1024, blocks: int = 24) -> int:
    """Operations of the conditioning encoder, a ViT-L, for one picture."""
    return 2 * blocks * (tokens * 12 * channels**2 + 2 * tokens**2 * channels)


# configs/generation/ss_flow_img_dit_L_16l8_fp16.json and slat_flow_img_dit_L_64l8p2_fp16.json of microsoft/TRELLIS.
STRUCTURE_FLOW = Flow(parameters=555_543_560)
SLAT_FLOW = Flow(parameters=600_432_520, io_channels=(128,))
STRUCTURE_TOKENS = 16**3
