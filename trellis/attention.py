"""Multi-head attention with optional RMS-normalised queries and keys, for dense and sparse networks.

Attention itself is always `torch.nn.functional.scaled_dot_product_attention`; who differentiates in forward
mode selects its math kernel (`torch.nn.attention.sdpa_kernel`), the only one with a forward derivative.
Shapes: B batch, L queries, T context tokens, C channels, H heads, D = C / H.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from torch import Tensor, nn, ones
from torch.nn import functional as F

from .precision import widened

Attend: TypeAlias = Callable[[Tensor, Tensor, Tensor], Tensor]  # q, k, v [..., H, D] -> [..., H * D]

# The reference divides by max(|x|, 1e-12); beside any real norm both forms agree to rounding.
RMS_EPS = 1e-12


class HeadRMSNorm(nn.Module):
    """x / |x| * sqrt(D) * gamma, with one gamma per head. x: [..., H, D]."""

    def __init__(self, head_channels: int, num_heads: int):
        super().__init__()
        self.scale = head_channels**0.5
        self.gamma = nn.Parameter(ones(num_heads, head_channels))

    def forward(self, x: Tensor) -> Tensor:
        unit = F.normalize(widened(x), dim=-1, eps=RMS_EPS)
        return (unit * (self.gamma * self.scale)).to(x.dtype)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt(D)) v. q: [B, L, H, D]; k, v: [B, T, H, D]. Returns [B, L, H * D].

    Args:
        mask: broadcastable to [B, H, L, T], true where a query may see a key; None: everywhere.
    """
    out = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), mask)
    return out.transpose(1, 2).flatten(2)


class SelfAttention(nn.Module):
    """Tokens attend to each other. x: [..., C]. Keys of TRELLIS trellis/modules/attention/modules.py.

    `attend` says which tokens see each other: by default x is [B, L, C] and all L of a sample do.
    """

    def __init__(self, channels: int, num_heads: int, qk_rms_norm: bool):
        super().__init__()
        self.num_heads = num_heads
        self.to_qkv = nn.Linear(channels, 3 * channels)
        self.q_rms_norm, self.k_rms_norm = _qk_norms(channels, num_heads, qk_rms_norm)
        self.to_out = nn.Linear(channels, channels)

    def forward(self, x: Tensor, attend: Attend = attend) -> Tensor:
        q, k, v = self.to_qkv(x).unflatten(-1, (3, self.num_heads, -1)).unbind(-3)
        return self.to_out(attend(self.q_rms_norm(q), self.k_rms_norm(k), v))


class CrossAttention(nn.Module):
    """Tokens attend to a context. x: [..., C], context: [B, T, context_channels]."""

    def __init__(self, channels: int, context_channels: int, num_heads: int, qk_rms_norm: bool):
        super().__init__()
        self.num_heads = num_heads
        self.to_q = nn.Linear(channels, channels)
        self.to_kv = nn.Linear(context_channels, 2 * channels)
        self.q_rms_norm, self.k_rms_norm = _qk_norms(channels, num_heads, qk_rms_norm)
        self.to_out = nn.Linear(channels, channels)

    def forward(self, x: Tensor, context: Tensor, attend: Attend = attend) -> Tensor:
        q = self.to_q(x).unflatten(-1, (self.num_heads, -1))
        k, v = self.to_kv(context).unflatten(-1, (2, self.num_heads, -1)).unbind(-3)
        return self.to_out(attend(self.q_rms_norm(q), self.k_rms_norm(k), v))

    def to_one(self, context: Tensor) -> Tensor:
        """What all tokens get from a context of a single one, which has their whole attention. context: [B, 1, ...].

        Returns:
            [B, C].
        """
        _, v = self.to_kv(context[:, 0]).chunk(2, dim=-1)
        return self.to_out(v)


def _qk_norms(channels: int, num_heads: int, enabled: bool) -> tuple[nn.Module, nn.Module]:
    if not enabled:
        return nn.Identity(), nn.Identity()
    return HeadRMSNorm(channels // num_heads, num_heads), HeadRMSNorm(channels // num_heads, num_heads)
