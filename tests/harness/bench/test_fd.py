"""`mdtbench bench fd`: both ways measure the same thing, and what is printed is what was measured."""

from __future__ import annotations

import json

import numpy as np
import pytest

from mdtbench.base.errors import RunError
from mdtbench.harness.bench import fd as bench_fd
from mdtbench.harness.bench.fd import FdFigures, fd_json, fd_text, features_like_inception, frechet_by_sqrtm, measure_fd
from mdtbench.metrics.frechet import Moments


class Quiet:
    def __init__(self) -> None:
        self.seen: list[int] = []

    def note(self, text: str) -> None: ...

    def start(self, label: str, total: int, done: int = 0) -> int:
        return 0

    def update(self, task: int, done: int, info: str = "") -> None:
        self.seen.append(done)


def test_both_ways_agree_and_are_timed_by_turns():
    reporter = Quiet()
    full, deficient = measure_fd(3, reporter, dim=24)
    assert reporter.seen == [1, 2, 3, 4, 5, 6]
    assert [(found.dim, found.samples) for found in (full, deficient)] == [(24, 48), (24, 12)]
    assert full.relative_difference < 1e-8
    assert deficient.relative_difference < 1e-3  # the root of a singular matrix is not accurate
    for found in (full, deficient):
        assert {name: len(values) for name, values in found.wall_s.items()} == {"eigvalsh": 3, "sqrtm": 3}
        assert found.distance["sqrtm"] > 0
        for ratio, seconds in ((found.ratio, found.wall_s), (found.cpu_ratio, found.cpu_s)):
            assert ratio == [b / a for a, b in zip(seconds["eigvalsh"], seconds["sqrtm"], strict=True)]


def test_the_features_are_of_full_rank_and_like_a_rectified_layer():
    x = features_like_inception(0, 32, 16)
    assert (x.dtype, x.shape) == (np.float32, (32, 16))
    assert x.min() == 0
    assert np.linalg.matrix_rank(np.cov(x, rowvar=False)) == 16
    assert not np.array_equal(x, features_like_inception(1, 32, 16))


def test_the_root_of_known_matrices():
    # commuting: |mu|^2 + sum (sd_a - sd_b)^2
    a = Moments(2, np.array([1.0, 0.0]), np.diag([4.0, 9.0]))
    b = Moments(2, np.array([0.0, 2.0]), np.diag([1.0, 25.0]))
    assert frechet_by_sqrtm(a, b) == pytest.approx(5 + 1 + 4, rel=1e-12)


def test_a_root_that_is_not_finite_gets_a_ridge(monkeypatch):
    asked = []

    def root(matrix: np.ndarray) -> np.ndarray:
        asked.append(matrix)
        return np.full_like(matrix, np.nan) if len(asked) == 1 else np.sqrt(matrix)

    monkeypatch.setattr(bench_fd.linalg, "sqrtm", root)
    a = Moments(2, np.zeros(2), np.diag([4.0, 0.0]))
    frechet_by_sqrtm(a, a)
    np.testing.assert_allclose(np.diagonal(asked[1]), [(4 + 1e-6) ** 2, 1e-12])


def test_a_root_that_is_not_real_is_an_error(monkeypatch):
    monkeypatch.setattr(bench_fd.linalg, "sqrtm", lambda matrix: matrix + 0.1j)
    a = Moments(2, np.zeros(2), np.eye(2))
    with pytest.raises(RunError, match=r"not real \(got an imaginary part of 0\.1\)"):
        frechet_by_sqrtm(a, a)


FIGURES = FdFigures(
    dim=2048,
    samples=4096,
    wall_s={"eigvalsh": [2.0, 1.0, 1.5], "sqrtm": [60.0, 50.0, 75.0]},
    cpu_s={"eigvalsh": [1.0, 1.0, 1.0], "sqrtm": [30.0, 40.0, 35.0]},
    ratio=[30.0, 50.0, 50.0],
    cpu_ratio=[30.0, 40.0, 35.0],
    distance={"eigvalsh": 12.3456789, "sqrtm": 12.3456788},
    relative_difference=8e-9,
    threads="1",
    numpy="2.4",
    scipy="1.17",
)


def test_the_text_says_what_was_measured():
    text = fd_text([FIGURES])
    for part in ("2048 features", "4096 samples", "3 repetitions", "OMP_NUM_THREADS=1", "scipy 1.17", "8.0e-09"):
        assert part in text
    [wall] = [line for line in text.splitlines() if line.startswith("wall time")]
    for part in ("1.500 (1.000 to 2.000)", "60.000 (50.000 to 75.000)", "50.0 (30.0 to 50.0)"):
        assert part in wall
    [cpu] = [line for line in text.splitlines() if line.startswith("processor time")]
    assert cpu.endswith("35.0 (30.0 to 40.0)")
    [distance] = [line for line in text.splitlines() if line.startswith("distance")]
    assert distance.split()[1:] == ["12.3456789", "12.3456788"]


def test_the_json_holds_everything():
    everything = json.loads(fd_json([FIGURES, FIGURES]))
    assert everything["benchmark"] == "fd"
    assert len(everything["cases"]) == 2
    found = everything["cases"][0]
    assert found["wall_s"] == FIGURES.wall_s
    assert found["wall_s_median"] == {"eigvalsh": 1.5, "sqrtm": 60.0}
    assert (found["ratio_median"], found["cpu_ratio_median"]) == (50.0, 35.0)
    assert found["distance"]["sqrtm"] == 12.3456788
