"""Bags for torch's DataLoader."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import Dataset

from ..errors import UsageError
from ..features.bag_file import LABELS, BagFile

if TYPE_CHECKING:
    from numpy.typing import NDArray


class BagDataset(Dataset[dict[str, Any]]):
    """The bags of a bags file, as ``vadx bags`` writes it.

    An item is a dict that torch's default collation takes: ``features (segment, crop, feature)`` float32, ``label``
    int64 (1 anomalous, 0 normal, -1 unknown), ``frames (segment, 2)`` int64 half-open source frames, ``num_frames``,
    the number of decoded frames, ``id`` and ``class_name``.

    Each process opens the file for itself, after a fork too, so ``DataLoader(dataset, num_workers=4)`` works under fork
    and spawn. A batch is read at once.

    Parameters
    ----------
    path
        the bags file.
    label
        only bags with this label: separate loaders of normal and anomalous bags are ``label=0`` and ``label=1``.
    ids
        only bags of these videos, in this order.

    Raises
    ------
    StoreError
        if it is no bags file, or a damaged one.
    UsageError
        if a label or an id cannot be meant, or nothing is left.
    """

    def __init__(self, path: str | Path, *, label: int | None = None, ids: Sequence[str] | None = None) -> None:
        self.file = BagFile(path)
        numbers: NDArray[np.int64] = np.arange(len(self.file))
        if ids is not None:
            place = {identifier: number for number, identifier in enumerate(self.file.ids)}
            missing = [identifier for identifier in ids if identifier not in place]
            if missing:
                msg = f"{path} has no bag of {missing[0]!r}; its ids are BagDataset(path).file.ids"
                raise UsageError(msg)
            numbers = np.array([place[identifier] for identifier in ids], np.int64)
        if label is not None:
            if label not in LABELS:
                msg = f"a label is one of {', '.join(f'{n} ({what})' for n, what in LABELS.items())}; got {label!r}"
                raise UsageError(msg)
            numbers = numbers[self.file.labels[numbers] == label]
        if not len(numbers):
            wanted = "no bag is left" if label is None else f"no bag has the label {label} ({LABELS[label]})"
            msg = f"{path}: {wanted}; make the bags with labels: vadx bags SET --manifest FILE"
            raise UsageError(msg)
        self._numbers = numbers

    def __len__(self) -> int:
        return len(self._numbers)

    @property
    def shape(self) -> tuple[int, int, int]:
        """That of every bag: ``(segment, crop, feature)``."""
        return self.file.shape

    def __getitem__(self, at: int) -> dict[str, Any]:
        return self.__getitems__([at])[0]

    def __getitems__(self, places: Sequence[int]) -> list[dict[str, Any]]:
        """Give several items; a DataLoader asks for a whole batch so."""
        numbers = [int(self._numbers[place]) for place in places]
        features = torch.from_numpy(self.file.read(numbers))
        frames = torch.from_numpy(self.file.frames[numbers])
        return [
            {
                "features": features[row],
                "label": int(self.file.labels[number]),
                "frames": frames[row],
                "num_frames": int(self.file.num_frames[number]),
                "id": self.file.ids[number],
                "class_name": self.file.classes[number],
            }
            for row, number in enumerate(numbers)
        ]
