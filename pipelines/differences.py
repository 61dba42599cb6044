"""What `vadx diff` does: two sides are opened and compared, and where videos are at hand the cause is looked for."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import NoInputError, RecipeError, UsageError
from ..extract.backbones import find_backbone, find_preset
from ..extract.crops import CROP_ORDERS
from ..extract.library import weights_digest
from ..extract.sampling import TAIL_POLICIES
from ..features.compare import Comparison, Knowledge, VideoDifference, compare
from ..features.joining import join_ids
from ..features.recipe import Recipe
from ..features.value_changes import TOLERANCE, Array
from .diagnose import SAMPLE_VIDEOS, Diagnosis, Sample, diagnose
from .inputs import find_videos
from .sides import LayoutArrays, Side
from .variants import Origin, Variant

if TYPE_CHECKING:
    from ..extract.crops import Order
    from ..features.store import FeatureSet


class _Renamed(Mapping[str, Array]):
    """B's arrays under A's ids; those that fit none keep their own."""

    def __init__(self, arrays: Mapping[str, Array], own_names: Mapping[str, str]) -> None:
        self._arrays = arrays
        self._own = own_names

    def __getitem__(self, identifier: str) -> Array:
        return self._arrays[self._own[identifier]]

    def __contains__(self, identifier: object) -> bool:
        return identifier in self._own

    def __iter__(self) -> Iterator[str]:
        return iter(self._own)

    def __len__(self) -> int:
        return len(self._own)


_FAR = 0.9
"""Share of the distance above which what a variant leaves says nothing."""

_EFFECTS = frozenset({"scale"})
"""Kinds of findings that may have a cause behind them: in a network whose BatchNorm has no bias yet, another epsilon
is one factor on all features."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """What lies between two sides.

    ``stated`` are the fields in which their recipes differ: (field, A's, B's). ``diagnosis`` is None where nothing was
    extracted again; ``notes`` say why, and what else a person should know. ``is_turned``: only B has a recipe, so that
    the diagnosis asks what A was made with. ``noise`` is a sentence where noise is all that the recipes differ in.
    """

    a: str
    b: str
    comparison: Comparison
    stated: tuple[tuple[str, str, str], ...]
    diagnosis: Diagnosis | None
    notes: tuple[str, ...]
    is_turned: bool = False
    noise: str | None = None

    @property
    def differs(self) -> bool:
        return self.comparison.differs

    @property
    def causes(self) -> tuple[str, ...]:
        """What alone makes one side out of the other, in sentences, best first."""
        diagnosed = self._diagnosed(exact=True) if self.noise is None else (self.noise,)
        kept = [finding for finding in self.comparison.causes if not diagnosed or finding.kind not in _EFFECTS]
        return (*(finding.sentence for finding in kept), *diagnosed)

    def suspects(self) -> tuple[str, ...]:
        """Give what comes near, or is left, where nothing reproduces the other side."""
        return () if self.causes else self._diagnosed(exact=False)

    def _diagnosed(self, *, exact: bool) -> tuple[str, ...]:
        if self.diagnosis is None:
            return ()
        ours, theirs = ("B", "A") if self.is_turned else ("A", "B")
        sentences = []
        for cause in self.diagnosis.causes:
            is_far = cause.relative_l2 is not None and cause.relative_l2 > _FAR * self.diagnosis.unchanged
            if cause.is_exact != exact or (is_far and not exact):
                continue
            also = f" (or {', '.join(cause.also)}: these clips do not tell them apart)" if cause.also else ""
            left = "" if cause.relative_l2 is None else f"; relative L2 {cause.relative_l2:.2g} is left"
            text = f"{cause.cause}: {theirs} was made with {cause.value}{also}, {ours} with {cause.own}{left}"
            sentences.append(f"{text} (inferred: nothing else comes near)" if cause.is_inferred else text)
        return tuple(sentences)

    def report(self) -> dict[str, Any]:
        """Give everything as plain JSON types."""
        comparison = self.comparison
        return {
            "a": self.a,
            "b": self.b,
            "differs": self.differs,
            "causes": list(self.causes),
            "suspects": list(self.suspects()),
            "videos": len(comparison.videos),
            "identical": comparison.num_identical,
            "only_a": list(comparison.only_a),
            "only_b": list(comparison.only_b),
            "max_relative_l2": _finite(comparison.max_relative_l2),
            "tolerance": comparison.tolerance,
            "findings": [
                {**asdict(replace(f, evidence={})), "left": _finite(f.left), "evidence": dict(f.evidence)}
                for f in comparison.findings
            ],
            "recipes": [{"field": field, "a": a, "b": b} for field, a, b in self.stated],
            "diagnosis": None if self.diagnosis is None else _plain_diagnosis(self.diagnosis),
            "notes": list(self.notes),
        }


def _finite(value: float | None) -> float | None:
    return value if value is not None and np.isfinite(value) else None


def _plain_diagnosis(diagnosis: Diagnosis) -> dict[str, Any]:
    plain = asdict(diagnosis)
    for name in ("reproduced_a", "unchanged"):
        plain[name] = _finite(plain[name])
    return plain


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """How the cause is looked for: the videos, what A's weights are loaded from, and values beside the grid's."""

    videos: Sequence[str] = ()
    weights: str | None = None
    trials: Sequence[str] = ()
    device: str = "cpu"
    on_variant: Callable[[int, int], None] | None = None


def find_difference(a: Side, b: Side, *, search: Search | None = None, tolerance: float = TOLERANCE) -> Difference:
    """Compare two sides, and look for the cause by extracting a few clips again where the arrays do not show it.

    Raises
    ------
    NoInputError
        if a side is empty, or none of the videos is there.
    UsageError
        for a trial that cannot be meant.
    WeightsError
        if the weights to extract with are missing.
    """
    search = search or Search()
    for side in (a, b):
        if not len(side.arrays):
            msg = f"{side.name} holds no video; there is nothing to compare"
            raise NoInputError(msg)
    joined = join_ids(a.arrays, b.arrays)
    theirs = dict(joined.pairs) | {name: name for name in joined.extra if name not in joined.pairs}
    renamed = _Renamed(b.arrays, theirs)
    order = None
    if isinstance(b.arrays, LayoutArrays):
        ours = {other: name for name, other in joined.pairs.items()}
        order = [ours[other] for other in b.arrays if other in ours]
    comparison = compare(a.arrays, renamed, known=_knowledge(a, b, theirs), order=order, tolerance=tolerance)
    noise = _noise_between(a, b)
    notes = [f"{name} fits several videos of B and is compared with none" for name in joined.ambiguous]
    diagnosis = None
    is_turned = _computed(a) is None and _computed(b) is not None
    is_explained = any(finding.kind not in _EFFECTS for finding in comparison.causes)
    if comparison.differs and comparison.videos and not is_explained and noise is None:
        reason = _why_not(a, b, comparison, search)
        if reason is None:
            diagnosis = _diagnose(a, b, renamed, theirs, comparison, search)
            notes += diagnosis.notes
        elif not comparison.causes:
            notes.append(reason)
    notes += [note for side in (a, b) for note in _unknown_of(side)]
    return Difference(
        a=a.name,
        b=b.name,
        comparison=comparison,
        stated=_stated(a, b),
        diagnosis=diagnosis,
        notes=tuple(notes),
        is_turned=is_turned,
        noise=noise,
    )


def _noise_between(a: Side, b: Side) -> str | None:
    """Say it where two recipes differ in the noise on frames, and in nothing else."""
    sets = [_computed(a), _computed(b)]
    recipes = [one.recipe.computed() for one in sets if one is not None]
    if len(recipes) < 2 or len({replace(one, noise=None).digest for one in recipes}) > 1:
        return None
    ours, theirs = (f"noise {one.noise}" if one.noise is not None else "no noise" for one in recipes)
    return None if ours == theirs else f"noise: A was made with {ours} on its frames, B with {theirs}"


def _computed(side: Side) -> FeatureSet | None:
    """Give the side's set if clips can be extracted as it says: all of its recipe is known."""
    try:
        if side.feature_set is not None:
            side.feature_set.recipe.computed()
    except RecipeError:
        return None
    return side.feature_set


