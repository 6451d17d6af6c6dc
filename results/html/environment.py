"""What of this package goes into a report: templates, whose text is all escaped, and files as they are."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from ...base.errors import RunError

PACKAGE = "mdtbench.results.html"


def environment() -> Environment:
    """Templates of this package: autoescape on for every name, an unknown variable is an error.

    A page sets `root`, the relative path to the report's folder: "" or "../".
    """
    made = Environment(
        loader=PackageLoader(PACKAGE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters["ticked"] = ticked
    return made


def ticked(text: str) -> Markup:
    """Text as HTML, what is between backticks as code."""
    parts = [escape(part) for part in text.split("`")]
    return Markup("").join(Markup("<code>{}</code>").format(part) if i % 2 else part for i, part in enumerate(parts))


def copy_package_files(folder: str, out: Path) -> None:
    """Copy a folder of this package into the report.

    Args:
        out: folder of the report.

    Raises:
        RunError: a file cannot be written.
    """
    target = out / folder
    try:
        target.mkdir(parents=True, exist_ok=True)
        for source in files(PACKAGE).joinpath(folder).iterdir():
            (target / source.name).write_bytes(source.read_bytes())
    except OSError as error:
        raise RunError(f"Cannot write {target}: {error.strerror}. Free the disk or choose another --out.") from error
