"""What the head and the lists of the index say: the run in a sentence, its controls, what failed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pandas import DataFrame

from ...base.text import counted
from ..cells import reason_of
from ..frames import distinct
from ..oracle_tables import is_oracle
from ..places import CONTROLS, LINE, NO_STEPS, Key, key_of, keyed, label_of
from ..rows import EVALUATION
from .data import ReportData

CONTROL_SENTENCES = {
    "floor": "Real data measured against as much other real data: the distance that is left when nothing was "
    "generated, because both sets are finite.",
    "truth": "The ground truth of each asset beside its own condition: what a perfect method would score.",
    "shuffled": "Ground truth beside the condition of another asset: what a method scores that ignores its condition.",
    "reconstruction": "The ground truth encoded and decoded again: what is lost before anything is generated.",
    "teacher": "The model that the students were distilled from, with its own sampler and number of steps.",
    "none": "The teacher at the students' few steps without any training, with and without guidance (CFG): what "
    "distillation has to beat.",
}
LISTED = 200  # failures on the index; the rest is counted


@dataclass(frozen=True)
class Control:
    """A control of this run."""

    label: str
    sentence: str


@dataclass(frozen=True)
class Reason:
    """Why values are missing. where: of what; count: how many values."""

    where: str
    reason: str
    count: int


@dataclass(frozen=True)
class Head:
    """The head of the index. `facts` are names and values, `notes` are what joining several runs took."""

    title: str
    sentence: str
    facts: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]


def head(data: ReportData) -> Head:
    """Which run or system, of what, when, on what; nothing about who is better."""
    manifest = data.manifest or {}
    last = data.rows.sort_values("created_utc", ascending=False, kind="stable").iloc[0]
    config = manifest.get("config") or {}
    runs = distinct(data.rows.loc[~data.rows["method"].isin(CONTROLS), "run_id"]) or distinct(data.rows["run_id"])
    folder, systems = data.folder.resolve().name, distinct(data.rows.loc[data.rows["stage"] == EVALUATION, "method"])
    systems = [name for name in systems if name not in CONTROLS]
    what = "System" if systems else "Run"
    title = f"{what}{'s' * (len(systems or runs) > 1)} {', '.join(systems) or folder}"
    facts = (
        ("Run" if len(runs) == 1 else "Runs", ", ".join(runs)),
        ("Folder", folder if systems else ""),
        ("Protocol", _text(manifest, "protocol", "name")),
        ("World", str(config.get("world", ""))),
        ("Test assets", _text(manifest, "test", "source") or _text(manifest, "reference", "name")),
        ("Finished", last["created_utc"][:16].replace("T", " ")),
        ("Device", last["device"]),
    )
    notes = tuple(manifest.get("notes", ()))
    return Head(title, sentence(data.rows), tuple(fact for fact in facts if fact[1]), notes)


def sentence(rows: DataFrame) -> str:
    """How much was measured, and what could not be."""
    students = rows[~rows["method"].isin(CONTROLS)]
    methods = students[["method", "variant"]].drop_duplicates()
    steps = sorted(distinct(students["steps"]))
    assets, seeds, train_seeds = int(rows["n_total"].max()), rows["seed"].nunique(), rows["train_seed"].nunique()
    missing = Counter(rows.loc[rows["value"].isna(), "status"])
    parts = [
        counted(len(methods), "system" if (rows["stage"] == EVALUATION).any() else "method"),
        f"at {_listed(steps)} step{'s' * (steps != [1])}" if steps else "",
        f"on {counted(assets, 'sample' if is_oracle(rows) else 'asset')}" if assets else "",
        f"with {counted(seeds, 'generation seed')}" if seeds else "",
        f"and {counted(train_seeds, 'training seed')}" if seeds and train_seeds else "",
    ]
    lost = [f"{counted(count, 'value')} {status}" for status, count in missing.items()]
    return f"{'; '.join([' '.join(part for part in parts if part), *lost])}."


def controls(rows: DataFrame) -> tuple[Control, ...]:
    """Those that the run measured, each with a sentence."""
    found = [name for name in CONTROLS if name in set(rows["method"])]
    labels = {"none": "Undistilled"}
    return tuple(Control(labels.get(name, label_of(name)), CONTROL_SENTENCES[name]) for name in found)


def failed_values(rows: DataFrame) -> tuple[Reason, ...]:
    """Rows without a value, equal reasons of one line together; those that the machine lost say so."""
    missing = rows[rows["value"].isna()]
    pairs = missing[["status", "error"]].to_numpy()
    reasons = [f"{'lost: ' * (status == 'lost')}{reason_of(status, error)}" for status, error in pairs]
    found = Counter(zip(map(_where, keyed(missing)[LINE].itertuples(index=False)), reasons, strict=True))
    return tuple(Reason(where, reason, count) for (where, reason), count in found.items())


def failed_students(data: ReportData) -> tuple[Reason, ...]:
    """Students whose training failed."""
    failed = [student for student in data.students if student.error]
    return tuple(
        Reason(f"{label_of(s.method, s.variant)}, {s.stage}, training seed {s.train_seed}", s.error or "", 1)
        for s in failed
    )


def failed_assets(data: ReportData) -> tuple[Reason, ...]:
    """Assets that a method could not make, equal reasons of one line together."""
    failed = [value for value in data.asset_values if not value.ok and value.error]
    found = Counter((_where(key_of(value)), value.error) for value in failed)
    return tuple(Reason(where, reason, count) for (where, reason), count in found.items())


def _where(key: Key) -> str:
    """The line of a row or of an asset's values."""
    method, variant, order, other_sampler, stage = key
    steps = "" if order == NO_STEPS else counted(order, "step")
    return ", ".join(part for part in (label_of(method, variant, other_sampler), steps, stage) if part)


def _listed(numbers: Sequence[int]) -> str:
    *first, last = map(str, numbers)
    return f"{', '.join(first)} and {last}" if first else last


def _text(manifest: Mapping[str, Any], *keys: str) -> str:
    value: Any = manifest
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return str(value) if value is not None else ""
