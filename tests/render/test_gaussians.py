"""Gaussians: activations and pictures against the golden fixtures, a dense float64 reference and finite differences."""

from __future__ import annotations

import sys
from dataclasses import fields, replace
from types import ModuleType

import golden_io
import numpy as np
import pytest
import torch

from mdtbench.base.errors import AssetError, UsageError
from mdtbench.geometry.cameras import Camera, orbit
from mdtbench.geometry.gaussians import SCALINGS, Activations, Gaussians, GaussianTensors, RawGaussians, activated
from mdtbench.render import gaussian_kernels as kernels
from mdtbench.render.gaussian_gpu import installed_alpha_max, render_cuda
from mdtbench.render.gaussian_kernels import LEAST_TRANSMITTANCE, SPLAT, TILE
from mdtbench.render.gaussian_rasteriser import (
    CLASSIC,
    MIP,
    Lens,
    Splatting,
    Tiles,
    bin_splats,
    composite,
    project,
    render,
)
from mdtbench.render.gaussian_torch import axes_of, project_tensors, render_tensors
from mdtbench.render.meshes import on_background

FIXTURES = golden_io.names("rendering")
LEVEL = 1 / 255
FIRST_ALPHA_MAX = 0.99  # the bound of the fixtures' images


def fixture(name: str) -> tuple[Gaussians, Camera, tuple[int, int], dict[str, np.ndarray]]:
    _, arrays = golden_io.load("rendering", name)
    shapes = (arrays["means"], arrays["scales"], arrays["quats_wxyz"], arrays["opacities"], arrays["sh_dc"])
    camera = Camera(arrays["extrinsics"].astype(np.float64), arrays["intrinsics_normalised"].astype(np.float64))
    return Gaussians(*shapes), camera, arrays["out_alpha_mip_tiles"].shape, arrays


def scattered(count: int, seed: int, size: float = 0.06) -> Gaussians:
    random = np.random.Generator(np.random.PCG64(seed))
    rotations = random.standard_normal((count, 4))
    values = (
        random.uniform(-0.4, 0.4, (count, 3)),
        size * np.exp(0.5 * random.standard_normal((count, 3))),
        rotations / np.linalg.norm(rotations, axis=1, keepdims=True),
        random.uniform(0.02, 0.98, count),
        random.standard_normal((count, 3)),
    )
    return Gaussians(*(value.astype(np.float32) for value in values))


def dense(gaussians: GaussianTensors, camera: Camera, size: tuple[int, int], mode: Splatting) -> torch.Tensor:
    """The definition, in the type of the tensors: every Gaussian at every pixel, transmittances by a product."""
    height, width = size
    splats, depths = project_tensors(gaussians, Lens.of(camera, size), mode)
    x, y, a, b, c, opacity, *colour = splats[torch.argsort(depths, stable=True)].T
    rows, columns = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    dx, dy = columns[..., None] - x, rows[..., None] - y
    alpha = (opacity * torch.exp(-0.5 * (a * dx**2 + c * dy**2) - b * dx * dy)).clamp(max=mode.alpha_max)
    alpha = torch.where(alpha >= LEVEL, alpha, 0.0)
    after = torch.cumprod(1 - alpha, dim=-1)
    before = torch.cat([torch.ones_like(after[..., :1]), after[..., :-1]], dim=-1)
    weight = torch.where(after > LEAST_TRANSMITTANCE, alpha * before, 0.0)
    return torch.cat([weight @ torch.stack(colour, dim=1), weight.sum(-1, keepdim=True)], dim=-1)


