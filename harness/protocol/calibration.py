"""Whether this installation reproduces the published teacher, decided from numbers alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ...base.text import counted
from .values import CalibrationRule

Verdict = Literal["calibrated", "uncalibrated", "not measured", "not judged"]

LABELS = {"fd_incep": "FD_incep", "fd_dinov2": "FD_dinov2", "ulip_i": "ULIP_I"}
ALONE = "compare only within this run"
SLACK = 1e-9  # relative, so that a value exactly at the edge is inside whatever its rounding


@dataclass(frozen=True)
class Teacher:
    """The row of the undistilled teacher; None for a number that was not measured.

    Attributes:
        n: assets scored, failed ones included.
        random_weights: whether any network, teacher or extractor, had random weights.
        smoke: whether the run was marked as a smoke test.
    """

    steps: int
    n: int
    fd_incep: float | None
    fd_dinov2: float | None
    ulip_i: float | None
    random_weights: bool = False
    smoke: bool = False


@dataclass(frozen=True)
class Check:
    """One number beside the published one. difference: relative for an FD, absolute for ULIP_I."""

    name: str
    found: float
    target: float
    difference: float
    allowed: float
    inside: bool

    def __str__(self) -> str:
        relative = self.name != "ulip_i"
        shown = f"{self.difference:+.1%}" if relative else f"{self.difference:+.2f}"
        allowed = f"{self.allowed:.0%}" if relative else f"{self.allowed:g}"
        return f"{LABELS[self.name]} {self.found:.2f}, published {self.target:.2f}: {shown} of +-{allowed}"


@dataclass(frozen=True)
class Calibration:
    """The verdict and why. checks is empty unless the teacher was judged."""

    verdict: Verdict
    reason: str
    checks: tuple[Check, ...] = ()

    @property
    def line(self) -> str:
        """What is printed beside results."""
        head = self.verdict if self.verdict == "calibrated" else f"{self.verdict}: {ALONE}"
        return f"{head} ({self.reason})"


def calibrate(rule: CalibrationRule, teacher: Teacher | None) -> Calibration:
    """Compare the teacher's numbers with MDT-dist's own row of the teacher.

    Calibrated when both FDs lie within `fd_relative` and ULIP_I within `ulip_absolute` of the target. There is no
    verdict without a teacher, with random weights, in a smoke test, at other steps or for another number of assets:
    the bias of an FD depends on it.
    """
    if teacher is None:
        return Calibration("not measured", "no row of the teacher")
    if refusal := _refusal(rule, teacher):
        return Calibration("not judged", refusal)
    found = {name: getattr(teacher, name) for name in LABELS}
    if missing := [LABELS[name] for name, value in found.items() if value is None]:
        return Calibration("not measured", f"the teacher has no {', '.join(missing)}")
    checks = tuple(_check(rule, name, value) for name, value in found.items())
    verdict = "calibrated" if all(check.inside for check in checks) else "uncalibrated"
    return Calibration(verdict, "; ".join(map(str, checks)), checks)


def _refusal(rule: CalibrationRule, teacher: Teacher) -> str:
    """Why a row cannot be judged; empty when it can."""
    if teacher.random_weights:
        return "random weights"
    if teacher.smoke:
        return "a smoke test"
    if teacher.steps != rule.steps:
        return f"the teacher has {counted(teacher.steps, 'step')}, the published one {rule.steps}"
    if abs(teacher.n - rule.n) > rule.n_relative * rule.n:
        return f"{counted(teacher.n, 'asset')}, the published row has {rule.n:,}"
    return ""


def _check(rule: CalibrationRule, name: str, found: float) -> Check:
    target = getattr(rule.target, name)
    relative = name != "ulip_i"
    difference = (found - target) / target if relative else found - target
    allowed = rule.fd_relative if relative else rule.ulip_absolute
    return Check(name, found, target, difference, allowed, abs(difference) <= allowed + SLACK)
