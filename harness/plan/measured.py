"""What `mdtbench bench gpu` measured, for the estimates of a dry run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...base.errors import UsageError
from ..protocol.values import Stage

HINT = "Give a file that `mdtbench bench gpu --out FILE` wrote on a GPU."


@dataclass(frozen=True)
class Measured:
    """Seconds per sample on a GPU.

    Attributes:
        name: of the GPU. passes: of a forward pass, by stage. steps: of a training step, by stage and label.
        encoder: of a condition.
    """

    name: str
    passes: Mapping[str, float]
    steps: Mapping[tuple[str, str], float]
    encoder: float = 0.0

    def step(self, stage: Stage, label: str, passes: float) -> float:
        """Of a training step with its condition; a method that was not measured costs what its passes do."""
        known = self.steps.get((stage, label))
        return self.encoder + (passes * self.passes[stage] if known is None else known)


def read_measured(path: Path) -> Measured:
    """Raises UsageError: no such file, or one that lacks what an estimate needs."""
    try:
        lines: Sequence[dict[str, Any]] = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        names = [line["device"] for line in lines if line["check"] == "environment" and "device" in line]
        timed = [line for line in lines if "seconds_per_sample" in line]
        passes = {one["stage"]: one["seconds_per_sample"] for one in timed if one["check"] == "passes"}
        steps: dict[tuple[str, str], float] = {}
        for one in timed:
            if one["check"] in ("structure_steps", "slat_steps"):
                key = one["stage"], one["method"]
                steps[key] = min(one["seconds_per_sample"], steps.get(key, one["seconds_per_sample"]))
        encoders = [one["seconds_per_sample"] for one in timed if one["check"] == "encoder"]
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise UsageError(
            f"estimate.measured: {path} cannot be read ({type(error).__name__}: {error}). {HINT}"
        ) from error
    if not names or not {"structure", "slat"} <= passes.keys():
        raise UsageError(f"estimate.measured: {path} has no seconds of forward passes of both stages. {HINT}")
    return Measured(names[-1], passes, steps, encoders[0] if encoders else 0.0)
