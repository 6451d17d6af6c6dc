"""The page `mdtbench show protocol`: every choice with its value, status and source, and what is unknown."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ...base.errors import unknown_name
from .model import Choice, Protocol, Published, leaves, load_protocol
from .rules import passes
from .values import unit_of

WIDTH = 110
STATUS = {
    "paper": "a paper states it",
    "code": "released code or a released file does it",
    "ours": "nothing published decides it",
}
COLUMNS = {"fd_incep": "FD_incep", "fd_dinov2": "FD_dinov2", "ulip_i": "ULIP_I", "n": "assets"}
STAGES = ("ss", "slat")


@dataclass(frozen=True)
class ShownChoice:
    """One value as it is in effect.

    Attributes:
        key: dotted path from the root of the protocol. unit: "" for a pure number or a word.
        source: spelled out. variant: what changed it, None for the protocol's own value.
    """

    key: str
    value: Any
    unit: str
    status: str
    source: tuple[str, ...]
    why: str
    variant: str | None = None

    @property
    def text(self) -> str:
        mark = f"   <- {self.variant}" if self.variant else ""
        return f"{_plain(self.value)} {self.unit}".rstrip() + mark


@dataclass(frozen=True)
class ShownPasses:
    """Network passes per sample and stage of one sampler."""

    sampler: str
    steps: int
    ss: int
    slat: int


def show_protocol(name: str, form: str = "text") -> str:
    """The page of a protocol, or of NAME+VARIANT+..., as text or JSON, with a line end.

    Raises:
        UsageError: unknown protocol, variant or form.
    """
    forms = {"text": as_text, "json": as_json}
    if form not in forms:
        raise unknown_name("format", form, forms)
    return forms[form](load_protocol(name))


def shown_choices(protocol: Protocol) -> list[ShownChoice]:
    """Every value in effect, in the order of the protocol's file."""
    return [shown for choice in protocol.file.choice for shown in _shown(protocol, choice)]


def _shown(protocol: Protocol, choice: Choice) -> Iterator[ShownChoice]:
    """The values of one choice, those that a variant changed with the variant's origin."""
    in_effect = dict(leaves(protocol.values.model_dump(mode="json")))
    changed = {path: variant for variant in protocol.applied for path, _ in leaves(variant.values)}
    for path, _ in leaves(choice.tree):
        variant = changed.get(path)
        item = variant or choice
        sources = tuple(_spelled(protocol.file.sources, source) for source in item.source)
        name = variant.name if variant else None
        yield ShownChoice(path, in_effect[path], unit_of(path), item.status, sources, item.why, name)


def shown_passes(protocol: Protocol) -> list[ShownPasses]:
    """The teacher at its own steps and at the students', and the students."""
    teacher, student = protocol.values.sampler.teacher, protocol.values.sampler.student
    cells = [("teacher", teacher, n) for n in (*teacher.steps, *student.steps)]
    cells += [("student", student, n) for n in student.steps]
    return [ShownPasses(name, n, *(passes(sampler, stage, n) for stage in STAGES)) for name, sampler, n in cells]


def as_json(protocol: Protocol) -> str:
    file = protocol.file
    page = {
        "name": protocol.name,
        "title": file.title,
        "sha256": protocol.sha256,
        "choices": [asdict(choice) for choice in shown_choices(protocol)],
        "passes": [asdict(row) for row in shown_passes(protocol)],
        "variants": [
            {"name": variant.name, "changes": dict(leaves(variant.values)), "status": variant.status}
            | {"source": [_spelled(file.sources, source) for source in variant.source], "why": variant.why}
            for variant in file.variant
        ],
        "unknown": [item.model_dump(mode="json") for item in file.unknown],
        "published": [item.model_dump(mode="json") for item in (*_target(protocol), *file.published)],
    }
    return json.dumps(page, indent=1, allow_nan=False) + "\n"


def as_text(protocol: Protocol) -> str:
    sections = (_head(protocol), _choices(protocol), _passes(protocol), _variants(protocol))
    parts = ["\n".join(section) for section in (*sections, _unknown(protocol), _published(protocol))]
    return "\n\n".join(parts) + "\n"


def _head(protocol: Protocol) -> list[str]:
    return [
        f"{protocol.name}   sha256 {protocol.sha256}",
        *_wrapped(protocol.file.title),
        *(f"  {status.ljust(5)}  {meaning}" for status, meaning in STATUS.items()),
    ]


