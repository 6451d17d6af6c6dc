"""Configuration: presets in TOML, changed by `--set key=value`, checked before anything runs."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ...base.errors import UsageError, unknown_name
from ...base.limits import Limits
from ...base.parsing import BeyondLimits, parse_toml
from ..protocol.values import Stage

PRESETS = files("mdtbench.harness") / "presets"
WORLDS = Path(str(files("mdtbench.harness"))) / "worlds"


SHORT = {"protocol": "protocol.name"}  # of --set
Model = TypeVar("Model", bound=BaseModel)
Budget = Literal["steps", "forwards", "seconds"]
Precision = Literal["float32", "bfloat16", "float16"]
Attention = Literal["auto", "varlen", "xformers", "sdpa"]
Convolution = Literal["auto", "ours", "spconv"]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ProtocolSection(Section):
    """What is measured, and by which networks.

    extractors: official: published weights; random: the same networks with seeded noise, to try a run out. columns:
    all adds the protocol's secondary ones.
    """

    name: str = Field(default="tiny-v3", description="a protocol, NAME+VARIANT, or a .toml file")
    extractors: Literal["official", "random"] = "official"
    seed: int = Field(default=0, ge=0, description="of random extractors")
    columns: Literal["main", "all"] = "main"


class Data(Section):
    train: int = Field(default=512, gt=0, description="procedural toys to distil on, without latents")
    test: int = Field(default=48, gt=1, description="procedural toys to evaluate on")
    seed: int = 0
    latents: tuple[str, ...] = Field(default=(), description="folders in TRELLIS' layout on disk to distil on")


class Places(Section):
    """Where things lie on this machine; no result depends on it."""

    weights: str = "~/.cache/mdtbench/weights"
    downloads: str = Field(default="", description="what to download: a name in the shipped list, or a .toml list")
    test: str = Field(default="", description="test assets: toys4k:FOLDER, a folder of meshes, NAME:TEXT of a plug-in")
    conditions: str = Field(default="", description="folder of RGBA pictures by asset id; made here by default")
    blender: str = ""


class Gpu(Section):
    """Whose code computes on a GPU; nothing of it counts on a CPU. `mdtbench doctor` says what is in use, and why."""

    attention: Attention = Field(
        default="auto",
        description="among voxels: varlen, torch's kernel for ragged sequences; xformers; sdpa, padded; auto: varlen "
        "where it can, else sdpa",
    )
    convolution: Convolution = Field(default="auto", description="among voxels: ours or spconv; auto: ours")


class Train(Section):
    steps: int = Field(gt=0)
    batch: int = Field(gt=0)
    warmup: int = Field(default=10, ge=0)
    ema: float = Field(default=0.99, ge=0, lt=1)
    clip: float = Field(default=1.0, gt=0)
    t_min: float = Field(default=0.01001, gt=0, lt=1)
    lr: float | None = Field(default=None, gt=0, description="of all methods but those whose table [methods.X] has one")
    schedule: Literal["cosine", "constant"] = Field(default="cosine", description="of rates after the warm-up")
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = Field(
        default=(0.9, 0.99), description="of AdamW"
    )
    budget: Budget = Field(default="steps", description="what methods get equal amounts of")
    more_ema: tuple[Annotated[float, Field(ge=0, lt=1)], ...] = Field(
        default=(), description="further averages to keep"
    )
    clip_percentile: float | None = Field(
        default=None, gt=0, le=100, description="clip at this percentile of recent norms"
    )
    parts: int = Field(
        default=1, gt=0, description="of a batch, each with draws of its own; one after the other or shared by --ranks"
    )
    precision: Precision = "float32"
    checkpoint_blocks: bool = Field(
        default=False, description="recompute activations in the backward pass, to save memory"
    )
    compile_blocks: bool = Field(
        default=False, description="compile the networks' blocks: minutes to begin, faster steps, other rounding"
    )
    lockstep: int | None = Field(
        default=None, gt=0, description="students that share a process and the teacher's passes; all by default"
    )


class Evaluate(Section):
    methods: tuple[str, ...] = Field(default=("cm", "pcm", "scm", "vm", "mdt"), description="where no line names any")
    steps: tuple[Annotated[int, Field(gt=0)], ...] = Field(default=(1, 2), min_length=1)
    seeds: tuple[int, ...] = Field(default=(), description="generation seeds; the protocol's by default")
    batch: int = Field(default=8, gt=0, description="assets handed to a GPU at a time; a CPU takes one")
    samplers: tuple[str, ...] = Field(
        default=(), description="samplers that students are reported with beside the protocol's"
    )
    whole: int | None = Field(default=None, gt=1, description="how many test assets are made whole; None: all")
    apart: tuple[int, ...] = Field(
        default=(), description="generation seeds of which one stage is also left to the teacher"
    )
    apart_steps: tuple[Annotated[int, Field(gt=0)], ...] = Field(
        default=(), description="at which of `steps` that is done; none: at all"
    )


class Sweep(Section):
    """Settings for every method, the best of which is chosen on validation assets. A stage without any is not swept."""

    lr: tuple[Annotated[float, Field(gt=0)], ...] = Field(default=(), description="learning rates of structures")
    slat_lr: tuple[Annotated[float, Field(gt=0)], ...] = Field(default=(), description="of the second stage")
    cfg_strength: tuple[Annotated[float, Field(ge=0)], ...] = Field(
        default=(), description="of the teacher that students follow; a method's own by default"
    )
    methods: tuple[str, ...] = Field(default=(), description="that are swept; all by default")
    metric: str = Field(default="MSE_teacher", description="of structures: the best value at the fewest steps wins")
    slat_metric: str = Field(default="MSE_slat", description="of the second stage, on the teacher's structures")
    halving: int = Field(
        default=1, gt=0, description="settings are tried for one in so many training steps, and the best trains for all"
    )
    assets: int = Field(default=64, gt=1, description="validation assets that each student of the grid is measured on")
    seed: int = Field(default=0, description="training and generation seed of the grid")

    def rates(self, stage: str) -> tuple[float, ...]:
        return self.lr if stage == "structure" else self.slat_lr


class Tolerance(Section):
    """How far a line may lie from the published one: its FDs relative to them, its ULIP_I absolutely."""

    fd_relative: float = Field(gt=0)
    ulip_absolute: float = Field(gt=0)


class LineSection(Section):
    """A line of the tables. optional: only where --methods names it. tolerance: of a line that the paper has."""

    method: str
    steps: int = Field(gt=0, description="per stage")
    optional: bool = False
    tolerance: Tolerance | None = None

    @property
    def name(self) -> str:
        return self.method.partition(":")[0]


class Machine(Section):
    """What a machine does: seconds of a forward pass of one sample and stage, or peak and the share it achieves.

    memory_gb: what a training step must fit (`mdtbench bench memory`).
    """

    name: str
    structure_s: float | None = Field(default=None, gt=0)
    slat_s: float | None = Field(default=None, gt=0)
    peak_tflops: float | None = Field(default=None, gt=0)
    share: float = Field(default=1.0, gt=0, le=1)
    memory_gb: float | None = Field(default=None, gt=0)


class Estimate(Section):
    """What --dry-run reckons with; nothing else depends on it. Seconds are of one process of each machine."""

    machine: tuple[Machine, ...] = ()
    measured: str = Field(default="", description="a file of `mdtbench bench gpu --out`: a further machine, measured")
    structure_s: float = Field(default=0.083, gt=0, description="to decode and measure one structure")
    asset_s: float = Field(default=0.5, gt=0, description="to decode and measure one whole asset")
    condition_s: float = Field(default=0.0, ge=0, description="to make the pictures of one test asset")
    voxels: int = Field(default=20000, gt=0)
    tokens: int = Field(default=4700, gt=0)
    latents: int = Field(default=0, ge=0, description="training assets on disk")
    latent_views: int = Field(default=24, ge=0)
    picture_mb: float = Field(default=0.6, ge=0)


class PreparationSection(Section):
    resolution: int = Field(gt=0)
    image_size: int = Field(gt=0)
    views: int = Field(gt=0)
    yaw_deg: tuple[float, float]
    pitch_deg: tuple[float, float]


class ObservationSection(Section):
    picture_size: int = Field(gt=0)
    points: int = Field(gt=0)


class LooksSection(Section):
    """How whole assets were looked at while a world's extractors learnt: side and size of pictures, points."""

    resolution: int = Field(gt=0)
    picture_size: int = Field(gt=0)
    points: int = Field(gt=0)


