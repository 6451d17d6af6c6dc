"""The lines of a table: which method at how many steps in which stage, in what order, under what name.

Each number of steps is a block. After the paper's methods come all others, then one block of controls. A method
stands under its plain name with the protocol's sampler; right below, the same students with others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pandas import DataFrame

from .asset_values import AssetValue
from .rows import BOTH, STRUCTURE_THEN_TEACHER, TEACHER_THEN_SLAT, Row

LABELS = {
    "cm": "CM",
    "pcm": "PCM",
    "scm": "sCM",
    "ect": "ECT",
    "meanflow": "MeanFlow",
    "ayf": "AYF",
    "lmd": "LMD",
    "shortcut": "Shortcut",
    "tcm": "TCM",
    "dmd2": "DMD2",
    "sid": "SiD",
    "ladd": "LADD",
    "rcm": "rCM",
    "vm": "VM",
    "mdt": "VM+VD",
    "gd": "Guidance only",
    "kd": "Teacher's pairs",
    "floor": "Floor (held-out reference)",
    "reconstruction": "Reconstruction (VAE)",
    "truth": "Ground truth",
    "shuffled": "Ground truth, shuffled pairs",
    "teacher": "Teacher",
}
GUIDANCE = {"cfg": "CFG"}  # of the undistilled teacher, by variant
CONTROLS = ("floor", "truth", "shuffled", "reconstruction", "teacher", "none")
TABLE_2_METHODS = ("cm", "pcm", "scm", "mdt")
TABLE_3_METHODS = ("vm", "mdt")
ALL_METHODS = ("cm", "pcm", "scm", "vm", "mdt")  # of the paper's tables together
CONTROL_GROUP = "Controls"
# Which stage the teacher samples, as footnotes say it. The order is that of a method's lines.
TEACHERS_PART = {BOTH: "", STRUCTURE_THEN_TEACHER: "SLAT by the teacher", TEACHER_THEN_SLAT: "structure by the teacher"}

PROBLEM = "oracle/"  # begins the stage of what has exact answers

Role = Literal["student", "control"]
Key = tuple[str, str, int, str, str]
LINE = ["method", "variant", "order", "other_sampler", "stage"]  # the columns of a key, see `keyed`
NO_STEPS = -1  # in keys, of what has none: it comes first


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
        """What the rows of this line have in common, in the columns `LINE`."""
        return self.method, self.variant, step_order(self.steps), self.other_sampler, self.stage

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


def keyed(rows: DataFrame) -> DataFrame:
    """Rows, or values of assets, with the columns `LINE` of the line that they belong in."""
    other = rows["sampler"].where(rows["extra_sampler"], "").fillna("")
    return rows.assign(order=rows["steps"].fillna(NO_STEPS).astype("int64"), other_sampler=other)


def key_of(one: Row | AssetValue) -> Key:
    """Of the line that a row, or what it is an average of, belongs in."""
    other = (one.sampler or "") if one.extra_sampler else ""
    return one.method, one.variant, step_order(one.steps), other, one.stage


def keys_of(rows: DataFrame) -> list[Key]:
    """Of the lines that there are rows of, in order of first appearance. Like the functions below of `keyed` rows."""
    return list(rows[LINE].drop_duplicates().itertuples(index=False, name=None))


def other_methods(rows: DataFrame) -> list[str]:
    """Those that are neither the paper's nor controls."""
    return sorted({*rows["method"]} - {*ALL_METHODS, *CONTROLS})


def block_places(rows: DataFrame, methods: Sequence[str]) -> list[Place]:
    """Blocks of rising steps; within a block the given order of methods, the default variant first."""

    def order(key: Key) -> tuple:
        return key[2], methods.index(key[0]), key[1], key[3], stage_order(key[4])

    return [_block_place(key) for key in sorted(keys_of(rows[rows["method"].isin(methods)]), key=order)]


def control_places(rows: DataFrame) -> list[Place]:
    """One block."""
    keys = keys_of(rows[rows["method"].isin(CONTROLS)])
    ordered = sorted(keys, key=lambda key: (CONTROLS.index(key[0]), key[2], key[1]))
    return [place_of(key, CONTROL_GROUP, "control", label_of(key[0], key[1])) for key in ordered]


def place_of(key: Key, group: str, role: Role, label: str) -> Place:
    """The line with a key."""
    method, variant, order, other_sampler, stage = key
    return Place(method, variant, None if order == NO_STEPS else order, other_sampler, stage, group, role, label)


def label_of(method: str, variant: str = "", other_sampler: str = "") -> str:
    """The name of a method in a table; unknown methods keep their own."""
    if method == "none":  # its plain line has no guidance, as students have none
        return "Undistilled" + (f", {GUIDANCE.get(variant, variant)}" if variant else "")
    label = LABELS.get(method, method) + (f" [{variant}]" if variant else "")
    return f"{label}, {other_sampler}" if other_sampler else label


def name_of(method: str, variant: str = "") -> str:
    """Of a method as the command line names it."""
    return f"{method}:{variant}" if variant else method


def step_group(steps: int | None, stage: str = "") -> str:
    """The name of a block of one number of steps."""
    if steps is None:
        return "No steps"
    return ("1 step" if steps == 1 else f"{steps} steps") + (" per stage" if stage == BOTH else "")


def step_order(steps: int | None) -> int:
    """What has no steps comes first."""
    return NO_STEPS if steps is None else steps


def problem_of(stage: str) -> str:
    """The name of the problem with exact answers that a stage is; "" for others."""
    return stage.removeprefix(PROBLEM) if stage.startswith(PROBLEM) else ""


def stage_order(stage: str) -> int:
    """Both stages first, then those whose other stage is the teacher's."""
    return list(TEACHERS_PART).index(stage) if stage in TEACHERS_PART else -1


def _block_place(key: Key) -> Place:
    method, variant, order, other_sampler, stage = key
    group = step_group(None if order == NO_STEPS else order, stage)
    return place_of(
        key, group, "control" if method in CONTROLS else "student", label_of(method, variant, other_sampler)
    )
