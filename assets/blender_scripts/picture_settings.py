# pyright: reportMissingImports=false
"""How a picture is computed: the settings of TRELLIS's script, and those of the file that it leaves alone."""

import bpy


def as_found() -> dict:
    """The settings by which the look of this file's pictures differs from that of another's."""
    scene = bpy.context.scene
    view = scene.view_settings
    return {
        "version": list(bpy.data.version),
        "engine": scene.render.engine,
        "world": scene.world.name if scene.world else None,
        "view_transform": view.view_transform,
        "look": view.look,
        "exposure": view.exposure,
        "gamma": view.gamma,
        "compositor": bool(scene.use_nodes and scene.render.use_compositing),
    }


def apply_render(do: dict, threads: int) -> None:
    scene = bpy.context.scene
    render, cycles = scene.render, scene.cycles
    render.engine = "CYCLES"
    render.resolution_x = render.resolution_y = do["resolution"]
    render.resolution_percentage = 100
    render.image_settings.file_format = "PNG"
    render.image_settings.color_mode = "RGBA"
    render.image_settings.color_depth = "8"
    render.film_transparent = True
    cycles.samples = do["samples"]
    cycles.seed = do["seed"]
    cycles.use_animated_seed = False
    # TRELLIS also asks for a box filter, by a name that Cycles does not have; only the width takes effect.
    cycles.filter_width = 1
    cycles.diffuse_bounces = cycles.glossy_bounces = 1
    cycles.transparent_max_bounces = cycles.transmission_bounces = 3
    cycles.use_denoising = True
    _use_device(cycles, do["device"])
    render.use_persistent_data = True  # the scene is not built anew for every view
    if threads:
        render.threads_mode, render.threads = "FIXED", threads


def _use_device(cycles: object, device: str) -> None:
    if device == "CPU":
        cycles.device = "CPU"
        return
    preferences = bpy.context.preferences.addons["cycles"].preferences
    preferences.compute_device_type = device
    preferences.get_devices()
    usable = [d for d in preferences.devices if d.type == device]
    if not usable:
        raise RuntimeError(f"no device of the kind {device} on this machine")
    for d in preferences.devices:
        d.use = d in usable
    cycles.device = "GPU"


def pin_look() -> None:
    """One world, view transform and picture for all files, whatever they were saved with."""
    scene = bpy.context.scene
    render, view = scene.render, scene.view_settings
    scene.world = None
    scene.display_settings.display_device = "sRGB"
    view.view_transform, view.look = "Standard", "None"
    view.exposure, view.gamma = 0.0, 1.0
    view.use_curve_mapping = False
    if hasattr(render.image_settings, "color_management"):
        render.image_settings.color_management = "FOLLOW_SCENE"
    scene.cycles.pixel_filter_type = "BLACKMAN_HARRIS"
    scene.cycles.film_exposure = 1.0
    render.use_compositing = render.use_sequencer = False
    render.use_border = render.use_multiview = render.use_motion_blur = False
    render.pixel_aspect_x = render.pixel_aspect_y = 1.0
