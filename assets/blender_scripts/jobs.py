# pyright: reportMissingImports=false
"""What can be made of the open .blend file: a GLB file, or pictures."""

import json
from math import tan
from pathlib import Path

import bpy
import material_count
import picture_settings
import scene_setup


def export(_do: dict, out: Path, _threads: int) -> dict:
    """shape.glb: the shape in the unit cube, modifiers and poses applied, without lights and cameras."""
    found = picture_settings.as_found()
    scene_setup.delete_invisible()
    scale, offset = scene_setup.normalise()
    result = _described(found, scale, offset)
    scene_setup.delete_outside_view_layer()
    wanted = {
        "filepath": str(out / "shape.glb"),
        "export_format": "GLB",
        "export_yup": True,
        "export_apply": True,
        "export_animations": False,
        "export_skins": False,
        "export_morph": False,
        "export_cameras": False,
        "export_lights": False,
    }
    known = bpy.ops.export_scene.gltf.get_rna_type().properties.keys()
    bpy.ops.export_scene.gltf(**{key: value for key, value in wanted.items() if key in known})
    return {**result, "outputs": ["shape.glb"]}


def render(do: dict, out: Path, threads: int) -> dict:
    """000.png, 001.png ... and transforms.json, as the folders renders_cond/ of TRELLIS's data have them."""
    found = picture_settings.as_found()
    picture_settings.apply_render(do, threads)
    if not do["as_is"]:
        picture_settings.pin_look()
    scene_setup.delete_invisible()
    scale, offset = scene_setup.normalise()
    result = _described(found, scale, offset)
    camera = scene_setup.add_camera()
    scene_setup.replace_lights()
    frames = [_frame(camera, view, out, f"{i:03d}.png") for i, view in enumerate(do["views"])]
    listing = {"aabb": [[-0.5] * 3, [0.5] * 3], "scale": scale, "offset": offset, "frames": frames}
    (out / "transforms.json").write_text(json.dumps(listing, indent=1), encoding="utf-8")
    return {**result, "outputs": [*(frame["file_path"] for frame in frames), "transforms.json"]}


def _frame(camera: bpy.types.Object, view: dict, out: Path, name: str) -> dict:
    """Renders one view; angles in radians, yaw from +x."""
    scene_setup.place(camera, view)
    # half the sensor over the tangent of half the angle
    camera.data.lens = scene_setup.SENSOR_MM / 2 / tan(view["fov"] / 2)
    bpy.context.view_layer.update()
    bpy.context.scene.render.filepath = str(out / name)
    bpy.ops.render.render(write_still=True)
    return {
        "file_path": name,
        "camera_angle_x": view["fov"],
        "transform_matrix": [list(row) for row in camera.matrix_world.normalized()],
    }


def _described(found: dict, scale: float, offset: list) -> dict:
    return {
        "blender": bpy.app.version_string,
        "scale": scale,
        "offset": offset,
        "file": found,
        "materials": material_count.count(),
        "missing_images": material_count.missing_images(),
    }


JOBS = {"export": export, "render": render}