def _unknown_of(side: Side) -> list[str]:
    unknown = () if side.feature_set is None else side.feature_set.recipe.unknown
    what = f"{len(unknown)} facts of its recipe are unknown (vadx info {side.name})"
    return [f"{side.name} was imported; {what}"] if unknown else []


def _why_not(a: Side, b: Side, comparison: Comparison, search: Search) -> str | None:
    if _computed(a) is None and _computed(b) is None:
        return "neither side has a recipe: name the feature set that one was meant to be, and --videos, to find causes"
    if not comparison.is_comparable:
        return "features of other shapes cannot be laid side by side; no cause was looked for"
    if any(finding.kind == "nonfinite" for finding in comparison.findings):
        return "values that are NaN or infinite have no cause that extracting again would show"
    if any(side is not None and side.recipe.noise is not None for side in (_computed(a), _computed(b))):
        return "noise is drawn for whole videos and is not put on again: no other cause was looked for"
    if not search.videos:
        return "to find the cause a few clips must be extracted again: repeat with --videos FOLDER"
    return None


def crop_labels(order: Order) -> tuple[tuple[str, bool], ...]:
    """Say what each of ten crops shows: its place in the frame as it was filmed, and whether it is mirrored.

    The left of a mirrored frame is the frame's right.
    """
    turned = {"left": "right", "right": "left"}
    mirrored = [
        " ".join(turned.get(word, word) for word in place.split()) if order.mirrors == "frame" else place
        for place in order.places
    ]
    pairs = [((place, False), (other, True)) for place, other in zip(order.places, mirrored, strict=True)]
    if order.mirrored == "interleaved":
        return tuple(label for pair in pairs for label in pair)
    return tuple(pair[0] for pair in pairs) + tuple(pair[1] for pair in pairs)


