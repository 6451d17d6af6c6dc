"""Students that train together get the bits that each would get alone, interrupted or not (T16), and what ends one."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from threading import Event
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from mdtbench.base.errors import UsageError
from mdtbench.base.seeds import seed_of
from mdtbench.harness.settings.config import Train
from mdtbench.harness.settings.methods import entrant
from mdtbench.harness.train import learner as learner_module
from mdtbench.harness.train import loop
from mdtbench.harness.train.batch import Batch
from mdtbench.harness.train.loop import Failure, Student, recompute_blocks, student_file, train_together
from mdtbench.harness.train.parts import WHOLE, Part
from mdtbench.harness.train.ranks import Ranks
from mdtbench.harness.train.task import StageTask, compile_blocks
from mdtbench.methods import Distillation, Loss, Step
from mdtbench.methods.mdt import VelocityMatchingDistillation
from mdtbench.methods.scm import ContinuousConsistencyDistillation
from mdtbench.methods.vm import VelocityMatching
from mdtbench.trellis.precision import LINEAR_LAYERS

TRAIN = Train(steps=3, batch=4, warmup=1, ema=0.9)
SEED = 7
# Passes of the student's network per step: online and target ones, of which one (mdt: two) is differentiated
STUDENT_CALLS = {"cm": 2, "vm": 2, "mdt": 5, "scm": 2, "pcm": 2, "gd": 1, "kd": 1}
NAMES = tuple(STUDENT_CALLS)
# By default all targets are the online weights; averaged ones must work too. kd's own 25 steps show nothing more.
CHANGES = {"cm": {"target_decay": 0.95}, "pcm": {"target_decay": 0.9}, "kd": {"teacher_steps": 3}}
AVERAGED = ("cm", "pcm")


def student(label: str, task: StageTask, folder: Path, train: Train = TRAIN) -> Student:
    method = entrant(label, {} if ":" in label else CHANGES, task.pipeline.sampler).distillation
    return of_method(method, task, folder / label.replace(":", "-"), train, label)


def of_method(
    method: Distillation, task: StageTask, folder: Path, train: Train = TRAIN, label: str = "mine"
) -> Student:
    return Student(label, method, task.student(), train, train.steps, folder, SEED)


def trained(label: str, task: StageTask, folder: Path, **changes: object) -> Student:
    """A student that trained alone with changed settings."""
    train = TRAIN.model_copy(update=changes)
    made = student(label, task, folder, train)
    assert train_together([made], task, train, SEED) == {}
    return made


def given(task: StageTask) -> dict[str, object]:
    """What it was made with."""
    return {one.name: getattr(task, one.name) for one in fields(task)}


def tensors(made: Student) -> dict[str, Tensor]:
    """All that a student is: averaged weights, Adam's moments, targets, and the file it wrote."""
    parts = {"": made.learner.state(), "target/": made.target, "file/": load_file(student_file(made.folder))}
    return {prefix + key: value.detach().clone() for prefix, part in parts.items() for key, value in part.items()}


def differing(a: dict[str, Tensor], b: dict[str, Tensor]) -> list[str]:
    assert set(a) == set(b)
    return [key for key in a if not torch.equal(a[key], b[key])]


