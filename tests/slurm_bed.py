"""A Slurm of virtual nodes on this machine, for the time of a test: controller, nodes, authentication; no systemd."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CONF = """
ClusterName=bed
SlurmctldHost={host}
SlurmctldPort={port}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=10
CryptoType=crypto/munge
SlurmUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/ctld.pid
SlurmdPidFile={folder}/d-%n.pid
SlurmctldLogFile={folder}/ctld.log
SlurmdLogFile={folder}/d-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
ReturnToService=2
SlurmdTimeout=30
KillWait=30
MinJobAge=10
InactiveLimit=0
JobRequeue=1
SchedulerParameters=sched_interval=2,batch_sched_delay=0,bf_interval=2
{nodes}
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing_programs() -> list[str]:
    """What is not installed of all that it needs."""
    return [name for name in ("slurmctld", "slurmd", "sbatch", "munged") if not _program(name)]


@contextmanager
def slurm(folder: Path, nodes: int = 2, cpus: int = 1) -> Iterator[dict[str, str]]:
    """What the environment of who uses it must have more. folder: short, as sockets lie in it."""
    folder.mkdir(parents=True)
    (folder / "state").mkdir()
    host = socket.gethostname().partition(".")[0]
    lines = [
        f"NodeName=n{i} NodeHostname={host} NodeAddr=127.0.0.1 Port={_port()} CPUs={cpus} State=UNKNOWN"
        for i in range(nodes)
    ]
    conf = folder / "slurm.conf"
    conf.write_text(CONF.format(host=f"{host}(127.0.0.1)", port=_port(), folder=folder, nodes="\n".join(lines)))
    environment = {"SLURM_CONF": str(conf)}
    with _munge(folder):
        whole = {**os.environ, **environment}
        commands = [["slurmctld", "-D"], *(["slurmd", "-D", "-N", f"n{i}"] for i in range(nodes))]
        servers = [subprocess.Popen([_program(name), *rest], env=whole, **_quiet(folder)) for name, *rest in commands]
        try:
            _wait_for(nodes, whole)
            yield environment
        finally:
            subprocess.run(["scancel", "--me"], env=whole, check=False)
            for server in reversed(servers):
                server.terminate()
            for server in servers:
                try:
                    server.wait(5)
                except subprocess.TimeoutExpired:
                    server.kill()
                    server.wait()


@contextmanager
def _munge(folder: Path) -> Iterator[None]:
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o600)
    folder.chmod(0o755)
    names = {"key-file": key, "socket": folder / "munge.socket", "pid-file": folder / "munge.pid"}
    names |= {"log-file": folder / "munge.log", "seed-file": folder / "munge.seed"}
    options = [f"--{name}={path}" for name, path in names.items()]
    server = subprocess.Popen([_program("munged"), "--foreground", "--force", *options], **_quiet(folder))
    try:
        yield
    finally:
        server.terminate()
        server.wait()


def _wait_for(nodes: int, environment: dict[str, str], seconds: float = 60.0) -> None:
    end, told = time.monotonic() + seconds, ""
    while time.monotonic() < end:
        command = ["sinfo", "-h", "-N", "-o", "%T"]
        told = subprocess.run(command, env=environment, capture_output=True, text=True, check=False).stdout
        if told.split() == ["idle"] * nodes:
            return
        time.sleep(0.3)
    raise TimeoutError(f"The nodes of Slurm are not idle after {seconds} s: {told}")


def _quiet(folder: Path) -> dict:
    return {"stdout": (folder / "out.log").open("a"), "stderr": subprocess.STDOUT, "stdin": subprocess.DEVNULL}


def _program(name: str) -> str:
    """Its path; "" where it is not installed. Servers lie where users' paths do not lead."""
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") or ""


def _port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]
