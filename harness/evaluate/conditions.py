"""The pictures that assets were made from, as the user has them: one file per asset, named by its id."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ...base.errors import AssetError, MissingError, UsageError
from ...base.files import file_sha256
from ..cache import Address
from .pairs import matched

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
VERSION = 1  # raised when our code changes what is read


@dataclass(frozen=True)
class ConditionLook:
    """A picture file; content: its digest."""

    path: Path
    content: str

    def address(self, *, on_black: bool) -> Address:
        return Address("condition", {"content": self.content, "on_black": on_black, "version": VERSION})

    def read(self, *, on_black: bool) -> NDArray[np.uint8]:
        """[1, 3, H, W].

        Args:
            on_black: colours are multiplied by alpha; otherwise alpha is dropped.
        Raises:
            AssetError: not a picture.
        """
        try:
            with Image.open(self.path) as picture:
                rgba = np.asarray(picture.convert("RGBA"))
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            raise AssetError(f"{self.path.name} is not a readable picture ({error}).") from error
        rgb = rgba[..., :3]
        if on_black:
            rgb = (rgb * (rgba[..., 3:] / 255.0)).astype(np.uint8)  # down, as TRELLIS rounds (preprocess_image)
        return np.ascontiguousarray(rgb.transpose(2, 0, 1)[None])


def conditions_of(folder: Path, ids: Sequence[str]) -> dict[str, ConditionLook]:
    """Pictures by asset id; ids without one are left out.

    Raises:
        MissingError: no such folder, or no picture in it belongs to any asset.
        UsageError: two pictures of one asset.
    """
    if not folder.is_dir():
        raise MissingError(f"There is no folder {folder}. Give --conditions the folder of the conditioning pictures.")
    paths = _pictures_in(folder)
    keys = matched(ids, paths)
    if not keys:
        shown = ", ".join(ids[:3]) + (", ..." if len(ids) > 3 else "")
        raise MissingError(
            f"None of the {len(paths)} pictures in {folder} has the id of an asset ({len(ids)} are missing: {shown}) - "
            f"name each after the asset's id, such as {PurePosixPath(ids[0]).name}.png."
        )
    return {name: ConditionLook(paths[key], file_sha256(paths[key])) for name, key in keys.items()}


def _pictures_in(folder: Path) -> Mapping[str, Path]:
    found: dict[str, Path] = {}
    for path in sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file()):
        name = path.relative_to(folder).with_suffix("").as_posix()
        if name in found:
            raise UsageError(
                f"Two pictures of asset '{name}' (got {found[name].name} and {path.name}) - one of each is allowed - "
                "remove one."
            )
        found[name] = path
    return found
