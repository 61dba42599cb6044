"""What was done differently: a few clips are extracted again, with one thing changed at a time, and laid beside B.

A cause reproduces B if the clips made with it lie within the tolerance of B's. What computes features again, another
engine or machine, comes within about 1e-5 relative L2; ten times that is the tolerance (`value_changes.TOLERANCE`).
Where B is stored in half precision its rounding alone is 2e-4, and 1e-3 is allowed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UsageError, VideoError
from ..extract.engines import DEFAULT_ENGINE
from ..extract.extractor import VideoExtraction, collect
from ..extract.library import Backbone, load_backbone, make_engine
from ..extract.sampling import TAIL_POLICIES, floor_count
from ..extract.video import FrameBlock, VideoReader
from ..features.value_changes import HALF_TOLERANCE, TOLERANCE, Array, Pair, is_half, pooled_l2
from .variants import CAUSES, END_CAUSES, Origin, Variant, centre_only, own_variant, variants_of

if TYPE_CHECKING:
    from ..extract.engine import Engine
    from ..features.recipe import Recipe
    from ..features.timeline import ClipFeatures, VideoFacts

SAMPLE_VIDEOS = 3
SCREEN_CLIPS = 2
"""Clips of one video that every variant is tried on."""

CONFIRM_CLIPS = 4
"""Clips of each video that the nearest variants are tried on."""

CONFIRMED = 6
"""Variants that are tried on more clips, with all that come near."""

SECOND_ROUNDS = 2
"""Causes that come near, beside each of which a second is looked for where none alone reproduces B."""

END_CLIPS = 4
"""Clips before a video's end that are looked at, where the difference is there."""

MAX_LEAD_CLIPS = 40
"""Clips before the first that differs that are extracted too: slow drifts, as of 29.97 for 30 frames/s, show late."""

_NEAR = 10.0
_UNRELATED = 0.5
"""Share of the distance that the nearest variant must leave for all of them to count as beside the point."""


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """One video of ``num_frames``, and its features ``(clip, crop, feature)`` in A and in B.

    ``first_clip`` is the first in which they differ.
    """

    id: str
    path: Path
    num_frames: int
    a: Array
    b: Array
    first_clip: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """One thing that was perhaps done differently, or two that are needed together.

    ``value`` is what B seems to have and ``own`` what A's recipe has. ``relative_l2`` lies between B and the clips
    made with ``value``; ``is_exact`` says whether they are the same, and as many. ``also`` are values of this cause
    that reproduce B too. An ``is_inferred`` cause is what is left when no variant comes near.
    """

    cause: str
    value: str
    own: str
    relative_l2: float | None
    is_exact: bool
    also: tuple[str, ...] = ()
    is_inferred: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """What re-extraction showed. ``causes`` are ranked: those that reproduce B first, then nearest first.

    ``reproduced_a`` is the relative L2 between A and A's own recipe extracted again, ``unchanged`` that between B and
    the same. Distances are over ``num_clips`` clips of ``videos``.
    """

    causes: tuple[Cause, ...]
    reproduced_a: float
    unchanged: float
    tolerance: float
    videos: tuple[str, ...]
    num_clips: int
    num_variants: int
    notes: tuple[str, ...] = ()

    @property
    def exact(self) -> tuple[Cause, ...]:
        """The causes of which each alone reproduces B."""
        return tuple(cause for cause in self.causes if cause.is_exact)


@dataclass(frozen=True, slots=True)
class _Fit:
    """How near some clips came. ``fits``: there are as many of them as there should be."""

    distance: float
    fits: bool
    num_clips: int


_NO_FIT = _Fit(math.inf, fits=False, num_clips=0)


class FirstFrames:
    """The frames of a source from ``skip`` on, counted from 0 again, up to ``limit``; None is all of them.

    ``ended`` says afterwards whether the source ended before the limit, ``num_frames`` how many frames were given.
    """

    def __init__(self, source: VideoReader, *, skip: int = 0, limit: int | None = None) -> None:
        self._source = source
        self._skip = skip
        self._limit = limit
        self.num_frames = 0
        self.ended = False

    def __iter__(self) -> Iterator[FrameBlock]:
        for block in self._source:
            begin = max(0, self._skip - block.start)
            room = None if self._limit is None else begin + self._limit - self.num_frames
            kept = slice(begin, room)
            if begin < len(block.frames):
                part = block.frames[kept]
                yield FrameBlock(
                    self.num_frames, block.pts_seconds[kept], part, block.damaged[kept], block.native[kept]
                )
                self.num_frames += len(part)
            if self._limit is not None and self.num_frames >= self._limit:
                return
        self.ended = True

    def facts(self) -> VideoFacts:
        return self._source.facts()

    def close(self) -> None:
        self._source.close()


