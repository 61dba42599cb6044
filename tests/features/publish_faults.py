"""Faults and races for `vadx.features.publish`, run by `test_publish` as a program of its own.

A process that forks should hold one thread: pytest's holds those of every library that other tests imported.
"""

from __future__ import annotations

import errno
import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from vadx.features import publish

COUNTED = frozenset({"open", "posix_fallocate", "write", "fsync", "close", "link", "replace", "unlink"})
WRITE_LIMIT = 4096
"""Bytes that one write takes at most, so that a publish needs several."""

ERRNO_OF_FAULT = {
    "enospc from here": errno.ENOSPC,
    "enospc once": errno.ENOSPC,
    "edquot once": errno.EDQUOT,
    "eio once": errno.EIO,
    "estale once": errno.ESTALE,
    "estale, but done": errno.ESTALE,
}
FAULTS = ("kill before", "kill within", "short write", *ERRNO_OF_FAULT)
FUNCTIONS = ("publish_bytes", "publish_file")
STANDINGS = ("absent", "old, replace", "old, keep")
SABOTAGES: dict[str, Callable[..., publish.Published]] = {}


def payload(label: str, num_bytes: int = 3 * WRITE_LIMIT) -> bytes:
    """Content that proves itself: the sha256 of the rest comes first."""
    rest = (f"{label}|".encode() * num_bytes)[: num_bytes - 32]
    return hashlib.sha256(rest).digest() + rest


def is_whole(content: bytes) -> bool:
    return len(content) > 32 and hashlib.sha256(content[32:]).digest() == content[:32]


OLD, NEW = payload("old", 2 * WRITE_LIMIT), payload("new")
NEIGHBOUR = payload("neighbour", 1000)


@dataclass(frozen=True, slots=True)
class Case:
    """Fault ``fault`` at system call number ``at`` of one publish."""

    function: str
    standing: str
    fault: str
    at: int

    @property
    def replace(self) -> bool:
        return self.standing == "old, replace"


@dataclass(frozen=True, slots=True)
class Observation:
    """What one case left behind. ``outcome`` and ``error`` are None if the process was killed."""

    case: Case
    calls: list[str]
    fired: bool
    killed: bool
    outcome: str | None
    error: str | None
    message: str
    errno: int | None
    final: str
    final_path: str
    strangers_intact: bool
    leftovers: list[str]
    after_retry: str

    @classmethod
    def from_json(cls, line: str) -> Observation:
        raw = json.loads(line)
        return cls(case=Case(**raw.pop("case")), **raw)


