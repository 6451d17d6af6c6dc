"""The law of the problem `pictures`: a template at one of nine places. The condition names the template alone.

A picture has 8 x 8 pixels. One of four 3 x 3 templates lies at one of nine places, with a gain near 1 and noise on
every pixel; values are then shifted and scaled to mean 0 and variance 1. As the condition does not say where, a sample
has to choose a place; and as the law is known, whether a picture is one of its own is decided exactly.
"""

from __future__ import annotations

import math
from functools import cache

import torch
from scipy import stats
from torch import Tensor

from ...metrics.frechet import Moments

SIDE = 8
DIM = SIDE * SIDE
TEMPLATES = (
    ((0, 1, 0), (1, 1, 1), (0, 1, 0)),
    ((1, 1, 1), (1, 0, 1), (1, 1, 1)),
    ((0, 0, 1), (0, 0, 1), (1, 1, 1)),
    ((1, 0, 1), (0, 1, 0), (1, 0, 1)),
)
CLASSES = len(TEMPLATES)
OFFSETS = (0, 3, 5)  # of a template's first row and column
PLACES = len(OFFSETS) ** 2
GAIN_SD = 0.12  # of the gain, whose mean is 1
PIXEL_SD = 0.035  # of the noise, where a template's pixels are 1
RARE = 1e-6  # share of the law's own pictures that each of the two bounds of `valid` leaves out


@cache
def modes() -> Tensor:
    """Each template at each place, before noise and scaling: [CLASSES, PLACES, DIM] of 0 and 1."""
    made = torch.zeros(CLASSES, PLACES, SIDE, SIDE)
    for label, template in enumerate(torch.tensor(TEMPLATES)):
        for place in range(PLACES):
            row, column = OFFSETS[place // len(OFFSETS)], OFFSETS[place % len(OFFSETS)]
            made[label, place, row : row + 3, column : column + 3] = template
    return made.flatten(2)


def scaled(pictures: Tensor) -> Tensor:
    """To the units of data: mean 0 and variance 1 over all modes and pixels."""
    return (pictures - modes().mean()) / modes().std(correction=0)


def unscaled(x: Tensor) -> Tensor:
    """The inverse of `scaled`."""
    return x * modes().std(correction=0) + modes().mean()


def draw(classes: Tensor, generator: torch.Generator) -> Tensor:
    """One picture of each class, scaled: [B] -> [B, DIM]."""
    count = len(classes)
    places = torch.randint(PLACES, (count,), generator=generator)
    gain = 1 + GAIN_SD * torch.randn(count, 1, generator=generator)
    noise = PIXEL_SD * torch.randn(count, DIM, generator=generator)
    return scaled(gain * modes()[classes, places] + noise)


def places_of(x: Tensor, classes: Tensor) -> Tensor:
    """Where each picture shows the template of its class: [B] from 0, -1 of a picture that is not of the law.

    A picture is of the law when, at the place that fits best, the best gain and the mean square of what is left are
    within the bounds that all but `RARE` of the law's own keep. Empty pictures fail by their gain; those of another
    class, of two templates, and those that are not finite fail by what is left. x: [B, DIM], scaled.
    """
    pictures, own = unscaled(x.double()), modes().double()[classes]  # own: [B, PLACES, DIM]
    size = own.square().sum(2)
    gain = torch.einsum("bd,bpd->bp", pictures, own) / size
    left = pictures.square().sum(1, keepdim=True) - gain.square() * size
    least, place = left.nan_to_num(nan=math.inf).min(1)
    best = gain.gather(1, place[:, None])[:, 0]
    fits = (least <= residual_bound()) & ((best - 1).abs() <= gain_bound())
    return torch.where(fits, place, -1)


@cache
def residual_bound() -> float:
    """Of the sum of squares that is left: noise in all directions but that of the template, chi-squared."""
    return PIXEL_SD**2 * float(stats.chi2.isf(RARE, DIM - 1))


@cache
def gain_bound() -> float:
    """Of the distance of the best gain from 1: the gain's own spread, and noise along the smallest template."""
    smallest = float(modes().sum(2).min())
    return float(stats.norm.isf(RARE / 2)) * math.hypot(GAIN_SD, PIXEL_SD / math.sqrt(smallest))


def coverage(places: Tensor, classes: Tensor) -> float:
    """How many of the places of a class are in use: exp of the entropy over them, by their number, mean of classes.

    Of valid samples alone; a class without any counts 0. places: [B] as of `places_of`.
    """
    counts = torch.stack(
        [torch.bincount(places[(classes == c) & (places >= 0)], minlength=PLACES) for c in range(CLASSES)]
    )
    share = counts.double() / counts.sum(1, keepdim=True).clamp(min=1)
    used = torch.exp(-torch.xlogy(share, share).sum(1)) / PLACES
    return float(torch.where(counts.sum(1) > 0, used, 0.0).mean())


@cache
def moments() -> Moments:
    """Mean and covariance of the law with all classes equally frequent, exactly."""
    means = modes().double().flatten(0, 1)
    mean = means.mean(0)
    second = (1 + GAIN_SD**2) * means.T @ means / len(means)
    covariance = second - mean[:, None] * mean + PIXEL_SD**2 * torch.eye(DIM, dtype=torch.float64)
    scale = modes().double().std(correction=0)
    # The scatter of two samples is their covariance.
    return Moments(2, scaled(mean).numpy(), (covariance / scale**2).numpy())
