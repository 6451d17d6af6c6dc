"""Where networks compute: the CPU or a GPU, what is set there, and a clock that waits for it."""

from __future__ import annotations

import ctypes
import os
import sys
import time

import torch

from ...base.errors import UsageError, unknown_name
from ...base.text import counted

AUTO, CPU, CUDA = "auto", "cpu", "cuda"
GB = 1e9


def device_of(name: str) -> str:
    """The device that `--device` means: `auto` is the first GPU where torch sees one, else the CPU.

    Returns:
        "cpu", "cuda" or "cuda:<number>".
    Raises:
        UsageError: another name, or a GPU that there is not.
    """
    if name == AUTO:
        return CUDA if torch.cuda.is_available() else CPU
    kind, colon, number = name.partition(":")
    if name != CPU and (kind != CUDA or bool(colon) != number.isdecimal()):
        meant = CUDA if name.lower().startswith(("gpu", "nvidia")) else ""  # the nearest by letters is cpu
        raise unknown_name("value of --device", name, (AUTO, CPU, CUDA, f"{CUDA}:1"), meant=meant)
    count = torch.cuda.device_count() if kind == CUDA and torch.cuda.is_available() else 0
    if kind == CUDA and int(number or 0) >= count:
        raise UsageError(
            f"There is no device {name} (torch sees {counted(count, 'GPU')}). Choose another --device, e.g. cpu."
        )
    return name


def rank_device(device: str) -> str:
    """The device of a process: one that trains with others (`mdtbench run --ranks`) has the GPU of its local rank.

    Raises:
        UsageError: a single GPU for several processes, or fewer GPUs than processes.
    """
    if is_cpu(device) or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return device
    if device != CUDA:
        raise UsageError(f"Processes that train together need a GPU each (got {device}). Give --device cuda.")
    return device_of(f"{CUDA}:{os.environ['LOCAL_RANK']}")


def is_cpu(device: str) -> bool:
    return device == CPU


def settle(device: str | torch.device) -> None:
    """Make a GPU this process' own, and its arithmetic that of float32, the same in every repeat.

    All operations of our networks have deterministic kernels there (index_add, index_select, index_copy and the
    backward of indexing and attention choose others than by default). The flag is strict, because attention obeys no
    other; a method of one's own that needs an operation without such a kernel fails with torch's message, which says
    how to go on. Nothing here touches the CPU.
    """
    device = torch.device(device)
    if device.type != CUDA:
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is deterministic with a fixed workspace
    torch.cuda.set_device(device if device.index is not None else 0)  # gsplat, xformers and NCCL look at the current
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False  # 10 bits of mantissa
    torch.backends.cudnn.benchmark = False  # picks algorithms by the clock
    torch.use_deterministic_algorithms(True)
    # nothing here reads what it has not written
    torch.utils.deterministic.fill_uninitialized_memory = False  # pyright: ignore[reportAttributeAccessIssue]


def give_back_memory() -> None:
    """Return what was freed to the system: glibc keeps a few hundred MB of small pieces after pictures were drawn."""
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):  # not with musl
        trim(0)
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def clock(device: torch.device) -> float:
    """Seconds on a clock of arbitrary start, when `device` has done all that it was asked for."""
    if device.type == CUDA:
        torch.cuda.synchronize(device)  # work on a GPU is only queued when a call returns
    return time.perf_counter()


def is_device_fault(error: BaseException) -> bool:
    """Whether an exception tells of the machine (memory, a GPU, a link between GPUs) and not of anybody's code."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError | torch.AcceleratorError):
        return True
    words = ("CUDA error", "CUDA out of memory", "CUBLAS_STATUS", "CUDNN_STATUS", "CUSOLVER_STATUS", "NCCL error")
    words += ("can't allocate memory",)
    return isinstance(error, RuntimeError) and any(word in str(error) for word in words)


def cuda_devices() -> list[str]:
    """Name, memory and capability of each."""
    if not torch.cuda.is_available():
        return []
    devices = (torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count()))
    return [f"{d.name}, {d.total_memory / GB:.1f} GB, capability {d.major}.{d.minor}" for d in devices]
