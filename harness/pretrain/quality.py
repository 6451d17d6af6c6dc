"""How good a world's teachers are: their full samplers against one step, on toys that they were not trained on."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from ...metrics import ASSET_METRICS, METRICS, Comparison
from ..assemble import assemble, one_voxels, reassemble
from ..asset_jobs import truth_of_seen
from ..generate import generate
from ..parameters import entrant
from ..prepare import Prepared
from ..references import embed_pictures, shown_images, truth_of
from ..world import World
from .data import Objects

# label and steps; the teacher has its own number of steps
ROWS = {"teacher, full sampler": ("teacher", 1), "1 step, guided": ("none:cfg", 1), "1 step": ("none", 1)}


def teacher_quality(world: World, held_out: Prepared) -> Mapping[str, Mapping[str, float]]:
    """Metrics of each of ROWS, one generation seed."""
    shown, truth = shown_images(held_out, world.file.window.share), truth_of(world, held_out)
    against = Comparison(truth.shapes, truth.embedding, None)
    measured = {}
    for title, (label, steps) in ROWS.items():
        sampler = entrant(label, {}, world.pipeline.sampler).method.sampler(steps)
        made = generate(world, world.pipeline.flow, sampler, shown, held_out.ids, 0, 1)
        scores = {name: METRICS.get(name).value.score(made.shapes, against) for name in METRICS.names()}
        measured[title] = {name: score.value for name, score in scores.items() if score is not None}
    return measured


def second_stage_quality(world: World, objects: Objects, held_out: Prepared) -> Mapping[str, Mapping[str, float]]:
    """Metrics of whole assets on true structures, so that they speak of the second stage alone.

    Args:
        objects: the same toys as `held_out`, as they look.
    """
    stage, seen = world.whole, objects.seen
    shown = shown_images(held_out, world.file.window.share)
    against = Comparison(truth_of_seen(stage, seen), embed_pictures(stage.dual, held_out.images[:, 0]), None)
    cells = [seen.cells(i) for i in range(len(held_out.ids))]
    latents = [
        (seen.coords[c], stage.pipeline.encode(torch.from_numpy(seen.features[c]), one_voxels(seen.coords[c])))
        for c in cells
    ]
    made = {"encoder and decoders": reassemble(stage, latents, held_out.ids)}
    for title, (label, steps) in ROWS.items():
        sampler = entrant(label, {}, stage.pipeline.sampler).method.sampler(steps)
        made[title] = assemble(stage, stage.pipeline.flow, sampler, held_out.occupancy, shown, held_out.ids, 0)
    measured = {}
    for title, assembled in made.items():
        scores = {
            name: ASSET_METRICS.get(name).value.score(assembled.assets, against) for name in ASSET_METRICS.names()
        }
        measured[title] = {name: score.value for name, score in scores.items() if score is not None}
    return measured
