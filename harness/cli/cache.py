"""The verb `cache`: look at the cache folder, verify it, make room in it."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...base.errors import RunError, UsageError
from .options import CACHE

if TYPE_CHECKING:
    from ..engine.upkeep import Collected, Damage, Item, Summary

SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
BYTES = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}

cache_app = typer.Typer(
    name="cache",
    help="Look at the cache of what was computed, verify it, make room in it.",
    no_args_is_help=True,
    add_completion=False,
)

CacheOption = Annotated[Path, typer.Option("--cache", help="The cache folder.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@cache_app.command("ls")
def ls(cache: CacheOption = CACHE, as_json: JsonOption = False) -> None:
    """List what the cache holds, by kind: how many entries, how large, when last used."""
    from ..engine.store import Store
    from ..engine.upkeep import items, summaries

    found = summaries(items(Store(cache.expanduser())))
    sys.stdout.write(_json([_summary_json(kind) for kind in found]) if as_json else listing_text(found))


@cache_app.command("verify")
def verify(cache: CacheOption = CACHE, as_json: JsonOption = False) -> None:
    """Compare all that the cache holds with its digests. What differs goes to the quarantine; exit code 1 then."""
    from ..engine.progress import reporter
    from ..engine.store import Store
    from ..engine.upkeep import QUARANTINED, items
    from ..engine.upkeep import verify as verify_all

    with reporter() as report:
        store = Store(cache.expanduser(), report.note)
        found = [item for item in items(store) if item.kind != QUARANTINED]
        total, done = len(found), 0
        task = report.start("verify", total)

        def tick() -> None:
            nonlocal done
            done += 1
            report.update(task, done)

        damages = verify_all(store, tick)
    sys.stdout.write(_verified_json(found, damages) if as_json else verified_text(found, damages))
    if damages:
        raise RunError(f"{len(damages)} of {total} files in the cache were damaged. They are made again when needed.")


@cache_app.command("gc")
def gc(
    older_than: Annotated[str, typer.Option(help="Remove what was not used for this long: 12h, 30d, 8w.")] = "",
    larger_than: Annotated[
        str, typer.Option(help="Remove the least recently used until this much is left: 500MB, 20GB.")
    ] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="Say what would go, remove nothing.")] = False,
    cache: CacheOption = CACHE,
    as_json: JsonOption = False,
) -> None:
    """Remove leftovers of interrupted writes, and what the options name. Not while a run uses the same cache.

    Examples:

      mdtbench cache gc --older-than 30d --dry-run

      mdtbench cache gc --larger-than 20GB
    """
    from ..engine.store import Store
    from ..engine.upkeep import collect

    age = _quantity("--older-than", older_than, SECONDS, "30d")
    size = _quantity("--larger-than", larger_than, BYTES, "20GB")
    done = collect(Store(cache.expanduser()), age, None if size is None else int(size), dry_run)
    sys.stdout.write(_collected_json(done, dry_run) if as_json else collected_text(done, dry_run))


def listing_text(found: Sequence[Summary]) -> str:
    """A line per kind, and the total."""
    if not found:
        return "The cache is empty.\n"
    width = max(len("total"), *(len(kind.kind) for kind in found))
    lines = [f"{'':{width}}  {'entries':>8}  {'size':>9}  {'oldest use':16}  newest use"]
    for kind in found:
        times = f"{_minute(kind.oldest)}  {_minute(kind.newest)}"
        lines.append(f"{kind.kind:{width}}  {kind.files:8}  {size_text(kind.size):>9}  {times}")
    files, size = sum(kind.files for kind in found), sum(kind.size for kind in found)
    lines.append(f"{'total':{width}}  {files:8}  {size_text(size):>9}")
    return "\n".join(lines) + "\n"


def verified_text(found: Sequence[Item], damages: Sequence[Damage]) -> str:
    files, size = len(found), sum(item.size for item in found)
    lines = [f"{files} files, {size_text(size)}: {len(damages) or 'none'} damaged."]
    return "\n".join([*lines, *(damage.reason for damage in damages)]) + "\n"


def collected_text(done: Collected, dry_run: bool) -> str:
    """How much of each kind goes, and what stays."""
    kinds = sorted({item.kind for item in done.items})
    verb = "Would remove" if dry_run else "Removed"
    lines = [_collected_line(verb, kind, [item for item in done.items if item.kind == kind]) for kind in kinds]
    end = f"{verb} {size_text(done.freed)}; {size_text(done.kept)} {'would be' if dry_run else 'are'} left."
    return "\n".join([*lines, end]) + "\n"


def size_text(size: int) -> str:
    """In the largest unit of which there is at least one."""
    unit = max((name for name in BYTES if size >= BYTES[name]), key=BYTES.__getitem__, default="B")
    return f"{size} B" if unit == "B" else f"{size / BYTES[unit]:.1f} {unit}"


def _collected_line(verb: str, kind: str, group: Sequence[Item]) -> str:
    files, size = len(group), sum(item.size for item in group)
    return f"{verb} {kind}: {files} files, {size_text(size)}"


def _quantity(option: str, text: str, units: dict[str, float] | dict[str, int], example: str) -> float | None:
    """None for an option that was not given. Raises UsageError."""
    if not text:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([a-zA-Z]+)", text)
    names = {name.lower(): name for name in units}
    if not match or match[2].lower() not in names:
        raise UsageError(f"{option} takes a number and a unit of {', '.join(units)}, e.g. {example} (got '{text}').")
    return float(match[1]) * units[names[match[2].lower()]]


def _minute(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M")


def _utc(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _json(value: Any) -> str:
    return json.dumps(value, indent=1) + "\n"


def _summary_json(kind: Summary) -> dict[str, Any]:
    used = {"oldest_use_utc": _utc(kind.oldest), "newest_use_utc": _utc(kind.newest)}
    return {"kind": kind.kind, "entries": kind.files, "bytes": kind.size, **used}


def _verified_json(found: Sequence[Item], damages: Sequence[Damage]) -> str:
    files, size = len(found), sum(item.size for item in found)
    listed = [{"path": str(damage.path), "reason": damage.reason} for damage in damages]
    return _json({"files": files, "bytes": size, "damaged": listed})


def _collected_json(done: Collected, dry_run: bool) -> str:
    removed = [{"kind": item.kind, "path": str(item.paths[-1]), "bytes": item.size} for item in done.items]
    return _json({"dry_run": dry_run, "removed": removed, "bytes_removed": done.freed, "bytes_left": done.kept})
