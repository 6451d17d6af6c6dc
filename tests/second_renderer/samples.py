"""Small glTF files of the kinds that Khronos' sample assets show, one feature each; all made here."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import DracoPy
import numpy as np
from PIL import Image

_KINDS = {"int8": 5120, "uint8": 5121, "int16": 5122, "uint16": 5123, "uint32": 5125, "float32": 5126}
_TYPES = {1: "SCALAR", 2: "VEC2", 3: "VEC3", 4: "VEC4", 16: "MAT4"}
F = np.float32

# A cube of side 1 with its own corners for each side, and coordinates 0 to 1 on each.
_SIDES = [np.roll([[0, 0, z], [1, 0, z], [1, 1, z], [0, 1, z]], k, axis=1) for k in range(3) for z in (0, 1)]
CUBE = (np.concatenate(_SIDES) - 0.5).astype(F)
CUBE_UV = np.tile(np.array([[0, 1], [1, 1], [1, 0], [0, 0]], F), (6, 1))
CUBE_FACES = np.concatenate([np.array([0, 1, 2, 0, 2, 3]) + 4 * i for i in range(6)]).astype(np.uint16)


class Builder:
    """A glTF file that grows. Methods return the index of what they add."""

    def __init__(self, **header: Any):
        self.header: dict[str, Any] = {"asset": {"version": "2.0"}, **header}
        self.data = b""

    def add(self, kind: str, value: Mapping[str, Any]) -> int:
        self.header.setdefault(kind, []).append(value)
        return len(self.header[kind]) - 1

    def view(self, data: bytes, **more: Any) -> int:
        self.data += b"\0" * (-len(self.data) % 4)
        start, self.data = len(self.data), self.data + data
        return self.add("bufferViews", {"buffer": 0, "byteOffset": start, "byteLength": len(data), **more})

    def accessor(self, array: np.ndarray, **more: Any) -> int:
        array = np.ascontiguousarray(array)
        width = 1 if array.ndim == 1 else array.shape[1]
        row, more_view = array.itemsize * width, {}
        data = array.tobytes()
        if row % 4 and width > 1:  # rows of vertex attributes begin at multiples of 4
            stride = row + -row % 4
            rows = np.zeros((len(array), stride), np.uint8)
            rows[:, :row] = np.frombuffer(data, np.uint8).reshape(len(array), row)
            data, more_view = rows.tobytes(), {"byteStride": stride}
        about = {"componentType": _KINDS[array.dtype.name], "count": len(array), "type": _TYPES[width]}
        if width == 3:
            about |= {"min": array.min(0).tolist(), "max": array.max(0).tolist()}
        return self.add("accessors", {"bufferView": self.view(data, **more_view), **about, **more})

    def texture(self, image: np.ndarray, sampler: Mapping[str, int] | None = None, form: str = "PNG") -> int:
        stream = io.BytesIO()
        Image.fromarray(image).save(stream, form, lossless=True)
        source = self.add("images", {"bufferView": self.view(stream.getvalue()), "mimeType": f"image/{form.lower()}"})
        texture: dict[str, Any] = (
            {"source": source} if form == "PNG" else {"extensions": {"EXT_texture_webp": {"source": source}}}
        )
        if sampler:
            texture["sampler"] = self.add("samplers", sampler)
        return self.add("textures", texture)

    def mesh(self, attributes: Mapping[str, Any] | None = None, faces: Any = CUBE_FACES, **more: Any) -> int:
        """Of one primitive; attributes are arrays, or indices of accessors."""
        given = {"POSITION": CUBE, **(attributes or {})}
        named = {name: one if isinstance(one, int) else self.accessor(one) for name, one in given.items()}
        primitive = {"attributes": named, **more}
        if faces is not None:
            primitive["indices"] = self.accessor(np.asarray(faces, np.uint16))
        return self.add("meshes", {"primitives": [primitive]})

    def node(self, **values: Any) -> int:
        return self.add("nodes", values)

    def bytes(self) -> bytes:
        header = dict(self.header)
        if "scenes" not in header:
            inner = {child for node in header["nodes"] for child in node.get("children", [])}
            header |= {"scene": 0, "scenes": [{"nodes": [i for i in range(len(header["nodes"])) if i not in inner]}]}
        data = self.data + b"\0" * (-len(self.data) % 4)
        header["buffers"] = [{"byteLength": len(data)}]
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 4)
        chunks = struct.pack("<2I", len(text), 0x4E4F534A) + text + struct.pack("<2I", len(data), 0x004E4942) + data
        return b"glTF" + struct.pack("<2I", 2, 12 + len(chunks)) + chunks


SAMPLES: dict[str, Callable[[Builder], None]] = {}


def sample(make: Callable[[Builder], None]) -> Callable[[Builder], None]:
    SAMPLES[make.__name__] = make
    return make


def write_samples(folder: Path) -> list[Path]:
    """All of them, as GLB."""
    paths = []
    for name, make in SAMPLES.items():
        builder = Builder()
        make(builder)
        paths.append(folder / f"{name}.glb")
        paths[-1].write_bytes(builder.bytes())
    return paths


def picture(side: int = 64) -> np.ndarray:
    """Four quarters and a gradient, so that each way of laying it on shows."""
    rows, columns = np.indices((side, side)) / side
    image = np.stack([rows, columns, (rows > 0.5) ^ (columns > 0.5), np.ones((side, side))], axis=-1)
    return np.rint(image * 255).astype(np.uint8)


def pbr(b: Builder, *, factor: Any = None, texture: Any = None, **more: Any) -> int:
    rough: dict[str, Any] = {"metallicFactor": 0}
    if factor is not None:
        rough["baseColorFactor"] = factor
    if texture is not None:
        rough["baseColorTexture"] = texture if isinstance(texture, dict) else {"index": texture}
    return b.add("materials", {"name": "m", "pbrMetallicRoughness": rough, **more})


def grid(b: Builder, materials: list[int], attributes: Mapping[str, Any] | None = None) -> None:
    """A cube for each material, side by side."""
    given = {"TEXCOORD_0": CUBE_UV, **(attributes or {})}
    for i, material in enumerate(materials):
        b.node(mesh=b.mesh(given, material=material), translation=[1.4 * (i % 3), 1.4 * (i // 3), 0])


@sample
def Box(b: Builder) -> None:
    b.node(mesh=b.mesh(material=pbr(b, factor=[0.8, 0, 0, 1])))


@sample
def BoxWithoutMaterial(b: Builder) -> None:
    b.node(mesh=b.mesh())


@sample
def BoxInterleaved(b: Builder) -> None:
    rows = np.concatenate([CUBE, CUBE + 0.5], axis=1).astype(F)
    view = b.view(rows.tobytes(), byteStride=24)
    about = {"bufferView": view, "componentType": 5126, "count": 24, "type": "VEC3"}
    place = b.add("accessors", {**about, "min": [-0.5] * 3, "max": [0.5] * 3})
    colour = b.add("accessors", {**about, "byteOffset": 12})
    b.node(mesh=b.mesh({"POSITION": place, "COLOR_0": colour}, material=pbr(b)))


@sample
def BoxTextured(b: Builder) -> None:
    grid(b, [pbr(b, texture=b.texture(picture()))])


@sample
def BoxTexturedNonPowerOfTwo(b: Builder) -> None:
    grid(b, [pbr(b, texture=b.texture(picture(53)), factor=[1, 0.5, 0.5, 1])])


@sample
def TextureWebP(b: Builder) -> None:
    b.header |= {"extensionsUsed": ["EXT_texture_webp"], "extensionsRequired": ["EXT_texture_webp"]}
    grid(b, [pbr(b, texture=b.texture(picture(), form="WEBP"))])


@sample
def BoxVertexColors(b: Builder) -> None:
    colours = np.concatenate([CUBE + 0.5, np.ones((24, 1))], axis=1).astype(F)
    b.node(mesh=b.mesh({"COLOR_0": colours}, material=pbr(b)))


@sample
def VertexColorBytes(b: Builder) -> None:
    colours = b.accessor(np.rint((CUBE + 0.5) * 200).astype(np.uint8), normalized=True)
    b.node(mesh=b.mesh({"COLOR_0": colours}, material=pbr(b, factor=[1, 0.6, 1, 1])))


@sample
def VertexColorShorts(b: Builder) -> None:
    colours = b.accessor(np.rint((CUBE + 0.5) * 40000).astype(np.uint16), normalized=True)
    b.node(mesh=b.mesh({"COLOR_0": colours}, material=pbr(b)))


@sample
def VertexColorTest(b: Builder) -> None:
    texture = b.texture(picture())
    grid(b, [pbr(b, texture=texture)], {"COLOR_0": (0.3 + 0.7 * (CUBE + 0.5)).astype(F)})


@sample
def Triangle(b: Builder) -> None:
    b.node(mesh=b.mesh({"POSITION": np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0]], F)}, [0, 1, 2]))


@sample
def TriangleWithoutIndices(b: Builder) -> None:
    b.node(mesh=b.mesh({"POSITION": np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0]], F)}, None, material=pbr(b)))


@sample
def MeshPrimitiveModes(b: Builder) -> None:
    ring = np.array([[np.cos(a), np.sin(a), 0] for a in np.linspace(0, 4, 7)], F)
    fan = np.concatenate([[[0, 0, 0]], ring]).astype(F)
    strip = np.array([[i // 2, i % 2, i % 3] for i in range(8)], F)
    red, blue = pbr(b, factor=[1, 0, 0, 1]), pbr(b, factor=[0, 0, 1, 1])
    b.node(mesh=b.mesh({"POSITION": fan}, None, mode=6, material=red))
    b.node(mesh=b.mesh({"POSITION": strip}, None, mode=5, material=blue), translation=[1.5, 0, 0])


@sample
def SimpleMeshes(b: Builder) -> None:
    mesh = b.mesh(material=pbr(b, factor=[0.2, 0.5, 0.1, 1]))
    b.node(mesh=mesh)
    b.node(mesh=mesh, translation=[2, 0, 0], rotation=[0, 0.3826834, 0, 0.9238795], scale=[0.5, 1, 2])


@sample
def OrientationTest(b: Builder) -> None:
    colours = [[1, 0, 0, 1], [0, 1, 0, 1], [0, 0, 1, 1]]
    for i, colour in enumerate(colours):
        turn = np.zeros(4)
        turn[i], turn[3] = np.sin(0.3), np.cos(0.3)
        inner = b.node(mesh=b.mesh(material=pbr(b, factor=colour)), translation=[1.5 * (j == i) for j in range(3)])
        b.node(children=[inner], rotation=turn.tolist())


@sample
def NodeMatrices(b: Builder) -> None:
    matrix = np.array([[0, -2, 0, 1], [1, 0, 0, 2], [0, 0, 3, 3], [0, 0, 0, 1.0]])
    inner = b.node(mesh=b.mesh(material=pbr(b, factor=[1, 0.5, 0, 1])), matrix=matrix.T.reshape(-1).tolist())
    b.node(children=[inner], scale=[1, 2, 0.5])
    b.node(mesh=b.mesh(material=pbr(b, factor=[0, 0.5, 1, 1])))


@sample
def NegativeScaleTest(b: Builder) -> None:
    mesh = b.mesh({"TEXCOORD_0": CUBE_UV}, material=pbr(b, texture=b.texture(picture())))
    b.node(mesh=mesh, scale=[-1, 1, 1])
    b.node(mesh=mesh, translation=[1.5, 0, 0], scale=[1, -1, -2])


@sample
def MultipleScenes(b: Builder) -> None:
    b.node(mesh=b.mesh(material=pbr(b, factor=[1, 0, 0, 1])))
    b.node(mesh=b.mesh(material=pbr(b, factor=[0, 0, 1, 1])), scale=[1, 3, 1])
    b.header |= {"scenes": [{"nodes": [0]}, {"nodes": [1]}], "scene": 1}


@sample
def SimpleMorph(b: Builder) -> None:
    target = np.where(CUBE > 0, [[1.0, 0, 0.5]], 0).astype(F)
    other = np.where(CUBE < 0, [[0, 1.0, 0]], 0).astype(F)
    targets = [{"POSITION": b.accessor(target)}, {"POSITION": b.accessor(other)}]
    mesh = b.mesh(material=pbr(b, factor=[0.7, 0.2, 0.7, 1]), targets=targets)
    b.header["meshes"][mesh]["weights"] = [0.75, 0.25]
    b.node(mesh=mesh)


@sample
def MorphWeightsOfNodes(b: Builder) -> None:
    targets = [{"POSITION": b.accessor(np.where(CUBE > 0, [[0, 2.0, 0]], 0).astype(F))}]
    mesh = b.mesh(material=pbr(b, factor=[0.7, 0.7, 0.2, 1]), targets=targets)
    b.header["meshes"][mesh]["weights"] = [0.0]
    b.node(mesh=mesh, weights=[0.5])
    b.node(mesh=mesh, translation=[2, 0, 0])


@sample
def SimpleSparseAccessor(b: Builder) -> None:
    place = b.accessor(CUBE)
    rows = np.flatnonzero(CUBE[:, 0] > 0).astype(np.uint16)
    sparse = {"count": len(rows), "indices": {"bufferView": b.view(rows.tobytes()), "componentType": 5123}}
    sparse["values"] = {"bufferView": b.view((CUBE[rows] + F(1.0)).astype(F).tobytes())}
    b.header["accessors"][place] |= {"sparse": sparse, "min": [-0.5] * 3, "max": [1.5] * 3}
    b.node(mesh=b.mesh({"POSITION": place}, material=pbr(b, factor=[0.3, 0.6, 0.9, 1])))


def _skin(b: Builder, joints: list[int], inverse: np.ndarray | None) -> int:
    skin: dict[str, Any] = {"joints": joints}
    if inverse is not None:
        skin["inverseBindMatrices"] = b.accessor(inverse.transpose(0, 2, 1).reshape(-1, 16).astype(F))
    return b.add("skins", skin)


def _weights(top: np.ndarray) -> dict[str, np.ndarray]:
    joints = np.tile(np.array([0, 1, 0, 0], np.uint8), (24, 1))
    weights = np.zeros((24, 4), F)
    weights[:, 1] = top
    weights[:, 0] = 1 - top
    return {"JOINTS_0": joints, "WEIGHTS_0": weights}


@sample
def SimpleSkin(b: Builder) -> None:
    """Bent by its second joint; the mesh's own node is elsewhere, which counts for nothing."""
    mesh = b.mesh(_weights((CUBE[:, 1] > 0).astype(F)), material=pbr(b, factor=[0.9, 0.4, 0.1, 1]))
    inverse = np.stack([np.eye(4), np.eye(4)])
    upper = b.node(rotation=[0, 0, 0.3826834, 0.9238795], translation=[0, 0.5, 0])
    lower = b.node(children=[upper], translation=[0.2, 0, 0])
    b.node(mesh=mesh, skin=_skin(b, [lower, upper], inverse), translation=[7, 8, 9], scale=[3, 3, 3])


