"""What a protocol's values mean for one asset: seeds, view, subset, cameras, network passes."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ...base.errors import UsageError
from ...base.seeds import seed_of
from ...geometry.cameras import Camera, orbit
from .values import Condition, SamplerValues, Stage, Values

if TYPE_CHECKING:  # torch is slow to import, and `mdtbench show` does without it
    from ...flow.samplers import Euler

SHA256 = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class Identity:
    """An asset as seeds know it. sha256: of its file, or its id where that is one."""

    id: str
    sha256: str


NOISE_NAMES: dict[Stage, str] = {"structure": "sample", "slat": "slat sample"}
POINTS_NAMES = {"structure": "points", "assets": "surface points"}


def asset_seed(values: Values, asset_sha256: str, run_seed: int) -> int:
    """Seed of an asset in the run `run_seed` under the rule "digits"; below 16^hex_digits.

    Raises:
        UsageError: `asset_sha256` is not 64 lower-case hexadecimal digits; so for the other rules.
    """
    text = f"{values.seeds.prefix}{_checked(asset_sha256)}/{run_seed}"
    return int(hashlib.sha256(text.encode()).hexdigest()[: values.seeds.hex_digits], 16)


def noise_seed(values: Values, asset: Identity, run_seed: int, stage: Stage) -> int:
    """Seed of the noise of one stage, whatever the method."""
    if values.seeds.rule == "named":
        return seed_of(NOISE_NAMES[stage], asset.id, run_seed)
    offset = {"structure": values.seeds.noise_offset_structure, "slat": values.seeds.noise_offset_slat}[stage]
    return asset_seed(values, asset.sha256, run_seed) + offset


def points_seed(values: Values, asset: Identity, run_seed: int, level: Literal["structure", "assets"]) -> int:
    """Seed of the points on a surface: of a structure's cells, or of a whole asset's mesh."""
    if values.seeds.rule == "named":
        return seed_of(POINTS_NAMES[level], asset.id)
    return asset_seed(values, asset.sha256, run_seed)


def cond_render_seed(shown: Condition, asset_sha256: str) -> int:
    """Seed of numpy.random.RandomState for the cameras of an asset's condition renders."""
    return _digits(asset_sha256, shown.seed_hex_digits)


def cond_view(shown: Condition, asset_sha256: str) -> int:
    """Which of an asset's condition renders is shown to every method."""
    return _digits(asset_sha256, shown.view_hex_digits) % shown.views


def select(values: Values, asset_sha256s: Iterable[str]) -> list[str]:
    """The assets of the protocol's subset among all that are usable, each once.

    full: all, sorted. sub1250: those whose sha256(prefix + asset sha256) is smallest, in that order; smoke: the
    first of these. Neither depends on the order of the input.
    """
    every = sorted({_checked(sha) for sha in asset_sha256s})
    if values.assets.subset == "full":
        return every
    size = {"sub1250": values.assets.subset_size, "smoke": values.assets.smoke_size}[values.assets.subset]
    prefix = values.assets.subset_prefix or ""
    return sorted(every, key=lambda sha: hashlib.sha256((prefix + sha).encode()).hexdigest())[:size]


def view_cameras(values: Values) -> tuple[Camera, ...]:
    """The cameras of the FD pictures, in the order of `views.yaw_deg`."""
    views = values.views
    return tuple(orbit(yaw, views.pitch_deg, views.radius, views.fov_deg) for yaw in views.yaw_deg)


def euler(sampler: SamplerValues, stage: Stage, steps: int) -> Euler:
    """The sampler of one stage. `steps` need not be one of the protocol's: a teacher at 1 step is a row too."""
    from ...flow.samplers import Euler

    return Euler(steps, sampler.rescale_t, sampler.cfg_strength(stage), sampler.cfg_interval)


def passes(sampler: SamplerValues, stage: Stage, steps: int) -> int:
    """Forward passes per sample of one stage; a guided step counts two."""
    strengths = euler(sampler, stage, steps).computation().strengths
    return sum(1 if strength == 0 else 2 for strength in strengths)


def _digits(asset_sha256: str, span: tuple[int, int]) -> int:
    return int(_checked(asset_sha256)[slice(*span)], 16)


def _checked(asset_sha256: str) -> str:
    if not SHA256.fullmatch(asset_sha256):
        raise UsageError(
            f"Not the sha256 of an asset (got '{asset_sha256}') - 64 digits 0-9a-f are allowed. "
            "Take it from Toys4k.csv or from the asset's file."
        )
    return asset_sha256
