"""How far workers are: each tells it now and then, so that a person sees it, and nobody waits for it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from distributed import Client

    from ..extract.video import VideoInfo
    from .inputs import Entry

REPORT_SECONDS = 1.0
"""How often a worker tells how far it is, at most."""

_REPORTS_A_SECOND = 100
"""From all workers together: each costs their scheduler about as much as a sign that a worker lives, of which Dask lets
a thousand workers send 170 a second."""

_UNREAD_AT_MOST = 4096
"""Records that wait to be read. The oldest are dropped: newer ones say the same and more."""

Bound = Literal["decode", "network"]


@dataclass(frozen=True, slots=True)
class Length:
    """What a video's header says of its length: good for a bar, and proven by nothing."""

    num_frames: int | None = None
    fps: float = 0.0


@dataclass(frozen=True, slots=True)
class Place:
    """The worker that is at a video, and what it waits for most."""

    worker: str
    bound: Bound | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """What a worker tells: where it is, and how many frames of which videos were decoded."""

    place: Place
    videos: tuple[tuple[str, int, Length], ...]


def report_seconds(num_workers: int) -> float:
    """Give how often each of so many workers tells how far it is."""
    return max(REPORT_SECONDS, num_workers / _REPORTS_A_SECOND)


def length_of(info: VideoInfo) -> Length:
    """Give the length that a header states, or that follows from its duration."""
    num_frames = info.num_frames_declared
    if num_frames is None and info.duration_seconds:
        num_frames = round(info.duration_seconds * info.fps)
    return Length(num_frames, info.fps)


def bound_by(waited_seconds: float, seconds: float) -> Bound | None:
    """Say what limits a worker that waited so long for frames, of so many seconds."""
    if seconds <= 0:
        return None
    return "decode" if waited_seconds >= seconds / 2 else "network"


@dataclass(slots=True)
class Reporter:
    """A worker's side: called with every block of frames, it tells of them once in `report_seconds`.

    ``send`` is given what MessagePack holds; ``waited_seconds`` says how long frames were waited for in all;
    ``num_workers`` is how many workers tell.
    """

    send: Callable[[dict[str, Any]], object]
    worker: str
    waited_seconds: Callable[[], float]
    clock: Callable[[], float] = time.monotonic
    num_workers: int = 1
    _news: dict[str, tuple[int, Length]] = field(default_factory=dict)
    _told_at: float = field(init=False)
    _waited_then: float = 0.0

    def __post_init__(self) -> None:
        self._told_at = self.clock()

    def __call__(self, entry: Entry, num_frames: int, length: Length) -> None:
        """Note how many frames of a video were decoded so far, and tell it if it is time."""
        self._news[entry.id] = (num_frames, length)
        now = self.clock()
        if now - self._told_at < report_seconds(self.num_workers):
            return
        waited = self.waited_seconds()
        bound = bound_by(waited - self._waited_then, now - self._told_at)
        videos = [[name, count, length.num_frames, length.fps] for name, (count, length) in self._news.items()]
        # Under "worker" a scheduler would write the worker's address.
        self.send({"name": self.worker, "bound": bound, "videos": videos})
        self._news.clear()
        self._told_at, self._waited_then = now, waited


def report_of(told: Mapping[str, Any]) -> Report:
    """Read what a `Reporter` sent."""
    videos = tuple((name, count, Length(num_frames, fps)) for name, count, num_frames, fps in told["videos"])
    return Report(Place(told["name"], told["bound"]), videos)


class Mailbox:
    """A run's side: collects what workers tell under ``topic``. A context manager."""

    def __init__(self, client: Client, topic: str) -> None:
        self._client = client
        self.topic = topic
        self._unread: deque[Mapping[str, Any]] = deque(maxlen=_UNREAD_AT_MOST)
        client.subscribe_topic(topic, self._put)

    def __enter__(self) -> Mailbox:
        return self

    def __exit__(self, *exc_info: object) -> None:
        # Of a scheduler that is gone there is nothing to take leave of.
        with suppress(Exception):
            self._client.unsubscribe_topic(self.topic)

    def read(self) -> Sequence[Report]:
        """Give what came since the last call. Never waits."""
        found = []
        # Dask's own thread goes on putting.
        while self._unread:
            found.append(report_of(self._unread.popleft()))
        return found

    def _put(self, event: tuple[float, Mapping[str, Any]]) -> None:
        self._unread.append(event[1])
