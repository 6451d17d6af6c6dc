"""The digests of a run's files, in the form that `sha256sum --check` reads, and what is asked of files before use.

SHA256SUMS is written last and removed first. It names what a run leaves for readers; entries of its stores, receipts
and what problems with a known law are measured with have digests of their own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from ..base.errors import MissingError
from ..base.files import file_sha256, read_json, write_text

SUMS: Final = "SHA256SUMS"
FOLDERS: Final = ("students", "export", "figures", "jobs")
SUFFIXES: Final = (".json", ".jsonl", ".csv", ".png")  # of what lies in a run's folder itself
NEVER: Final = ("driver.json",)  # of whoever is at work
REFERENCE: Final = "reference-"  # begins the run id of controls, which several evaluations share
_LINE = re.compile(r"([0-9a-f]{64})  (.+)")


def write_sums(folder: Path) -> None:
    """Of all files of a finished run. Raises RunError when the folder cannot be written."""
    write_text(folder / SUMS, "".join(f"{file_sha256(folder / name)}  {name}\n" for name in _names(folder)))


def read_sums(folder: Path) -> dict[str, str]:
    """Digests by file, relative; none where a run did not finish, or is of an earlier version.

    Raises:
        MissingError: the file of digests is damaged.
    """
    path = folder / SUMS
    if not path.is_file():
        return {}
    try:
        lines = path.read_text(encoding="utf-8", errors="surrogateescape").split("\n")
    except OSError as error:
        raise MissingError(f"{path} cannot be read ({error.strerror}).") from error
    matches = [_LINE.fullmatch(line) for line in lines if line]
    inside = [match and not match[2].startswith("/") and ".." not in match[2].split("/") for match in matches]
    if not all(inside):
        raise MissingError(f"{path} is damaged: a line is no sha256 and name. The run's own command makes it again.")
    return {match[2]: match[1] for match in matches if match}


def damaged(folder: Path) -> Iterator[tuple[str, str]]:
    """(file, what is wrong) of all files that are not what the run wrote. Raises MissingError as `read_sums`."""
    for name, sha256 in read_sums(folder).items():
        try:
            found = file_sha256(folder / name)
        except (MissingError, OSError, ValueError):  # also a name that no file can have
            yield name, "it is missing"
            continue
        if found != sha256:
            yield name, "its sha256 is another than when it was written"


def check_file(path: Path, run: Path | None = None) -> None:
    """Raises MissingError where a file of a finished run is not what the run wrote.

    Args:
        run: its folder; that of the file by default.
    """
    run = run or path.parent
    wanted = read_sums(run).get(path.relative_to(run).as_posix())
    if wanted and path.is_file() and file_sha256(path) != wanted:
        raise MissingError(
            f"{path} is damaged: its sha256 is another than when it was written. The run's own command makes it again "
            f"(`mdtbench verify {run}` tells more); if it was changed on purpose, remove {SUMS}."
        )


def check_one_run(path: Path, run_ids: Iterable[str]) -> None:
    """Raises MissingError where rows lie beside the manifest of another run, which was killed midway."""
    manifest = path.with_name("manifest.json")
    about = read_json(manifest) if manifest.is_file() else None
    mine = about.get("run_id") if isinstance(about, dict) else None
    others = sorted({one for one in run_ids if one != mine and not one.startswith(REFERENCE)})
    if mine and others:
        raise MissingError(
            f"{path} has rows of run {others[0]} beside the manifest of run {mine}, which did not finish. "
            "Run the same command again, or restore the manifest."
        )


def _names(folder: Path) -> list[str]:
    own = [path for path in folder.iterdir() if path.suffix in SUFFIXES and path.name not in NEVER]
    below = [path for name in FOLDERS for path in (folder / name).rglob("*")]
    found = [path.relative_to(folder).as_posix() for path in (*own, *below) if path.is_file()]
    return sorted(name for name in found if "\n" not in name and not name.rpartition("/")[2].startswith("."))
