"""How pictures are prepared, against the numbers of the public implementations."""

from __future__ import annotations

from collections.abc import Callable

import golden_io
import numpy as np
import pytest
import torch
from torch import Tensor

from mdtbench.metrics.official import resize

SIDECAR, ARRAYS = golden_io.load("inception", "resize_512")
ATOL = SIDECAR["tolerance"]["atol"]  # grey levels; the arrays were stored from uint8-like ranges in float32


def pictures(array: np.ndarray) -> Tensor:
    """[H, W, 3] -> [1, 3, H, W]."""
    return torch.from_numpy(array).permute(2, 0, 1)[None]


def grey_levels(prepared: Tensor, mean: float | Tensor, spread: float | Tensor) -> np.ndarray:
    """[299, 299, 3] in 0..255, the normalisation undone."""
    return (prepared * spread + mean)[0].permute(1, 2, 0).numpy()


@pytest.mark.parametrize(
    ("prepare", "mean", "spread", "name"),
    [
        (resize.pytorch_fid_299, 127.5, 127.5, "pytorch_fid"),
        (resize.clean_fid_299, 128, 128, "clean_fid_clean"),
    ],
)
def test_inceptions_resizers_are_the_published_ones(
    prepare: Callable[[Tensor], Tensor], mean: float, spread: float, name: str
) -> None:
    levels = grey_levels(prepare(pictures(ARRAYS["image"])), mean, spread)
    np.testing.assert_allclose(levels[::3, ::3], ARRAYS[f"out_{name}_stride3"], rtol=0, atol=ATOL)
    statistics = SIDECAR["full_image_stats"][name]
    np.testing.assert_allclose([levels.mean(), levels.std()], [statistics["mean"], statistics["std"]], atol=ATOL)


def test_eight_bit_bicubic_is_the_published_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The preparation of dgm-eval at the fixture's size; within the one grey level that rounding may cost."""
    monkeypatch.setattr(resize, "VIT_SIDE", 299)
    mean, spread = (255 * torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    levels = grey_levels(resize.dgm_eval_224(pictures(ARRAYS["image"])), mean, spread)
    np.testing.assert_allclose(levels, levels.round(), atol=1e-3)
    np.testing.assert_allclose(levels[::3, ::3], ARRAYS["out_pil_bicubic_uint8_stride3"], rtol=0, atol=1.001)


@pytest.mark.parametrize(
    ("prepare", "side"),
    [
        (resize.pytorch_fid_299, 299),
        (resize.clean_fid_299, 299),
        (resize.dgm_eval_224, 224),
        (resize.clip_224, 224),
        (resize.slip_224, 224),
        (resize.dinov2_518, 518),
    ],
)
def test_every_picture_is_prepared_on_its_own_and_channels_keep_their_order(
    prepare: Callable[[Tensor], Tensor], side: int
) -> None:
    levels = np.array([[30, 60, 90], [200, 10, 120]], np.uint8)
    batch = np.broadcast_to(levels[:, :, None, None], (2, 3, 40, 56)).copy()
    prepared = prepare(torch.from_numpy(batch))
    assert prepared.shape == (2, 3, side, side)
    assert prepared.dtype == torch.float32
    flat = prepared.flatten(2)
    torch.testing.assert_close(flat.amin(2), flat.amax(2), rtol=0, atol=1e-5)
    torch.testing.assert_close(prepared[1:], prepare(torch.from_numpy(batch[1:])), rtol=0, atol=0)
    expected = expected_levels(prepare, torch.from_numpy(levels).double())
    torch.testing.assert_close(flat.mean(2).double(), expected, rtol=0, atol=1e-5)


def expected_levels(prepare: Callable[[Tensor], Tensor], levels: Tensor) -> Tensor:
    if prepare is resize.pytorch_fid_299:
        return levels / 127.5 - 1
    if prepare is resize.clean_fid_299:
        return (levels - 128) / 128
    if prepare is resize.slip_224:
        return levels / 127.5 - 1
    clip = prepare is resize.clip_224
    mean = (0.48145466, 0.4578275, 0.40821073) if clip else (0.485, 0.456, 0.406)
    spread = (0.26862954, 0.26130258, 0.27577711) if clip else (0.229, 0.224, 0.225)
    return (levels / 255 - torch.tensor(mean)) / torch.tensor(spread)


def test_clip_crops_the_middle_and_keeps_the_shape_of_things() -> None:
    picture = np.zeros((1, 3, 224, 448), np.uint8)
    picture[..., 112:336] = 255
    assert (resize.clip_224(torch.from_numpy(picture)) > 1).all()
    assert not (resize.dgm_eval_224(torch.from_numpy(picture)) > 1).all()
    tall = torch.from_numpy(np.ascontiguousarray(picture.swapaxes(2, 3)))
    assert (resize.clip_224(tall) > 1).all()


def test_values_that_bicubic_overshoots_to_are_clipped() -> None:
    picture = np.zeros((1, 3, 600, 600), np.uint8)
    picture[..., 300:] = 255
    prepared = resize.clean_fid_299(torch.from_numpy(picture))
    assert prepared.amin() == -1
    assert prepared.amax() == pytest.approx(127 / 128)


def test_slip_crops_after_248_pixels() -> None:
    flat = torch.full((1, 3, 50, 70), 255, dtype=torch.uint8)
    assert torch.equal(resize.slip_224(flat), torch.ones(1, 3, 224, 224))
    # A step that is 248 pixels wide after resizing: crops keep 12 pixels less on either side.
    step = torch.zeros(1, 3, 248, 248, dtype=torch.uint8)
    step[..., 124:] = 255
    row = resize.slip_224(step)[0, 0, 0]
    assert row.tolist() == [-1.0] * 112 + [1.0] * 112
    wide = torch.zeros(1, 3, 248, 500, dtype=torch.uint8)
    wide[..., 138] = 255  # the crop starts at (500 - 224) / 2
    assert resize.slip_224(wide)[0, 0, :, 0].tolist() == [1.0] * 224
