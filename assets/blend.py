"""Blender files become GLB files or pictures, through Blender in a process of its own.

Blender is never imported: it is GPL, needs its own Python, and a file can crash it. A job goes in and a result
comes out as JSON; what was made lies in a folder addressed by all of its inputs.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import uuid
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..base.children import environment
from ..base.errors import AssetError, MissingError, RunError
from ..base.files import digest_of, file_sha256, read_json, write_json
from ..base.parsing import parse_json
from ..geometry.cameras import sphere_hammersley
from .images import read_rgba

SCRIPTS = Path(__file__).parent / "blender_scripts"
VARIABLE = "MDTBENCH_BLENDER"
ENTRY = "entry.json"  # written last: its existence means a complete entry
FORMAT = 1
PROBE_TIMEOUT_S = 120.0
LOG_LINES = 3

Device = Literal["CPU", "CUDA", "OPTIX", "HIP", "METAL", "ONEAPI"]


@dataclass(frozen=True)
class View:
    """A camera on a sphere that looks at the origin. Degrees; yaw as in `render.cameras.orbit`, from +y."""

    yaw: float
    pitch: float
    radius: float
    fov: float

    def in_blender(self) -> dict[str, float]:
        """Radians, yaw from +x: what TRELLIS's script takes."""
        angles = {"yaw": 90.0 - self.yaw, "pitch": self.pitch, "fov": self.fov}
        return {**{name: float(np.deg2rad(angle)) for name, angle in angles.items()}, "radius": self.radius}


@dataclass(frozen=True)
class ExportJob:
    """The shape as `shape.glb`: in the unit cube (longest side 1, centred), modifiers applied."""

    def to_json(self) -> dict[str, Any]:
        return {"job": "export"}


@dataclass(frozen=True)
class RenderJob:
    """Pictures `000.png`... (RGBA, 8 bits, colours not premultiplied) and `transforms.json`.

    The settings of dataset_toolkits/blender_script/render.py of microsoft/TRELLIS: Cycles, denoised, bounces
    1 diffuse, 1 glossy, 3 transparent, 3 transmission, three lights, the shape in the unit cube, z up.

    Attributes:
        as_is: keep each file's world, view transform and compositor, as TRELLIS does. Else no world, view transform
            Standard without look, exposure 0, gamma 1, no compositor.
        device: what Cycles computes on.
    """

    views: tuple[View, ...]
    resolution: int
    samples: int = 128
    seed: int = 0
    as_is: bool = False
    device: Device = "CPU"

    def to_json(self) -> dict[str, Any]:
        return {"job": "render", **asdict(self), "views": [view.in_blender() for view in self.views]}


Job = ExportJob | RenderJob


def condition_views(seed: int, count: int = 24, fov: tuple[float, float] = (10.0, 70.0)) -> tuple[View, ...]:
    """The views among which an asset's conditioning picture is: from all sides, with fields of view within `fov`.

    The distribution of dataset_toolkits/render_cond.py of microsoft/TRELLIS: a Hammersley set with fewer views from
    below and a random offset; 1 / radius^2 uniform; the field of view that just holds the unit cube's circumsphere.

    Args:
        seed: of numpy's RandomState, which trellis-v1 names; drawn from in the order of that script.
    """
    random = np.random.RandomState(seed)
    offset = (random.rand(), random.rand())
    half_diagonal = np.sqrt(3) / 2
    farthest, nearest = half_diagonal / np.sin(np.deg2rad(fov) / 2)
    radii = 1 / np.sqrt(random.uniform(1 / farthest**2, 1 / nearest**2, count))
    fovs = np.rad2deg(2 * np.arcsin(half_diagonal / radii))
    directions = sphere_hammersley(count, offset, remap=True)
    return tuple(
        View(float(90 - yaw), float(pitch), float(radius), float(angle))
        for (yaw, pitch), radius, angle in zip(directions, radii, fovs, strict=True)
    )


@dataclass(frozen=True)
class Blender:
    """A Blender that answered.

    Attributes:
        command: what comes before the script. tail: what comes between the script and its arguments.
        version: as it says itself; part of the address of all it makes.
    """

    command: tuple[str, ...]
    tail: tuple[str, ...]
    version: str


