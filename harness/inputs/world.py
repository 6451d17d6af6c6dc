"""A world: the networks that a run starts from, by name, in a folder of the layout of TRELLIS' repositories.

pipeline.json          both stages, in the official layout
ckpts/NAME.json        name and arguments of each network
ckpts/NAME.safetensors
world.json             of tiny worlds: extractors, how pictures and structures are made, digests of all checkpoint files
MODEL_CARD.md

The official folder has no world.json. It names its conditioner by an entry point of the DINOv2 hub, whose weights lie
beside the folder, and leaves out the encoders, whose checkpoints are in the repository all the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn

from ...base.errors import MissingError, UsageError, unknown_name
from ...base.files import digest_of, file_sha256, read_json, write_json
from ...metrics.extractors import EXTRACTORS
from ...metrics.official.networks import trellis_condition
from ...metrics.official.picture_extractors import SPECS, PictureSpec, load
from ...trellis.pipeline import (
    CONDITIONER,
    DECODER,
    ENCODER,
    FLOW,
    SAMPLER,
    SLAT_FLOW,
    SLAT_SAMPLER,
    SamplerParams,
    StructurePipeline,
    has_slat,
    read_sampler,
)
from ...trellis.slat_decoders import SLatGaussianDecoder, SLatMeshDecoder
from ...trellis.slat_encoder import SLatEncoder
from ...trellis.slat_flow import SLatFlowModel
from ...trellis.slat_pipeline import (
    GAUSSIAN_DECODER,
    MESH_DECODER,
    NORMALISATION,
    SLAT_CONDITIONER,
    SLAT_ENCODER,
    SlatPipeline,
)
from ...trellis.structure_flow import StructureFlow
from ...trellis.structure_vae import SparseStructureDecoder, SparseStructureEncoder
from ...trellis.weights import load_checkpoint
from ..engine.device import settle
from ..protocol.values import Stage
from ..settings.config import WORLDS, LooksSection, ObservationSection, PreparationSection
from .weights_lock import read_lock

Network = TypeVar("Network", bound=nn.Module)

WORLD_FORMAT = 1
# Of microsoft/TRELLIS-image-large, whose pipeline.json does not name them: sampling needs no encoder.
ENCODERS = {ENCODER: "ckpts/ss_enc_conv3d_16l8_fp16", SLAT_ENCODER: "ckpts/slat_enc_swin8_B_64l8_fp16"}
# By their names in pipeline.json. The files lie in the folder that the repository's folder is in, as `fetch` does it.
HUB_CONDITIONERS: dict[str, PictureSpec] = {"dinov2_vitl14_reg": SPECS["fd_dinov2_reg518"]}
PICTURES_AT_ONCE = 8  # through DINOv2: the activations of a whole training batch would not fit
OFFICIAL_SIDE, OFFICIAL_CELLS = 518, 64  # pixels of a conditioning picture, cells along a side of a structure
SAMPLERS: dict[Stage, str] = {"structure": SAMPLER, "slat": SLAT_SAMPLER}


class WorldFile(BaseModel):
    """Content of world.json."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = WORLD_FORMAT
    name: str
    preparation: PreparationSection
    observation: ObservationSection | None = None
    looks: LooksSection | None = None
    extractors: dict[str, str] = Field(default_factory=dict)
    sha256: dict[str, str] = Field(default_factory=dict)


@dataclass(frozen=True)
class WorldInfo:
    """A world as far as small files tell.

    Attributes:
        digest: identity of everything in it that decides a result; weights enter through their digests.
        samplers: how the teacher is sampled, of the stages that there are.
    """

    folder: Path
    file: WorldFile
    digest: str
    samplers: Mapping[Stage, SamplerParams]

    @property
    def name(self) -> str:
        return self.file.name


@dataclass(frozen=True)
class World:
    """A loaded world. All its networks are on one device, in evaluation mode.

    Attributes:
        slat: None in a world of structures alone.
    """

    file: WorldFile
    structure: StructurePipeline
    slat: SlatPipeline | None

    @property
    def whole(self) -> SlatPipeline:
        """The second stage. Raises UsageError in a world that has none."""
        if self.slat is None:
            raise UsageError(f"World '{self.file.name}' has no second stage. Choose one that has, or leave out [slat].")
        return self.slat

    def stage(self, name: Stage) -> StructurePipeline | SlatPipeline:
        return self.structure if name == "structure" else self.whole


class HubConditioner(nn.Module):
    """DINOv2 with registers as TRELLIS' conditioner: [B, 3, 518, 518] uint8 -> [B, 1374, 1024] float32.

    Attributes:
        half_on: devices on which it computes in float16.
    """

    # DEVIATION(TRELLIS): it encodes in float32, which on a GPU would be a tenth of a training.
    half_on: frozenset[str] = frozenset({"cuda"})

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network: Any = network

    def forward(self, images: Tensor) -> Tensor:
        kind = images.device.type
        with torch.autocast(kind, torch.float16) if kind in self.half_on else nullcontext():
            parts = [trellis_condition(self.network, part) for part in images.split(PICTURES_AT_ONCE)]
        return torch.cat(parts).float()


