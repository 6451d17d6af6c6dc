"""Vision transformers: DINOv2's numbers on small networks, the key lists of the full ones."""

from __future__ import annotations

import golden_io
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from mdtbench.base.errors import UsageError
from mdtbench.metrics.official.resize import IMAGENET_MEAN, IMAGENET_STD
from mdtbench.metrics.official.vision_transformer import (
    DINOV2_L14,
    DINOV2_L14_REG,
    VIT_B16,
    VisionShape,
    VisionTransformer,
    trellis_condition,
)
from mdtbench.metrics.official.weights import without_memory

FIXTURES = golden_io.names("dinov2")


def shape_of(sidecar: dict) -> VisionShape:
    given = sidecar["constructor"]
    return VisionShape(
        width=given["embed_dim"],
        depth=given["depth"],
        heads=given["num_heads"],
        patch=given["patch_size"],
        grid=given["img_size"] // given["patch_size"],
        registers=given["num_register_tokens"],
        layer_scale=True,
        mask_token=True,
        offset=given["interpolate_offset"],
        antialias=given["interpolate_antialias"],
    )


def golden_network(sidecar: dict) -> VisionTransformer:
    network = VisionTransformer(shape_of(sidecar)).eval()
    golden_io.fill_w1(network, sidecar["weights"]["salt"])
    return network


def small(**changes: object) -> VisionTransformer:
    settings = {"width": 24, "depth": 2, "heads": 3, "patch": 14, "grid": 5, "layer_scale": True, **changes}
    network = VisionTransformer(VisionShape(**settings)).eval()
    golden_io.fill_w1(network, "small")
    return network


