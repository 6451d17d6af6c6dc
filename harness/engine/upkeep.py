"""What lies in a cache folder, whether it is intact, and what of it can go: entries and the quarantine."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from filelock import FileLock, Timeout

from ...base.errors import MissingError, RunError
from .store import ENTRIES, LOCKS, QUARANTINE, Slot, Store

LEFTOVERS, QUARANTINED = "(leftovers)", "(quarantine)"  # no address has such a kind


@dataclass(frozen=True)
class Item:
    """Something in the cache that can be collected by itself.

    Attributes:
        kind: of an entry; or LEFTOVERS, QUARANTINED.
        paths: files in the order in which they must go.
        size: bytes. used: seconds since the epoch when it was last made or read.
        lock: to be held while it goes.
    """

    kind: str
    paths: tuple[Path, ...]
    size: int
    used: float
    lock: Path | None = None


@dataclass(frozen=True)
class Summary:
    """All items of a kind together. oldest, newest: seconds since the epoch of the last use."""

    kind: str
    files: int
    size: int
    oldest: float
    newest: float


@dataclass(frozen=True)
class Damage:
    """path: the damaged data, before they were moved."""

    path: Path
    reason: str


@dataclass(frozen=True)
class Collected:
    """What went, or would go. kept: bytes that stay in entries and quarantine."""

    items: tuple[Item, ...]
    kept: int

    @property
    def freed(self) -> int:
        return sum(item.size for item in self.items)


def items(store: Store) -> list[Item]:
    """Entries, then the quarantine. Raises MissingError when there is no cache folder."""
    if not store.root.is_dir():
        raise MissingError(f"There is no cache folder {store.root}. The first run makes it; or give another --cache.")
    found = [*map(_entry, store.slots()), *_quarantined(store.root)]
    return [item for item in found if item is not None]


def summaries(found: Sequence[Item]) -> list[Summary]:
    """One per kind, in the order of the items."""
    return [_summary(kind, list(group)) for kind, group in groupby(found, key=lambda item: item.kind)]


def verify(store: Store, tick: Callable[[], None]) -> list[Damage]:
    """Recompute all digests and move what differs away. tick: called after each entry."""
    damages = []
    for slot in store.slots():
        reason = store.verify(slot)
        damages += [Damage(slot.data, reason)] if reason else []
        tick()
    return damages


def to_collect(
    found: Sequence[Item], now: float, older_than_s: float | None = None, larger_than: int | None = None
) -> list[Item]:
    """What has not been used for longer than `older_than_s`; then, until at most `larger_than` bytes are left, the rest
    from the least recently used on, the quarantine before everything else."""
    by_use = sorted(found, key=lambda item: (item.kind != QUARANTINED, item.used))
    oldest = -math.inf if older_than_s is None else now - older_than_s
    chosen, rest = [item for item in by_use if item.used < oldest], [item for item in by_use if item.used >= oldest]
    excess = sum(item.size for item in rest) - larger_than if larger_than is not None else 0
    for item in rest:
        if excess <= 0:
            break
        chosen.append(item)
        excess -= item.size
    return chosen


def collect(
    store: Store, older_than_s: float | None = None, larger_than: int | None = None, dry_run: bool = False
) -> Collected:
    """Remove leftovers of interrupted writes, and what `to_collect` says. What another process is making stays.

    Raises:
        MissingError: there is no cache folder.
        RunError: something cannot be deleted.
    """
    found, now = items(store), time.time()
    chosen = [*_leftovers(store.root), *to_collect(found, now, older_than_s, larger_than)]
    gone = chosen if dry_run else [item for item in chosen if _deleted(store.root, item)]
    if not dry_run:
        _sweep_locks(store.root)
    left = sum(item.size for item in found) - sum(item.size for item in gone if item.kind != LEFTOVERS)
    return Collected(tuple(gone), left)


def _entry(slot: Slot) -> Item | None:
    """None when it went away meanwhile."""
    try:
        data, record = slot.data.stat(), slot.record.stat()
    except FileNotFoundError:
        return None
    size = data.st_size + record.st_size
    return Item(slot.kind, (slot.record, slot.data), size, data.st_mtime, slot.lock)


def _quarantined(root: Path) -> Iterator[Item]:
    for path in sorted((root / QUARANTINE).glob("[!.]*")):
        stat = path.stat()
        yield Item(QUARANTINED, (path,), stat.st_size, stat.st_mtime)


def _leftovers(root: Path) -> Iterator[Item]:
    """Unfinished files, and data whose record was never written. What is being written now is kept by its lock."""
    for path in sorted((root / ENTRIES).glob("*/??/*")):
        digest = path.name.lstrip(".").partition(".")[0]
        slot = Slot(root, path.parent.parent.name, digest)
        if path.suffix == ".part":
            yield from _leftover(path, (path,), slot.lock)
        elif path == slot.data and not slot.record.exists():
            yield from _leftover(path, (slot.record, path), slot.lock)  # both: its writer may end before we delete


def _leftover(path: Path, paths: tuple[Path, ...], lock: Path) -> Iterator[Item]:
    """Nothing when its writer finished meanwhile."""
    with suppress(FileNotFoundError):
        stat = path.stat()
        yield Item(LEFTOVERS, paths, stat.st_size, stat.st_mtime, lock)


def _deleted(root: Path, item: Item) -> bool:
    """False when another process has it locked. Raises RunError when it cannot be deleted."""
    try:
        if item.lock is None:
            _delete(item.paths)
            return True
        item.lock.parent.mkdir(exist_ok=True)
        with FileLock(item.lock, timeout=0):
            _delete(item.paths)
        return True
    except Timeout:
        return False
    except OSError as error:
        raise RunError(f"Cannot delete {item.paths[0]}: {error.strerror}. Is {root} read-only?") from error


def _delete(paths: Sequence[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


def _sweep_locks(root: Path) -> None:
    """Lock files that nobody holds; a process that has one open but not locked notices that it has no name any more."""
    for path in (root / LOCKS).glob("*.lock"):
        with suppress(Timeout, OSError), FileLock(path, timeout=0):
            path.unlink(missing_ok=True)


def _summary(kind: str, group: Sequence[Item]) -> Summary:
    used = [item.used for item in group]
    return Summary(kind, len(group), sum(item.size for item in group), min(used), max(used))
