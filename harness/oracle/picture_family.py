"""The family of the problem `pictures`: a learned teacher, and exact measures of whether samples are of the law."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ...base.files import file_sha256
from ...base.seeds import seed_of
from ...flow.guidance import Guided
from ...flow.layout import DenseLayout
from ...flow.samplers import Euler
from ...metrics.frechet import Moments, frechet_distance
from .family import Measure
from .picture_network import PictureNet
from .picture_teacher import FILE, shipped_teacher
from .pictures import CLASSES, DIM, SIDE, coverage, draw, moments, places_of, unscaled

PICTURES = "pictures"
VALID, COVERAGE, FD, MSE_TEACHER = "valid", "coverage", "FD", "MSE_teacher"
MEASURES: Mapping[str, Measure] = MappingProxyType(
    {VALID: Measure(True), COVERAGE: Measure(True), FD: Measure(False), MSE_TEACHER: Measure(False, mapped=True)}
)
MANY = 100  # steps of the teacher's own samples, that students are compared with
SHOWN, ACROSS, ZOOM = 48, 8, 5  # pictures in a figure, in a row of it, and pixels per pixel


@dataclass(frozen=True)
class Pictures:
    """One problem, without guidance."""

    network: PictureNet

    @staticmethod
    def of() -> Pictures:
        return Pictures(shipped_teacher())

    @property
    def names(self) -> tuple[str, ...]:
        return (PICTURES,)

    @property
    def measures(self) -> Mapping[str, Measure]:
        return MEASURES

    @property
    def dim(self) -> int:
        return DIM

    @property
    def identity(self) -> Sequence[Any]:
        return [file_sha256(FILE)]

    def strength(self, name: str) -> float:
        del name
        return 0.0

    def draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        classes = torch.randint(CLASSES, (count,), generator=generator)
        return draw(classes, generator), classes

    def questions(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Classes are equally frequent."""
        return torch.randn(count, DIM, generator=generator), torch.arange(count) % CLASSES

    @torch.no_grad()
    def ends(self, noise: Tensor, classes: Tensor) -> Tensor:
        return Euler(MANY).sample(self.teacher(classes), noise, DenseLayout(tuple(noise.shape)), [])

    def student(self, seed: int) -> nn.Module:
        """A copy of the teacher, whatever the seed."""
        del seed
        return copy.deepcopy(self.network)

    def teacher(self, classes: Tensor) -> Guided:
        """All conditions are the class: there is no guidance, and its strength has no effect."""

        def pair(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
            v = self.network(x, t, classes)
            return v, v

        return Guided(lambda x, t: self.network(x, t, classes), pair)

    def scores(self, samples: Tensor, classes: Tensor, ends: Tensor | None) -> list[dict[str, float]]:
        places = places_of(samples, classes)
        found = {
            VALID: float((places >= 0).double().mean()),
            COVERAGE: coverage(places, classes),
            FD: frechet_distance(Moments.of(samples.double().numpy()), moments()),
        }
        if ends is not None:
            found[MSE_TEACHER] = float((samples - ends).double().square().mean())
        return [found]

    def floor(self, classes: Tensor) -> list[dict[str, float]]:
        generator = torch.Generator().manual_seed(seed_of("oracle", PICTURES, "floor"))
        return self.scores(draw(classes, generator), classes, None)

    def panels(self, samples: Tensor, classes: Tensor, ends: Tensor) -> list[NDArray[np.uint8]]:
        """The teacher's own samples above, those of one step of the student below, from the same noise."""
        del classes
        return [np.concatenate([_sheet(ends[: SHOWN // 2]), _sheet(samples[: SHOWN // 2])])]


def _sheet(x: Tensor) -> NDArray[np.uint8]:
    """Pictures side by side, black where they are 0 and white where they are 1."""
    pictures = unscaled(x).nan_to_num(nan=0.5).clamp(0, 1).unflatten(1, (SIDE, SIDE))
    framed = nn.functional.pad(pictures, (0, 1, 0, 1), value=0.5).unflatten(0, (-1, ACROSS))
    page = framed.transpose(1, 2).flatten(2, 3).flatten(0, 1)
    large = page.repeat_interleave(ZOOM, 0).repeat_interleave(ZOOM, 1)
    return (255 * large[..., None].expand(-1, -1, 3)).round().to(torch.uint8).numpy()
