"""The field's data sets: what their names say, which published lists belong to them, and reading those lists."""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import UsageError
from .joining import comparable, join_ids
from .manifest import LABEL_WORDS, Manifest, ManifestEntry, id_of, scan_manifest, twin_problems
from .text_lines import Problem, check_name, is_folder, read_lines, refuse
from .truth_readers import Record, base_name, read_masks, read_shares, read_text

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SO = "No manifest was made of them: what contradicts itself would label videos wrongly. Mend or leave out these lines."

# What repositories hang on a video's name: a crop, the kind of features, an extension.
_TAIL = r"(?:_{1,2}(?:\d{1,2}|i3d|c3d|vggish|rgb|flow|C))?(?:\.[A-Za-z0-9]{1,4})*"

Described = tuple[int, str]
"""Label, and kind of anomaly or ""."""


@dataclass(frozen=True, slots=True)
class ListFile:
    """A published list: what its name looks like, and the split that it is of, "" for several."""

    glob: str
    split: str


@dataclass(frozen=True, slots=True)
class DataSet:
    """A data set: its names, its published lists and the conventions of their numbers.

    ``pattern`` matches a name and groups what `describe` reads label and class from (None: names say neither).
    ``path_of`` gives where a video lies below the root of the official download. ``orders`` are the columns of its
    lists (`truth_readers.COLUMN_ORDERS`). ``slicing`` is how the authors take their own numbers, one of
    `frame_truth.SLICINGS`. ``published``: split -> (normal, anomalous) videos.
    """

    title: str
    source: str
    pattern: re.Pattern[str]
    describe: Callable[[re.Match[str]], Described] | None
    path_of: Callable[[str, str], str]
    files: tuple[ListFile, ...]
    orders: tuple[str, ...]
    slicing: str
    published: Mapping[str, tuple[int, int]]


UCF_CLASSES = (
    *("Abuse", "Arrest", "Arson", "Assault", "Burglary", "Explosion", "Fighting", "RoadAccidents", "Robbery"),
    *("Shooting", "Shoplifting", "Stealing", "Vandalism"),
)
"""Kinds of anomaly in UCF-Crime, which are also its folders."""

XD_CLASSES: Mapping[str, str] = MappingProxyType(
    {
        "B1": "fighting",
        "B2": "shooting",
        "B4": "riot",
        "B5": "abuse",
        "B6": "car accident",
        "G": "explosion",
    }
)
"""Code in a name of XD-Violence -> kind of anomaly. There is no B3; A is normal, 0 nothing."""

TAD_CLASSES: Mapping[str, str] = MappingProxyType(
    {
        "01": "Accident",
        "02": "IllegalTurn",
        "03": "IllegalOccupation",
        "04": "Retrograde",
        "05": "else",
        "06": "PedestrianOnRoad",
        "07": "RoadSpills",
    }
)
"""Number before a name of TAD -> kind of anomaly."""


def _ucf(match: re.Match[str]) -> Described:
    return (1, match["kind"]) if match["kind"] else (0, "")


def _ucf_path(name: str, _class_name: str) -> str:
    kind = re.match(r"[A-Za-z]+", name)
    folder = kind[0] if kind and kind[0] in UCF_CLASSES else ""
    # Normals of the training split have no underscore before their number.
    normal = "Testing_Normal_Videos_Anomaly" if "Videos_" in name else "Training_Normal_Videos_Anomaly"
    return f"{folder or normal}/{name}.mp4"


def _xd(match: re.Match[str]) -> Described:
    codes = [code for code in match["codes"].split("-") if code != "0"]
    return (0, "") if codes == ["A"] else (1, "+".join(XD_CLASSES[code] for code in codes))


def _tad(match: re.Match[str]) -> Described:
    return (1, TAD_CLASSES[match["kind"]]) if match["kind"] else (0, "")


def _lad(match: re.Match[str]) -> Described:
    return (1, match["kind"]) if match["side"] == "a" else (0, "")


def _shanghaitech_path(name: str, _class_name: str) -> str:
    # Three digits: recorded for training, as video. Four: for testing, as folders of pictures.
    return f"training/videos/{name}.avi" if len(name) == len("01_001") else f"testing/frames/{name}"


