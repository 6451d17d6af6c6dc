"""The verb `list`, of what is installed; of runs see `runs_command`."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from dataclasses import Field, fields

from ..base.errors import unknown_name
from ..base.registry import Entry
from ..flow.samplers import SAMPLERS
from ..methods import METHODS, Distillation, Method
from ..metrics import ASSET_METRICS, METRICS, Metric
from .columns import aligned
from .config import WORLDS, preset_names
from .parameters import choices_of, default_of
from .protocol.model import protocol_names


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
    kinds = (("structures", METRICS), ("whole assets", ASSET_METRICS))
    entries = [(kind, registry.get(name)) for kind, registry in kinds for name in registry.names()]
    return aligned([_metric(kind, entry.name, entry.version, entry.value, entry.source) for kind, entry in entries])


def _metric(kind: str, name: str, version: int, metric: Metric, source: str) -> tuple[str, ...]:
    return name, f"v{version}", kind, f"{'higher' if metric.higher_is_better else 'lower'} is better", source
