"""Parts of the flow transformers: embeddings of time and position, norms, the modulated block.

Key names, constants and the order of operations follow TRELLIS trellis/modules/transformer and
trellis/models/sparse_structure_flow.py, so that its checkpoints load. B batch, L tokens, C channels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from ..base.errors import UsageError
from .attention import Attend, CrossAttention, SelfAttention, attend
from .precision import at_least_float32, widened

MAX_PERIOD = 10000.0  # of the Fourier features, for time and position alike
TIME_FEATURES = 256
BLOCK_NORM_EPS = 1e-6
TIME_MLP_STD = 0.02


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


class EndTimeEmbedder(TimeEmbedder):
    """t - t_end [B] on the 0..1000 scale -> [B, C], zero at first: what a network is told of where a jump ends."""

    def __init__(self, channels: int):
        super().__init__(channels)
        for parameter in self.mlp[-1].parameters():
            nn.init.zeros_(parameter)


def embedded_times(start: TimeEmbedder, end: EndTimeEmbedder | None, t: Tensor, t_end: Tensor | None) -> Tensor:
    """Of a jump from t to t_end (None: to 0). A network without an embedding of the end knows t alone. [B, C]."""
    embedding = start(t)
    return embedding if end is None else embedding + end(t if t_end is None else t - t_end)


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


@dataclass(frozen=True)
class Tokens:
    """How the tokens of a batch belong to its samples: all that differs between dense and sparse networks.

    Attributes:
        spread: one vector per sample [B, C], shaped to broadcast against the tokens.
        attend: attention of the tokens to each other.
        attend_context: attention of the tokens to the context of their sample.
    """

    spread: Callable[[Tensor], Tensor]
    attend: Attend
    attend_context: Attend


DENSE = Tokens(lambda vector: vector[:, None], attend, attend)  # tokens [B, L, C]


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

    def forward(self, x: Tensor, mod: Tensor, context: Tensor, tokens: Tokens = DENSE) -> Tensor:
        """x: [B, L, C], or [N, C] with sparse `tokens`; mod: [B, C] or [B, 6 C]; context: [B, T, context_channels]."""
        if self.use_checkpoint and torch.is_grad_enabled():
            return checkpoint(self._forward, x, mod, context, tokens, use_reentrant=False)
        return self._forward(x, mod, context, tokens)

    def _forward(self, x: Tensor, mod: Tensor, context: Tensor, tokens: Tokens) -> Tensor:
        parts = tokens.spread(self.adaLN_modulation(mod)).chunk(6, dim=-1)
        shift_attn, scale_attn, gate_attn, shift_mlp, scale_mlp, gate_mlp = parts
        h = self.self_attn(torch.addcmul(shift_attn, self.norm1(x), 1 + scale_attn), tokens.attend)
        x = torch.addcmul(x, h, gate_attn)
        x = x + self._read(x, context, tokens)
        h = self.mlp(torch.addcmul(shift_mlp, self.norm3(x), 1 + scale_mlp))
        return torch.addcmul(x, h, gate_mlp)

    def _read(self, x: Tensor, context: Tensor, tokens: Tokens) -> Tensor:
        if context.shape[1] == 1:
            return tokens.spread(self.cross_attn.to_one(context))
        return self.cross_attn(self.norm2(x), context, tokens.attend_context)


def check_transformer(resolution: int, patch_size: int, channels: int, heads: int, pe_mode: str) -> None:
    """Refuse arguments of a flow transformer that cannot be used together.

    Raises:
        UsageError: positions other than "ape", or sizes that do not divide.
    """
    if pe_mode != "ape":
        raise UsageError(f"pe_mode '{pe_mode}' is not supported. Available: ape.")
    if resolution % patch_size:
        raise UsageError(f"resolution {resolution} is not a multiple of patch_size {patch_size}. Change one of them.")
    if heads < 1 or channels % heads:
        raise UsageError(f"model_channels {channels} cannot be split into {heads} heads. Set num_heads to a divisor.")


def initialise_transformer(model: nn.Module) -> None:
    """Starting weights of DiT (arXiv:2212.09748), as in TRELLIS: the untrained network returns zero."""
    for part in model.modules():
        if isinstance(part, nn.Linear):
            nn.init.xavier_uniform_(part.weight)
            nn.init.zeros_(part.bias)
    for name, weight in model.named_parameters():
        if name.startswith("t_embedder") and name.endswith("weight"):
            nn.init.normal_(weight, std=TIME_MLP_STD)
        if "adaLN_modulation" in name or name.startswith("out_layer."):
            nn.init.zeros_(weight)
