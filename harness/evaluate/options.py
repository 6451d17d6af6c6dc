"""What `mdtbench evaluate` was asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ...base.errors import UsageError, unknown_name
from ...metrics.official.picture_extractors import SPECS
from ...metrics.official.ulip import VARIANTS, Variant
from ...results.places import CONTROLS
from ..config import apply_change
from ..protocol.model import Protocol, load_protocol
from ..protocol.values import Values

OWN_RENDERER = "own-renderer"  # the variant of a protocol whose reference pictures are drawn here, not by Blender
CONDITION, GENERATED = "condition image", "generated views"  # of `Variant.views`
SECONDARY = {"fd_incep_clean": "incep_clean", "fd_dinov2_reg518": "dinov2_reg518"}  # extractor -> ending of columns


@dataclass(frozen=True)
class EvaluateOptions:
    """Options of `mdtbench evaluate`, parsed.

    Attributes:
        folder: of the generated assets. reference: of the true meshes, or toys4k:FOLDER; None: `folder` itself.
        conditions: folder of the pictures that the assets were made from; None: nothing is compared with them.
        changes: KEY=VALUE of --set.
        latency: seconds per asset, as the system's authors or user measured them.
        seed: which generation seed the assets are of, for tables of several; decides no value.
        calibrates: these are the teacher's assets, which tell whether this setup gives the published numbers.
        blender: to use; "" for that of MDTBENCH_BLENDER or the path.
        weights: folder of the official files. out: None: named after the system and what decides the numbers.
    """

    folder: Path
    name: str
    reference: Path | None
    conditions: Path | None
    protocol: str
    changes: tuple[str, ...]
    latency: float | None
    seed: int | None
    calibrates: bool
    geometry_only: bool
    steps: int | None
    nfe: int | None
    limit: int | None
    weights: Path
    out: Path | None
    cache: Path
    workers: int
    blender: str = ""


class Settings(BaseModel):
    """The keys of --set.

    Attributes:
        extractors: official: published weights; random: the same networks with seeded noise, to try everything out.
        seed: of that noise. run_seed: of the protocol, for the points on surfaces.
        columns: extractors of `SECONDARY` whose distances are wanted as well.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    extractors: Literal["official", "random"] = "official"
    seed: int = Field(default=0, ge=0)
    run_seed: int = Field(default=0, ge=0)
    columns: tuple[Literal["fd_incep_clean", "fd_dinov2_reg518"], ...] = ()


def read_settings(changes: Sequence[str]) -> Settings:
    """Raises UsageError for an unknown key or a value that it cannot have."""
    values: dict[str, Any] = {}
    for change in changes:
        apply_change(values, change)
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        if first["type"] == "extra_forbidden":
            raise unknown_name("key", key, Settings.model_fields, "Of --set.") from error
        raise UsageError(f"--set {key}: {first['msg']} (got {first['input']!r}). Correct the value.") from error


def checked_name(name: str) -> str:
    """The name of a system. Raises UsageError for one that cannot be a line of a table or part of a folder's name."""
    if name in CONTROLS:
        raise UsageError(
            f"--name {name} is that of a control - any but {', '.join(CONTROLS)} is allowed - name the system."
        )
    if not name.strip() or not name.isprintable() or set(name) & set("/\\"):
        raise UsageError(f"--name takes a name for the table (got '{name}') - no slashes - for example FlashVDM.")
    return name


def chosen_protocol(name: str, renderer: str = OWN_RENDERER) -> Protocol:
    """The protocol, in its variant with the renderer of the reference's pictures; "" for the protocol's own.

    Raises:
        UsageError: unknown, or with an unknown extractor or variant of ULIP_I.
    """
    protocol = load_protocol(name)
    if renderer and renderer not in {variant.name for variant in protocol.applied}:
        protocol = protocol.variant(renderer)
    ulip_variant(protocol.values)
    for extractor in (protocol.values.fd.incep.extractor, protocol.values.fd.dinov2.extractor):
        if extractor not in SPECS:
            raise unknown_name("extractor", extractor, SPECS, f"Protocol '{protocol.name}'.")
    return protocol


def ulip_variant(values: Values) -> Variant:
    """Which ULIP_I. Raises UsageError for an unknown one."""
    name = values.ulip.variant
    if name not in VARIANTS:
        raise unknown_name("variant of ULIP_I", name, VARIANTS)
    return VARIANTS[name]


def check_together(options: EvaluateOptions, variant: Variant) -> None:
    """Raises UsageError where an option needs another one, or nothing that is measured needs it."""
    if options.calibrates and options.steps is None:
        raise UsageError("--calibrates compares the teacher at its published steps, and --steps is not given. Add it.")
    if variant.views == CONDITION and not options.conditions:
        raise UsageError(
            f"ULIP_I '{variant.name}' compares meshes with the condition image, which a folder of assets lacks - "
            "pictures named by asset id are needed - give their folder with --conditions."
        )
    if options.geometry_only and variant.views == GENERATED:
        raise UsageError(
            f"ULIP_I '{variant.name}' compares meshes with pictures of them, and --geometry-only draws none - "
            "one of them is allowed - leave out the other."
        )
    if options.geometry_only and options.conditions and variant.views != CONDITION:
        raise UsageError(
            "--conditions are for CLIP_score, which --geometry-only leaves out, and for variants such as ulip2-cond - "
            "one of them is allowed - leave out the other."
        )
