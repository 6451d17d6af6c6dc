"""The page `mdtbench show protocol`: every choice with its value, status and source, and what is unknown."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ...base.errors import unknown_name
from ...base.text import aligned
from .model import Choice, Protocol, Published, Variant, leaves, load_protocol
from .rules import passes
from .values import SamplerValues, Stage, unit_of

WIDTH = 110
STATUS = {
    "paper": "a paper states it",
    "code": "released code or a released file does it",
    "ours": "nothing published decides it",
}
COLUMNS = {"fd_incep": "FD_incep", "fd_dinov2": "FD_dinov2", "ulip_i": "ULIP_I", "n": "assets"}
STAGES: tuple[Stage, ...] = ("structure", "slat")
ELSEWHERE = {  # what takes the place of a sampler's values: how it is sampled
    "of the world": "as the world's pipeline.json says",
    "of the method": "with the sampler that the method makes its students for",
}


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
    structure: int
    slat: int


@dataclass(frozen=True)
class _Group:
    """The values of one choice, or those that a variant added, under a heading."""

    heading: str
    item: Choice | Variant
    shown: tuple[ShownChoice, ...]

    def label(self, shown: ShownChoice) -> str:
        return shown.key.removeprefix(f"{self.heading}.")


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
    """Every value in effect that the file gives, in the file's order; then those that only a variant gives."""
    return [shown for group in _groups(protocol) for shown in group.shown]


def _groups(protocol: Protocol) -> Iterator[_Group]:
    """By choice. A variant may put a word where a table was, or a table where a word was: so paths come and go."""
    in_effect = dict(leaves(protocol.values.model_dump(mode="json")))
    parts: list[tuple[str, Choice | Variant, list[str]]] = []
    parts += [(choice.topic, choice, _paths(choice.tree)) for choice in protocol.file.choice]
    given = {path for _, _, paths in parts for path in paths}
    for variant in protocol.applied:
        parts.append((f"added by {variant.name}", variant, [p for p in _paths(variant.values) if p not in given]))
    for heading, item, paths in parts:
        if shown := tuple(_shown(protocol, item, path, in_effect[path]) for path in paths if path in in_effect):
            yield _Group(heading, item, shown)


def _shown(protocol: Protocol, item: Choice | Variant, path: str, value: Any) -> ShownChoice:
    """The value at a path; one that a variant changed has the variant's origin."""
    variant = next((variant for variant in protocol.applied if path in _paths(variant.values)), None)
    origin = variant or item
    sources = tuple(_spelled(protocol.file.sources, source) for source in origin.source)
    return ShownChoice(
        path, value, unit_of(path), origin.status, sources, origin.why, variant.name if variant else None
    )


def _paths(tree: Mapping[str, Any]) -> list[str]:
    return [path for path, _ in leaves(tree)]


def shown_passes(protocol: Protocol) -> list[ShownPasses]:
    """The teacher at its own steps and at the students', and the students; none of a sampler that is elsewhere."""
    own = {name: sampler for name, sampler in _samplers(protocol).items() if isinstance(sampler, SamplerValues)}
    student_steps = own["student"].steps if "student" in own else ()
    return [
        ShownPasses(name, steps, *(passes(sampler, stage, steps) for stage in STAGES))
        for name, sampler in own.items()
        for steps in dict.fromkeys((*sampler.steps, *student_steps))
    ]


def passes_elsewhere(protocol: Protocol) -> dict[str, str]:
    """How the samplers are found whose passes the protocol does not decide, by teacher and student."""
    samplers = _samplers(protocol).items()
    return {name: f"{word}: {ELSEWHERE[word]}" for name, word in samplers if isinstance(word, str)}


def _samplers(protocol: Protocol) -> dict[str, SamplerValues | str]:
    return {"teacher": protocol.values.sampler.teacher, "student": protocol.values.sampler.student}


