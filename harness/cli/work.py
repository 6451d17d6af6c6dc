"""The verb `work`: jobs of a run that is driven elsewhere, one after the other."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from ...base.errors import RunError, UsageError
from ..engine.receipts import receipts_of
from ..engine.stop import CODE, Stopped

RESTARTS = "SLURM_RESTART_COUNT"  # how often Slurm has put this job back into its queue


def work_command(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder of the run, which this machine sees too.")],
    job: Annotated[list[str], typer.Option("--job", metavar="KEY", help="A job that waits, as `status` names it.")],
) -> None:
    """Do jobs of a run, for a scheduler that mdtbench does not know. The run takes what is done when it is next called.

    SIGTERM ends it; a training saves where it is first, and the same command continues from there.

    Examples:

      mdtbench work runs/smoke-1 --job train-0123456789abcdef0123
    """
    from ..engine.work import ready_for

    ready_for(out)
    typer.echo("".join(_done(out, key) for key in job), nl=False)


def _done(out: Path, key: str) -> str:
    """Do a job that waits; what came of it.

    Raises:
        MissingError: there is no such job, or nothing was ever given to others there.
        UsageError: it needs another one first.
        RunError: it was lost: memory or a device failed.
        Whatever it raises.
    """
    from ..engine.work import Ticket, gpus_of, job_of, perform

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
