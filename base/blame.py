"""Where in somebody's code something went wrong, for messages of one line."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable
from types import FrameType
from typing import Any

PACKAGE = "mdtbench."


def is_ours(thing: Any) -> bool:
    """Whether the class (of an object, the object's) is part of mdtbench."""
    kind = thing if isinstance(thing, type) else type(thing)
    return kind.__module__.startswith(PACKAGE)


def summary(error: BaseException) -> str:
    """Kind and message, in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}".removesuffix(": ")


def raised_in(error: BaseException, module: str) -> str:
    """`file:line` in the top-level package of `module` that an exception came through last; "" where there is none."""
    package = module.partition(".")[0]
    return _last(error, lambda frame: str(frame.f_globals.get("__name__", "")).partition(".")[0] == package)


def raised_under(error: BaseException, file: str) -> str:
    """`file:line` of a file that an exception came through last, or that cannot be parsed; "" where there is none."""
    if isinstance(error, SyntaxError) and error.filename == file:
        return f"{file}:{error.lineno}"
    return _last(error, lambda frame: frame.f_code.co_filename == file)


def written_at(thing: Any) -> str:
    """`file:line` of a class or function; the module's name of one without a file, of a notebook for example."""
    thing = inspect.unwrap(thing) if callable(thing) else thing
    try:
        file, line = inspect.getsourcefile(thing), inspect.getsourcelines(thing)[1]
    except (OSError, TypeError):
        return str(getattr(thing, "__module__", type(thing).__name__))
    return f"{file}:{line}"


def _last(error: BaseException, wanted: Callable[[FrameType], bool]) -> str:
    lines = [(frame, line) for frame, line in traceback.walk_tb(error.__traceback__) if wanted(frame)]
    return f"{lines[-1][0].f_code.co_filename}:{lines[-1][1]}" if lines else ""