def as_json(protocol: Protocol) -> str:
    file = protocol.file
    page = {
        "name": protocol.name,
        "title": file.title,
        "sha256": protocol.sha256,
        "choices": [asdict(choice) for choice in shown_choices(protocol)],
        "passes": [asdict(row) for row in shown_passes(protocol)],
        "passes_elsewhere": passes_elsewhere(protocol),
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
    return "\n\n".join(part for part in parts if part) + "\n"


def _head(protocol: Protocol) -> list[str]:
    return [
        f"{protocol.name}   sha256 {protocol.sha256}",
        *_wrapped(protocol.file.title),
        *(f"  {status.ljust(5)}  {meaning}" for status, meaning in STATUS.items()),
    ]


def _choices(protocol: Protocol) -> Iterator[str]:
    """Heading by heading: values, then where they come from and why."""
    groups = list(_groups(protocol))
    width = max(len(group.label(shown)) for group in groups for shown in group.shown)
    heading = ""
    for group in groups:
        if group.heading != heading:
            yield from ([""] if heading else []) + [group.heading]
            heading = group.heading
        for shown in group.shown:
            head = f"  {group.label(shown).ljust(width)}  {shown.status.ljust(5)}  "
            yield from _wrapped(shown.text, head, " " * len(head))
        yield from _origin(protocol, group.item)


def _origin(protocol: Protocol, item: Choice | Variant) -> Iterator[str]:
    yield from _below("from", "; ".join(_spelled(protocol.file.sources, source) for source in item.source))
    yield from _below("why", item.why)


def _passes(protocol: Protocol) -> Iterator[str]:
    yield "Network passes per asset"
    if rows := [(row.sampler, f"{row.steps}x2", str(row.structure), str(row.slat)) for row in shown_passes(protocol)]:
        yield from _aligned([("sampler", "steps", "structure", "SLAT"), *rows])
    for name, words in passes_elsewhere(protocol).items():
        yield from _wrapped(words, f"  {name}  ", " " * 4)


def _variants(protocol: Protocol) -> Iterator[str]:
    if not protocol.file.variant:
        return
    yield f"Variants ({protocol.file.name}+NAME)"
    for variant in protocol.file.variant:
        sha = protocol.root.variant(variant.name).sha256
        yield f"  {variant.name.ljust(16)}  {variant.status.ljust(5)}  sha256 {sha[:16]}"
        for path, value in leaves(variant.values):
            yield from _wrapped(f"{path} = {_plain(value)}", "      ")
        yield from _origin(protocol, variant)


def _unknown(protocol: Protocol) -> Iterator[str]:
    if not protocol.file.unknown:
        return
    yield "UNKNOWN: what no publication says, and the sections where the protocol had to choose"
    for number, item in enumerate(protocol.file.unknown, 1):
        yield from _wrapped(item.what, f"  {number}. ", "     ")
        yield from _below("chosen in", ", ".join(item.chosen))
        yield from _below("see", "; ".join(_spelled(protocol.file.sources, source) for source in item.source))


def _published(protocol: Protocol) -> Iterator[str]:
    rows = [_published_row(item) for item in (*_target(protocol), *protocol.file.published)]
    if not rows:
        return
    yield "The undistilled teacher in print: other protocols, never in one column with numbers measured here"
    yield from _aligned([("system", *COLUMNS.values(), "remark"), *rows])


def _target(protocol: Protocol) -> list[Published]:
    """The numbers that the protocol calibrates with, if it does."""
    rule = protocol.values.calibration
    if rule is None:
        return []
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
    """A value as a reader would write it: 2.0 as 2, no quotes around words, an empty list as none."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.12g}"
    if isinstance(value, Mapping):
        return " ".join(_plain(part) if key == "kind" else f"{key} {_plain(part)}" for key, part in value.items())
    if isinstance(value, list | tuple) and not value:
        return "none"
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
    return [f"  {line}" for line in aligned(list(rows))]
