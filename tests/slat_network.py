"""TRELLIS' structured-latent flow network on small grids: what the sparse fixtures are computed with. Slow and plain.

Convolutions run on dense grids, attention sample by sample. Keys are those of the public SLatFlowModel.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mdtbench.trellis.blocks import ModulatedCrossBlock, TimeEmbedder, position_features


class Grid:
    """Occupied voxels: coords [N, 4] (sample, x, y, z) on a grid of `size` a side."""

    def __init__(self, coords: Tensor, batch: int, size: int):
        self.coords, self.batch, self.size = coords.long(), batch, size

    def dense(self, feats: Tensor) -> Tensor:
        """[N, C] -> [B, C, R, R, R], zero where there is no voxel."""
        empty = feats.new_zeros(self.batch, self.size, self.size, self.size, feats.shape[1])
        return empty.index_put(tuple(self.coords.T), feats).permute(0, 4, 1, 2, 3)

    def rows(self, dense: Tensor) -> Tensor:
        return dense.permute(0, 2, 3, 4, 1)[tuple(self.coords.T)]

    def halved(self) -> tuple[Grid, Tensor]:
        """The grid of half the size, ordered by coordinates, and each voxel's row in it."""
        low = torch.cat([self.coords[:, :1], self.coords[:, 1:] // 2], 1)
        coords, row = torch.unique(low, dim=0, return_inverse=True)
        return Grid(coords, self.batch, self.size // 2), row


class Convolution(nn.Module):
    """Submanifold 3x3x3 convolution; the weight is stored [out, x, y, z, in]."""

    def __init__(self, channels: int, out: int):
        super().__init__()
        self.conv = nn.Module()
        self.conv.weight = nn.Parameter(torch.empty(out, 3, 3, 3, channels))
        self.conv.bias = nn.Parameter(torch.empty(out))

    def forward(self, feats: Tensor, grid: Grid) -> Tensor:
        weight = self.conv.weight.permute(0, 4, 1, 2, 3)
        return grid.rows(F.conv3d(grid.dense(feats), weight, self.conv.bias, padding=1))


class Residual(nn.Module):
    def __init__(self, channels: int, emb: int, out: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(channels, eps=1e-6)
        self.norm2 = nn.LayerNorm(out, eps=1e-6, elementwise_affine=False)
        self.conv1 = Convolution(channels, out)
        self.conv2 = Convolution(out, out)
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(emb, 2 * out))
        self.skip_connection = nn.Identity() if channels == out else nn.Linear(channels, out)

    def forward(self, feats: Tensor, grid: Grid, emb: Tensor) -> Tensor:
        scale, shift = self.emb_layers(emb)[grid.coords[:, 0]].chunk(2, 1)
        h = self.conv1(F.silu(self.norm1(feats)), grid)
        h = F.silu(self.norm2(h) * (1 + scale) + shift)
        return self.conv2(h, grid) + self.skip_connection(feats)


class SlatNetwork(nn.Module):
    """The fixtures' configuration: patch size 2, one stage of two residual blocks, skips, absolute positions."""

    def __init__(self, args: dict):
        super().__init__()
        width, (narrow,), self.size = args["model_channels"], args["io_block_channels"], args["resolution"]
        self.t_embedder = TimeEmbedder(width)
        self.input_layer = nn.Linear(args["in_channels"], narrow)
        self.input_blocks = nn.ModuleList([Residual(narrow, width, narrow), Residual(narrow, width, width)])
        self.blocks = nn.ModuleList(
            ModulatedCrossBlock(
                width,
                args["cond_channels"],
                args["num_heads"],
                mlp_ratio=args["mlp_ratio"],
                use_checkpoint=False,
                share_mod=False,
                qk_rms_norm=args["qk_rms_norm"],
                qk_rms_norm_cross=False,
            )
            for _ in range(args["num_blocks"])
        )
        self.out_blocks = nn.ModuleList([Residual(2 * width, width, narrow), Residual(2 * narrow, width, narrow)])
        self.out_layer = nn.Linear(narrow, args["out_channels"])

    def forward(self, x: Tensor, t: Tensor, cond: Tensor, coords: Tensor) -> Tensor:
        """x: [N, C], t: [B] on the scale of 1000, cond: [B, T, C], coords: [N, 4]."""
        grid = Grid(coords, len(t), self.size)
        low, row = grid.halved()
        emb = self.t_embedder(t)
        first = self.input_blocks[0](self.input_layer(x), grid, emb)
        counts = torch.bincount(row).to(x.dtype)[:, None]
        # Divided by one more than the number of voxels: so is the public implementation.
        pooled = first.new_zeros(len(low.coords), first.shape[1]).index_add(0, row, first) / (counts + 1)
        second = self.input_blocks[1](pooled, low, emb)
        h = second + position_features(low.coords[:, 1:], second.shape[1])
        h = torch.cat([self._attend(h[low.coords[:, 0] == i], emb[i], cond[i]) for i in range(len(t))])
        h = self.out_blocks[0](torch.cat([h, second], 1)[row], grid, emb)
        h = self.out_blocks[1](torch.cat([h, first], 1), grid, emb)
        return self.out_layer(F.layer_norm(h, h.shape[-1:]))

    def _attend(self, tokens: Tensor, emb: Tensor, cond: Tensor) -> Tensor:
        h = tokens[None]
        for block in self.blocks:
            h = block(h, emb[None], cond[None])
        return h[0]
