"""`mdtbench bench fd`: our Frechet distance against the one that takes the square root of a matrix."""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
import scipy
from scipy import linalg

from ...base.errors import RunError
from ...base.text import counted, spread
from ...metrics.frechet import Moments, frechet_distance
from ..engine.progress import Reporter

DIM = 2048  # of Inception's pooled features
SAMPLES_PER_DIM = (2, 0.5)  # covariances of full rank; and fewer samples than dimensions, as in small test sets
OURS, SQRTM = "eigvalsh", "sqrtm"
RIDGE = 1e-6  # what pytorch-fid adds to the diagonals where the root is not finite
LARGEST_IMAGINARY = 1e-3  # and what it tolerates on the root's diagonal


@dataclass(frozen=True)
class FdFigures:
    """One distance from moments at hand, by both ways ("eigvalsh", "sqrtm"); one value per repetition.

    Attributes:
        samples: on each side.
        wall_s, cpu_s: seconds, and processor time of all threads.
        ratio, cpu_ratio: sqrtm / eigvalsh of each repetition.
        distance: what each way gives; relative_difference: between the two.
        threads: OMP_NUM_THREADS, empty where the linear algebra library chooses.
    """

    dim: int
    samples: int
    wall_s: dict[str, list[float]]
    cpu_s: dict[str, list[float]]
    ratio: list[float]
    cpu_ratio: list[float]
    distance: dict[str, float]
    relative_difference: float
    threads: str
    numpy: str
    scipy: str


def measure_fd(repetitions: int, report: Reporter, dim: int = DIM) -> list[FdFigures]:
    """Figures for each of SAMPLES_PER_DIM. At 2048 dimensions a repetition takes about a minute."""
    task = report.start("Frechet distance", repetitions * len(SAMPLES_PER_DIM))
    _by_turns(1, 8, 16, lambda done: None)  # loads the libraries
    found: list[FdFigures] = []
    for samples in (int(share * dim) for share in SAMPLES_PER_DIM):
        before = repetitions * len(found)
        found.append(_by_turns(repetitions, dim, samples, lambda done, b=before: report.update(task, b + done)))
    return found


def _by_turns(repetitions: int, dim: int, samples: int, after: Callable[[int], None]) -> FdFigures:
    """A machine that gets slower does so for both."""
    a, b = (Moments.of(features_like_inception(seed, samples, dim)) for seed in (0, 1))
    ways: dict[str, Callable[[Moments, Moments], float]] = {OURS: frechet_distance, SQRTM: frechet_by_sqrtm}
    wall_s: dict[str, list[float]] = {name: [] for name in ways}
    cpu_s: dict[str, list[float]] = {name: [] for name in ways}
    distance: dict[str, float] = {}
    for i in range(repetitions):
        for name, way in ways.items():
            wall, cpu = time.perf_counter(), time.process_time()
            distance[name] = way(a, b)
            wall_s[name].append(time.perf_counter() - wall)
            cpu_s[name].append(time.process_time() - cpu)
        after(i + 1)
    return FdFigures(
        dim=dim,
        samples=samples,
        wall_s=wall_s,
        cpu_s=cpu_s,
        ratio=_ratio(wall_s),
        cpu_ratio=_ratio(cpu_s),
        distance=distance,
        relative_difference=abs(distance[OURS] / distance[SQRTM] - 1),
        threads=os.environ.get("OMP_NUM_THREADS", ""),
        numpy=np.__version__,
        scipy=scipy.__version__,
    )


def features_like_inception(seed: int, samples: int, dim: int) -> np.ndarray:
    """Correlated features, at least zero, with a falling spectrum: [samples, dim] float32."""
    random = np.random.Generator(np.random.PCG64(seed))
    mixing = random.standard_normal((dim, dim)) * (1 + np.arange(dim)) ** -0.5
    features = random.standard_normal((samples, dim)) @ mixing.T
    return np.maximum(features, 0).astype(np.float32)


def frechet_by_sqrtm(a: Moments, b: Moments) -> float:
    """The same distance as pytorch-fid computes it: through the square root of the product of the covariances.

    `scipy.linalg.sqrtm` is called without `disp`, which SciPy 1.18 no longer has; the root is the same.

    Raises:
        RunError: the root is not real.
    """
    shift, covariance_a, covariance_b = a.mean - b.mean, a.covariance, b.covariance
    root = linalg.sqrtm(covariance_a @ covariance_b)
    if not np.isfinite(root).all():
        ridge = RIDGE * np.eye(len(root))
        root = linalg.sqrtm((covariance_a + ridge) @ (covariance_b + ridge))
    imaginary = float(np.abs(np.imag(np.diagonal(root))).max())
    if imaginary > LARGEST_IMAGINARY:
        raise RunError(
            f"A matrix root that is not real (got an imaginary part of {imaginary:.2g}) - at most "
            f"{LARGEST_IMAGINARY:g} - use our FD, which needs no root."
        )
    return float(shift @ shift + np.trace(covariance_a) + np.trace(covariance_b) - 2 * np.trace(root).real)


def fd_text(found: list[FdFigures]) -> str:
    return "\n".join(_case(figures) for figures in found)


def _case(found: FdFigures) -> str:
    threads = f"OMP_NUM_THREADS={found.threads}" if found.threads else "OMP_NUM_THREADS not set"
    lines = [
        f"Frechet distance of {found.dim} features from the moments of {found.samples} samples on each side. "
        f"{counted(len(found.ratio), 'repetition')}, by turns; {threads}, numpy {found.numpy}, scipy {found.scipy}.",
        "",
        f"{'median (least to most)':24} {OURS + ' (ours)':>26} {SQRTM + ' (pytorch-fid)':>26}   times faster",
        _row("wall time in s", found.wall_s, found.ratio),
        _row("processor time in s", found.cpu_s, found.cpu_ratio),
        f"{'distance':24} {found.distance[OURS]:>26.10g} {found.distance[SQRTM]:>26.10g}",
        "",
        f"Relative difference of the distances: {found.relative_difference:.1e}.",
    ]
    return "\n".join(lines) + "\n"


def fd_json(found: list[FdFigures]) -> str:
    cases = [
        asdict(figures)
        | {
            "wall_s_median": {name: statistics.median(values) for name, values in figures.wall_s.items()},
            "ratio_median": statistics.median(figures.ratio),
            "cpu_ratio_median": statistics.median(figures.cpu_ratio),
        }
        for figures in found
    ]
    return json.dumps({"benchmark": "fd", "cases": cases}, indent=1, sort_keys=True) + "\n"


def _ratio(seconds: dict[str, list[float]]) -> list[float]:
    return [root / ours for ours, root in zip(seconds[OURS], seconds[SQRTM], strict=True)]


def _row(label: str, seconds: dict[str, list[float]], ratio: list[float]) -> str:
    return f"{label:24} {spread(seconds[OURS], 3):>26} {spread(seconds[SQRTM], 3):>26}   {spread(ratio, 1)}"
