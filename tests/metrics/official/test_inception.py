"""FID's Inception against the public implementation's numbers, on weights made from their names."""

from __future__ import annotations

import math

import golden_io
import numpy as np
import pytest
import torch
from torch import Tensor

from mdtbench.metrics.official import resize
from mdtbench.metrics.official.inception import FidInception

SIDECAR, ARRAYS = golden_io.load("inception", "inception_2x256")
TOLERANCE = SIDECAR["tolerance"]
WIDTHS = (64, 192, 768, 2048)


@pytest.fixture(scope="module")
def network() -> FidInception:
    """Weights of the fixture: rule W1, convolutions times sqrt(2) in float64 before rounding."""
    made = FidInception().eval()
    golden_io.fill_w1(made, SIDECAR["weights"]["salt"])
    with torch.no_grad():
        for name, tensor in made.named_parameters():
            if tensor.ndim == 4:
                tensor.copy_(convolution_weight(name, tuple(tensor.shape)))
    return made


def convolution_weight(name: str, shape: tuple[int, ...]) -> Tensor:
    key = f"{SIDECAR['weights']['salt']}/{name}"
    z = np.random.Generator(np.random.PCG64(golden_io.zlib.crc32(key.encode()))).standard_normal(math.prod(shape))
    value = z / np.sqrt(z.size / shape[0]) * math.sqrt(2)
    return torch.from_numpy(value.reshape(shape).astype(np.float32))


def fixture_pictures() -> list[Tensor]:
    return [torch.from_numpy(ARRAYS[f"image{i}"]).permute(2, 0, 1)[None] for i in (0, 1)]


def assert_golden(actual: Tensor, name: str) -> None:
    np.testing.assert_allclose(actual.numpy(), ARRAYS[name], rtol=TOLERANCE["rtol"], atol=TOLERANCE["atol"])


def test_tensors_are_those_of_the_official_file(network: FidInception) -> None:
    assert golden_io.layout(network) == SIDECAR["state_dict"]
    assert golden_io.state_sha256(network) == SIDECAR["weights"]["sha256_of_state_dict_bytes"]


@torch.inference_mode()
def test_every_stage_is_pytorch_fids(network: FidInception) -> None:
    stages = [network.stages(resize.pytorch_fid_299(picture)) for picture in fixture_pictures()]
    for width, maps in zip(WIDTHS, zip(*stages, strict=True), strict=True):
        assert_golden(torch.cat(maps).mean((2, 3)), f"out_pytorch_fid_{width}")


@torch.inference_mode()
def test_features_and_logits_are_torch_fidelitys(network: FidInception) -> None:
    pooled = torch.cat([network(resize.torch_fidelity_299(picture)) for picture in fixture_pictures()])
    assert_golden(pooled, "out_torch_fidelity_2048")
    assert_golden(pooled @ network.fc.weight.T, "out_torch_fidelity_logits_unbiased")
    assert_golden(network.fc(pooled), "out_torch_fidelity_logits")


@torch.inference_mode()
def test_features_after_clean_fids_resize(network: FidInception) -> None:
    """The fixture normalises as pytorch-fid does, so clean-fid's (x - 128) / 128 is changed into 2x / 255 - 1."""
    prepared = [(resize.clean_fid_299(picture) * 128 + 128) / 127.5 - 1 for picture in fixture_pictures()]
    assert_golden(torch.cat([network(x) for x in prepared]), "out_clean_resize_then_pytorch_fid_2048")


@torch.inference_mode()
def test_padding_is_left_out_of_means(network: FidInception) -> None:
    """Constant maps stay constant under the average pool of every block but the last, whose pool is a maximum."""
    constant = torch.ones(1, 1280, 8, 8)
    assert torch.equal(network.Mixed_7b.pool(constant), constant)
    ramp = torch.arange(64.0).view(1, 1, 8, 8)
    assert network.Mixed_7c.pool(ramp)[0, 0, 0, 0] == 9
    assert network.Mixed_7b.pool(ramp)[0, 0, 0, 0] == 4.5