# --- the representation -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["slat_dec_gs_swin", "slat_dec_gs_exp"])
def test_activations_are_those_of_trellis(name):
    sidecar, arrays = golden_io.load("slat_vae", name)
    config = sidecar["constructor"]["representation_config"]
    settings = Activations(
        SCALINGS[config["scaling_activation"]],
        config["scaling_bias"],
        config["opacity_bias"],
        config["3d_filter_kernel_size"],
    )
    count = config["num_gaussians"]
    rows = arrays["coords"][:, 0] == 0
    # Features of a voxel: offsets, colours, scales, rotations, opacities of all its Gaussians.
    widths = np.cumsum([3 * count, 3 * count, 3 * count, 4 * count])
    _, colours, scales, rotations, opacities = np.split(arrays["out_raw"][rows], widths, axis=1)
    found = activated(
        RawGaussians(
            torch.tensor(arrays["out0__xyz"]),
            torch.tensor(scales).reshape(-1, 3),
            torch.tensor(rotations).reshape(-1, 4) * config["lr"]["_rotation"],
            torch.tensor(opacities).reshape(-1, 1),
            torch.tensor(colours).reshape(-1, 1, 3),
        ),
        settings,
    )
    tolerance = {"rtol": sidecar["tolerance"]["rtol"], "atol": 1e-6}  # both are float32
    np.testing.assert_allclose(found.means, arrays["out0_xyz"], **tolerance)
    np.testing.assert_allclose(found.scales, arrays["out0_scaling"], **tolerance)
    np.testing.assert_allclose(found.rotations, arrays["out0_rotation"], **tolerance)
    np.testing.assert_allclose(found.opacities, arrays["out0_opacity"][:, 0], **tolerance)
    np.testing.assert_allclose(found.sh_dc, arrays["out0_features"][:, 0], **tolerance)
    axes = axes_of(found.rotations, found.scales)
    upper = (axes @ axes.mT)[:, [0, 0, 0, 1, 1, 2], [0, 1, 2, 1, 2, 2]]
    np.testing.assert_allclose(upper, arrays["out0_covariance"], rtol=1e-4, atol=1e-7)


def test_biases_are_the_values_at_zero():
    zero = RawGaussians(*(torch.zeros(1, width, dtype=torch.float64) for width in (3, 3, 4, 1, 3)))
    for scaling in SCALINGS.values():
        found = activated(zero, Activations(scaling, scaling_bias=0.01, opacity_bias=0.3, kernel_size=0.0))
        np.testing.assert_allclose(found.scales, 0.01, rtol=1e-12)
        np.testing.assert_allclose(found.opacities, 0.3, rtol=1e-12)
    np.testing.assert_array_equal(found.means, -0.5)
    np.testing.assert_array_equal(found.rotations, [[1, 0, 0, 0]])
    np.testing.assert_array_equal(found.colours, 0.5)


# --- pictures -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FIXTURES)
@pytest.mark.parametrize(("label", "blur"), [("eps0p1", 0.1), ("eps0p3", 0.3)])
def test_projection_is_that_of_gsplat(name, label, blur):
    gaussians, camera, size, arrays = fixture(name)
    lens = Lens.of(camera, size)
    splats, depths = project(gaussians, lens, Splatting(blur, compensated=False))
    compensated, _ = project(gaussians, lens, Splatting(blur, compensated=True))
    seen = (arrays[f"out_{label}_radii"] > 0).all(1)
    reference = {"rtol": 1e-4, "atol": 1e-6}
    np.testing.assert_allclose(splats[seen, :2], arrays["out_means2d"][seen], **reference)
    np.testing.assert_allclose(depths, arrays["out_depths"], **reference)
    np.testing.assert_allclose(splats[seen, 2:5], arrays[f"out_{label}_conics"][seen], **reference)
    compensation = compensated[seen, 5] / splats[seen, 5]
    np.testing.assert_allclose(compensation, arrays[f"out_{label}_compensations"][seen], **reference)


