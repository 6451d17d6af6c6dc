"""What the verb `doctor` finds: what this machine has, what of it is used, and what is missing.

Of the libraries that it looks at, only torch and pydantic are imported with this module: it must run without others.
"""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path

import torch

from ...base.errors import MissingError
from ...base.text import counted
from ..engine.device import CPU, CUDA, cuda_devices
from ..engine.findings import Finding, findings_text
from ..engine.provenance import processor
from ..engine.workers import cores
from ..settings.config import WORLDS

__all__ = ["check", "examined", "findings_text"]

CPU_KERNELS = (
    "its CPU kernels are refused: with more than one OpenMP thread those of spconv 2.3.8 return wrong numbers (off by "
    "about 0.5 against a dense conv3d)"
)
INSTALL = "`pip install mdtbench[gpu]` brings it"
CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
GB = 1e9

# What a run cannot do without, and what for.
NEEDED = {
    "torch": "networks",
    "torchvision": "what timm and open_clip import",
    "timm": "vision transformers of metrics and of the official encoder",
    "open_clip": "CLIP towers",
    "pytorch_fid": "Inception of the FD",
    "numpy": "arrays",
    "pandas": "rows as data frames",
    "scipy": "matrix square roots of the FD",
    "PIL": "pictures",
    "safetensors": "weights",
    "pydantic": "settings",
    "trimesh": "mesh files",
    "DracoPy": "compressed glTF files",
    "networkx": "scenes of mesh files",
    "plyfile": "PLY files",
    "mapbox_earcut": "polygons with more than three corners",
    "embreex": "rays of mesh pictures",
    "numba": "CPU rasteriser of 3D Gaussians",
    "filelock": "a cache that several processes use",
    "huggingface_hub": "downloads of official weights",
    "jinja2": "the HTML report",
    "matplotlib": "charts and figures",
}


@dataclass(frozen=True)
class Extra:
    """A library that is used where there is CUDA.

    Attributes:
        caveat: what is said of it in any case.
        builder: executable that it builds its kernels with at first use: without it, it imports and fails later.
    """

    module: str
    purpose: str
    caveat: str = ""
    builder: str = ""


EXTRAS = (
    Extra("spconv", "sparse convolution where `--set gpu.convolution=spconv` asks for it", CPU_KERNELS),
    Extra("xformers", "attention among voxels where `--set gpu.attention=xformers` asks for it"),
    Extra("gsplat", "pictures of 3D Gaussians", builder="nvcc"),
)


def examined(cache_folder: Path, preset: str = "") -> dict[str, list[Finding]]:
    """The findings by section; with a preset, also what that needs.

    Raises:
        UsageError: unknown or malformed preset, or unknown world.
    """
    wanted = {f"Preset {preset}": needed_by(preset, cache_folder)} if preset else {}
    return {
        "Machine": list(machine(cache_folder)),
        "Needed libraries": [library(module, purpose) for module, purpose in NEEDED.items()],
        "Optional libraries": [optional(extra, installed_version(extra.module), has_cuda()) for extra in EXTRAS],
        "Attention and convolution among voxels": kernels(CUDA if has_cuda() else CPU),
        "Shipped worlds": worlds(WORLDS),
        **wanted,
    }


def needed_by(preset: str, cache_folder: Path) -> list[Finding]:
    """What a preset needs beside the package."""
    from ..driver.needs import needs
    from ..driver.planning import RunOptions, make_plan
    from ..oracle import is_oracle

    if is_oracle(preset):
        return [Finding("networks", "none beside the package: the law of its problems is known")]
    return needs(make_plan(RunOptions(preset), cache_folder, ready=False), CPU if not has_cuda() else "")


def check(sections: Mapping[str, Sequence[Finding]]) -> None:
    """Raises MissingError when there is something that runs need and that is missing or damaged."""
    lacking = [finding.needed for findings in sections.values() for finding in findings if finding.needed]
    if lacking:
        raise MissingError(
            f"{counted(len(lacking), 'thing')} that runs need: {'; '.join(lacking)}. Details and what to do are above."
        )


