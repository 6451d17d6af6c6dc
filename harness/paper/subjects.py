"""The test assets of tables, and the picture that every method is shown of each."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...assets.blend import find_blender, read_rgba
from ...base.errors import AssetError, UsageError
from ..evaluate.conditions import ConditionLook, conditions_of
from ..evaluate.options import chosen_protocol
from ..evaluate.pairs import Contents
from ..evaluate.reference import FolderReference, Reference
from ..evaluate.toys4k import PREFIX, folder_of, open_toys4k, variant_of
from ..progress import Reporter
from ..protocol.model import Protocol
from .config import Places, TablesConfig

TOYS4K = "toys4k"  # where downloads put the list and the .blend files, below the weights

Picture = NDArray[np.uint8]  # [S, S, 4], colours not premultiplied
Condition = Callable[[str], Picture]  # by asset id; raises AssetError


@dataclass(frozen=True)
class Subject:
    """A test asset.

    Attributes:
        sha256: as the protocol knows it, for seeds.
        picture: digest of its conditioning picture; "" without one.
        error: why there is no picture, "" when there is.
    """

    id: str
    sha256: str
    picture: str
    error: str = ""


@dataclass(frozen=True)
class TestSet:
    """The test assets of a run.

    Attributes:
        option: what `mdtbench evaluate --reference` is given. protocol: with the variant of their pictures.
        subjects: sorted by id.
    """

    __test__ = False  # pytest would take it for a class of tests

    name: str
    option: Path
    protocol: Protocol
    subjects: tuple[Subject, ...]
    condition: Condition


def reference_option(places: Places) -> Path:
    """The reference of the evaluations: toys4k:FOLDER or a folder of meshes."""
    if not places.test:
        return Path(f"{PREFIX}{Path(places.weights).expanduser() / TOYS4K}")
    given = Path(places.test)
    return given if folder_of(given) else given.expanduser()


def open_tests(config: TablesConfig, n: int, cache: Path, report: Reporter) -> TestSet:
    """The first `n` assets of the protocol's subset with their conditioning pictures, which Blender renders if need be.

    Raises:
        MissingError: no such folder, nothing in it, or no Blender.
        UsageError: a malformed list, two pictures of an asset, or a folder of meshes without pictures.
    """
    places, option = config.places, reference_option(config.places)
    folder = folder_of(option)
    if folder is None:
        protocol, condition = chosen_protocol(config.protocol.name), None
        reference: Reference = FolderReference.of(option, protocol.values, Contents())
    else:
        blender = find_blender(places.blender)
        protocol = chosen_protocol(config.protocol.name, variant_of(blender))
        reference = toys = open_toys4k(folder, protocol.values, blender, cache)
        condition = toys.condition
    ids = list(reference.ids)[:n]
    if places.conditions:
        condition = partial(_of_folder, conditions_of(Path(places.conditions).expanduser(), ids))
    if condition is None:
        raise UsageError(
            f"Of the meshes in {option} there are no conditioning pictures - a folder of RGBA pictures named by asset "
            "id is needed - set places.conditions."
        )
    subjects = _pictured({name: reference.sha256(name) for name in ids}, condition, report)
    return TestSet(reference.name, option, protocol, subjects, condition)


def _of_folder(looks: Mapping[str, ConditionLook], name: str) -> Picture:
    if name not in looks:
        raise AssetError("there is no conditioning picture of it")
    return read_rgba(looks[name].path)


def _pictured(sha256s: Mapping[str, str], condition: Condition, report: Reporter) -> tuple[Subject, ...]:
    task, found = report.start("conditioning pictures", len(sha256s)), []
    for count, (name, sha256) in enumerate(sha256s.items(), 1):
        try:
            found.append(Subject(name, sha256, picture_digest(condition(name))))
        except AssetError as error:
            found.append(Subject(name, sha256, "", str(error)))
        report.update(task, count)
    return tuple(found)


def picture_digest(picture: Picture) -> str:
    """sha256 of shape and pixels, whatever the file's format."""
    return hashlib.sha256(str(picture.shape).encode() + np.ascontiguousarray(picture).tobytes()).hexdigest()
