"""Why two sets of features differ, as far as the arrays themselves can tell. Arithmetic only: no video is looked at.

What is found, cheapest first: missing videos, shapes, lengths against frames, crops and features in another order,
norms, shifts in time, rounding; then how far the values lie apart. Re-extraction is `pipelines.diagnose`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, cast

import numpy as np

from .value_changes import (
    CHANGES,
    HALF_TOLERANCE,
    TOLERANCE,
    Array,
    Finding,
    Pair,
    crop_order,
    crop_part,
    decimals,
    feature_part,
    half_precision,
    is_half,
    leading,
    pooled_l2,
    time_shift,
)

SAMPLE_VIDEOS = 8
"""Videos that the tests of `value_changes` look at: of those that differ, the first."""

SAMPLE_BYTES = 1 << 28
_FRAME_RATE_SHARE = 0.02
_NAMES_SHOWN = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Knowledge:
    """What is known beside the arrays, each part of it if it is.

    ``num_frames``: id -> decoded frames. ``tails``: name of a tail rule -> number of clips from number of frames;
    ``tail`` is that of the side ``tail_of``. ``crop_orders``: name -> what each crop shows; ``crop_order`` is A's.
    """

    num_frames: Mapping[str, int] = field(default_factory=dict)
    tails: Mapping[str, Callable[[int], int]] = field(default_factory=dict)
    tail: str | None = None
    tail_of: Literal["A", "B"] = "A"
    crop_orders: Mapping[str, Sequence[Hashable]] = field(default_factory=dict)
    crop_order: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoDifference:
    """One video in A and B.

    ``relative_l2`` and the cosines ``(clip x crop,)`` are over the clips that both have, None and empty where shapes
    do not fit; ``first_clip`` is the first that differs, None if none does.
    """

    shape_a: tuple[int, int, int]
    shape_b: tuple[int, int, int]
    is_identical: bool
    relative_l2: float | None
    cosines: Array
    first_clip: int | None
    is_same: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """How A and B differ. ``findings`` are ranked: what alone makes B out of A first, then cheapest first.

    ``videos`` maps the ids that both have; ``tolerance`` is the relative L2 up to which a video is the same.
    """

    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    videos: Mapping[str, VideoDifference]
    findings: tuple[Finding, ...]
    tolerance: float

    @property
    def differs(self) -> bool:
        """Whether anything but harmless rounding lies between them."""
        return any(not finding.harmless for finding in self.findings)

    @property
    def causes(self) -> tuple[Finding, ...]:
        """The findings of which each alone makes B out of A."""
        return tuple(finding for finding in self.findings if finding.explains)

    @property
    def is_comparable(self) -> bool:
        """Whether the arrays have as many crops and features."""
        return all(one.relative_l2 is not None for one in self.videos.values())

    @property
    def num_identical(self) -> int:
        return sum(one.is_identical for one in self.videos.values())

    @property
    def max_relative_l2(self) -> float:
        """The largest relative L2 of a video, 0 if there is none."""
        return max((one.relative_l2 for one in self.videos.values() if one.relative_l2 is not None), default=0.0)

    @property
    def differs_at_ends_only(self) -> bool:
        """Whether each video differs in its last clip at most, or in having more clips."""
        return all(
            one.first_clip is None or one.first_clip >= min(one.shape_a[0], one.shape_b[0]) - 1
            for one in self.videos.values()
        )


def compare(
    a: Mapping[str, Array],
    b: Mapping[str, Array],
    *,
    known: Knowledge | None = None,
    order: Iterable[str] | None = None,
    tolerance: float = TOLERANCE,
) -> Comparison:
    """Compare two sets of arrays ``(clip, crop, feature)`` by id.

    ``order`` are the ids in the order in which they are best read, None for A's. One video is held at a time, and up
    to `SAMPLE_VIDEOS` that differ, with as many that differ by noise alone.

    Raises
    ------
    ValueError
        for an array of another number of dimensions.
    """
    known = known or Knowledge()
    videos: dict[str, VideoDifference] = {}
    differing: list[Pair] = []
    noisy: list[Pair] = []
    num_nonfinite = {"A": 0, "B": 0}
    for identifier in a if order is None else order:
        if identifier not in a or identifier not in b:
            continue
        pair = _checked(identifier, a[identifier], "A"), _checked(identifier, b[identifier], "B")
        videos[identifier] = one = _compare_video(pair, tolerance)
        for name, values in zip(("A", "B"), pair, strict=True):
            num_nonfinite[name] += int(values.size - np.isfinite(values).sum())
        if not one.is_identical:
            _keep(pair, noisy if one.is_same else differing)
    only_a = tuple(identifier for identifier in a if identifier not in b)
    only_b = tuple(identifier for identifier in b if identifier not in a)
    findings = [*_of_ids(only_a, only_b, len(videos)), *_of_nonfinite(num_nonfinite)]
    sample = _alike(differing or noisy)
    if sample and not any(num_nonfinite.values()):
        findings += _of_values(videos, sample, known, tolerance)
    findings += _of_lengths(videos, known)
    if not any(f.explains for f in findings):
        findings += _of_distance(videos)
    ranked = sorted(findings, key=lambda f: (not f.explains, f.harmless))
    return Comparison(only_a=only_a, only_b=only_b, videos=videos, findings=tuple(ranked), tolerance=tolerance)


def _keep(pair: Pair, sample: list[Pair]) -> None:
    num_bytes = sum(x.nbytes for kept in (*sample, pair) for x in kept)
    if min(map(len, pair)) and (not sample or (len(sample) < SAMPLE_VIDEOS and num_bytes <= SAMPLE_BYTES)):
        sample.append(pair)


def _checked(identifier: str, values: Array, side: str) -> Array:
    if values.ndim != 3:
        msg = f"{side}, {identifier}: expected (clip, crop, feature), got shape {values.shape}"
        raise ValueError(msg)
    return values


def _compare_video(pair: Pair, tolerance: float) -> VideoDifference:
    a, b = pair
    shapes = cast("tuple[int, int, int]", a.shape), cast("tuple[int, int, int]", b.shape)
    identical = a.dtype == b.dtype and np.array_equal(a, b)
    if a.shape[1:] != b.shape[1:]:
        return VideoDifference(
            shape_a=shapes[0],
            shape_b=shapes[1],
            is_identical=False,
            relative_l2=None,
            cosines=np.empty(0),
            first_clip=None,
            is_same=False,
        )
    ((x, y),) = leading([pair])
    clips = _clip_distances(x, y)
    # Written so that NaN differs.
    differing = np.flatnonzero(~(clips <= tolerance))
    distance = pooled_l2([(x, y)])
    return VideoDifference(
        shape_a=shapes[0],
        shape_b=shapes[1],
        is_identical=identical,
        relative_l2=distance,
        cosines=_cosines(x, y),
        first_clip=int(differing[0]) if len(differing) else None,
        is_same=len(a) == len(b) and distance <= tolerance and not len(differing),
    )


def _clip_distances(x: Array, y: Array) -> Array:
    """Give the relative L2 of each clip ``(clip,)``; NaN where a value is not finite."""
    with np.errstate(invalid="ignore"):
        apart, one, other = (
            np.sqrt(np.square(z, dtype=np.float64).sum(axis=(1, 2))) for z in (x.astype(np.float64) - y, x, y)
        )
        size = np.maximum(one, other)
        distances: Array = np.divide(apart, size, out=np.zeros_like(apart), where=size != 0)
    return distances


def _cosines(x: Array, y: Array) -> Array:
    with np.errstate(invalid="ignore"):
        dots = np.einsum("tcd,tcd->tc", x.astype(np.float64), y)
        sizes = np.linalg.norm(x.astype(np.float64), axis=2) * np.linalg.norm(y.astype(np.float64), axis=2)
        # Two rows of zeros point the same way.
        cosines: Array = np.divide(dots, sizes, out=np.ones_like(dots), where=sizes > 0)
    return cosines.ravel()


def _alike(sample: list[Pair]) -> list[Pair]:
    """Keep the pairs that have the crops and features of the first: the tests put them side by side."""
    widths = [(a.shape[1:], b.shape[1:]) for a, b in sample]
    return [pair for pair, width in zip(sample, widths, strict=True) if width == widths[0]]


def _of_ids(only_a: Sequence[str], only_b: Sequence[str], num_common: int) -> list[Finding]:
    found = []
    for kind, side, names in (("missing", "A", only_a), ("extra", "B", only_b)):
        if names:
            shown = ", ".join(names[:_NAMES_SHOWN]) + (", ..." if len(names) > _NAMES_SHOWN else "")
            plural = "video is" if len(names) == 1 else "videos are"
            sentence = f"{len(names)} {plural} in {side} alone, {num_common} in both: {shown}"
            found.append(Finding(kind=kind, sentence=sentence, evidence={"count": len(names), "common": num_common}))
    return found


def _of_nonfinite(counts: Mapping[str, int]) -> list[Finding]:
    return [
        Finding(kind="nonfinite", sentence=f"{count} values of {side} are NaN or infinite", evidence={side: count})
        for side, count in counts.items()
        if count
    ]


def _of_values(
    videos: Mapping[str, VideoDifference], sample: list[Pair], known: Knowledge, tolerance: float
) -> list[Finding]:
    """Look for the change of values: the first that leads to B, or what comes near it."""
    both = leading(sample)
    halves = [side for side, index in (("A", 0), ("B", 1)) if all(is_half(pair[index]) for pair in both)]
    if len(halves) != 1:
        return _of_changes(videos, sample, both, known, tolerance)
    rounded = half_precision(both) if both[0][0].shape == both[0][1].shape else None
    if rounded is not None:
        return [rounded]
    note = f"all values of {halves[0]} are in half precision (float16), those of the other side are not"
    beside = Finding(kind="float16", sentence=note, evidence={"side": halves[0]})
    return [*_of_changes(videos, sample, both, known, max(tolerance, HALF_TOLERANCE)), beside]


def _of_changes(
    videos: Mapping[str, VideoDifference], sample: list[Pair], both: list[Pair], known: Knowledge, tolerance: float
) -> list[Finding]:
    (_, crops_a, dim_a), (_, crops_b, dim_b) = both[0][0].shape, both[0][1].shape
    if dim_a != dim_b:
        part = feature_part(both, tolerance) if crops_a == crops_b else None
        sentence = f"A has {dim_a} features in a clip, B {dim_b}"
        plain = Finding(kind="dim", sentence=sentence, evidence={"dim_a": dim_a, "dim_b": dim_b})
        return [part or plain, *([_number_of_crops(crops_a, crops_b)] if crops_a != crops_b else [])]
    if crops_a != crops_b:
        return [crop_part(both, tolerance) or _number_of_crops(crops_a, crops_b)]
    rounded = decimals(both)
    if rounded is not None:
        return [replace(rounded, harmless=all(one.is_same for one in videos.values()))]
    # Then every change that leaves them as they are would seem to lead to B.
    if all(one.first_clip is None for one in videos.values()) or pooled_l2(both) <= tolerance:
        return []
    same_size = crop_order(both, known.crop_orders, known.crop_order, tolerance) if crops_a > 1 else None
    if same_size is not None and same_size.explains:
        return [same_size]
    for change in CHANGES:
        found = change(both, tolerance)
        if found is not None:
            return [found]
    # A shift uses the clips beyond the common ones too.
    shifted = time_shift(sample, tolerance)
    return [one for one in (shifted or same_size,) if one is not None]


def _number_of_crops(crops_a: int, crops_b: int) -> Finding:
    sentence = f"A has {crops_a} crops, B {crops_b}"
    return Finding(kind="crops", sentence=sentence, evidence={"crops_a": crops_a, "crops_b": crops_b})


def _of_lengths(videos: Mapping[str, VideoDifference], known: Knowledge) -> list[Finding]:
    """Compare numbers of clips with each other and with what each tail rule makes of the frames."""
    counts = {name: (one.shape_a[0], one.shape_b[0]) for name, one in videos.items()}
    offsets = {b - a for a, b in counts.values()}
    if offsets <= {0}:
        return []
    differing = [name for name, (a, b) in counts.items() if a != b]
    side = 1 if known.tail_of == "A" else 0
    rules = rules_that_fit({name: pair[side] for name, pair in counts.items()}, known)
    evidence: dict[str, object] = {"videos": len(differing), "of": len(counts), "offsets": sorted(offsets - {0})[:10]}
    shown = differing[0]
    sentence = (
        f"{len(differing)} of {len(counts)} videos have another number of clips, such as {shown}: "
        f"{counts[shown][0]} in A, {counts[shown][1]} in B"
    )
    starts_alike = all(one.relative_l2 is not None and one.first_clip is None for one in videos.values())
    if rules and known.tail not in rules:
        theirs = "AB"[side]
        evidence |= {"rules": rules, "rules_of": theirs, "other_rule": known.tail}
        others = f" (or {', '.join(rules[1:])}: these videos do not tell them apart)" if rules[1:] else ""
        sentence += f"; {theirs}'s are those of the tail rule {rules[0]}{others}"
        sentence += "" if known.tail is None else f", {known.tail_of}'s rule is {known.tail}"
        left = 0.0 if starts_alike else None
        return [Finding(kind="tail", sentence=sentence, evidence=evidence, left=left, explains=starts_alike)]
    ratio = sum(b for _, b in counts.values()) / max(1, sum(a for a, _ in counts.values()))
    evidence["ratio"] = ratio
    if abs(ratio - 1) > _FRAME_RATE_SHARE and max(map(abs, offsets)) > 1:
        sentence += f"; B has {ratio:.3f} times as many: another frame rate or stride?"
    return [Finding(kind="length", sentence=sentence, evidence=evidence)]


def rules_that_fit(counts: Mapping[str, int], known: Knowledge) -> list[str]:
    """Name the tail rules that give each video its number of clips, of those whose frames are known."""
    frames = {name: known.num_frames[name] for name in counts if name in known.num_frames}
    if not frames:
        return []
    return [rule for rule, count in known.tails.items() if all(count(frames[name]) == counts[name] for name in frames)]


def _of_distance(videos: Mapping[str, VideoDifference]) -> list[Finding]:
    """Say how far the values lie apart, where nothing explains it."""
    apart = {n: one for n, one in videos.items() if one.first_clip is not None and one.relative_l2 is not None}
    if not apart:
        return []
    distances = np.array([one.relative_l2 for one in apart.values()])
    cosines = np.concatenate([one.cosines for one in apart.values()])
    low, middle = (float(np.percentile(cosines, share)) for share in (5, 50))
    worst = max(apart, key=lambda name: apart[name].relative_l2 or 0.0)
    sentence = (
        f"values differ in {len(apart)} of {len(videos)} videos: relative L2 {np.median(distances):.2g} in the median, "
        f"{distances.max():.2g} at most ({worst}, from clip {apart[worst].first_clip} on); "
        f"cosine {middle:.4f} in the median, {low:.4f} at 5 %"
    )
    evidence = {
        "videos": len(apart),
        "of": len(videos),
        "relative_l2_median": float(np.median(distances)),
        "relative_l2_max": float(distances.max()),
        "cosine_median": middle,
        "cosine_5_percent": low,
        "worst": worst,
        "first_clip": apart[worst].first_clip,
    }
    return [Finding(kind="values", sentence=sentence, evidence=evidence)]
