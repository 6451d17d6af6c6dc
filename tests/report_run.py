"""A small run with exported assets, made up, for tests of the HTML report."""

from __future__ import annotations

import csv
import importlib.util
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import trimesh
from PIL import Image

from mdtbench.assets.mesh_export import write_glb
from mdtbench.base.files import write_json
from mdtbench.results.asset_values import AssetValue, write_asset_values
from mdtbench.results.rows import write_rows

_SPEC = importlib.util.spec_from_file_location("results_make", Path(__file__).parent / "results" / "make.py")
make = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(make)

HOSTILE = "<img src=x onerror=alert(1)>"
IDS = ("chair", HOSTILE, "lamps/red", "größe & \"5'")
UNUSABLE = "</script><b>broken"
NO_SURFACE = "the mesh has <no> surface"
MAKERS = {"mdt": (0.9, 0.1, 0.1), "cm": (0.1, 0.8, 0.2)}  # colours of what they made
TRUTH_RGB = (0.2, 0.3, 0.95)
SEEDS = (0, 1)


def write_run(folder: Path, *, models: bool = True, pictures: bool = True, values: bool = True) -> Path:
    """A run with whole assets of mdt and cm; HOSTILE has no mesh of cm, and UNUSABLE could not be prepared."""
    folder.mkdir(parents=True, exist_ok=True)
    write_rows(folder / "rows.jsonl", make.whole_run())
    failures = [("test", UNUSABLE, "no <voxel> is occupied"), ("cm 1 (both, seed 1)", HOSTILE, NO_SURFACE)]
    _write_table(folder / "failures.csv", ("where", "id", "reason"), failures)
    if values:
        write_asset_values(folder, _values(IDS))
    if models or pictures:
        _write_export(folder / "export", models, pictures)
    return folder


def write_large_run(folder: Path, count: int) -> Path:
    """A run with values and conditioning pictures of `count` assets."""
    folder.mkdir(parents=True, exist_ok=True)
    ids = [f"object {i:05d}" for i in range(count)]
    write_rows(folder / "rows.jsonl", make.whole_run())
    write_asset_values(folder, _values(ids))
    root = folder / "export"
    (root / "condition").mkdir(parents=True)
    for i in range(count):
        Image.new("RGB", (64, 64), (i % 256, i // 256 * 16, 90)).save(root / "condition" / f"{i}.png")
    entries = [{"id": name, "files": {"condition": [f"condition/{i}.png"]}} for i, name in enumerate(ids)]
    write_json(root / "index.json", {"format": 1, "assets": entries})
    return folder


def ulip_of(index: int, method: str, seed: int) -> float:
    """Of asset `index`, distinct: the last asset is best, and cm is better than mdt."""
    return 40.0 + index + (0.5 if method == "cm" else 0.0) + seed / 8


def _values(ids: Sequence[str]) -> Iterable[AssetValue]:
    for method in MAKERS:
        for seed in SEEDS:
            for i, name in enumerate(ids):
                lost = name == HOSTILE and method == "cm" and seed == 1
                yield AssetValue(
                    run_id="run",
                    stage="both",
                    method=method,
                    train_seed=0,
                    steps=1,
                    seed=seed,
                    asset=name,
                    ok=not lost,
                    error=NO_SURFACE if lost else "",
                    values={"ULIP_tiny": 0.0 if lost else ulip_of(i, method, seed), "latency_s": 0.5},
                )
    for i, name in enumerate(ids):
        values = {"ULIP_tiny": 80.0 + i}
        yield AssetValue(run_id="run", stage="both", method="truth", asset=name, ok=True, values=values)
        structure = {"ULIP_tiny": 12.0 + i}
        yield AssetValue(
            run_id="run", method="cm", train_seed=0, steps=2, seed=0, asset=name, ok=True, values=structure
        )


def _write_export(root: Path, models: bool, pictures: bool) -> None:
    entries = []
    for i, name in enumerate(IDS):
        files = {"condition": [_picture(root, f"condition/{i}.png", (128, 128, 128), 48)] if pictures else []}
        for maker, rgb in (("truth", TRUTH_RGB), *((f"{method}-1x2", rgb) for method, rgb in MAKERS.items())):
            failed = name == HOSTILE and maker == "cm-1x2"
            files[maker] = [
                *([_picture(root, f"{maker}/{i}.png", rgb, 256)] if pictures and not failed else []),
                *([_model(root, f"{maker}/{i}.glb", rgb)] if models and not failed else []),
            ]
        entries.append({"id": name, "files": files})
    write_json(root / "index.json", {"format": 1, "assets": entries})
    _write_table(root / "failures.csv", ("made_by", "id", "reason"), [("cm-1x2", HOSTILE, NO_SURFACE)])


def _picture(root: Path, name: str, rgb: Sequence[float], side: int) -> str:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    colour = tuple(round(255 * level) if isinstance(level, float) else level for level in rgb)
    Image.new("RGB", (side, side), colour).save(root / name)
    return name


def _model(root: Path, name: str, rgb: Sequence[float]) -> str:
    """A slanted box, so that every turn of it looks different."""
    box = trimesh.creation.box((0.8, 0.5, 0.3))
    write_glb(root / name, box.vertices, box.faces, np.tile(np.float32(rgb), (len(box.vertices), 1)))
    return name


def _write_table(path: Path, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([head, *rows])
