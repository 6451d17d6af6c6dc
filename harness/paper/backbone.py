"""The official backbone: both stages of TRELLIS from the folder of its repository, one conditioner for both.

The official pipeline.json names its conditioner by an entry point of the DINOv2 hub, whose weights lie beside the
folder, and leaves out the encoders, whose checkpoints are in the repository all the same. One in our layout names
checkpoints for all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ...base.errors import MissingError
from ...base.files import digest_of, file_sha256, read_json
from ...metrics.official.picture_extractors import DINOV2_REG_WEIGHTS
from ...metrics.official.vision_transformer import DINOV2_L14_REG, VisionShape, VisionTransformer, trellis_condition
from ...metrics.official.weights import WeightsFile, checked_digest, load_weights, read_tensors, without_memory
from ...trellis.pipeline import (
    CONDITIONER,
    DECODER,
    ENCODER,
    FLOW,
    SLAT_FLOW,
    SLAT_SAMPLER,
    StructurePipeline,
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
from ...trellis.structure_flow import SparseStructureFlowModel
from ...trellis.structure_vae import SparseStructureDecoder, SparseStructureEncoder
from ...trellis.weights import load_checkpoint
from ..device import settle

Network = TypeVar("Network", bound=nn.Module)

# Of microsoft/TRELLIS-image-large, whose pipeline.json does not name them: sampling needs no encoder.
ENCODERS = {ENCODER: "ckpts/ss_enc_conv3d_16l8_fp16", SLAT_ENCODER: "ckpts/slat_enc_swin8_B_64l8_fp16"}
# By their names in pipeline.json. The files lie in the folder that the repository's folder is in, as `fetch` does it.
HUB_CONDITIONERS: dict[str, tuple[VisionShape, WeightsFile]] = {
    "dinov2_vitl14_reg": (DINOV2_L14_REG, DINOV2_REG_WEIGHTS)
}
PICTURES_AT_ONCE = 8  # through DINOv2: the activations of a whole training batch would not fit


@dataclass(frozen=True)
class Backbone:
    """Both stages of a teacher, on one device.

    Attributes:
        digest: identity of pipeline.json and of all weights.
    """

    structure: StructurePipeline
    slat: SlatPipeline
    digest: str


class HubConditioner(nn.Module):
    """DINOv2 with registers as TRELLIS' conditioner: [B, 3, 518, 518] uint8 -> [B, 1374, 1024]."""

    def __init__(self, network: VisionTransformer):
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return torch.cat([trellis_condition(self.network, part) for part in images.split(PICTURES_AT_ONCE)])


def load_backbone(folder: Path, device: str | torch.device = "cpu") -> Backbone:
    """Read both stages of a folder in the official layout (pipeline.json, ckpts/).

    Raises:
        MissingError: a file is absent, malformed, or not the one that is known by its digest.
    """
    settle(device)
    return _Reader(folder, torch.device(device), _args(folder)).backbone()


class _Reader:
    """Reads each network once, and remembers the digests of their files."""

    def __init__(self, folder: Path, device: torch.device, args: Mapping[str, Any]):
        self.folder = folder
        self.device = device
        self.args = args
        self.models: Mapping[str, str] = {**ENCODERS, **args["models"]}
        self.digests: dict[str, str] = {}
        self.conditioners: dict[str, nn.Module] = {}

    def backbone(self) -> Backbone:
        structure, slat = self._structure(), self._slat()
        return Backbone(structure, slat, digest_of([self.args, self.digests]))

    def _structure(self) -> StructurePipeline:
        return StructurePipeline(
            self._network(FLOW, SparseStructureFlowModel),
            self._network(DECODER, SparseStructureDecoder),
            self._network(ENCODER, SparseStructureEncoder),
            self._conditioner(self.args[CONDITIONER]),
            read_sampler(self.folder),
        )

    def _slat(self) -> SlatPipeline:
        mean, std = (torch.tensor(self.args[NORMALISATION][key], dtype=torch.float32) for key in ("mean", "std"))
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
        network = self._checkpoint(self.models[key])
        if not isinstance(network, kind):
            raise MissingError(
                f"{self.folder / 'pipeline.json'}: {key} is a {type(network).__name__} - a {kind.__name__} is needed. "
                "Restore the file."
            )
        return network

    def _checkpoint(self, stem: str) -> nn.Module:
        self.digests[stem] = file_sha256(self.folder / f"{stem}.safetensors")
        return load_checkpoint(self.folder / stem, device=self.device)

    def _conditioner(self, name: str) -> nn.Module:
        if name not in self.conditioners:
            made = self._from_hub(name) if name in HUB_CONDITIONERS else self._checkpoint(name)
            self.conditioners[name] = made.requires_grad_(False)
        return self.conditioners[name]

    def _from_hub(self, name: str) -> nn.Module:
        shape, weights = HUB_CONDITIONERS[name]
        path = self.folder.parent / weights.file
        self.digests[name] = checked_digest(path, weights.sha256)
        network = without_memory(lambda: VisionTransformer(shape))
        load_weights(network, path, read_tensors(path, weights.prefix))
        return HubConditioner(network).eval().to(self.device)


def _args(folder: Path) -> Mapping[str, Any]:
    """pipeline.json's arguments. Raises MissingError where one that is needed is absent or of another kind."""
    path = folder / "pipeline.json"
    match read_json(path):
        case {
            "args": {
                "models": dict(models),
                "image_cond_model": str(),
                "slat_normalization": {"mean": [*_], "std": [*_]},
            } as args
        }:
            absent = [key for key in (FLOW, DECODER, SLAT_FLOW, GAUSSIAN_DECODER, MESH_DECODER) if key not in models]
            if not absent:
                return args
            raise MissingError(f"{path} names no {', '.join(absent)}. Restore the file.")
    raise MissingError(f"{path} has no models, image_cond_model or slat_normalization. Restore the file.")
