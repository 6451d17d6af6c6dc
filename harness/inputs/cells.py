"""What the second stage's encoder reads of assets: features on the cells they touch; and latents of both stages."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...render.appearance import coarse_coords, voxel_features
from ...trellis.sparse import Voxels
from ..engine.jobs import Job, OneResult
from ..engine.store import Arrays
from .prepare import PrepareJob
from .world import load_cached

CELLS_VERSION = 1  # part of every address: raise it when features are computed otherwise
ENCODE_VERSION = 1  # likewise for latents


@dataclass(frozen=True)
class CellsJob(OneResult):
    """counts [N], coords [M, 3], features [M, F] of the usable assets of a `PrepareJob`, asset by asset.

    Attributes:
        resolution: cells along a side of the second stage's grid; divides that of the structures.
    """

    prepare: PrepareJob
    resolution: int

    kind = entry = "cells"

    @property
    def label(self) -> str:  # type: ignore[override]
        return f"look at {self.prepare.source[0]}"

    @property
    def units(self) -> int:
        return self.prepare.units

    @property
    def needs(self) -> tuple[Job, ...]:
        return (self.prepare,)

    @property
    def root(self) -> Path:  # type: ignore[override]
        return self.prepare.root

    @property
    def inputs(self) -> dict[str, Any]:
        prepared = self.prepare.place.digest
        return {"version": CELLS_VERSION, "prepared": prepared, "resolution": self.resolution}

    def result(self) -> Arrays:
        prepared = self.prepare.place.get()
        by_id, coords, features = {asset.id: asset for asset in self.prepare.assets}, [], []
        for name, occupancy in zip(prepared["ids"], prepared["occupancy"], strict=True):
            coords.append(coarse_coords(occupancy, self.resolution))
            features.append(voxel_features(by_id[str(name)].load(), coords[-1], self.resolution))
        empty = np.zeros((0, 3), np.int32)
        return {
            "counts": np.array([len(cells) for cells in coords], np.int64),
            "coords": np.concatenate(coords) if coords else empty,
            "features": np.concatenate(features) if features else empty.astype(np.float32),
        }


@dataclass(frozen=True)
class EncodeJob(OneResult):
    """Latents of prepared assets, one at a time so that no bit depends on how they are split.

    Attributes:
        networks_sha: identity of the world's networks and of how they round.
        cells: of the second stage; None: structures are encoded.
    """

    world: Path
    device: str
    networks_sha: str
    prepare: PrepareJob
    cells: CellsJob | None = None

    kind, entry, networks = "encode", "latents", True

    @property
    def label(self) -> str:  # type: ignore[override]
        return f"{'slat ' if self.cells else ''}latents of {self.prepare.source[0]}"

    @property
    def units(self) -> int:
        return self.prepare.units

    @property
    def needs(self) -> tuple[Job, ...]:
        return (self.cells or self.prepare,)

    @property
    def root(self) -> Path:  # type: ignore[override]
        return self.prepare.root

    @property
    def inputs(self) -> dict[str, Any]:
        made_of = (self.cells or self.prepare).place.digest
        return {"version": ENCODE_VERSION, "of": made_of, "networks": self.networks_sha, "slat": bool(self.cells)}

    def result(self) -> Arrays:
        return {"latents": self._slat() if self.cells else self._structures()}

    def _structures(self) -> NDArray[np.float32]:
        pipeline = load_cached(self.world, self.device).structure
        grids = self.prepare.place.get()["occupancy"]
        rows = [pipeline.encode(torch.from_numpy(grid)[None]).cpu().numpy() for grid in grids]
        return np.concatenate(rows) if rows else np.zeros((0, *pipeline.latent_shape), np.float32)

    def _slat(self) -> NDArray[np.float32]:
        assert self.cells is not None
        pipeline, arrays, latents = load_cached(self.world, self.device).whole, self.cells.place.get(), []
        for rows in ragged(arrays["counts"]):
            features = torch.from_numpy(arrays["features"][rows]).to(pipeline.device)
            voxels = one_voxels(arrays["coords"][rows]).to(pipeline.device)
            latents.append(pipeline.encode(features, voxels).cpu().numpy())
        return np.concatenate(latents) if latents else np.zeros((0, pipeline.flow.in_channels), np.float32)


def one_voxels(coords: NDArray[np.int32]) -> Voxels:
    """The cells [n, 3] of one object as a batch."""
    return Voxels(torch.from_numpy(np.pad(coords, ((0, 0), (1, 0)))), 1)


def ragged(counts: NDArray[np.int64]) -> list[slice]:
    """Where each object's cells lie."""
    stops = np.cumsum(counts)
    return [slice(int(stop - count), int(stop)) for stop, count in zip(stops, counts, strict=True)]
