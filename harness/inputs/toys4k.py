"""Toys4k as test assets: Blender draws the true pictures and the conditions, and converts the true meshes.

Shapes: V views, S pixels a side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...assets.blend import (
    BlendCache,
    Blender,
    ExportJob,
    RenderJob,
    View,
    condition_views,
    coverage,
    on_black,
)
from ...assets.images import read_rgba
from ...assets.toys4k import CSV, FOLDER, HOW_TO_GET, Row, Toys4kAsset, Toys4kSource, faults, read_rows
from ...base.errors import MissingError, UsageError
from ...base.files import digest_of
from ...geometry.mesh import Mesh
from ..protocol.model import DEFAULT, load_protocol
from ..protocol.rules import cond_render_seed, cond_view, select
from ..protocol.values import GroundTruth, Values

UNIT_CUBE = 1.0  # side of the box of meshes: the normalisation of the protocol's reference
PREFIX = "toys4k:"  # of the value of an option, before the folder
BLENDER_FOLDER = "blender"  # below the cache folder: what Blender made
BLENDER_VERSION = 1  # raised when our code changes what is read of Blender's pictures
# Versions of Blender -> the variant of a protocol that has its pictures; "": the protocol as it is.
VARIANTS = {"3.0.1": "", "4.5": "blender-4.5"}
# What a job says. All other values of a protocol's gt_render stand in the scripts that run in Blender.
OF_JOBS = ("renderer", "samples", "seed")
OF_FILES = "of the file"


@dataclass(frozen=True)
class BlenderLook:
    """A .blend file of Toys4k as Blender shows it.

    Attributes:
        views: the job of the protocol's pictures. condition: that of the conditioning picture.
    """

    asset: Toys4kAsset
    views: RenderJob
    condition: RenderJob

    @cached_property
    def content(self) -> str:
        """Digest of all that the mesh and the pictures are made of: the file, our scripts, Blender's version, jobs."""
        jobs = {"views": self.views.to_json(), "condition": self.condition.to_json()}
        return digest_of([BLENDER_VERSION, self.asset.blender.inputs(self.asset.id, ExportJob()), jobs])

    def load(self) -> Mesh:
        """In the unit cube, z up. Raises AssetError: the file is missing or another, or Blender fails."""
        return self.asset.load().normalised(UNIT_CUBE)

    def draw(self) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
        """Pictures [V, 3, S, S] on black; coverage [V + 1], mean alpha, that of the conditioning picture last.

        An asset counts for a protocol only if its conditioning picture can be rendered as well. Raises AssetError.
        """
        views, condition = (self.asset.made(job).pictures for job in (self.views, self.condition))
        pictures = np.stack([on_black(path) for path in views]).transpose(0, 3, 1, 2)
        covered = np.array([coverage(path) for path in (*views, *condition)])
        return np.ascontiguousarray(pictures), covered

    def shown(self) -> NDArray[np.uint8]:
        """The conditioning picture: [S, S, 4], colours not premultiplied, before any crop. Raises AssetError."""
        return read_rgba(self.asset.made(self.condition).pictures[0])


@dataclass(frozen=True)
class Toys4kReference:
    """Toys4k under a protocol. Make with `open_toys4k`.

    Attributes:
        known: ids of all rows of the list, sorted.
        assets: of the protocol's subset, by id, sorted.
        values: of the protocol.
    """

    known: Sequence[str]
    assets: Mapping[str, Toys4kAsset]
    values: Values

    @property
    def name(self) -> str:
        return f"toys4k-{self.values.assets.subset}"

    @property
    def drawn_by(self) -> str:
        blender = next(iter(self.assets.values())).blender.blender
        return f"Blender {blender.version}"

    @property
    def ids(self) -> Sequence[str]:
        """Of the protocol's subset; an id is the sha256 of the .blend file."""
        return tuple(self.assets)

    @cached_property
    def failures(self) -> Mapping[str, str]:
        """Reason by id of each file that is missing or not the listed one. Reads all files of the subset.

        What Blender cannot do is found when it is asked: a look's `load`, `draw` and `shown` raise AssetError.
        """
        return faults(self.assets.values())

    @cached_property
    def _settings(self) -> dict[str, Any]:
        return render_settings(self.values)

    def look(self, name: str) -> BlenderLook:
        """What Blender shows of an asset."""
        views, shown = self.values.views, self.values.cond_image
        assert shown is not None  # `open_toys4k` has looked
        placed = tuple(View(yaw, views.pitch_deg, views.radius, views.fov_deg) for yaw in views.yaw_deg)
        chosen = condition_views(cond_render_seed(shown, name), shown.views, shown.fov_deg)
        condition = chosen[cond_view(shown, name)]
        return BlenderLook(
            self.assets[name],
            RenderJob(placed, views.resolution, **self._settings),
            RenderJob((condition,), shown.render_resolution, **self._settings),
        )


