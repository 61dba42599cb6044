"""What was done to arrays of features: each test asks whether one change makes B out of A. Arithmetic only.

A pair of arrays is ``(clip, crop, feature)`` of one video in A and in B. Every test returns a `Finding` or None.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]
Pair = tuple[Array, Array]

TOLERANCE = 1e-4
"""Relative L2 up to which features are the same. Engines, batch shapes and machines lie about 1e-5 apart (sums of
float32 in another order); ten times that is allowed, and less than half precision's rounding, 2e-4, which must show."""

HALF_TOLERANCE = 1e-3
"""The same where one side is stored in half precision, whose rounding moves each value by up to 2**-11 of itself."""

MAX_SHIFT_CLIPS = 8
_FEW_VALUES = 30

KINDS: Mapping[str, str] = MappingProxyType(
    {
        "missing": "videos of A that B does not have",
        "extra": "videos of B that A does not have",
        "nonfinite": "values that are NaN or infinite",
        "dim": "another number of features in a clip",
        "crops": "another number of crops",
        "tail": "other rules for the frames that fill no whole clip",
        "length": "another number of clips",
        "crop order": "the same crops in another order",
        "feature order": "the same features in another order",
        "scale": "one factor between them",
        "l2": "rows of unit length",
        "relu": "negative values became zero",
        "time shift": "clips shifted in time",
        "float16": "values rounded to half precision",
        "decimals": "values rounded to so many decimals",
        "values": "other values",
    }
)
"""Kind of a finding -> what it says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One difference between A and B, or one change of A that leads to B.

    ``evidence`` holds the numbers behind ``sentence``. ``left`` is the relative L2 between B and A so changed, None
    where nothing can be changed; ``explains`` says whether the change alone makes B out of A. ``harmless`` findings
    are told and make no difference.

    Raises
    ------
    ValueError
        for a kind that is not in `KINDS`.
    """

    kind: str
    sentence: str
    evidence: Mapping[str, object] = field(default_factory=dict)
    left: float | None = None
    explains: bool = False
    harmless: bool = False

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            msg = f"a finding is one of {', '.join(KINDS)}; got {self.kind!r}"
            raise ValueError(msg)


def relative_l2(a: Array, b: Array) -> float:
    """Give ``|a - b| / max(|a|, |b|)``: 0 for equal arrays, 1.41 for unrelated ones of one length."""
    return pooled_l2([(a, b)])


def pooled_l2(pairs: Sequence[Pair]) -> float:
    """Give `relative_l2` of several pairs as if they were one."""
    apart, one, other = (
        np.sqrt(sum(float(np.square(x, dtype=np.float64).sum()) for x in arrays))
        for arrays in (
            [a.astype(np.float64) - b for a, b in pairs],
            [a for a, _ in pairs],
            [b for _, b in pairs],
        )
    )
    size = max(one, other)
    if not np.isfinite(apart) or not np.isfinite(size):
        return float("inf")
    return float(apart / size) if size else 0.0


def is_half(values: Array) -> bool:
    """Whether half precision holds every value exactly."""
    if values.dtype == np.float16:
        return True
    with np.errstate(over="ignore"):
        return bool(np.array_equal(values, values.astype(np.float16).astype(values.dtype)))


def leading(pairs: Sequence[Pair]) -> list[Pair]:
    """Give the clips that both have, from the first."""
    return [(a[: min(len(a), len(b))], b[: min(len(a), len(b))]) for a, b in pairs]


