"""Encoder and decoders of the structured latent against the public implementation's numbers."""

from __future__ import annotations

import golden_io
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mdtbench.base.errors import AssetError, UsageError
from mdtbench.trellis import create
from mdtbench.trellis.slat_decoders import SLatGaussianDecoder, SLatMeshDecoder
from mdtbench.trellis.sparse import SparseTensor, Voxels
from mdtbench.trellis.subdivision import SparseGroupNorm

NETWORKS = [name for name in golden_io.names("slat_vae") if not name.startswith("mesh_extract")]
ENCODERS = [name for name in NETWORKS if "_enc_" in name]
DECODERS = [name for name in NETWORKS if "_dec_" in name]
GAUSSIANS = [name for name in NETWORKS if "_gs_" in name]
MESHES = [name for name in NETWORKS if "_mesh_" in name]

GAUSSIAN_CONFIG = {
    "lr": {"_xyz": 1.0, "_features_dc": 1.0, "_opacity": 1.0, "_scaling": 1.0, "_rotation": 0.1},
    "perturb_offset": True,
    "voxel_size": 1.5,
    "num_gaussians": 4,
    "2d_filter_kernel_size": 0.1,
    "3d_filter_kernel_size": 9e-4,
    "scaling_bias": 4e-3,
    "opacity_bias": 0.1,
    "scaling_activation": "softplus",
}
SMALL = {"resolution": 8, "model_channels": 24, "latent_channels": 4, "num_blocks": 2, "num_heads": 2, "window_size": 4}
ENCODER = {**SMALL, "in_channels": 6}
GAUSSIAN = {**SMALL, "representation_config": GAUSSIAN_CONFIG}
MESH = {**SMALL, "model_channels": 256, "mlp_ratio": 0.25, "representation_config": {"use_color": True}}
SMALL_BY_CLASS = {"SLatEncoder": ENCODER, "SLatGaussianDecoder": GAUSSIAN, "SLatMeshDecoder": MESH}


def golden_model(sidecar: dict) -> nn.Module:
    model = create(sidecar["class"], sidecar["constructor"]).eval()
    golden_io.fill_w1(model, sidecar["weights"]["salt"])
    return model


def golden_input(arrays: dict[str, np.ndarray]) -> SparseTensor:
    return SparseTensor.of(torch.from_numpy(arrays["feats"]), torch.from_numpy(arrays["coords"]))


def assert_golden(actual: Tensor | np.ndarray, expected: np.ndarray, sidecar: dict) -> None:
    tolerance = sidecar["tolerance"]
    np.testing.assert_allclose(actual, expected, rtol=tolerance["rtol"], atol=tolerance["atol"])


def small(name: str, salt: str = "small", **changes: object) -> nn.Module:
    model = create(name, {**SMALL_BY_CLASS[name], **changes}).eval()
    golden_io.fill_w1(model, salt)
    return model


