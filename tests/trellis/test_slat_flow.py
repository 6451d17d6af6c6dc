"""SLatFlowModel against the public implementation's numbers, and its derivatives."""

from __future__ import annotations

import golden_io
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from mdtbench.base.errors import UsageError
from mdtbench.trellis import create, sparse_convolution
from mdtbench.trellis.adapter import bind, bind_guided, bind_guided_sparse, bind_sparse
from mdtbench.trellis.sparse import SparseTensor, Voxels
from mdtbench.trellis.sparse_blocks import tokens_of

FIXTURES = golden_io.names("slat_flow")
SMALL = {
    "resolution": 8,
    "in_channels": 2,
    "model_channels": 24,
    "cond_channels": 6,
    "out_channels": 2,
    "num_blocks": 2,
    "num_heads": 2,
    "io_block_channels": [12],
    "qk_rms_norm": True,
}
SMALL_DENSE = {key: value for key, value in SMALL.items() if key != "io_block_channels"}
FLAT = {"io_block_channels": None, "patch_size": 1}


def golden_model(sidecar: dict) -> nn.Module:
    model = create(sidecar["class"], sidecar["constructor"]).eval()
    golden_io.fill_w1(model, sidecar["weights"]["salt"])
    return model


def golden_inputs(arrays: dict[str, np.ndarray]) -> tuple[SparseTensor, Tensor, Tensor]:
    x = SparseTensor.of(torch.from_numpy(arrays["feats"]), torch.from_numpy(arrays["coords"]))
    return x, torch.from_numpy(arrays["t"]), torch.from_numpy(arrays["cond"])


def small_model(**changes: object) -> nn.Module:
    model = create("SLatFlowModel", {**SMALL, **changes}).eval()
    golden_io.fill_w1(model, "small")
    return model


def small_voxels(*lengths: int) -> Voxels:
    generator = torch.Generator().manual_seed(7)
    cells = torch.cartesian_prod(*[torch.arange(8)] * 3)
    parts = [cells[torch.randperm(512, generator=generator)[:n]] for n in lengths]
    sample = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    return Voxels.of(torch.cat([sample[:, None], torch.cat(parts)], 1), len(lengths))


