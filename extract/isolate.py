"""Decoding in processes of its own: a file that crashes the decoder costs that file, and videos decode side by side.

`DecodePool` and `InlineDecoders` are one interface, `Decoders`. The processes run `decode_child`; frames come through
shared memory that has no name, so nothing is left behind however a run ends. They are started anew, never forked: the
caller may hold CUDA, threads and locks.
"""

from __future__ import annotations

import itertools
import logging
import math
import os
import signal
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import connection as connections
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Self, TypeVar

import numpy as np

from ..errors import VideoError
from . import video
from .decode_child import (
    Block,
    Bug,
    ChildProcess,
    Ended,
    NonsenseError,
    Open,
    Opened,
    Refused,
    end_all,
)
from .decode_limits import DecodeLimits
from .video import FrameBlock, FrameSource

if TYPE_CHECKING:
    from ..features.timeline import VideoFacts
    from .decode_child import Report
    from .video import VideoInfo, VideoReader

logger = logging.getLogger(__name__)

_S = TypeVar("_S", bound="FrameSource")


_LOOK_SECONDS = 1.0
"""How often processes are looked at, and the most that counts as their silence between two looks: who was busy with
something else, or suspended, does not know how long they were silent."""


class OpenedVideo(FrameSource, Protocol):
    """A video that is being decoded, wherever that is."""

    @property
    def info(self) -> VideoInfo:
        """What the header says."""


class Decoders(Protocol):
    """Where videos are opened: in this process or in others, with the same frames, facts and errors."""

    def open(
        self, path: str | Path, *, rotation: str = "apply", strict: bool = False, allow_partial: bool = False
    ) -> OpenedVideo:
        """Begin a video, and return at once: what is wrong with it is raised when it is first used."""

    def wait(self, sources: Sequence[_S], timeout: float | None = None) -> _S | None:
        """Give the first of ``sources`` whose iteration goes on without waiting; None after ``timeout`` seconds."""

    def close(self) -> None:
        """End everything that was opened."""


class InlineDecoders:
    """Decode in this process, when a frame is asked for. `Decoders`.

    ``keep_native`` is `VideoReader`'s.
    """

    def __init__(self, *, keep_native: bool = False) -> None:
        self._keep_native = keep_native
        self._opened: list[InlineReader] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def open(
        self, path: str | Path, *, rotation: str = "apply", strict: bool = False, allow_partial: bool = False
    ) -> InlineReader:
        """Begin a video. Nothing is read before it is used."""
        self._opened = [reader for reader in self._opened if not reader.is_closed]
        reader = InlineReader(
            path, rotation=rotation, strict=strict, allow_partial=allow_partial, keep_native=self._keep_native
        )
        self._opened.append(reader)
        return reader

    def wait(self, sources: Sequence[_S], timeout: float | None = None) -> _S | None:
        """Give the first: here each one decodes when asked."""
        del timeout
        return sources[0] if sources else None

    def close(self) -> None:
        """Close every source that was opened."""
        for reader in self._opened:
            reader.close()
        self._opened = []


class InlineReader:
    """A `VideoReader` that is made when it is first used. A `FrameSource`.

    Raises
    ------
    VideoError
        from the first use, if the file cannot be opened as a video.
    ValueError
        from the first use, if that is after `close`.
    """

    def __init__(
        self, path: str | Path, *, rotation: str, strict: bool, allow_partial: bool, keep_native: bool
    ) -> None:
        self.path = Path(path)
        self.is_closed = False
        self._rotation = rotation
        self._strict = strict
        self._allow_partial = allow_partial
        self._keep_native = keep_native
        self._reader: VideoReader | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[FrameBlock]:
        yield from self._open()

    @property
    def info(self) -> VideoInfo:
        """What the header says."""
        return self._open().info

    def facts(self) -> VideoFacts:
        """Say what decoding showed so far."""
        return self._open().facts()

    def close(self) -> None:
        """Let go of the file."""
        self.is_closed = True
        if self._reader is not None:
            self._reader.close()

    def _open(self) -> VideoReader:
        if self._reader is None:
            if self.is_closed:
                raise _closed(self.path)
            # Looked up here, where a test may have put another.
            self._reader = video.VideoReader(
                self.path,
                rotation=self._rotation,
                strict=self._strict,
                allow_partial=self._allow_partial,
                keep_native=self._keep_native,
            )
        return self._reader


