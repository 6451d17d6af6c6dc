"""The verb `evaluate`: its options. What it does is in `evaluating`, which takes seconds to import."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import completion
from .options import CACHE, DeviceOption, TrackOption, Workers, words


def evaluate_command(
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
    from .evaluating import Invocation, evaluated

    options = EvaluateOptions(
        folder=folder,
        name=name or folder.resolve().name,
        reference=reference,
        conditions=conditions,
        metrics=words(metrics),
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
    how = Invocation(protocol, tuple(changes or ()), tuple(plugin or ()), out, workers, words(track), dry_run)
    return evaluated(options, how)