@sample
def RiggedWithBlendedWeights(b: Builder) -> None:
    mesh = b.mesh(_weights(np.where(CUBE[:, 1] > 0, 0.7, 0.1).astype(F)), material=pbr(b, factor=[0.1, 0.4, 0.9, 1]))
    inverse = np.stack([np.eye(4), np.eye(4)])
    inverse[1, 1, 3] = -0.5
    upper = b.node(rotation=[0.258819, 0, 0, 0.9659258], translation=[0, 1.5, 0], scale=[1, 1.2, 1])
    lower = b.node(children=[upper], rotation=[0, 0.258819, 0, 0.9659258])
    b.node(children=[lower, b.node(mesh=mesh, skin=_skin(b, [lower, upper], inverse))], scale=[2, 2, 2])


@sample
def SkinWithoutInverseMatrices(b: Builder) -> None:
    mesh = b.mesh(_weights(np.zeros(24, F)), material=pbr(b, factor=[0.1, 0.9, 0.4, 1]))
    joint = b.node(rotation=[0, 0, 0.258819, 0.9659258], scale=[1, 2, 1])
    b.node(mesh=mesh, skin=_skin(b, [joint, joint], None))


@sample
def SimpleInstancing(b: Builder) -> None:
    turn = np.array([[0, 0, 0, 1], [0, 0.7071068, 0, 0.7071068], [0.5, 0.5, 0.5, 0.5]], F)
    given = {
        "TRANSLATION": b.accessor(np.array([[0, 0, 0], [2, 0, 0], [0, 2, 1]], F)),
        "ROTATION": b.accessor(turn),
        "SCALE": b.accessor(np.array([[1, 1, 1], [1, 2, 0.5], [0.5, 0.5, 2]], F)),
    }
    b.header["extensionsUsed"] = ["EXT_mesh_gpu_instancing"]
    extension = {"EXT_mesh_gpu_instancing": {"attributes": given}}
    b.node(mesh=b.mesh(material=pbr(b, factor=[0.6, 0.3, 0.9, 1])), scale=[1, 1.5, 1], extensions=extension)


