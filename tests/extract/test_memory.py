"""Freed memory stays with the process, in every thread: what a network's layers take is not mapped anew each time."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from vadx.extract.memory import KEEPING, keep_freed_memory
from vadx.pipelines import cli

PROGRAM = """
import resource, sys
from concurrent.futures import ThreadPoolExecutor

from vadx.extract.memory import keep_freed_memory


def work() -> int:
    for _ in range(2):
        b"1" * (100 << 20)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        b"1" * (100 << 20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


if sys.argv[1] == "first":
    keep_freed_memory()
with ThreadPoolExecutor(1) as other:
    other.submit(bytearray, 1 << 20).result()
if sys.argv[1] == "late":
    keep_freed_memory()
print(ThreadPoolExecutor(1).submit(work).result())
"""


def num_faults(when: str, **more: str) -> int:
    """Give the page faults of five times 100 MiB in a thread that is not the first."""
    environment = {name: value for name, value in os.environ.items() if name not in KEEPING}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, when], env={**environment, **more}, capture_output=True, text=True, check=True
    )
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_memory_is_kept_where_it_was_asked_for_before_there_were_threads() -> None:
    mapped_anew = 5 * 100 * 256  # pages of 4 KiB; fewer where the system gives larger ones
    assert num_faults("first") < mapped_anew // 1000
    assert num_faults("never", **KEEPING) < mapped_anew // 1000
    assert num_faults("late") > mapped_anew // 2


def test_the_environment_has_the_last_word(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: object) -> None:
        pytest.fail("malloc's options were changed")

    monkeypatch.setattr("ctypes.CDLL", fail)
    monkeypatch.setenv("MALLOC_ARENA_MAX", "4")
    keep_freed_memory()


def test_the_command_asks_before_all_else(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    monkeypatch.setattr(cli, "keep_freed_memory", lambda: done.append("keep"))
    monkeypatch.setattr(cli, "run", lambda arguments: done.append("run"))
    monkeypatch.setattr("signal.signal", lambda number, handler: None)
    with pytest.raises(SystemExit):
        cli.main([])
    assert done == ["keep", "run"]
