"""The verb `run`: from options to a plan, from a plan to tables."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..assets.blend import find_blender
from ..assets.folder import FolderSource
from ..assets.source import SOURCES, Source
from ..assets.toys import ToySource
from ..base.errors import MissingError, RunError, UsageError, unknown_name
from ..results.report import RunResults, read_run
from ..trellis.pipeline import SLAT_SAMPLER, has_slat, read_sampler
from .config import Config, load_config
from .device import AUTO, CPU, device_of
from .doctor import findings_text
from .evaluate.toys4k import PREFIX as TOYS4K
from .evaluate.toys4k import folder_of, meshes_of
from .export import FOLDER, formats_of
from .oracle import is_oracle, load_oracle_config, oracle_summary, plan_oracle, run_oracle
from .paper import check_runnable, has_protocol, load_tables, needs, plan_tables, tables_summary
from .plan import Plan, resolve
from .pool import cores, teams, workers
from .progress import reporter
from .report_command import print_tables
from .run import Outcome, Runner
from .summary import plan_summary
from .world import verify_world, world_digest, world_folder


@dataclass(frozen=True)
class RunOptions:
    """Options of `mdtbench run`, parsed. Empty ones stand for the preset's, or for the usual ones."""

    preset: str
    methods: tuple[str, ...]
    steps: tuple[int, ...]
    stages: str
    samplers: tuple[str, ...]
    budget: str
    train_seeds: tuple[int, ...]
    assets: Path | None
    limit: int | None
    changes: tuple[str, ...]
    plugins: tuple[Path, ...]
    export: tuple[str, ...]
    out: Path | None
    cache: Path
    workers: int
    dry_run: bool
    device: str = AUTO


STAGES = ("structure", "both")
METHODS_OF_THE_PAPER = ("cm", "pcm", "scm", "vm", "mdt")


def run_command(options: RunOptions) -> None:
    """Raises the errors of base.errors; prints to standard output only the plan or the tables."""
    plugins = [load_plugin(plugin) for plugin in options.plugins]
    if is_oracle(options.preset):
        return _run_oracle(options)
    if has_protocol(options.preset):
        return _run_tables(options)
    plan, formats = make_plan(options), formats_of(options.export)
    if formats and not plan.second:
        raise UsageError(
            "--export writes whole assets, and this run makes structures alone. Leave out `--stages structure`, choose "
            "a preset with a table [slat] and a world that has the second stage, or leave out --export."
        )
    if options.dry_run:
        print_out(plan_summary(plan, options.workers or cores()))
        return
    verify_world(plan.world)
    out = options.out or Path("runs") / f"{Path(options.preset).stem}-{plan.run_id}"
    with (
        _resumable(out),
        reporter() as report,
        teams(options.workers, plan.device, report, plugins) as (team, networks),
    ):
        outcome = Runner(plan, out, options.cache, team, formats, networks).run()
    print_tables(outcome.results)
    print_out(closing(outcome, out))
    if formats:
        print_out(f"Assets as {' and '.join(formats)}, and a list of those that failed: {out / FOLDER}\n")
    _raise_for(outcome.failed_students)


def _run_oracle(options: RunOptions) -> None:
    without = {
        "--stages": options.stages,
        "--assets": options.assets,
        "--limit": options.limit,
        "--budget": options.budget,
        "--export": options.export,
        f"--device {options.device}": options.device not in (AUTO, CPU),
    }
    _refuse(without, f"the exact problems of preset '{options.preset}'")
    plan = plan_oracle(
        load_oracle_config(options.preset, [*options.changes, *_flags(options)]), options.methods, options.train_seeds
    )
    if options.dry_run:
        print_out(oracle_summary(plan, options.workers or cores()))
        return
    out = options.out or Path("runs") / f"{Path(options.preset).stem}-{plan.run_id}"
    with _resumable(out), reporter() as report, workers(options.workers or cores(), report) as team:
        outcome = run_oracle(plan, out, team)
    print_tables(RunResults(outcome.rows))
    print_out("".join(f"{folder} failed: {reason}\n" for folder, reason in outcome.failed_students.items()))
    print_out(f"Rows, figures and manifest: {out}\n")
    _raise_for(outcome.failed_students)


