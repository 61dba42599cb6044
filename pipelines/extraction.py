"""The unit of work: one video into its shards. Idempotent, so that it may run twice, anywhere, at any time.

Several videos are on their way at once: their frames are decoded side by side, their clips share batches, and each is
stored when its last clip is there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from contextlib import ExitStack
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Self

from ..errors import Stopped, StoreWriteError, VideoError
from ..features.recipe import Decode, Noise
from ..features.store import FeatureSet
from .job import Job, Outcome, engines_for, software_versions
from .noise import NoisyFrames
from .settling import Result, Task, current_outcome, decide, failed_before, failed_outcome, outcome_of
from .source import Source
from .unfinished import Unfinished
from .worker_reports import length_of

if TYPE_CHECKING:
    from ..extract.batches import Batches
    from ..extract.decode_limits import DecodeLimits
    from ..extract.engine import Engine
    from ..extract.extractor import VideoPass
    from ..extract.isolate import Decoders
    from ..extract.video import FrameSource
    from .inputs import Entry
    from .worker_reports import Length

Ticker = Callable[..., None]
"""Told, of a video, how many frames were decoded so far, and its `worker_reports.Length`; of one that a worker is at,
its `worker_reports.Place` too."""
Hint = tuple[int, int, str]

_POLL_SECONDS = 0.2
"""How often a run that waits for frames looks for signals, and for what its other threads have finished."""


def process_video(
    entry: Entry,
    jobs: Sequence[Job],
    *,
    hint: Hint | None = None,
    on_frames: Callable[[int], None] | None = None,
) -> list[Outcome]:
    """Do what one video still needs for each job, decoding it once, and say what became of it: an outcome a job.

    Everything happens in this process and thread, one step after another. Catches `VideoError` only: anything else is
    a fault of the run or of vadx, and ends the run.
    """

    def tick(_entry: Entry, count: int, _length: Length) -> None:
        if on_frames is not None:
            on_frames(count)

    hints = {} if hint is None else {entry: hint}
    (outcomes,) = process_videos([entry], jobs, hint_of=hints.get, on_frames=tick)
    return outcomes


def process_videos(
    entries: Iterable[Entry],
    jobs: Sequence[Job],
    *,
    num_decoders: int = 0,
    decode_limits: DecodeLimits | None = None,
    decoders: Decoders | None = None,
    hint_of: Callable[[Entry], Hint | None] = lambda _entry: None,
    on_frames: Ticker | None = None,
    check: Callable[[], None] = lambda: None,
    may_start: Callable[[int], bool] = lambda _num_started: True,
    effort: Effort | None = None,
) -> Iterator[list[Outcome]]:
    """Do what each video still needs, as `process_video` does, several of them at once; outcomes as they come.

    Parameters
    ----------
    num_decoders
        processes that decode, a video each. Then the network and what is written also have threads of their own. 0:
        nothing happens at once. It counts as 0 where a recipe takes the decoder's own pictures, which cannot leave
        its process.
    decode_limits
        what each of those processes may take.
    decoders
        the pool of those processes, if it is there already; it is left open.
    check
        is called all the while and may raise `Stopped`; videos that are being stored are then stored first.
    may_start
        is asked before a video is begun, with the number of those begun and not yet settled.
    effort
        is told what the run waited for.
    """
    if any(job.recipe.transform.takes_native for job in jobs):
        num_decoders = 0
    with InFlight(
        jobs, num_decoders, decoders, decode_limits=decode_limits, on_frames=on_frames, effort=effort or Effort()
    ) as flight:
        waiting = iter(entries)
        entry = next(waiting, None)
        while True:
            try:
                check()
            except Stopped:
                flight.forget_hashing()
                while flight.num_storing:
                    yield from flight.stored(wait=True)
                raise
            if entry is not None and flight.has_room and may_start(flight.num_videos):
                settled = flight.start(entry, hint_of(entry))
                entry = next(waiting, None)
                if settled is not None:
                    yield settled
            elif flight.num_videos:
                yield from flight.step()
            else:
                return


@dataclass(slots=True)
class Effort:
    """Where a run's time went, in seconds.

    Attributes
    ----------
    seconds
        from the first video to the last, the loading of networks left out.
    network_busy
        in which the network ran.
    waited_for_network, waited_for_frames, waited_for_files
        in which nothing else was to be done than to wait for it, for decoders, or for files to be read, hashed and
        written.
    """

    seconds: float = 0.0
    network_busy: float = 0.0
    waited_for_network: float = 0.0
    waited_for_frames: float = 0.0
    waited_for_files: float = 0.0

    def add(self, other: Effort) -> None:
        """Add another's time, such as that of a worker: of several at once, sums say what limits them as well."""
        for field_ in fields(self):
            setattr(self, field_.name, getattr(self, field_.name) + getattr(other, field_.name))


