"""The students of a run, trained by several processes: started by torchrun, found by `mdtbench run` afterwards.

    torchrun --nproc-per-node 2 -m mdtbench.harness.train_ranks --methods vm,mdt --out runs/two
    mdtbench run --methods vm,mdt --out runs/two

Every process computes its part of each batch, on a GPU of its own where there are GPUs; all students of a training
seed train in lockstep. Their folders are those of `mdtbench run` with the same preset, methods, seeds, device and
--set, which therefore measures and does not train.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, TypeVar, cast

import torch
import typer

from ..base.errors import MdtbenchError, RunError, UsageError
from .cli import ALL_METHODS, CACHE, Changes, DeviceOption, PresetOption, _numbers, _words
from .commands import RunOptions, load_plugin, make_plan
from .device import rank_device, settle
from .distributed import Ranks, together
from .plan import Plan
from .pool import Workers, teams
from .progress import reporter
from .workshop import Workshop
from .world import verify_world

Item = TypeVar("Item")
Result = TypeVar("Result")
app = typer.Typer(pretty_exceptions_enable=False)


class InProcess:
    """In place of worker processes, where torchrun has started the processes: everything happens in this one."""

    count = 1

    def map(self, function: Callable[[Item], Result], items: Sequence[Item], label: str, total: int) -> list[Result]:
        return [function(item) for item in items]


@app.command()
def train_ranks(
    out: Annotated[Path, typer.Option(help="Folder of the run.")],
    preset: PresetOption = "tiny",
    methods: Annotated[str, typer.Option(help="Comma-separated methods, with variants as name:variant.")] = ALL_METHODS,
    seeds: Annotated[str, typer.Option(help="Training seeds, e.g. 0,1,2.")] = "0",
    changes: Changes = None,
    device: DeviceOption = "auto",
    plugin: Annotated[list[Path] | None, typer.Option(help="Python file that registers a method or network.")] = None,
    cache: Annotated[Path, typer.Option(help="Folder for prepared assets, shared by runs.")] = CACHE,
) -> None:
    """Train the students of `mdtbench run` with the processes that torchrun starts. Run again to resume."""
    plugins = [load_plugin(path) for path in plugin or ()]
    plan = make_plan(
        RunOptions(
            preset=preset,
            methods=_words(methods),
            steps=(),
            stages="structure",
            samplers=(),
            budget="",
            train_seeds=_numbers("--seeds", seeds),
            assets=None,
            limit=None,
            changes=tuple(changes or ()),
            plugins=(),
            export=(),
            out=out,
            cache=cache.expanduser(),
            workers=0,
            dry_run=False,
            device=device,
        )
    )
    _check(plan)
    verify_world(plan.world)
    torch.set_num_threads(1)  # as the workers of `mdtbench run`
    plan = replace(plan, device=rank_device(plan.device))
    settle(plan.device)
    with together(plan.device) as ranks:
        failures = train(plan, out, cache.expanduser(), ranks, plugins)
    for folder, reason in failures.items() if ranks.first else ():
        typer.echo(f"{folder} failed: {reason}", err=True)
    if failures:
        raise RunError(f"{len(failures)} student(s) failed. Reasons are above.")


def train(plan: Plan, out: Path, cache: Path, ranks: Ranks, plugins: Sequence[str] = ()) -> dict[str, str]:
    """Train what is not trained yet. Returns reasons of failures by student folder.

    Args:
        plugins: modules for the processes that prepare, as in `pool.Workers`.
    """

    def shop(team: Workers, networks: Workers) -> Workshop:
        return Workshop(plan.config, plan.world, plan.networks_sha, out, cache, team, plan.device, networks)

    if ranks.first:
        with reporter() as report, teams(0, plan.device, report, plugins) as processes:
            shop(*processes).training_set()
    ranks.wait()  # from here on everybody finds what the first one prepared
    alone = cast(Workers, InProcess())
    return shop(alone, alone).train(plan.trainings, "distil")


def _check(plan: Plan) -> None:
    if plan.grid or plan.config.train.budget == "seconds":
        raise UsageError(
            "sweep.lr and train.budget=seconds depend on measurements that only `mdtbench run` makes. "
            "Set train.lr or methods.NAME.lr and another budget."
        )


if __name__ == "__main__":
    try:
        app()
    except MdtbenchError as error:
        typer.echo(f"mdtbench: {error}", err=True)
        sys.exit(error.exit_code)