def some_voxels(lengths: list[int], channels: int) -> SparseTensor:
    """Random voxels of an 8^3 grid."""
    random = torch.Generator().manual_seed(0)
    parts = []
    for sample, length in enumerate(lengths):
        code = torch.randperm(512, generator=random)[:length]
        parts.append(torch.stack([torch.full_like(code, sample), code // 64, code // 8 % 8, code % 8], 1))
    feats = torch.randn(sum(lengths), channels, generator=random)
    return SparseTensor.of(feats, torch.cat(parts).int(), len(lengths))


@pytest.mark.parametrize("name", NETWORKS)
def test_golden_state_dict(name):
    sidecar, _ = golden_io.load("slat_vae", name)
    model = golden_model(sidecar)
    assert golden_io.layout(model) == sidecar["state_dict"]
    assert golden_io.state_sha256(model) == sidecar["weights"]["sha256_of_state_dict_bytes"]
    assert sum(p.numel() for p in model.parameters()) == sidecar["weights"]["num_parameters"]


@pytest.mark.parametrize("name", ENCODERS)
def test_golden_encoder(name):
    sidecar, arrays = golden_io.load("slat_vae", name)
    model = golden_model(sidecar)
    with torch.no_grad():
        mean, logvar = model.posterior(golden_input(arrays))
        latent = model(golden_input(arrays))
    assert_golden(mean, arrays["out_mean"], sidecar)
    assert_golden(logvar, arrays["out_logvar"], sidecar)
    assert torch.equal(latent.feats, mean)


@pytest.mark.parametrize("name", DECODERS)
def test_golden_decoder_features(name):
    sidecar, arrays = golden_io.load("slat_vae", name)
    with torch.no_grad():
        decoded = golden_model(sidecar)(golden_input(arrays))
    assert_golden(decoded.feats, arrays["out_raw"], sidecar)
    if "out_coords" in arrays:
        np.testing.assert_array_equal(decoded.coords, arrays["out_coords"])


@pytest.mark.parametrize("name", GAUSSIANS)
def test_golden_gaussians(name):
    sidecar, arrays = golden_io.load("slat_vae", name)
    model = golden_model(sidecar)
    with torch.no_grad():
        samples = model.to_gaussians(model(golden_input(arrays)))
    assert len(samples) == len(sidecar["sequence_lengths"])
    for i, gaussians in enumerate(samples):
        assert_golden(gaussians.means, arrays[f"out{i}_xyz"], sidecar)
        assert_golden(gaussians.scales, arrays[f"out{i}_scaling"], sidecar)
        assert_golden(gaussians.rotations, arrays[f"out{i}_rotation"], sidecar)
        assert_golden(gaussians.opacities, arrays[f"out{i}_opacity"][:, 0], sidecar)
        assert_golden(gaussians.sh_dc, arrays[f"out{i}_features"][:, 0], sidecar)


def test_starting_offsets_are_those_of_the_official_checkpoint():
    sidecar, _ = golden_io.load("full_size_keys", "slat_dec_gs_swin8_B_64l8gs32_fp16")
    config = {**GAUSSIAN_CONFIG, "num_gaussians": 32}
    offsets = create("SLatGaussianDecoder", {**GAUSSIAN, "representation_config": config}).offset_perturbation
    np.testing.assert_array_equal(offsets, np.float32(sidecar["offset_perturbation_values"]))


@pytest.mark.parametrize("name", MESHES)
def test_golden_meshes(name):
    """End to end; the fixture allows 5e-4, the order of vertices and faces is the reference's."""
    sidecar, arrays = golden_io.load("slat_vae", name)
    model = golden_model(sidecar)
    with torch.no_grad():
        meshes = model.extract(model(golden_input(arrays)))
    assert len(meshes) == len(sidecar["sequence_lengths"])
    for i, mesh in enumerate(meshes):
        assert [len(mesh.vertices), len(mesh.faces)] == arrays[f"out_mesh{i}_counts"].tolist()
        np.testing.assert_allclose(mesh.vertices, arrays[f"out_mesh{i}_vertices"], rtol=0, atol=5e-4)
        np.testing.assert_array_equal(mesh.faces, arrays[f"out_mesh{i}_faces"])
        if mesh.colours is not None:
            mean = mesh.colours.double().mean(0)
            np.testing.assert_allclose(mean, arrays[f"out_mesh{i}_attr_mean"], rtol=1e-4)


def test_posterior_is_mean_plus_deviation_times_noise():
    model, x = small("SLatEncoder"), some_voxels([9, 5], 6)
    noise = torch.randn(14, 4, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        mean, logvar = model.posterior(x)
        latent = model(x, sample_posterior=True, noise=noise)
        drawn = model(x, sample_posterior=True, generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(latent.feats, mean + logvar.exp().sqrt() * noise)
    torch.testing.assert_close(drawn.feats, latent.feats, rtol=0, atol=0)
    with pytest.raises(UsageError, match="generator"):
        model(x, sample_posterior=True)


@pytest.mark.parametrize(("name", "channels"), [("SLatEncoder", 6), ("SLatGaussianDecoder", 4), ("SLatMeshDecoder", 4)])
def test_samples_do_not_see_each_other(name, channels):
    """A batch with an empty sample in it equals its samples one by one (1e-5: other order of float32 sums)."""
    model, x = small(name), some_voxels([12, 0, 7], channels)
    with torch.no_grad():
        together = model(x)
        for sample, length in ((0, 12), (2, 7)):
            rows = x.voxels.sample == sample
            coords = x.coords[rows] * torch.tensor([0, 1, 1, 1], dtype=torch.int32)
            alone = model(SparseTensor(x.feats[rows], Voxels(coords, 1)))
            torch.testing.assert_close(
                together.feats[together.voxels.sample == sample], alone.feats, rtol=1e-5, atol=1e-5
            )
            assert len(coords) == length


def test_empty_samples_have_no_gaussians_and_no_surface():
    x = some_voxels([3, 0], 4)
    gaussians, mesh = small("SLatGaussianDecoder"), small("SLatMeshDecoder")
    with torch.no_grad():
        assert [len(sample) for sample in gaussians.to_gaussians(gaussians(x))] == [12, 0]
        with pytest.raises(AssetError, match="hold no surface"):
            mesh.to_meshes(mesh(x))


def test_group_norm_is_per_sample_over_voxels_and_group():
    x = some_voxels([20, 0, 30], 64)
    norm = SparseGroupNorm(64)
    golden_io.fill_w1(norm, "norm")
    y = norm(x)
    dense = nn.GroupNorm(32, 64)
    dense.load_state_dict(norm.state_dict())
    for sample in (0, 2):
        rows = x.voxels.sample == sample
        torch.testing.assert_close(y.feats[rows], dense(x.feats[rows].t()[None])[0].t())


@pytest.mark.parametrize("name", ["SLatGaussianDecoder", "SLatMeshDecoder"])
def test_all_weights_can_be_trained_through_the_representation(name):
    model = small(name)
    decoded = model(some_voxels([6, 5], 4))
    if isinstance(model, SLatGaussianDecoder):
        loss = sum(
            part.square().sum()
            for gaussians in model.to_gaussians(decoded)
            for part in (gaussians.means, gaussians.scales, gaussians.rotations, gaussians.opacities, gaussians.sh_dc)
        )
    else:
        assert isinstance(model, SLatMeshDecoder)
        loss = sum((mesh.vertices.square().sum() + mesh.colours.square().sum()) for mesh in model.extract(decoded))
    loss.backward()
    for key, weight in model.named_parameters():
        assert weight.grad is not None, key
        assert weight.grad.isfinite().all(), key
        assert weight.grad.any(), key


def test_gaussians_start_around_their_voxels():
    """Untrained: opacity and scale of the configuration, centres within the reach of the voxel."""
    model, x = create("SLatGaussianDecoder", GAUSSIAN), some_voxels([10], 4)
    (gaussians,) = model.to_gaussians(model(x))
    torch.testing.assert_close(gaussians.opacities, torch.full((40,), 0.1))
    torch.testing.assert_close(gaussians.scales, torch.full((40, 3), (4e-3**2 + 9e-4**2) ** 0.5))
    centres = ((x.coords[:, 1:] + 0.5) / 8 - 0.5).repeat_interleave(4, 0)
    away = ((gaussians.means - centres) * 8).abs()
    # voxels; the Hammersley set's first point is a corner of the cube [-1/2, 1/2]^3, float32 rounding beside 1/2
    assert 0.4 < away.max() <= 0.5 + 1e-5


@pytest.mark.parametrize("name", ["SLatEncoder", "SLatMeshDecoder"])
def test_float16_blocks_agree_with_float32(name):
    x = some_voxels([12, 7], 6 if name == "SLatEncoder" else 4)
    with torch.no_grad():
        full, half = small(name)(x).feats, small(name, use_fp16=True)(x).feats
    assert half.dtype == torch.float32
    difference = (full - half).abs().max() / full.abs().max()
    assert 0 < difference < 1e-2  # 2^-11 relative per operation, some ten operations in a row


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("SLatEncoder", {"attn_mode": "swinn"}, "Did you mean 'swin'"),
        ("SLatEncoder", {"pe_mode": "rope"}, "rope"),
        ("SLatEncoder", {"num_heads": 5}, "5 heads"),
        ("SLatMeshDecoder", {"model_channels": 128}, "multiple of 256"),
        ("SLatGaussianDecoder", {"representation_config": {}}, "representation_config has no"),
        (
            "SLatGaussianDecoder",
            {"representation_config": {**GAUSSIAN_CONFIG, "scaling_activation": "softplu"}},
            "Did you mean 'softplus'",
        ),
        ("SLatGaussianDecoder", {"representation_config": {**GAUSSIAN_CONFIG, "voxel_size": 1.0}}, "above 1"),
    ],
)
def test_impossible_arguments(name, changes, message):
    with pytest.raises(UsageError, match=message):
        create(name, {**SMALL_BY_CLASS[name], **changes})


def test_features_of_another_width_are_refused():
    with pytest.raises(UsageError, match="6 features; this network takes 4"):
        small("SLatGaussianDecoder")(some_voxels([3], 6))
