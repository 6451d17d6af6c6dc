"""Small files that announce or unpack to much. By hand: python tests/fuzz/bombs.py prints each and the counts."""

from __future__ import annotations

import gzip
import io
import json
import resource
import struct
import sys
import time
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from readers import CSV, MANIFEST, OFF, READERS, ROW, run

BIG = 10**12


def png(width: int, height: int, depth: int = 1, colour: int = 0, rows: int | None = None) -> bytes:
    """All black; of `rows` rows, where not all are there."""
    row = b"\0" * (1 + (width * depth * {0: 1, 2: 3, 6: 4}[colour] + 7) // 8)
    packer = zlib.compressobj(9)
    data = b"".join(packer.compress(row) for _ in range(height if rows is None else rows)) + packer.flush()
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", data), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )


def npz(members: dict[str, bytes]) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, body in members.items():
            archive.writestr(name, body)
    return data.getvalue()


def npy(shape: str, dtype: str = "<f4", body: bytes = b"\0" * 64) -> bytes:
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(text) + 1) + text + b"\n" + body


def ply(elements: str, body: bytes = b"", form: str = "ascii") -> bytes:
    return f"ply\nformat {form} 1.0\n{elements}end_header\n".encode() + body


def gltf(**changes: object) -> bytes:
    """A triangle whose header is changed."""
    buffer = "data:application/octet-stream;base64," + "AAAA" * 12
    header = {
        "asset": {"version": "2.0"}, "scene": 0, "scenes": [{"nodes": [0]}], "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0}}]}], "buffers": [{"byteLength": 36, "uri": buffer}],
        "bufferViews": [{"buffer": 0, "byteLength": 36}],
        "accessors": [{"bufferView": 0, "componentType": 5126, "count": 3, "type": "VEC3"}],
    }  # fmt: skip
    return json.dumps(header | changes).encode()


def accessor(**changes: object) -> bytes:
    return gltf(accessors=[{"bufferView": 0, "componentType": 5126, "count": 3, "type": "VEC3"} | changes])


def glb(length: int, chunk: int) -> bytes:
    return b"glTF" + struct.pack("<IIII", 2, length, chunk, 0x4E4F534A) + b"{}  "


def safetensors(header: object) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(16)


