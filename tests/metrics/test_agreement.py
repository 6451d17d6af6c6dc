"""Scores of agreement by hand: what counts, what fails, what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import ArrayLike

from mdtbench.metrics import Comparison, NotMeasured, Score, Seen
from mdtbench.metrics.agreement import CHUNK, Agreement, cosines
from mdtbench.metrics.contract import check_metric

ULIP = Agreement("ULIP_I", "points:ulip2", "gaussians:clip_bigg", "truth", "assets")


def seen(ok: ArrayLike = True, **looks: ArrayLike) -> Seen:
    """Looks are named with _ in the place of the colon."""
    data = {name.replace("_", ":", 1): np.asarray(features, float) for name, features in looks.items()}
    n = len(next(iter(data.values())))
    return Seen(tuple(map(str, range(n))), np.broadcast_to(np.asarray(ok, bool), n), data)


def ulip(pictures: ArrayLike, points: ArrayLike, ok: ArrayLike = True, shown: ArrayLike = True) -> Score:
    """pictures: [N, V, E]. points: [N, E]."""
    made = seen(ok, points_ulip2=np.asarray(points)[:, None])
    return ULIP.score(made, Comparison(truth=seen(shown, gaussians_clip_bigg=pictures)))


def test_scores_by_hand():
    pictures = np.array([[[2.0, 0], [0, 3]], [[1, 1], [1, 1]], [[1, 0], [1, 0]]])
    points = np.array([[5.0, 0], [0, 2], [np.nan, np.nan]])
    found = ulip(pictures, points, [True, True, False])
    # Asset 0: cosines 1 and 0. Asset 1: sqrt(1/2) twice. Asset 2 failed.
    expected = [50, 100 / np.sqrt(2), 0]
    assert found.per_asset is not None
    np.testing.assert_allclose(found.per_asset, expected, rtol=1e-15)
    assert found.value == pytest.approx(sum(expected) / 3, rel=1e-15)
    assert found.stderr == pytest.approx(np.std(expected, ddof=1) / np.sqrt(3), rel=1e-15)
    assert (found.n_ok, found.note) == (2, f"ULIP_I over valid assets alone: {sum(expected) / 2:.2f}")


def test_views_are_averaged_as_cosines_not_as_embeddings():
    # The mean of (1, 0) and (-1, 0.1) would point along (0, 1); the mean of the cosines with (0, 1) is about 0.05.
    found = ulip([[[1, 0], [-1, 0.1]]], [[0.0, 1.0]])
    assert found.value == pytest.approx(50 * 0.1 / np.hypot(1, 0.1))


def test_shuffled_pairs_are_picture_i_with_mesh_i_plus_1():
    """What the control is: things and whether they are there, moved by one."""
    pictures = np.eye(3)[:, None]
    points = np.roll(np.eye(3), 1, 0)  # mesh i + 1 is what picture i shows
    every, moved = ulip(pictures, points), ulip(pictures, np.roll(points, -1, 0))
    assert (every.value, moved.value) == (0, 100)
    found = ulip(pictures, np.roll(points, -1, 0), np.roll([True, False, True], -1))
    assert found.per_asset is not None
    assert found.per_asset.tolist() == [0, 100, 100]  # picture 0 meets the failed mesh 1
    assert found.n_ok == 2


def test_a_thing_without_pictures_counts_as_zero_too():
    found = ulip(np.ones((3, 2, 2)), np.ones((3, 2)), [True, False, True], [True, True, False])
    assert found.per_asset is not None
    assert found.per_asset.tolist() == [pytest.approx(100), 0, 0]
    assert found.n_ok == 1


def test_all_failed_and_empty_embeddings():
    found = ulip(np.ones((2, 4, 3)), np.zeros((2, 3)), [False, False])
    assert (found.value, found.n_ok, found.note) == (0, 0, "")
    assert ulip(np.ones((1, 4, 3)), np.zeros((1, 3))).value == 0
    assert ulip(np.ones((1, 4, 3)), np.ones((1, 3))).note == ""  # nothing failed, so there is nothing to add


def test_an_embedding_that_counts_must_be_finite():
    with pytest.raises(NotMeasured, match="assets that did not fail hold NaN"):
        ulip(np.ones((1, 1, 3)), [[np.nan, 0, 0]])
    with np.errstate(invalid="ignore"), pytest.raises(NotMeasured, match="NaN or infinity"):
        ulip([[[np.inf, 0, 0]]], [[1, 0, 0]])


def test_float32_embeddings_are_compared_in_float64():
    random = np.random.default_rng(3)
    pictures, points = (random.standard_normal(shape).astype(np.float32) for shape in ((5, 4, 64), (5, 64)))
    wide_pictures, wide_points = pictures.astype(np.float64), points.astype(np.float64)
    lengths = np.linalg.norm(wide_pictures, axis=-1) * np.linalg.norm(wide_points, axis=-1)[:, None]
    expected = 100 * (np.einsum("nve,ne->nv", wide_pictures, wide_points) / lengths).mean(1)
    np.testing.assert_allclose(cosines(points[:, None], pictures, np.ones(5, bool)), expected, rtol=1e-13, atol=1e-13)


def test_the_views_of_a_thing_against_its_condition():
    """The CLIP score of TRELLIS: eight views against the picture that the asset was made from."""
    angles = np.deg2rad(np.arange(8) * 45 / 4)
    views = np.stack([np.cos(angles), np.sin(angles)], -1)[None]
    metric = Agreement("CLIP_score", "gaussians_turn:clip_l14", "condition:clip_l14", "condition", "assets")
    made = Seen(("a",), np.ones(1, bool), {"gaussians_turn:clip_l14": views})
    shown = Seen(("a",), np.ones(1, bool), {"condition:clip_l14": np.array([[[7.0, 0.0]]])})
    found = metric.score(made, Comparison(condition=shown))
    assert found.value == pytest.approx(100 * np.cos(angles).mean(), rel=1e-12)


@pytest.mark.parametrize("of", ["truth", "condition", "made"])
def test_it_asks_for_the_pictures_of_the_side_that_they_are_of(of: str):
    picture = "condition:e" if of == "condition" else "gaussians:e"
    metric = Agreement("A", "points:p", picture, of, "assets")  # type: ignore[arg-type]
    check_metric(metric)
    assert metric.made == (("points:p", picture) if of == "made" else ("points:p",))
    assert (metric.truth, metric.condition) == ((picture,) if of == "truth" else (), (picture,) * (of == "condition"))
    thing, pictures = {"points:p": np.eye(2)[:, None]}, {picture: np.eye(2)[::-1, None]}
    made, shown = (Seen(("a", "b"), np.ones(2, bool), data) for data in (thing | pictures, pictures))
    assert metric.score(made, Comparison(**({} if of == "made" else {of: shown}))).value == 0


def test_assets_are_scored_a_few_at_a_time_with_the_same_result():
    random = np.random.default_rng(0)
    pictures, points = random.standard_normal((2 * CHUNK + 1, 3, 4)), random.standard_normal((2 * CHUNK + 1, 4))
    lengths = []

    class Read:
        """Of what is read at once."""

        shape = pictures.shape

        @property
        def rows(self):
            raise NotImplementedError

        def __len__(self) -> int:
            return len(pictures)

        def __getitem__(self, rows):
            lengths.append(len(pictures[rows]))
            return pictures[rows]

    ok = np.arange(len(points)) != CHUNK
    found = cosines(points[:, None], Read(), ok)
    unit = pictures / np.linalg.norm(pictures, axis=-1, keepdims=True)
    expected = 100 * np.einsum("nve,ne->n", unit, points / np.linalg.norm(points, axis=-1, keepdims=True)) / 3
    np.testing.assert_allclose(found, expected * ok, rtol=0, atol=1e-12)
    assert lengths == [CHUNK, CHUNK, 1]
