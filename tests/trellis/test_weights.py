"""Checkpoints: what is written is what is read, and nothing else is accepted."""

from __future__ import annotations

import json

import golden_io
import pytest
import torch
from safetensors.torch import load_file, save_file

from mdtbench.base.errors import MissingError, UsageError
from mdtbench.base.files import file_sha256
from mdtbench.trellis import create
from mdtbench.trellis.weights import load_checkpoint, save_checkpoint

CONFIG = {
    "name": "SparseStructureFlowModel",
    "args": {
        "resolution": 4,
        "in_channels": 2,
        "model_channels": 12,
        "cond_channels": 6,
        "out_channels": 2,
        "num_blocks": 1,
        "num_heads": 2,
    },
}


@pytest.fixture
def stem(tmp_path):
    """A saved checkpoint; the dot in its name is part of the name."""
    module = filled()
    save_checkpoint(tmp_path / "flow.v1", module, CONFIG)
    return tmp_path / "flow.v1"


def filled() -> torch.nn.Module:
    module = create(CONFIG["name"], CONFIG["args"])
    golden_io.fill_w1(module, "weights")
    return module


def weights_of(stem):
    return stem.with_name(stem.name + ".safetensors")


def edit_tensors(stem, change):
    tensors = load_file(weights_of(stem))
    change(tensors)
    save_file(tensors, weights_of(stem))


def test_roundtrip(stem):
    assert {path.name for path in stem.parent.iterdir()} == {"flow.v1.json", "flow.v1.safetensors"}
    module = load_checkpoint(stem, file_sha256(weights_of(stem)))
    assert not module.training
    assert golden_io.state_sha256(module) == golden_io.state_sha256(filled())


def test_same_weights_give_the_same_file(stem, tmp_path):
    assert save_checkpoint(tmp_path / "again", filled(), CONFIG) == file_sha256(weights_of(stem))


def test_channels_last_weights_roundtrip(tmp_path):
    config = {
        "name": "SparseStructureDecoder",
        "args": {"out_channels": 1, "latent_channels": 2, "num_res_blocks": 1, "channels": [8, 4]},
    }
    module = create(config["name"], config["args"]).to(memory_format=torch.channels_last_3d)
    save_checkpoint(tmp_path / "decoder", module, config)
    assert golden_io.state_sha256(load_checkpoint(tmp_path / "decoder")) == golden_io.state_sha256(module)


def test_float16_file_is_read_as_float32(stem):
    save_checkpoint(stem, filled(), CONFIG, dtype=torch.float16)
    stored = load_file(weights_of(stem))
    assert stored["out_layer.weight"].dtype == torch.float16
    assert stored["pos_emb"].dtype == torch.float32
    module = load_checkpoint(stem)
    for name, value in filled().state_dict().items():
        assert module.state_dict()[name].dtype == value.dtype
        expected = value if name == "pos_emb" else value.half().float()
        assert torch.equal(module.state_dict()[name], expected)


def test_digest_is_checked_before_the_content(stem):
    good = file_sha256(weights_of(stem))
    weights_of(stem).write_bytes(b"not a safetensors file")
    with pytest.raises(MissingError, match="has sha256") as caught:
        load_checkpoint(stem, good)
    for part in (weights_of(stem), good, file_sha256(weights_of(stem))):
        assert str(part) in str(caught.value)


@pytest.mark.parametrize("size", [0, 4, 300])
def test_truncated_file(stem, size):
    weights_of(stem).write_bytes(weights_of(stem).read_bytes()[:size])
    with pytest.raises(MissingError, match="not a complete safetensors file"):
        load_checkpoint(stem)


def test_missing_key(stem):
    edit_tensors(stem, lambda tensors: tensors.pop("input_layer.bias"))
    with pytest.raises(MissingError, match=r"missing: input_layer\.bias"):
        load_checkpoint(stem)


def test_unexpected_keys_are_listed_up_to_five(stem):
    edit_tensors(stem, lambda tensors: tensors.update({f"extra.{i}": torch.zeros(1) for i in range(7)}))
    with pytest.raises(MissingError, match=r"unexpected: extra\.\d, .* and 2 more"):
        load_checkpoint(stem)


def test_other_shape(stem):
    edit_tensors(stem, lambda tensors: tensors.update({"out_layer.bias": torch.zeros(1)}))
    with pytest.raises(MissingError, match=r"out_layer\.bias \[1\] instead of \[16\]"):
        load_checkpoint(stem)


def test_absent_files(stem, tmp_path):
    with pytest.raises(MissingError, match=r"nowhere\.json"):
        load_checkpoint(tmp_path / "nowhere")
    weights_of(stem).unlink()
    with pytest.raises(MissingError, match=r"flow\.v1\.safetensors"):
        load_checkpoint(stem)


@pytest.mark.parametrize("content", ["[]", '{"name": "SparseStructureFlowModel"}', '{"name": 1, "args": {}}'])
def test_malformed_config(stem, content):
    stem.with_name("flow.v1.json").write_text(content)
    with pytest.raises(MissingError, match="name and args"):
        load_checkpoint(stem)


def test_unknown_network_in_config(stem):
    stem.with_name("flow.v1.json").write_text(json.dumps({**CONFIG, "name": "SparseStructureFlow"}))
    with pytest.raises(UsageError, match="Did you mean 'SparseStructureFlowModel'"):
        load_checkpoint(stem)
