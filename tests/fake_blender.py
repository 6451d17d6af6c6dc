"""A stand-in for Blender: a script that speaks the same way on the command line and to the same job files.

The content of the .blend file says how it behaves; `export` hands out the file NAME.glb beside NAME.blend, `render`
NAME-RESOLUTION.png, or else the executable's blender.png, for every view.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from mdtbench.assets.mesh_export import write_glb

SCRIPT = """#!{python} -IS
import json, os, pathlib, shutil, signal, sys, time

me = pathlib.Path(__file__)
if sys.argv[1:] == ["--version"]:
    print("Blender {version}\\n\\tbuild hash: none")
    sys.exit()
script, dashes, job_path, result_path = sys.argv[-4:]
assert dashes == "--" and script.endswith("run_job.py") and "--disable-autoexec" in sys.argv
with me.with_suffix(".calls").open("a") as calls:
    calls.write("call\\n")
job = json.loads(pathlib.Path(job_path).read_text())
blend, out = pathlib.Path(job["blend"]), pathlib.Path(job["out"])
kind = blend.read_bytes().split()[0].decode()
print("Read blend: line one", flush=True)
print("line two", flush=True)
if kind == "segfault":
    print("Writing: crash.txt", flush=True)
    os.kill(os.getpid(), signal.SIGSEGV)
if kind == "exit":
    print("RuntimeError: the file has no visible mesh", file=sys.stderr)
    sys.exit(3)
if kind == "hang":
    time.sleep(60)
if kind == "silent":
    sys.exit()
result = pathlib.Path(result_path)
if kind == "garbage":
    result.write_text("{{")
    sys.exit()
names = ["shape.glb"] if job["do"]["job"] == "export" else [f"{{i:03d}}.png" for i in range(len(job["do"]["views"]))]
picture = blend.with_name(f"{{blend.stem}}-{{job['do'].get('resolution')}}.png")
picture = picture if picture.exists() else me.with_suffix(".png")
if kind != "liar":
    for name in names:
        shutil.copy(blend.with_suffix(".glb") if name == "shape.glb" else picture, out / name)
result.write_text(json.dumps({{"outputs": names, "materials": {{"n_lost": 1}}, "threads": job["threads"]}}))
"""

VERTICES = np.array([[0, 0, 0], [4, 0, 0], [0, 1, 0], [0, 0, 2]], np.float64)
FACES = np.array([[0, 1, 2], [0, 1, 3], [0, 2, 3], [1, 2, 3]])


def install(folder: Path, version: str = "9.9.9") -> Path:
    """Writes the executable and returns its path."""
    path = folder / "blender"
    path.write_text(SCRIPT.format(python=sys.executable, version=version))
    path.chmod(0o755)
    return path


def calls(executable: Path) -> int:
    """How many jobs it was given."""
    log = executable.with_suffix(".calls")
    return len(log.read_text().split()) if log.exists() else 0


def write_blend(path: Path, kind: str = "good") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{kind} {path.name}")
    write_glb(path.with_suffix(".glb"), VERTICES, FACES, np.full((4, 3), 0.5))
    return path
