"""The same run on this machine, on a Ray cluster and on Slurm; nodes are killed, and jobs are put back."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import mkdtemp
from threading import Thread
from typing import Any

import pytest
from engine_jobs import Add
from inprocess import InProcess
from ray_bed import apart, cluster, has_namespaces
from slurm_bed import missing_programs, slurm

from mdtbench.harness.engine.engine import Engine
from mdtbench.harness.engine.ray_cluster import connected
from mdtbench.harness.engine.receipts import receipts_of
from mdtbench.harness.engine.slurm import Slurm
from mdtbench.harness.engine.slurm_work import LINGER_S

TESTS = Path(__file__).parents[2]
SECONDS = {"latency_s", "structure_s", "slat_s", "decode_s"}
STEPS = 24
WORDS = ["--preset", "smoke", "--stages", "structure", "--limit", "3", "--methods", "marking", "--steps", "1"]
PARTS = 2  # of a batch
CHANGES = [f"train.steps={STEPS}", "train.batch=2", f"train.parts={PARTS}", "data.train=16"]
needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="needs Ray")
needs_slurm = pytest.mark.skipif(
    find_spec("submitit") is None or bool(missing_programs()), reason=f"needs submitit, Slurm {missing_programs()}"
)
pytestmark = pytest.mark.slow


@dataclass
class Run:
    """A run of the command line, in a folder of its own."""

    root: Path
    process: subprocess.Popen[str]

    @property
    def out(self) -> Path:
        return self.root / "run"

    @property
    def marks(self) -> list[list[str]]:
        path = self.root / "marks"
        return [line.split() for line in path.read_text().splitlines()] if path.exists() else []

    def receipts(self, kind: str) -> list[Path]:
        return list((self.out / "receipts").glob(f"{kind}-*.json"))

    def wait(self, what: Callable[[], bool], seconds: float = 240.0) -> None:
        end = time.monotonic() + seconds
        while not what():
            assert self.process.poll() is None, self.process.communicate()[1][-3000:]
            assert time.monotonic() < end, "nothing happens"
            time.sleep(0.1)

    def end(self, seconds: float = 240.0) -> dict[tuple, tuple]:
        """Its values by what they are of; seconds are left out."""
        _, errors = self.process.communicate(timeout=seconds)
        assert self.process.returncode == 0, errors[-3000:]
        self.errors = errors
        rows = [json.loads(line) for line in (self.out / "rows.jsonl").open()]
        name = ("method", "variant", "sampler", "steps", "seed", "metric")
        kept = [row for row in rows if row["metric"] not in SECONDS]
        return {tuple(row[key] for key in name): (row["value"], row["stderr"], row["n_ok"]) for row in kept}


def start(root: Path, *words: str, pace: float = 0.0, **environment: str) -> Run:
    root.mkdir(parents=True, exist_ok=True)
    options = [*WORDS, "--plugin", str(TESTS / "marking_method.py"), "--out", str(root / "run")]
    options += ["--cache", str(root / "cache"), *(word for change in CHANGES for word in ("--set", change)), *words]
    options += ["--set", f"methods.marking.marks={root / 'marks'}", "--set", f"methods.marking.pace={pace}"]
    command = [sys.executable, "-m", "mdtbench", "run", *options]
    path = os.pathsep.join(one for one in sys.path if one)
    return Run(
        root,
        subprocess.Popen(
            command,
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "PYTHONPATH": path, **environment},
        ),
    )


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple, tuple]:
    """The values of one worker process of this machine."""
    values = start(tmp_path_factory.mktemp("usual"), "--workers", "1").end()
    assert len(values) > 20
    return values


# ---------------------------------------------------------------------------------------------------------------- Ray


@pytest.fixture
def nodes() -> Iterator[Any]:
    with cluster(nodes=2) as found:
        yield found


def kill(nodes: Any, node: str) -> None:
    """One of the nodes, as a power cut would."""
    [gone] = [one for one in nodes.workers if one.node_id == node]
    nodes.workers.remove(gone)
    nodes.remove_node(gone, allow_graceful=False)


@needs_ray
def test_ray_loses_a_node_in_training_and_one_in_generation(
    usual: dict[tuple, tuple], nodes: Any, tmp_path: Path, say: Callable
):
    run = start(tmp_path, "--executor", "ray", "--address", nodes.address, pace=0.2)
    run.wait(lambda: len(run.marks) > 5)
    first = run.marks[-1][1]
    kill(nodes, first)
    say(f"node {first[:8]} killed in training, at step {run.marks[-1][0]}")
    nodes.workers.append(nodes.add_node(num_cpus=1, object_store_memory=100 * 2**20))
    run.wait(lambda: bool(run.receipts("structures")))
    second = nodes.workers[0].node_id
    kill(nodes, second)
    say(f"node {second[:8]} killed in generation, after {len(run.receipts('structures'))} shard(s)")
    assert run.end() == usual
    trained = {node for _, node, _ in run.marks}
    assert first in trained
    assert len(trained) == 2
    [lost] = (run.out / "receipts" / "lost").glob("train-*.json")
    assert json.loads(lost.read_text())["status"] == "lost"
    say(f"{len(usual)} rows equal to the bit")


@pytest.fixture
def trap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder in which every module of Python and of ours is a file that leaves a trace; the trace."""
    here, trace = tmp_path / "here", tmp_path / "sprung"
    here.mkdir()
    for name in sys.stdlib_module_names | {"mdtbench", "numpy", "torch", "pydantic", "filelock", "safetensors"}:
        (here / f"{name}.py").write_text(f"open({str(trace)!r}, 'a').write({name!r} + ' ')\n")
    monkeypatch.chdir(here)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path not in ("", ".")])
    return trace