def world_folder(name: str, weights: Path | None = None) -> Path:
    """Folder of a world: a shipped one, one made by `mdtbench pretrain`, or one among downloaded weights.

    Raises:
        UsageError: there is none of that name.
    """
    places = [WORLDS / name, Path(name), *([weights / name] if weights else [])]
    for folder in places:
        if (folder / "pipeline.json").is_file():
            return folder
    shipped = [path.parent.name for path in WORLDS.glob("*/world.json")]
    where = f", or fetch it into {weights} with `mdtbench fetch`" if weights else ""
    raise unknown_name("world", name, shipped, f"Or give a folder made by `mdtbench pretrain`{where}.")


def read_world_file(folder: Path) -> WorldFile:
    """world.json, or what stands for it in an official folder. Raises MissingError when it is malformed."""
    path = folder / "world.json"
    if not path.is_file() and (folder / "pipeline.json").is_file():
        return _official(folder)
    try:
        file = WorldFile.model_validate(read_json(path))
    except ValidationError as error:
        raise MissingError(f"{path} is not a world file ({error.errors()[0]['msg']}). Restore it.") from error
    if file.format != WORLD_FORMAT:
        raise MissingError(f"{path} has format {file.format}; this version reads {WORLD_FORMAT}. Make the world again.")
    return file


def world_info(folder: Path) -> WorldInfo:
    """What is known of a world without its networks. Raises MissingError when a file is absent or malformed."""
    file = read_world_file(folder)
    stages: tuple[Stage, ...] = ("structure", "slat") if has_slat(folder) else ("structure",)
    samplers: dict[Stage, SamplerParams] = {stage: read_sampler(folder, SAMPLERS[stage]) for stage in stages}
    return WorldInfo(folder, file, world_digest(folder, file), samplers)


def slat_resolution(folder: Path) -> int:
    """Cells along a side of the second stage's grid."""
    stem = read_json(folder / "pipeline.json")["args"]["models"][SLAT_FLOW]
    return int(read_json(folder / f"{stem}.json")["args"]["resolution"])


def world_digest(folder: Path, file: WorldFile) -> str:
    """Identity of a world. Digests of weights are those of world.json, of the lock of downloads, or computed."""
    content = [file.model_dump(mode="json"), read_json(folder / "pipeline.json")]
    return digest_of(content if file.sha256 else [*content, _official_digests(folder)])


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
    """All networks that assets are made with, verified, on `device`.

    Raises:
        MissingError: a file is absent, malformed, or not the one that is known by its digest.
    """
    settle(device)
    verify_world(folder)
    return _Reader(folder, torch.device(device), _args(folder)).world()


@lru_cache(maxsize=1)
def load_cached(folder: Path, device: str) -> World:
    """`load_world`, once per process."""
    return load_world(folder, device)


def load_extractor(folder: Path, name: str, device: str | torch.device = "cpu") -> tuple[nn.Module, str]:
    """A tiny extractor of a world and the sha256 of its weights. Raises MissingError."""
    file = read_world_file(folder)
    if name not in file.extractors:
        raise unknown_name("extractor", name, file.extractors, f"World '{file.name}'.")
    stem = file.extractors[name]
    digest = file.sha256[f"{stem}.safetensors"]
    return load_checkpoint(folder / stem, digest, device=device, networks=EXTRACTORS), digest


def write_world_file(folder: Path, name: str, sections: dict[str, Any], extractors: dict[str, str]) -> None:
    """Digest all checkpoint files and write world.json, last, so that its existence means a complete world."""
    checkpoints = sorted((folder / "ckpts").glob("[!.]*"))
    file = WorldFile(
        name=name,
        extractors=extractors,
        sha256={f"ckpts/{path.name}": file_sha256(path) for path in checkpoints},
        **sections,
    )
    write_json(folder / "world.json", file.model_dump(mode="json"))


