"""One of several processes that train the same students: `-m mdtbench.harness.driver.gang JOB FAILURES [PLUGIN]...`.

Started by `mdtbench run --ranks N`, which writes the job. The first process writes what came of it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from threading import Thread

import torch

from ...base.files import read_json, write_json
from ...base.limits import use_limits
from ...trellis.kernels import use_kernels
from ..engine.device import rank_device, settle
from ..engine.plugins import import_plugin
from ..engine.spec import from_spec
from ..engine.stop import CODE, Stopped, heed
from ..train.ranks import together
from .students import run_train


def main(given: Path, taken: Path, plugins: Sequence[str]) -> None:
    """given: kernels, limits and job. plugins: names of modules."""
    heed()
    Thread(target=_end_with_parent, daemon=True).start()
    for plugin in plugins:
        import_plugin(plugin)
    kernels, allowed, job = from_spec(read_json(given))
    use_kernels(kernels)
    use_limits(allowed)
    torch.set_num_threads(1)  # as the workers of `mdtbench run`
    job = replace(job, device=rank_device(job.device))
    settle(job.device)
    with together(job.device) as ranks:
        try:
            failures = run_train(job)
        except Stopped:
            os._exit(CODE)
        if ranks.first:
            write_json(taken, {name: asdict(failure) for name, failure in failures.items()})


def _end_with_parent() -> None:
    """Nobody would wait for the students after the parent was killed, and another run may be at work in its folder."""
    os.read(0, 1)  # standard input, of which the parent holds the other end
    os._exit(1)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
