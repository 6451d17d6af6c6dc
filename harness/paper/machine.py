"""What tables at full size need, and what of it this machine lacks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from ...assets.blend import find_blender
from ...assets.trellis_latents import METADATA
from ...base.errors import MissingError
from ...metrics.official.picture_extractors import DINOV2_REG_WEIGHTS, SPECS
from ...metrics.official.ulip import POINT_SPECS
from ..device import is_cpu
from ..doctor import Finding, cuda_devices
from ..downloads import Item, Missing, items_of, missing, size_text
from ..evaluate.toys4k import folder_of
from .config import TablesConfig
from .plan import TablesPlan
from .released import FOLDER as RELEASED_FOLDER
from .subjects import TOYS4K, reference_option

CONDITIONER_FILE = DINOV2_REG_WEIGHTS.file
EXTRACTOR_FILES = {spec.weights.file for spec in (*SPECS.values(), *POINT_SPECS.values())} - {CONDITIONER_FILE}

GET_LATENTS = (
    "make them with dataset_toolkits of github.com/microsoft/TRELLIS (DATASET.md there; docs/toys4k.md here), then "
    "--set 'places.latents=[\"FOLDER\"]'"
)


def needs(config: TablesConfig, plan: TablesPlan | None = None, device: str = "") -> list[Finding]:
    """A finding per thing that is needed, with what to do about it. Computes no digests.

    Args:
        plan: what is needed for it alone; by default for all rows of the preset.
        device: as `--device` has it; without a GPU, the CPU has to be asked for.
    Raises:
        UsageError: an unknown or malformed list of downloads.
        MissingError: a damaged lock file of downloads.
    """
    folder = Path(config.places.weights).expanduser()
    items = [item for item in items_of(config.places.downloads) if not _unused(item, config, plan)]
    findings = [*_downloads(items, folder, config.places.downloads), *_test_assets(config)]
    if plan is None or plan.students:
        findings.append(_latents(config))
    return [*findings, _gpu(device)]


def lacking(findings: Iterable[Finding]) -> list[str]:
    return [finding.needed for finding in findings if finding.needed]


def check_runnable(findings: Sequence[Finding]) -> None:
    """Raises MissingError while something is missing."""
    absent = lacking(findings)
    if absent:
        raise MissingError(
            f"{len(absent)} of {len(findings)} things are missing: {'; '.join(absent)}. See above how to get them; "
            "nothing was computed."
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


def _unused(item: Item, config: TablesConfig, plan: TablesPlan | None) -> bool:
    """Whether this run does without a download, by the folder that it goes to."""
    folder = item.target.partition("/")[0]
    if folder == RELEASED_FOLDER:
        return plan is not None and not any(line.released for line in plan.lines)
    if folder == TOYS4K:
        return bool(config.places.test)
    return config.protocol.extractors == "random" and item.target in EXTRACTOR_FILES


def _test_assets(config: TablesConfig) -> Iterator[Finding]:
    option = reference_option(config.places)
    toys4k = folder_of(option)
    if config.places.test:
        yield _folder("test assets", option if toys4k is None else toys4k, "places.test")
    if toys4k is not None:
        yield _blender(config)
    if config.places.conditions:
        yield _folder("conditioning pictures", Path(config.places.conditions).expanduser(), "places.conditions")
    elif toys4k is None:
        text = "missing, no folder is named - RGBA pictures named by asset id - set places.conditions"
        yield Finding("conditioning pictures", text, "conditioning pictures")


def _folder(name: str, folder: Path, key: str) -> Finding:
    if folder.is_dir():
        return Finding(name, f"in {folder}")
    return Finding(name, f"missing, there is no folder {folder} - set {key} to another", name)


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


def _gpu(device: str) -> Finding:
    devices = cuda_devices()
    if is_cpu(device):
        unused = f", {'; '.join(devices)} left unused" if devices else ""
        return Finding("GPU", f"none, as --device cpu says{unused} - networks of full size take days per row there")
    if devices:
        return Finding("GPU", "; ".join(devices))
    text = "missing, torch sees no CUDA device - a machine with one, and torch built for CUDA (or --device cpu)"
    return Finding("GPU", text, "a GPU")