def bombs() -> Iterator[tuple[str, str, bytes]]:
    """(reader, what it is, bytes)."""
    for side in (9000, 13300, 30000, 65000):
        yield "picture", f"black PNG of {side} x {side}", png(side, side, rows=min(side, 13300))
    yield "picture", "PNG of 2^31 x 1", png(2**31 - 1, 1, rows=0)
    yield "picture", "PNG of 8192 x 8192 without rows", png(8192, 8192, 8, 6, rows=0)
    yield "picture", "16-bit PNG of 9000 x 9000", png(9000, 9000, 16, 0, rows=100)
    yield "picture", "16-bit PNG of 8192 x 8192, the most that is allowed", png(8192, 8192, 16, 0)
    for shape in (f"({BIG},)", "(4294967296, 4294967296)", "(0, 4294967296)", "(-5,)", "(" + "1, " * 40 + ")"):
        yield "npz", f"array of shape {shape[:30]}", npz({"a.npy": npy(shape)})
    yield "npz", "array that unpacks to 3 GB", _zeros()
    yield "npz", "a thousand members", npz({f"{i}.npy": npy("(16,)") for i in range(1000)})
    yield "npz", "strings of 2 GB", npz({"a.npy": npy("(1,)", f"<U{2**29}")})
    yield "npz", "objects", npz({"a.npy": npy("(8,)", "|O")})
    yield "npz", "an archive in an archive", npz({"a.npy": npz({"b.npy": b"\0" * 10**6})})
    for count in (10**6, BIG, 10**18, 10**30, -1):
        yield "ply", f"{count} vertices in ASCII", ply(f"element vertex {count}\nproperty float x\n")
        yield "ply", f"{count} vertices", ply(f"element vertex {count}\nproperty float x\n", bytes(99), BINARY)
    yield "ply", "rows without properties", ply(f"element vertex {BIG}\n", b"", BINARY)
    yield "ply", "a list of 4 billion", ply(LIST, b"\xff\xff\xff\xff" + bytes(99), BINARY)
    yield "ply", "a list of -1", ply(LIST.replace("uint", "int"), b"\xff\xff\xff\xff" + bytes(99), BINARY)
    yield "ply", "ten thousand elements", ply("".join(f"element e{i} 0\nproperty int x\n" for i in range(10_000)))
    for count in (BIG, -1, "9" * 400):
        yield "off", f"{str(count)[:20]} faces", OFF.replace(b"4 2 0", f"4 {count} 0".encode())
        yield "off", f"{str(count)[:20]} corners", OFF.replace(b"\n3 0", f"\n{count} 0".encode())
    yield "stl", "4 billion triangles", bytes(80) + b"\xff\xff\xff\xff" + bytes(100)
    yield "obj", "a vertex number of 400 digits", b"v 0 0 0\nf 1 2 " + b"9" * 400
    yield "obj", "a face of 200,000 corners", b"v 0 0 0\nv 1 0 0\nv 0 1 0\nf" + b" 1 2 3" * 66_667
    for count in (BIG, 10**8, -1, 1e300):
        yield "gltf", f"accessor of {count}", accessor(count=count)
        yield "gltf", f"accessor of {count} without a buffer", gltf(accessors=[_bare(count)])
    yield "gltf", "sparse accessor of many", accessor(count=3, sparse={"count": BIG, "indices": {}, "values": {}})
    yield "gltf", "stride of many", gltf(bufferViews=[{"buffer": 0, "byteLength": 36, "byteStride": BIG}])
    yield "gltf", "nodes in a circle", gltf(nodes=[{"mesh": 0, "children": [0]}])
    yield "gltf", "2^40 instances", gltf(nodes=[*({"children": [i + 1, i + 1]} for i in range(40)), {"mesh": 0}])
    yield "gltf", "5,000 nodes deep", gltf(nodes=[*({"children": [i + 1]} for i in range(5000)), {"mesh": 0}])
    yield "gltf", "200,000 instances", _instances(200_000)
    yield "glb", "a chunk of 4 GB", glb(24, 2**32 - 1)
    yield "glb", "a length of 4 GB", glb(2**32 - 1, 4)
    yield "gltf", "JSON of 100,000 levels", b"[" * 100_000
    yield "json", "object of 100,000 levels", b'{"a":' * 100_000
    yield "manifest", "a number of a million digits", b'{"started_s": ' + b"9" * 1_000_000 + b"}"
    yield "manifest", "a start in 3e12 years", json.dumps(MANIFEST | {"started_s": 1e20}).encode()
    yield "rows", "steps of 400 digits", json.dumps(ROW | {"steps": 10**400}).encode()
    yield "rows", "a row of 1,000 levels", b'{"a":' * 1000 + b"1" + b"}" * 1000
    yield "import", "steps of 400 digits", CSV.replace(b",1,0,5", b"," + b"1" * 400 + b",0,5")
    yield "import", "a cell of 1 MB", CSV.replace(b",x\n", b"," + b"x" * 10**6 + b"\n")
    yield "preset", "arrays of 100,000 levels", b"a = " + b"[" * 100_000
    yield "preset", "keys of 10,000 parts", b".".join([b"a"] * 10_000) + b" = 1"
    yield "settings", "arrays of 5,000 levels", b"limits.pixels=" + b"[" * 5000
    yield "safetensors", "a header of 2^63", struct.pack("<Q", 2**63) + bytes(99)
    yield (
        "safetensors",
        "a tensor of 4 TB",
        safetensors({"a": _tensor() | {"shape": [BIG]}}),
    )
    yield "students' tensors", "overlapping tensors", safetensors({n: _tensor() for n in "abcdefgh"})
    yield "picture", "gzip", gzip.compress(bytes(10**6))


BINARY = "binary_little_endian"
LIST = "element face 1\nproperty list uint int vertex_indices\n"


def _bare(count: float) -> dict[str, object]:
    return {"componentType": 5126, "count": count, "type": "VEC3"}


def _tensor() -> dict[str, object]:
    return {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}


def _zeros() -> bytes:
    data = io.BytesIO()
    with (
        zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("a.npy", "w", force_zip64=True) as out,
    ):
        out.write(npy(f"({3 * 10**9},)", "|u1", b""))
        for _ in range(300):
            out.write(bytes(10**7))
    return data.getvalue()


def _instances(count: int) -> bytes:
    nodes = [{"children": list(range(1, count + 1))}, *({"mesh": 0} for _ in range(count))]
    return gltf(nodes=nodes)


def peak_gb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def main() -> int:
    bad = count = 0
    slowest = 0.0
    for reader, what, data in bombs():
        file, read, _ = READERS[reader]
        started, result = time.monotonic(), "fine"
        try:
            run(read, file, data)
        except Exception as error:
            result, bad = f"{type(error).__name__}: {error}"[:150], bad + 1
        seconds = time.monotonic() - started
        slowest, count = max(slowest, seconds), count + 1
        sys.stdout.write(f"{reader}: {what} ({len(data)} bytes): {result}, {seconds:.1f} s, {peak_gb():.2f} GB\n")
    sys.stdout.write(f"{count} bombs: {bad} bad, slowest {slowest:.1f} s, peak memory {peak_gb():.2f} GB\n")
    return bad


if __name__ == "__main__":
    raise SystemExit(bool(main()))
