"""The typed values of a protocol: what the harness reads, and what its hash covers.

A description of a field says nothing here: what a value means, where it comes from and why it was chosen stand beside
the value in the protocol's TOML file. Units are part of the type and are printed by `mdtbench show protocol`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field


@dataclass(frozen=True)
class Unit:
    """The unit of a number, as it is printed."""

    name: str


Degrees = Annotated[float, Unit("deg")]
Pixels = Annotated[int, Field(gt=0), Unit("px")]
Watts = Annotated[float, Unit("W")]
Millimetres = Annotated[float, Field(gt=0), Unit("mm")]
Length = Annotated[float, Unit("sides of the unit cube")]
Steps = Annotated[int, Field(gt=0), Unit("steps")]
Count = Annotated[int, Field(gt=0)]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Precision = Literal["float32", "float16"]
Stage = Literal["structure", "slat"]
Subset = Literal["full", "sub1250", "smoke"]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Assets(Section):
    source: str
    subset: Subset
    min_alpha_share: float
    samples_per_asset: Count
    min_aesthetic_score: float | None = None
    listed_rows: Count | None = None
    expected_n: Count | None = None
    subset_size: Count | None = None
    subset_prefix: str | None = None
    smoke_size: Count | None = None


class Seeds(Section):
    """rule: "digits" of sha256(prefix + asset sha256 / run seed), or "named": of the draw's name, the id, the seed."""

    rule: Literal["digits", "named"]
    run_seeds: Annotated[tuple[int, ...], Field(min_length=1)]
    noise_generator: Literal["torch cpu"]
    prefix: str = ""
    hex_digits: Annotated[int, Field(gt=0, le=64)] = 8
    noise_offset_structure: int = 0
    noise_offset_slat: int = 0


class Views(Section):
    yaw_deg: Annotated[tuple[float, ...], Field(min_length=1), Unit("deg")]
    pitch_deg: Degrees
    radius: Length
    fov_deg: Degrees
    resolution: Pixels
    background: Literal["black"]


class Light(Section):
    kind: Literal["POINT", "AREA"]
    energy: Watts
    location: tuple[float, float, float]
    scale: float


class GroundTruth(Section):
    renderer: Literal["Blender 3.0.1 Cycles", "Blender 4.5 Cycles", "mdtbench ray caster"]
    samples: Count
    denoise: bool
    seed: int
    filter: Literal["BOX"]
    filter_width: Annotated[float, Unit("px")]
    bounces_diffuse: int
    bounces_glossy: int
    bounces_transparent: int
    bounces_transmission: int
    sensor_mm: Millimetres
    lights: tuple[Light, ...]
    normalisation: Literal["unit cube, centred, z up"]
    image: Literal["RGBA 8 bit PNG, transparent film"]
    compositing: Literal["rgb * alpha in 8-bit sRGB"]
    world: Literal["none", "of the file"]
    view_transform: Literal["Standard", "of the file"]
    look: Literal["None", "of the file"]
    exposure: float
    gamma: float


class Condition(Section):
    views: Count
    placement: str
    fov_deg: Annotated[tuple[float, float], Unit("deg")]
    render_resolution: Pixels
    seed_hex_digits: tuple[int, int]
    view_hex_digits: tuple[int, int]
    max_side: Pixels
    alpha_threshold: float
    crop: float
    resolution: Pixels
    filter: Literal["LANCZOS"]
    background: Literal["black"]
    background_remover: bool
    encoder: str
    tokens: tuple[int, int]
    layer_norm_eps: float
    negative: Literal["zeros"]


class SamplerValues(Section):
    steps: Annotated[tuple[Count, ...], Field(min_length=1), Unit("steps per stage")]
    cfg_strength_structure: float
    cfg_strength_slat: float
    cfg_interval: tuple[float, float]
    rescale_t: float

    def cfg_strength(self, stage: Stage) -> float:
        return {"structure": self.cfg_strength_structure, "slat": self.cfg_strength_slat}[stage]


class Sampling(Section):
    """How networks are sampled. A teacher "of the world" is sampled as its pipeline.json says."""

    guidance: Literal["(1 + s) * cond - s * uncond"]
    teacher: SamplerValues | Literal["of the world"]
    student: SamplerValues | Literal["of the method"]
    weights: Literal["raw", "ema"]
    batch: Count
    precision: Precision


