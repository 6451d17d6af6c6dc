"""What a source of shapes offers the rest of the tool: named assets and a digest. And sources by name, for plug-ins."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

from ..base.registry import Registry
from ..geometry.law import Law
from ..geometry.mesh import Mesh


class Asset(Protocol):
    """One shape that is loaded on demand. Assets and sources are picklable, so worker processes can load."""

    @property
    def id(self) -> str:
        """Unique in its source and stable from run to run."""
        ...

    @property
    def category(self) -> str:
        """Name of the kind of thing, `""` when unknown."""
        ...

    def load(self) -> Mesh:
        """The shape, in the cube [-1/2, 1/2]^3; that of a file normalised as `Mesh.normalised` does.

        Raises:
            AssetError: the shape cannot be used; the message is the reason.
        """
        ...


@runtime_checkable
class Lawful(Protocol):
    """An asset of a known, finite set, of which the conditioning picture shows a part."""

    def shown(self) -> Mesh:
        """What the picture is drawn of."""
        ...

    def law(self) -> Law: ...


class Source(Protocol):
    """A fixed list of assets."""

    @property
    def name(self) -> str:
        """Short name for manifests and messages."""
        ...

    def assets(self) -> Sequence[Asset]:
        """All assets, sorted by id."""
        ...

    def digest(self) -> str:
        """sha256, in hexadecimal, of all that the assets are made from: equal digests mean equal shapes."""
        ...


# What `--assets NAME:TEXT` makes of TEXT. Raises MissingError or UsageError when there is no such source.
SOURCES: Registry[Callable[[str], Source]] = Registry("source", group="mdtbench.sources")
