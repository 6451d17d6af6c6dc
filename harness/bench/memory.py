"""`mdtbench bench memory`: what a training step at full size takes, found out without a GPU and without the memory.

Networks, losses and backward passes run as in a training on torch's fake tensors, which have shapes, dtypes and
storages, and no numbers. The storages that are alive at a time are added up: what autograd saves among them.
A processor's kernels stand for a GPU's: fused attention saves the same there, and so does one kernel for ragged
sequences as attention of samples of one size, which is what is computed here.
"""

from __future__ import annotations

import json
import warnings
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ...base.text import aligned
from ...flow.layout import DenseLayout, Layout
from ...methods import Distillation
from ...methods.residual import ForwardMode
from ...trellis import create, sparse_convolution
from ...trellis.pipeline import StructurePipeline
from ...trellis.slat_pipeline import SlatPipeline, voxel_layout
from ...trellis.sparse import Voxels
from ..engine.progress import Reporter
from ..plan.plan import Plan
from ..protocol.values import Stage
from ..settings.config import Train
from ..train import loop
from ..train.batch import Batch
from ..train.parts import Part
from ..train.task import StageTask
from .full_size import FULL, SAMPLER, Shell, Sizes

GB = 1e9
MOMENTS = 2  # of AdamW, which come with the first step
# Networks of TRELLIS-image-large that a process has loaded beside a stage's teacher: the other stage's flow, encoders
# and decoders (2 bytes per parameter), DINOv2 (4).
OTHERS = 3.4e9
USABLE = 0.85  # of a GPU's memory: the rest is for its driver and the gaps of the allocator


