"""From a conditioning picture to the tokens that the flow networks attend to."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class ConvConditioner(nn.Module):
    """A small convolutional stand-in for DINOv2: [B, 3, S, S] uint8 -> [B, (S / 8)^2, channels].

    As in TRELLIS the tokens are layer-normalised without affine parameters, and the negative condition is zeros.

    Args:
        image_size: side S of the preprocessed picture, in pixels; a multiple of 8.
        channels: width of the tokens.
    """

    def __init__(self, image_size: int, channels: int):
        super().__init__()
        self.image_size = image_size
        self.layers = nn.Sequential(
            nn.Conv2d(3, 32, 4, stride=2, padding=1),
            nn.GELU(),
            nn.Conv2d(32, channels, 4, stride=2, padding=1),
            nn.GELU(),
            nn.Conv2d(channels, channels, 4, stride=2, padding=1),
            nn.GELU(),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, images: Tensor) -> Tensor:
        maps = self.layers(images.float() / 127.5 - 1)
        tokens = maps.flatten(2).transpose(1, 2)
        return functional.layer_norm(tokens, tokens.shape[-1:])


def negative(cond: Tensor) -> Tensor:
    """The negative condition of TRELLIS: zeros."""
    return torch.zeros_like(cond)
