"""The stage-1 network of TRELLIS: velocity of the sparse-structure latent, a dense diffusion transformer.

Source: TRELLIS (arXiv:2412.01506), trellis/models/sparse_structure_flow.py; state-dict keys are the same.
B batch, C channels, R resolution, p patch size, r = R / p, L = r^3 tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..base.errors import UsageError
from .blocks import (
    EndTimeEmbedder,
    ModulatedCrossBlock,
    TimeEmbedder,
    check_transformer,
    embedded_times,
    initialise_transformer,
    modulation,
    position_features,
)
from .precision import half_torso, linear_dtype


class StructureFlow(nn.Module):
    """A flow network of the structure stage: v = net(x, t, cond), as `SparseStructureFlowModel.forward` says.

    What the pipeline needs of it beside that are the two sizes. sCM takes its derivative in forward mode.

    Attributes:
        in_channels: C of the latents [B, C, R, R, R]. resolution: R.
        one_null_token: whether one token of zeros is the same condition to it as many.
    """

    one_null_token = False
    in_channels: int
    resolution: int


class SparseStructureFlowModel(StructureFlow):
    """v = net(x, t, cond). Arguments have the names and defaults of the official configurations.

    Args:
        num_heads: Attention heads; None means model_channels / num_head_channels.
        pe_mode: Only "ape" (absolute positions): "rope" does not run in the public implementation either.
        use_fp16: Store and compute the blocks in float16; embeddings, norms, first and last layer in float32.
        use_checkpoint: Recompute each block in the backward pass instead of keeping its activations.
        share_mod: One modulation for all blocks.

    Raises:
        UsageError: an argument that cannot be used, or a combination that does not divide.
    """

    one_null_token = True
    pos_emb: Tensor  # [L, model_channels]

    def __init__(
        self,
        resolution: int,
        in_channels: int,
        model_channels: int,
        cond_channels: int,
        out_channels: int,
        num_blocks: int,
        num_heads: int | None = None,
        num_head_channels: int = 64,
        mlp_ratio: float = 4,
        patch_size: int = 2,
        pe_mode: str = "ape",
        use_fp16: bool = False,
        use_checkpoint: bool = False,
        share_mod: bool = False,
        qk_rms_norm: bool = False,
        qk_rms_norm_cross: bool = False,
    ):
        super().__init__()
        heads = num_heads or model_channels // num_head_channels
        check_transformer(resolution, patch_size, model_channels, heads, pe_mode)
        self.resolution = resolution
        self.in_channels = in_channels
        self.model_channels = model_channels
        self.out_channels = out_channels
        self.cond_channels = cond_channels
        self.patch_size = patch_size

        self.t_embedder = TimeEmbedder(model_channels)
        self.end_time: EndTimeEmbedder | None = None
        self.adaLN_modulation = modulation(model_channels) if share_mod else nn.Identity()
        axis = torch.arange(resolution // patch_size)
        coords = torch.cartesian_prod(axis, axis, axis)  # [L, 3], the last axis runs fastest
        self.register_buffer("pos_emb", position_features(coords, model_channels))
        self.input_layer = nn.Linear(in_channels * patch_size**3, model_channels)
        self.blocks = nn.ModuleList(
            ModulatedCrossBlock(
                model_channels,
                cond_channels,
                heads,
                mlp_ratio=mlp_ratio,
                use_checkpoint=use_checkpoint,
                share_mod=share_mod,
                qk_rms_norm=qk_rms_norm,
                qk_rms_norm_cross=qk_rms_norm_cross,
            )
            for _ in range(num_blocks)
        )
        self.out_layer = nn.Linear(model_channels, out_channels * patch_size**3)
        initialise_transformer(self)
        if use_fp16:
            half_torso(self.blocks)

    def add_end_time(self) -> None:
        """Take a second time from here on; see `end_time`."""
        self.end_time = EndTimeEmbedder(self.model_channels)

    def forward(self, x: Tensor, t: Tensor, cond: Tensor, t_end: Tensor | None = None) -> Tensor:
        """Velocity at (x, t).

        Args:
            x: [B, in_channels, R, R, R].
            t: [B], time on the 0..1000 scale.
            cond: [B, T, cond_channels], T of any size.
            t_end: [B] where a jump from t ends, on the same scale; None: at 0. Without `add_end_time` of no effect.
        Returns:
            [B, out_channels, R, R, R].
        """
        expected = (self.in_channels, *[self.resolution] * 3)
        if x.shape[1:] != expected:
            raise UsageError(f"The structure latent has shape {list(x.shape)}; this network takes [B, {expected}].")
        dtype = linear_dtype(self.blocks)
        h = self.input_layer(to_patches(x, self.patch_size)) + self.pos_emb
        mod = self.adaLN_modulation(embedded_times(self.t_embedder, self.end_time, t, t_end)).to(dtype)
        h, cond = h.to(dtype), cond.to(dtype)
        for block in self.blocks:
            h = block(h, mod, cond)
        h = F.layer_norm(h.to(x.dtype), h.shape[-1:])  # eps 1e-5, unlike the norms in the blocks
        return from_patches(self.out_layer(h), self.patch_size, self.resolution)


def to_patches(x: Tensor, p: int) -> Tensor:
    """[B, C, R, R, R] -> tokens [B, r^3, C p^3]; within a token the channel runs slowest."""
    b, c, size = x.shape[:3]
    r = size // p
    grid = x.reshape(b, c, r, p, r, p, r, p).permute(0, 2, 4, 6, 1, 3, 5, 7)
    return grid.reshape(b, r**3, c * p**3)


def from_patches(tokens: Tensor, p: int, size: int) -> Tensor:
    """Inverse of `to_patches` for a grid of `size` voxels a side."""
    b, r = tokens.shape[0], size // p
    grid = tokens.reshape(b, r, r, r, -1, p, p, p).permute(0, 4, 1, 5, 2, 6, 3, 7)
    return grid.reshape(b, -1, size, size, size)
