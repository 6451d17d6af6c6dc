"""The rows of a run on problems with a known law."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from ...base.files import read_record
from ...results.rows import Row
from ..engine.provenance import device_name, git_state
from ..settings.methods import Entrant
from ..train.loop import Failure
from .exam import metrics_of, samplers
from .family import Exam
from .plan import TEST, OraclePlan, Training, strengths_of


def rows_of(plan: OraclePlan, paper: Exam, out: Path, failed: Mapping[str, Failure]) -> Iterator[Row]:
    """Of every student and teacher of the plan, and of exact data. failed: students, by folder."""
    common = _common(plan)
    for who, training in plan.sources():
        if training and training.folder in failed:
            records = _failed(plan, paper, who, failed[training.folder])
        else:
            records = iter(read_record(out / plan.scores_file(who, training))["records"])
        for record in records:
            if who.label != "none:cfg" or paper.family.strength(record["problem"]):  # without guidance: `none` again
                yield _row(plan, paper, who, training, record, common)
    for name, values in zip(paper.family.names, paper.family.floor(paper.classes), strict=True):
        for metric, value in values.items():
            measured = _of_problem(paper, name) | _of_metric(paper, metric) | {"n_ok": common["n_total"]}
            yield Row(**common, **measured, status="ok", method="floor", method_version=1, value=value)


def _row(
    plan: OraclePlan,
    paper: Exam,
    who: Entrant,
    training: Training | None,
    record: dict[str, Any],
    common: dict[str, Any],
) -> Row:
    scored = {key: value for key, value in record.items() if key not in ("problem", "metric")}
    scored.setdefault("status", "failed" if "error" in record else "ok")
    scored.setdefault("n_ok", 0 if "error" in record else common["n_total"])
    scored["note"] = " ".join(part for part in (record["note"], _note(who)) if part)
    place = _of_problem(paper, record["problem"]) | _of_metric(paper, record["metric"]) | _of_entrant(who, training)
    return Row(**common, **place, **scored)


def _failed(plan: OraclePlan, paper: Exam, who: Entrant, failure: Failure) -> Iterator[dict[str, Any]]:
    """Records, as those of `answer`, of a student that is not there."""
    status = "lost" if failure.lost else "failed"
    for name in paper.family.names:
        for steps in plan.config.evaluate.steps:
            for sampler, own in samplers(who.method, steps, plan.config.evaluate.samplers):
                place = {"steps": steps, "sampler": sampler.name, "own_sampler": own, "extra_sampler": not own}
                for metric in metrics_of(paper, sampler):
                    error = {"status": status, "error": failure.reason, "n_ok": 0, "note": ""}
                    yield {"problem": name, "metric": metric} | place | error


def _of_problem(paper: Exam, name: str) -> dict[str, Any]:
    return {"stage": f"oracle/{name}", "cfg_strength": paper.family.strength(name)}


def _of_metric(paper: Exam, name: str) -> dict[str, Any]:
    measure = paper.family.measures[name]
    return {"metric": name, "higher_is_better": measure.higher_is_better, "unit": measure.unit}


def _of_entrant(who: Entrant, training: Training | None) -> dict[str, Any]:
    return {
        "method": who.name,
        "variant": who.variant,
        "method_version": who.version,
        "train_seed": training.seed if training else None,
        "seed": 0,  # of the noise, which is the same for all
    }


def _note(who: Entrant) -> str:
    if not strengths_of(who.label):
        return ""
    return "with the problem's guidance strength and the preset's learning rate instead of its own."


def _common(plan: OraclePlan) -> dict[str, Any]:
    commit, dirty = git_state()
    return {
        "run_id": plan.run_id,
        "split": TEST,
        "metric_version": 1,
        "n_total": plan.config.evaluate.samples,
        "config_sha": plan.key,
        "git_commit": commit,
        "git_dirty": dirty,
        "torch": torch.__version__,
        "device": device_name(),
        "created_utc": datetime.now(UTC).isoformat(timespec="seconds"),
    }
