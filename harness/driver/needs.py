"""What a run needs that the package does not bring, and what of it this machine lacks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from ...assets.blend import find_blender
from ...assets.trellis_latents import METADATA
from ...base.errors import MissingError
from ...base.groups import grouped
from ...base.text import counted
from ...metrics.official.picture_extractors import DINOV2_REG_WEIGHTS, SPECS
from ...metrics.official.ulip import POINT_SPECS, SLIP_SPEC
from ...metrics.official.weights import RANDOM
from ..engine.device import cuda_devices, is_cpu
from ..engine.findings import Finding
from ..inputs.downloads import Item, Missing, items_of, missing, size_text
from ..inputs.subjects import Toys4kTests
from ..inputs.toys4k import folder_of
from ..measure.columns import SECONDARY, columns_of
from ..plan.plan import Plan
from ..protocol.model import load_protocol
from ..train.data import LatentSet
from .evaluation import chosen, of_mesh_alone
from .measuring import extractor_names

TOYS4K = "toys4k"  # where downloads put the list and the .blend files, below the weights
CONDITIONER_FILE = DINOV2_REG_WEIGHTS.file
EXTRACTOR_FILES = {spec.name: spec.weights.file for spec in (*SPECS.values(), *POINT_SPECS.values(), SLIP_SPEC)}

GET_LATENTS = (
    "make them with dataset_toolkits of github.com/microsoft/TRELLIS (DATASET.md there; docs/toys4k.md here), then "
    "--set 'data.latents=[\"FOLDER\"]'"
)


def needs(plan: Plan, device: str = "") -> list[Finding]:
    """A finding per thing that is needed, with what to do about it. Computes no digests.

    Args:
        device: as `--device` has it; a plan for GPUs asks for the CPU to be named.
    Raises:
        UsageError: an unknown or malformed list of downloads.
        MissingError: a damaged lock file of downloads.
    """
    config = plan.config
    findings = [Finding("world", str(plan.world.folder))] if plan.world.folder.is_dir() else []
    if config.places.downloads:
        folder = Path(config.places.weights).expanduser()
        items = [item for item in items_of(config.places.downloads) if not _unused(item, plan)]
        findings += _downloads(items, folder, config.places.downloads)
    findings += _test_assets(plan)
    data = next(iter(plan.sets.values()))
    if any(line.trains for line in plan.lines) and isinstance(data, LatentSet):
        findings.append(_latents(data))
    if any(machine.peak_tflops for machine in config.estimate.machine):
        findings.append(_gpu(device))
    return findings


def evaluation_items(protocol: str, metrics: Sequence[str]) -> tuple[Item, ...]:
    """Downloads that columns of `mdtbench evaluate` need.

    Args:
        metrics: names of columns; all of the protocol by default.
    Raises:
        UsageError: an unknown protocol or column.
    """
    columns = columns_of(load_protocol(protocol).values, everything=True, more=() if not metrics else SECONDARY)
    columns = [one for one in columns if one.level == "assets" and not one.teacher]
    of_meshes = [one for column in columns if (one := of_mesh_alone(column)).name not in {c.name for c in columns}]
    wanted = chosen([*columns, *of_meshes], metrics)
    files = {EXTRACTOR_FILES[name] for name in extractor_names(wanted) if name in EXTRACTOR_FILES}
    listed = {item.target: item for item in (*items_of("paper"), *items_of("variants"))}
    return tuple(item for target, item in listed.items() if target in files)


def lacking(findings: Iterable[Finding]) -> list[str]:
    return [finding.needed for finding in findings if finding.needed]


def check_runnable(findings: Sequence[Finding]) -> None:
    """Raises MissingError while something is missing."""
    absent = [finding for finding in findings if finding.needed]
    if absent:
        details = "".join(f"\n  {finding.name}: {finding.text}" for finding in absent)
        raise MissingError(
            f"{len(absent)} of {len(findings)} things are missing: {'; '.join(lacking(absent))}. "
            f"Nothing was computed.{details}"
        )


def total_bytes(items: Iterable[Item]) -> tuple[int, int]:
    """Bytes of downloads, and how many of them have no known size."""
    sizes = [item.about if item.bytes is None else item.bytes for item in items]
    return sum(size or 0 for size in sizes), sizes.count(None)


def sum_text(items: Iterable[Item]) -> str:
    """The sizes of downloads together, for people."""
    size, unknown = total_bytes(items)
    if unknown:
        files = f"{counted(unknown, 'file')} of unknown size"
        return f"{size_text(size)} and {files}" if size else f"{unknown} of unknown size"
    return size_text(size)


def by_origin(items: Sequence[Item]) -> dict[str, list[Item]]:
    """Downloads by where they are from: a repository, an address, or by hand."""
    return grouped(items, lambda item: item.repo or Path(item.target).name)


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


def _unused(item: Item, plan: Plan) -> bool:
    """Whether this run does without a download, by the folder that it goes to."""
    folder = item.target.partition("/")[0]
    if folder in set(plan.config.released.values()) | {"mdt-dist"}:
        return not any(line.released == folder for line in plan.lines)
    if folder == TOYS4K:
        return not isinstance(plan.test, Toys4kTests)
    if item.target not in EXTRACTOR_FILES.values() or item.target == CONDITIONER_FILE:
        return False
    seen = {EXTRACTOR_FILES.get(name) for name in extractor_names(plan.metrics)}
    return plan.config.protocol.extractors == RANDOM or item.target not in seen


def _test_assets(plan: Plan) -> Iterator[Finding]:
    places = plan.config.places
    if isinstance(plan.test, Toys4kTests):
        toys4k = folder_of(plan.test.option)
        if toys4k is not None and not str(toys4k).startswith(str(Path(places.weights).expanduser())):
            yield _folder("test assets", toys4k, "places.test")
        yield _blender(plan)
    if places.conditions:
        yield _folder("conditioning pictures", Path(places.conditions).expanduser(), "places.conditions")


def _folder(name: str, folder: Path, key: str) -> Finding:
    if folder.is_dir():
        return Finding(name, f"in {folder}")
    return Finding(name, f"missing, there is no folder {folder} - set {key} to another", name)


def _blender(plan: Plan) -> Finding:
    try:
        found = find_blender(plan.config.places.blender)
    except MissingError as error:
        return Finding("Blender", f"missing - pictures of the test assets - {error}", "Blender")
    return Finding("Blender", f"{found.version} at {found.command[0]} - pictures of the test assets")


def _latents(data: LatentSet) -> Finding:
    """Of the folders only their lists are looked for."""
    gone = data.absent
    if data.folders and not gone:
        return Finding("training latents", f"{METADATA} in {', '.join(map(str, data.folders))}")
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
