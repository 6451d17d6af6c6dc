from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mdtbench.base.errors import UsageError
from mdtbench.metrics import manifold as module
from mdtbench.metrics.manifold import Manifold, manifold, squared_radii

GOLDEN = Path(__file__).parents[1] / "golden" / "distribution_metrics"
NAMES = ["dist_64d", "dist_256d_relu", "dist_256d_rank_deficient"]


def golden(name: str) -> tuple[dict, np.ndarray, np.ndarray]:
    arrays = np.load(GOLDEN / f"{name}.npz")
    return json.loads((GOLDEN / f"{name}.json").read_text())["results"]["prdc"], arrays["real"], arrays["fake"]


def line(*values: float) -> np.ndarray:
    return np.array(values, np.float32)[:, None]


@pytest.mark.parametrize("k", [3, 5])
@pytest.mark.parametrize("name", NAMES)
def test_matches_dgm_eval_and_torch_fidelity(name, k):
    results, real, fake = golden(name)
    expected = results[f"k{k}"]
    found = manifold(real, fake, k)
    # "exact": the counts are equal; the share of them may differ in the last bit
    for field in ("precision", "recall", "density", "coverage"):
        assert getattr(found, field) == pytest.approx(expected[field], rel=1e-14), field
    closed = manifold(real, fake, k, inside=np.less_equal)
    shares = expected["torch_fidelity_precision_recall"]  # stored as float32
    assert [closed.precision, closed.recall] == pytest.approx(shares, rel=1e-7)


def squared_distances(x, y):
    return np.concatenate([block for _, block in module._blocks(x, y)])


# Realism (arXiv:1904.06991, Eq. 3, over the real balls smaller than the median) is no metric of ours, but it
# shows the radii and distances themselves. rel 1e-9: those of the reference are float64 of the same features.
@pytest.mark.parametrize("k", [3, 5])
@pytest.mark.parametrize("name", NAMES)
def test_radii_and_distances_give_the_reference_realism(name, k):
    results, real, fake = golden(name)
    radii = np.sqrt(squared_radii(real, k))
    small = radii < np.median(radii)
    realism = (radii[small, None] / np.sqrt(squared_distances(real, fake)[small])).max(0)
    assert realism[:5].tolist() == pytest.approx(results[f"k{k}"]["realism_first5"], rel=1e-9)
    assert realism.mean() == pytest.approx(results[f"k{k}"]["realism_mean"], rel=1e-9)


def test_by_hand():
    # k = 1: radii of real (0, 1, 10) are 1, 1, 9, those of fake (0.5, 30, 31) 29.5, 1, 1
    found = manifold(line(0, 1, 10), line(0.5, 30, 31), k=1)
    # 0.5 is in the balls of 0 and 1 but 9.5 from 10; 30 and 31 are in none; all real are in the ball of 0.5
    assert found == Manifold(precision=1 / 3, recall=1, density=2 / 3, coverage=2 / 3)
    # the other way round: 0, 1 and 10 in the ball of 0.5 only
    assert manifold(line(0.5, 30, 31), line(0, 1, 10), k=1) == Manifold(
        precision=1, recall=1 / 3, density=1, coverage=1 / 3
    )


def test_the_ball_is_open_or_closed():
    # the one fake lies on the rim of the ball of 0 and of that of 10
    real, fake = line(0, 1, 10, 11), line(-1, 9)
    assert manifold(real, fake, 1).precision == 0
    assert manifold(real, fake, 1, inside=np.less_equal).precision == 1


def test_black_pictures_of_many_failed_assets():
    random = np.random.Generator(np.random.PCG64(0))
    real = random.standard_normal((50, 16)).astype(np.float32) + 20
    failed = np.repeat(random.standard_normal((1, 16)).astype(np.float32) + 30, 8, axis=0)
    radii = squared_radii(np.concatenate([real, failed]), 3)
    assert (radii[50:] == 0).all()  # not merely near zero, or it would be rounding who lies in whose ball
    assert (radii[:50] > 0).all()
    fake = np.concatenate([real[:20], failed])
    assert manifold(real, fake, 3).precision == pytest.approx(20 / 28)
    assert manifold(np.concatenate([real, failed]), failed, 3).recall == 0
    assert manifold(np.concatenate([real, failed]), failed, 3, inside=np.less_equal).recall == pytest.approx(8 / 58)


def test_a_set_is_its_own_manifold():
    x = np.random.Generator(np.random.PCG64(0)).standard_normal((200, 6))
    found = manifold(x, x, 4, inside=np.less_equal)
    assert (found.precision, found.recall, found.coverage) == (1, 1, 1)
    assert manifold(x, x + 100, 4) == Manifold(0, 0, 0, 0)


def test_blocks_do_not_change_the_result(monkeypatch):
    random = np.random.Generator(np.random.PCG64(1))
    real, fake = random.standard_normal((101, 5)), random.standard_normal((83, 5)) + 0.5
    whole, distances = manifold(real, fake), squared_distances(real, fake)
    monkeypatch.setattr(module, "ROWS", 10)
    assert manifold(real, fake) == whole
    np.testing.assert_allclose(squared_distances(real, fake), distances, rtol=1e-12)


def test_distances_survive_a_common_offset():
    random = np.random.Generator(np.random.PCG64(2))
    x, y = random.standard_normal((30, 8)), random.standard_normal((20, 8))
    expected = np.square(x[:, None] - y).sum(2)
    # 1e6 costs the features themselves 10 digits; without centring the product would cost the remaining ones
    np.testing.assert_allclose(squared_distances(x + 1e6, y + 1e6), expected, rtol=1e-8)
    np.testing.assert_allclose(squared_distances(x, y), expected, rtol=1e-12)


def test_refuses_what_has_no_neighbours():
    x = np.zeros((5, 3))
    with pytest.raises(UsageError, match=r"No 5-th nearest neighbour \(got 5 samples\)"):
        manifold(x, x)
    with pytest.raises(UsageError, match="No 0-th"):
        manifold(x, x, 0)
    with pytest.raises(UsageError, match="different dimensions"):
        manifold(x, np.zeros((5, 2)), 1)
    with pytest.raises(UsageError, match="not finite"):
        manifold(x, x + np.inf, 1)
