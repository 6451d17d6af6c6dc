"""The stage-2 network of TRELLIS: velocity of the structured latent, a sparse diffusion transformer.

Source: TRELLIS (arXiv:2412.01506), trellis/models/structured_latent_flow.py; state-dict keys are the same.
N voxels, B samples, C channels; p patch size: residual blocks halve the resolution log2(p) times before the
transformer and double it as often after it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, cat, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from ..base.errors import UsageError
from .blocks import (
    BLOCK_NORM_EPS,
    EndTimeEmbedder,
    ModulatedCrossBlock,
    TimeEmbedder,
    WideLayerNorm,
    check_transformer,
    embedded_times,
    initialise_transformer,
    modulation,
    position_features,
)
from .precision import half_torso, linear_dtype
from .sparse import SparseTensor, Voxels, downsample, upsample
from .sparse_blocks import tokens_of
from .sparse_convolution import SparseConv3d, products_come_first


class SparseResBlock3d(nn.Module):
    """Residual block of two convolutions, modulated by the time.

    Args:
        use_checkpoint: Recompute it in the backward pass instead of keeping its activations.
    """

    def __init__(self, channels: int, emb_channels: int, out_channels: int, *, use_checkpoint: bool = False):
        super().__init__()
        self.use_checkpoint = use_checkpoint
        self.norm1 = WideLayerNorm(channels, eps=BLOCK_NORM_EPS)
        self.norm2 = WideLayerNorm(out_channels, eps=BLOCK_NORM_EPS, elementwise_affine=False)
        self.conv1 = SparseConv3d(channels, out_channels, 3)
        self.conv2 = SparseConv3d(out_channels, out_channels, 3)
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(emb_channels, 2 * out_channels))
        self.skip_connection = nn.Identity() if channels == out_channels else nn.Linear(channels, out_channels)
        nn.init.zeros_(self.conv2.conv.weight)  # an untrained block adds nothing to its input
        nn.init.zeros_(self.conv2.conv.bias)

    def forward(self, x: SparseTensor, emb: Tensor, fine: Voxels | None = None) -> SparseTensor:
        """emb: [B, emb_channels]. fine: of twice the resolution, where x is to be upsampled to it; None: x stays."""
        if self.use_checkpoint and torch.is_grad_enabled():
            return checkpoint(self._forward, x, emb, fine, use_reentrant=False)
        return self._forward(x, emb, fine)

    def _forward(self, x: SparseTensor, emb: Tensor, fine: Voxels | None) -> SparseTensor:
        if fine is not None and not products_come_first(x.feats):
            x, fine = upsample(x, fine), None
        voxels = x.voxels if fine is None else fine
        scale, shift = self.emb_layers(emb).index_select(0, voxels.sample).chunk(2, dim=1)
        h = x.replace(F.silu(self.norm1(x.feats)))
        h = self.conv1(h) if fine is None else self.conv1.on_finer(h, fine)
        h = h.replace(F.silu(shift.addcmul(self.norm2(h.feats), 1 + scale)))
        skipped = x.replace(self.skip_connection(x.feats))
        skipped = skipped if fine is None else upsample(skipped, fine)
        return h.replace(self.conv2(h).feats + skipped.feats)


class SLatFlowModel(nn.Module):
    """v = net(x, t, cond). Arguments have the names and defaults of the official configurations.

    Args:
        num_heads: Attention heads; None means model_channels / num_head_channels.
        num_io_res_blocks: Residual blocks per resolution, before and after the transformer alike.
        io_block_channels: Their channels, one number per halving of the resolution; None: no such blocks,
            and patch_size is without effect.
        pe_mode: Only "ape" (absolute positions): "rope" does not run in the public implementation either.
        use_fp16: Store and compute the blocks in float16; embeddings, norms, first and last layer in float32.
        use_checkpoint: Recompute each block, residual ones too, in the backward pass instead of keeping its
            activations.
        use_skip_connection: Blocks after the transformer also read what the block opposite has returned.
        share_mod: One modulation for all blocks; needs io_block_channels None.

    Raises:
        UsageError: an argument that cannot be used, or a combination that does not divide.
    """

    one_null_token = True

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
        num_io_res_blocks: int = 2,
        io_block_channels: Sequence[int] | None = None,
        pe_mode: str = "ape",
        use_fp16: bool = False,
        use_checkpoint: bool = False,
        use_skip_connection: bool = True,
        share_mod: bool = False,
        qk_rms_norm: bool = False,
        qk_rms_norm_cross: bool = False,
    ):
        super().__init__()
        heads = num_heads or model_channels // num_head_channels
        check_transformer(resolution, patch_size, model_channels, heads, pe_mode)
        widths = [*(io_block_channels or ()), model_channels]
        _check_io(patch_size, len(widths) - 1, share_mod)
        self.resolution = resolution
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.model_channels = model_channels
        self.cond_channels = cond_channels
        self.patch_size = patch_size
        self.num_io_res_blocks = num_io_res_blocks
        self.use_skip_connection = use_skip_connection

        self.t_embedder = TimeEmbedder(model_channels)
        self.end_time: EndTimeEmbedder | None = None
        self.adaLN_modulation = modulation(model_channels) if share_mod else nn.Identity()
        self.input_layer = nn.Linear(in_channels, widths[0])
        self.input_blocks = nn.ModuleList(
            SparseResBlock3d(width, model_channels, out, use_checkpoint=use_checkpoint)
            for width, out in _inward(widths, num_io_res_blocks)
        )
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
        read = 2 if use_skip_connection else 1
        self.out_blocks = nn.ModuleList(
            SparseResBlock3d(read * out, model_channels, width, use_checkpoint=use_checkpoint)
            for width, out in reversed(_inward(widths, num_io_res_blocks))
        )
        self.out_layer = nn.Linear(widths[0], out_channels)
        initialise_transformer(self)
        if use_fp16:
            for torso in (self.input_blocks, self.blocks, self.out_blocks):
                half_torso(torso)

    def add_end_time(self) -> None:
        """Take a second time from here on; see `end_time`."""
        self.end_time = EndTimeEmbedder(self.model_channels)

    def forward(self, x: SparseTensor, t: Tensor, cond: Tensor, t_end: Tensor | None = None) -> SparseTensor:
        """Velocity at (x, t).

        Args:
            x: in_channels features on every voxel.
            t: [B], time on the 0..1000 scale.
            cond: [B, T, cond_channels], T of any size.
            t_end: [B] where a jump from t ends, on the same scale; None: at 0. Without `add_end_time` of no effect.
        Returns:
            out_channels features on the voxels of `x`.
        """
        if x.feats.shape[1] != self.in_channels:
            raise UsageError(f"The latent has {x.feats.shape[1]} channels; this network takes {self.in_channels}.")
        dtype = linear_dtype(self.blocks)
        emb = self.adaLN_modulation(embedded_times(self.t_embedder, self.end_time, t, t_end)).to(dtype)
        h = x.replace(self.input_layer(x.feats).to(dtype))
        opposite: list[tuple[Voxels, Tensor]] = []  # of each input block: the voxels it was given, what it returned
        for i, block in enumerate(self.input_blocks):
            given = h.voxels
            h = block(downsample(h) if self._halves(i) else h, emb)
            opposite.append((given, h.feats))
        h = h.replace(self._transform(h, emb, cond.to(dtype)))
        for block in self.out_blocks:
            fine, skip = opposite.pop()
            h = h.replace(cat([h.feats, skip], dim=1)) if self.use_skip_connection else h
            h = block(h, emb, fine if fine is not h.voxels else None)
        feats = h.feats.to(x.feats.dtype)
        return x.replace(self.out_layer(F.layer_norm(feats, feats.shape[-1:])))  # eps 1e-5, unlike the other norms

    def _halves(self, block: int) -> bool:
        """Whether an input block is the last one of its resolution."""
        return (block + 1) % self.num_io_res_blocks == 0

    def _transform(self, h: SparseTensor, emb: Tensor, cond: Tensor) -> Tensor:
        feats = h.feats + position_features(h.coords[:, 1:], h.feats.shape[1]).to(h.feats.dtype)
        tokens = tokens_of(h.voxels)
        for block in self.blocks:
            feats = block(feats, emb, cond, tokens)
        return feats


def _inward(widths: Sequence[int], per_stage: int) -> list[tuple[int, int]]:
    """Channels read and returned by each input block; only the last block of a stage changes their number."""
    blocks = []
    for width, following in pairwise(widths):
        blocks += [(width, width)] * (per_stage - 1) + [(width, following)]
    return blocks


def _check_io(patch_size: int, stages: int, share_mod: bool) -> None:
    if not stages:
        return
    if 2**stages != patch_size:
        raise UsageError(
            f"io_block_channels has {stages} numbers and patch_size is {patch_size}. Give one number per halving."
        )
    if share_mod:
        raise UsageError("share_mod cannot be combined with io_block_channels (one width for all). Choose one of them.")