def small_inputs(dtype: torch.dtype = torch.float32) -> tuple[SparseTensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    voxels = small_voxels(40, 23)
    feats = torch.randn(63, 2, generator=generator, dtype=dtype)
    cond = torch.randn(2, 5, 6, generator=generator, dtype=dtype)
    return SparseTensor(feats, voxels), torch.tensor([730.0, 12.5], dtype=dtype), cond


@pytest.mark.parametrize("name", FIXTURES)
def test_golden_state_dict(name):
    sidecar, _ = golden_io.load("slat_flow", name)
    model = golden_model(sidecar)
    assert golden_io.layout(model) == sidecar["state_dict"]
    assert golden_io.state_sha256(model) == sidecar["weights"]["sha256_of_state_dict_bytes"]


@pytest.mark.parametrize("name", FIXTURES)
def test_golden_output_and_gradients(name):
    sidecar, arrays = golden_io.load("slat_flow", name)
    model = golden_model(sidecar)
    out = model(*golden_inputs(arrays)).feats
    loss = out.square().mean()
    loss.backward()
    norms = [parameter.grad.norm().item() for parameter in model.parameters()]
    tolerance = {key: sidecar["tolerance"][key] for key in ("rtol", "atol")}
    np.testing.assert_allclose(out.detach(), arrays["out"], **tolerance)
    np.testing.assert_allclose(loss.item(), arrays["ref_loss_mean_sq"], rtol=1e-4)
    np.testing.assert_allclose(norms, arrays["ref_grad_norms"], rtol=2e-3)  # the sidecar's tolerance


def test_transformer_on_full_grids_is_the_dense_one():
    dense = create("SparseStructureFlowModel", {**SMALL_DENSE, "resolution": 4, "patch_size": 1}).eval()
    golden_io.fill_w1(dense, "dense")
    sparse = small_model(**FLAT)
    sparse.load_state_dict({key: value for key, value in dense.state_dict().items() if key != "pos_emb"})
    generator = torch.Generator().manual_seed(5)
    x, cond = torch.randn(3, 2, 4, 4, 4, generator=generator), torch.randn(3, 5, 6, generator=generator)
    t = torch.tensor([900.0, 400.0, 30.0])
    voxels = Voxels(torch.cartesian_prod(torch.arange(3), *[torch.arange(4)] * 3).int(), 3)
    feats = x.permute(0, 2, 3, 4, 1).flatten(0, 3)
    with torch.no_grad():
        expected = dense(x, t, cond).permute(0, 2, 3, 4, 1).flatten(0, 3)
        torch.testing.assert_close(sparse(SparseTensor(feats, voxels), t, cond).feats, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("changes", [{}, {**FLAT, "share_mod": True}, {"use_skip_connection": False}])
def test_forward_derivative_equals_central_differences(changes):
    model = small_model(qk_rms_norm_cross=True, **changes).double()
    x, t, cond = small_inputs(torch.float64)
    generator = torch.Generator().manual_seed(4)
    dx, dt = torch.randn(x.feats.shape, generator=generator, dtype=torch.float64), torch.tensor([1.0, -2.0]).double()

    def velocity(feats: Tensor, t: Tensor) -> Tensor:
        return model(x.replace(feats), t, cond).feats

    h = 1e-5
    with sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        out, derivative = torch.func.jvp(velocity, (x.feats, t), (dx, dt))
        plus, minus = velocity(x.feats + h * dx, t + h * dt), velocity(x.feats - h * dx, t - h * dt)
    # truncation h^2 and cancellation 1e-16 / h are both about 1e-10 of values of order 1
    torch.testing.assert_close(out, velocity(x.feats, t), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(derivative, (plus - minus) / (2 * h), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("changes", [{}, FLAT])
def test_an_object_does_not_depend_on_the_others_of_its_batch(changes):
    model = small_model(**changes)
    x, t, cond = small_inputs()
    second = x.voxels.sample == 1
    coords = x.coords[second] - torch.tensor([1, 0, 0, 0])
    with torch.no_grad():
        together = model(x, t, cond).feats[second]
        alone = model(SparseTensor.of(x.feats[second], coords), t[1:], cond[1:]).feats
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)  # sums over padded and unpadded sequences


def test_the_order_of_rows_is_only_an_order():
    model = small_model()
    x, t, cond = small_inputs()
    turned = torch.cat([torch.arange(40).flip(0), torch.arange(40, 63).flip(0)])
    with torch.no_grad():
        expected = model(x, t, cond).feats[turned]
        got = model(SparseTensor.of(x.feats[turned], x.coords[turned]), t, cond).feats
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)  # sums in another order


def test_two_stages_of_residual_blocks():
    """Patch size 4: the public implementation cannot, its cache of coordinates collides."""
    model = small_model(patch_size=4, io_block_channels=[6, 12])
    x, t, cond = small_inputs()
    out = model(x, t, cond)
    assert out.voxels is x.voxels
    assert out.feats.shape == (63, 2)


def test_checkpointing_changes_no_gradient():
    plain, recomputed = small_model(), small_model(use_checkpoint=True)
    for model in (plain, recomputed):
        model(*small_inputs()).feats.square().mean().backward()
    for (name, a), b in zip(plain.named_parameters(), recomputed.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-6, atol=1e-7, msg=name)


def test_a_network_whose_convolutions_multiply_first_is_the_same(monkeypatch):
    """As on a GPU: also where blocks go back to finer voxels, with and without recomputed activations."""
    plain, first, recomputed = small_model(), small_model(), small_model(use_checkpoint=True)
    for model in (plain, first, recomputed):
        model.double()
        monkeypatch.setattr(sparse_convolution, "PRODUCTS_FIRST", set() if model is plain else {"cpu"})
        x, t, cond = small_inputs()
        model(x.replace(x.feats.double()), t.double(), cond.double()).feats.square().mean().backward()
    for (name, a), b, c in zip(plain.named_parameters(), first.parameters(), recomputed.parameters(), strict=True):
        for other in (b, c):  # float64, sums in another order; times' features are float32
            torch.testing.assert_close(a.grad, other.grad, rtol=1e-9, atol=1e-12, msg=name)


def test_float16_torso_agrees_with_float32():
    full, half = small_model(), small_model(use_fp16=True)
    with torch.no_grad():
        out, narrow = full(*small_inputs()).feats, half(*small_inputs()).feats
    kinds = {name: parameter.dtype for name, parameter in half.named_parameters()}
    assert kinds["input_blocks.0.conv1.conv.weight"] == kinds["out_blocks.1.conv2.conv.bias"] == torch.float16
    assert kinds["input_blocks.0.norm1.weight"] == kinds["input_layer.weight"] == torch.float32
    assert narrow.dtype == torch.float32
    assert 0 < (out - narrow).abs().max() < 2e-2  # 2^-11 relative per operation, about 50 operations of size 1


def test_untrained_network_returns_zero_and_can_learn():
    model = create("SLatFlowModel", SMALL)
    out = model(*small_inputs()).feats
    assert torch.equal(out, torch.zeros_like(out))
    (out - 1).square().mean().backward()
    assert model.out_layer.bias.grad.abs().min() > 0


def test_bound_velocities():
    model = small_model()
    x, _, cond = small_inputs()
    t = torch.tensor([0.7, 0.2])
    with torch.no_grad():
        velocity, guided = bind_sparse(model, cond, x.voxels), bind_guided_sparse(model, cond, x.voxels)
        conditional, unconditional = (model(x, 1000 * t, c).feats for c in (cond, torch.zeros_like(cond)))
        torch.testing.assert_close(velocity(x.feats, t), conditional, rtol=0, atol=0)
        torch.testing.assert_close(guided(x.feats, t, 0.0), conditional, rtol=0, atol=0)
        expected = 3.5 * conditional - 2.5 * unconditional
        # zeros are one token there: no sum over many equal ones
        torch.testing.assert_close(guided(x.feats, t, 2.5), expected, rtol=1e-5, atol=1e-5)
    assert (conditional - unconditional).abs().max() > 0.1


def test_dense_and_sparse_are_bound_alike():
    """On full grids the guided velocities of a dense network and of its sparse equal are the same numbers."""
    dense = create("SparseStructureFlowModel", {**SMALL_DENSE, "resolution": 2, "patch_size": 1}).eval()
    golden_io.fill_w1(dense, "dense")
    sparse = small_model(**FLAT)
    sparse.load_state_dict({key: value for key, value in dense.state_dict().items() if key != "pos_emb"})
    cond, t = small_inputs()[2], torch.tensor([0.9, 0.4])
    x = torch.randn(2, 2, 2, 2, 2, generator=torch.Generator().manual_seed(1))
    voxels = Voxels(torch.cartesian_prod(*[torch.arange(2)] * 4).int(), 2)
    feats = x.permute(0, 2, 3, 4, 1).flatten(0, 3)
    with torch.no_grad():
        for strength in (0.0, 3.0):
            expected = bind_guided(dense, cond)(x, t, strength).permute(0, 2, 3, 4, 1).flatten(0, 3)
            got = bind_guided_sparse(sparse, cond, voxels)(feats, t, strength)
            torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(bind(dense, cond)(x, t).sum(), bind_sparse(sparse, cond, voxels)(feats, t).sum())


def test_what_belongs_to_the_voxels_is_computed_once():
    voxels = small_voxels(10, 20)
    assert voxels.halved()[0] is voxels.halved()[0]
    assert voxels.neighbours is voxels.neighbours
    assert voxels.windows(4, 2) is voxels.windows(4, 2)
    assert tokens_of(voxels).attend.keywords["sequences"] is voxels.sequences


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pe_mode": "rope"}, "pe_mode 'rope'.*ape"),
        ({"num_heads": 5}, "24 .* 5 heads"),
        ({"patch_size": 4}, "1 numbers and patch_size is 4"),
        ({"share_mod": True}, "share_mod cannot be combined with io_block_channels"),
    ],
)
def test_impossible_arguments(changes, message):
    with pytest.raises(UsageError, match=message):
        small_model(**changes)


def test_wrong_number_of_channels():
    x, t, cond = small_inputs()
    with pytest.raises(UsageError, match="1 channels; this network takes 2"):
        small_model()(x.replace(x.feats[:, :1]), t, cond)
