"""`mdtbench pretrain`: make a world from nothing. Running it again goes on where it stopped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ...base.errors import UsageError, unknown_name
from ...base.files import digest_of, read_json, write_json
from ...trellis.pipeline import CONDITIONER, DECODER, ENCODER, FLOW, SAMPLER, SLAT_FLOW, SLAT_SAMPLER, write_pipeline
from ...trellis.slat_pipeline import GAUSSIAN_DECODER, MESH_DECODER, NORMALISATION, SLAT_CONDITIONER, SLAT_ENCODER
from ...trellis.weights import load_checkpoint, save_checkpoint
from ..engine.engine import Engine
from ..engine.progress import Reporter
from ..engine.tracking import Training, tracking
from ..engine.workers import workers
from ..inputs.world import write_world_file
from ..settings.config import Config, Pretrain, SecondRecipe
from .card import write_card
from .data import Collection, Objects, Toys, as_seen
from .features import train_appearance, train_dual_encoder, train_picture_classifier, train_points_classifier
from .fit import log_of
from .quality import Table, second_stage_quality, teacher_quality
from .slat import encoded, train_slat_mesh, train_slat_teacher, train_slat_vae
from .structure import Trained, encode, train_conditioner, train_teacher, train_vae


@dataclass(frozen=True)
class Stage:
    """A step of making a world.

    Attributes:
        checkpoints: names of the networks that it makes.
        inputs: what it is made from beside its own section: sections of the recipe, and other stages.
    """

    checkpoints: tuple[str, ...]
    inputs: tuple[str, ...]


OBSERVED = ("assets", "preparation", "observation")
SEEN = ("second_assets", "preparation", "looks")
# in the order in which they are made
FIRST: dict[str, Stage] = {
    "vae": Stage(("ss_encoder", "ss_decoder"), ("assets", "preparation")),
    "conditioner": Stage(("conditioner",), ("vae",)),
    "teacher": Stage(("ss_flow",), ("vae", "conditioner")),
    "picture_classifier": Stage(("tiny2d",), OBSERVED),
    "points_classifier": Stage(("tiny3d",), OBSERVED),
    "dual_encoder": Stage(("ulip_tiny",), OBSERVED),
}
# of worlds with whole assets
SECOND: dict[str, Stage] = {
    "slat_vae": Stage(("slat_encoder", "slat_decoder_gs"), SEEN),
    "slat_mesh": Stage(("slat_decoder_mesh",), ("slat_vae",)),
    "slat_teacher": Stage(("slat_flow", "slat_conditioner"), ("slat_vae",)),
    "appearance": Stage(("tiny_rgb",), SEEN),
    "asset_dual_encoder": Stage(("ulip_tiny_mesh",), SEEN),
}
STAGES = FIRST | SECOND
STORED = torch.float16  # of shipped weights: half the size; quality is measured after rounding


def pretrain(
    config: Config, out: Path, stages: Sequence[str], threads: int, reporter: Reporter, track: Sequence[str] = ()
) -> bool:
    """Make the stages that are not there yet; with all of them, write the world's files.

    Args:
        track: trackers to write to, in OUT/work.

    Returns:
        Whether the world is complete.

    Raises:
        UsageError: unknown stage, a preset without a [pretrain] table, a batch of distinct toys that is too large,
            or a folder whose stages were made with other settings.
        RunError: a tracker failed.
    """
    if config.pretrain is None:
        raise UsageError("This preset has no [pretrain] table. Choose one that has, for example tiny.")
    for stage in stages:
        if stage not in STAGES:
            raise unknown_name("stage", stage, STAGES)
    recipe, work = config.pretrain, out / "work"
    _check_sizes(recipe)
    wanted = stages_of(recipe)
    for stage in wanted:
        _check_recipe(out, stage, recipe)
    settings = recipe.model_dump(mode="json")
    with tracking(track, work, digest_of(settings)[:12]) as board:
        board.settings({"world": out.name, "pretrain": settings})
        board.follow(_training(out, stage, recipe) for stage in wanted)
        complete = _made(recipe, out, [stage for stage in stages if stage in wanted], threads, reporter)
        for stage in wanted:
            if _is_stored(out, stage):
                board.scalars({f"{key}/{stage}": value for key, value in _numbers(out, stage).items()})
        if not complete:
            return False
        _write_world(out, recipe)
        with workers(threads, reporter) as team:
            tables = _judge(out, Toys(recipe, work, Engine(team, team)))
        for table in tables:
            for title, values in table.items():
                board.scalars({f"{metric}/{title}": value for metric, value in values.items()})
    return True


def _made(recipe: Pretrain, out: Path, stages: Sequence[str], threads: int, reporter: Reporter) -> bool:
    """Make stages. Returns whether all that the recipe has are there now."""
    work = out / "work"
    with workers(threads, reporter) as team:
        toys = Toys(recipe, work, Engine(team, team))
        train, held_out = toys.collection("train"), toys.collection("validation")
        makers = _makers(recipe, train, held_out, out, reporter)
        if recipe.second:
            first = toys.objects("train", recipe.second.assets)
            rest = toys.objects("validation", recipe.held_out)
            makers |= _second_makers(recipe.second, (first, train), (rest, held_out), out, reporter)
    torch.set_num_threads(threads)
    for stage in stages:
        if not _is_stored(out, stage):
            trained = makers[stage](_checkpoint(out, stage, recipe))
            _store(out, stage, trained, stage_address(recipe, stage))
    return all(_is_stored(out, stage) for stage in stages_of(recipe))


def _check_sizes(recipe: Pretrain) -> None:
    second = recipe.second
    limits = [("dual_encoder.batch", recipe.dual_encoder.batch, "assets", recipe.assets)]
    if second:
        limits.append(
            ("second.asset_dual_encoder.batch", second.asset_dual_encoder.batch, "second.assets", second.assets)
        )
        limits.append(("second.assets", second.assets, "assets", recipe.assets))
    for key, value, bound, most in limits:
        if value > most:
            raise UsageError(
                f"pretrain.{key} is {value} - its toys are distinct, so at most pretrain.{bound} ({most}) - "
                "lower it or raise that."
            )


def stages_of(recipe: Pretrain) -> list[str]:
    """The stages of a recipe, in order."""
    return [*FIRST, *(SECOND if recipe.second else ())]


def _makers(
    recipe: Pretrain, train: Collection, held_out: Collection, out: Path, reporter: Reporter
) -> dict[str, Callable[[Path], Sequence[Trained]]]:
    def latents() -> torch.Tensor:
        return encode(load_checkpoint(_stem(out, "ss_encoder")), torch.from_numpy(train.occupancy))

    def conditioner(path: Path) -> Sequence[Trained]:
        return [train_conditioner(latents(), train.labels, train.images, recipe.conditioner, path, reporter)]

    def teacher(path: Path) -> Sequence[Trained]:
        network = load_checkpoint(_stem(out, "conditioner"))
        return [train_teacher(latents(), train.images, network, recipe.teacher, path, reporter)]

    return {
        "vae": lambda path: train_vae(train.occupancy, held_out.occupancy, recipe.vae, path, reporter),
        "conditioner": conditioner,
        "teacher": teacher,
        "picture_classifier": lambda path: [
            train_picture_classifier(train, held_out, recipe.picture_classifier, path, reporter)
        ],
        "points_classifier": lambda path: [
            train_points_classifier(train, held_out, recipe.points_classifier, path, reporter)
        ],
        "dual_encoder": lambda path: [train_dual_encoder(train, held_out, recipe.dual_encoder, path, reporter)],
    }


def _second_makers(
    recipe: SecondRecipe,
    train: tuple[Objects, Collection],
    held_out: tuple[Objects, Collection],
    out: Path,
    reporter: Reporter,
) -> dict[str, Callable[[Path], Sequence[Trained]]]:
    """Makers of whole assets' networks, of objects and of the collections of which these are the first."""
    (first, toys_1), (rest, toys_2) = train, held_out
    seen_1, seen_2 = as_seen(first, toys_1), as_seen(rest, toys_2)

    def raw() -> torch.Tensor:
        return encoded(load_checkpoint(_stem(out, "slat_encoder")), first)

    def mesh(path: Path) -> Sequence[Trained]:
        return [train_slat_mesh(first, raw(), recipe.slat_mesh, recipe.slat_vae.latent_channels, path, reporter)]

    def teacher(path: Path) -> Sequence[Trained]:
        latents = raw()
        mean, std = latents.mean(0), latents.std(0)
        write_json(_normalisation(out), {"mean": mean.tolist(), "std": std.tolist()})
        return train_slat_teacher(first, (latents - mean) / std, recipe.slat_teacher, path, reporter)

    def dual(path: Path) -> Sequence[Trained]:
        section = recipe.asset_dual_encoder
        return [train_dual_encoder(seen_1, seen_2, section, path, reporter, colour=True)]

    return {
        "slat_vae": lambda path: train_slat_vae(first, recipe.slat_vae, path, reporter),
        "slat_mesh": mesh,
        "slat_teacher": teacher,
        "appearance": lambda path: [train_appearance(seen_1, seen_2, recipe.appearance, path, reporter)],
        "asset_dual_encoder": dual,
    }