def _choices(protocol: Protocol) -> Iterator[str]:
    """Topic by topic: values, then where they come from and why."""
    file = protocol.file
    width = max(len(key) for choice in file.choice for key, _ in leaves(choice.values))
    topic = ""
    for choice in file.choice:
        if choice.topic != topic:
            yield from ([""] if topic else []) + [choice.topic]
            topic = choice.topic
        for shown in _shown(protocol, choice):
            head = f"  {shown.key.removeprefix(topic + '.').ljust(width)}  {shown.status.ljust(5)}  "
            yield from _wrapped(shown.text, head, " " * len(head))
        yield from _below("from", "; ".join(_spelled(file.sources, source) for source in choice.source))
        yield from _below("why", choice.why)


def _passes(protocol: Protocol) -> list[str]:
    rows = [(row.sampler, f"{row.steps}x2", str(row.ss), str(row.slat)) for row in shown_passes(protocol)]
    return [
        "Network passes per asset",
        *_aligned([("sampler", "steps", "structure", "SLAT"), *rows]),
    ]


def _variants(protocol: Protocol) -> Iterator[str]:
    yield f"Variants ({protocol.file.name}+NAME)"
    for variant in protocol.file.variant:
        sha = protocol.root.variant(variant.name).sha256
        yield f"  {variant.name.ljust(16)}  {variant.status.ljust(5)}  sha256 {sha[:16]}"
        for path, value in leaves(variant.values):
            yield from _wrapped(f"{path} = {_plain(value)}", "      ")
        yield from _below("from", "; ".join(_spelled(protocol.file.sources, source) for source in variant.source))
        yield from _below("why", variant.why)


def _unknown(protocol: Protocol) -> Iterator[str]:
    yield "UNKNOWN: what no publication says, and the sections where the protocol had to choose"
    for number, item in enumerate(protocol.file.unknown, 1):
        yield from _wrapped(item.what, f"  {number}. ", "     ")
        yield from _below("chosen in", ", ".join(item.chosen))
        yield from _below("see", "; ".join(_spelled(protocol.file.sources, source) for source in item.source))


def _published(protocol: Protocol) -> Iterator[str]:
    yield "The undistilled teacher in print: other protocols, never in one column with numbers measured here"
    rows = [_published_row(item) for item in (*_target(protocol), *protocol.file.published)]
    yield from _aligned([("system", *COLUMNS.values(), "remark"), *rows])


def _target(protocol: Protocol) -> list[Published]:
    rule = protocol.values.calibration
    remark = "what a run is calibrated with"
    return [
        Published(
            system=f"TRELLIS {rule.steps}x2, by MDT-dist",
            n=rule.n,
            source=("mdt: Table 1",),
            remark=remark,
            **rule.target.model_dump(),
        )
    ]


def _published_row(item: Published) -> tuple[str, ...]:
    numbers = (getattr(item, column) for column in COLUMNS)
    return item.system, *("-" if number is None else f"{number:g}" for number in numbers), item.remark


def _plain(value: Any) -> str:
    """A value as a reader would write it: 2.0 as 2, no quotes around words."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.12g}"
    if isinstance(value, Mapping):
        return " ".join(_plain(part) if key == "kind" else f"{key} {_plain(part)}" for key, part in value.items())
    if isinstance(value, list | tuple):
        nested = any(isinstance(part, Mapping) for part in value)
        return "; ".join(map(_plain, value)) if nested else f"({', '.join(map(_plain, value))})"
    return str(value)


def _spelled(sources: Mapping[str, str], source: str) -> str:
    """A source with its key replaced by what it stands for."""
    key, colon, place = source.partition(": ")
    return f"{sources[key]}: {place}" if colon and key in sources else source


def _below(label: str, text: str) -> list[str]:
    return _wrapped(text, f"      {label}: ", " " * 8) if text else []


def _wrapped(text: str, first: str = "  ", more: str | None = None) -> list[str]:
    """Lines of at most WIDTH; addresses and paths stay whole."""
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=first,
        subsequent_indent=first if more is None else more,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _aligned(rows: Iterable[Sequence[str]]) -> list[str]:
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  " + "  ".join(text.ljust(n) for text, n in zip(row, widths, strict=True)).rstrip() for row in rows]
