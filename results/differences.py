"""What a comparison says: a difference per line and metric, with its verdict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

ALPHA: Final = 0.01  # chance that a comparison of two runs of equal expectation has any verdict but "same"
# Lines that no method is in: when one moves, what measures has changed, and every other verdict is in doubt.
MEASURING: Final = ("floor", "truth", "shuffled", "reconstruction")

# Of what there could be more, as `Difference.more` names it.
MORE_TRAININGS: Final = "3 times the training seeds"
MORE_ASSETS: Final = "twice the assets"

Verdict = Literal["worse", "better", "same", "not comparable", "not judged"]
Pairing = Literal["seeds", "none", "assets", ""]


@dataclass(frozen=True)
class Difference:
    """One metric of one line of both runs.

    Attributes:
        run, baseline: Means over seeds. difference: Of the run less the baseline.
        stderr: Of the difference: over seeds, paired when both runs have the same ("seeds") and not when they have
            others ("none"); over assets ("assets") of averages with a single seed. None when unknown.
        assets: How many were paired, 0 unless differences are of single assets.
        tolerance: The difference that does not matter. bound: The difference that chance would not make.
        smallest: The true difference that data like these show in four of five cases.
        more: The part of the standard error that would be left with more seeds or assets, by their name.
        n: Seeds of the run. reason: Why a verdict is not what the numbers say.
    """

    stage: str
    method: str
    variant: str
    sampler: str
    steps: int | None
    metric: str
    unit: str
    higher_is_better: bool
    verdict: Verdict = "not comparable"
    reason: str = ""
    run: float | None = None
    baseline: float | None = None
    difference: float | None = None
    stderr: float | None = None
    tolerance: float | None = None
    bound: float | None = None
    smallest: float | None = None
    more: Mapping[str, float] = field(default_factory=dict)
    pairing: Pairing = ""
    n: int = 0
    assets: int = 0


@dataclass(frozen=True)
class Comparison:
    """All differences, in the order of the baseline's rows.

    Attributes:
        tests: How many were not exactly 0.
        within: Of methods of one run, judged by the report's verdicts; `alpha` is then that of a column.
    """

    differences: tuple[Difference, ...]
    tests: int
    alpha: float = ALPHA
    within: bool = False
    notes: tuple[str, ...] = ()

    def of(self, verdict: Verdict) -> list[Difference]:
        """Those with a verdict."""
        return [one for one in self.differences if one.verdict == verdict]

    @property
    def regression(self) -> bool:
        """Whether a check must fail: which of two methods of one run is better is a question, no check."""
        return bool(self.of("worse")) and not self.within

    @property
    def judged(self) -> bool:
        """Whether anything could be held against the baseline."""
        return any(one.verdict in ("worse", "better", "same") for one in self.differences)

    @property
    def summary(self) -> str:
        """One line."""
        verdicts: tuple[Verdict, ...] = ("worse", "better", "same", "not comparable")
        text = ", ".join(f"{len(self.of(verdict))} {verdict}" for verdict in verdicts)
        shown = len(self.of("not judged"))
        return f"{text} ({shown} of seconds: not judged)" if shown else text
