"""What a run on problems with a known law trains and measures; decided before anything is computed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ...base.files import digest_of
from ...methods import METHODS, StoredPairs
from ...trellis.pipeline import SamplerParams
from ..settings.methods import Entrant, at_rate, entrant
from ..train.budget import training_steps
from ..train.loop import student_file
from .config import OracleConfig
from .families import family_of
from .family import Family

REFERENCES = ("none", "none:cfg", "teacher")  # the teacher's own rows
TEACHER_STEPS = 25
TEST, VALIDATION = "test", "validation"  # splits: what a run reports, and what its settings are chosen by
VERSION = 3  # part of the address of every result: raise it when problems, training or measures change


@dataclass(frozen=True)
class Training:
    """One student to train. folder: relative to the run's; its name is a digest of all inputs."""

    entrant: Entrant
    seed: int
    steps: int
    folder: str
    before: Training | None = None  # whose student this one begins as

    @property
    def pairs(self) -> StoredPairs | None:
        return self.entrant.distillation.stored_pairs()

    @property
    def chain(self) -> tuple[Training, ...]:
        """The trainings that lead to its student, itself the last."""
        return (*(self.before.chain if self.before else ()), self)


@dataclass(frozen=True)
class OraclePlan:
    """A run, resolved.

    Attributes:
        key: sha256 over everything that decides a result.
        preset: name or path of it. command: the words that began it.
    """

    config: OracleConfig
    entrants: tuple[Entrant, ...]
    trainings: tuple[Training, ...]
    key: str
    preset: str = ""
    command: tuple[str, ...] = ()

    @property
    def run_id(self) -> str:
        return self.key[:12]

    def sources(self) -> Iterator[tuple[Entrant, Training | None]]:
        """What is measured: every student, and the teacher's own rows."""
        for who in self.entrants:
            yield from ((who, t) for t in ([t for t in self.trainings if t.entrant is who] if who.trains else [None]))

    def scores_file(self, who: Entrant, training: Training | None) -> Path:
        """Where what `answer` finds is kept, relative to the run's folder."""
        origin = training.folder if training else [who.label, repr(who.method)]
        sha = digest_of([VERSION, origin, exam_key(self.config), self.config.evaluate.model_dump()])
        seed = f"-seed{training.seed}" if training else ""
        return Path(f"scores/{who.file_name}{seed}-{sha[:12]}.json")


def plan_oracle(config: OracleConfig, methods: Sequence[str] = (), train_seeds: Sequence[int] = ()) -> OraclePlan:
    """The plan of a run; empty arguments stand for the preset's.

    Raises:
        UsageError: unknown method, variant or parameter.
    """
    for name in config.methods:
        METHODS.get(name)
    labels = dict.fromkeys(label.removesuffix(":") for label in (*(methods or config.oracle.methods), *REFERENCES))
    entrants = tuple(entrant_of(label, config) for label in labels)
    seeds = dict.fromkeys(train_seeds or config.oracle.seeds)
    trainings = _trainings(entrants, tuple(seeds), config)
    key = digest_of([VERSION, config.model_dump(mode="json"), [t.folder for t in trainings], list(labels)])
    return OraclePlan(config, entrants, trainings, key)


def timed(plan: OraclePlan, step_seconds: Mapping[str, float]) -> OraclePlan:
    """The plan for training steps that take so many seconds, by label."""
    seeds = tuple(dict.fromkeys(training.seed for training in plan.trainings))
    return replace(plan, trainings=_trainings(plan.entrants, seeds, plan.config, step_seconds))


def _trainings(
    entrants: Sequence[Entrant],
    seeds: Sequence[int],
    config: OracleConfig,
    step_seconds: Mapping[str, float] = MappingProxyType({}),
) -> tuple[Training, ...]:
    return tuple(
        training_of(who, seed, config, step_seconds=step_seconds) for seed in seeds for who in entrants if who.trains
    )


def family(config: OracleConfig) -> Family:
    """The problems of a preset; made once per process."""
    return _family(config.oracle.problems, config.oracle.cfg_strength, config.oracle.width)


_family = lru_cache(maxsize=1)(family_of)


def entrant_of(label: str, config: OracleConfig) -> Entrant:
    """The method with the problems' guidance strength in place of its variant's: another strength, another answer.

    Its rate is the preset's for all, unless the preset's table of the method names one.
    """
    strength, name = config.oracle.cfg_strength, label.partition(":")[0]
    strengths = dict.fromkeys(["cfg_strength", *strengths_of(label)], strength)
    changes = {name: {**strengths, **config.methods.get(name, {})}}
    who = entrant(label, changes, SamplerParams(TEACHER_STEPS, strength, (0.0, 1.0), 1.0))
    return at_rate(who, config.train.lr, config.methods)


def strengths_of(label: str) -> list[str]:
    """The guidance strengths that a variant sets."""
    name, _, variant = label.partition(":")
    return [key for key in METHODS.get(name).variants.get(variant, {}) if key.endswith("cfg_strength")]


def training_of(
    who: Entrant,
    seed: int,
    config: OracleConfig,
    share: float = 1.0,
    step_seconds: Mapping[str, float] = MappingProxyType({}),
) -> Training:
    """share: of the budget; two trainings, of which one begins as the other's student, have it together."""
    begins, before, own = who.distillation.begins_as(), None, share
    if begins:
        before = training_of(entrant_of(begins.label, config), seed, config, share * begins.share, step_seconds)
        own = share * (1 - begins.share)
    train = config.train.common()
    steps = max(1, round(own * training_steps(who, train, step_seconds)))
    settings = train.model_dump(exclude={"steps", "budget"})
    key = [*who.identity, seed, steps, settings, exam_key(config)]
    key += [before.folder] if before else []
    sha = digest_of([VERSION, *key])
    folder = f"students/{who.file_name}-seed{seed}-{sha[:12]}"
    return Training(who, seed, steps, folder, before)


def firsts(trainings: Sequence[Training], out: Path) -> list[Training]:
    """What must be trained before, of what is not there."""
    found = dict.fromkeys(t.before for t in trainings if t.before)
    return [t for t in found if not student_file(out / t.folder).exists()]


def pairs_folder(pairs: StoredPairs, config: OracleConfig) -> str:
    """Where a set of pairs is kept, relative to the run's folder: all training seeds use the same."""
    sha = digest_of([VERSION, exam_key(config), config.train.batch, pairs.count, repr(pairs.solver)])
    return f"pairs/{sha[:12]}"


def exam_key(config: OracleConfig) -> list[Any]:
    """What decides problems, teacher and answers."""
    return [list(config.oracle.problems), config.oracle.cfg_strength, list(family(config).identity)]


def exam_file(config: OracleConfig, split: str) -> str:
    """Where the exam's ends are kept, relative to the run's folder."""
    sha = digest_of([VERSION, exam_key(config), config.evaluate.samples, split])
    return f"pairs/exam-{sha[:12]}.safetensors"
