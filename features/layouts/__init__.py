"""What other repositories read and write: feature files, lists in the order that scripts count on, and ground truth.

`LAYOUTS` is the table. `export_layout` writes a layout, `check_layout` reads what was written as the target does, and
`import_layout` reads a layout, of an export or of a published release.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...errors import NoInputError, UsageError
from ..frame_truth import CLIP_FRAMES, TARGETS, frame_truth
from ..keys import id_of_name
from ..recipe import RECIPE_FACTS, Recipe
from ..text_lines import is_folder, read_whole
from .export import Export, ExportReport, claim, count_labels, default_prefix, finish, put_truth, reliance
from .facts import facts_of
from .files import read_npy
from .marker import MARKER, MarkedVideo, Marker, read_marker
from .model import OWN, SPLITS, Files, Found, Layout, Place, Seen
from .plan import FITS, Fit, Size, Wishes, crops_of, plan_export
from .table import LAYOUTS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..bags import CropPool
    from ..manifest import Manifest
    from ..timeline import ClipFeatures

__all__ = [
    "FITS",
    "LAYOUTS",
    "OWN",
    "CheckReport",
    "ExportReport",
    "Found",
    "Imported",
    "Layout",
    "Place",
    "check_layout",
    "export_layout",
    "find_layout",
    "import_layout",
]

_SHOWN_PROBLEMS = 20


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What the target would find. ``counts``: split -> anomalous and normal videos, by its own rule of labels."""

    layout: str
    data_set: str
    problems: tuple[str, ...]
    counts: Mapping[str, tuple[int, int]]
    relies_on: tuple[str, ...]
    fits_scripts: bool
    num_labels: int

    @property
    def is_clean(self) -> bool:
        return not self.problems


@dataclass(frozen=True, slots=True)
class Imported:
    """A folder in a layout. Iterating reads one video after another: `Found`, with ``values (clip, crop, feature)``.

    ``known`` are facts of the recipe by their names in `RECIPE_FACTS`: of an export of vadx all that it was told, else
    what is published for the layout. ``unknown`` are the others. ``loses``: what the files do not say. ``crop``: the
    one crop that an export kept of those that its recipe makes, a number or ``mean``, "" for all. ``segmentation``:
    the rule of `bag_rules.SEGMENTATIONS` under which clips became rows, "" where a row is a clip.
    """

    layout: str
    folder: Path
    known: Mapping[str, object]
    unknown: tuple[str, ...]
    loses: str
    is_export: bool
    crop: str = ""
    segmentation: str = ""

    def __iter__(self) -> Iterator[Found]:
        """Raises `UsageError`, naming the file, for one that is not what the layout says."""
        return (place.found() for place in self.places())

    def places(self) -> Iterator[Place]:
        """Give every video without reading its values.

        Raises
        ------
        NoInputError
            if there is none.
        """
        marker = read_marker(self.folder)
        layout = LAYOUTS[self.layout]
        # Lists and labels often lie among the features that they are of.
        lists = [path for files in layout.data_sets.values() for path in (files.train, files.test, files.truth)]
        num_found = 0
        for place in layout.family.places(self.folder, marker, {path.split("/")[-1] for path in lists}):
            num_found += 1
            yield replace(place, id=id_of_name(place.id))
        if not num_found:
            msg = f"{self.folder} holds no file of the layout {self.layout}; check the path, or give another layout"
            raise NoInputError(msg)


def find_layout(name: str, data_set: str = OWN) -> tuple[Layout, Files]:
    """Give a layout of the table and its files for a data set. Raises `UsageError` that lists those there are."""
    if name not in LAYOUTS:
        msg = f"there is no layout {name!r}; there are {', '.join(LAYOUTS)}"
        raise UsageError(msg)
    layout = LAYOUTS[name]
    if data_set not in layout.data_sets:
        there = ", ".join(layout.data_sets)
        msg = f"{name} has no lists for {data_set!r}; give one of {there} ({OWN}: any list of your own)"
        raise UsageError(msg)
    return layout, layout.data_sets[data_set]


