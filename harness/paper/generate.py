"""The assets of one cell: from conditioning pictures through both stages to files, one asset at a time.

An asset is two files, a coloured mesh and 3D Gaussians, and an account beside them, which is written last and says
what it was made of and what that took. What is there is not made again.

Shapes: S pixels a side of a conditioning picture, R cells a side of a structure, N voxels, C channels of their latents.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor

from ...assets.gaussian_ply import write_gaussians
from ...assets.mesh_export import write_glb
from ...base.errors import AssetError, MissingError
from ...base.files import digest_of, read_json, write_json
from ...flow.samplers import Computation, Euler
from ...render.appearance import coarse_coords
from ...render.preprocess import preprocess_image
from ..assemble import Decoded, one_voxels
from ..device import clock
from ..export import safe_path, vertex_colours
from ..plan import networks_sha
from ..progress import Reporter
from ..protocol.rules import euler, noise_seed
from ..protocol.values import SamplerValues, Stage, Values
from .backbone import Backbone
from .networks import Networks
from .plan import STAGES
from .subjects import Condition, Picture, Subject

GENERATION_VERSION = 1  # raised when our code changes what is made


class Account(BaseModel):
    """What became of an asset. error: "" when its files are there; seconds: wall time of each part.

    source: digest of all that decides the asset.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    source: str
    error: str = ""
    nfe: int = 0
    structure_s: float = 0.0
    slat_s: float = 0.0
    decode_s: float = 0.0


@dataclass(frozen=True)
class Recipe:
    """What decides the assets of a cell, besides each one's picture."""

    backbone: Backbone
    networks: Networks
    sampler: SamplerValues
    steps: int
    values: Values
    run_seed: int

    def euler(self, stage: Stage) -> Euler:
        return euler(self.sampler, stage, self.steps)

    def noise(self, subject: Subject, stage: Stage) -> list[torch.Generator]:
        """On the CPU, one for the asset, the same whatever the method."""
        return [torch.Generator().manual_seed(noise_seed(self.values, subject.sha256, self.run_seed, stage))]

    def _computation(self, stage: Stage) -> Computation:
        return self.euler(stage).computation()

    @cached_property
    def digest(self) -> str:
        samplers = [[list(what.times), list(what.strengths)] for what in map(self._computation, STAGES)]
        shown = self.values.cond_image.model_dump(mode="json")
        teacher = networks_sha(self.backbone.digest, str(self.backbone.slat.device))
        return digest_of([GENERATION_VERSION, teacher, self.networks.digest, samplers, shown])

    def source(self, subject: Subject) -> str:
        """Of all that decides an asset."""
        seeds = [noise_seed(self.values, subject.sha256, self.run_seed, stage) for stage in STAGES]
        return digest_of([self.digest, subject.picture, seeds])


def generate(
    recipe: Recipe, subjects: Sequence[Subject], condition: Condition, folder: Path, report: Reporter, label: str
) -> list[Account]:
    """Make what is missing of a cell's assets in `folder`, FOLDER/ID.glb and FOLDER/ID.ply; an account of each.

    Failures are tried again: what was lacking may have come since.

    Raises:
        RunError: a file cannot be written.
    """
    found = [_kept(recipe, subject, folder) for subject in subjects]
    todo = [i for i, account in enumerate(found) if account is None]
    if todo:
        task, done = report.start(label, len(subjects), len(subjects) - len(todo)), len(subjects) - len(todo)
        for count, i in enumerate(todo, 1):
            found[i] = account = _made(recipe, subjects[i], condition, folder)
            if account.error:
                report.note(f"{label}: {subjects[i].id}: {account.error}")
            report.update(task, done + count)
    return [account for account in found if account is not None]


def prune(folder: Path, subjects: Sequence[Subject]) -> None:
    """Remove the files of assets; the accounts stay."""
    for subject in subjects:
        for path in _files(folder, subject):
            path.unlink(missing_ok=True)


