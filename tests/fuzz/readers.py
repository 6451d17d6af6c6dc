"""What reads files of anybody, each as a function of bytes; and files to begin with.

Whatever the bytes are, a reader returns or raises one of the errors that are told in one line.
"""

from __future__ import annotations

import json
import struct
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors.numpy import save as safetensors_bytes

from mdtbench.assets.companions import mesh_key
from mdtbench.assets.folder import FolderSource
from mdtbench.assets.gaussian_ply import read_gaussians
from mdtbench.assets.mesh_files import read_mesh
from mdtbench.base.errors import MdtbenchError, printable
from mdtbench.base.files import read_json, read_record
from mdtbench.harness.cli.evaluating import read_settings
from mdtbench.harness.cli.runs import page
from mdtbench.harness.cli.status import status_text
from mdtbench.harness.driver.lock import driver_of
from mdtbench.harness.engine.files import load_arrays, load_tensors
from mdtbench.harness.engine.receipts import read_receipt
from mdtbench.harness.measure.conditions import read_picture
from mdtbench.harness.protocol.model import load_protocol
from mdtbench.harness.settings.config import load_config
from mdtbench.results.asset_values import read_asset_values
from mdtbench.results.exported import read_exported
from mdtbench.results.importing import Import, imported_rows, read_csv
from mdtbench.results.manifest import read_manifest
from mdtbench.results.rows import read_rows
from mdtbench.results.students import read_students
from mdtbench.results.sums import damaged
from mdtbench.results.sweep import read_sweeps
from mdtbench.results.tolerances import read_tolerances
from mdtbench.trellis.weights import read_config, read_tensors

CASES = Path(__file__).parents[1] / "cases" / "damaged"
LONGEST = 2100  # letters of a message


