"""The structure stage of a world: VAE, image conditioner, flow teacher."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from ...flow.layout import DenseLayout
from ...flow.path import conditional_velocity, diffuse
from ...flow.times import LogitNormal
from ...trellis import create
from ...trellis.adapter import T_SCALE
from ...trellis.patches import from_blocks, to_blocks
from ...trellis.weights import NetworkConfig
from ..engine.progress import Reporter
from ..settings.config import ConditionerPart, TeacherPart, VaePart
from ..train.learner import Learner, Recipe
from .fit import fit, numpy_generator, torch_generator

BLOCK = 8  # cells per position of the tiny VAE's first layer: 2^3
DICE_WEIGHT = 0.3
CATEGORY_WEIGHT = 0.3  # against the squared error of a latent of unit variance


@dataclass(frozen=True)
class Trained:
    """A trained network, the config that `trellis.create` builds it from, and what was measured."""

    network: nn.Module
    config: NetworkConfig
    measured: dict[str, float]


def train_vae(
    occupancy: NDArray[np.bool_], held_out: NDArray[np.bool_], stage: VaePart, path: Path, reporter: Reporter
) -> tuple[Trained, Trained]:
    """Encoder and decoder of occupancy grids [N, R, R, R]; latents have unit variance per channel."""
    widths = list(stage.channels)
    common = {"latent_channels": stage.latent_channels, "num_res_blocks": 1, "num_res_blocks_middle": 1}
    encoder_args = {"in_channels": BLOCK, "channels": widths, **common}
    decoder_args = {"out_channels": BLOCK, "channels": widths[::-1], **common}
    encoder = create("SparseStructureEncoder", encoder_args)
    decoder = create("SparseStructureDecoder", decoder_args, seed=1)
    module = nn.ModuleDict({"encoder": encoder, "decoder": decoder})
    learner = Learner(module, Recipe(stage.steps, stage.lr, warmup=100, ema=0.995))

    def loss_of(index: int) -> Tensor:
        rows = numpy_generator("vae batch", index).integers(0, len(occupancy), stage.batch)
        voxels = torch.from_numpy(occupancy[rows]).float()[:, None]
        _, mean, logvar = encoder(to_blocks(voxels, BLOCK), return_raw=True)
        noise = torch.randn(mean.shape, generator=torch_generator("vae noise", index))
        logits = from_blocks(decoder(mean + (0.5 * logvar).exp() * noise))
        divergence = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
        return reconstruction_loss(logits, voxels) + stage.kl * divergence

    measured = fit(learner, loss_of, path, reporter, "structure VAE")
    unit_variance(encoder, decoder, torch.from_numpy(occupancy[:512]))
    measured["held_out_iou"] = reconstruction_iou(encoder, decoder, held_out)
    return (
        Trained(encoder, {"name": "SparseStructureEncoder", "args": encoder_args}, measured),
        Trained(decoder, {"name": "SparseStructureDecoder", "args": decoder_args}, measured),
    )


def reconstruction_loss(logits: Tensor, voxels: Tensor) -> Tensor:
    """Cross-entropy plus a dice term, which keeps thin parts although most cells are empty."""
    share = torch.sigmoid(logits)
    overlap = (share * voxels).sum((1, 2, 3, 4))
    size = share.sum((1, 2, 3, 4)) + voxels.sum((1, 2, 3, 4))
    dice = 1 - (2 * overlap + 1) / (size + 1)
    return functional.binary_cross_entropy_with_logits(logits, voxels) + DICE_WEIGHT * dice.mean()


@torch.no_grad()
def unit_variance(encoder: nn.Module, decoder: nn.Module, occupancy: Tensor) -> None:
    """Fold each latent channel's standard deviation into the last layer of the encoder and the first of the decoder."""
    std = encode(encoder, occupancy).std((0, 2, 3, 4))
    channels = len(std)
    last, first = dict(encoder.named_parameters()), dict(decoder.named_parameters())
    last["out_layer.2.weight"][:channels] /= std.reshape(-1, 1, 1, 1, 1)
    last["out_layer.2.bias"][:channels] /= std
    last["out_layer.2.bias"][channels:] -= 2 * std.log()
    first["input_layer.weight"].mul_(std.reshape(1, -1, 1, 1, 1))


@torch.no_grad()
def encode(encoder: nn.Module, occupancy: Tensor) -> Tensor:
    """Latents [N, C, r, r, r] of occupancy grids [N, R, R, R]."""
    chunks = occupancy.float()[:, None].split(64)
    return torch.cat([encoder(to_blocks(chunk, BLOCK), sample_posterior=False) for chunk in chunks])


@torch.no_grad()
def reconstruction_iou(encoder: nn.Module, decoder: nn.Module, occupancy: NDArray[np.bool_]) -> float:
    grids = torch.from_numpy(occupancy)
    logits = torch.cat([from_blocks(decoder(z)) for z in encode(encoder, grids).split(64)])[:, 0]
    both = ((logits > 0) & grids).sum((1, 2, 3))
    either = ((logits > 0) | grids).sum((1, 2, 3))
    return float((both / either).mean())


