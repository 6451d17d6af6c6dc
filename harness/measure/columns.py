"""The columns of a run: those that its protocol lists, official ones under the protocol's values, and plug-ins'."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Literal

from ...base.errors import UsageError, unknown_name
from ...metrics import METRICS, Metric
from ...metrics.agreement import Agreement
from ...metrics.contract import check_metric
from ...metrics.distributions import FrechetInfinity, KernelDistance, ManifoldShare
from ...metrics.fd import FrechetDistance
from ...metrics.official.picture_extractors import SPECS
from ...metrics.official.ulip import VARIANTS, Variant
from ..protocol.values import Values
from ..settings.methods import code_digest

OF_PAPER = ("FD_incep", "FD_dinov2", "ULIP_I")  # Tables 1, 2 and 3
SECONDARY = {"fd_incep_clean": "incep_clean", "fd_dinov2_reg518": "dinov2_reg518"}  # extractor -> ending of columns
MANIFOLD_OF = "dinov2"  # the features that precision, recall, density and coverage are of
PICTURES: dict[str, Literal["truth", "condition", "made"]] = {
    "ground-truth views": "truth",
    "condition image": "condition",
    "generated views": "made",
}


def columns_of(values: Values, *, everything: bool, more: Iterable[str] = ()) -> list[Metric]:
    """The columns of a protocol in their order, then those of plug-ins.

    Args:
        everything: with the protocol's secondary ones.
        more: extractors of `SECONDARY` whose distances are wanted as well.
    Raises:
        UsageError: a protocol lists a column that there is not, or has no values for it.
    """
    listed = values.columns
    names = [*listed.structure, *listed.assets, *(listed.secondary if everything else ())]
    if values.fd.generated.representation == "mesh":  # the plain columns are of meshes
        names = [name for name in names if not name.endswith("_mesh") or name.removesuffix("_mesh") not in names]
    official = {one.name: one for one in official_columns(values, more)}
    chosen = [official[name] if name in official else METRICS.get(name).value for name in names]
    chosen += [one for one in official.values() if any(f"_{SECONDARY[extractor]}" in one.name for extractor in more)]
    chosen += [one for one in plugged() if one.name not in names]
    for metric in chosen:
        check_metric(metric)
    return chosen


def plugged() -> Iterator[Metric]:
    """Metrics that are not part of mdtbench."""
    for name in METRICS.names():
        metric = METRICS.get(name).value
        if code_digest(metric):
            yield metric


def official_columns(values: Values, more: Iterable[str] = ()) -> Iterator[Metric]:
    """The columns with official networks, as the protocol's values have them; none where it has no such values."""
    yield from _distances(values, more)
    if values.ulip:
        variant = ulip_variant(values)
        of = PICTURES[variant.views]
        shown = "condition" if variant.on_black else "condition_rgb"
        picture = {"truth": "gaussians", "condition": shown, "made": "gaussians"}[of]
        yield Agreement("ULIP_I", f"points:{variant.points}", f"{picture}:{variant.pictures}", of, "assets")
    if values.clip_score:
        for suffix, look in (("", "gaussians_turn"), ("_mesh", "mesh_turn")):
            thing, shown = (f"{look}:{values.clip_score.extractor}", f"condition:{values.clip_score.extractor}")
            yield Agreement(f"CLIP_score{suffix}", thing, shown, "condition", "assets", controls=())


def ulip_variant(values: Values) -> Variant:
    """Which ULIP_I. Raises UsageError for an unknown one, or a protocol without."""
    if values.ulip is None:
        raise UsageError("This protocol has no ULIP_I. Choose trellis-v1.")
    if values.ulip.variant not in VARIANTS:
        raise unknown_name("variant of ULIP_I", values.ulip.variant, VARIANTS)
    return VARIANTS[values.ulip.variant]


def _distances(values: Values, more: Iterable[str]) -> Iterator[Metric]:
    section = values.fd
    if section.incep is None or section.dinov2 is None or section.kernel is None:
        return
    first = "gaussians" if section.generated.representation == "gaussians" else "mesh"
    looks = {"": first, **({"_mesh": "mesh"} if first == "gaussians" else {})}
    named = {"incep": section.incep.extractor, "dinov2": section.dinov2.extractor}
    named |= {SECONDARY[extractor]: extractor for extractor in more}
    kernel = section.kernel
    distance = partial(KernelDistance, scale=kernel.scale, subsets=kernel.subsets, subset_size=kernel.subset_size)
    for ending, extractor in named.items():
        if extractor not in SPECS:
            raise unknown_name("extractor", extractor, SPECS, "Of the protocol.")
        for suffix, look in looks.items():
            name = f"{ending}{suffix}"
            yield FrechetDistance(f"FD_{name}", look, extractor, "assets", few=f"FD_{ending}")
            yield distance(f"KD_{name}", look, extractor, seed=kernel.seed)
            yield FrechetInfinity(f"FD_inf_{name}", look, extractor, seed=kernel.seed)
        if ending == MANIFOLD_OF:
            for part in ("precision", "recall", "density", "coverage"):
                yield ManifoldShare(f"{part}_{ending}", first, extractor, part=part, controls=())