def folder_of(option: Path | str | None) -> Path | None:
    """FOLDER of toys4k:FOLDER; None for an option that is something else."""
    text = str(option or "")
    return Path(text.removeprefix(PREFIX)).expanduser() if text.startswith(PREFIX) else None


def meshes_of(folder: Path, blender: Blender, cache: Path) -> Toys4kSource:
    """All of Toys4k as shapes that Blender converts one by one, for runs that draw with mdtbench's own renderer."""
    return Toys4kSource(folder / CSV, folder / FOLDER, BlendCache(cache / BLENDER_FOLDER, blender, threads=1))


def variant_of(blender: Blender) -> str:
    """The variant of trellis-v1 that has the pictures of this Blender; "" for none.

    Raises:
        UsageError: no protocol has its pictures.
    """
    return VARIANTS[_line(blender)]


def open_toys4k(folder: Path, values: Values, blender: Blender, cache: Path, *, threads: int = 0) -> Toys4kReference:
    """The protocol's assets; nothing is rendered and no .blend file is read.

    Args:
        folder: holds Toys4k.csv and toys4k_blend_files.
        cache: what Blender makes is kept below it.
        threads: of one Blender; 0 for all.
    Raises:
        MissingError: no list, no folder of .blend files, or none of the listed files in it.
        UsageError: the list is malformed, or the protocol asks for pictures that this Blender does not make.
    """
    _check_renderer(values, blender)
    render_settings(values)
    rows, files = read_rows(folder / CSV), folder / FOLDER
    if not files.is_dir():
        raise MissingError(f"There is no folder {files}. {HOW_TO_GET}, then extract it.")
    made = BlendCache(cache / BLENDER_FOLDER, blender, threads=threads)
    chosen = _chosen(rows, values)
    assets = {row.sha256: Toys4kAsset(row, files / row.file_identifier, made) for row in chosen}
    if not assets:
        raise UsageError(
            f"{folder / CSV}: no row has an aesthetic score of {values.assets.min_aesthetic_score or 0:g} or more - at "
            f"least one is needed - give TRELLIS-500K's {CSV}."
        )
    if not any(asset.path.is_file() for asset in assets.values()):
        raise MissingError(
            f"None of the {len(assets)} listed files is in {files} (such as {chosen[0].file_identifier}). "
            f"{HOW_TO_GET}, and extract it so that its folders of categories lie there."
        )
    return Toys4kReference(sorted(row.sha256 for row in rows), assets, values)


def render_settings(values: Values) -> dict[str, Any]:
    """What jobs take from a protocol's gt_render.

    Raises:
        UsageError: it has a value that Blender's scripts do not know.
    """
    wanted = checked_renders(values)
    as_is = wanted.world == OF_FILES
    known = checked_renders(load_protocol(f"{DEFAULT}+as-is" if as_is else DEFAULT).values)
    fixed = [name for name in GroundTruth.model_fields if name not in OF_JOBS]
    for name in fixed:
        if getattr(wanted, name) != getattr(known, name):
            raise UsageError(
                f"Blender's scripts cannot draw gt_render.{name} = {getattr(wanted, name)!r} - with this world only "
                f"{getattr(known, name)!r} is allowed - change the protocol."
            )
    return {"samples": wanted.samples, "seed": wanted.seed, "as_is": as_is}


def checked_renders(values: Values) -> GroundTruth:
    """What a protocol says of reference pictures. Raises UsageError where it says nothing."""
    if values.gt_render is None or values.cond_image is None:
        raise UsageError("This protocol has no pictures of Blender's - trellis-v1 has - name it with --set protocol=.")
    return values.gt_render


def _chosen(rows: Sequence[Row], values: Values) -> list[Row]:
    """Rows of the protocol's subset, sorted by id."""
    least = values.assets.min_aesthetic_score or 0.0
    listed = {row.sha256: row for row in rows if row.aesthetic_score >= least}
    return [listed[sha] for sha in sorted(select(values, listed))]


def _line(blender: Blender) -> str:
    """The line of versions that a Blender belongs to, which is a key of `VARIANTS`."""
    version = blender.version.split()[0]  # 4.5.15 LTS
    found = [line for line in VARIANTS if version == line or version.startswith(f"{line}.")]
    if not found:
        raise UsageError(
            f"No protocol has pictures of Blender {blender.version} - {' and '.join(VARIANTS)} are allowed - set "
            "MDTBENCH_BLENDER to one of them."
        )
    return found[0]


def _check_renderer(values: Values, blender: Blender) -> None:
    wanted, found = checked_renders(values).renderer, f"Blender {_line(blender)} Cycles"
    if wanted != found:
        raise UsageError(
            f"The protocol's pictures are those of '{wanted}', and this is Blender {blender.version} - name the "
            "protocol without a variant of the renderer: the one of this Blender is chosen."
        )
