"""Where templates come from. All text that they show is escaped."""

from __future__ import annotations

from functools import partial

from jinja2 import Environment, PackageLoader, StrictUndefined

from .svg import marker


def environment() -> Environment:
    """Templates of this package: autoescape on for every name, an unknown variable is an error.

    A page sets `root`, the relative path to the report's folder: "" or "../".
    """
    env = Environment(
        loader=PackageLoader("mdtbench.results.html"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    env.globals["drawn_marker"] = partial(marker, x=7, y=7)
    return env
