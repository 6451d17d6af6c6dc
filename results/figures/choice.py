"""What a figure is to show of a run: names from the command line, checked against what the run has."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ...base.errors import UsageError, unknown_name

Who = tuple[str, str]  # method and variant


@dataclass(frozen=True)
class Choice:
    """Empty: the figure's own choice.

    Attributes:
        methods: with variants as name:variant, in the order to be shown.
        assets: ids, in the order to be shown.
        metric: of `pareto` a metric, of `curves` the loss or a diagnostic.
        steps: of the sampler.
        against: of `pareto`: nfe or seconds.
    """

    methods: tuple[str, ...] = ()
    assets: tuple[str, ...] = ()
    metric: str = ""
    steps: tuple[int, ...] = ()
    against: str = ""


def chosen_methods(words: Sequence[str], found: Iterable[Who]) -> list[Who]:
    """Those of the words; all that were found without words. Raises UsageError for one that the run has not."""
    names = {label(who): who for who in found}
    for word in words:
        if word not in names:
            raise unknown_name("method", word, names, "These are what this figure can show of the run.")
    return [names[word] for word in dict.fromkeys(words)] if words else list(names.values())


def chosen_steps(steps: Sequence[int], found: Iterable[int]) -> list[int]:
    """The same for numbers of steps."""
    found = sorted(set(found))
    for number in steps:
        if number not in found:
            allowed = ", ".join(str(other) for other in found) or "none"
            raise UsageError(f"No method has {number} steps in this run - {allowed} are there - change --steps.")
    return [number for number in found if number in steps] if steps else found


def label(who: Who) -> str:
    """As the command line spells a method."""
    method, variant = who
    return f"{method}:{variant}" if variant else method
