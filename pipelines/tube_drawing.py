"""The pictures of one video's stored tubes: drawn into its frames, and the longest on a sheet."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ..features.keys import file_of
from ..features.stage_set import StageSet
from .tube_shards import categories_of, facts_of, tubes_of

if TYPE_CHECKING:
    from .inputs import Entry

_SUFFIXES = {"overlay": ".tubes.mp4", "sheet": ".tubes.png"}


def draw_video(entry: Entry, set_path: Path, targets: Mapping[str, Path]) -> list[Path]:
    """Draw what is wanted of a video, which is decoded once, and give the files.

    ``targets`` are ``overlay`` and ``sheet``, each a file, or a folder in which ``ID.tubes.mp4`` and ``ID.tubes.png``
    are made: never by the name of a video, which may lie there too.

    Raises
    ------
    VideoError
        if the video cannot be decoded.
    UsageError
        if a place cannot be written to, or the encoder refuses.
    StoreWriteError
        if the disk is full or fails.
    """
    from ..extract.video import VideoReader
    from .tube_pictures import tube_overlay
    from .tube_sheet import TubeSheet, save_sheet

    shard = StageSet(set_path).open(entry.id)
    tubes, facts = tubes_of(shard), facts_of(shard)
    stride, names = int(shard.facts["stride"]), categories_of(shard)
    paths = {name: _place(target, entry.id, _SUFFIXES[name]) for name, target in targets.items()}
    sheet = TubeSheet(tubes, fps=facts.fps, stride=stride, names=names, title=entry.id) if "sheet" in paths else None
    with contextlib.ExitStack() as stack:
        blocks = stack.enter_context(VideoReader(entry.path, allow_partial=facts.partial))
        push = None
        if "overlay" in paths:
            overlay = tube_overlay(paths["overlay"], tubes, fps=facts.fps, stride=stride, names=names)
            push = stack.enter_context(overlay)
        for block in blocks:
            if push is not None:
                push(block)
            if sheet is not None:
                sheet.push(block)
                if push is None and sheet.done:
                    break
    if sheet is not None:
        save_sheet(paths["sheet"], sheet)
    return list(paths.values())


def _place(target: Path, identifier: str, suffix: str) -> Path:
    if not target.is_dir():
        return target
    path = file_of(target, identifier, suffix)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
