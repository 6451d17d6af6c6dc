# pyright: reportMissingImports=false
"""Which materials do not survive the way to glTF, which knows one shader with colours and images for inputs."""

import bpy

# What can feed the base colour without loss: an image, or a colour of the vertices.
KEPT_SOURCES = ("TEX_IMAGE", "VERTEX_COLOR", "ATTRIBUTE")


def count() -> dict:
    """Materials that faces of visible meshes use.

    n_used, n_lost: materials. lost: reason by name. faces, faces_lost: faces, and those of them with a lost material.
    """
    faces = _faces_by_material()
    lost = {name: why for name in faces if name and (why := _loss(bpy.data.materials[name]))}
    return {
        "n_used": len([name for name in faces if name]),
        "n_lost": len(lost),
        "lost": lost,
        "faces": sum(faces.values()),
        "faces_lost": sum(faces[name] for name in lost),
    }


def missing_images() -> list:
    """Names of images that are used and neither packed nor found."""
    wanted = [i for i in bpy.data.images if i.users and i.source in ("FILE", "TILED", "SEQUENCE")]
    # has_data is only true once something asked for the pixels
    return sorted(image.name for image in wanted if not image.has_data and tuple(image.size) == (0, 0))


def _faces_by_material() -> dict:
    """Number of faces by name of the material, "" for none."""
    faces = {}
    for shape in [o for o in bpy.context.scene.objects if o.type == "MESH"]:
        slots = [slot.material.name if slot.material else "" for slot in shape.material_slots]
        for polygon in shape.data.polygons:
            name = slots[min(polygon.material_index, len(slots) - 1)] if slots else ""
            faces[name] = faces.get(name, 0) + 1
    return faces


def _loss(material: bpy.types.Material) -> str:
    """Why a material changes, "" when it does not."""
    if not material.use_nodes:
        return "no shader nodes: only its plain colour is kept"
    surface = _source(_output(material), "Surface")
    if surface is None or surface.type != "BSDF_PRINCIPLED":
        return f"shader {surface.type if surface else 'none'} instead of BSDF_PRINCIPLED"
    colour = _source(surface, "Base Color")
    if colour is not None and colour.type not in KEPT_SOURCES:
        return f"base colour from {colour.type}"
    if colour is not None and colour.type == "TEX_IMAGE" and colour.image is None:
        return "base colour from an image that is not there"
    return ""


def _output(material: bpy.types.Material) -> object:
    outputs = [n for n in material.node_tree.nodes if n.type == "OUTPUT_MATERIAL"]
    return next((n for n in outputs if n.is_active_output), outputs[0] if outputs else None)


def _source(node: object, socket: str) -> object:
    """The node that feeds an input, None when it is not linked."""
    if node is None or not node.inputs[socket].is_linked:
        return None
    return node.inputs[socket].links[0].from_node
