"""What `--track` writes: the logs of trainings while they grow, rows, pictures and settings.

Trainings write their logs wherever they run; the process that drives the run reads these files. So tracking changes no
number, and knows nothing of workers and ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from secrets import token_hex
from threading import Event, Thread
from typing import Any

from ...base.files import read_json, write_json
from ...results.merge import flat
from ...results.rows import Row
from .logs import read_log
from .provenance import git_state
from .trackers import Address, Track

TOKEN_FILE = "track.json"
EVERY_S = 5.0  # between two looks at the logs, which are written with checkpoints


@dataclass(frozen=True)
class Training:
    """A training to follow.

    Attributes:
        name: of its track. log: its file, a JSON object per line with a key `step`.
        ended: a file that is written when the log is complete.
        settings: tables may be nested.
    """

    name: str
    log: Path
    ended: Path
    settings: Mapping[str, Any]


class Board:
    """All that is tracked of a run. Make with `tracking`; without trackers it does nothing.

    Args:
        kinds: of `trackers.TRACKERS`. root: where files go. run_id: of the run, and of its tracks.
    """

    def __init__(self, kinds: Sequence[str], root: Path, run_id: str):
        whole = f"run-{run_id}"
        self._kinds = tuple(kinds)
        self._address = Address(root, f"{run_id}-{_token(root)}" if kinds else "", whole, whole)
        commit, dirty = git_state() if kinds else (None, None)
        self._common = {"run_id": run_id, "git_commit": commit, "git_dirty": dirty}
        self._run = Track(self._kinds, self._address)
        self._followed: dict[str, _Follower] = {}
        self._stop, self._error, self._thread = Event(), None, Thread(target=self._watch, daemon=True)
        if kinds:
            self._thread.start()

    def settings(self, values: Mapping[str, Any]) -> None:
        """Of the run. values: tables may be nested."""
        self._run.hyperparameters(flat(values) | self._common)
        self._run.flush()

    def follow(self, trainings: Iterable[Training]) -> None:
        """Track what these trainings log, from now on; those that are followed already stay."""
        if self._kinds:
            self._followed = {one.name: _Follower(one) for one in trainings} | self._followed

    def rows(self, rows: Iterable[Row]) -> None:
        """Values and standard errors, by the number of sampler steps; what failed has none."""
        for steps, values in sorted(scalars_of(rows).items()):
            self._run.scalars(steps, values)
        self._run.flush()

    def scalars(self, values: Mapping[str, float]) -> None:
        """Of the run, which have no step."""
        self._run.scalars(0, values)
        self._run.flush()

    def picture(self, name: str, path: Path) -> None:
        """Before `rows`."""
        self._run.picture(name, path)

    def stop(self) -> None:
        """Look at no log any more."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def close(self) -> None:
        """Track what was logged last. Raises RunError when a tracker failed, now or earlier."""
        self.stop()
        if self._error:
            raise self._error
        self._look()
        for follower in self._followed.values():
            follower.close()
        self._run.close()

    def _watch(self) -> None:
        """In a thread. A failure waits for `close`: a server that is gone must not end a training."""
        try:
            while not self._stop.wait(EVERY_S):
                self._look()
        except Exception as error:
            self._error = error

    def _look(self) -> None:
        for follower in list(self._followed.values()):
            follower.look(self._opened)

    def _opened(self, training: Training) -> Track:
        track = Track(self._kinds, replace(self._address, name=training.name))
        track.hyperparameters({**flat(training.settings), **self._common})
        return track


class _Follower:
    """Reads a log as it grows and tracks what is new in it."""

    def __init__(self, training: Training):
        self._training = training
        self._track: Track | None = None
        self._seen = 0  # time of writing of the log that was read last
        self._step = -1
        self._over = False

    def look(self, opened: Callable[[Training], Track]) -> None:
        training = self._training
        ended = training.ended.exists()  # asked first: a log is complete before that file is there
        if self._over or not training.log.exists():
            return
        if self._track is None:
            self._track = opened(training)
        if (written := training.log.stat().st_mtime_ns) != self._seen:
            self._seen = written
            self._read(self._track)
        if ended:
            self.close()

    def _read(self, track: Track) -> None:
        """A training that goes on from a checkpoint logs the steps after that once more, with the same values."""
        for entry in read_log(self._training.log):
            step = int(entry.pop("step"))
            if step > self._step:
                track.scalars(step, entry)
                self._step = step
        track.flush()

    def close(self) -> None:
        if self._track and not self._over:
            self._track.close()
        self._over = True


@contextmanager
def tracking(kinds: Sequence[str], root: Path, run_id: str) -> Iterator[Board]:
    """A board, closed with the block; after a failure or an interrupt the next call tracks what is missing.

    Raises:
        RunError: a tracker failed.
    """
    board = Board(kinds, root, run_id)
    try:
        yield board
    except BaseException:
        board.stop()
        raise
    board.close()


def _token(root: Path) -> str:
    """What tells the runs of a folder from those with the same settings elsewhere; the same in every call."""
    path = root / TOKEN_FILE
    if not path.is_file():
        write_json(path, {"id": token_hex(4)})
    return read_json(path)["id"]


def scalars_of(rows: Iterable[Row]) -> dict[int, dict[str, float]]:
    """Values by number of sampler steps (0: none) and name: METRIC/STAGE/LABEL[ SAMPLER][/train0][-gen1][ stderr]."""
    found: dict[int, dict[str, float]] = {}
    for row in rows:
        if row.value is None:
            continue
        values, name = found.setdefault(row.steps or 0, {}), _name_of(row)
        values[name] = row.value
        if row.stderr is not None:
            values[f"{name} stderr"] = row.stderr
    return found


def _name_of(row: Row) -> str:
    label = row.method + (f":{row.variant}" if row.variant else "") + (f" {row.sampler}" if row.extra_sampler else "")
    seeds = [f"{word}{seed}" for word, seed in (("train", row.train_seed), ("gen", row.seed)) if seed is not None]
    return "/".join([row.metric, row.stage, label, *(["-".join(seeds)] if seeds else [])])