def diagnose(
    origin: Origin,
    samples: Sequence[Sample],
    *,
    more: Sequence[Variant] = (),
    ends_only: bool = False,
    device: str = "cpu",
    on_variant: Callable[[int, int], None] | None = None,
) -> Diagnosis:
    """Try every variant of A's recipe on the samples, and rank the causes by how near they come to B.

    Where none reproduces B, a second cause is looked for beside the nearest. ``more`` are variants beside the grid's.
    With ``ends_only`` the samples differ in their last clips alone: then only causes that show there are tried, to the
    end of the videos. ``on_variant`` is told how many of how many are done.

    Raises
    ------
    UsageError
        if there is no sample, or A and B have other numbers of crops or features.
    VideoError
        if a sample cannot be decoded.
    WeightsError
        if A's weights are missing.
    """
    _check(samples)
    centre_recipe, place = centre_only(origin.recipe)
    centre = Origin(recipe=centre_recipe, spec=origin.spec, weights=origin.weights)
    causes = END_CAUSES if ends_only else tuple(name for name in CAUSES if name not in END_CAUSES)
    variants = variants_of(origin, centre, causes=causes, more=more)
    trial = _Trial(origin, place, device=device, ends_only=ends_only)
    # First, so that weights or a video that cannot be used are told at once.
    trial.run(own_variant(centre), samples[:1], SCREEN_CLIPS)
    tolerance = _tolerance([sample.b for sample in samples])
    near = _screened(trial, variants, samples[:1], tolerance, on_variant)
    tried = [(variant, trial.try_on(variant, samples, CONFIRM_CLIPS)) for variant in near]
    own = trial.run(own_variant(centre), samples, CONFIRM_CLIPS)
    again, unchanged = (_fit(own, side, place) for side in ("a", "b"))
    found, notes = _ranked(tried, tolerance), []
    if again.distance > _tolerance([sample.a for sample in samples]):
        notes.append(
            f"the recipe, extracted again, lies {again.distance:.2g} from its own features: these are not the videos, "
            "or not the vadx, that they were made of"
        )
    if unchanged.distance <= tolerance and unchanged.fits:
        notes.append("the recipe gives both sides on the clips looked at: the difference lies in others")
        found = []
    elif not any(cause.is_exact for cause in found):
        tried.sort(key=lambda pair: pair[1].distance)
        near_b = [v for v, fit in tried if fit.distance < _UNRELATED * unchanged.distance]
        both = [] if ends_only else _two_causes(trial, origin, near_b[:SECOND_ROUNDS], samples, tolerance)
        found = [*(both or _left_over(found, unchanged.distance)), *found]
    return Diagnosis(
        causes=tuple(found),
        reproduced_a=again.distance,
        unchanged=unchanged.distance,
        tolerance=tolerance,
        videos=tuple(sample.id for sample in samples),
        num_clips=unchanged.num_clips,
        num_variants=len(variants),
        notes=tuple(notes),
    )


def _screened(
    trial: _Trial,
    variants: Sequence[Variant],
    samples: Sequence[Sample],
    tolerance: float,
    on_variant: Callable[[int, int], None] | None,
) -> list[Variant]:
    """Try every variant on a little, and give those worth more."""
    fits: list[tuple[float, Variant]] = []
    for number, variant in enumerate(variants):
        fits.append((trial.try_on(variant, samples, SCREEN_CLIPS).distance, variant))
        if on_variant is not None:
            on_variant(number + 1, len(variants))
    fits.sort(key=lambda pair: pair[0])
    return [variant for i, (far, variant) in enumerate(fits) if i < CONFIRMED or far <= _NEAR * tolerance]