@dataclass(frozen=True, slots=True)
class _End:
    """The last of what is known of a video: its facts where decoding got so far, and what is to be raised."""

    facts: VideoFacts | None
    error: Exception | None = None


class PooledReader:
    """One video of a `DecodePool`. A `FrameSource`, read once.

    A block's frames are a view of shared memory: not to be written to, and valid until the next block is asked for or
    this is closed.

    Raises
    ------
    VideoError
        where `VideoReader` raises it: from the first use if the file cannot be opened, else from iteration. With
        code ``VIDEO_CRASH`` if the decoder brought its process down, ``VIDEO_OOM`` if it was killed,
        ``VIDEO_TIMEOUT`` if it came to a halt.
    RuntimeError
        with the other process's traceback, for a bug of vadx.
    ValueError
        from the first use, if that is after `close`.
    """

    def __init__(self, pool: DecodePool, order: Open, path: Path) -> None:
        self.path = path
        self.order = order
        self.pool = pool
        self.process: ChildProcess | None = None
        self.is_closed = False
        self._inbox: deque[Opened | Block | _End] = deque()
        self._opened: Opened | None = None
        self._facts: VideoFacts | None = None
        self._end: _End | None = None
        self._held_slot: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[FrameBlock]:
        while (block := self._next_block()) is not None:
            yield block

    @property
    def info(self) -> VideoInfo:
        """What the header says. Waits until it is read."""
        return self._header().info

    def facts(self) -> VideoFacts:
        """Say what decoding showed up to the block that was given last. Waits until the header is read."""
        return self._facts or self._header().facts

    def close(self) -> None:
        """End the video. Its process stops at the next block, and takes another video."""
        if self.is_closed:
            return
        self.is_closed = True
        self._free_held()
        for item in self._inbox:
            if isinstance(item, Block) and self.process is not None:
                self.process.free(item.slot)
        self._inbox.clear()
        self.pool.forget(self)
        self.process = None

    def is_ready(self) -> bool:
        """Whether the next step of iteration does not wait."""
        return self.is_closed or self._end is not None or any(not isinstance(item, Opened) for item in self._inbox)

    def receive(self, item: Opened | Block | _End) -> None:
        """Take what the pool got for this video."""
        self._inbox.append(item)

    def _next_block(self) -> FrameBlock | None:
        self._free_held()
        while self._end is None:
            item = self._next_item()
            if isinstance(item, Block):
                return self._hold(item)
        if self._end.error is not None:
            raise self._end.error
        return None

    def _header(self) -> Opened:
        while self._opened is None:
            if self._end is not None and self._end.error is not None:
                raise self._end.error
            self._next_item()
        return self._opened

    def _next_item(self) -> Opened | Block | _End:
        while not self._inbox:
            if self.is_closed:
                raise _closed(self.path)
            self.pool.advance([self])
        item = self._inbox.popleft()
        if isinstance(item, Opened):
            self._opened = item
        elif isinstance(item, _End):
            self._end = item
        self._facts = item.facts or self._facts
        return item

    def _hold(self, block: Block) -> FrameBlock:
        if self.process is None:
            msg = "a block of frames from no process"
            raise RuntimeError(msg)
        self._held_slot = block.slot
        return FrameBlock(
            block.start,
            np.frombuffer(block.pts_seconds, dtype=np.float64),
            self.process.view(block.slot, block.shape),
            np.frombuffer(block.damaged, dtype=np.uint8) != 0,
        )

    def _free_held(self) -> None:
        if self._held_slot is not None and self.process is not None:
            self.process.free(self._held_slot)
            self.pool.dispatch()
        self._held_slot = None


