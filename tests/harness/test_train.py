"""Students that train together get the bits that each would get alone, interrupted or not (T16)."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from mdtbench.base.errors import UsageError
from mdtbench.flow.path import diffuse
from mdtbench.flow.times import LogitNormal, Uniform
from mdtbench.harness import learner as learner_module
from mdtbench.harness import train as train_module
from mdtbench.harness.config import Train
from mdtbench.harness.distributed import Ranks
from mdtbench.harness.parameters import entrant
from mdtbench.harness.task import Batch, ChargedTeacher, Points, StructureTask, TrainingData
from mdtbench.harness.train import Student, recompute_blocks, student_file, train_together
from mdtbench.methods import Distillation, Loss, Step
from mdtbench.methods.scm import ContinuousConsistencyDistillation
from mdtbench.methods.vm import VelocityMatching
from mdtbench.trellis.pipeline import StructurePipeline

NAMES = ("cm", "vm", "mdt", "scm", "pcm")
TRAIN = Train(steps=3, batch=4, warmup=1, ema=0.9)
SEED = 7
# Passes of the student's network per step: online and target ones, of which one (mdt: two) is differentiated
STUDENT_CALLS = {"cm": 2, "vm": 2, "mdt": 5, "scm": 2, "pcm": 2}


# By default all targets are the online weights; these two make sure that averaged ones work too.
AVERAGED = {"cm": {"target_decay": 0.95}, "pcm": {"target_decay": 0.9}}


@pytest.fixture(scope="module")
def data(pipeline: StructurePipeline) -> TrainingData:
    """Six random latents with random pictures."""
    latents = torch.randn(6, *pipeline.latent_shape, generator=torch.Generator().manual_seed(1))
    images = np.random.Generator(np.random.PCG64(2)).integers(0, 256, (6, 2, 64, 64, 3), np.uint8)
    return TrainingData(latents, images, (0.3, 0.55))


def student(name: str, pipeline: StructurePipeline, folder: Path) -> Student:
    method = entrant(name, AVERAGED, pipeline.sampler).method
    assert isinstance(method, Distillation)
    return Student(name, method, copy.deepcopy(pipeline.flow), TRAIN, TRAIN.steps, folder / name)


def task(pipeline: StructurePipeline, data: TrainingData) -> StructureTask:
    return StructureTask(pipeline, data, TRAIN.batch)


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


class Together:
    """One lockstep training of all methods, with the calls of teacher and students counted."""

    def __init__(self, pipeline: StructurePipeline, data: TrainingData, folder: Path):
        self.students = {name: student(name, pipeline, folder) for name in NAMES}
        self.teacher_rows: list[int] = []
        self.calls = dict.fromkeys(NAMES, 0)
        hooks = [pipeline.flow.register_forward_pre_hook(lambda _, args: self.teacher_rows.append(len(args[0])))]
        hooks += [made.network.register_forward_pre_hook(self._counting(name)) for name, made in self.students.items()]
        train_together(list(self.students.values()), task(pipeline, data), TRAIN, SEED)
        for hook in hooks:
            hook.remove()

    def _counting(self, name: str):
        def count(*_: object) -> None:
            self.calls[name] += 1

        return count


@pytest.fixture(scope="module")
def together(pipeline: StructurePipeline, data: TrainingData, tmp_path_factory: pytest.TempPathFactory) -> Together:
    return Together(pipeline, data, tmp_path_factory.mktemp("together"))


@pytest.mark.parametrize("name", NAMES)
def test_lockstep_equals_solo_bit_for_bit(
    name: str, together: Together, pipeline: StructurePipeline, data: TrainingData, tmp_path: Path
):
    alone = student(name, pipeline, tmp_path)
    train_together([alone], task(pipeline, data), TRAIN, SEED)
    assert differing(tensors(together.students[name]), tensors(alone)) == []
    assert log_of(together.students[name]) == log_of(alone)
    assert [entry["step"] for entry in log_of(alone)] == [0, 2]


def test_students_moved_and_differ(together: Together, pipeline: StructurePipeline):
    """Without this the comparison above could hold between things that never changed."""
    weights = [tensors(made)["file/out_layer.weight"] for made in together.students.values()]
    everything = [pipeline.flow.state_dict()["out_layer.weight"], *weights]
    for i, one in enumerate(everything):
        assert all(not torch.equal(one, other) for other in everything[i + 1 :])


def test_only_averaged_targets_move(together: Together, pipeline: StructurePipeline):
    start = dict(pipeline.flow.named_parameters())
    for name, made in together.students.items():
        moved = any(not torch.equal(value, start[key]) for key, value in made.target.items())
        assert moved == (name in AVERAGED)


def test_the_teacher_runs_once_per_batch_for_all_methods(together: Together):
    """31 passes per sample and step for the five methods, against 39 alone: the shared pair is computed once."""
    pairs = len(together.teacher_rows) / TRAIN.steps
    assert pairs == 2  # one at (x_t, t) for everybody, one on MDT's own sample
    assert set(together.teacher_rows) == {2 * TRAIN.batch}  # condition and negative condition in one call
    calls = {name: count / TRAIN.steps for name, count in together.calls.items()}
    assert calls == STUDENT_CALLS
    differentiated = len(NAMES) + 1  # each student once; MDT also on its own sample. A backward pass counts two.
    jvp = 2  # the JVP of sCM counts three passes and is one call
    passes = 2 * pairs + sum(calls.values()) + 2 * differentiated + jvp
    assert passes == 31
    costs = [made.method.cost() for made in together.students.values()]
    assert sum(costs) == passes + 2 * (len(NAMES) - 1)


def test_a_finished_student_leaves_its_result_and_its_log(together: Together):
    for made in together.students.values():
        files = sorted(path.name for path in made.folder.iterdir())
        assert files == ["log.jsonl", "student.safetensors", "training.json"]
        written = load_file(student_file(made.folder))
        average = {key.removeprefix("network."): value for key, value in made.learner.average.items()}
        assert differing({key: written[key] for key in average}, average) == []


def interrupted(
    names: Sequence[str], pipeline: StructurePipeline, data: TrainingData, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Train, checkpoint after every step, stop before the last."""

    class Stopping(StructureTask):
        def draw(self, seed: int, index: int) -> Batch:
            if index == 2:
                raise KeyboardInterrupt
            return super().draw(seed, index)

    students = [student(name, pipeline, folder) for name in names]
    with monkeypatch.context() as patch:
        patch.setattr(train_module, "CHECKPOINT_EVERY_S", -1.0)
        with pytest.raises(KeyboardInterrupt):
            train_together(students, Stopping(pipeline, data, TRAIN.batch), TRAIN, SEED)