@needs_ray
def test_processes_of_ray_execute_nothing_from_the_current_folder(trap: Path, tmp_path: Path):
    import ray

    job, team = Add(tmp_path / "run" / "store", "one"), InProcess()
    try:
        cluster = connected("", tmp_path / "run", gpus=False, count=1)
        Engine(team, team, cluster, tmp_path / "run").do([job])  # pyright: ignore[reportArgumentType]
    finally:
        ray.shutdown()
    assert job.value() == 1
    assert not trap.exists(), trap.read_text()


@needs_ray
@pytest.mark.skipif(not has_namespaces(), reason="needs the program ip, and may not make a network namespace")
def test_what_a_node_writes_that_was_cut_off_changes_nothing(tmp_path: Path, say: Callable):
    """Its job is done elsewhere; then it comes to an end as well, and writes its result and its receipt."""
    import ray

    out = tmp_path / "run"
    late = Add(out / "store", "late", seconds=25.0, once=True)
    with apart() as bed:
        cluster = connected(bed.address, out, gpus=False, count=0)
        there = [node["NodeID"] for node in ray.nodes()]
        end = time.monotonic() + 60
        while len(there) < 2:
            assert time.monotonic() < end, "the node does not come up"
            time.sleep(0.5)
            there = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
        busy = [Add(out / "store", f"busy {i}", seconds=3.0) for i in range(2)]
        team: Any = InProcess()
        engine = Engine(team, team, cluster, out)
        engine.do(busy)  # a process on each node
        [far] = [actor for actor in cluster.actors if _address(actor) == "10.211.77.2"]
        cluster.actors.sort(key=lambda actor: actor is not far)  # it is given the job
        cutter = Thread(target=lambda: (_until(lambda: bool(late.attempts)), bed.cut()))
        cutter.start()
        engine.do([late])
        receipt = receipts_of(out).path(late.key)
        before = receipt.read_text(), late.digests(thorough=True)
        assert json.loads(before[0])["attempt"] >= 1
        say(f"the node was cut off; done elsewhere as attempt {json.loads(before[0])['attempt']}")
        _until(lambda: late.log.with_suffix(".end").exists(), 60)  # the first attempt has written, too
        time.sleep(1)
        assert (receipt.read_text(), late.digests(thorough=True)) == before
        say("it wrote its result late: receipt and digests are as before")