@sample
def BoxQuantized(b: Builder) -> None:
    b.header |= {"extensionsUsed": ["KHR_mesh_quantization"], "extensionsRequired": ["KHR_mesh_quantization"]}
    place = b.accessor(np.rint(CUBE * 2 * 32767).astype(np.int16), normalized=True)
    uv = b.accessor(np.rint(CUBE_UV * 65535).astype(np.uint16), normalized=True)
    texture = pbr(b, texture=b.texture(picture()))
    b.node(mesh=b.mesh({"POSITION": place, "TEXCOORD_0": uv}, material=texture), scale=[1, 2, 3])


@sample
def BoxQuantizedRaw(b: Builder) -> None:
    b.header |= {"extensionsUsed": ["KHR_mesh_quantization"], "extensionsRequired": ["KHR_mesh_quantization"]}
    place = b.accessor(np.rint(CUBE * 200).astype(np.int8), normalized=False)
    b.node(mesh=b.mesh({"POSITION": place}, material=pbr(b, factor=[0.5, 0.5, 0.9, 1])), scale=[0.01, 0.02, 0.01])


@sample
def BoxDraco(b: Builder) -> None:
    name, faces = "KHR_draco_mesh_compression", CUBE_FACES.reshape(-1, 3).astype(np.uint32)
    data = DracoPy.encode(CUBE.astype(np.float64), faces, tex_coord=CUBE_UV.astype(np.float64))
    ids = {0: "POSITION", 3: "TEXCOORD_0"}
    stored = {ids[one["attribute_type"]]: one["unique_id"] for one in DracoPy.decode(data).attributes}
    b.header |= {"extensionsUsed": [name], "extensionsRequired": [name]}
    about = {"componentType": 5126, "count": 24}
    place = b.add("accessors", {**about, "type": "VEC3", "min": [-0.5] * 3, "max": [0.5] * 3})
    given = {"POSITION": place, "TEXCOORD_0": b.add("accessors", {**about, "type": "VEC2"})}
    extension = {name: {"bufferView": b.view(data), "attributes": stored}}
    indices = b.add("accessors", {"componentType": 5123, "count": 36, "type": "SCALAR"})
    material = pbr(b, texture=b.texture(picture()))
    b.node(mesh=b.mesh(given, None, indices=indices, material=material, extensions=extension))


