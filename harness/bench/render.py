"""`mdtbench bench render`: what pictures of Gaussians and of meshes cost here."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.util import find_spec

import numpy as np
import torch
from trimesh.creation import icosphere

from ...base.text import spread
from ...geometry.cameras import protocol_views
from ...geometry.gaussians import Gaussians, GaussianTensors
from ...geometry.mesh import Mesh
from ...render.gaussian_gpu import render_cuda
from ...render.gaussian_rasteriser import render
from ...render.meshes import MeshRenderer
from ..engine.progress import Reporter

SIDE = 512  # pixels
COUNTS = (5_000, 20_000, 500_000)  # TRELLIS' decoder makes about 500,000
RADIUS = 0.4
THICKNESS = 0.2  # of a Gaussian across the surface, relative to its extent along it
SUBDIVISIONS = 3  # of the icosahedron that is the sphere of triangles: 1280


@dataclass(frozen=True)
class RenderFigures:
    """Seconds of processor time per protocol view, one thread; and milliseconds per view on the GPU, if any.

    Each list has one value per repetition, which is the mean over the four views.
    """

    size: int
    cpu_s: dict[str, list[float]]
    gpu_ms: dict[str, list[float]]
    gpu: str


def measure_render(repetitions: int, report: Reporter) -> RenderFigures:
    """All figures, by turns, so that a machine that gets slower does so for all."""
    clouds = {f"{count} Gaussians": sphere_of_gaussians(count) for count in COUNTS}
    draws: dict[str, Callable[[], None]] = {name: _draw_gaussians(cloud) for name, cloud in clouds.items()}
    faces = len(_sphere().faces)
    draws |= {f"{faces} triangles, {s} x {s} rays": _draw_mesh(s) for s in (1, 2)}
    on_gpu = {name: _draw_cuda(cloud) for name, cloud in clouds.items()} if gpu_is_at_hand() else {}
    for draw in (*draws.values(), *on_gpu.values()):  # compiles kernels, warms caches
        draw()
    cpu_s: dict[str, list[float]] = {name: [] for name in draws}
    gpu_ms: dict[str, list[float]] = {name: [] for name in on_gpu}
    task = report.start("draw", repetitions)
    for i in range(repetitions):
        for name, draw in draws.items():
            cpu_s[name].append(_seconds(draw, time.process_time))
        for name, draw in on_gpu.items():
            gpu_ms[name].append(1e3 * _seconds(draw, time.perf_counter))
        report.update(task, i + 1)
    return RenderFigures(SIDE, cpu_s, gpu_ms, torch.cuda.get_device_name() if on_gpu else "")


def sphere_of_gaussians(count: int) -> Gaussians:
    """Gaussians flat on a sphere, each as wide as its share of the surface: the load of a decoder's surface."""
    random = np.random.Generator(np.random.PCG64(0))
    normals = random.standard_normal((count, 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    x, y, z = normals.T
    # Half way between z and the normal: the quaternion that turns z to it.
    rotations = np.stack([1 + z, -y, x, np.zeros(count)], axis=1)
    width = RADIUS * np.sqrt(4 * np.pi / count)
    scales = width * np.array([1, 1, THICKNESS]) * np.exp(0.2 * random.standard_normal((count, 3)))
    opacities = 1 / (1 + np.exp(-random.normal(1, 1, count)))
    rotations /= np.linalg.norm(rotations, axis=1, keepdims=True)
    values = (RADIUS * normals, scales, rotations, opacities, random.standard_normal((count, 3)))
    return Gaussians(*(value.astype(np.float32) for value in values))


def gpu_is_at_hand() -> bool:
    return torch.cuda.is_available() and find_spec("gsplat") is not None


def _draw_gaussians(cloud: Gaussians) -> Callable[[], None]:
    def draw() -> None:
        for camera in protocol_views():
            render(cloud, camera, SIDE)

    return draw


def _draw_mesh(supersampling: int) -> Callable[[], None]:
    renderer = MeshRenderer(_sphere())

    def draw() -> None:
        for camera in protocol_views():
            renderer.render(camera, SIDE, supersampling)

    return draw


def _sphere() -> Mesh:
    sphere = icosphere(SUBDIVISIONS, RADIUS)
    return Mesh.of_faces(sphere.vertices, sphere.faces, np.tile((0.6, 0.4, 0.3), (len(sphere.faces), 1)))


def _draw_cuda(cloud: Gaussians) -> Callable[[], None]:
    tensors = GaussianTensors.of(cloud).to("cuda")

    def draw() -> None:
        for camera in protocol_views():
            render_cuda(tensors, camera, SIDE)
        torch.cuda.synchronize()

    return draw


def _seconds(draw: Callable[[], None], clock: Callable[[], float]) -> float:
    """Per view."""
    start = clock()
    draw()
    return (clock() - start) / len(protocol_views())


def render_text(found: RenderFigures) -> str:
    title = f"Pictures of {found.size} x {found.size} pixels under the protocol views; per view, least to most."
    lines = [title, "", f"{'CPU, one thread':32} {'processor time in s':>24}"]
    lines += [f"{name:32} {spread(values, 3):>24}" for name, values in found.cpu_s.items()]
    if found.gpu_ms:
        lines += ["", f"{'gsplat, ' + found.gpu:32} {'time in ms':>24}"]
        lines += [f"{name:32} {spread(values, 3):>24}" for name, values in found.gpu_ms.items()]
    else:
        lines += ["", "GPU: not measured (no CUDA device, or gsplat is not installed)."]
    return "\n".join(lines) + "\n"


def render_json(found: RenderFigures) -> str:
    return json.dumps(asdict(found) | {"benchmark": "render"}, indent=1, sort_keys=True) + "\n"
