"""Configuration of tables at full size: a preset with a table [protocol] in place of a world and toys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from ..config import Section, Train, load_as, read_preset

Rates = Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)]


class ProtocolSection(Section):
    """extractors: official: published weights; random: the same networks with noise, to try a run out."""

    name: str = Field(description="a protocol, or NAME+VARIANT")
    extractors: Literal["official", "random"] = "official"


class Places(Section):
    """Where things lie on this machine; no result depends on it."""

    downloads: str = Field(description="what to download: a name in the shipped list, or a .toml list")
    weights: str
    latents: tuple[str, ...] = ()
    blender: str = ""
    test: str = Field(default="", description="toys4k:FOLDER or a folder of meshes; below the weights by default")
    conditions: str = Field(default="", description="folder of pictures by asset id; by default Blender's of Toys4k")
    keep_assets: int | None = Field(
        default=None, ge=0, description="of a measured cell, so many assets' files stay; all by default"
    )


class Grid(Section):
    """Settings among which each baseline is given the best, per stage, on training assets that are held out."""

    methods: tuple[str, ...]
    lr: Rates
    slat_lr: Rates
    cfg_strength: Annotated[tuple[Annotated[float, Field(ge=0)], ...], Field(min_length=1)]
    assets: int = Field(gt=1)
    seed: int = 0


class Tolerance(Section):
    """How far a row may lie from the published one: its FDs relative to them, its ULIP_I absolutely."""

    fd_relative: float = Field(gt=0)
    ulip_absolute: float = Field(gt=0)


class Row(Section):
    """A line of the tables. method: `name`, `name:variant`, or `name:released` for published students."""

    method: str
    steps: int = Field(gt=0, description="per stage")
    optional: bool = Field(default=False, description="only where --methods names it")
    tolerance: Tolerance | None = Field(default=None, description="where the paper has the row")


class Gpu(Section):
    """share: of the peak that training achieves."""

    name: str
    peak_tflops: float = Field(gt=0)
    share: float = Field(gt=0, le=1)


class Estimate(Section):
    """Assumptions of the estimates; nothing else depends on them. Times in seconds of one GPU per asset."""

    voxels: int = Field(gt=0)
    tokens: int = Field(gt=0)
    latents: int = Field(gt=0)
    latent_views: int = Field(gt=0)
    picture_mb: float = Field(gt=0)
    asset_mb: float = Field(gt=0)
    blender_s: float = Field(gt=0)
    measure_s: float = Field(gt=0)
    gpu: Annotated[tuple[Gpu, ...], Field(min_length=1)]


class TablesConfig(Section):
    """A preset. `methods` holds changed parameters, by method name, for both stages."""

    protocol: ProtocolSection
    places: Places
    train: Train
    slat: Train
    grid: Grid
    row: Annotated[tuple[Row, ...], Field(min_length=1)]
    estimate: Estimate
    methods: dict[str, dict[str, Any]] = Field(default_factory=dict)


def has_protocol(preset: str) -> bool:
    """Whether a preset (a shipped name or a .toml file) is one of tables. Raises UsageError as `load_config`."""
    return "protocol" in read_preset(preset)


def load_tables(preset: str, changes: Sequence[str] = ()) -> TablesConfig:
    """The configuration of tables with `key.sub=value` changes applied.

    Raises:
        UsageError: unknown preset or key, or a value of the wrong type.
    """
    return load_as(TablesConfig, preset, changes)
