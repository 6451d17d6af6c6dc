"""The transformer that encoder and decoders of the structured latent share.

Source: TRELLIS (arXiv:2412.01506, section 3.2), trellis/models/structured_latent_vae/base.py; state-dict keys are
the same. N voxels, C channels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

from torch import nn
from torch.nn import functional as F

from ..base.errors import UsageError, unknown_name
from .blocks import position_features
from .precision import half_torso, linear_dtype
from .sparse import SparseTensor
from .sparse_blocks import SparseTransformerBlock

ATTENTION_MODES = ("full", "swin")


class SlatTransformer(nn.Module):
    """Voxel features -> voxel features, without the output layer. Arguments as in the official configurations.

    Args:
        num_heads: Attention heads; None means model_channels / num_head_channels.
        attn_mode: "full": all voxels of a sample attend to each other; "swin": those of a window, and every second
            block shifts the windows by half their side.
        window_size: Cells a side of the windows of "swin".
        pe_mode: Only "ape" (absolute positions): "rope" does not run in the public implementation either.
        use_fp16: Store and compute the blocks in float16; norms, first and last layer in float32.
        use_checkpoint: Recompute each block in the backward pass instead of keeping its activations.

    Raises:
        UsageError: an argument that cannot be used, or a combination that does not divide.
    """

    def __init__(
        self,
        in_channels: int,
        model_channels: int,
        num_blocks: int,
        *,
        num_heads: int | None,
        num_head_channels: int,
        mlp_ratio: float,
        attn_mode: str,
        window_size: int,
        pe_mode: str,
        use_fp16: bool,
        use_checkpoint: bool,
        qk_rms_norm: bool,
    ):
        super().__init__()
        heads = num_heads or model_channels // num_head_channels
        _check(model_channels, heads, attn_mode, window_size, pe_mode)
        self.in_channels = in_channels
        self.input_layer = nn.Linear(in_channels, model_channels)
        self.blocks = nn.ModuleList(
            SparseTransformerBlock(
                model_channels,
                heads,
                mlp_ratio=mlp_ratio,
                window_size=window_size if attn_mode == "swin" else None,
                shift=window_size // 2 * (index % 2),
                use_checkpoint=use_checkpoint,
                qk_rms_norm=qk_rms_norm,
            )
            for index in range(num_blocks)
        )
        for part in self.modules():
            if isinstance(part, nn.Linear):
                nn.init.xavier_uniform_(part.weight)
                nn.init.zeros_(part.bias)
        if use_fp16:
            half_torso(self.blocks)

    def torso(self, x: SparseTensor) -> SparseTensor:
        """x: [N, in_channels]. Returns [N, model_channels], in the dtype of the blocks."""
        if x.feats.shape[1] != self.in_channels:
            raise UsageError(f"Voxels have {x.feats.shape[1]} features; this network takes {self.in_channels}.")
        positions = position_features(x.coords[:, 1:], self.input_layer.out_features)
        h = x.replace((self.input_layer(x.feats) + positions).to(linear_dtype(self.blocks)))
        for block in self.blocks:
            h = block(h)
        return h

    def normed_torso(self, x: SparseTensor) -> SparseTensor:
        """`torso` and a layer norm without weights, in the dtype of x."""
        h = self.torso(x)
        return h.replace(F.layer_norm(h.feats.to(x.feats.dtype), h.feats.shape[1:]))  # eps 1e-5, not that of the blocks


class SlatDecoder(SlatTransformer, ABC):
    """Latent [N, latent_channels] -> one feature vector per voxel. See `SlatTransformer` for the other arguments.

    Args:
        resolution: R, voxels along a side of the grid.
        representation_config: What the features stand for; each decoder has its own entries.
    """

    def __init__(
        self,
        resolution: int,
        model_channels: int,
        latent_channels: int,
        num_blocks: int,
        num_heads: int | None = None,
        num_head_channels: int = 64,
        mlp_ratio: float = 4,
        attn_mode: str = "swin",
        window_size: int = 8,
        pe_mode: str = "ape",
        use_fp16: bool = False,
        use_checkpoint: bool = False,
        qk_rms_norm: bool = False,
        representation_config: Mapping | None = None,
    ):
        super().__init__(
            latent_channels,
            model_channels,
            num_blocks,
            num_heads=num_heads,
            num_head_channels=num_head_channels,
            mlp_ratio=mlp_ratio,
            attn_mode=attn_mode,
            window_size=window_size,
            pe_mode=pe_mode,
            use_fp16=use_fp16,
            use_checkpoint=use_checkpoint,
            qk_rms_norm=qk_rms_norm,
        )
        self.resolution = resolution
        self._build(model_channels, representation_config or {}, use_fp16)

    @abstractmethod
    def _build(self, width: int, config: Mapping, use_fp16: bool) -> None:
        """Add what comes after the transformer. width: its channels."""


def zero_linear(in_channels: int, out_channels: int) -> nn.Linear:
    """A last layer that starts out saying zero."""
    layer = nn.Linear(in_channels, out_channels)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def _check(channels: int, heads: int, attn_mode: str, window_size: int, pe_mode: str) -> None:
    if pe_mode != "ape":
        raise UsageError(f"pe_mode '{pe_mode}' is not supported. Available: ape.")
    if attn_mode not in ATTENTION_MODES:
        raise unknown_name("attn_mode", attn_mode, ATTENTION_MODES)
    if window_size < 1:
        raise UsageError(f"window_size {window_size} is not a number of cells. Give 1 or more.")
    if heads < 1 or channels % heads:
        raise UsageError(f"model_channels {channels} cannot be split into {heads} heads. Set num_heads to a divisor.")