def _run_tables(options: RunOptions) -> None:
    """Print the plan; or, without --dry-run, make the tables, unless something is missing."""
    without = {
        "--stages": options.stages,
        "--assets": options.assets,
        "--steps": options.steps,
        "--samplers": options.samplers,
        "--budget": options.budget,
        "--export": options.export,
    }
    _refuse(without, f"the tables of preset '{options.preset}', whose rows say it")
    config = load_tables(options.preset, options.changes)
    plan = plan_tables(config, options.methods, options.train_seeds, options.limit)
    findings = needs(config, plan, options.device)
    if options.dry_run:
        return print_out(tables_summary(plan, findings))
    print_out(findings_text({f"What preset '{options.preset}' needs": findings}))
    check_runnable(findings)
    from .paper.run import run_id, run_tables  # with the official networks, which other runs do without

    device, count = device_of(options.device), options.workers or cores()
    out = options.out or Path("runs") / f"{Path(options.preset).stem}-{run_id(plan)}"
    with _resumable(out), reporter() as report:
        outcome = run_tables(plan, out, options.cache, device, count, report)
    print_tables(read_run(out))
    print_out(outcome.text(out))
    if outcome.failed:
        raise RunError(f"{len(outcome.failed)} cell(s) could not be measured; they are marked. Reasons are above.")


def _refuse(given: Mapping[str, object], where: str) -> None:
    """Raises UsageError when an option has a value that has no meaning in `where`."""
    for name, value in given.items():
        if value:
            raise UsageError(f"{name} has no meaning for {where}. Leave it out.")


@contextmanager
def _resumable(out: Path) -> Iterator[None]:
    """Says how to go on after an interruption."""
    try:
        yield
    except KeyboardInterrupt:
        sys.stderr.write(f"mdtbench: interrupted; the same command goes on from {out}.\n")
        raise


def _raise_for(failed_students: Mapping[str, str]) -> None:
    if failed_students:
        raise RunError(f"{len(failed_students)} student(s) failed; their cells are marked. Reasons are above.")


def make_plan(options: RunOptions) -> Plan:
    """Check everything that can be checked without computing."""
    config = _staged(load_config(options.preset, [*options.changes, *_flags(options)]), options.stages)
    folder = world_folder(config.world)
    return resolve(
        config,
        options.methods or METHODS_OF_THE_PAPER,
        options.train_seeds or (0,),
        test_source(config, options.assets, options.cache),
        options.limit,
        folder,
        world_digest(folder),
        read_sampler(folder),
        read_sampler(folder, SLAT_SAMPLER) if config.slat and has_slat(folder) else None,
        device_of(options.device),
    )


def _staged(config: Config, stages: str) -> Config:
    """The configuration for the stages asked for; "" stands for what the preset has."""
    if stages and stages not in STAGES:
        raise unknown_name("value of --stages", stages, STAGES)
    if stages == "both" and config.slat is None:
        raise UsageError("--stages both needs a preset with a table [slat], which this one has not. Add one.")
    return config.first_stage if stages == "structure" else config


def test_source(config: Config, assets: Path | None, cache: Path) -> Source:
    """Toys; a folder of meshes; toys4k:FOLDER, which Blender converts into the cache; or NAME:TEXT of a plug-in."""
    if assets is None:
        return ToySource("test", config.data.test, config.data.seed)
    toys4k = folder_of(assets)
    if toys4k is not None:
        return meshes_of(toys4k, find_blender(), cache.expanduser())
    return _named_source(str(assets)) if ":" in str(assets) and not assets.exists() else FolderSource(assets)


def _named_source(argument: str) -> Source:
    name, _, text = argument.partition(":")
    if name not in SOURCES.names():
        hint = "A folder is given by its path, which must exist; a source of your own needs --plugin FILE."
        raise unknown_name("source", name, [*SOURCES.names(), TOYS4K.removesuffix(":")], hint)
    return SOURCES.get(name).value(text)


def load_plugin(path: Path) -> str:
    """Import a Python file, whose import registers what is in it. Worker processes find the module by its name.

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
    return path.stem


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


def _flags(options: RunOptions) -> list[str]:
    """The options that stand for keys, as changes that come last."""
    if options.steps and min(options.steps) < 1:
        raise UsageError(f"--steps takes whole numbers from 1 (got {min(options.steps)}).")
    steps = [f"evaluate.steps={list(options.steps)}"] if options.steps else []
    samplers = [f"evaluate.samplers={list(options.samplers)}"] if options.samplers else []
    return steps + samplers + ([f"train.budget={options.budget}"] if options.budget else [])
