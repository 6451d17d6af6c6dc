"""One driver per run folder."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mdtbench.base.errors import RunError, UsageError
from mdtbench.harness.driver import lock
from mdtbench.harness.driver.lock import DRIVER, LOST_AFTER_S, driving

OTHER = """
import sys, time
from pathlib import Path
from mdtbench.harness.driver.lock import driving
with driving(Path(sys.argv[1])):
    print("driving", flush=True)
    time.sleep(600)
"""


@contextmanager
def other_process(out: Path) -> Iterator[subprocess.Popen]:
    """A driver of the folder that would stay for ten minutes."""
    process = subprocess.Popen([sys.executable, "-c", OTHER, str(out)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "driving\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def heartbeat(out: Path, host: str, age_s: float) -> None:
    out.mkdir(exist_ok=True)
    now = time.time() - age_s
    (out / DRIVER).write_text(json.dumps({"host": host, "pid": 7, "started_s": now, "beat_s": now}), encoding="utf-8")


def test_a_driver_says_who_it_is_while_it_works(tmp_path: Path):
    out = tmp_path / "new" / "run"
    with driving(out):
        found = json.loads((out / DRIVER).read_text(encoding="utf-8"))
        assert (found["host"], found["pid"]) == (socket.gethostname(), os.getpid())
        assert found["started_s"] <= found["beat_s"] <= time.time()
    assert not (out / DRIVER).exists()


def test_a_second_driver_is_told_of_the_first_and_a_killed_one_is_in_nobodys_way(tmp_path: Path):
    with other_process(tmp_path) as process:
        with (
            pytest.raises(UsageError, match=f"process {process.pid} on {socket.gethostname()} since 20") as raised,
            driving(tmp_path),
        ):
            pass
        assert "Wait for it, or give another --out." in str(raised.value)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert (tmp_path / DRIVER).exists()
        with driving(tmp_path):
            assert json.loads((tmp_path / DRIVER).read_text(encoding="utf-8"))["pid"] == os.getpid()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"host": "here"}'])
def test_a_folder_is_taken_whatever_its_driver_says_of_itself(tmp_path: Path, text: str):
    with driving(tmp_path):
        (tmp_path / DRIVER).write_text(text, encoding="utf-8")
        with pytest.raises(UsageError, match="is being written by another process"), driving(tmp_path):
            pass
    (tmp_path / DRIVER).write_text(text, encoding="utf-8")
    with driving(tmp_path):
        pass


def test_a_failure_frees_the_folder(tmp_path: Path):
    with pytest.raises(KeyError), driving(tmp_path):
        raise KeyError
    with driving(tmp_path):
        pass


def test_another_hosts_heartbeat_counts_while_it_is_fresh(tmp_path: Path):
    """A lock need not reach the other hosts of a network folder."""
    heartbeat(tmp_path, "elsewhere", LOST_AFTER_S - 10)
    with pytest.raises(UsageError, match="process 7 on elsewhere") as refused, driving(tmp_path):
        pass
    assert (tmp_path / DRIVER).exists()
    heartbeat(tmp_path, "elsewhere", LOST_AFTER_S + 10)
    with driving(tmp_path):  # which also says that the refused call has left no lock
        assert refused.tb
    heartbeat(tmp_path, socket.gethostname(), 0)  # of a killed driver of this host, whose lock is free
    with driving(tmp_path):
        pass


def test_the_heart_goes_on_beating_and_a_full_disk_does_not_stop_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(lock, "BEAT_S", 0.01)
    beats, write = [], lock.write_json

    def sometimes(path: Path, value: dict) -> None:
        beats.append(value["beat_s"])
        if len(beats) == 2:
            raise RunError("the disk is full")
        write(path, value)

    monkeypatch.setattr(lock, "write_json", sometimes)
    with driving(tmp_path):
        until = time.time() + 10
        while len(beats) < 4 and time.time() < until:
            time.sleep(0.01)
    assert len(beats) >= 4
    assert beats == sorted(beats)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match=r"Cannot write to .*file.*--out"), driving(tmp_path / "file" / "run"):
        pass