def crop_part(pairs: Sequence[Pair], tolerance: float) -> Finding | None:
    """Say how the crops of the side that has fewer come of the other's: as some of them, or as their mean."""
    num_a, num_b = pairs[0][0].shape[1], pairs[0][1].shape[1]
    whole, part = ("A", "B") if num_a > num_b else ("B", "A")
    if num_a < num_b:
        pairs, num_a, num_b = [(b, a) for a, b in pairs], num_b, num_a
    mean = pooled_l2([(a.mean(axis=1, keepdims=True), b) for a, b in pairs]) if num_b == 1 else None
    if mean is not None and mean <= tolerance:
        sentence = f"{part} is the mean over {whole}'s {num_a} crops"
        return Finding(kind="crops", sentence=sentence, evidence={"mean_of": num_a}, left=mean, explains=True)
    chosen = [_nearest_crop(pairs, crop, num_a) for crop in range(num_b)]
    left = pooled_l2([(a[:, chosen], b) for a, b in pairs])
    if left > max(tolerance, 0.5):
        return None
    which = f"crop {chosen[0]}" if num_b == 1 else f"crops {', '.join(map(str, chosen))}"
    sentence = f"{part} holds {which} of {whole}'s {num_a}, counted from 0"
    evidence = {f"crops_of_{whole.lower()}": chosen, "before": 1.0}
    return Finding(kind="crops", sentence=sentence, evidence=evidence, left=left, explains=left <= tolerance)


def crop_order(
    pairs: Sequence[Pair], named: Mapping[str, Sequence[Hashable]], order_of_a: str | None, tolerance: float
) -> Finding | None:
    """Find B's crops among A's, of which there are as many, by nearness.

    ``named`` gives for each named order what each crop shows; equal labels show the same.
    """
    num_a = pairs[0][0].shape[1]
    chosen = [_nearest_crop(pairs, crop, num_a) for crop in range(num_a)]
    if chosen == list(range(num_a)) or len(set(chosen)) < num_a:
        return None
    before = pooled_l2(pairs)
    left = pooled_l2([(a[:, chosen], b) for a, b in pairs])
    if left > max(tolerance, before / 2):
        return None
    evidence: dict[str, object] = {"crops_of_a": chosen, "before": before}
    orders = _orders_that_give(chosen, named, order_of_a)
    half = num_a // 2
    if orders:
        ours, theirs = orders[0]
        sentence = f"B's crops are in order {theirs}, A's in order {ours}"
        evidence |= {"order_a": ours, "order_b": theirs}
    elif num_a % 2 == 0 and chosen == [*range(half, num_a), *range(half)]:
        sentence = f"the halves of the {num_a} crops are exchanged: B has the mirrored ones first, or A has"
        evidence["order_b"] = "mirrored half first"
    else:
        sentence = f"B's crops are A's in an order without a name: {', '.join(map(str, chosen))}"
    return Finding(kind="crop order", sentence=sentence, evidence=evidence, left=left, explains=left <= tolerance)


def _nearest_crop(pairs: Sequence[Pair], crop_of_b: int, num_a: int) -> int:
    apart = [
        sum(float(np.square(a[:, crop].astype(np.float64) - b[:, crop_of_b]).sum()) for a, b in pairs)
        for crop in range(num_a)
    ]
    # Crops of a flat picture are alike: then the own place is as good as any.
    own = crop_of_b if crop_of_b < num_a else 0
    return own if apart[own] <= min(apart) else int(np.argmin(apart))


def _orders_that_give(
    chosen: Sequence[int], named: Mapping[str, Sequence[Hashable]], order_of_a: str | None
) -> list[tuple[str, str]]:
    found = []
    for ours, seen in named.items():
        for theirs, wanted in named.items():
            fits = len(seen) == len(chosen) and set(seen) == set(wanted) and order_of_a in (None, ours)
            if fits and [list(seen).index(label) for label in wanted] == list(chosen):
                found.append((ours, theirs))
    return found


