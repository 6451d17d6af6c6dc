"""The few-step students that MDT-dist released: bare state dicts of TRELLIS' two flow networks, saved by torch.

Read once without running anything in them, compared with the network of TRELLIS' own configuration, and written as a
checkpoint in TRELLIS' layout beside the original; everything later reads that one.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from ..base.errors import MissingError
from ..base.files import file_sha256, read_json, replacing, write_json
from ..base.networks import NetworkTable
from .create import NETWORKS
from .weights import NetworkConfig, check_fit, read_config

# Of huggingface.co/Zanwei/mdt-dist; their networks are those of the files of the same stem of TRELLIS-image-large.
STRUCTURE_STUDENT = "ckpts/ss_flow_img_dit_L_16l8_fp16.pt"
SLAT_STUDENT = "ckpts/slat_flow_img_dit_L_64l8p2_fp16.pt"


@dataclass(frozen=True)
class ReleasedStudent:
    """A converted student.

    Attributes:
        stem: what `load_checkpoint` takes.
        sha256: of `<stem>.safetensors`. source_sha256: of the released file.
    """

    stem: Path
    sha256: str
    source_sha256: str


def released_student(path: Path, teacher_stem: Path, networks: NetworkTable = NETWORKS) -> ReleasedStudent:
    """The checkpoint made of a released file; made now, unless one of this very file is there already.

    Args:
        path: `<stem>.pt`; `<stem>.json` and `<stem>.safetensors` are written beside it.
        teacher_stem: checkpoint of TRELLIS whose configuration says what network it is.

    Raises:
        MissingError: a file is absent or damaged, holds more than tensors, or has other keys or shapes.
        RunError: the folder cannot be written.
    """
    config, source = read_config(teacher_stem), file_sha256(path)
    stem = path.with_suffix("")
    sha256 = _converted(stem, config, source)
    if sha256 is None:
        sha256 = _convert(path, stem, config, source, networks)
    return ReleasedStudent(stem, sha256, source)


def read_released(path: Path) -> dict[str, Tensor]:
    """Tensors of a bare state dict saved by torch; nothing but tensors is accepted, no code runs.

    Raises:
        MissingError: absent, damaged, in torch's format of before 1.6, or not a bare state dict.
    """
    try:
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except FileNotFoundError as error:
        raise MissingError(f"Missing file {path}. Run `mdtbench fetch --preset paper`.") from error
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise MissingError(f"{path} cannot be read as tensors alone ({reason}). Fetch it again.") from error
    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
        raise MissingError(f"{path} is not a bare state dict (name -> tensor). Fetch the released file.")
    return found


def _convert(path: Path, stem: Path, config: NetworkConfig, source: str, networks: NetworkTable) -> str:
    tensors = read_released(path)
    with torch.device("meta"):  # keys and shapes are all that is needed of it
        module = networks.create(config["name"], config["args"])
    check_fit(path, module, tensors)
    weights = stem.with_name(f"{stem.name}.safetensors")
    with replacing(weights) as part:
        save_file({key: value.contiguous() for key, value in tensors.items()}, part)
    sha256 = file_sha256(weights)
    record = {"name": config["name"], "args": dict(config["args"]), "made_of": source, "sha256": sha256}
    write_json(stem.with_name(f"{stem.name}.json"), record)  # last: it says that the weights are complete
    return sha256


def _converted(stem: Path, config: NetworkConfig, source: str) -> str | None:
    """Digest of the weights that were made of the file with digest `source`, if they are there and unchanged."""
    record = stem.with_name(f"{stem.name}.json")
    weights = stem.with_name(f"{stem.name}.safetensors")
    if not record.exists() or not weights.exists():
        return None
    found = read_json(record)
    made = isinstance(found, dict) and found.get("made_of") == source and found.get("sha256") == file_sha256(weights)
    return found["sha256"] if made and read_config(stem) == config else None
