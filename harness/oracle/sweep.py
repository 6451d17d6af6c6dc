"""Parameters of a method compared on validation noise: `python -m mdtbench.harness.oracle.sweep OUT LABEL KEY=A,B ...`.

    python -m mdtbench.harness.oracle.sweep runs/mdt mdt lr=2e-4,4e-4 lambda_vd=0.1,1 scaling=rms,none

Every combination is trained with the training seeds of preset `modes`. What is there is not trained again, so
that a grid can be widened. OUT/sweep.jsonl has a line per student; a table is printed.
"""

from __future__ import annotations

import itertools
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...base.files import digest_of, read_record, write_text
from ..engine.files import intact, load_tensors
from ..engine.progress import reporter
from ..engine.store import to_stderr
from ..engine.workers import cores, workers
from ..train.loop import student_file
from .config import OracleConfig, load_oracle_config
from .jobs import ScoreJob, TrainJob, pairs_jobs, run_pairs, run_score, run_train
from .plan import VALIDATION, Training, entrant_of, firsts, training_of

PRESET = "modes"
TOGETHER = 4  # students of a job


def sweep(
    label: str, grid: Mapping[str, Sequence[str]], out: Path, changes: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """Train and measure every combination of `grid` with every training seed, at one step.

    Args:
        grid: values by parameter, as `--set methods.NAME.KEY=VALUE` takes them.
        changes: of the preset, likewise.

    Returns:
        A record per student: the parameters, the training seed, and values by metric.
    """
    config = load_oracle_config(PRESET, [*changes, "evaluate.steps=[1]"])
    points = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    found = [(point, _trainings(label, point, config, changes)) for point in points]
    todo = [
        t
        for _, trainings in found
        for t in trainings
        if not intact(student_file(out / t.folder), load_tensors, to_stderr)
    ]
    with reporter() as report, workers(cores(), report) as team:
        sets = dict.fromkeys(t.pairs for t in todo if t.pairs)
        team.map(run_pairs, pairs_jobs(config, list(sets), out, VALIDATION), "pairs", 0)
        team.map(run_train, _jobs(firsts(todo, out), config, out), "distil first", 0)
        jobs = _jobs(todo, config, out)
        failed = {
            folder
            for failures in team.map(run_train, jobs, "distil", sum(t.steps for t in todo))
            for folder in failures
        }
        trained = [(point, t) for point, trainings in found for t in trainings if t.folder not in failed]
        scores = [ScoreJob(config, t.entrant, t, out, _scores(t, config, out), VALIDATION) for _, t in trained]
        team.map(
            run_score, [job for job in scores if not intact(job.path, read_record, report.note)], "measure", len(scores)
        )
    measured = [(point, t, read_record(job.path)["records"]) for (point, t), job in zip(trained, scores, strict=True)]
    return [
        {**point, "seed": t.seed, **{one["metric"]: one["value"] for one in records}} for point, t, records in measured
    ]


def _trainings(label: str, point: Mapping[str, str], config: OracleConfig, changes: Sequence[str]) -> list[Training]:
    name = label.partition(":")[0]
    changed = load_oracle_config(PRESET, [*changes, *(f"methods.{name}.{key}={value}" for key, value in point.items())])
    who = entrant_of(label, changed)
    return [training_of(who, seed, config) for seed in config.oracle.seeds]


def _jobs(todo: Sequence[Training], config: OracleConfig, out: Path) -> list[TrainJob]:
    by_seed = [[t for t in todo if t.seed == seed] for seed in config.oracle.seeds]
    return [
        TrainJob(config, tuple(ours[i : i + TOGETHER]), out) for ours in by_seed for i in range(0, len(ours), TOGETHER)
    ]


def _scores(training: Training, config: OracleConfig, out: Path) -> Path:
    sha = digest_of([training.folder, config.evaluate.model_dump(), VALIDATION])
    return out / f"scores/{Path(training.folder).name}-{sha[:12]}.json"


def table(records: Sequence[Mapping[str, Any]], keys: Sequence[str], metrics: Sequence[str]) -> str:
    """Mean ± sd over training seeds, a line per combination, as Markdown."""
    lines = [f"| {' | '.join([*keys, *metrics])} |", "|" + "---|" * (len(keys) + len(metrics))]
    for point in dict.fromkeys(tuple(record[key] for key in keys) for record in records):
        mine = [record for record in records if tuple(record[key] for key in keys) == point]
        cells = [_spelled([record[metric] for record in mine]) for metric in metrics]
        lines.append(f"| {' | '.join([*point, *cells])} |")
    return "\n".join(lines) + "\n"


def _spelled(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return "failed"
    spread = f" ± {statistics.stdev(known):.3f}" if len(known) > 1 else ""
    return f"{statistics.fmean(known):.3f}{spread}"


def main(words: Sequence[str]) -> None:
    folder, label, *rest = words
    changes = [word.removeprefix("--set=") for word in rest if word.startswith("--set=")]
    grid = {key: values.split(",") for key, values in (w.split("=") for w in rest if not w.startswith("--set="))}
    records = sweep(label, grid, Path(folder), changes)
    write_text(Path(folder) / "sweep.jsonl", "".join(json.dumps(record) + "\n" for record in records))
    metrics = [name for name in records[0] if name not in grid and name != "seed"]
    sys.stdout.write(table(records, list(grid), metrics))


if __name__ == "__main__":
    main(sys.argv[1:])
