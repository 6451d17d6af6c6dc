"""What the verb `evaluate` does: from options to an evaluation, from that to its table."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ...base.errors import UsageError, unknown_name
from ...base.limits import Limits, use_limits
from ..driver.evaluate import evaluate
from ..driver.evaluation import EvaluateOptions, resolve
from ..driver.evaluation_cost import dry_run_text, estimated
from ..driver.run import Outcome, listed
from ..engine.device import device_of, is_cpu
from ..engine.engine import Engine
from ..engine.plugins import load_plugin
from ..engine.progress import reporter
from ..engine.trackers import trackers_of
from ..engine.workers import cores, teams
from ..settings.config import ProtocolSection, apply_change
from .report import print_run


class Settings(BaseModel):
    """The keys of --set.

    Attributes:
        extractors: official: published weights; random: the same networks with seeded noise, to try everything out.
        seed: of that noise. run_seed: of the protocol, for the points on surfaces.
        columns: extractors whose distances are wanted as well. limits: of what files may ask of the machine.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    extractors: Literal["official", "random"] = "official"
    seed: int = Field(default=0, ge=0)
    run_seed: int = Field(default=0, ge=0)
    limits: Limits = Limits()
    columns: tuple[Literal["fd_incep_clean", "fd_dinov2_reg518"], ...] = ()


def read_settings(changes: Sequence[str]) -> Settings:
    """Raises UsageError for an unknown key or a value that it cannot have."""
    values: dict[str, Any] = {}
    for change in changes:
        apply_change(values, change)
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        if first["type"] == "extra_forbidden":
            raise unknown_name("key", key, Settings.model_fields, "Of --set.") from error
        raise UsageError(f"--set {key}: {first['msg']} (got {first['input']!r}). Correct the value.") from error


@dataclass(frozen=True)
class Invocation:
    """How an evaluation is asked for. changes: of --set. The rest after `plugins` changes no result."""

    protocol: str
    changes: tuple[str, ...] = ()
    plugins: tuple[Path, ...] = ()
    out: Path | None = None
    workers: int = 0
    track: tuple[str, ...] = ()
    dry_run: bool = False


def evaluated(options: EvaluateOptions, how: Invocation) -> Path | None:
    """The folder of the rows, None of a dry run; prints the table and where everything is.

    Raises the errors of base.errors.
    """
    track = trackers_of(how.track)
    modules = [load_plugin(plugin) for plugin in how.plugins]
    settings = read_settings(how.changes)
    use_limits(settings.limits)
    section = ProtocolSection(name=how.protocol, extractors=settings.extractors, seed=settings.seed, columns="all")
    chosen = {"section": section, "columns": settings.columns, "run_seed": settings.run_seed}
    count = how.workers or cores()
    threads = max(1, cores() // count)  # one Blender per worker
    found = resolve(replace(options, **chosen, threads=threads, device=device_of(options.device)))
    out = how.out or Path("runs") / f"evaluate-{options.name.replace(' ', '_')}-{found.key[:8]}"
    networks = count if is_cpu(found.options.device) else how.workers or 1
    estimate = estimated(found, count, networks)
    if how.dry_run:
        sys.stdout.write(dry_run_text(found, estimate, str(out)))
        return None
    try:
        prepare = partial(use_limits, settings.limits)
        with (
            reporter() as report,
            teams(how.workers, found.options.device, report, modules, prepare) as (team, others),
        ):
            report.note(f"{options.name}: {estimate.line}")
            outcome = evaluate(found, out, Engine(team, others), track)
    except KeyboardInterrupt:
        sys.stderr.write("mdtbench: interrupted; the same command continues with what is in the cache.\n")
        raise
    print_run(outcome.results, [out], closing=closing(outcome, out))
    return out


def closing(outcome: Outcome, out: Path) -> str:
    """The last lines: which assets failed and why, where everything is."""
    dropped = [f"{name} (mesh): {why}" for name, why in outcome.failures]
    failed = [f"{name} ({kind}): {why}" for kind, name, why in outcome.asset_failures]
    lines = listed("asset", "of the reference cannot be used", dropped)
    lines += listed("failure", "counted as black pictures in distances and 0 in ULIP_I and CLIP_score", failed)
    return "\n".join([*lines, f"Rows, failures and manifest: {out}"]) + "\n"
