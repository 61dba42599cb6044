"""Rows of a network in batches, and the means that are made of them, of which no row outlives its turn."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

from ..features.timeline import check_finite

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    Take = Callable[[NDArray[np.float32]], None]


class Network(Protocol):
    """What computes features. `vadx.extract.engine.Engine` is one."""

    @property
    def batch(self) -> int:
        """How many inputs `run` takes at most."""
        ...

    def run(self, inputs: Tensor, /) -> NDArray[np.float32]:
        """Map uint8 clips ``(n, 3, T, size, size)``, or frames ``(n, 3, size, size)``, to float32 ``(n, D)``."""
        ...


class Mean:
    """The mean of so many rows, in float64, handed on once it is whole. The mean of one row is that row."""

    __slots__ = ("_num", "_num_taken", "_sum", "_takers")

    def __init__(self, num: int, *takers: Take) -> None:
        self._num = num
        self._num_taken = 0
        self._sum: NDArray[np.float64] | None = None
        self._takers = list(takers)

    def give_to(self, taker: Take) -> None:
        self._takers.append(taker)

    def add(self, row: NDArray[np.float32], times: int = 1) -> None:
        self._num_taken += times
        if self._num > 1:
            values = row.astype(np.float64) * times
            self._sum = values if self._sum is None else self._sum + values
        if self._num_taken == self._num:
            mean = row if self._sum is None else (self._sum / self._num).astype(np.float32)
            for take in self._takers:
                take(mean)


class PartMeans:
    """Means of a tube and of its nested parts from its clips, which come in order. One part is open at a time.

    All it holds is taken at the first clip: small pieces that stay, among pixels that come and go, had a process grow
    by gigabytes.
    """

    __slots__ = ("_clips", "_num_parts", "_num_taken", "_open", "_parts", "_spans", "_sum")

    def __init__(self, spans: NDArray[np.int64], *, keep_clips: bool) -> None:
        self._spans = spans
        self._num_taken = 0
        self._num_parts = 0
        self._sum = self._open = np.zeros(0)
        self._parts = np.zeros((0, 0), np.float32)
        self._clips: NDArray[np.float32] | None = np.zeros((0, 0), np.float32) if keep_clips else None

    def add(self, clip: NDArray[np.float32]) -> None:
        if not self._num_taken:
            self._begin(len(clip))
        if self._clips is not None:
            self._clips[self._num_taken] = clip
        self._num_taken += 1
        self._sum += clip
        self._open += clip
        start, stop = self._spans[self._num_parts].tolist()
        if self._num_taken == stop:
            self._parts[self._num_parts] = self._open / (stop - start)
            self._num_parts += 1
            self._open[:] = 0

    def _begin(self, dim: int) -> None:
        self._sum, self._open = np.zeros(dim), np.zeros(dim)
        self._parts = np.empty((len(self._spans), dim), np.float32)
        if self._clips is not None:
            self._clips = np.empty((int(self._spans[-1, 1]), dim), np.float32)

    @property
    def mean(self) -> NDArray[np.float32]:
        return np.asarray(self._sum / self._num_taken, np.float32)

    @property
    def parts(self) -> NDArray[np.float32]:
        return self._parts

    @property
    def clips(self) -> NDArray[np.float32] | None:
        return self._clips


class BatchQueue:
    """Fills the network's batches with whatever comes, in order, and hands its rows to those who wait for them."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._waiting: list[tuple[Tensor, list[tuple[Mean, int]]]] = []

    def add(self, pixels: Tensor, takers: list[tuple[Mean, int]]) -> None:
        """Take one input; each taker gets its row, so many times."""
        self._waiting.append((pixels, takers))
        if len(self._waiting) >= self._network.batch:
            self.flush()

    def flush(self) -> None:
        taken, self._waiting = self._waiting, []
        if not taken:
            return
        rows = self._network.run(torch.stack([pixels for pixels, _ in taken]))
        check_finite(rows)
        for row, (_, takers) in zip(rows, taken, strict=True):
            for mean, times in takers:
                mean.add(row, times)
