"""What tables at full size need, and what of it this machine lacks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from ...assets.blend import find_blender
from ...assets.trellis_latents import METADATA
from ...base.errors import MissingError, UsageError
from ..doctor import Finding, cuda_devices
from ..downloads import Item, Missing, items_of, missing, size_text
from .config import TablesConfig

GET_LATENTS = (
    "make them with dataset_toolkits of github.com/microsoft/TRELLIS (DATASET.md there; docs/toys4k.md here), then "
    "--set 'places.latents=[\"FOLDER\"]'"
)


def needs(config: TablesConfig) -> list[Finding]:
    """A finding per thing that is needed, with what to do about it. Computes no digests.

    Raises:
        UsageError: an unknown or malformed list of downloads.
        MissingError: a damaged lock file of downloads.
    """
    folder = Path(config.places.weights).expanduser()
    items = items_of(config.places.downloads)
    return [*_downloads(items, folder, config.places.downloads), _blender(config), _latents(config), _gpu()]


def lacking(findings: Iterable[Finding]) -> list[str]:
    return [finding.needed for finding in findings if finding.needed]


def check_runnable(findings: Sequence[Finding]) -> None:
    """Raises MissingError while something is missing, and UsageError when nothing is: the training is not built."""
    absent = lacking(findings)
    if absent:
        raise MissingError(
            f"{len(absent)} of {len(findings)} things are missing: {'; '.join(absent)}. See above how to get them; "
            "nothing was computed."
        )
    raise UsageError(
        "Everything is here, and it cannot be run: training full-size networks from TRELLIS latents on a GPU is not "
        "built yet; nothing was computed. `--dry-run` prints the plan; `mdtbench evaluate` measures assets of others."
    )


def total_bytes(items: Iterable[Item]) -> tuple[int, int]:
    """Bytes of downloads, and how many of them have no known size."""
    sizes = [item.about if item.bytes is None else item.bytes for item in items]
    return sum(size or 0 for size in sizes), sizes.count(None)


def sum_text(items: Iterable[Item]) -> str:
    """The sizes of downloads together, for people."""
    size, unknown = total_bytes(items)
    if unknown:
        return f"{size_text(size)} and {unknown} file(s) of unknown size" if size else f"{unknown} of unknown size"
    return size_text(size)


def by_origin(items: Sequence[Item]) -> dict[str, list[Item]]:
    """Downloads by where they are from: a repository, an address, or by hand."""
    groups: dict[str, list[Item]] = {}
    for item in items:
        groups.setdefault(item.repo or Path(item.target).name, []).append(item)
    return groups


def _downloads(items: Sequence[Item], folder: Path, listed: str) -> Iterator[Finding]:
    absent = {entry.item.target: entry for entry in missing(items, folder)}
    for name, group in by_origin(items).items():
        gone = [absent[item.target] for item in group if item.target in absent]
        yield _group(name, group, gone, folder, listed)


def _group(name: str, group: Sequence[Item], gone: Sequence[Missing], folder: Path, listed: str) -> Finding:
    purpose = "; ".join(dict.fromkeys(item.used_for for item in group))
    if not gone:
        return Finding(name, f"in {folder} - {purpose}")
    by_hand = [entry for entry in gone if entry.item.kind == "by-hand"]
    remedy = "; ".join(entry.item.instructions for entry in by_hand) or f"`mdtbench fetch --preset {listed}`"
    size = sum_text([entry.item for entry in gone])
    text = f"{len(gone)} of {len(group)} missing, {size} - {purpose} - {remedy}"
    if by_hand:
        text += f" (into {by_hand[0].path.parent})"
    return Finding(name, text, name)


def _blender(config: TablesConfig) -> Finding:
    try:
        found = find_blender(config.places.blender)
    except MissingError as error:
        return Finding("Blender", f"missing - pictures of the test assets - {error}", "Blender")
    return Finding("Blender", f"{found.version} at {found.command[0]} - pictures of the test assets")


def _latents(config: TablesConfig) -> Finding:
    """Of the folders only their lists are looked for."""
    folders = [Path(folder).expanduser() for folder in config.places.latents]
    gone = [folder for folder in folders if not (folder / METADATA).is_file()]
    if folders and not gone:
        return Finding("training latents", f"{METADATA} in {', '.join(map(str, folders))}")
    found = f"no {METADATA} in {', '.join(map(str, gone))}" if gone else "no folder is named"
    return Finding("training latents", f"missing, {found} - {GET_LATENTS}", "training latents")


def _gpu() -> Finding:
    devices = cuda_devices()
    if devices:
        return Finding("GPU", "; ".join(devices))
    return Finding("GPU", "missing, torch sees no CUDA device - a machine with one, and torch built for CUDA", "a GPU")