@torch.inference_mode()
def asset_of(recipe: Recipe, subject: Subject, rgba: Picture) -> tuple[Decoded, Account]:
    """One asset, both stages. The encoding of the picture is not in the seconds.

    Args:
        rgba: [S, S, 4], not cropped yet.
    Raises:
        AssetError: the picture shows nothing, or what is made of it is empty, not finite or without a surface.
    """
    structure, slat = recipe.backbone.structure, recipe.backbone.slat
    picture = preprocess_image(rgba, recipe.values.cond_image.resolution)
    image = torch.from_numpy(picture).permute(2, 0, 1)[None]
    conds = structure.condition(image), slat.condition(image)
    start = clock(structure.device)
    occupancy, nfe = _structure(recipe, subject, conds[0])
    coords = coarse_coords(occupancy, slat.resolution)
    if not len(coords):
        raise AssetError("the structure is empty")
    sampled = clock(structure.device)
    latents, slat_nfe = _latents(recipe, subject, conds[1], coords)
    decoding = clock(slat.device)
    asset = _decoded(recipe, coords, latents)
    ended = clock(slat.device)
    return asset, Account(
        source=recipe.source(subject),
        nfe=nfe + slat_nfe,
        structure_s=sampled - start,
        slat_s=decoding - sampled,
        decode_s=ended - decoding,
    )


def _structure(recipe: Recipe, subject: Subject, cond: Tensor) -> tuple[NDArray, int]:
    """Occupancy [R, R, R], and the forward passes that it took."""
    pipeline, layout = recipe.backbone.structure, recipe.backbone.structure.layout(1)
    velocity = pipeline.velocity(recipe.networks.structure, cond)
    generators = recipe.noise(subject, "ss")
    latents = recipe.euler("ss").sample(velocity, layout.randn(generators), layout, generators)
    if not torch.isfinite(latents).all():
        raise AssetError("the latent of the structure is not finite")
    return pipeline.decode(latents)[0].cpu().numpy(), velocity.nfe


def _latents(recipe: Recipe, subject: Subject, cond: Tensor, coords: NDArray) -> tuple[Tensor, int]:
    """Latents [N, C] of cells [N, 3], and the forward passes that they took."""
    pipeline = recipe.backbone.slat
    voxels = one_voxels(coords).to(pipeline.device)
    layout = pipeline.layout(voxels)
    velocity = pipeline.velocity(recipe.networks.slat, cond, voxels)
    generators = recipe.noise(subject, "slat")
    return recipe.euler("slat").sample(velocity, layout.randn(generators), layout, generators), velocity.nfe


def _decoded(recipe: Recipe, coords: NDArray, latents: Tensor) -> Decoded:
    if not torch.isfinite(latents).all():
        raise AssetError("the latent of the second stage is not finite")
    pipeline = recipe.backbone.slat
    voxels = one_voxels(coords).to(pipeline.device)
    [gaussians], [mesh] = pipeline.gaussians(latents, voxels), pipeline.meshes(latents, voxels)
    return Decoded(coords, latents.cpu().numpy(), gaussians, mesh)


def _made(recipe: Recipe, subject: Subject, condition: Condition, folder: Path) -> Account:
    """Make an asset and write it, the account last; without its files where that fails."""
    account_file = _account_file(folder, subject)
    account_file.unlink(missing_ok=True)  # files of other settings must not pass for these
    try:
        asset, account = asset_of(recipe, subject, _shown(subject, condition))
        _write(asset, *_files(folder, subject))
    except AssetError as error:
        prune(folder, [subject])
        account = Account(source=recipe.source(subject), error=str(error))
    write_json(account_file, account.model_dump())
    return account


def _shown(subject: Subject, condition: Condition) -> Picture:
    if subject.error:
        raise AssetError(subject.error)
    return condition(subject.id)


def _kept(recipe: Recipe, subject: Subject, folder: Path) -> Account | None:
    """The account of an asset that was made of the same and whose files are there."""
    path = _account_file(folder, subject)
    if not path.is_file():
        return None
    try:
        account = Account.model_validate(read_json(path))
    except (MissingError, ValidationError):
        return None  # cut short by a crash of the machine
    whole = not account.error and all(file.is_file() for file in _files(folder, subject))
    return account if whole and account.source == recipe.source(subject) else None


def _write(asset: Decoded, mesh: Path, gaussians: Path) -> None:
    write_glb(mesh, asset.mesh.vertices, asset.mesh.faces, vertex_colours(asset.mesh))
    write_gaussians(gaussians, asset.gaussians)


def _files(folder: Path, subject: Subject) -> tuple[Path, Path]:
    """Of its mesh and of its Gaussians."""
    return _file(folder, subject, "glb"), _file(folder, subject, "ply")


def _account_file(folder: Path, subject: Subject) -> Path:
    return _file(folder, subject, "json")


def _file(folder: Path, subject: Subject, ending: str) -> Path:
    path = folder / safe_path(subject.id)
    return path.with_name(f"{path.name}.{ending}")  # not with_suffix: names may have dots
