"""`mdtbench fetch`: official weights, each verified, into one folder. Run again to go on after an interruption."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import typer

from ...base.errors import MissingError, RunError, UsageError, unknown_name
from ...base.files import file_sha256
from ...base.text import counted
from ..engine.progress import Reporter, reporter
from ..inputs.downloads import COMMIT, FOLDER, Item, items_of, missing, size_text
from ..inputs.weights_lock import LOCK_FILE, LockEntry, Trust, now_utc, read_lock, write_lock
from . import completion, hub
from .options import words

RESERVE = 100_000_000  # bytes of disk that stay free
MEGABYTE = 1_000_000


@dataclass(frozen=True)
class FetchOptions:
    """mirror: another hub endpoint. offline: only look at what is there. verify: compute all digests anew."""

    mirror: str | None = None
    offline: bool = False
    verify: bool = False


@dataclass(frozen=True)
class FetchResult:
    """What became of the items, by target.

    Attributes:
        present: were there and are right. fetched: were downloaded and are right.
        by_hand: still to be obtained by hand.
        failed: target -> reason. A failed file is never left under its own name.
    """

    present: tuple[str, ...] = ()
    fetched: tuple[str, ...] = ()
    by_hand: tuple[Item, ...] = ()
    failed: Mapping[str, str] = field(default_factory=dict)


def fetch_command(
    preset: Annotated[
        str,
        typer.Option(
            "--preset",
            help="paper, variants, or a .toml list of files.",
            autocompletion=completion.one_of(completion.DOWNLOADS),
        ),
    ] = "paper",
    purpose: Annotated[
        str, typer.Option("--for", metavar="evaluate", help="Only the weights that `mdtbench evaluate` needs.")
    ] = "",
    metrics: Annotated[
        str, typer.Option(help="With --for evaluate: comma-separated columns that are wanted; all by default.")
    ] = "",
    protocol: Annotated[
        str,
        typer.Option(
            help="With --for evaluate: the protocol, with variants as name+variant; trellis-v1 by default.",
            autocompletion=completion.protocols,
        ),
    ] = "",
    out: Annotated[
        Path | None, typer.Option(help="Folder for the files; ~/.cache/mdtbench/weights by default.")
    ] = None,
    mirror: Annotated[str, typer.Option(metavar="URL", help="Another hub that serves the same files.")] = "",
    verify: Annotated[bool, typer.Option("--verify", help="Compute all digests again.")] = False,
    offline: Annotated[
        bool, typer.Option("--offline", help="Only say what is missing; exit code 4 if anything is.")
    ] = False,
) -> None:
    """Download official weights, after saying how much it is. Every file is checked. Run again to resume.

    Examples:

      mdtbench fetch --preset paper --offline

      mdtbench fetch --preset paper --mirror https://hub.example.org

      mdtbench fetch --for evaluate --metrics FD_incep,FD_dinov2
    """
    if purpose not in ("", "evaluate"):
        raise unknown_name("value of --for", purpose, ["evaluate"])
    if not purpose and (metrics or protocol):
        raise UsageError("--metrics and --protocol need --for evaluate. Add it, or leave them out.")
    if purpose:
        from ..driver.needs import evaluation_items  # with torch, which other downloads do without

        items = evaluation_items(protocol or "trellis-v1", words(metrics))
        none = "These columns need no downloads."
    else:
        items = items_of(preset)
        none = f"Preset '{preset}' needs no downloads: its networks and assets come with the package."
    options = FetchOptions(_endpoint(mirror or None), offline, verify)
    typer.echo(fetched(items, out or FOLDER, options) if items else none)


def fetched(items: Sequence[Item], out: Path, options: FetchOptions) -> str:
    """Fetch items; the last line to print.

    Raises:
        MissingError: something is absent, refused by the servers, or of another digest than expected.
        RunError: no network, a broken connection, a full disk.
        KeyboardInterrupt: after a line that says how to go on.
    """
    folder = out.expanduser()
    try:
        with reporter() as report:
            result = fetch(items, folder, options, report)
    except KeyboardInterrupt:
        sys.stderr.write(f"mdtbench: interrupted; the same command continues with what is in {folder}.\n")
        raise
    check_result(result, folder, options.offline)
    had, unknown = {*result.present, *result.fetched}, [item.target for item in items if item.sha256 is None]
    first = len(had.intersection(unknown))
    seen = f", {first} of them by what was seen first, as no sha256 is known" if first else ""
    there = f"{counted(len(result.present), 'file')} there before"
    return f"{there}, {len(result.fetched)} fetched, all verified{seen}: {folder}"


def check_result(result: FetchResult, folder: Path, offline: bool) -> None:
    """Raises MissingError when files are lacking. What only people can get counts when nothing may be fetched."""
    lacking = [*result.failed, *(item.target for item in result.by_hand if offline)]
    if lacking:
        remedy = "run the same command without --offline" if offline else "then run the same command again"
        raise MissingError(f"{counted(len(lacking), 'file')} missing in {folder}: {lacking[0]}... See above; {remedy}.")


def fetch(items: Sequence[Item], folder: Path, options: FetchOptions, report: Reporter) -> FetchResult:
    """Download the items that are not in the folder, each complete and verified or not there at all.

    A file that is refused or has another digest does not stop the others; a lost network or a full disk does.

    Args:
        folder: where the items' targets lie, beside weights.lock.json.

    Raises:
        MissingError: the lock file is damaged.
        RunError: no network, a broken connection, a full disk, or another fetch at work in the folder.
    """
    by_hand = tuple(entry.item for entry in missing(items, folder) if entry.item.kind == "by-hand")
    wanted = [item for item in items if item.kind != "by-hand"]
    if options.offline:
        result = _look(wanted, folder, options.verify, report)
    else:
        with _alone(folder):
            result = _Fetch(folder, options, report).all(wanted)
    for target, reason in result.failed.items():
        report.note(f"NOT THERE  {target}: {reason}")
    for item in by_hand:
        terms = f"{item.size}; for: {item.used_for}; licence: {item.licence}"
        report.note(f"BY HAND    {folder / item.target}: {item.instructions} ({terms})")
    return FetchResult(result.present, result.fetched, by_hand, result.failed)


def examine(item: Item, folder: Path, entry: LockEntry | None, verify: bool) -> LockEntry:
    """The lock entry of a file that is there and right.

    The digest is computed when it is not in the lock yet, or on request; otherwise the size decides, as whoever
    loads the file compares the digest again.

    Raises:
        FileNotFoundError: it is not there.
        MissingError: it has another digest than the list or the lock says.
    """
    path = folder / item.target
    size = path.stat().st_size
    expected = item.sha256 or (entry.sha256 if entry else None)
    if entry and entry.sha256 == expected and entry.bytes == size and not verify:
        return entry
    found = file_sha256(path)
    if expected and found != expected:
        raise MissingError(f"has sha256 {found}, expected {expected}")
    if entry and entry.sha256 == found:
        return entry
    trust: Trust = "list" if item.sha256 else "first use"
    return LockEntry(sha256=found, bytes=size, trust=trust, repo=item.repo, recorded_utc=now_utc())


def _look(items: Sequence[Item], folder: Path, verify: bool, report: Reporter) -> FetchResult:
    """Only look; nothing is written or renamed."""
    lock = read_lock(folder)
    present: list[str] = []
    failed: dict[str, str] = {}
    for item in _shown("Files looked at", items, report):
        try:
            examine(item, folder, lock.get(item.target), verify)
            present.append(item.target)
        except FileNotFoundError:
            failed[item.target] = f"is not there ({item.size}, {item.origin})"
        except MissingError as error:
            failed[item.target] = str(error)
    report.note(f"{len(present)} of {counted(len(items), 'file')} in {folder}.")
    return FetchResult(tuple(present), (), (), failed)


class _Fetch:
    """One run of `fetch` that may use the network."""

    def __init__(self, folder: Path, options: FetchOptions, report: Reporter):
        self._folder = folder
        self._options = options
        self._report = report
        self._lock = read_lock(folder)
        self._failed: dict[str, str] = {}
        self._commits: dict[str, str] = {}  # by repository, of this run

    def all(self, items: Sequence[Item]) -> FetchResult:
        present = [item for item in _shown("Files looked at", items, self._report) if self._is_present(item)]
        there = {item.target for item in present}
        absent = [item for item in items if item.target not in there]
        asked = _shown("Files asked for", absent, self._report)
        found = [(item, remote) for item in asked if (remote := self._find(item))]
        self._announce(found)
        check_space(self._folder, sum(self._lacking(item, remote) for item, remote in found))
        fetched = [item.target for item, remote in found if self._get(item, remote)]
        return FetchResult(tuple(item.target for item in present), tuple(fetched), (), dict(self._failed))

    def _is_present(self, item: Item) -> bool:
        before = self._lock.get(item.target)
        try:
            entry = examine(item, self._folder, before, self._options.verify)
        except FileNotFoundError:
            return False
        except MissingError as error:
            aside = set_aside(self._folder / item.target)
            self._report.note(f"{item.target} {error}: set aside as {aside.name}, fetched again.")
            return False
        self._record(item.target, entry)
        return True

    def _find(self, item: Item) -> hub.Remote | None:
        try:
            remote = hub.find(item, self._revision(item), self._options.mirror)
            self._check_statement(item, remote)
        except MissingError as error:
            self._failed[item.target] = str(error)
            return None
        if remote.revision:
            self._commits[item.repo] = remote.revision
        return remote

    def _revision(self, item: Item) -> str:
        """The list's commit, or the one at which other files of this repository were found, or its branch."""
        if item.pinned or item.repo in self._commits:
            return item.revision if item.pinned else self._commits[item.repo]
        locked = (entry.revision for entry in self._lock.values() if item.repo and entry.repo == item.repo)
        return next((revision for revision in locked if COMMIT.fullmatch(revision)), item.revision)

    def _check_statement(self, item: Item, remote: hub.Remote) -> None:
        """Compare what the server says of a file with what is expected, before a byte of it is got."""
        expected = self._expected(item)
        if expected and remote.sha256 and remote.sha256 != expected:
            raise MissingError(f"{remote.url} offers a file of sha256 {remote.sha256}, expected {expected}.")
        if item.bytes is not None and remote.bytes not in (None, item.bytes):
            raise MissingError(f"{remote.url} offers a file of {remote.bytes} bytes, expected {item.bytes}.")

    def _expected(self, item: Item) -> str | None:
        """The digest that an item must have, if known before it is downloaded; that of the hub comes last."""
        entry = self._lock.get(item.target)
        return item.sha256 or (entry.sha256 if entry else None)

    def _announce(self, found: Sequence[tuple[Item, hub.Remote]]) -> None:
        if not found:
            return
        for item, remote in found:
            revision = f" at {remote.revision[:12]}" if remote.revision else ""
            lacking = self._lacking(item, remote)
            here = (
                f", {size_text(remote.bytes - lacking)} of it here" if remote.bytes and lacking < remote.bytes else ""
            )
            self._report.note(
                f"{size_text(remote.bytes):>10}{here}  {item.target}  ({item.origin}{revision}; "
                f"licence: {item.licence}; for: {item.used_for})"
            )
        total = sum(self._lacking(item, remote) for item, remote in found)
        unknown = sum(remote.bytes is None for _, remote in found)
        more = f" and {unknown} of unknown size" if unknown else ""
        self._report.note(
            f"To download: {counted(len(found), 'file')}, {size_text(total)}{more}. "
            f"Free disk at {self._folder}: {size_text(free_space(self._folder))}."
        )

    def _lacking(self, item: Item, remote: hub.Remote) -> int:
        part = self._part(item, remote)
        return max(0, (remote.bytes or 0) - (part.stat().st_size if part.exists() else 0))

    def _part(self, item: Item, remote: hub.Remote) -> Path:
        path = self._folder / item.target
        return path.with_name(f".{path.name}.{remote.tag}.part")

    def _get(self, item: Item, remote: hub.Remote) -> bool:
        """Download, verify, move to its place, record: in this order. False when the digest is wrong."""
        path, part = self._folder / item.target, self._part(item, remote)
        _make_folder(path.parent)
        task = self._report.start(f"{item.target} (MB)", megabytes(remote.bytes or 0))
        hub.transfer(remote, part, lambda done: self._report.update(task, done // MEGABYTE))
        self._report.update(task, megabytes(part.stat().st_size))
        found, expected = file_sha256(part), self._expected(item) or remote.sha256
        if expected and found != expected:
            aside = set_aside(part, path.with_name(f"{path.name}.corrupt"))
            self._failed[item.target] = (
                f"downloaded with sha256 {found}, expected {expected}; set aside as {aside.name}"
            )
            return False
        entry = LockEntry(
            sha256=found,
            bytes=part.stat().st_size,
            trust="list" if item.sha256 else "hub" if remote.sha256 else "first use",
            address=remote.url,
            repo=item.repo,
            revision=remote.revision,
            recorded_utc=now_utc(),
        )
        os.replace(part, path)
        self._record(item.target, entry)
        for leftover in path.parent.glob(f".{path.name}.*.part"):  # of other revisions
            leftover.unlink(missing_ok=True)
        return True

    def _record(self, target: str, entry: LockEntry) -> None:
        if self._lock.get(target) != entry:
            self._lock[target] = entry
            write_lock(self._folder, self._lock)


def free_space(folder: Path) -> int:
    """Bytes free where a folder is or will be."""
    there = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    return shutil.disk_usage(there).free


def check_space(folder: Path, needed: int) -> None:
    """Raises RunError when `needed` bytes would not fit."""
    free = free_space(folder)
    if needed and needed + RESERVE > free:
        raise RunError(
            f"The downloads need {size_text(needed)}, and {folder} has {size_text(free)} free. "
            "Free some disk or choose another --out."
        )


def set_aside(path: Path, aside: Path | None = None) -> Path:
    """Rename a wrong file to NAME.corrupt, so that nothing uses it; its new path. Raises RunError when that fails."""
    aside = aside or path.with_name(f"{path.name}.corrupt")
    try:
        os.replace(path, aside)
    except OSError as error:
        raise RunError(f"Cannot rename {path} to {aside.name}: {error.strerror}. Rename or remove it.") from error
    return aside


def _shown(label: str, items: Sequence[Item], report: Reporter) -> Iterator[Item]:
    """The items, with progress: digests of gigabytes and answers of servers take their time."""
    task = report.start(label, len(items)) if items else 0
    for done, item in enumerate(items, start=1):
        yield item
        report.update(task, done, item.target)


def megabytes(size: int) -> int:
    """For progress: at least 1, so that a small file has an end."""
    return max(1, size // MEGABYTE)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"Cannot make {folder}: {error.strerror}. Choose another --out.") from error


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One fetch at a time in a folder: two would write into the same partial files."""
    from filelock import FileLock, Timeout

    _make_folder(folder)
    try:
        with FileLock(folder / f".{LOCK_FILE}.busy", timeout=0):
            yield
    except Timeout as error:
        raise RunError(f"Another fetch is at work in {folder}. Wait for it to end or choose another --out.") from error


def _endpoint(mirror: str | None) -> str | None:
    if mirror is None:
        return None
    parts = urlsplit(mirror)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise UsageError(f"--mirror takes the address of a hub (got '{mirror}'). Write it as https://host.")
    return mirror
