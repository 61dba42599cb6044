"""A Dask scheduler and workers with nannies, as a user starts them by hand, for benchmarks that reach one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from vadx_chaos import workers_below

START_SECONDS = 120.0


def start_cluster(
    folder: Path, num_workers: int, environment: Mapping[str, str], port: int = 0
) -> tuple[str, list[subprocess.Popen[bytes]]]:
    """Give the address of a new scheduler, and its process and that of its workers' nannies."""
    from distributed import Client

    file = folder / "scheduler.json"
    file.unlink(missing_ok=True)
    own = ["--host", "127.0.0.1", "--no-dashboard"]
    scheduler = ["distributed.cli.dask_scheduler", *own, "--port", str(port), "--scheduler-file", str(file)]
    started = [_start(folder, scheduler, environment)]
    while not file.exists() or not file.read_text().rstrip().endswith("}"):
        time.sleep(0.05)
    workers = ["distributed.cli.dask_worker", "--scheduler-file", str(file), *own, "--nworkers", str(num_workers)]
    workers += ["--nthreads", "1", "--memory-limit", "0", "--local-directory", str(folder / "scratch")]
    started.append(_start(folder, workers, environment))
    with Client(scheduler_file=str(file), set_as_default=False) as client:
        client.wait_for_workers(num_workers, timeout=START_SECONDS)
        return client.scheduler.address, started


def _start(folder: Path, words: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    with (folder / "cluster.err").open("ab") as err:
        return subprocess.Popen(
            [sys.executable, "-m", *words], cwd=folder, env=dict(environment), stdout=err, stderr=err
        )


def end_cluster(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """End what `start_cluster` started, however far it still is from its end."""
    orphans = workers_below(processes[-1].pid)
    for process in reversed(processes):
        process.terminate()
    for process in processes:
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    for pid in orphans:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def cpu_seconds_of(pid: int) -> float:
    """Give the processor time that another process took so far."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")
