"""Rows of the students that MDT-dist published: no training, their weights in the backbone's networks."""

from __future__ import annotations

from pathlib import Path

from ...base.errors import MissingError
from ...base.files import read_json
from ...trellis.pipeline import FLOW, SLAT_FLOW
from ...trellis.students import SLAT_STUDENT, STRUCTURE_STUDENT, released_student
from .backbone import Backbone
from .networks import Networks, students

FOLDER = "mdt-dist"  # where downloads put them, below the weights


def released_networks(backbone: Backbone, backbone_folder: Path, folder: Path) -> Networks:
    """The networks of both stages.

    Args:
        backbone_folder: of the TRELLIS repository whose configurations say what networks they are.
        folder: of MDT-dist's repository; the first use writes safetensors files beside its own.

    Raises:
        MissingError: a file is absent or damaged, holds more than tensors, or is of other networks.
        RunError: the folder cannot be written.
    """
    structure, slat = (
        released_student(folder / name, flow_stem(backbone_folder, key)).stem
        for name, key in ((STRUCTURE_STUDENT, FLOW), (SLAT_STUDENT, SLAT_FLOW))
    )
    return students(backbone, *(stem.with_name(f"{stem.name}.safetensors") for stem in (structure, slat)))


def flow_stem(folder: Path, key: str) -> Path:
    """Checkpoint of a flow network of a repository in TRELLIS' layout. Raises MissingError."""
    try:
        return folder / read_json(folder / "pipeline.json")["args"]["models"][key]
    except (KeyError, TypeError) as error:
        raise MissingError(f"{folder / 'pipeline.json'} has no {error}. Restore the file.") from error
