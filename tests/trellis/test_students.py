"""Released students: bare state dicts of torch become checkpoints in TRELLIS' layout, once, and nothing else does."""

from __future__ import annotations

import json

import golden_io
import pytest
import torch
from safetensors.torch import load_file

from mdtbench.base.errors import MissingError
from mdtbench.base.files import file_sha256
from mdtbench.trellis import create
from mdtbench.trellis import students as module
from mdtbench.trellis.students import read_released, released_student
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


class Runs:
    """What a hostile file would hold: unpickling it calls something."""

    def __reduce__(self):
        return print, ("run",)


def filled(salt: str) -> torch.nn.Module:
    network = create(CONFIG["name"], CONFIG["args"])
    golden_io.fill_w1(network, salt)
    return network


@pytest.fixture
def teacher(tmp_path):
    save_checkpoint(tmp_path / "trellis/flow", filled("teacher"), CONFIG)
    return tmp_path / "trellis/flow"


@pytest.fixture
def released(tmp_path):
    path = tmp_path / "mdt/flow.v1.pt"
    path.parent.mkdir()
    torch.save(filled("student").state_dict(), path)
    return path


def test_network_of_the_converted_file_is_the_released_one(teacher, released):
    student = released_student(released, teacher)
    assert student.sha256 == file_sha256(released.with_suffix(".safetensors"))
    assert student.source_sha256 == file_sha256(released)
    network = load_checkpoint(student.stem, student.sha256)
    expected = filled("student").state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in network.state_dict().items())


def test_dtype_of_the_release_is_kept(teacher, released):
    torch.save({key: value.half() for key, value in filled("student").state_dict().items()}, released)
    student = released_student(released, teacher)
    stored = load_file(student.stem.with_name("flow.v1.safetensors"))
    assert {value.dtype for value in stored.values()} == {torch.float16}


def test_it_is_converted_once(teacher, released, monkeypatch):
    first = released_student(released, teacher)

    def never(*_: object) -> None:
        raise AssertionError("read again")

    monkeypatch.setattr(module, "read_released", never)
    assert released_student(released, teacher) == first


def test_another_release_or_a_damaged_conversion_is_converted_again(teacher, released):
    first = released_student(released, teacher)
    weights = released.with_name("flow.v1.safetensors")
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert released_student(released, teacher) == first
    assert file_sha256(weights) == first.sha256
    torch.save(filled("another").state_dict(), released)
    second = released_student(released, teacher)
    assert second.sha256 != first.sha256
    assert second.source_sha256 == file_sha256(released)


def test_half_a_conversion_is_made_anew(teacher, released):
    released.with_name("flow.v1.safetensors").write_bytes(b"half")
    assert load_checkpoint(released_student(released, teacher).stem)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda state: state.pop("out_layer.bias"), "missing: out_layer.bias"),
        (lambda state: state.update({"teacher.weight": torch.zeros(1)}), "unexpected: teacher.weight"),
        (lambda state: state.update({"out_layer.bias": torch.zeros(3)}), r"other shape: out_layer.bias \[3\]"),
    ],
)
def test_other_keys_or_shapes_are_refused_and_leave_nothing(teacher, released, change, said):
    state = filled("student").state_dict()
    change(state)
    torch.save(state, released)
    with pytest.raises(MissingError, match=said):
        released_student(released, teacher)
    assert [path.name for path in released.parent.iterdir()] == ["flow.v1.pt"]


def test_only_bare_tensors_are_read(released, capsys):
    torch.save({"state_dict": filled("student").state_dict()}, released)
    with pytest.raises(MissingError, match="not a bare state dict"):
        read_released(released)
    torch.save({"weight": Runs()}, released)
    with pytest.raises(MissingError, match="tensors alone"):
        read_released(released)
    assert capsys.readouterr().out == ""


def test_absent_cut_and_old_files(released):
    with pytest.raises(MissingError, match="Missing file"):
        read_released(released.with_name("none.pt"))
    released.write_bytes(released.read_bytes()[:2000])
    with pytest.raises(MissingError, match="cannot be read"):
        read_released(released)
    torch.save({"a": torch.zeros(2)}, released, _use_new_zipfile_serialization=False)
    with pytest.raises(MissingError, match="cannot be read"):
        read_released(released)


def test_configuration_without_the_record_of_a_conversion(teacher, released):
    """TRELLIS' own .json put beside the released file, as third parties do."""
    released.with_name("flow.v1.json").write_text(json.dumps(CONFIG))
    assert load_checkpoint(released_student(released, teacher).stem)
