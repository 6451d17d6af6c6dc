"""Pictures of meshes on the CPU: exact ray casting with Embree, colours only, no light.

Pictures hold sRGB values, as the mesh does; light is where a mesh says that its colours are mixed as such.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from embreex.mesh_construction import TriangleMesh
from embreex.rtcore_scene import EmbreeScene
from numpy.typing import NDArray

from ..geometry.cameras import Camera
from ..geometry.mesh import BLENDED, CLAMP, MIRROR, Mesh, Sampler
from ..geometry.transfer import LIGHT_OF_BYTE, linear_of_srgb, srgb_of_linear

# Rays cast at once; bounds memory to about 100 MB whatever the resolution.
RAYS_PER_CHUNK = 1 << 18
# Keeps k / 255, once rounded to float32, at k when it is truncated to 8 bits. Far below one level.
TRUNCATION_GUARD = 1e-3
# Surfaces behind each other that a ray sees; through more, it sees nothing.
MOST_LAYERS = 64
# A ray goes on so far behind a surface, in units of its depth; rounding in float32 is a hundredth of it.
STEP = 1e-5
# What shines through less than this is not looked for: half a level of 8 bits.
FAINT = 0.5 / 255
RGB, ALPHA = slice(0, 3), slice(3, 4)
BYTES = np.arange(256, dtype=np.float64)


@dataclass(frozen=True)
class Hits:
    """Where rays meet the mesh first.

    Attributes:
        ray: [K] int64 indices of the rays that hit.
        face: [K] int64 face of each hit.
        uv: [K, 2] float32 barycentric weights of the face's second and third corner.
        depth: [K] float32 distance in units of the ray's direction.
    """

    ray: NDArray[np.int64]
    face: NDArray[np.int64]
    uv: NDArray[np.float32]
    depth: NDArray[np.float32]


@dataclass(frozen=True)
class Window:
    """A rectangle of pixels."""

    rows: range
    columns: range

    @property
    def slices(self) -> tuple[slice, slice]:
        return slice(self.rows.start, self.rows.stop), slice(self.columns.start, self.columns.stop)


class MeshRenderer:
    """Casts rays at one mesh; several views share its search tree.

    Surfaces are two-sided. Through what a face's `cutoff` takes away, and through blended faces, rays go on; blending
    is of sRGB values, as in browsers. Alpha in the pictures tells the shape from the background.
    """

    def __init__(self, mesh: Mesh):
        self.mesh = mesh
        self._see_through = mesh.see_through
        self._scene = EmbreeScene()
        # Embree may not be given an empty mesh; the reference keeps the buffers alive.
        self._triangles = (
            TriangleMesh(self._scene, mesh.vertices.astype(np.float32), mesh.faces.astype(np.int32))
            if len(mesh.faces)
            else None
        )

    def cast(self, origin: NDArray, directions: NDArray) -> Hits:
        """First hits of rays from `origin` [3] or [N, 3] along `directions` [N, 3]."""
        if self._triangles is None:
            nothing = np.zeros(0, np.int64)
            return Hits(nothing, nothing, np.zeros((0, 2), np.float32), np.zeros(0, np.float32))
        targets = np.ascontiguousarray(directions, np.float32)
        origins = np.empty_like(targets)
        origins[:] = origin
        found = self._scene.run(origins, targets, output=1)
        ray = np.flatnonzero(found["primID"] >= 0)
        uv = np.stack([found["u"][ray], found["v"][ray]], axis=1)
        return Hits(ray, found["primID"][ray].astype(np.int64), uv, found["tfar"][ray])

    def render(self, camera: Camera, resolution: int, supersampling: int = 1) -> NDArray[np.float32]:
        """A picture without a background.

        Args:
            resolution: side of the square picture in pixels.
            supersampling: s x s rays per pixel on a regular grid; the pixel is their mean.
        Returns:
            [resolution, resolution, 4] float32 in [0, 1]: sRGB premultiplied by alpha, and alpha. Row 0
            is the top of the image.
        """
        picture = np.zeros((resolution, resolution, 4), np.float32)
        window = self._window(camera, resolution)
        for rows in _row_chunks(window.rows, len(window.columns) * supersampling**2):
            part = Window(rows, window.columns)
            height, width = len(rows) * supersampling, len(window.columns) * supersampling
            samples = np.zeros((height * width, 4), np.float32)
            directions = _directions(camera, part, resolution, supersampling)
            hits = self.cast(camera.eye, directions)
            samples[hits.ray, :3] = surface_colours(self.mesh, hits.face, hits.uv)
            samples[hits.ray, 3] = 1.0
            if self._see_through.any():
                self._look_through(samples, camera.eye, directions, hits)
            picture[part.slices] = _box_average(samples.reshape(height, width, 4), supersampling)
        return picture

    def _look_through(self, samples: NDArray[np.float32], origin: NDArray, directions: NDArray, hits: Hits) -> None:
        """Put what is seen through the first hits, front to back, into the samples [N, 4] of all rays."""
        first = self._see_through[hits.face]
        ray, face, uv = hits.ray[first], hits.face[first], hits.uv[first]
        depth = hits.depth[first].astype(np.float64)
        samples[ray] = 0
        for _ in range(MOST_LAYERS):
            left = (1 - samples[ray, 3]) * surface_opacity(self.mesh, face, uv)
            samples[ray, :3] += left[:, None] * surface_colours(self.mesh, face, uv)
            samples[ray, 3] += left
            on = samples[ray, 3] < 1 - FAINT
            ray, depth = ray[on], depth[on] + STEP
            if not len(ray):
                return
            behind = self.cast(origin + depth[:, None] * directions[ray], directions[ray])
            ray, face, uv, depth = ray[behind.ray], behind.face, behind.uv, depth[behind.ray] + behind.depth

    def depth(self, camera: Camera, resolution: int) -> NDArray[np.float32]:
        """[resolution, resolution] depth z at the pixel centres, inf where nothing is."""
        depth = np.full((resolution, resolution), np.inf, np.float32)
        window = self._window(camera, resolution)
        for rows in _row_chunks(window.rows, len(window.columns)):
            part = Window(rows, window.columns)
            hits = self.cast(camera.eye, _directions(camera, part, resolution, 1))
            values = np.full(len(rows) * len(window.columns), np.inf, np.float32)
            values[hits.ray] = hits.depth
            depth[part.slices] = values.reshape(len(rows), -1)
        return depth

    def _window(self, camera: Camera, resolution: int) -> Window:
        """The pixels that the bounding box can touch: no ray outside can hit."""
        everything = Window(range(resolution), range(resolution))
        if not len(self.mesh.faces):
            return Window(range(0), range(0))
        low, high = self.mesh.vertices.min(0), self.mesh.vertices.max(0)
        corners = np.where(np.indices((2, 2, 2)).reshape(3, 8).T, high, low)
        projected = camera.project(corners)
        if projected[:, 2].min() <= 0:  # partly behind the camera: the projection bounds nothing
            return everything
        # One pixel of margin: far more than the rounding of this projection.
        first = np.floor(projected[:, :2].min(0) * resolution).astype(int) - 1
        last = np.ceil(projected[:, :2].max(0) * resolution).astype(int) + 1
        (left, top), (right, bottom) = np.clip([first, last], 0, resolution)
        return Window(range(top, bottom), range(left, right))


def _directions(camera: Camera, window: Window, resolution: int, supersampling: int) -> NDArray:
    """[N, 3] of the rays of a window, row by row."""
    fine = resolution * supersampling
    u, v = (
        (np.arange(pixels.start * supersampling, pixels.stop * supersampling) + 0.5) / fine
        for pixels in (window.columns, window.rows)
    )
    return camera.directions(u, v).reshape(-1, 3)


def on_background(rgba: NDArray, rgb: float = 0.0) -> NDArray[np.float32]:
    """[..., 4] premultiplied over a grey background of value `rgb` in [0, 1]: [..., 3]."""
    return (rgba[..., :3] + (1.0 - rgba[..., 3:]) * rgb).astype(np.float32)


def to_uint8(image: NDArray) -> NDArray[np.uint8]:
    """Values in [0, 1] to 8 bits, truncated and not rounded, as microsoft/TRELLIS does; k / 255 gives k."""
    return np.clip(image * np.float32(255) + np.float32(TRUNCATION_GUARD), 0, 255).astype(np.uint8)


def surface_colours(mesh: Mesh, face: NDArray, uv: NDArray) -> NDArray[np.float32]:
    """Colours of surface points.

    Args:
        face: [K] face of each point.
        uv: [K, 2] barycentric weights of the face's second and third corner.
    Returns:
        [K, 3] float32 sRGB: the corners' mean times the texture where the face has one.
    """
    return _surface(mesh, face, uv, RGB)


def surface_opacity(mesh: Mesh, face: NDArray, uv: NDArray) -> NDArray[np.float32]:
    """[K] how much of the light behind surface points is kept out; see `surface_colours`."""
    if mesh.cutoff is None:
        return np.ones(len(face), np.float32)
    alpha, cutoff = _surface(mesh, face, uv, ALPHA)[:, 0], mesh.cutoff[face]
    return np.where(cutoff == BLENDED, np.clip(alpha, 0, 1), alpha >= cutoff).astype(np.float32)


def _surface(mesh: Mesh, face: NDArray, uv: NDArray, channels: slice) -> NDArray[np.float32]:
    """[K, C] some channels of surface points: the corners' mean times the texture where the face has one."""
    corners, light = mesh.corner_rgba[..., channels], mesh.linear and channels == RGB
    values = _barycentric(corners, face, uv)
    if light:  # exact as it is where the three corners agree
        mixed = np.flatnonzero((corners[face] != corners[face, :1]).any((1, 2)))
        values[mixed] = srgb_of_linear(_mean(linear_of_srgb(corners[face[mixed]]), uv[mixed]))
    texture = mesh.texture[face] if mesh.textures else np.full(len(face), -1)
    for index in np.unique(texture[texture >= 0]):
        points = np.flatnonzero(texture == index)
        texture_uv = _barycentric(mesh.corner_uv.astype(np.float64), face[points], uv[points])
        table = LIGHT_OF_BYTE if light else BYTES
        texels = _texels(mesh.textures[index][..., channels], texture_uv, mesh.sampler(index), table)
        if light:
            values[points] = srgb_of_linear(linear_of_srgb(values[points]) * texels)
        else:
            values[points] *= (texels / 255.0).astype(np.float32)
    return values


