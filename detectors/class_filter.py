"""Which categories are kept, and which count as one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..errors import UsageError
from .coco_names import CLASS_SETS

if TYPE_CHECKING:
    from numpy.typing import NDArray

GROUP_NMS_IOU = 0.5
"""vadx: of two boxes of a group's different categories that overlap more, the better one stays. The detector's own
suppression has worked within each category; 0.5 is that of Faster R-CNN (torchvision, ``box_nms_thresh``)."""


@dataclass(frozen=True, slots=True, eq=False)
class ClassFilter:
    """What becomes of each label; `make_class_filter` makes one from names.

    ``target`` has one element a label of the detector, the label that it becomes, -1 if it is not kept. ``grouped``
    tells which targets are groups. ``names`` has the name of every target.
    """

    target: NDArray[np.int64]
    grouped: frozenset[int]
    names: Mapping[int, str]

    def targets_of(self, labels: NDArray[np.int64]) -> NDArray[np.int64]:
        """Give what labels ``(box,)`` become; -1 also for those that the detector has no name for."""
        known = (labels >= 0) & (labels < len(self.target))
        return np.where(known, self.target[np.where(known, labels, 0)], -1)

    def describe(self, categories: Mapping[int, str]) -> str:
        """Give the filter as one line: ``all`` or names, a group as ``vehicle=car+truck``."""
        if not self.grouped and len(self.names) == len(categories):
            return "all"
        parts = []
        for label, name in self.names.items():
            inside = [categories[member] for member in np.flatnonzero(self.target == label).tolist()]
            parts.append(f"{name}={'+'.join(inside)}" if label in self.grouped else name)
        return ", ".join(parts)


def make_class_filter(
    categories: Mapping[int, str],
    classes: Sequence[str] | None = None,
    groups: Mapping[str, Sequence[str]] | None = None,
) -> ClassFilter:
    """Make a filter from names, written in any case and with ``_`` or ``-`` for a space.

    Parameters
    ----------
    categories
        Label -> name of what the detector knows.
    classes
        What is kept: names of categories, groups, or of sets of `CLASS_SETS`; None for everything. Of a set, what
        the detector does not know is passed over.
    groups
        Name -> categories that count as one, under the lowest of their labels: without it, what is a car in one frame
        and a truck in the next makes two tubes that are too short.

    Raises
    ------
    UsageError
        for a name that the detector does not know, a category that is in two groups, or an empty choice.
    """
    labels = {_plain(name): label for label, name in categories.items()}
    members: dict[str, set[int]] = {}
    for name, parts in (groups or {}).items():
        if isinstance(parts, str) or not parts:
            msg = f"group {name!r} needs a list of categories, got {parts!r}: give {{'vehicle': ['car', 'truck']}}"
            raise UsageError(msg)
        members[_plain(name)] = {_label(part, labels) for part in parts}
    _check_groups(members, labels, categories)
    kept = set(categories) if classes is None else _kept(classes, labels, members)
    target = np.full(max(categories, default=0) + 1, -1, dtype=np.int64)
    target[sorted(kept)] = sorted(kept)
    names = {label: categories[label] for label in sorted(kept)}
    grouped = set()
    for name, parts_of_group in members.items():
        inside = sorted(parts_of_group & kept)
        if inside:
            lowest = min(parts_of_group)
            target[inside] = lowest
            names = {label: known for label, known in names.items() if label not in inside} | {lowest: name}
            grouped.add(lowest)
    return ClassFilter(target, frozenset(grouped), dict(sorted(names.items())))


def _kept(classes: Sequence[str], labels: Mapping[str, int], members: Mapping[str, set[int]]) -> set[int]:
    if isinstance(classes, str):
        msg = f"classes must be a list of names, got {classes!r}: give {classes.split(',')!r}"
        raise UsageError(msg)
    kept: set[int] = set()
    for name in classes:
        plain = _plain(name)
        if plain in members:
            kept |= members[plain]
        elif plain in CLASS_SETS:
            known = set(labels.values()) if plain == "all" else {labels[n] for n in CLASS_SETS[plain] if n in labels}
            kept |= known
        else:
            kept.add(_label(name, labels, (*members, *CLASS_SETS)))
    if not kept:
        msg = "no category is left: give classes=None for all"
        raise UsageError(msg)
    return kept


def _check_groups(members: Mapping[str, set[int]], labels: Mapping[str, int], categories: Mapping[int, str]) -> None:
    owner: dict[int, str] = {}
    for name, parts in members.items():
        if name in CLASS_SETS or labels.get(name, min(parts)) not in parts:
            msg = f"group {name!r} has the name of something else: give it another name"
            raise UsageError(msg)
        for label in sorted(parts):
            if label in owner:
                msg = f"{categories[label]!r} is in the groups {owner[label]!r} and {name!r}: leave it in one"
                raise UsageError(msg)
            owner[label] = name


def _label(name: str, labels: Mapping[str, int], also: Iterable[str] = ()) -> int:
    plain = _plain(name)
    if plain in labels:
        return labels[plain]
    near = difflib.get_close_matches(plain, [*labels, *also], n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"it knows {', '.join(labels)}"
    msg = f"this detector has no category named {name!r}: {hint}"
    raise UsageError(msg)


def _plain(name: str) -> str:
    return name.strip().lower().replace("_", " ").replace("-", " ")
