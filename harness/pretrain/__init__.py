"""`mdtbench pretrain`: make a world from nothing. Running it again goes on where it stopped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from ...base.errors import UsageError, unknown_name
from ...base.files import digest_of, read_json, write_json
from ...trellis.pipeline import DECODER, ENCODER, FLOW, write_pipeline
from ...trellis.weights import load_checkpoint, save_checkpoint
from ..config import Config, Pretrain
from ..pool import workers
from ..prepare import Prepared
from ..progress import Reporter
from ..world import load_world, write_world_file
from .card import write_card
from .data import Collection, collections, toys
from .features import train_dual_encoder, train_picture_classifier, train_points_classifier
from .quality import teacher_quality
from .structure import Trained, encode, train_conditioner, train_teacher, train_vae

# checkpoint names of each stage, in the order in which stages are made
STAGES: dict[str, tuple[str, ...]] = {
    "vae": ("ss_encoder", "ss_decoder"),
    "conditioner": ("conditioner",),
    "teacher": ("ss_flow",),
    "picture_classifier": ("tiny2d",),
    "points_classifier": ("tiny3d",),
    "dual_encoder": ("ulip_tiny",),
}
# what a stage is made from beside its own section: sections of the recipe, and other stages
INPUTS: dict[str, tuple[str, ...]] = {
    "vae": ("assets", "preparation"),
    "conditioner": ("window", "vae"),
    "teacher": ("window", "vae", "conditioner"),
    "picture_classifier": ("assets", "preparation", "observation"),
    "points_classifier": ("assets", "preparation", "observation"),
    "dual_encoder": ("assets", "preparation", "observation", "window"),
}
JUDGED = 64  # toys that the finished teacher is measured on
STORED = torch.float16  # of shipped weights: half the size; quality is measured after rounding


def pretrain(config: Config, out: Path, stages: Sequence[str], threads: int, reporter: Reporter) -> bool:
    """Make the stages that are not there yet; with all of them, write the world's files.

    Returns:
        Whether the world is complete.

    Raises:
        UsageError: unknown stage, a preset without a [pretrain] table, a batch of distinct toys that is too large,
            or a folder whose stages were made with other settings.
    """
    if config.pretrain is None:
        raise UsageError("This preset has no [pretrain] table. Choose one that has, for example tiny.")
    for stage in stages:
        if stage not in STAGES:
            raise unknown_name("stage", stage, STAGES)
    recipe, work = config.pretrain, out / "work"
    if recipe.dual_encoder.batch > recipe.assets:
        raise UsageError(
            f"pretrain.dual_encoder.batch is {recipe.dual_encoder.batch} - its toys are distinct, so at most "
            f"pretrain.assets ({recipe.assets}) - lower it or raise that."
        )
    for stage in STAGES:
        _check_recipe(out, stage, recipe)
    with workers(threads, reporter) as team:
        train, held_out = collections(recipe, work, team)
        judged = toys(recipe, "test", min(JUDGED, recipe.held_out), work, team)
    torch.set_num_threads(threads)
    makers = _makers(recipe, train, held_out, out, reporter)
    for stage in stages:
        if not _is_stored(out, stage):
            address = stage_address(recipe, stage)
            _store(out, stage, makers[stage](work / f"{stage}-{address[:12]}.safetensors"), address)
    if not all(_is_stored(out, stage) for stage in STAGES):
        return False
    _finish(out, recipe, judged)
    return True


def _makers(
    recipe: Pretrain, train: Collection, held_out: Collection, out: Path, reporter: Reporter
) -> dict[str, Callable[[Path], Sequence[Trained]]]:
    def latents() -> torch.Tensor:
        return encode(load_checkpoint(_stem(out, "ss_encoder")), torch.from_numpy(train.occupancy))

    def conditioner(path: Path) -> Sequence[Trained]:
        section, window = recipe.conditioner, recipe.window
        return [train_conditioner(latents(), train.labels, train.images, section, window, path, reporter)]

    def teacher(path: Path) -> Sequence[Trained]:
        network = load_checkpoint(_stem(out, "conditioner"))
        return [train_teacher(latents(), train.images, network, recipe.teacher, recipe.window, path, reporter)]

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
        "dual_encoder": lambda path: [
            train_dual_encoder(train, held_out, recipe.dual_encoder, recipe.window, path, reporter)
        ],
    }


def stage_address(recipe: Pretrain, stage: str) -> str:
    """sha256 of all settings that a stage depends on, those of the stages before it included."""
    settings = recipe.model_dump(mode="json")
    before = [stage_address(recipe, name) if name in STAGES else settings[name] for name in INPUTS[stage]]
    return digest_of([settings[stage], before])


def _check_recipe(out: Path, stage: str, recipe: Pretrain) -> None:
    if _is_stored(out, stage) and read_json(_measured(out, stage)).get("address") != stage_address(recipe, stage):
        raise UsageError(
            f"Stage {stage} in {out} was made with other settings. Give the same preset and --set as then, remove "
            f"{_measured(out, stage)} to make it anew, or choose another --out."
        )


def _store(out: Path, stage: str, trained: Sequence[Trained], address: str) -> None:
    for name, result in zip(STAGES[stage], trained, strict=True):
        save_checkpoint(_stem(out, name), result.network, result.config, dtype=STORED)
    write_json(_measured(out, stage), {**trained[0].measured, "address": address})


def _is_stored(out: Path, stage: str) -> bool:
    """Whether a stage was stored to the end; its measurements are written last."""
    weights = [out / "ckpts" / f"{name}.safetensors" for name in STAGES[stage]]
    return all(path.exists() for path in [*weights, _measured(out, stage)])


def _measured(out: Path, stage: str) -> Path:
    return out / "work" / f"{stage}.json"


def _finish(out: Path, recipe: Pretrain, judged: Prepared) -> None:
    models = {FLOW: "ckpts/ss_flow", DECODER: "ckpts/ss_decoder", ENCODER: "ckpts/ss_encoder"}
    write_pipeline(out, models, "ckpts/conditioner", recipe.sampler.model_dump(mode="json"))
    sections = {key: getattr(recipe, key) for key in ("preparation", "window", "observation")}
    extractors = {name: f"ckpts/{name}" for name in ("tiny2d", "tiny3d", "ulip_tiny")}
    write_world_file(out, out.name, sections, extractors)
    measured = {stage: read_json(_measured(out, stage)) for stage in STAGES}
    write_card(out, recipe, measured, len(judged.ids), teacher_quality(load_world(out), judged))


def _stem(out: Path, name: str) -> Path:
    return out / "ckpts" / name
