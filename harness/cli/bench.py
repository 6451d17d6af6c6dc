"""The verb `bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import completion
from .options import words

ALL_METHODS = "cm,pcm,scm,vm,mdt"


def bench_command(
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
    options = BenchOptions(world, words(methods), batch, steps, repetitions, preset)
    with reporter() as report:
        text = measure(name, options, as_json, report)
    typer.echo(text, nl=False)
