"""The pictures of one video's stored tubes: drawn into its frames, and the longest on a sheet."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..features.stage_set import StageSet
from .tube_shards import categories_of, facts_of, tubes_of

if TYPE_CHECKING:
    from .inputs import Entry


def draw_video(entry: Entry, set_path: Path, targets: Mapping[str, Path]) -> Iterator[Path]:
    """Draw what is wanted of a video, and give each file when it is there.

    ``targets`` are ``overlay`` and ``sheet``, each a file, or a folder in which ``ID.tubes.mp4`` and ``ID.tubes.png``
    are made: never by the name of a video, which may lie there too.
    """
    from ..extract.video import VideoReader
    from .tube_pictures import write_overlay
    from .tube_sheet import write_sheet

    shard = StageSet(set_path).open(entry.id)
    tubes, facts = tubes_of(shard), facts_of(shard)
    stride, names = int(shard.facts["stride"]), categories_of(shard)
    writers: dict[str, tuple[str, Any]] = {"overlay": (".mp4", write_overlay), "sheet": (".png", write_sheet)}
    for name, target in targets.items():
        suffix, write = writers[name]
        path = target
        if target.is_dir():
            path = target / f"{entry.id}.tubes{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
        with VideoReader(entry.path, allow_partial=facts.partial) as blocks:
            titled = {"title": entry.id} if name == "sheet" else {}
            write(path, blocks, tubes, fps=facts.fps, stride=stride, names=names, **titled)
        yield path
