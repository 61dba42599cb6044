"""Network inputs of any number of videos in, batches of the engine's one shape through the network, rows out."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from .engine import out_of_memory_is_ours

if TYPE_CHECKING:
    from concurrent.futures import Executor, Future

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from .engine import Engine

MAX_RUNNING = 2
"""Batches that are with the network or wait for it: one to run, and one so that it need not wait for the next."""


@dataclass(slots=True, eq=False)
class Row:
    """One network input's features ``(feature,)``, once they are there."""

    values: NDArray[np.float32] | None = None


_Queued = tuple[Row, "Tensor", int]


@dataclass(slots=True)
class Batches:
    """Fills batches with whatever comes, in order. Features do not depend on what shares a batch.

    With an ``executor`` of one thread the network runs beside its caller, and `add` waits while `MAX_RUNNING` batches
    are under way; so at most one batch more than that is held. Without one it runs inside `add`.

    Attributes
    ----------
    waited_seconds
        how long the caller waited for the network.
    busy_seconds
        how long the network ran.
    """

    engine: Engine
    executor: Executor | None = None
    waited_seconds: float = 0.0
    busy_seconds: float = 0.0
    _queue: list[_Queued] = field(default_factory=list)
    _running: deque[tuple[Future[NDArray[np.float32]], list[_Queued]]] = field(default_factory=deque)

    def add(self, image: Tensor, crop: int) -> Row:
        """Take one input, a clip ``(C, T, H, W)`` or a frame ``(C, H, W)``, and the number of its crop."""
        row = Row()
        self._queue.append((row, image, crop))
        if len(self._queue) >= self.engine.batch:
            self._send()
        return row

    def flush(self) -> None:
        """Run what is left, filled up to the one shape, and wait for everything."""
        if self._queue:
            self._send()
        while self._running:
            self._take_first()

    def collect(self) -> None:
        """Take in what the network has finished, without waiting."""
        while self._running and self._running[0][0].done():
            self._take_first()

    def _send(self) -> None:
        taken, self._queue = self._queue, []
        if self.executor is None:
            started = time.perf_counter()
            _settle(taken, self._run(taken))
            self.waited_seconds += time.perf_counter() - started
            return
        self._running.append((self.executor.submit(self._run, taken), taken))
        while len(self._running) > MAX_RUNNING:
            self._take_first()

    def _take_first(self) -> None:
        future, taken = self._running[0]
        started = time.perf_counter()
        values = future.result()
        self.waited_seconds += time.perf_counter() - started
        self._running.popleft()
        _settle(taken, values)

    def _run(self, taken: list[_Queued]) -> NDArray[np.float32]:
        started = time.perf_counter()
        with out_of_memory_is_ours(self.engine.batch, self.engine.device):
            inputs = torch.stack([image for _, image, _ in taken])
        values = self.engine.run(inputs, [crop for _, _, crop in taken])
        self.busy_seconds += time.perf_counter() - started
        return values


def _settle(taken: list[_Queued], values: NDArray[np.float32]) -> None:
    for (row, _, _), features in zip(taken, values, strict=True):
        row.values = features