DATA_SETS: Mapping[str, DataSet] = MappingProxyType(
    {
        "ucf-crime": DataSet(
            "UCF-Crime",
            "Sultani, Chen, Shah, CVPR 2018; WaqasSultani/AnomalyDetectionCVPR2018",
            re.compile(rf"(?P<name>(?:(?P<kind>{'|'.join(UCF_CLASSES)})|Normal_Videos_?)\d{{3}}_x264){_TAIL}"),
            _ucf,
            _ucf_path,
            (
                ListFile("*temporal_anomaly_annotation*.txt", "test"),
                ListFile("*anomaly_train*.txt", "train"),
                ListFile("*anomaly_test*.txt", "test"),
                ListFile("*train_annotation.txt", "train"),
                ListFile("*test_annotation.txt", "test"),
                ListFile("*ucf*-test.list", "test"),
                ListFile("*ucf_test*.list", "test"),
                ListFile("*ucf*-i3d.list", "train"),
                ListFile("*ucf_train*.list", "train"),
                ListFile("*ucf*_test_anno.json", "test"),
                ListFile("test_anomalyv2.txt", "test"),
                ListFile("test_normalv2.txt", "test"),
                ListFile("train_anomaly.txt", "train"),
                ListFile("train_normal.txt", "train"),
            ),
            ("sultani", "mist", "ekosman-test", "ekosman-train", "seo-anomaly", "seo-normal", "wsal", "names"),
            "one_based",
            MappingProxyType({"train": (800, 810), "test": (150, 140)}),
        ),
        "xd-violence": DataSet(
            "XD-Violence",
            "Wu et al., ECCV 2020; Roc-Ng/XDVioDet",
            re.compile(rf"(?P<name>.+__#.+_label_(?P<codes>A|(?:B[12456]|G)(?:-(?:B[12456]|G|0)){{0,2}})){_TAIL}"),
            _xd,
            lambda name, _class_name: f"{name}.mp4",
            (
                ListFile("annotations.txt", "test"),
                ListFile("*rgb_test.list", "test"),
                ListFile("*audio_test.list", "test"),
                ListFile("xd_test*.list", "test"),
                ListFile("*xd*_test_anno.json", "test"),
                ListFile("rgb.list", "train"),
                ListFile("*audio.list", "train"),
                ListFile("xd_train*.list", "train"),
            ),
            ("xd-violence", "names"),
            "half_open",
            MappingProxyType({"train": (2049, 1905), "test": (300, 500)}),
        ),
        "shanghaitech": DataSet(
            "ShanghaiTech Campus, weakly supervised split",
            "Zhong et al., CVPR 2019, of Liu et al., CVPR 2018; jx-zhong-for-academic-purpose/GCN-Anomaly-Detection",
            re.compile(rf"(?P<name>\d\d_\d{{3,4}}){_TAIL}"),
            None,
            _shanghaitech_path,
            (
                ListFile("sh_train*.txt", "train"),
                ListFile("sh_test*.txt", "test"),
                ListFile("*shanghai*train*.list", "train"),
                ListFile("*shanghai*test*.list", "test"),
                ListFile("test_frame_mask", ""),
            ),
            ("mist-shanghaitech-test", "mist-shanghaitech-train", "pel4vad-shanghaitech", "names"),
            "half_open",
            MappingProxyType({"train": (175, 63), "test": (155, 44)}),
        ),
        "tad": DataSet(
            "TAD",
            "Lv et al., TIP 2021; ktr-hubrt/WSAL; spans of Kamino666/LaGoVAD-PreVAD",
            re.compile(rf"(?P<name>(?:(?P<kind>0[1-7])_[A-Za-z]+|Normal)_\d{{3}}){_TAIL}"),
            _tad,
            lambda name, _class_name: f"{name}.mp4",
            (ListFile("*tad_test_anno.json", "test"), ListFile("*tad*train*.txt", "train")),
            ("names",),
            "half_open",
            MappingProxyType({"test": (40, 60)}),
        ),
        "lad": DataSet(
            "LAD2000",
            "Wan et al., ICME 2020 and TIP 2021; wanboyang/anomaly_detection_LAD2000; spans: Kamino666/LaGoVAD-PreVAD",
            re.compile(rf"(?P<name>v_(?P<kind>[A-Za-z]+)_(?P<side>[an])_s\d+_c\d+){_TAIL}"),
            _lad,
            lambda name, _class_name: f"{name}.avi",
            (
                ListFile("*lad_test_anno.json", "test"),
                ListFile("train_split.txt", "train"),
                ListFile("test_split.txt", "test"),
            ),
            ("names",),
            "half_open",
            MappingProxyType({"test": (280, 280)}),
        ),
    }
)
"""Name -> data set. ``list`` beside them is any list of one's own (`read_own_list`)."""


@dataclass(slots=True)
class Annotations:
    """What lists say of a data set: its videos in the order of the lists, and what is to be known of the lists.

    ``problems`` are lines that cannot be meant or contradict others; ``notes`` are harmless: lines that stand there
    twice, spans whose video's length is not known.
    """

    entries: list[ManifestEntry] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    notes: list[Problem] = field(default_factory=list)

    def manifest(self) -> Manifest:
        """Give the manifest. Raises `UsageError` that names file and line of every problem."""
        refuse(self.problems, so=_SO)
        return Manifest(tuple(self.entries))


