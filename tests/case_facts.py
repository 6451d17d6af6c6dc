"""The small files in tests/cases, and what is read of each: `facts.csv` says what is right.

    python tests/case_facts.py

prints the table of the folders with what comes out now.
"""

from __future__ import annotations

import csv
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mdtbench.assets.folder import FolderAsset
from mdtbench.assets.gaussian_ply import misplaced, read_gaussians
from mdtbench.assets.mesh_files import UP_AXIS, read_mesh
from mdtbench.assets.sniff import SPLATS
from mdtbench.base.errors import AssetError
from mdtbench.geometry.surface import surface_samples
from mdtbench.render.meshes import surface_colours, surface_opacity

CASES = Path(__file__).parent / "cases"
CORNER = 1 / 6  # of the longest side
SAMPLES = 200  # along the longest side of an asset
COLUMNS = ("file", "outcome", "count", "area", "low", "high", "colour", "corner", "opacity", "words")
# Of digits that are written, and of means over samples.
TOLERANCES = {"area": 1e-3, "low": 1e-3, "high": 1e-3, "colour": 0.01, "corner": 0.01, "opacity": 0.01}


@dataclass(frozen=True)
class Facts:
    """Of one file, as text.

    Attributes:
        outcome: read, noted or refused. words: the notes or the reason.
        count: faces, or Gaussians. colour: the mean of what is seen. corner: that near the low corner of the box.
        opacity: the mean; of a mesh how much of its surface is seen.
    """

    file: str
    outcome: str
    count: str = ""
    area: str = ""
    low: str = ""
    high: str = ""
    colour: str = ""
    corner: str = ""
    opacity: str = ""
    words: str = ""

    def wrong(self, right: Facts) -> list[str]:
        """What differs from what is right, whose words are part of those found."""
        bad = [name for name in ("outcome", "count") if getattr(self, name) != getattr(right, name)]
        bad += [name for name, tolerance in TOLERANCES.items() if not self._near(right, name, tolerance)]
        return bad if right.words in self.words else [*bad, "words"]

    def _near(self, right: Facts, name: str, tolerance: float) -> bool:
        mine, theirs = (np.array(getattr(one, name).split(), float) for one in (self, right))
        return mine.shape == theirs.shape and bool(np.allclose(mine, theirs, rtol=tolerance, atol=tolerance))


def case_files() -> list[Path]:
    """All that is read as meshes or Gaussians, but for folders that are evaluated and damaged files."""
    suffixes = (*UP_AXIS, *SPLATS)
    paths = (path for path in sorted(CASES.rglob("*")) if path.suffix.lower() in suffixes)
    return [path for path in paths if not {"made", "truth", "damaged"} & {*path.parts}]


def right_facts() -> dict[str, Facts]:
    """By file, relative to the folder of cases."""
    with (CASES / "facts.csv").open(encoding="utf-8", newline="") as stream:
        return {row["file"]: Facts(**row) for row in csv.DictReader(stream)}


def found_facts(path: Path) -> Facts:
    """What comes out now."""
    name = path.relative_to(CASES).as_posix()
    try:
        return _of_gaussians(name, path) if FolderAsset("", "", path).is_gaussians else _of_mesh(name, path)
    except AssetError as error:
        reason = str(error)
    assert re.fullmatch(rf"{re.escape(path.name)}: .+", reason), reason  # of one line
    return Facts(name, "refused", words=reason.removeprefix(f"{path.name}: "))


def _of_mesh(name: str, path: Path) -> Facts:
    mesh = read_mesh(path)
    points = mesh.triangles.reshape(-1, 3)
    low, high = points.min(0), points.max(0)
    samples = surface_samples(mesh.normalised(1.0), 1 / SAMPLES)
    opacity = surface_opacity(mesh, samples.face, samples.uv)
    weight = samples.area * opacity
    colours = surface_colours(mesh, samples.face, samples.uv)
    near = weight * (samples.points <= samples.points.min(0) + CORNER).all(1)
    first, second, third = mesh.triangles.transpose(1, 0, 2)
    area = np.linalg.norm(np.cross(second - first, third - first), axis=1).sum() / 2
    return Facts(
        name,
        "noted" if mesh.notes else "read",
        str(len(mesh.faces)),
        f"{area:.6g}",
        _text(low),
        _text(high),
        _text(weight @ colours / weight.sum(), 3),
        _text(near @ colours / near.sum(), 3) if near.any() else "",
        f"{weight.sum() / samples.area.sum():.3f}",
        "; ".join(mesh.notes),
    )


def _of_gaussians(name: str, path: Path) -> Facts:
    found = read_gaussians(path)
    if not len(found):
        return Facts(name, "read", "0")
    notes = misplaced(found)
    return Facts(
        name,
        "noted" if notes else "read",
        str(len(found)),
        "",
        _text(found.means.min(0)),
        _text(found.means.max(0)),
        _text(found.colours.mean(0), 3),
        "",
        f"{found.opacities.mean():.3f}",
        "; ".join(notes),
    )


def _text(values: np.ndarray, digits: int = 5) -> str:
    return " ".join(f"{value:.{digits}g}" for value in np.asarray(values, float) + 0.0)


def table() -> Iterator[str]:
    """A line per folder: how many files are read, read with a note and refused; how many not as they should be."""
    right, folders = right_facts(), defaultdict(list)
    for path in case_files():
        found = found_facts(path)
        folders[found.file.partition("/")[0]].append((found, found.wrong(right[found.file])))
    yield f"{'folder':32}{'files':>7}{'read':>7}{'noted':>7}{'refused':>9}   now"
    for name, cases in folders.items():
        counts = [sum(found.outcome == kind for found, _ in cases) for kind in ("read", "noted", "refused")]
        bad = [f"{found.file.partition('/')[2]} ({', '.join(why)})" for found, why in cases if why]
        now = "as it should be" if not bad else f"wrong: {'; '.join(bad)}"
        yield f"{name:32}{len(cases):7}{counts[0]:7}{counts[1]:7}{counts[2]:9}   {now}"


if __name__ == "__main__":
    sys.stdout.write("\n".join(table()) + "\n")
