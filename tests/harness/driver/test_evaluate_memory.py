"""Memory of scoring: bounded by what one step of a computation holds, not by the number of assets."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

SCORING = """
import resource, sys, tempfile
from pathlib import Path
import numpy as np
from mdtbench.harness.engine.jobs import Place
from mdtbench.harness.engine.store import Address
from mdtbench.harness.measure import features
from mdtbench.harness.measure.features import gathered
from mdtbench.metrics import Comparison, Seen
from mdtbench.metrics.agreement import Agreement
from mdtbench.metrics.distributions import FrechetInfinity, KernelDistance, ManifoldShare
from mdtbench.metrics.fd import FrechetDistance

count, dim, what = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
SHARD = min(count, 40)
features.IN_MEMORY = 2**18  # as if there were many more
random = np.random.default_rng(0)
of = ("mesh", "x")
metrics = [FrechetDistance("FD", *of, "assets"), KernelDistance("KD", *of, subsets=1), FrechetInfinity("inf", *of)]
if what == "manifold":
    metrics.append(ManifoldShare("precision", *of))
metrics.append(Agreement("agrees", "mesh:x", "mesh:x", "truth", "assets"))
with tempfile.TemporaryDirectory() as folder:
    root, sides = Path(folder), []
    for side in ("made", "truth"):
        places = [Place(root, Address("features", {"of": [side, i]})) for i in range(count // SHARD)]
        for place in places:
            seen = random.standard_normal((SHARD, 4, dim), np.float32)
            place.put({"features": seen, "ok": np.ones(SHARD, bool), "errors": np.full(SHARD, "")})
        found, ok = gathered(places, "features", root)
        sides.append(Seen(tuple(map(str, range(count))), ok, {"mesh:x": found}))
    for metric in metrics:
        metric.score(sides[0], Comparison(truth=sides[1]))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def peak_mb(count: int, dim: int, what: str = "distances") -> float:
    """Of a process that scores so many assets of four pictures each."""
    command, one = [sys.executable, "-c", SCORING, str(count), str(dim), what], os.environ | {"OMP_NUM_THREADS": "1"}
    return float(subprocess.run(command, env=one, capture_output=True, text=True, check=True).stdout)


@pytest.mark.slow
def test_eight_and_eight_hundred_assets_differ_by_less_than_200_mb():
    # At the size of real features. What grows are matrices [D, D] that have their full rank only from D pictures on
    # (20 MB each at D = 1600 in float64) and subsets of 1000 pictures: neither grows any further.
    assert peak_mb(800, 1600, "manifold") - peak_mb(8, 1600, "manifold") < 200


@pytest.mark.slow
def test_features_are_never_in_memory_together():
    # Of 8,000 assets they are 66 MB, twice that in float64. What grows with N: numbers of rows, ids, one score each.
    assert peak_mb(8000, 256) - peak_mb(1000, 256) < 30
