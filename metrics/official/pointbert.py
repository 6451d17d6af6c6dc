"""The point tower of ULIP: a transformer over neighbourhoods of a cloud, and its projection into the picture's space.

Written from the public definition (salesforce/ULIP at f194ddb: models/pointbert, models/ULIP_models.py;
arXiv:2212.05171, arXiv:2305.08275), with the parameter names of the published checkpoints. Shapes: B clouds, P points,
G groups, K neighbours of a group's centre, C channels of a point (3: xyz, 6: xyz and rgb), D width of the transformer.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from ...base.errors import UsageError

NEAR_ORIGIN = 1e-3  # squared norm: pointnet2_ops takes such points for padding and never picks them
XYZ = 3


@dataclass(frozen=True)
class PointBertConfig:
    """What a point tower is built from; the names are those of ULIP's yaml files.

    Attributes:
        channels: 3 (xyz) or 6 (xyz and rgb).
        depth: blocks of the transformer.
        embedding: E, the dimension shared with the pictures.
        trans_dim: D.
        num_heads: heads of the attention.
        num_group: G.
        group_size: K.
        encoder_dims: features of a group before they are brought to D.
    """

    channels: int
    depth: int
    embedding: int
    trans_dim: int = 384
    num_heads: int = 6
    num_group: int = 512
    group_size: int = 32
    encoder_dims: int = 256


ULIP2_COLOURED = PointBertConfig(channels=6, depth=18, embedding=1280)  # ULIP_2_PointBERT_10k_colored_pointclouds.yaml
ULIP1 = PointBertConfig(channels=3, depth=12, embedding=512)  # PointTransformer_8192point.yaml


class PointTower(nn.Module):
    """Clouds [B, P, >= C] -> embeddings [B, E], not normalised (`encode_pc` of ULIP)."""

    def __init__(self, config: PointBertConfig):
        super().__init__()
        self.config = config
        self.pc_projection = nn.Parameter(torch.randn(2 * config.trans_dim, config.embedding) * config.embedding**-0.5)
        self.point_encoder = PointEncoder(config)

    def forward(self, points: Tensor) -> Tensor:
        return self.point_encoder(points[..., : self.config.channels]) @ self.pc_projection


class PointEncoder(nn.Module):
    """Clouds [B, P, C] -> features [B, 2 D]: the class token beside the maximum over the groups' tokens."""

    def __init__(self, config: PointBertConfig):
        super().__init__()
        dim = config.trans_dim
        self.config = config
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.cls_pos = nn.Parameter(torch.randn(1, 1, dim))
        self.encoder = GroupEncoder(config.channels, config.encoder_dims)
        self.reduce_dim = nn.Linear(config.encoder_dims, dim)
        self.pos_embed = nn.Sequential(nn.Linear(XYZ, 128), nn.GELU(), nn.Linear(128, dim))
        self.blocks = Blocks(config.depth, dim, config.num_heads)
        self.norm = nn.LayerNorm(dim)

    def forward(self, points: Tensor) -> Tensor:
        groups, centres = grouped(points, self.config.num_group, self.config.group_size)
        tokens = self.reduce_dim(self.encoder(groups))
        tokens = torch.cat([self.cls_token.expand(len(points), -1, -1), tokens], 1)
        places = torch.cat([self.cls_pos.expand(len(points), -1, -1), self.pos_embed(centres)], 1)
        tokens = self.norm(self.blocks(tokens, places))
        return torch.cat([tokens[:, 0], tokens[:, 1:].amax(1)], 1)


class GroupEncoder(nn.Module):
    """Neighbourhoods [B, G, K, C] -> features [B, G, F]: a small PointNet, so the order of neighbours is nothing."""

    def __init__(self, channels: int, features: int):
        super().__init__()
        self.first_conv = nn.Sequential(PointLayer(channels, 128), nn.BatchNorm1d(128), nn.ReLU(), PointLayer(128, 256))
        self.second_conv = nn.Sequential(
            PointLayer(512, 512), nn.BatchNorm1d(512), nn.ReLU(), PointLayer(512, features)
        )

    def forward(self, groups: Tensor) -> Tensor:
        shape = groups.shape[:-1]
        local = self.first_conv(groups.flatten(0, 2)).unflatten(0, shape)
        whole = local.amax(2, keepdim=True).expand_as(local)
        features = self.second_conv(torch.cat([whole, local], -1).flatten(0, 2))
        return features.unflatten(0, shape).amax(2)