def export_layout(
    name: str,
    manifest: Manifest,
    features: Mapping[str, ClipFeatures],
    folder: Path,
    *,
    data_set: str = OWN,
    recipe: Recipe | None = None,
    sizes: Mapping[str, Size] | None = None,
    counts: Mapping[str, int] | None = None,
    crop: CropPool | None = None,
    prefix: str | None = None,
    fit: Fit = "refuse",
) -> ExportReport:
    """Write a feature set as another repository reads it: features, lists and ground truth.

    Everything is decided before the first file is written. An interrupted export is resumed by the same call.

    Parameters
    ----------
    manifest
        labels, splits and spans; its order is that of the lists, anomalous videos first where scripts count on it.
        Joined to ``features`` by id.
    features
        a `FeatureSet`, or any mapping of ids to features.
    recipe, sizes
        of the feature set: ``feature_set.recipe``, ``feature_set.summaries()``. The recipe says in which order the
        crops are; without sizes, all features are read twice.
    counts
        frames by name, for targets whose labels rest on OpenCV's counts (`truth_readers.read_counts`).
    crop
        the one crop to write, or ``mean``; None for all.
    prefix
        what stands before each path in a list; the folder's absolute path unless given.
    fit
        one of `FITS`.

    Raises
    ------
    UsageError
        for an unknown layout or data set, a folder that holds something else, and naming the first video that has no
        label, whose name the target would cut or misread, whose crops are too many or too few, or whose clips do not
        fit its labels.
    StoreWriteError
        if the disk refused.
    """
    layout, files = find_layout(name, data_set)
    if crop == "keep":
        crop = None
    if fit not in FITS:
        msg = f"fit is one of {', '.join(FITS)}, not {fit!r}"
        raise UsageError(msg)
    is_ordered = recipe is not None and crop is None and "transform.crop_order" not in recipe.unknown
    order = recipe.transform.crop_order if recipe is not None and is_ordered else None
    where = default_prefix(folder) if prefix is None else prefix.rstrip("/")
    wishes = Wishes(where, crop, order, recipe, sizes, counts, fit)
    plan = plan_export(name, layout, data_set, manifest, features, wishes)
    notes = list(plan.notes)
    if recipe is not None and recipe.imported is not None:
        notes.append(
            f"these features were imported from {recipe.imported.release!r}: videos count as long as was said then, or "
            f"as their rows imply"
        )
    claim(folder, plan.marker)
    crops = crops_of(layout, data_set)
    export = Export(folder, plan.marker, files, crops, features, plan.keys, crop, order, notes)
    layout.family.write(export)
    if plan.truth is not None and files.truth:
        put_truth(export, plan.truth)
    finish(export)
    relies_on, fits = reliance(files, plan.marker)
    truth = plan.truth if files.truth else None
    return ExportReport(
        layout=name,
        data_set=data_set,
        folder=folder,
        files=tuple(export.written),
        counts={split: count_labels(plan.marker.of(split)) for split in SPLITS},
        relies_on=relies_on,
        fits_scripts=fits,
        num_labels=0 if truth is None else len(truth.labels),
        num_positives=0 if truth is None else truth.num_positives,
        loses=layout.loses,
        needs=layout.needs,
        notes=tuple(export.notes),
    )


def check_layout(name: str, folder: Path) -> CheckReport:
    """Read an export again by the target's own rules, and compare with what was exported.

    Raises
    ------
    NoInputError
        if no export stands there.
    UsageError
        if it is another layout's, or the note of it cannot be read.
    """
    marker = read_marker(folder) if is_folder(folder) else None
    if marker is None:
        msg = f"{folder} holds no export of vadx: {MARKER} is missing, and with it what to compare with; check the path"
        raise NoInputError(msg)
    if marker.layout != name:
        msg = f"{folder} is an export of the layout {marker.layout}, not {name}; check it as {marker.layout}"
        raise UsageError(msg)
    layout, files = find_layout(name, marker.data_set)
    problems = [] if marker.finished else ["the export was interrupted; the same command resumes it"]
    seen: list[Seen] = []
    try:
        seen.extend(layout.family.look(folder, marker, files))
    except (ValueError, LookupError, OSError) as error:
        # UsageError and NoInputError are among them, and what a line that somebody else wrote makes of `int`.
        problems.append(f"the target would stop after {len(seen)} videos: {error}")
    problems += _compare(seen, marker)
    num_labels, found = _check_truth(folder, files, marker, seen)
    problems += found
    relies_on, fits = reliance(files, marker)
    return CheckReport(
        layout=name,
        data_set=marker.data_set,
        problems=tuple(problems),
        counts={split: _counts(seen, split) for split in SPLITS},
        relies_on=relies_on,
        fits_scripts=fits,
        num_labels=num_labels,
    )


