"""What the verb `verify` does: every file of a run against its digest. It changes nothing."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ...base.errors import MissingError
from ...base.files import read_record
from ...results.catalog import MANIFEST_FILE, ROWS_FILE, is_run, read_info
from ...results.rows import read_rows
from ...results.sums import SUMS, damaged, read_sums
from ..engine.files import load_tensors
from ..engine.receipts import read_receipt
from ..engine.store import ENTRIES, Store
from .origin import command_of

STORES = ("store", "pairs")
# What carries its own sha256, and who compares it.
OWN: Mapping[str, Callable[[Path], object]] = {
    "students/*/*.safetensors": load_tensors,
    "students/*/*.json": read_record,
    "pairs/*.safetensors": load_tensors,
    "pairs/*/*.safetensors": load_tensors,
    "scores/*.json": read_record,
    "receipts/*.json": read_receipt,
    "receipts/lost/*.json": read_receipt,
}
AGAIN = {
    "export": "it is exported again",
    "scores": "they are measured again",
    "receipts": "it is set aside, and a job without its receipt is done again",
}


@dataclass(frozen=True)
class Damage:
    """What is wrong with a file, and what its run's command does about it."""

    path: str
    reason: str
    again: str


@dataclass
class Checked:
    """How many files of each kind were looked at, and what was found."""

    counts: Counter[str] = field(default_factory=Counter)
    damages: list[Damage] = field(default_factory=list)


def verified(folder: Path) -> None:
    """Print what is damaged. Raises MissingError when something is, or when there is no run."""
    if not is_run(folder):
        raise MissingError(f"There is no run at {folder}. Name a folder with a {MANIFEST_FILE} or {ROWS_FILE}.")
    found = checked(folder)
    sys.stdout.write(verified_text(folder, found))
    if found.damages:
        raise MissingError(
            f"{len(found.damages)} of {found.counts.total()} files of {folder} are damaged. "
            f"To make them again: {command_of(read_info(folder)) or 'run the command that made them'}"
        )


def checked(folder: Path) -> Checked:
    """All of a run's files against their digests."""
    found, seen = Checked(), set[str]()
    for kind, check in (("files", _sums), ("students, records and receipts", _own), ("entries of stores", _entries)):
        for path, reason in check(folder):
            found.counts[kind] += 1
            if reason and path not in seen:
                seen.add(path)
                found.damages.append(Damage(path, reason, _again(path)))
    return found


def verified_text(folder: Path, found: Checked) -> str:
    """How much of what was checked, then a line per damaged file."""
    kinds = ", ".join(f"{count} {kind}" for kind, count in found.counts.items())
    lines = [f"{folder}: {kinds or 'nothing with a digest'}; {len(found.damages) or 'none'} damaged."]
    if not (folder / SUMS).is_file():
        lines.append(f"There is no {SUMS}: the run did not finish, so tables and logs cannot be checked.")
    lines += [f"  {one.path}: {one.reason} ({one.again})" for one in found.damages]
    return "\n".join(lines) + "\n"


def _sums(folder: Path) -> Iterator[tuple[str, str]]:
    """What SHA256SUMS names, and whether the rows are those of the manifest."""
    try:
        wrong = dict(damaged(folder))
        yield from ((name, wrong.get(name, "")) for name in read_sums(folder))
        if (folder / ROWS_FILE).is_file() and ROWS_FILE not in wrong and MANIFEST_FILE not in wrong:
            read_rows(folder / ROWS_FILE)
    except MissingError as error:
        yield SUMS if "sha256 and name" in str(error) else ROWS_FILE, str(error)


def _own(folder: Path) -> Iterator[tuple[str, str]]:
    for pattern, check in OWN.items():
        for path in sorted(folder.glob(pattern)):
            if not path.name.startswith("."):
                yield path.relative_to(folder).as_posix(), _reason(path, check)


def _reason(path: Path, check: Callable[[Path], object]) -> str:
    try:
        check(path)
    except MissingError as error:
        return str(error)
    return ""


def _entries(folder: Path) -> Iterator[tuple[str, str]]:
    for name in STORES:
        store = Store(folder / name)
        for slot in store.slots():
            yield slot.data.relative_to(folder).as_posix(), store.damage(slot) or ""
        orphans = [
            path for path in (store.root / ENTRIES).glob("*/??/[!.]*.npz") if not path.with_suffix(".json").exists()
        ]
        yield from ((path.relative_to(folder).as_posix(), "its record is missing") for path in sorted(orphans))


def _again(path: str) -> str:
    """What happens to a damaged file when its run's command is given again."""
    first, _, rest = path.partition("/")
    if first == "students":
        return "the training begins anew" if rest.endswith("checkpoint.safetensors") else "the student is trained again"
    if first in STORES:
        what = "ends of noises" if path.endswith(".safetensors") else rest.split("/")[1]
        return f"{what} are computed again when needed"
    return AGAIN.get(first, "it is written again")