class _Reader:
    """Reads each network once."""

    def __init__(self, folder: Path, device: torch.device, args: Mapping[str, Any]):
        self.folder = folder
        self.device = device
        self.args = args
        self.models: Mapping[str, str] = {**ENCODERS, **args["models"]}
        self.conditioners: dict[str, nn.Module] = {}

    def world(self) -> World:
        slat = self._slat() if SLAT_FLOW in self.args["models"] else None
        return World(read_world_file(self.folder), self._structure(), slat)

    def _structure(self) -> StructurePipeline:
        return StructurePipeline(
            self._network(FLOW, StructureFlow),
            self._network(DECODER, SparseStructureDecoder),
            self._network(ENCODER, SparseStructureEncoder),
            self._conditioner(self.args[CONDITIONER]),
            read_sampler(self.folder),
        )

    def _slat(self) -> SlatPipeline:
        try:
            normal = self.args[NORMALISATION]
            mean, std = (torch.tensor(normal[key], dtype=torch.float32) for key in ("mean", "std"))
        except (KeyError, TypeError, ValueError) as error:
            raise MissingError(f"{self.folder / 'pipeline.json'} has no {error}. Restore the file.") from error
        return SlatPipeline(
            self._network(SLAT_FLOW, SLatFlowModel),
            self._network(SLAT_ENCODER, SLatEncoder),
            self._network(GAUSSIAN_DECODER, SLatGaussianDecoder),
            self._network(MESH_DECODER, SLatMeshDecoder),
            self._conditioner(self.args.get(SLAT_CONDITIONER, self.args[CONDITIONER])),
            read_sampler(self.folder, SLAT_SAMPLER),
            mean.to(self.device),
            std.to(self.device),
        )

    def _network(self, key: str, kind: type[Network]) -> Network:
        if key not in self.models:
            raise MissingError(f"{self.folder / 'pipeline.json'} names no {key}. Restore the file.")
        network = load_checkpoint(self.folder / self.models[key], device=self.device)
        if not isinstance(network, kind):
            raise MissingError(
                f"{self.folder / 'pipeline.json'}: {key} is a {type(network).__name__} - a {kind.__name__} is needed. "
                "Restore the file."
            )
        return network

    def _conditioner(self, name: str) -> nn.Module:
        if name not in self.conditioners:
            hub = name in HUB_CONDITIONERS
            made = self._from_hub(name) if hub else load_checkpoint(self.folder / name, device=self.device)
            self.conditioners[name] = made.requires_grad_(False)
        return self.conditioners[name]

    def _from_hub(self, name: str) -> nn.Module:
        spec = HUB_CONDITIONERS[name]
        return HubConditioner(load(spec, self.folder.parent / spec.weights.file, device=self.device).network).eval()


def _args(folder: Path) -> Mapping[str, Any]:
    """pipeline.json's arguments. Raises MissingError where one that is needed is absent or of another kind."""
    path = folder / "pipeline.json"
    match read_json(path):
        case {"args": {"models": dict(), "image_cond_model": str()} as args}:
            return args
    raise MissingError(f"{path} has no models or image_cond_model. Restore the file.")


def _official(folder: Path) -> WorldFile:
    """What world.json would say of a folder in the official layout; a conditioner in our layout knows its pictures."""
    conditioner = _args(folder)["image_cond_model"]
    config = folder / f"{conditioner}.json"
    args = read_json(config).get("args", {}) if config.is_file() else {}
    decoder = folder / f"{_args(folder)['models'].get(DECODER, '')}.json"
    return official_file(folder.resolve().name, args.get("image_size", OFFICIAL_SIDE), _cells(folder, decoder))


def official_file(name: str, image_size: int, resolution: int) -> WorldFile:
    """What world.json would say: no tiny extractors, digests elsewhere."""
    views = {"views": 1, "yaw_deg": (30.0, 150.0), "pitch_deg": (10.0, 35.0)}
    return WorldFile(
        name=name,
        preparation=PreparationSection(resolution=resolution, image_size=image_size, **views),
    )


def _cells(folder: Path, decoder: Path) -> int:
    """Cells along a side of a structure: those of its latent, doubled by every stage of the decoder but the last."""
    flow = folder / f"{_args(folder)['models'].get(FLOW, '')}.json"
    if not (flow.is_file() and decoder.is_file()):
        return OFFICIAL_CELLS
    latent, made = read_json(flow)["args"]["resolution"], read_json(decoder)["args"]
    fine = latent * 2 ** (len(made["channels"]) - 1)
    return fine * round(made.get("out_channels", 1) ** (1 / 3))  # space-to-depth blocks of the tiny decoder


def _official_digests(folder: Path) -> dict[str, str]:
    """sha256 of each checkpoint of a folder without world.json, from the lock of downloads where that knows it."""
    args, lock = _args(folder), read_lock(folder.parent)
    stems = {**ENCODERS, **args["models"]}.values()
    named = [args[key] for key in (CONDITIONER, SLAT_CONDITIONER) if key in args]
    paths = [folder / f"{stem}.safetensors" for stem in (*stems, *(n for n in named if n not in HUB_CONDITIONERS))]
    paths += [folder.parent / HUB_CONDITIONERS[name].weights.file for name in named if name in HUB_CONDITIONERS]
    return {path.name: _digest(path, folder.parent, lock) for path in sorted(set(paths)) if path.is_file()}


def _digest(path: Path, root: Path, lock: Mapping[str, Any]) -> str:
    known = lock.get(path.relative_to(root).as_posix())
    return known.sha256 if known else file_sha256(path)
