"""Pictures of mesh files by three.js in a headless Chromium, and how far they are from ours.

The folder that `npm install three` makes is named by MDTBENCH_THREE (.../node_modules/three).
"""

from __future__ import annotations

import base64
import functools
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from mdtbench.assets.file_colours import UNCOLOURED
from mdtbench.assets.mesh_files import UP_AXIS, read_mesh
from mdtbench.geometry.cameras import orbit
from mdtbench.geometry.mesh import NORMALISED_SIDE, Mesh
from mdtbench.render.meshes import MeshRenderer

THREE = os.environ.get("MDTBENCH_THREE", "")
YAWS, PITCH, RADIUS, FOV, SIZE = (20.0, 110.0, 200.0, 290.0), 25.0, 2.0, 40.0, 256
TURNED = {"y": np.array([[1, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1.0]]), "z": np.eye(4)}
SEEN = 0.5  # alpha of a pixel that is covered


@dataclass(frozen=True)
class Pair:
    """Pictures [V, S, S, 4] of one file in [0, 1], colours premultiplied: ours and theirs."""

    name: str
    ours: NDArray[np.float32]
    theirs: NDArray[np.float32]
    notes: tuple[str, ...]

    @property
    def overlap(self) -> float:
        """Intersection over union of what is covered."""
        ours, theirs = (side[..., 3] > SEEN for side in (self.ours, self.theirs))
        return float((ours & theirs).sum() / max(1, (ours | theirs).sum()))

    @property
    def colour(self) -> float:
        """Largest difference of the mean red, green or blue of what both cover."""
        both = (self.ours[..., 3] > SEEN) & (self.theirs[..., 3] > SEEN)
        return float(np.abs((self.ours - self.theirs)[both][:, :3].mean(0)).max()) if both.any() else 1.0

    @property
    def pixels(self) -> float:
        """Mean difference of pixels that either covers."""
        either = (self.ours[..., 3] > 0) | (self.theirs[..., 3] > 0)
        return float(np.abs(self.ours - self.theirs)[either].mean()) if either.any() else 0.0


class _Files(SimpleHTTPRequestHandler):
    """The page, three.js, and the folder of the files."""

    def __init__(self, *args: Any, root: Path, **more: Any):
        self.root = root
        super().__init__(*args, **more)

    def translate_path(self, path: str) -> str:
        folders = {"/three/": Path(THREE), "/page/": Path(__file__).parent, "/files/": self.root}
        for begin, folder in folders.items():
            if path.startswith(begin):
                self.directory = str(folder)
                return super().translate_path("/" + path[len(begin) :])
        return str(self.root / "nothing")

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def served(root: Path) -> Iterator[str]:
    """The address of a server on this machine."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Files, root=root))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def open_page(driver: Any, address: str) -> None:
    driver.set_script_timeout(120)
    driver.get(f"{address}/page/page.html")
    wait = "const d = arguments[0]; const t = () => window.ready ? d(true) : setTimeout(t, 50); t();"
    driver.execute_async_script(wait)


def compared(driver: Any, root: Path, path: Path) -> Pair:
    """Both renderers' pictures of a file below `root`; the page is open. Raises AssetError where we refuse it."""
    mesh = read_mesh(path)
    ours = _ours(mesh)
    points = mesh.triangles.reshape(-1, 3)
    low, high = points.min(0), points.max(0)
    scale = NORMALISED_SIDE / (high - low).max()
    fit = np.eye(4) * [scale, scale, scale, 1]
    fit[:3, 3] = -scale * (low + high) / 2
    move = fit @ TURNED[UP_AXIS[path.suffix.lower()]]
    views = [{"fov": FOV, "eye": orbit(yaw, PITCH, RADIUS, FOV).eye.tolist()} for yaw in YAWS]
    url = "/files/" + quote(path.relative_to(root).as_posix())
    call = (
        "const [url, move, views, size, grey, done] = arguments;"
        "window.draw(url, move, views, size, grey).then(done, error => done('error: ' + error));"
    )
    found = driver.execute_async_script(call, url, move.reshape(-1).tolist(), views, SIZE, UNCOLOURED)
    if isinstance(found, str):
        raise RuntimeError(f"{path.name}: {found[:300]}")
    theirs = [np.frombuffer(base64.b64decode(one), np.uint8).reshape(SIZE, SIZE, 4)[::-1] for one in found]
    return Pair(path.relative_to(root).as_posix(), ours, np.stack(theirs).astype(np.float32) / 255, mesh.notes)


def _ours(mesh: Mesh) -> NDArray[np.float32]:
    renderer = MeshRenderer(mesh.normalised())
    return np.stack([renderer.render(orbit(yaw, PITCH, RADIUS, FOV), SIZE) for yaw in YAWS])
