"""`mdtbench verify`, and what reports and the next call do with damaged files and rows of another run."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

from flip_bits import main as flip_bits

from mdtbench.base.errors import MissingError
from mdtbench.base.files import write_json, write_record, write_text
from mdtbench.harness.cli.verify import checked, verified, verified_text
from mdtbench.harness.driver.run import make_again
from mdtbench.harness.engine.files import save_tensors
from mdtbench.harness.engine.receipts import Receipt, Receipts, read_receipt
from mdtbench.harness.engine.store import Address, Store
from mdtbench.results.report import read_run
from mdtbench.results.rows import read_rows
from mdtbench.results.sums import SUMS, read_sums, write_sums

ROW = {
    "schema_version": 4, "run_id": "abc", "status": "ok", "method": "vm", "method_version": 1, "split": "test",
    "metric": "FD", "metric_version": 1, "value": 1.5, "n_ok": 3, "n_total": 4, "higher_is_better": False,
    "config_sha": "0", "torch": "2", "device": "cpu", "created_utc": "2026-01-01T00:00:00+00:00", "steps": 1,
}  # fmt: skip
RECEIPT = Receipt(
    key="scores-0", kind="scores", label="scores", status="done", attempt=0, host="a", device="cpu", units=1,
    seconds=0.5, gpu_seconds=0.0, made={"0": "1"},
)  # fmt: skip
STUDENT = "students/structure-vm-seed0-0123456789ab"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a finished run, with a file of each kind."""
    folder = tmp_path / "run"
    write_text(folder / "rows.jsonl", json.dumps(ROW) + "\n")
    write_json(folder / "manifest.json", {"run_id": "abc", "finished_s": 1.7e9, "started_s": 1.6e9})
    write_text(folder / "failures.csv", "where,id,reason\n")
    write_record(folder / STUDENT / "training.json", {"steps": 3})
    write_text(folder / STUDENT / "log.jsonl", '{"step": 0}\n')
    for name in ("student", "student-ema0.0"):
        save_tensors(folder / STUDENT / f"{name}.safetensors", {"a": torch.ones(40)})
    write_text(folder / "export" / "vm-1x2" / "chair.glb", "glTF")
    Store(folder / "store").put(Address("looks", {"a": 1}), {"data": np.arange(9)})
    receipts = Receipts(folder, print)
    receipts.put(RECEIPT)
    receipts.lose(RECEIPT)
    write_json(folder / "jobs" / "setup.json", {"root": None})
    save_tensors(folder / "pairs" / "exam-0.safetensors", {"ends": torch.ones(9)})
    write_record(folder / "scores" / "vm-0.json", {"records": []})
    write_sums(folder)
    return folder


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_an_intact_run_is_told(run, capsys):
    verified(run)
    assert "9 files, 7 students, records and receipts, 1 entries of stores; none damaged." in capsys.readouterr().out


def test_a_flipped_bit_is_found_in_each_kind_of_file(run):
    assert flip_bits(run, per_kind=8) == 0


def test_what_would_be_made_again_is_told(run, capsys):
    flip(run / STUDENT / "student.safetensors")
    flip(next((run / "store").rglob("*.npz")))
    (run / "export" / "vm-1x2" / "chair.glb").unlink()
    save_tensors(run / STUDENT / "checkpoint.safetensors", {"a": torch.ones(40)})
    flip(run / STUDENT / "checkpoint.safetensors")
    with pytest.raises(MissingError, match=r"4 of 18 files of .* are damaged"):
        verified(run)
    told = capsys.readouterr().out
    for words in ("the student is trained again", "looks are computed again", "exported again", "training begins anew"):
        assert words in told
    assert "Traceback" not in told


def test_a_run_that_did_not_finish_is_told(run):
    (run / SUMS).unlink()
    assert "the run did not finish" in verified_text(run, checked(run))


def test_reports_refuse_damaged_rows(run):
    assert len(read_run(run).rows) == 1
    text = (run / "rows.jsonl").read_text()
    (run / "rows.jsonl").write_text(text.replace("1.5", "1.4"))
    with pytest.raises(MissingError, match=r"rows\.jsonl is damaged"):
        read_run(run)
    (run / SUMS).unlink()  # changed on purpose
    assert read_run(run).rows["value"].tolist() == [1.4]


def test_rows_of_another_run_are_refused(run):
    write_json(run / "manifest.json", {"run_id": "other", "started_s": 1.6e9})
    with pytest.raises(MissingError, match="rows of run abc beside the manifest of run other, which did not finish"):
        read_rows(run / "rows.jsonl")
    (run / SUMS).unlink()  # as a call does that begins
    assert "beside the manifest" in verified_text(run, checked(run))


def test_the_next_call_makes_again_what_is_damaged(run):
    flip(run / STUDENT / "log.jsonl")
    flip(run / "export" / "vm-1x2" / "chair.glb")
    told: list[str] = []
    make_again(run, told.append)
    assert not (run / STUDENT / "student.safetensors").exists()  # and so it is trained again
    assert not (run / "export" / "vm-1x2" / "chair.glb").exists()
    assert len(told) == 2
    assert not (run / SUMS).exists()


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname", "students/../../outside"])
def test_sums_name_nothing_outside_the_folder(run, name):
    outside = run.parent / "outside"
    outside.write_text("mine")
    write_text(run / SUMS, f"{'0' * 64}  {name}\n")
    with pytest.raises(MissingError, match="damaged"):
        read_sums(run)
    make_again(run, lambda text: None)
    assert outside.read_text() == "mine"


def test_a_damaged_receipt_is_set_aside_and_told(run):
    told: list[str] = []
    receipts = Receipts(run, told.append)
    flip(receipts.path("scores-0"))
    flip(run / "receipts" / "lost" / "scores-0-0.json")
    with pytest.raises(MissingError):
        read_receipt(receipts.path("scores-0"))
    assert receipts.damaged("scores-0")
    assert receipts.lost() == []
    assert "its job is done again" in told[0]
    assert "its attempt is not counted" in told[1]
    assert not receipts.path("scores-0").exists()
