"""Planning an export: who goes into which list, and whether it fits what the target takes for granted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

from ...errors import UsageError
from ..frame_truth import CLIP_COUNTS, CLIP_FRAMES, GroundTruth, find_target, frame_truth, target_truth
from .crops import fit_crops
from .marker import MarkedVideo, Marker
from .model import OWN, SPLITS, Crops, Files, Layout

if TYPE_CHECKING:
    from ..bags import CropPool
    from ..manifest import Manifest, ManifestEntry
    from ..recipe import Recipe
    from ..timeline import ClipFeatures

Fit = Literal["refuse", "trim"]

FITS: Mapping[Fit, str] = MappingProxyType(
    {
        "refuse": "a video whose clips do not fit the target's labels ends the export before anything is written",
        "trim": "the last clip of a video that has one too many is left out; where one is missing the last is repeated",
    }
)
"""What to do with test videos whose clips are not as many as the target's labels."""


class Size(Protocol):
    """How large a video's features are; `FeatureSet.summaries` gives these without opening anything."""

    @property
    def num_clips(self) -> int: ...
    @property
    def num_crops(self) -> int: ...
    @property
    def dim(self) -> int: ...
    @property
    def num_frames(self) -> int: ...


@dataclass(frozen=True, slots=True)
class _Measured:
    num_clips: int
    num_crops: int
    dim: int
    num_frames: int


