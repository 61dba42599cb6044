"""The table METHODS, and what a method is: settings, a network, a loss over a batch of bags, and how a video is scored.

A method is one module with two classes. Its settings subclass `Settings`: a frozen, slotted, keyword-only dataclass
whose defaults are the paper's values and whose docstring gives the source of each. Its `Method` makes the network and
the loss, and names in ``variants`` what public code does otherwise. `find_method` gives a row of the table and
``MethodSpec.make("code", learning_rate=0.01)`` the method itself. Importing this module loads neither torch nor numpy.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from ...errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer

__all__ = [
    "METHODS",
    "Batch",
    "ChoiceError",
    "Losses",
    "Method",
    "MethodSpec",
    "Scores",
    "Settings",
    "check_choices",
    "find_method",
]

PAPER = "paper"
"""The variant that changes nothing: a method's settings as their defaults have them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What every method's settings hold: bags of each half of a batch, and how often the optimiser steps.

    Raises
    ------
    UsageError
        if a count is not positive, a number is NaN or infinite, or one that an optimiser takes is negative.
    """

    normal_bags: int = 30
    anomalous_bags: int = 30
    iterations: int = 1000

    def __post_init__(self) -> None:
        for name in ("normal_bags", "anomalous_bags", "iterations"):
            if getattr(self, name) < 1:
                msg = f"{name} is {getattr(self, name)}: it counts what a training needs; give 1 or more"
                raise UsageError(msg)
        for name in (one.name for one in dataclasses.fields(self)):
            value = getattr(self, name)
            if isinstance(value, float) and not math.isfinite(value):
                msg = f"{name} is {value}: give a number"
                raise UsageError(msg)
            if name in _OF_OPTIMISERS and value < 0:
                msg = f"{name} is {value}: no optimiser takes it; give 0 or more"
                raise UsageError(msg)


_OF_OPTIMISERS = ("learning_rate", "weight_decay", "epsilon")
"""Settings that optimisers take, and refuse where they are negative."""


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Bags of one iteration: the normal ones first, then the anomalous ones.

    Shapes: ``features (bag, segment, crop, feature)`` float32; ``labels (bag,)`` int64, 0 normal and 1 anomalous;
    ``mask (bag, segment)`` bool, False where a segment is padding; ``ids`` and ``classes``, one a bag, ``""`` where the
    kind of anomaly is unknown. ``more`` holds what else a method's bags have, by name, first axis the bag. ``seed`` is
    another number for each iteration: a method that draws makes ``numpy.random.default_rng(batch.seed)``, and a resumed
    training draws the same.

    Raises
    ------
    ValueError
        if shapes disagree or a bag has no segment.
    """

    features: Tensor
    labels: Tensor
    mask: Tensor
    ids: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    more: Mapping[str, Tensor] = field(default_factory=dict)
    seed: int = 0

    def __post_init__(self) -> None:
        num_bags, num_segments = self.features.shape[:2]
        if self.features.ndim != 4 or self.labels.shape != (num_bags,) or self.mask.shape != (num_bags, num_segments):
            msg = (
                "expected features (bag, segment, crop, feature), labels (bag,) and mask (bag, segment); got "
                f"{tuple(self.features.shape)}, {tuple(self.labels.shape)} and {tuple(self.mask.shape)}"
            )
            raise ValueError(msg)
        if not bool(self.mask.any(dim=1).all()):
            msg = f"a bag has no segment that is not padding: {self.ids}"
            raise ValueError(msg)

    @property
    def normal(self) -> Tensor:
        """Which bags are normal: ``(bag,)`` bool."""
        return self.labels == 0

    @property
    def anomalous(self) -> Tensor:
        """Which bags are anomalous: ``(bag,)`` bool."""
        return self.labels == 1


@dataclass(frozen=True, slots=True, eq=False)
class Losses:
    """The terms of a loss by name, each a scalar and already weighted. Their sum is what is minimised."""

    parts: Mapping[str, Tensor]

    @property
    def total(self) -> Tensor:
        first, *others = self.parts.values()
        for other in others:
            first = first + other
        return first


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """What a method says of one video.

    ``segments (segment,)`` is in [0, 1], 1 abnormal; ``video`` likewise, for methods that score videos as such;
    ``classes (class,)`` are scores of kinds of anomaly; ``more`` holds what else there is, such as attention.
    """

    segments: Tensor
    video: float | None = None
    classes: Tensor | None = None
    more: Mapping[str, Tensor] = field(default_factory=dict)


class Method(ABC):
    """A published method under given settings. It holds no state: weights are in the network that it makes.

    ``rule`` is the rule of `vadx.features.bag_rules.SEGMENTATIONS` that it is named with. ``variants`` maps the name of
    a public code base, ``code`` the authors' own, to the settings that it has otherwise than the paper. ``phases`` are
    the steps of an iteration, in order, each with its own loss and its own optimiser; most methods have one.
    """

    settings_class: ClassVar[type[Settings]]
    rule: ClassVar[str]
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = MappingProxyType({})
    phases: ClassVar[tuple[str, ...]] = ("all",)

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or self.settings_class()

    @abstractmethod
    def network(self, dim: int) -> nn.Module:
        """Make the network for features of ``dim`` numbers, drawn from torch's current random numbers."""

    @abstractmethod
    def loss(self, network: nn.Module, batch: Batch, phase: str = "all") -> Losses:
        """Give the loss of one of ``phases`` on a batch. The network is in training mode.

        Without any part in it the phase is passed over, for a batch that has nothing for it.
        """

    @abstractmethod
    def score(self, network: nn.Module, features: Tensor) -> Scores:
        """Score one video's ``features (segment, crop, feature)``, without padding. The network is in evaluation mode
        and no gradient is kept.
        """

    @abstractmethod
    def optimisers(self, network: nn.Module) -> Mapping[str, Optimizer]:
        """Make the optimiser of each of ``phases``, at its first learning rate."""

    def pace(self, iteration: int) -> float:
        """Give what all learning rates are multiplied by in this iteration, counted from 0."""
        del iteration
        return 1.0


