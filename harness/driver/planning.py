"""From options to a plan: everything that can be checked without computing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ...assets.toys import ToySource
from ...base.errors import MissingError, UsageError, unknown_name
from ...base.files import digest_of
from ...base.limits import use_limits
from ...trellis.pipeline import SamplerParams
from ..engine.device import AUTO, device_of
from ..generate.reconstruct import can_encode_assets
from ..inputs.cells import CellsJob, EncodeJob
from ..inputs.prepare import OwnRenderer, Preparation, prepare_jobs
from ..inputs.subjects import protocol_for, test_source
from ..inputs.world import (
    OFFICIAL_CELLS,
    WorldFile,
    WorldInfo,
    official_file,
    slat_resolution,
    world_folder,
    world_info,
)
from ..plan.plan import STAGES, Plan, networks_sha, resolve
from ..protocol.model import load_protocol
from ..protocol.values import Stage
from ..settings.config import Config, load_config
from ..settings.kernels import kernels_of
from ..train.data import EncodedSet, LatentSet, TrainingSet

STAGE_WORDS = ("structure", "both")


@dataclass(frozen=True)
class RunOptions:
    """Options of `mdtbench run` that decide results. Empty ones stand for the preset's, or for the usual ones."""

    preset: str = "tiny"
    methods: tuple[str, ...] = ()
    steps: tuple[int, ...] = ()
    stages: str = ""
    samplers: tuple[str, ...] = ()
    budget: str = ""
    train_seeds: tuple[int, ...] = ()
    assets: str = ""
    limit: int | None = None
    changes: tuple[str, ...] = ()
    device: str = AUTO
    command: tuple[str, ...] = ()


def make_plan(options: RunOptions, cache: Path, *, ready: bool = True) -> Plan:
    """Check everything that can be checked without computing.

    Args:
        ready: whether all that the run needs must be there; a dry run and a list of what is missing do without.
    Raises:
        UsageError, MissingError: what is wrong, what is allowed, what to do.
    """
    config = staged(load_config(options.preset, [*options.changes, *_flags(options)]), options.stages)
    use_limits(config.limits)
    world = _world(config, ready=ready)
    device = device_of(options.device)
    source = test_source(options.assets or config.places.test, config, cache)
    protocol = load_protocol(config.protocol.name)
    try:
        protocol = protocol_for(protocol, source)
    except MissingError:  # no Blender
        if ready:
            raise
    sets = training_sets(config, world, device, cache)
    plan = resolve(config, protocol, world, device, options.methods, options.train_seeds, source, options.limit, sets)
    return replace(plan, preset=options.preset, command=options.command)


def staged(config: Config, stages: str) -> Config:
    """The configuration for the stages asked for; "" stands for what the preset has."""
    if stages and stages not in STAGE_WORDS:
        raise unknown_name("value of --stages", stages, STAGE_WORDS)
    if stages == "both" and config.slat is None:
        raise UsageError("--stages both needs a preset with a table [slat], which this one has not. Add one.")
    return config.first_stage if stages == "structure" else config


def training_sets(config: Config, world: WorldInfo, device: str, cache: Path) -> Mapping[Stage, TrainingSet]:
    """What students of each stage learn on: latents on disk, or toys if the world's encoders read what is made here."""
    stages = STAGES if config.slat else STAGES[:1]
    folders = tuple(Path(folder).expanduser() for folder in config.data.latents)
    if folders or not _encodes(world):
        return {stage: LatentSet(stage, folders, config.sweep.assets, config.sweep.seed) for stage in stages}
    return {stage: encoded_toys(config, world, device, cache, stage) for stage in stages}


def encoded_toys(config: Config, world: WorldInfo, device: str, cache: Path, stage: Stage) -> EncodedSet:
    source, spec = ToySource("train", config.data.train, config.data.seed), world.file.preparation
    shows = OwnRenderer(Preparation(**spec.model_dump()))
    sha = networks_sha(world.digest, device, kernels_of(config.gpu))
    jobs = []
    for job in prepare_jobs(source, shows, spec.resolution, cache):
        cells = CellsJob(job, slat_resolution(world.folder)) if stage == "slat" else None
        jobs.append(EncodeJob(world.folder, device, sha, job, cells))
    return EncodedSet(digest_of([source.name, source.digest()]), tuple(jobs))


def _encodes(world: WorldInfo) -> bool:
    return bool(world.file.extractors) or (
        (world.folder / "pipeline.json").is_file() and can_encode_assets(world.folder)
    )


def _world(config: Config, *, ready: bool) -> WorldInfo:
    weights = Path(config.places.weights).expanduser()
    try:
        return world_info(world_folder(config.world, weights))
    except UsageError:
        if ready or not config.places.downloads:
            raise
    # not fetched yet: as far as a plan goes, an official world with both stages
    unknown = SamplerParams(25, 0.0, (0.0, 1.0), 1.0)
    file: WorldFile = official_file(config.world, 518, OFFICIAL_CELLS)
    return WorldInfo(weights / config.world, file, "not fetched", dict.fromkeys(STAGES, unknown))


def _flags(options: RunOptions) -> Sequence[str]:
    """The options that stand for keys, as changes that come last."""
    if options.steps and min(options.steps) < 1:
        raise UsageError(f"--steps takes whole numbers from 1 (got {min(options.steps)}).")
    steps = [f"evaluate.steps={list(options.steps)}"] if options.steps else []
    samplers = [f"evaluate.samplers={list(options.samplers)}"] if options.samplers else []
    return steps + samplers + ([f"train.budget={options.budget}"] if options.budget else [])
