"""Scores of agreement by hand: what counts, what fails, what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from mdtbench.base.errors import UsageError
from mdtbench.metrics.official.agreement import CHUNK, clip_score, shuffled_control, ulip_score


def test_scores_by_hand():
    pictures = np.array([[[2.0, 0], [0, 3]], [[1, 1], [1, 1]], [[1, 0], [1, 0]]])
    points = np.array([[5.0, 0], [0, 2], [np.nan, np.nan]])
    score = ulip_score(pictures, points, [True, True, False])
    # Asset 0: cosines 1 and 0. Asset 1: sqrt(1/2) twice. Asset 2 failed.
    expected = [50, 100 / np.sqrt(2), 0]
    np.testing.assert_allclose(score.per_asset, expected, rtol=1e-15)
    assert score.mean == pytest.approx(sum(expected) / 3, rel=1e-15)
    assert score.mean_valid == pytest.approx(sum(expected) / 2, rel=1e-15)
    assert score.n_fail == 1


def test_views_are_averaged_as_cosines_not_as_embeddings():
    # The mean of (1, 0) and (-1, 0.1) would point along (0, 1); the mean of the cosines with (0, 1) is about 0.05.
    score = ulip_score(np.array([[[1, 0], [-1, 0.1]]]), [[0.0, 1.0]], [True])
    assert score.mean == pytest.approx(50 * 0.1 / np.hypot(1, 0.1))


def test_shuffled_pairs_are_picture_i_with_mesh_i_plus_1():
    pictures = np.eye(3)[:, None]
    points = np.roll(np.eye(3), 1, 0)  # mesh i + 1 is what picture i shows
    assert shuffled_control(pictures, points, [True] * 3).per_asset.tolist() == [100] * 3
    failed = shuffled_control(pictures, points, [True, False, True])
    assert failed.per_asset.tolist() == [0, 100, 100]  # picture 0 meets the failed mesh 1
    assert failed.n_fail == 1
    with pytest.raises(UsageError, match="at least 2"):
        shuffled_control(pictures[:1], points[:1], [True])


def test_all_failed_and_empty_embeddings():
    score = ulip_score(np.ones((2, 4, 3)), np.zeros((2, 3)), [False, False])
    assert (score.mean, score.mean_valid, score.n_fail) == (0, None, 2)
    assert ulip_score(np.ones((1, 4, 3)), np.zeros((1, 3)), [True]).mean == 0


def test_scores_of_wrong_arrays_are_refused():
    with pytest.raises(UsageError, match=r"\[2, 3\], \[2, 3\], \[2\] - they must be"):
        ulip_score(np.ones((2, 3)), np.ones((2, 3)), [True, True])
    with pytest.raises(UsageError, match="they must be"):
        ulip_score(np.ones((2, 1, 3)), np.ones((3, 3)), [True, True])
    with pytest.raises(UsageError, match="mark those assets as failed"):
        ulip_score(np.ones((1, 1, 3)), [[np.nan, 0, 0]], [True])


def test_clip_score_is_the_mean_over_eight_views():
    angles = np.deg2rad(np.arange(8) * 45 / 4)
    views = np.stack([np.cos(angles), np.sin(angles)], -1)[None]
    score = clip_score(views, [[7.0, 0.0]], [True])
    assert score.mean == pytest.approx(100 * np.cos(angles).mean(), rel=1e-12)


def test_assets_are_scored_a_few_at_a_time_with_the_same_result():
    random = np.random.default_rng(0)
    pictures, points = random.standard_normal((2 * CHUNK + 1, 3, 4)), random.standard_normal((2 * CHUNK + 1, 4))
    lengths = []

    class Read:
        """Of what is read at once."""

        shape = pictures.shape

        def __len__(self) -> int:
            return len(pictures)

        def __getitem__(self, rows):
            lengths.append(len(pictures[rows]))
            return pictures[rows]

    ok = np.arange(len(points)) != CHUNK
    found = ulip_score(Read(), points, ok)
    unit = pictures / np.linalg.norm(pictures, axis=-1, keepdims=True)
    expected = 100 * np.einsum("nve,ne->n", unit, points / np.linalg.norm(points, axis=-1, keepdims=True)) / 3
    np.testing.assert_allclose(found.per_asset, expected * ok, rtol=0, atol=1e-12)
    assert lengths == [CHUNK, CHUNK, 1]