@dataclass(frozen=True, slots=True)
class MethodSpec:
    """A row of `METHODS`: a method's name, its module and class here, one sentence, and where it is published."""

    name: str
    module: str
    method: str
    meaning: str
    source: str

    def load(self) -> type[Method]:
        """Import the method's class."""
        found: type[Method] = getattr(importlib.import_module(f".{self.module}", __name__), self.method)
        return found

    def make(self, variant: str = PAPER, /, **changes: Any) -> Method:
        """Give the method with a variant's settings, and some of them changed.

        Raises
        ------
        UsageError
            for a variant or a setting that there is not, or a value that cannot be meant.
        """
        method = self.load()
        if variant != PAPER and variant not in method.variants:
            msg = f"{self.name} has no variant {variant!r}; there are: {', '.join([PAPER, *method.variants])}"
            raise UsageError(msg)
        known = [one.name for one in dataclasses.fields(method.settings_class)]
        for name in changes:
            if name not in known:
                nearest = difflib.get_close_matches(name, known, 1, 0.0)[0]
                msg = f"{self.name} has no setting {name!r}; the nearest is {nearest!r}"
                raise UsageError(msg)
        differences = {} if variant == PAPER else method.variants[variant]
        return method(method.settings_class(**{**differences, **changes}))


class ChoiceError(UsageError):
    """A setting is none of its choices, which are ``allowed``."""

    def __init__(self, message: str, allowed: Collection[str] = ()) -> None:
        super().__init__(message)
        self.allowed = tuple(allowed)


def check_choices(settings: object, choices: Mapping[str, Collection[str]]) -> None:
    """Raise `ChoiceError` if a setting is not one of its choices."""
    for name, allowed in choices.items():
        if getattr(settings, name) not in allowed:
            msg = f"{name} is {getattr(settings, name)!r}; give one of: {', '.join(allowed)}"
            raise ChoiceError(msg, allowed)


METHODS: Mapping[str, MethodSpec] = MappingProxyType(
    {
        spec.name: spec
        for spec in (
            MethodSpec(
                name="deepmil",
                module="deepmil",
                method="DeepMil",
                meaning="the most abnormal segment of an anomalous video ranks above that of a normal one",
                source="Sultani et al. 2018",
            ),
            MethodSpec(
                name="wsal",
                module="wsal",
                method="Wsal",
                meaning="the scores of an anomalous video reach further apart than those of a normal one",
                source="Lv et al. 2021",
            ),
            MethodSpec(
                name="align",
                module="align",
                method="Align",
                meaning="a video is scored by what it attends to, alike for two draws of its clips",
                source="Panariello et al. 2022",
            ),
            MethodSpec(
                name="mgpr",
                module="mgpr",
                method="Mgpr",
                meaning="tubes and segments are scored by two branches that guide each other",
                source="J. Wu et al. 2021",
            ),
            MethodSpec(
                name="lad",
                module="lad",
                method="Lad",
                meaning="the kind of anomaly and a score for every frame are learned together, from labels of frames",
                source="Wan et al. 2021",
            ),
            MethodSpec(
                name="rtfm",
                module="rtfm",
                method="Rtfm",
                meaning="the features of the most abnormal segments are longer than those of normal ones",
                source="Tian et al. 2021",
            ),
            MethodSpec(
                name="urdmu",
                module="urdmu",
                method="UrDmu",
                meaning="two memories, of normal and of anomalous segments, say what a segment is known as",
                source="Zhou et al. 2023",
            ),
            MethodSpec(
                name="svm",
                module="baselines",
                method="LinearSvm",
                meaning="a linear SVM of whole videos' mean features",
                source="Sultani et al. 2018, table 3",
            ),
            MethodSpec(
                name="nearest",
                module="recognition",
                method="NearestNeighbour",
                meaning="the kind of anomaly of the nearest training video, by the mean of its features",
                source="Sultani et al. 2018, table 5, C3D",
            ),
            MethodSpec(
                name="recognition",
                module="recognition",
                method="Recognition",
                meaning="a linear classifier of kinds of anomaly, on features pooled over a video",
                source="Sultani et al. 2018, table 5, TCNN without its network",
            ),
            MethodSpec(
                name="cibl",
                module="baselines",
                method="Cibl",
                meaning="DeepMIL, with highest and lowest score far apart in anomalous videos and near in others",
                source="Zhang et al. 2019, abstract",
            ),
        )
    }
)
"""Name -> method. A row loads its module only when it is asked for its class."""


def find_method(name: str) -> MethodSpec:
    """Give the method of this name. Raises `UsageError` naming those that exist."""
    if name not in METHODS:
        msg = f"there is no method {name!r}; there are: {', '.join(METHODS)}"
        raise UsageError(msg)
    return METHODS[name]
