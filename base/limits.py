"""What a file may ask of this machine before it is refused: one place, raised by `--set limits.NAME=N`.

Files come from anywhere, and a few bytes can announce terabytes. Every limit is checked before the memory is taken, and
its message says how to raise it. Worker processes get the limits of the command that starts them (`use_limits`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from PIL import Image
from pydantic import BaseModel, ConfigDict, Field


class Limits(BaseModel):
    """The defaults are far above what people's assets need, and let one process stay below 2 GB."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file_mb: int = Field(default=512, gt=0, description="of a mesh, texture, buffer or picture, as it lies on disk")
    pixels: int = Field(default=2**26, gt=0, description="of one picture: 8192 x 8192")
    asset_pixels: int = Field(default=2**28, gt=0, description="of all pictures of one asset together")
    faces: int = Field(default=5_000_000, gt=0, description="triangles of one asset, all its instances counted")
    parts: int = Field(default=20_000, gt=0, description="meshes in the scene of one asset, all instances counted")
    values: int = Field(default=100_000_000, gt=0, description="numbers that one table of a mesh file may announce")
    unpacked_mb: int = Field(default=1024, gt=0, description="of the arrays of one .npz")
    nesting: int = Field(default=64, gt=0, description="levels of lists and tables in JSON, TOML and scene graphs")
    digits: int = Field(default=20, gt=0, description="of a whole number in JSON, TOML and CSV")

    @property
    def changed(self) -> dict[str, Any]:
        """What differs from the defaults: part of the address of what was refused or read under it."""
        return self.model_dump(exclude_defaults=True)


UNITS = {
    "file_mb": "MB",
    "pixels": "pixels",
    "asset_pixels": "pixels in all its pictures",
    "faces": "triangles",
    "parts": "meshes in its scene",
    "values": "numbers",
    "unpacked_mb": "MB unpacked",
    "nesting": "levels",
    "digits": "digits",
}
MB = 1e6

_in_use: Limits  # set below
_counted: ContextVar[Counter[str] | None] = ContextVar("counted", default=None)


def use_limits(given: Limits) -> None:
    """Make them those of this process, and of its pictures, whoever opens them."""
    global _in_use
    _in_use = given
    Image.MAX_IMAGE_PIXELS = 2 * given.pixels  # Pillow warns from there, and refuses from twice that


def limits() -> Limits:
    """Those of this process."""
    return _in_use


def excess(name: str, found: float, what: str) -> str:
    """Why something is too much for the limit `name`; "" where it is not."""
    limit = getattr(_in_use, name)
    if found <= limit:
        return ""
    unit = UNITS[name]
    return f"{what} has {found:,.0f} {unit} - {limit:,} are allowed - raise it with --set limits.{name}=N"


@contextmanager
def one_asset() -> Iterator[None]:
    """What `too_many` counts in the block is one asset's."""
    token = _counted.set(Counter())
    try:
        yield
    finally:
        _counted.reset(token)


def too_many(name: str, found: int, what: str) -> str:
    """As `excess`, of the sum of all calls within `one_asset`."""
    counts = _counted.get()
    if counts is None:
        return excess(name, found, what)
    counts[name] += found
    return excess(name, counts[name], what)


use_limits(Limits())
