"""The one form in which a shape travels through the tool: a coloured triangle mesh."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

REPEAT, MIRROR, CLAMP = "repeat", "mirror", "clamp"
# What a face's `cutoff` is where its alpha says nothing, and where its alpha is opacity.
OPAQUE, BLENDED = 0.0, -1.0

# Side of the cube that a normalised shape fits in. A unit cube would touch |ndc| = 1.04 in the protocol's
# camera (radius 2, field of view 40 degrees, pitch 30 degrees) and be cut; 0.97 is the largest side that fits.
NORMALISED_SIDE = 0.95


@dataclass(frozen=True)
class Sampler:
    """How a texture goes on beyond its edges, along u and v, and between its texels: blended, or the nearest one."""

    wrap: tuple[str, str] = (REPEAT, REPEAT)
    nearest: bool = False


PLAIN = Sampler()


@dataclass(frozen=True)
class Mesh:
    """A triangle mesh with colours. z is up.

    The colour of a surface point is the barycentric mean of its corners' colours, times the texture where
    the face has one; so is its alpha. Colours are sRGB values (as stored in image files), never linear ones.

    Attributes:
        vertices: [V, 3] float64 positions.
        faces: [F, 3] int64 vertex indices.
        corner_rgba: [F, 3, 4] float32 in [0, 1].
        corner_uv: [F, 3, 2] float32 texture coordinates, v up (trimesh's convention); zeros where unused.
        texture: [F] int64 index into `textures`, -1 for none.
        textures: images [H, W, 4] uint8, sRGB and alpha.
        samplers: one for each texture; none: all as `PLAIN`.
        cutoff: [F] float32, what is not seen of a face: points whose alpha is below it. `OPAQUE`: alpha says nothing;
            `BLENDED`: alpha is opacity. None: all faces are opaque.
        linear: whether colours are mixed as light, as viewers of files do: between corners, between texels, with the
            texture. Else the stored values are.
        notes: what was not shown as the file says; one sentence each.
    """

    vertices: NDArray[np.float64]
    faces: NDArray[np.int64]
    corner_rgba: NDArray[np.float32]
    corner_uv: NDArray[np.float32]
    texture: NDArray[np.int64]
    textures: tuple[NDArray[np.uint8], ...] = ()
    samplers: tuple[Sampler, ...] = ()
    cutoff: NDArray[np.float32] | None = None
    linear: bool = False
    notes: tuple[str, ...] = ()

    @staticmethod
    def of_faces(vertices: NDArray, faces: NDArray, face_rgb: NDArray) -> Mesh:
        """An untextured, opaque mesh with one colour per face. face_rgb: [F, 3] in [0, 1]."""
        n_faces = len(faces)
        rgba = np.ones((n_faces, 3, 4), np.float32)
        rgba[..., :3] = np.asarray(face_rgb, np.float32)[:, None]
        return Mesh(
            np.asarray(vertices, np.float64),
            np.asarray(faces, np.int64),
            rgba,
            np.zeros((n_faces, 3, 2), np.float32),
            np.full(n_faces, -1, np.int64),
        )

    def sampler(self, texture: int) -> Sampler:
        """That of a texture."""
        return self.samplers[texture] if self.samplers else PLAIN

    @property
    def see_through(self) -> NDArray[np.bool_]:
        """[F] whether a ray may go on behind each face."""
        return np.zeros(len(self.faces), bool) if self.cutoff is None else self.cutoff != OPAQUE

    @property
    def triangles(self) -> NDArray[np.float64]:
        """[F, 3, 3] corner positions."""
        return self.vertices[self.faces]

    def moved(self, matrix: NDArray) -> Mesh:
        """The mesh under a 4x4 affine transform."""
        return replace(self, vertices=self.vertices @ np.asarray(matrix)[:3, :3].T + np.asarray(matrix)[:3, 3])

    def normalised(self, side: float = NORMALISED_SIDE) -> Mesh:
        """Centred at the origin, longest side of the bounding box of the used vertices equal to `side`."""
        used = self.triangles.reshape(-1, 3)
        low, high = used.min(0), used.max(0)
        scale = side / (high - low).max()
        return replace(self, vertices=(self.vertices - (low + high) / 2) * scale)


def concatenate(meshes: Sequence[Mesh]) -> Mesh:
    """One mesh of all parts of one file, in order; textures are kept, each note once."""
    vertex_start = np.cumsum([0, *(len(m.vertices) for m in meshes)])
    texture_start = np.cumsum([0, *(len(m.textures) for m in meshes)])
    return Mesh(
        np.concatenate([m.vertices for m in meshes]),
        np.concatenate([m.faces + start for m, start in zip(meshes, vertex_start, strict=False)]),
        np.concatenate([m.corner_rgba for m in meshes]),
        np.concatenate([m.corner_uv for m in meshes]),
        np.concatenate(
            [np.where(m.texture < 0, -1, m.texture + start) for m, start in zip(meshes, texture_start, strict=False)]
        ),
        tuple(texture for m in meshes for texture in m.textures),
        tuple(m.sampler(i) for m in meshes for i in range(len(m.textures))),
        np.concatenate([np.full(len(m.faces), OPAQUE, np.float32) if m.cutoff is None else m.cutoff for m in meshes]),
        any(m.linear for m in meshes),
        tuple(dict.fromkeys(note for m in meshes for note in m.notes)),
    )
