"""The chance in a mean over training seeds and over assets, or generation seeds, when both are drawn anew.

    value[i, j] = mean + a[i] + b[j] + e[i, j]        i: training seed, j: asset (or generation seed), all independent

Two-way random effects (Searle, Casella and McCulloch, Variance Components, 1992, section 4.3). With R and C of them the
mean's variance is (MS_rows + MS_columns - MS_error) / (R C): each of the first two has the variance of e in it, so that
it would count twice. Its degrees of freedom are Satterthwaite's: in simulated runs of 2 to 5 training seeds a bound of
5 % is crossed by 2 to 7 % of them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .spread import Variance


def mean_variance(values: NDArray[np.float64]) -> Variance | None:
    """Of the mean of [R, C] values. With one row or column, over the other alone; None of a single value.

    The unbiased estimate can be too small by chance, below what either factor alone says: then it is what the larger
    says, as their sum is no smaller.
    """
    rows, columns = values.shape
    if rows == 1 or columns == 1:
        return Variance(float(values.var(ddof=1)) / values.size, values.size - 1) if values.size > 1 else None
    terms = mean_squares(values)
    total = terms[0].value + terms[1].value - terms[2].value
    larger = max(terms[:2], key=lambda term: term.value)
    if total <= larger.value:
        return Variance(larger.value / values.size, larger.df)
    return Variance(total / values.size, total**2 / sum(term.value**2 / term.df for term in terms))


def mean_squares(values: NDArray[np.float64]) -> tuple[Variance, Variance, Variance]:
    """Of the rows, the columns and the rest of [R, C] values, both at least 2."""
    rows, columns = values.shape
    of_rows, of_columns = values.mean(1), values.mean(0)
    rest = values - of_rows[:, None] - of_columns + values.mean()
    error_df = (rows - 1) * (columns - 1)
    return (
        Variance(columns * float(of_rows.var(ddof=1)), rows - 1),
        Variance(rows * float(of_columns.var(ddof=1)), columns - 1),
        Variance(float(np.square(rest).sum()) / error_df, error_df),
    )
