"""Both ends of a process that decodes videos for another one, and what the two say to each other. See `isolate`.

The process runs this file as a module. It gets a connection, for small messages, and a memory file, for frames.
Nothing is pickled, for the decoder reads hostile files, and who takes it over must not thereby run code in its parent.
"""

from __future__ import annotations

import fcntl
import io
import math
import mmap
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import TYPE_CHECKING, NoReturn, TypeAlias

import msgspec
import numpy as np

from ..errors import CODES, ResourceError, VideoError
from ..features.timeline import VideoFacts
from . import video
from .video import VideoInfo

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .decode_limits import DecodeLimits

SLOT_BYTES = video.MAX_PIXELS * 3
"""Room for one block in the memory file: the largest frame. What is not written to takes up no memory."""

MAX_MESSAGE_BYTES = 1 << 20
"""No message is longer."""

_PASSED_ON = frozenset(
    (
        *("PATH", "HOME", "TMPDIR", "LANG", "LC_ALL", "LC_CTYPE"),
        *("LD_LIBRARY_PATH", "LD_PRELOAD", "DYLD_LIBRARY_PATH"),
        *("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"),
    )
)
_OWN_PREFIXES = ("PYTHON", "VADX_")
"""Variables of the environment that a process gets."""

_STDERR = 2
_KEPT_BYTES = 16 << 20
_TEXT_BYTES = 16 << 10
_LAST_WORDS_BYTES = 4096
_FAREWELL_SECONDS = 2.0
_ORPHAN_POLL_SECONDS = 5.0


class Open(msgspec.Struct, frozen=True, tag=True):
    """Parent to child, when it is idle: decode this file. ``path`` is absolute, in the file system's encoding."""

    video: int
    path: bytes
    rotation: str
    strict: bool
    allow_partial: bool


class Free(msgspec.Struct, frozen=True, tag=True):
    """Parent to child: this slot may be written to again."""

    slot: int


class Stop(msgspec.Struct, frozen=True, tag=True):
    """Parent to child: nobody wants the rest of this video. Still answered by `Ended` or `Refused`."""

    video: int


class Opened(msgspec.Struct, frozen=True, tag=True):
    """Child to parent: the file is a video."""

    video: int
    info: VideoInfo
    facts: VideoFacts


class Block(msgspec.Struct, frozen=True, tag=True):
    """Child to parent: a `FrameBlock`, its frames ``shape (frame, height, width, 3)`` in a slot until it is freed.

    ``pts_seconds`` are float64, ``damaged`` bytes; ``facts`` are what was known when it was complete.
    """

    video: int
    slot: int
    shape: tuple[int, int, int, int]
    start: int
    pts_seconds: bytes
    damaged: bytes
    facts: VideoFacts


class Ended(msgspec.Struct, frozen=True, tag=True):
    """Child to parent: every block of the video was sent, or the rest is not wanted."""

    video: int
    facts: VideoFacts | None


class Refused(msgspec.Struct, frozen=True, tag=True):
    """Child to parent: after the blocks that were sent, a `VideoError`. No facts: the file could not be opened."""

    video: int
    code: str
    evidence: bytes
    facts: VideoFacts | None


class Bug(msgspec.Struct, frozen=True, tag=True):
    """Child to parent: an exception that nobody expected, after which the child ends."""

    text: bytes


Order: TypeAlias = Open | Free | Stop
Report: TypeAlias = Opened | Block | Ended | Refused | Bug

_encode = msgspec.msgpack.Encoder().encode
_decode_order = msgspec.msgpack.Decoder(Order).decode
_decode_report = msgspec.msgpack.Decoder(Report).decode


class _NotWanted(Exception):
    """No error: it unwinds the reader when its video is stopped."""