@sample
def TextureSettingsTest(b: Builder) -> None:
    """All ways to go on beyond the edges, and the nearest texel."""
    wraps = [(a, c) for a in (10497, 33071, 33648) for c in (10497, 33071, 33648)]
    samplers = [{"wrapS": a, "wrapT": c, "minFilter": 9728, "magFilter": 9728} for a, c in wraps]
    materials = [pbr(b, texture=b.texture(picture(8), sampler)) for sampler in samplers]
    grid(b, materials, {"TEXCOORD_0": CUBE_UV * F(3) - F(1)})


@sample
def TextureLinearInterpolation(b: Builder) -> None:
    small = np.array([[[255, 0, 0, 255], [0, 255, 0, 255]], [[0, 0, 255, 255], [255, 255, 255, 255]]], np.uint8)
    sampler = {"wrapS": 33071, "wrapT": 33071, "minFilter": 9729, "magFilter": 9729}
    grid(b, [pbr(b, texture=b.texture(small, sampler))])


@sample
def TextureTransformTest(b: Builder) -> None:
    b.header["extensionsUsed"] = ["KHR_texture_transform"]
    moves = [{"offset": [0.25, 0.5]}, {"rotation": 0.6}, {"scale": [1.5, 0.5]}]
    moves += [{"offset": [-0.2, 0.1], "rotation": 0.4, "scale": [0.8, 1.7]}]
    texture = b.texture(picture())
    grid(b, [pbr(b, texture={"index": texture, "extensions": {"KHR_texture_transform": move}}) for move in moves])