def find_blender(given: str = "") -> Blender:
    """The Blender to use: `given`, else that of the variable MDTBENCH_BLENDER, else `blender` on the path.

    Either a `blender` executable or a Python that has bpy.

    Raises:
        MissingError: there is none, or it does not start.
    """
    place = given or os.environ.get(VARIABLE, "") or "blender"
    executable = shutil.which(place)
    if executable is None:
        raise MissingError(_no_blender(f"'{place}' is not an executable"))
    said = _answer([executable, "--version"])
    if said.startswith("Blender "):
        options = ("--background", "--factory-startup", "--disable-autoexec", "--python-exit-code", "3", "--python")
        return Blender((executable, *options), ("--",), said.split("\n")[0].removeprefix("Blender ").strip())
    if not said.startswith("Python "):
        raise MissingError(_no_blender(f"'{executable}' is neither Blender nor Python"))
    version = _answer([executable, "-c", "import sys, bpy; sys.stdout.write(bpy.app.version_string)"])
    return Blender((executable,), (), version)


def _answer(command: list[str]) -> str:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=PROBE_TIMEOUT_S, check=True, env=environment()
        )
    except subprocess.CalledProcessError as error:
        reason = (error.stderr.strip() or "no message").split("\n")[-1]
        raise MissingError(_no_blender(f"'{command[0]}' fails: {reason}")) from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MissingError(_no_blender(f"'{command[0]}' does not start: {error}")) from error
    return done.stdout.strip()


def _no_blender(found: str) -> str:
    return (
        f"No Blender: {found}. Set {VARIABLE} to a blender executable, or to a Python 3.11 that has bpy "
        "(python3.11 -m venv ENV && ENV/bin/pip install 'bpy==4.5.*', then ENV/bin/python)."
    )


@dataclass(frozen=True)
class Made:
    """What a job made.

    Attributes:
        result: the report of the script: scale and offset of the normalisation, the file's own settings, the
            materials that cannot be converted, missing images, outputs.
    """

    folder: Path
    result: Mapping[str, Any]

    @property
    def pictures(self) -> tuple[Path, ...]:
        """The pictures of a `RenderJob`, in the order of its views."""
        return tuple(self.folder / name for name in self.result["outputs"] if name.endswith(".png"))


