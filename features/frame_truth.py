"""Frame-level ground truth, as each repository counts it.

The published numbers of an anomalous span are one thing, and the frames that repositories make of them another:
`SLICINGS`. So is how long the row of labels is: `CLIP_COUNTS`. `TARGETS` says which repository takes which.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, TypeVar

import numpy as np

from ..errors import UsageError
from .joining import join_ids
from .manifest import ManifestEntry, span_array
from .text_lines import MAX_FRAMES

if TYPE_CHECKING:
    from numpy.typing import NDArray

T = TypeVar("T")

CLIP_FRAMES = 16
"""Frames in a clip of every target's repository."""


@dataclass(frozen=True, slots=True)
class Slicing:
    """How published numbers s and e become frames ``[s + start_shift, e + stop_shift)``."""

    start_shift: int
    stop_shift: int
    users: str


SLICINGS: Mapping[str, Slicing] = MappingProxyType(
    {
        "half_open": Slicing(0, 0, "[s:e] Roc-Ng, UR-DMU, PEL4VAD, VadCLIP, ekosman, MIST, CSL-TAL, XDVioDet"),
        "one_based": Slicing(-1, 0, "[s-1:e] Sultani, WSAL, GCN, Seo: counted from 1, the last frame included"),
        "inclusive": Slicing(0, 1, "[s:e+1] RTFM, MGFN, CLIP-TSA: counted from 0, the last frame included"),
    }
)
"""Name -> what is made of the numbers."""