class PointLayer(nn.Conv1d):
    """A linear layer over rows [M, C] whose weight has the shape [out, in, 1] of the checkpoints.

    As a matrix product it follows torch's precision switch for those, which is full float32 by default; as a
    convolution it would follow cuDNN's, which is not.
    """

    def __init__(self, inputs: int, outputs: int):
        super().__init__(inputs, outputs, 1)

    def forward(self, rows: Tensor) -> Tensor:
        return functional.linear(rows, self.weight[:, :, 0], self.bias)


class Blocks(nn.Module):
    """The transformer. Places are added before every block, not once."""

    def __init__(self, depth: int, dim: int, heads: int):
        super().__init__()
        self.blocks = nn.ModuleList(Block(dim, heads) for _ in range(depth))

    def forward(self, tokens: Tensor, places: Tensor) -> Tensor:
        for block in self.blocks:
            tokens = block(tokens + places)
        return tokens


class Block(nn.Module):
    """Pre-norm attention and MLP. [B, T, D] -> [B, T, D]."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim)
        self.attn = Attention(dim, heads)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.attn(self.norm1(tokens))
        return tokens + self.mlp(self.norm2(tokens))


class Attention(nn.Module):
    """Self-attention; queries, keys and values have no bias."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.proj = nn.Linear(dim, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        queries, keys, values = self.qkv(tokens).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(functional.scaled_dot_product_attention(queries, keys, values).transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """Two layers with exact GELU between, four times as wide inside."""

    def __init__(self, dim: int):
        super().__init__()
        self.fc1 = nn.Linear(dim, 4 * dim)
        self.fc2 = nn.Linear(4 * dim, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.fc2(functional.gelu(self.fc1(tokens)))


def grouped(points: Tensor, groups: int, size: int) -> tuple[Tensor, Tensor]:
    """Neighbourhoods [B, G, K, C], with xyz relative to their centres and colours as they are, and centres [B, G, 3].

    Raises:
        UsageError: a cloud has fewer points than groups or neighbours are asked for.
    """
    count = points.shape[1]
    if count < max(groups, size):
        raise UsageError(f"Clouds have {count} points - at least {max(groups, size)} are needed - draw more points.")
    xyz = points[..., :XYZ]
    first = torch.from_numpy(np.stack([furthest_points(cloud, groups) for cloud in xyz.cpu().numpy()]))
    centres = _rows(xyz, first.to(points.device))
    groups_of = _rows(points, nearest(xyz, centres, size))
    return torch.cat([groups_of[..., :XYZ] - centres[:, :, None], groups_of[..., XYZ:]], -1), centres


def nearest(points: Tensor, centres: Tensor, count: int) -> Tensor:
    """Indices [B, G, K] of the points [B, P, 3] nearest to every centre [B, G, 3], in no particular order.

    Squared distances are |c|^2 - 2 c.p + |p|^2 in float32, as in the original: where several points are equally far
    to rounding, another formula would choose others.
    """
    square = -2 * centres @ points.transpose(1, 2)
    square += centres.square().sum(-1)[:, :, None]
    square += points.square().sum(-1)[:, None]
    return square.topk(count, dim=-1, largest=False, sorted=False).indices


def furthest_points(points: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """Indices of points that are far from one another: each next one is furthest from all before it.

    As the CUDA kernel of pointnet2_ops: the first is point 0; a point with |p|^2 <= 1e-3 is never chosen after
    that; all in float32. When no point can be chosen, point 0 is, again. Among equals the lowest index wins (the
    kernel's choice there follows its threads).

    Args:
        points: [P, 3] float32.
        count: how many.

    Returns:
        [count] int64.
    """
    return _furthest(np.ascontiguousarray(points, np.float32), count)


@njit(cache=True, error_model="numpy", nogil=True)
def _furthest(points, count):
    chosen = np.zeros(count, np.int64)
    distance = np.full(len(points), np.float32(1e10))
    eligible = np.empty(len(points), np.bool_)
    for i in range(len(points)):
        x, y, z = points[i, 0], points[i, 1], points[i, 2]
        eligible[i] = x * x + y * y + z * z > NEAR_ORIGIN
    for j in range(1, count):
        last = chosen[j - 1]
        furthest = np.float32(-1)
        for i in range(len(points)):
            if not eligible[i]:
                continue
            x, y, z = points[i, 0] - points[last, 0], points[i, 1] - points[last, 1], points[i, 2] - points[last, 2]
            distance[i] = min(distance[i], x * x + y * y + z * z)
            if distance[i] > furthest:
                furthest = distance[i]
                chosen[j] = i
    return chosen


def _rows(values: Tensor, index: Tensor) -> Tensor:
    """Rows of [B, P, C] at indices [B, ...]: [B, ..., C]."""
    batch = torch.arange(len(values), device=values.device).view(-1, *[1] * (index.dim() - 1))
    return values[batch, index]
