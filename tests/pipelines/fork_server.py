"""Runs the command line in forked children, started by `forking.ForkServer` as a program of its own.

A child costs a hundredth of a new interpreter, and can be killed, starved or lied to at any of its system calls. The
process that forks must hold one thread: pytest's holds those of every library that other tests imported.

One JSON line in, an `Order`; one JSON line out, a `Report`.
"""

from __future__ import annotations

import errno
import json
import os
import resource
import select
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

COUNTED = ("open", "posix_fallocate", "write", "fsync", "close", "link", "replace", "unlink", "mkdir", "truncate")
ERRNO_OF_FAULT = {"enospc": errno.ENOSPC, "eio": errno.EIO}
SIGNAL_OF_FAULT = {"kill": signal.SIGKILL, "term": signal.SIGTERM, "interrupt": signal.SIGINT}
FAULTS = (*SIGNAL_OF_FAULT, *ERRNO_OF_FAULT, "tear", "none")
TIME_LIMIT_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Order:
    """One run of the command line.

    ``fault`` strikes before event number ``at``: a signal, or an error of that call alone. ``tear`` kills halfway
    through it. ``signal`` is sent from outside, ``delay`` seconds after so many events (``after_events``).
    ``file_limit`` is RLIMIT_FSIZE in bytes, ``spool_above`` the bytes of values above which a disposable child writes
    the shard. ``kept_clips`` has a video's clips kept for a resumption from the first on, so many in a block.
    """

    arguments: list[str]
    folder: str
    fault: str = "none"
    at: int = -1
    signal: int = 0
    after_events: int | None = None
    delay: float = 0.0
    file_limit: int | None = None
    spool_above: int | None = None
    kept_clips: int | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """What became of an order. ``code`` is negative for a signal.

    ``events`` and ``peak_bytes``, the child's peak memory, are missing if it was killed.
    """

    code: int
    out: str
    err: str
    events: list[str] = field(default_factory=list)
    peak_bytes: int = 0
    timed_out: bool = False


