"""From a conditioning picture to a structure: the first stage of the image-to-3D pipeline."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..base.errors import MissingError
from ..base.files import read_json, write_json
from ..flow.guidance import Guided, Velocity
from ..flow.layout import DenseLayout, Layout
from .adapter import bind, bind_guided
from .patches import from_blocks, to_blocks
from .structure_flow import StructureFlow
from .structure_vae import SparseStructureDecoder, SparseStructureEncoder

FLOW = "sparse_structure_flow_model"
DECODER = "sparse_structure_decoder"
ENCODER = "sparse_structure_encoder"
CONDITIONER = "image_cond_model"
SAMPLER = "sparse_structure_sampler"
SLAT_FLOW = "slat_flow_model"
SLAT_SAMPLER = "slat_sampler"


@dataclass(frozen=True)
class SamplerParams:
    """How the teacher is sampled, from the pipeline's own file.

    Attributes:
        cfg_strength: s of (1 + s) v_cond - s v_neg, used while t lies in cfg_interval.
        rescale_t: time warp.
    """

    steps: int
    cfg_strength: float
    cfg_interval: tuple[float, float]
    rescale_t: float


@dataclass(frozen=True)
class StructurePipeline:
    """The networks of the structure stage, in evaluation mode.

    Pictures and occupancy may come from any device; latents must be where the networks are.
    """

    flow: StructureFlow
    decoder: SparseStructureDecoder
    encoder: SparseStructureEncoder
    conditioner: nn.Module
    sampler: SamplerParams

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return next(self.flow.parameters()).device

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """[C, R, R, R] of one latent."""
        return (self.flow.in_channels, *[self.flow.resolution] * 3)

    def layout(self, batch: int) -> DenseLayout:
        return DenseLayout((batch, *self.latent_shape), device=self.device)

    @torch.no_grad()
    def condition(self, images: Tensor) -> Tensor:
        """Tokens [B, T, C] of preprocessed pictures [B, 3, S, S] uint8."""
        return self.conditioner(images.to(self.device))

    def bind(self, network: Callable[..., Tensor], cond: Tensor, layout: Layout) -> Velocity:
        """Velocity of a flow network under `cond`, without guidance."""
        del layout
        return bind(network, cond)

    def velocity(self, network: nn.Module, cond: Tensor, layout: Layout) -> Guided:
        """Guided velocity of a flow network (the teacher or a student of it) under `cond`."""
        del layout
        return bind_guided(network, cond)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Occupancy [B, R, R, R] bool."""
        return from_blocks(self.decoder(latents))[:, 0] > 0

    @torch.no_grad()
    def encode(self, occupancy: Tensor) -> Tensor:
        """Latents (posterior means) of occupancy [B, R, R, R]."""
        blocks = to_blocks(occupancy.to(self.device).float()[:, None], self.encoder.input_layer.in_channels)
        return self.encoder(blocks, sample_posterior=False)


def has_slat(folder: Path) -> bool:
    """Whether a folder in the official layout has a second stage."""
    return SLAT_FLOW in read_json(folder / "pipeline.json").get("args", {}).get("models", {})


def read_sampler(folder: Path, key: str = SAMPLER) -> SamplerParams:
    """How the teacher of a stage is sampled, from a folder in the official layout. Raises MissingError.

    Args:
        key: the stage's in pipeline.json.
    """
    path = folder / "pipeline.json"
    try:
        params = read_json(path)["args"][key]["params"]
        low, high = params["cfg_interval"]
        return SamplerParams(
            int(params["steps"]), float(params["cfg_strength"]), (float(low), float(high)), float(params["rescale_t"])
        )
    except (KeyError, TypeError, ValueError) as error:
        raise MissingError(f"{path} does not say how to sample ({key}: {error}). Restore it.") from error


def write_pipeline(folder: Path, models: dict[str, str], samplers: dict[str, dict], **others: Any) -> None:
    """Write pipeline.json in the official layout.

    Args:
        models: key -> stem relative to `folder`. samplers: key -> parameters.
        others: further entries, such as the conditioner's stem.
    """
    named = {
        key: {"name": "FlowEulerGuidanceIntervalSampler", "args": {"sigma_min": 1e-5}, "params": params}
        for key, params in samplers.items()
    }
    args = {"models": models, **named, **others}
    write_json(folder / "pipeline.json", {"name": "TrellisImageTo3DPipeline", "args": args})