def log_of(made: Student) -> list[dict[str, float]]:
    """The student's log without its timings."""
    lines = (made.folder / "log.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key != "step_s"} for line in lines]


def account_of(made: Student) -> dict[str, object]:
    return json.loads((made.folder / "training.json").read_text())


def online(made: Student) -> dict[str, Tensor]:
    """Its weights without averaging, of a training with more_ema = 0."""
    return loop._own(made.learner.more[0.0])


def movement(made: Student, task: StageTask) -> Tensor:
    """How far training took the averaged weights, as one vector."""
    start, average = task.pipeline.flow.state_dict(), made.learner.average
    return torch.cat([(average[f"network.{key}"] - start[key]).flatten() for key, _ in made.network.named_parameters()])


class Together:
    """One lockstep training of all methods, with the calls of teacher and students counted."""

    def __init__(self, task: StageTask, folder: Path):
        self.students = {name: student(name, task, folder) for name in NAMES}
        self.teacher_rows: list[int] = []
        self.calls = dict.fromkeys(NAMES, 0)
        # the times are one for each sample, whatever a sample is
        hooks = [task.pipeline.flow.register_forward_pre_hook(lambda _, args: self.teacher_rows.append(len(args[1])))]
        hooks += [made.network.register_forward_pre_hook(self._counting(name)) for name, made in self.students.items()]
        assert train_together(list(self.students.values()), task, TRAIN, SEED) == {}
        for hook in hooks:
            hook.remove()

    def _counting(self, name: str) -> Callable[..., None]:
        def count(*_: object) -> None:
            self.calls[name] += 1

        return count


@pytest.fixture(scope="module")
def together(task: StageTask, tmp_path_factory: pytest.TempPathFactory) -> Together:
    return Together(task, tmp_path_factory.mktemp("together"))


@pytest.mark.parametrize("name", NAMES)
def test_lockstep_equals_solo_bit_for_bit(name: str, together: Together, task: StageTask, tmp_path: Path):
    alone = student(name, task, tmp_path)
    assert train_together([alone], task, TRAIN, SEED) == {}
    assert differing(tensors(together.students[name]), tensors(alone)) == []
    assert log_of(together.students[name]) == log_of(alone)
    assert [entry["step"] for entry in log_of(alone)] == [0, 2]
    assert all(math.isfinite(entry["loss"]) and entry["grad_norm"] > 0 for entry in log_of(alone))


def test_students_moved_and_differ_and_the_teacher_stays(together: Together, task: StageTask):
    """Without this the comparison above could hold between things that never changed."""
    weights = [tensors(made)["file/out_layer.weight"] for made in together.students.values()]
    everything = [task.pipeline.flow.state_dict()["out_layer.weight"], *weights]
    for i, one in enumerate(everything):
        assert one.isfinite().all()
        assert all(not torch.equal(one, other) for other in everything[i + 1 :])
    assert differing(dict(task.pipeline.flow.state_dict()), dict(task.student().state_dict())) == []
    for made in together.students.values():
        assert made.learner.skipped == 0
        assert set(load_file(student_file(made.folder))) == set(task.pipeline.flow.state_dict())


def test_only_averaged_targets_are_kept_apart(together: Together):
    assert {name for name, made in together.students.items() if made.target} == set(AVERAGED)


@pytest.mark.parametrize(("label", "decay"), [("cm:ema", 0.95), ("pcm:ema", 0.95)])
def test_targets_are_decay_times_the_old_plus_the_rest_times_the_new(
    label: str, decay: float, task: StageTask, tmp_path: Path
):
    """After one step, which is far larger than a rounding of float32."""
    made = trained(label, task, tmp_path, steps=1, more_ema=(0.0,), warmup=0)
    before, after = dict(task.pipeline.flow.named_parameters()), online(made)
    assert made.method.target_decay == decay
    assert max((after[key] - before[key]).abs().max() for key in after) > 1e-4
    for key, value in made.target.items():
        torch.testing.assert_close(value, decay * before[key] + (1 - decay) * after[key], rtol=0, atol=1e-6, msg=key)


def test_the_teacher_runs_once_per_batch_for_all_methods(together: Together):
    """43 passes per sample and step for the seven methods, against 53 alone: the shared pair is computed once."""
    pairs = len(together.teacher_rows) / 2 / TRAIN.steps  # with the condition, and with the negative one
    assert pairs == 1 + 1 + 3  # at (x_t, t) for everybody, on MDT's own sample, along kd's own trajectory
    assert set(together.teacher_rows) == {TRAIN.batch}
    calls = {name: count / TRAIN.steps for name, count in together.calls.items()}
    assert calls == STUDENT_CALLS
    differentiated = len(NAMES) + 1  # each student once; MDT also on its own sample. A backward pass counts two.
    jvp = 2  # the JVP of sCM counts three passes and is one call
    passes = 2 * pairs + sum(calls.values()) + 2 * differentiated + jvp
    assert passes == 43
    costs = [made.method.cost() for made in together.students.values()]
    sharing = len(NAMES) - 1  # all but kd
    assert sum(costs) == passes + 2 * (sharing - 1)


def test_a_finished_student_leaves_its_result_its_log_and_an_account(together: Together):
    for name, made in together.students.items():
        files = sorted(path.name for path in made.folder.iterdir())
        assert files == ["log.jsonl", "student.safetensors", "training.json"]
        written, average = load_file(student_file(made.folder)), loop._own(made.learner.average)
        assert differing({key: written[key] for key in average}, average) == []
        account = account_of(made)
        assert account["seconds"] == made.seconds > 0
        assert account["peak_memory_gb"] > 0.1  # type: ignore[operator]  # torch alone takes that much
        forwards = made.method.cost() * TRAIN.steps * TRAIN.batch
        expected = {"label": name, "steps": 3, "batch": 4, "forwards": forwards, "skipped": 0, "lr": made.method.lr}
        assert {key: account[key] for key in expected} == expected


# ------------------------------------------------------------------------------------------------------ interruptions


def interrupted(
    names: Sequence[str], task: StageTask, folder: Path, monkeypatch: pytest.MonkeyPatch, train: Train = TRAIN
) -> None:
    """Train those of these names, checkpoint after every step, stop before the last."""
    stop_before_the_last([student(name, task, folder, train) for name in names], task, monkeypatch, train)


def stop_before_the_last(
    students: Sequence[Student], task: StageTask, monkeypatch: pytest.MonkeyPatch, train: Train = TRAIN
) -> None:
    class Stopping(StageTask):
        def draw(self, seed: int, index: int, part: Part = WHOLE) -> Batch:
            if index == 2:
                raise KeyboardInterrupt
            return super().draw(seed, index, part)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "CHECKPOINT_EVERY_S", -1.0)
        with pytest.raises(KeyboardInterrupt):
            train_together(list(students), Stopping(**given(task)), train, SEED)


