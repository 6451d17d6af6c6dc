"""What `--dry-run` prints: lines, students and cells of a plan, what they cost, and what is missing."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from ...assets.trellis_latents import SLAT_CHANNELS, STRUCTURE_SHAPE
from ...base.groups import grouped
from ...base.text import aligned, counted
from ...methods.residual import ForwardMode
from ...results.paper import SOURCE, TABLES
from ..engine.findings import Finding, findings_text
from ..inputs.downloads import items_of, size_text
from ..inputs.subjects import Toys4kTests
from ..plan.flops import SLAT_FLOW, STRUCTURE_FLOW, STRUCTURE_TOKENS, Flow, encoder_forward
from ..plan.measured import Measured, read_measured
from ..plan.plan import Half, Line, Plan, Student, swept_metric
from ..protocol.values import Stage
from ..settings.config import Machine
from ..train.data import LatentSet
from .measuring import LOOK_BYTES
from .needs import by_origin, lacking, sum_text
from .power import power_section
from .ranges import MAIN, ranges

WIDTH = 118
FLOAT = 4  # bytes
PICTURE_SIDE = 1024  # pixels, of those that `estimate.picture_mb` is for
TRAINING_COPIES = 6  # weights, a copy kept beside their average, gradient, two moments, average
FLOWS: dict[Stage, Flow] = {"structure": STRUCTURE_FLOW, "slat": SLAT_FLOW}


class Speed(Protocol):
    """What a machine does."""

    @property
    def name(self) -> str: ...

    def pass_s(self, plan: Plan, stage: Stage) -> float:
        """Seconds of a forward pass of one sample."""
        ...

    def step_s(self, plan: Plan, student: Student) -> float:
        """Seconds of a training step, for one sample, its condition's encoder included."""
        ...


@dataclass(frozen=True)
class Assumed:
    """By what the preset says of it."""

    machine: Machine

    @property
    def name(self) -> str:
        return self.machine.name

    def pass_s(self, plan: Plan, stage: Stage) -> float:
        return pass_s(plan, self.machine, stage)

    def step_s(self, plan: Plan, student: Student) -> float:
        """The method's passes, and the condition's encoder once where it is a large network."""
        encoder = 0.0
        if self.machine.peak_tflops:
            encoder = encoder_forward() / (self.machine.peak_tflops * self.machine.share * 1e12)
        return student.who.distillation.cost() * self.pass_s(plan, student.stage) + encoder


@dataclass(frozen=True)
class Found:
    """By what was measured on it."""

    measured: Measured

    @property
    def name(self) -> str:
        return f"{self.measured.name} (measured)"

    def pass_s(self, plan: Plan, stage: Stage) -> float:
        del plan
        return self.measured.passes[stage]

    def step_s(self, plan: Plan, student: Student) -> float:
        del plan
        return self.measured.step(student.stage, student.who.label, student.who.distillation.cost())


@dataclass(frozen=True)
class Cost:
    """Hours of one process of a machine, by part of a run."""

    machine: Speed
    training: float
    generation: float
    measuring: float
    conditions: float

    @property
    def total(self) -> float:
        return self.training + self.generation + self.measuring + self.conditions


def plan_summary(plan: Plan, workers: int, findings: Sequence[Finding]) -> str:
    """The whole text; `findings` are those of `needs`."""
    sections = [
        _head(plan),
        _lines(plan),
        _students(plan),
        _cells(plan),
        _costs(plan, workers),
        _disk(plan),
        _downloads(plan),
        _missing(findings),
        power_section(plan, {"structure": n_tests(plan), "assets": n_whole(plan)}, lambda plan: _growth(plan, workers)),
    ]
    return "\n\n".join("\n".join(lines) for lines in sections if lines) + "\n"


def n_tests(plan: Plan) -> int:
    """Test assets; those of Toys4k need not be on this machine yet."""
    if isinstance(plan.test, Toys4kTests):
        known = plan.protocol.values.assets.expected_n or 0
    else:
        known = len(plan.test.assets())
    return known if plan.limit is None else min(known, plan.limit)


