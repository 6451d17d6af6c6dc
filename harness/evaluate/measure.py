"""The work of an evaluation: pictures and points, what failed, then column by column."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ...base.errors import AssetError, MissingError
from ..cache import Address, Store
from ..pool import Workers
from ..progress import Reporter
from .columns import Shown, Side, agreement, clip, distances
from .conditions import ConditionLook
from .features import Tower, lacks
from .looks import (
    BLACK,
    GaussianLook,
    Look,
    LookJob,
    SurfaceLook,
    coverage_address,
    coverage_of,
    is_kept,
    run_look,
)
from .options import CONDITION, GENERATED
from .plan import NOT_GENERATED, Pair, Plan
from .scores import Value

Map = Callable[[Sequence[LookJob]], list[str]]  # in worker processes: why each failed, or ""


@dataclass(frozen=True)
class Failure:
    """side: generated, reference or conditions. what: mesh, gaussians or picture."""

    side: str
    id: str
    what: str
    reason: str


@dataclass(frozen=True)
class Measured:
    """What came out.

    Attributes:
        pairs: those whose reference can be used.
        system, controls: values, of the controls by name.
        dropped: reference assets that cannot be used, which are on neither side.
        notes: what a reader must know of all columns.
    """

    pairs: tuple[Pair, ...]
    system: tuple[Value, ...]
    controls: dict[str, Value]
    failures: tuple[Failure, ...]
    dropped: tuple[Failure, ...]
    notes: tuple[str, ...] = ()


def measure(plan: Plan, store: Store, report: Reporter, run: Map) -> Measured:
    """All values.

    Args:
        run: does jobs in worker processes; is not called when there are none.
    Raises:
        MissingError: fewer than 2 assets of the reference can be used, or weights are damaged.
    """
    reasons = _look(plan, store, run)
    pairs, dropped = _usable(plan, store, reasons)
    if len(pairs) < 2:
        raise MissingError(
            f"{len(pairs)} of {len(plan.pairs)} assets of the reference can be used; at least 2 are needed. "
            f"First reason: {dropped[0].reason if dropped else 'there are no more'}."
        )
    meshes, mesh_failures = _side("_mesh", "mesh", [(pair.id, pair.mesh) for pair in pairs], reasons)
    gaussians = [(pair.id, None if plan.geometry_only else pair.gaussians) for pair in pairs]
    splats, splat_failures = _side("", "gaussians", gaussians, reasons)
    sides, notes = _compared(plan, splats, meshes), []
    system: list[Value] = []
    shown, shown_failures = _shown(plan, pairs, store)
    for ending, tower in plan.towers.distances.items():
        values, note = distances(plan, ending, tower, pairs, sides, store, report)
        system += values
        notes += [note] if note else []
    scored, controls = agreement(plan, pairs, meshes, sides, shown, store, report)
    system += [*scored, *clip(plan, sides, shown, store, report)]
    failures = (*(mesh_failures if meshes else ()), *(splat_failures if splats else ()), *shown_failures)
    return Measured(tuple(pairs), tuple(system), controls, failures, tuple(dropped), tuple(notes))


def spread(team: Workers, jobs: Sequence[LookJob]) -> list[str]:
    """The usual `run` of `measure`."""
    return team.map(run_look, jobs, "pictures and points", len(jobs))


def jobs_of(plan: Plan, store: Store) -> list[LookJob]:
    """One for each different file of which neither the features are there nor what they are computed from."""
    jobs: dict[str, LookJob] = {}
    for pair in plan.pairs:
        for job in (*_view_jobs(plan, store, pair), *_clip_jobs(plan, store, pair)):
            _add(jobs, job)
    return [job for job in jobs.values() if job.pictures or job.clouds]


def _view_jobs(plan: Plan, store: Store, pair: Pair) -> Iterator[LookJob]:
    """The pictures and points of an asset."""
    towers = plan.towers
    distances, of_ulip = tuple(towers.distances.values()), (towers.ulip_pictures,)
    of_truth = () if plan.ulip.views == CONDITION else of_ulip
    of_meshes = of_ulip if plan.ulip.views == GENERATED and plan.of_meshes else ()
    of_gaussians = of_ulip if plan.ulip.views == GENERATED and not plan.of_meshes else ()
    yield _mesh_job(plan, store, pair, pair.truth, (*distances, *of_truth), seen=True)
    if pair.mesh:
        yield _mesh_job(plan, store, pair, pair.mesh, (*distances, *of_meshes))
    if pair.gaussians and _to_make(store, (*distances, *of_gaussians), pair.gaussians.address(plan.studio)):
        yield LookJob(store.root, pair.gaussians, plan.studio, True)


def _clip_jobs(plan: Plan, store: Store, pair: Pair) -> Iterator[LookJob]:
    """The pictures for the CLIP score."""
    if plan.clip_studio and plan.towers.clip:
        for look in (pair.mesh, pair.gaussians):
            if look and _to_make(store, [plan.towers.clip], look.address(plan.clip_studio)):
                yield LookJob(store.root, look, plan.clip_studio, True)


def _mesh_job(
    plan: Plan, store: Store, pair: Pair, look: SurfaceLook, towers: Sequence[Tower], *, seen: bool = False
) -> LookJob:
    """What is missing of a mesh; may be nothing. seen: how much of the pictures it covers is needed too."""
    pictures = _to_make(store, towers, look.address(plan.studio))
    unseen = seen and not is_kept(store, coverage_address(look, plan.studio))
    cloud = plan.cloud(pair)
    clouds = (cloud,) if _to_make(store, [plan.towers.ulip_points], look.cloud_address(cloud)) else ()
    return LookJob(store.root, look, plan.studio, pictures or unseen, clouds)


def _to_make(store: Store, towers: Sequence[Tower], address: Address) -> bool:
    """Whether towers have still to see something that is not in the cache."""
    return any(lacks(store, tower, address) for tower in towers) and not is_kept(store, address)


def _add(jobs: dict[str, LookJob], job: LookJob) -> None:
    """With a job for an equal file, if there is one."""
    digest = job.look.address(job.studio).digest
    if digest in jobs:
        other = jobs[digest]
        clouds = tuple(dict.fromkeys((*other.clouds, *job.clouds)))
        job = replace(other, pictures=other.pictures or job.pictures, clouds=clouds)
    jobs[digest] = job


def _look(plan: Plan, store: Store, run: Map) -> dict[str, str]:
    """Why files failed, by the digest of their content."""
    jobs = jobs_of(plan, store)
    reasons = run(jobs) if jobs else []
    return {job.look.content: why for job, why in zip(jobs, reasons, strict=True) if why}


def _usable(plan: Plan, store: Store, reasons: dict[str, str]) -> tuple[list[Pair], list[Failure]]:
    """Pairs whose reference mesh can be read and seen, and the others' reasons."""
    usable, dropped = [], []
    for pair in plan.pairs:
        reason = reasons.get(pair.truth.content, "") or _unseen(plan, pair, store)
        if reason:
            dropped.append(Failure("reference", pair.id, "mesh", reason))
        else:
            usable.append(pair)
    return usable, dropped


