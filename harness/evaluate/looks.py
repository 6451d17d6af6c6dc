"""Pictures and surface points of files, in the frame and under the cameras of a protocol; kept in the cache.

Shapes: V views, S pixels a side, P points.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ...assets.folder import FolderAsset
from ...assets.gaussian_ply import read_gaussians
from ...assets.mesh import Mesh
from ...base.errors import AssetError
from ...render.cameras import Camera, orbit
from ...render.gaussian_rasteriser import Splatting
from ...render.gaussian_rasteriser import render as render_gaussians
from ...render.gaussians import Gaussians
from ...render.meshes import MeshRenderer, on_background, to_uint8
from ...render.points import sample_surface
from ..cache import Address, Slot, Store
from ..pool import tick
from ..protocol.rules import view_cameras
from ..protocol.values import Values

MESH_VERSION, GAUSSIAN_VERSION, POINTS_VERSION = 1, 1, 1  # raised when our code changes what is drawn
UNIT_CUBE = 1.0  # side of the box of meshes: the normalisation of the protocol's reference
SUPERSAMPLING = 2  # rays per pixel and axis for meshes

Pictures = NDArray[np.uint8]


@dataclass(frozen=True)
class Studio:
    """How everything is photographed. inputs: all of that as JSON, for addresses."""

    cameras: tuple[Camera, ...]
    resolution: int
    splatting: Splatting
    inputs: Mapping[str, object]


def studio_of(values: Values) -> Studio:
    """Cameras and splats of a protocol.

    Its near and far planes are not here: the rasteriser that they are from uses them for depths alone and cuts
    nothing off (far 1.6 is less than the distance of the cameras).
    """
    generated = values.fd.generated
    splatting = Splatting(blur=generated.kernel_size, compensated=generated.mip)
    views = values.views.model_dump(mode="json")
    splats = {"blur": splatting.blur, "compensated": splatting.compensated, "alpha_max": splatting.alpha_max}
    return Studio(view_cameras(values), values.views.resolution, splatting, {"views": views, "splats": splats})


def clip_studio_of(values: Values) -> Studio:
    """The cameras of the CLIP score, at the resolution and on the background of the other pictures."""
    own, studio = values.clip_score, studio_of(values)
    cameras = tuple(orbit(yaw, own.pitch_deg, own.radius, own.fov_deg) for yaw in own.yaw_deg)
    moved = own.model_dump(mode="json", include={"yaw_deg", "pitch_deg", "radius", "fov_deg"})
    views = values.views.model_dump(mode="json") | moved
    return replace(studio, cameras=cameras, inputs={**studio.inputs, "views": views})


@runtime_checkable
class SurfaceLook(Protocol):
    """An asset with a surface: besides pictures there are points of it."""

    @property
    def content(self) -> str:
        """Digest of all that decides what it looks like."""
        ...

    def load(self) -> Mesh:
        """In the unit cube, z up. Raises AssetError."""
        ...

    def address(self, studio: Studio) -> Address:
        """Of its pictures."""
        ...

    def draw(self, studio: Studio, mesh: Mesh | None = None) -> dict[str, NDArray]:
        """As `drawn_mesh`. mesh: what `load` gave, where it is at hand. Raises AssetError."""
        ...

    def cloud_address(self, cloud: Cloud) -> Address:
        """Of points on it."""
        ...


@dataclass(frozen=True)
class MeshLook:
    """A mesh file; content: digest of all that it is read from."""

    asset: FolderAsset
    content: str

    def load(self) -> Mesh:
        """In the unit cube, z up. Raises AssetError."""
        return self.asset.load().normalised(UNIT_CUBE)

    def address(self, studio: Studio) -> Address:
        own = {"what": "mesh", "content": self.content, "version": MESH_VERSION, "supersampling": SUPERSAMPLING}
        return Address("renders", {**own, "views": studio.inputs["views"]})

    def draw(self, studio: Studio, mesh: Mesh | None = None) -> dict[str, NDArray]:
        return drawn_mesh(self.load() if mesh is None else mesh, studio)

    def cloud_address(self, cloud: Cloud) -> Address:
        own = {"mesh": self.content, "seed": cloud.seed, "count": cloud.count, "version": POINTS_VERSION}
        return Address("points", own)


@dataclass(frozen=True)
class GaussianLook:
    """A PLY file of 3D Gaussians, which are drawn where they are: their frame is the unit cube already."""

    path: Path
    content: str

    def load(self) -> Gaussians:
        """Raises AssetError."""
        gaussians = read_gaussians(self.path)
        if not len(gaussians):
            raise AssetError(f"{self.path.name} holds no Gaussians.")
        return gaussians

    def address(self, studio: Studio) -> Address:
        own = {"what": "gaussians", "content": self.content, "version": GAUSSIAN_VERSION}
        return Address("renders", {**own, **studio.inputs})

    def draw(self, studio: Studio) -> dict[str, NDArray]:
        return drawn_gaussians(self.load(), studio)


@dataclass(frozen=True)
class BlackLook:
    """What a failed asset looks like."""

    def address(self, studio: Studio) -> Address:
        return Address("renders", {"what": "black", "views": studio.inputs["views"]})

    def draw(self, studio: Studio) -> dict[str, NDArray]:
        size = studio.resolution
        return {"pictures": np.zeros((len(studio.cameras), 3, size, size), np.uint8)}


Look = SurfaceLook | GaussianLook | BlackLook
BLACK = BlackLook()


@dataclass(frozen=True)
class Cloud:
    """Points to draw on a surface."""

    seed: int
    count: int


@dataclass(frozen=True)
class LookJob:
    """What a worker makes of one file: its pictures, its points, or both. store: folder of the cache."""

    store: Path
    look: SurfaceLook | GaussianLook
    studio: Studio
    pictures: bool
    clouds: tuple[Cloud, ...] = ()


def drawn_mesh(mesh: Mesh, studio: Studio) -> dict[str, NDArray]:
    """pictures: [V, 3, S, S] uint8 on black. coverage: [V], the part of the pixels that the mesh touches."""
    renderer = MeshRenderer(mesh)
    return _on_black([renderer.render(camera, studio.resolution, SUPERSAMPLING) for camera in studio.cameras])


def drawn_gaussians(gaussians: Gaussians, studio: Studio) -> dict[str, NDArray]:
    """As `drawn_mesh`."""
    views = (render_gaussians(gaussians, c, studio.resolution, mode=studio.splatting) for c in studio.cameras)
    return _on_black(list(views))


def run_look(job: LookJob) -> str:
    """Make and keep what a job asks for; why that is not possible, or ""."""
    store = Store(job.store)
    try:
        _make(job, store)
    except AssetError as error:
        return str(error)
    finally:
        tick()
    return ""


def pictures_of(look: Look, studio: Studio, store: Store) -> Pictures:
    """[V, 3, S, S], drawn again if the cache has lost them. Raises AssetError when that fails."""
    return store.get_or_make(look.address(studio), lambda: look.draw(studio))["pictures"]


def points_of(look: SurfaceLook, cloud: Cloud, store: Store) -> NDArray[np.float32]:
    """[P, 6] points in the unit cube and their colours, as `pictures_of`."""
    return store.get_or_make(look.cloud_address(cloud), lambda: _points(look.load(), cloud))["points"]


def coverage_of(look: SurfaceLook, studio: Studio, store: Store) -> float:
    """The smallest part of a picture that the mesh touches, over the views. Raises AssetError."""
    address = coverage_address(look, studio)
    return float(store.get_or_make(address, lambda: _coverage(look.draw(studio)))["coverage"].min())


def coverage_address(look: SurfaceLook, studio: Studio) -> Address:
    """Kept apart from the pictures, which may be thrown away once their features are known."""
    return Address("coverage", look.address(studio).inputs)


def is_kept(store: Store, address: Address) -> bool:
    """Whether the cache has an entry, intact or not."""
    return Slot(store.root, address.kind, address.digest).record.exists()


def _make(job: LookJob, store: Store) -> None:
    if isinstance(job.look, GaussianLook):
        store.put(job.look.address(job.studio), job.look.draw(job.studio))
        return
    mesh = job.look.load()
    if job.pictures:
        arrays = job.look.draw(job.studio, mesh)
        store.put(job.look.address(job.studio), arrays)
        store.put(coverage_address(job.look, job.studio), _coverage(arrays))
    for cloud in job.clouds:
        store.put(job.look.cloud_address(cloud), _points(mesh, cloud))


def _points(mesh: Mesh, cloud: Cloud) -> dict[str, NDArray]:
    return {"points": sample_surface(mesh, cloud.count, np.random.default_rng(cloud.seed))}


def _coverage(arrays: Mapping[str, NDArray]) -> dict[str, NDArray]:
    return {"coverage": arrays["coverage"]}


def _on_black(views: list[NDArray[np.float32]]) -> dict[str, NDArray]:
    pictures = np.stack([to_uint8(on_background(view)) for view in views]).transpose(0, 3, 1, 2)
    coverage = np.array([(view[..., 3] > 0).mean() for view in views])
    return {"pictures": np.ascontiguousarray(pictures), "coverage": coverage}