class Part(Section):
    """The training of one network of a world."""

    steps: int = Field(gt=0)
    batch: int = Field(gt=0)
    lr: float = Field(gt=0)


class VaePart(Part):
    kl: float
    channels: tuple[int, ...]
    latent_channels: int


class TransformerPart(Part):
    matrix_lr: float = Field(
        default=0.0, ge=0, description="peak rate of Muon for the blocks' matrices; 0: AdamW for all"
    )


class ConditionerPart(TransformerPart):
    channels: int
    layers: int


class TeacherPart(TransformerPart):
    model_channels: int
    patch_size: int = Field(default=2, gt=0)
    num_blocks: int
    num_heads: int
    drop_condition: float
    time_mean: float = Field(description="of the logit-normal density of training times")
    time_std: float = Field(gt=0)


class FeaturePart(Part):
    dim: int


class SlatPart(TransformerPart):
    model_channels: int
    num_blocks: int
    num_heads: int


class SlatVaePart(SlatPart):
    kl: float
    latent_channels: int
    gaussians_per_cell: int
    picture_size: int = Field(description="of the pictures that Gaussians are compared with, in pixels")


class SlatMeshPart(SlatPart):
    """Mesh decoder; its group norms need model_channels to be a multiple of 256."""


class SlatTeacherPart(TeacherPart):
    io_channels: int
    cond_channels: int
    cond_layers: int


