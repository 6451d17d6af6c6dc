"""Training data in TRELLIS's own layout on disk.

metadata.csv     sha256, aesthetic_score, num_voxels and the flags cond_rendered, ss_latent_MODEL, latent_MODEL
ss_latents/MODEL/SHA256.npz            mean [8, 16, 16, 16]: structure latents
latents/MODEL/SHA256.npz               feats [N, 8], coords [N, 3] uint8: structured latents
renders_cond/SHA256/transforms.json    conditioning views: frames, each with its file_path
renders_cond/SHA256/000.png ...        RGBA

Facts from trellis/datasets (components.py, sparse_structure_latent.py, structured_latent.py) and dataset_toolkits
(encode_latent.py, encode_ss_latent.py, build_metadata.py) of microsoft/TRELLIS.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..base.arrays import read_arrays
from ..base.errors import AssetError, MissingError, UsageError
from ..base.parsing import parse_json
from .images import read_rgba

METADATA = "metadata.csv"
STRUCTURE_SHAPE = (8, 16, 16, 16)
SLAT_CHANNELS = 8
SLAT_RESOLUTION = 64
CONDITION_SIZE = 518
MARGIN = 1.2

# Values of the metadata's flags as pandas writes them; a flag that was never set is empty.
TRUE, FALSE = ("true", "1", "1.0"), ("false", "0", "0.0", "")


@dataclass(frozen=True)
class Choice:
    """Which instances are used, with the values of TRELLIS's configurations of its L models.

    Attributes:
        structure_model, slat_model: folder below ss_latents and latents; "" when that latent is not asked for.
        conditions: whether rendered conditioning views are asked for.
        max_voxels: for structured latents only.
    """

    structure_model: str = "ss_enc_conv3d_16l8_fp16"
    slat_model: str = "dinov2_vitl14_reg_slat_enc_swin8_B_64l8_fp16"
    conditions: bool = True
    min_aesthetic_score: float = 4.5
    max_voxels: int = 32768


@dataclass(frozen=True)
class Slat:
    """A structured latent, not normalised.

    Attributes:
        coords: [N, 3] int32, each in [0, 64), no two rows equal. feats: [N, 8] float32.
    """

    coords: NDArray[np.int32]
    feats: NDArray[np.float32]


@dataclass(frozen=True)
class LatentSource:
    """The instances of one or more folders that pass a choice.

    Attributes:
        roots: folder by id; in the order of the folders and of their lists.
        counts: (label, number) after each step of the choice, over all folders.
    """

    choice: Choice
    roots: Mapping[str, Path]
    counts: Sequence[tuple[str, int]]

    def instances(self) -> Sequence[str]:
        """Ids (sha256 of the asset)."""
        return list(self.roots)

    def structure_latent(self, instance: str) -> NDArray[np.float32]:
        """[8, 16, 16, 16], not normalised: TRELLIS does not normalise these.

        Raises:
            AssetError: the file is missing or malformed.
        """
        mean = _array(self._path("ss_latents", self.choice.structure_model, f"{instance}.npz"), "mean")
        if mean.shape != STRUCTURE_SHAPE:
            raise AssetError(f"{instance}: mean has shape {list(mean.shape)} - {list(STRUCTURE_SHAPE)} is needed")
        return _finite(instance, "mean", mean)

    def slat(self, instance: str) -> Slat:
        """Raises AssetError when the file is missing or malformed."""
        path = self._path("latents", self.choice.slat_model, f"{instance}.npz")
        coords, feats = _array(path, "coords"), _array(path, "feats")
        _check_rows(instance, coords, feats)
        return Slat(coords.astype(np.int32), _finite(instance, "feats", feats))

    def views(self, instance: str) -> Sequence[Path]:
        """The conditioning pictures of an instance.

        Raises:
            AssetError: their list is missing, malformed or empty.
        """
        listing = self._path("renders_cond", instance, "transforms.json")
        try:
            files = [frame["file_path"] for frame in parse_json(listing.read_text(encoding="utf-8"))["frames"]]
            paths = [listing.parent / file for file in files]
        except FileNotFoundError as error:
            raise AssetError(f"{instance}: there is no {listing}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise AssetError(f"{instance}: {listing} is not a list of views ({error!r})") from error
        if not paths:
            raise AssetError(f"{instance}: {listing} lists no view")
        return paths

    def condition(self, instance: str, generator: np.random.Generator) -> NDArray[np.uint8]:
        """One of an instance's views, cropped for the conditioner. [518, 518, 3].

        Raises:
            AssetError: the views or the drawn picture are missing or malformed.
        """
        views = self.views(instance)
        return crop_condition(_rgba(views[int(generator.integers(len(views)))]))

    def _path(self, *parts: str) -> Path:
        instance = parts[1] if parts[0] == "renders_cond" else Path(parts[-1]).stem
        if instance not in self.roots:
            raise AssetError(f"{instance}: it is not among the {len(self.roots)} instances that were chosen")
        return self.roots[instance].joinpath(*parts)


def open_latents(roots: Sequence[Path], choice: Choice = Choice()) -> LatentSource:
    """The instances of data folders; of an instance in two folders, the first's.

    Raises:
        MissingError: a folder has no metadata.csv.
        UsageError: a metadata.csv is malformed or lacks a needed column, or nothing is left.
    """
    steps = _steps(choice)
    totals = [0] * (len(steps) + 1)
    found: dict[str, Path] = {}
    for root in roots:
        for values in _rows(root / METADATA, ["sha256", *(step.column for step in steps)]):
            passed = _passed(steps, values)
            for i in range(passed + 1):
                totals[i] += 1
            if passed == len(steps):
                found.setdefault(values["sha256"], root)
    counts = tuple(zip(["total", *(step.label for step in steps)], totals, strict=True))
    if not found:
        steps_text = ", ".join(f"{label}: {count}" for label, count in counts)
        raise UsageError(f"No instance is left ({steps_text}). Choose other models or lower limits.")
    return LatentSource(choice, found, counts)


@dataclass(frozen=True)
class Step:
    """One condition on a column: a flag that is set (no limits), or a number within limits."""

    label: str
    column: str
    least: float | None = None
    most: float | None = None

    def holds(self, where: str, text: str) -> bool:
        if self.least is None and self.most is None:
            return _flag(where, text)
        number = _number(where, text)  # comparisons with NaN are false: instances without a score are left out
        return (self.least is None or number >= self.least) and (self.most is None or number <= self.most)


def _steps(choice: Choice) -> list[Step]:
    """In the order of TRELLIS's filters."""
    steps = []
    if choice.structure_model:
        steps.append(Step("with structure latents", f"ss_latent_{choice.structure_model}"))
    if choice.slat_model:
        steps.append(Step("with structured latents", f"latent_{choice.slat_model}"))
    least = choice.min_aesthetic_score
    steps.append(Step(f"aesthetic score >= {least:g}", "aesthetic_score", least=least))
    if choice.slat_model:
        steps.append(Step(f"voxels <= {choice.max_voxels}", "num_voxels", most=choice.max_voxels))
    if choice.conditions:
        steps.append(Step("with conditioning views", "cond_rendered"))
    return steps


