"""What an evaluation can be told to do otherwise: the choices that publications make, and a protocol of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any, Literal

from ..features.expansion import EXPANSIONS
from ..features.frame_truth import TARGETS
from .frame_metrics import AREAS

LEVELS: Mapping[str, str] = MappingProxyType(
    {
        "frame": "all frames of all videos, pooled",
        "subset": "all frames of the anomalous videos, pooled",
        "segment": "all segments; one is anomalous if a frame of it is",
        "proposal": "all frames, scored by the proposal that holds them, else 0",
        "video": "videos, by their labels",
    }
)
"""What is ranked."""

OWN = "own"
"""In place of a repository's expansion: every frame has the mean score of the segments that cover it."""

VIDEO_SCORES: Mapping[str, str] = MappingProxyType(
    {
        "head": "the score that the method gives the video; the highest of its segments where it gives none",
        "max": "the highest score of its segments",
        "spread": "the highest score of its segments less the lowest",
    }
)
"""How a video's score comes from its segments'."""

SEGMENT_SCORES: Mapping[str, str] = MappingProxyType(
    {
        "scores": "the method's scores of segments",
        "attention": "the attention that segments get; the method's scores where there is none",
    }
)
"""What the segment level ranks."""

FRAME_SCORES: Mapping[str, str] = MappingProxyType(
    {
        "scores": "the segments' scores, expanded",
        "attention": "the attention that segments get, interpolated between the first and the last",
        "activation": "the weighted T-CAM, interpolated as the model's settings say",
    }
)
"""What the frame level ranks. The first stands in for the others where a method has no attention."""


@dataclass(frozen=True, slots=True)
class FalseAlarms:
    """A definition of the false alarm rate: the share of ``unit`` of ``among`` whose score is above ``threshold``, or
    with ``inclusive`` at it.
    """

    unit: Literal["frames", "videos"]
    among: Literal["normal videos", "videos without an anomalous frame", "all normal frames"]
    threshold: float
    inclusive: bool
    source: str

    @property
    def meaning(self) -> str:
        """Say what the share is of."""
        things = {
            ("frames", "all normal frames"): "all normal frames",
            ("videos", "normal videos"): "normal videos",
        }.get((self.unit, self.among), f"the {self.unit} of {self.among}")
        return f"share of {things} {'at or above' if self.inclusive else 'above'} {self.threshold:g}"


FALSE_ALARMS: Mapping[str, FalseAlarms] = MappingProxyType(
    {
        "deepmil": FalseAlarms("frames", "normal videos", 0.5, False, "Sultani et al. 2018, table 4"),
        "mist": FalseAlarms("frames", "all normal frames", 0.5, False, "fjchange/MIST_VAD, utils/eval_utils.py"),
        "arnet": FalseAlarms(
            "frames", "normal videos", 0.5, True, "wanboyang/Anomaly_AR_Net_ICME_2020, eval.py, normal videos"
        ),
        "pel4vad": FalseAlarms(
            "frames",
            "videos without an anomalous frame",
            0.5,
            True,
            "yujiangpu20/PEL4VAD, test.py; wanboyang/anomaly_detection_LAD2000, eval.py",
        ),
        "wsstad": FalseAlarms("videos", "normal videos", 0.2, False, "J. Wu et al. 2021, appendix E"),
    }
)
"""Name -> definition. They differ by more than methods do."""

METRICS: Mapping[str, str] = MappingProxyType(
    {
        **{
            f"{level}_{area}": f"{AREAS[area].label}: {AREAS[area].meaning}, of {meaning}"
            for level, meaning in LEVELS.items()
            for area in AREAS
        },
        **{f"false_alarm_{name}": one.meaning for name, one in FALSE_ALARMS.items()},
        "class_accuracy": "share of videos whose highest class is their own",
        "vauc": "area under the ROC curve of videos, scored by their top-1 tube",
    }
)
"""Every number that an evaluation gives, and what it is."""

_CHOICES: Mapping[str, Any] = MappingProxyType(
    {
        "headline": METRICS,
        "truth": TARGETS,
        "expansion": {OWN, *EXPANSIONS},
        "ap": {"", *AREAS} - {"auc"},
        "video": VIDEO_SCORES,
        "segment": SEGMENT_SCORES,
        "frame": FRAME_SCORES,
        "proposals": ("largest", "all"),
        "false_alarm": {"", *FALSE_ALARMS},
        "whole_frames": range(1, 10_000),
    }
)


_NO_CHOICE = ("name", "meaning", "sources")


def _default(choice: str) -> object:
    return next(one.default for one in fields(Protocol) if one.name == choice)


@dataclass(frozen=True, slots=True, kw_only=True)
class Protocol:
    """How one publication evaluates.

    ``headline`` is one of `METRICS`. ``truth`` is a target of `vadx.features.frame_truth.TARGETS`: how published spans
    are taken, and how many frames are compared. ``expansion`` is one of `EXPANSIONS`, or `OWN`. ``ap`` is the one of
    `AREAS` that is called AP, "" where none is reported. ``video``, ``segment`` and ``frame`` are of `VIDEO_SCORES`,
    `SEGMENT_SCORES` and `FRAME_SCORES`; ``proposals`` of `align.PROPOSALS`. ``false_alarm`` is one of `FALSE_ALARMS`,
    or "". Frames beyond the last whole ``whole_frames`` are not compared. ``published`` is the headline's value, a
    fraction, None where none is known; of the published features and weights, whatever is evaluated here.

    ``sources`` gives for each of these where it is read.

    Raises
    ------
    ValueError
        for a choice that there is not, or one without a source.
    """

    name: str
    meaning: str
    sources: Mapping[str, str]
    headline: str = "frame_auc"
    truth: str = "frames"
    expansion: str = OWN
    ap: str = ""
    video: str = "head"
    segment: str = "scores"
    frame: str = "scores"
    proposals: str = "largest"
    false_alarm: str = ""
    whole_frames: int = 1
    published: float | None = None

    def __post_init__(self) -> None:
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                msg = f"{self.name}: {name} is {getattr(self, name)!r}: give one of {', '.join(map(str, allowed))}"
                raise ValueError(msg)
        chosen = [one.name for one in fields(self) if one.name not in _NO_CHOICE]
        without = [name for name in chosen if getattr(self, name) != _default(name) and name not in self.sources]
        if without:
            msg = f"{self.name}: no source is given for {', '.join(without)}: say where it is read"
            raise ValueError(msg)

    def source(self, choice: str) -> str:
        """Say where a choice is read, or that it is vadx's own."""
        return self.sources.get(choice, "vadx: nothing else is published")

    def as_mapping(self) -> dict[str, Any]:
        """Give plain JSON: each choice with its source."""
        choices = {
            one.name: {"value": getattr(self, one.name), "source": self.source(one.name)}
            for one in fields(self)
            if one.name not in _NO_CHOICE
        }
        return {"name": self.name, "meaning": self.meaning, "choices": choices}
