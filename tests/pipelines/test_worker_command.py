"""``vadx worker``: what it starts, what it refuses, and how it ends; and a run that waits for workers in vain."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from distributed import Scheduler, SpecCluster

from support import Ran, vadx_environment
from vadx.pipelines.capacity import usable_cores

from .forking import IDS, TINY, events, shard_hashes, statuses

Vadx = Callable[..., Ran]

pytestmark = [
    pytest.mark.timeout(240),
    # Dask leaves sockets of its own to the collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture
def scheduler() -> Iterator[SpecCluster]:
    """A scheduler of this process, without workers; it ends before what the test started."""
    options = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}
    with SpecCluster(workers={}, scheduler={"cls": Scheduler, "options": options}, silence_logs=False) as cluster:
        yield cluster


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "--scheduler ADDRESS, or --scheduler-file FILE"),
        (("--scheduler", "tcp://127.0.0.1:1", "--scheduler-file", "s.json"), "--scheduler ADDRESS, or"),
        (("--scheduler", "tcp://10.0.0.7:8786"), "set up TLS for Dask and give tls://10.0.0.7:8786"),
        (("--scheduler-file", "s.json"), "is not encrypted, and whoever reaches it can run code as you"),
        (("--scheduler", "gpu7"), "such as tcp://127.0.0.1:8786; got 'gpu7'"),
        (("--scheduler", "tcp://127.0.0.1:1", "--wait", "soon"), "--wait is a time such as 3h50m"),
    ],
)
def test_what_cannot_be_meant_is_refused(words: tuple[str, ...], says: str, vadx_here: Vadx, tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text(json.dumps({"address": "tcp://10.0.0.7:8786"}))
    ran = vadx_here("worker", *words)
    assert (ran.code, says in ran.err) == (2, True), ran.err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--scheduler", "tcp://127.0.0.1:1"), "no Dask scheduler takes workers at tcp://127.0.0.1:1 ("),
        (("--scheduler-file", "none.json"), "none.json names no scheduler after 1 s; start one that writes it"),
    ],
)
def test_a_scheduler_that_does_not_come_is_told(words: tuple[str, ...], says: str, vadx_here: Vadx) -> None:
    before = signal.getsignal(signal.SIGTERM)
    ran = vadx_here("worker", *words, "--wait", "1s")
    assert (ran.code, says in ran.err) == (6, True), ran.err
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_run_without_workers_ends_in_time_and_they_do_it_once_they_come(
    scheduler: SpecCluster, store: Path, six_videos: Path, vadx_here: Vadx, tmp_path: Path
) -> None:
    command = (*TINY, six_videos, "--out", "other", "--scheduler", scheduler.scheduler_address, "--json")
    ran = vadx_here(*command, "--no-workers-timeout", "1s")
    assert (ran.code, "no worker has come for 1 s; what was stored is safe" in ran.err) == (6, True)
    assert events(ran, "summary")[0]["exit_code"] == 6

    (tmp_path / "s.json").write_text(json.dumps({"address": scheduler.scheduler_address}))
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "vadx", "worker", *words],
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            env=vadx_environment(CUDA_VISIBLE_DEVICES=""),
        )
        for words in (("--scheduler-file", "s.json"), ("--scheduler", scheduler.scheduler_address, "--workers", "2"))
    ]
    try:
        first, second = started
        lines = [process.stderr.readline() if process.stderr else "" for process in started]
        cores = (usable_cores(), max(1, usable_cores() // 2))
        words = [f"each with {n} core{'s' if n > 1 else ''}\n" for n in cores]
        assert lines == [
            f"1 worker for {scheduler.scheduler_address}: {words[0]}",
            f"2 workers for {scheduler.scheduler_address}: {words[1]}",
        ]
        ran = vadx_here(*command)
        assert (ran.code, sorted(statuses(ran))) == (0, IDS), ran.err
        assert shard_hashes(tmp_path / "other") == shard_hashes(store)
        first.terminate()
        assert first.wait(10) == 143
        assert second.poll() is None
        scheduler.close()
        _, told = second.communicate(timeout=30)
        assert (second.returncode, "has ended, and its workers with it" in told) == (0, True)
    finally:
        for process in started:
            process.kill()
            process.communicate()