def test_an_interrupted_training_goes_on_bit_for_bit(
    together: Together,
    pipeline: StructurePipeline,
    data: TrainingData,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    """pcm, whose checkpoint is lost, starts anew while the others wait for it."""
    names = ("cm", "scm", "pcm")
    interrupted(names, pipeline, data, tmp_path, monkeypatch)
    assert not student_file(tmp_path / "cm").exists()
    (tmp_path / "pcm" / "checkpoint.safetensors").unlink()
    with (tmp_path / "scm" / "log.jsonl").open("a") as log:
        log.write('{"step": 2, "loss": 0.5}\n')  # a log may be ahead of its checkpoint
    students = {name: student(name, pipeline, tmp_path) for name in names}
    assert [made.learner.done for made in students.values()] == [2, 2, 0]
    train_together(list(students.values()), task(pipeline, data), TRAIN, SEED)
    for name, made in students.items():
        assert differing(tensors(made), tensors(together.students[name])) == []
        assert log_of(made) == log_of(together.students[name])


@dataclass(frozen=True, kw_only=True)
class Broken(VelocityMatching):
    """Works for one step, then raises, or loses its numbers."""

    raises: bool

    def loss(self, step: Step) -> Loss:
        loss = super().loss(step)
        if step.index == 0:
            return loss
        if self.raises:
            raise ValueError("a method of somebody's own")
        return Loss(loss.value * float("nan"))


@pytest.mark.parametrize("raises", [True, False])
def test_a_student_that_fails_is_left_out_and_the_others_go_on(
    together: Together,
    pipeline: StructurePipeline,
    data: TrainingData,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    raises: bool,
):
    monkeypatch.setattr(train_module, "GIVE_UP_AFTER", 2)
    method = Broken(cfg_strength=2.0, raises=raises)
    broken = Student("broken", method, copy.deepcopy(pipeline.flow), TRAIN, TRAIN.steps, tmp_path / "broken")
    other = student("vm", pipeline, tmp_path)
    failures = train_together([broken, other], task(pipeline, data), TRAIN, SEED)
    assert list(failures) == ["broken"]
    assert ("a method of somebody's own" if raises else "not finite") in failures["broken"]
    assert (tmp_path / "broken" / "failure.txt").exists() == raises
    assert not student_file(tmp_path / "broken").exists()
    assert differing(tensors(other), tensors(together.students["vm"])) == []


def test_a_batch_is_a_function_of_seed_and_step_alone(pipeline: StructurePipeline, data: TrainingData):
    source = task(pipeline, data)
    first = source.draw(0, 5)
    torch.manual_seed(123)
    source.draw(0, 4)
    again = source.draw(0, 5)
    for name in ("x_0", "noise", "u", "cond"):
        assert torch.equal(getattr(first, name), getattr(again, name))
    for other in (source.draw(0, 6), source.draw(1, 5)):
        assert not torch.equal(first.noise, other.noise)
        assert not torch.equal(first.u, other.u)
        assert not torch.equal(first.cond, other.cond)


@dataclass(frozen=True)
class Seeing:
    """A pipeline whose condition is the pictures themselves."""

    def condition(self, images: Tensor) -> Tensor:
        return images


def test_a_batch_pairs_latents_with_their_own_pictures():
    images = np.arange(1, 7, dtype=np.uint8)[:, None, None, None, None] * np.ones((1, 2, 8, 8, 3), np.uint8)
    numbered = TrainingData(torch.arange(1.0, 7.0)[:, None] * torch.ones(6, 4), images, (1.0, 1.0))
    batch = StructureTask(Seeing(), numbered, 32).draw(3, 0)  # type: ignore[arg-type]
    assert torch.equal(batch.cond[:, 0, 0, 0].float(), batch.x_0[:, 0])
    assert len(set(batch.x_0[:, 0].tolist())) > 3
    assert batch.cond.shape == (32, 3, 8, 8)
    assert batch.cond.dtype == torch.uint8


def test_methods_of_one_time_density_share_a_point(pipeline: StructurePipeline, data: TrainingData):
    source = task(pipeline, data)
    batch = source.draw(0, 0)
    points = Points(batch, source.teacher(batch), TRAIN.t_min)
    uniform, shifted = points.at(Uniform()), points.at(LogitNormal(1.0, 1.0))
    assert points.at(Uniform()) is uniform
    assert points.at(LogitNormal(1.0, 1.0)) is shifted
    assert torch.equal(uniform.t, TRAIN.t_min + (1 - TRAIN.t_min) * batch.u)
    assert torch.equal(shifted.x_t, diffuse(batch.x_0, batch.noise, shifted.t, batch.layout))
    # Both densities rise with u: the shared draw keeps the order of the samples' times.
    assert torch.equal(uniform.t.argsort(), shifted.t.argsort())


def test_the_learning_rate_of_the_run_takes_precedence(pipeline: StructurePipeline, tmp_path: Path):
    own = student("vm", pipeline, tmp_path)
    assert own.learner.recipe.lr == own.method.lr
    faster = TRAIN.model_copy(update={"lr": 0.5})
    common = Student("vm", own.method, copy.deepcopy(pipeline.flow), faster, faster.steps, tmp_path)
    assert common.learner.recipe.lr == 0.5


def trained(name: str, pipeline: StructurePipeline, data: TrainingData, folder: Path, **changes: object) -> Student:
    """A student that trained alone with changed settings."""
    train = TRAIN.model_copy(update=changes)
    method = entrant(name, {}, pipeline.sampler).distillation
    made = Student(name, method, copy.deepcopy(pipeline.flow), train, train.steps, folder / name)
    assert train_together([made], StructureTask(pipeline, data, train.batch), train, SEED) == {}
    return made


def moved(made: Student, pipeline: StructurePipeline) -> Tensor:
    """How far training took the averaged weights, as one vector."""
    start = pipeline.flow.state_dict()
    average = made.learner.average
    return torch.cat([(average[f"network.{key}"] - start[key]).flatten() for key, _ in made.network.named_parameters()])


def test_a_training_leaves_an_account(together: Together):
    made = together.students["mdt"]
    account = json.loads((made.folder / "training.json").read_text())
    assert account["seconds"] == made.seconds > 0
    assert account["peak_memory_gb"] > 0.1  # torch alone takes that much
    expected = {"label": "mdt", "steps": 3, "batch": 4, "forwards": 13 * 3 * 4, "skipped": 0, "lr": made.method.lr}
    assert {key: account[key] for key in expected} == expected


def test_time_and_everything_else_goes_on_after_an_interruption(
    pipeline: StructurePipeline, data: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """float16 with a scaled loss, several averages, a percentile and parts: all of it is in the checkpoint."""
    changes = {"precision": "float16", "more_ema": (0.5,), "clip_percentile": 50.0, "clip": 100.0, "accumulate": 2}
    monkeypatch.setattr(learner_module.AdaptiveGradClipper.__init__, "__defaults__", (None, 1))
    whole = trained("vm", pipeline, data, tmp_path / "whole", **changes)
    with monkeypatch.context() as patch:
        patch.setitem(globals(), "TRAIN", TRAIN.model_copy(update=changes))
        interrupted(["vm"], pipeline, data, tmp_path, monkeypatch)
    spent = float(load_file(tmp_path / "vm" / "checkpoint.safetensors")["seconds"])
    resumed = trained("vm", pipeline, data, tmp_path, **changes)
    assert differing(tensors(whole), tensors(resumed)) == []
    assert log_of(whole) == log_of(resumed)
    assert resumed.seconds > spent > 0
    assert whole.learner.clipper.limit < 100  # the percentile does count
    assert whole.learner.skipped < 3


def test_further_averages_lie_beside_the_result(pipeline: StructurePipeline, data: TrainingData, tmp_path: Path):
    made = trained("vm", pipeline, data, tmp_path, steps=2, more_ema=(0.0, 0.5))
    online = {key.removeprefix("network."): value for key, value in made.learner.more[0.0].items()}
    files = {decay: load_file(student_file(made.folder, decay)) for decay in (None, 0.0, 0.5)}
    assert (made.folder / "student-ema0.5.safetensors").exists()
    assert differing({key: files[0.0][key] for key in online}, online) == []
    for one, other in ((None, 0.0), (None, 0.5), (0.0, 0.5)):
        assert set(files[one]) == set(files[other])
        assert "out_layer.weight" in differing(files[one], files[other])


@pytest.mark.parametrize(("precision", "dtype"), [("bfloat16", torch.bfloat16), ("float16", torch.float16)])
def test_half_precision_is_for_the_networks_insides_only(
    pipeline: StructurePipeline, data: TrainingData, tmp_path: Path, precision: str, dtype: torch.dtype
):
    """scm has all kinds of calls: teacher, forward differentiation, student. Weights and outputs are float32."""
    inside, outside = set(), set()
    network = copy.deepcopy(pipeline.flow)
    method = Spying(cfg_strength=2.0, seen=outside)
    train = TRAIN.model_copy(update={"precision": precision, "steps": 1})
    made = Student("scm", method, network, train, 1, tmp_path / "scm")
    layers = [network.blocks[0].mlp.mlp[0], pipeline.flow.blocks[0].mlp.mlp[0]]
    hooks = [layer.register_forward_hook(lambda _, __, out: inside.add(out.dtype)) for layer in layers]
    failures = train_together([made], StructureTask(pipeline, data, train.batch), train, SEED)
    for hook in hooks:
        hook.remove()
    assert failures == {}
    assert inside == {dtype}
    assert outside == {torch.float32}
    assert {parameter.dtype for parameter in made.network.parameters()} == {torch.float32}
    full = trained("scm", pipeline, data, tmp_path / "full", steps=1)
    # Adam's first step is the gradient's sign: of a gradient that is right to 1 %, 0.9 and more of it is the same.
    assert torch.cosine_similarity(moved(made, pipeline), moved(full, pipeline), dim=0) > 0.9


@dataclass(frozen=True, kw_only=True)
class Spying(ContinuousConsistencyDistillation):
    """Notes the dtypes of what its networks return."""

    seen: set[torch.dtype]

    def loss(self, step: Step) -> Loss:
        v = step.teacher(step.x_t, step.t, self.cfg_strength)
        self.seen.update({v.dtype, step.student(step.x_t, step.t).dtype, step.target(step.x_t, step.t).dtype})
        self.seen.update(out.dtype for out in step.target_derivative(step.x_t, step.t, v))
        return super().loss(step)


def test_recomputed_blocks_change_no_gradient(pipeline: StructurePipeline, data: TrainingData, tmp_path: Path):
    plain = trained("mdt", pipeline, data, tmp_path / "plain", steps=1)
    recomputed = trained("mdt", pipeline, data, tmp_path / "recomputed", steps=1, checkpoint_blocks=True)
    assert all(block.use_checkpoint for block in recomputed.network.blocks)
    assert not any(block.use_checkpoint for block in pipeline.flow.blocks)
    for (name, a), b in zip(plain.network.named_parameters(), recomputed.network.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-6, atol=1e-7, msg=name)


def test_a_network_without_blocks_cannot_recompute_them():
    with pytest.raises(UsageError, match=r"Linear has no blocks"):
        recompute_blocks(torch.nn.Linear(2, 2))


def test_a_batch_that_cannot_be_cut_is_a_usage_error(pipeline: StructurePipeline, data: TrainingData, tmp_path: Path):
    with pytest.raises(UsageError, match="batch of 4 cannot be cut in 5"):
        trained("vm", pipeline, data, tmp_path, accumulate=5)


def test_a_failure_in_another_process_ends_the_student_here_too(
    pipeline: StructurePipeline, data: TrainingData, tmp_path: Path
):
    class OtherFailed(Ranks):
        def any(self, flag: bool) -> bool:
            return True

    made = student("vm", pipeline, tmp_path)
    failures = train_together([made], task(pipeline, data), TRAIN, SEED, OtherFailed())
    assert "another process" in failures["vm"]
    assert made.learner.done == 0


def test_whoever_asks_first_the_pair_is_charged_to_all_who_use_it(pipeline: StructurePipeline, data: TrainingData):
    batch = task(pipeline, data).draw(SEED, 0)
    point = Points(batch, task(pipeline, data).teacher(batch), TRAIN.t_min).at(Uniform())
    first, second, third = (ChargedTeacher(point) for _ in range(3))
    for teacher in (first, second, second):
        teacher(point.x_t, point.t, 1.0)
    third(point.x_t + 1, point.t, 1.0)  # a point of its own: paid for when it is computed
    assert point.pair_s > 0
    assert [teacher.owed_s for teacher in (first, second, third)] == [0, point.pair_s, 0]
