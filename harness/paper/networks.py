"""The flow networks that a row of the tables is generated with: the teacher's, or a student's in their place."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from ...base.files import digest_of, file_sha256
from ..jobs import with_weights
from ..protocol.values import Sampling
from ..train import student_file
from .backbone import Backbone

RAW = 0.0  # decay of the average that is the weights themselves: `train.more_ema` keeps it


@dataclass(frozen=True)
class Networks:
    """In evaluation mode, where the backbone is. digest: of the weights of both."""

    structure: nn.Module
    slat: nn.Module
    digest: str


def teachers(backbone: Backbone) -> Networks:
    """The backbone's own; its digest has their weights."""
    return Networks(backbone.structure.flow, backbone.slat.flow, "the backbone's")


def students(backbone: Backbone, structure: Path, slat: Path) -> Networks:
    """Networks of the backbone with the weights of two safetensors files, in the precision that it is shipped in.

    Raises:
        MissingError: a file is absent or damaged, or of another network.
    """
    return Networks(
        with_weights(backbone.structure.flow, structure),
        with_weights(backbone.slat.flow, slat),
        digest_of([file_sha256(structure), file_sha256(slat)]),
    )


def evaluated(student: Path, sampling: Sampling) -> Path:
    """Of a finished training, the weights that the protocol evaluates: the average or the raw ones."""
    return {"ema": student, "raw": student_file(student.parent, RAW)}[sampling.weights]