def _knowledge(a: Side, b: Side, own_names: Mapping[str, str]) -> Knowledge:
    """Gather what the feature sets know: frames, A's rules, and what the crops of each order show."""
    known = _computed(a) or _computed(b)
    ten = {name: crop_labels(order) for name, order in CROP_ORDERS.items()}
    labels: dict[str, Sequence[tuple[str, bool]]] = dict(ten)
    if known is None:
        return Knowledge(crop_orders=labels)
    recipe = known.recipe
    if recipe.transform.crops == "five":
        labels = {name: [label for label in order if not label[1]] for name, order in ten.items()}
    crop_order = recipe.transform.crop_order if known is a.feature_set else None
    if recipe.sampling.fps is not None or recipe.flow is not None:
        # Frames that are chosen, or lie between others, are counted otherwise.
        return Knowledge(crop_orders=labels, crop_order=crop_order)
    listed = known.summaries()
    names = own_names.items() if known is b.feature_set else ((name, name) for name in own_names)
    num_frames = {name: listed[own].num_frames for name, own in names if own in listed}
    span, stride = recipe.sampling.clip_span, recipe.sampling.clip_stride
    tails = {name: partial(_count, policy.count, span, stride) for name, policy in TAIL_POLICIES.items()}
    return Knowledge(
        num_frames=num_frames,
        tails=tails,
        tail=recipe.sampling.tail,
        tail_of="A" if known is a.feature_set else "B",
        crop_orders=labels,
        crop_order=crop_order,
    )


def _count(count: Callable[[int, int, int], int], span: int, stride: int, num_frames: int) -> int:
    return count(num_frames, span, stride)


def _stated(a: Side, b: Side) -> tuple[tuple[str, str, str], ...]:
    if a.feature_set is None or b.feature_set is None:
        return ()
    one, other = (dict(_flat(side.recipe.stated())) for side in (a.feature_set, b.feature_set))
    # Who made the values is no part of how; and what nobody knows differs from nothing.
    silent = {*a.feature_set.recipe.unknown, *b.feature_set.recipe.unknown}
    names = [
        name
        for name in sorted(one.keys() | other.keys())
        if not name.startswith("imported.") and not {name, name.partition(".")[0]} & silent
    ]
    pairs = ((name, one.get(name, "unset"), other.get(name, "unset")) for name in names)
    return tuple((name, mine, theirs) for name, mine, theirs in pairs if mine != theirs)