@dataclass(frozen=True, slots=True)
class Plan:
    """What an export will be, decided before anything is written."""

    marker: Marker
    keys: Mapping[str, str]
    truth: GroundTruth | None
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a caller of `export_layout` may ask for, and knows of the feature set."""

    prefix: str
    pool: CropPool | None
    crop_order: str | None
    recipe: Recipe | None
    sizes: Mapping[str, Size] | None
    counts: Mapping[str, int] | None
    fit: Fit


def plan_export(
    layout_name: str,
    layout: Layout,
    data_set: str,
    manifest: Manifest,
    features: Mapping[str, ClipFeatures],
    wishes: Wishes,
) -> Plan:
    """Decide the lists, the rows of each file and the labels. Raises `UsageError` naming the first video at odds."""
    files, crops = layout.data_sets[data_set], crops_of(layout, data_set)
    order, pool = wishes.crop_order, wishes.pool
    keys, entries, notes = _joined(manifest, features, layout)
    measured = {entry.id: _size(keys[entry.id], features, wishes.sizes) for entry in entries}
    entries = _counted(entries, measured, notes)
    if layout.only_labelled:
        _check_labels(layout_name, entries)
    if layout.anomalous_first:
        # Stable: within the anomalous and the normal ones the manifest's order stays.
        entries.sort(key=lambda entry: entry.label != 1)
    entries.sort(key=lambda entry: SPLITS.index(entry.split) if entry.split in SPLITS else len(SPLITS))
    truth = _truth(files, [e for e in entries if e.split == "test"], measured, wishes.counts, wishes.fit, notes)
    labels = dict(zip(truth.ids, truth.lengths.tolist(), strict=True)) if truth else {}
    _check_events(layout_name, layout, entries)
    limits = _limits(files, entries, measured, wishes.fit)
    videos = tuple(
        _marked(e, measured[e.id], layout, crops, pool, order, labels.get(e.id, 0), limits.get(e.id)) for e in entries
    )
    changed = sum(layout.rows == "clips" and video.num_rows != measured[video.id].num_clips for video in videos)
    if changed:
        notes.append(f"{changed} test videos were made to fit: {FITS['trim']}")
    if order is None and crops.order and pool is None and any(size.num_crops > 1 for size in measured.values()):
        notes.append(f"the order of the crops is not known; the target's is {crops.order}, and none was changed")
    _check_names(layout, files, videos, wishes.prefix)
    kept_order = crops.order if order is not None and crops.order else order or ""
    marker = Marker(
        layout=layout_name,
        data_set=data_set,
        prefix=wishes.prefix,
        crop="" if pool is None else str(pool),
        crop_order="" if pool is not None else kept_order,
        recipe={} if wishes.recipe is None else wishes.recipe.to_mapping(),
        videos=videos,
    )
    return Plan(marker, keys, truth, tuple(notes))


def _counted(entries: Sequence[ManifestEntry], measured: Mapping[str, Size], notes: list[str]) -> list[ManifestEntry]:
    """Give the entries with the frames that were decoded for these features, and note where a manifest differs."""
    other = [e.id for e in entries if e.num_frames not in {None, measured[e.id].num_frames}]
    if other:
        notes.append(
            f"{len(other)} videos had other numbers of frames in the manifest than were decoded for these features, "
            f"the first {other[0]!r}: what was decoded counts"
        )
    return [replace(entry, num_frames=measured[entry.id].num_frames or None) for entry in entries]


def _joined(
    manifest: Manifest, features: Mapping[str, ClipFeatures], layout: Layout
) -> tuple[dict[str, str], list[ManifestEntry], list[str]]:
    pairs, joined = manifest.join(features)
    if joined.ambiguous:
        name, others = next(iter(joined.ambiguous.items()))
        msg = f"{name!r} could be any of {', '.join(map(repr, others[:5]))} in the manifest; rename one of them there"
        raise UsageError(msg)
    keys = {entry.id: key for key, entry in pairs.items()}
    notes = []
    if joined.missing:
        first = joined.missing[0]
        notes.append(f"{len(joined.missing)} videos of the feature set are in no list, the first {first!r}: left out")
    if joined.extra:
        first = joined.extra[0]
        notes.append(f"{len(joined.extra)} videos of the manifest have no features, the first {first!r}: left out")
    entries = [entry for entry in manifest if entry.id in keys]
    if layout.only_labelled:
        aside = [entry for entry in entries if entry.split not in SPLITS]
        if aside:
            notes.append(f"{len(aside)} videos are neither train nor test, the first {aside[0].id!r}: left out")
        entries = [entry for entry in entries if entry.split in SPLITS]
    if not entries:
        msg = "no video of the feature set stands in the manifest's train or test split; check ids and splits"
        raise UsageError(msg)
    return keys, entries, notes


def _size(key: str, features: Mapping[str, ClipFeatures], sizes: Mapping[str, Size] | None) -> Size:
    if sizes is not None:
        return sizes[key]
    clips = features[key]
    num_clips, num_crops, dim = clips.values.shape
    return _Measured(num_clips, num_crops, dim, clips.facts.num_frames_decoded)


def _check_labels(layout_name: str, entries: Sequence[ManifestEntry]) -> None:
    unknown = [entry.id for entry in entries if entry.label not in {0, 1}]
    if unknown:
        msg = (
            f"{len(unknown)} of {len(entries)} videos have no label, the first {unknown[0]!r}: {layout_name} would "
            f"call them normal or anomalous by their place. Label them in the manifest, or leave them out"
        )
        raise UsageError(msg)


def _truth(
    files: Files,
    entries: Sequence[ManifestEntry],
    measured: Mapping[str, Size],
    counts: Mapping[str, int] | None,
    fit: Fit,
    notes: list[str],
) -> GroundTruth | None:
    if not entries or (not files.truth and files.target is None):
        return None
    num_clips = {entry.id: measured[entry.id].num_clips for entry in entries}
    if files.target is None:
        return _own_truth(entries, num_clips)
    find_target(files.target)
    truth = target_truth(files.target, entries, counts=counts, num_clips=num_clips if fit == "refuse" else None)
    for entry, length in zip(entries, truth.lengths.tolist(), strict=True):
        wanted = length // CLIP_FRAMES
        if abs(wanted - num_clips[entry.id]) > 1 or not wanted:
            msg = (
                f"{entry.id!r} would not fit: its features have {num_clips[entry.id]} clips, and {files.target} labels "
                f"{wanted}. One clip is trimmed, no more: extract again with clips of 16 frames, 16 apart"
            )
            raise UsageError(msg)
    if truth.num_clipped + truth.num_dropped:
        notes.append(
            f"{truth.num_clipped} spans reached past their labels and were cut, {truth.num_dropped} lay past them"
        )
    return truth


def _limits(files: Files, entries: Sequence[ManifestEntry], measured: Mapping[str, Size], fit: Fit) -> dict[str, int]:
    """Give the clips of test videos that have more than there are labels for."""
    found: dict[str, int] = {}
    for entry in entries:
        num_clips, num_frames = measured[entry.id].num_clips, measured[entry.id].num_frames
        if not files.at_most or entry.split != "test" or num_clips <= (most := CLIP_COUNTS[files.at_most](num_frames)):
            continue
        if fit == "refuse" or num_clips - most > 1 or not most:
            msg = (
                f"{entry.id!r} would not fit: its features have {num_clips} clips, and its {num_frames} frames are "
                f"labels for {most}. Extract again with --tail drop, or trim the last clip"
            )
            raise UsageError(msg)
        found[entry.id] = most
    return found


def _check_events(layout_name: str, layout: Layout, entries: Sequence[ManifestEntry]) -> None:
    if not layout.max_events:
        return
    for entry in entries:
        if entry.split != "test":
            continue
        if len(entry.spans) > layout.max_events:
            msg = (
                f"{entry.id!r} has {len(entry.spans)} spans, and the annotation file of {layout_name} has room for "
                f"{layout.max_events}: join some in the manifest, or leave the video out"
            )
            raise UsageError(msg)
        if entry.label == 1 and not len(entry.spans):
            msg = (
                f"{entry.id!r} is anomalous and its spans are not known: {layout_name} would call all of it normal. "
                f"Put its spans into the manifest, or leave it out of the test split"
            )
            raise UsageError(msg)


def _own_truth(entries: Sequence[ManifestEntry], num_clips: Mapping[str, int]) -> GroundTruth:
    unknown = [entry.id for entry in entries if entry.label == 1 and not len(entry.spans)]
    if unknown:
        msg = (
            f"{unknown[0]!r} is anomalous and its spans are not known: zeros would call all of it normal. Put its "
            f"spans into the manifest, or leave it out of the test split"
        )
        raise UsageError(msg)
    rows = [frame_truth(entry.spans, CLIP_FRAMES * num_clips[entry.id]) for entry in entries]
    lengths = np.array([len(row) for row in rows], np.int64)
    return GroundTruth(OWN, tuple(entry.id for entry in entries), np.concatenate(rows), lengths, 0, 0)


def _marked(
    entry: ManifestEntry,
    size: Size,
    layout: Layout,
    crops: Crops,
    pool: CropPool | None,
    order: str | None,
    num_labels: int,
    limit: int | None,
) -> MarkedVideo:
    # Refuses before anything is written what it would refuse where values are at hand.
    num_crops = fit_crops(np.zeros((1, size.num_crops, 1)), crops, pool=pool, order=order, identifier=entry.id).shape[1]
    num_rows = 32 if layout.rows == "segments" else limit or size.num_clips
    if num_labels and layout.rows == "clips":
        num_rows = num_labels // CLIP_FRAMES
    return MarkedVideo(
        id=entry.id,
        name=entry.id.split("/")[-1],
        label=entry.label,
        class_name=entry.class_name,
        split=entry.split,
        spans=tuple((start, stop) for start, stop in entry.spans.tolist()),
        num_frames=entry.num_frames or 0,
        num_rows=num_rows,
        num_crops=num_crops,
        dim=size.dim,
        num_labels=num_labels,
    )


def _check_names(layout: Layout, files: Files, videos: Sequence[MarkedVideo], prefix: str) -> None:
    if layout.flat_names:
        twins = [name for name, count in Counter(video.name.casefold() for video in videos).items() if count > 1]
        if twins:
            same = [video.id for video in videos if video.name.casefold() == twins[0]]
            msg = f"{' and '.join(map(repr, same))} would be one file: this layout has no folders; rename one of them"
            raise UsageError(msg)
    for video in videos:
        cut = next((character for character in layout.cuts_at if character in video.name), None)
        if cut is not None:
            msg = f"{video.id!r}: the target cuts names at {cut!r} and would look for another file; rename it"
            raise UsageError(msg)
    word = files.normal_word
    if not word:
        return
    if word in prefix:
        msg = (
            f"{prefix} holds {word!r}, by which the target knows normal videos: it would take all for normal. Export "
            f"to another folder, or give another prefix"
        )
        raise UsageError(msg)
    for video in videos:
        text = f"{video.folder}/{video.name}" if files.word_in_folder else video.name
        if (word in text) != (video.label == 0):
            said = "normal" if word in text else "anomalous"
            msg = (
                f"{text!r} is labelled {'normal' if video.label == 0 else 'anomalous'}, and the target reads the label "
                f"from the name: {word!r} stands for normal, so it would be {said}. Rename it, or mend its label"
            )
            raise UsageError(msg)


def crops_of(layout: Layout, data_set: str) -> Crops:
    """Give the crops that a layout takes for a data set."""
    crops = layout.family.crops
    return crops.get(data_set, crops[OWN])
