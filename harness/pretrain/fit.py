"""One pretraining stage: a loss per step, checkpoints, a log, resume."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...base.seeds import seed_of
from ..engine.files import intact, load_tensors, save_tensors
from ..engine.logs import read_log, write_log
from ..engine.progress import Reporter
from ..train.learner import Learner
from ..train.loop import LOG_EVERY

CHECKPOINT_EVERY_S = 60.0


def fit(
    learner: Learner, loss_of: Callable[[int], Tensor], path: Path, reporter: Reporter, label: str
) -> dict[str, float]:
    """Train to the end of the recipe, from the checkpoint at `path` when there is one, and keep the averaged weights.

    Args:
        loss_of: loss of a step; a function of the step's index alone, so that a resumed run sees the same data.

    Returns:
        steps, seconds (of this call) and the mean loss of the last 100 steps.
    """
    log, entries = log_of(path), []
    if intact(path, load_tensors, reporter.note):
        learner.restore(load_tensors(path))
        entries = [entry for entry in read_log(log) if entry["step"] < learner.done]
    start = saved = time.monotonic()
    losses: list[float] = []
    task = reporter.start(label, learner.recipe.steps, learner.done)
    while learner.done < learner.recipe.steps:
        index = learner.done
        loss = loss_of(index)
        norm = learner.step(loss)
        losses = [*losses[-99:], loss.item()]
        if index % LOG_EVERY == 0 or learner.done == learner.recipe.steps:
            entries.append({"step": index, "loss": losses[-1], "grad_norm": norm})
        reporter.update(task, learner.done, f"loss {np.mean(losses):.4f}")
        if time.monotonic() - saved > CHECKPOINT_EVERY_S or learner.done == learner.recipe.steps:
            write_log(log, entries)  # first, as a checkpoint must not be ahead of it
            save_learner(learner, path)
            saved = time.monotonic()
    learner.settle()
    return {"steps": learner.done, "seconds": time.monotonic() - start, "loss": float(np.mean(losses or [0.0]))}


def log_of(path: Path) -> Path:
    """The log beside a checkpoint."""
    return path.with_suffix(".jsonl")


def save_learner(learner: Learner, path: Path) -> None:
    save_tensors(path, learner.state())


def numpy_generator(*purpose: str | int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed_of(*purpose)))


def torch_generator(*purpose: str | int) -> torch.Generator:
    return torch.Generator().manual_seed(seed_of(*purpose))