def feature_part(pairs: Sequence[Pair], tolerance: float) -> Finding | None:
    """Say how the numbers of features fit together: a part of the other, or the other with its length beside it."""
    dim_a, dim_b = pairs[0][0].shape[2], pairs[0][1].shape[2]
    if dim_a == dim_b:
        return None
    small, large = min(dim_a, dim_b), max(dim_a, dim_b)
    names = ("A", "B") if dim_a < dim_b else ("B", "A")
    for place, part in (("first", slice(None, small)), ("last", slice(large - small, None))):
        left = pooled_l2([(a[..., part], b) if dim_a > dim_b else (a, b[..., part]) for a, b in pairs])
        if left <= tolerance:
            sentence = f"{names[0]}'s {small} features are the {place} {small} of {names[1]}'s {large}"
            if large == small + 1 and _is_length([(b if dim_b > dim_a else a) for a, b in pairs], tolerance):
                sentence += ", and the one more is their length (L2), as MGFN adds it"
            evidence = {"dim_a": dim_a, "dim_b": dim_b, "place": place}
            return Finding(kind="dim", sentence=sentence, evidence=evidence, left=left, explains=True)
    sentence = f"A has {dim_a} features in a clip, B {dim_b}: other networks, layers, or streams side by side"
    return Finding(kind="dim", sentence=sentence, evidence={"dim_a": dim_a, "dim_b": dim_b})


def _is_length(arrays: Sequence[Array], tolerance: float) -> bool:
    return pooled_l2([(np.linalg.norm(x[..., :-1], axis=-1), x[..., -1]) for x in arrays]) <= tolerance


def feature_order(pairs: Sequence[Pair], tolerance: float) -> Finding | None:
    """Find B's features among A's, each by a sum over all clips with random weights, which order does not change."""
    a, b = (np.concatenate([pair[side].reshape(-1, pair[side].shape[2]) for pair in pairs]) for side in (0, 1))
    weights = np.random.default_rng(0).standard_normal(len(a))
    from_a, from_b = np.argsort(weights @ a, kind="stable"), np.argsort(weights @ b, kind="stable")
    chosen = np.empty_like(from_a)
    chosen[from_b] = from_a
    # Features that are equal everywhere, such as dead ones, have no place of their own.
    at_home = np.all(a[:, chosen] == a, axis=0)
    chosen[at_home] = np.flatnonzero(at_home)
    left = relative_l2(a[:, chosen], b)
    dim = len(chosen)
    moved = int((chosen != np.arange(dim)).sum())
    if left > tolerance or moved == 0:
        return None
    half = dim // 2
    patterns = {"reversed": np.arange(dim)[::-1]}
    if dim % 2 == 0:
        patterns["halves exchanged, as with flow before RGB"] = np.roll(np.arange(dim), half)
    name = next((name for name, order in patterns.items() if np.array_equal(order, chosen)), "no named order")
    sentence = f"B's features are A's in another order: {moved} of {dim} moved ({name})"
    evidence = {"moved": moved, "order": name, "first_of_b": chosen[:8].tolist()}
    return Finding(kind="feature order", sentence=sentence, evidence=evidence, left=left, explains=True)


def scale(pairs: Sequence[Pair], tolerance: float) -> Finding | None:
    """Whether one factor lies between A and B."""
    dots = sum(float(np.vdot(a.astype(np.float64), b)) for a, b in pairs)
    squares = sum(float(np.square(a, dtype=np.float64).sum()) for a, _ in pairs)
    factor = dots / squares if squares else 1.0
    left = pooled_l2([(a * factor, b) for a, b in pairs])
    if left > tolerance or factor == 0 or abs(factor - 1) <= tolerance:
        return None
    sentence = f"B is A times {factor:.6g}"
    return Finding(kind="scale", sentence=sentence, evidence={"factor": factor}, left=left, explains=True)


def _unit(x: Array) -> Array:
    length = np.linalg.norm(x.astype(np.float64), axis=-1, keepdims=True)
    unit: Array = np.divide(x, length, out=np.zeros(x.shape), where=length > 0)
    return unit


def unit_length(pairs: Sequence[Pair], tolerance: float) -> Finding | None:
    """Whether one side is the other with each row divided by its length."""
    for name, other, side in (("B", "A", 1), ("A", "B", 0)):
        left = pooled_l2([(_unit(pair[1 - side]), pair[side]) for pair in pairs])
        if left <= tolerance:
            sentence = f"{name}'s rows are {other}'s divided by their length (L2)"
            return Finding(kind="l2", sentence=sentence, evidence={"side": name}, left=left, explains=True)
    return None


