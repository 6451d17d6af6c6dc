"""The verb `status`: how far a run is, from the receipts of its jobs. Imports no torch: it must answer at once."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer
from pydantic import BaseModel, ConfigDict, ValidationError

from ...base.errors import MissingError
from ...base.text import aligned, counted
from ..driver.lock import driver_of
from ..engine.receipts import JOBS, RECEIPTS, SETUP, Receipt, receipts_of

SHOWN = 8  # jobs that are named
HOUR_S = 3600.0


class Waiting(BaseModel):
    """A job that is not done."""

    model_config = ConfigDict(frozen=True)

    key: str = ""
    label: str
    units: int
    gpus: int


def status_command(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder of the run, as --out says it.")],
) -> None:
    """How far a run is: jobs done and waiting, hosts, hours used and left, lost attempts. It may be at work.

    Examples:

      mdtbench status runs/smoke-1
    """
    typer.echo(status_text(out), nl=False)


def status_text(out: Path) -> str:
    """What is done, by whom, at what cost, and what is left.

    Raises:
        MissingError: no run was ever started there.
    """
    if not (out / RECEIPTS).is_dir() and not (out / JOBS).is_dir():
        raise MissingError(f"No job of a run was ever started in {out}. Name the folder of a run, as --out says it.")
    receipts = receipts_of(out)
    found, lost, waiting = list(receipts.all()), receipts.lost(), list(waiting_in(out))
    done, driver = [one for one in found if one.status == "done"], driver_of(out)
    lines = [
        f"{out}: {f'driven by {driver}' if driver else 'no driver is running'}",
        "",
        *_table(done, lost, waiting),
        "",
        *_hosts(done),
        "",
    ]
    lines.append(_cost(done, lost, waiting))
    models = {one.device for one in done if one.gpu_seconds}
    if len(models) > 1:
        lines.append(f"Networks ran on {len(models)} models of GPU ({', '.join(sorted(models))}): bits may differ.")
    lines += _named("failed", [f"{one.key}: {one.error}" for one in found if one.status == "failed"])
    lines += _named("lost", [f"{one.key} on {one.host or 'an unknown host'}: {one.error}" for one in lost])
    lines += _named("waiting", [one.key for one in waiting])
    return "\n".join(lines) + "\n"


def footer(out: Path) -> list[str]:
    """What a reader of a run's tables must know of the machines that made them; nothing where all went well."""
    receipts = receipts_of(out)
    done, lost = list(receipts.all()), receipts.lost()
    models = sorted({one.device for one in done})
    lines = []
    if lost:
        hours, gpu_hours = (
            sum(values) / HOUR_S for values in zip(*((r.seconds, r.gpu_seconds) for r in lost), strict=True)
        )
        lines.append(
            f"{counted(len(lost), 'attempt')} at jobs lost with a machine: {hours:.2f} h, {gpu_hours:.2f} GPU hours."
        )
    if len(models) > 1:
        lines.append(f"Made on {len(models)} models of devices ({', '.join(models)}): equal seeds may differ in bits.")
    return lines


def waiting_in(out: Path) -> Iterator[Waiting]:
    """The jobs of the phase that a run is in which are not done."""
    for path in sorted((out / JOBS).glob("*.json")):
        if path.name != SETUP:
            try:
                waiting = Waiting.model_validate_json(path.read_bytes())
            except ValidationError as error:
                reason = error.errors()[0]["msg"]
                raise MissingError(f"{path} is no job ({reason}). The run's own command writes it again.") from error
            yield waiting.model_copy(update={"key": path.stem})


def _table(done: Sequence[Receipt], lost: Sequence[Receipt], waiting: Sequence[Waiting]) -> list[str]:
    jobs, units, seconds = Counter[str](), Counter[str](), defaultdict[str, float](float)
    for one in done:
        jobs[one.label] += 1
        units[one.label] += one.units
        seconds[one.label] += one.seconds
    left, gone = Counter(one.label for one in waiting), Counter(one.label for one in lost)
    rows = [
        (
            label,
            *map(str, (jobs[label], left[label], gone[label])),
            f"{seconds[label]:.1f}",
            f"{seconds[label] / units[label]:.3f}" if units[label] else "-",
        )
        for label in sorted({*jobs, *left, *gone})
    ]
    return list(aligned([("jobs", "done", "waiting", "lost attempts", "seconds", "s per unit"), *rows]))


def _hosts(done: Sequence[Receipt]) -> list[str]:
    jobs, seconds = Counter((one.host, one.device) for one in done), defaultdict[tuple[str, str], float](float)
    for one in done:
        seconds[one.host, one.device] += one.seconds
    rows = [(name, device, str(jobs[name, device]), f"{seconds[name, device]:.1f}") for name, device in sorted(jobs)]
    return list(aligned([("host", "device", "jobs", "seconds"), *rows]))


def _cost(done: Sequence[Receipt], lost: Sequence[Receipt], waiting: Sequence[Waiting]) -> str:
    """Hours on GPUs; where there are none, hours of processes."""
    gpus = any(one.gpu_seconds for one in done) or any(one.gpus for one in waiting)
    name = "GPU hours" if gpus else "process hours"
    used, wasted = (sum(_seconds(one, gpus=gpus) for one in many) / HOUR_S for many in (done, lost))
    left, unknown = _left(done, waiting, gpus=gpus)
    more = f" and {counted(unknown, 'job')} of a kind that was never timed" if unknown else ""
    spent = f"{used + wasted:.2f} used, {wasted:.2f} of them in {counted(len(lost), 'lost attempt')}"
    return f"{name}: {spent}; about {left:.2f} left{more}"


def _left(done: Sequence[Receipt], waiting: Sequence[Waiting], *, gpus: bool) -> tuple[float, int]:
    """Hours of the jobs that wait, by what a unit of their label took; and how many cannot be told."""
    units, seconds = Counter[str](), defaultdict[str, float](float)
    for one in done:
        units[one.label] += one.units
        seconds[one.label] += _seconds(one, gpus=gpus)
    known = [one for one in waiting if units[one.label]]
    hours = sum(one.units * seconds[one.label] / units[one.label] for one in known) / HOUR_S
    return hours, len(waiting) - len(known)


def _seconds(receipt: Receipt, *, gpus: bool) -> float:
    return receipt.gpu_seconds if gpus else receipt.seconds


def _named(what: str, lines: Sequence[str]) -> list[str]:
    if not lines:
        return []
    more = [f"  ... {len(lines)} in all"] if len(lines) > SHOWN else []
    return [f"{what}:", *(f"  {line}" for line in lines[:SHOWN]), *more]
