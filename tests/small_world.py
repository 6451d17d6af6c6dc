"""The networks of `small_stage` as a world on disk, with a protocol of few pixels, and plans for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from inprocess import in_process
from small_stage import FINE, IMAGE, NETWORKS, STRUCTURE_NETWORKS, small_pipeline, small_structure_pipeline

from mdtbench.harness.driver.measuring import Measuring, extractor_names
from mdtbench.harness.driver.planning import RunOptions, make_plan
from mdtbench.harness.driver.students import Weights
from mdtbench.harness.engine.engine import Engine
from mdtbench.harness.inputs.subjects import open_tests, shows_of
from mdtbench.harness.inputs.world import write_world_file
from mdtbench.harness.measure.extractors import extractors_of
from mdtbench.harness.plan.plan import Plan
from mdtbench.metrics.extractors import EXTRACTORS
from mdtbench.trellis.pipeline import (
    CONDITIONER,
    DECODER,
    ENCODER,
    FLOW,
    SAMPLER,
    SLAT_FLOW,
    SLAT_SAMPLER,
    SamplerParams,
    write_pipeline,
)
from mdtbench.trellis.slat_pipeline import (
    GAUSSIAN_DECODER,
    MESH_DECODER,
    NORMALISATION,
    SLAT_CONDITIONER,
    SLAT_ENCODER,
    SlatPipeline,
)
from mdtbench.trellis.weights import save_checkpoint

PIXELS, POINTS = 16, 32  # of pictures and surfaces that extractors see
STEPS = 3  # of the teacher
KEYS = {"flow": FLOW, "encoder": ENCODER, "decoder": DECODER, "conditioner": CONDITIONER}
SLAT_KEYS = {
    "flow": SLAT_FLOW,
    "encoder": SLAT_ENCODER,
    "gaussian_decoder": GAUSSIAN_DECODER,
    "mesh_decoder": MESH_DECODER,
    "conditioner": SLAT_CONDITIONER,
}
LOOKERS: dict[str, tuple[str, dict[str, Any]]] = {
    "tiny2d": ("PictureClassifier", {"image_size": PIXELS, "dim": 16, "categories": 3}),
    "tiny3d": ("PointsClassifier", {"resolution": FINE, "dim": 8, "categories": 3}),
    "tiny_rgb": ("AppearanceNetwork", {"image_size": PIXELS, "dim": 16, "categories": 3}),
    "ulip_tiny": ("DualEncoder", {"image_size": IMAGE, "dim": 8}),
    "ulip_tiny_mesh": ("DualEncoder", {"image_size": IMAGE, "dim": 8, "colour": True}),
}


def small_world(folder: Path) -> Path:
    """A complete world; a few percent of the cells of its structures are filled."""
    structure, second = small_structure_pipeline(), small_pipeline()
    with torch.no_grad():
        structure.decoder.out_layer[-1].bias -= 1.0
    models = _stored(folder, structure, STRUCTURE_NETWORKS, KEYS) | _stored(folder, second, NETWORKS, SLAT_KEYS)
    conditioners = {key: models.pop(key) for key in (CONDITIONER, SLAT_CONDITIONER)}
    params = asdict(SamplerParams(STEPS, 1.0, (0.0, 1.0), 1.0))
    write_pipeline(folder, models, {SAMPLER: params, SLAT_SAMPLER: params}, **conditioners, **_normalisation(second))
    for seed, (name, (kind, args)) in enumerate(LOOKERS.items()):
        config = {"name": kind, "args": args}
        save_checkpoint(folder / "ckpts" / name, EXTRACTORS.create(kind, args, seed=seed), config)  # type: ignore[arg-type]
    preparation = {
        "resolution": FINE, "image_size": IMAGE, "views": 1, "yaw_deg": (30.0, 150.0), "pitch_deg": (10.0, 35.0)
    }  # fmt: skip
    sections = {"preparation": preparation}
    write_world_file(folder, "small", sections, {name: f"ckpts/{name}" for name in LOOKERS})
    (folder / "small.toml").write_text(_small_protocol(), encoding="utf-8")
    return folder


def _stored(folder: Path, pipeline: object, networks: dict, keys: dict[str, str]) -> dict[str, str]:
    """Checkpoints by their keys in pipeline.json."""
    for name, (kind, args) in networks.items():
        save_checkpoint(folder / "ckpts" / keys[name], getattr(pipeline, name), {"name": kind, "args": args})
    return {key: f"ckpts/{key}" for key in keys.values()}


def _normalisation(pipeline: SlatPipeline) -> dict[str, Any]:
    return {NORMALISATION: {"mean": pipeline.mean.tolist(), "std": pipeline.std.tolist()}}


def _small_protocol() -> str:
    """tiny-v3 with small pictures and few points; without the law of colours, whose grid is finer than this world's."""
    text = (files("mdtbench.harness") / "protocol" / "tiny-v3.toml").read_text(encoding="utf-8")
    for before, after in (
        ("values.resolution = 64", f"values.resolution = {PIXELS}"),
        ("values.points = 1024", f"values.points = {POINTS}"),
        ('"valid_rgb", "IoU_law_rgb", "coverage_rgb", ', ""),
    ):
        assert text.count(before) == 1
        text = text.replace(before, after)
    return text


def small_plan(world: Path, *changes: str, methods: Sequence[str] = ("none",), cache: Path, **options: Any) -> Plan:
    """Of four toys and both stages, at one step. changes: as of --set; options: of `RunOptions`."""
    usual = (f"world={world}", f"protocol.name={world / 'small.toml'}", "data.test=4", "evaluate.steps=[1]")
    settings = (*usual, "evaluate.seeds=[0]", "evaluate.whole=3", *changes)
    return make_plan(RunOptions("smoke", tuple(methods), changes=settings, device="cpu", **options), cache)


def opened(plan: Plan, root: Path, engine: Engine | None = None) -> Measuring:
    """The test assets prepared, in ROOT/cache; what cells make goes into ROOT/store."""
    cache, places, engine = root / "cache", plan.config.places, engine or in_process()[0]
    shows = shows_of(places, plan.test, plan.world.file, [])
    tests = open_tests(
        plan.test, shows, plan.world.file, plan.protocol, cache, engine,
        limit=plan.limit, occupancy=plan.needs_occupancy,
    )  # fmt: skip
    extractors = extractors_of(extractor_names(plan.metrics), plan.config.protocol, plan.world, root, plan.device)
    weights = Weights(root, root, plan.world.folder, average=False)
    return Measuring(plan, root / "store", cache, tests, None, {}, extractors, weights)
