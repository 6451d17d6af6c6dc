"""Where a run and a baseline cannot be subtracted: a measurement of one alone, a failed one, one of another thing."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from .cells import reason_of
from .compare_pairs import good, values_of
from .differences import Difference, Verdict
from .rows import EVALUATION, Row

SHORT: Final = 12  # digits of a digest in a reason

# What two rows must have in common, as reasons name it.
_COMMON: Final = {
    "split": "split",
    "metric_version": "version of the metric",
    "unit": "unit",
    "higher_is_better": "direction",
    "n_total": "number of assets",
    "reference_sha": "reference",
    "weights_sha": "networks",
}
_COMMON_OF_EVALUATIONS: Final = _COMMON | {"weights_sha": "extractor", "config_sha": "protocol"}


def gap_of(frame: Difference, run: Sequence[Row], baseline: Sequence[Row], *, judged: bool) -> Difference | None:
    """The verdict where there is nothing to subtract; None where there is."""
    verdict, reason = _gap_reason(run, baseline)
    if not reason:
        return None
    values = [list(values_of(rows).values()) for rows in (run, baseline)]
    means = [statistics.fmean(found) if found else None for found in values]
    verdict = verdict if judged else "not judged"
    return replace(frame, verdict=verdict, reason=reason, run=means[0], baseline=means[1], n=len(values[0]))


def _gap_reason(run: Sequence[Row], baseline: Sequence[Row]) -> tuple[Verdict, str]:
    if not baseline:
        return "not comparable", "only in the run"
    if not run:
        return "worse", "missing in the run"
    mismatch = _mismatch(run, baseline)
    if mismatch:
        return "not comparable", mismatch
    missing = [row for row in run if row.value is None]
    if len(missing) * len(baseline) > (len(baseline) - len(good(baseline))) * len(run):
        status = missing[0].status
        count = sum(row.status == status for row in missing)
        return "worse", f"{count} of {len(run)} {status}: {reason_of(status, missing[0].error or '')}"
    if not good(baseline):
        return "not comparable", f"{baseline[0].status} in the baseline"
    return "same", ""


def _mismatch(run: Sequence[Row], baseline: Sequence[Row]) -> str:
    """What the rows do not have in common; empty when they are measurements of the same thing."""
    common = _COMMON_OF_EVALUATIONS if baseline[0].stage == EVALUATION else _COMMON
    for name, title in common.items():
        found = [{getattr(row, name) for row in rows} for rows in (run, baseline)]
        if len(found[0] | found[1]) > 1:
            return f"other {title} ({_spelled(found[0])}, baseline {_spelled(found[1])})"
    return ""


def _spelled(values: set) -> str:
    return " and ".join(sorted(repr(v) if v == "" else str(v)[:SHORT] for v in values))
