"""Parts of the flow transformers: embeddings of time and position, norms, the modulated block.

Key names, constants and the order of operations follow TRELLIS trellis/modules/transformer and
trellis/models/sparse_structure_flow.py, so that its checkpoints load. B batch, L tokens, C channels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from .attention import CrossAttention, SelfAttention
from .precision import at_least_float32, widened

MAX_PERIOD = 10000.0  # of the Fourier features, for time and position alike
TIME_FEATURES = 256
BLOCK_NORM_EPS = 1e-6


def time_features(t: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """cos and sin of t at geometric frequencies. t: [B] on the 0..1000 scale; returns [B, TIME_FEATURES].

    The frequencies are float32 whatever `dtype`: trained weights have seen their rounding.
    """
    half = TIME_FEATURES // 2
    steps = torch.arange(half, dtype=torch.float32, device=t.device)
    angles = t.to(dtype)[:, None] * torch.exp(-math.log(MAX_PERIOD) * steps / half)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def position_features(coords: Tensor, channels: int) -> Tensor:
    """sin and cos of each coordinate, zero-padded. coords: [L, 3]; returns [L, channels] float32."""
    n_freqs = channels // 3 // 2
    freqs = 1.0 / MAX_PERIOD ** (torch.arange(n_freqs, dtype=torch.float32, device=coords.device) / n_freqs)
    angles = coords.float()[..., None] * freqs  # [L, 3, n_freqs]
    features = torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(1)
    return F.pad(features, (0, channels - features.shape[1]))


class TimeEmbedder(nn.Module):
    """t [B] on the 0..1000 scale -> [B, C]."""

    def __init__(self, channels: int):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(TIME_FEATURES, channels), nn.SiLU(), nn.Linear(channels, channels))

    def forward(self, t: Tensor) -> Tensor:
        weight_dtype = next(self.mlp.parameters()).dtype
        return self.mlp(time_features(t, at_least_float32(weight_dtype)).to(weight_dtype))


class WideLayerNorm(nn.LayerNorm):
    """Layer norm that computes in at least float32 and returns the dtype of its input."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(widened(input)).to(input.dtype)


class FeedForward(nn.Module):
    def __init__(self, channels: int, ratio: float):
        super().__init__()
        hidden = int(channels * ratio)
        self.mlp = nn.Sequential(nn.Linear(channels, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, channels))

    def forward(self, x: Tensor) -> Tensor:
        return self.mlp(x)


def modulation(channels: int) -> nn.Sequential:
    """Embedding [B, C] -> shift, scale and gate of self-attention and of the MLP, [B, 6 C] in that order."""
    return nn.Sequential(nn.SiLU(), nn.Linear(channels, 6 * channels))


class ModulatedCrossBlock(nn.Module):
    """Self-attention, cross-attention, MLP; the first and the last are modulated and gated by the time.

    With `share_mod` the caller passes the six modulation vectors ([B, 6 C]), else the embedding ([B, C]).
    """

    def __init__(
        self,
        channels: int,
        context_channels: int,
        num_heads: int,
        *,
        mlp_ratio: float,
        use_checkpoint: bool,
        share_mod: bool,
        qk_rms_norm: bool,
        qk_rms_norm_cross: bool,
    ):
        super().__init__()
        self.use_checkpoint = use_checkpoint
        self.norm1 = WideLayerNorm(channels, eps=BLOCK_NORM_EPS, elementwise_affine=False)
        self.norm2 = WideLayerNorm(channels, eps=BLOCK_NORM_EPS)
        self.norm3 = WideLayerNorm(channels, eps=BLOCK_NORM_EPS, elementwise_affine=False)
        self.self_attn = SelfAttention(channels, num_heads, qk_rms_norm)
        self.cross_attn = CrossAttention(channels, context_channels, num_heads, qk_rms_norm_cross)
        self.mlp = FeedForward(channels, mlp_ratio)
        self.adaLN_modulation = nn.Identity() if share_mod else modulation(channels)

    def forward(self, x: Tensor, mod: Tensor, context: Tensor) -> Tensor:
        """x: [B, L, C]; mod: [B, C] or [B, 6 C]; context: [B, T, context_channels]. Returns [B, L, C]."""
        if self.use_checkpoint and torch.is_grad_enabled():
            return checkpoint(self._forward, x, mod, context, use_reentrant=False)
        return self._forward(x, mod, context)

    def _forward(self, x: Tensor, mod: Tensor, context: Tensor) -> Tensor:
        parts = self.adaLN_modulation(mod)[:, None].chunk(6, dim=-1)
        shift_attn, scale_attn, gate_attn, shift_mlp, scale_mlp, gate_mlp = parts
        h = self.self_attn(torch.addcmul(shift_attn, self.norm1(x), 1 + scale_attn))
        x = torch.addcmul(x, h, gate_attn)
        x = x + self.cross_attn(self.norm2(x), context)
        h = self.mlp(torch.addcmul(shift_mlp, self.norm3(x), 1 + scale_mlp))
        return torch.addcmul(x, h, gate_mlp)
