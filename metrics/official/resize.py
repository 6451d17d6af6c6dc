"""How each published implementation prepares a picture for its network.

The same picture resized by two of these differs by several grey levels, which moves a distance between sets by
more than most methods differ; so the preparation is part of an extractor's version.

Every public function takes uint8 pictures [N, 3, H, W] and gives normalised float32 pictures [N, 3, S, S].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional

BICUBIC = Image.Resampling.BICUBIC
INCEPTION_SIDE = 299
VIT_SIDE = 224
TRELLIS_SIDE = 518

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# openai/CLIP, clip/clip.py; open_clip uses the same for all models here.
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def pytorch_fid_299(pictures: Tensor) -> Tensor:
    """Bilinear with half-pixel centres, no antialiasing, of [0, 1]; then 2x - 1 (mseitzer/pytorch-fid)."""
    side = (INCEPTION_SIDE, INCEPTION_SIDE)
    return 2 * functional.interpolate(pictures.float() / 255, size=side, mode="bilinear", align_corners=False) - 1


def clean_fid_299(pictures: Tensor) -> Tensor:
    """Pillow's antialiased bicubic of each channel in float32, clipped, not rounded; then (x - 128) / 128.

    Source: GaParmar/clean-fid, mode "clean".
    """
    channels = pictures.float().flatten(0, 1).numpy()
    resized = [_pillow(channel, INCEPTION_SIDE, INCEPTION_SIDE) for channel in channels]
    return _centred(torch.from_numpy(np.stack(resized)).clamp_(0, 255).unflatten(0, pictures.shape[:2]))


def torch_fidelity_299(pictures: Tensor) -> Tensor:
    """Bilinear as in TensorFlow 1: pixel i reads at i * H / 299, no antialiasing; then (x - 128) / 128.

    Source: toshas/torch-fidelity.
    """
    top, bottom, down = _tensorflow_taps(pictures.shape[2], INCEPTION_SIDE)
    left, right, across = _tensorflow_taps(pictures.shape[3], INCEPTION_SIDE)
    x = pictures.float()
    rows = torch.lerp(x[:, :, top], x[:, :, bottom], down[:, None])
    return _centred(torch.lerp(rows[..., left], rows[..., right], across))


def dgm_eval_224(pictures: Tensor) -> Tensor:
    """Pillow's antialiased bicubic on 8 bits to 224 x 224, ImageNet's mean and spread (layer6ai-labs/dgm-eval)."""
    return imagenet_normalised(_each(pictures, lambda picture: _pillow(picture, VIT_SIDE, VIT_SIDE)))


def dinov2_518(pictures: Tensor) -> Tensor:
    """As `dgm_eval_224`, at the 518 pixels that DINOv2's position embedding was stored for."""
    return imagenet_normalised(_each(pictures, lambda picture: _pillow(picture, TRELLIS_SIDE, TRELLIS_SIDE)))


def clip_224(pictures: Tensor) -> Tensor:
    """Shortest side to 224 by Pillow's bicubic on 8 bits, centre crop, CLIP's mean and spread (openai/CLIP)."""
    return _normalised(_each(pictures, _shortest_side_cropped), CLIP_MEAN, CLIP_STD)


def imagenet_normalised(pictures: Tensor) -> Tensor:
    """uint8 pictures of any size, divided by 255, minus ImageNet's mean, over its spread."""
    return _normalised(pictures, IMAGENET_MEAN, IMAGENET_STD)


def _normalised(pictures: Tensor, mean: Sequence[float], spread: Sequence[float]) -> Tensor:
    shape = (3, 1, 1)
    return (pictures.float() / 255 - pictures.new_tensor(mean, dtype=torch.float32).view(shape)) / (
        pictures.new_tensor(spread, dtype=torch.float32).view(shape)
    )


def _centred(grey_levels: Tensor) -> Tensor:
    return (grey_levels - 128) / 128


def _tensorflow_taps(length: int, side: int) -> tuple[Tensor, Tensor, Tensor]:
    """The two source pixels of every target pixel and the weight of the second."""
    place = torch.arange(side, dtype=torch.float32) * (length / side)
    low = place.long()
    return low, (low + 1).clamp(max=length - 1), place - low


def _each(pictures: Tensor, change: Callable[[NDArray[np.uint8]], NDArray]) -> Tensor:
    """`change` of every picture, which it takes and gives as [H, W, 3]."""
    changed = [change(picture.permute(1, 2, 0).contiguous().numpy()) for picture in pictures]
    return torch.from_numpy(np.stack(changed)).permute(0, 3, 1, 2)


def _pillow(picture: NDArray, height: int, width: int) -> NDArray:
    """[H, W, 3] uint8 or [H, W] float32, the kind of which is kept."""
    return np.asarray(Image.fromarray(picture).resize((width, height), BICUBIC))


def _shortest_side_cropped(picture: NDArray[np.uint8]) -> NDArray:
    height, width = picture.shape[:2]
    short = min(height, width)
    # torchvision truncates the long side and rounds the offset of the crop.
    resized = _pillow(picture, int(VIT_SIDE * height / short), int(VIT_SIDE * width / short))
    top, left = (round((length - VIT_SIDE) / 2) for length in resized.shape[:2])
    return resized[top : top + VIT_SIDE, left : left + VIT_SIDE]
