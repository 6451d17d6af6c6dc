"""The picture towers of CLIP models, with the parameter names of open_clip (without the prefix `visual.`).

Shapes: B pictures, T = 1 + patches tokens, C width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from .vision_transformer import attention

PREFIX = "visual."


@dataclass(frozen=True)
class TowerShape:
    """What tells one tower from another.

    Attributes:
        width: C.
        layers: blocks.
        heads: of attention.
        hidden: width inside the MLP.
        embedding: width of the space that pictures and texts share.
        activation: inside the MLP.
        patch: side of a patch, in pixels.
        side: of a picture, in pixels.
    """

    width: int
    layers: int
    heads: int
    hidden: int
    embedding: int
    activation: Callable[[Tensor], Tensor]
    patch: int = 14
    side: int = 224


def quick_gelu(x: Tensor) -> Tensor:
    """The approximation of GELU that OpenAI trained its CLIP models with (openai/CLIP, clip/model.py)."""
    return x * torch.sigmoid(1.702 * x)


# open_clip's model configurations ViT-bigG-14 and ViT-L-14-quickgelu. The towers are 584 and 296 of the 974 and 446
# tensors of the two-tower files; the other 390 and 150 are the text tower and the temperature.
BIGG_14 = TowerShape(
    width=1664, layers=48, heads=16, hidden=8192, embedding=1280, activation=functional.gelu
)  # hidden: int(4.9231 * 1664)
OPENAI_L14 = TowerShape(width=1024, layers=24, heads=16, hidden=4096, embedding=768, activation=quick_gelu)


class ClipVision(nn.Module):
    """Normalised pictures [B, 3, side, side] -> embeddings [B, embedding], not of unit length."""

    def __init__(self, shape: TowerShape):
        super().__init__()
        width = shape.width
        self.class_embedding = nn.Parameter(torch.zeros(width))
        self.positional_embedding = nn.Parameter(torch.zeros(1 + (shape.side // shape.patch) ** 2, width))
        self.proj = nn.Parameter(torch.zeros(width, shape.embedding))
        self.conv1 = nn.Conv2d(3, width, shape.patch, stride=shape.patch, bias=False)
        self.ln_pre = nn.LayerNorm(width)
        self.transformer = Transformer(shape)
        self.ln_post = nn.LayerNorm(width)

    def forward(self, pictures: Tensor) -> Tensor:
        patches = self.conv1(pictures).flatten(2).transpose(1, 2)
        start = self.class_embedding.expand(len(pictures), 1, -1)
        x = self.ln_pre(torch.cat([start, patches], 1) + self.positional_embedding)
        return self.ln_post(self.transformer(x)[:, 0]) @ self.proj


class Transformer(nn.Module):
    """The blocks."""

    def __init__(self, shape: TowerShape):
        super().__init__()
        self.resblocks = nn.ModuleList(ResidualBlock(shape) for _ in range(shape.layers))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.resblocks:
            x = block(x)
        return x


class ResidualBlock(nn.Module):
    """Attention and MLP, each after a norm and added to the tokens."""

    def __init__(self, shape: TowerShape):
        super().__init__()
        self.ln_1 = nn.LayerNorm(shape.width)
        self.attn = PackedAttention(shape.width, shape.heads)
        self.ln_2 = nn.LayerNorm(shape.width)
        self.mlp = TowerMlp(shape)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class PackedAttention(nn.Module):
    """Softmax attention of all tokens to all, with the parameters of torch's nn.MultiheadAttention."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.zeros(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.out_proj(attention(functional.linear(x, self.in_proj_weight, self.in_proj_bias), self.heads))


class TowerMlp(nn.Module):
    """Two layers, the activation between."""

    def __init__(self, shape: TowerShape):
        super().__init__()
        self.activation = shape.activation
        self.c_fc = nn.Linear(shape.width, shape.hidden)
        self.c_proj = nn.Linear(shape.hidden, shape.width)

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(self.activation(self.c_fc(x)))