@sample
def MultiUVTest(b: Builder) -> None:
    texture = b.texture(picture())
    materials = [pbr(b, texture={"index": texture, "texCoord": i}) for i in range(2)]
    grid(b, materials, {"TEXCOORD_1": (CUBE_UV[:, ::-1] * F(0.5)).copy()})


@sample
def TextureEncodingTest(b: Builder) -> None:
    grey = np.full((4, 4, 4), 188, np.uint8)
    grey[..., 3] = 255
    grid(b, [pbr(b, texture=b.texture(grey), factor=[0.5, 1, 0.1, 1]), pbr(b, factor=[0.5, 0.5, 0.05, 1])])


def leaf() -> np.ndarray:
    image = picture()
    rows, columns = np.indices((64, 64)) / 64 - 0.5
    image[..., 3] = np.clip(255 * (1.2 - 3 * np.hypot(rows, columns)), 0, 255).astype(np.uint8)
    return image


@sample
def AlphaMask(b: Builder) -> None:
    texture = b.texture(leaf())
    grid(
        b,
        [
            pbr(b, texture=texture, alphaMode="MASK", **more)
            for more in ({}, {"alphaCutoff": 0.2}, {"alphaCutoff": 0.9})
        ],
    )


@sample
def AlphaMaskByFactorAndVertices(b: Builder) -> None:
    colours = np.ones((24, 4), F)
    colours[:, 3] = CUBE_UV[:, 0]
    b.node(mesh=b.mesh({"COLOR_0": colours}, material=pbr(b, factor=[0.2, 0.8, 0.2, 0.8], alphaMode="MASK")))