class Generated(Section):
    representation: Literal["gaussians", "mesh"]
    near: Length
    far: Length
    ssaa: Count
    kernel_size: float
    mip: bool
    rounding: Literal["floor(clip(255 x))"]


class PictureFeatures(Section):
    """Features of pictures. extractor: a name in metrics.official."""

    extractor: str
    weights: str
    weights_sha256: Sha256 | Literal["unknown"]
    resolution: Pixels
    resize: str
    input_range: str
    output: str
    dim: Count
    precision: Precision


class Kernel(Section):
    degree: Count
    offset: float
    unbiased: bool
    subsets: Count
    subset_size: Count
    seed: int
    generator: Literal["numpy RandomState"]
    scale: float


class Bootstrap(Section):
    unit: Literal["asset"]
    resamples: Count
    seed: int
    generator: Literal["numpy RandomState"]
    interval: Literal["basic"]
    level: float


class Distances(Section):
    generated: Generated
    precision: Literal["float64"]
    ddof: int
    formula: str
    negative_eigenvalues: Literal["clipped to 0"]
    sqrtm_agreement: float
    failure: Literal["black picture, counted"]
    incep: PictureFeatures | None = None
    dinov2: PictureFeatures | None = None
    kernel: Kernel | None = None
    bootstrap: Bootstrap | None = None


class Surface(Section):
    """Points on surfaces, where the extractors do not say how many themselves."""

    points: Count


class Columns(Section):
    """What is reported, by names of columns: of structures, of whole assets, and on demand."""

    structure: tuple[str, ...]
    assets: tuple[str, ...]
    secondary: tuple[str, ...]


class Ulip(Section):
    variant: str
    mesh: Literal["raw decoder mesh"]
    axes: Literal["(x, z, -y)", "(x, y, z)"]
    points: Count
    surface_sampling: Literal["area-weighted uniform, numpy default_rng(asset_seed)"]
    normalise: bool
    colour: float | Literal["none"]
    network: str
    weights: str
    keys: Count | Literal["unknown"]
    groups: Count
    group_size: Count
    fps_start: int
    pictures: Literal["ground-truth views", "condition image", "generated views"]
    picture_encoder: str
    picture_preprocess: str
    precision: Precision
    half_agreement: float
    scale: float
    failure: Literal["score 0, counted"]
    controls: tuple[str, ...]


class ClipScore(Section):
    yaw_deg: Annotated[tuple[float, ...], Field(min_length=1), Unit("deg")]
    pitch_deg: Degrees
    radius: Length
    fov_deg: Degrees
    scale: float
    extractor: str
    compared: Literal["views of the generated Gaussians with the condition image"]


class Speed(Section):
    stages: tuple[str, ...]
    apart: tuple[str, ...]
    batch: Count
    precision: Precision
    warm_up: Count
    repeats: Count
    statistic: Literal["median"]


class Target(Section):
    fd_incep: float
    fd_dinov2: float
    ulip_i: float


class CalibrationRule(Section):
    steps: Steps
    n: Count
    n_relative: float
    fd_relative: float
    ulip_absolute: float
    target: Target


class Values(Section):
    """All choices of a protocol. The order is that of the printed page."""

    assets: Assets
    columns: Columns
    seeds: Seeds
    views: Views
    sampler: Sampling
    fd: Distances
    speed: Speed
    gt_render: GroundTruth | None = None
    cond_image: Condition | None = None
    surface: Surface | None = None
    ulip: Ulip | None = None
    clip_score: ClipScore | None = None
    calibration: CalibrationRule | None = None


def unit_of(path: str) -> str:
    """Printed unit of the value at a dotted path of `Values`; "" for a pure number or a word."""
    model: type[BaseModel] = Values
    *sections, last = path.split(".")
    for section in sections:
        model = section_of(model.model_fields[section].annotation)
    return next((mark.name for mark in model.model_fields[last].metadata if isinstance(mark, Unit)), "")


def section_of(annotation: Any) -> type[BaseModel]:
    """The model that a field holds, optional or not."""
    options = (annotation, *getattr(annotation, "__args__", ()))
    return next(option for option in options if isinstance(option, type) and issubclass(option, BaseModel))