@dataclass(slots=True, eq=False)
class _Video:
    """One video on its way. ``num_left`` counts the passes over it that are not settled."""

    entry: Entry
    source: Source
    started: float
    digest: Future[str]
    outcomes: dict[int, Outcome]
    num_left: int = 0


@dataclass(slots=True, eq=False)
class _Pass:
    """One decoding of a video, for all tasks that want the same frames."""

    video: _Video
    tasks: Sequence[Task]
    engines: Sequence[Engine]
    source: FrameSource
    work: VideoPass
    clips: Sequence[Unfinished]
    stack: ExitStack
    error: VideoError | None = None
    results: Future[list[Outcome]] = field(default_factory=Future)
    is_prepared: bool = False

    @property
    def waits(self) -> bool:
        """Whether its next frames are not wanted before the source's hash is there."""
        return any(clips.waits for clips in self.clips)

    def prepare(self) -> bool:
        """Take up some of what a run before this one had finished; whether that is done, and frames are wanted."""
        if not self.is_prepared and not any(clips.prepare() for clips in self.clips):
            for number, clips in enumerate(self.clips):
                self.work.skip(number, clips.num_known)
            self.is_prepared = True
        return self.is_prepared

    def keep_ready(self) -> None:
        """Put clips whose features are there to the others."""
        if self.error is not None:
            return
        for number, values in self.work.ready():
            try:
                # The last ones hang on where the video ended, which may have been where its disk went away.
                self.clips[number].append(values, keep=not self.work.ended)
            except VideoError as error:
                self.work.fail(number, error)

    @property
    def is_whole(self) -> bool:
        return self.error is not None or not self.work.waits


