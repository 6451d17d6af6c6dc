"""What the verb `run` does: from options to a plan, from a plan to tables."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from pandas import DataFrame

from ...base.errors import RunError, UsageError
from ...base.limits import Limits, use_limits
from ...base.text import counted
from ...results.frames import rows_frame
from ...results.report import RunResults
from ...trellis.kernels import Kernels, use_kernels
from ..driver.cost import plan_summary
from ..driver.export import FOLDER, Exports, exports_of
from ..driver.needs import check_runnable, needs
from ..driver.planning import RunOptions, make_plan
from ..driver.run import Options, Outcome, check_folder
from ..driver.run import run as run_plan
from ..engine.device import AUTO, CPU, is_cpu
from ..engine.engine import Engine
from ..engine.plugins import load_plugin
from ..engine.progress import reporter
from ..engine.stop import Terminated, terminated
from ..engine.trackers import trackers_of
from ..engine.workers import cores, teams, workers
from ..inputs.world import verify_world
from ..oracle import is_oracle, load_oracle_config, oracle_summary, plan_oracle, run_oracle
from ..settings.kernels import kernels_of
from ..train.loop import Failure
from ..train.ranks import Ranks
from .executors import LOCAL, Where
from .report import print_run
from .status import footer


@dataclass(frozen=True)
class Command:
    """A command line of `mdtbench run`, parsed. options: what decides results; the rest changes none."""

    options: RunOptions
    cache: Path
    plugins: tuple[Path, ...] = ()
    export: tuple[str, ...] = ()
    track: tuple[str, ...] = ()
    out: Path | None = None
    workers: int = 0
    ranks: int = 1
    overwrite: bool = False
    dry_run: bool = False
    where: Where = field(default_factory=Where)


def ran(command: Command) -> Path | None:
    """The folder of the run, None of a dry run; prints to standard output only the plan or the tables.

    Raises the errors of base.errors.
    """
    command.where.check()
    command = replace(command, track=trackers_of(command.track))
    plugins = [load_plugin(plugin) for plugin in command.plugins]
    runner = RUNNERS.get(kind_of(command.options.preset), run_cells)
    return runner(command, plugins)


def kind_of(preset: str) -> str:
    """Which runner a preset is for."""
    return "oracle" if is_oracle(preset) else "cells"


def run_cells(command: Command, plugins: list[str]) -> Path | None:
    """Of presets that name a world: students, cells, rows."""
    plan, exports = make_plan(command.options, command.cache, ready=False), exports_of(command.export)
    if command.export and exports.of_all and not plan.config.slat:
        raise UsageError(
            "--export writes whole assets, and this run makes structures alone. Leave out `--stages structure`, choose "
            "a preset with a table [slat] and a world that has the second stage, or leave out --export."
        )
    for stage in plan.stages if plan.trained else ():
        Ranks(size=command.ranks).share(plan.config.stage(stage).parts)
    findings = needs(plan, command.options.device)
    count = command.workers or cores()
    if command.dry_run:
        text = plan_summary(plan, count, findings)
        if command.out:
            check_folder(plan, command.out, overwrite=command.overwrite)
        print_out(text)
        return None
    check_runnable(findings)
    plan = make_plan(command.options, command.cache)  # again: with all that is there now
    verify_world(plan.world.folder)
    name = (
        f"{Path(command.options.preset).stem}-{plan.run_id}"  # fails, before anything is written, without test assets
    )
    out = command.out or Path("runs") / name
    options = Options(out, command.cache, exports, command.track, command.ranks, command.overwrite)
    prepare = partial(_prepare, kernels_of(plan.config.gpu), plan.config.limits)
    with (
        _resumable(out),
        terminated(),
        reporter() as report,
        teams(command.workers, plan.device, report, plugins, prepare) as (team, networks),
    ):
        gpus = not is_cpu(plan.device)
        elsewhere = command.where.executor(out, gpus=gpus, workers=command.workers)
        engine = Engine(team, networks, elsewhere, out.resolve(), gpus)
        outcome = run_plan(plan, options, engine)
    print_run(outcome.results, [out], closing=_closing(outcome, out, exports if plan.config.slat else Exports()))
    raise_for(outcome.failed_students)
    raise_for_lost(outcome.results.rows)
    return out


def _prepare(kernels: Kernels, allowed: Limits) -> None:
    """In each worker."""
    use_kernels(kernels)
    use_limits(allowed)


def _closing(outcome: Outcome, out: Path, exports: Exports) -> str:
    text = outcome.text(out) + "".join(f"{line}\n" for line in footer(out))
    if exports.told:
        text += f"{exports.told}, and a list of what failed: {out / FOLDER}\n"
    return text


def run_oracle_preset(command: Command, plugins: list[str]) -> Path | None:
    """Of presets of problems with a known law."""
    options = command.options
    refuse(
        {
            "--stages": options.stages,
            "--assets": options.assets,
            "--limit": options.limit,
            "--export": command.export,
            "--ranks": command.ranks > 1,
            f"--executor {command.where.name}": command.where.name != LOCAL,
            f"--device {options.device}": options.device not in (AUTO, CPU),
        },
        f"the problems of preset '{options.preset}'",
    )
    changes = list(options.changes)
    changes += [f"evaluate.steps={list(options.steps)}"] if options.steps else []
    changes += [f"evaluate.samplers={list(options.samplers)}"] if options.samplers else []
    changes += [f"train.budget={options.budget}"] if options.budget else []
    plan = plan_oracle(load_oracle_config(options.preset, changes), options.methods, options.train_seeds)
    plan = replace(plan, preset=options.preset, command=options.command)
    if command.dry_run:
        print_out(oracle_summary(plan, command.workers or cores()))
        return None
    out = command.out or Path("runs") / f"{Path(options.preset).stem}-{plan.run_id}"
    with _resumable(out), reporter() as report, workers(command.workers or cores(), report, plugins) as team:
        outcome = run_oracle(plan, out, team, command.track)
    failed = [f"{folder} failed: {failure.reason}" for folder, failure in outcome.failed_students.items()]
    closing = "\n".join([*failed, f"Rows, figures and manifest: {out}", ""])
    print_run(RunResults(rows_frame(outcome.rows), outcome.students), [out], closing=closing)
    raise_for(outcome.failed_students)
    return out


# The one place that asks what a preset is: problems with a known law have no assets, and a runner of their own.
RUNNERS = {"oracle": run_oracle_preset}


def refuse(given: Mapping[str, object], where: str) -> None:
    """Raises UsageError when an option has a value that has no meaning in `where`."""
    for name, value in given.items():
        if value:
            raise UsageError(f"{name} has no meaning for {where}. Leave it out.")


@contextmanager
def _resumable(out: Path) -> Iterator[None]:
    """Says how to go on after an interruption."""
    try:
        yield
    except KeyboardInterrupt as error:
        why = "stopped by SIGTERM" if isinstance(error, Terminated) else "interrupted"
        sys.stderr.write(f"mdtbench: {why}; the same command continues from {out}.\n")
        raise


def raise_for(failed: Mapping[str, Failure]) -> None:
    """Raises RunError when students failed or were lost, UsageError when all of them by mistakes in a plug-in."""
    if not failed:
        return
    lost = sum(failure.lost for failure in failed.values())
    if all(failure.mistake for failure in failed.values()):
        raise UsageError(
            f"{counted(len(failed), 'student')} failed by the method's code. Correct it; reasons are above."
        )
    again = " The same command tries the lost ones again." if lost else ""
    raise RunError(
        f"{counted(len(failed) - lost, 'student')} failed, {lost} lost; their cells say so. Reasons are above.{again}"
    )


def raise_for_lost(rows: DataFrame) -> None:
    """Raises RunError when cells were lost with the machines that made them."""
    lost = rows.loc[rows["status"] == "lost", "error"]
    if len(lost):
        raise RunError(
            f"{counted(len(lost), 'value')} lost with a machine: {lost.iloc[0]}. The same command tries again."
        )


def print_out(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