def n_whole(plan: Plan) -> int:
    return min(n_tests(plan), plan.config.evaluate.whole or n_tests(plan))


def costs(plan: Plan) -> list[Cost]:
    """Of each machine that the preset names."""
    return [_cost(plan, machine) for machine in speeds(plan)]


def speeds(plan: Plan) -> list[Speed]:
    """Raises UsageError: a file of measurements that is none."""
    estimate = plan.config.estimate
    found: list[Speed] = [Assumed(machine) for machine in estimate.machine]
    return [*found, Found(read_measured(Path(estimate.measured).expanduser()))] if estimate.measured else found


def _cost(plan: Plan, machine: Speed) -> Cost:
    estimate, trained = plan.config.estimate, _all_students(plan)
    training = sum(_training_s(plan, machine, student) for student in trained)
    structures, whole = _judged(plan)
    generation = sum(n * _half_s(plan, machine, half) for half, n in _sampled(plan))
    measuring = structures * estimate.structure_s + whole * estimate.asset_s
    parts = (training, generation, measuring, n_tests(plan) * estimate.condition_s)
    return Cost(machine, *(seconds / 3600 for seconds in parts))


def _judged(plan: Plan) -> tuple[int, int]:
    """Structures and whole assets that are decoded and looked at, all cells together."""
    columns = {metric.level for metric in plan.metrics}
    structures = len(plan.structure_cells) * n_tests(plan) if "structure" in columns else 0
    whole = len(plan.asset_cells) * n_whole(plan)
    tried = sum(len(plan.trials(stage)) for stage in plan.stages) * plan.config.sweep.assets
    return structures + tried, whole


def _sampled(plan: Plan) -> Iterable[tuple[Half, int]]:
    for cell in plan.structure_cells:
        yield cell.structure, n_tests(plan)
    for cell in plan.asset_cells:
        assert cell.slat is not None
        yield cell.slat, n_whole(plan)
    for stage in plan.stages:
        for trial in plan.trials(stage):
            yield trial.cell.own, plan.config.sweep.assets


def _half_s(plan: Plan, machine: Speed, half: Half) -> float:
    passes = sum(2 if strength else 1 for strength in half.sampler.computation().strengths)
    return passes * machine.pass_s(plan, half.stage)


def pass_s(plan: Plan, machine: Machine, stage: Stage) -> float:
    """Seconds of a forward pass of one sample."""
    known = {"structure": machine.structure_s, "slat": machine.slat_s}[stage]
    if known is not None:
        return known
    return forward_flops(plan, stage) / ((machine.peak_tflops or 1.0) * machine.share * 1e12)


def forward_flops(plan: Plan, stage: Stage) -> int:
    """Operations of one forward pass of TRELLIS' networks for one sample."""
    estimate = plan.config.estimate
    if stage == "structure":
        return STRUCTURE_FLOW.forward(STRUCTURE_TOKENS)
    return SLAT_FLOW.forward(estimate.tokens, (estimate.voxels,))


def _training_s(plan: Plan, machine: Speed, student: Student) -> float:
    return machine.step_s(plan, student) * plan.config.stage(student.stage).batch * student.steps


def _all_students(plan: Plan) -> list[Student]:
    tried = [trial.student for stage in plan.stages for trial in plan.trials(stage)]
    return list(dict.fromkeys([*plan.trained, *tried]))


def _head(plan: Plan) -> list[str]:
    source = plan.test.option if isinstance(plan.test, Toys4kTests) else plan.test.name
    return [
        f"world {plan.world.name} on {plan.device}, protocol {plan.protocol.name} ({plan.protocol.sha256[:12]})",
        f"test assets: {n_tests(plan)} of {source}",
    ]