def stage_address(recipe: Pretrain, stage: str) -> str:
    """sha256 of all settings that a stage depends on, those of the stages before it included."""
    settings = recipe.model_dump(mode="json")
    second = settings.pop("second") or {}
    settings |= {"second_assets" if key == "assets" else key: value for key, value in second.items()}
    before = [stage_address(recipe, name) if name in STAGES else settings[name] for name in STAGES[stage].inputs]
    return digest_of([settings[stage], before])


def _check_recipe(out: Path, stage: str, recipe: Pretrain) -> None:
    if _is_stored(out, stage) and read_json(_measured(out, stage)).get("address") != stage_address(recipe, stage):
        raise UsageError(
            f"Stage {stage} in {out} was made with other settings. Give the same preset and --set as then, remove "
            f"{_measured(out, stage)} to make it again, or choose another --out."
        )


def _store(out: Path, stage: str, trained: Sequence[Trained], address: str) -> None:
    for name, result in zip(STAGES[stage].checkpoints, trained, strict=True):
        save_checkpoint(_stem(out, name), result.network, result.config, dtype=STORED)
    write_json(_measured(out, stage), {**trained[0].measured, "address": address})


def _is_stored(out: Path, stage: str) -> bool:
    """Whether a stage was stored to the end; its measurements are written last."""
    weights = [out / "ckpts" / f"{name}.safetensors" for name in STAGES[stage].checkpoints]
    return all(path.exists() for path in [*weights, _measured(out, stage)])


