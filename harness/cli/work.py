"""The verb `work`: jobs of a run that is driven elsewhere, one after the other."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from ...base.errors import RunError, UsageError
from ..engine.receipts import receipts_of
from ..engine.stop import CODE, Stopped
from ..engine.work import Ticket, gpus_of, job_of, perform, ready_for

RESTARTS = "SLURM_RESTART_COUNT"  # how often Slurm has put this job back into its queue


def work_command(out: Path, keys: Sequence[str]) -> str:
    """Do jobs that wait in a run's folder; what came of each, a line each.

    Raises:
        MissingError: there is no such job, or nothing was ever given to others there.
        UsageError: a job needs another one first.
        RunError: a job was lost: memory or a device failed.
        Whatever a job raises.
    """
    ready_for(out)
    return "".join(_one(out, key) for key in keys)


def _one(out: Path, key: str) -> str:
    found = receipts_of(out).get(key)
    if found and found.status == "done":
        return f"{key} was done on {found.host}.\n"
    job = job_of(out, key)
    waits = next((need for need in job.needs if not need.done), None)
    if waits:
        raise UsageError(f"{key} reads what {waits.key} makes, which is not there - do that first.")
    lost = [receipt for receipt in receipts_of(out).lost() if receipt.key == key]
    attempt = max((receipt.attempt + 1 for receipt in lost), default=0) + int(os.environ.get(RESTARTS, "0"))
    try:
        receipt = perform(Ticket(job, attempt, gpus_of(out, key), out))
    except Stopped:
        sys.exit(CODE)
    if receipt.status != "done":
        raise RunError(f"{key} was lost here: {receipt.error}. The same command tries again.")
    return f"{key} done in {receipt.seconds:.1f} s.\n"
