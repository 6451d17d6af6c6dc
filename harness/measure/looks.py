"""What extractors look at: pictures and surface points of structures, whole assets, files and the truth.

A look is of a shard of assets: data [n, V, ...], ok [n], errors [n], notes [n] where it is of files; what failed is
black, and its points are zeros.
Shapes: V views, S pixels a side, P points.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ...assets.folder import FolderAsset
from ...assets.gaussian_ply import misplaced, read_gaussians
from ...assets.mesh_files import READING
from ...base.errors import AssetError, printable
from ...base.files import digest_of
from ...base.text import joined_notes
from ...geometry.cameras import Camera, orbit
from ...geometry.gaussians import Gaussians
from ...geometry.mesh import Mesh
from ...metrics.contract import Level
from ...render.gaussian_rasteriser import Splatting, render
from ...render.meshes import MeshRenderer, on_background, to_uint8
from ...render.points import sample_surface
from ...render.structure import structure_mesh
from ..engine.jobs import Job, Place
from ..engine.store import Address, Arrays
from ..generate.made import EMPTY, NOT_FINITE, AssetsJob, Decoded, StructuresJob, decoded_assets
from ..inputs.subjects import Subject, conditioning_images, occupancies
from ..inputs.toys4k import UNIT_CUBE, BlenderLook
from ..protocol.rules import points_seed, view_cameras
from ..protocol.values import Values
from .pairs import Files

VERSION = 1  # part of every address: raise it when our code draws something else
SUPERSAMPLING = 2  # rays per pixel and axis for meshes
NOT_MADE = "not generated"
CELL_COLOURS = "cell_colours"
COVERAGE = "coverage"  # beside the pictures of the truth: the least part of a picture that it covers


@dataclass(frozen=True)
class Studio:
    """How everything is looked at.

    Attributes:
        turn: cameras of the CLIP score; none in a protocol without it.
        points: drawn on a surface.
        frame: side of the cube that meshes are fitted into; None: as they are.
        values: of the protocol, for seeds.
        cells: along a side of the second stage's grid.
    """

    cameras: tuple[Camera, ...]
    turn: tuple[Camera, ...]
    resolution: int
    splatting: Splatting
    points: int
    frame: float | None
    values: Values
    cells: int = 0

    @staticmethod
    def of(values: Values, points: int, cells: int = 0) -> Studio:
        """Cameras and splats of a protocol.

        Its near and far planes are not here: the rasteriser that they are from uses them for depths alone and cuts
        nothing off (far 1.6 is less than the distance of the cameras).
        """
        made, clip = values.fd.generated, values.clip_score
        turn = tuple(orbit(yaw, clip.pitch_deg, clip.radius, clip.fov_deg) for yaw in clip.yaw_deg) if clip else ()
        splatting = Splatting(blur=made.kernel_size, compensated=made.mip)
        frame = UNIT_CUBE if values.gt_render else None
        return Studio(view_cameras(values), turn, values.views.resolution, splatting, points, frame, values, cells)

    def key(self, look: str) -> dict[str, Any]:
        """What decides a look besides what is looked at, as JSON."""
        values = self.values
        if look == CELL_COLOURS:
            return {}
        if "points" in look:
            return {"points": self.points, "frame": self.frame, "seeds": values.seeds.model_dump(mode="json")}
        views = values.views.model_dump(mode="json")
        if look.endswith("_turn") and values.clip_score:
            views |= values.clip_score.model_dump(mode="json", include={"yaw_deg", "pitch_deg", "radius", "fov_deg"})
        splats = {"blur": self.splatting.blur, "compensated": self.splatting.compensated}
        return {"views": views, "supersampling": SUPERSAMPLING, "frame": self.frame, "splats": splats}

    def cameras_of(self, look: str) -> tuple[Camera, ...]:
        return self.turn if look.endswith("_turn") else self.cameras

    def blank(self, look: str) -> NDArray:
        """What a failed asset looks like."""
        if look == COVERAGE:
            return np.zeros(1)
        if look == CELL_COLOURS:
            return np.zeros((self.cells, self.cells, self.cells, 4), np.float32)
        if look.startswith("condition"):
            return np.zeros((1, 3, self.resolution, self.resolution), np.uint8)
        if "points" in look:
            return np.zeros((1, self.points, 6), np.float32)
        return np.zeros((len(self.cameras_of(look)), 3, self.resolution, self.resolution), np.uint8)

    def of_mesh(self, look: str, mesh: Mesh, seed: int) -> NDArray:
        """Pictures [V, 3, S, S] uint8 on black, or points [1, P, 6] float32. Raises AssetError."""
        if "points" in look:
            return sample_surface(mesh, self.points, np.random.Generator(np.random.PCG64(seed)))[None]
        return on_black(self._views(look, mesh))

    def seen(self, mesh: Mesh) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
        """Its pictures, and the part of each that it touches, [V]."""
        views = self._views("mesh", mesh)
        return on_black(views), np.array([(view[..., 3] > 0).mean() for view in views])

    def _views(self, look: str, mesh: Mesh) -> list[NDArray[np.float32]]:
        renderer = MeshRenderer(mesh)
        return [renderer.render(camera, self.resolution, SUPERSAMPLING) for camera in self.cameras_of(look)]

    def of_gaussians(self, look: str, gaussians: Gaussians) -> NDArray[np.uint8]:
        """Pictures [V, 3, S, S] on black. Raises AssetError for numbers that are not finite."""
        cameras = self.cameras_of(look)
        return on_black([render(gaussians, c, self.resolution, mode=self.splatting) for c in cameras])

    def framed(self, mesh: Mesh) -> Mesh:
        return mesh if self.frame is None else mesh.normalised(self.frame)


def on_black(views: Sequence[NDArray[np.float32]]) -> NDArray[np.uint8]:
    """[H, W, 4] premultiplied each -> [V, 3, H, W]."""
    return np.ascontiguousarray(np.stack([to_uint8(on_background(view)) for view in views]).transpose(0, 3, 1, 2))


@dataclass(frozen=True)
class Noted:
    """What there is to see of a file that says more than is shown. notes: one sentence each."""

    data: NDArray
    notes: tuple[str, ...]


Look = NDArray | Noted | str  # what there is to see, or why there is nothing


@dataclass(frozen=True)
class LooksJob(Job):
    """Looks of a shard of assets, a place for each.

    Attributes:
        names: of the looks, as in `metrics.contract.LOOKS`.
    """

    root: Path
    subjects: tuple[Subject, ...]
    names: tuple[str, ...]
    studio: Studio

    kind, label = "pictures", "pictures and points"

    @property
    def units(self) -> int:
        return len(self.subjects)

    @property
    @abstractmethod
    def source(self) -> Any:
        """What decides what is looked at, as JSON."""

    @abstractmethod
    def each(self) -> Iterator[Mapping[str, Look] | str]:
        """The looks of one asset after the other, or why there are none."""

    def place(self, name: str) -> Place:
        return self._places[name]

    @property
    def places(self) -> tuple[Place, ...]:
        return tuple(self._places.values())

    @cached_property
    def _places(self) -> dict[str, Place]:
        source = digest_of([type(self).__name__, self.source])
        return {
            name: Place(
                self.root, Address("looks", {"version": VERSION, "look": name, "of": source, **self.studio.key(name)})
            )
            for name in self.names
        }

    def compute(self) -> list[Arrays]:
        """What is there already, as part of another job or of an earlier call, is not drawn again."""
        missing = tuple(name for name in self.names if not self.place(name).exists())
        todo = missing or (() if self.done else self.names)
        made = dict(zip(todo, replace(self, names=todo)._drawn(), strict=True)) if todo else {}
        return [made[name] if name in made else self.place(name).get() for name in self.names]

    def _drawn(self) -> list[Arrays]:
        found: dict[str, list[Look]] = {name: [] for name in self.names}
        for looks in self.each():
            for name in self.names:
                found[name].append(looks if isinstance(looks, str) else looks[name])
        return [_arrays(found[name], self.studio.blank(name)) for name in self.names]


def _arrays(looks: Sequence[Look], blank: NDArray) -> Arrays:
    errors = [look if isinstance(look, str) else "" for look in looks]
    notes = [joined_notes(look.notes) if isinstance(look, Noted) else "" for look in looks]
    data = [blank if isinstance(look, str) else look.data if isinstance(look, Noted) else look for look in looks]
    arrays = {"data": np.stack(data), "ok": np.array([not error for error in errors]), "errors": np.array(errors, str)}
    return arrays | {"notes": np.array(notes, str)} if any(notes) else arrays


@dataclass(frozen=True)
class SurfaceLooks(LooksJob):
    """Of what has a surface. seed: of the run, for the points on it."""

    seed: int

    level: ClassVar[Level]

    @property
    def seeds(self) -> list[int]:
        """Of the points on each asset."""
        values = self.studio.values
        return [points_seed(values, subject.identity, self.seed, self.level) for subject in self.subjects]


@dataclass(frozen=True)
class VoxelLooks(SurfaceLooks):
    """Of structures that were made."""

    made: StructuresJob

    level = "structure"

    @property
    def needs(self) -> tuple[Job, ...]:
        return (self.made,)

    @property
    def source(self) -> Any:
        return [self.made.place.digest, self.seeds]

    def each(self) -> Iterator[Mapping[str, Look] | str]:
        arrays = self.made.place.get()
        for seed, grid, ok in zip(self.seeds, arrays["occupancy"], arrays["ok"], strict=True):
            yield voxel_looks(self.studio, self.names, grid, seed) if ok else NOT_FINITE


@dataclass(frozen=True)
class AssetLooks(SurfaceLooks):
    """Of whole assets that were made: the decoders run here."""

    made: AssetsJob

    level, networks = "assets", True

    @property
    def needs(self) -> tuple[Job, ...]:
        return (self.made,)

    @property
    def source(self) -> Any:
        return [self.made.place.digest, self.seeds]

    def each(self) -> Iterator[Mapping[str, Look] | str]:
        maker, arrays = self.made.maker, self.made.place.get()
        for seed, asset in zip(self.seeds, decoded_assets(maker.world, maker.device, arrays), strict=True):
            yield asset if isinstance(asset, str) else asset_looks(self.studio, self.names, asset, seed)


@dataclass(frozen=True)
class TruthVoxels(SurfaceLooks):
    """Of the test assets' own structures."""

    level = "structure"

    @property
    def source(self) -> Any:
        return [[subject.key for subject in self.subjects], self.seeds]

    def each(self) -> Iterator[Mapping[str, Look] | str]:
        for seed, grid in zip(self.seeds, occupancies(self.subjects), strict=True):
            yield voxel_looks(self.studio, self.names, grid, seed)


