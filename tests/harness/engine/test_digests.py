"""Tensors and records on disk: one flipped bit is found before anything is computed with them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from mdtbench.base.errors import MissingError
from mdtbench.base.files import read_record, replacing, sweep_parts, write_json, write_record
from mdtbench.harness.engine.files import intact, load_tensors, save_tensors

TENSORS = {
    "weight": torch.arange(12.0).reshape(3, 4).mT,
    "half": torch.ones(5, dtype=torch.bfloat16),
    "count": torch.tensor(7),
    "empty": torch.zeros(0, 3),
}


def flipped(path: Path, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


def test_tensors_come_back_as_they_were(tmp_path):
    save_tensors(tmp_path / "a", TENSORS)
    found = load_tensors(tmp_path / "a")
    assert found.keys() == TENSORS.keys()
    for name, value in TENSORS.items():
        assert found[name].dtype == value.dtype
        assert torch.equal(found[name], value)
    before = (tmp_path / "a").read_bytes()
    save_tensors(tmp_path / "a", dict(reversed(TENSORS.items())))
    assert (tmp_path / "a").read_bytes() == before


def test_every_flipped_bit_is_found_or_changes_nothing(tmp_path):
    save_tensors(tmp_path / "a", TENSORS)
    size, silent = 8 * (tmp_path / "a").stat().st_size, 0
    for bit in range(0, size, 7):
        save_tensors(tmp_path / "a", TENSORS)
        flipped(tmp_path / "a", bit)
        try:
            found = load_tensors(tmp_path / "a")
        except MissingError:
            continue
        silent += 1
        assert all(torch.equal(found[name], value) for name, value in TENSORS.items())
    assert silent < 5  # spaces that fill the header up


def test_tensors_without_a_digest_are_not_trusted(tmp_path):
    save_file({"a": torch.ones(2)}, tmp_path / "a")
    with pytest.raises(MissingError, match="no sha256"):
        load_tensors(tmp_path / "a")
    (tmp_path / "a").write_bytes(b"torn")
    with pytest.raises(MissingError, match="damaged"):
        load_tensors(tmp_path / "a")
    with pytest.raises(MissingError, match="Missing file"):
        load_tensors(tmp_path / "absent")


def test_every_flipped_bit_of_a_record_is_found(tmp_path):
    path, value = tmp_path / "a.json", {"steps": 30, "lr": 1e-4, "label": "vm", "none": None}
    write_record(path, value)
    assert read_record(path) == value
    for bit in range(8 * path.stat().st_size):
        write_record(path, value)
        flipped(path, bit)
        try:
            assert read_record(path) == value  # white space
        except MissingError:
            continue


@pytest.mark.parametrize("content", ["[]", "{}", "3", "", "{"])
def test_what_is_no_record_is_told(tmp_path, content):
    (tmp_path / "a.json").write_text(content)
    told: list[str] = []
    assert not intact(tmp_path / "a.json", read_record, told.append)
    assert not (tmp_path / "a.json").exists()
    assert "It is made again." in told[0]
    assert "\n" not in told[0]


def test_a_file_is_on_the_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    done: list[str] = []
    for name in ("fsync", "replace"):
        real = getattr(__import__("os"), name)
        monkeypatch.setattr("os." + name, lambda *args, name=name, real=real: (done.append(name), real(*args))[1])
    write_json(tmp_path / "a.json", {})
    assert done == ["fsync", "replace"]


def test_a_file_has_the_rights_of_any_new_file(tmp_path):
    import os

    before = os.umask(0o077)
    try:
        write_json(tmp_path / "a.json", {})
    finally:
        os.umask(before)
    assert (tmp_path / "a.json").stat().st_mode & 0o777 == 0o600


def test_what_killed_processes_left_is_swept(tmp_path):
    (tmp_path / "sub").mkdir()
    with replacing(tmp_path / "sub" / "kept.part") as part:
        part.write_text("x")
        left = part.with_name(part.name.replace("kept", "gone"))
        left.write_text("half")
    others = [tmp_path / ".hidden.part", tmp_path / "a.0123abcd.part", tmp_path / "sub" / ".x.0123456.part"]
    for path in others:
        path.write_text("not ours")
    assert sweep_parts(tmp_path) == 1
    assert not left.exists()
    assert (tmp_path / "sub" / "kept.part").exists()
    assert all(path.exists() for path in others)