class FaultyOs:
    """Stands in for the module ``os``: counts the system calls that publish makes, and injects one fault."""

    def __init__(self, fault: str, at: int) -> None:
        self.fault, self.at = fault, at
        self.calls: list[str] = []
        self.fired = False
        self._directories: set[int] = set()

    def __getattr__(self, name: str) -> Any:
        return partial(self._call, name) if name in COUNTED else getattr(os, name)

    def _call(self, name: str, *args: Any) -> Any:
        of_directory = args[1] & os.O_DIRECTORY if name == "open" else args[0] in self._directories
        label = f"{name} of directory" if of_directory else name
        at = len(self.calls)
        self.calls.append(label)
        if at == self.at or (at > self.at and self.fault == "enospc from here"):
            self.fired = True
            self._fail(label, name, *args)
            return os.write(args[0], args[1][: WRITE_LIMIT // 2])
        return self._really(name, *args)

    def _really(self, name: str, *args: Any) -> Any:
        if name == "write":
            return os.write(args[0], args[1][:WRITE_LIMIT])
        if name == "fsync":
            # What it is for stands in power_loss.py; a thousand real ones take half a minute.
            os.fstat(args[0])
            return None
        result = getattr(os, name)(*args)
        if name == "open" and args[1] & os.O_DIRECTORY:
            self._directories.add(result)
        if name == "close":
            self._directories.discard(args[0])
        return result

    def _fail(self, label: str, name: str, *args: Any) -> None:
        if self.fault == "kill before":
            _kill_self()
        if self.fault == "kill within":
            if label == "write":
                os.write(args[0], args[1][: WRITE_LIMIT // 2])
            else:
                self._really(name, *args)
            _kill_self()
        if self.fault == "eio once" and label == "fsync":
            # As Linux does: the pages that could not be written are marked clean, and may be dropped.
            os.pwrite(args[0], bytes(512), 0)
        if self.fault == "estale, but done":
            self._really(name, *args)
        if self.fault != "short write":
            number = ERRNO_OF_FAULT[self.fault]
            raise OSError(number, os.strerror(number))


def _kill_self() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


@dataclass(frozen=True, slots=True)
class Place:
    """A piece of a store with one name to publish, and things that are none of the publisher's business."""

    root: Path

    @property
    def final(self) -> Path:
        return self.root / "shards" / "ab" / "video.h5"

    @property
    def tmp(self) -> Path:
        return self.root / "tmp"

    @property
    def strangers(self) -> tuple[Path, ...]:
        return (self.final.with_name("video2.h5"), self.final.with_name("video.h5.old"), self.tmp / "other.part")

    def prepare(self, standing: str) -> None:
        self.final.parent.mkdir(parents=True)
        self.tmp.mkdir()
        for path in self.strangers:
            path.write_bytes(NEIGHBOUR)
        if standing != "absent":
            self.final.write_bytes(OLD)

    def look(self) -> str:
        try:
            content = self.final.read_bytes()
        except FileNotFoundError:
            return "absent"
        return {OLD: "old", NEW: "new"}.get(content, "torn")

    def publish(self, function: str, *, replace: bool) -> publish.Published:
        if function in SABOTAGES:
            return SABOTAGES[function](NEW, self.final, self.tmp, replace=replace)
        if function == "publish_bytes":
            return publish.publish_bytes(NEW, self.final, self.tmp, replace=replace)
        temporary = self.tmp / "whole.part"
        temporary.write_bytes(NEW)
        return publish.publish_file(temporary, self.final, replace=replace)


def _in_place(data: bytes, final: Path, _tmp: Path, *, replace: bool) -> publish.Published:
    shim = vars(publish)["os"]
    descriptor = shim.open(final, os.O_WRONLY | os.O_CREAT | (os.O_TRUNC if replace else 0), 0o666)
    view = memoryview(data)
    while view:
        view = view[shim.write(descriptor, view) :]
    shim.fsync(descriptor)
    shim.close(descriptor)
    return publish.Published(final, "new")


def _deaf(data: bytes, final: Path, tmp: Path, *, replace: bool) -> publish.Published:
    try:
        return publish.publish_bytes(data, final, tmp, replace=replace)
    except OSError:
        return publish.Published(final, "new")


SABOTAGES.update({"written in place": _in_place, "errors swallowed": _deaf})


def observe(case: Case, root: Path) -> Observation:
    place = Place(root)
    place.prepare(case.standing)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        _publish_and_report(case, place, writer)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        report = json.loads(pipe.read() or b"{}")
    _, status = os.waitpid(child, 0)
    killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    final = place.look()
    leftovers = sorted(path.name for path in place.tmp.iterdir())
    intact = all(path.read_bytes() == NEIGHBOUR for path in place.strangers)
    vars(publish)["os"] = FaultyOs("none", -1)
    place.publish("publish_bytes", replace=case.replace)
    result = Observation(
        case=case,
        calls=report.get("calls", []),
        fired=report.get("fired", killed),
        killed=killed,
        outcome=report.get("outcome"),
        error=report.get("error"),
        message=report.get("message", ""),
        errno=report.get("errno"),
        final=final,
        final_path=str(place.final),
        strangers_intact=intact and len(list(place.final.parent.iterdir())) == 3,
        leftovers=leftovers,
        after_retry=place.look(),
    )
    shutil.rmtree(root)
    return result


def _publish_and_report(case: Case, place: Place, writer: int) -> NoReturn:
    shim = FaultyOs(case.fault, case.at)
    report: dict[str, Any] = {}
    try:
        vars(publish)["os"] = shim
        report["outcome"] = place.publish(case.function, replace=case.replace).outcome
    except BaseException as error:  # noqa: BLE001
        report |= {"error": type(error).__name__, "message": str(error), "errno": getattr(error, "errno", None)}
    report |= {"calls": shim.calls, "fired": shim.fired}
    os.write(writer, json.dumps(report).encode())
    os._exit(0)


def every_case(root: Path, functions: tuple[str, ...]) -> Iterator[Observation]:
    """Inject every fault at every system call, and last at one that no publish reaches."""
    for function in functions:
        for standing in STANDINGS:
            calls = observe(Case(function, standing, "none", -1), root / "clean").calls
            for fault in ("kill within", "enospc once") if function in SABOTAGES else FAULTS:
                for at in range(len(calls) + 1):
                    if fault != "short write" or calls[at : at + 1] == ["write"]:
                        yield observe(Case(function, standing, fault, at), root / "case")


@dataclass(frozen=True, slots=True)
class Race:
    """What several writers of the same names were told, and what readers saw meanwhile."""

    outcomes: dict[str, list[tuple[int, str]]]
    contents: dict[str, str]
    num_reads: int
    num_bad_reads: int
    num_changed: int
    leftovers: list[str]

    @classmethod
    def from_json(cls, line: str) -> Race:
        return cls(**json.loads(line))


def race(root: Path, *, writers: int, names: int, rounds: int, replace: bool) -> Race:
    place = Place(root)
    place.prepare("absent")
    context = multiprocessing.get_context("fork")
    barrier, stop, told = context.Barrier(writers), context.Event(), context.SimpleQueue()

    def write(writer: int) -> None:
        for turn in range(rounds):
            for name in range(names):
                final = place.final.with_name(f"{turn}-{name}.h5")
                barrier.wait()
                published = publish.publish_bytes(payload(f"w{writer}", 50_000), final, place.tmp, replace=replace)
                told.put((final.name, writer, published.outcome))

    def read() -> None:
        first: dict[str, bytes] = {}
        reads = bad = changed = 0
        while not stop.is_set():
            for path in place.final.parent.glob("*-*.h5"):
                content = path.read_bytes()
                reads += 1
                bad += not is_whole(content)
                changed += first.setdefault(path.name, content) != content
        told.put((reads, bad, changed))

    readers = [context.Process(target=read) for _ in range(2)]
    workers = [context.Process(target=write, args=(writer,)) for writer in range(writers)]
    for process in readers + workers:
        process.start()
    outcomes: dict[str, list[tuple[int, str]]] = {}
    for _ in range(writers * names * rounds):
        name, writer, outcome = told.get()
        outcomes.setdefault(name, []).append((writer, outcome))
    stop.set()
    reads, bad, changed = map(sum, zip(*(told.get() for _ in readers), strict=True))
    for process in readers + workers:
        process.join()
    contents = {name: place.final.with_name(name).read_bytes()[32:].split(b"|")[0].decode() for name in outcomes}
    return Race(outcomes, contents, reads, bad, changed, sorted(p.name for p in place.tmp.iterdir()))


def main() -> None:
    command, folder, *rest = sys.argv[1:]
    publish._BACKOFF_SECONDS = (0.0, 0.0, 0.0)
    root = Path(folder)
    if command == "faults":
        for observation in every_case(root, tuple(rest) or FUNCTIONS):
            print(json.dumps(asdict(observation)))
    else:
        kept = race(root / "keep", writers=6, names=4, rounds=10, replace=False)
        replaced = race(root / "replace", writers=6, names=4, rounds=10, replace=True)
        print(json.dumps(asdict(kept)))
        print(json.dumps(asdict(replaced)))


if __name__ == "__main__":
    main()
