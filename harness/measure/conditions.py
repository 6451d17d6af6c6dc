"""The pictures that assets were made from, as a user has them: compared with assets of any system."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...assets.images import open_image, pixels, upright
from ...base.errors import AssetError
from .looks import Look, LooksJob
from .sides import Side

VERSION = 2  # part of every address


@dataclass(frozen=True)
class FileConditions(Side):
    """Pictures of assets, one each. paths: None where there is none. content: their sha256, "" where there is none."""

    paths: tuple[Path | None, ...]
    content: tuple[str, ...]
    by_asset = ("subjects", "paths", "content")

    def file_of(self, look: str, row: int) -> Path | None:
        return self.paths[row]

    def shards(self, names: tuple[str, ...]) -> list[LooksJob]:
        return [
            ConditionFileLooks(self.root, (subject,), names, self.studio, path, content)
            for subject, path, content in zip(self.subjects, self.paths, self.content, strict=True)
        ]


@dataclass(frozen=True)
class ConditionFileLooks(LooksJob):
    """Of one picture: on black, or with its alpha dropped."""

    path: Path | None
    content: str

    @property
    def source(self) -> Any:
        return [self.content, VERSION]

    def each(self) -> Iterator[Mapping[str, Look] | str]:
        try:
            rgba = None if self.path is None else read_picture(self.path)
        except AssetError as error:
            yield str(error)
            return
        if rgba is None:
            yield "no picture"
        else:
            yield {name: _composited(rgba, black=name == "condition") for name in self.names}


def read_picture(path: Path) -> NDArray[np.uint8]:
    """[H, W, 4], upright. Raises AssetError when it is not a picture."""
    try:
        return pixels(upright(open_image(path)))
    except AssetError as error:
        raise AssetError(f"it is not a readable picture: {error}") from error


def on_black(rgba: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """[H, W, 3], rounded down, as TRELLIS does (preprocess_image)."""
    return (rgba[..., :3] * (rgba[..., 3:] / 255.0)).astype(np.uint8)


def _composited(rgba: NDArray[np.uint8], *, black: bool) -> NDArray[np.uint8]:
    """[1, 3, H, W]."""
    rgb = on_black(rgba) if black else rgba[..., :3]
    return np.ascontiguousarray(rgb.transpose(2, 0, 1)[None])