@dataclass(frozen=True)
class BlendCache:
    """Makes what is not there yet, and keeps it.

    An entry's address is the sha256 of the file's content, the job, the scripts and Blender's version. Entries are
    made aside and moved into place whole; those that were changed are put aside with a warning and made again.
    Two processes that want the same entry both make it, and the first one's stays. Failures are not kept.

    Attributes:
        root: folder of the entries; may be shared and may be read-only when everything is there.
        timeout_s: for one job.
        threads: that Blender uses, 0 for all.
    """

    root: Path
    blender: Blender
    timeout_s: float = 7200.0
    threads: int = 0
    scripts: Path = field(default=SCRIPTS)

    def made(self, blend: Path, job: Job, *, sha256: str = "") -> Made:
        """The outputs of a job.

        Args:
            sha256: of the file, when the caller has just computed it.
        Raises:
            AssetError: Blender crashed, took too long, or could not do it; with the last lines of its log.
            RunError: the disk is full or cannot be written.
        """
        inputs = self.inputs(sha256 or file_sha256(blend), job)
        digest = digest_of(inputs)
        place = self.root / digest[:2] / digest
        return _kept(place) or self._make(blend, job, inputs, place)

    def inputs(self, blend_sha256: str, job: Job) -> dict[str, Any]:
        """All that decides what a job makes, fit for a digest."""
        return {
            "format": FORMAT,
            "blend": blend_sha256,
            "job": job.to_json(),
            "scripts": scripts_digest(self.scripts),
            "blender": self.blender.version,
        }

    def _make(self, blend: Path, job: Job, inputs: Mapping[str, Any], place: Path) -> Made:
        with _aside(place) as work:
            result = self._run(blend, job, work)
            sha256 = {name: file_sha256(work / name) for name in result["outputs"]}
            write_json(work / ENTRY, {"inputs": inputs, "result": result, "sha256": sha256})
            _move(work, place)
        return Made(place, result)

    def _run(self, blend: Path, job: Job, out: Path) -> dict[str, Any]:
        """Runs Blender. When it fails, its log stays beside the temporary folder `out`."""
        task, answer, log = out / "job.json", out / "result.json", out.with_suffix(".log")
        do = {"blend": str(blend.resolve()), "out": str(out.resolve()), "threads": self.threads, "do": job.to_json()}
        write_json(task, do)
        arguments = [str(self.scripts / "run_job.py"), *self.blender.tail, str(task.resolve()), str(answer.resolve())]
        try:
            with log.open("w", encoding="utf-8") as stream:
                done = subprocess.run(
                    [*self.blender.command, *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=stream,
                    stderr=subprocess.STDOUT,
                    timeout=self.timeout_s,
                    check=False,
                )
        except subprocess.TimeoutExpired as error:
            raise AssetError(f"{blend.name}: Blender took longer than {self.timeout_s:g} s - see {log}") from error
        except OSError as error:
            raise RunError(f"Cannot start Blender: {error.strerror}. Check {VARIABLE} and the disk.") from error
        if done.returncode or not answer.is_file():
            raise AssetError(f"{blend.name}: Blender {_ending(done.returncode)}: {_tail(log)} - see {log}")
        result = _result(blend, answer, out)
        for path in (task, answer, log):
            path.unlink()
        return result


def scripts_digest(folder: Path = SCRIPTS) -> str:
    """sha256 of the scripts that run inside Blender."""
    return digest_of({path.name: file_sha256(path) for path in sorted(folder.glob("*.py"))})


def coverage(picture: Path) -> float:
    """Mean alpha of a picture, in [0, 1].

    Raises:
        AssetError: the file is not an RGBA picture.
    """
    return float(read_rgba(picture)[..., 3].mean() / 255)


def on_black(picture: Path) -> NDArray[np.uint8]:
    """A picture composited on black: [H, W, 3] uint8, colour times alpha on sRGB values, rounded.

    Raises:
        AssetError: the file is not an RGBA picture.
    """
    rgba = read_rgba(picture).astype(np.uint32)
    return ((rgba[..., :3] * rgba[..., 3:] + 127) // 255).astype(np.uint8)


def _result(blend: Path, answer: Path, out: Path) -> dict[str, Any]:
    try:
        result = parse_json(answer.read_text(encoding="utf-8"))
        outputs = result["outputs"]
    except (ValueError, KeyError, TypeError) as error:
        raise AssetError(f"{blend.name}: Blender's result is not one ({error!r})") from error
    absent = [name for name in outputs if not (out / name).is_file() or not (out / name).stat().st_size]
    if absent:
        raise AssetError(f"{blend.name}: Blender reports that it made {absent[0]}, which is not there or is empty")
    return result


def _ending(code: int) -> str:
    if code < 0:
        return f"was ended by signal {-code}"
    return f"failed with exit code {code}" if code else "ended without a result"


def _tail(log: Path) -> str:
    """The last lines of a log as one line."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").split("\n") if line.strip()]
    return " | ".join(lines[-LOG_LINES:]) or "it printed nothing"


def _kept(place: Path) -> Made | None:
    """The entry at a place, verified; None when it is not there. One that was changed is put aside."""
    if not place.is_dir():
        return None
    try:
        entry = read_json(place / ENTRY)
        changed = [name for name, sha in entry["sha256"].items() if file_sha256(place / name) != sha]
    except (MissingError, KeyError, TypeError, AttributeError) as error:
        changed = [str(error)]
        entry = {}
    if not changed:
        return Made(place, entry["result"])
    aside = place.with_name(f"{place.name}.corrupt-{uuid.uuid4().hex[:8]}")
    os.replace(place, aside)
    warnings.warn(
        f"{place / ENTRY}: {changed[0]} is not what was made - put aside as {aside.name}, made again", stacklevel=4
    )
    return None


@contextmanager
def _aside(place: Path) -> Iterator[Path]:
    """A temporary folder beside `place`, removed at the end."""
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(dir=place.parent, prefix=f".{place.name}.", suffix=".part"))
    except OSError as error:
        raise RunError(f"Cannot write {place}: {error.strerror}. Free the disk or choose another cache.") from error
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _move(work: Path, place: Path) -> None:
    """Into place, unless another process was first."""
    work.chmod(0o755)
    try:
        os.rename(work, place)
    except OSError as error:
        if not (place / ENTRY).is_file():
            raise RunError(f"Cannot write {place}: {error.strerror}. Remove it or choose another cache.") from error
