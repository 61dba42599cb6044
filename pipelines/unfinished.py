"""The clips of a video on its way into a shard; of a long one they are also kept, so that a kill costs little.

The network is what a long video's hours go into. What it has made of its clips stands in a file of the set's ``tmp``
while the video is on its way, a block at a time. The same command finds it after a kill: it decodes the video again
from its start, which gives timestamps and damage as ever, and runs the network on the clips that are not there.
Nothing of it shows in the shard, byte for byte, for a value does not depend on what shares its batch.

What is kept belongs to the sha256 of its source, as the shard does, and to all else that could change a value: it is
nothing to a video that has changed, or to another recipe, engine, batch shape or version of what computes.
"""

from __future__ import annotations

import hashlib
import json
import time
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from ..errors import CODES, VideoError
from ..features.checkpoint import CHECKPOINT_SUFFIX, Checkpoint
from ..features.keys import key_of
from ..features.shard import MEMORY_IMAGE_BYTES
from ..features.shard_set import PARTIAL_CODES
from ..features.spool import ClipSpool
from .job import software_versions

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from concurrent.futures import Future
    from pathlib import Path

    from numpy.typing import NDArray

    from ..extract.engine import Engine
    from ..features.timeline import ClipTable
    from .settling import Task
    from .source import Source

KEEP_AFTER_SECONDS = 60.0
"""How long a video is on its way before its clips are kept: what takes less is done again. It opens no file."""

BLOCK_CLIPS, BLOCK_SECONDS = 64, 30.0
"""Clips are kept when so many are there, or after so long: the network's work that a kill costs."""

_STEP_SECONDS = 0.1
"""How long one step of taking up lasts: signals are looked for in between."""