class DecodePool:
    """Decode videos in ``num_processes`` processes, one video in each. `Decoders`.

    Videos beyond that wait, and begin in the order in which they were opened. One whose frames are asked for while it
    waits, and every process waits for its frames to be taken, gets a process of its own until it ends.

    A process decodes ahead until all its ``slots`` are full, so it holds at most ``slots`` blocks: each of 16 frames
    and 64 MB at most, or of one larger frame. Processes start when they are needed and stay for the next video; one
    that dies is replaced. One thread uses a pool. ``limits`` are what each process may take.

    Raises
    ------
    ValueError
        for less than one process or two slots, or if it is used after `close`.
    ResourceError
        from any use, if the system refuses to start a process.
    """

    def __init__(self, num_processes: int, *, slots: int = 4, limits: DecodeLimits | None = None) -> None:
        if num_processes < 1 or slots < 2:
            msg = f"a pool has at least one process of two slots; got {num_processes} and {slots}"
            raise ValueError(msg)
        self._num_processes = num_processes
        self._num_slots = slots
        self._limits = limits or DecodeLimits()
        self._looked = time.monotonic()
        self._processes: list[ChildProcess] = []
        self._running: dict[ChildProcess, PooledReader] = {}
        self._readers: list[PooledReader] = []
        self._queue: deque[PooledReader] = deque()
        self._numbers = itertools.count()
        self._is_closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @property
    def process_ids(self) -> list[int]:
        """The processes that are there now."""
        return [process.pid for process in self._processes]

    def open(
        self, path: str | Path, *, rotation: str = "apply", strict: bool = False, allow_partial: bool = False
    ) -> PooledReader:
        """Begin a video as soon as a process is free, and return at once."""
        path = Path(path)
        if self._is_closed:
            raise _closed(path)
        # Absolute: the caller's working directory may change after the process was started.
        order = Open(next(self._numbers), os.fsencode(path.absolute()), rotation, strict, allow_partial)
        reader = PooledReader(self, order, path)
        self._readers.append(reader)
        self._queue.append(reader)
        self._pump(0)
        return reader

    def wait(self, sources: Sequence[_S], timeout: float | None = None) -> _S | None:
        """Give the first of ``sources``, all of this pool, whose iteration goes on without waiting.

        None if there is none after ``timeout`` seconds, or if ``sources`` is empty.
        """
        readers = [source for source in sources if isinstance(source, PooledReader) and source.pool is self]
        if len(readers) < len(sources):
            msg = "a pool waits only for what it opened itself"
            raise ValueError(msg)
        if not readers:
            return None
        deadline = None if timeout is None else time.monotonic() + timeout
        self._pump(0)
        while True:
            for source, reader in zip(sources, readers, strict=True):
                if reader.is_ready():
                    return source
            seconds_left = None if deadline is None else deadline - time.monotonic()
            if seconds_left is not None and seconds_left <= 0:
                return None
            self.advance(readers, seconds_left)

    def close(self) -> None:
        """End every video and every process."""
        self._is_closed = True
        for reader in [*self._readers]:
            reader.close()
        end_all(self._processes)
        self._processes = []
        self._running = {}

    def advance(self, readers: Sequence[PooledReader], timeout: float | None = None) -> None:
        """Wait until any process says something, or is gone, and take it in."""
        is_draining = any(reader.is_closed for reader in self._running.values())
        if not is_draining and all(reader.process is None for reader in readers):
            # All processes may be waiting for their frames to be taken, by a caller who waits here.
            process = self._start()
            self._queue.remove(readers[0])
            self._assign(process, readers[0])
        self._pump(timeout)

    def forget(self, reader: PooledReader) -> None:
        """Let a closed reader's video end, or never begin."""
        # A signal may have interrupted a video between the lists.
        for place in (self._readers, self._queue):
            with suppress(ValueError):
                place.remove(reader)
        if reader.process is not None and self._running.get(reader.process) is reader:
            reader.process.stop()
        self.dispatch()

    def _pump(self, timeout: float | None) -> None:
        until_look = _LOOK_SECONDS if self._running else math.inf
        patience = min(until_look, math.inf if timeout is None else timeout)
        ready = connections.wait(
            [process.connection for process in self._processes], None if patience == math.inf else patience
        )
        for process in [process for process in self._processes if process.connection in ready]:
            self._take_in(process)
        self._look()
        self.dispatch()

    def _look(self) -> None:
        """End the processes that are silent, or at one video, for longer than they may be."""
        now = time.monotonic()
        passed, self._looked = min(now - self._looked, _LOOK_SECONDS), now
        limits = self._limits
        for process in [process for process in self._running if process.is_busy]:
            process.silent_seconds += passed
            process.busy_seconds += passed
            if process.silent_seconds > limits.stall_seconds:
                self._give_up(process, f"its decoder gave nothing for {limits.stall_seconds:g} s")
            elif limits.video_seconds is not None and process.busy_seconds > limits.video_seconds:
                self._give_up(process, f"its decoder took longer than {limits.video_seconds:g} s")

    def _give_up(self, process: ChildProcess, evidence: str) -> None:
        reader = self._running[process]
        process.kill()
        self._bury(process)
        if not reader.is_closed:
            error = VideoError("VIDEO_TIMEOUT", str(reader.path), f"{evidence}, after {process.num_frames} frames")
            reader.receive(_End(None, error))

    def dispatch(self) -> None:
        """Give the videos that wait to the processes that are free."""
        while self._queue and not self._is_closed and (idle := self._idle_process()) is not None:
            self._assign(idle, self._queue.popleft())

    def _idle_process(self) -> ChildProcess | None:
        for process in self._processes:
            # A video takes two slots: one is lent to its reader while the next block is decoded.
            if process not in self._running and process.num_free_slots >= 2:
                return process
        return self._start() if len(self._processes) < self._num_processes else None

    def _start(self) -> ChildProcess:
        process = ChildProcess(self._num_slots, self._limits)
        self._processes.append(process)
        return process

    def _assign(self, process: ChildProcess, reader: PooledReader) -> None:
        if not process.begin(reader.order) and process.has_reported:
            # It died while it had nothing to do, which no video is to blame for.
            self._queue.appendleft(reader)
            self._bury(process)
            return
        self._running[process] = reader
        reader.process = process

    def _take_in(self, process: ChildProcess) -> None:
        """Take everything that a process has said."""
        try:
            while process in self._processes and process.connection.poll():
                self._deliver(process, process.receive())
        except NonsenseError as error:
            logger.warning("process %d, which decodes videos, was ended: it sent %s", process.pid, error)
            process.kill()
            self._lose(process, "its decoder sent a message that makes no sense")
        except (EOFError, OSError):
            self._lose(process)

    def _deliver(self, process: ChildProcess, report: Report) -> None:
        reader = self._running.get(process)
        if isinstance(report, Bug):
            self._bury(process)
            _give_bug(report.text.decode("utf-8", "replace"), reader)
            return
        if reader is None:
            return
        if isinstance(report, Ended | Refused):
            del self._running[process]
            if len(self._processes) > self._num_processes:
                self._bury(process)
        if reader.is_closed:
            if isinstance(report, Block):
                process.free(report.slot)
        elif isinstance(report, Opened | Block):
            reader.receive(report)
        elif isinstance(report, Ended):
            reader.receive(_End(report.facts))
        else:
            evidence = report.evidence.decode("utf-8", "surrogateescape")
            reader.receive(_End(report.facts, VideoError(report.code, str(reader.path), evidence)))

    def _lose(self, process: ChildProcess, nonsense: str | None = None) -> None:
        """Blame a process's end on the video that it was at."""
        reader = self._running.get(process)
        self._bury(process)
        if nonsense is None and process.status > 0 and process.last_words:
            _give_bug(process.last_words, reader)
        elif reader is not None and not reader.is_closed:
            what = nonsense or f"its decoder was ended by {_name_of(process.status)}"
            evidence = f"{what} after {process.num_frames} frames"
            # No decoder kills itself: the system does where memory runs out, or a person.
            killed = nonsense is None and process.status == -signal.SIGKILL
            code = "VIDEO_OOM" if killed else "VIDEO_CRASH"
            reader.receive(_End(None, VideoError(code, str(reader.path), evidence)))

    def _bury(self, process: ChildProcess) -> None:
        self._running.pop(process, None)
        self._processes.remove(process)
        end_all([process])


def _give_bug(text: str, reader: PooledReader | None) -> None:
    """Raise a bug's traceback where its video is read, or at once where it is not."""
    error = RuntimeError(f"a process that decodes videos failed:\n{text}")
    if reader is None or reader.is_closed:
        raise error
    reader.receive(_End(None, error))


def _name_of(status: int) -> str:
    if status >= 0:
        return f"exit status {status}"
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"signal {-status}"


def _closed(path: Path) -> ValueError:
    return ValueError(f"{path} is closed")