def find_data_set(name: str) -> DataSet:
    """Give a data set of the table. Raises `UsageError` if there is none of that name."""
    if name not in DATA_SETS:
        msg = f"there is no data set {name!r}; there are {', '.join(DATA_SETS)}, and list for a list of your own"
        raise UsageError(msg)
    return DATA_SETS[name]


def find_lists(name: str, folder: str | os.PathLike[str]) -> list[Path]:
    """Find a data set's published lists by their names: in a folder and in the folders right below it."""
    files = find_data_set(name).files
    root = Path(folder)
    # No deeper: where videos lie as pictures there are millions of files.
    places = [root, *(path for path in _inside(root) if is_folder(path) and not path.name.startswith("."))]
    found = [path for place in places for path in _inside(place) if _split_of(path, files) is not None]
    return list(dict.fromkeys(found))


def _inside(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        # What may not be looked into holds no list for us; `look` tells a person of it.
        return []


def _split_of(path: Path, files: Sequence[ListFile]) -> str | None:
    return next((f.split for f in files if fnmatch.fnmatchcase(path.name.lower(), f.glob)), None)


def read_annotations(
    name: str, paths: Iterable[str | os.PathLike[str]], *, counts: Mapping[str, int] | None = None
) -> Annotations:
    """Read published lists of a data set together: what one leaves out, another may say.

    ``counts`` are decoded frames by name, for spans that are published in parts of a video's length. The split is
    that of the list's name: of the table, else what it says of train or test.

    Raises
    ------
    NoInputError
        if a list is not there.
    UsageError
        if one cannot be read at all. Lines that cannot be meant are in ``problems``.
    """
    data_set = find_data_set(name)
    result = Annotations()
    merged: dict[str, _Merged] = {}
    for path in map(Path, paths):
        split = _split_of(path, data_set.files)
        if split is None:
            split = next((word for word in ("train", "test") if word in path.name.lower()), "")
        records, problems = _read(path, data_set)
        result.problems += problems
        seen: dict[str, int] = {}
        for number, record in records:
            if seen.setdefault(record.name, number) != number:
                what = f"{record.name!r} stands in line {seen[record.name]} already"
                result.notes.append(Problem(str(path), number, what))
                continue
            try:
                _merge(merged, data_set, record, split, f"{path}:{number}" if number else str(path))
            except ValueError as error:
                result.problems.append(Problem(str(path), number, str(error)))
    _finish(merged, data_set, counts, result)
    return result


def _read(path: Path, data_set: DataSet) -> tuple[list[tuple[int, Record]], list[Problem]]:
    if is_folder(path):
        return read_masks(path)
    if path.suffix.lower() == ".json":
        return read_shares(path)
    return read_text(path, data_set.orders)


@dataclass(slots=True)
class _Merged:
    """What all lists together say of one video, and which said it first."""

    entry: ManifestEntry
    shares: tuple[tuple[float, float], ...] = ()
    said_by: dict[str, str] = field(default_factory=dict)


def _merge(merged: dict[str, _Merged], data_set: DataSet, record: Record, split: str, place: str) -> None:
    said = _entry(data_set, record, split)
    known = merged.setdefault(said.id, _Merged(ManifestEntry(said.id, said.path)))
    before, now = _facts(known.entry), _facts(said)
    for what, value in now.items():
        if before.get(what, value) != value:
            msg = f"{what} of {said.id} is {value!r} here and {before[what]!r} in {known.said_by[what]}"
            raise ValueError(msg)
        known.said_by.setdefault(what, place)
    facts = {**before, **now}
    spans = np.array(facts.pop("spans", ()), np.int64).reshape(-1, 2)
    known.entry = replace(known.entry, **facts, spans=spans)
    known.shares = known.shares or record.shares or ()


def _entry(data_set: DataSet, record: Record, split: str) -> ManifestEntry:
    match = data_set.pattern.fullmatch(base_name(record.name))
    if match is None:
        msg = f"{record.name!r:.100} is no name of {data_set.title}"
        raise ValueError(msg)
    name = match["name"]
    label, class_name = data_set.describe(match) if data_set.describe else (record.label, "")
    if record.label not in {-1, label} or (record.spans and label == 0):
        said, named = ("anomalous", "normal") if label == 0 else ("normal", "anomalous")
        msg = f"it says that {name} is {said}, and its name says {named}"
        raise ValueError(msg)
    if record.class_name and record.class_name != (class_name or "Normal"):
        msg = f"it says that {name} is of class {record.class_name!r}, and its name says {class_name or 'Normal'!r}"
        raise ValueError(msg)
    path = data_set.path_of(name, class_name)
    num_frames = record.num_frames if record.counted == "decoded" else None
    spans = np.array(record.spans, np.int64).reshape(-1, 2)
    label = 1 if record.spans else label
    return ManifestEntry(id_of(path), path, label, class_name, split, spans, num_frames)


def _facts(entry: ManifestEntry) -> dict[str, Any]:
    """Give what is known of a video, without what is not."""
    facts = {
        "label": entry.label,
        "class_name": entry.class_name,
        "split": entry.split,
        "spans": entry.spans.tolist(),
        "num_frames": entry.num_frames,
    }
    return {name: value for name, value in facts.items() if value not in (-1, "", [], None)}


def _finish(
    merged: Mapping[str, _Merged], data_set: DataSet, counts: Mapping[str, int] | None, result: Annotations
) -> None:
    joined = join_ids([known.entry.id for known in merged.values()], counts or ())
    unknown = 0
    for known in merged.values():
        entry = known.entry
        theirs = joined.pairs.get(entry.id)
        if theirs is not None and counts is not None:
            entry = replace(entry, num_frames=counts[theirs])
        if known.shares and not len(entry.spans):
            if entry.num_frames is None:
                unknown += 1
            else:
                entry = replace(entry, spans=share_spans(known.shares, entry.num_frames))
        result.entries.append(entry)
    if unknown:
        what = (
            f"the spans of {unknown} videos are parts of a length that is not known; give decoded frame counts, such "
            "as `vadx ls SET --json` prints after an extraction"
        )
        result.notes.append(Problem(data_set.title, 0, what))


def share_spans(shares: Sequence[tuple[float, float]], num_frames: int) -> NDArray[np.int64]:
    """Give spans in frames of spans in parts of a video's length: ``int64 (span, 2)``.

    Rounded to the nearest frame: of UCF-Crime, whose spans are known both ways, that gives the published integers.
    A span never shrinks to nothing.
    """
    bounds = np.rint(np.asarray(shares, np.float64) * num_frames).astype(np.int64)
    bounds[:, 0] = np.minimum(bounds[:, 0], num_frames - 1)
    bounds[:, 1] = np.maximum(bounds[:, 1], bounds[:, 0] + 1)
    return bounds


def entries_of_names(name: str, paths: Iterable[str]) -> tuple[list[ManifestEntry], list[str]]:
    """Make entries of files whose names say label and class, and give the names that say nothing.

    ``paths`` lie below the root. Splits and spans stay unknown.

    Raises
    ------
    UsageError
        if the data set's names do not say it.
    """
    data_set = find_data_set(name)
    if data_set.describe is None:
        msg = f"names of {data_set.title} do not say whether a video is normal; give its lists with --annotations"
        raise UsageError(msg)
    entries, others = [], []
    for path in paths:
        match = data_set.pattern.fullmatch(base_name(path))
        if match is None:
            others.append(path)
        else:
            label, class_name = data_set.describe(match)
            entries.append(ManifestEntry(id_of(path), path, label, class_name))
    return entries, others


def read_own_list(path: str | os.PathLike[str], *, root: str | os.PathLike[str] | None = None) -> Annotations:
    """Read anybody's list: a manifest (CSV with a header, or JSON lines), or lines ``path`` or ``path label``.

    Between path and label stands a tab, a comma or a space; a label is one of `manifest.LABEL_WORDS`. A path that
    begins at the root of the file system is taken below ``root``. Raises as `text_lines.read_lines`.
    """
    result = Annotations()
    if Path(path).suffix.lower() in {".csv", ".jsonl"}:
        numbered, result.problems = scan_manifest(path)
        result.entries = [entry for _, entry in numbered]
        return result
    lines, result.problems = read_lines(path)
    ids = []
    for number, line in lines:
        if line.startswith("#"):
            continue
        try:
            entry = _own_entry(line.strip(), root)
        except ValueError as error:
            result.problems.append(Problem(os.fspath(path), number, str(error)))
            continue
        result.entries.append(entry)
        ids.append((number, entry.id))
    result.problems += twin_problems(path, ids)
    return result


def _own_entry(line: str, root: str | os.PathLike[str] | None) -> ManifestEntry:
    match = re.fullmatch(r"(?P<path>.+?)\s*[\t, ]\s*(?P<label>\S+)", line)
    word = match["label"].lower().removesuffix(".0") if match else ""
    path, label = (match["path"], LABEL_WORDS[word]) if match and word in LABEL_WORDS else (line, -1)
    place = PurePosixPath(path)
    if place.is_absolute() and root is not None:
        base = PurePosixPath(Path(root).absolute())
        if not place.is_relative_to(base):
            msg = f"{path!r} does not lie below {base}"
            raise ValueError(msg)
        place = place.relative_to(base)
    text = place.as_posix()
    check_name(text, "path")
    # Names of a list may come without an extension, and have dots: only a video's is taken off.
    return ManifestEntry(comparable(text), text, label)
