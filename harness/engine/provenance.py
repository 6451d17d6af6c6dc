"""Where a number comes from: code, libraries, machine."""

from __future__ import annotations

import os
import platform
import resource
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from .device import is_cpu


def git_state() -> tuple[str | None, bool | None]:
    """Commit and dirtiness of the checkout that this code runs from; (None, None) when it is not one."""
    folder = Path(__file__).parent
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        return commit, bool(_git(folder, "status", "--porcelain"))
    except (OSError, subprocess.CalledProcessError):
        return None, None


def provenance() -> dict[str, Any]:
    commit, dirty = git_state()
    return {
        "git_commit": commit,
        "git_dirty": dirty,
        "versions": {name: version(name) for name in ("mdtbench", "torch", "numpy", "trimesh", "embreex")},
        "python": platform.python_version(),
        "machine": {"system": platform.platform(), "processor": processor(), "cores": os.cpu_count()},
        "peak_memory_gb": peak_memory_gb(),
    }


def processor() -> str:
    """Model of the first processor, as Linux names it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def device_name(device: str = "cpu") -> str:
    """Model of the device that networks computed on."""
    return f"cpu ({processor()})" if is_cpu(device) else torch.cuda.get_device_name(device)


def peak_memory_gb() -> float:
    """Largest resident memory of this process or of a finished child, in GB."""
    kilobytes = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return round(kilobytes / 1e6, 3)


def _git(folder: Path, *args: str) -> str:
    return subprocess.run(["git", "-C", str(folder), *args], capture_output=True, text=True, check=True).stdout.strip()
