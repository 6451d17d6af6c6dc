"""Networks of libraries, filled from files of the published layouts: golden numbers, full-size key lists."""

from __future__ import annotations

import hashlib
import math
import socket
from functools import partial

import golden_io
import numpy as np
import pytest
import torch
from timm.layers.pos_embed import resample_abs_pos_embed
from torch import Tensor, nn
from torch.nn import functional

from mdtbench.metrics.official import resize
from mdtbench.metrics.official.networks import (
    fid_inception,
    from_hub,
    hub_positions,
    prenorm_tokens,
    trellis_condition,
    vision_transformer,
    without_classifier,
)
from mdtbench.metrics.official.picture_extractors import SPECS
from mdtbench.metrics.official.ulip import SLIP_SPEC
from mdtbench.metrics.official.weights import without_memory

MEAN, SPREAD = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
REG4 = "vit_large_patch14_reg4_dinov2"
FIXTURES = golden_io.names("dinov2")


def golden_tensors(sidecar: dict) -> dict[str, Tensor]:
    """The fixture's file, by rule W1; checked by its digest."""
    salt = sidecar["weights"]["salt"]
    made = {name: golden_io.w1(name, tuple(shape), salt) for name, shape, *_ in sidecar["state_dict"]}
    digest = hashlib.sha256(b"".join(value.tobytes() for value in made.values())).hexdigest()
    assert digest == sidecar["weights"]["sha256_of_state_dict_bytes"]
    return {name: torch.from_numpy(value) for name, value in made.items()}


def without_values(sidecar: dict, *left_out: str) -> dict[str, Tensor]:
    """The file of a sidecar, without memory."""
    state = sidecar["state_dict"]
    return {name: torch.empty(shape, device="meta") for name, shape, *_ in state if name not in left_out}


def shapes(tensors: dict[str, Tensor]) -> dict[str, list[int]]:
    return {name: list(tensor.shape) for name, tensor in tensors.items()}


@pytest.mark.parametrize("spec", [*SPECS.values(), SLIP_SPEC], ids=lambda spec: spec.name)
def test_no_library_fetches_weights(spec, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise AssertionError("a connection")

    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)
    assert {tensor.device.type for tensor in without_memory(spec.create).state_dict().values()} == {"meta"}


# DINOv2


@pytest.mark.parametrize("name", FIXTURES)
@pytest.mark.parametrize("picture", [0, 1])
@torch.inference_mode()
def test_tokens_are_dinov2s(name: str, picture: int) -> None:
    sidecar, arrays = golden_io.load("dinov2", name)
    tensors, given = golden_tensors(sidecar), sidecar["constructor"]
    image = (torch.from_numpy(arrays[f"image{picture}"]) - MEAN) / SPREAD
    height, width = image.shape[2:]
    sizes = {"embed_dim": given["embed_dim"], "depth": given["depth"], "num_heads": given["num_heads"]}
    network = vision_transformer(REG4, (height, width), **sizes).eval()
    network.load_state_dict(from_hub(network, tensors))
    tokens = prenorm_tokens(network, image)
    found = {
        "x_prenorm": tokens,
        "x_prenorm_layernorm": functional.layer_norm(tokens, tokens.shape[-1:]),
        "x_norm_clstoken": network(image),
        "pos_embed": hub_positions(tensors["pos_embed"], (height // 14, width // 14), registers=True),
    }
    for key, value in found.items():
        expected = arrays[f"out{picture}_{key}"]
        np.testing.assert_allclose(value.numpy(), expected, **sidecar["tolerance"], err_msg=key)


@pytest.mark.parametrize(("name", "left_out"), [("fd_dinov2_reg518", ()), ("fd_dinov2", ("register_tokens",))])
def test_full_size_files_fit(name: str, left_out: tuple[str, ...]) -> None:
    """344 tensors, and without registers 343 of which the positions are stored for 518 pixels."""
    sidecar, _ = golden_io.load("full_size_keys", "dinov2_vitl14_reg4")
    file, network = without_values(sidecar, *left_out), without_memory(SPECS[name].create)
    assert len(file) == SPECS[name].weights.keys
    assert shapes(SPECS[name].adapt(network, file)) == shapes(network.state_dict())
    assert network.patch_embed.img_size == ((224, 224) if left_out else (518, 518))


@pytest.mark.parametrize("absent", ["pos_embed", "cls_token"])
def test_absent_and_unknown_tensors_stay_so(absent: str) -> None:
    network = vision_transformer(REG4, 28, embed_dim=8, depth=1, num_heads=2)
    made = from_hub(
        network, {"pos_embed": torch.ones(1, 5, 8), "cls_token": torch.ones(1, 1, 8), "more": torch.ones(1)}
    )
    assert set(made) == {"pos_embed", "cls_token", "more"}
    assert set(from_hub(network, {name: made[name] for name in made if name != absent})) == set(made) - {absent}


def cubic(distance: np.ndarray) -> np.ndarray:
    """Keys' kernel with a = -0.75, as torch's bicubic."""
    d, a = np.abs(distance), -0.75
    near = (a + 2) * d**3 - (a + 3) * d**2 + 1
    far = a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0))


def cubic_matrix(old: int, new: int, ratio: float) -> np.ndarray:
    """[new, old] weights of bicubic sampling at (i + 0.5) / ratio - 0.5, borders repeated."""
    matrix = np.zeros((new, old))
    for i in range(new):
        place = (i + 0.5) / ratio - 0.5
        taps = np.floor(place) + np.arange(-1, 3)
        np.add.at(matrix[i], taps.clip(0, old - 1).astype(int), cubic(place - taps))
    return matrix