class _Child:
    """One process's life: wait for a video, decode it into slots, wait for the next."""

    def __init__(self, connection: Connection, memory: mmap.mmap, num_slots: int) -> None:
        self._connection = connection
        self._memory = memory
        self._slots = np.frombuffer(memory, dtype=np.uint8).reshape(num_slots, SLOT_BYTES)
        self._touched_bytes = [0] * num_slots
        # Last in, first out: a parent that keeps up then makes only a slot or two be touched.
        self._free = list(range(num_slots))
        self._orders: SimpleQueue[bytes] = SimpleQueue()
        self._video: int | None = None
        self._is_stopped = False
        self._unsent_slot: int | None = None

    def serve(self, parent: int) -> NoReturn:
        """Serve the process ``parent`` until it is gone."""
        threading.Thread(target=self._listen, args=(parent,), daemon=True).start()
        while True:
            order = self._next_order()
            if isinstance(order, Open):
                self._decode(order)

    def _listen(self, parent: int) -> NoReturn:
        """Queue what the parent says, and end the process as soon as the parent is gone.

        A thread, because the decoder may be busy for long. A process that the parent forked may hold the other end
        of the connection open, so its end is not the only sign.
        """
        with suppress(EOFError, OSError):
            while self._connection.poll(_ORPHAN_POLL_SECONDS) or os.getppid() == parent:
                if self._connection.poll(0):
                    self._orders.put(self._connection.recv_bytes(MAX_MESSAGE_BYTES))
        os._exit(0)

    def _next_order(self) -> Order:
        order: Order = _decode_order(self._orders.get())
        if isinstance(order, Free):
            self._free.append(order.slot)
            if self._video is None:
                self._give_back(order.slot)
        elif isinstance(order, Stop):
            self._is_stopped |= order.video == self._video
        return order

    def _decode(self, order: Open) -> None:
        self._video, self._is_stopped = order.video, False
        # What libraries had to say about the videos before.
        os.ftruncate(_STDERR, 0)
        end = self._frames(order)
        self._video = None
        if self._unsent_slot is not None:
            self._free.append(self._unsent_slot)
            self._unsent_slot = None
        for slot in self._free:
            self._give_back(slot)
        self._send(end)

    def _frames(self, order: Open) -> Ended | Refused:
        reader = None
        try:
            reader = video.VideoReader(
                os.fsdecode(order.path),
                rotation=order.rotation,
                strict=order.strict,
                allow_partial=order.allow_partial,
                allocate=self._allocate,
            )
            self._send(Opened(order.video, reader.info, reader.facts()))
            for block in reader:
                self._send_block(order.video, block, reader.facts())
                self._unsent_slot = None
                self._heed()
        except VideoError as error:
            evidence = error.evidence.encode("utf-8", "surrogateescape")
            return Refused(order.video, error.code, evidence, None if reader is None else reader.facts())
        except MemoryError:
            evidence = b"its decoder needs more memory than it may take"
            return Refused(order.video, "VIDEO_TOO_LARGE", evidence, None if reader is None else reader.facts())
        except _NotWanted:
            return Ended(order.video, None)
        finally:
            if reader is not None:
                reader.close()
        return Ended(order.video, reader.facts())

    def _heed(self) -> None:
        """Take the orders that have come. Raise `_NotWanted` if one of them stops this video."""
        while not self._orders.empty():
            self._next_order()
        if self._is_stopped:
            raise _NotWanted

    def _allocate(self, shape: tuple[int, int, int, int]) -> NDArray[np.uint8]:
        """Give the memory of a slot, as soon as one is free."""
        self._heed()
        while not self._free:
            self._next_order()
            self._heed()
        self._unsent_slot = slot = self._free.pop()
        num_bytes = math.prod(shape)
        self._touched_bytes[slot] = max(self._touched_bytes[slot], num_bytes)
        return self._slots[slot, :num_bytes].reshape(shape)

    def _send_block(self, number: int, block: video.FrameBlock, facts: VideoFacts) -> None:
        if self._unsent_slot is None:
            msg = "a block of frames that lie in no slot"
            raise RuntimeError(msg)
        num_frames, height, width, channels = block.frames.shape
        self._send(
            Block(
                video=number,
                slot=self._unsent_slot,
                shape=(num_frames, height, width, channels),
                start=block.start,
                pts_seconds=block.pts_seconds.astype(np.float64, copy=False).tobytes(),
                damaged=block.damaged.astype(np.uint8).tobytes(),
                facts=facts,
            )
        )

    def _give_back(self, slot: int) -> None:
        """Return a large slot's memory to the system, where the system can take it."""
        if self._touched_bytes[slot] > _KEPT_BYTES and hasattr(mmap, "MADV_REMOVE"):
            with suppress(OSError):
                self._memory.madvise(mmap.MADV_REMOVE, slot * SLOT_BYTES, self._touched_bytes[slot])
            self._touched_bytes[slot] = 0

    def _send(self, report: Report) -> None:
        send_report(self._connection, report)


