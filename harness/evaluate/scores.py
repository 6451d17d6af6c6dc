"""From features to the values of columns. A failed asset is a black picture in distances and 0 in ULIP_I.

Shapes: N assets, V views, D features, E embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from ...base.seeds import seed_of
from ...metrics.extrapolation import frechet_infinity
from ...metrics.frechet import frechet_distance
from ...metrics.kernel import draw_subsets, kernel_distance
from ...metrics.manifold import NEIGHBOURS, manifold
from ...metrics.official.agreement import Agreement, clip_score, shuffled_control, ulip_score
from ...metrics.streams import Features, moments
from ..cache import Address, Store
from ..protocol.values import Kernel

SCORES_VERSION = 1  # of all columns; raised when our code changes a value
KEPT_AS = 2  # how scores lie in the cache
MANIFOLD_OF = "dinov2"  # the features that precision, recall, density and coverage are of
HIGHER = ("precision", "recall", "density", "coverage", "ULIP", "CLIP")


@dataclass(frozen=True)
class Value:
    """One value of a column.

    Attributes:
        n_ok: assets that did not fail.
        extractor: versions of the networks that it is of, and what else decides it beside the reference.
        stderr: of an average its standard error over assets, of KD the sd over subsets.
        note: what a reader must know of it.
    """

    metric: str
    value: float
    n_ok: int
    extractor: str
    unit: str = ""
    stderr: float | None = None
    note: str = ""

    @property
    def higher_is_better(self) -> bool:
        return self.metric.startswith(HIGHER)


@dataclass(frozen=True)
class Distance:
    """A value, and its error where one evaluation tells it. Of FD it does not: its error bars are over seeds."""

    value: float
    error: float | None = None


def distance_values(
    ending: str, suffix: str, real: Features, fake: Features, kernel: Kernel, *, views: int, with_manifold: bool
) -> dict[str, Distance]:
    """All distances of one kind of features, which are read a part at a time.

    KD is scaled as in the protocol; its error is the sd over subsets, unless each of them is all there is.
    FD_inf is there where there are samples enough for it.

    Args:
        real, fake: [N V, D], of the same assets in the same order, the views of an asset in consecutive rows.
    """
    reference, name = moments(real), f"{ending}{suffix}"
    found = {f"FD_{name}": Distance(frechet_distance(moments(fake), reference))}
    stream = np.random.RandomState(kernel.seed)  # the protocol's: it never changes
    subsets = draw_subsets(stream, len(fake), len(fake), count=kernel.subsets, size=kernel.subset_size)
    kd = kernel_distance(fake, real, subsets)
    sd = kernel.scale * kd.sd if kernel.subset_size < len(fake) and kernel.subsets > 1 else None
    found[f"KD_{name}"] = Distance(kernel.scale * kd.mean, sd)
    if with_manifold and len(fake) > NEIGHBOURS:
        found |= {f"{key}_{name}": Distance(value) for key, value in asdict(manifold(real, fake)).items()}
    if len(fake) >= needed_for_infinity(real.shape[-1], views):
        random = np.random.default_rng(seed_of("FD_inf", kernel.seed))
        found[f"FD_inf_{name}"] = Distance(frechet_infinity(reference, fake, random, views=views).value)
    return found


def needed_for_infinity(dim: int, views: int) -> int:
    """Pictures from which `frechet_infinity` works: twice as many as make a covariance regular, in whole assets."""
    return 2 * -(-(dim + 1) // views) * views


def agreement_value(metric: str, agreement: Agreement, n_ok: int, extractor: str) -> Value:
    """ULIP_I or a CLIP score with its standard error over assets."""
    count = len(agreement.per_asset)
    stderr = float(agreement.per_asset.std(ddof=1) / np.sqrt(count)) if count > 1 else None
    valid, alone = agreement.mean_valid, "over valid assets alone"
    note = "" if not agreement.n_fail or valid is None else f"{metric} {alone}: {valid:.2f}"
    return Value(metric, agreement.mean, n_ok, extractor, "x100", stderr, note)


def ulip_value(pictures: Features, made: NDArray[np.float32], ok: NDArray[np.bool_], extractor: str) -> Value:
    """ULIP_I of a system.

    Args:
        pictures: [N, V, E]. made: [N, E], of points on the system's meshes.
        ok: [N] whether both are there.
    """
    return agreement_value("ULIP_I", ulip_score(pictures, made, ok), int(ok.sum()), extractor)


def control_values(
    pictures: Features, truth: NDArray[np.float32], seen: NDArray[np.bool_], extractor: str
) -> dict[str, Value]:
    """ULIP_I of the two controls.

    Args:
        pictures: [N, V, E]. truth: [N, E], of points on the reference's meshes.
        seen: [N] whether the pictures are there.
    """
    scored = {
        "truth": ulip_score(pictures, truth, seen),
        "shuffled": shuffled_control(pictures, truth, np.ones(len(seen), bool), seen),
    }
    return {name: agreement_value("ULIP_I", score, int(seen.sum()), extractor) for name, score in scored.items()}


def clip_value(
    suffix: str, views: Features, conditions: NDArray[np.float32], ok: NDArray[np.bool_], extractor: str
) -> Value:
    """The CLIP score. views: [N, V, E] of the system's assets. conditions: [N, E]. ok: [N] whether both are there."""
    return agreement_value(f"CLIP_score{suffix}", clip_score(views, conditions, ok), int(ok.sum()), extractor)


def kept(store: Store, inputs: Mapping[str, object], compute: Callable[[], dict[str, Distance]]) -> dict[str, Distance]:
    """Named distances from the cache, computed if need be. inputs: all that decides them."""
    address = Address("scores", {**inputs, "version": SCORES_VERSION, "kept_as": KEPT_AS})
    found = store.get_or_make(address, lambda: {name: _stored(one) for name, one in compute().items()})
    return {name: Distance(*map(float, numbers)) for name, numbers in found.items()}


def _stored(distance: Distance) -> list[float]:
    return [distance.value] if distance.error is None else [distance.value, distance.error]
