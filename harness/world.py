"""A world: the networks that a run starts from and the extractors that it is measured with, in one folder.

pipeline.json     backbone, in the layout of an official TRELLIS repository
ckpts/NAME.json   name and arguments of each network
ckpts/NAME.safetensors
world.json        extractors, how assets are prepared and observed, digests of all checkpoint files
MODEL_CARD.md
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from ..base.errors import MissingError, unknown_name
from ..base.files import digest_of, file_sha256, read_json, write_json
from ..metrics.extractors import EXTRACTORS, DualEncoder, NetworkExtractor
from ..trellis.pipeline import StructurePipeline, load_pipeline
from ..trellis.weights import load_checkpoint
from .config import WORLDS, ObservationSection, PreparationSection, Window
from .prepare import Preparation

WORLD_FORMAT = 1


class WorldFile(BaseModel):
    """Content of world.json."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int
    name: str
    preparation: PreparationSection
    window: Window
    observation: ObservationSection
    extractors: dict[str, str]
    sha256: dict[str, str]


@dataclass(frozen=True)
class World:
    """A loaded world.

    Attributes:
        digest: identity of everything in it that decides a result.
        pictures, points: the extractors `tiny2d` and `tiny3d`.
        dual: the extractor of `ULIP_tiny`.
    """

    file: WorldFile
    digest: str
    pipeline: StructurePipeline
    pictures: NetworkExtractor
    points: NetworkExtractor
    dual: DualEncoder

    @property
    def preparation(self) -> Preparation:
        return Preparation(**self.file.preparation.model_dump())


def world_folder(name: str) -> Path:
    """Folder of a shipped world, or of one made by `mdtbench pretrain`. Raises UsageError when there is none."""
    for folder in (WORLDS / name, Path(name)):
        if (folder / "world.json").is_file():
            return folder
    shipped = [path.parent.name for path in WORLDS.glob("*/world.json")]
    raise unknown_name("world", name, shipped, "Or give a folder made by `mdtbench pretrain`.")


def read_world_file(folder: Path) -> WorldFile:
    """Raises MissingError when world.json is absent, malformed or of another format."""
    path = folder / "world.json"
    try:
        file = WorldFile.model_validate(read_json(path))
    except ValidationError as error:
        raise MissingError(f"{path} is not a world file ({error.errors()[0]['msg']}). Restore it.") from error
    if file.format != WORLD_FORMAT:
        raise MissingError(f"{path} has format {file.format}; this version reads {WORLD_FORMAT}. Make the world again.")
    return file


def world_digest(folder: Path) -> str:
    """Identity of a world from its small files alone (weights enter through their digests)."""
    return digest_of([read_world_file(folder).model_dump(mode="json"), read_json(folder / "pipeline.json")])


def verify_world(folder: Path) -> None:
    """Compare every checkpoint file with its digest. Raises MissingError naming the first that differs."""
    for name, expected in read_world_file(folder).sha256.items():
        found = file_sha256(folder / name)
        if found != expected:
            raise MissingError(
                f"{folder / name} has sha256 {found[:16]}..., expected {expected[:16]}.... "
                "Reinstall it or make it again."
            )


def load_world(folder: Path) -> World:
    """All networks, verified. Raises MissingError for an absent, changed or unfitting file."""
    verify_world(folder)
    file = read_world_file(folder)

    def extractor(name: str) -> tuple[Any, str]:
        stem = file.extractors[name]
        network = load_checkpoint(folder / stem, networks=EXTRACTORS)
        return network, file.sha256[f"{stem}.safetensors"]

    pictures, pictures_sha = extractor("tiny2d")
    points, points_sha = extractor("tiny3d")
    return World(
        file,
        world_digest(folder),
        load_pipeline(folder),
        NetworkExtractor("tiny2d", "1", pictures_sha, len(pictures.scale), pictures),
        NetworkExtractor("tiny3d", "1", points_sha, len(points.scale), points),
        extractor("ulip_tiny")[0],
    )


def write_world_file(folder: Path, name: str, sections: dict[str, Any], extractors: dict[str, str]) -> None:
    """Digest all checkpoint files and write world.json, last, so that its existence means a complete world."""
    checkpoints = sorted((folder / "ckpts").glob("[!.]*"))
    file = WorldFile(
        format=WORLD_FORMAT,
        name=name,
        extractors=extractors,
        sha256={f"ckpts/{path.name}": file_sha256(path) for path in checkpoints},
        **sections,
    )
    write_json(folder / "world.json", file.model_dump(mode="json"))
