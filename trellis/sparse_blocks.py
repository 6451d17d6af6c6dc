"""Transformer block of the structured-latent encoder and decoders, and how voxels enter the shared blocks.

Keys follow TRELLIS trellis/modules/sparse/transformer. N voxels, C channels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .attention import Attend, SelfAttention
from .blocks import BLOCK_NORM_EPS, FeedForward, Tokens, WideLayerNorm
from .sparse import SparseTensor, Voxels
from .sparse_attention import to_context, within_samples, within_windows


def tokens_of(voxels: Voxels) -> Tokens:
    """Voxels as the tokens of `ModulatedCrossBlock`: rows [N, C] that attend within their sample."""
    sample = voxels.sample
    return Tokens(lambda vector: vector.index_select(0, sample), within_samples(voxels), to_context(voxels))


class SparseTransformerBlock(nn.Module):
    """Self-attention within samples or within windows, then the MLP; norms without weights.

    Args:
        window_size: Cells a side of the windows; None means that all voxels of a sample attend to each other.
        shift: Added to the coordinates before the division into windows (half a window in every second block).
    """

    def __init__(
        self,
        channels: int,
        num_heads: int,
        *,
        mlp_ratio: float = 4.0,
        window_size: int | None = None,
        shift: int = 0,
        use_checkpoint: bool = False,
        qk_rms_norm: bool = False,
    ):
        super().__init__()
        self.window_size = window_size
        self.shift = shift
        self.use_checkpoint = use_checkpoint
        self.norm1 = WideLayerNorm(channels, eps=BLOCK_NORM_EPS, elementwise_affine=False)
        self.norm2 = WideLayerNorm(channels, eps=BLOCK_NORM_EPS, elementwise_affine=False)
        self.attn = SelfAttention(channels, num_heads, qk_rms_norm)
        self.mlp = FeedForward(channels, mlp_ratio)

    def forward(self, x: SparseTensor) -> SparseTensor:
        attend = self._attend(x.voxels)
        if self.use_checkpoint and torch.is_grad_enabled():
            return x.replace(checkpoint(self._forward, x.feats, attend, use_reentrant=False))
        return x.replace(self._forward(x.feats, attend))

    def _attend(self, voxels: Voxels) -> Attend:
        if self.window_size is None:
            return within_samples(voxels)
        return within_windows(voxels, self.window_size, self.shift)

    def _forward(self, feats: Tensor, attend: Attend) -> Tensor:
        feats = feats + self.attn(self.norm1(feats), attend)
        return feats + self.mlp(self.norm2(feats))