class SamplerSection(Section):
    steps: int = Field(gt=0)
    cfg_strength: float
    cfg_interval: tuple[float, float]
    rescale_t: float


class SecondRecipe(Section):
    """How the second stage of a world is made, and the extractors of whole assets."""

    assets: int = Field(gt=0, description="the first of the toys")
    looks: LooksSection
    slat_vae: SlatVaePart
    slat_mesh: SlatMeshPart
    slat_teacher: SlatTeacherPart
    appearance: FeaturePart
    asset_dual_encoder: FeaturePart
    slat_sampler: SamplerSection


class Pretrain(Section):
    """How a world is made."""

    assets: int = Field(gt=0)
    held_out: int = Field(gt=0)
    preparation: PreparationSection
    observation: ObservationSection
    vae: VaePart
    conditioner: ConditionerPart
    teacher: TeacherPart
    picture_classifier: FeaturePart
    points_classifier: FeaturePart
    dual_encoder: FeaturePart
    sampler: SamplerSection
    second: SecondRecipe | None = Field(
        default=None, description="whole assets; without it, a world of structures alone"
    )


class Config(Section):
    """All that decides a result. `methods` holds changed parameters, by method name, for both stages.

    `released` names folders of published students below `places.weights`, by the label of their lines.
    """

    world: str
    protocol: ProtocolSection = ProtocolSection()
    data: Data = Data()
    places: Places = Places()
    gpu: Gpu = Gpu()
    limits: Limits = Limits()
    train: Train
    slat: Train | None = Field(default=None, description="training of the second stage; without it, structures alone")
    evaluate: Evaluate = Evaluate()
    sweep: Sweep = Sweep()
    line: tuple[LineSection, ...] = ()
    released: dict[str, str] = Field(default_factory=dict)
    estimate: Estimate = Estimate()
    pretrain: Pretrain | None = None
    methods: dict[str, dict[str, Any]] = Field(default_factory=dict)

    @property
    def first_stage(self) -> Config:
        """The same for structures alone."""
        return self.model_copy(update={"slat": None})

    def stage(self, name: Stage) -> Train:
        """Training of a stage. Raises UsageError for the second one of a preset without it."""
        if name == "structure":
            return self.train
        if self.slat is None:
            raise UsageError("There is no [slat] table that says how to train the second stage. Add one.")
        return self.slat.model_copy(update={"budget": self.train.budget})  # what is equal is equal in both stages


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
        return parse_toml(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"Preset {path} cannot be read ({error}). Correct the file.") from error


def apply_change(values: dict[str, Any], change: str) -> None:
    key, equals, text = change.partition("=")
    if not equals or not key.strip():
        raise UsageError(f"--set takes key=value (got '{change}'), for example --set train.steps=100.")
    *parents, last = SHORT.get(key.strip(), key.strip()).split(".")
    table = values
    for parent in parents:
        table = table.setdefault(parent, {})
        if not isinstance(table, dict):
            raise UsageError(f"--set {change}: '{parent}' is a value, not a table of keys.")
    table[last] = _value(text.strip())


def _value(text: str) -> Any:
    try:
        return parse_toml(f"value = {text}")["value"]
    except BeyondLimits as error:
        raise UsageError(f"--set: the value {text[:20]}... cannot be read ({error}). Correct it.") from error
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
