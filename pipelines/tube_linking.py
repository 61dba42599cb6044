"""Linking a whole video's detections block by block: only boxes whose tubes may still grow are held for it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..detectors.detections import Detections
from ..detectors.linking import LinkedTubes, without_copies
from ..detectors.streaming import KINDS, TubeStream

if TYPE_CHECKING:
    from ..detectors.settings import LinkSettings
    from ..detectors.tubes import Tube

BLOCK_SAMPLES = 4096
"""Samples that are linked at a time; it does not change a tube."""


def link_whole(
    detections: Detections,
    settings: LinkSettings,
    *,
    window: int | None = None,
    max_gap: int | None = None,
    kinds: Sequence[str] = KINDS,
) -> LinkedTubes:
    """Link the detections of one video, rows in the order of frames.

    Gives the tubes of `link_tubes`. With a ``window`` tubes are cut at its multiples, which is another algorithm: a
    box arbitrarily far ahead can change the first frame of a tube. ``max_gap`` takes the place of the settings' own.

    Raises
    ------
    ResourceError
        if more boxes than ``settings.max_open_boxes`` hang together.
    """
    chosen = settings if max_gap is None else dataclasses.replace(settings, max_gap=max_gap)
    found: dict[str, list[Tube]] = {kind: [] for kind in KINDS}
    for kind in kinds:
        for first, last in _windows(detections.num_frames, window):
            found[kind] += _linked(detections, chosen, kind, first, last)
        found[kind].sort(key=lambda tube: tube.seed_key)
    if chosen.dedupe and found["unary"]:
        found["multivariate"] = without_copies(found["multivariate"], found["unary"])
    return LinkedTubes(found["unary"], found["multivariate"])


def _windows(num_frames: int, window: int | None) -> Iterator[tuple[int, int]]:
    step = window or max(1, num_frames)
    for start in range(0, max(1, num_frames), step):
        yield start, min(start + step, num_frames)


def _linked(detections: Detections, settings: LinkSettings, kind: str, start: int, stop: int) -> list[Tube]:
    frames = detections.frame_index
    first_row = int(np.searchsorted(frames, start))
    stream = TubeStream(kind, settings)
    tubes: list[Tube] = []
    step = BLOCK_SAMPLES * detections.stride
    for begin in range(start, stop, step):
        end = min(begin + step, stop)
        rows = slice(*np.searchsorted(frames, [begin, end]).tolist())
        block = Detections(
            frames[rows],
            detections.boxes[rows],
            detections.scores[rows],
            detections.labels[rows],
            end,
            detections.stride,
        )
        tubes += stream.push(block)
    tubes += stream.finish()
    return [_moved(tube, first_row) for tube in tubes] if first_row else tubes


def _moved(tube: Tube, first_row: int) -> Tube:
    """Give a tube whose rows counted from ``first_row`` with rows that count from the video's first."""
    rows = np.where(tube.member_rows < 0, tube.member_rows, tube.member_rows + first_row)
    return dataclasses.replace(tube, member_rows=rows, seed=tube.seed + first_row)