@dataclass(frozen=True)
class TruthAssets(SurfaceLooks):
    """Of the test assets themselves; pictures of their mesh stand for those of Gaussians too.

    Attributes:
        content: digest of each. blender: what Blender shows of each, where it draws the truth.
    """

    content: tuple[str, ...]
    blender: tuple[BlenderLook, ...] = ()

    level = "assets"

    @property
    def source(self) -> Any:
        return [self.content, self.seeds, bool(self.blender), READING]

    @property
    def done(self) -> bool:
        """What Blender failed at is tried again: a file that was missing may be there now."""
        again = self.blender and COVERAGE in self.names
        return super().done and not (again and self.place(COVERAGE).get()["errors"].any())

    def each(self) -> Iterator[Mapping[str, Look] | str]:
        for i, seed in enumerate(self.seeds):
            try:
                yield self._one(i, seed)
            except AssetError as error:
                yield _unnamed(error, self.subjects[i].asset)

    def _one(self, i: int, seed: int) -> Mapping[str, Look]:
        mesh = self.blender[i].load() if self.blender else self.studio.framed(self.subjects[i].asset.load())
        shown: dict[str, NDArray] = {}  # pictures of the mesh are drawn once, whatever they stand for
        if not {"gaussians", "mesh", COVERAGE}.isdisjoint(self.names):
            shown["mesh"], covered = self.blender[i].draw() if self.blender else self.studio.seen(mesh)
            shown[COVERAGE] = covered.min()[None]
        plain = {name: name.replace("gaussians", "mesh") for name in self.names}
        for name in plain.values():
            if name not in shown:
                shown[name] = self.studio.of_mesh(name, mesh, seed)
        return {name: Noted(shown[plain[name]], mesh.notes) for name in self.names}


