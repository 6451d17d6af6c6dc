"""The command line. Nothing heavy is imported before a verb needs it: `--help` answers at once."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from ...base.errors import MdtbenchError, UsageError, unknown_name
from . import completion
from .cache import CACHE, cache_app

ALL_METHODS = "cm,pcm,scm,vm,mdt"
FORMATS = completion.one_of(("text", "json"))

app = typer.Typer(
    name="mdtbench",
    help="Distil a 3D flow model with every method, measure all students under one protocol, print the tables.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.add_typer(cache_app)

PresetOption = Annotated[
    str,
    typer.Option(
        "--preset",
        help="Shipped preset (smoke, tiny, modes, oracle, paper) or a .toml file.",
        autocompletion=completion.presets,
    ),
]
Changes = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change a key of the preset: train.steps=100, protocol=trellis-v1. May be given several times.",
    ),
]
Workers = Annotated[int, typer.Option(help="Processes; 0 = one per core. Changes no result.", min=0)]
TrackOption = Annotated[
    str,
    typer.Option(
        "--track",
        help="Also write settings, training curves, values and pictures to tensorboard, wandb, mlflow, or several of "
        "them with commas. Changes no result.",
        autocompletion=completion.some_of(completion.TRACKERS),
    ),
]
DeviceOption = Annotated[
    str,
    typer.Option(
        "--device",
        help="Where networks compute: cpu, cuda, cuda:1, or auto (a GPU if there is one). One process uses a GPU, "
        "unless --workers says how many share it.",
        autocompletion=completion.one_of(completion.DEVICES),
    ),
]


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"mdtbench {version('mdtbench')}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """mdtbench"""
    del version


@app.command()
def run(
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
    from .run import Command, RunOptions, run_command

    return run_command(
        Command(
            RunOptions(
                preset=preset,
                methods=_words(methods),
                steps=_numbers("--steps", steps),
                stages=stages,
                samplers=_words(samplers),
                budget=budget,
                train_seeds=_numbers("--seeds", seeds),
                assets=assets,
                limit=limit,
                changes=tuple(changes or ()),
                device=device,
                command=context.obj,
            ),
            cache=cache.expanduser(),
            plugins=tuple(plugin or ()),
            export=_words(export),
            track=_words(track),
            out=out,
            workers=workers,
            ranks=ranks,
            overwrite=overwrite,
            dry_run=dry_run,
            where=Where(executor, address, _words(slurm), sbatch),
        )
    )


@app.command()
def status(out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder of the run, as --out says it.")]) -> None:
    """How far a run is: jobs done and waiting, hosts, hours used and left, lost attempts. It may be at work.

    Examples:

      mdtbench status runs/smoke-1
    """
    from .status import status_text

    typer.echo(status_text(out), nl=False)


@app.command()
def work(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder of the run, which this machine sees too.")],
    job: Annotated[list[str], typer.Option("--job", metavar="KEY", help="A job that waits, as `status` names it.")],
) -> None:
    """Do jobs of a run, for a scheduler that mdtbench does not know. The run takes what is done when it is next called.

    SIGTERM ends it; a training saves where it is first, and the same command continues from there.

    Examples:

      mdtbench work runs/smoke-1 --job train-0123456789abcdef0123
    """
    from .work import work_command

    typer.echo(work_command(out, job), nl=False)


@app.command()
def report(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="RUN",
            help="Folder of a run, the newest under runs/ by default; of several, one table of all.",
            autocompletion=completion.runs,
        ),
    ] = None,
    format: Annotated[
        str,
        typer.Option(
            "--format",
            "-f",
            help="rich, markdown, latex, csv, json; html: a folder of pages; parquet: files of all rows; "
            "power: the variances by which --dry-run tells what a run can show.",
            autocompletion=completion.formats,
        ),
    ] = "rich",
    out: Annotated[
        Path | None,
        typer.Option(help="For html the folder (RUN/report by default), for parquet the file (RUN/rows.parquet)."),
    ] = None,
    everything: Annotated[
        bool,
        typer.Option("--all", help="Print all tables, with the paper's numbers beside ours, instead of one screen."),
    ] = False,
) -> None:
    """Print what one run found, or several comparable ones: main columns and verdicts; with --all Tables 1 to 3.

    Examples:

      mdtbench report

      mdtbench report --all

      mdtbench report runs/today --format html --out pages

      mdtbench report runs/cm_vm runs/mdt --format latex

      mdtbench report runs/today --format parquet --out rows.parquet
    """
    from .report import report_command

    report_command(folders or (), format, out, everything=everything)


@app.command()
def figure(
    kind: Annotated[
        str,
        typer.Argument(
            metavar="grid|pareto|curves",
            help="grid: pictures of assets; pareto: quality against cost; curves: of training.",
            autocompletion=completion.one_of(("grid", "pareto", "curves")),
        ),
    ],
    folders: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="RUN",
            help="Folder of a run, the newest under runs/ by default; of several, one figure of all.",
            autocompletion=completion.runs,
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A .pdf or .png; RUN/figure-<kind>.pdf by default.")
    ] = None,
    methods: Annotated[
        str,
        typer.Option(help="Comma-separated methods in their order; all by default.", autocompletion=completion.methods),
    ] = "",
    assets: Annotated[str, typer.Option(help="For grid: comma-separated asset ids; the first few by default.")] = "",
    metric: Annotated[
        str,
        typer.Option(
            help="For pareto: by default the first in which students differ. For curves: loss or a diagnostic."
        ),
    ] = "",
    steps: Annotated[
        str, typer.Option(help="Sampler steps, e.g. 1,2. By default the fewest for grid, all for pareto.")
    ] = "",
    against: Annotated[
        str,
        typer.Option(
            help="For pareto: nfe or seconds; nfe by default.", autocompletion=completion.one_of(("nfe", "seconds"))
        ),
    ] = "",
) -> None:
    """Draw a figure for a paper, PDF or PNG.

    Examples:

      mdtbench figure grid runs/today --steps 1,2 --methods vm,mdt,teacher --out assets.pdf

      mdtbench figure pareto runs/today --metric FD_tiny_gs --against seconds

      mdtbench figure curves runs/today --out curves.png
    """
    from ...results.figures.choice import Choice
    from .figure import figure_command

    choice = Choice(_words(methods), _words(assets), metric, _numbers("--steps", steps), against)
    typer.echo(figure_command(kind, folders or (), out, choice))


@app.command()
def compare(
    run: Annotated[
        str, typer.Argument(help="Folder of a run, or its rows.jsonl.", autocompletion=completion.baselines)
    ],
    baseline: Annotated[
        str,
        typer.Argument(
            help="The same of another run, or the name of a shipped baseline. Not needed with --methods mine=vm, which "
            "then holds two methods of RUN against each other.",
            autocompletion=completion.baselines,
        ),
    ] = "",
    metrics: Annotated[str, typer.Option(help="Comma-separated metrics; all by default.")] = "",
    methods: Annotated[
        str,
        typer.Option(
            help="Comma-separated methods; all by default. mine=mdt: the run's against the baseline's.",
            autocompletion=completion.methods,
        ),
    ] = "",
    tolerance: Annotated[
        Path | None, typer.Option(metavar="FILE", help="TOML with tolerances; from the seeds' spread by default.")
    ] = None,
    format: Annotated[
        str,
        typer.Option(
            "--format",
            "-f",
            help="text, markdown or json.",
            autocompletion=completion.one_of(("text", "markdown", "json")),
        ),
    ] = "text",
    everything: Annotated[bool, typer.Option("--all", help="Also show what is the same or not comparable.")] = False,
    any_change: Annotated[
        bool,
        typer.Option("--any-change", help="Exit with 3 on what is better, too: for checks of every commit."),
    ] = False,
    save: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Keep the run as a baseline in this folder instead of comparing.")
    ] = None,
) -> None:
    """Say where a run is better or worse than a baseline; exit code 3 when it is worse anywhere.

    Examples:

      mdtbench compare runs/today runs/yesterday

      mdtbench compare runs/today runs/yesterday --metrics FD_tiny2d --tolerance tolerances.toml

      mdtbench compare runs/mine --methods mine=mdt

      mdtbench compare runs/today --save baselines/ours
    """
    from .compare import CompareOptions, compare_command, save_baseline

    if not baseline and not save and "=" in methods:
        baseline = run
    if bool(baseline) == (save is not None):
        raise UsageError(
            "`mdtbench compare RUN` needs one of: a BASELINE, --methods mine=vm for two methods of the run, --save DIR."
        )
    if save is not None:
        typer.echo(save_baseline(run, save), nl=False)
        return
    options = CompareOptions(run, baseline, _words(metrics), _words(methods), tolerance, format, everything, any_change)
    raise typer.Exit(compare_command(options))


@app.command()
def evaluate(
    folder: Annotated[Path, typer.Argument(help="Folder of generated assets, named by asset id.")],
    name: Annotated[str, typer.Option(help="Name of the system, for the table; the folder's by default.")] = "",
    reference: Annotated[
        str, typer.Option(help="Folder of true meshes, or toys4k:FOLDER; by default the assets themselves.")
    ] = "",
    conditions: Annotated[
        Path | None, typer.Option(help="Folder of the conditioning pictures, named by asset id: adds CLIP_score.")
    ] = None,
    protocol: Annotated[
        str,
        typer.Option(help="Protocol, with variants as name+variant.", autocompletion=completion.protocols),
    ] = "trellis-v1",
    metrics: Annotated[
        str,
        typer.Option(
            help="Comma-separated columns, such as FD_incep,FD_dinov2; by default all that the files can have. "
            "Only their networks are loaded."
        ),
    ] = "",
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="extractors=random, seed, run_seed, columns."),
    ] = None,
    latency: Annotated[float | None, typer.Option(help="Seconds per asset, for the table.", min=0)] = None,
    seed: Annotated[
        int | None, typer.Option(help="Generation seed of the assets, for tables of several seeds.", min=0)
    ] = None,
    calibrates: Annotated[
        bool,
        typer.Option("--calibrates", help="These are the teacher's assets: check them against published numbers."),
    ] = False,
    geometry_only: Annotated[
        bool, typer.Option("--geometry-only", help="The assets have no colours: measure ULIP_I only.")
    ] = False,
    steps: Annotated[int | None, typer.Option(help="Sampler steps, for the table.", min=1)] = None,
    nfe: Annotated[int | None, typer.Option(help="Network passes per asset, for the table.", min=1)] = None,
    limit: Annotated[int | None, typer.Option(help="Use only the first N assets of the reference.", min=2)] = None,
    weights: Annotated[
        Path | None, typer.Option(help="Folder of official weights; ~/.cache/mdtbench/weights by default.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder; runs/evaluate-<name>-<key> by default.")] = None,
    cache: Annotated[Path, typer.Option(help="Folder for pictures and features, shared by runs.")] = CACHE,
    plugin: Annotated[list[Path] | None, typer.Option(help="Python file that registers a metric of your own.")] = None,
    track: TrackOption = "",
    device: DeviceOption = "auto",
    workers: Workers = 0,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", "-n", help="Print what would be measured, time and memory; compute nothing.")
    ] = False,
) -> Path | None:
    """Measure assets that any system generated: FD, KD, ULIP_I and more under a protocol. Run again to resume.

    Meshes (GLB, glTF, OBJ, PLY, STL, OFF) and PLY files of 3D Gaussians are recognised by their content.

    Examples:

      mdtbench evaluate flashvdm_out --name FlashVDM --reference toys4k_glb --latency 1.30 --geometry-only

      mdtbench evaluate my_assets --name test --set extractors=random --limit 8

      mdtbench evaluate my_assets --reference truth --metrics FD_incep,FD_dinov2 --dry-run
    """
    from ..driver.evaluation import EvaluateOptions
    from ..inputs.downloads import FOLDER
    from .evaluate import Invocation, evaluate_command

    options = EvaluateOptions(
        folder=folder,
        name=name or folder.resolve().name,
        reference=reference,
        conditions=conditions,
        metrics=_words(metrics),
        latency=latency,
        seed=seed,
        calibrates=calibrates,
        geometry_only=geometry_only,
        steps=steps,
        nfe=nfe,
        limit=limit,
        weights=(weights or FOLDER).expanduser(),
        cache=cache.expanduser(),
        device=device,
    )
    how = Invocation(protocol, tuple(changes or ()), tuple(plugin or ()), out, workers, _words(track), dry_run)
    return evaluate_command(options, how)


@app.command()
def show(
    what: Annotated[
        str,
        typer.Argument(
            metavar="RUN|protocol|schema",
            help="Folder of a run, or its name under runs/; protocol; schema.",
            autocompletion=completion.shown,
        ),
    ],
    name: Annotated[
        str,
        typer.Argument(
            help="Of the protocol, with variants as name+variant; trellis-v1 by default.",
            autocompletion=completion.protocols,
        ),
    ] = "",
    format: Annotated[str, typer.Option("--format", "-f", help="text or json.", autocompletion=FORMATS)] = "text",
) -> None:
    """Print all about one run; or every choice of a protocol with its source; or the JSON Schema of rows.

    Examples:

      mdtbench show runs/today

      mdtbench show protocol trellis-v1

      mdtbench show protocol trellis-v1+as-is --format json

      mdtbench show schema
    """
    from .runs import shown

    typer.echo(shown(what, name, format), nl=False)


@app.command()
def verify(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.", autocompletion=completion.runs)],
) -> None:
    """Compare every file of a run with its sha256; exit code 4 when one is damaged. Changes nothing.

    Examples:

      mdtbench verify runs/today
    """
    from .verify import verify_command

    verify_command(folder)


@app.command()
def fetch(
    preset: Annotated[
        str,
        typer.Option(
            "--preset",
            help="paper, variants, or a .toml list of files.",
            autocompletion=completion.one_of(completion.DOWNLOADS),
        ),
    ] = "paper",
    purpose: Annotated[
        str, typer.Option("--for", metavar="evaluate", help="Only the weights that `mdtbench evaluate` needs.")
    ] = "",
    metrics: Annotated[
        str, typer.Option(help="With --for evaluate: comma-separated columns that are wanted; all by default.")
    ] = "",
    protocol: Annotated[
        str,
        typer.Option(
            help="With --for evaluate: the protocol, with variants as name+variant; trellis-v1 by default.",
            autocompletion=completion.protocols,
        ),
    ] = "",
    out: Annotated[
        Path | None, typer.Option(help="Folder for the files; ~/.cache/mdtbench/weights by default.")
    ] = None,
    mirror: Annotated[str, typer.Option(metavar="URL", help="Another hub that serves the same files.")] = "",
    verify: Annotated[bool, typer.Option("--verify", help="Compute all digests again.")] = False,
    offline: Annotated[
        bool, typer.Option("--offline", help="Only say what is missing; exit code 4 if anything is.")
    ] = False,
) -> None:
    """Download official weights, after saying how much it is. Every file is checked. Run again to resume.

    Examples:

      mdtbench fetch --preset paper --offline

      mdtbench fetch --preset paper --mirror https://hub.example.org

      mdtbench fetch --for evaluate --metrics FD_incep,FD_dinov2
    """
    from ..inputs.downloads import FOLDER
    from .fetch import fetch_command, fetch_for_evaluate

    if purpose not in ("", "evaluate"):
        raise unknown_name("value of --for", purpose, ["evaluate"])
    if purpose:
        places = (out or FOLDER, mirror or None, verify, offline)
        typer.echo(fetch_for_evaluate(protocol or "trellis-v1", _words(metrics), *places), nl=False)
        return
    if metrics or protocol:
        raise UsageError("--metrics and --protocol need --for evaluate. Add it, or leave them out.")
    typer.echo(fetch_command(preset, out or FOLDER, mirror or None, verify, offline), nl=False)


@app.command("list")
def list_(
    kind: Annotated[
        str,
        typer.Argument(
            help="methods, samplers, metrics, presets, protocols, worlds or runs.",
            autocompletion=completion.one_of(completion.KINDS),
        ),
    ] = "methods",
    folder: Annotated[
        Path | None, typer.Option("--in", metavar="DIR", help="For runs: the folder they are in; runs by default.")
    ] = None,
) -> None:
    """List what this installation offers, or the runs in a folder."""
    if kind == "runs":
        from .runs import RUNS, runs_table

        typer.echo(runs_table(folder or RUNS), nl=False)
        return
    from .listing import listing

    if folder is not None:
        raise UsageError(f"--in has no meaning for {kind}. Leave it out.")
    typer.echo(listing(kind))


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="CSV with the columns metric and value; see docs/rows.md for others.")],
    name: Annotated[str, typer.Option(help="Name of the system, where the CSV has no column method.")],
    like: Annotated[
        Path | None, typer.Option(metavar="RUN", help="A run that you declare the values comparable to.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder; runs/import-<name>-<key> by default.")] = None,
) -> None:
    """Turn another tool's numbers into a run's folder, marked as not measured here, for `report` and `compare`.

    Examples:

      mdtbench import lgm.csv --name LGM --like runs/flashvdm
    """
    from .runs import ImportOptions, import_command

    typer.echo(import_command(ImportOptions(file, name, like, out)), nl=False)


@app.command()
def pretrain(
    preset: PresetOption = "tiny",
    out: Annotated[Path, typer.Option(help="Folder of the world; its name is the world's name.")] = Path("world"),
    stages: Annotated[
        str,
        typer.Option(
            help="Comma-separated stages to make now; all by default.",
            autocompletion=completion.some_of(completion.PRETRAINED),
        ),
    ] = "",
    changes: Changes = None,
    track: TrackOption = "",
    workers: Workers = 0,
) -> None:
    """Make the networks of a preset from nothing (one to two hours on two cores); run again to resume."""
    from ..engine.progress import reporter
    from ..engine.trackers import trackers_of
    from ..engine.workers import cores
    from ..pretrain import STAGES
    from ..pretrain import pretrain as make
    from ..settings.config import load_config

    trackers, config = trackers_of(_words(track)), load_config(preset, changes)
    chosen = [stage.strip() for stage in stages.split(",") if stage.strip()] or list(STAGES)
    with reporter() as report:
        complete = make(config, out, chosen, workers or cores(), report, trackers)
    typer.echo(f"World at {out}" if complete else f"Stages {', '.join(chosen)} at {out}; others are still to be made.")


@app.command()
def doctor(
    preset: Annotated[
        str,
        typer.Option(help="Also check what a preset needs, e.g. paper.", autocompletion=completion.presets),
    ] = "",
    cache: Annotated[Path, typer.Option(help="Folder for prepared assets, shared by runs.")] = CACHE,
) -> None:
    """Print what this machine has and what of it mdtbench uses; exit code 4 when something needed is missing."""
    from .doctor import check, examined, findings_text

    findings = examined(cache.expanduser(), preset)
    typer.echo(findings_text(findings), nl=False)
    check(findings)


@app.command()
def bench(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help=f"What to measure: {', '.join(completion.BENCHMARKS)}.",
            autocompletion=completion.one_of(completion.BENCHMARKS),
        ),
    ],
    methods: Annotated[
        str, typer.Option(help="Comma-separated methods that train.", autocompletion=completion.methods)
    ] = ALL_METHODS,
    world: Annotated[str, typer.Option(help="Shipped world, or a folder made by `mdtbench pretrain`.")] = "tiny",
    batch: Annotated[int, typer.Option(help="Samples in a batch.", min=1)] = 32,
    steps: Annotated[int, typer.Option(help="Training steps of every student in a repetition.", min=1)] = 2,
    repetitions: Annotated[int, typer.Option(help="How many times everything is measured.", min=1)] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    preset: Annotated[
        str, typer.Option(help="Of `memory`: whose training steps.", autocompletion=completion.presets)
    ] = "paper",
    tiny: Annotated[bool, typer.Option("--tiny", help="Of `gpu`: rehearse on the CPU, with small networks.")] = False,
    seconds: Annotated[int, typer.Option(help="Of `gpu`: after which no check begins.", min=1)] = 570,
    only: Annotated[str, typer.Option(help="Of `gpu`: comma-separated checks; all by default.")] = "",
    out: Annotated[
        Path | None, typer.Option(help="Of `gpu`: file for its lines too; `--set estimate.measured=` reads it.")
    ] = None,
) -> None:
    """Measure what the tool costs here.

    `lockstep`: forward passes, time and memory of training methods together, against one after the other.
    `render`: pictures of Gaussians and of meshes; of the options, only --repetitions and --json count.
    `sparse`: layers of the second stage; likewise.
    `fd`: the Fréchet distance at 2,048 dimensions against the usual sqrtm; likewise.
    `memory`: what training steps of a preset take at full size, by shapes alone; of the options, --preset and --json.
    `gpu`: a GPU's first ten minutes, random weights: a JSON line per check; --tiny, --seconds, --only and --out.

    Examples:

      mdtbench bench lockstep

      mdtbench bench memory --preset paper

      mdtbench bench gpu --out gpu.jsonl

      mdtbench bench gpu --tiny

      mdtbench bench lockstep --methods cm,vm --repetitions 3 --json

      mdtbench bench render

      mdtbench bench sparse
    """
    from ..bench.lockstep import BenchOptions
    from ..bench.lockstep import bench as measure
    from ..engine.progress import reporter

    if name == "gpu":
        from ..bench.gpu import bench_gpu

        bench_gpu(tiny=tiny, seconds=seconds, out=out, echo=typer.echo, only=only)
        return
    options = BenchOptions(world, _words(methods), batch, steps, repetitions, preset)
    with reporter() as report:
        text = measure(name, options, as_json, report)
    typer.echo(text, nl=False)


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _numbers(option: str, text: str) -> tuple[int, ...]:
    try:
        numbers = tuple(int(word) for word in _words(text))
    except ValueError:
        raise UsageError(f"{option} takes whole numbers separated by commas, e.g. 0,1,2 (got '{text}').") from None
    if any(number < 0 for number in numbers):
        raise UsageError(f"{option} takes whole numbers from 0 on, separated by commas, e.g. 0,1,2 (got '{text}').")
    if text and not numbers:
        raise UsageError(f"{option} needs at least one whole number, e.g. 0 (got '{text}').")
    return numbers


def main() -> None:
    """Entry point: errors become one line on standard error and the exit code of their kind."""
    try:
        app(obj=("mdtbench", *sys.argv[1:]))
    except MdtbenchError as error:
        typer.echo(f"mdtbench: {error}", err=True)
        sys.exit(error.exit_code)


def call(words: Sequence[str]) -> Any:
    """One command line in this process: what its verb returns.

    Raises:
        MdtbenchError: where the command would print its message.
    """
    try:
        return app(list(words), obj=("mdtbench", *words), standalone_mode=False)
    except typer.TyperException as error:
        raise UsageError(f"{error.format_message().rstrip('.')}. See `mdtbench {words[0]} --help`.") from error
