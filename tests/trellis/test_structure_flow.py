"""SparseStructureFlowModel against the public implementation's numbers, and its derivatives."""

from __future__ import annotations

import golden_io
import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from mdtbench.base.errors import UsageError
from mdtbench.trellis import create
from mdtbench.trellis.conditioner import negative
from mdtbench.trellis.structure_flow import from_patches, to_patches

FIXTURES = golden_io.names("ss_flow")
SMALL = {
    "resolution": 4,
    "in_channels": 2,
    "model_channels": 24,
    "cond_channels": 6,
    "out_channels": 2,
    "num_blocks": 2,
    "num_heads": 2,
    "patch_size": 2,
    "qk_rms_norm": True,
}


def golden_model(sidecar: dict) -> torch.nn.Module:
    model = create(sidecar["class"], sidecar["constructor"]).eval()
    golden_io.fill_w1(model, sidecar["weights"]["salt"])
    return model


def small_model(**changes: object) -> torch.nn.Module:
    model = create("SparseStructureFlowModel", {**SMALL, **changes}).eval()
    golden_io.fill_w1(model, "small")
    return model


def small_inputs(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(2, 2, 4, 4, 4, generator=generator, dtype=dtype)
    cond = torch.randn(2, 5, 6, generator=generator, dtype=dtype)
    return x, torch.tensor([730.0, 12.5], dtype=dtype), cond


@pytest.mark.parametrize("name", FIXTURES)
def test_golden_state_dict(name):
    sidecar, _ = golden_io.load("ss_flow", name)
    model = golden_model(sidecar)
    assert golden_io.layout(model) == sidecar["state_dict"]
    assert golden_io.state_sha256(model) == sidecar["weights"]["sha256_of_state_dict_bytes"]
    assert sum(p.numel() for p in model.parameters()) == sidecar["weights"]["num_parameters"]
    state = model.state_dict()
    for key, values in sidecar["weights"]["probe_first_values"].items():
        np.testing.assert_array_equal(state[key].flatten()[: len(values)], np.float32(values))


@pytest.mark.parametrize("name", FIXTURES)
def test_golden_output(name):
    sidecar, arrays = golden_io.load("ss_flow", name)
    model = golden_model(sidecar)
    x, t, cond = (torch.from_numpy(arrays[key]) for key in ("x", "t", "cond"))
    tolerance = {key: sidecar["tolerance"][key] for key in ("rtol", "atol")}
    with torch.no_grad():
        np.testing.assert_allclose(model(x, t, cond), arrays["out"], **tolerance)
        np.testing.assert_allclose(model.t_embedder(t), arrays["out_t_emb"], **tolerance)


@pytest.mark.parametrize("name", FIXTURES)
def test_golden_gradients(name):
    sidecar, arrays = golden_io.load("ss_flow", name)
    model = golden_model(sidecar)
    x = torch.from_numpy(arrays["x"]).requires_grad_()
    loss = model(x, torch.from_numpy(arrays["t"]), torch.from_numpy(arrays["cond"])).square().mean()
    loss.backward()
    norms = [parameter.grad.norm().item() for parameter in model.parameters()]
    # 2e-3 is the sidecar's tolerance; the input gradient is compared to its own size in the same measure
    np.testing.assert_allclose(loss.item(), arrays["ref_loss_mean_sq"], rtol=1e-4)
    np.testing.assert_allclose(norms, arrays["ref_grad_norms"], rtol=2e-3)
    np.testing.assert_allclose(x.grad, arrays["ref_grad_x"], atol=2e-3 * np.abs(arrays["ref_grad_x"]).max())


@pytest.mark.parametrize("share_mod", [False, True])
def test_forward_derivative_equals_central_differences(share_mod):
    model = small_model(share_mod=share_mod, qk_rms_norm_cross=True).double()
    x, t, cond = small_inputs(torch.float64)
    dx, dt = torch.randn_like(x.flip(0).contiguous()), torch.tensor([1.0, -2.0], dtype=torch.float64)
    h = 1e-5
    with sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        out, derivative = torch.func.jvp(lambda x, t: model(x, t, cond), (x, t), (dx, dt))
        plus, minus = model(x + h * dx, t + h * dt, cond), model(x - h * dx, t - h * dt, cond)
    # truncation h^2 and cancellation 1e-16 / h are both about 1e-10 of values of order 1
    torch.testing.assert_close(out, model(x, t, cond), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(derivative, (plus - minus) / (2 * h), rtol=1e-7, atol=1e-8)


def test_functional_call_is_the_model_with_other_weights():
    model, other = small_model(), small_model()
    golden_io.fill_w1(other, "other")
    inputs = small_inputs()
    with torch.no_grad():
        called = torch.func.functional_call(model, dict(other.named_parameters()), inputs)
        torch.testing.assert_close(called, other(*inputs), rtol=0, atol=0)
        assert (called - model(*inputs)).abs().max() > 0.1


def test_the_negative_condition_is_the_same_in_one_token():
    """7 equal tokens share all attention, and sevenths add up to 1 within the rounding of float64."""
    model = small_model(qk_rms_norm_cross=True).double()
    x, t, cond = small_inputs(torch.float64)
    null = negative(model, cond)
    assert null.shape[1] == 1 < cond.shape[1]
    with torch.no_grad():
        one, many = model(x, t, null), model(x, t, torch.zeros_like(cond[:, :1]).expand(-1, 7, -1))
        torch.testing.assert_close(one, many, rtol=0, atol=1e-13)
        assert (one - model(x, t, cond)).abs().max() > 0.1
    assert negative(torch.nn.Identity(), cond).shape == cond.shape


def test_inputs_are_left_alone():
    inputs = small_inputs()
    before = [value.clone() for value in inputs]
    small_model()(*inputs)
    for value, old in zip(inputs, before, strict=True):
        assert torch.equal(value, old)


def test_checkpointing_changes_no_gradient():
    plain, recomputed = small_model(), small_model(use_checkpoint=True)
    for model in (plain, recomputed):
        model(*small_inputs()).square().mean().backward()
    for (name, a), b in zip(plain.named_parameters(), recomputed.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-6, atol=1e-7, msg=name)


def test_float16_blocks_agree_with_float32():
    full, half = small_model(), small_model(use_fp16=True)
    with torch.no_grad():
        difference = (full(*small_inputs()) - half(*small_inputs())).abs().max()
    assert half.blocks[0].mlp.mlp[0].weight.dtype == torch.float16
    assert 0 < difference < 2e-2  # 2^-11 relative per operation, about 30 operations of size 1 in a row


def test_a_float16_network_can_be_widened_for_the_cpu():
    half = small_model(use_fp16=True)
    widened = small_model(use_fp16=True).float()
    with torch.no_grad():
        assert widened(*small_inputs()).dtype == torch.float32
        torch.testing.assert_close(widened(*small_inputs()), half(*small_inputs()), rtol=0, atol=2e-2)


def test_patches_are_undone_and_ordered():
    x = torch.arange(2 * 3 * 4**3, dtype=torch.float32).reshape(2, 3, 4, 4, 4)
    tokens = to_patches(x, 2)
    assert tokens.shape == (2, 8, 24)
    # token 1 is one patch further along the last axis; within a token offsets run (x, y, z), channel slowest
    torch.testing.assert_close(tokens[0, 1, :8], x[0, 0, :2, :2, 2:].flatten())
    torch.testing.assert_close(from_patches(tokens, 2, 4), x)


def test_untrained_network_returns_zero_and_can_learn():
    model = create("SparseStructureFlowModel", SMALL)
    out = model(*small_inputs())
    assert torch.equal(out, torch.zeros_like(out))
    (out - 1).square().mean().backward()
    assert model.out_layer.bias.grad.abs().min() > 0
    assert 0.015 < model.t_embedder.mlp[0].weight.std().item() < 0.025


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pe_mode": "rope"}, "pe_mode 'rope'.*ape"),
        ({"patch_size": 3}, "resolution 4 .* patch_size 3"),
        ({"num_heads": 5}, "24 .* 5 heads"),
        ({"num_heads": None}, "24 .* 0 heads"),
    ],
)
def test_impossible_arguments(changes, message):
    with pytest.raises(UsageError, match=message):
        small_model(**changes)


def test_wrong_input_shape():
    x, t, cond = small_inputs()
    with pytest.raises(UsageError, match=r"\[2, 2, 4, 4, 3\]"):
        small_model()(x[..., :3], t, cond)