def _unseen(plan: Plan, pair: Pair, store: Store) -> str:
    """Why the reference does not count although it was drawn, or ""."""
    least = plan.protocol.values.assets.min_alpha_share
    try:
        share = coverage_of(pair.truth, plan.studio, store)
    except AssetError as error:
        return str(error)
    return "" if share >= least else f"it covers {share:.2%} of a picture - {least:.1%} are needed"


def _side(
    suffix: str,
    what: str,
    looks: Sequence[tuple[str, SurfaceLook | GaussianLook | None]],
    reasons: dict[str, str],
) -> tuple[Side | None, list[Failure]]:
    """None where the system makes nothing of this kind."""
    if all(look is None for _, look in looks):
        return None, []
    shown: list[Look] = []
    failures: list[Failure] = []
    for name, look in looks:
        reason = reasons.get(look.content, "") if look else NOT_GENERATED
        shown.append(BLACK if reason or look is None else look)
        failures += [Failure("generated", name, what, reason)] if reason else []
    return Side(suffix, tuple(shown), np.array([look is not BLACK for look in shown])), failures


def _compared(plan: Plan, splats: Side | None, meshes: Side | None) -> list[Side]:
    """What distances are of; the first has the plain columns of the protocol where the system can."""
    if plan.protocol.values.fd.generated.representation == "mesh":
        return [Side("", meshes.looks, meshes.ok)] if meshes else []
    return [side for side in (splats, meshes) if side]


def _shown(plan: Plan, pairs: Sequence[Pair], store: Store) -> tuple[Shown | None, list[Failure]]:
    """The condition images that can be used; None where there are none to compare with."""
    if not any(pair.condition for pair in plan.pairs):
        return None, []
    looks: list[ConditionLook | None] = []
    failures: list[Failure] = []
    for pair in pairs:
        reason = _unreadable(plan, pair.condition, store) if pair.condition else "no picture"
        looks.append(None if reason else pair.condition)
        failures += [Failure("conditions", pair.id, "picture", reason)] if reason else []
    if not any(looks):
        raise MissingError(
            f"None of the {len(looks)} condition images can be used. First reason: {failures[0].reason}."
        )
    return Shown(tuple(looks), plan.conditions_sha(pairs)), failures


def _unreadable(plan: Plan, look: ConditionLook, store: Store) -> str:
    """Why a picture cannot be read, or "". One whose features are there is not read again."""
    if all(not lacks(store, tower, look.address(on_black=black)) for tower, black in _seeing_conditions(plan)):
        return ""
    try:
        look.read(on_black=True)
    except AssetError as error:
        return str(error)
    return ""


def _seeing_conditions(plan: Plan) -> list[tuple[Tower, bool]]:
    """The towers that see condition images, and whether on black."""
    of_ulip = [(plan.towers.ulip_pictures, plan.ulip.on_black)] if plan.ulip.views == CONDITION else []
    return of_ulip + ([(plan.towers.clip, True)] if plan.towers.clip else [])