@dataclass(frozen=True)
class FileLooks(SurfaceLooks):
    """Of files that any system made.

    Attributes:
        files: of each asset. content: digests of mesh and Gaussians of each, "" where there is none.
    """

    files: tuple[Files, ...]
    content: tuple[tuple[str, str], ...]

    level = "assets"

    @property
    def source(self) -> Any:
        return [self.content, self.seeds, READING]

    def each(self) -> Iterator[Mapping[str, Look] | str]:
        for seed, files in zip(self.seeds, self.files, strict=True):
            yield self._of_gaussians(files.gaussians) | self._of_mesh(files.mesh, seed)

    def _of_gaussians(self, path: Path | None) -> dict[str, Look]:
        names = [name for name in self.names if name.startswith("gaussians")]
        return _or_why(names, path, _gaussians, self.studio.of_gaussians)

    def _of_mesh(self, asset: FolderAsset | None, seed: int) -> dict[str, Look]:
        names = [name for name in self.names if not name.startswith("gaussians")]

        def load(asset: FolderAsset) -> tuple[Mesh, tuple[str, ...]]:
            mesh = self.studio.framed(asset.load())
            return mesh, mesh.notes

        return _or_why(names, asset, load, lambda name, mesh: self.studio.of_mesh(name, mesh, seed))


