"""Decoders that note what they decode, and crash, hang or eat memory where a video's name says so; kills of workers.

The notes are lines of a file, appended whole, so that they outlive whoever wrote them. What may have been decoded twice
is judged by them alone.
"""

from __future__ import annotations

import importlib.util
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

HERE = Path(__file__).parent
NOTES, PACE = "VADX_CHAOS_NOTES", "VADX_CHAOS_SECONDS"
VIDEO_MODULE = "vadx.extract.video"
AT_WORK = 0.75


def chaos_environment(notes: Path, seconds: float = 0.0) -> dict[str, str]:
    """Give what decoders must find in their environment; ``seconds`` is how long each is made to take."""
    path = os.pathsep.join([str(HERE / "chaos"), str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {"PYTHONPATH": path, NOTES: str(notes), PACE: str(seconds)}


def install() -> None:
    """Let this process's `VideoReader` be the noting one, once somebody imports it."""
    if NOTES in os.environ:
        sys.meta_path.insert(0, _AfterImport())


class _AfterImport(MetaPathFinder):
    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name != VIDEO_MODULE:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def execute_and_wrap(module: ModuleType) -> None:
            execute(module)
            module.VideoReader = noting(module.VideoReader)  # type: ignore[attr-defined]  # it is a module's content

        spec.loader.exec_module = execute_and_wrap  # type: ignore[method-assign]  # of this one loader
        return spec


def _starve() -> None:
    held = []
    while True:
        held.append(bytearray(64 << 20))


MISHAPS: Mapping[str, tuple[Callable[[], object], str]] = {
    "crash": (lambda: os.kill(os.getpid(), signal.SIGSEGV), "VIDEO_CRASH"),
    "hang": (lambda: time.sleep(3600), "VIDEO_TIMEOUT"),
    "hungry": (_starve, "VIDEO_TOO_LARGE"),
    # As the system does where memory runs out.
    "killed": (lambda: os.kill(os.getpid(), signal.SIGKILL), "VIDEO_OOM"),
}
"""What befalls a decoder between the first and the second block of a video of that name, and the code for it."""


def noting(reader: type[Any]) -> type[Any]:
    """Give a `VideoReader` that notes each video it is made for, takes its time, and has the mishap of its name."""

    class Noting(reader):  # type: ignore[misc]  # whatever class it is
        def __init__(self, path: str | Path, **options: Any) -> None:
            self.chaos_name = Path(path).stem
            # A decoder is told whose it is; one whose worker has just been killed has another parent by now.
            worker = sys.argv[1] if "decode_child" in sys.argv[0] else os.getpid()
            line = f"{self.chaos_name} {worker} {time.time()}\n"
            descriptor = os.open(os.environ[NOTES], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
            os.write(descriptor, line.encode())
            os.close(descriptor)
            super().__init__(path, **options)

        def __iter__(self) -> Iterator[Any]:
            for number, block in enumerate(super().__iter__()):
                if number == 1:
                    time.sleep(float(os.environ[PACE]))
                    if self.chaos_name in MISHAPS:
                        MISHAPS[self.chaos_name][0]()
                yield block

    return Noting


@dataclass(frozen=True, slots=True)
class Decode:
    """One time that a video was begun: by a decoder of the process ``worker``, at a time of the clock."""

    name: str
    worker: int
    at: float


@dataclass(frozen=True, slots=True)
class Strike:
    """A worker that was killed, or stopped for good."""

    worker: int
    at: float
    number: int = signal.SIGKILL


def decodes(notes: Path) -> list[Decode]:
    """Read what decoders noted."""
    text = notes.read_text() if notes.exists() else ""
    rows = (line.split() for line in text.splitlines())
    return [Decode(name, int(worker), float(at)) for name, worker, at in rows]


def too_often(
    found: Sequence[Decode], strikes: Sequence[Strike], stored_at: Mapping[str, float]
) -> dict[str, tuple[int, int]]:
    """Give the videos that were decoded more often than once and once for each strike at a worker that was on them.

    A worker that decodes a video at all is on it until the video is stored, which for one that never was is for ever.
    Its decoder may begin, with what it was told before, a moment after its worker was struck. The values are how often
    each was decoded, and might have been.
    """
    count = Counter(decode.name for decode in found)
    allowed = Counter(count.keys())
    for strike in strikes:
        hit = {decode.name for decode in found if decode.worker == strike.worker}
        allowed.update(name for name in hit if strike.at <= stored_at.get(name, strike.at))
    return {name: (count[name], allowed[name]) for name in sorted(count) if count[name] > allowed[name]}


def shard_times(store: Path) -> dict[str, float]:
    """Give when each video's shard came to stand there, by the name of its file."""
    return {path.stem: path.stat().st_ctime for path in store.glob("*/shards/*/*.h5")}


def workers_below(pid: int) -> set[int]:
    """Give the Dask workers among the processes that ``pid`` started, and they."""
    found = set()
    for child in _children(pid):
        with suppress(OSError):
            if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                found.add(child)
        found |= workers_below(child)
    return found


def _children(pid: int) -> list[int]:
    words: list[str] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            words += path.read_text().split()
    return [int(word) for word in words]


def _struck_next(pid: int, spared: Collection[int], notes: Path | None) -> list[int]:
    """Give the workers that may be struck; with ``notes``, those alone that have begun a video."""
    there = workers_below(pid).difference(spared)
    return sorted(there if notes is None else there.intersection(one.worker for one in decodes(notes)))


def strike(
    pid: int, generator: random.Random, *, num_kills: int, pause: tuple[float, float], is_over: Callable[[], bool],
    spared: Collection[int] = (), num_stops: int = 0, notes: Path,
) -> list[Strike]:  # fmt: skip
    """Kill workers below ``pid`` at random, and stop some instead, until so many were struck or all is over.

    Begins when the first video is decoded. Pauses are uniform, in seconds; which of the strikes are stops is random,
    and `AT_WORK` of them wait for workers that have begun a video: on a busy machine most of a short run is spent in
    starting workers again.
    """
    while not decodes(notes) and not is_over():
        time.sleep(0.02)
    stops = set(generator.sample(range(num_kills + num_stops), num_stops))
    done: list[Strike] = []
    stopped: set[int] = set()
    while len(done) < num_kills + num_stops and not is_over():
        time.sleep(generator.uniform(*pause))
        at_work_only = generator.random() < AT_WORK
        while not (there := _struck_next(pid, {*spared, *stopped}, notes if at_work_only else None)) and not is_over():
            time.sleep(0.05)
        if not there:
            break
        victim = generator.choice(there)
        number = signal.SIGSTOP if len(done) in stops else signal.SIGKILL
        at = time.time()
        with suppress(ProcessLookupError):
            os.kill(victim, number)
            done.append(Strike(victim, at, number))
            stopped |= {victim} if number == signal.SIGSTOP else set()
    return done
