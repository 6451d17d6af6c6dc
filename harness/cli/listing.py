"""What the verb `list` prints of what is installed."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from dataclasses import Field, fields

from ...base.errors import unknown_name
from ...base.registry import Entry
from ...base.text import aligned
from ...flow.samplers import SAMPLERS
from ...methods import METHODS, Distillation, Method
from ...metrics import METRICS, Metric
from ...metrics.contract import Level
from ..protocol.model import protocol_names
from ..settings.config import WORLDS, preset_names
from ..settings.methods import choices_of, default_of

LEVELS: dict[Level, str] = {"structure": "structures", "assets": "whole assets"}


def listing(kind: str) -> str:
    """One line per object. Raises UsageError for an unknown kind."""
    kinds: dict[str, Callable[[], list[str]]] = {
        "methods": _methods,
        "samplers": _samplers,
        "metrics": _metrics,
        "presets": preset_names,
        "protocols": lambda: sorted(protocol_names()),
        "worlds": lambda: sorted(path.parent.name for path in WORLDS.glob("*/world.json")),
    }
    if kind not in kinds:
        raise unknown_name("kind", kind, [*kinds, "runs"])
    return "\n".join(kinds[kind]())


def _methods() -> list[str]:
    """Method, cost of a training step, cost of each variant, source; then the parameters with their defaults."""
    entries = [METHODS.get(name) for name in METHODS.names()]
    cells = [("method", "cost", "variants", "source")]
    cells += [(e.name, _cost(e, ""), _variants(e), e.source) for e in entries]
    table = aligned(cells)
    lines = [table[0]]
    for entry, line in zip(entries, table[1:], strict=True):
        lines += [line, *_parameters(entry)]
    return [*lines, "", "cost: forward passes per sample and training step; a backward pass counts 2, a JVP 3."]


def _variants(entry: Entry[type[Method]]) -> str:
    """Named variants, each with its cost where that differs from the default's."""
    default = _cost(entry, "")
    costs = {variant: _cost(entry, variant) for variant in entry.variants if variant}
    return ", ".join(v if cost == default else f"{v} ({cost})" for v, cost in costs.items()) or "-"


def _cost(entry: Entry[type[Method]], variant: str) -> str:
    method = entry.value(**{"cfg_strength": 0.0, **entry.variants.get(variant, {})})
    return f"{method.cost():g}" if isinstance(method, Distillation) else "-"


def _parameters(entry: Entry[type[Method]]) -> list[str]:
    if not issubclass(entry.value, Distillation):
        return []
    shared = {f.name for f in fields(Distillation)} - {"lr"}
    own = [f"{f.name}={_default(f)}" for f in fields(entry.value) if f.name not in shared]
    return textwrap.wrap(", ".join(own), 118, initial_indent="  ", subsequent_indent="  ")


def _default(parameter: Field) -> str:
    """As it would be written in --set: the name of a choice, and the others."""
    default, choices = default_of(parameter), choices_of(parameter)
    names = [name for name, value in choices.items() if value == default] or [repr(default)]
    return names[0] + (f" ({'|'.join(choices)})" if choices else "")


def _samplers() -> list[str]:
    return aligned([(name, entry.summary) for name, entry in SAMPLERS.items()])


def _metrics() -> list[str]:
    """Those of structures first. Columns of official networks are those of a protocol: `mdtbench show protocol`."""
    entries = [METRICS.get(name) for name in METRICS.names()]
    return aligned([_metric(entry) for level in LEVELS for entry in entries if entry.value.level == level])


def _metric(entry: Entry[Metric]) -> tuple[str, ...]:
    metric = entry.value
    better = f"{'higher' if metric.higher_is_better else 'lower'} is better"
    return entry.name, f"v{entry.version}", LEVELS[metric.level], better, entry.source
