"""How good a world's teacher is: its full sampler against one step, on toys that it was not trained on."""

from __future__ import annotations

from collections.abc import Mapping

from ...metrics import METRICS, Comparison
from ..generate import generate
from ..parameters import entrant
from ..prepare import Prepared
from ..references import shown_images, truth_of
from ..world import World

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
