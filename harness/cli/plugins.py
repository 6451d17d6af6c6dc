"""Plug-ins: a user's Python file, whose import registers methods, metrics, sources or networks."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from ...base.blame import raised_under, summary
from ...base.errors import MissingError, UsageError


def load_plugin(path: Path) -> str:
    """Import a Python file; the module's name, by which worker processes find it.

    Raises:
        MissingError: there is no such file.
        UsageError: it cannot be imported, or its name is that of another module.
    """
    if path.suffix != ".py" or not path.is_file():
        raise MissingError(f"There is no plug-in file {path}. Give the path of a .py file.")
    sys.path.insert(0, str(path.resolve().parent))
    try:
        module = importlib.import_module(path.stem)
    except Exception as error:  # anybody's code
        where = raised_under(error, str(path.resolve())) or path
        raise UsageError(f"The plug-in {path} cannot be imported: {summary(error)}. Correct {where}.") from error
    if Path(module.__file__ or "").resolve() != path.resolve():
        raise UsageError(f"The plug-in {path} has the name of another module. Rename the file.")
    return path.stem