CONVENTIONS = {
    "gsplat_classic": Splatting(0.3, compensated=False, alpha_max=FIRST_ALPHA_MAX),
    "gsplat_antialiased": Splatting(0.3, compensated=True, alpha_max=FIRST_ALPHA_MAX),
    "mip_notiles": Splatting(0.1, compensated=True, alpha_max=FIRST_ALPHA_MAX, near=0.2),
    "mip_tiles": Splatting(0.1, compensated=True, alpha_max=FIRST_ALPHA_MAX, near=0.2),
}
# In 1/255. The fixtures' images are float64 as our arithmetic is, so that no pixel needs an exception for an alpha at
# 1/255. mip differs by 1e-6 inside and beside the root of the compensation; with tiles, that rasteriser also cuts
# splats off at 3 standard deviations.
LIMITS = {"gsplat_classic": 2e-4, "gsplat_antialiased": 2e-4, "mip_notiles": 1e-3, "mip_tiles": 5e-3 * 255}


@pytest.mark.parametrize("name", FIXTURES)
@pytest.mark.parametrize("convention", CONVENTIONS)
def test_images_are_those_of_the_fixtures(name, convention):
    gaussians, camera, size, arrays = fixture(name)
    rgba = render(gaussians, camera, size, mode=CONVENTIONS[convention])
    image = on_background(rgba, arrays["background"])
    error = np.abs(image - arrays[f"out_image_{convention}"])
    assert error.max() <= LIMITS[convention] * LEVEL
    assert error.mean() <= 1e-4
    assert np.abs(rgba[..., 3] - arrays[f"out_alpha_{convention}"]).max() <= LIMITS[convention] * LEVEL


