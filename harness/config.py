"""Configuration: presets in TOML, changed by `--set key=value`, checked before anything runs."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..base.errors import UsageError, unknown_name

PRESETS = files("mdtbench.harness") / "presets"
WORLDS = Path(str(files("mdtbench.harness"))) / "worlds"


Model = TypeVar("Model", bound=BaseModel)
Budget = Literal["steps", "forwards", "seconds"]
Precision = Literal["float32", "bfloat16", "float16"]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Data(Section):
    train: int = Field(gt=0, description="procedural toys to distil on")
    test: int = Field(gt=1, description="procedural toys to evaluate on")
    seed: int = 0


class Train(Section):
    steps: int = Field(gt=0)
    batch: int = Field(gt=0)
    warmup: int = Field(default=10, ge=0)
    ema: float = Field(default=0.99, ge=0, lt=1)
    clip: float = Field(default=1.0, gt=0)
    t_min: float = Field(default=0.01001, gt=0, lt=1)
    lr: float | None = Field(default=None, gt=0, description="one learning rate for all methods, in place of their own")
    budget: Budget = Field(default="steps", description="what methods get equal amounts of")
    more_ema: tuple[Annotated[float, Field(ge=0, lt=1)], ...] = Field(
        default=(), description="further averages to keep"
    )
    clip_percentile: float | None = Field(
        default=None, gt=0, le=100, description="clip at this percentile of recent norms"
    )
    accumulate: int = Field(default=1, gt=0, description="parts that a batch is split into, to save memory")
    precision: Precision = "float32"
    checkpoint_blocks: bool = Field(
        default=False, description="recompute activations in the backward pass, to save memory"
    )


class Evaluate(Section):
    steps: tuple[Annotated[int, Field(gt=0)], ...] = Field(default=(1, 2), min_length=1)
    seeds: tuple[int, ...] = Field(default=(0, 1, 2), min_length=1)
    batch: int = Field(default=8, gt=0, description="assets handed to a GPU at a time; a CPU takes one")
    samplers: tuple[str, ...] = Field(
        default=(), description="samplers that students are reported with beside their own"
    )
    whole: int | None = Field(default=None, gt=1, description="how many test assets are made whole; None: all")
    apart: tuple[int, ...] = Field(
        default=(), description="generation seeds of which one stage is also left to the teacher"
    )
    apart_steps: tuple[Annotated[int, Field(gt=0)], ...] = Field(
        default=(), description="at which of `steps` that is done; none: at all"
    )


class Sweep(Section):
    """A learning rate for every method, chosen on validation assets. Off while `lr` is empty."""

    lr: tuple[Annotated[float, Field(gt=0)], ...] = ()
    metric: str = Field(
        default="FD_tiny2d", description="the lowest (or highest, as the metric goes) at the fewest steps wins"
    )
    assets: int = Field(default=64, gt=1, description="validation toys that each student of the grid is measured on")
    seed: int = Field(default=0, description="training and generation seed of the grid")


class PreparationSection(Section):
    resolution: int = Field(gt=0)
    image_size: int = Field(gt=0)
    views: int = Field(gt=0)
    yaw_deg: tuple[float, float]
    pitch_deg: tuple[float, float]


class Window(Section):
    share: tuple[float, float]
    clear: float = Field(ge=0, le=1)


class ObservationSection(Section):
    picture_size: int = Field(gt=0)
    points: int = Field(gt=0)


class LooksSection(Section):
    """How whole assets are looked at; see `harness.appearance.Looks`."""

    resolution: int = Field(gt=0)
    picture_size: int = Field(gt=0)
    points: int = Field(gt=0)


class Stage(Section):
    steps: int = Field(gt=0)
    batch: int = Field(gt=0)
    lr: float = Field(gt=0)


class VaeStage(Stage):
    kl: float
    channels: tuple[int, ...]
    latent_channels: int


class TransformerStage(Stage):
    matrix_lr: float = Field(
        default=0.0, ge=0, description="peak rate of Muon for the blocks' matrices; 0: AdamW for all"
    )


class ConditionerStage(TransformerStage):
    channels: int
    layers: int


class TeacherStage(TransformerStage):
    model_channels: int
    num_blocks: int
    num_heads: int
    drop_condition: float
    time_mean: float = Field(description="of the logit-normal density of training times")
    time_std: float = Field(gt=0)


class FeatureStage(Stage):
    dim: int


class SlatStage(TransformerStage):
    model_channels: int
    num_blocks: int
    num_heads: int


class SlatVaeStage(SlatStage):
    kl: float
    latent_channels: int
    gaussians_per_cell: int
    picture_size: int = Field(description="of the pictures that Gaussians are compared with, in pixels")


class SlatMeshStage(SlatStage):
    """Mesh decoder; its group norms need model_channels to be a multiple of 256."""


class SlatTeacherStage(TeacherStage):
    io_channels: int
    cond_channels: int
    cond_layers: int


class SamplerSection(Section):
    steps: int = Field(gt=0)
    cfg_strength: float
    cfg_interval: tuple[float, float]
    rescale_t: float


class SecondStage(Section):
    """How the second stage of a world is made, and the extractors of whole assets."""

    assets: int = Field(gt=0, description="the first of the toys")
    looks: LooksSection
    slat_vae: SlatVaeStage
    slat_mesh: SlatMeshStage
    slat_teacher: SlatTeacherStage
    appearance: FeatureStage
    asset_dual_encoder: FeatureStage
    slat_sampler: SamplerSection


class Pretrain(Section):
    """How a world is made."""

    assets: int = Field(gt=0)
    held_out: int = Field(gt=0)
    preparation: PreparationSection
    window: Window
    observation: ObservationSection
    vae: VaeStage
    conditioner: ConditionerStage
    teacher: TeacherStage
    picture_classifier: FeatureStage
    points_classifier: FeatureStage
    dual_encoder: FeatureStage
    sampler: SamplerSection
    second: SecondStage | None = Field(
        default=None, description="whole assets; without it, a world of structures alone"
    )


class Config(Section):
    """All that decides a result. `methods` holds changed parameters, by method name, for both stages."""

    world: str
    data: Data
    train: Train
    slat: Train | None = Field(default=None, description="training of the second stage; without it, structures alone")
    evaluate: Evaluate
    sweep: Sweep = Sweep()
    pretrain: Pretrain | None = None
    methods: dict[str, dict[str, Any]] = Field(default_factory=dict)

    @property
    def first_stage(self) -> Config:
        """The same for structures alone."""
        return self.model_copy(update={"slat": None})


def preset_names() -> list[str]:
    return sorted(Path(entry.name).stem for entry in PRESETS.iterdir() if entry.name.endswith(".toml"))


def load_config(preset: str, changes: list[str] | None = None) -> Config:
    """The configuration of a preset (a shipped name or a .toml file) with `key.sub=value` changes applied.

    Raises:
        UsageError: unknown or unreadable preset, unknown key, value of the wrong type, or a preset without a world.
    """
    given = {*read_preset(preset), *(change.partition("=")[0].strip() for change in changes or [])}
    if "world" not in given:
        raise UsageError(
            f"Preset '{preset}' names no world of networks - presets like tiny and smoke do - choose one of those, or "
            "use it with `mdtbench run`."
        )
    return load_as(Config, preset, changes or [])


def load_as(model: type[Model], preset: str, changes: Sequence[str]) -> Model:
    """As `load_config`, of presets with other tables."""
    values = read_preset(preset)
    for change in changes:
        apply_change(values, change)
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise _explained(error, preset, model) from error


def read_preset(preset: str) -> dict[str, Any]:
    path = Path(preset) if preset.endswith(".toml") else PRESETS / f"{preset}.toml"
    if not path.is_file():
        raise unknown_name("preset", preset, preset_names(), "Or give the path of a .toml file.")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"Preset {path} cannot be read ({error}). Correct the file.") from error


def apply_change(values: dict[str, Any], change: str) -> None:
    key, equals, text = change.partition("=")
    if not equals or not key.strip():
        raise UsageError(f"--set takes key=value (got '{change}'), for example --set train.steps=100.")
    *parents, last = key.strip().split(".")
    table = values
    for parent in parents:
        table = table.setdefault(parent, {})
        if not isinstance(table, dict):
            raise UsageError(f"--set {change}: '{parent}' is a value, not a table of keys.")
    table[last] = _value(text.strip())


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text  # a bare word is a string: --set world=tiny


def _explained(error: ValidationError, preset: str, model: type[BaseModel]) -> UsageError:
    first = error.errors()[0]
    path = [str(part) for part in first["loc"]]
    if first["type"] == "extra_forbidden":
        return unknown_name("key", ".".join(path), _keys_beside(path, model), f"Preset '{preset}' or --set.")
    got = f" (got {first['input']!r})" if not isinstance(first["input"], dict) else ""
    return UsageError(f"{'.'.join(path)}: {first['msg']}{got}. Correct it in preset '{preset}' or with --set.")


def _keys_beside(path: list[str], model: type[BaseModel]) -> list[str]:
    """The allowed keys in the table that the last part of `path` was put in, as dotted keys."""
    for part in path[:-1]:
        if part.isdecimal():  # the place in a list of tables
            continue
        annotation = model.model_fields[part].annotation
        options = getattr(annotation, "__args__", (annotation,))
        model = next(option for option in options if isinstance(option, type) and issubclass(option, BaseModel))
    prefix = "".join(f"{part}." for part in path[:-1])
    return [prefix + name for name in model.model_fields]
