"""The work of an evaluation: pictures and points, then one network after the other, each with its columns."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from ...base.errors import AssetError, MissingError
from ..cache import Address, Store
from ..pool import Workers
from ..progress import Reporter
from .features import Seen, Tower, features, lacks
from .looks import (
    BLACK,
    Cloud,
    GaussianLook,
    Look,
    LookJob,
    MeshLook,
    coverage_address,
    coverage_of,
    is_kept,
    pictures_of,
    points_of,
    run_look,
)
from .plan import NOT_GENERATED, Pair, Plan
from .scores import MANIFOLD_OF, Value, distance_values, kept, needed_for_infinity, ulip_values

Map = Callable[[Sequence[LookJob]], list[str]]  # in worker processes: why each failed, or ""


@dataclass(frozen=True)
class Failure:
    """side: generated or reference. what: mesh or gaussians."""

    side: str
    id: str
    what: str
    reason: str


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
    meshes, mesh_failures = _side("_mesh", "mesh", [(pair.id, pair.mesh) for pair in pairs], plan, reasons)
    gaussians = [(pair.id, None if plan.geometry_only else pair.gaussians) for pair in pairs]
    splats, splat_failures = _side("", "gaussians", gaussians, plan, reasons)
    sides, notes = _compared(plan, splats, meshes), []
    system: list[Value] = []
    for ending, tower in plan.towers.distances.items():
        values, note = _distances(plan, ending, tower, pairs, sides, store, report)
        system += values
        notes += [note] if note else []
    controls = _agreement(plan, pairs, meshes, store, report)
    scored = controls.pop("system")
    system += [scored] if meshes else []
    failures = (*(mesh_failures if meshes else ()), *(splat_failures if splats else ()))
    return Measured(tuple(pairs), tuple(system), controls, failures, tuple(dropped), tuple(notes))


def spread(team: Workers, jobs: Sequence[LookJob]) -> list[str]:
    """The usual `run` of `measure`."""
    return team.map(run_look, jobs, "pictures and points", len(jobs))


def jobs_of(plan: Plan, store: Store) -> list[LookJob]:
    """One for each different file of which neither the features are there nor what they are computed from."""
    distances = tuple(plan.towers.distances.values())
    jobs: dict[str, LookJob] = {}
    for pair in plan.pairs:
        _add(jobs, _mesh_job(plan, store, pair, pair.truth, (*distances, plan.towers.ulip_pictures), seen=True))
        if pair.mesh:
            _add(jobs, _mesh_job(plan, store, pair, pair.mesh, distances))
        if pair.gaussians and _to_make(store, distances, pair.gaussians.address(plan.studio)):
            _add(jobs, LookJob(store.root, pair.gaussians, plan.studio, True))
    return [job for job in jobs.values() if job.pictures or job.clouds]


def _mesh_job(
    plan: Plan, store: Store, pair: Pair, look: MeshLook, towers: Sequence[Tower], *, seen: bool = False
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
    """Why files failed, by the digest of their pictures' address."""
    jobs = jobs_of(plan, store)
    reasons = run(jobs) if jobs else []
    return {job.look.address(plan.studio).digest: why for job, why in zip(jobs, reasons, strict=True) if why}


def _usable(plan: Plan, store: Store, reasons: dict[str, str]) -> tuple[list[Pair], list[Failure]]:
    """Pairs whose reference mesh can be read and seen, and the others' reasons."""
    usable, dropped = [], []
    for pair in plan.pairs:
        reason = reasons.get(pair.truth.address(plan.studio).digest, "") or _unseen(plan, pair, store)
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
    looks: Sequence[tuple[str, MeshLook | GaussianLook | None]],
    plan: Plan,
    reasons: dict[str, str],
) -> tuple[Side | None, list[Failure]]:
    """None where the system makes nothing of this kind."""
    if all(look is None for _, look in looks):
        return None, []
    shown: list[Look] = []
    failures: list[Failure] = []
    for name, look in looks:
        reason = reasons.get(look.address(plan.studio).digest, "") if look else NOT_GENERATED
        shown.append(BLACK if reason or look is None else look)
        failures += [Failure("generated", name, what, reason)] if reason else []
    return Side(suffix, tuple(shown), np.array([look is not BLACK for look in shown])), failures


