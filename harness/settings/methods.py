"""Methods by name with their parameters changed: `name:variant` and the tables [methods.name] of a preset or --set."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from dataclasses import MISSING, Field, asdict, dataclass, fields, is_dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from ...base.blame import is_ours, raised_in, summary, written_at
from ...base.errors import UsageError, unknown_name
from ...base.files import digest_of, file_sha256
from ...flow.samplers import Sampler
from ...methods import METHODS, Distillation, Method
from ...trellis.pipeline import SamplerParams
from .contract import check_class, check_method, sampler_for


@dataclass(frozen=True)
class Entrant:
    """A method in the variant and with the parameters that this run uses.

    Attributes:
        label: `name` or `name:variant`.
        code: digest of a plug-in's source file; "" of a built-in method, whose version says when it changes.
    """

    label: str
    name: str
    variant: str
    version: int
    method: Method
    code: str = ""

    @property
    def file_name(self) -> str:
        """The label as part of a file's name."""
        return self.label.replace(":", "_")

    @property
    def identity(self) -> list[Any]:
        """What decides what it learns, as JSON."""
        return [self.label, self.version, self.code, repr(self.method)]

    @property
    def trains(self) -> bool:
        return isinstance(self.method, Distillation)

    @property
    def distillation(self) -> Distillation:
        """The method, of an entrant that trains."""
        if not isinstance(self.method, Distillation):
            raise TypeError(f"{self.label} does not train")
        return self.method

    def sampler(self, steps: int) -> Sampler:
        """The method's own for so many steps. Raises UsageError when a plug-in has none."""
        return sampler_for(self.label, self.method, steps)

    def at(self, **settings: Any) -> Entrant:
        """The same with other parameters."""
        return replace(self, method=replace(self.distillation, **settings))


def entrant(label: str, changes: Mapping[str, Mapping[str, Any]], sampler: SamplerParams) -> Entrant:
    """Build `name` or `name:variant`: the sampler's settings of the backbone, then the variant, then `changes`.

    Raises:
        UsageError: unknown method, variant, parameter or choice, a value of the wrong kind, or a plug-in's class that
            is no method.
    """
    name, _, variant = label.partition(":")
    entry = METHODS.get(name)
    if variant and variant not in entry.variants:
        raise unknown_name(f"variant of method '{name}'", variant, [v for v in entry.variants if v])
    check_class(name, entry.value)
    known = {field.name: field for field in fields(entry.value)}
    of_world = {**asdict(sampler), "teacher_steps": sampler.steps}
    settings = {key: value for key, value in of_world.items() if key in known}
    settings |= entry.variants.get(variant, {})
    changed = {
        key: _changed(f"methods.{name}.{key}", _field(f"method '{name}'", key, known), settings, value)
        for key, value in changes.get(name, {}).items()
    }
    method = _built(label, entry.value, {**settings, **changed})
    if " at 0x" in repr(method):
        raise UsageError(
            f"Method '{label}' has a parameter whose text holds an address in memory (got {method!r}) - results are "
            "found again by their parameters' text - use frozen dataclasses as parameters."
        )
    if not is_ours(method):
        check_method(label, method)
    return Entrant(label, name, variant, entry.version, method, code_digest(entry.value))


def at_rate(who: Entrant, lr: float | None, changes: Mapping[str, Mapping[str, Any]]) -> Entrant:
    """The method at the rate that a preset has for all, if it has one and `changes` none for this method."""
    fixed = lr is None or "lr" in changes.get(who.name, {})
    return who if fixed or not who.trains else who.at(lr=lr)


def _built(label: str, kind: type[Method], settings: Mapping[str, Any]) -> Method:
    try:
        return kind(**settings)
    except Exception as error:  # a plug-in's may be anything
        ours = is_ours(kind)
        if ours and not isinstance(error, TypeError | ValueError):
            raise
        where = "" if ours else f" or {raised_in(error, kind.__module__) or written_at(kind)}"
        table = f"[methods.{label.partition(':')[0]}]"
        raise UsageError(f"Method '{label}' cannot be built ({summary(error)}). Check {table}{where}.") from error


def code_digest(thing: Any) -> str:
    """Digest of the file that a plug-in's class (or an object's) is written in; "" for what is part of mdtbench."""
    return "" if is_ours(thing) else _file_digest(thing if isinstance(thing, type) else type(thing))


@cache
def _file_digest(kind: type) -> str:
    """Read once: a file that is edited during a run is not what the run computes with."""
    try:
        return file_sha256(Path(inspect.getfile(kind)))
    except (TypeError, OSError):  # made without a file, in a notebook for example
        return digest_of(repr(kind))


def choices_of(field: Field) -> Mapping[str, Any]:
    """The objects that a parameter takes by name; empty for a plain parameter."""
    return field.metadata.get("choices", {})


def default_of(field: Field) -> Any:
    """MISSING when there is none."""
    return field.default if field.default_factory is MISSING else field.default_factory()


def _field(owner: str, key: str, known: Mapping[str, Field]) -> Field:
    if key not in known:
        raise unknown_name(f"parameter of {owner}", key, known)
    return known[key]


def _changed(key: str, field: Field, settings: Mapping[str, Any], value: Any) -> Any:
    """The new value of a parameter.

    Args:
        key: in full, for messages.
        settings: values that take the place of the fields' defaults.
        value: from TOML: a name for a parameter with choices, a table for one that is a dataclass.
    """
    current, choices = settings.get(field.name, default_of(field)), choices_of(field)
    if isinstance(value, dict) and is_dataclass(current) and not isinstance(current, type):
        return _replaced(key, current, value)
    if choices:
        if not isinstance(value, str) or value not in choices:
            raise unknown_name(f"value of {key}", str(value), choices)
        return choices[value]
    _check_kind(key, value, current)
    return tuple(value) if isinstance(value, list) else value


def _replaced(key: str, current: Any, table: Mapping[str, Any]) -> Any:
    """The dataclass `current` with the fields of `table` changed, at any depth."""
    known = {field.name: field for field in fields(current)}
    values = {name: getattr(current, name) for name in known}
    changed = {name: _changed(f"{key}.{name}", _field(key, name, known), values, v) for name, v in table.items()}
    try:
        return replace(current, **changed)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{key} cannot be set to that ({error}). Correct it in the preset or --set.") from error


def _check_kind(key: str, value: Any, current: Any) -> None:
    """A changed parameter is of its present value's kind: a finite number for a number, a list for a tuple.

    Without a present value, and for None, which stands for a number, it is a finite number.
    """
    if current is MISSING or current is None or isinstance(current, float):
        fits = type(value) in (int, float) and math.isfinite(value)
    else:
        fits = type(value) is (list if isinstance(current, tuple) else type(current))
    if not fits:
        like = "a number" if current is MISSING or current is None else f"a value like {current!r}"
        raise UsageError(f"{key} takes {like} (got {value!r}). Correct it in the preset or --set.")