def _lines(plan: Plan) -> list[str]:
    head = ["line", "steps", "passes"]
    judged = [line for line in plan.lines if line.tolerance]
    head += ["in table", *MAIN] if judged else []
    rows = [tuple(head), *(_line(plan, line, judged=bool(judged)) for line in plan.lines)]
    left_out = [f"  left out, name them with --methods: {', '.join(plan.left_out)}"] if plan.left_out else []
    remark = (
        f"expected: as in {SOURCE}, with the range in which a line counts as the same. The paper's protocol is not "
        "published; students count for something only where the teacher is within its range."
    )
    return [
        f"lines: {len(plan.lines)}",
        *(f"  {one}" for one in aligned(rows)),
        *left_out,
        *(_wrapped(remark) if judged else []),
    ]


def _line(plan: Plan, line: Line, *, judged: bool) -> tuple[str, ...]:
    halves = [Half(stage, line.who[stage], None, plan.sampler(line, stage)) for stage in plan.stages]
    passes = [sum(2 if s else 1 for s in half.sampler.computation().strengths) for half in halves]
    steps = f"{line.steps}x2" if len(halves) > 1 else str(line.steps)
    found = (line.label, steps, " + ".join(map(str, passes)))
    if not judged:
        return found
    known, paper = ranges(line.paper, line.tolerance), line.paper
    key = (paper.method, paper.steps, paper.measured_by) if paper else None
    tables = [t.number for t in TABLES if any((r.method, r.steps, r.measured_by) == key for r in t.rows)]
    return (*found, ", ".join(map(str, tables)) or "-", *(str(known.get(metric, "-")) for metric in MAIN))


def _students(plan: Plan) -> list[str]:
    machines = speeds(plan)
    students = _all_students(plan)
    if not students:
        return ["students to train: none"]
    rows = [("student", "stage", "steps x batch", "rates", "guidance", "trainings", *(f"h {m.name}" for m in machines))]
    groups = grouped(students, lambda student: (student.who.label, student.stage))
    rows += [_group(plan, label, group) for (label, _), group in groups.items()]
    lines = [f"students to train: {len(students)}", *(f"  {line}" for line in aligned(rows))]
    if plan.config.train.budget == "seconds":
        lines.append("  budget seconds: steps are set when the run has timed them; shown are those of equal forwards")
    for stage in plan.stages:
        if plan.trials(stage):
            lines += _wrapped(
                f"sweep of {stage}: {len(plan.trials(stage))} students, judged by {swept_metric(plan, stage).name} on "
                f"{plan.config.sweep.assets} validation assets; the best setting of a method is its line's"
                f"{_halved(plan)}"
            )
    if at_full_size(plan):
        memory = max(TRAINING_COPIES * FLOAT * FLOWS[stage].parameters for stage in plan.stages)
        lines += _wrapped(
            f"A student takes {size_text(memory)} for weights twice, gradient, two moments and average in float32, its "
            "teacher 2 bytes per parameter; activations and all else: `mdtbench bench memory`."
        )
    return lines


def _halved(plan: Plan) -> str:
    count = plan.config.sweep.halving
    return f", trained for all steps where those tried have 1/{count} of them" if count > 1 else ""


def _group(plan: Plan, label: str, group: Sequence[Student]) -> tuple[str, ...]:
    train = plan.config.stage(group[0].stage)
    methods = [student.who.distillation for student in group]
    steps = sorted({student.steps for student in group})
    hours = (sum(_training_s(plan, m, one) for one in group) / 3600 for m in speeds(plan))
    own = {strength for method in methods if (strength := getattr(method, "vd_cfg_strength", None)) is not None}
    return (
        label,
        group[0].stage,
        f"{_numbers(steps)} x {train.batch}",
        _numbers({method.lr for method in methods}),
        _numbers({method.cfg_strength for method in methods}) + (f" and {_numbers(own)}" if own else ""),
        str(len(group)),
        *(f"{hour:,.2g}" if hour < 10 else f"{hour:,.0f}" for hour in hours),
    )


