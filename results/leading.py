"""Which metrics a summary leads with: the first of the protocol that tell one student from another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from pandas import DataFrame

from .places import CONTROLS
from .rows import COST_METRICS, EVALUATION

LEADING: Final = 2  # metrics of each level
GENERATE: Final = ("teacher", "none")  # controls that one student alone is compared with
Races = Sequence[Sequence[float]]  # values of those that are compared, by number of steps


def leading(found: Mapping[str, Races]) -> list[str]:
    """The first metrics whose values differ in a race; where those are too few, the first of the others as well.

    Args:
        found: by metric, in the protocol's order.
    Returns:
        At most `LEADING` metrics, in the protocol's order.
    """
    telling = [metric for metric, races in found.items() if any(len(set(values)) > 1 for values in races)]
    chosen = [*telling, *(metric for metric in found if metric not in telling)][:LEADING]
    return [metric for metric in found if metric in chosen]


def leading_metrics(rows: DataFrame) -> list[str]:
    """Of the rows of one level: among its students, or of one student alone beside the teacher.

    Args:
        rows: with the protocol's sampler; students' rows have metrics in the protocol's order.
    """
    quality = rows[~rows["metric"].isin(COST_METRICS)]
    students = quality[~quality["method"].isin(CONTROLS)]
    several = len(students[["method", "variant"]].drop_duplicates()) > 1
    made = students if several or students.empty else quality[~quality["method"].isin({*CONTROLS} - {*GENERATE})]
    compared = made if len(made) else quality
    order = (compared if students.empty else students).drop_duplicates("metric")["metric"]
    by_steps = several and not (rows["stage"] == EVALUATION).any()  # systems race whatever their steps
    block = compared["steps"].fillna(0) if by_steps else 0
    lines = compared.assign(block=block).groupby(["metric", "block", "method", "variant", "steps"], dropna=False)
    means = lines["value"].mean().dropna().reset_index()
    races = {
        metric: [mine["value"].tolist() for _, mine in means[means["metric"] == metric].groupby("block")]
        for metric in order
    }
    return leading(races)
