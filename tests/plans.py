"""Small plans on the shipped tiny world, and where their cells' results would lie. Nothing is computed or on disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mdtbench.base.files import digest_of
from mdtbench.harness.driver.measuring import Measuring, extractor_names
from mdtbench.harness.driver.planning import RunOptions, make_plan
from mdtbench.harness.driver.students import Weights
from mdtbench.harness.engine.jobs import Place
from mdtbench.harness.engine.store import Address
from mdtbench.harness.inputs.subjects import Subject, TestSet
from mdtbench.harness.measure.extractors import extractors_of
from mdtbench.harness.plan.plan import Cell, Plan, resolve
from mdtbench.harness.protocol.rules import Identity

NOWHERE = Path("nowhere")  # a cache that nothing is written to


def planned(
    *changes: str, preset: str = "smoke", methods: Sequence[str] = ("cm", "vm"), cache: Path = NOWHERE, **options: Any
) -> Plan:
    """The plan of a command line where teachers are guided. changes: as of --set; options: of `RunOptions`."""
    given = RunOptions(preset=preset, methods=tuple(methods), changes=changes, device="cpu", **options)
    plan = make_plan(given, cache, ready=False)
    samplers = {stage: replace(one, cfg_strength=one.cfg_strength or 2.0) for stage, one in plan.world.samplers.items()}
    return resolved(plan, methods, world=replace(plan.world, samplers=samplers))


def resolved(plan: Plan, methods: Sequence[str] = ("cm", "vm"), **parts: Any) -> Plan:
    """The plan with other parts: of `resolve`."""
    names = ("config", "protocol", "world", "device", "train_seeds", "test", "limit", "sets")
    given: dict[str, Any] = {name: getattr(plan, name) for name in names} | parts
    return replace(resolve(methods=methods, **given), preset=plan.preset, command=plan.command)


def students(plan: Plan) -> dict[tuple, str]:
    """Folders by stage, label and training seed."""
    return {(one.stage, one.who.label, one.seed): one.folder for one in plan.trained}


def key_of(cell: Cell) -> tuple:
    """Stage of the rows, label, training seed, steps, generation seed, and the sampler where it is another."""
    return (
        cell.stage,
        cell.line.label,
        cell.train_seed,
        cell.own.sampler.steps,
        cell.seed,
        cell.own.sampler.name if cell.extra else "",
    )


def cells(plan: Plan) -> dict[tuple, str]:
    """Digests of the addresses of what each cell makes, by `key_of`."""
    measuring = measured(plan)
    jobs = {key_of(one): measuring.assets(one) if one.slat else measuring.structures(one) for one in plan.cells}
    return {key: digest_of([place.digest for job in mine for place in job.places]) for key, mine in jobs.items()}


def scores(plan: Plan) -> dict[tuple, str]:
    """Digests of the addresses of each cell's scores, by column and `key_of`."""
    measuring = measured(plan)
    jobs = {key_of(cell): measuring.scores(cell) for cell in plan.cells}
    return {
        (metric.name, *key): place.digest
        for key, job in jobs.items()
        for metric, place in zip(job.metrics, job.places, strict=True)
    }


def changed(a: dict, b: dict) -> set:
    """Keys of both whose address differs."""
    return {key for key in a.keys() & b.keys() if a[key] != b[key]}


def measured(plan: Plan) -> Measuring:
    """As of a run whose test assets were prepared."""
    weights = Weights(NOWHERE, NOWHERE, plan.world.folder, plan.protocol.values.sampler.weights == "ema")
    extractors = extractors_of(extractor_names(plan.metrics), plan.config.protocol, plan.world, NOWHERE, plan.device)
    return Measuring(plan, NOWHERE, NOWHERE, tests_of(plan), None, {}, extractors, weights)


def tests_of(plan: Plan) -> TestSet:
    digest = plan.test.digest()
    prepared = Place(NOWHERE, Address("prepared", {"source": digest}))
    subjects = tuple(
        Subject(Identity(asset.id, f"{row:064x}"), asset, prepared, row)
        for row, asset in enumerate(plan.test.assets()[: plan.limit])
    )
    return TestSet(plan.test.name, digest, subjects, (), (), "", False)
