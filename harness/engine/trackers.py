"""Experiment trackers behind one small interface: TensorBoard, Weights & Biases, MLflow.

A track is that of a training, or of the run as a whole. Every call hands it all that there is of it, from the first
step on: TensorBoard's and MLflow's tracks take what they lack, W&B's are made anew. Each library is imported when it is
used.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from ...base.errors import MdtbenchError, RunError, UsageError, unknown_name

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

PROJECT: Final = "mdtbench"  # where the user has named none
GROUP, TRACK = "mdtbench.run", "mdtbench.track"  # tags by which MLflow finds a track again
BATCH: Final = 1000  # values that MLflow takes at once
PARAMETERS: Final = 100  # likewise
NOT_IN_NAMES = re.compile(r"[^\w./: -]")  # what MLflow takes in no name


class Tracker(Protocol):
    """One track of one library."""

    def hyperparameters(self, values: Mapping[str, Any]) -> None:
        """Settings: numbers, booleans and texts."""
        ...

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Values of a step. Steps never fall from one call to the next."""
        ...

    def picture(self, name: str, path: Path) -> None:
        """A picture of the run, before its scalars."""
        ...

    def flush(self) -> None:
        """Let others see what was written."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class Address:
    """Of a track.

    Attributes:
        root: where files go. group: what tracks of one run share, and no other run has. name: unique within a group.
        whole: name of the track of the run as a whole.
    """

    root: Path
    group: str
    name: str
    whole: str


class Steps:
    """Which steps of which names are written already."""

    def __init__(self) -> None:
        self._known: dict[str, set[int]] = defaultdict(set)

    def add(self, name: str, steps: Iterable[int]) -> None:
        self._known[name].update(steps)

    def missing(self, step: int, values: Mapping[str, float]) -> dict[str, float]:
        """Those of the values that are not written, which they are from now on."""
        found = {name: value for name, value in values.items() if step not in self._known[name]}
        for name in found:
            self._known[name].add(step)
        return found


class TensorBoard:
    """ROOT/tensorboard/NAME: event files, one more in every call that has something new.

    A TensorBoard that is open would not notice other changes. Settings that are there stay.
    """

    def __init__(self, address: Address):
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        self._folder = address.root / "tensorboard" / address.name
        self._folder.mkdir(parents=True, exist_ok=True)
        self._there = EventAccumulator(str(self._folder), {"scalars": 0, "images": 1}).Reload()
        self._tags, self._steps = self._there.Tags(), Steps()
        for name in self._tags["scalars"]:
            self._steps.add(name, (event.step for event in self._there.Scalars(name)))
        self._writer: SummaryWriter | None = None

    def _open(self) -> SummaryWriter:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = self._writer or SummaryWriter(str(self._folder))
        return self._writer

    def hyperparameters(self, values: Mapping[str, Any]) -> None:
        from torch.utils.tensorboard.summary import hparams

        summaries = hparams(dict(values), {})
        if not {summary.value[0].tag for summary in summaries} <= self._there.summary_metadata.keys():
            for summary in summaries:  # `add_hparams` would begin a second run
                self._open()._get_file_writer().add_summary(summary)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in self._steps.missing(step, values).items():
            self._open().add_scalar(name, value, step)  # float32, as is usual there

    def picture(self, name: str, path: Path) -> None:
        """A picture that is another one than before is the next step."""
        before, new = [], _pixels(path)
        if name in self._tags["images"]:
            before = self._there.Images(name)
        if not before or not np.array_equal(_pixels(BytesIO(before[-1].encoded_image_string)), new):
            step = before[-1].step + 1 if before else 0
            self._open().add_image(name, new, step, dataformats="HWC")

    def flush(self) -> None:
        if self._writer:
            self._writer.flush()

    def close(self) -> None:
        if self._writer:
            self._writer.close()


class WandB:
    """A run of W&B; made anew, as its id is the same in every call.

    Online or offline as WANDB_MODE or `wandb offline` say, and offline without a login. Offline it lies in
    ROOT/wandb/offline-run-*, for `wandb sync`.
    """

    def __init__(self, address: Address):
        import wandb

        root, settings, key = address.root, wandb.setup().settings, f"{address.group}-{address.name}"
        nobody = settings.mode == "online" and not wandb.login(prompt=False, verify=False)
        root.mkdir(parents=True, exist_ok=True)
        for earlier in (root / "wandb").glob(f"offline-run-*-{key}"):
            shutil.rmtree(earlier)
        self._picture = wandb.Image
        self._run = wandb.init(
            project=settings.project or PROJECT,
            group=address.group,
            id=key,
            name=address.name,
            dir=root,
            mode="offline" if nobody else None,
            reinit="create_new",  # several at once in this process
            settings=wandb.Settings(console="off", silent=True, x_disable_stats=True),
        )

    def hyperparameters(self, values: Mapping[str, Any]) -> None:
        self._run.config.update(dict(values), allow_val_change=True)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def picture(self, name: str, path: Path) -> None:
        self._run.log({name: self._picture(str(path))}, step=0)

    def flush(self) -> None:
        """W&B sends by itself."""

    def close(self) -> None:
        self._run.finish()


class MLflow:
    """A run of MLflow, found again by its tags; trainings lie below the run as a whole.

    At MLFLOW_TRACKING_URI, else in ROOT/mlflow/mlflow.db: MLflow refuses new stores of plain files unless it is told
    not to. Parameters cannot change there: a name keeps its first value.
    """

    def __init__(self, address: Address):
        from mlflow import MlflowClient

        uri, home = os.environ.get("MLFLOW_TRACKING_URI", ""), None
        if not uri:
            home = (address.root / "mlflow").resolve()
            home.mkdir(parents=True, exist_ok=True)
            uri = f"sqlite:///{home / 'mlflow.db'}"
        self._client = MlflowClient(tracking_uri=uri)
        self._run = self._opened(self._experiment(home), address)
        self._id, self._steps = self._run.info.run_id, Steps()
        for name in self._run.data.metrics:
            self._steps.add(name, (one.step for one in self._client.get_metric_history(self._id, name)))
        self._waiting: list[Any] = []

    def _experiment(self, home: Path | None) -> str:
        """home: of the files of a local store, which would go to the current folder otherwise."""
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        found = self._client.get_experiment_by_name(name)
        if found:
            return found.experiment_id
        return self._client.create_experiment(name, (home / "artifacts").as_uri() if home else None)

    def _opened(self, experiment: str, address: Address) -> Any:
        if found := self._found(experiment, address.group, address.name):
            self._client.update_run(found.info.run_id, status="RUNNING")
            return found
        tags = {GROUP: address.group, TRACK: address.name}
        if whole := self._found(experiment, address.group, address.whole):
            tags["mlflow.parentRunId"] = whole.info.run_id
        return self._client.create_run(experiment, tags=tags, run_name=address.name)

    def _found(self, experiment: str, group: str, name: str) -> Any | None:
        wanted = f"tags.`{GROUP}` = '{group}' and tags.`{TRACK}` = '{name}'"
        return next(iter(self._client.search_runs([experiment], wanted)), None)

    def hyperparameters(self, values: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        new = [Param(key, str(value)) for key, value in values.items() if key not in self._run.data.params]
        for first in range(0, len(new), PARAMETERS):
            self._client.log_batch(self._id, params=new[first : first + PARAMETERS])

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        self._waiting += [Metric(name, one, now, step) for name, one in self._steps.missing(step, values).items()]

    def picture(self, name: str, path: Path) -> None:
        self._client.log_artifact(self._id, str(path), name.rpartition("/")[0] or None)

    def flush(self) -> None:
        for first in range(0, len(self._waiting), BATCH):
            self._client.log_batch(self._id, metrics=self._waiting[first : first + BATCH])
        self._waiting = []

    def close(self) -> None:
        self.flush()
        self._client.set_terminated(self._id)


TRACKERS: Final[dict[str, Callable[[Address], Tracker]]] = {
    "tensorboard": TensorBoard,
    "wandb": WandB,
    "mlflow": MLflow,
}


def trackers_of(words: Sequence[str]) -> tuple[str, ...]:
    """The trackers that a command names, each once.

    Raises:
        UsageError: an unknown name, or a library that is not installed.
    """
    for word in words:
        if word not in TRACKERS:
            raise unknown_name("tracker", word, TRACKERS)
        found = find_spec(word)
        if found is None or found.origin is None:  # a folder of that name here is no package
            raise UsageError(
                f"--track {word} needs the package {word}, which is not installed - `pip install 'mdtbench[tracking]'` "
                "brings it - or leave it out."
            )
    return tuple(dict.fromkeys(words))


class Track:
    """A track in all the trackers that are asked for. Their errors become RunError.

    Args:
        kinds: of `TRACKERS`.
    """

    def __init__(self, kinds: Sequence[str], address: Address):
        self._trackers: dict[str, Tracker] = {}
        for kind in kinds:
            with _named(kind):
                self._trackers[kind] = TRACKERS[kind](address)

    def hyperparameters(self, values: Mapping[str, Any]) -> None:
        """values: anything; what is not a number, boolean or text is spelled."""
        self._each(lambda one: one.hyperparameters({_name(key): _spelled(value) for key, value in values.items()}))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._each(lambda one: one.scalars(step, {_name(key): value for key, value in values.items()}))

    def picture(self, name: str, path: Path) -> None:
        self._each(lambda one: one.picture(_name(name), path))

    def flush(self) -> None:
        self._each(lambda one: one.flush())

    def close(self) -> None:
        self._each(lambda one: one.close())

    def _each(self, call: Callable[[Tracker], None]) -> None:
        for kind, tracker in self._trackers.items():
            with _named(kind):
                call(tracker)


def _pixels(file: Path | BytesIO) -> NDArray[np.uint8]:
    from PIL import Image

    with Image.open(file) as picture:
        return np.asarray(picture.convert("RGB"))


def _name(name: str) -> str:
    return NOT_IN_NAMES.sub("-", name)


def _spelled(value: Any) -> str | int | float | bool:
    if isinstance(value, str | int | float | bool):
        return value
    return json.dumps(value, default=repr)


@contextmanager
def _named(kind: str) -> Iterator[None]:
    try:
        yield
    except MdtbenchError:
        raise
    except Exception as error:  # of a library or a server: they have no class in common
        raise RunError(
            f"Tracking with {kind} failed ({type(error).__name__}: {error}). Results are unaffected; the same command "
            "goes on and tracks what is missing, without --track it only continues."
        ) from error
