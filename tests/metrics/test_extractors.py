"""The tiny extractors: what they see, that an asset's features are its own, and what a result records of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mdtbench.base.errors import UsageError
from mdtbench.metrics.extractors import EXTRACTORS, DualEncoder, FeatureNetwork, NetworkExtractor, occupied_cells


def extractor(name: str, args: dict[str, int]) -> NetworkExtractor:
    network = EXTRACTORS.create(name, args).eval()
    assert isinstance(network, FeatureNetwork)
    return NetworkExtractor("tiny", "1", "0" * 64, args["dim"], network)


def pictures(n: int, seed: int = 0) -> np.ndarray:
    return np.random.Generator(np.random.PCG64(seed)).integers(0, 256, (n, 3, 32, 32), np.uint8)


def points(n: int, seed: int = 0, count: int = 200) -> np.ndarray:
    return np.random.Generator(np.random.PCG64(seed)).uniform(-0.5, 0.5, (n, count, 6)).astype(np.float32)


@pytest.fixture(scope="module")
def of_pictures() -> NetworkExtractor:
    return extractor("PictureClassifier", {"image_size": 32, "dim": 16, "categories": 5})


@pytest.fixture(scope="module")
def of_points() -> NetworkExtractor:
    return extractor("PointsClassifier", {"resolution": 8, "dim": 16, "categories": 5})


@pytest.fixture(scope="module")
def dual() -> DualEncoder:
    network = EXTRACTORS.create("DualEncoder", {"image_size": 32, "dim": 16}).eval()
    assert isinstance(network, DualEncoder)
    return network


def test_features_are_finite_float32_and_tell_assets_apart(of_pictures: NetworkExtractor, of_points: NetworkExtractor):
    for made, batch in ((of_pictures, pictures(4)), (of_points, points(4))):
        features = made(batch)
        assert features.shape == (4, made.dim)
        assert features.dtype == np.float32
        assert np.isfinite(features).all()
        assert len({row.tobytes() for row in features}) == 4


def test_an_assets_features_do_not_depend_on_its_batch(of_pictures: NetworkExtractor, of_points: NetworkExtractor):
    """Up to the rounding of float32 sums of another order; no statistics over the batch enter."""
    for made, batch in ((of_pictures, pictures(5)), (of_points, points(5))):
        together, order = made(batch), [3, 1, 4, 0, 2]
        np.testing.assert_allclose(made(batch[order]), together[order], atol=1e-5, rtol=1e-5)
        alone = np.concatenate([made(one[None]) for one in batch])
        np.testing.assert_allclose(alone, together, atol=1e-5, rtol=1e-5)
        assert np.array_equal(made(batch[:1]), made(batch[:1]))


def test_the_scale_divides_the_hidden_layer(of_pictures: NetworkExtractor):
    before = of_pictures(pictures(2))
    of_pictures.network.scale.mul_(4)  # a power of two: exact
    after = of_pictures(pictures(2))
    of_pictures.network.scale.div_(4)
    assert np.array_equal(4 * after, before)
    assert "scale" in of_pictures.network.state_dict()


def test_colour_is_dropped_and_a_view_of_memory_is_read_right(
    of_pictures: NetworkExtractor, of_points: NetworkExtractor
):
    batch = pictures(2)
    np.testing.assert_allclose(of_pictures(batch[:, ::-1]), of_pictures(batch), atol=1e-5, rtol=1e-5)
    cloud = points(2)
    recoloured = cloud.copy()
    recoloured[..., 3:] = 0.5
    assert np.array_equal(of_points(recoloured), of_points(cloud))
    assert np.array_equal(of_points(cloud[::-1]), of_points(np.ascontiguousarray(cloud[::-1])))


def test_the_order_of_points_does_not_matter(of_points: NetworkExtractor, dual: DualEncoder):
    cloud = points(1)
    assert np.array_equal(of_points(cloud[:, ::-1]), of_points(cloud))  # counts in cells: exact
    with torch.no_grad():
        one, other = (dual.embed_points(torch.from_numpy(c.copy())) for c in (cloud, cloud[:, ::-1]))
    torch.testing.assert_close(one, other, atol=1e-5, rtol=0)  # a mean over points in another order


def test_occupied_cells_of_known_points():
    """4 points on a grid of 2^3: each counts resolution^2 / 4 = 1, and a cell is capped at 1."""
    corner = [[-0.4, -0.4, 0.4], [-0.4, -0.3, 0.3], [0.4, -0.4, -0.4], [0.5, 0.7, 0.5]]  # the last is cut to the cube
    cloud = torch.tensor([[[*xyz, 9.0, 9.0, 9.0] for xyz in corner]])
    grid = occupied_cells(cloud, 2)
    assert grid.shape == (1, 1, 2, 2, 2)
    expected = torch.zeros(2, 2, 2)
    expected[0, 0, 1] = expected[1, 0, 0] = expected[1, 1, 1] = 1
    assert torch.equal(grid[0, 0], expected)


def test_occupied_cells_are_a_share_of_the_points():
    cloud = torch.full((1, 64, 6), -0.25)  # all 64 in one cell of 2^3, then one of them elsewhere
    cloud[0, 0, :3] = 0.25
    grid = occupied_cells(cloud, 2)[0, 0]
    assert grid[1, 1, 1].item() == 4 / 64
    assert grid[0, 0, 0].item() == 1  # 63 * 4 / 64, capped
    assert grid.sum().item() == 1 + 4 / 64
    assert torch.equal(occupied_cells(torch.cat([cloud, cloud], 1), 2)[0, 0], grid)  # twice the points, same shares


@torch.no_grad()
def test_the_dual_encoder_gives_unit_vectors_whose_products_it_scales(dual: DualEncoder):
    images, clouds = torch.from_numpy(pictures(3)), torch.from_numpy(points(3))
    a, b = dual.embed_pictures(images), dual.embed_points(clouds)
    assert a.shape == b.shape == (3, 16)
    for embedding in (a, b):
        torch.testing.assert_close(embedding.norm(dim=1), torch.ones(3), atol=1e-6, rtol=0)
    similarity = dual(images, clouds)
    torch.testing.assert_close(similarity, dual.log_temperature.exp() * a @ b.T)
    assert similarity.shape == (3, 3)  # [picture, points]


def test_no_points_and_black_pictures_have_finite_features(
    of_pictures: NetworkExtractor, of_points: NetworkExtractor, dual: DualEncoder
):
    """What stands for a shape that could not be made."""
    nothing, black = np.zeros((1, 50, 6), np.float32), np.zeros((1, 3, 32, 32), np.uint8)
    with torch.no_grad():
        embedding = dual.embed_points(torch.from_numpy(nothing))
    for features in (of_points(nothing), of_pictures(black), embedding.numpy()):
        assert np.isfinite(features).all()


def test_an_extractor_says_which_it_is(of_pictures: NetworkExtractor):
    assert (of_pictures.name, of_pictures.version, len(of_pictures.weights_sha256)) == ("tiny", "1", 64)
    with pytest.raises(UsageError, match="Did you mean 'DualEncoder'"):
        EXTRACTORS.create("DualEncodr", {})
