"""Plans of runs with a second stage."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mdtbench.assets.toys import ToySource
from mdtbench.harness.config import load_config
from mdtbench.harness.plan import Plan, resolve
from mdtbench.trellis.pipeline import SamplerParams

SAMPLER = SamplerParams(steps=25, cfg_strength=2.0, cfg_interval=(0.0, 1.0), rescale_t=1.0)
SLAT_SAMPLER = SamplerParams(steps=12, cfg_strength=1.0, cfg_interval=(0.0, 0.5), rescale_t=3.0)
SLAT = ("slat.steps=15", "slat.batch=4")  # the table [slat], without which there is no second stage


def asset_plan(
    *changes: str,
    methods: Sequence[str] = ("cm", "vm"),
    train_seeds: Sequence[int] = (0,),
    limit: int | None = None,
    world_sha: str = "w",
    slat_sampler: SamplerParams | None = SLAT_SAMPLER,
    slat: Sequence[str] | None = SLAT,
) -> Plan:
    config = load_config("smoke", [*(slat or ()), *changes])
    test = ToySource("test", config.data.test, config.data.seed)
    config = config.first_stage if slat is None else config
    return resolve(config, methods, train_seeds, test, limit, Path("world"), world_sha, SAMPLER, slat_sampler)
