"""Distillation: the methods of a sweep train together on one stream of batches, each as if it were alone."""

from __future__ import annotations

import copy
import json
import math
import resource
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ...base.blame import is_ours, raised_in, summary, written_at
from ...base.errors import MissingError, RunError, UsageError
from ...base.files import write_record, write_text
from ...base.seeds import seed_of
from ...methods import STUDENT, Distillation, Step
from ...trellis.end_time import add_end_time, has_end_time
from ..engine.device import clock, is_device_fault
from ..engine.files import load_tensors, save_tensors
from ..engine.logs import write_log
from ..engine.stop import Stopped, careful, stopping
from ..engine.tracking import Training
from ..engine.workers import tell, tick
from ..settings.config import Train
from ..settings.contract import loss_of
from ..settings.methods import Entrant
from .batch import Batch
from .learner import Learner, Recipe, blend
from .networks import Networks, gradients_of, set_gradients_of
from .pairs import HeldOut
from .parts import Part, TreeSum
from .ranks import Ranks, joined
from .task import ChargedTeacher, Points, Task, compile_blocks, lowered, lowered_teacher

CHECKPOINT_EVERY_S = 20.0  # for every second that saving takes, at least one: a full-size student has 10 GB
LOG_EVERY = 10  # steps
LOG_FILE = "log.jsonl"
ACCOUNT_FILE = "training.json"  # written when a training ends
LATE_S = 60  # seconds that a checkpoint may take to be seen by another machine
GIVE_UP_AFTER = 10  # steps in a row without a finite loss and gradient


ASIDE = frozenset({"cuda"})  # devices that go on while a copy of a checkpoint is written: a full-size one has 10 GB
_WRITER = ThreadPoolExecutor(1)  # one at a time


@dataclass(frozen=True)
class Share:
    """One part of a training step, ready for a method: the step, and its weight."""

    step: Step
    weight: float
    teacher: ChargedTeacher