def _checkpoint(out: Path, stage: str, recipe: Pretrain) -> Path:
    """Of a stage's training."""
    return out / "work" / f"{stage}-{stage_address(recipe, stage)[:12]}.safetensors"


def _training(out: Path, stage: str, recipe: Pretrain) -> Training:
    """A stage's training, for trackers."""
    section = getattr(recipe if stage in FIRST else recipe.second, stage)
    checkpoint, settings = _checkpoint(out, stage, recipe), {"stage": stage, **section.model_dump(mode="json")}
    return Training(checkpoint.stem, log_of(checkpoint), _measured(out, stage), settings)


def _numbers(out: Path, stage: str) -> dict[str, float]:
    """What was measured of a stage that is stored."""
    return {key: value for key, value in read_json(_measured(out, stage)).items() if key != "address"}


def _measured(out: Path, stage: str) -> Path:
    return out / "work" / f"{stage}.json"


def _normalisation(out: Path) -> Path:
    return out / "work" / "slat_normalization.json"


def _write_world(out: Path, recipe: Pretrain) -> None:
    models = {FLOW: "ckpts/ss_flow", DECODER: "ckpts/ss_decoder", ENCODER: "ckpts/ss_encoder"}
    samplers, others = {SAMPLER: recipe.sampler.model_dump(mode="json")}, {CONDITIONER: "ckpts/conditioner"}
    sections = {key: getattr(recipe, key) for key in ("preparation", "observation")}
    extractors = ["tiny2d", "tiny3d", "ulip_tiny"]
    if recipe.second:
        models |= {
            SLAT_FLOW: "ckpts/slat_flow",
            SLAT_ENCODER: "ckpts/slat_encoder",
            GAUSSIAN_DECODER: "ckpts/slat_decoder_gs",
            MESH_DECODER: "ckpts/slat_decoder_mesh",
        }
        samplers[SLAT_SAMPLER] = recipe.second.slat_sampler.model_dump(mode="json")
        others |= {SLAT_CONDITIONER: "ckpts/slat_conditioner", NORMALISATION: read_json(_normalisation(out))}
        sections["looks"] = recipe.second.looks
        extractors += ["tiny_rgb", "ulip_tiny_mesh"]
    write_pipeline(out, models, samplers, **others)
    write_world_file(out, out.name, sections, {name: f"ckpts/{name}" for name in extractors})


def _judge(out: Path, toys: Toys) -> tuple[Table, Table]:
    """Measure the finished world and write its card. Returns what was measured of both stages."""
    measured = {stage: read_json(_measured(out, stage)) for stage in stages_of(toys.recipe)}
    whole = second_stage_quality(out, toys) if toys.recipe.second else {}
    structures = teacher_quality(out, toys)
    write_card(out, toys.recipe, measured, len(toys.usable("test").ids), structures, whole)
    return structures, whole


def _stem(out: Path, name: str) -> Path:
    return out / "ckpts" / name