@dataclass(frozen=True)
class Need:
    """Memory of one student's training step, in bytes.

    Attributes:
        samples: computed at a time. recomputed: whether blocks recompute their activations.
        kept: from step to step: networks, averages, moments. step: beyond that, at the worst moment of a step.
        student: of `kept`, what each student more takes that trains beside it (`train.lockstep`).
    """

    stage: Stage
    method: str
    samples: int
    recomputed: bool
    kept: float
    step: float
    student: float

    @property
    def peak(self) -> float:
        return self.kept + self.step

    def at_once(self, memory_gb: float) -> int:
        """Students that a GPU can train together: they keep what is theirs, and take their steps one by one."""
        return max(0, 1 + int((USABLE * memory_gb * GB - self.peak) // self.student))


class Alive(TorchDispatchMode):
    """Adds up the storages of all tensors that are made while it is active. now, peak: in bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._note(tensor.untyped_storage())
        return out

    def _note(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self._known:
            self._known.add(key)
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._gone, key, size)

    def _gone(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


class KnownShapes(TorchFunctionMode):
    """`bincount` of values that there are none of has the length that is asked for."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.bincount:
            return args[0].new_zeros(kwargs["minlength"])
        return func(*args, **(kwargs or {}))


@contextmanager
def without_numbers() -> Iterator[Alive]:
    """Tensors that are made here have no numbers and take no memory; what they would take on a GPU is counted."""
    as_on_a_gpu = patch.object(sparse_convolution, "PRODUCTS_FIRST", frozenset({"cpu"}))
    quiet = warnings.catch_warnings(action="ignore", category=UserWarning)  # torch warns of copies of fake tensors
    with quiet, as_on_a_gpu, FakeTensorMode(allow_non_fake_inputs=True), Alive() as alive, KnownShapes():
        yield alive


def step_need(stage: Stage, label: str, method: Distillation, train: Train, sizes: Sizes = FULL) -> Need:
    """Memory of a training step of the method, one process alone, on networks of the given sizes."""
    samples = -(-train.batch // train.parts)
    layout, (name, args) = _layout(stage, samples, sizes), sizes.networks[f"{stage} flow"]
    with torch.device("meta"):
        teacher = create(name, dict(args))
    with without_numbers() as alive:
        _make_alive(teacher)
        shared = alive.now
        task = StageTask(stage, _pipeline(stage, teacher), cast(Any, None), train.batch, train.precision)
        student = loop.Student(label, method, task.student(), train, train.steps, Path("nowhere"))
        trained = sum(p.numel() * p.element_size() for p in student.learner.parameters.values())
        kept = alive.now + MOMENTS * trained + OTHERS
        batch = _batch(stage, layout, sizes)
        given, before = batch.cond.numel() * batch.cond.element_size(), alive.now
        alive.peak = before
        points = loop._points(batch, task, train, student.device)
        share = loop._share(student, task, Part(), points, 0, 0)
        for term in method.losses(share.step):
            student.learner.backward(term.value * share.weight)
        # Parts that are done wait as sums of a binary tree; conditions of all parts are made before the first.
        sums = (train.parts - 1).bit_count() * trained
        step = alive.peak - before + sums + train.parts * given
    own = kept - shared - OTHERS
    return Need(stage, label, samples, train.checkpoint_blocks, float(kept), float(step), float(own))


def needs_of(plan: Plan, report: Reporter) -> list[Need]:
    """Of all methods that a plan trains, in both stages; those apart that differentiate in forward mode.

    Fake tensors have no derivative in forward mode.
    """
    trained = {line.label: line for line in plan.lines if line.trains}
    lines = {label: line for label, line in trained.items() if not _in_forward_mode(line.who["structure"].distillation)}
    task, found = report.start("memory of training steps", len(lines) * len(plan.stages)), []
    for stage in plan.stages:
        train = plan.config.stage(stage).model_copy(update={"more_ema": (0.0,)})  # raw weights, as a run keeps them
        for line in lines.values():
            found.append(step_need(stage, line.label, line.who[stage].distillation, train))
            report.update(task, len(found))
    return found


def _in_forward_mode(method: Distillation) -> bool:
    return isinstance(getattr(method, "derivative", None), ForwardMode)


def memory_text(needs: Sequence[Need], limits: Sequence[tuple[str, float]]) -> str:
    """A table. limits: GPUs and their memory in GB."""
    head = ("method", "stage", "samples", "recomputed", "kept GB", "step GB", "together GB", "a student more GB")
    head = (*head, *(name for name, _ in limits))
    rows = [head, *(_row(need, limits) for need in needs)]
    remark = (
        "kept: networks, averages and AdamW's moments from step to step. step: what is alive beside it at the worst "
        "moment, gradients and sums of parts among it. Computed on shapes alone. At once: students that a GPU can "
        f"train together (train.lockstep) in {USABLE:.0%} of its memory; driver and allocator gaps have the rest."
    )
    return "\n".join([*aligned(rows), "", remark]) + "\n"


def _row(need: Need, limits: Sequence[tuple[str, float]]) -> tuple[str, ...]:
    numbers = (f"{size / GB:.1f}" for size in (need.kept, need.step, need.peak, need.student))
    fits = (f"{count} at once" if (count := need.at_once(limit)) else "too large" for _, limit in limits)
    return need.method, need.stage, str(need.samples), "yes" if need.recomputed else "no", *numbers, *fits


def memory_json(needs: Sequence[Need]) -> str:
    return json.dumps({"benchmark": "memory", "needs": [asdict(need) for need in needs]}, indent=1) + "\n"


def _pipeline(stage: Stage, flow: nn.Module) -> StructurePipeline | SlatPipeline:
    none = cast(Any, None)
    if stage == "structure":
        return StructurePipeline(cast(Any, flow), none, none, nn.Identity(), SAMPLER)
    return SlatPipeline(cast(Any, flow), none, none, none, nn.Identity(), SAMPLER, torch.zeros(8), torch.ones(8))


def _make_alive(network: nn.Module) -> None:
    """Tensors of the active mode in place of those on meta; `Module.to` cannot, as somebody watches them."""
    for module in network.modules():
        for name, tensor in module._parameters.items():
            if tensor is not None:
                fresh = torch.empty_like(tensor, device="cpu")
                module._parameters[name] = nn.Parameter(fresh, requires_grad=False)
        for name, tensor in module._buffers.items():
            if tensor is not None:
                module._buffers[name] = torch.empty_like(tensor, device="cpu")


def _layout(stage: Stage, samples: int, sizes: Sizes) -> Layout:
    """With real coordinates, and all that networks find out about them: that hangs on values."""
    if stage == "structure":
        side = sizes.networks["structure flow"][1]["resolution"]
        return DenseLayout((samples, 8, side, side, side))
    voxels = Shell(sizes.voxels, sizes.side).voxels(samples=samples)
    _explored(voxels)
    _explored(voxels.halved()[0])
    return voxel_layout(voxels, 8)


def _explored(voxels: Voxels) -> None:
    assert voxels.neighbours is not None
    assert voxels.sequences is not None


def _batch(stage: Stage, layout: Layout, sizes: Sizes) -> Batch:
    count, width = layout.batch_size, sizes.networks[f"{stage} flow"][1]["cond_channels"]
    noise = layout.randn([torch.Generator()])
    return Batch(torch.empty_like(noise), noise, torch.rand(count), torch.empty(count, sizes.tokens, width), layout)