def send_report(connection: Connection, report: Report) -> None:
    """Send a report, or end the process: without a parent there is nobody to report to."""
    try:
        connection.send_bytes(_encode(report))
    except OSError:
        os._exit(0)


class NonsenseError(Exception):
    """What a process sent is not what it may send."""


class ChildProcess:
    """A process that decodes, as its parent sees it: its memory, and the video that it is at.

    What it sends is checked: it may come from a decoder that a hostile file has taken over.

    ``silent_seconds`` and ``busy_seconds`` are for its parent to count: since it last said something, and on its
    video, while it had a slot to write to.

    Raises
    ------
    ResourceError
        if the system refuses to start it.
    """

    def __init__(self, num_slots: int, limits: DecodeLimits) -> None:
        self.has_reported = False
        self.num_frames = 0
        self.silent_seconds = 0.0
        self.busy_seconds = 0.0
        self.status = 0
        self.last_words = ""
        self._num_slots = num_slots
        self._order: Open | None = None
        self._is_opened = False
        self._is_stopped = False
        self._lent: set[int] = set()
        try:
            with ExitStack() as stack:
                self._start(num_slots, limits, stack)
        except OSError as error:
            msg = (
                f"a process that decodes videos cannot be started: {error.strerror or error}. "
                f"Close other programs, or use fewer --decoders; with --decoders 0 there are none."
            )
            raise ResourceError(msg) from error

    def _start(self, num_slots: int, limits: DecodeLimits, stack: ExitStack) -> None:
        num_bytes = num_slots * SLOT_BYTES
        memory = stack.enter_context(_nameless_file(num_bytes))
        # Read only would be safer, but torch warns of every array that it could not write to.
        self._memory = mmap.mmap(memory.fileno(), num_bytes)
        self._stderr = stack.enter_context(_nameless_file(0))
        fcntl.fcntl(self._stderr, fcntl.F_SETFL, os.O_APPEND)
        self.connection, theirs = Pipe()
        with theirs, ExitStack() as passed:
            stack.callback(self.connection.close)
            # Where this process has no stdin, say, they might have its number, which the child's own stdin takes.
            descriptors = tuple(fcntl.fcntl(file.fileno(), fcntl.F_DUPFD_CLOEXEC, 3) for file in (theirs, memory))
            for descriptor in descriptors:
                passed.callback(os.close, descriptor)
            numbers = (os.getpid(), *descriptors, num_slots, num_bytes + limits.memory_bytes, limits.num_files)
            # -P: a numpy.py that lies in the working directory is not to be imported. A session of its own: Ctrl-C
            # is for the parent.
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", __name__, *map(str, numbers)],
                stdin=subprocess.DEVNULL,
                stdout=self._stderr,
                stderr=self._stderr,
                env=_plain_environment(),
                pass_fds=descriptors,
                start_new_session=True,
            )
        stack.pop_all()
        memory.close()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def num_free_slots(self) -> int:
        """How many slots it may write to."""
        return self._num_slots - len(self._lent)

    @property
    def is_busy(self) -> bool:
        """Whether it is at a video, and nothing keeps it from going on."""
        return self._order is not None and self.num_free_slots > 0

    def view(self, slot: int, shape: tuple[int, int, int, int]) -> NDArray[np.uint8]:
        """Give the frames in a slot: not to be written to."""
        flat = np.frombuffer(self._memory, dtype=np.uint8, count=math.prod(shape), offset=slot * SLOT_BYTES)
        return flat.reshape(shape)

    def begin(self, order: Open) -> bool:
        """Give it a video while it has none, and whether it is there to hear of it."""
        self._order, self.num_frames = order, 0
        self.silent_seconds = self.busy_seconds = 0.0
        self._is_opened = self._is_stopped = False
        return self._send(order)

    def stop(self) -> None:
        """Let it end its video at the next block."""
        if self._order is not None:
            self._is_stopped = True
            self._send(Stop(self._order.video))

    def free(self, slot: int) -> None:
        """Let it write to a slot again."""
        self._lent.discard(slot)
        self._send(Free(slot))

    def _send(self, order: Order) -> bool:
        try:
            self.connection.send_bytes(_encode(order))
        except OSError:
            return False
        return True

    def receive(self) -> Report:
        """Give its next report.

        Raises
        ------
        NonsenseError
            if it may not send that.
        EOFError, OSError
            if it is gone.
        """
        message = self.connection.recv_bytes(MAX_MESSAGE_BYTES)
        try:
            report: Report = _decode_report(message)
        except msgspec.MsgspecError as error:
            raise NonsenseError(str(error)) from error
        wrong = self._what_is_wrong(report)
        if wrong is not None:
            raise NonsenseError(f"{wrong}: {report!r}"[:_LAST_WORDS_BYTES])
        self.has_reported = True
        self.silent_seconds = 0.0
        if isinstance(report, Opened):
            self._is_opened = True
        elif isinstance(report, Block):
            self._lent.add(report.slot)
            self.num_frames += report.shape[0]
        else:
            self._order = None
        return report

    def _what_is_wrong(self, report: Report) -> str | None:
        if isinstance(report, Bug):
            return None
        if self._order is None or report.video != self._order.video:
            return "a report on a video that it is not at"
        if isinstance(report, Opened):
            return "a second header" if self._is_opened else None
        if isinstance(report, Block):
            return self._what_is_wrong_with(report) if self._is_opened else "a block before the header"
        if isinstance(report, Refused):
            is_possible = report.code in CODES and (report.facts is not None) is self._is_opened
        else:
            is_possible = self._is_stopped or (self._is_opened and report.facts is not None)
        return None if is_possible else "an impossible end"

    def _what_is_wrong_with(self, block: Block) -> str | None:
        num_frames = block.shape[0]
        if not 0 <= block.slot < self._num_slots or block.slot in self._lent:
            return "a slot that it does not have"
        if min(block.shape) < 1 or block.shape[3] != 3 or math.prod(block.shape) > SLOT_BYTES:
            return "an impossible shape"
        if len(block.pts_seconds) != 8 * num_frames or len(block.damaged) != num_frames:
            return "tables of another length than its frames"
        return None if block.start == self.num_frames else "frames out of order"

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()

    def leave(self) -> None:
        """Hang up, which ends the process."""
        self.connection.close()

    def reap(self, deadline: float) -> None:
        """Wait for its end, which is brought about at the deadline, of `time.monotonic`. Sets ``status``."""
        try:
            self._process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self.status = self._process.returncode
        with self._stderr:
            size = self._stderr.seek(0, os.SEEK_END)
            self._stderr.seek(max(0, size - _LAST_WORDS_BYTES))
            self.last_words = self._stderr.read(_LAST_WORDS_BYTES).decode("utf-8", "replace").strip()


