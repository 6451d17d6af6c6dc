"""Where the meshes of a glTF scene are: nodes, skins in the pose of the file, morph weights, instances."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..base.errors import AssetError
from ..base.limits import too_many
from .gltf_file import Gltf, Header, Primitive, primitives


@dataclass(frozen=True)
class Placed:
    """A primitive in the scene. vertices: [V, 3], moved."""

    primitive: Primitive
    vertices: NDArray[np.float64]


def placed(gltf: Gltf) -> Iterator[Placed]:
    """All primitives of the file's scene, once for each instance. What moves with time stays as the nodes have it.

    The scene is the one that the file names, else its first; a file without scenes shows all its nodes.
    """
    nodes = _Nodes(gltf)
    parts: dict[int, list[Primitive]] = {}
    for index in nodes.shown():
        node = gltf.item("nodes", index)
        if "mesh" not in node:
            continue
        mesh = gltf.item("meshes", node["mesh"])
        for primitive in parts.setdefault(node["mesh"], primitives(gltf, mesh)):
            local = _morphed(gltf, primitive, node.get("weights", mesh.get("weights", ())))
            if "skin" in node and {"JOINTS_0", "WEIGHTS_0"} <= primitive.attributes.keys():
                yield Placed(primitive, _skinned(gltf, nodes, primitive, local, gltf.item("skins", node["skin"])))
                continue
            for matrix in _instances(gltf, node, nodes.matrix(index)):
                yield Placed(primitive, _moved(local, matrix))


@dataclass(frozen=True)
class _Nodes:
    gltf: Gltf
    _matrices: dict[int, NDArray[np.float64]] = field(default_factory=dict)
    _parents: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for parent, node in enumerate(self.gltf.header.get("nodes", [])):
            for child in node.get("children", []):
                if child in self._parents or child == parent:
                    raise AssetError(f"its node {child} has two parents or is its own: export it again")
                self._parents[child] = parent

    def shown(self) -> Iterator[int]:
        """The scene's nodes, parents first."""
        header = self.gltf.header
        if header.get("scenes"):
            todo = list(self.gltf.item("scenes", header.get("scene", 0)).get("nodes", []))
        else:
            todo = [i for i in range(len(header.get("nodes", []))) if i not in self._parents]
        todo.reverse()
        seen: set[int] = set()
        while todo:
            index = todo.pop()
            node = self.gltf.item("nodes", index)
            if index in seen:
                raise AssetError("its nodes form a loop: export it again")
            seen.add(index)
            if node.get("extensions", {}).get("KHR_node_visibility", {}).get("visible", True):
                yield index
                todo += reversed(node.get("children", []))

    def matrix(self, index: int) -> NDArray[np.float64]:
        """[4, 4] from a node to the scene."""
        chain: list[int] = []
        at: int | None = index
        while at is not None and at not in self._matrices:
            if at in chain:
                raise AssetError("its nodes form a loop: export it again")
            chain.append(at)
            at = self._parents.get(at)
        matrix = np.eye(4) if at is None else self._matrices[at]
        for at in reversed(chain):
            matrix = matrix @ _local(self.gltf.item("nodes", at))
            self._matrices[at] = matrix
        return self._matrices[index]


def _local(node: Header) -> NDArray[np.float64]:
    if "matrix" in node:
        return np.array(node["matrix"], np.float64).reshape(4, 4).T
    return _matrices(*(np.array([node.get(name, rest)], np.float64) for name, rest in _REST.items()))[0]


_REST: Mapping[str, Sequence[float]] = {"translation": (0, 0, 0), "rotation": (0, 0, 0, 1), "scale": (1, 1, 1)}


def _matrices(translation: NDArray, rotation: NDArray, scale: NDArray) -> NDArray[np.float64]:
    """[N, 4, 4] that scale, then turn by quaternions (x, y, z, w) of any length, then shift."""
    length = np.linalg.norm(rotation, axis=1, keepdims=True)
    x, y, z, w = np.where(length > 0, rotation / np.where(length > 0, length, 1), [0, 0, 0, 1]).T
    matrices = np.zeros((len(rotation), 4, 4))
    turn = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    matrices[:, :3, :3] = np.moveaxis(np.array(turn), 2, 0) * scale[:, None]
    matrices[:, :3, 3] = translation
    matrices[:, 3, 3] = 1
    return matrices


def _moved(vertices: NDArray, matrix: NDArray) -> NDArray[np.float64]:
    return vertices @ matrix[:3, :3].T + matrix[:3, 3]


def _instances(gltf: Gltf, node: Header, matrix: NDArray) -> Iterator[NDArray[np.float64]]:
    """Where a node's mesh is: once, or as often as EXT_mesh_gpu_instancing says."""
    given: dict[str, Any] = node.get("extensions", {}).get("EXT_mesh_gpu_instancing", {}).get("attributes", {})
    values = {name.lower(): gltf.values(index) for name, index in given.items() if name.lower() in _REST}
    count = len(next(iter(values.values()))) if values else 1
    if reason := too_many("parts", count, "it"):
        raise AssetError(reason)
    if not values:
        yield matrix
        return
    rest = {name: np.tile(np.array(value, np.float64), (count, 1)) for name, value in _REST.items()}
    yield from matrix @ _matrices(**(rest | values))


def _morphed(gltf: Gltf, primitive: Primitive, weights: Sequence[float]) -> NDArray[np.float64]:
    """[V, 3] under the weights that the file begins with."""
    vertices = np.asarray(primitive.attributes["POSITION"], np.float64)
    for weight, target in zip(weights, primitive.targets, strict=False):
        if not weight:
            continue
        if "POSITION" in target:
            vertices = vertices + weight * gltf.values(target["POSITION"])
        if any(name.startswith(("COLOR", "TEXCOORD")) for name in target):
            gltf.note("colours of its morph targets are not shown")
    return vertices


def _skinned(gltf: Gltf, nodes: _Nodes, primitive: Primitive, vertices: NDArray, skin: Header) -> NDArray[np.float64]:
    """[V, 3] as the joints place them; the transform of the mesh's own node counts for nothing (section 3.7.3.3)."""
    joints = np.stack([nodes.matrix(joint) for joint in skin["joints"]])
    if "inverseBindMatrices" in skin:
        inverse = gltf.values(skin["inverseBindMatrices"]).reshape(-1, 4, 4).transpose(0, 2, 1)
        if len(inverse) < len(joints):
            raise AssetError(f"its skin has {len(joints)} joints and {len(inverse)} matrices: export it again")
        joints = joints @ inverse[: len(joints)]
    sets = range(sum(name.startswith("JOINTS_") for name in primitive.attributes))
    which = np.concatenate([primitive.attributes[f"JOINTS_{i}"] for i in sets], axis=1).astype(np.int64)
    weight = np.concatenate([primitive.attributes[f"WEIGHTS_{i}"] for i in sets], axis=1).astype(np.float64)
    if which.size and (which.min() < 0 or which[weight > 0].max(initial=0) >= len(joints)):
        raise AssetError(f"a vertex names a joint that is not one of its {len(joints)}: export it again")
    total = weight.sum(1, keepdims=True)
    weight = np.where(total > 0, weight / np.where(total > 0, total, 1), np.eye(1, weight.shape[1]))
    result = np.zeros_like(vertices)
    for column in range(which.shape[1]):
        matrix = joints[which[:, column].clip(0, len(joints) - 1)]
        moved = np.einsum("vij,vj->vi", matrix[:, :3, :3], vertices) + matrix[:, :3, 3]
        result += weight[:, column : column + 1] * moved
    return result
