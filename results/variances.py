"""What makes up the chance in a difference of two methods, and what a run of another size could show.

The model is that of `crossed`: d[i, j] = mean + a[i] + b[j] + e[i, j] for training seed i and asset (or generation
seed) j. Its three variances are told apart by their mean squares (Searle, Casella and McCulloch, Variance Components,
1992, section 4.3), and from them follows how far chance moves the mean with other numbers of each.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from .crossed import mean_squares
from .spread import Variance, bound, shown_from


@dataclass(frozen=True)
class Components:
    """Variances of single differences of two methods, in squares of the metric's unit.

    Attributes:
        training: between training seeds; None where there was only one. unit: between assets, or generation seeds.
        rest: what is left; with one training seed or one unit it cannot be told apart and is in the other.
    """

    training: float | None
    unit: float
    rest: float

    def of_mean(self, trainings: int, units: int) -> float:
        """The variance of the mean over so many of each, both drawn anew."""
        return (self.training or 0.0) / trainings + self.unit / units + self.rest / (trainings * units)

    def with_assets(self, times: float) -> Components:
        """Where units are generation seeds: with so many times the assets, whose noise averages out."""
        return replace(self, unit=self.unit / times, rest=self.rest / times)

    def smallest(self, trainings: int, units: int, methods: int, alpha: float) -> float | None:
        """The difference that verdicts among so many methods find with probability `spread.POWER`.

        With one training seed as if its chance were known, though that run could not see it. None of a single value.
        """
        df = self._df(trainings, units)
        if not df:
            return None
        chance = Variance(self.of_mean(trainings, units), df * (methods - 1))
        return shown_from(chance, bound(chance, tail_of(methods, alpha)))

    def _df(self, trainings: int, units: int) -> float:
        """Of that variance as a run estimates it, see `crossed.mean_variance`."""
        if trainings == 1 or units == 1:
            return max(trainings, units) - 1.0
        of_trainings, of_units = units * (self.training or 0.0) + self.rest, trainings * self.unit + self.rest
        known = (of_trainings, trainings - 1), (of_units, units - 1), (self.rest, (trainings - 1) * (units - 1))
        weight = sum(square**2 / df for square, df in known)
        total = of_trainings + of_units - self.rest
        # Where the sum is estimated to be no more than its larger part, a run takes that part.
        return max(total**2 / weight if weight else 0.0, float(min(trainings, units) - 1))


def tail_of(methods: int, alpha: float) -> float:
    """Of a test on either side, when the best of so many methods, itself best by chance, is held against all others."""
    return alpha / (methods * (methods - 1))


def components(tables: Sequence[NDArray[np.float64]]) -> Components | None:
    """Of differences [training seeds, units] of pairs of methods: from the means of their mean squares over pairs.

    An estimate below 0 is 0. None where no pair has two values.
    """
    known = [one for one in tables if one.size > 1]
    crossed = [one for one in known if min(one.shape) > 1]
    if crossed:
        squares = [[term.value for term in mean_squares(one)] for one in crossed]
        of_trainings, of_units, rest = (statistics.fmean(column) for column in zip(*squares, strict=True))
        trainings, units = (statistics.fmean(one.shape[axis] for one in crossed) for axis in (0, 1))
        return Components(max((of_trainings - rest) / units, 0.0), max((of_units - rest) / trainings, 0.0), rest)
    if not known:
        return None
    of_one = statistics.fmean(float(one.var(ddof=1)) for one in known)
    return Components(None, of_one, 0.0) if known[0].shape[0] == 1 else Components(of_one, 0.0, 0.0)


def part_left(now: float, then: float) -> float:
    """Of a standard error, when its square was `now` and is `then`."""
    return math.sqrt(then / now) if now else 1.0
