"""The lines of a table: which method at how many steps in which stage, in what order, under what name.

Each number of steps is a block. After the paper's methods come all others, then one block of controls. A method
stands under its plain name with the protocol's sampler; right below, the same students with others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from .asset_values import AssetValue
from .rows import BOTH, STRUCTURE_THEN_TEACHER, TEACHER_THEN_SLAT, Row

LABELS = {
    "cm": "CM",
    "pcm": "PCM",
    "scm": "sCM",
    "vm": "VM",
    "mdt": "VM+VD (Ours)",
    "gd": "Guidance only",
    "kd": "Teacher's pairs",
    "floor": "Floor (held-out reference)",
    "reconstruction": "Reconstruction (VAE)",
    "truth": "Ground truth",
    "shuffled": "Ground truth, shuffled pairs",
    "teacher": "Teacher",
}
CONTROLS = ("floor", "truth", "shuffled", "reconstruction", "teacher", "none")
TABLE_2_METHODS = ("cm", "pcm", "scm", "mdt")
TABLE_3_METHODS = ("vm", "mdt")
ALL_METHODS = ("cm", "pcm", "scm", "vm", "mdt")  # of the paper's tables together
CONTROL_GROUP = "Controls"
# Which stage the teacher samples, as footnotes say it. The order is that of a method's lines.
TEACHERS_PART = {BOTH: "", STRUCTURE_THEN_TEACHER: "SLAT the teacher's", TEACHER_THEN_SLAT: "structure the teacher's"}

Role = Literal["student", "control"]
Key = tuple[str, str, int | None, str, str]


@dataclass(frozen=True)
class Place:
    """What a line of a table shows: one method at one number of steps. other_sampler: "" for the protocol's."""

    method: str
    variant: str
    steps: int | None
    other_sampler: str
    stage: str
    group: str
    role: Role
    label: str

    @property
    def key(self) -> Key:
        """What a row of this line has in common with it."""
        return self.method, self.variant, self.steps, self.other_sampler, self.stage

    def holds(self, row: Row) -> bool:
        """Whether the row belongs in this line."""
        return key_of(row) == self.key

    @property
    def sampling(self) -> str:
        """The steps as the paper spells them: "1x2" is one step in each of two stages. Empty without steps."""
        if self.steps is None:
            return ""
        return f"{self.steps}x2" if self.stage == BOTH else str(self.steps)

    @property
    def where(self) -> str:
        """The line as footnotes name it."""
        steps = self.sampling if self.stage == BOTH else step_group(self.steps)
        parts = [self.label, steps if self.steps is not None else "", TEACHERS_PART.get(self.stage, "")]
        return ", ".join(part for part in parts if part)


def key_of(row: Row | AssetValue) -> Key:
    """Of the line that a row, or what it is an average of, belongs in."""
    return row.method, row.variant, row.steps, (row.sampler or "") if row.extra_sampler else "", row.stage


def other_methods(rows: Sequence[Row]) -> list[str]:
    """Those that are neither the paper's nor controls."""
    return sorted({row.method for row in rows} - {*ALL_METHODS, *CONTROLS})


def block_places(rows: Sequence[Row], methods: Sequence[str]) -> list[Place]:
    """Blocks of rising steps; within a block the given order of methods, the default variant first."""
    keys = {key_of(row) for row in rows if row.method in methods}

    def order(key: Key) -> tuple:
        return step_order(key[2]), methods.index(key[0]), key[1], key[3], stage_order(key[4])

    return [_block_place(key) for key in sorted(keys, key=order)]


def control_places(rows: Sequence[Row]) -> list[Place]:
    """One block."""
    keys = {key_of(row) for row in rows if row.method in CONTROLS}
    ordered = sorted(keys, key=lambda key: (CONTROLS.index(key[0]), step_order(key[2]), key[1]))
    return [Place(*key, CONTROL_GROUP, "control", label_of(key[0], key[1])) for key in ordered]


def label_of(method: str, variant: str = "", other_sampler: str = "") -> str:
    """The name of a method in a table; unknown methods keep their own."""
    if method == "none":
        return "Undistilled, " + {"": "no CFG", "cfg": "CFG"}.get(variant, variant)
    label = LABELS.get(method, method) + (f" [{variant}]" if variant else "")
    return f"{label}, {other_sampler}" if other_sampler else label


def step_group(steps: int | None, stage: str = "") -> str:
    """The name of a block of one number of steps."""
    if steps is None:
        return "No steps"
    return ("1 step" if steps == 1 else f"{steps} steps") + (" per stage" if stage == BOTH else "")


def step_order(steps: int | None) -> int:
    """What has no steps comes first."""
    return -1 if steps is None else steps


def stage_order(stage: str) -> int:
    """Both stages first, then those whose other stage is the teacher's."""
    return list(TEACHERS_PART).index(stage) if stage in TEACHERS_PART else -1


def _block_place(key: Key) -> Place:
    method, variant, steps, other_sampler, stage = key
    role: Role = "control" if method in CONTROLS else "student"
    return Place(*key, step_group(steps, stage), role, label_of(method, variant, other_sampler))
