"""The bags that a training reads: which there are, which come in which iteration, and a batch of them."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeAlias

import numpy as np
import torch
from torch import Tensor

from ..errors import UsageError
from ..features.bag_file import BagFile
from .methods import Batch

if TYPE_CHECKING:
    from numpy.typing import NDArray

More: TypeAlias = Callable[[Sequence[str]], Mapping[str, Tensor]]
"""Ids of videos -> what else their bags have: `Batch.more`."""

NORMAL, ANOMALOUS = 0, 1


class Bags(Protocol):
    """What a training reads: the normal and anomalous bags by number, and batches of them."""

    @property
    def shape(self) -> tuple[int | None, int, int]:
        """That of every bag, ``(segment, crop, feature)``; None where bags have as many segments as videos clips."""

    @property
    def rule(self) -> str:
        """The rule that clips became segments by."""

    @property
    def recipe_digest(self) -> str:
        """The digest of the features' recipe."""

    def half(self, label: int) -> NDArray[np.int64]:
        """Give the numbers of the bags of one label."""

    def digest(self) -> str:
        """Give a sha256 of which videos are trained on, with which labels."""

    def batch(self, numbers: NDArray[np.int64], seed: int, device: str) -> Batch:
        """Read the bags of these numbers."""


def drawn_bags(seed: int, half: int, num_bags: int, batch_size: int, iteration: int) -> NDArray[np.int64]:
    """Give the bags of one half of an iteration's batch, as places in ``range(num_bags)``: ``(batch_size,)``.

    Batches are cut from shuffled passes over all bags, one after the other, so that in every ``num_bags`` draws from
    the start each bag comes once.
    """
    places = np.arange(iteration * batch_size, (iteration + 1) * batch_size)
    passes = {at: np.random.default_rng((seed, half, at)).permutation(num_bags) for at in {*(places // num_bags)}}
    return np.array([passes[place // num_bags][place % num_bags] for place in places], np.int64)


def iteration_seed(seed: int, iteration: int) -> int:
    """Give the seed of an iteration's random numbers, below 2**63."""
    return int(np.random.SeedSequence((seed, iteration)).generate_state(1, np.uint64)[0] >> 1)


@dataclass(frozen=True, slots=True, eq=False)
class TrainingBags:
    """The normal and anomalous bags of a bags file, all or those of ``ids``; bags of unknown label are passed over.

    Bags that were read are kept, up to ``memory_bytes`` of them, because every pass over the videos asks again.
    1 GiB holds UCF-Crime's 1610 bags of 32 x 4096 numbers.

    Raises
    ------
    UsageError
        if a half is empty or an id is unknown.
    """

    file: BagFile
    ids: Sequence[str] | None = None
    more: More | None = None
    memory_bytes: int = 1 << 30
    _kept: dict[int, NDArray[np.float32]] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        unknown = set(self.ids or ()) - set(self.file.ids)
        if unknown:
            msg = f"{self.file.path} has no bag of {min(unknown)!r}; its ids are BagFile(path).ids"
            raise UsageError(msg)
        for label, what in ((NORMAL, "normal"), (ANOMALOUS, "anomalous")):
            if not len(self.half(label)):
                msg = f"{self.file.path} has no {what} bag to train on; label them: vadx bags SET --manifest FILE"
                raise UsageError(msg)

    @property
    def shape(self) -> tuple[int, int, int]:
        """That of every bag: ``(segment, crop, feature)``."""
        return self.file.shape

    @property
    def rule(self) -> str:
        return self.file.rule

    @property
    def recipe_digest(self) -> str:
        return self.file.recipe_digest

    def half(self, label: int) -> NDArray[np.int64]:
        """Give the numbers of the bags of one label."""
        wanted = None if self.ids is None else set(self.ids)
        found = [
            number
            for number, identifier in enumerate(self.file.ids)
            if self.file.labels[number] == label and (wanted is None or identifier in wanted)
        ]
        return np.array(found, np.int64)

    def digest(self) -> str:
        """Give a sha256 of which videos are trained on, with which labels."""
        return digest_of((self.file.ids[n], label) for label in (NORMAL, ANOMALOUS) for n in self.half(label))

    def batch(self, numbers: NDArray[np.int64], seed: int, device: str) -> Batch:
        """Read the bags of these numbers."""
        ids = tuple(self.file.ids[number] for number in numbers)
        more = {} if self.more is None else self.more(ids)
        return Batch(
            features=torch.from_numpy(self._features(numbers.tolist())).to(device),
            labels=torch.from_numpy(self.file.labels[numbers].astype(np.int64)).to(device),
            mask=torch.from_numpy(real_segments(self.file.frames[numbers])).to(device),
            ids=ids,
            classes=tuple(self.file.classes[number] for number in numbers),
            more={name: values.to(device) for name, values in more.items()},
            seed=seed,
        )

    def _features(self, numbers: Sequence[int]) -> NDArray[np.float32]:
        missing = sorted({*numbers} - self._kept.keys())
        read = dict(zip(missing, self.file.read(missing), strict=True))
        bag_bytes = 4 * math.prod(self.file.shape)
        num_more = max(0, self.memory_bytes // bag_bytes - len(self._kept))
        # Copies, for a row of what was read would keep all of it.
        self._kept.update({number: read[number].copy() for number in missing[:num_more]})
        return np.stack([self._kept[n] if n in self._kept else read[n] for n in numbers])


def real_segments(frames: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Tell segments from padding, whose span of frames is empty: ``(..., segment, 2)`` -> ``(..., segment)``."""
    real: NDArray[np.bool_] = frames[..., 1] > frames[..., 0]
    return real


def digest_of(videos: Iterable[tuple[str, object]]) -> str:
    """Give a sha256 of ids and what is said of each, plain JSON."""
    return hashlib.sha256(json.dumps([list(video) for video in videos]).encode()).hexdigest()