def _address(actor: Any) -> str:
    """Of the node that it is on."""
    import ray

    return ray.get(actor.handle.__ray_call__.remote(lambda hand: ray.util.get_node_ip_address()))


def _until(what: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "nothing happens"
        time.sleep(0.1)


# -------------------------------------------------------------------------------------------------------------- Slurm


@pytest.fixture
def queue() -> Iterator[dict[str, str]]:
    folder = Path(mkdtemp(prefix="q", dir="/tmp"))  # names of sockets are short
    with slurm(folder / "s", cpus=2) as environment:
        yield environment
    shutil.rmtree(folder, ignore_errors=True)


@needs_slurm
def test_slurm_puts_a_gang_back_and_it_goes_on(
    usual: dict[tuple, tuple], queue: dict[str, str], tmp_path: Path, say: Callable
):
    run = start(
        tmp_path, "--executor", "slurm", "--slurm", "time=60", "--workers", "2", "--ranks", "2", pace=0.2, **queue
    )
    run.wait(lambda: len(run.marks) > 5)
    told = subprocess.run(
        ["squeue", "-h", "-n", "train", "-o", "%A"], env={**os.environ, **queue}, capture_output=True, text=True
    )
    assert told.stdout.strip().isdigit()
    subprocess.run(["scontrol", "requeue", told.stdout.strip()], env={**os.environ, **queue}, check=True)
    say(f"Slurm job {told.stdout.strip()} put back at step {run.marks[-1][0]}")
    assert run.end() == usual
    taken = Counter(int(step) for step, *_ in run.marks)
    assert taken == dict.fromkeys(range(STEPS), PARTS)  # from its checkpoint: no step was taken twice
    assert len({process for *_, process in run.marks}) == 2 * PARTS
    log = "".join(path.read_text() for path in (run.out / "slurm").glob("*.err"))
    assert "mdtbench: SIGTERM: train-" in log
    [receipt] = run.receipts("train")
    assert json.loads(receipt.read_text())["attempt"] == 1
    say(f"{len(usual)} rows equal to the bit")


@needs_slurm
def test_processes_of_slurm_execute_nothing_from_the_current_folder(
    queue: dict[str, str], trap: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for name, value in {**queue, "PYTHONPATH": os.pathsep.join(sys.path)}.items():
        monkeypatch.setenv(name, value)
    job, team = Add(tmp_path / "run" / "store", "one"), InProcess()
    cluster = Slurm(tmp_path / "run", {}, count=1)
    try:
        Engine(team, team, cluster, tmp_path / "run").do([job])  # pyright: ignore[reportArgumentType]
    finally:
        cluster.stop()
    assert job.value() == 1
    assert not trap.exists(), trap.read_text()


@needs_slurm
def test_a_slurm_job_that_waits_makes_room_for_one_of_another_kind(
    queue: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for name, value in {**queue, "PYTHONPATH": os.pathsep.join(sys.path)}.items():
        monkeypatch.setenv(name, value)
    out, team = tmp_path / "run", InProcess()
    first = Add(out / "store", "one processor")
    cluster = Slurm(out, {}, count=1)
    started = time.monotonic()
    try:
        Engine(team, team, cluster, out).do([first, Add(out / "store", "two", of=(first,), ranks=2)])  # pyright: ignore
    finally:
        cluster.stop()
    assert time.monotonic() - started < LINGER_S


@needs_slurm
def test_an_interrupted_driver_leaves_nothing_in_the_queue(queue: dict[str, str], tmp_path: Path):
    run = start(tmp_path, "--executor", "slurm", "--workers", "1", pace=0.5, **queue)
    run.wait(lambda: len(run.marks) > 1)
    run.process.send_signal(signal.SIGINT)
    assert run.process.wait(60) != 0
    end = time.monotonic() + 40
    while (left := subprocess.run(["squeue", "-h"], env={**os.environ, **queue}, capture_output=True).stdout).strip():
        assert time.monotonic() < end, left
        time.sleep(0.5)
