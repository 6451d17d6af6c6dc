"""The second stage of a world: encoder with Gaussian decoder, mesh decoder, flow teacher with its image conditioner."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from ...flow.path import conditional_velocity, diffuse
from ...flow.times import LogitNormal
from ...geometry.cameras import Camera, orbit
from ...geometry.mesh import Mesh
from ...render.distance import signed_distance
from ...render.gaussian_torch import render_tensors
from ...render.meshes import MeshRenderer
from ...trellis import create
from ...trellis.adapter import T_SCALE
from ...trellis.mesh_extraction import VoxelValues, split_features
from ...trellis.slat_decoders import SLatGaussianDecoder, SLatMeshDecoder
from ...trellis.slat_encoder import SLatEncoder
from ...trellis.slat_pipeline import voxel_layout
from ...trellis.sparse import SparseTensor, Voxels
from ..engine.progress import Reporter
from ..settings.config import SlatMeshPart, SlatTeacherPart, SlatVaePart
from ..train.learner import Learner, Recipe
from .data import Objects
from .fit import fit, numpy_generator, torch_generator
from .structure import Trained, pictures_of

RADIUS, FOV_DEG = 2.0, 40.0  # of the training cameras: the protocol's
PITCH_DEG = (-20.0, 60.0)
FEATURE_WEIGHT = 0.2  # of the cell features, against the mean absolute error of pictures
SDF_STEPS = 4.0  # distances are learnt in units of so many cells of the decoded grid, up to 1
CORNERS_PER_OBJECT = 1500  # voxels of an object whose corners are compared with the surface, per step
LOOK_WEIGHT = 4.0  # of colours and normals at corners, against the mean absolute error of distances
NEAR = 1.5  # cells: farther from the surface a corner's colour is nobody's


def train_slat_vae(objects: Objects, stage: SlatVaePart, path: Path, reporter: Reporter) -> tuple[Trained, Trained]:
    """Encoder and Gaussian decoder, on pictures of the objects from random cameras and on their cell features."""
    common = {
        "resolution": objects.resolution,
        "model_channels": stage.model_channels,
        "latent_channels": stage.latent_channels,
        "num_blocks": stage.num_blocks,
        "num_heads": stage.num_heads,
        "attn_mode": "swin",
        "window_size": 8,
    }
    encoder_args = {"in_channels": objects.features.shape[1], **common}
    decoder_args = {**common, "representation_config": gaussian_settings(stage.gaussians_per_cell)}
    encoder = cast(SLatEncoder, create("SLatEncoder", encoder_args))
    decoder = cast(SLatGaussianDecoder, create("SLatGaussianDecoder", decoder_args, seed=1))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(2)
        head = nn.Linear(stage.latent_channels, objects.features.shape[1])  # of the training alone
    module = nn.ModuleDict({"encoder": encoder, "decoder": decoder, "head": head})
    learner = Learner(module, Recipe(stage.steps, stage.lr, warmup=50, ema=0.99, matrix_lr=stage.matrix_lr))

    def loss_of(index: int) -> Tensor:
        generator = numpy_generator("slat vae batch", index)
        rows = generator.integers(0, len(objects.assets), stage.batch)
        features = objects.picked(rows)
        mean, logvar = encoder.posterior(features)
        noise = torch.randn(mean.shape, generator=torch_generator("slat vae noise", index))
        z = features.replace(mean + (0.5 * logvar).exp() * noise)
        divergence = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
        features_loss = functional.l1_loss(head(z.feats), features.feats)
        gaussians = decoder.to_gaussians(decoder(z))
        errors = []
        for row, decoded in zip(rows, gaussians, strict=True):
            camera = random_camera(generator)
            picture = render_tensors(decoded, camera, stage.picture_size)
            errors.append(functional.l1_loss(picture, _picture(objects.assets[row].load(), camera, stage.picture_size)))
        return torch.stack(errors).mean() + FEATURE_WEIGHT * features_loss + stage.kl * divergence

    measured = fit(learner, loss_of, path, reporter, "SLAT encoder and Gaussian decoder")
    return (
        Trained(encoder, {"name": "SLatEncoder", "args": encoder_args}, measured),
        Trained(decoder, {"name": "SLatGaussianDecoder", "args": decoder_args}, measured),
    )


def gaussian_settings(per_cell: int) -> dict[str, Any]:
    """The representation of TRELLIS-image-large, but for the number of Gaussians and their size: a cell is larger."""
    return {
        "lr": {"_xyz": 1.0, "_features_dc": 1.0, "_opacity": 1.0, "_scaling": 1.0, "_rotation": 0.1},
        "perturb_offset": True,
        "voxel_size": 1.5,
        "num_gaussians": per_cell,
        "2d_filter_kernel_size": 0.1,
        "3d_filter_kernel_size": 9e-4,
        "scaling_bias": 1.6e-2,
        "opacity_bias": 0.1,
        "scaling_activation": "softplus",
    }


@torch.no_grad()
def encoded(encoder: nn.Module, objects: Objects) -> Tensor:
    """Raw latents (posterior means) of all cells, object by object."""
    rows = [encoder(objects.picked(np.array([i])), sample_posterior=False).feats for i in range(len(objects.assets))]
    return torch.cat(rows)


def train_slat_mesh(
    objects: Objects, raw: Tensor, stage: SlatMeshPart, latent: int, path: Path, reporter: Reporter
) -> Trained:
    """Mesh decoder, on signed distances and colours at the corners of its voxels.

    TRELLIS learns from rendered normals and depths; toys have exact distances, which need no renderer.

    Args:
        raw: latents of all cells of the objects.
        latent: their channels.
    """
    args = {
        "resolution": objects.resolution,
        "model_channels": stage.model_channels,
        "latent_channels": latent,
        "num_blocks": stage.num_blocks,
        "num_heads": stage.num_heads,
        "attn_mode": "swin",
        "window_size": 8,
        "representation_config": {"use_color": True},
    }
    decoder = cast(SLatMeshDecoder, create("SLatMeshDecoder", args))
    learner = Learner(decoder, Recipe(stage.steps, stage.lr, warmup=20, ema=0.98, matrix_lr=stage.matrix_lr))

    def loss_of(index: int) -> Tensor:
        generator = numpy_generator("slat mesh batch", index)
        rows = generator.integers(0, len(objects.assets), stage.batch)
        cells, voxels = objects.cells(rows)
        out = decoder(SparseTensor(raw[cells], voxels))
        losses = []
        for sample, row in enumerate(rows):
            mine = torch.from_numpy(_some(out.voxels, sample, generator))
            values = split_features(out.feats[mine], decoder.mesh_resolution)
            coords = out.voxels.coords[mine, 1:].numpy()
            losses.append(corner_loss(values, coords, objects.assets[row].load(), decoder.mesh_resolution))
        return torch.stack(losses).mean()

    measured = fit(learner, loss_of, path, reporter, "SLAT mesh decoder")
    return Trained(decoder, {"name": "SLatMeshDecoder", "args": args}, measured)


def corner_loss(values: VoxelValues, coords: NDArray[np.int32], mesh: Mesh, resolution: int) -> Tensor:
    """How far voxels' corner values are from an object's surface and colours. coords: [K, 3] voxels."""
    offsets = np.array([[i & 1, i >> 1 & 1, i >> 2 & 1] for i in range(8)])
    points = ((coords[:, None] + offsets) / resolution - 0.5).reshape(-1, 3)
    unique, inverse = np.unique(points, axis=0, return_inverse=True)
    field = signed_distance(mesh, unique)
    cells = torch.from_numpy(field.distance * resolution)[inverse.reshape(-1)].reshape(len(coords), 8)
    target = (cells / SDF_STEPS).clamp(-1, 1)
    near = (cells.abs() < NEAR).float()
    loss = functional.l1_loss(values.sdf[..., 0], target) + 0.1 * values.displacement.square().mean()
    if values.colours is None:
        return loss
    look = np.concatenate([field.rgb, (field.normal + 1) / 2], axis=1)
    wanted = torch.from_numpy(look.astype(np.float32))[inverse.reshape(-1)].reshape(len(coords), 8, 6)
    error = (torch.sigmoid(values.colours) - wanted).abs().mean(-1)
    return loss + LOOK_WEIGHT * (error * near).sum() / near.sum().clamp(min=1)


def train_slat_teacher(
    objects: Objects, latents: Tensor, stage: SlatTeacherPart, path: Path, reporter: Reporter
) -> tuple[Trained, Trained]:
    """Flow of the second stage and its image conditioner, together, by flow matching.

    The structure stage's conditioner will not do: its tokens were made to tell shapes, and hold no colours.

    Args:
        latents: [M, C] normalised, of all cells of the objects.
    """
    conditioner_args = {
        "image_size": objects.images.shape[2],
        "channels": stage.cond_channels,
        "layers": stage.cond_layers,
    }
    channels = latents.shape[1]
    args = {
        "resolution": objects.resolution,
        "in_channels": channels,
        "out_channels": channels,
        "model_channels": stage.model_channels,
        "cond_channels": stage.cond_channels,
        "num_blocks": stage.num_blocks,
        "num_heads": stage.num_heads,
        "patch_size": stage.patch_size,
        "num_io_res_blocks": 1,
        "io_block_channels": [stage.io_channels],
        "pe_mode": "ape",
        "qk_rms_norm": True,
    }
    conditioner, flow = create("ImageConditioner", conditioner_args), create("SLatFlowModel", args, seed=1)
    module = nn.ModuleDict({"flow": flow, "conditioner": conditioner})
    learner = Learner(module, Recipe(stage.steps, stage.lr, warmup=100, ema=0.998, matrix_lr=stage.matrix_lr))
    density = LogitNormal(stage.time_mean, stage.time_std)

    def loss_of(index: int) -> Tensor:
        generator, tensors = numpy_generator("slat batch", index), torch_generator("slat noise", index)
        rows = generator.integers(0, len(objects.assets), stage.batch)
        cond = conditioner(pictures_of(objects.images, rows, generator))
        kept = torch.rand(stage.batch, generator=tensors) >= stage.drop_condition
        cells, voxels = objects.cells(rows)
        x_0, layout = latents[cells], voxel_layout(voxels, channels)
        noise = layout.randn([tensors])
        t = density.times(torch.rand(stage.batch, generator=tensors), 1e-5)
        x_t = SparseTensor(diffuse(x_0, noise, t, layout), voxels)
        v = flow(x_t, T_SCALE * t, cond * kept[:, None, None])
        return functional.mse_loss(v.feats, conditional_velocity(x_0, noise))

    measured = fit(learner, loss_of, path, reporter, "SLAT teacher")
    return (
        Trained(flow, {"name": "SLatFlowModel", "args": args}, measured),
        Trained(conditioner, {"name": "ImageConditioner", "args": conditioner_args}, measured),
    )


def random_camera(generator: np.random.Generator) -> Camera:
    return orbit(generator.uniform(0, 360), generator.uniform(*PITCH_DEG), RADIUS, FOV_DEG)


def _picture(mesh: Mesh, camera: Camera, size: int) -> Tensor:
    """[size, size, 4] premultiplied."""
    return torch.from_numpy(MeshRenderer(mesh).render(camera, size, supersampling=2))


def _some(voxels: Voxels, sample: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """Rows of some voxels of a sample, drawn without repetition."""
    rows = np.flatnonzero((voxels.sample == sample).numpy())
    return generator.permutation(rows)[:CORNERS_PER_OBJECT]
