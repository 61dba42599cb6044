"""A report: one page of a set or of a model's scores of it, which plays its videos and needs nothing beside them."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..errors import ShardError, VideoError
from ..features.manifest import ManifestEntry
from ..features.stage_set import StageSet
from ..features.store import FeatureSet
from .drawing import tube_tag
from .manifests import read_labels
from .report_page import Picture, ReportPage, render
from .report_sets import set_page
from .report_sources import NOT_SAID, Sources, find_sources
from .tube_pictures import choose_tubes, disk_errors, publishing
from .tube_shards import categories_of, facts_of, tubes_of

_JPEG_QUALITY = 80

Say = Callable[[str], None]
"""Takes a sentence for the person who waits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportChoice:
    """What a report is made of beside its subject.

    ``page`` is the file to write; ``videos`` the folder below which the videos lie, ``manifest`` the list of their
    labels. ``num_sheets`` is of how many videos tubes are drawn.
    """

    page: Path
    videos: Path | None = None
    manifest: Path | None = None
    num_sheets: int = 4


@dataclass(frozen=True, slots=True)
class Known:
    """What a manifest says of videos, by id, where their files are, and what a reader should know of both."""

    entries: Mapping[str, ManifestEntry]
    sources: Sources
    notes: tuple[str, ...] = ()


def with_files(ids: Sequence[str], entries: Mapping[str, ManifestEntry], choice: ReportChoice) -> Known:
    """Find the files of videos: below the folder that is named, or where a manifest says, below its own folder."""
    folder = None if choice.manifest is None else choice.manifest.parent
    sources = find_sources(ids, choice.page, root=choice.videos, entries=entries, manifest_folder=folder)
    lost = len(ids) - len(sources.paths)
    if choice.videos is not None and lost:
        note = f"The files of {lost} of {len(ids)} videos were not found below the folder of --videos."
    else:
        note = "" if sources.paths else NOT_SAID
    return Known(entries, sources, (note,) if note else ())


def report_on_set(opened: FeatureSet | StageSet, choice: ReportChoice, say: Say) -> ReportPage:
    """Make the page of a set; of tubes, with pictures of those of its first videos whose files are found.

    Raises
    ------
    NoInputError
        if there is no such manifest.
    UsageError
        if a line of it cannot be read.
    """
    ids = opened.summaries().ids
    notes = []
    entries: Mapping[str, ManifestEntry] = {}
    if choice.manifest is not None:
        entries, joined = read_labels(choice.manifest).join(ids)
        if missing := len(joined.missing) + len(joined.ambiguous):
            notes.append(f"The manifest has no line, or several, for {missing} of {len(ids)} stored videos.")
    pictures = []
    tubes = _tubes_of(opened)
    if tubes is not None and choice.num_sheets:
        known = with_files(ids, entries, choice)
        notes += known.notes
        for identifier in [one for one in ids if one in known.sources.paths][: choice.num_sheets]:
            say(f"tubes of {identifier}")
            pictures += tube_picture(tubes, identifier, known.sources.paths[identifier])
    return dataclasses.replace(set_page(opened, entries), notes=tuple(notes), pictures=tuple(pictures))


def _tubes_of(opened: FeatureSet | StageSet) -> StageSet | None:
    """Give the set of tubes that stands behind one of tubes or of their features, if it is there."""
    if not isinstance(opened, StageSet) or opened.kind == "detections":
        return None
    if opened.kind == "tubes":
        return opened
    from .tube_scoring import tubes_before

    with suppress(OSError):
        return tubes_before(opened)
    return None


def tube_picture(
    tubes: StageSet, identifier: str, video: Path, *, order: Sequence[int] | str = "length", num_tubes: int = 6
) -> list[Picture]:
    """Draw tubes of a video over its frames: those that ``order`` puts first. Nothing for a video that cannot be read.

    ``order`` is as in `choose_tubes`.
    """
    from ..extract.video import VideoReader
    from .tube_sheet import TubeSheet

    try:
        shard = tubes.open(identifier)
        found, facts, names = tubes_of(shard), facts_of(shard), categories_of(shard)
        stride = int(shard.facts["stride"])
        sheet = TubeSheet(
            found, num_tubes=num_tubes, fps=facts.fps, stride=stride, order=order, title=identifier, names=names
        )
        with VideoReader(video, allow_partial=True) as blocks:
            source = iter(blocks)
            while not sheet.done and (block := next(source, None)) is not None:
                sheet.push(block)
    except (VideoError, ShardError, KeyError):
        return []
    file = io.BytesIO()
    image = sheet.image()
    image.save(file, format="JPEG", quality=_JPEG_QUALITY, optimize=True)
    shown = []
    for place in choose_tubes(found, order=order, top=num_tubes):
        first, last = found[place].frames[[0, -1]]
        shown.append(f"{tube_tag(found[place], place + 1, names=names)} in frames {first} to {last}")
    sorting = "the longest" if order == "length" else "those of the highest score"
    caption = f"Tubes of {identifier}, {sorting} first: where each was in the frame, and what it followed."
    return [Picture(file.getvalue(), image.width, image.height, f"Tubes: {', '.join(shown) or 'none'}", caption)]


def write_report(path: Path, page: ReportPage) -> int:
    """Write a page, which appears or replaces one of its name when it is whole. Gives its size in bytes.

    Raises
    ------
    UsageError
        if it cannot be written there.
    StoreWriteError
        if the disk is full or fails.
    """
    data = render(page).encode("utf-8")
    with publishing(path) as temporary, disk_errors(path):
        temporary.write_bytes(data)
    return len(data)