class Events:
    """Counts what a run does, and lets one event fail."""

    def __init__(self, order: Order, ticks: int) -> None:
        self.fault, self.at, self.folder = order.fault, order.at, order.folder
        self.ticks, self.waits = ticks, order.after_events is not None
        self.seen: list[str] = []
        self._names: dict[int, str] = {}
        self._real: dict[str, Callable[..., Any]] = {}

    def install(self) -> None:
        from vadx.extract.engine import Engine
        from vadx.extract.video import _BlockBuilder

        for name in COUNTED:
            self._real[name] = getattr(os, name)
            setattr(os, name, partial(self._system_call, name))
        self._step(_BlockBuilder, "take")
        self._step(Engine, "run")

    def _step(self, owner: type, name: str) -> None:
        function = getattr(owner, name)

        def counted(*arguments: Any) -> Any:
            self._count(f"{owner.__name__}.{name}")
            return function(*arguments)

        setattr(owner, name, counted)

    def _count(self, label: str) -> bool:
        """Say whether this event is the one to tear."""
        number = len(self.seen)
        self.seen.append(label)
        self._real["write"](self.ticks, b".")
        if self.waits and "/tmp/clock." in label:
            # The run is nearly over: a signal that is on its way shall not come too late.
            time.sleep(0.25)
        if number != self.at:
            return False
        if self.fault in SIGNAL_OF_FAULT:
            os.kill(os.getpid(), SIGNAL_OF_FAULT[self.fault])
        if self.fault in ERRNO_OF_FAULT:
            code = ERRNO_OF_FAULT[self.fault]
            raise OSError(code, os.strerror(code))
        return self.fault == "tear"

    def _system_call(self, name: str, *args: Any, **options: Any) -> Any:
        if name == "open" and not args[1] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_DIRECTORY):
            # Reading changes nothing that a store holds.
            return self._real[name](*args, **options)
        target = self._names.get(args[0], "") if isinstance(args[0], int) else os.fspath(args[0])
        if self._count(f"{name} {target.removeprefix(self.folder)}"):
            self._tear(name, *args, **options)
        result = self._real[name](*args, **options)
        if name == "open":
            self._names[result] = target
        return result

    def _tear(self, name: str, *args: Any, **options: Any) -> NoReturn:
        try:
            if name == "write":
                args = (args[0], args[1][: len(args[1]) // 2])
            self._real[name](*args, **options)
        finally:
            os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError


def run_child(order: Order, out: int, err: int, side: int, ticks: int) -> NoReturn:
    from vadx.features.spool import ClipSpool
    from vadx.pipelines import unfinished
    from vadx.pipelines.cli import main

    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(out, 1)
    os.dup2(err, 2)
    os.chdir(order.folder)
    # Whoever runs tests in the background may have them ignore it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if order.file_limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (order.file_limit, order.file_limit))
    if order.spool_above is not None:
        ClipSpool.__init__.__kwdefaults__["memory_bytes"] = order.spool_above
    if order.kept_clips is not None:
        unfinished.KEEP_AFTER_SECONDS, unfinished.BLOCK_CLIPS = 0.0, order.kept_clips
    report, real_write = os.fdopen(side, "w"), os.write
    events = Events(order, ticks)
    events.install()
    code = 70
    try:
        main(order.arguments)
    except SystemExit as done:
        code = done.code if isinstance(done.code, int) else 70
    except BaseException:  # noqa: BLE001
        sys.excepthook(*sys.exc_info())
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    real_write(report.fileno(), json.dumps({"events": events.seen, "peak_bytes": peak}).encode())
    os._exit(code)


def serve(order: Order) -> Report:
    pipes = [os.pipe() for _ in range(4)]
    child = os.fork()
    if child == 0:
        for reader, _ in pipes:
            os.close(reader)
        run_child(order, *(writer for _, writer in pipes))
    for _, writer in pipes:
        os.close(writer)
    texts, timed_out = watch(child, [reader for reader, _ in pipes], order)
    _, status = os.waitpid(child, 0)
    return Report(
        os.waitstatus_to_exitcode(status), texts[0], texts[1], timed_out=timed_out, **json.loads(texts[2] or "{}")
    )


def watch(child: int, readers: list[int], order: Order) -> tuple[list[str], bool]:
    """Read what a child says until it ends, and send it the signal that it is to get."""
    texts = {reader: b"" for reader in readers}
    waiting, ticks = set(readers), readers[-1]
    deadline = time.monotonic() + TIME_LIMIT_SECONDS
    while waiting:
        ready, _, _ = select.select(list(waiting), [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            os.kill(child, signal.SIGKILL)
            deadline = float("inf")
        for reader in ready:
            chunk = os.read(reader, 1 << 16)
            before, texts[reader] = len(texts[reader]), texts[reader] + chunk
            if reader == ticks and order.after_events and before < order.after_events <= len(texts[reader]):
                time.sleep(order.delay)
                os.kill(child, order.signal)
            if not chunk:
                waiting.discard(reader)
                os.close(reader)
    return [texts[reader].decode(errors="replace") for reader in readers], deadline == float("inf")


def warm_up(arguments: list[str]) -> None:
    """Load every library and the network once, so that each child begins where its work does."""
    import torch

    from vadx.pipelines.cli import run

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        code = run([*arguments, "--out", f"{folder}/store", "--quiet"])
    if code != 0:
        sys.exit(f"the warm-up ended with {code}")
    num_threads = len(list(Path("/proc/self/task").iterdir()))
    if num_threads != 1:
        sys.exit(f"a process that forks should hold one thread, this one holds {num_threads}")


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    warm_up(sys.argv[1:])
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(asdict(serve(Order(**json.loads(line))))), file=answers, flush=True)


if __name__ == "__main__":
    main()
