"""Names for objects that plug-ins can add to: methods, metrics, sources of shapes, networks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar

from .blame import raised_in, summary
from .errors import MdtbenchError, UsageError, unknown_name

T = TypeVar("T")


class RegistryError(MdtbenchError):
    """Two registrations of one name: a mistake in code, not in usage."""


@dataclass(frozen=True)
class Entry(Generic[T]):
    """One registered object.

    `variants` maps a variant's name to the parameters it changes; `""` is the default variant.
    """

    name: str
    value: T
    version: int
    source: str
    variants: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


class Registry(Generic[T]):
    """Holds objects under names; adds those of an entry-point group when they are first asked for.

    A plug-in package declares, for example::

        [project.entry-points."mdtbench.methods"]
        mine = "my_package.mine"          # importing the module registers the method

    Raises:
        RegistryError: a name is registered twice.
    """

    def __init__(self, kind: str, group: str):
        self.kind = kind
        self.group = group
        self._entries: dict[str, Entry[T]] = {}

    def register(
        self, name: str, *, version: int, source: str, variants: Mapping[str, Mapping[str, Any]] | None = None
    ) -> Callable[[T], T]:
        """Decorator: put the decorated object under `name`. `source` cites the equation or repository."""

        def put(value: T) -> T:
            if name in self._entries:
                raise RegistryError(f"The {self.kind} '{name}' is registered twice.")
            self._entries[name] = Entry(name, value, version, source, dict(variants or {}))
            return value

        return put

    def names(self) -> list[str]:
        """Registered names and those that plug-ins declare, sorted; imports no plug-in."""
        return sorted({*self._entries, *(point.name for point in self._points())})

    def get(self, name: str) -> Entry[T]:
        """The entry of `name`.

        Raises:
            UsageError: no such name (the nearest is suggested), or its plug-in cannot be imported.
        """
        if name not in self._entries:
            for point in self._points():
                if point.name == name:
                    self._load(point)
        if name not in self._entries:
            raise unknown_name(self.kind, name, self.names(), f"Plug-ins: entry-point group '{self.group}'.")
        return self._entries[name]

    def _points(self) -> list[EntryPoint]:
        return list(entry_points(group=self.group))

    def _load(self, point: EntryPoint) -> None:
        package = point.dist.name if point.dist else point.value
        try:
            point.load()
        except Exception as error:  # anybody's code
            where = raised_in(error, point.module)
            raise UsageError(
                f"The plug-in '{point.name}' of package '{package}' cannot be imported: {summary(error)}"
                f"{where and f' ({where})'}. Repair or uninstall that package."
            ) from error