def _two_causes(
    trial: _Trial, origin: Origin, firsts: Sequence[Variant], samples: Sequence[Sample], tolerance: float
) -> list[Cause]:
    """Look for a second cause beside each of the variants that come near; give the first two that reproduce B."""
    for first in firsts:
        if first.skip or first.pick is not None or CAUSES.get(first.cause) is None or CAUSES[first.cause].whole_crops:
            continue
        start = Origin(recipe=first.recipe, spec=origin.spec, weights=first.weights)
        others = [name for name in CAUSES if name not in (first.cause, "preset", *END_CAUSES)]
        for second in variants_of(start, start, causes=others):
            quick = trial.try_on(second, samples[:1], SCREEN_CLIPS)
            if quick.distance > tolerance:
                continue
            fit = trial.try_on(second, samples, CONFIRM_CLIPS)
            if fit.fits and fit.distance <= tolerance:
                return [
                    Cause(
                        cause=f"{first.cause}, and {second.cause}",
                        value=f"{first.value}, and {second.value}",
                        own=f"{first.own}, and {second.own}",
                        relative_l2=fit.distance,
                        is_exact=True,
                    )
                ]
    return []


def _tolerance(arrays: Sequence[Array]) -> float:
    return HALF_TOLERANCE if all(map(is_half, arrays)) else TOLERANCE


def _check(samples: Sequence[Sample]) -> None:
    if not samples:
        msg = "no video that differs was found among those given; name the folder that A was made of after --videos"
        raise UsageError(msg)
    for sample in samples:
        if sample.a.shape[1:] != sample.b.shape[1:]:
            msg = (
                f"{sample.id}: A has {sample.a.shape[1]} crops of {sample.a.shape[2]} features and B "
                f"{sample.b.shape[1]} of {sample.b.shape[2]}; only features of one shape are diagnosed"
            )
            raise UsageError(msg)


@dataclass(frozen=True, slots=True)
class _Extracted:
    """What one variant gave for one sample: the clips that are certain, the first of which is clip ``start`` of the
    video, and whether there are as many as B has."""

    sample: Sample
    values: Array
    start: int
    fits: bool


class _Trial:
    """Extracts with variants. Networks are kept, and the last extraction, of which variants may pick other crops."""

    def __init__(self, origin: Origin, place: int | None, *, device: str, ends_only: bool) -> None:
        self._origin = origin
        self._place = place
        self._device = device
        self._ends_only = ends_only
        self._loaded: tuple[str, Backbone] | None = None
        self._last: tuple[tuple[object, ...], list[_Extracted]] | None = None

    def try_on(self, variant: Variant, samples: Sequence[Sample], num_clips: int) -> _Fit:
        """Say how near to B a variant comes; infinitely far where it makes nothing."""
        try:
            extracted = self.run(variant, samples, num_clips)
        except (UsageError, VideoError):
            # A rule that needs longer videos, or a network that does not take such clips: not what B was made with.
            return _NO_FIT
        return _fit(extracted, "b", self._place)

    def run(self, variant: Variant, samples: Sequence[Sample], num_clips: int) -> list[_Extracted]:
        """Extract the first clips of the samples. Raises as `diagnose`."""
        key = (variant.recipe.digest, variant.skip, num_clips, tuple(sample.id for sample in samples))
        if self._last is None or self._last[0] != key:
            engine = self._engine(variant)
            self._last = (key, [self._extract(variant, sample, engine, num_clips) for sample in samples])
        return self._last[1]

    def _engine(self, variant: Variant) -> Engine:
        recipe = variant.recipe
        name = f"{variant.weights} {sorted(recipe.network.switches.items())}"
        if self._loaded is None or self._loaded[0] != name:
            # One network at a time: large ones would not fit beside each other.
            self._loaded = None
            switches = recipe.network.switches
            loaded = load_backbone(self._origin.spec.name, variant.weights, device=self._device, switches=switches)
            self._loaded = (name, loaded)
        backbone = self._loaded[1]
        if backbone.weights_sha256 != recipe.weights:
            msg = (
                f"the weights {variant.weights} are not those of the recipe (sha256 {recipe.weights[:12]}); "
                "give the right file: --weights FILE"
            )
            raise UsageError(msg)
        return make_engine(backbone, recipe, device=self._device, engine=DEFAULT_ENGINE)

    def _extract(self, variant: Variant, sample: Sample, engine: Engine, num_clips: int) -> _Extracted:
        recipe = variant.recipe
        start = _first_clip_of_end(recipe, sample.num_frames) if self._ends_only else 0
        with VideoReader(
            sample.path,
            rotation=recipe.decode.rotation,
            allow_partial=True,
            keep_native=recipe.transform.takes_native,
        ) as reader:
            wanted = num_clips + min(sample.first_clip, MAX_LEAD_CLIPS)
            limit = None if self._ends_only else _num_frames(recipe, reader.facts().fps, wanted)
            skip = variant.skip + start * recipe.sampling.clip_stride
            source = FirstFrames(reader, skip=skip, limit=limit)
            features = collect(VideoExtraction(source, recipe, engine), {})
        values = _certain(features, source)
        fits = _fits(start + len(values), recipe, sample, source, variant.skip)
        return _Extracted(sample, values if variant.pick is None else values[:, [variant.pick]], start, fits)


