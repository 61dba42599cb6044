"""Which entry of a list speaks of which video: labels find features, lists find files."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from .text_lines import last_part

EXTENSIONS = frozenset(
    f".{name}"
    for name in (
        *("3gp", "asf", "avi", "dav", "flv", "h264", "h265", "hevc", "m2ts", "m4v", "mjpeg", "mjpg", "mkv", "mov"),
        *("mp4", "mpeg", "mpg", "mts", "ts", "vob", "webm", "wmv"),
    )
)
"""What a video's name may end in, in lower case. Only these are taken off where an id is compared: names such as
``Bad.Boys.1995__#01-11-55`` have dots of their own."""


@dataclass(frozen=True, slots=True)
class Joined:
    """How names of two kinds belong together.

    ``pairs``: ours -> theirs. ``missing``: ours that nothing of theirs fits. ``extra``: theirs that nothing of ours
    fits. ``ambiguous``: ours -> all of theirs that fit equally well, or that others of ours fit as well; these are
    in neither of the others.
    """

    pairs: Mapping[str, str]
    missing: tuple[str, ...]
    extra: tuple[str, ...]
    ambiguous: Mapping[str, tuple[str, ...]]


def join_ids(ours: Iterable[str], theirs: Iterable[str]) -> Joined:
    """Join ids: equal ones; else those of which one ends in the whole other; else a last part that both have once.

    The middle step tells ``Testing/X`` from ``Event/X`` below another folder, ``UCF/Testing/X``. A name that found
    its fellow in one step takes no part in the next.
    """
    left = {name: comparable(name) for name in ours}
    right = {name: comparable(name) for name in theirs}
    pairs: dict[str, str] = {}
    ambiguous: dict[str, tuple[str, ...]] = {}
    _pair_equal(left, right, pairs)
    groups: dict[str, tuple[list[str], list[str]]] = defaultdict(lambda: ([], []))
    for side, names in enumerate((left, right)):
        for name, text in names.items():
            groups[last_part(text)][side].append(name)
    for mine, others in groups.values():
        if mine and others:
            _pair_group(mine, others, left, right, pairs, ambiguous)
    taken = {*pairs.values(), *(name for names in ambiguous.values() for name in names)}
    return Joined(
        pairs,
        tuple(name for name in left if name not in pairs and name not in ambiguous),
        tuple(name for name in right if name not in taken),
        ambiguous,
    )


def comparable(name: str) -> str:
    """Give an id as it is compared: in NFC, ``/`` between its parts, no extension of a video."""
    text = unicodedata.normalize("NFC", name).replace("\\", "/")
    stem, dot, ending = text.rpartition(".")
    return stem if dot and stem and f".{ending.lower()}" in EXTENSIONS else text


def _pair_equal(left: dict[str, str], right: dict[str, str], pairs: dict[str, str]) -> None:
    mine, others = _by_text(left), _by_text(right)
    for text in mine.keys() & others.keys():
        # a.mp4 and a.avi are one id and two files: which is meant is not for us to say.
        if len(mine[text]) == len(others[text]) == 1:
            (name,), (other,) = mine[text], others[text]
            pairs[name] = other
            del left[name], right[other]


def _by_text(names: Mapping[str, str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for name, text in names.items():
        found[text].append(name)
    return found


def _pair_group(
    mine: Sequence[str],
    others: Sequence[str],
    left: Mapping[str, str],
    right: Mapping[str, str],
    pairs: dict[str, str],
    ambiguous: dict[str, tuple[str, ...]],
) -> None:
    fits = {name: [other for other in others if _ends_alike(left[name], right[other])] for name in mine}
    wanted: dict[str, list[str]] = defaultdict(list)
    for name, found in fits.items():
        for other in found:
            wanted[other].append(name)
    sure = {name: found[0] for name, found in fits.items() if len(found) == 1 and len(wanted[found[0]]) == 1}
    pairs.update(sure)
    rest = [name for name in mine if name not in sure]
    free = [other for other in others if other not in sure.values()]
    if len(rest) == 1 and len(free) == 1 and not sure:
        pairs[rest[0]] = free[0]
    elif free:
        ambiguous.update({name: tuple(free) for name in rest})


def _ends_alike(a: str, b: str) -> bool:
    short, long = sorted((a, b), key=len)
    return long == short or long.endswith(f"/{short}")
