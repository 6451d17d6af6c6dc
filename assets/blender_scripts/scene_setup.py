# pyright: reportMissingImports=false
"""The scene of TRELLIS's dataset_toolkits/blender_script/render.py: what is removed, where things stand, three lights.

Through bpy.data rather than through operators, which depend on what is selected and on what is in the view layer.
"""

from math import cos, sin

import bpy
from mathutils import Matrix, Vector

SENSOR_MM = 32


def delete_invisible() -> None:
    """Objects that are off in the viewport or in renders, and collections that are off in the viewport."""
    for hidden in [o for o in bpy.context.scene.objects if o.hide_viewport or o.hide_render]:
        bpy.data.objects.remove(hidden, do_unlink=True)
    for hidden in [c for c in bpy.data.collections if c.hide_viewport]:
        bpy.data.collections.remove(hidden)
    bpy.context.view_layer.update()


def delete_outside_view_layer() -> None:
    """What no picture would show, though it counts for the size: TRELLIS measures all meshes of the scene."""
    shown = {o.name for o in bpy.context.view_layer.objects}
    for hidden in [o for o in bpy.context.scene.objects if o.name not in shown]:
        bpy.data.objects.remove(hidden, do_unlink=True)


def bounds() -> tuple:
    """Lowest and highest corner of the boxes of all meshes, modifiers included."""
    corners = [o.matrix_world @ Vector(c) for o in bpy.context.scene.objects if o.type == "MESH" for c in o.bound_box]
    if not corners:
        raise RuntimeError("the file has no visible mesh")
    low, high = (Vector(pick(c[i] for c in corners) for i in range(3)) for pick in (min, max))
    return low, high


def normalise() -> tuple:
    """Puts the meshes' box at the origin with longest side 1; returns the scale and the offset after scaling."""
    low, high = bounds()
    side = max(high - low)
    if not side > 0:
        raise RuntimeError("all its meshes are at one point")
    scale, offset = 1 / side, -(low + high) / 2 / side
    frame = bpy.data.objects.new("frame", None)
    for root in [o for o in bpy.context.scene.objects if o.parent is None]:
        root.parent = frame
        # left over from a former parent, it would move this root against the others
        root.matrix_parent_inverse = Matrix.Identity(4)
    bpy.context.scene.collection.objects.link(frame)
    frame.matrix_world = Matrix.Translation(offset) @ Matrix.Scale(scale, 4)
    bpy.context.view_layer.update()
    return scale, list(offset)


def add_camera() -> bpy.types.Object:
    """A camera that looks at the origin with z up."""
    camera = _added("bench camera", bpy.data.cameras.new("bench camera"))
    camera.data.sensor_width = camera.data.sensor_height = SENSOR_MM
    target = camera.constraints.new(type="TRACK_TO")
    target.track_axis, target.up_axis = "TRACK_NEGATIVE_Z", "UP_Y"
    target.target = _added("bench target", None)
    bpy.context.scene.camera = camera
    return camera


def place(camera: bpy.types.Object, view: dict) -> None:
    level = view["radius"] * cos(view["pitch"])
    camera.location = (level * cos(view["yaw"]), level * sin(view["yaw"]), view["radius"] * sin(view["pitch"]))


def replace_lights() -> None:
    """A point at the front, an area above, an area below; the last shines away from the object, as in TRELLIS."""
    for light in [o for o in bpy.data.objects if o.type == "LIGHT"]:
        bpy.data.objects.remove(light, do_unlink=True)
    _light("POINT", 1000, (4, 1, 6))
    _light("AREA", 10000, (0, 0, 10)).scale = (100, 100, 100)
    _light("AREA", 1000, (0, 0, -10))


def _light(kind: str, watts: float, location: tuple) -> bpy.types.Object:
    light = _added(f"bench light {kind}", bpy.data.lights.new("bench light", type=kind))
    light.data.energy = watts
    light.location = location
    return light


def _added(name: str, data: object) -> bpy.types.Object:
    new = bpy.data.objects.new(name, data)
    bpy.context.scene.collection.objects.link(new)
    return new
