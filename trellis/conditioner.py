"""From a conditioning picture to the tokens that the flow networks attend to."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional


class ImageConditioner(nn.Module):
    """A small stand-in for DINOv2: [B, 3, S, S] uint8 -> [B, (S / 8)^2, channels].

    Convolutions to patches of 8 pixels, then transformer layers, so that every token knows the whole picture.
    As in TRELLIS the tokens are layer-normalised without affine parameters, and the negative condition is zeros.

    Args:
        image_size: side S of the preprocessed picture, in pixels; a multiple of 8.
        channels: width of the tokens; a multiple of 4.
        layers: transformer layers.
    """

    def __init__(self, image_size: int, channels: int, layers: int):
        super().__init__()
        self.image_size = image_size
        self.patches = nn.Sequential(
            nn.Conv2d(3, 32, 4, stride=2, padding=1),
            nn.GELU(),
            nn.Conv2d(32, channels, 4, stride=2, padding=1),
            nn.GELU(),
            nn.Conv2d(channels, channels, 4, stride=2, padding=1),
        )
        self.position = nn.Parameter(0.02 * torch.randn((image_size // 8) ** 2, channels))
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                channels, 4, 4 * channels, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
            )
            for _ in range(layers)
        )

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patches(images.float() / 127.5 - 1).flatten(2).transpose(1, 2) + self.position
        for layer in self.layers:
            tokens = layer(tokens)
        return functional.layer_norm(tokens, tokens.shape[-1:])


def negative(network: Callable[..., object], cond: Tensor) -> Tensor:
    """The negative condition of TRELLIS: zeros.

    A network that only attends to its condition gets the same from one token as from many equal ones, and computes a
    fifth less (`one_null_token`). cond: [B, T, C].
    """
    return torch.zeros_like(cond[:, :1] if getattr(network, "one_null_token", False) else cond)