def relu(pairs: Sequence[Pair], tolerance: float) -> Finding | None:
    """Whether one side is the other with its negative values cut off: a layer after or before its ReLU."""
    for name, other, side in (("B", "A", 1), ("A", "B", 0)):
        left = pooled_l2([(np.maximum(pair[1 - side], 0), pair[side]) for pair in pairs])
        if left <= tolerance:
            sentence = f"{name} is {other} after a ReLU: negative values are zero"
            return Finding(kind="relu", sentence=sentence, evidence={"side": name}, left=left, explains=True)
    return None


def time_shift(pairs: Sequence[Pair], tolerance: float) -> Finding | None:
    """Whether clip i of B is clip i + s of A, for one s of up to `MAX_SHIFT_CLIPS` either way."""
    for size in range(1, MAX_SHIFT_CLIPS + 1):
        for shift in (size, -size):
            both = leading([(a[max(0, shift) :], b[max(0, -shift) :]) for a, b in pairs])
            num_clips = sum(len(a) for a, _ in both)
            # One clip alone would say little: a still scene repeats itself.
            if num_clips >= 2 and (left := pooled_l2(both)) <= tolerance:
                sentence = f"clip i of B is clip i{shift:+d} of A"
                evidence = {"clips": shift, "compared": num_clips}
                return Finding(kind="time shift", sentence=sentence, evidence=evidence, left=left, explains=True)
    return None


def half_precision(pairs: Sequence[Pair]) -> Finding | None:
    """Whether one side is the other rounded to half precision.

    Noise before the rounding moves a few values to the next step: nine of ten must be equal.
    """
    for name, other, side in (("B", "A", 1), ("A", "B", 0)):
        rounded = [pair[side] for pair in pairs]
        full = [pair[1 - side] for pair in pairs]
        if not all(map(is_half, rounded)) or all(map(is_half, full)):
            continue
        with np.errstate(over="ignore"):
            equal = sum(int((f.astype(np.float16) == r).sum()) for f, r in zip(full, rounded, strict=True))
        total = sum(r.size for r in rounded)
        left = pooled_l2(pairs)
        if equal >= 0.9 * total and left <= HALF_TOLERANCE:
            sentence = f"{name} is {other} rounded to half precision (float16): {equal / total:.1%} of values equal it"
            evidence = {"side": name, "equal": equal / total}
            return Finding(kind="float16", sentence=sentence, evidence=evidence, left=left, explains=True)
    return None


def decimals(pairs: Sequence[Pair]) -> Finding | None:
    """Whether one side is the other rounded to a few decimals, as text files hold them."""
    for name, other, side in (("B", "A", 1), ("A", "B", 0)):
        for places in range(2, 7):
            rounded, full = ([pair[s] for pair in pairs] for s in (side, 1 - side))
            if not _are_decimals(rounded, places) or _are_decimals(full, places):
                continue
            # float32's own steps come to the rounding's.
            step = 0.5 * 10.0**-places
            near = all(np.all(np.abs(a.astype(np.float64) - b) <= step + 1e-6 * np.abs(a)) for a, b in pairs)
            if near:
                left = pooled_l2(pairs)
                sentence = f"{name} is {other} rounded to {places} decimals"
                evidence = {"side": name, "places": places}
                return Finding(kind="decimals", sentence=sentence, evidence=evidence, left=left, explains=True)
    return None


def _are_decimals(arrays: Sequence[Array], places: int) -> bool:
    scaled = np.concatenate([x[x != 0] for x in arrays]).astype(np.float64) * 10.0**places
    # Above 2**22 steps float32 has no room for a quarter of one, and all would look rounded; a few do by chance.
    if scaled.size < _FEW_VALUES or np.abs(scaled).max() > 2**22:
        return False
    return bool(np.all(np.abs(scaled - np.rint(scaled)) <= 0.13))


CHANGES: tuple[Callable[[Sequence[Pair], float], Finding | None], ...] = (
    feature_order,
    unit_length,
    scale,
    relu,
)
"""What is tried on the clips that both have, cheapest first, where they differ by more than rounding."""
