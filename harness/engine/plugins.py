"""Plug-ins: a user's Python file, whose import registers methods, metrics, sources or networks."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

from ...base.blame import raised_under, summary
from ...base.errors import MissingError, UsageError

_loaded: dict[str, None] = {}  # names of modules, in the order of their first import


def loaded() -> tuple[str, ...]:
    """Names of the plug-ins of this process: what others that do its work must import as well."""
    return tuple(_loaded)


def import_plugin(module: str) -> ModuleType:
    """By the name that `load_plugin` gave, where the path to it is known."""
    found = importlib.import_module(module)
    _loaded[module] = None
    return found


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
        module = import_plugin(path.stem)
    except Exception as error:  # anybody's code
        where = raised_under(error, str(path.resolve())) or path
        raise UsageError(f"The plug-in {path} cannot be imported: {summary(error)}. Correct {where}.") from error
    if Path(module.__file__ or "").resolve() != path.resolve():
        del _loaded[path.stem]
        raise UsageError(f"The plug-in {path} has the name of another module. Rename the file.")
    return path.stem


def path_of(module: str) -> Path:
    """The file of a plug-in that was imported here, by the name of its module."""
    return Path(sys.modules[module].__file__ or "").resolve()