@pytest.mark.parametrize("name", FIXTURES)
@pytest.mark.parametrize("picture", [0, 1])
@torch.inference_mode()
def test_tokens_are_dinov2s(name: str, picture: int) -> None:
    sidecar, arrays = golden_io.load("dinov2", name)
    network = golden_network(sidecar)
    mean, spread = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    image = (torch.from_numpy(arrays[f"image{picture}"]) - mean) / spread
    tokens = network.tokens(image)
    found = {
        "x_prenorm": tokens,
        "x_prenorm_layernorm": functional.layer_norm(tokens, tokens.shape[-1:]),
        "x_norm_clstoken": network(image),
        "pos_embed": network.positions(image.shape[2] // 14, image.shape[3] // 14),
    }
    for key, value in found.items():
        expected = arrays[f"out{picture}_{key}"]
        np.testing.assert_allclose(value.numpy(), expected, **sidecar["tolerance"], err_msg=key)


@pytest.mark.parametrize("name", FIXTURES)
def test_tensors_are_those_of_the_fixture(name: str) -> None:
    sidecar, _ = golden_io.load("dinov2", name)
    network = golden_network(sidecar)
    assert golden_io.layout(network) == sidecar["state_dict"]
    assert golden_io.state_sha256(network) == sidecar["weights"]["sha256_of_state_dict_bytes"]


def test_full_size_keys_with_registers() -> None:
    sidecar, _ = golden_io.load("full_size_keys", "dinov2_vitl14_reg4")
    network = without_memory(lambda: VisionTransformer(DINOV2_L14_REG))
    assert golden_io.layout(network) == sidecar["state_dict"]
    assert sum(p.numel() for p in network.parameters()) == sidecar["num_parameters"]


def test_full_size_keys_without_registers_are_the_same_but_one() -> None:
    sidecar, _ = golden_io.load("full_size_keys", "dinov2_vitl14_reg4")
    expected = [entry for entry in sidecar["state_dict"] if entry[0] != "register_tokens"]
    assert golden_io.layout(without_memory(lambda: VisionTransformer(DINOV2_L14))) == expected
    assert len(expected) == 343


def test_full_size_keys_of_timms_base_network() -> None:
    """timm's vit_base_patch16_224 has 85,798,656 parameters without its classifier (86,567,656 with 1000 classes)."""
    network = without_memory(lambda: VisionTransformer(VIT_B16))
    assert sum(p.numel() for p in network.parameters()) == 86_567_656 - 769 * 1000
    names = set(network.state_dict())
    assert len(names) == 4 + 12 * 12 + 2
    assert not {name for name in names if name.endswith("gamma") or name in ("mask_token", "register_tokens")}


@pytest.mark.parametrize("shape", [DINOV2_L14, DINOV2_L14_REG])
def test_positions_are_stored_for_518_pixels(shape: VisionShape) -> None:
    assert shape.grid * shape.patch == 518
    assert (shape.offset, shape.antialias) == ((0.0, True) if shape.registers else (0.1, False))


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


@torch.inference_mode()
def test_positions_without_registers_are_resampled_with_the_hubs_offset() -> None:
    """224 pixels are 16 patches: the ratio is 16.1 / 37, no antialiasing. Float32 against float64: 1e-5."""
    network = small(grid=37, offset=0.1)
    stored = network.pos_embed[0, 1:].view(37, 37, -1).double().numpy()
    weights = cubic_matrix(37, 16, 16.1 / 37)
    expected = np.einsum("ip,jq,pqc->ijc", weights, weights, stored).reshape(256, -1)
    found = network.positions(16, 16)[0].numpy()
    np.testing.assert_allclose(found[1:], expected, atol=1e-5)
    np.testing.assert_array_equal(found[0], network.pos_embed[0, 0].numpy())
    plain = cubic_matrix(37, 16, 16 / 37)
    other = np.einsum("ip,jq,pqc->ijc", plain, plain, stored).reshape(256, -1)
    assert np.abs(found[1:] - other).max() > 1e-3


def reference(network: VisionTransformer, picture: Tensor) -> Tensor:
    """Class token of a network without registers or layer scale, in float64 with plain products."""
    w = {name: tensor.double() for name, tensor in network.state_dict().items()}
    p, heads = network.shape.patch, network.shape.heads
    patches = picture.double().unfold(1, p, p).unfold(2, p, p).permute(1, 2, 0, 3, 4).flatten(0, 1).flatten(1)
    tokens = patches @ w["patch_embed.proj.weight"].flatten(1).T + w["patch_embed.proj.bias"]
    x = torch.cat([w["cls_token"][0], tokens]) + w["pos_embed"][0]

    def norm(x: Tensor, name: str) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt()
        return scaled * w[f"{name}.weight"] + w[f"{name}.bias"]

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    for i in range(network.shape.depth):
        block = f"blocks.{i}"
        parts = linear(norm(x, f"{block}.norm1"), f"{block}.attn.qkv").chunk(3, -1)
        mixed = []
        for q, k, v in zip(*(part.chunk(heads, -1) for part in parts), strict=True):
            mixed.append(torch.softmax(q @ k.T / q.shape[-1] ** 0.5, -1) @ v)
        x = x + linear(torch.cat(mixed, -1), f"{block}.attn.proj")
        inner = linear(norm(x, f"{block}.norm2"), f"{block}.mlp.fc1")
        x = x + linear(inner * (1 + torch.erf(inner / 2**0.5)) / 2, f"{block}.mlp.fc2")
    return norm(x, "norm")[0]


@torch.inference_mode()
def test_a_plain_network_is_a_float64_reference() -> None:
    """Float32 rounding of two blocks stays below 1e-5 of values of order 1."""
    network = small(layer_scale=False, patch=4, grid=6)
    picture = torch.from_numpy(golden_io.w1("picture", (1, 3, 24, 24)))
    np.testing.assert_allclose(network(picture)[0].numpy(), reference(network, picture[0]).numpy(), atol=1e-5)


@torch.inference_mode()
def test_registers_get_no_position_and_come_second() -> None:
    network = small(registers=4, depth=0)
    tokens = network.tokens(torch.zeros(2, 3, 70, 70))
    assert tokens.shape == (2, 1 + 4 + 25, 24)
    assert torch.equal(tokens[1, 1:5], network.register_tokens[0])
    assert torch.equal(tokens[0, 0], network.cls_token[0, 0] + network.pos_embed[0, 0])


@torch.inference_mode()
def test_trellis_condition_is_normalised_over_channels_without_parameters() -> None:
    network = small(registers=4)
    pictures = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 3, 70, 70), np.uint8))
    condition = trellis_condition(network, pictures)
    mean, spread = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    tokens = network.tokens((pictures / 255 - mean) / spread).double()
    centred = tokens - tokens.mean(-1, keepdim=True)
    expected = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(condition.double(), expected, rtol=0, atol=1e-5)


def test_a_picture_that_patches_do_not_fill_is_refused() -> None:
    with pytest.raises(UsageError, match=r"got 70 x 72.*multiples of 14"):
        small()(torch.zeros(1, 3, 70, 72))
