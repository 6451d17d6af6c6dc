"""What `--dry-run` prints of tables at full size."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence

from ...results.paper import SOURCE, PaperRow
from ..doctor import Finding, findings_text
from ..downloads import Item, items_of, size_text
from ..listing import aligned
from .config import Gpu, Tolerance
from .flops import encoder_forward
from .machine import by_origin, lacking, sum_text
from .plan import FLOAT, STAGES, TRAINING_COPIES, Line, Student, TablesPlan, disk_bytes, flow
from .ranges import MAIN, ranges

WIDTH = 118
STAGE_NAMES = {"ss": "structure", "slat": "SLAT"}


def tables_summary(plan: TablesPlan, findings: Sequence[Finding]) -> str:
    """The whole text; `findings` are those of `needs`."""
    sections = [
        _head(plan),
        _rows(plan),
        _students(plan),
        _hours(plan),
        _disk(plan),
        _downloads(items_of(plan.config.places.downloads)),
        _missing(findings),
        ["Nothing was computed: this is a plan. No run of this size has been made with mdtbench yet."],
    ]
    return "\n\n".join("\n".join(lines) for lines in sections) + "\n"


def _head(plan: TablesPlan) -> list[str]:
    return [
        f"Tables 1, 2 and 3 of {SOURCE}, measured by {plan.protocol.name} ({plan.protocol.sha256[:12]}) on "
        f"{plan.n} test assets",
    ]


def _rows(plan: TablesPlan) -> list[str]:
    cells = [("row", "steps", "passes", "in table", "FD_incep", "FD_dinov2", "ULIP_I")]
    cells += [_row(plan, line) for line in plan.lines]
    run_seeds = sorted({cell.run_seed for cell in plan.cells})
    left_out = [f"  left out, name them with --methods: {', '.join(plan.left_out)}"] if plan.left_out else []
    return [
        f"rows: {len(plan.lines)}, cells: {len(plan.cells)} (rows x training seeds x run seeds {run_seeds})",
        *(f"  {line}" for line in aligned(cells)),
        *left_out,
        *_wrapped(
            "expected: as published, with the range in which a row counts as the same. The paper's protocol is not "
            "published; students count for something only where the teacher is within its range."
        ),
    ]


def _row(plan: TablesPlan, line: Line) -> tuple[str, ...]:
    tables = ", ".join(map(str, line.tables)) or "-"
    both = " + ".join(str(count) for count in plan.passes(line).values())
    return line.row.method, f"{line.row.steps}x2", both, tables, *_expected(line.paper, line.row.tolerance)


def _expected(paper: PaperRow | None, tolerance: Tolerance | None) -> tuple[str, ...]:
    known = ranges(paper, tolerance)
    return tuple(str(known.get(metric, "-")) for metric in MAIN)


def _students(plan: TablesPlan) -> list[str]:
    gpus = plan.config.estimate.gpu
    table = [("student", "stage", "steps x batch", "rates", "guidance", "trainings", *(f"h {g.name}" for g in gpus))]
    table += [_group(plan, label, group) for (label, _), group in _grouped(plan.students).items()]
    grid = plan.config.grid
    memory = max(TRAINING_COPIES * FLOAT * flow(stage).parameters for stage in STAGES)
    return [
        f"students to train: {len(plan.students)}",
        *(f"  {line}" for line in aligned(table)),
        *_wrapped(
            f"{', '.join(grid.methods)}: the best of the grid on {grid.assets} training assets held out is the row's. "
            f"A student takes {size_text(memory)} for weights twice, gradient, two moments and average in float32, its "
            "teacher 2 bytes per parameter, activations more: not measured."
        ),
    ]


def _group(plan: TablesPlan, label: str, group: Sequence[Student]) -> tuple[str, ...]:
    stage = group[0].stage
    train = plan.train(stage)
    return (
        label,
        STAGE_NAMES[stage],
        f"{train.steps} x {train.batch}",
        _numbers({student.lr for student in group}),
        _guidance(group[0], {student.cfg_strength for student in group}),
        str(len(group)),
        *(f"{plan.training_hours(gpu, group):,.0f}" for gpu in plan.config.estimate.gpu),
    )


def _guidance(student: Student, strengths: Iterable[float]) -> str:
    """VD may have a strength of its own."""
    own = getattr(student.who.method, "vd_cfg_strength", None)
    return _numbers(strengths) + (f" and {own:g}" if own is not None else "")


def _hours(plan: TablesPlan) -> list[str]:
    estimate = plan.config.estimate
    other = {
        "generation": plan.generation_hours(),
        "decoding, pictures, features": plan.measuring_hours(),
        "Blender": plan.blender_hours(),
    }
    cells = [("", *(gpu.name for gpu in estimate.gpu))]
    cells += [("training", *(f"{plan.training_hours(gpu, plan.students):,.0f}" for gpu in estimate.gpu))]
    cells += [(name, *(f"{hours:,.0f}" for _ in estimate.gpu)) for name, hours in other.items()]
    cells += [("together", *(f"{total_hours(plan, gpu):,.0f}" for gpu in estimate.gpu))]
    forwards = ", ".join(f"{STAGE_NAMES[s]} {plan.forward_flops(s) / 1e12:.2f}" for s in STAGES)
    peaks = ", ".join(f"{g.name} {g.share:.0%} of {g.peak_tflops:g} TFLOP/s" for g in estimate.gpu)
    return [
        "GPU hours of one GPU (estimated, nothing was measured)",
        *(f"  {line}" for line in aligned(cells)),
        *_wrapped(
            "training = steps x batch x (the method's passes x F + E) / (peak x share), where a backward pass counts 2 "
            f"and a JVP 3 (`mdtbench list methods`). F, TFLOP of a forward pass of one sample: {forwards} (structure: "
            f"4096 tokens; SLAT: {estimate.voxels} voxels, {estimate.tokens} tokens, convolutions counted at all 27 "
            "places), from 2 x 24 x (L 14 d^2 + T 2 d^2 + 2 L^2 d + 2 L T d) with d = 1024, T = 1374 and the layers "
            f"around it. E, encoder of the condition: {encoder_forward() / 1e12:.2f}. Assumed: {peaks}."
        ),
        *_wrapped(
            "generation = test assets x cells x the seconds per asset that the paper states for an A800 (what they "
            f"include is not published), for every GPU alike. Assumed: {estimate.measure_s:g} s to decode and measure "
            f"an asset, {estimate.blender_s:g} s of Blender for a test asset."
        ),
    ]


def total_hours(plan: TablesPlan, gpu: Gpu) -> float:
    rest = plan.generation_hours() + plan.measuring_hours() + plan.blender_hours()
    return plan.training_hours(gpu, plan.students) + rest


def _disk(plan: TablesPlan) -> list[str]:
    sizes = disk_bytes(plan)
    cells = [(name, size_text(round(size))) for name, size in sizes.items()]
    cells.append(("together, downloads not counted", size_text(round(sum(sizes.values())))))
    estimate = plan.config.estimate
    return [
        "disk",
        *(f"  {line}" for line in aligned(cells)),
        *_wrapped(
            f"training latents: for {estimate.latents} assets of {estimate.latent_views} pictures of "
            f"{estimate.picture_mb:g} MB; how many the paper used is not published here."
        ),
    ]


def _downloads(items: Sequence[Item]) -> list[str]:
    groups = by_origin(items).items()
    cells = [(name, f"{len(group)} file(s)", sum_text(group), _licence(group)) for name, group in groups]
    fetched = [item for item in items if item.kind != "by-hand"]
    by_hand = [item for item in items if item.kind == "by-hand"]
    return [
        f"downloads: {len(fetched)} files, {sum_text(fetched)}; by hand about {sum_text(by_hand)}",
        *(f"  {line}" for line in aligned(cells)),
    ]


def _licence(group: Sequence[Item]) -> str:
    return "licence: " + "; ".join(dict.fromkeys(item.licence for item in group))


def _missing(findings: Sequence[Finding]) -> list[str]:
    title = f"on this machine: {len(lacking(findings))} of {len(findings)} missing"
    return findings_text({title: findings}).rstrip("\n").split("\n")


def _grouped(students: Sequence[Student]) -> dict[tuple[str, str], list[Student]]:
    groups: dict[tuple[str, str], list[Student]] = {}
    for student in students:
        groups.setdefault((student.who.label, student.stage), []).append(student)
    return groups


def _numbers(values: Iterable[float]) -> str:
    return ", ".join(f"{value:g}" for value in sorted(values))


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent="  ", subsequent_indent="  ")