def test_an_interrupted_training_goes_on_bit_for_bit(
    together: Together, task: StageTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """pcm, whose checkpoint is lost, starts anew while the others wait for it."""
    names = ("cm", "scm", "pcm")
    interrupted(names, task, tmp_path, monkeypatch)
    assert not student_file(tmp_path / "cm").exists()
    (tmp_path / "pcm" / "checkpoint.safetensors").unlink()
    with (tmp_path / "scm" / "log.jsonl").open("a") as log:
        log.write('{"step": 2, "loss": 0.5}\n')  # a log may be ahead of its checkpoint
    students = {name: student(name, task, tmp_path) for name in names}
    assert [made.learner.done for made in students.values()] == [2, 2, 0]
    assert train_together(list(students.values()), task, TRAIN, SEED) == {}
    for name, made in students.items():
        assert differing(tensors(made), tensors(together.students[name])) == []
        assert log_of(made) == log_of(together.students[name])


def test_checkpoints_that_are_written_beside_the_training_are_those_of_their_steps(
    together: Together, task: StageTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """As on a GPU: a copy is written while training goes on, and what it holds does not change with the weights."""
    monkeypatch.setattr(loop, "ASIDE", {"cpu"})
    real, held = loop.save_tensors, Event()

    def slow(path: Path, values: dict[str, Tensor]) -> None:
        held.wait(1.0)  # the next step is done by then
        real(path, values)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "save_tensors", slow)
        interrupted(["cm"], task, tmp_path, monkeypatch)
        loop._WRITER.submit(int).result()  # after all that were begun
    made = student("cm", task, tmp_path)
    assert made.learner.done == 2
    assert train_together([made], task, TRAIN, SEED) == {}
    assert differing(tensors(made), tensors(together.students["cm"])) == []
    assert not (made.folder / "checkpoint.safetensors").exists()


def test_a_checkpoint_that_cannot_be_written_ends_the_training(
    structure_task: StageTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def full(path: Path, values: dict[str, Tensor]) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(loop, "ASIDE", {"cpu"})
    monkeypatch.setattr(loop, "CHECKPOINT_EVERY_S", -1.0)
    monkeypatch.setattr(loop, "save_tensors", full)
    with pytest.raises(OSError, match="No space left"):
        train_together([student("vm", structure_task, tmp_path)], structure_task, TRAIN, SEED)


def test_time_and_everything_else_goes_on_after_an_interruption(
    structure_task: StageTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """float16 with a scaled loss, several averages, a percentile and parts: all of it is in the checkpoint."""
    changes = {"precision": "float16", "more_ema": (0.5,), "clip_percentile": 50.0, "clip": 100.0, "parts": 2}
    monkeypatch.setattr(learner_module.AdaptiveGradClipper.__init__, "__defaults__", (None, 1))
    whole = trained("vm", structure_task, tmp_path / "whole", **changes)
    interrupted(["vm"], structure_task, tmp_path, monkeypatch, TRAIN.model_copy(update=changes))
    spent = float(load_file(tmp_path / "vm" / "checkpoint.safetensors")["seconds"])
    resumed = trained("vm", structure_task, tmp_path, **changes)
    assert differing(tensors(whole), tensors(resumed)) == []
    assert log_of(whole) == log_of(resumed)
    assert resumed.seconds > spent > 0
    assert whole.learner.clipper.limit < 100  # the percentile does count
    assert whole.learner.skipped < 3


# ------------------------------------------------------------------------------------------------------------ failures


@dataclass(frozen=True, kw_only=True)
class Broken(VelocityMatching):
    """Raises `error`, or loses its numbers, at some steps."""

    error: Exception | None = None
    at: tuple[int, ...] = (1, 2)

    def loss(self, step: Step) -> Loss:
        loss = super().loss(step)
        if step.index not in self.at:
            return loss
        if self.error:
            raise self.error
        return Loss(loss.value * math.nan)


@pytest.mark.parametrize("error", [ValueError("a method of somebody's own"), None])
def test_a_student_that_fails_is_left_out_and_the_others_go_on(
    together: Together, task: StageTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception | None
):
    monkeypatch.setattr(loop, "GIVE_UP_AFTER", 2)
    broken = of_method(Broken(cfg_strength=2.0, error=error), task, tmp_path / "broken")
    other = student("vm", task, tmp_path)
    failures = train_together([broken, other], task, TRAIN, SEED)
    assert list(failures) == ["broken"]
    assert ("a method of somebody's own" if error else "not finite for 2 steps up to step 2") in failures[
        "broken"
    ].reason
    assert not failures["broken"].lost
    assert (tmp_path / "broken" / "failure.txt").exists() == bool(error)
    assert not student_file(tmp_path / "broken").exists()
    assert differing(tensors(other), tensors(together.students["vm"])) == []


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_a_student_without_a_single_finite_step_has_failed(precision: str, structure_task: StageTask, tmp_path: Path):
    """Fewer steps than those after which training is given up: its weights are still the teacher's."""
    train = TRAIN.model_copy(update={"precision": precision})
    made = of_method(Broken(cfg_strength=2.0, at=(0, 1, 2)), structure_task, tmp_path / "nan", train)
    failures = train_together([made], structure_task, train, SEED)
    assert failures == {"nan": Failure("loss or gradient not finite in all of its 3 steps")}
    assert not student_file(made.folder).exists()


def test_a_student_that_skipped_some_steps_says_so_in_its_account(structure_task: StageTask, tmp_path: Path):
    made = of_method(Broken(cfg_strength=2.0, at=(0, 2)), structure_task, tmp_path / "skipping")
    assert train_together([made], structure_task, TRAIN, SEED) == {}
    assert student_file(made.folder).exists()
    assert {key: account_of(made)[key] for key in ("steps", "skipped")} == {"steps": 3, "skipped": 2}
    assert [entry["skipped"] for entry in log_of(made)] == [1, 2]


PLUG_IN = """
from dataclasses import dataclass

from mdtbench.methods.vm import VelocityMatching


@dataclass(frozen=True, kw_only=True)
class Mine(VelocityMatching):
    def loss(self, step):
        return broken(step)  # line 10


def broken(step):
    return step.x_t.reshape(-1, 7)  # line 14
"""


def loaded(path: Path) -> ModuleType:
    spec = spec_from_file_location("a_plug_in", path)
    assert spec is not None
    assert spec.loader is not None
    made = module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


@pytest.mark.parametrize("where", [".", "site-packages"])
def test_a_method_s_own_exception_is_reported_with_its_line(
    where: str, structure_task: StageTask, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """The last one of the plug-in's, wherever that lies; and not those of torch below it. At once, on one line."""
    file = tmp_path / where / "plug_in.py"
    file.parent.mkdir(exist_ok=True)
    file.write_text(PLUG_IN)
    made = of_method(loaded(file).Mine(cfg_strength=2.0), structure_task, tmp_path / "mine")
    failure = train_together([made], structure_task, TRAIN, SEED)["mine"]
    assert failure.reason.startswith("RuntimeError: shape '[-1, 7]' is invalid")
    assert f"(step 0, {file}:14, {made.folder / 'failure.txt'})" in failure.reason
    assert (failure.lost, failure.mistake) == (False, True)
    assert "in broken" in (made.folder / "failure.txt").read_text()
    assert capsys.readouterr().err == f"mdtbench: mine failed: {failure.reason}\n"


RETURNED = {
    "return step.x_t": "loss returned a Tensor of shape [4, 4, 4, 4, 4], not a Loss - return Loss(value)",
    "pass": "loss returned None, not a Loss",
    "return Loss(step.x_t.mean())": "the value of its Loss has no gradient",
    "return Loss(step.student(step.x_t, step.t))": "the value of its Loss is a Tensor of shape [4, 4, 4, 4, 4]",
    "return step.value": "AttributeError: 'Step' object has no attribute 'value'",
    "return Loss(step.student(step.x_t, step.t[:2]).mean())": "RuntimeError: ",
}


@pytest.mark.parametrize("code", RETURNED)
def test_a_loss_of_the_wrong_kind_is_told_with_the_line_of_the_method(
    code: str, structure_task: StageTask, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    file = tmp_path / "plug_in.py"
    file.write_text(PLUG_IN.replace("return broken(step)", code).replace("import Vel", "import Loss, Vel"))
    made = of_method(loaded(file).Mine(cfg_strength=2.0), structure_task, tmp_path / "mine")
    failure = train_together([made], structure_task, TRAIN, SEED)["mine"]
    assert failure.reason.startswith(RETURNED[code])
    line = 10 if "Error" in RETURNED[code] else 9  # where it was raised, or the head of the function
    assert f"(step 0, {file}:{line}, " in failure.reason
    assert failure.mistake
    told = capsys.readouterr().err
    assert told.startswith("mdtbench: mine failed: ")
    assert told.count("\n") == 1


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("Tried to allocate 2.00 GiB"),
        MemoryError(),
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        torch.AcceleratorError("device-side assert triggered", 710),
        RuntimeError("cusolver error: CUSOLVER_STATUS_INTERNAL_ERROR, when calling `cusolverDnCreate(handle)`"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes"),
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_a_fault_of_the_machine_loses_all_students_that_are_not_done(
    error: Exception, first: bool, structure_task: StageTask, tmp_path: Path
):
    """Who of them took the memory cannot be told, so another try may succeed: none has failed for good."""
    broken = of_method(Broken(cfg_strength=2.0, error=error), structure_task, tmp_path / "broken")
    other = student("vm", structure_task, tmp_path)
    done = student("gd", structure_task, tmp_path, TRAIN.model_copy(update={"steps": 1}))
    order = [broken, other] if first else [other, broken]
    failures = train_together([done, *order], structure_task, TRAIN, SEED)
    assert set(failures) == {"broken", "vm"}
    assert all(failure.lost and type(error).__name__ in failure.reason for failure in failures.values())
    assert student_file(done.folder).exists()
    assert not student_file(other.folder).exists()


@pytest.mark.parametrize("error", [ValueError("CUDA error"), RuntimeError("mat1 and mat2 shapes cannot be multiplied")])
def test_other_exceptions_are_the_method_s_own(error: Exception, structure_task: StageTask, tmp_path: Path):
    broken = of_method(Broken(cfg_strength=2.0, error=error), structure_task, tmp_path / "broken")
    [failure] = train_together([broken], structure_task, TRAIN, SEED).values()
    assert (failure.lost, failure.mistake) == (False, True)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), ValueError("no such picture")])
def test_outside_of_methods_only_a_fault_of_the_machine_is_no_error(
    error: Exception, structure_task: StageTask, tmp_path: Path
):
    class Full(StageTask):
        def draw(self, seed: int, index: int, part: Part = WHOLE) -> Batch:
            if index == 1:
                raise error
            return super().draw(seed, index, part)

    students = [student("vm", structure_task, tmp_path), student("gd", structure_task, tmp_path)]
    task = Full(**given(structure_task))
    if isinstance(error, ValueError):
        with pytest.raises(ValueError, match="no such picture"):
            train_together(students, task, TRAIN, SEED)
        return
    lost = Failure("OutOfMemoryError: CUDA out of memory", lost=True)
    assert train_together(students, task, TRAIN, SEED) == {"vm": lost, "gd": lost}


@pytest.mark.parametrize("lost", [False, True])
def test_a_failure_in_another_process_is_one_here(lost: bool, structure_task: StageTask, tmp_path: Path):
    """Processes must go on with the same students, so a fault of one is a fault of all."""
    answers = iter([True, lost, *[False] * 3 * TRAIN.steps])  # whether any process failed, whether through a fault

    class OtherFailed(Ranks):
        def any(self, flag: bool) -> bool:
            assert not flag
            return next(answers)

    students = [student("vm", structure_task, tmp_path), student("gd", structure_task, tmp_path)]
    failures = train_together(students, structure_task, TRAIN, SEED, OtherFailed())
    assert "failed in another process (step 0" in failures["vm"].reason
    assert list(failures) == (["vm", "gd"] if lost else ["vm"])
    assert all(failure.lost == lost for failure in failures.values())
    assert [made.learner.done for made in students] == [0, 1 if lost else 3]


# ---------------------------------------------------------------------------------------------- what is private, seeds


@dataclass(frozen=True, kw_only=True)
class Drawing(VelocityMatching):
    """Notes what it draws; has a network of its own, made as most people would."""

    drawn: list[list[float]] = field(default_factory=list)

    def auxiliary(self) -> nn.Module:
        return nn.Linear(3, 2)

    def loss(self, step: Step) -> Loss:
        self.drawn.append(torch.rand(3, generator=step.generator).tolist())
        assert step.auxiliary is not None
        loss = super().loss(step)
        return replace(loss, value=loss.value + sum(p.square().sum() for p in step.auxiliary.parameters()))


def test_private_draws_follow_from_label_seed_and_step(structure_task: StageTask, tmp_path: Path):
    """A method that draws its own noise never gets that of another step; the same seed gives the same."""

    def drawn(label: str, seed: int) -> list[list[float]]:
        method = Drawing(cfg_strength=2.0)
        made = of_method(
            method, structure_task, tmp_path / f"{label}{seed}{len(list(tmp_path.iterdir()))}", label=label
        )
        assert train_together([made], structure_task, TRAIN, seed) == {}
        return method.drawn

    first = drawn("a", 0)
    generators = [torch.Generator().manual_seed(seed_of("method", "a", 0, index)) for index in range(TRAIN.steps)]
    assert first == [torch.rand(3, generator=generator).tolist() for generator in generators]
    assert first == drawn("a", 0)
    every = [numbers[0] for numbers in (*first, *drawn("b", 0), *drawn("a", 1))]
    assert len(set(every)) == len(every) == 9


def test_an_auxiliary_network_follows_from_label_and_seed_alone(structure_task: StageTask, tmp_path: Path):
    def weight(label: str, seed: int) -> Tensor:
        made = Student(label, Drawing(cfg_strength=2.0), structure_task.student(), TRAIN, 1, tmp_path / "none", seed)
        assert made.auxiliary is not None
        return made.auxiliary.weight.detach().clone()

    torch.manual_seed(1)
    first = weight("a", 0)
    after = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(after, torch.rand(1))  # and it takes nothing from what others draw
    weight("b", 0)
    assert torch.equal(first, weight("a", 0))
    for other in (weight("a", 1), weight("b", 0)):
        assert not torch.equal(first, other)


def test_an_auxiliary_network_is_the_same_beside_other_students(structure_task: StageTask, tmp_path: Path):
    def made(folder: Path, others: int) -> Student:
        students = [
            of_method(Drawing(cfg_strength=2.0), structure_task, folder / f"{i}", label=f"{i}") for i in range(others)
        ]
        mine = of_method(Drawing(cfg_strength=2.0), structure_task, folder / "mine")
        assert train_together([*students, mine], structure_task, TRAIN, SEED) == {}
        return mine

    alone, beside = made(tmp_path / "alone", 0), made(tmp_path / "beside", 2)
    assert "average/auxiliary.weight" in tensors(alone)
    assert differing(tensors(alone), tensors(beside)) == []


# ------------------------------------------------------------------------------------------------------------ settings


def test_the_learning_rate_of_the_run_takes_precedence(structure_task: StageTask, tmp_path: Path):
    own = student("vm", structure_task, tmp_path)
    assert own.learner.recipe.lr == own.method.lr
    assert student("vm", structure_task, tmp_path, TRAIN.model_copy(update={"lr": 0.5})).learner.recipe.lr == 0.5


def test_rates_and_betas_are_those_of_the_settings(structure_task: StageTask, tmp_path: Path):
    train = TRAIN.model_copy(update={"schedule": "constant", "betas": (0.8, 0.95)})
    learner, usual = (student("vm", structure_task, tmp_path, one).learner for one in (train, TRAIN))
    assert [learner.recipe.schedule(index) for index in (0, 1, 2)] == [1.0, 1.0, 1.0]
    assert [made.optimisers[0][0].param_groups[0]["betas"] for made in (learner, usual)] == [(0.8, 0.95), (0.9, 0.99)]
    assert usual.recipe.schedule(2) < 1


def test_further_averages_lie_beside_the_result(structure_task: StageTask, tmp_path: Path):
    made = trained("vm", structure_task, tmp_path, steps=2, more_ema=(0.0, 0.5))
    files = {decay: load_file(student_file(made.folder, decay)) for decay in (None, 0.0, 0.5)}
    assert (made.folder / "student-ema0.5.safetensors").exists()
    assert differing({key: files[0.0][key] for key in online(made)}, online(made)) == []
    for one, other in ((None, 0.0), (None, 0.5), (0.0, 0.5)):
        assert "out_layer.weight" in differing(files[one], files[other])


@dataclass(frozen=True, kw_only=True)
class Spying(ContinuousConsistencyDistillation):
    """Notes the dtypes of what its networks return."""

    seen: set[torch.dtype]

    def loss(self, step: Step) -> Loss:
        v = step.teacher(step.x_t, step.t, self.cfg_strength)
        self.seen.update({v.dtype, step.student(step.x_t, step.t).dtype, step.target(step.x_t, step.t).dtype})
        self.seen.update(out.dtype for out in step.target_derivative(step.x_t, step.t, v))
        return super().loss(step)


@pytest.mark.parametrize(("precision", "dtype"), [("bfloat16", torch.bfloat16), ("float16", torch.float16)])
def test_half_precision_is_for_the_networks_insides_only(
    precision: str, dtype: torch.dtype, task: StageTask, tmp_path: Path
):
    """scm has all kinds of calls: teacher, forward differentiation, student. Weights and outputs are float32."""
    inside: set[torch.dtype] = set()
    outside: set[torch.dtype] = set()
    train = TRAIN.model_copy(update={"precision": precision, "steps": 1})
    single, guidance = (
        TRAIN.model_copy(update={"steps": 1}),
        100.0,
    )  # a warm-up so long that the derivative, which is less exact in half precision, hardly counts
    made = of_method(Spying(cfg_strength=2.0, warmup=guidance, seen=outside), task, tmp_path / "scm", train)
    layers = [network.blocks[0].mlp.mlp[0] for network in (made.network, task.pipeline.flow)]
    hooks = [layer.register_forward_hook(lambda _, __, out: inside.add(out.dtype)) for layer in layers]
    failures = train_together([made], task, train, SEED)
    for hook in hooks:
        hook.remove()
    assert failures == {}
    assert inside == {dtype}
    assert outside == {torch.float32}
    assert {parameter.dtype for parameter in made.network.parameters()} == {torch.float32}
    full = of_method(Spying(cfg_strength=2.0, warmup=guidance, seen=set()), task, tmp_path / "full", single)
    assert train_together([full], task, single, SEED) == {}
    # Adam's first step is the gradient's sign: of a gradient that is right to 1 %, 0.9 and more of it is the same.
    assert torch.cosine_similarity(movement(made, task), movement(full, task), dim=0) > 0.9


@pytest.mark.parametrize("teacher", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("precision", ["bfloat16", "float16", "float32"])
def test_students_learn_beside_a_teacher_of_another_half_precision(
    precision: str, teacher: torch.dtype, task: StageTask, tmp_path: Path
):
    """TRELLIS' weights are float16; autocast in bfloat16 refuses to mix the two. Its own dtypes stay as they were."""
    flow = copy.deepcopy(task.pipeline.flow)
    for name in ("input_blocks", "blocks", "out_blocks"):
        for layer in getattr(flow, name, nn.ModuleList()).modules():
            if isinstance(layer, LINEAR_LAYERS):
                layer.to(teacher)
    stored = {name: p.clone() for name, p in flow.named_parameters()}
    half = replace(task, pipeline=replace(task.pipeline, flow=flow), precision=precision)
    inside: set[torch.dtype] = set()
    start = half.student().state_dict()
    assert torch.equal(start["blocks.0.mlp.mlp.0.weight"], stored["blocks.0.mlp.mlp.0.weight"].float())
    made = student("mdt", half, tmp_path, TRAIN.model_copy(update={"precision": precision, "steps": 1}))
    half._teacher.blocks[0].mlp.register_forward_hook(lambda _, __, out: inside.add(out.dtype))  # not in the student
    assert train_together([made], half, made.train, SEED) == {}
    assert inside == {teacher if precision == "float32" else getattr(torch, precision)}
    assert {name: p.dtype for name, p in flow.named_parameters()} == {name: p.dtype for name, p in stored.items()}
    assert all(torch.equal(p, stored[name]) for name, p in flow.named_parameters())


def test_terms_of_a_loss_one_after_the_other_have_its_gradient_to_the_bit(task: StageTask, tmp_path: Path):
    """And its value and diagnostics: VM and VD apart are VM+VD."""

    @dataclass(frozen=True, kw_only=True)
    class AtOnce(VelocityMatchingDistillation):
        def losses(self, step: Step) -> Iterator[Loss]:
            first, second = VelocityMatchingDistillation.losses(self, step)
            yield Loss(first.value + second.value, {**first.diagnostics, **second.diagnostics})

    apart = of_method(VelocityMatchingDistillation(cfg_strength=2.0), task, tmp_path / "apart", label="mdt")
    at_once = of_method(AtOnce(cfg_strength=2.0), task, tmp_path / "at_once", label="mdt")
    for made in (apart, at_once):
        assert train_together([made], task, TRAIN, SEED) == {}
    assert differing(tensors(apart), tensors(at_once)) == []
    assert log_of(apart) == log_of(at_once)
    assert "residual_own" in " ".join(log_of(apart)[0])


def test_recomputed_blocks_change_no_gradient(task: StageTask, tmp_path: Path):
    plain = trained("mdt", task, tmp_path / "plain", steps=1)
    recomputed = trained("mdt", task, tmp_path / "recomputed", steps=1, checkpoint_blocks=True)
    blocks = [*recomputed.network.blocks, *getattr(recomputed.network, "input_blocks", ())]
    assert all(block.use_checkpoint for block in blocks)
    assert not any(block.use_checkpoint for block in task.pipeline.flow.blocks)
    for (name, a), b in zip(plain.network.named_parameters(), recomputed.network.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-6, atol=1e-7, msg=name)


def test_a_network_without_blocks_cannot_recompute_or_compile_them():
    with pytest.raises(UsageError, match=r"Linear has no blocks"):
        recompute_blocks(torch.nn.Linear(2, 2))
    with pytest.raises(UsageError, match=r"Linear has no `blocks`"):
        compile_blocks(torch.nn.Linear(2, 2))


@pytest.mark.slow
@pytest.mark.parametrize("label", ["mdt", "scm", "cm:ema"])
def test_compiled_blocks_learn_the_same(label: str, task: StageTask, tmp_path: Path):
    """Up to rounding, exact derivatives and averaged targets too; the pipeline's own network is not compiled.

    Without the step of C++, which takes a minute and changes nothing about what is traced.
    """
    eager = trained(label, task, tmp_path / "eager", steps=1)
    with torch.compiler.set_stance("default", force_backend="aot_eager"):
        torch._dynamo.reset()  # it knows the blocks of students before
        torch._dynamo.utils.counters.clear()
        compiled = trained(label, replace(task, compiled=True), tmp_path / "compiled", steps=1, compile_blocks=True)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 1
    assert not any(block._compiled_call_impl for block in task.pipeline.flow.blocks)
    assert tensors(compiled).keys() == tensors(eager).keys()
    for (name, a), b in zip(eager.network.named_parameters(), compiled.network.parameters(), strict=True):
        torch.testing.assert_close(b.grad, a.grad, rtol=1e-4, atol=1e-6, msg=name)


def test_a_batch_that_cannot_be_cut_is_a_usage_error(structure_task: StageTask, tmp_path: Path):
    with pytest.raises(UsageError, match="batch of 4 cannot be cut in 5 parts"):
        trained("vm", structure_task, tmp_path, parts=5)