def _passed(steps: Sequence[Step], values: Mapping[str, str]) -> int:
    """How many steps hold before the first that does not."""
    for i, step in enumerate(steps):
        if not step.holds(f"{values['where']}, column {step.column}", values[step.column]):
            return i
    return len(steps)


def _rows(path: Path, columns: Sequence[str]) -> Iterator[dict[str, str]]:
    """The wanted columns of each row, and `where` it stands."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream, strict=True)
            _check_columns(path, reader.fieldnames or [], columns)
            for row in reader:
                yield {**{c: (row[c] or "").strip() for c in columns}, "where": f"{path}, line {reader.line_num}"}
    except FileNotFoundError as error:
        raise MissingError(f"Missing file {path}. Give a folder that TRELLIS's dataset_toolkits made.") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path} is not a CSV file in UTF-8 ({error}). Make it again.") from error


def _check_columns(path: Path, found: Sequence[str], needed: Sequence[str]) -> None:
    missing = [name for name in needed if name not in found]
    if missing:
        raise UsageError(
            f"{path}, line 1: no column '{missing[0]}' (found: {', '.join(found) or 'none'}). "
            f"Needed: {', '.join(needed)}. Run TRELLIS's build_metadata.py, or name other models."
        )


def _flag(where: str, text: str) -> bool:
    if text.lower() in TRUE:
        return True
    if text.lower() in FALSE:
        return False
    raise UsageError(f"{where}: '{text}' is neither True nor False.")


def _number(where: str, text: str) -> float:
    try:
        return float(text) if text else math.nan
    except ValueError as error:
        raise UsageError(f"{where}: '{text}' is not a number.") from error


def _array(path: Path, key: str) -> NDArray:
    try:
        return read_arrays(path, [key])[key]
    except FileNotFoundError as error:
        raise AssetError(f"{path.stem}: there is no {path}") from error
    except KeyError as error:
        raise AssetError(f"{path.stem}: {path} has no array '{key}'") from error
    except ValueError as error:
        raise AssetError(f"{path.stem}: {path} is not a readable npz file ({error})") from error


def _check_rows(instance: str, coords: NDArray, feats: NDArray) -> None:
    n = len(coords) if coords.ndim else 0
    if coords.shape != (n, 3) or feats.shape != (n, SLAT_CHANNELS) or n == 0 or coords.dtype.kind not in "ui":
        raise AssetError(
            f"{instance}: coords {list(coords.shape)} of {coords.dtype} and feats {list(feats.shape)} - "
            f"integers [N, 3] and [N, {SLAT_CHANNELS}], N >= 1, are needed"
        )
    if coords.min() < 0 or coords.max() >= SLAT_RESOLUTION:
        raise AssetError(
            f"{instance}: coords from {coords.min()} to {coords.max()} - 0 to {SLAT_RESOLUTION - 1} are allowed"
        )
    if len(np.unique(coords, axis=0)) < n:
        raise AssetError(f"{instance}: two rows of coords are equal - each voxel is allowed once")


def _finite(instance: str, key: str, values: NDArray) -> NDArray[np.float32]:
    if values.dtype.kind != "f" or not np.isfinite(values).all():
        raise AssetError(f"{instance}: {key} ({values.dtype}) - finite real numbers are needed")
    return values.astype(np.float32)


def _rgba(path: Path) -> NDArray[np.uint8]:
    return read_rgba(path, f"{path.parent.name}/{path.name}")


def crop_condition(rgba: NDArray[np.uint8], size: int = CONDITION_SIZE) -> NDArray[np.uint8]:
    """The crop of TRELLIS's training, which is not that of its pipeline (`render.preprocess`).

    The box holds all pixels with any alpha, and its corners are truncated, not the side. TRELLIS does not round the
    product of colour and alpha: up to half a grey level, on soft edges only.

    Args:
        rgba: [H, W, 4], colours not premultiplied.
    Returns:
        [size, size, 3], colour times alpha.
    Raises:
        AssetError: no pixel has alpha, or only one.
    """
    rows, columns = np.nonzero(rgba[..., 3])
    if not len(rows):
        raise AssetError("no pixel of the conditioning picture has alpha")
    low = np.array([columns.min(), rows.min()])
    high = np.array([columns.max(), rows.max()])
    centre, half = (low + high) / 2, (high - low).max() / 2 * MARGIN
    box = (*np.trunc(centre - half).astype(int).tolist(), *np.trunc(centre + half).astype(int).tolist())
    if box[0] >= box[2] or box[1] >= box[3]:
        raise AssetError("only one pixel of the conditioning picture has alpha")
    cropped = Image.fromarray(np.ascontiguousarray(rgba)).crop(box)
    scaled = np.asarray(cropped.resize((size, size), Image.Resampling.LANCZOS), np.uint32)
    return ((scaled[..., :3] * scaled[..., 3:] + 127) // 255).astype(np.uint8)