@dataclass(frozen=True)
class ConditionLooks(LooksJob):
    """Of the conditioning pictures."""

    @property
    def source(self) -> Any:
        return [subject.key for subject in self.subjects]

    def each(self) -> Iterator[Mapping[str, Look] | str]:
        for image in conditioning_images(self.subjects):
            yield {"condition": image.transpose(2, 0, 1)[None]}


def voxel_looks(studio: Studio, names: Sequence[str], grid: NDArray[np.bool_], seed: int) -> Mapping[str, Look] | str:
    """Looks of an occupancy grid [R, R, R], or why there are none."""
    if not grid.any():
        return EMPTY
    mesh = structure_mesh(grid)
    return {name: studio.of_mesh(name, mesh, seed) for name in names}


def asset_looks(studio: Studio, names: Sequence[str], asset: Decoded, seed: int) -> Mapping[str, Look]:
    """Looks of a whole asset, each by itself: what is kept of one must not depend on which others are asked for."""

    def look(name: str) -> Look:
        try:
            if name == CELL_COLOURS:
                return cell_colours(asset.coords, asset.gaussians, studio.cells)
            if name.startswith("gaussians"):
                return studio.of_gaussians(name, asset.gaussians)
            return studio.of_mesh(name, studio.framed(asset.mesh), seed)
        except AssetError as error:
            return str(error)

    return {name: look(name) for name in names}


def cell_colours(coords: NDArray[np.int32], gaussians: Gaussians, resolution: int) -> NDArray[np.float32]:
    """[R, R, R, 4]: mean colour of the Gaussians of each cell, weighted by opacity, and 1; zeros elsewhere.

    Args:
        coords: [N, 3] cells. gaussians: of a decoder: of one cell after the other, as many of each.
    """
    weight = gaussians.opacities.reshape(len(coords), -1, 1) + np.float32(1e-6)
    rgb = (weight * gaussians.colours.reshape(len(coords), -1, 3)).sum(1) / weight.sum(1)
    grid = np.zeros((resolution, resolution, resolution, 4), np.float32)
    grid[tuple(coords.T)] = np.concatenate([rgb, np.ones((len(coords), 1), np.float32)], axis=1)
    return grid


def _or_why(
    names: Sequence[str],
    file: Any,
    load: Callable[[Any], tuple[Any, tuple[str, ...]]],
    draw: Callable[[str, Any], NDArray],
) -> dict[str, Look]:
    """Looks of what is loaded from a file, with notes. The file is None where there is none.

    Reasons are without the name of the file: another one of the same content has the same looks.
    """
    if file is None or not names:
        return dict.fromkeys(names, NOT_MADE)
    try:
        thing, notes = load(file)
        return {name: Noted(draw(name, thing), notes) for name in names}
    except AssetError as error:
        asset = file if isinstance(file, FolderAsset) else FolderAsset("", "", file)
        return dict.fromkeys(names, _unnamed(error, asset))


def _unnamed(error: AssetError, asset: Any) -> str:
    """The reason without the file's name."""
    return str(error).removeprefix(f"{printable(asset.path.name)}: ") if isinstance(asset, FolderAsset) else str(error)


def _gaussians(path: Path) -> tuple[Gaussians, tuple[str, ...]]:
    gaussians = read_gaussians(path)
    if not len(gaussians):
        raise AssetError(f"{path.name}: it holds no Gaussians")
    return gaussians, misplaced(gaussians)
