"""The test assets through encoder and decoder: the best that any flow can do. Results are as those of `made`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from ...base.errors import AssetError
from ...base.files import read_json
from ...render.appearance import N_FEATURES, coarse_coords, voxel_features
from ...trellis.slat_pipeline import SLAT_ENCODER
from ..engine.jobs import Job, Place
from ..engine.store import Address, Arrays
from ..inputs.cells import one_voxels
from ..inputs.subjects import Subject, occupancies
from ..inputs.world import load_cached
from .made import Maker

VERSION = 1  # part of every address


@dataclass(frozen=True)
class ReconstructedStructures(Job):
    """As `StructuresJob`."""

    root: Path
    maker: Maker
    subjects: tuple[Subject, ...]

    kind, networks, label = "structures", True, "reconstructions"
    needs = ()

    @property
    def units(self) -> int:  # type: ignore[override]
        return len(self.subjects)

    @property
    def places(self) -> tuple[Place, ...]:
        return (self._place,)

    @cached_property
    def _place(self) -> Place:
        shown = [subject.key for subject in self.subjects]
        inputs = {"version": VERSION, "reconstructed": shown, "networks": self.maker.networks_sha}
        return Place(self.root, Address("structures", inputs))

    def compute(self) -> list[Arrays]:
        pipeline = load_cached(self.maker.world, self.maker.device).structure
        grids = occupancies(self.subjects)
        latents = torch.cat([pipeline.encode(torch.from_numpy(grid)[None]) for grid in grids])
        made = torch.cat([pipeline.decode(latent[None]) for latent in latents])
        arrays = {"latents": latents.cpu().numpy(), "occupancy": made.cpu().numpy()}
        return [{**arrays, "ok": np.ones(len(grids), bool), "nfe": np.array(0)}]


@dataclass(frozen=True)
class ReconstructedAssets(Job):
    """As `AssetsJob`."""

    root: Path
    maker: Maker
    subjects: tuple[Subject, ...]

    kind, networks, label = "assets", True, "reconstructions"
    needs = ()

    @property
    def units(self) -> int:  # type: ignore[override]
        return len(self.subjects)

    @property
    def places(self) -> tuple[Place, ...]:
        return (self._place,)

    @cached_property
    def _place(self) -> Place:
        shown = [subject.key for subject in self.subjects]
        inputs = {"version": VERSION, "reconstructed": shown, "networks": self.maker.networks_sha}
        return Place(self.root, Address("assets", inputs))

    def compute(self) -> list[Arrays]:
        pipeline = load_cached(self.maker.world, self.maker.device).whole
        coords, latents, errors = [], [], []
        for subject, grid in zip(self.subjects, occupancies(self.subjects), strict=True):
            cells, found, error = coarse_coords(grid, pipeline.resolution), np.zeros((0, pipeline.flow.in_channels)), ""
            try:
                features = torch.from_numpy(voxel_features(subject.asset.load(), cells, pipeline.resolution))
                voxels = one_voxels(cells).to(pipeline.device)
                found = pipeline.encode(features.to(pipeline.device), voxels).cpu().numpy()
            except AssetError as failure:
                cells, error = cells[:0], str(failure)
            coords.append(cells)
            latents.append(found.astype(np.float32))
            errors.append(error)
        return [
            {
                "counts": np.array([len(cells) for cells in coords], np.int64),
                "coords": np.concatenate(coords),
                "latents": np.concatenate(latents),
                "errors": np.array(errors, str),
                "nfe": np.array(0),
            }
        ]


def can_encode_assets(folder: Path) -> bool:
    """Whether a world's second encoder reads the features that are made here, and not those of a larger network."""
    config = folder / "pipeline.json"
    stem = read_json(config)["args"]["models"].get(SLAT_ENCODER)
    path = folder / f"{stem}.json"
    return bool(stem) and path.is_file() and read_json(path)["args"].get("in_channels") == N_FEATURES
