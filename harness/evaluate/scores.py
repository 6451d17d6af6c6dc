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
from ...metrics.frechet import Moments, frechet_distance
from ...metrics.kernel import draw_subsets, kernel_distance
from ...metrics.manifold import NEIGHBOURS, manifold
from ...metrics.official.ulip import Agreement, shuffled_control, ulip_score
from ..cache import Address, Store
from ..protocol.values import Kernel

SCORES_VERSION = 1  # of all columns; raised when our code changes a value
CHUNK = 128  # assets whose features are float64 at a time
MANIFOLD_OF = "dinov2"  # the features that precision, recall, density and coverage are of
HIGHER = ("precision", "recall", "density", "coverage", "ULIP")


@dataclass(frozen=True)
class Value:
    """One value of a column.

    Attributes:
        n_ok: assets that did not fail.
        extractor: versions of the networks that it is of.
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


def distance_values(
    ending: str,
    suffix: str,
    real: NDArray[np.float32],
    fake: NDArray[np.float32],
    kernel: Kernel,
    *,
    with_manifold: bool,
) -> dict[str, float]:
    """All distances of one kind of features. real, fake: [N, V, D], of the same assets in the same order.

    KD is scaled as in the protocol. FD_inf is there where there are samples enough for it.
    """
    views = real.shape[1]
    reference, rows, name = moments(real), _rows(fake), f"{ending}{suffix}"
    found = {f"FD_{name}": frechet_distance(moments(fake), reference)}
    stream = np.random.RandomState(kernel.seed)  # the protocol's: it never changes
    subsets = draw_subsets(stream, len(rows), len(rows), count=kernel.subsets, size=kernel.subset_size)
    found[f"KD_{name}"] = kernel.scale * kernel_distance(rows, _rows(real), subsets).mean
    if with_manifold and len(rows) > NEIGHBOURS:
        found |= {f"{key}_{name}": value for key, value in asdict(manifold(_rows(real), rows)).items()}
    if len(rows) >= needed_for_infinity(real.shape[2], views):
        random = np.random.default_rng(seed_of("FD_inf", kernel.seed))
        found[f"FD_inf_{name}"] = frechet_infinity(reference, rows, random, views=views).value
    return found


def needed_for_infinity(dim: int, views: int) -> int:
    """Pictures from which `frechet_infinity` works: twice as many as make a covariance regular, in whole assets."""
    return 2 * -(-(dim + 1) // views) * views


def moments(features: NDArray[np.float32]) -> Moments:
    """Of [N, V, D], a few assets at a time: all of them in float64 would be twice the features."""
    found = Moments.empty(features.shape[-1])
    for start in range(0, len(features), CHUNK):
        found = found.updated(_rows(features[start : start + CHUNK]))
    return found


def agreement_value(agreement: Agreement, n_ok: int, extractor: str) -> Value:
    """ULIP_I with its standard error over assets."""
    count = len(agreement.per_asset)
    stderr = float(agreement.per_asset.std(ddof=1) / np.sqrt(count)) if count > 1 else None
    valid = agreement.mean_valid
    note = "" if not agreement.n_fail or valid is None else f"ULIP_I over valid meshes alone: {valid:.2f}"
    return Value("ULIP_I", agreement.mean, n_ok, extractor, "x100", stderr, note)


def ulip_values(
    pictures: NDArray[np.float32],
    truth: NDArray[np.float32],
    made: NDArray[np.float32],
    ok: NDArray[np.bool_],
    extractor: str,
) -> dict[str, Value]:
    """ULIP_I of the system and of the two controls.

    Args:
        pictures: [N, V, E] of the reference. truth, made: [N, E], of points on the reference's and the system's meshes.
        ok: [N] whether the system's mesh is there.
    """
    every = np.ones(len(ok), bool)
    scored = {
        "system": (ulip_score(pictures, made, ok), int(ok.sum())),
        "truth": (ulip_score(pictures, truth, every), len(ok)),
        "shuffled": (shuffled_control(pictures, truth, every), len(ok)),
    }
    return {name: agreement_value(*pair, extractor) for name, pair in scored.items()}


def kept(store: Store, inputs: Mapping[str, object], compute: Callable[[], dict[str, float]]) -> dict[str, float]:
    """Named numbers from the cache, computed if need be. inputs: all that decides them."""
    address = Address("scores", {**inputs, "version": SCORES_VERSION})
    return {name: float(value) for name, value in store.get_or_make(address, compute).items()}


def _rows(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """[N, V, D] -> [N V, D]."""
    return features.reshape(-1, features.shape[-1])
