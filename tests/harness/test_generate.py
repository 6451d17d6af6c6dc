"""Generation: a result depends on asset and seed, not on batches or order; failures are counted, not left out."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
import torch
from torch import Tensor

from mdtbench.flow.samplers import Euler, Renoise, Sampler
from mdtbench.harness.conditions import HIDDEN, keep_window
from mdtbench.harness.generate import Generated, describe, generate, joined, microbatches, shown_image
from mdtbench.harness.world import World
from mdtbench.metrics import Shapes

IDS = ("a", "b", "c")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """Random pictures [3, S, S, 3]."""
    return np.random.Generator(np.random.PCG64(0)).integers(0, 256, (3, 64, 64, 3), np.uint8)


@pytest.fixture(scope="module")
def eight_at_a_time(tiny_world: World, images: np.ndarray) -> Generated:
    return generate(tiny_world, tiny_world.pipeline.flow, Renoise(2), images, IDS, seed=5, batch=8)


def differing(a: Shapes, b: Shapes) -> list[str]:
    """Names of the arrays that are not equal bit for bit."""
    pairs = {field.name: (getattr(a, field.name), getattr(b, field.name)) for field in fields(Shapes)}
    return [name for name, (one, other) in pairs.items() if one.dtype != other.dtype or not np.array_equal(one, other)]


def test_batch_size_and_order_change_no_bit(tiny_world: World, images: np.ndarray, eight_at_a_time: Generated):
    order = [2, 0, 1]
    ids = [IDS[i] for i in order]
    other = generate(tiny_world, tiny_world.pipeline.flow, Renoise(2), images[order], ids, seed=5, batch=1)
    expected = eight_at_a_time.shapes
    back = Shapes(**{field.name: getattr(other.shapes, field.name)[np.argsort(order)] for field in fields(Shapes)})
    assert differing(back, expected) == []
    assert len({latent.tobytes() for latent in expected.latents}) == 3


def test_a_student_takes_one_pass_per_step_and_guidance_two(
    tiny_world: World, images: np.ndarray, eight_at_a_time: Generated
):
    guided = generate(
        tiny_world, tiny_world.pipeline.flow, Euler(3, cfg_strength=2.0, cfg_interval=(0.5, 1.0)), images[:1], "a", 0, 1
    )
    assert guided.nfe.tolist() == [2 + 2 + 1]  # t = 1, 2/3 with guidance, 1/3 outside its interval
    assert eight_at_a_time.nfe.tolist() == [2, 2, 2]
    assert (eight_at_a_time.seconds > 0).all()


def first_noise(world: World, sampler: Sampler, image: np.ndarray, asset_id: str, seed: int) -> Tensor:
    """What the network is first given."""
    seen: list[Tensor] = []
    hook = world.pipeline.flow.register_forward_pre_hook(lambda _, args: seen.append(args[0][:1].clone()))
    try:
        generate(world, world.pipeline.flow, sampler, image[None], [asset_id], seed, 1)
    finally:
        hook.remove()
    return seen[0]


def test_the_noise_is_the_assets_own_whatever_the_method(tiny_world: World, images: np.ndarray):
    expected = first_noise(tiny_world, Renoise(1), images[0], "a", 0)
    assert expected.std() == pytest.approx(1.0, abs=0.1)  # 2048 normal numbers: within 6 standard errors
    guided = Euler(1, rescale_t=3.0, cfg_strength=2.0)
    assert torch.equal(first_noise(tiny_world, guided, images[1], "a", 0), expected)
    assert not torch.equal(first_noise(tiny_world, guided, images[0], "a", 1), expected)
    assert not torch.equal(first_noise(tiny_world, guided, images[0], "b", 0), expected)


def block(world: World) -> np.ndarray:
    """Two grids [2, R, R, R]: a block, and nothing."""
    grids = np.zeros((2, *[world.file.preparation.resolution] * 3), bool)
    grids[0, 8:20, 8:16, 10:14] = True
    return grids


def test_an_empty_shape_is_a_counted_failure(tiny_world: World):
    latents = torch.zeros(2, *tiny_world.pipeline.latent_shape)
    shapes, errors = describe(tiny_world, latents, block(tiny_world), ["full", "empty"])
    assert shapes.ok.tolist() == [True, False]
    assert errors[0] == ""
    assert errors[1]
    assert np.array_equal(shapes.occupancy, block(tiny_world))
    assert np.linalg.norm(shapes.embedding, axis=1) == pytest.approx([1, 0], abs=1e-5)
    side = tiny_world.file.observation.picture_size
    black = tiny_world.pictures(np.zeros((4, 3, side, side), np.uint8))
    assert np.array_equal(shapes.picture_features[1], black)
    assert not np.array_equal(shapes.picture_features[0], black)
    assert all(np.isfinite(getattr(shapes, field.name)).all() for field in fields(Shapes))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_latent_that_is_not_finite_is_a_counted_failure(tiny_world: World, bad: float):
    latents = torch.zeros(1, *tiny_world.pipeline.latent_shape)
    latents[0, 1, 2, 3, 0] = bad
    shapes, errors = describe(tiny_world, latents, block(tiny_world)[:1], ["x"])
    assert errors == ("the latent is not finite",)
    assert not shapes.ok.any()
    assert not shapes.occupancy.any()
    assert not shapes.embedding.any()
    assert np.isfinite(shapes.latents).all()


def test_joined_keeps_the_order(tiny_world: World):
    latents = torch.zeros(2, *tiny_world.pipeline.latent_shape)
    shapes, errors = describe(tiny_world, latents, block(tiny_world), ["full", "empty"])
    part = Generated(shapes, np.array([1, 2]), np.array([0.5, 0.25]), errors)
    both = joined([part, part])
    assert both.shapes.ok.tolist() == [True, False, True, False]
    assert both.nfe.tolist() == [1, 2, 1, 2]
    assert both.seconds.tolist() == [0.5, 0.25, 0.5, 0.25]
    assert both.errors == errors + errors


def test_microbatches_cover_all_rows_one_at_a_time_on_a_cpu():
    def rows(count: int, batch: int, device: torch.device) -> list[list[int]]:
        return [list(range(count))[part] for part in microbatches(count, batch, device)]

    assert rows(3, 8, CPU) == [[0], [1], [2]]
    assert rows(5, 2, torch.device("cuda")) == [[0, 1], [2, 3], [4]]
    assert rows(0, 2, CPU) == []


def test_a_keep_window_shows_one_rectangle_of_the_asked_size():
    image = np.random.Generator(np.random.PCG64(1)).integers(0, 100, (50, 50, 3), np.uint8)  # never HIDDEN
    corners = set()
    for seed in range(30):
        shown = keep_window(image, (0.3, 0.5), np.random.Generator(np.random.PCG64(seed)))
        kept = (shown != HIDDEN).all(2)
        rows, columns = np.flatnonzero(kept.any(1)), np.flatnonzero(kept.any(0))
        assert 15 <= len(rows) <= 25
        assert 15 <= len(columns) <= 25
        assert kept.sum() == len(rows) * len(columns)  # a full rectangle
        assert np.array_equal(shown[kept], image[kept])
        assert (shown[~kept] == HIDDEN).all()
        corners.add((rows[0], columns[0]))
    assert len(corners) > 20


def test_a_window_of_the_whole_picture_shows_it():
    image = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    shown = keep_window(image, (1.0, 1.0), np.random.Generator(np.random.PCG64(0)))
    assert np.array_equal(shown, image)
    assert shown is not image


def test_a_test_picture_has_its_assets_own_window(images: np.ndarray):
    share = (0.3, 0.55)
    assert np.array_equal(shown_image(images[0], "a", share), shown_image(images[0], "a", share))
    assert not np.array_equal(shown_image(images[0], "a", share), shown_image(images[0], "b", share))
