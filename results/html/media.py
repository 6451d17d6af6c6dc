"""Pictures and meshes of single assets: from the run's `export` folder into the report's.

Pages opened from disk may not fetch files, so a mesh comes as a script that holds it in base64.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from PIL import Image

from ...base.errors import RunError
from ...base.files import replacing, write_text

MEDIA: Final = "media"  # in the report's folder
THUMBNAIL_SIDE: Final = 160  # pixels
MODEL_BYTES: Final = 4 << 20  # a larger mesh is not shown
ALL_MODEL_BYTES: Final = 512 << 20  # of one report: what a folder that is sent around may weigh
NAME_LENGTH: Final = 60
UNSAFE: Final = re.compile(r"[^a-z0-9_-]+")


@dataclass(frozen=True)
class Shown:
    """Of one asset by one maker, paths in the report's folder; None: there is none. note: why no mesh is shown."""

    picture: str | None = None
    model: str | None = None
    note: str = ""


def page_name(asset_id: str) -> str:
    """A file's name without the ending, fit for any file system and any URL; different for different ids."""
    name = UNSAFE.sub("-", asset_id.lower())[:NAME_LENGTH].strip("-")
    if name and name == asset_id:
        return name
    digest = hashlib.sha256(asset_id.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{name}-{digest}".removeprefix("-")


@dataclass
class MediaFolder:
    """Puts files into a report's folder. It counts what it put there."""

    out: Path
    model_bytes: int = field(default=0)

    def show(self, maker: str, asset_id: str, files: Iterable[Path]) -> Shown:
        """Put what a page shows of an asset by one maker."""
        files = [path for path in files if path.is_file()]
        picture = next((path for path in files if path.suffix == ".png"), None)
        models = sorted((path for path in files if path.suffix == ".glb"), key=lambda path: path.stat().st_size)
        target = f"{MEDIA}/{page_name(maker)}/{page_name(asset_id)}"
        url = self.placed(picture, f"{target}.png") if picture else None
        if not models:
            return Shown(url)
        size = models[0].stat().st_size
        if size > MODEL_BYTES or self.model_bytes + size > ALL_MODEL_BYTES:
            return Shown(url, note=f"The mesh is not in this report ({size / 1e6:.1f} MB).")
        self.model_bytes += size
        return Shown(url, self._model(models[0], f"{target}.js"))

    def thumbnail(self, asset_id: str, shown: Shown) -> str | None:
        """A small picture, made only where the picture itself is large."""
        if shown.picture is None:
            return None
        with Image.open(self.out / shown.picture) as picture:
            if max(picture.size) <= THUMBNAIL_SIDE:
                return shown.picture
            small = picture.convert("RGB")
        small.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
        url = f"{MEDIA}/thumbnails/{page_name(asset_id)}.jpg"
        with replacing(self.out / url) as part:
            small.save(part, format="JPEG", quality=85)
        return url

    def placed(self, source: Path, url: str) -> str:
        """Link the file, which costs no disk, or copy it where that is impossible. The folder is new: see `assets`."""
        target = self.out / url
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(source, target)
            except OSError:  # another disk, or a file system without links
                shutil.copyfile(source, target)
        except OSError as error:
            raise RunError(
                f"Cannot write {target}: {error.strerror}. Free the disk or choose another --out."
            ) from error
        return url

    def _model(self, source: Path, url: str) -> str:
        data = f"data:model/gltf-binary;base64,{base64.b64encode(source.read_bytes()).decode('ascii')}"
        write_text(self.out / url, f"(window.mdtbenchModels ??= {{}})[{json.dumps(url)}] = {json.dumps(data)};\n")
        return url