def end_all(processes: Sequence[ChildProcess]) -> None:
    """Hang up on processes, and wait until they have ended."""
    for process in processes:
        process.leave()
    deadline = time.monotonic() + _FAREWELL_SECONDS
    for process in processes:
        process.reap(deadline)


def _plain_environment() -> dict[str, str]:
    """Give what Python and FFmpeg need of the environment: keys and passwords often stand in the rest of it."""
    return {name: value for name, value in os.environ.items() if name in _PASSED_ON or name.startswith(_OWN_PREFIXES)}


def _nameless_file(num_bytes: int) -> io.FileIO:
    """Make a file that only its descriptors know, so that nothing is left of it when they are gone."""
    if not hasattr(os, "memfd_create"):
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    else:
        descriptor = os.memfd_create("vadx", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    nameless = io.FileIO(descriptor, "r+")
    try:
        if num_bytes:
            nameless.truncate(num_bytes)
            # Who reads memory whose file was cut short is ended by SIGBUS.
            with suppress(OSError):
                fcntl.fcntl(nameless, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    except OSError:
        nameless.close()
        raise
    return nameless


def _main() -> NoReturn:
    # What ends a run is the parent's to decide.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    parent, descriptor, memory, num_slots, num_bytes, num_files = map(int, sys.argv[1:])
    for kind, limit in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_AS, num_bytes),
        (resource.RLIMIT_NOFILE, num_files),
    ):
        hard = resource.getrlimit(kind)[1]
        resource.setrlimit(kind, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))
    connection = Connection(descriptor)
    try:
        _Child(connection, mmap.mmap(memory, num_slots * SLOT_BYTES), num_slots).serve(parent)
    except BaseException:  # noqa: BLE001  # the parent raises it again, whatever it is
        send_report(connection, Bug(traceback.format_exc()[-_TEXT_BYTES:].encode("utf-8", "replace")))
        # Not by sys.exit: the listening thread would be waited for, or its daemon be torn down half-way.
        os._exit(1)


if __name__ == "__main__":
    _main()
