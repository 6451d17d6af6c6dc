"""CLIP's picture towers against a float64 reference; their key lists."""

from __future__ import annotations

import golden_io
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mdtbench.metrics.official.clip_vision import BIGG_14, OPENAI_L14, ClipVision, TowerShape, quick_gelu
from mdtbench.metrics.official.weights import without_memory


def expected_keys(width: int, layers: int, hidden: int, embedding: int) -> dict[str, list[int]]:
    """open_clip's tensors of a picture tower with 14-pixel patches at 224 pixels, without `visual.`."""
    keys = {
        "class_embedding": [width],
        "positional_embedding": [257, width],
        "proj": [width, embedding],
        "conv1.weight": [width, 3, 14, 14],
    }
    for norm in ("ln_pre", "ln_post"):
        keys |= {f"{norm}.weight": [width], f"{norm}.bias": [width]}
    for i in range(layers):
        block = f"transformer.resblocks.{i}"
        for norm in ("ln_1", "ln_2"):
            keys |= {f"{block}.{norm}.weight": [width], f"{block}.{norm}.bias": [width]}
        keys |= {f"{block}.attn.in_proj_weight": [3 * width, width], f"{block}.attn.in_proj_bias": [3 * width]}
        for name, outputs, inputs in (
            ("attn.out_proj", width, width),
            ("mlp.c_fc", hidden, width),
            ("mlp.c_proj", width, hidden),
        ):
            keys |= {f"{block}.{name}.weight": [outputs, inputs], f"{block}.{name}.bias": [outputs]}
    return keys


@pytest.mark.parametrize(
    ("shape", "keys", "count", "millions"),
    [
        # Parameters as open_clip lists them for picture towers (docs/model_profile.csv).
        (BIGG_14, expected_keys(1664, 48, int(1664 * 4.9231), 1280), 584, 1844.91),
        (OPENAI_L14, expected_keys(1024, 24, 4096, 768), 296, 303.97),
    ],
)
def test_full_size_keys(shape: TowerShape, keys: dict[str, list[int]], count: int, millions: float) -> None:
    state = without_memory(lambda: ClipVision(shape)).state_dict()
    assert {name: list(tensor.shape) for name, tensor in state.items()} == keys
    assert len(keys) == count
    assert round(sum(tensor.numel() for tensor in state.values()) / 1e6, 2) == millions


def reference(network: ClipVision, shape: TowerShape, picture: Tensor) -> Tensor:
    """Embedding of one picture [3, S, S] by nn.MultiheadAttention and plain products, in float64."""
    w = {name: tensor.double() for name, tensor in network.state_dict().items()}
    p = shape.patch
    patches = picture.double().unfold(1, p, p).unfold(2, p, p).permute(1, 2, 0, 3, 4).flatten(0, 1).flatten(1)
    x = torch.cat([w["class_embedding"][None], patches @ w["conv1.weight"].flatten(1).T]) + w["positional_embedding"]

    def norm(x: Tensor, name: str) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        return scaled * w[f"{name}.weight"] + w[f"{name}.bias"]

    x = norm(x, "ln_pre")
    for i in range(shape.layers):
        block = f"transformer.resblocks.{i}"
        attention = nn.MultiheadAttention(shape.width, shape.heads, dtype=torch.float64)
        attention.load_state_dict(
            {name.removeprefix(f"{block}.attn."): v for name, v in w.items() if name.startswith(f"{block}.attn.")}
        )
        seen = norm(x, f"{block}.ln_1")
        x = x + attention(seen, seen, seen, need_weights=False)[0]
        inner = norm(x, f"{block}.ln_2") @ w[f"{block}.mlp.c_fc.weight"].T + w[f"{block}.mlp.c_fc.bias"]
        if shape.activation is quick_gelu:
            inner = inner / (1 + torch.exp(-1.702 * inner))
        else:
            inner = inner * (1 + torch.erf(inner / 2**0.5)) / 2
        x = x + inner @ w[f"{block}.mlp.c_proj.weight"].T + w[f"{block}.mlp.c_proj.bias"]
    return norm(x[0], "ln_post") @ w["proj"]


@pytest.mark.parametrize("full", [BIGG_14, OPENAI_L14])
@torch.inference_mode()
def test_a_small_tower_is_a_float64_reference(full: TowerShape) -> None:
    """Float32 rounding of three blocks stays below 1e-5 of values of order 1; the two activations differ by 1e-2."""
    shape = TowerShape(
        width=24, layers=3, heads=4, hidden=100, embedding=10, activation=full.activation, patch=4, side=20
    )
    network = ClipVision(shape).eval()
    golden_io.fill_w1(network, "tower")
    pictures = torch.from_numpy(golden_io.w1("pictures", (2, 3, 20, 20)))
    expected = torch.stack([reference(network, shape, picture) for picture in pictures])
    np.testing.assert_allclose(network(pictures).numpy(), expected.numpy(), atol=1e-5)
