"""The verb `list`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, fields

from ..base.errors import unknown_name
from ..methods import METHODS, Distillation
from ..metrics import METRICS
from .config import WORLDS, preset_names


def listing(kind: str) -> str:
    """One line per object. Raises UsageError for an unknown kind."""
    kinds: dict[str, Callable[[], list[str]]] = {
        "methods": _methods,
        "metrics": _metrics,
        "presets": preset_names,
        "worlds": lambda: sorted(path.parent.name for path in WORLDS.glob("*/world.json")),
    }
    if kind not in kinds:
        raise unknown_name("kind", kind, kinds)
    return "\n".join(kinds[kind]())


def _methods() -> list[str]:
    lines = []
    for name in METHODS.names():
        entry = METHODS.get(name)
        variants = ", ".join(variant for variant in entry.variants if variant) or "-"
        lines.append(f"{name:8} v{entry.version}  variants: {variants:4}  {entry.source}")
        if issubclass(entry.value, Distillation):
            own = [f"{f.name}={f.default}" for f in fields(entry.value) if f.default is not MISSING]
            lines.append(f"{'':13}{', '.join(own)}")
    return lines


def _metrics() -> list[str]:
    return [
        f"{name:12} v{METRICS.get(name).version}  {'higher' if METRICS.get(name).value.higher_is_better else 'lower'}"
        f" is better  {METRICS.get(name).source}"
        for name in METRICS.names()
    ]