def _compared(plan: Plan, splats: Side | None, meshes: Side | None) -> list[Side]:
    """What distances are of; the first has the plain columns of the protocol where the system can."""
    if plan.protocol.values.fd.generated.representation == "mesh":
        return [Side("", meshes.looks, meshes.ok)] if meshes else []
    return [side for side in (splats, meshes) if side]


def _distances(
    plan: Plan, ending: str, tower: Tower, pairs: Sequence[Pair], sides: Sequence[Side], store: Store, report: Reporter
) -> tuple[list[Value], str]:
    """Values of one kind of features; why there is no FD_inf, or ""."""
    truth = tuple(pair.truth for pair in pairs)
    seen = _seen(plan, {*truth, *(look for side in sides for look in side.looks)}, store)
    found = features(tower, seen, store, report, f"features {ending}")
    real = _stacked(plan, truth, found)
    count, dim = real.shape[0] * real.shape[1], real.shape[2]
    few = f"FD_{ending}: {count} pictures, fewer than its {dim} features: dominated by bias" if count < dim else ""
    values: list[Value] = []
    for side in sides:
        inputs = {
            "extractor": tower.version,
            "columns": [ending, side.suffix],
            "reference": [look.address(plan.studio).digest for look in truth],
            "made": [look.address(plan.studio).digest for look in side.looks],
            "kernel": plan.protocol.values.fd.kernel.model_dump(mode="json"),
            "manifold": ending == MANIFOLD_OF and side is sides[0],
        }
        compute = partial(
            distance_values,
            ending,
            side.suffix,
            real,
            _stacked(plan, side.looks, found),
            plan.protocol.values.fd.kernel,
            with_manifold=ending == MANIFOLD_OF and side is sides[0],
        )
        for name, value in kept(store, inputs, compute).items():
            unit = "x100" if name.startswith("KD") else ""
            note = few if name.startswith("FD") else ""
            values.append(Value(name, value, side.n_ok, tower.version, unit, note=note))
    needed = needed_for_infinity(dim, real.shape[1])
    return values, f"no FD_inf_{ending}: {needed} pictures are needed, there are {count}" if count < needed else ""


def _agreement(
    plan: Plan, pairs: Sequence[Pair], meshes: Side | None, store: Store, report: Reporter
) -> dict[str, Value]:
    """ULIP_I by name: system, truth, shuffled."""
    truth = tuple(pair.truth for pair in pairs)
    made = meshes.looks if meshes else (BLACK,) * len(pairs)
    clouds = [(look, plan.cloud(pair)) for looks in (truth, made) for look, pair in zip(looks, pairs, strict=True)]
    seen = [
        Seen(look.cloud_address(cloud), partial(_batch_of_points, look, cloud, store))
        for look, cloud in clouds
        if isinstance(look, MeshLook)
    ]
    found = features(plan.towers.ulip_points, seen, store, report, "ULIP, points")
    dim = next(iter(found.values())).shape[1]
    rows = [
        found[look.cloud_address(cloud).digest][0] if isinstance(look, MeshLook) else np.zeros(dim, np.float32)
        for look, cloud in clouds
    ]
    points = np.stack(rows).reshape(2, len(pairs), dim)
    tower = plan.towers.ulip_pictures
    pictures = _stacked(plan, truth, features(tower, _seen(plan, truth, store), store, report, "ULIP, pictures"))
    ok = meshes.ok if meshes else np.zeros(len(pairs), bool)
    versions = f"{tower.version} {plan.towers.ulip_points.version}"
    return ulip_values(pictures, points[0], points[1], ok, versions)


def _seen(plan: Plan, looks: Iterable[Look], store: Store) -> list[Seen]:
    by_digest = {look.address(plan.studio).digest: look for look in looks}
    return [
        Seen(by_digest[digest].address(plan.studio), partial(pictures_of, by_digest[digest], plan.studio, store))
        for digest in sorted(by_digest)
    ]


def _stacked(plan: Plan, looks: Iterable[Look], found: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float32]:
    """[N, V, D]."""
    return np.stack([found[look.address(plan.studio).digest] for look in looks])


def _batch_of_points(look: MeshLook, cloud: Cloud, store: Store) -> NDArray[np.float32]:
    return points_of(look, cloud, store)[None]