def three_deviations(splats, depths, lens):
    """The tiles of the rasteriser of TRELLIS: a square of three standard deviations around a splat touches them."""
    a, b, c = splats[:, 2:5].T
    with np.errstate(all="ignore"):
        det = 1 / (a * c - b * b)  # of the covariance
        middle = 0.5 * (a + c) * det
        reach = np.ceil(3 * np.sqrt(middle + np.sqrt(np.maximum(0.1, middle**2 - det))))
    across, down = -(-lens.width // TILE), -(-lens.height // TILE)
    boxes = np.empty((len(splats), 4), np.int32)
    for axis, count in ((0, across), (1, down)):
        centre = np.nan_to_num(splats[:, axis] - 0.5)  # in pixels whose centres are whole numbers
        first, after = (centre - np.nan_to_num(reach)) / TILE, (centre + np.nan_to_num(reach) + TILE - 1) / TILE
        boxes[:, 2 * axis] = np.clip(first.astype(int), 0, count)
        boxes[:, 2 * axis + 1] = np.clip(after.astype(int), 0, count) - 1
    boxes[splats[:, 5] < LEVEL, 1] = -1
    seen = (boxes[:, 1] >= boxes[:, 0]) & (boxes[:, 3] >= boxes[:, 2])
    boxes[~seen] = [0, -1, 0, -1]
    order = np.flatnonzero(seen)[np.argsort(depths[seen], kind="stable")]
    starts = kernels.tile_starts(boxes, across, across * down)
    return Tiles(starts, kernels.tile_members(boxes, order, across, starts))


@pytest.mark.parametrize("name", FIXTURES)
def test_with_its_tiles_the_image_is_that_of_the_rasteriser_of_trellis(name):
    """What is left of the difference above: splats are cut off at tiles, and nothing else differs."""
    gaussians, camera, size, arrays = fixture(name)
    lens, mode = Lens.of(camera, size), CONVENTIONS["mip_tiles"]
    splats, depths = project(gaussians, lens, mode)
    rgba = composite(splats, three_deviations(splats, depths, lens), lens, mode)
    error = np.abs(on_background(rgba.astype(np.float32), arrays["background"]) - arrays["out_image_mip_tiles"])
    assert error.max() <= LIMITS["mip_notiles"] * LEVEL


@pytest.mark.parametrize("name", FIXTURES)
@pytest.mark.parametrize("mode", [MIP, CLASSIC])
def test_images_are_those_of_the_dense_float64_definition(name, mode):
    gaussians, camera, size, _ = fixture(name)
    expected = dense(GaussianTensors.of(gaussians, torch.float64), camera, size, mode)
    # The same arithmetic in another order; the result is rounded to float32.
    np.testing.assert_allclose(render(gaussians, camera, size, mode=mode), expected, atol=2e-7, rtol=2e-7)


def test_one_gaussian_is_the_closed_form():
    # On the axis, its image has standard deviation f s / z; compensation and blur are those of a round Gaussian.
    camera, side, scale, opacity = orbit(0, 0, 2, 40), 33, 0.05, 0.8
    one = Gaussians(
        *(np.array(v, np.float32) for v in ([[0, 0, 0]], [[scale] * 3], [[1, 0, 0, 0]], [opacity], [[1, 0, -1]]))
    )
    variance = (camera.intrinsics[0, 0] * side * scale / 2) ** 2
    offset = np.arange(side) - side // 2
    distance = offset[:, None] ** 2 + offset[None] ** 2
    alpha = opacity * variance / (variance + 0.1) * np.exp(-0.5 * distance / (variance + 0.1))
    alpha[alpha < LEVEL] = 0
    picture = render(one, camera, side)
    # Scale and opacity are rounded to float32.
    np.testing.assert_allclose(picture[..., 3], alpha, atol=1e-6)
    np.testing.assert_allclose(picture[..., :3], alpha[..., None] * one.colours[0], atol=1e-6)


def test_repeats_are_equal_and_the_order_of_gaussians_does_not_matter():
    gaussians, camera = scattered(3000, 1), orbit(20, 30, 2, 40)
    first = render(gaussians, camera, 96)
    np.testing.assert_array_equal(first, render(gaussians, camera, 96))
    order = np.random.Generator(np.random.PCG64(2)).permutation(len(gaussians))
    shuffled = Gaussians(*(getattr(gaussians, field.name)[order] for field in fields(gaussians)))
    np.testing.assert_array_equal(first, render(shuffled, camera, 96))


def test_pixels_that_are_done_stop_and_tiles_list_the_nearest_first():
    gaussians, camera = replace(scattered(3000, 1), opacities=np.full(3000, 0.9, np.float32)), orbit(20, 30, 2, 40)
    lens = Lens.of(camera, (40, 64))
    splats, depths = project(gaussians, lens, MIP)
    tiles = bin_splats(splats, depths, lens)
    assert len(tiles.starts) == 3 * 4 + 1
    assert splats.shape == (3000, SPLAT)
    for start, end in zip(tiles.starts, tiles.starts[1:], strict=False):
        assert (np.diff(depths[tiles.members[start:end]]) >= 0).all()
    alpha = render(gaussians, camera, (40, 64))[..., 3]
    assert alpha.shape == (40, 64)
    assert 0.99 < alpha.max() <= np.float32(1 - LEAST_TRANSMITTANCE)


def test_nothing_and_nonsense():
    empty = scattered(0, 0)
    np.testing.assert_array_equal(render(empty, orbit(0, 0, 2, 40), 20), 0)
    broken = scattered(2, 0)
    broken.scales[1, 2] = np.nan
    with pytest.raises(AssetError, match="1 values of scales"):
        render(broken, orbit(0, 0, 2, 40), 20)
    turnless = replace(scattered(2, 0), rotations=np.zeros((2, 4), np.float32))
    for mode in (MIP, CLASSIC):
        np.testing.assert_array_equal(render(turnless, orbit(0, 0, 2, 40), 20, mode=mode), 0)
    huge = replace(scattered(2, 0), means=np.full((2, 3), 1e30, np.float32), scales=np.full((2, 3), 1e30, np.float32))
    assert np.isfinite(render(huge, orbit(0, 0, 2, 40), 20)).all()


def test_the_bound_of_alpha_is_that_of_the_installed_gsplat(monkeypatch):
    """1.6 has another one than 1.5.3, and tells it."""
    assert installed_alpha_max() == MIP.alpha_max == 0.999
    for name, module in (("gsplat", {}), ("gsplat.cuda", {}), ("gsplat.cuda._constants", {"MAX_ALPHA": 0.99})):
        made = ModuleType(name)
        vars(made).update(module, __path__=[])
        monkeypatch.setitem(sys.modules, name, made)
    assert installed_alpha_max() == 0.99
    with pytest.raises(UsageError, match=r"cannot bound alpha at 0\.999 - it has 0\.99\. .* install gsplat 1\.5\.3"):
        render_cuda(GaussianTensors.of(scattered(1, 0)), orbit(0, 0, 2, 40), 8)


def test_gsplat_is_not_asked_for_what_it_does_not_have():
    with pytest.raises(UsageError, match=r"cannot bound alpha at 0\.99"):
        render_cuda(
            GaussianTensors.of(scattered(1, 0)), orbit(0, 0, 2, 40), 8, mode=replace(MIP, alpha_max=FIRST_ALPHA_MAX)
        )


# --- gradients ----------------------------------------------------------------------------------------------------


def with_gradients(gaussians: Gaussians) -> GaussianTensors:
    tensors = GaussianTensors.of(gaussians, torch.float64)
    for field in fields(tensors):
        getattr(tensors, field.name).requires_grad_()
    return tensors


def gradients(picture: torch.Tensor, tensors: GaussianTensors, weights: torch.Tensor) -> list[torch.Tensor]:
    return list(torch.autograd.grad((picture * weights).sum(), [getattr(tensors, f.name) for f in fields(tensors)]))


@pytest.mark.parametrize("mode", [MIP, CLASSIC])
def test_tensors_give_the_same_picture(mode):
    gaussians, camera = scattered(500, 4), orbit(20, 30, 2, 40)
    expected = render(gaussians, camera, (40, 56), mode=mode)
    in_float64 = render_tensors(GaussianTensors.of(gaussians, torch.float64), camera, (40, 56), mode=mode)
    np.testing.assert_allclose(in_float64, expected, atol=2e-7)
    # float32 places splats to 4e-6 of a pixel; an alpha that this moves across 1/255 is worth up to 4e-3.
    in_float32 = np.abs(render_tensors(GaussianTensors.of(gaussians), camera, (40, 56), mode=mode).numpy() - expected)
    assert (in_float32 > 1e-4).mean() < 1e-3
    assert in_float32.max() < 5e-3


@pytest.mark.parametrize("name", ["gauss_opaque_overlap", "gauss_wide_behind", "gauss_small"])
@pytest.mark.parametrize("mode", [MIP, CLASSIC])
def test_gradients_are_those_of_the_dense_definition(name, mode):
    gaussians, camera, size, _ = fixture(name)
    weights = torch.randn(*size, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    tensors = with_gradients(gaussians)
    ours = gradients(render_tensors(tensors, camera, size, mode=mode), tensors, weights)
    expected = gradients(dense(tensors, camera, size, mode), tensors, weights)
    for got, want in zip(ours, expected, strict=True):
        # Both float64; the sum over deeper splats is a difference of greater sums.
        np.testing.assert_allclose(got, want, rtol=1e-7, atol=1e-9 * float(want.abs().max()))


def test_gradients_are_finite_differences():
    gaussians, camera, step = scattered(4, 5, size=0.1), orbit(20, 30, 2, 40), 1e-6
    weights = torch.randn(12, 12, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    tensors, still = with_gradients(gaussians), GaussianTensors.of(gaussians, torch.float64)
    found = gradients(render_tensors(tensors, camera, 12), tensors, weights)
    for field, gradient in zip(fields(tensors), found, strict=True):
        value = getattr(tensors, field.name).detach()
        for index in np.ndindex(value.shape):
            sums = []
            for sign in (-1, 1):
                moved = value.clone()
                moved[index] += sign * step
                picture = render_tensors(replace(still, **{field.name: moved}), camera, 12)
                sums.append((picture * weights).sum().item())
            # Central differences of a smooth function in float64; alphas that cross 1/255 would show as jumps.
            assert gradient[index] == pytest.approx((sums[1] - sums[0]) / (2 * step), rel=1e-5, abs=1e-6)
