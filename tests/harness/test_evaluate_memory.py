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
from mdtbench.harness.evaluate.scores import clip_value, distance_values
from mdtbench.harness.evaluate.spool import Spool
from mdtbench.harness.protocol.model import load_protocol

count, dim, with_manifold = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "manifold"
kernel = load_protocol("trellis-v1").values.fd.kernel.model_copy(update={"subsets": 1})
random = np.random.default_rng(0)
with tempfile.TemporaryDirectory() as folder:
    spool = Spool(Path(folder))
    for i in range(2 * count):
        spool.add(str(i), random.standard_normal((4, dim), np.float32))
    real, fake = (spool.of(str(i) for i in range(start, start + count)) for start in (0, count))
    distance_values("x", "", real.rows, fake.rows, kernel, views=4, with_manifold=with_manifold)
    clip_value("", fake, real[:, 0], np.ones(count, bool), "")
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def peak_mb(count: int, dim: int, *what: str) -> float:
    """Of a process that scores so many assets of four pictures each."""
    command = [sys.executable, "-c", SCORING, str(count), str(dim), *(what or ("distances",))]
    done = subprocess.run(
        command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=True
    )
    return float(done.stdout)


def test_eight_and_eight_hundred_assets_differ_by_less_than_200_mb():
    # At the size of real features. What grows are matrices [D, D] that have their full rank only from D pictures on
    # (8 MB each at D = 1600 in float64: 20 MB) and subsets of 1000 pictures: neither grows any further.
    assert peak_mb(800, 1600, "manifold") - peak_mb(8, 1600, "manifold") < 200


@pytest.mark.slow
def test_features_are_never_in_memory_together():
    # Of 8,000 assets they are 66 MB, twice that in float64. What grows with N: numbers of rows, ids, one score each.
    assert peak_mb(8000, 256) - peak_mb(1000, 256) < 30