def machine(cache_folder: Path) -> Iterator[Finding]:
    yield Finding("mdtbench", f"{version('mdtbench')}, Python {platform.python_version()}, torch {torch.__version__}")
    yield Finding("system", platform.platform())
    yield Finding("processor", processor())
    yield Finding("cores", f"{cores()} usable of {os.cpu_count()}: a run starts as many processes, of one thread each")
    yield Finding("threads", f"{torch.get_num_threads()} of torch outside runs{_environment('OMP_NUM_THREADS')}")
    yield Finding("memory", memory())
    yield disk(cache_folder)
    yield Finding("CUDA", "; ".join(cuda_devices()) or f"no device ({_why_no_cuda()}): everything runs on the CPU")


def memory() -> str:
    """Of the machine, or what its container allows."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = _read(CGROUP_LIMIT).strip()
    allowed = f"; this container allows {int(limit) / GB:.1f} GB" if limit.isdecimal() else ""
    return f"{total / GB:.1f} GB, {free / GB:.1f} GB of them untouched{allowed}"


def disk(folder: Path) -> Finding:
    """Space for the cache, whose folder need not be there yet."""
    there = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(there).free / GB
    if there.is_dir() and os.access(there, os.W_OK):
        return Finding("cache", f"{folder}: {free:.1f} GB free")
    fault = f"{folder} cannot be written"
    return Finding("cache", f"{fault} - choose another folder with --cache", fault)


def has_cuda() -> bool:
    return torch.cuda.is_available()


def library(module: str, purpose: str) -> Finding:
    """A library that must be there; it is imported, as an installation can be broken."""
    try:
        import_module(module)
    except (ImportError, OSError) as error:  # OSError: a shared library that it needs
        return Finding(module, f"cannot be imported ({error}) - needed for: {purpose}", f"library {module}")
    return Finding(module, f"{installed_version(module)} - {purpose}")


def optional(extra: Extra, found: str | None, cuda: bool) -> Finding:
    """A library that only CUDA makes use of. found: its version, None when it is not installed."""
    caveat = f"; {extra.caveat}" if extra.caveat else ""
    if found is None:
        remedy = f" ({INSTALL})" if cuda else ""
        return Finding(extra.module, f"not installed{remedy} - on CUDA: {extra.purpose}{caveat}")
    if not cuda:
        return Finding(extra.module, f"{found}: installed, but there is no CUDA device: not used{caveat}")
    if extra.builder and shutil.which(extra.builder) is None:
        caveat += f"; it builds its kernels with {extra.builder} at first use, which is not on the PATH: it will fail"
    return Finding(extra.module, f"{found} - {extra.purpose}{caveat}")


def kernels(device: str) -> list[Finding]:
    """What is in use on a device and why, by default and with each library asked for."""
    from ...trellis.kernels import SPCONV, XFORMERS, Kernels
    from ..settings.kernels import in_use

    found = [Finding(what, str(one)) for what, one in in_use(device, Kernels()).items()]
    if device == CPU:
        return found
    others = in_use(device, Kernels(XFORMERS, SPCONV))
    return [*found, *(Finding(f"{what}, if asked for", str(one)) for what, one in others.items())]


def installed_version(module: str) -> str | None:
    """Version of the distribution that a module is from (spconv has a distribution per CUDA); None: not installed.

    Nothing is imported: libraries for CUDA may compile kernels when they are.
    """
    names = _distributions().get(module, [module])
    try:
        return version(names[0])
    except PackageNotFoundError:
        return None


def worlds(folder: Path) -> list[Finding]:
    """The worlds in a folder, whose every checkpoint is compared with its digest."""
    found = [_world(path.parent) for path in sorted(folder.glob("*/world.json"))]
    return found or [Finding("none", f"{folder} holds no world", "shipped worlds")]


def _world(folder: Path) -> Finding:
    try:
        from ..inputs.world import read_world_file, verify_world

        verify_world(folder)
        file = read_world_file(folder)
    except (ImportError, MissingError) as error:
        return Finding(folder.name, f"cannot be used: {error}", f"world {folder.name}")
    megabytes = sum((folder / name).stat().st_size for name in file.sha256) / 1e6
    stages = "structures and whole assets" if file.looks else "structures"
    return Finding(folder.name, f"{stages}; {len(file.sha256)} files, {megabytes:.1f} MB, all digests match")


@cache
def _distributions() -> dict[str, Sequence[str]]:
    return dict(packages_distributions())


def _why_no_cuda() -> str:
    return "this torch is built without CUDA" if torch.version.cuda is None else "none is visible to torch"


def _environment(name: str) -> str:
    return f", {name}={os.environ[name]}" if name in os.environ else ""


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""
