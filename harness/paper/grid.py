"""How the students of a grid are compared: on training assets that no student has seen, against the teacher."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ...base.errors import AssetError, MissingError, RunError
from ...base.files import digest_of, write_text
from ...base.seeds import seed_of
from ...flow.layout import per_sample_mean
from ...flow.samplers import Sampler
from ...trellis.weights import read_tensors
from ..protocol.values import Stage
from ..slat_task import SlatTask
from ..storage import save_tensors
from ..task import Batch, StructureTask, batch_of
from .data import SlatLatents, StructureLatents, Unreadable

GRID_FILE = "grid.jsonl"
GRID_VERSION = 1  # part of a trial's address: raise it when scores are computed otherwise
METRIC = "MSE_teacher"  # of normalised latents, per element


@dataclass(frozen=True)
class Trial:
    """One student of the grid.

    Attributes:
        score: `METRIC` on `assets` held-out assets; None when there is none, and `error` says why.
        address: of the student and of how it was scored.
    """

    method: str
    stage: Stage
    lr: float
    cfg_strength: float
    seed: int
    address: str
    score: float | None = None
    assets: int = 0
    error: str = ""
    chosen: bool = False


@dataclass(frozen=True)
class Exam:
    """Held-out assets, each with its picture and its noise, and what the teacher makes of them.

    Attributes:
        held: ids; those that cannot be read are counted in `unreadable` and left out.
        teacher, student: samplers of the two.
        seed: of pictures and noise.
        folder: where the teacher's results are kept.
        inputs: digest of data and networks.
    """

    task: StructureTask | SlatTask
    data: StructureLatents | SlatLatents
    held: Sequence[str]
    unreadable: Unreadable
    teacher: Sampler
    student: Sampler
    seed: int
    folder: Path
    inputs: str

    @property
    def address(self) -> str:
        """Identity of a score, given the student."""
        samplers = [asdict(sampler.computation()) for sampler in (self.teacher, self.student)]
        return digest_of([GRID_VERSION, list(self.held), samplers, self.seed, self.inputs])[:12]

    @torch.no_grad()
    def score(self, network: nn.Module) -> float:
        """Mean squared distance of a network's results to the teacher's from the same noise, per element."""
        distances = [
            per_sample_mean(batch.layout, (self._sampled(network, self.student, batch) - self._targets[name]) ** 2)
            for name, batch in self._batches(sorted(self._targets))
        ]
        return float(torch.stack(distances).double().mean())

    @property
    def assets(self) -> int:
        """How many could be read."""
        return len(self._targets)

    @cached_property
    def _targets(self) -> Mapping[str, Tensor]:
        """The teacher's results by id. Raises RunError when no asset can be read."""
        path = self.folder / f"teacher-{self.address}.safetensors"
        if not path.exists():
            flow = self.task.pipeline.flow
            with torch.no_grad():
                made = {name: self._sampled(flow, self.teacher, batch) for name, batch in self._batches(self.held)}
            self.unreadable.save()
            if not made:
                raise RunError(
                    f"None of the {len(self.held)} held-out instances can be read. Make their latents and pictures "
                    "again, or name other folders in places.latents."
                )
            save_tensors(path, made)
        return {name: target.to(self.task.pipeline.device) for name, target in read_tensors(path).items()}

    def _batches(self, names: Iterable[str]) -> Iterator[tuple[str, Batch]]:
        """One asset at a time, so that its bits do not depend on the others."""
        for name in names:
            source = np.random.Generator(np.random.PCG64(seed_of("grid picture", name, self.seed)))
            tensors = torch.Generator().manual_seed(seed_of("grid noise", name, self.seed))
            try:
                samples = self.data.one(name, source)
            except AssetError as error:
                self.unreadable.add(name, str(error))
                continue
            pipeline = self.task.pipeline
            yield name, batch_of(samples, pipeline.condition, tensors).to(pipeline.device)

    def _sampled(self, network: nn.Module, sampler: Sampler, batch: Batch) -> Tensor:
        with_it = replace(self.task, pipeline=replace(self.task.pipeline, flow=network))
        return sampler.sample(with_it.teacher(batch), batch.noise, batch.layout, [])


def judged(trial: Trial, exam: Exam, network: nn.Module) -> Trial:
    """The trial with its score."""
    score = exam.score(network)
    if math.isfinite(score):
        return replace(trial, score=score, assets=exam.assets)
    return replace(trial, error="its results are not finite", assets=exam.assets)


def chosen(trials: Iterable[Trial]) -> dict[tuple[str, Stage], Trial]:
    """The best of each method and stage; of equal ones the first. A method without a score has none."""
    best: dict[tuple[str, Stage], Trial] = {}
    for trial in trials:
        key = (trial.method, trial.stage)
        if trial.score is not None and (key not in best or trial.score < (best[key].score or 0)):
            best[key] = trial
    return best


def read_grid(out: Path) -> dict[str, Trial]:
    """Trials of earlier calls by address. Raises MissingError when the file is damaged."""
    path = out / GRID_FILE
    if not path.exists():
        return {}
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        trials = [Trial(**{key: value for key, value in line.items() if key != "metric"}) for line in lines]
    except (UnicodeDecodeError, json.JSONDecodeError, TypeError, AttributeError) as error:
        raise MissingError(f"{path} is damaged ({error}). Delete it and run the command again.") from error
    return {trial.address: trial for trial in trials}


def write_grid(out: Path, trials: Mapping[str, Trial]) -> None:
    """Put trials into OUT/grid.jsonl, by address, the best of each method and stage among them marked.

    Lines of other settings stay; they are no longer marked where these trials are of their method and stage.
    """
    best = {trial.address for trial in chosen(trials.values()).values()}
    groups = {(trial.method, trial.stage) for trial in trials.values()}
    marked = [
        replace(trial, chosen=trial.address in best) if (trial.method, trial.stage) in groups else trial
        for trial in (read_grid(out) | dict(trials)).values()
    ]
    write_text(out / GRID_FILE, "".join(json.dumps({"metric": METRIC, **asdict(t)}) + "\n" for t in marked))