CLIP_COUNTS: Mapping[str, Callable[[int], int]] = MappingProxyType(
    {
        "ceil": lambda n: -(-n // CLIP_FRAMES),
        "floor_plus_one": lambda n: n // CLIP_FRAMES + 1,
        "floor": lambda n: n // CLIP_FRAMES,
        "floor_minus_one": lambda n: max(n - 1, 0) // CLIP_FRAMES,
    }
)
"""Name -> clips of 16 frames that a video of n frames has."""

Padding = Literal["spans", "repeat_last"]
Frames = Literal["decoded", "opencv", "duration"]

FRAME_COUNTS: Mapping[str, str] = MappingProxyType(
    {
        "decoded": "frames that come out of the decoder",
        "opencv": "OpenCV's CAP_PROP_FRAME_COUNT, which is often one more than decoded",
        "duration": "the container's duration times 30, rounded",
    }
)
"""What a target's frame counts count. Only the first can be known from the videos alone."""


@dataclass(frozen=True, slots=True)
class ClippedSpans:
    """Spans cut to a video. ``num_clipped`` of them were shortened, ``num_dropped`` lay outside altogether."""

    spans: NDArray[np.int64]
    num_clipped: int
    num_dropped: int


def clip_spans(spans: object, num_frames: int, slicing: str = "half_open") -> ClippedSpans:
    """Give published spans as half-open frames ``int64 (span, 2)`` within ``[0, num_frames)``.

    A span that reaches past the end is cut and counted, never refused: five of UCF-Crime's do. That ``one_based``
    makes frame -1 of a span that begins at 0 is not counted: nothing of the video is lost.

    Raises
    ------
    ValueError
        for spans that are none, or a count below 0.
    UsageError
        for an unknown slicing.
    """
    shift = _choose(SLICINGS, slicing, "slicing")
    if not 0 <= num_frames <= MAX_FRAMES:
        msg = f"num_frames is between 0 and {MAX_FRAMES}; got {num_frames}"
        raise ValueError(msg)
    whole = span_array(spans) + np.array([shift.start_shift, shift.stop_shift])
    cut = np.clip(whole, 0, num_frames)
    kept = cut[:, 0] < cut[:, 1]
    return ClippedSpans(cut[kept], int((kept & (cut[:, 1] < whole[:, 1])).sum()), int((~kept).sum()))


def frame_truth(spans: object, num_frames: int, slicing: str = "half_open") -> NDArray[np.uint8]:
    """Give 1 for each anomalous frame and 0 for each other, ``uint8 (num_frames,)``. Raises as `clip_spans`."""
    truth = np.zeros(num_frames if 0 <= num_frames <= MAX_FRAMES else 0, np.uint8)
    for start, stop in clip_spans(spans, num_frames, slicing).spans:
        truth[start:stop] = 1
    return truth


@dataclass(frozen=True, slots=True)
class TruthTarget:
    """How one repository makes the labels that its scores are compared with.

    ``clip_count`` names the rule of `CLIP_COUNTS` that gives the clips, 16 labels each; None: as many labels as
    frames. Beyond the video ``padding`` either lets spans that reach past the end go on, or repeats the last label.
    ``published``: frames and positives of the whole test set, where they are known.
    """

    data_set: str
    slicing: str
    clip_count: str | None
    source: str
    frames: Frames = "decoded"
    padding: Padding = "spans"
    dtype: str = "float32"
    published: tuple[int, int] | None = None


_ROC_NG = "Roc-Ng/DeepMIL gt-ucf.npy; the same bytes are UR-DMU's gt-ucf.npy and PEL4VAD's ucf-gt.npy"

TARGETS: Mapping[str, TruthTarget] = MappingProxyType(
    {
        "rtfm-ucf": TruthTarget(
            "ucf-crime",
            "inclusive",
            "ceil",
            "tianyu0207/RTFM list/make_gt_ucf.py; MGFN, CLIP-TSA, S3R take the same 69,634 clips",
            dtype="float64",
        ),
        "rocng-ucf": TruthTarget(
            "ucf-crime", "half_open", "floor_minus_one", _ROC_NG, frames="opencv", published=(1_109_680, 84_128)
        ),
        "vadclip-ucf": TruthTarget("ucf-crime", "half_open", "floor", "nwpu-zxr/VadCLIP list/make_gt_ucf.py"),
        "mist-ucf": TruthTarget("ucf-crime", "half_open", "floor", "fjchange/MIST_VAD: cut to whole clips"),
        "ekosman-ucf": TruthTarget("ucf-crime", "half_open", None, "ekosman/AnomalyDetectionCVPR2018-Pytorch"),
        "wsal-ucf": TruthTarget("ucf-crime", "one_based", None, "ktr-hubrt/WSAL Test.py"),
        "seo-ucf": TruthTarget(
            "ucf-crime",
            "one_based",
            "floor",
            "seominseok0429/Real-world-Anomaly-Detection-in-Surveillance-Videos-pytorch main.py",
            frames="opencv",
        ),
        "sultani-ucf": TruthTarget(
            "ucf-crime",
            "one_based",
            None,
            "WaqasSultani/AnomalyDetectionCVPR2018 Evaluate_Anomaly_Detector.m",
            frames="duration",
        ),
        "xdviodet": TruthTarget(
            "xd-violence",
            "half_open",
            "floor_minus_one",
            "Roc-Ng/XDVioDet list/make_gt.py; the same gt.npy serves UR-DMU, PEL4VAD, CLIP-TSA and MACIL_SD",
            frames="opencv",
            published=(2_330_384, 537_805),
        ),
        "vadclip-xd": TruthTarget(
            "xd-violence", "half_open", "floor", "nwpu-zxr/VadCLIP list/make_gt_xd.py", published=(2_331_296, 537_882)
        ),
        "rtfm-shanghaitech": TruthTarget(
            "shanghaitech",
            "half_open",
            "floor_plus_one",
            "tianyu0207/RTFM list/make_gt_sh.py; S3R",
            padding="repeat_last",
            dtype="float64",
            published=(142_912, 8_028),
        ),
        "mist-shanghaitech": TruthTarget("shanghaitech", "half_open", "floor", "fjchange/MIST_VAD: cut to whole clips"),
        "arnet-lad": TruthTarget(
            "lad", "half_open", None, "wanboyang/anomaly_detection_LAD2000 GT/frame_label_IET.pickle"
        ),
        "frames": TruthTarget("", "half_open", None, "one label a decoded frame, for any data set"),
    }
)
"""Name -> rule. ``frames`` is vadx's own."""

NO_RULE: Mapping[str, str] = MappingProxyType(
    {
        "pel4vad-shanghaitech": (
            "PEL4VAD's sh-gt.npy has 140,112 labels for features that were extracted anew, and no rule gives that "
            "length from the videos; export for rtfm-shanghaitech"
        ),
    }
)
"""Targets that cannot be made, and why."""


@dataclass(frozen=True, slots=True, eq=False)
class GroundTruth:
    """The labels of many videos, one after another in the order of ``ids``.

    ``labels (label,)`` uint8; ``lengths (video,)`` int64 labels a video. ``num_clipped`` spans reached past the
    labels and were cut, ``num_dropped`` lay past them altogether.
    """

    target: str
    ids: tuple[str, ...]
    labels: NDArray[np.uint8]
    lengths: NDArray[np.int64]
    num_clipped: int
    num_dropped: int

    @property
    def num_positives(self) -> int:
        return int(self.labels.sum(dtype=np.int64))

    def of(self, identifier: str) -> NDArray[np.uint8]:
        """Give one video's labels. Raises `ValueError` for an unknown id."""
        place = self.ids.index(identifier)
        start = int(self.lengths[:place].sum())
        return self.labels[start : start + int(self.lengths[place])]


def find_target(name: str) -> TruthTarget:
    """Give a target of the table.

    Raises
    ------
    UsageError
        if there is none of that name, or one that no rule makes.
    """
    if name in NO_RULE:
        msg = f"ground truth for {name} cannot be made: {NO_RULE[name]}"
        raise UsageError(msg)
    return _choose(TARGETS, name, "ground truth")


def num_labels(target: str, num_frames: int) -> int:
    """Give how many labels a target has for a video of so many frames, counted as the target counts them."""
    rule = find_target(target).clip_count
    return num_frames if rule is None else CLIP_FRAMES * CLIP_COUNTS[rule](num_frames)


def target_truth(
    target: str,
    entries: Iterable[ManifestEntry],
    *,
    counts: Mapping[str, int] | None = None,
    num_clips: Mapping[str, int] | None = None,
) -> GroundTruth:
    """Make a target's labels for ``entries``, in their order.

    ``counts``: frames by name as `truth_readers.read_counts` reads them, in place of the entries' own.
    ``num_clips``: clips by id of the features that the labels are for, checked against the target's rule.

    Raises
    ------
    UsageError
        for an unknown target; for one that rests on counts which the videos do not give, unless ``counts`` has
        them; naming the first video whose count is missing, whose spans are not known, or whose features have
        another number of clips than the labels.
    """
    rule = find_target(target)
    videos = tuple(entries)
    frames = _frame_counts(target, rule, videos, counts)
    labels, lengths, num_clipped, num_dropped = [], [], 0, 0
    for entry, num_frames in zip(videos, frames, strict=True):
        _check_spans(target, entry)
        length = num_labels(target, num_frames)
        _check_clips(target, entry, num_frames, length, num_clips)
        reach = min(num_frames, length) if rule.padding == "repeat_last" else length
        cut = clip_spans(entry.spans, reach, rule.slicing)
        row = frame_truth(entry.spans, reach, rule.slicing)
        labels.append(np.pad(row, (0, length - reach), mode="edge") if reach else np.zeros(length, np.uint8))
        lengths.append(length)
        num_clipped += cut.num_clipped
        num_dropped += cut.num_dropped
    joined = np.concatenate(labels) if labels else np.zeros(0, np.uint8)
    ids = tuple(entry.id for entry in videos)
    return GroundTruth(target, ids, joined, np.array(lengths, np.int64), num_clipped, num_dropped)


def _frame_counts(
    target: str, rule: TruthTarget, videos: Sequence[ManifestEntry], counts: Mapping[str, int] | None
) -> list[int]:
    if counts is None:
        if rule.frames != "decoded":
            hint = (
                "those of UCF-Crime stand in test_anomalyv2.txt and test_normalv2.txt of seominseok0429's repository"
                if rule.frames == "opencv" and rule.data_set == "ucf-crime"
                else "lines of a name and a number"
            )
            msg = (
                f"ground truth for {target} rests on {FRAME_COUNTS[rule.frames]}; from decoded frames it would have "
                f"another length than the published one. Give a file of those counts ({hint})"
            )
            raise UsageError(msg)
        known = {entry.id: entry.num_frames for entry in videos if entry.num_frames is not None}
        evidence = "the manifest has no num_frames for it"
    else:
        joined = join_ids([entry.id for entry in videos], counts)
        known = {ours: counts[theirs] for ours, theirs in joined.pairs.items()}
        evidence = "the counts given have none, or several, of its name"
    missing = [entry.id for entry in videos if entry.id not in known]
    if missing:
        msg = (
            f"{len(missing)} of {len(videos)} videos have no count of frames, the first {missing[0]!r}: {evidence}. "
            f"Without it the labels of {target} have no length; give a file with a count for each"
        )
        raise UsageError(msg)
    return [known[entry.id] for entry in videos]


def _check_spans(target: str, entry: ManifestEntry) -> None:
    if entry.label != 0 and not len(entry.spans):
        what = "is anomalous and its spans are not known" if entry.label == 1 else "has no label"
        msg = (
            f"{entry.id!r} {what}: zeros for {target} would call all of it normal. Read the annotation file of its "
            f"split, or leave it out"
        )
        raise UsageError(msg)


def _check_clips(
    target: str, entry: ManifestEntry, num_frames: int, length: int, num_clips: Mapping[str, int] | None
) -> None:
    if num_clips is None:
        return
    has = num_clips.get(entry.id)
    wanted = -(-length // CLIP_FRAMES)
    if has != wanted:
        rule = find_target(target).clip_count or "ceil"
        msg = (
            f"{entry.id!r} would not fit: its features have {has} clips, and {target} labels {wanted} ({rule} of "
            f"{num_frames} frames). Extract again with the tail that gives as many"
        )
        raise UsageError(msg)


def _choose(table: Mapping[str, T], name: str, what: str) -> T:
    if name not in table:
        msg = f"there is no {what} {name!r}; there are {', '.join(table)}"
        raise UsageError(msg)
    return table[name]