def _cells(plan: Plan) -> list[str]:
    section = plan.config.evaluate
    lines = [
        f"cells: {len(plan.structure_cells)} of structures on {n_tests(plan)} assets (lines x samplers x training "
        f"seeds x generation seeds {list(plan.run_seeds)})"
    ]
    if plan.asset_cells:
        alone = (
            f", of generation seeds {list(section.apart)} also with one stage left to the teacher"
            if section.apart
            else ""
        )
        lines.append(f"       {len(plan.asset_cells)} of whole assets on {n_whole(plan)} assets{alone}")
    lines += _wrapped(f"columns: {', '.join(metric.name for metric in plan.metrics)}")
    return lines


def _costs(plan: Plan, workers: int) -> list[str]:
    found = costs(plan)
    if not found:
        return []
    unit, factor, gpus = _unit(plan, workers)
    parts = {
        "training": "training",
        "generation": "generation",
        "measuring": "decoding, pictures, features",
        "conditions": "pictures of test assets",
        "total": "together",
    }
    rows = [("", *(cost.machine.name for cost in found))]
    rows += [(title, *(f"{factor * getattr(cost, name):,.1f}" for cost in found)) for name, title in parts.items()]
    lines = [f"{unit} (estimated)", *(f"  {line}" for line in aligned(rows))]
    if gpus:
        lines += [line for text in _instead(plan, found) for line in _wrapped(text)]
        lines += _wrapped(_how(plan))
        lines.append("  Nothing was measured at this size: no such run has been made with mdtbench yet.")
    return lines


def at_full_size(plan: Plan) -> bool:
    """Whether the machines are GPUs for TRELLIS' networks."""
    return any(machine.peak_tflops for machine in plan.config.estimate.machine)


def _instead(plan: Plan, found: Sequence[Cost]) -> Iterator[str]:
    """What the training would take without what the preset does to make it shorter."""

    def told(what: str, other: Plan) -> str:
        hours = (f"{cost.training:,.0f} h {cost.machine.name}" for cost in costs(other))
        return f"training {what}: {', '.join(hours)}"

    sweep = plan.config.sweep
    if sweep.halving > 1 and any(plan.trials(stage) for stage in plan.stages):
        whole = plan.config.model_copy(update={"sweep": sweep.model_copy(update={"halving": 1})})
        yield told(
            f"without halving (every setting for all steps, not for 1/{sweep.halving})", replace(plan, config=whole)
        )
    exact = tuple(_differentiated_exactly(line) for line in plan.lines)
    if exact != plan.lines:
        yield told("with the exact derivative of scm in place of scm:fd", replace(plan, lines=exact))


def _differentiated_exactly(line: Line) -> Line:
    if line.label != "scm:fd":
        return line
    return replace(line, who={stage: who.at(derivative=ForwardMode()) for stage, who in line.who.items()})


def _unit(plan: Plan, workers: int) -> tuple[str, float, bool]:
    """Of shown times, what makes hours of it, and whether it is of GPUs."""
    if at_full_size(plan):
        return "hours of one GPU", 1.0, True
    return f"minutes with {counted(workers, 'process', 'processes')}", 60.0 / workers, False


def _growth(plan: Plan, workers: int) -> list[tuple[str, float, float]]:
    """Of each machine its name and unit, the whole time, and what of it grows with the test assets."""
    found = costs(plan)
    unit, factor, gpus = _unit(plan, workers)
    named = [(f"{unit.removesuffix(' of one GPU')}, {cost.machine.name}" if gpus else unit, cost) for cost in found]
    return [(name, factor * cost.total, factor * (cost.total - cost.training)) for name, cost in named]