def _barycentric(corners: NDArray, face: NDArray, uv: NDArray) -> NDArray:
    """Interpolates corners [F, 3, C] at surface points: [K, C]. Exact where the three corners agree."""
    return _mean(corners[face], uv)


def _mean(corners: NDArray, uv: NDArray) -> NDArray:
    """Of corners [K, 3, C] with weights `uv` [K, 2] of the second and third: [K, C]."""
    first, second, third = corners[:, 0], corners[:, 1], corners[:, 2]
    return first + uv[:, 0:1] * (second - first) + uv[:, 1:2] * (third - first)


def _texels(texture: NDArray[np.uint8], uv: NDArray, sampler: Sampler, table: NDArray) -> NDArray[np.float64]:
    """[K, C] texture values; v up, texel centres at +0.5. table: [256] what is blended for each byte."""
    height, width = texture.shape[:2]
    across, down = sampler.wrap
    column, row = uv[:, 0] * width, (1.0 - uv[:, 1]) * height
    if sampler.nearest:
        rows, columns = (_wrapped(np.floor(at), *how) for at, how in ((row, (height, down)), (column, (width, across))))
        return table[texture[rows, columns]]
    column, row = column - 0.5, row - 0.5
    left, top = np.floor(column), np.floor(row)
    x, y = (column - left)[:, None], (row - top)[:, None]
    columns = [_wrapped(left + i, width, across) for i in range(2)]
    rows = [_wrapped(top + i, height, down) for i in range(2)]
    (a, b), (c, d) = ([table[texture[r, k]] for k in columns] for r in rows)
    upper, lower = a + x * (b - a), c + x * (d - c)
    return upper + y * (lower - upper)


def _wrapped(index: NDArray, size: int, wrap: str) -> NDArray[np.int64]:
    """Texels that stand for those of any index."""
    index = index.astype(np.int64)
    if wrap == CLAMP:
        return index.clip(0, size - 1)
    if wrap == MIRROR:
        index = index % (2 * size)
        return np.minimum(index, 2 * size - 1 - index)
    return index % size


def _row_chunks(rows: range, rays_per_row: int) -> Iterator[range]:
    """Consecutive parts of a range of picture rows with a bounded number of rays each."""
    step = max(1, RAYS_PER_CHUNK // max(1, rays_per_row))
    for start in range(rows.start, rows.stop, step):
        yield range(start, min(start + step, rows.stop))


def _box_average(samples: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """Means of size x size blocks of [H, W, 4]."""
    total = np.zeros((samples.shape[0] // size, samples.shape[1] // size, 4), np.float32)
    for i in range(size):
        for j in range(size):
            total += samples[i::size, j::size]
    total /= size * size
    return total
