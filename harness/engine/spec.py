"""Jobs as JSON: classes by name, fields by value, nothing of code. What `mdtbench work` reads.

{"classes": ["module:name"], "objects": [[class, {field: value}]], "root": value}; a value is a JSON value, or a
list of a tag and what it stands for. An object is written once, however often it occurs. Objects are put together
field by field, so nothing is called when they are read.
"""

from __future__ import annotations

import base64
import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from importlib import import_module
from pathlib import Path, PurePath
from types import ModuleType
from typing import Any

import numpy as np
from pydantic import BaseModel

PLAIN = (str, int, bool, type(None))


def to_spec(value: Any) -> dict[str, Any]:
    """As JSON. Raises TypeError for what is no plain data."""
    writer = _Writer()
    root = writer.value(value)
    return {"classes": list(writer.classes), "objects": writer.objects, "root": root}


def from_spec(spec: Mapping[str, Any]) -> Any:
    """What `to_spec` was given. Modules of its classes are imported."""
    return _Reader(spec).value(spec["root"])


def name_of(thing: Any) -> str:
    """Of a class or function of a module."""
    name = f"{thing.__module__}:{thing.__qualname__}"
    try:
        found = find(name)
    except (ImportError, AttributeError):  # made in a function, or by a library in a way of its own
        found = None
    if thing is not found:
        raise TypeError(f"{thing!r} cannot be found by its name, so no other process can.")
    return name


def find(name: str) -> Any:
    module, _, path = name.partition(":")
    return functools.reduce(getattr, path.split("."), import_module(module))


@dataclass
class _Writer:
    classes: dict[str, int] = field(default_factory=dict)
    objects: list[Any] = field(default_factory=list)
    known: dict[int, tuple[int, Any]] = field(default_factory=dict)  # the object too, so that its id stays its own

    def value(self, value: Any) -> Any:
        if isinstance(value, PLAIN) and type(value) in PLAIN:
            return value
        if type(value) is float:
            return value if math.isfinite(value) else ["float", repr(value)]
        if isinstance(value, np.ndarray):
            data = base64.b64encode(np.ascontiguousarray(value).tobytes()).decode()
            return ["array", value.dtype.str, list(value.shape), data]
        if isinstance(value, PurePath):
            return ["path", str(value)]
        if isinstance(value, tuple | list | set | frozenset) and type(value) in (tuple, list, set, frozenset):
            items = sorted(value, key=repr) if isinstance(value, set | frozenset) else value
            return [type(value).__name__, *map(self.value, items)]
        if isinstance(value, Mapping):
            return ["map", *([self.value(key), self.value(one)] for key, one in value.items())]
        if isinstance(value, functools.partial):
            return ["partial", name_of(value.func), self.value(value.args), self.value(value.keywords)]
        if callable(value) and hasattr(value, "__qualname__"):
            return ["named", name_of(value)]
        return ["object", self._object(value)]

    def _object(self, value: Any) -> int:
        if id(value) not in self.known:
            number = len(self.objects)
            self.known[id(value)] = number, value
            self.objects.append(None)
            cls = self.classes.setdefault(name_of(type(value)), len(self.classes))
            self.objects[number] = [cls, {key: self.value(one) for key, one in _state(value).items()}]
        return self.known[id(value)][0]


@dataclass
class _Reader:
    spec: Mapping[str, Any]
    made: dict[int, Any] = field(default_factory=dict)

    def value(self, value: Any) -> Any:
        if not isinstance(value, list):
            return value
        tag, *rest = value
        match tag:
            case "float":
                return float(rest[0])
            case "path":
                return Path(rest[0])
            case "array":
                data = np.frombuffer(base64.b64decode(rest[2]), rest[0])
                return data.reshape(rest[1]).copy()
            case "tuple" | "list" | "set" | "frozenset":
                return {"tuple": tuple, "list": list, "set": set, "frozenset": frozenset}[tag](map(self.value, rest))
            case "map":
                return {self.value(key): self.value(one) for key, one in rest}
            case "partial":
                return functools.partial(find(rest[0]), *self.value(rest[1]), **self.value(rest[2]))
            case "named":
                return find(rest[0])
        return self._object(rest[0])

    def _object(self, number: int) -> Any:
        if number not in self.made:
            cls, state = self.spec["objects"][number]
            found = find(self.spec["classes"][cls])
            values = {key: self.value(one) for key, one in state.items()}
            if issubclass(found, BaseModel):
                self.made[number] = found.model_construct(**values)
            else:
                self.made[number] = found.__new__(found)
                for key, one in values.items():
                    object.__setattr__(self.made[number], key, one)
        return self.made[number]


def _state(value: Any) -> dict[str, Any]:
    """Fields of an object; what it has computed and kept beside them is computed again."""
    if isinstance(value, BaseModel):
        return {name: getattr(value, name) for name in type(value).model_fields}
    if is_dataclass(value):
        return {one.name: getattr(value, one.name) for one in fields(value)}
    if type(value).__reduce__ is object.__reduce__ and not isinstance(value, ModuleType) and hasattr(value, "__dict__"):
        return vars(value)
    raise TypeError(f"A job holds a {type(value).__module__}.{type(value).__qualname__}, which is not plain data.")
