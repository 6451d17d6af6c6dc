"""Vision transformers with the parameter names of facebookresearch/dinov2 and of timm's plain ViT.

Shapes: B pictures, T tokens (class, registers, patches row by row), C width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from ...base.errors import UsageError
from .resize import imagenet_normalised

NORM_EPS = 1e-6


@dataclass(frozen=True)
class VisionShape:
    """What tells one vision transformer from another.

    Attributes:
        width: C.
        depth: blocks.
        heads: of attention.
        patch: side of a patch, in pixels.
        grid: patches along a side of the picture that the position embedding is stored for.
        registers: tokens between the class token and the patches; they get no position.
        layer_scale: whether each branch is multiplied by a learnt vector.
        mask_token: whether the weights hold DINOv2's token for masked patches, which features never use.
        offset: added to the new grid before it is divided by the old one, where positions are interpolated.
        antialias: whether that interpolation is antialiased.
    """

    width: int
    depth: int
    heads: int
    patch: int
    grid: int
    registers: int = 0
    layer_scale: bool = False
    mask_token: bool = False
    offset: float = 0.0
    antialias: bool = False


# Hub entry points dinov2_vitl14 and dinov2_vitl14_reg (dinov2/hub/backbones.py): 343 and 344 tensors. They differ
# in how positions are interpolated, not only in the registers.
DINOV2_L14 = VisionShape(
    width=1024, depth=24, heads=16, patch=14, grid=37, layer_scale=True, mask_token=True, offset=0.1
)
DINOV2_L14_REG = VisionShape(
    width=1024, depth=24, heads=16, patch=14, grid=37, registers=4, layer_scale=True, mask_token=True, antialias=True
)
# timm's vit_base_patch16_224 without its classifier: 150 tensors. The picture tower of SLIP and so of ULIP.
VIT_B16 = VisionShape(width=768, depth=12, heads=12, patch=16, grid=14)


class VisionTransformer(nn.Module):
    """Normalised pictures [B, 3, H, W], sides multiples of the patch -> class token [B, C] (`x_norm_clstoken`)."""

    def __init__(self, shape: VisionShape):
        super().__init__()
        self.shape = shape
        self.cls_token = nn.Parameter(torch.zeros(1, 1, shape.width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + shape.grid**2, shape.width))
        if shape.registers:
            self.register_tokens = nn.Parameter(torch.zeros(1, shape.registers, shape.width))
        if shape.mask_token:
            self.mask_token = nn.Parameter(torch.zeros(1, shape.width))
        self.patch_embed = PatchEmbedding(shape.width, shape.patch)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.depth))
        self.norm = nn.LayerNorm(shape.width, eps=NORM_EPS)

    def forward(self, pictures: Tensor) -> Tensor:
        return self.norm(self.tokens(pictures)[:, 0])

    def tokens(self, pictures: Tensor) -> Tensor:
        """All tokens before the final norm (`x_prenorm`): [B, T, C].

        Raises:
            UsageError: a side is no multiple of the patch.
        """
        rows, columns = self._grid_of(pictures)
        start = self.cls_token.expand(len(pictures), -1, -1)
        x = torch.cat([start, self.patch_embed(pictures)], 1) + self.positions(rows, columns)
        if self.shape.registers:
            registers = self.register_tokens.expand(len(pictures), -1, -1)
            x = torch.cat([x[:, :1], registers, x[:, 1:]], 1)
        for block in self.blocks:
            x = block(x)
        return x

    def positions(self, rows: int, columns: int) -> Tensor:
        """Position embedding of the class token and of a grid of patches: [1, 1 + rows * columns, C]."""
        grid = self.shape.grid
        if rows == columns == grid:
            return self.pos_embed
        stored = self.pos_embed[:, 1:].unflatten(1, (grid, grid)).permute(0, 3, 1, 2)
        patches = self._interpolated(stored, rows, columns).flatten(2).transpose(1, 2)
        return torch.cat([self.pos_embed[:, :1], patches], 1)

    def _interpolated(self, stored: Tensor, rows: int, columns: int) -> Tensor:
        """The hub's rule. With an offset the ratio of grids is not exactly the one that sides would give, and the
        original weights' features were computed so (dinov2/models/vision_transformer.py)."""
        if self.shape.offset:
            ratio = tuple((length + self.shape.offset) / self.shape.grid for length in (rows, columns))
            return functional.interpolate(stored, scale_factor=ratio, mode="bicubic", antialias=self.shape.antialias)
        return functional.interpolate(stored, size=(rows, columns), mode="bicubic", antialias=self.shape.antialias)

    def _grid_of(self, pictures: Tensor) -> tuple[int, int]:
        height, width = pictures.shape[2:]
        patch = self.shape.patch
        if height % patch or width % patch:
            raise UsageError(
                f"Pictures of a wrong size (got {height} x {width}) - sides must be multiples of {patch} - resize them."
            )
        return height // patch, width // patch


class PatchEmbedding(nn.Module):
    """[B, 3, H, W] -> one token per patch, row by row."""

    def __init__(self, width: int, patch: int):
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch, stride=patch)

    def forward(self, pictures: Tensor) -> Tensor:
        return self.proj(pictures).flatten(2).transpose(1, 2)


class Block(nn.Module):
    """Attention and MLP, each after a norm and added to the tokens."""

    def __init__(self, shape: VisionShape):
        super().__init__()
        width = shape.width
        self.norm1 = nn.LayerNorm(width, eps=NORM_EPS)
        self.attn = Attention(width, shape.heads)
        self.ls1 = LayerScale(width) if shape.layer_scale else nn.Identity()
        self.norm2 = nn.LayerNorm(width, eps=NORM_EPS)
        self.mlp = Mlp(width)
        self.ls2 = LayerScale(width) if shape.layer_scale else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))


class Attention(nn.Module):
    """Softmax attention of all tokens to all; queries, keys and values by one projection."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(attention(self.qkv(x), self.heads))


class LayerScale(nn.Module):
    """A factor per channel."""

    def __init__(self, width: int):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class Mlp(nn.Module):
    """Two layers with exact GELU between, four times as wide inside."""

    def __init__(self, width: int):
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(functional.gelu(self.fc1(x)))


def attention(qkv: Tensor, heads: int) -> Tensor:
    """[B, T, 3C], queries then keys then values, each split into heads -> [B, T, C]."""
    queries, keys, values = qkv.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    return functional.scaled_dot_product_attention(queries, keys, values).transpose(1, 2).flatten(2)


def trellis_condition(network: VisionTransformer, pictures: Tensor) -> Tensor:
    """What TRELLIS' flow networks attend to.

    All tokens before the final norm, then layer-normalised without parameters, eps 1e-5
    (microsoft/TRELLIS, trellis/pipelines/trellis_image_to_3d.py). TRELLIS uses `DINOV2_L14_REG`.

    Args:
        network: DINOv2 with registers.
        pictures: [B, 3, 518, 518] uint8, already cropped, scaled and put on black.
    Returns:
        [B, 1374, 1024].
    """
    tokens = network.tokens(imagenet_normalised(pictures))
    return functional.layer_norm(tokens, tokens.shape[-1:], eps=1e-5)
