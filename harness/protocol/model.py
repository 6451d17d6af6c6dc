"""Reads a protocol, gives its variants, and names it by a hash that covers every value."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from ...base.errors import UsageError, unknown_name
from ...base.files import digest_of
from ...base.parsing import parse_toml
from .values import Section, Values

PROTOCOLS = files("mdtbench.harness") / "protocol"
DEFAULT = "trellis-v1"

Status = Literal["paper", "code", "ours"]
Sources = Annotated[tuple[str, ...], Field(min_length=1)]
Tree = dict[str, Any]  # values as TOML has them, tables nested


class Choice(Section):
    """Values of one topic that share where they come from.

    Attributes:
        topic: dotted section of `Values` that `values` belongs to.
        status: paper: a paper states it; code: released code or files do; ours: nothing published decides it.
        source: "KEY: place" with a KEY of the file's [sources], or an address.
    """

    topic: str
    values: Tree
    status: Status
    source: Sources
    why: str = ""

    @property
    def tree(self) -> Tree:
        """`values` from the root of the protocol."""
        tree = self.values
        for part in reversed(self.topic.split(".")):
            tree = {part: tree}
        return tree


class Variant(Section):
    """A named change of values, from the root of the protocol."""

    name: Annotated[str, Field(pattern="^[A-Za-z0-9_.-]+$")]
    values: Tree
    status: Status
    source: Sources
    why: str


class Unknown(Section):
    """What no publication says. chosen: the sections and values where the protocol had to choose."""

    what: str
    chosen: tuple[str, ...]
    source: Sources


class Published(Section):
    """The undistilled teacher as others measured it; None: no such number."""

    system: str
    fd_incep: float | None = None
    fd_dinov2: float | None = None
    ulip_i: float | None = None
    n: int | None = None
    source: Sources
    remark: str


class ProtocolFile(Section):
    """Content of a protocol's TOML file."""

    format: Literal[1]
    name: Annotated[str, Field(pattern="^[A-Za-z0-9_.-]+$")]
    title: str
    sources: dict[str, str]
    choice: tuple[Choice, ...]
    variant: tuple[Variant, ...] = ()
    unknown: tuple[Unknown, ...] = ()
    published: tuple[Published, ...] = ()


@dataclass(frozen=True)
class Protocol:
    """A protocol, or a variant of it.

    Attributes:
        applied: the variants in effect, sorted by name.
        values: what the harness reads.
    """

    file: ProtocolFile
    applied: tuple[Variant, ...]
    values: Values

    @property
    def name(self) -> str:
        """For example trellis-v1, or trellis-v1+as-is+sampler-B."""
        return "+".join([self.file.name, *(variant.name for variant in self.applied)])

    @cached_property
    def sha256(self) -> str:
        """Digest of all values; names, sources, reasons and published numbers of others do not enter."""
        return digest_of(self.values.model_dump(mode="json"))

    @property
    def smoke(self) -> bool:
        """Whether the assets are too few for FD."""
        return self.values.assets.subset == "smoke"

    @property
    def root(self) -> Protocol:
        """The protocol without variants."""
        return _build(self.file, ())

    def variant_names(self) -> list[str]:
        return [variant.name for variant in self.file.variant]

    def variant(self, *names: str) -> Protocol:
        """This protocol with further variants, whose order says nothing.

        Raises:
            UsageError: there is no such variant, or two variants change the same value.
        """
        known = {variant.name: variant for variant in self.file.variant}
        for name in names:
            if name not in known:
                raise unknown_name("variant", name, known, f"Protocol '{self.file.name}'.")
        every = {variant.name: variant for variant in (*self.applied, *(known[name] for name in names))}
        return _build(self.file, tuple(every[name] for name in sorted(every)))


def protocol_names() -> list[str]:
    return sorted(Path(entry.name).stem for entry in PROTOCOLS.iterdir() if entry.name.endswith(".toml"))


def load_protocol(name: str = DEFAULT) -> Protocol:
    """A shipped protocol by its name, or one from a .toml file; NAME+VARIANT+... gives a variant.

    Raises:
        UsageError: unknown protocol or variant, or a file that is not a protocol.
    """
    if name.endswith(".toml"):
        return parse_protocol(_text(Path(name)), name)
    base, *variants = name.split("+")
    if base not in protocol_names():
        raise unknown_name("protocol", base, protocol_names(), "Or give the path of a .toml file.")
    return parse_protocol((PROTOCOLS / f"{base}.toml").read_text(encoding="utf-8"), base).variant(*variants)


def parse_protocol(text: str, where: str) -> Protocol:
    """A protocol from TOML; `where` names it in errors. Every variant is built once, to find mistakes early.

    Raises:
        UsageError: not TOML, an unknown or missing key, a value of the wrong type, a value given twice, or a source
            that is neither a key of [sources] nor an address.
    """
    try:
        file = ProtocolFile.model_validate(parse_toml(text))
        protocol = _build(file, ())
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"Protocol {where} is not TOML ({error}). Correct the file.") from error
    except ValidationError as error:
        raise _explained(error, where) from error
    _check_sources(file, where)
    for name in protocol.variant_names():
        protocol.variant(name)
    return protocol


def leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted path, value) of everything in nested tables; a list is one value."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _build(file: ProtocolFile, applied: tuple[Variant, ...]) -> Protocol:
    tree = _joined([(choice.topic, choice.tree) for choice in file.choice])
    changes = _joined([(variant.name, variant.values) for variant in applied])
    try:
        return Protocol(file, applied, Values.model_validate(_merged(tree, changes)))
    except ValidationError as error:
        raise _explained(error, "+".join([file.name, *(variant.name for variant in applied)])) from error


def _joined(parts: list[tuple[str, Tree]]) -> Tree:
    """One tree of several that must not give the same value twice."""
    whole: Tree = {}
    given: dict[str, str] = {}
    for name, tree in parts:
        for path, _ in leaves(tree):
            if path in given:
                raise UsageError(f"Both '{given[path]}' and '{name}' give a value to {path}. Leave one of them out.")
            given[path] = name
        whole = _merged(whole, tree)
    return whole


def _merged(tree: Tree, changes: Tree) -> Tree:
    """`tree` with the values of `changes` in place of its own, table by table."""
    merged = dict(tree)
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merged(merged[key], value) if both else value
    return merged


def _check_sources(file: ProtocolFile, where: str) -> None:
    for item in (*file.choice, *file.variant, *file.unknown, *file.published):
        for source in item.source:
            key = source.partition(": ")[0]
            if not source.startswith("https://") and key not in file.sources:
                raise unknown_name("source", key, file.sources, f"Protocol {where}: 'KEY: place' or https://...")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"Protocol {path} cannot be read ({error}). Give the path of a .toml file.") from error


def _explained(error: ValidationError, where: str) -> UsageError:
    # A misspelt key is also a missing one: the spelling is what helps.
    first = min(error.errors(), key=lambda found: found["type"] != "extra_forbidden")
    path = ".".join(str(part) for part in first["loc"])
    got = "" if isinstance(first["input"], dict) else f" (got {first['input']!r})"
    return UsageError(f"Protocol {where}: {path}: {first['msg']}{got}. Correct the file.")