def _how(plan: Plan) -> str:
    forwards = ", ".join(f"{stage} {forward_flops(plan, stage) / 1e12:.2f}" for stage in plan.stages)
    estimate = plan.config.estimate
    peaks = ", ".join(
        f"{machine.name} {machine.share:.0%} of {machine.peak_tflops:g} TFLOP/s"
        for machine in estimate.machine
        if machine.peak_tflops
    )
    return (
        "training = steps x batch x (the method's passes x F + E) / (peak x share), where a backward pass counts 2 and "
        f"a JVP 3 (`mdtbench list methods`). F, TFLOP of a forward pass of one sample: {forwards} (structure: 4096 "
        f"tokens; slat: {estimate.voxels} voxels, {estimate.tokens} tokens, convolutions counted at all 27 places), "
        "from 2 x 24 x (L 14 d^2 + T 2 d^2 + 2 L^2 d + 2 L T d) with d = 1024, T = 1374 and the layers around it. E, "
        f"encoder of the condition: {encoder_forward() / 1e12:.2f}. generation = passes x F / (peak x share). Assumed: "
        f"{peaks}; {estimate.asset_s:g} s to decode and measure an asset, {estimate.condition_s:g} s for a test "
        "asset's pictures."
    )


def _disk(plan: Plan) -> list[str]:
    if not at_full_size(plan):
        return []
    sizes = disk_bytes(plan)
    rows = [(name, size_text(round(size))) for name, size in sizes.items() if size]
    rows.append(("together, downloads not counted", size_text(round(sum(sizes.values())))))
    return ["disk (estimated)", *(f"  {line}" for line in aligned(rows))]


def disk_bytes(plan: Plan) -> Mapping[str, float]:
    """What a run at full size writes, by what it is; downloads apart."""
    estimate, values = plan.config.estimate, plan.protocol.values
    picture = estimate.picture_mb * 1e6
    structure = FLOAT * STRUCTURE_SHAPE[0] * STRUCTURE_SHAPE[1] ** 3
    slat = estimate.voxels * (FLOAT * SLAT_CHANNELS + 3 * FLOAT)
    views, shown = len(values.views.yaw_deg), (values.views.resolution / PICTURE_SIDE) ** 2
    dims = [section.dim for section in (values.fd.incep, values.fd.dinov2) if section]
    students = _all_students(plan)
    on_disk = isinstance(next(iter(plan.sets.values())), LatentSet)
    latents = estimate.latents * (structure + slat + estimate.latent_views * picture) if on_disk else 0.0
    return {
        "training latents and their pictures": latents,
        "pictures of test assets": n_tests(plan) * (1 + views * shown) * picture,
        "students, average and raw weights": sum(2 * FLOAT * FLOWS[student.stage].parameters for student in students),
        "checkpoint of a training": 5 * FLOAT * max(FLOWS[stage].parameters for stage in plan.stages),
        "latents of cells": len(plan.structure_cells) * n_tests(plan) * structure
        + len(plan.asset_cells) * n_whole(plan) * slat,
        "pictures of cells, until they are seen": LOOK_BYTES if plan.asset_cells else 0.0,
        "features": (len(plan.asset_cells) + 1) * n_whole(plan) * FLOAT * views * sum(dims),
    }


def _downloads(plan: Plan) -> list[str]:
    if not plan.config.places.downloads:
        return []
    items = items_of(plan.config.places.downloads)
    rows = [
        (
            name,
            counted(len(group), "file"),
            sum_text(group),
            "licence: " + "; ".join(dict.fromkeys(one.licence for one in group)),
        )
        for name, group in by_origin(items).items()
    ]
    fetched, by_hand = ([item for item in items if (item.kind == "by-hand") == hand] for hand in (False, True))
    return [
        f"downloads: {counted(len(fetched), 'file')}, {sum_text(fetched)}; by hand about {sum_text(by_hand)}",
        *(f"  {line}" for line in aligned(rows)),
    ]


def _missing(findings: Sequence[Finding]) -> list[str]:
    if not findings:
        return []
    title = f"on this machine: {len(lacking(findings))} of {len(findings)} missing"
    return findings_text({title: list(findings)}).rstrip("\n").split("\n")


def _numbers(values: Iterable[float]) -> str:
    return ", ".join(f"{value:g}" for value in sorted(set(values)))


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent="  ", subsequent_indent="  ")
