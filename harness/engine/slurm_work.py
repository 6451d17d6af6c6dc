"""In a Slurm job: the jobs of a run that wait in a folder, one after the other."""

from __future__ import annotations

import os
import signal
import subprocess
import time
import traceback
from contextlib import suppress
from pathlib import Path

from ...base.files import read_json
from .receipts import receipts_of
from .stop import CODE, Stopped
from .work import Ticket, job_of, perform, ready_for

LOOK_S = 0.2  # between two looks for more to do
LINGER_S = 30.0  # to wait for more: networks are loaded, and the queue may be long
CLOSED = "closed"


def work(out: str, folder: str) -> None:
    """Do the jobs of a folder, and wait a moment for more; see `Worker`."""
    ready_for(Path(out))
    signal.signal(signal.SIGUSR2, signal.getsignal(signal.SIGTERM))  # the time is almost over
    since = time.monotonic()
    while time.monotonic() - since < LINGER_S and not (Path(folder) / CLOSED).exists():
        mine = _mine(Path(folder))
        if mine is None:
            time.sleep(LOOK_S)
            continue
        _one(Path(out), mine)
        mine.unlink(missing_ok=True)
        since = time.monotonic()
    (Path(folder) / CLOSED).touch()


def _mine(folder: Path) -> Path | None:
    """The next job; first what this Slurm job was doing when it was put back."""
    for path in (*folder.glob("*.mine"), *sorted(folder.glob("*.json"))):
        mine = path.with_suffix(".mine")
        with suppress(FileNotFoundError):  # the driver has taken it back
            path.rename(mine)
            return mine
    return None


def _one(out: Path, mine: Path) -> None:
    (attempt, gpus), restarts = read_json(mine), int(os.environ.get("SLURM_RESTART_COUNT", "0"))
    found = receipts_of(out).get(mine.stem)
    if found and found.attempt >= attempt:
        return  # it was put back when it was done
    try:
        perform(Ticket(job_of(out, mine.stem), attempt + restarts, gpus, out))
    except Stopped:
        # Into the queue, from where this Slurm job begins anew; where Slurm does that by itself, this changes nothing.
        if not (mine.parent / CLOSED).exists():
            subprocess.run(["scontrol", "requeue", os.environ["SLURM_JOB_ID"]], check=False)
        os._exit(CODE)
    except Exception:  # its receipt says what, and the other jobs have nothing to do with it
        traceback.print_exc()
