"""What a layout is: another repository's feature files, lists and labels, and what its scripts take for granted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .export import Export
    from .marker import MarkedVideo, Marker

OWN = "own"
"""The data set that stands for any list of one's own: a clip has 16 labels, and nothing is taken for granted."""

SPLITS = ("train", "test")
"""Splits that layouts have lists for."""

Counts = tuple[int, int]
"""Anomalous and normal videos."""


@dataclass(frozen=True, slots=True)
class Files:
    """The lists and labels that a layout's scripts open for one data set, as paths below the export.

    ``truth`` is a numpy file of the test videos' labels one after another, "" where there is none; ``target`` the rule
    of `frame_truth.TARGETS` that makes them, None for 16 labels a clip. ``relies_on``: split -> the numbers of videos
    that stand in the scripts. ``normal_word`` is what the name of a normal video holds and no other, where scripts
    read labels from names; with ``word_in_folder`` the folder of its class may hold it too. ``at_most``: where labels
    are as long as the video, the rule of `frame_truth.CLIP_COUNTS` for the clips that they suffice for.
    """

    train: str
    test: str
    truth: str = ""
    target: str | None = None
    relies_on: Mapping[str, Counts] = field(default_factory=dict)
    normal_word: str = ""
    word_in_folder: bool = False
    at_most: str = ""


@dataclass(frozen=True, slots=True)
class Crops:
    """How many crops a layout takes, and in which order (`crops.CROP_PLACES`), "" where it makes no difference or
    nobody published it. Any number: ``nums`` is empty.
    """

    nums: tuple[int, ...] = ()
    order: str = ""


ONE_CROP = Crops((1,))


@dataclass(frozen=True, slots=True)
class Found:
    """One video of a layout: its id, or its name where no export says which, and ``values (clip, crop, feature)``.

    Values in other precisions are rounded to float32. Nobody has checked that they are finite.
    """

    id: str
    values: NDArray[np.float32]
    label: int = -1
    split: str = ""


@dataclass(frozen=True, slots=True)
class Place:
    """One video of a layout whose values are not read yet.

    ``id`` as in `Found`. ``files`` are those that its values come from; other videos may lie in the same. ``load``
    reads ``(row, crop, feature)`` and raises `UsageError` or `NoInputError` for files that are not what the layout
    says. ``marked`` is what the note of an export says of the video, None in a release.
    """

    id: str
    files: tuple[Path, ...]
    load: Callable[[], NDArray[np.float32]]
    marked: MarkedVideo | None = None

    def found(self) -> Found:
        """Read it. Raises as ``load``."""
        if self.marked is None:
            return Found(self.id, self.load())
        return Found(self.id, self.load(), self.marked.label, self.marked.split)


@dataclass(frozen=True, slots=True)
class Seen:
    """What the target's loader makes of one of its entries, in its order.

    ``label`` as the target's own rule gives it; ``num_rows`` rows of ``dim`` values for each of ``num_crops`` crops.
    """

    split: str
    name: str
    label: int
    num_rows: int
    num_crops: int
    dim: int


class Family(Protocol):
    """Layouts that differ in names only."""

    @property
    def crops(self) -> Mapping[str, Crops]: ...

    """Data set -> the crops that it takes."""

    def write(self, export: Export) -> None:
        """Write features and lists of all videos of an export."""

    def places(self, folder: Path, marker: Marker | None, skip: Set[str]) -> Iterator[Place]:
        """Give all videos below a folder, of an export or of a published release, but no files named in ``skip``."""

    def look(self, folder: Path, marker: Marker, files: Files) -> Iterator[Seen]:
        """Give what the target's loader would see, from its lists on."""


Rows = Literal["clips", "segments"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """One entry of `LAYOUTS`.

    ``data_sets``: data set -> its files. ``rows``: whether a row of a file is a clip, or one of 32 segments under
    the rule ``segmentation``. ``keeps`` and ``loses`` are what a person should know; ``is_lossless`` is whether values
    come back to the bit. ``knows``: facts of a recipe (`recipe.RECIPE_FACTS`) that are published for every file of this
    layout; the rest is unknown. ``needs``: what the scripts open beside these files. ``only_labelled``: takes only
    labelled videos of the splits train and test. ``flat_names``: a video is its id's last part. ``cuts_at``: characters
    at which scripts cut a name. ``max_events``: spans that a line of its annotation file has room for, 0 for no such
    file.
    """

    meaning: str
    source: str
    family: Family
    data_sets: Mapping[str, Files]
    keeps: str
    loses: str
    rows: Rows = "clips"
    segmentation: str = ""
    is_lossless: bool = True
    only_labelled: bool = True
    anomalous_first: bool = True
    flat_names: bool = True
    cuts_at: str = ""
    max_events: int = 0
    needs: str = ""
    knows: Mapping[str, object] = field(default_factory=dict)


CLIPS_OF_16: Mapping[str, object] = MappingProxyType({"sampling.clip_length": 16, "sampling.clip_stride": 16})
"""What is published of nearly every release: clips of 16 frames, 16 apart."""