class Unfinished:
    """One video's clips for one task. A context manager: closing it leaves what was kept, for the same command.

    `prepare` comes first, until it says that nothing is left to do; then `append` takes the clips after the
    ``num_known`` that a run before this one had finished, and `finish` makes the shard of all. ``engine`` is what
    computes them, ``digest`` gives the sha256 of ``source`` once it is known.

    Where another process is at this work already, nothing is kept: what that one keeps is left alone.

    Raises
    ------
    StoreWriteError
        from any use, if the disk refused. What was kept by then is found again; a disk that has no room for it has
        none for the shard.
    """

    def __init__(self, task: Task, identifier: str, engine: Engine, source: Source, digest: Future[str]) -> None:
        self.num_known = 0
        self._tmp = task.feature_set.tmp
        self._spool = ClipSpool(self._tmp, key_of(identifier), task.job.recipe.dtype)
        self._source, self._digest = source, digest
        # --strict changes what the decoder does about damage; who forces a video wants nothing that is older.
        self._identity: Mapping[str, Any] = {
            "id": identifier,
            "recipe": task.feature_set.digest,
            "strict": task.job.strict,
            "force": task.job.force,
            "provenance": {**engine.provenance, **software_versions(task.job.recipe)},
        }
        # A file each: a node whose GPU is gone, or another --batch by mistake, must not cost what others had finished.
        kind = hashlib.sha256(json.dumps(self._identity, sort_keys=True).encode()).hexdigest()[:8]
        self._name = f"{key_of(identifier)}.{kind}"
        self._is_there = (self._tmp / f"{self._name}{CHECKPOINT_SUFFIX}").exists()
        self._kept: Checkpoint | None = None
        self._found: Iterator[Mapping[str, NDArray[Any]]] | None = None
        self._is_over = False
        self._began = self._kept_at = time.perf_counter()
        # The spool holds these too while it is in memory: then they cost nothing.
        self._waiting: list[NDArray[Any]] = []
        self._num_waiting = self._waiting_bytes = 0

    def __enter__(self) -> Self:
        self._spool.__enter__()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._let_go()
        self._spool.__exit__(*exc_info)

    @property
    def waits(self) -> bool:
        """Whether no more frames may be decoded before the source's sha256 is known."""
        return (self._is_there or self._waiting_bytes > MEMORY_IMAGE_BYTES) and not self._digest.done()

    def prepare(self) -> bool:
        """Take up a little of what a run before this one had finished; False once there is no more of it."""
        if self._is_there:
            self._is_there = False
            self._found = self._open()
        if self._found is None:
            return False
        until = time.perf_counter() + _STEP_SECONDS
        for block in self._found:
            self._spool.append(block["values"])
            if time.perf_counter() >= until:
                return True
        self._found = None
        self.num_known = self._spool.num_clips
        return False

    def append(self, values: NDArray[np.float32], *, keep: bool = True) -> None:
        """Take the next clips; ``keep`` says whether they are certain to be this video's.

        Raises
        ------
        FeatureError
            if a value is not finite in the stored type.
        """
        block = self._spool.append(values)
        if keep and not self._is_over:
            self._waiting.append(block)
            self._num_waiting += len(block)
            self._waiting_bytes += block.nbytes
            if self._is_due() and self._digest.done():
                self._keep()

    def finish(
        self, identifier: str, table: ClipTable, provenance: Mapping[str, str | int], source_sha256: str
    ) -> bytes | Path:
        """Give the whole shard, as `ClipSpool.finish` does.

        Raises
        ------
        VideoError
            ``VIDEO_CHANGED_DURING_READ`` if this run decoded fewer clips than one before it had finished.
        """
        if len(table.frames) != self._spool.num_clips:
            self.remove()
            evidence = f"it gives {len(table.frames)} clips, and gave {self._spool.num_clips} to an earlier run"
            raise VideoError("VIDEO_CHANGED_DURING_READ", identifier, evidence)
        return self._spool.finish(identifier, table, provenance, self._identity["recipe"], source_sha256)

    def remove(self) -> None:
        """Delete what was kept: it stands in a shard now, or is of no use."""
        if self._kept is not None:
            self._kept.remove()

    def fail(self, error: VideoError) -> None:
        """Delete what was kept if the same command will meet the same error, and so will ``--allow-partial``."""
        if not (CODES[error.code].retriable or error.code in PARTIAL_CODES):
            self.remove()

    def _is_due(self) -> bool:
        now = time.perf_counter()
        if self._kept is None:
            return now - self._began >= KEEP_AFTER_SECONDS or self._waiting_bytes > MEMORY_IMAGE_BYTES
        return self._num_waiting >= BLOCK_CLIPS or now - self._kept_at >= BLOCK_SECONDS

    def _open(self) -> Iterator[Mapping[str, NDArray[Any]]] | None:
        """Open the file, and give what stands in it; None where nothing can be kept."""
        try:
            identity = {**self._identity, "source": self._digest.result()}
        except VideoError:
            # Whoever publishes it meets that too.
            self._let_go()
            return None
        self._kept = Checkpoint(self._tmp, self._name, identity, lazy=True)
        if self._kept.is_private:
            self._let_go()
            return None
        return self._kept.take_up()

    def _keep(self) -> None:
        try:
            # Clips are of the bytes that were hashed only if nobody has written to them since.
            self._source.check_unchanged()
        except VideoError:
            # That too, if it lasts.
            self._is_over = True
            self._forget_waiting()
            return
        if self._kept is None:
            # Another run may have left some meanwhile: they are these.
            for _ in self._open() or ():
                pass
        if self._kept is None:
            return
        start = self._spool.num_clips - self._num_waiting
        for values in _blocks(self._waiting):
            new = values[max(0, self._kept.progress - start) :]
            start += len(values)
            if len(new):
                self._kept.append({"values": new}, start)
        self._forget_waiting()
        self._kept_at = time.perf_counter()

    def _forget_waiting(self) -> None:
        self._waiting, self._num_waiting, self._waiting_bytes = [], 0, 0

    def _let_go(self) -> None:
        self._is_over = True
        self._forget_waiting()
        if self._kept is not None:
            self._kept.__exit__()
            self._kept = None


def _blocks(arrays: Iterable[NDArray[Any]]) -> Iterator[NDArray[Any]]:
    """Join arrays ``(clip, crop, feature)`` until they hold `BLOCK_CLIPS` clips each."""
    taken: list[NDArray[Any]] = []
    for array in arrays:
        taken.append(array)
        if sum(map(len, taken)) >= BLOCK_CLIPS:
            yield np.concatenate(taken)
            taken = []
    if taken:
        yield np.concatenate(taken)