def run(read: Callable[[Path], object], name: str, data: bytes) -> None:
    """Read `data` as a file of this name. Raises AssertionError for a message of several lines or without end."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        message = ""
        try:
            read(path)
        except MdtbenchError as error:
            message = str(error)
        assert len(message) < LONGEST
        assert message == printable(message)


def _mesh(path: Path) -> None:
    with suppress(MdtbenchError):
        mesh_key(path, {})
    mesh = read_mesh(path)
    assert np.isfinite(mesh.normalised().triangles).all()


def _csv(path: Path) -> None:
    imported_rows(read_csv(path), Import(path.name, "other", created_utc="2026-01-01T00:00:00+00:00"))


def _settings(path: Path) -> None:
    text = path.read_bytes().decode("utf-8", "replace")
    for read in (read_settings, lambda changes: load_config("smoke", changes)):
        with suppress(MdtbenchError):
            read(text.split("\n"))


def _report(read: Callable[[Path], object]) -> Callable[[Path], object]:
    return lambda path: read(path.parent)


OBJ = b"mtllib a.mtl\nv 0 0 0\nv 1 0 0 1 0 0\nv 0 1 0\nvt 0 0\nvn 0 0 1\nusemtl m\nf 1/1/1 2/1/1 3/1/1\nf -3 -2 -1\n"
OFF = b"COFF\n4 2 0\n0 0 0 255 0 0 255\n1 0 0 0 1 0 1\n0 1 0 1 1 1 1\n0 0 1 9 9 9 9\n3 0 1 2\n4 0 1 2 3\n"
PLY = (
    b"ply\nformat ascii 1.0\ncomment TextureFile t.png\nelement vertex 4\nproperty float x\nproperty float y\n"
    b"property float z\nproperty uchar red\nproperty uchar green\nproperty uchar blue\nelement face 2\n"
    b"property list uchar int vertex_indices\nend_header\n0 0 0 1 2 3\n1 0 0 4 5 6\n0 1 0 7 8 9\n0 0 1 1 1 1\n"
    b"3 0 1 2\n4 0 1 2 3\n"
)
CSV = (
    b"metric,value,method,steps,seed,n,latency_s,higher_is_better,note\nFD_incep,9.5,a,1,0,5,0.3,false,x\n"
    b"KD,1,b,2,,,,no,\n"
)


def _stl() -> bytes:
    triangles = np.eye(3, dtype="<f4").tobytes()
    return bytes(80) + struct.pack("<I", 2) + (bytes(12) + triangles + b"\1\2") * 2


def _glb() -> bytes:
    positions, indices = np.eye(3, dtype="<f4").tobytes(), np.array([0, 1, 2, 0], "<u2").tobytes()
    header = {
        "asset": {"version": "2.0"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, "children": [1]}, {"mesh": 0, "scale": [1, 2, 3]}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0}, "indices": 1, "material": 0}]}],
        "materials": [{"pbrMetallicRoughness": {"baseColorFactor": [1, 0.5, 0, 1]}, "alphaMode": "MASK"}],
        "buffers": [{"byteLength": 44}],
        "bufferViews": [{"buffer": 0, "byteLength": 36}, {"buffer": 0, "byteOffset": 36, "byteLength": 6}],
        "accessors": [
            {"bufferView": 0, "componentType": 5126, "count": 3, "type": "VEC3", "min": [0, 0, 0], "max": [1, 1, 1]},
            {"bufferView": 1, "componentType": 5123, "count": 3, "type": "SCALAR"},
        ],
    }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 4)
    chunks = struct.pack("<II", len(text), 0x4E4F534A) + text + struct.pack("<II", 44, 0x004E4942) + positions + indices
    return b"glTF" + struct.pack("<II", 2, 12 + len(chunks)) + chunks


def _gaussians() -> bytes:
    from mdtbench.assets.gaussian_ply import COLUMNS

    header = "ply\nformat binary_little_endian 1.0\nelement vertex 2\n"
    header += "".join(f"property float {name}\n" for name in COLUMNS) + "end_header\n"
    return header.encode() + np.ones((2, len(COLUMNS)), "<f4").tobytes()


def _npz() -> bytes:
    data = BytesIO()
    np.savez_compressed(data, coords=np.arange(12).reshape(4, 3), text=np.array(["a", "bc"]), ok=np.array(True))
    return data.getvalue()


def _png() -> bytes:
    data = BytesIO()
    Image.new("RGBA", (5, 4), (255, 0, 9, 128)).save(data, format="PNG")
    return data.getvalue()


ROW = {
    "schema_version": 4, "run_id": "a", "status": "ok", "method": "vm", "method_version": 1, "split": "test",
    "metric": "FD", "metric_version": 1, "value": 1.5, "n_ok": 3, "n_total": 4, "higher_is_better": False,
    "config_sha": "0", "torch": "2", "device": "cpu", "created_utc": "2026-01-01T00:00:00+00:00", "steps": 1,
}  # fmt: skip
VALUE = {"schema_version": 2, "run_id": "a", "method": "vm", "asset": "chair", "ok": True, "values": {"FD": 0.5}}
STUDENT = {"method": "vm", "train_seed": 0, "steps": 20, "batch": 16, "forwards": 5, "lr": 1e-4}
MANIFEST = {
    "run_id": "a", "key": "b", "preset": "smoke", "command": ["mdtbench", "run"], "config": {"world": "tiny"},
    "methods": {"vm": {"version": 1, "parameters": "VM()"}}, "train_seeds": [0], "seeds": [0], "started_s": 1.7e9,
    "finished_s": 1.8e9, "versions": {"torch": "2"}, "machine": {"cores": 2},
}  # fmt: skip
INDEX = {"format": 1, "assets": [{"id": "a", "files": {"condition": ["a.png"]}}]}
RECORD = {"steps": 3, "sha256": "5fa8"}
RECEIPT = {
    "key": "scores-0", "kind": "scores", "label": "scores", "status": "done", "attempt": 0, "host": "a",
    "device": "cpu", "units": 1, "seconds": 0.5, "gpu_seconds": 0.0, "made": {"0": "1"}, "sha256": "0",
}  # fmt: skip
JOB = {"classes": [], "objects": [], "root": None, "label": "scores", "units": 1, "gpus": 0}

# name: (file's name, reader, bytes to begin with)
READERS: Mapping[str, tuple[str, Callable[[Path], object], bytes]] = {
    "obj": ("a.obj", _mesh, OBJ),
    "mtl": ("a.mtl", lambda path: _beside(path, "a.obj", OBJ, _mesh), b"newmtl m\nKd 1 0 0\nmap_Kd -s 1 1 1 t.png\n"),
    "off": ("a.off", _mesh, OFF),
    "ply": ("a.ply", _mesh, PLY),
    "stl": ("a.stl", _mesh, _stl()),
    "glb": ("a.glb", _mesh, _glb()),
    "gltf": ("a.gltf", _mesh, _glb()[20:-52].strip(b"\0")),
    "gaussians": ("a.ply", read_gaussians, _gaussians()),
    "npz": ("a.npz", load_arrays, _npz()),
    "picture": ("a.png", read_picture, _png()),
    "safetensors": ("a.safetensors", read_tensors, safetensors_bytes({"a": np.ones((2, 3), np.float32)})),
    "students' tensors": ("a.safetensors", load_tensors, safetensors_bytes({"a": np.ones(2)}, {"sha256": "0"})),
    "network": ("a.json", lambda path: read_config(path.with_suffix("")), b'{"name": "X", "args": {"a": 1}}'),
    "json": ("a.json", read_json, json.dumps(MANIFEST).encode()),
    "record": ("a.json", read_record, json.dumps(RECORD).encode()),
    "preset": ("a.toml", lambda path: load_config(str(path)), b'world = "tiny"\n[train]\nsteps = 3\nbatch = 4\n'),
    "protocol": ("a.toml", lambda path: load_protocol(str(path)), b'name = "mine"\nversion = 1\n[views]\ncount = 4\n'),
    "settings": ("a", _settings, b"limits.pixels=5\ntrain.steps=3\nextractors=random\ndata.latents=['a']"),
    "rows": ("rows.jsonl", read_rows, json.dumps(ROW).encode() + b"\n"),
    "show": ("rows.jsonl", _report(page), json.dumps(ROW).encode() + b"\n"),
    "assets.jsonl": ("assets.jsonl", _report(read_asset_values), json.dumps(VALUE).encode() + b"\n"),
    "students": ("students.jsonl", _report(read_students), json.dumps(STUDENT).encode() + b"\n"),
    "sweeps": ("sweep.json", _report(read_sweeps), b'{"records": []}'),
    "manifest": ("manifest.json", read_manifest, json.dumps(MANIFEST).encode()),
    "show manifest": ("manifest.json", _report(page), json.dumps(MANIFEST).encode()),
    "receipt": ("receipts/scores-0.json", read_receipt, json.dumps(RECEIPT).encode()),
    "job": ("jobs/scores-0.json", lambda path: status_text(path.parent.parent), json.dumps(JOB).encode()),
    "driver": ("driver.json", _report(driver_of), b'{"host": "a", "pid": 7, "started_s": 1e9, "beat_s": 1e9}'),
    "tolerances": ("a.toml", lambda path: read_tolerances(path, ["FD"]), b"[FD]\nrelative = 0.1\n"),
    "sums": ("SHA256SUMS", _report(lambda folder: list(damaged(folder))), b"0" * 64 + b"  rows.jsonl\n"),
    "export": ("export/index.json", lambda path: read_exported(path.parent.parent), json.dumps(INDEX).encode()),
    "import": ("a.csv", _csv, CSV),
    "folder": ("manifest.csv", lambda path: FolderSource(path.parent).assets(), b"id,file,category\na,a.glb,chair\n"),
}  # fmt: skip


def _beside(path: Path, name: str, data: bytes, read: Callable[[Path], object]) -> object:
    (path.parent / name).write_bytes(data)
    return read(path.with_name(name))
