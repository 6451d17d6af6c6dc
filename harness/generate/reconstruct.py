"""The test assets through encoder and decoder: the best that any flow can do. Results are as those of `made`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...base.errors import AssetError
from ...base.files import read_json
from ...render.appearance import N_FEATURES, coarse_coords, voxel_features
from ...trellis.slat_pipeline import SLAT_ENCODER
from ..engine.jobs import OneResult
from ..engine.store import Arrays
from ..inputs.cells import one_voxels
from ..inputs.subjects import Subject, occupancies
from ..inputs.world import load_cached
from .made import Maker, packed

VERSION = 1  # part of every address


@dataclass(frozen=True)
class Reconstructed(OneResult):
    """Of some test assets. maker: whose networks."""

    root: Path
    maker: Maker
    subjects: tuple[Subject, ...]

    networks, label = True, "reconstructions"

    @property
    def units(self) -> int:
        return len(self.subjects)

    @property
    def inputs(self) -> dict[str, Any]:
        shown = [subject.key for subject in self.subjects]
        return {"version": VERSION, "reconstructed": shown, "networks": self.maker.networks_sha}


class ReconstructedStructures(Reconstructed):
    """As `StructuresJob`."""

    kind = entry = "structures"

    def result(self) -> Arrays:
        pipeline = load_cached(self.maker.world, self.maker.device).structure
        grids = occupancies(self.subjects)
        latents = torch.cat([pipeline.encode(torch.from_numpy(grid)[None]) for grid in grids])
        made = torch.cat([pipeline.decode(latent[None]) for latent in latents])
        arrays = {"latents": latents.cpu().numpy(), "occupancy": made.cpu().numpy()}
        return {**arrays, "ok": np.ones(len(grids), bool), "nfe": np.array(0)}


class ReconstructedAssets(Reconstructed):
    """As `AssetsJob`."""

    kind = entry = "assets"

    def result(self) -> Arrays:
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
        return packed(coords, latents, errors, nfe=0)


def can_encode_assets(folder: Path) -> bool:
    """Whether a world's second encoder reads the features that are made here, and not those of a larger network."""
    config = folder / "pipeline.json"
    stem = read_json(config)["args"]["models"].get(SLAT_ENCODER)
    path = folder / f"{stem}.json"
    return bool(stem) and path.is_file() and read_json(path)["args"].get("in_channels") == N_FEATURES
