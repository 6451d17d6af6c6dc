"""How each published implementation prepares a picture for its network.

The same picture resized by two of these differs by several grey levels, which moves a distance between sets by
more than most methods differ; so the preparation is part of an extractor's version.

Every public function takes uint8 pictures [N, 3, H, W] and gives normalised float32 pictures [N, 3, S, S].
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

INCEPTION_SIDE = 299
VIT_SIDE = 224
TRELLIS_SIDE = 518
SLIP_CROP = 0.9  # share of the shortest side that is left: of 248 pixels, rounded down, 224


def pytorch_fid_299(pictures: Tensor) -> Tensor:
    """Bilinear with half-pixel centres, no antialiasing, of [0, 1]; then 2x - 1 (mseitzer/pytorch-fid)."""
    side = (INCEPTION_SIDE, INCEPTION_SIDE)
    return 2 * functional.interpolate(pictures.float() / 255, size=side, mode="bilinear", align_corners=False) - 1


def clean_fid_299(pictures: Tensor) -> Tensor:
    """Pillow's antialiased bicubic of each channel in float32, clipped, not rounded; then (x - 128) / 128.

    Source: GaParmar/clean-fid, mode "clean".
    """
    side = (INCEPTION_SIDE, INCEPTION_SIDE)
    channels = [Image.fromarray(channel) for channel in pictures.float().flatten(0, 1).numpy()]
    resized = np.stack([np.asarray(channel.resize(side, Image.Resampling.BICUBIC)) for channel in channels])
    return (torch.from_numpy(resized).clamp_(0, 255).unflatten(0, pictures.shape[:2]) - 128) / 128


def dgm_eval_224(pictures: Tensor) -> Tensor:
    """Pillow's antialiased bicubic on 8 bits to 224 x 224, ImageNet's mean and spread (layer6ai-labs/dgm-eval)."""
    return _squashed(pictures, VIT_SIDE)


def dinov2_518(pictures: Tensor) -> Tensor:
    """As `dgm_eval_224`, at the 518 pixels that DINOv2's position embedding was stored for."""
    return _squashed(pictures, TRELLIS_SIDE)


def clip_224(pictures: Tensor) -> Tensor:
    """open_clip's: shortest side to 224 by Pillow's bicubic on 8 bits, centre crop, CLIP's mean and spread."""
    from open_clip import image_transform

    transform = image_transform(VIT_SIDE, is_train=False)
    return _each(pictures, cast("Callable[[Image.Image], Tensor]", transform))


def slip_224(pictures: Tensor) -> Tensor:
    """timm's of vit_base_patch16_224: as `clip_224`, but shortest side to 248 before the crop, then 2x - 1."""
    from timm.data.transforms_factory import transforms_imagenet_eval

    half = (0.5, 0.5, 0.5)
    transform = transforms_imagenet_eval(VIT_SIDE, SLIP_CROP, interpolation="bicubic", mean=half, std=half)
    return _each(pictures, transform)


def imagenet_normalised(pictures: Tensor) -> Tensor:
    """uint8 pictures of any size, divided by 255, minus ImageNet's mean, over its spread."""
    from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
    from torchvision.transforms.functional import normalize

    return normalize(pictures / 255, list(IMAGENET_DEFAULT_MEAN), list(IMAGENET_DEFAULT_STD))


def _squashed(pictures: Tensor, side: int) -> Tensor:
    from timm.data.transforms_factory import transforms_imagenet_eval

    return _each(pictures, transforms_imagenet_eval(side, crop_pct=1.0, crop_mode="squash", interpolation="bicubic"))


def _each(pictures: Tensor, transform: Callable[[Image.Image], Tensor]) -> Tensor:
    """A library's transform of single pictures."""
    shown = [Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy()) for picture in pictures]
    return torch.stack([transform(picture) for picture in shown])