def import_layout(name: str, folder: Path) -> Imported:
    """Open a folder in a layout: an export of vadx, or a release as it was published.

    Nothing in it is run, no list in it is followed, and no file outside of it is read.

    Raises
    ------
    NoInputError
        if there is no such folder.
    UsageError
        for an unknown layout, or an export of another one.
    """
    if name not in LAYOUTS:
        find_layout(name)
    layout = LAYOUTS[name]
    if not is_folder(folder):
        msg = f"there is no folder {folder}; check the path"
        raise NoInputError(msg)
    marker = read_marker(folder)
    if marker is not None and marker.layout != name:
        msg = f"{folder} is an export of the layout {marker.layout}, not {name}; import it as {marker.layout}"
        raise UsageError(msg)
    known, crop, segmentation = dict(layout.knows), "", ""
    if marker is not None and marker.recipe:
        known, crop, segmentation = _facts_of(marker)
    if layout.rows == "segments":
        segmentation = layout.segmentation
    unknown = tuple(fact for fact in RECIPE_FACTS if fact not in known)
    return Imported(name, folder, known, unknown, layout.loses, marker is not None, crop, segmentation)


def _facts_of(marker: Marker) -> tuple[dict[str, object], str, str]:
    """Give what an export was told of its recipe, which one crop it holds, and what rows were before it."""
    recipe = Recipe.from_mapping(dict(marker.recipe))
    facts = facts_of(recipe)
    before, segmentation = "", ""
    if recipe.imported is not None:
        before, segmentation = recipe.imported.crop, recipe.imported.segmentation
    if marker.crop_order and not marker.crop:
        facts["transform.crop_order"] = marker.crop_order
    if facts.get("transform.crops") == "ten" and {video.num_crops for video in marker.videos} == {5}:
        facts["transform.crops"] = "five"
    return facts, marker.crop or before, segmentation


def _compare(seen: list[Seen], marker: Marker) -> list[str]:
    problems = []
    for split in sorted({video.split for video in marker.videos}):
        entries, videos = [one for one in seen if one.split == split], marker.of(split)
        if len(entries) != len(videos):
            problems.append(f"{split}: the target would find {len(entries)} videos, and {len(videos)} were exported")
        for at, (one, video) in enumerate(zip(entries, videos, strict=False)):
            if one.name != video.name:
                problems.append(f"{split}: entry {at} is {one.name!r}, and {video.name!r} belongs there")
                break
            if one.label not in {-1, video.label} and video.label != -1:
                problems.append(f"{split}: {one.name!r} would be labelled {one.label}, and is {video.label}")
            shape = (one.num_rows, one.num_crops, one.dim)
            if shape != (video.num_rows, video.num_crops, video.dim):
                expected = (video.num_rows, video.num_crops, video.dim)
                problems.append(f"{split}: {one.name!r} has {shape} (row, crop, feature), and {expected} were exported")
    more = len(problems) - _SHOWN_PROBLEMS
    return [*problems[:_SHOWN_PROBLEMS], *([f"and {more} more"] if more > 0 else [])]


def _check_truth(folder: Path, files: Files, marker: Marker, seen: list[Seen]) -> tuple[int, list[str]]:
    if not files.truth or not marker.of("test"):
        return 0, []
    try:
        labels = _labels(folder / files.truth, marker)
    except (UsageError, NoInputError) as error:
        return 0, [str(error)]
    wanted = sum(CLIP_FRAMES * one.num_rows for one in seen if one.split == "test")
    if len(labels) != wanted:
        msg = f"{files.truth} has {len(labels)} labels, and the scores of the test videos would be {wanted}"
        return len(labels), [msg]
    at, problems = 0, []
    for video in marker.of("test"):
        row = labels[at : at + video.num_labels]
        at += video.num_labels
        wrong = int((row != _expected_labels(video, files)).sum())
        if wrong:
            problems.append(f"{files.truth}: {wrong} of {len(row)} labels of {video.name!r} are not those of its spans")
    return len(labels), problems


def _expected_labels(video: MarkedVideo, files: Files) -> NDArray[np.uint8]:
    rule = TARGETS[files.target] if files.target else TARGETS["frames"]
    reach = min(video.num_frames, video.num_labels) if rule.padding == "repeat_last" else video.num_labels
    row = frame_truth(video.entry.spans, reach, rule.slicing)
    return np.pad(row, (0, video.num_labels - reach), mode="edge") if reach else row


def _labels(path: Path, marker: Marker) -> NDArray[np.generic]:
    if path.suffix != ".json":
        return read_npy(path)
    try:
        found = json.loads(read_whole(path))
        return np.concatenate([np.array(found[video.name]["labels"], np.float64) for video in marker.of("test")])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        msg = f"{path} is no ground truth of all test videos ({error}); export again"
        raise UsageError(msg) from error


def _counts(seen: list[Seen], split: str) -> tuple[int, int]:
    labels = [one.label for one in seen if one.split == split]
    return labels.count(1), labels.count(0)