def _flat(mapping: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in mapping.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value if isinstance(value, str) else json.dumps(value)


def _diagnose(
    a: Side,
    b: Side,
    renamed: Mapping[str, Array],
    own_names: Mapping[str, str],
    comparison: Comparison,
    search: Search,
) -> Diagnosis:
    """Diagnose from the side that has a recipe: A, or B if A has none."""
    base = _computed(a) or _computed(b)
    if base is None:
        msg = "neither side has a recipe; name a feature set"
        raise UsageError(msg)
    is_turned = base is not a.feature_set
    origin = Origin(
        recipe=base.recipe.computed(),
        spec=find_backbone(base.recipe.network.name),
        weights=_weights(base, search.weights),
    )
    listed = base.summaries()
    paths = {entry.id: entry.path for entry in find_videos(search.videos).entries}
    at = join_ids(comparison.videos, paths).pairs
    differing = [name for name, one in comparison.videos.items() if not one.is_same and name in at]
    names = {name: own_names[name] if is_turned else name for name in differing}
    differing.sort(key=lambda name: _cost(comparison.videos[name], listed[names[name]].num_frames))
    samples = []
    for name in differing[:SAMPLE_VIDEOS]:
        pair = (a.arrays[name], renamed[name])
        ours, theirs = pair[::-1] if is_turned else pair
        first = comparison.videos[name].first_clip or 0
        samples.append(Sample(name, paths[at[name]], listed[names[name]].num_frames, ours, theirs, first))
    more = [_trial(origin, text) for text in search.trials]
    if not is_turned and b.feature_set is not None:
        more += _of_b(origin, b.feature_set, search)
    search_for = partial(diagnose, origin, samples, more=more, device=search.device, on_variant=search.on_variant)
    if comparison.differs_at_ends_only:
        found = search_for(ends_only=True)
        if found.exact:
            return found
    return search_for()


def _cost(one: VideoDifference, num_frames: int) -> tuple[bool, int, int]:
    """Order videos by what it costs to see their difference; one clip alone would say little."""
    is_poor = min(one.shape_a[0], one.shape_b[0]) < 2
    return is_poor, one.first_clip or 0, num_frames


def _weights(base: FeatureSet, given: str | None) -> str:
    """Say what the weights of a set's recipe are loaded from. Raises `UsageError` if nothing is known to be them."""
    recipe = base.recipe
    if recipe.weights.startswith("random:"):
        return recipe.weights
    source = given or base.weights_name
    if source is None:
        msg = (
            f"{base.name} was made with weights of sha256 {recipe.weights[:12]}, which have no name; nothing can be "
            "extracted again without them. Give the file: --weights FILE"
        )
        raise UsageError(msg)
    return source


def _of_b(origin: Origin, feature_set: FeatureSet, search: Search) -> list[Variant]:
    """Give B's own recipe as one to try, if A's network can run it."""
    try:
        recipe = feature_set.recipe.computed()
    except RecipeError:
        return []
    if recipe.network.name != origin.spec.name:
        return []
    same_weights = recipe.weights == origin.recipe.weights
    try:
        weights = origin.weights if same_weights else _weights(feature_set, None)
    except UsageError:
        return []
    return [Variant(cause="recipe", value="B's own recipe", own="A's", recipe=recipe, weights=weights)]


def _trial(origin: Origin, text: str) -> Variant:
    """Read ``FIELD=VALUE``, such as ``transform.resize=260``, ``weights=FILE`` or ``preset=NAME``.

    Raises
    ------
    UsageError
        for a field that a recipe does not have, or a value that it does not take.
    """
    name, _, value = text.partition("=")
    if name == "weights":
        digest, _ = weights_digest(value)
        return Variant(
            cause="weights", value=value, own="A's", recipe=replace(origin.recipe, weights=digest), weights=value
        )
    mapping = _trial_mapping(origin, name, value)
    try:
        recipe = Recipe.from_mapping(mapping)
    except RecipeError as error:
        msg = f"--try {text}: {error}; give a field of the recipe as `vadx info SET --json` shows it"
        raise UsageError(msg) from error
    own = dict(_flat(origin.recipe.to_mapping())).get(name, "unset")
    return Variant(cause=name, value=value, own=own, recipe=recipe, weights=origin.weights)


def _trial_mapping(origin: Origin, name: str, value: str) -> dict[str, Any]:
    if name == "preset":
        preset = find_preset(value)
        parts = Recipe(
            sampling=preset.sampling,
            transform=preset.transform,
            network=preset.network,
            weights=origin.recipe.weights,
            flow=preset.flow,
        )
        return parts.to_mapping()
    mapping = origin.recipe.to_mapping()
    *parents, leaf = name.split(".")
    part: Any = mapping
    for parent in parents:
        part = part.get(parent)
        if not isinstance(part, dict):
            msg = f"--try {name}={value}: a recipe has no part {parent!r}; it has: {', '.join(mapping)}"
            raise UsageError(msg)
    try:
        part[leaf] = json.loads(value)
    except ValueError:
        # Words need no quotes.
        part[leaf] = value
    return mapping