@sample
def AlphaOpaque(b: Builder) -> None:
    grid(b, [pbr(b, texture=b.texture(leaf()), factor=[1, 1, 1, 0.2])])


@sample
def AlphaBlendPane(b: Builder) -> None:
    """One pane before an opaque cube: no order of layers to be guessed."""
    quad = np.array([[-1, -1, 1], [1, -1, 1], [1, 1, 1], [-1, 1, 1]], F)
    faces = np.array([0, 1, 2, 0, 2, 3], np.uint16)
    b.node(mesh=b.mesh(material=pbr(b, factor=[0.9, 0.1, 0.1, 1])))
    b.node(mesh=b.mesh({"POSITION": quad}, faces, material=pbr(b, factor=[0.1, 0.2, 0.9, 0.6], alphaMode="BLEND")))


@sample
def EmissiveFactor(b: Builder) -> None:
    grid(
        b,
        [
            pbr(b, factor=[0, 0, 0, 1], emissiveFactor=[1, 0.5, 0]),
            pbr(b, factor=[0.2, 0.2, 0.2, 1], emissiveFactor=[0, 0.3, 0]),
        ],
    )


@sample
def EmissiveTexture(b: Builder) -> None:
    texture, dark = b.texture(picture()), b.texture(picture()[::-1] // np.uint8(2))
    black = pbr(b, factor=[0, 0, 0, 1], emissiveTexture={"index": texture}, emissiveFactor=[1, 1, 1])
    both = pbr(b, texture=dark, emissiveTexture={"index": texture}, emissiveFactor=[0.3, 0.3, 0.3])
    constant = pbr(b, texture=dark, emissiveFactor=[0.3, 0, 0])
    grid(b, [black, both, constant])


@sample
def EmissiveStrengthTest(b: Builder) -> None:
    b.header["extensionsUsed"] = ["KHR_materials_emissive_strength"]
    strong = {"KHR_materials_emissive_strength": {"emissiveStrength": 4.0}}
    grid(b, [pbr(b, factor=[0, 0, 0, 1], emissiveFactor=[0.1, 0.2, 0.05], extensions=strong)])


@sample
def EmissionBesideVertexColours(b: Builder) -> None:
    colours = (0.2 + 0.6 * (CUBE + 0.5)).astype(F)
    texture = b.texture(picture())
    material = pbr(b, texture=texture, emissiveFactor=[0.5, 0, 0])
    b.node(mesh=b.mesh({"COLOR_0": colours, "TEXCOORD_0": CUBE_UV}, material=material))


@sample
def UnlitTest(b: Builder) -> None:
    b.header["extensionsUsed"] = ["KHR_materials_unlit"]
    unlit = {"KHR_materials_unlit": {}}
    grid(b, [pbr(b, factor=[1, 0.22, 0, 1], extensions=unlit, emissiveFactor=[0, 0, 1])])


@sample
def TransmissionTest(b: Builder) -> None:
    b.header["extensionsUsed"] = ["KHR_materials_transmission"]
    glass = {"KHR_materials_transmission": {"transmissionFactor": 1.0}}
    grid(b, [pbr(b, factor=[0.5, 0.9, 0.9, 1], extensions=glass), pbr(b, factor=[0.9, 0.1, 0.1, 1])])


@sample
def SheenAndClearcoat(b: Builder) -> None:
    b.header["extensionsUsed"] = ["KHR_materials_sheen", "KHR_materials_clearcoat"]
    shine = {"KHR_materials_sheen": {"sheenColorFactor": [1, 1, 1]}, "KHR_materials_clearcoat": {"clearcoatFactor": 1}}
    grid(b, [pbr(b, factor=[0.2, 0.2, 0.7, 1], extensions=shine)])


@sample
def LinesBesideTriangles(b: Builder) -> None:
    b.node(mesh=b.mesh(material=pbr(b, factor=[0.3, 0.3, 0.3, 1])))
    line = np.array([[0, 0, 0], [0.9, 0.9, 0.9]], F)
    b.node(mesh=b.mesh({"POSITION": line}, None, mode=1, material=pbr(b, factor=[1, 0, 0, 1])))


@sample
def MissingCoordinates(b: Builder) -> None:
    b.node(mesh=b.mesh(material=pbr(b, texture=b.texture(picture()))))


@sample
def HiddenNodes(b: Builder) -> None:
    b.header["extensionsUsed"] = ["KHR_node_visibility"]
    hidden = {"KHR_node_visibility": {"visible": False}}
    b.node(mesh=b.mesh(material=pbr(b, factor=[0.3, 0.9, 0.3, 1])))
    inner = b.node(mesh=b.mesh(material=pbr(b, factor=[1, 0, 0, 1])), translation=[2, 0, 0])
    b.node(children=[inner], extensions=hidden)


@sample
def UnknownExtension(b: Builder) -> None:
    b.header["extensionsUsed"] = ["EXT_nobody_knows"]
    b.node(mesh=b.mesh(material=pbr(b, factor=[0.3, 0.9, 0.3, 1])))