def _num_frames(recipe: Recipe, fps: float, num_clips: int) -> int:
    """Give how many frames make ``num_clips`` clips that no later frame could change."""
    sampling = recipe.sampling
    wanted = sampling.clip_span + (num_clips - 1) * sampling.clip_stride
    faster = 1.0 if sampling.fps is None else max(1.0, fps / sampling.fps)
    return math.ceil(wanted * faster) + 2


def _first_clip_of_end(recipe: Recipe, num_frames: int) -> int:
    """Give the clip from which on a video's end is extracted: what lies before is as it was.

    The rule ``wrap`` takes frames from the video's start, and chosen or computed frames depend on those before.
    """
    sampling = recipe.sampling
    if sampling.tail == "wrap" or sampling.fps is not None or recipe.flow is not None:
        return 0
    return max(0, floor_count(num_frames, sampling.clip_span, sampling.clip_stride) - END_CLIPS)


def _certain(features: ClipFeatures, source: FirstFrames) -> Array:
    """Give the clips that would be the same had the video been read on."""
    if source.ended:
        return features.values
    return features.values[features.frames[:, 1] < source.num_frames]


def _fits(num_clips: int, recipe: Recipe, sample: Sample, source: FirstFrames, skip: int) -> bool:
    """Whether the recipe gives as many clips of the whole video as B has, as far as the frames read can tell."""
    if source.ended:
        return num_clips == len(sample.b)
    sampling = recipe.sampling
    if sampling.fps is not None or recipe.flow is not None:
        return num_clips <= len(sample.b)
    num_frames = sample.num_frames - skip
    return TAIL_POLICIES[sampling.tail].count(num_frames, sampling.clip_span, sampling.clip_stride) == len(sample.b)


def _fit(extracted: Sequence[_Extracted], side: str, place: int | None) -> _Fit:
    """Lay extracted clips beside those of a side; ``place`` is the crop of theirs that a single crop is."""
    pairs: list[Pair] = []
    for one in extracted:
        theirs: Array = getattr(one.sample, side)
        if place is not None and one.values.shape[1] == 1 < theirs.shape[1]:
            theirs = theirs[:, [place]]
        if one.values.shape[1:] != theirs.shape[1:]:
            return _NO_FIT
        theirs = theirs[one.start :]
        common = min(len(one.values), len(theirs))
        pairs.append((one.values[:common], theirs[:common]))
    num_clips = sum(len(ours) for ours, _ in pairs)
    if not num_clips:
        return _NO_FIT
    return _Fit(pooled_l2(pairs), fits=all(one.fits for one in extracted), num_clips=num_clips)


def _ranked(tried: Sequence[tuple[Variant, _Fit]], tolerance: float) -> list[Cause]:
    """Give each cause once, with its best value."""
    judged = [(not (fit.fits and fit.distance <= tolerance), fit.distance, variant) for variant, fit in tried]
    judged.sort(key=lambda row: row[:2])
    found: dict[str, Cause] = {}
    for misses, distance, variant in judged:
        known = found.get(variant.cause)
        if known is None and math.isfinite(distance):
            found[variant.cause] = Cause(
                cause=variant.cause,
                value=variant.value,
                own=variant.own,
                relative_l2=distance,
                is_exact=not misses,
            )
        elif known is not None and not misses:
            found[variant.cause] = replace(known, also=(*known.also, variant.value))
    return list(found.values())


def _left_over(found: Sequence[Cause], unchanged: float) -> list[Cause]:
    """Infer other weights where no variant comes near: everything else that extractors do was tried."""
    nearest = min((cause.relative_l2 for cause in found if cause.relative_l2 is not None), default=math.inf)
    if nearest < _UNRELATED * unchanged:
        return []
    return [
        Cause(
            cause="weights",
            value="none of those at hand, or another network",
            own="A's",
            relative_l2=None,
            is_exact=False,
            is_inferred=True,
        )
    ]
