"""The verb `run`: from options to a plan, from a plan to tables."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..assets.folder import FolderSource
from ..assets.source import Source
from ..assets.toys import ToySource
from ..base.errors import MissingError, RunError, UsageError
from ..trellis.pipeline import read_sampler
from .config import Config, load_config
from .plan import Plan, resolve
from .pool import cores, workers
from .progress import reporter
from .report_command import print_tables
from .run import Outcome, Runner
from .summary import plan_summary
from .world import verify_world, world_digest, world_folder


@dataclass(frozen=True)
class RunOptions:
    """Options of `mdtbench run`, parsed. Empty `steps` = the preset's."""

    preset: str
    methods: tuple[str, ...]
    steps: tuple[int, ...]
    train_seeds: tuple[int, ...]
    assets: Path | None
    limit: int | None
    changes: tuple[str, ...]
    plugins: tuple[Path, ...]
    out: Path | None
    cache: Path
    workers: int
    dry_run: bool


def run_command(options: RunOptions) -> None:
    """Raises the errors of base.errors; prints to standard output only the plan or the tables."""
    for plugin in options.plugins:
        load_plugin(plugin)
    plan = make_plan(options)
    if options.dry_run:
        print_out(plan_summary(plan, options.workers or cores()))
        return
    verify_world(plan.world)
    out = options.out or Path("runs") / f"{Path(options.preset).stem}-{plan.run_id}"
    try:
        with reporter() as report, workers(options.workers or cores(), report) as team:
            outcome = Runner(plan, out, options.cache, team).run()
    except KeyboardInterrupt:
        sys.stderr.write(f"mdtbench: interrupted; the same command goes on from {out}.\n")
        raise
    print_tables(outcome.rows)
    print_out(closing(outcome, out))
    if outcome.failed_students:
        raise RunError(f"{len(outcome.failed_students)} student(s) failed; their cells are marked. Reasons are above.")


def make_plan(options: RunOptions) -> Plan:
    """Check everything that can be checked without computing."""
    config = _with_steps(load_config(options.preset, list(options.changes)), options.steps)
    if not options.train_seeds:
        raise UsageError("--seeds needs at least one training seed, e.g. 0.")
    folder = world_folder(config.world)
    return resolve(
        config,
        options.methods,
        options.train_seeds,
        test_source(config, options.assets),
        options.limit,
        folder,
        world_digest(folder),
        read_sampler(folder),
    )


def test_source(config: Config, assets: Path | None) -> Source:
    if assets is None:
        return ToySource("test", config.data.test, config.data.seed)
    return FolderSource(assets)


def load_plugin(path: Path) -> None:
    """Import a Python file, whose import registers its methods and metrics. Worker processes find it as we do.

    Raises:
        MissingError: there is no such file.
        UsageError: it cannot be imported, or its name is that of another module.
    """
    if path.suffix != ".py" or not path.is_file():
        raise MissingError(f"There is no plug-in file {path}. Give the path of a .py file.")
    sys.path.insert(0, str(path.resolve().parent))
    try:
        module = importlib.import_module(path.stem)
    except (ImportError, SyntaxError) as error:
        raise UsageError(f"The plug-in {path} cannot be imported ({error}). Repair the file.") from error
    if Path(module.__file__ or "").resolve() != path.resolve():
        raise UsageError(f"The plug-in {path} has the name of another module. Rename the file.")


def closing(outcome: Outcome, out: Path) -> str:
    """The last lines of a run: how many assets count, which do not and why, where everything is."""
    lines = [f"{outcome.n_ok}/{outcome.n_total} assets measured (in the cell that lost most)."]
    if outcome.failures:
        lines.append(f"{len(outcome.failures)} asset(s) could not be used:")
        lines += [f"  {asset}: {reason}" for asset, reason in outcome.failures]
    lines += [f"{folder} failed: {reason}" for folder, reason in outcome.failed_students.items()]
    lines.append(f"Rows, picture grid and manifest: {out}")
    return "\n".join(lines) + "\n"


def print_out(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _with_steps(config: Config, steps: Sequence[int]) -> Config:
    if not steps:
        return config
    if min(steps) < 1:
        raise UsageError(f"--steps takes whole numbers from 1 (got {min(steps)}).")
    return config.model_copy(update={"evaluate": config.evaluate.model_copy(update={"steps": tuple(steps)})})