def train_conditioner(
    latents: Tensor,
    labels: NDArray[np.int64],
    images: NDArray[np.uint8],
    stage: ConditionerPart,
    path: Path,
    reporter: Reporter,
) -> Trained:
    """Image conditioner, on a task of its own: what object is it, and what latent would be expected.

    Tokens that already know the answer let the flow learn to use them from its first step.

    Args:
        latents: [N, C, r, r, r]. labels: [N] categories.
        images: [N, views, S, S, 3] conditioning pictures.
    """
    args = {"image_size": images.shape[2], "channels": stage.channels, "layers": stage.layers}
    conditioner = create("ImageConditioner", args)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(1)
        guess = _Guess(stage.channels, latents[0].numel(), int(labels.max()) + 1)
    module = nn.ModuleDict({"conditioner": conditioner, "guess": guess})
    recipe = Recipe(stage.steps, stage.lr, 100, ema=0.995, weight_decay=1e-2, matrix_lr=stage.matrix_lr)
    learner = Learner(module, recipe)
    targets, categories = latents.flatten(1), torch.from_numpy(labels)

    def loss_of(index: int) -> Tensor:
        generator = numpy_generator("conditioner batch", index)
        rows = generator.integers(0, len(latents), stage.batch)
        latent, logits = guess(conditioner(pictures_of(images, rows, generator)))
        picked = torch.from_numpy(rows)
        return functional.mse_loss(latent, targets[picked]) + CATEGORY_WEIGHT * functional.cross_entropy(
            logits, categories[picked]
        )

    measured = fit(learner, loss_of, path, reporter, "image conditioner")
    return Trained(conditioner, {"name": "ImageConditioner", "args": args}, measured)


class _Guess(nn.Module):
    """Latent and category from tokens [B, T, C]; only the conditioner's training has it."""

    def __init__(self, channels: int, latent: int, categories: int):
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(2 * channels, 256), nn.GELU())
        self.latent = nn.Linear(256, latent)
        self.category = nn.Linear(256, categories)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.trunk(torch.cat([tokens.mean(1), tokens.amax(1)], dim=1))
        return self.latent(hidden), self.category(hidden)


def train_teacher(
    latents: Tensor,
    images: NDArray[np.uint8],
    conditioner: nn.Module,
    stage: TeacherPart,
    path: Path,
    reporter: Reporter,
) -> Trained:
    """Structure flow, by flow matching, on the tokens of a frozen conditioner.

    Args:
        latents: [N, C, r, r, r].
        images: [N, views, S, S, 3] conditioning pictures.
    """
    with torch.no_grad():
        cond_channels = conditioner(torch.from_numpy(images[:1, 0]).permute(0, 3, 1, 2)).shape[-1]
    args = {
        "resolution": latents.shape[-1],
        "in_channels": latents.shape[1],
        "out_channels": latents.shape[1],
        "model_channels": stage.model_channels,
        "cond_channels": cond_channels,
        "num_blocks": stage.num_blocks,
        "num_heads": stage.num_heads,
        "mlp_ratio": 4,
        "patch_size": stage.patch_size,
        "pe_mode": "ape",
        "qk_rms_norm": True,
    }
    flow = create("SparseStructureFlowModel", args)
    learner = Learner(flow, Recipe(stage.steps, stage.lr, warmup=200, ema=0.999, matrix_lr=stage.matrix_lr))
    density = LogitNormal(stage.time_mean, stage.time_std)

    def loss_of(index: int) -> Tensor:
        generator, tensors = numpy_generator("teacher batch", index), torch_generator("teacher noise", index)
        rows = generator.integers(0, len(latents), stage.batch)
        with torch.no_grad():
            cond = conditioner(pictures_of(images, rows, generator))
        kept = torch.rand(stage.batch, generator=tensors) >= stage.drop_condition
        x_0 = latents[torch.from_numpy(rows)]
        layout = DenseLayout(tuple(x_0.shape))
        noise = layout.randn([tensors])
        t = density.times(torch.rand(stage.batch, generator=tensors), 1e-5)
        v = flow(diffuse(x_0, noise, t, layout), T_SCALE * t, cond * kept[:, None, None])
        return functional.mse_loss(v, conditional_velocity(x_0, noise))

    measured = fit(learner, loss_of, path, reporter, "structure teacher")
    return Trained(flow, {"name": "SparseStructureFlowModel", "args": args}, measured)


def pictures_of(images: NDArray[np.uint8], rows: NDArray, generator: np.random.Generator) -> Tensor:
    """One random view of every row: [B, 3, S, S] uint8."""
    views = generator.integers(0, images.shape[1], len(rows))
    return torch.from_numpy(images[rows, views]).permute(0, 3, 1, 2)