class InFlight:
    """Videos between their first byte and their shards. A context manager; what it leaves unfinished, it forgets.

    How much memory that takes is stated in docs/speed.md.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        num_decoders: int,
        decoders: Decoders | None = None,
        *,
        decode_limits: DecodeLimits | None = None,
        on_frames: Ticker | None,
        effort: Effort,
    ) -> None:
        self._jobs = jobs
        self._decode_limits = decode_limits
        self._on_frames = on_frames
        self._effort = effort
        self._began = time.perf_counter()
        self._num_decoders = num_decoders
        self._stack = ExitStack()
        self._decoders = decoders
        self._batches: dict[int, Batches] = {}
        self._decoding: list[_Pass] = []
        self._waiting: list[_Pass] = []
        self._storing: list[_Pass] = []
        self._forgotten: list[_Pass] = []
        # Short videos come faster than one thread can force them to disk.
        threads = {"network": 1, "writer": min(4, num_decoders), "hasher": min(4, num_decoders)}
        self._network, self._writer, self._hasher = (
            self._stack.enter_context(ThreadPoolExecutor(number, name) if num_decoders else _Serial())
            for name, number in threads.items()
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        left = (*self._decoding, *self._waiting, *self._storing, *self._forgotten)
        for one in left:
            # A hash may take minutes.
            one.video.source.cancel()
        for thread in (self._hasher, self._network, self._writer):
            thread.shutdown(wait=False, cancel_futures=True)
        # What is being stored is stored before its spool goes.
        self._writer.shutdown()
        for one in left:
            one.stack.close()
        self._stack.close()
        self._effort.seconds += time.perf_counter() - self._began
        self._effort.network_busy += sum(batches.busy_seconds for batches in self._batches.values())
        self._effort.waited_for_network += sum(batches.waited_seconds for batches in self._batches.values())

    @property
    def has_room(self) -> bool:
        """Whether another video may be begun: one more than there are decoders, so that none waits for its next."""
        return len(self._decoding) < (self._num_decoders + 1 if self._num_decoders else 1)

    @property
    def num_videos(self) -> int:
        """Videos that were begun and are not settled."""
        return len({id(one.video) for one in (*self._decoding, *self._waiting, *self._storing)})

    @property
    def num_storing(self) -> int:
        """Passes that are being stored."""
        return len(self._storing)

    def forget_hashing(self) -> None:
        """Let go of videos whose hash is not there yet: the run is to end, and a hash may take minutes."""
        for one in [one for one in self._storing if not one.video.digest.done()]:
            self._storing.remove(one)
            one.video.source.cancel()
            self._forgotten.append(one)

    def start(self, entry: Entry, hint: Hint | None) -> list[Outcome] | None:
        """Begin a video; gives its outcomes if nothing is to be done."""
        started = time.perf_counter()
        source = Source(entry.path, hint)
        outcomes: dict[int, Outcome] = {}
        tasks: list[Task] = []
        for number, job in enumerate(self._jobs):
            feature_set = FeatureSet(job.set_path)
            try:
                task = Task(number, job, feature_set, decide(job, feature_set, entry, source))
            except VideoError as error:
                seconds = time.perf_counter() - started
                outcomes[number] = failed_outcome(error, entry, source, job, feature_set, seconds)
                continue
            if task.decision.verb == "current":
                outcomes[number] = current_outcome(task, entry, source)
            elif task.decision.verb == "failed before":
                outcomes[number] = failed_before(feature_set, entry, source)
            else:
                tasks.append(task)
        try:
            if tasks:
                # Before a decoder is busied with it: what is no file at all fails here.
                source.look()
        except VideoError as error:
            seconds = time.perf_counter() - started
            outcomes |= {task.number: outcome_of(entry, source, task, error, seconds) for task in tasks}
            tasks = []
        if not tasks:
            return self._in_order(outcomes)
        video = _Video(entry, source, started, self._hasher.submit(source.sha256), outcomes)
        try:
            for alike in _decoded_alike(tasks):
                self._begin_pass(video, alike)
        except BaseException:
            # No pass knows of it yet, and the run would wait for its hash.
            source.cancel()
            raise
        return None

    def step(self) -> Iterator[list[Outcome]]:
        """Do a little: a block of frames, or, where there are none left, the batches that are not full."""
        for batches in self._batches.values():
            batches.collect() if self._decoding else batches.flush()
        if self._decoding:
            self._advance()
        for one in (*self._decoding, *self._waiting):
            one.keep_ready()
        for one in [one for one in self._waiting if one.is_whole]:
            self._waiting.remove(one)
            self._storing.append(one)
            one.results = self._writer.submit(_store, one)
        yield from self.stored(wait=not (self._decoding or self._waiting))

    def stored(self, *, wait: bool = False) -> Iterator[list[Outcome]]:
        """Give the outcomes of videos that were stored, or have failed, since the last call.

        Raises
        ------
        StoreWriteError
            if the disk refused.
        """
        # Features must not pile up before a slow disk.
        enough = 0 if wait else max(2, self._num_decoders)
        began = time.perf_counter()
        if len(self._storing) > enough:
            # Not longer: signals are looked for in between.
            wait_for([one.results for one in self._storing], _POLL_SECONDS, FIRST_COMPLETED)
        self._effort.waited_for_files += time.perf_counter() - began
        refused: StoreWriteError | None = None
        while one := next((one for one in self._storing if one.results.done() or refused), None):
            self._storing.remove(one)
            try:
                settled = one.results.result()
            except StoreWriteError as error:
                # What the other threads store meanwhile is told all the same, but for a hash nobody waits.
                refused = refused or error
                self.forget_hashing()
                continue
            finally:
                one.stack.close()
            one.video.outcomes |= {task.number: outcome for task, outcome in zip(one.tasks, settled, strict=True)}
            one.video.num_left -= 1
            if not one.video.num_left:
                yield self._in_order(one.video.outcomes)
        if refused is not None:
            raise refused

    def _in_order(self, outcomes: dict[int, Outcome]) -> list[Outcome]:
        return [outcomes[number] for number in range(len(self._jobs))]

    def _begin_pass(self, video: _Video, tasks: Sequence[Task]) -> None:
        from ..extract.extractor import VideoPass

        entry, job = video.entry, tasks[0].job
        began = time.perf_counter()
        engines = engines_for([task.job for task in tasks], self._jobs)
        # Loading and converting a network is done once, and says nothing of the videos.
        self._began += time.perf_counter() - began
        with ExitStack() as stack:
            reader = self._decoders_of_run().open(
                entry.path,
                rotation=job.recipe.decode.rotation,
                strict=job.strict,
                allow_partial=job.allow_partial,
            )
            stack.callback(reader.close)
            clips = [
                stack.enter_context(Unfinished(t, entry.id, e, video.source, video.digest))
                for t, e in zip(tasks, engines, strict=True)
            ]
            pairs = [(t.job.recipe, self._batches_of(t.number, e)) for t, e in zip(tasks, engines, strict=True)]

            def tick(count: int) -> None:
                if self._on_frames is not None:
                    self._on_frames(entry, count, length_of(reader.info))

            noise = job.recipe.noise
            frames = reader if noise is None else NoisyFrames(reader, noise, entry.id)
            work = VideoPass(frames, pairs, on_frames=tick)
            self._decoding.append(_Pass(video, tasks, engines, reader, work, clips, stack.pop_all()))
            video.num_left += 1

    def _batches_of(self, number: int, engine: Engine) -> Batches:
        from ..extract.batches import Batches

        if number not in self._batches:
            self._batches[number] = Batches(engine, None if isinstance(self._network, _Serial) else self._network)
        return self._batches[number]

    def _decoders_of_run(self) -> Decoders:
        from ..extract.isolate import DecodePool, InlineDecoders

        if self._decoders is None:
            native = any(job.recipe.transform.takes_native for job in self._jobs)
            made: Decoders
            if self._num_decoders:
                made = DecodePool(self._num_decoders, limits=self._decode_limits)
            else:
                made = InlineDecoders(keep_native=native)
            self._stack.callback(made.close)
            self._decoders = made
        return self._decoders

    def _next_with_frames(self) -> _Pass | None:
        """Give a pass whose next frames are there; None after a moment."""
        began = time.perf_counter()
        if all(one.waits for one in self._decoding):
            wait_for([one.video.digest for one in self._decoding], _POLL_SECONDS, FIRST_COMPLETED)
        wanted = [one for one in self._decoding if not one.waits and one.prepare()]
        decoding_from = time.perf_counter()
        self._effort.waited_for_files += decoding_from - began
        if not wanted:
            return None
        source = self._decoders_of_run().wait([one.source for one in wanted], _POLL_SECONDS)
        self._effort.waited_for_frames += time.perf_counter() - decoding_from
        return next((one for one in wanted if one.source is source), None)

    def _advance(self) -> None:
        one = self._next_with_frames()
        if one is None:
            # Nothing comes: videos whose last clips wait for others need not.
            for batches in self._batches.values() if self._waiting else ():
                batches.flush()
            return
        before = one.work.waited_seconds
        try:
            one.work.advance()
        except VideoError as error:
            one.error = error
        self._effort.waited_for_frames += one.work.waited_seconds - before
        if one.work.ended or one.error is not None:
            self._decoding.remove(one)
            self._waiting.append(one)
            one.source.close()


def _decoded_alike(tasks: Sequence[Task]) -> list[list[Task]]:
    """Group tasks whose recipes want the same decoded frames, with the same noise on them."""
    groups: dict[tuple[Decode, Noise | None], list[Task]] = {}
    for task in tasks:
        groups.setdefault((task.job.recipe.decode, task.job.recipe.noise), []).append(task)
    return list(groups.values())


def _store(one: _Pass) -> list[Outcome]:
    """Publish what a pass gave, and say what became of each task. Runs in the writer's thread."""
    video = one.video
    results: list[Result]
    try:
        # First: while another thread hashes the file, this one must not begin to.
        digest = video.digest.result()
        if one.error is not None:
            raise one.error
        video.source.check_unchanged()
        results = [_publish(one, number, digest) for number in range(len(one.tasks))]
    except VideoError as error:
        results = [error for _ in one.tasks]
    for clips, result in zip(one.clips, results, strict=True):
        if isinstance(result, VideoError):
            clips.fail(result)
    seconds = time.perf_counter() - video.started
    return [
        outcome_of(video.entry, video.source, task, result, seconds)
        for task, result in zip(one.tasks, results, strict=True)
    ]


def _publish(one: _Pass, number: int, source_sha256: str) -> Result:
    task, entry = one.tasks[number], one.video.entry
    try:
        table = one.work.table(number)
        provenance = {**one.engines[number].provenance, **software_versions(task.job.recipe)}
        shard = one.clips[number].finish(entry.id, table, provenance, source_sha256)
    except VideoError as error:
        return error
    published = task.feature_set.publish(entry.id, shard, replace=task.decision.verb == "refresh")
    one.clips[number].remove()
    if published.outcome == "first kept":
        return table, ("another run stored different values first; those were kept",)
    return table, ()


class _Serial(Executor):
    """Runs what it is given at once, in the caller's thread."""

    def submit(self, function: Callable[..., Any], /, *args: Any, **options: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(function(*args, **options))
        except Exception as error:  # noqa: BLE001  # whoever asks for the result is given it
            future.set_exception(error)
        return future
