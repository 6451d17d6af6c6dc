"""The columns of an evaluation: what one network after the other sees of both sides, and the values of that.

Shapes: N assets, V views, E embedding.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from ..cache import Store
from ..progress import Reporter
from .conditions import ConditionLook
from .features import Seen, Tower, features
from .looks import BLACK, Cloud, Look, Studio, SurfaceLook, pictures_of, points_of
from .options import CONDITION, GENERATED
from .plan import Pair, Plan
from .scores import (
    MANIFOLD_OF,
    Value,
    clip_value,
    control_values,
    distance_values,
    kept,
    needed_for_infinity,
    ulip_value,
)
from .spool import Spooled

SHORT = 16  # digits of a digest in a version


@dataclass(frozen=True)
class Side:
    """One representation of what the system made, in the order of the pairs.

    Attributes:
        suffix: of its columns.
        looks: black where there is nothing.
        ok: [N] bool.
    """

    suffix: str
    looks: tuple[Look, ...]
    ok: NDArray[np.bool_]

    @property
    def n_ok(self) -> int:
        return int(self.ok.sum())


@dataclass(frozen=True)
class Shown:
    """The pictures that the assets were made from, in the order of the pairs; None where there is none to use.

    Attributes:
        sha256: of them all.
        ok: [N] bool.
    """

    looks: tuple[ConditionLook | None, ...]
    sha256: str

    @property
    def ok(self) -> NDArray[np.bool_]:
        return np.array([look is not None for look in self.looks])


def distances(
    plan: Plan, ending: str, tower: Tower, pairs: Sequence[Pair], sides: Sequence[Side], store: Store, report: Reporter
) -> tuple[list[Value], str]:
    """Values of one kind of features; why there is no FD_inf, or ""."""
    truth = tuple(pair.truth for pair in pairs)
    studio, kernel = plan.studio, plan.protocol.values.fd.kernel
    seen = _seen(studio, {*truth, *(look for side in sides for look in side.looks)}, store)
    found = features(tower, seen, store, report, f"features {ending}")
    real = found.of(_digests(studio, truth))
    views, dim = real.shape[1:]
    count = len(pairs) * views
    few = f"FD_{ending}: {count} pictures, fewer than its {dim} features: dominated by bias" if count < dim else ""
    values: list[Value] = []
    for side in sides:
        with_manifold = ending == MANIFOLD_OF and side is sides[0]
        inputs = {
            "extractor": tower.version,
            "columns": [ending, side.suffix],
            "reference": _digests(studio, truth),
            "made": _digests(studio, side.looks),
            "kernel": kernel.model_dump(mode="json"),
            "manifold": with_manifold,
        }
        made = found.of(_digests(studio, side.looks))
        given = (ending, side.suffix, real.rows, made.rows, kernel)
        compute = partial(distance_values, *given, views=views, with_manifold=with_manifold)
        for name, distance in kept(store, inputs, compute).items():
            unit = "x100" if name.startswith("KD") else ""
            note = few if name.startswith("FD") else ""
            values.append(Value(name, distance.value, side.n_ok, tower.version, unit, distance.error, note))
    needed = needed_for_infinity(dim, views)
    return values, f"no FD_inf_{ending}: {needed} pictures are needed, there are {count}" if count < needed else ""


def agreement(
    plan: Plan,
    pairs: Sequence[Pair],
    meshes: Side | None,
    sides: Sequence[Side],
    shown: Shown | None,
    store: Store,
    report: Reporter,
) -> tuple[list[Value], dict[str, Value]]:
    """ULIP_I of the system, if it makes meshes, and of the controls by name."""
    truth, made = _points(plan, pairs, meshes, store, report)
    of_truth, of_system, seen = _ulip_pictures(plan, pairs, sides, shown, store, report)
    versions = f"{plan.towers.ulip_pictures.version} {plan.towers.ulip_points.version}"
    if plan.ulip.views == CONDITION and shown:
        versions += f" conditions:{shown.sha256[:SHORT]}"
    controls = control_values(of_truth, truth, seen, versions)
    if not meshes:
        return [], controls
    ok = meshes.ok & (sides[0].ok if plan.ulip.views == GENERATED else seen)
    return [ulip_value(of_system, made, ok, versions)], controls


def _points(
    plan: Plan, pairs: Sequence[Pair], meshes: Side | None, store: Store, report: Reporter
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """[N, E] of the reference's and the system's meshes, 0 where there is none."""
    made = meshes.looks if meshes else (BLACK,) * len(pairs)
    placed = [(look, plan.cloud(pair)) for look, pair in zip(made, pairs, strict=True)]
    surfaces = {i: (look, cloud) for i, (look, cloud) in enumerate(placed) if isinstance(look, SurfaceLook)}
    truth = [(pair.truth, plan.cloud(pair)) for pair in pairs]
    seen = [
        Seen(look.cloud_address(cloud), partial(_batch_of_points, look, cloud, store))
        for look, cloud in (*truth, *surfaces.values())
    ]
    found = features(plan.towers.ulip_points, seen, store, report, "ULIP, points")
    of_truth = found.of(look.cloud_address(cloud).digest for look, cloud in truth)[:, 0]
    of_made = np.zeros_like(of_truth)
    if surfaces:
        digests = (look.cloud_address(cloud).digest for look, cloud in surfaces.values())
        of_made[list(surfaces)] = found.of(digests)[:, 0]
    return of_truth, of_made


def _ulip_pictures(
    plan: Plan, pairs: Sequence[Pair], sides: Sequence[Side], shown: Shown | None, store: Store, report: Reporter
) -> tuple[Spooled, Spooled, NDArray[np.bool_]]:
    """[N, V, E] that the controls' and the system's meshes are compared with, and [N] whether the controls' are there.

    Views of the generated asset say nothing of the reference's mesh, so then its own views stand in for them.
    """
    tower = plan.towers.ulip_pictures
    if shown and plan.ulip.views == CONDITION:
        pictures = _of_conditions(tower, shown, store, report, "ULIP, pictures", on_black=plan.ulip.on_black)
        return pictures, pictures, shown.ok
    truth = tuple(pair.truth for pair in pairs)
    made = sides[0].looks if sides and plan.ulip.views == GENERATED else truth
    found = features(tower, _seen(plan.studio, {*truth, *made}, store), store, report, "ULIP, pictures")
    of_truth, of_system = (found.of(_digests(plan.studio, looks)) for looks in (truth, made))
    return of_truth, of_system, np.ones(len(pairs), bool)


def clip(plan: Plan, sides: Sequence[Side], shown: Shown | None, store: Store, report: Reporter) -> list[Value]:
    """The CLIP score of each representation; nothing without condition images."""
    tower, studio = plan.towers.clip, plan.clip_studio
    if not (tower and studio and shown):
        return []
    versions = f"{tower.version} conditions:{shown.sha256[:SHORT]}"
    conditions = _of_conditions(tower, shown, store, report, "CLIP, condition images", on_black=True)[:, 0]
    seen = _seen(studio, {look for side in sides for look in side.looks}, store)
    found = features(tower, seen, store, report, "CLIP, views")
    return [
        clip_value(side.suffix, found.of(_digests(studio, side.looks)), conditions, side.ok & shown.ok, versions)
        for side in sides
    ]


def _of_conditions(
    tower: Tower, shown: Shown, store: Store, report: Reporter, label: str, *, on_black: bool
) -> Spooled:
    """[N, 1, E], anything where there is no picture."""
    there = next(look for look in shown.looks if look)
    looks = [look or there for look in shown.looks]
    seen = [Seen(look.address(on_black=on_black), partial(look.read, on_black=on_black)) for look in looks]
    return features(tower, seen, store, report, label).of(one.address.digest for one in seen)


def _seen(studio: Studio, looks: Iterable[Look], store: Store) -> list[Seen]:
    by_digest = {look.address(studio).digest: look for look in looks}
    return [
        Seen(by_digest[digest].address(studio), partial(pictures_of, by_digest[digest], studio, store))
        for digest in sorted(by_digest)
    ]


def _digests(studio: Studio, looks: Iterable[Look]) -> list[str]:
    return [look.address(studio).digest for look in looks]


def _batch_of_points(look: SurfaceLook, cloud: Cloud, store: Store) -> NDArray[np.float32]:
    return points_of(look, cloud, store)[None]
