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

import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from ..base.errors import MissingError, UsageError, unknown_name
from ..base.files import digest_of, file_sha256, read_json, write_json
from ..metrics.extractors import EXTRACTORS, DualEncoder, NetworkExtractor
from ..trellis.pipeline import StructurePipeline, has_slat, load_pipeline
from ..trellis.slat_pipeline import SlatPipeline, load_slat_pipeline
from ..trellis.weights import load_checkpoint
from .appearance import Looks
from .config import WORLDS, LooksSection, ObservationSection, PreparationSection, Window
from .device import settle
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
    looks: LooksSection | None = None
    extractors: dict[str, str]
    sha256: dict[str, str]


@dataclass(frozen=True)
class SecondStage:
    """What makes whole assets of structures and looks at them.

    Attributes:
        pictures: the extractor `tiny_rgb`. dual: that of `ULIP_tiny_mesh`.
    """

    pipeline: SlatPipeline
    looks: Looks
    pictures: NetworkExtractor
    dual: DualEncoder


@dataclass(frozen=True)
class World:
    """A loaded world. All its networks are on one device.

    Attributes:
        digest: identity of everything in it that decides a result.
        pictures, points: the extractors `tiny2d` and `tiny3d`.
        dual: the extractor of `ULIP_tiny`.
        second: None in a world of structures alone.
    """

    file: WorldFile
    digest: str
    pipeline: StructurePipeline
    pictures: NetworkExtractor
    points: NetworkExtractor
    dual: DualEncoder
    second: SecondStage | None

    @property
    def whole(self) -> SecondStage:
        """The second stage. Raises UsageError in a world that has none."""
        if self.second is None:
            raise UsageError(f"World '{self.file.name}' has no second stage. Choose one that has, or leave out [slat].")
        return self.second

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


def load_world(folder: Path, device: str | torch.device = "cpu") -> World:
    """All networks, verified, on `device`. Raises MissingError for an absent, changed or unfitting file."""
    settle(device)
    verify_world(folder)
    file = read_world_file(folder)

    def extractor(name: str) -> tuple[Any, str]:
        stem = file.extractors[name]
        network = load_checkpoint(folder / stem, device=device, networks=EXTRACTORS)
        return network, file.sha256[f"{stem}.safetensors"]

    def features(name: str) -> NetworkExtractor:
        network, sha = extractor(name)
        return NetworkExtractor(name, "1", sha, len(network.scale), network)

    def second() -> SecondStage | None:
        if file.looks is None or not has_slat(folder):
            return None
        looks = Looks(**file.looks.model_dump())
        return SecondStage(
            load_slat_pipeline(folder, device), looks, features("tiny_rgb"), extractor("ulip_tiny_mesh")[0]
        )

    return World(
        file,
        world_digest(folder),
        load_pipeline(folder, device),
        features("tiny2d"),
        features("tiny3d"),
        extractor("ulip_tiny")[0],
        second(),
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
