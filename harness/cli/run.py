"""The verb `run`: its options. What it does is in `running`, which takes seconds to import."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import completion
from .options import CACHE, Changes, DeviceOption, PresetOption, TrackOption, Workers, numbers, words


def run_command(
    context: typer.Context,
    preset: PresetOption = "tiny",
    methods: Annotated[
        str,
        typer.Option(
            help="Comma-separated methods, with variants as name:variant; the preset's by default. The teacher and its "
            "undistilled lines (none, none:cfg) are always there.",
            autocompletion=completion.methods,
        ),
    ] = "",
    steps: Annotated[
        str,
        typer.Option(
            help="Sampler steps to evaluate, e.g. 1,2; the preset's by default. Lines that a preset lists keep theirs."
        ),
    ] = "",
    stages: Annotated[
        str,
        typer.Option(
            help="both, or structure (no second stage). By default both, where the preset has a second stage.",
            autocompletion=completion.one_of(completion.STAGES),
        ),
    ] = "",
    samplers: Annotated[
        str,
        typer.Option(
            help="Report students with these samplers too, beside the protocol's, e.g. euler,renoise.",
            autocompletion=completion.some_of(completion.SAMPLERS),
        ),
    ] = "",
    budget: Annotated[
        str,
        typer.Option(
            help="What all methods get the same amount of: steps, forwards or seconds; the preset's by default.",
            autocompletion=completion.one_of(completion.BUDGETS),
        ),
    ] = "",
    seeds: Annotated[str, typer.Option(help="Training seeds, e.g. 0,1,2; 0 by default.")] = "",
    assets: Annotated[
        str,
        typer.Option(
            help="Folder of meshes, toys4k:FOLDER, or NAME:TEXT of a plug-in, to evaluate on; the preset's by default."
        ),
    ] = "",
    limit: Annotated[int | None, typer.Option(help="Use only the first N test assets.", min=2)] = None,
    changes: Changes = None,
    plugin: Annotated[
        list[Path] | None,
        typer.Option(help="Python file that registers a method, metric, source or network of your own."),
    ] = None,
    export: Annotated[
        str,
        typer.Option(
            help="Files of whole assets of the first training and generation seed, in "
            "OUT/export/<method>-<steps>x2/: glb (coloured mesh), ply (3D Gaussians), png (picture), or none. By "
            "default png of all and glb of the first 4.",
            autocompletion=completion.some_of(completion.EXPORTS),
        ),
    ] = "",
    track: TrackOption = "",
    out: Annotated[Path | None, typer.Option(help="Folder of the run; runs/<preset>-<key> by default.")] = None,
    cache: Annotated[Path, typer.Option(help="Folder for prepared assets, shared by runs.")] = CACHE,
    workers: Workers = 0,
    ranks: Annotated[
        int,
        typer.Option(
            help="Processes that share every training batch, each with its own GPU. train.parts must be their number "
            "times a power of two. Changes no result.",
            min=1,
        ),
    ] = 1,
    device: DeviceOption = "auto",
    executor: Annotated[
        str,
        typer.Option(
            help="Where jobs are done: local (this machine), ray or slurm; see docs/clusters.md. Changes no result.",
            autocompletion=completion.one_of(completion.EXECUTORS),
        ),
    ] = "local",
    address: Annotated[
        str, typer.Option(help="Of --executor ray: auto or HOST:PORT of a cluster; without it one is started here.")
    ] = "",
    slurm: Annotated[
        str,
        typer.Option(
            metavar="KEY=VALUE,...",
            help="Of --executor slurm: options of sbatch, e.g. partition=gpu,time=24:00:00. --workers: Slurm jobs at "
            "a time, 8 by default.",
        ),
    ] = "",
    sbatch: Annotated[
        Path | None,
        typer.Option(help="Of --executor slurm: a script whose #SBATCH lines and commands each Slurm job begins with."),
    ] = None,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite",
            help="Replace the tables of a finished run of another configuration in --out. What both have in common is "
            "kept, so this is how to add methods to a run.",
        ),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="Print plan and cost, compute nothing.")] = False,
) -> Path | None:
    """Distil with every method, measure all students, print the tables. Run again to resume.

    Examples:

      mdtbench run

      mdtbench run --preset smoke --methods vm,mdt

      mdtbench run --methods cm,vm --set sweep.lr=[1e-4,3e-4,1e-3] --budget forwards

      mdtbench run --assets my_meshes --methods cm,pcm,scm,vm,mdt --out r1

      mdtbench run --stages structure

      mdtbench run --export glb,ply,png

      mdtbench run --preset modes

      mdtbench run --preset oracle
    """
    from .executors import Where
    from .running import Command, RunOptions, ran

    return ran(
        Command(
            RunOptions(
                preset=preset,
                methods=words(methods),
                steps=numbers("--steps", steps),
                stages=stages,
                samplers=words(samplers),
                budget=budget,
                train_seeds=numbers("--seeds", seeds),
                assets=assets,
                limit=limit,
                changes=tuple(changes or ()),
                device=device,
                command=context.obj,
            ),
            cache=cache.expanduser(),
            plugins=tuple(plugin or ()),
            export=words(export),
            track=words(track),
            out=out,
            workers=workers,
            ranks=ranks,
            overwrite=overwrite,
            dry_run=dry_run,
            where=Where(executor, address, words(slurm), sbatch),
        )
    )