class Student:
    """One method's student: network, optimiser, target weights, log, checkpoint.

    Args:
        label: the method's name and variant; seeds its private draws, so it must not depend on the other methods.
        network: a copy of the teacher, made for this student (`Task.student`).
        steps: optimiser steps of this student.
        folder: where checkpoint, log and result are kept.
        seed: of the training.
        held_out: what ends the training before all steps are done; None: nothing.

    Attributes:
        device: where its network is, and all else that it learns with.
        seconds: time in this student's steps, all calls together, as if it had trained alone.

    Raises:
        UsageError: activations are to be recomputed and the network has no blocks that can, or the method has two
            times and the network can have one only.
    """

    def __init__(
        self,
        label: str,
        method: Distillation,
        network: nn.Module,
        train: Train,
        steps: int,
        folder: Path,
        seed: int = 0,
        held_out: HeldOut | None = None,
    ):
        self.label = label
        self.method = method
        self.folder = folder
        self.train = train
        begin = network  # named networks are copies of it without a second time
        if method.two_times and not has_end_time(network.state_dict()):
            begin = copy.deepcopy(network) if method.networks() else network
            add_end_time(network, seed_of("end time", label, seed))
        self.network = network.train().requires_grad_(True)
        self.device = next(network.parameters()).device
        if train.checkpoint_blocks:
            recompute_blocks(self.network)
        if train.compile_blocks:
            compile_blocks(self.network)
        with torch.random.fork_rng(devices=[]):  # the same network wherever and beside whatever it is made
            torch.manual_seed(seed_of("auxiliary", label, seed))
            auxiliary = method.auxiliary()
        self.auxiliary = None if auxiliary is None else auxiliary.to(self.device)
        parts = {"network": self.network} | ({"auxiliary": self.auxiliary} if self.auxiliary is not None else {})
        recipe = Recipe(
            steps,
            train.lr or method.lr,
            train.warmup,
            train.clip,
            train.ema,
            more_ema=tuple(dict.fromkeys(train.more_ema)),
            clip_percentile=train.clip_percentile,
            scale_loss=train.precision == "float16",
            constant=train.schedule == "constant",
            betas=train.betas,
        )
        self.networks = Networks(method, begin, recipe, (label, seed))
        self.learner = Learner(nn.ModuleDict(parts), recipe)
        own_target = method.target_decay != 0  # else the target is the network, and no copy takes memory
        self.target = {n: p.detach().clone() for n, p in self.network.named_parameters()} if own_target else {}
        self.log: list[dict[str, float]] = []
        self.seconds = 0.0
        self.held_out = held_out
        self._writing: Future[None] | None = None
        self._restore()

    @property
    def _checkpoint(self) -> Path:
        return self.folder / "checkpoint.safetensors"

    @property
    def remaining(self) -> bool:
        over = self.held_out is not None and self.held_out.over
        return self.learner.done < self.learner.recipe.steps and not over

    @property
    def fault(self) -> str:
        """Why it is no student although no step raised, or ""."""
        learner = self.learner
        if learner.skipped_in_a_row >= GIVE_UP_AFTER:
            return f"loss or gradient not finite for {GIVE_UP_AFTER} steps up to step {learner.done - 1}"
        if not self.remaining and learner.skipped >= learner.recipe.steps:
            return f"loss or gradient not finite in all of its {learner.recipe.steps} steps"
        return ""

    def frozen(self) -> Callable[..., Tensor]:
        """The network with the target weights."""
        if self.method.target_decay == 0:
            return self.network

        def averaged(*args: Tensor) -> Tensor:
            return functional_call(self.network, self.target, args)

        return averaged

    def differentiate(self, shares: Sequence[Share]) -> dict[str, float]:
        """The gradients of these parts of a batch, added up as `TreeSum` does.

        Returns:
            Loss and diagnostics, weighted and added up likewise.
        """
        names, total, moved = (), TreeSum(), self._moved(shares[0].step.index)
        for share in shares:
            self.learner.forget()
            self.networks.forget()
            values: dict[str, Tensor] = {}
            for term in map(loss_of, self.method.losses(share.step)):
                self.learner.backward(term.value * share.weight)
                value = term.value.detach()
                values |= {"loss": values["loss"] + value if values else value, **term.diagnostics}
            names = tuple(values)
            numbers = torch.tensor([float(value) * share.weight for value in values.values()], dtype=torch.float64)
            total.add([numbers, *gradients_of(moved)])
        numbers, *gradients = total.value
        set_gradients_of(moved, gradients)
        return dict(zip(names, numbers.tolist(), strict=True))

    def gradients(self, index: int) -> list[Tensor]:
        """Of all that step `index` moves."""
        return gradients_of(self._moved(index))

    def _moved(self, index: int) -> list[Learner]:
        """What step `index` moves: the student, other networks, or both."""
        own = [self.learner] if self.method.updates(STUDENT, index) else []
        return [*own, *self.networks.updated(index)]

    def apply(self, totals: Mapping[str, float], index: int, elapsed: float) -> None:
        """Update the weights with the gradients of the whole batch, of which `totals` are loss and diagnostics."""
        started = clock(self.device)
        finite, moved = math.isfinite(totals["loss"]), self.method.updates(STUDENT, index)
        scale = self.learner.scale
        used = scale.value if scale else 1.0  # before an update changes it
        norm = self.learner.advance(finite) if moved else self.learner.rest()
        if not self.networks.advance(index, finite, used) and scale and finite:
            scale.update(finite=False)
        if self.method.target_decay and moved:
            blend(self.target, dict(self.network.named_parameters()), self.method.target_decay)
        elapsed += clock(self.device) - started
        self.seconds += elapsed
        if index % LOG_EVERY == 0 or index == self.learner.recipe.steps - 1:
            entry = {"step": index, **totals, "grad_norm": norm, "skipped": self.learner.skipped, "step_s": elapsed}
            self.log.append(entry)
        if self.held_out is not None and self.learner.done % self.held_out.every == 0:
            average = _own(self.learner.average)
            self.held_out.observe(lambda *args: functional_call(self.network, average, args))

    def save(self) -> None:
        """Checkpoint, which has the log in it; the file beside it is for readers."""
        write_log(self.folder / LOG_FILE, self.log)
        targets = {f"target/{name}": value for name, value in self.target.items()}
        seconds = torch.tensor(self.seconds, dtype=torch.float64)
        watched = {} if self.held_out is None else {"held_out": self.held_out.state()}
        log = torch.frombuffer(bytearray(json.dumps(self.log).encode()), dtype=torch.uint8)
        others = targets | watched | self.networks.state()
        state = self.learner.state() | others | {"seconds": seconds, "log": log}
        if self.device.type not in ASIDE:
            save_tensors(self._checkpoint, state)
            return
        self.written()
        copied = {name: value.to("cpu", copy=True) for name, value in state.items()}
        self._writing = _WRITER.submit(save_tensors, self._checkpoint, copied)

    def written(self) -> None:
        """Wait for a checkpoint that is being written. Raises what kept it from being written."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def finish(self) -> None:
        """Write the averaged weights, the result of training, and what it took."""
        self.written()  # else it would come after it is removed
        write_log(self.folder / LOG_FILE, self.log)
        self._write_account()
        self.learner.settle()
        for decay, average in self.learner.more.items():
            save_tensors(student_file(self.folder, decay), self.network.state_dict() | _own(average))
        save_tensors(student_file(self.folder), dict(self.network.state_dict()))
        self._checkpoint.unlink(missing_ok=True)

    def _write_account(self) -> None:
        """What a report says of a training. peak_memory_gb is that of all students of the process."""
        steps, batch = self.learner.done, self.train.batch
        write_record(
            self.folder / ACCOUNT_FILE,
            {
                "label": self.label,
                "steps": steps,
                "batch": batch,
                "forwards": self.method.cost() * steps * batch,
                "seconds": self.seconds,
                "skipped": self.learner.skipped,
                "lr": self.learner.recipe.lr,
                "precision": self.train.precision,
                "compiled": self.train.compile_blocks,
                "peak_memory_gb": peak_memory() / 1e9,
            },
        )

    def go_on_from(self, step: int) -> None:
        """Read the checkpoint of a step, which may come late over a network.

        Raises:
            RunError: it does not come.
        """
        tries = LATE_S
        while self.learner.done != step and tries > 0:
            time.sleep(1.0)
            tries -= 1
            self._restore()
        if self.learner.done != step:
            raise RunError(
                f"{self._checkpoint} is of step {self.learner.done} here, and of step {step} where the first process "
                "reads it. Give all processes the same folder, and run the same command again."
            )

    def _restore(self) -> None:
        if not self._checkpoint.exists():
            return
        try:
            state = load_tensors(self._checkpoint)
        except MissingError as error:
            tell(f"mdtbench: {error} Training begins anew.")
            return
        targets = {key: value for key, value in state.items() if key.startswith("target/")}
        self.target = {key.removeprefix("target/"): value.to(self.device) for key, value in targets.items()}
        self.seconds = float(state.pop("seconds"))
        if self.held_out is not None:
            self.held_out.restore(state.pop("held_out"))
        self.networks.restore(state)
        self.log = json.loads(bytes(state.pop("log").numpy()))
        self.learner.restore({k: v for k, v in state.items() if k not in targets and not k.startswith("networks/")})


@runtime_checkable
class Recomputing(Protocol):
    """A block that can recompute its activations in the backward pass instead of keeping them."""

    use_checkpoint: bool


def recompute_blocks(network: nn.Module) -> None:
    """Make all blocks of `network` that can recompute their activations do so. Raises UsageError when none can."""
    blocks = [part for part in network.modules() if isinstance(part, Recomputing)]
    if not blocks:
        raise UsageError(
            f"train.checkpoint_blocks: a {type(network).__name__} has no blocks that recompute activations. "
            "Set it to false."
        )
    for block in blocks:
        block.use_checkpoint = True


def peak_memory() -> int:
    """Most bytes this process has held: on the GPU where it used one, else in main memory."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status")
    if status.exists():  # Linux: getrusage counts what the parent held when it started this process
        return next(int(line.split()[1]) * 1024 for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _own(average: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The network's part of an average over network and auxiliary."""
    prefix = "network."
    return {name.removeprefix(prefix): value for name, value in average.items() if name.startswith(prefix)}


def student_file(folder: Path, decay: float | None = None) -> Path:
    """Where the trained weights of a cell lie; the file exists when, and only when, training is complete.

    Args:
        decay: of a further average (`train.more_ema`); None for the one that is evaluated.
    """
    return folder / ("student.safetensors" if decay is None else f"student-ema{decay}.safetensors")


def begin_as(network: nn.Module, file: Path) -> None:
    """Give a new student the weights of one that is trained, its second time included."""
    tensors = load_tensors(file)
    if has_end_time(tensors):
        add_end_time(network)
    network.load_state_dict(tensors)


def followed(folder: Path, who: Entrant, train: Train, stage: str, seed: int, steps: int) -> Training:
    """A student's training for trackers, named as its folder."""
    method = who.distillation
    settings = {
        "method": who.label,
        "method_version": who.version,
        "stage": stage,
        "train_seed": seed,
        "steps": steps,
        "train": train.model_dump(mode="json", exclude={"steps", "lr"}) | {"lr": train.lr or method.lr},
        "parameters": {field.name: getattr(method, field.name) for field in fields(method)},
    }
    return Training(folder.name, folder / LOG_FILE, student_file(folder), settings)


@dataclass(frozen=True)
class Failure:
    """Why a student is not there.

    Attributes:
        lost: through a fault of the machine, so that another try may succeed.
        mistake: a plug-in's method raised, or returned what it may not.
    """

    reason: str
    lost: bool = False
    mistake: bool = False


def train_together(
    students: Sequence[Student], task: Task, train: Train, seed: int, ranks: Ranks | None = None
) -> dict[str, Failure]:
    """Train all students to the end. Each gets the bits that it would get alone; the teacher's passes are shared.

    Students that are ahead (resumed from a later checkpoint) wait for the others. One whose method raises, or whose
    loss stays non-finite, is left out from there on; the others go on. A fault of the device ends all of them: who of
    them took the memory cannot be told.

    Args:
        ranks: the processes that train these students together, each on its part of every batch; those of the
            process group that was joined, by default. The first one writes.

    Returns:
        Failures of the students that failed, by the name of their folder: students of one method that differ in a
        parameter share their label.

    Raises:
        UsageError: more parts than a batch has samples, or parts that the processes cannot share.
    """
    failures: dict[str, Failure] = {}
    ranks = ranks or joined()
    ranks.share(train.parts)  # first: all refuse, and none waits for the others
    _agree(students, ranks)
    try:
        with careful():
            _train(students, task, train, seed, ranks, failures)
    except Exception as error:  # outside a method's code: in drawing a batch, or in an update
        if ranks.size > 1 or not is_device_fault(error):
            raise
        failures |= _lost(students, failures, Failure(f"{type(error).__name__}: {error}", lost=True))
    for student in students:
        student.written()
    ranks.wait()
    return failures


def _agree(students: Sequence[Student], ranks: Ranks) -> None:
    """The first process says which students train and from which step: others may see an older state of its files.

    Raises:
        RunError: this process has other students, or does not come to see the first one's checkpoints.
    """
    names = seed_of(*(student.folder.name for student in students))
    count, first = ranks.of_first([len(students), names])
    if (count, first) != (len(students), names):
        raise RunError("Processes that train together were given different students. Restart all of them.")
    for student, step in zip(students, ranks.of_first([one.learner.done for one in students]), strict=True):
        student.go_on_from(step)


def _train(
    students: Sequence[Student], task: Task, train: Train, seed: int, ranks: Ranks, failures: dict[str, Failure]
) -> None:
    """As `train_together`; failures are added to `failures` as they happen."""
    saved, took = time.monotonic(), 0.0
    going = [student for student in students if student.remaining]
    index = min((student.learner.done for student in going), default=0)
    while going:
        failures |= advance(going, task, train, seed, index, ranks)
        lost = next((failure for failure in failures.values() if failure.lost), None)
        if lost:
            failures |= _lost(going, failures, lost)
        index += 1
        going = [student for student in going if student.remaining and student.folder.name not in failures]
        if going and ranks.any(stopping()):  # asked of all: they must end at the same step
            for student in going if ranks.first else ():
                student.save()
            raise Stopped(f"stopped before step {index}, and its checkpoint was written")
        now = time.monotonic()
        if ranks.first and now - saved > CHECKPOINT_EVERY_S * max(1.0, took):
            for student in going:
                student.save()
            saved = time.monotonic()
            took = saved - now


def advance(
    students: Sequence[Student], task: Task, train: Train, seed: int, index: int, ranks: Ranks
) -> dict[str, Failure]:
    """One step of all students that have done `index` of them. Returns failures as `train_together`."""
    failures: dict[str, Failure] = {}
    device = students[0].device  # the teacher's and that of all students
    started = clock(device)
    parts = [(part, _points(task.draw(seed, index, part), task, train, device)) for part in own_parts(train, ranks)]
    draw_s = clock(device) - started
    for student in students:
        if student.learner.done == index:
            shares = [_share(student, task, part, points, seed, index) for part, points in parts]
            failure = _updated(student, shares, index, draw_s, ranks)
            failures |= {student.folder.name: failure} if failure else {}
            if not student.remaining and not failure and ranks.first:
                student.finish()
            tick()
    return failures


def _lost(students: Sequence[Student], known: Mapping[str, Failure], failure: Failure) -> dict[str, Failure]:
    """The failure for all that are not done and have none."""
    names = [student.folder.name for student in students if student.remaining]
    return {name: failure for name in names if name not in known}


def own_parts(train: Train, ranks: Ranks) -> list[Part]:
    """The parts of every batch that this process draws and computes."""
    count = ranks.share(train.parts)
    first = ranks.rank * count
    return [Part(number, train.parts) for number in range(first, first + count)]


def _points(batch: Batch, task: Task, train: Train, device: torch.device) -> Points:
    """The samples on `device`: all draws are made on the CPU."""
    batch = batch.to(device)
    return Points(batch, lowered_teacher(task.teacher(batch), train.precision), train.t_min)


def _updated(student: Student, shares: Sequence[Share], index: int, draw_s: float, ranks: Ranks) -> Failure | None:
    """One update; the failure when there was one."""
    started, totals, failure = clock(student.device), {}, None
    try:
        totals = student.differentiate(shares)
    except Exception as error:  # a method may be anybody's code: its failure is a row of the table, not the run's end
        write_text(student.folder / "failure.txt", traceback.format_exc())
        failure = _failure(student, index, error)
        tell(f"mdtbench: {student.label} failed: {failure.reason}")
    if ranks.any(failure is not None):  # before gradients are exchanged: no process may wait for one that failed
        lost = ranks.any(failure is not None and failure.lost)  # all processes must go on with the same students
        elsewhere = Failure(f"failed in another process (step {index}, {student.folder / 'failure.txt'})")
        return replace(failure or elsewhere, lost=lost)
    totals = _summed(totals, student.gradients(index), ranks)
    elapsed = clock(student.device) - started + draw_s + sum(share.teacher.owed_s for share in shares)
    student.apply(totals, index, elapsed)
    if not student.fault:
        return None
    tell(f"mdtbench: {student.label} failed: {student.fault}")
    return Failure(student.fault)


def _failure(student: Student, index: int, error: Exception) -> Failure:
    """Of a step that raised: with the line of the method's code, where the traceback is, and whose fault it was."""
    kind, lost = type(student.method), is_device_fault(error)
    place = f"step {index}, {raised_in(error, kind.__module__) or written_at(kind.loss)}"
    what = str(error) if isinstance(error, UsageError) else summary(error)
    mistake = not lost and not is_ours(kind)
    return Failure(f"{what} ({place}, {student.folder / 'failure.txt'})", lost, mistake)


def _summed(totals: dict[str, float], gradients: Sequence[Tensor], ranks: Ranks) -> dict[str, float]:
    """Gradients (in place) and totals, added up over processes."""
    numbers = torch.tensor(list(totals.values()), dtype=torch.float64)
    ranks.add([numbers, *gradients])
    return dict(zip(totals, numbers.tolist(), strict=True))


def _share(student: Student, task: Task, part: Part, points: Points, seed: int, index: int) -> Share:
    batch, point, precision = points.batch, points.at(student.method.times), student.train.precision
    teacher = ChargedTeacher(point, batch.layout, student.method.cfg_interval)

    def bind(network: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lowered(task.bind(network, batch), precision)

    step = Step(
        index=index,
        total=student.learner.recipe.steps,
        x_0=batch.x_0,
        noise=batch.noise,
        t=point.t,
        t_min=points.t_min,
        x_t=point.x_t,
        layout=batch.layout,
        student=bind(student.network),
        frozen_student=bind(student.frozen()),
        teacher=teacher,
        attached_teacher=teacher.attached,
        generator=torch.Generator().manual_seed(seed_of("method", student.label, seed, index, *part.words)),
        auxiliary=student.auxiliary,
        networks=student.networks.bound(bind),
        averages=student.networks.averages(bind),
    )
    return Share(step, batch.share, teacher)
