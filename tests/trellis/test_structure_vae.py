"""SparseStructureEncoder and Decoder against the public implementation's numbers."""

from __future__ import annotations

import golden_io
import numpy as np
import pytest
import torch

from mdtbench.base.errors import UsageError
from mdtbench.trellis import create
from mdtbench.trellis.structure_vae import ChannelLayerNorm, pixel_shuffle_3d

FIXTURES = golden_io.names("ss_vae")
ENCODERS = [name for name in FIXTURES if "enc" in name]
DECODERS = [name for name in FIXTURES if "dec" in name]
ENCODER = {"in_channels": 1, "latent_channels": 2, "num_res_blocks": 1, "channels": [4, 8]}


def golden_model(sidecar: dict) -> torch.nn.Module:
    model = create(sidecar["class"], sidecar["constructor"]).eval()
    golden_io.fill_w1(model, sidecar["weights"]["salt"])
    return model


def small_encoder() -> tuple[torch.nn.Module, torch.Tensor]:
    model = create("SparseStructureEncoder", ENCODER).eval()
    golden_io.fill_w1(model, "small")
    return model, (torch.rand(2, 1, 4, 4, 4, generator=torch.Generator().manual_seed(1)) > 0.5).float()


@pytest.mark.parametrize("name", FIXTURES)
def test_golden_state_dict(name):
    sidecar, _ = golden_io.load("ss_vae", name)
    model = golden_model(sidecar)
    assert golden_io.layout(model) == sidecar["state_dict"]
    assert golden_io.state_sha256(model) == sidecar["weights"]["sha256_of_state_dict_bytes"]
    assert sum(p.numel() for p in model.parameters()) == sidecar["weights"]["num_parameters"]
    state = model.state_dict()
    for key, values in sidecar["weights"]["probe_first_values"].items():
        np.testing.assert_array_equal(state[key].flatten()[: len(values)], np.float32(values))


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("name", ENCODERS)
def test_golden_encoder(name, channels_last):
    sidecar, arrays = golden_io.load("ss_vae", name)
    model = golden_model(sidecar)
    if channels_last:
        model = model.to(memory_format=torch.channels_last_3d)
    with torch.no_grad():
        outputs = model(torch.from_numpy(arrays["x"]), sample_posterior=False, return_raw=True)
    for key, output in zip(("out_z", "out_mean", "out_logvar"), outputs, strict=True):
        tolerance = {limit: sidecar["tolerance"][limit] for limit in ("rtol", "atol")}
        np.testing.assert_allclose(output, arrays[key], **tolerance)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("name", DECODERS)
def test_golden_decoder(name, channels_last):
    sidecar, arrays = golden_io.load("ss_vae", name)
    model = golden_model(sidecar)
    if channels_last:
        model = model.to(memory_format=torch.channels_last_3d)
    with torch.no_grad():
        output = model(torch.from_numpy(arrays["x"])).numpy()
    tolerance = {limit: sidecar["tolerance"][limit] for limit in ("rtol", "atol")}
    np.testing.assert_allclose(output, arrays["out"], **tolerance)
    # the first 2000 occupied voxels, in order; none lies within the tolerance of the threshold
    assert np.abs(arrays["out"]).min() > np.abs(output - arrays["out"]).max()
    np.testing.assert_array_equal(np.argwhere(output > 0)[:2000], arrays["out_occ_argwhere"])


def test_posterior_is_mean_plus_deviation_times_noise():
    model, x = small_encoder()
    with torch.no_grad():
        _, mean, logvar = model(x, return_raw=True)
        noise = torch.randn(mean.shape, generator=torch.Generator().manual_seed(5))
        z = model(x, sample_posterior=True, noise=noise)
        drawn = model(x, sample_posterior=True, generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(z, mean + logvar.exp().sqrt() * noise)
    torch.testing.assert_close(drawn, z, rtol=0, atol=0)
    assert (z - mean).abs().max() > 0.1


def test_posterior_without_randomness_is_refused():
    model, x = small_encoder()
    with pytest.raises(UsageError, match="generator"):
        model(x, sample_posterior=True)


def test_res_blocks_start_as_the_identity():
    block = create("SparseStructureEncoder", ENCODER).middle_block[0]
    x = torch.randn(1, 8, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(block(x), x, rtol=0, atol=0)


def test_channel_layer_norm_is_over_channels_only():
    x = torch.randn(2, 6, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    y = ChannelLayerNorm(6)(x)
    expected = (x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True, unbiased=False) + 1e-5).sqrt()
    torch.testing.assert_close(y, expected)


def test_pixel_shuffle_offsets():
    """A value per channel lands at its offset: channel 4 is x + 1, channel 2 is y + 1, channel 1 is z + 1."""
    x = torch.arange(8.0).reshape(1, 8, 1, 1, 1)
    y = pixel_shuffle_3d(x)
    assert (y[0, 0, 1, 0, 0], y[0, 0, 0, 1, 0], y[0, 0, 0, 0, 1]) == (4, 2, 1)


def test_float16_blocks_agree_with_float32():
    full, x = small_encoder()
    half = create("SparseStructureEncoder", {**ENCODER, "use_fp16": True}).eval()
    golden_io.fill_w1(half, "small")
    with torch.no_grad():
        difference = (full(x) - half(x)).abs().max()
    assert 0 < difference < 2e-2  # 2^-11 relative per operation, about 20 operations of size 1 in a row


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"norm_type": "grup"}, "Did you mean 'group'"), ({"channels": []}, "channels is empty")],
)
def test_impossible_arguments(changes, message):
    with pytest.raises(UsageError, match=message):
        create("SparseStructureEncoder", {**ENCODER, **changes})
