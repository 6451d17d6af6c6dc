"""What must be downloaded for a preset, and which of it lies in a folder already."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from ...base.errors import UsageError, unknown_name
from ...base.parsing import parse_toml
from ..settings.config import preset_names
from .weights_lock import LockEntry, read_lock

LIST = files("mdtbench.harness") / "downloads.toml"
FOLDER = Path("~/.cache/mdtbench/weights")
COMMIT = re.compile(r"[0-9a-f]{40}")

Kind = Literal["model", "dataset", "url", "by-hand"]
UNITS = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


def _inside(value: str) -> str:
    if value.startswith("/") or ".." in PurePosixPath(value).parts or "\\" in value:
        raise ValueError("must be a relative path without '..'")
    return value


InsidePath = Annotated[str, AfterValidator(_inside)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ListedFile(_Section):
    path: InsidePath
    save_as: InsidePath = ""
    also: tuple[str, ...] = ()
    url: str = ""
    bytes: int | None = Field(default=None, ge=0)
    about: int | None = Field(default=None, ge=0)
    sha256: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")
    instructions: str = ""


class Source(_Section):
    """A table [[source]] of the list."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    kind: Kind
    folder: InsidePath | None = None
    repo: str = ""
    revision: str = "main"
    licence: str
    used_for: str
    presets: tuple[str, ...]
    files: tuple[ListedFile, ...]


class DownloadList(_Section):
    source: tuple[Source, ...]


@dataclass(frozen=True)
class Item:
    """One file to get (or, by hand, one file or folder).

    Attributes:
        target: where it lies, relative to the folder of weights; its identity in the lock.
        paths: names in the repository, the first that exists counts.
        bytes, sha256: None where they are not known beforehand.
        about: bytes, for plans alone; None where nobody says.
        instructions: how to obtain it by hand.
    """

    target: str
    kind: Kind
    repo: str
    revision: str
    paths: tuple[str, ...]
    url: str
    bytes: int | None
    about: int | None
    sha256: str | None
    licence: str
    used_for: str
    instructions: str

    @property
    def pinned(self) -> bool:
        """Whether the list itself names a commit."""
        return COMMIT.fullmatch(self.revision) is not None

    @property
    def size(self) -> str:
        """Its size for people."""
        return (
            size_text(self.bytes) if self.bytes is not None or self.about is None else f"about {size_text(self.about)}"
        )

    @property
    def origin(self) -> str:
        """Where it is from, for people."""
        return self.url or (f"{self.kind} {self.repo}" if self.repo else "by hand")


@dataclass(frozen=True)
class Missing:
    """An item that a preset needs and that is not there.

    Attributes:
        bytes: of the whole file, None when not known exactly (`item.about` is for plans).
    """

    item: Item
    path: Path
    bytes: int | None
    reason: str


def items_of(name: str) -> tuple[Item, ...]:
    """What a preset downloads (nothing, for one that needs only the package), or all of a list of one's own.

    Args:
        name: `paper`, `variants`, another preset, or a .toml file in the format of the shipped list.

    Raises:
        UsageError: unknown preset, unreadable or malformed list.
    """
    if name.endswith(".toml"):
        return _items(_read(name, Path(name)).source)
    sources = _read("of downloads", LIST).source
    known = {preset for source in sources for preset in source.presets} | set(preset_names())
    if name not in known:
        raise unknown_name("preset", name, known, "Or give the path of a .toml list of downloads.")
    return _items(source for source in sources if name in source.presets)


def missing(items: Iterable[Item], folder: Path) -> tuple[Missing, ...]:
    """The items that are absent, or whose size is not the expected one. Computes no digests: takes milliseconds.

    Raises:
        MissingError: the lock file is damaged.
    """
    lock = read_lock(folder)
    found = (_missing(item, folder, lock) for item in items)
    return tuple(entry for entry in found if entry is not None)


def _missing(item: Item, folder: Path, lock: Mapping[str, LockEntry]) -> Missing | None:
    path = folder / item.target
    entry = lock.get(item.target)
    size = item.bytes if item.bytes is not None else (entry.bytes if entry else None)
    if item.kind == "by-hand":
        return None if path.exists() else Missing(item, path, None, "must be obtained by hand")
    if not path.is_file():
        return Missing(item, path, size, "is not there")
    found = path.stat().st_size
    if size is not None and found != size:
        return Missing(item, path, size, f"has {found} bytes instead of {size}")
    return None


def size_text(size: int | None) -> str:
    """'1.20 GB', or 'unknown'."""
    if size is None:
        return "unknown"
    for unit, name in UNITS:
        if size >= unit:
            return f"{size / unit:.2f} {name}"
    return f"{size} B"


def _read(label: str, path: Path | Traversable) -> DownloadList:
    try:
        return DownloadList.model_validate(parse_toml(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"The list {label} cannot be read ({error}). Correct the file.") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise UsageError(f"The list {label} is malformed ({place}: {first['msg']}). Correct the file.") from error


def _items(sources: Iterable[Source]) -> tuple[Item, ...]:
    return tuple(_item(source, file) for source in sources for file in source.files)


def _item(source: Source, file: ListedFile) -> Item:
    needs = {"url": bool(file.url), "by-hand": bool(file.instructions)}.get(source.kind, bool(source.repo))
    if not needs:
        raise UsageError(
            f"{source.name}/{file.path} of the list of downloads lacks what kind '{source.kind}' needs - "
            "model and dataset: repo, url: url, by-hand: instructions. Correct the file."
        )
    return Item(
        target=str(PurePosixPath(source.name if source.folder is None else source.folder, file.save_as or file.path)),
        kind=source.kind,
        repo=source.repo,
        revision=source.revision,
        paths=(file.path, *file.also),
        url=file.url,
        bytes=file.bytes,
        about=file.bytes if file.about is None else file.about,
        sha256=file.sha256,
        licence=source.licence,
        used_for=source.used_for,
        instructions=file.instructions,
    )
