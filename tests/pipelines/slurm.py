"""A real SLURM of this machine: its daemons on the loopback interface, with two nodes that are this machine."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from support import skip_or_fail

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "munged")

CONFIGURATION = """\
ClusterName=vadx
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=bf_interval=2,sched_min_interval=200000
JobRequeue=1
KillWait=10
ReturnToService=2
SlurmdParameters=config_overrides
SlurmdTimeout=30
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd.%n.log
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={port1} CPUs=2 RealMemory=4000 State=UNKNOWN
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={port2} CPUs=2 RealMemory=4000 State=UNKNOWN
PartitionName=all Nodes=n1,n2 Default=YES MaxTime=60 State=UP
"""


@contextmanager
def slurm_cluster(folder: Path) -> Iterator[dict[str, str]]:
    """Start SLURM, give the environment in which its commands find it, and stop it."""
    missing = [name for name in PROGRAMS if shutil.which(name, path=_path()) is None]
    if os.geteuid() != 0:
        skip_or_fail("slurm", "its daemons are started by root")
    if missing:
        skip_or_fail(
            "slurm", f"{', '.join(missing)} not installed: apt-get install slurmctld slurmd slurm-client munge"
        )
    for name in ("state", "spool", "log"):
        (folder / name).mkdir()
    ports = dict(zip(("port", "port1", "port2"), _free_ports(3), strict=True))
    configuration = folder / "slurm.conf"
    configuration.write_text(CONFIGURATION.format(folder=folder, host=socket.gethostname(), **ports))
    environment = {**os.environ, "SLURM_CONF": str(configuration), "PATH": _path()}
    with ExitStack() as stack:
        _munge(folder, stack)
        for words in (["slurmctld"], ["slurmd", "-N", "n1"], ["slurmd", "-N", "n2"]):
            subprocess.run(words, env=environment, check=True, timeout=30)
            name = "slurmctld" if len(words) == 1 else f"slurmd.{words[2]}"
            stack.callback(_end, folder / f"{name}.pid")
        _wait_until_idle(environment)
        yield environment


def _path() -> str:
    return os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])


def _free_ports(number: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _munge(folder: Path, stack: ExitStack) -> None:
    """Start munge, which says who sends what, unless it runs."""
    if subprocess.run(["munge", "-n"], capture_output=True, check=False).returncode == 0:
        return
    subprocess.run(["install", "-d", "-o", "munge", "-g", "munge", "-m", "755", "/run/munge"], check=True)
    words = ["setpriv", "--reuid=munge", "--regid=munge", "--clear-groups", shutil.which("munged", path=_path()) or ""]
    subprocess.run([*words, "--log-file=/var/log/munge/munged.log"], check=True, timeout=30)
    stack.callback(_end, Path("/run/munge/munged.pid"))


def _end(pid_file: Path) -> None:
    """End a daemon, and wait for it."""
    with suppress(OSError, ValueError):
        pid = int(pid_file.read_text())
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + 20
        while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        os.kill(pid, signal.SIGKILL)


def _wait_until_idle(environment: dict[str, str]) -> None:
    for _ in range(300):
        done = subprocess.run(["sinfo", "-h", "-o", "%t"], env=environment, capture_output=True, text=True, check=False)
        if done.stdout.split() == ["idle"]:
            return
        time.sleep(0.1)
    msg = f"SLURM's nodes do not become idle: {done.stdout}{done.stderr}"
    raise RuntimeError(msg)
