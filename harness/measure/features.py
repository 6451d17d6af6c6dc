"""What an extractor sees in the looks of a shard of assets, one asset at a time; and what was seen of all shards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...base.errors import AssetError
from ...metrics import NotMeasured
from ...metrics.streams import Features
from ..engine.device import is_cpu
from ..engine.jobs import Job, OneResult, Place
from ..engine.store import Arrays
from .extractors import Extractor, loaded
from .looks import LooksJob
from .spool import Spool

VERSION = 1  # part of every address
IN_MEMORY = 2**24  # numbers; what is more lies on disk while it is scored


@dataclass(frozen=True)
class FeaturesJob(OneResult):
    """features [n, V, D], ok [n], errors [n], and the notes, of one look."""

    root: Path
    looks: LooksJob
    look: str
    extractor: Extractor

    kind = entry = "features"
    networks = True

    @property
    def label(self) -> str:  # type: ignore[override]
        return f"features {self.extractor.name}"

    @property
    def units(self) -> int:
        return self.looks.units

    @property
    def memory_gb(self) -> float:  # type: ignore[override]
        return self.extractor.memory_gb

    @property
    def affinity(self) -> str:  # type: ignore[override]
        return self.extractor.version

    @property
    def needs(self) -> tuple[Job, ...]:
        return (self.looks,)

    @property
    def inputs(self) -> dict[str, Any]:
        of = self.looks.place(self.look).digest
        inputs = {"version": VERSION, "of": of, "extractor": self.extractor.version}
        if not is_cpu(self.extractor.device):  # which rounds otherwise
            inputs["device"] = self.extractor.device.partition(":")[0]
        return inputs

    def result(self) -> Arrays:
        arrays, see = self.looks.place(self.look).get(), loaded(self.extractor)
        found, errors, data = [], [str(error) for error in arrays["errors"]], arrays["data"]
        if data.dtype == np.uint8 and not is_cpu(self.extractor.device):  # a GPU wants pictures of all assets at once
            seen = see(data.reshape(-1, *data.shape[2:])).reshape(*data.shape[:2], -1)
            return {"features": seen, "ok": np.array([not error for error in errors]), "errors": np.array(errors, str)}
        for i, one in enumerate(data):
            try:
                found.append(see(one))
            except AssetError as error:  # of an asset without extent, as the points of a failed one are
                found.append(np.zeros((len(one), see.dim), np.float32))
                errors[i] = errors[i] or str(error)
        ok = np.array([not error for error in errors])
        notes = {"notes": arrays["notes"]} if "notes" in arrays else {}
        return {"features": np.stack(found), "ok": ok, "errors": np.array(errors, str), **notes}


def gathered(places: Sequence[Place], name: str, root: Path) -> tuple[Features, NDArray[np.bool_]]:
    """[N, V, ...] of all shards, on disk where it is much; and [N] whether each is there.

    Raises:
        NotMeasured: shards differ in size, as pictures of a folder may.
    """
    first = places[0].get()[name]
    spool = Spool(root) if first.size * len(places) > IN_MEMORY else None
    parts, ok = [], []
    for place in places:
        arrays = place.get()
        part = arrays[name]
        if part.shape[1:] != first.shape[1:]:
            raise NotMeasured(f"things of several sizes cannot be compared (got {first.shape[1:]}, {part.shape[1:]})")
        parts.append(spool.add(part) if spool else part)
        ok.append(arrays["ok"])
    found = np.concatenate(parts)
    return (spool.at(found) if spool else found), np.concatenate(ok)
