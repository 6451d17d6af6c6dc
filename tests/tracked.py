"""What trackers wrote: read by TensorBoard's event accumulator, from W&B's messages, by MLflow's client."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mdtbench.harness.engine.logs import read_log

Points = list[tuple[int, float]]  # steps and values
BLOCK, HEAD = 32768, 7  # of W&B's files, which are LevelDB logs behind a header of 7 bytes
WHOLE_OR_LAST = (1, 4)  # kinds of a piece that ends a message


@dataclass
class Tracked:
    """One track. pictures: pixels."""

    settings: dict[str, Any] = field(default_factory=dict)
    curves: dict[str, Points] = field(default_factory=dict)
    pictures: dict[str, NDArray[np.uint8]] = field(default_factory=dict)


def of_tensorboard(root: Path) -> dict[str, Tracked]:
    """By name; all of ROOT/tensorboard."""
    return {path.name: _events(path) for path in sorted((root / "tensorboard").iterdir())}


def of_wandb(root: Path) -> dict[str, Tracked]:
    """By name; the offline runs of ROOT/wandb, of which each name must have one."""
    import wandb

    wandb.teardown()  # waits until all is on the disk
    files = sorted((root / "wandb").glob("offline-run-*/*.wandb"))
    found = dict(_offline(path) for path in files)
    assert len(found) == len(files)
    return found


def of_mlflow(uri: str) -> dict[str, Tracked]:
    """By name; all runs of a store, of which each name must have one."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    [experiment] = client.search_experiments(filter_string="name = 'mdtbench'")
    runs = client.search_runs([experiment.experiment_id], "tags.`mdtbench.track` != ''")
    found = {run.data.tags["mdtbench.track"]: _stored(client, run) for run in runs}
    assert len(found) == len(runs)
    return found


def curves_of(log: Path) -> dict[str, Points]:
    """What a training's log holds, as curves."""
    entries = read_log(log)
    return {name: [(int(entry["step"]), entry[name]) for entry in entries] for name in entries[0] if name != "step"}


def same(curves: Mapping[str, Points], expected: Mapping[str, Points], rel: float = 0.0) -> bool:
    """The same names, steps and values; rel: largest relative difference of a value (TensorBoard's are float32)."""

    def near(a: float, b: float) -> bool:
        return math.isclose(a, b, rel_tol=rel, abs_tol=0.0) or (math.isnan(a) and math.isnan(b))

    return curves.keys() == expected.keys() and all(
        [step for step, _ in curves[name]] == [step for step, _ in expected[name]]
        and all(near(a, b) for (_, a), (_, b) in zip(curves[name], expected[name], strict=True))
        for name in expected
    )


FLOAT32 = 2.0**-24  # half a unit in the last place


def _events(folder: Path) -> Tracked:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    events = EventAccumulator(str(folder), {"scalars": 0, "images": 0}).Reload()
    found, tags = Tracked(), events.Tags()
    for data in events.summary_metadata.values():
        if data.plugin_data.plugin_name == "hparams":
            message = HParamsPluginData.FromString(data.plugin_data.content)
            for name, value in message.session_start_info.hparams.items():
                found.settings[name] = getattr(value, str(value.WhichOneof("kind")))
    found.curves = {tag: [(one.step, one.value) for one in events.Scalars(tag)] for tag in tags["scalars"]}
    for tag in tags["images"]:
        [image] = events.Images(tag)
        found.pictures[tag] = pixels(BytesIO(image.encoded_image_string))
    return found


def _offline(path: Path) -> tuple[str, Tracked]:
    name, found = "", Tracked()
    for record in _records(path):
        if record.WhichOneof("record_type") == "run":
            name = record.run.display_name
        for config in (record.run.config, record.config):
            found.settings |= {item.key: json.loads(item.value_json) for item in config.update if item.key[0] != "_"}
        for item in record.history.item:
            key, *rest = item.nested_key
            value = json.loads(item.value_json)
            if rest == ["path"]:
                found.pictures[key] = pixels(path.parent / "files" / value)
            elif not rest and not key.startswith("_"):
                found.curves.setdefault(key, []).append((record.history.step.num, float(value)))
    return name, found


def _records(path: Path) -> Iterator[Any]:
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, message = path.read_bytes(), HEAD, b""
    while at + HEAD <= len(data):
        if BLOCK - at % BLOCK < HEAD:  # the rest of a block that holds no head is empty
            at += BLOCK - at % BLOCK
            continue
        _, size, kind = struct.unpack_from("<IHB", data, at)
        message += data[at + HEAD : at + HEAD + size]
        at += HEAD + size
        if kind in WHOLE_OR_LAST:
            yield Record.FromString(message)
            message = b""


def _stored(client: Any, run: Any) -> Tracked:
    key = run.info.run_id
    histories = {name: client.get_metric_history(key, name) for name in run.data.metrics}
    curves = {name: sorted((one.step, one.value) for one in history) for name, history in histories.items()}
    files = _files(lambda folder: client.list_artifacts(key, folder))
    pictures = {path.removesuffix(".png"): pixels(Path(client.download_artifacts(key, path))) for path in files}
    return Tracked(dict(run.data.params), curves, pictures)


def _files(listed: Callable[[str | None], Any], folder: str | None = None) -> Iterator[str]:
    for one in listed(folder):
        yield from _files(listed, one.path) if one.is_dir else [one.path]


def pixels(file: Any) -> NDArray[np.uint8]:
    with Image.open(file) as picture:
        return np.asarray(picture.convert("RGB"))
