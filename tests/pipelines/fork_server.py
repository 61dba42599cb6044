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
    through it. ``signal_after`` sends ``signal`` so many seconds after the fork. ``file_limit`` is RLIMIT_FSIZE in
    bytes, ``spool_above`` the bytes of values above which a disposable child writes the shard.
    """

    arguments: list[str]
    folder: str
    fault: str = "none"
    at: int = -1
    signal: int = 0
    signal_after: float | None = None
    file_limit: int | None = None
    spool_above: int | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """What became of an order. ``code`` is negative for a signal; ``signalled`` says that the clock's was in time.

    ``events`` and ``peak_bytes``, the child's peak memory, are missing if it was killed.
    """

    code: int
    out: str
    err: str
    seconds: float
    events: list[str] = field(default_factory=list)
    peak_bytes: int = 0
    signalled: bool = False
    timed_out: bool = False


class Events:
    """Counts what a run does, and lets one event fail."""

    def __init__(self, order: Order) -> None:
        self.fault, self.at, self.folder = order.fault, order.at, order.folder
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
        if number != self.at:
            return False
        if self.fault in SIGNAL_OF_FAULT:
            os.kill(os.getpid(), SIGNAL_OF_FAULT[self.fault])
        if self.fault in ERRNO_OF_FAULT:
            code = ERRNO_OF_FAULT[self.fault]
            raise OSError(code, os.strerror(code))
        return self.fault == "tear"

    def _system_call(self, name: str, *args: Any, **options: Any) -> Any:
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


def run_child(order: Order, out: int, err: int, side: int) -> NoReturn:
    from vadx.features.spool import ClipSpool
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
    report, real_write = os.fdopen(side, "w"), os.write
    events = Events(order)
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
    pipes = [os.pipe() for _ in range(3)]
    began = time.monotonic()
    child = os.fork()
    if child == 0:
        for reader, _ in pipes:
            os.close(reader)
        run_child(order, *(writer for _, writer in pipes))
    for _, writer in pipes:
        os.close(writer)
    signals = [] if order.signal_after is None else [(began + order.signal_after, order.signal)]
    signals.append((began + TIME_LIMIT_SECONDS, signal.SIGKILL))
    due = len(signals)
    texts = read_all([reader for reader, _ in pipes], child, signals)
    _, status = os.waitpid(child, 0)
    seconds = time.monotonic() - began
    rest = json.loads(texts[2] or "{}")
    code = os.waitstatus_to_exitcode(status)
    return Report(code, texts[0], texts[1], seconds, signalled=len(signals) < due, timed_out=not signals, **rest)


def read_all(readers: list[int], child: int, signals: list[tuple[float, int]]) -> list[str]:
    """Read what a child says until it ends. A signal that is due is sent, and taken off the list."""
    chunks: dict[int, list[bytes]] = {reader: [] for reader in readers}
    waiting = set(readers)
    while waiting:
        due, number = signals[0] if signals else (None, 0)
        if due is not None and time.monotonic() >= due:
            os.kill(child, number)
            signals.pop(0)
            continue
        ready, _, _ = select.select(list(waiting), [], [], None if due is None else due - time.monotonic())
        for reader in ready:
            chunk = os.read(reader, 1 << 16)
            chunks[reader].append(chunk)
            if not chunk:
                waiting.discard(reader)
                os.close(reader)
    return [b"".join(chunks[reader]).decode(errors="replace") for reader in readers]


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