def test_positions_without_registers_are_resampled_by_the_hubs_rule_and_not_by_timms() -> None:
    """224 pixels are 16 patches: the ratio is 16.1 / 37, no antialiasing. Float32 against float64: 1e-5.

    timm's resampling is off by more than the spread of what it resamples; without the offset it is off by 1e-3.
    """
    stored = torch.from_numpy(golden_io.w1("pos_embed", (1, 1 + 37**2, 24)))
    grid = stored[0, 1:].view(37, 37, -1).double().numpy()
    found = hub_positions(stored, (16, 16), registers=False)[0].numpy()

    def off(ratio: float) -> float:
        weights = cubic_matrix(37, 16, ratio)
        return np.abs(found[1:] - np.einsum("ip,jq,pqc->ijc", weights, weights, grid).reshape(256, -1)).max()

    assert off(16.1 / 37) < 1e-5
    assert off(16 / 37) > 1e-3
    np.testing.assert_array_equal(found[0], stored[0, 0])
    timms = resample_abs_pos_embed(stored, [16, 16], [37, 37])[0].numpy()
    assert np.abs(timms - found).max() > found.std()


@torch.inference_mode()
def test_trellis_condition_is_normalised_over_channels_without_parameters() -> None:
    network = vision_transformer(REG4, 70, embed_dim=24, depth=2, num_heads=3).eval()
    golden_io.fill_w1(network, "small")
    pictures = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 3, 70, 70), np.uint8))
    condition = trellis_condition(network, pictures)
    assert condition.shape == (2, 1 + 4 + 25, 24)
    tokens = prenorm_tokens(network, (pictures / 255 - MEAN) / SPREAD).double()
    centred = tokens - tokens.mean(-1, keepdim=True)
    expected = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(condition.double(), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(condition[:1], trellis_condition(network, pictures[:1]), rtol=0, atol=0)


def test_slips_network_is_the_base_one_without_its_classifier() -> None:
    """86,567,656 parameters with 1000 classes, as timm lists it; no layer scale."""
    network = without_memory(partial(vision_transformer, "vit_base_patch16_224", 224))
    assert sum(p.numel() for p in network.parameters()) == 86_567_656 - 769 * 1000
    assert not any(name.endswith("gamma") for name in network.state_dict())


# CLIP


@pytest.mark.parametrize(
    ("name", "width", "hidden", "millions", "activation"),
    [
        # Parameters as open_clip lists them for picture towers (docs/model_profile.csv).
        ("clip_bigg", 1664, int(1664 * 4.9231), 1844.91, "GELU"),
        ("clip_l14", 1024, 4096, 303.97, "QuickGELU"),
    ],
)
def test_clip_towers(name: str, width: int, hidden: int, millions: float, activation: str) -> None:
    tower = without_memory(SPECS[name].create)
    state = tower.state_dict()
    assert round(sum(tensor.numel() for tensor in state.values()) / 1e6, 2) == millions
    assert list(state["positional_embedding"].shape) == [257, width]
    assert list(state["transformer.resblocks.0.mlp.c_fc.weight"].shape) == [hidden, width]
    kinds = [type(module).__name__ for module in tower.modules()]
    assert kinds.count(activation) == kinds.count("MultiheadAttention") == kinds.count("ResidualAttentionBlock")
    assert {module.num_heads for module in tower.modules() if isinstance(module, nn.MultiheadAttention)} == {16}
    assert {module.eps for module in tower.modules() if isinstance(module, nn.LayerNorm)} == {1e-5}


# Inception

SIDECAR, ARRAYS = golden_io.load("inception", "inception_2x256")


@pytest.fixture(scope="module")
def inception() -> nn.Module:
    """Weights of the fixture: rule W1, convolutions times sqrt(2) in float64 before rounding."""
    network = fid_inception().eval()
    golden_io.fill_w1(network, SIDECAR["weights"]["salt"])
    with torch.no_grad():
        for name, tensor in network.named_parameters():
            if tensor.ndim == 4:
                tensor.copy_(convolution_weight(name, tuple(tensor.shape)))
    return network


def convolution_weight(name: str, shape: tuple[int, ...]) -> Tensor:
    key = f"{SIDECAR['weights']['salt']}/{name}"
    z = np.random.Generator(np.random.PCG64(golden_io.zlib.crc32(key.encode()))).standard_normal(math.prod(shape))
    value = z / np.sqrt(z.size / shape[0]) * math.sqrt(2)
    return torch.from_numpy(value.reshape(shape).astype(np.float32))


def test_the_official_file_fits(inception: nn.Module) -> None:
    file = without_values(SIDECAR)
    assert {"fc.weight", "fc.bias"} <= set(file)
    assert shapes(without_classifier(inception, file)) == shapes(inception.state_dict())


@torch.inference_mode()
def test_features_are_pytorch_fids(inception: nn.Module) -> None:
    """After its own resizing, and after clean-fid's normalised as pytorch-fid does."""
    pictures = [torch.from_numpy(ARRAYS[f"image{i}"]).permute(2, 0, 1)[None] for i in (0, 1)]
    prepared = {
        "pytorch_fid_2048": [resize.pytorch_fid_299(picture) for picture in pictures],
        "clean_resize_then_pytorch_fid_2048": [
            (resize.clean_fid_299(picture) * 128 + 128) / 127.5 - 1 for picture in pictures
        ],
    }
    for name, given in prepared.items():
        found = torch.cat([inception(x) for x in given])
        np.testing.assert_allclose(found.numpy(), ARRAYS[f"out_{name}"], **SIDECAR["tolerance"])
