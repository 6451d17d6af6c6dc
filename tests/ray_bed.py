"""A Ray cluster of several nodes on this machine, for the time of a test."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

# Ray gives all nodes of one machine its own address otherwise, which only one of them can have.
SETTINGS = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


@contextmanager
def cluster(nodes: int = 2, cpus: int = 1) -> Iterator[Any]:
    """A head that does nothing, and nodes that work: `ray.cluster_utils.Cluster`, with the nodes as `workers`."""
    os.environ.update(SETTINGS)
    import ray
    from ray.cluster_utils import Cluster

    small = {"object_store_memory": 100 * 2**20, "include_dashboard": False}
    found = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **small})
    try:
        found.workers = [found.add_node(num_cpus=cpus, object_store_memory=100 * 2**20) for _ in range(nodes)]
        yield found
    finally:
        ray.shutdown()
        found.shutdown()


def has_namespaces() -> bool:
    """Whether this process may make network namespaces; one is made and removed."""
    name = f"try{os.getpid()}"
    words = ["ip", "netns"]
    return shutil.which("ip") is not None and all(
        subprocess.run([*words, verb, name], capture_output=True, check=False).returncode == 0
        for verb in ("add", "del")
    )


@dataclass
class Apart:
    """A head here and one node in a network namespace of its own, which can be cut off.

    Attributes:
        address: of the head.
    """

    address: str
    link: str

    def cut(self) -> None:
        subprocess.run(["ip", "link", "set", self.link, "down"], check=True)


@contextmanager
def apart(cpus: int = 1) -> Iterator[Apart]:
    """Needs root, and the program `ip`. The head works too, with resource `here`; the node has `there`."""
    name = f"mdt{os.getpid() % 10000}"
    here, there, folder = "10.211.77.1", "10.211.77.2", tempfile.mkdtemp(prefix="ray", dir="/tmp")
    # A dead node is noticed in seconds, not in half a minute.
    soon = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_timeout_ms": 500}
    soon |= {"health_check_failure_threshold": 4}
    environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0"}
    environment.pop("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", None)  # these nodes have addresses of their own
    script = [sys.executable, "-m", "ray.scripts.scripts", "start", "--num-cpus", str(cpus), "--block"]
    head = ["--head", f"--node-ip-address={here}", "--port=6399", f"--temp-dir={folder}/h", "--include-dashboard=false"]
    node = [f"--address={here}:6399", f"--node-ip-address={there}", f"--temp-dir={folder}/n"]
    small = ["--object-store-memory", str(100 * 2**20)]
    servers: list[subprocess.Popen] = []
    try:
        for command in (
            f"ip netns add {name}",
            f"ip link add {name}a type veth peer name {name}b netns {name}",
            f"ip addr add {here}/24 dev {name}a",
            f"ip link set {name}a up",
            f"ip -n {name} addr add {there}/24 dev {name}b",
            f"ip -n {name} link set {name}b up",
            f"ip -n {name} link set lo up",
        ):
            subprocess.run(command.split(), check=True)
        quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": environment}
        more = ["--system-config", json.dumps(soon)]
        servers.append(subprocess.Popen([*script, *head, *small, *more], process_group=0, **quiet))
        _reached(here, 6399)
        inside = ["ip", "netns", "exec", name, *script, *node, *small]
        servers.append(subprocess.Popen(inside, process_group=0, **quiet))
        yield Apart(f"{here}:6399", f"{name}a")
    finally:
        import ray

        ray.shutdown()
        for server in servers:
            os.killpg(server.pid, signal.SIGTERM)
        for server in servers:
            try:
                server.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(server.pid, signal.SIGKILL)
        subprocess.run(["ip", "netns", "del", name], check=False)
        shutil.rmtree(folder, ignore_errors=True)


def _reached(host: str, port: int, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection((host, port), 1).close()
            return
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.3)
