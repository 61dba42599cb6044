"""CSL-TAL, the alignment loss (A. Panariello, A. Porrello, S. Calderara, R. Cucchiara, "Consistency-based
Self-supervised Learning for Temporal Anomaly Localization", ECCV Workshops 2022).

What is said of the authors' code is read in the repository aimagelab/CSL-TAL: main.py, XD_Violence.py and model/.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Adam, Optimizer

from ...errors import UsageError
from ...features.expansion import spline_places
from . import Batch, Losses, Method, Scores, Settings, check_choices
from .align_network import AlignNetwork
from .deepmil import smoothness, sparsity

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

_EPOCH = 495
"""Batches of 8 in an epoch of the 3,954 training videos of XD-Violence."""

_CROPS_EPOCH = 2472
"""Batches of 8 in an epoch of the authors' code, to which each of a video's five crops is a sample."""

_CODE: Mapping[str, Any] = MappingProxyType(
    {
        "iterations": 50 * _CROPS_EPOCH,
        "slower_from": 30 * _CROPS_EPOCH,
        "attention_units": (1024, 256),
        "sparsity": 2e-3,
        "smoothness": 2e-8,
        "reduction": "segments",
        "segment_score": "weighted",
        "scored": "first",
        "proposals": "all",
        "interpolation": "spline",
        "floor": 0.05,
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class AlignSettings(Settings):
    """How CSL-TAL is trained. [P] is the paper; [C] the authors' code, first commit, [H] its last; [D] decided here,
    where [P] says nothing.

    ``past``: neighbours before a segment that the masked convolution sees, 2 [C, H; P names no number]. ``attention``:
    ``plain`` is fully connected layers [P, C]; ``gated`` is tanh times sigmoid of ``gate_units`` 256 [H].
    ``attention_units``: before the last layer of the plain one, 256, which makes two layers [P, the number of C's last
    but one]; 1024 and 256, three layers [C]. ``classifier_units``: 512 [C, H; P says two layers].

    ``sparsity`` 2e-8, alpha of Eq. 6, ``smoothness`` 2e-3, beta, and ``alignment`` 0.5, gamma [P]. [C] multiplies
    smoothness by 2e-8 and sparsity by 2e-3; [H] has smoothness 0, alignment 0.55. ``reduction``: with ``videos`` Eq. 6
    is that of a video, the mean over videos and their sequences is minimised [P, Eq. 1], and Eq. 5 is a sum over
    segments; with ``segments`` constraints are summed over sequences, Eq. 5 is a mean over segments, summed over
    videos, and all terms are divided by the number of segments in the batch [C, H].

    ``block``: segments of which each sequence draws one, L = 3 [P, C]; sequences of up to twice as many stay whole
    [C]. ``pairs``: ``drawn`` draws two sequences of each bag in each iteration [P, C]; ``given`` takes the halves of
    bags that were made with ``csltal-pairs``.

    ``segment_score``: the ``attention`` scores segments [P, section 4], or the ``weighted`` T-CAM [C, H]. ``scored``:
    ``all`` segments [P], or the ``first`` of each block, whose score the block gets [C, H].

    ``proposals``: the ``largest`` connected component [P, 3.3], or ``all`` [C, H], of what lies above ``threshold``
    0.35 [P, C, H]. ``interpolation`` of the weighted T-CAM: ``linear`` [D], or ``spline``, of third order [C, H]; what
    is below ``floor`` is 0: 0 [P], 0.05 [C, H].

    ``normal_bags`` and ``anomalous_bags``: 4 each, a batch of 8 [P, C], 8 each [H]; there batches mix freely.
    ``learning_rate`` of Adam 1e-4, a tenth from ``slower_from`` on: 10 of 50 epochs [P], 30 of 50 [C, H], of 495
    batches, 2,472 with crops as samples [C], 1,236 [H].

    Raises
    ------
    UsageError
        if a value cannot be meant.
    """

    normal_bags: int = 4
    anomalous_bags: int = 4
    iterations: int = 50 * _EPOCH
    past: int = 2
    attention: str = "plain"
    attention_units: tuple[int, ...] = (256,)
    gate_units: int = 256
    classifier_units: int = 512
    sparsity: float = 2e-8
    smoothness: float = 2e-3
    alignment: float = 0.5
    reduction: str = "videos"
    block: int = 3
    pairs: str = "drawn"
    segment_score: str = "attention"
    scored: str = "all"
    proposals: str = "largest"
    threshold: float = 0.35
    interpolation: str = "linear"
    floor: float = 0.0
    learning_rate: float = 1e-4
    slower_from: int = 10 * _EPOCH

    def __post_init__(self) -> None:
        Settings.__post_init__(self)
        # A model's settings come back from JSON as lists.
        object.__setattr__(self, "attention_units", tuple(self.attention_units))
        check_choices(
            self,
            {
                "attention": ("plain", "gated"),
                "reduction": REDUCTIONS,
                "pairs": PAIRS,
                "segment_score": ("attention", "weighted"),
                "scored": SCORED,
                "proposals": PROPOSALS,
                "interpolation": INTERPOLATIONS,
            },
        )
        units = (*self.attention_units, self.gate_units, self.classifier_units)
        if min(units) < 1 or self.past < 0 or self.block < 1 or self.learning_rate <= 0:
            msg = (
                f"units {units} and block {self.block} are 1 or more, past {self.past} is 0 or more and learning_rate "
                f"{self.learning_rate} above 0; give such values"
            )
            raise UsageError(msg)
        if not 0 < self.threshold < 1 or not 0 <= self.floor < 1:
            msg = f"threshold {self.threshold} and floor {self.floor} are scores in [0, 1), the former not 0; give such"
            raise UsageError(msg)


def alignment(first: Tensor, second: Tensor) -> Tensor:
    """Give Eq. 5 of each pair of sequences: attention ``(pair, segment)``, 0 in padding, twice -> ``(pair,)``."""
    return (first - second).square().sum(dim=1)


@dataclass(frozen=True, slots=True, eq=False)
class _Terms:
    """The terms of Eq. 6, not weighted: those of each sequence and, for the alignment, of each pair; and the segments
    of each sequence. Sequences are all first ones of the pairs, then all second ones.
    """

    classification: Tensor
    sparsity: Tensor
    smoothness: Tensor
    alignment: Tensor
    num_segments: Tensor


def _of_videos(terms: _Terms) -> dict[str, Tensor]:
    return {
        "classification": terms.classification.mean(),
        "sparsity": terms.sparsity.mean(),
        "smoothness": terms.smoothness.mean(),
        "alignment": terms.alignment.mean(),
    }


def _of_segments(terms: _Terms) -> dict[str, Tensor]:
    total = terms.num_segments.sum()
    means = terms.alignment / terms.num_segments[: len(terms.alignment)]
    return {
        "classification": terms.classification.mean() / total,
        "sparsity": terms.sparsity.sum() / total,
        "smoothness": terms.smoothness.sum() / total,
        "alignment": means.sum() / total,
    }


def draw_pairs(mask: Tensor, block: int, random: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Draw two sequences of each bag: one segment of each block, twice.

    ``mask (bag, segment)`` bool, padding anywhere -> the segments' numbers ``(2, bag, place)`` int64 and which places
    count ``(bag, place)``. A remainder shorter than a block is dropped. A bag of up to two blocks stays whole, and its
    two sequences are equal.
    """
    drawn = []
    for row in mask.cpu().numpy():
        own = np.flatnonzero(row)
        if len(own) <= 2 * block:
            drawn.append(np.stack([own, own]))
        else:
            num_blocks = len(own) // block
            drawn.append(own[block * np.arange(num_blocks) + random.integers(block, size=(2, num_blocks))])
    lengths = np.array([pair.shape[1] for pair in drawn])
    places = np.zeros((2, len(drawn), lengths.max()), np.int64)
    for bag, pair in enumerate(drawn):
        places[:, bag, : pair.shape[1]] = pair
    counts = np.arange(lengths.max()) < lengths[:, None]
    return torch.from_numpy(places).to(mask.device), torch.from_numpy(counts).to(mask.device)


def _drawn(features: Tensor, mask: Tensor, block: int, random: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
    places, counts = draw_pairs(mask, block, random)
    bags = torch.arange(len(features), device=mask.device)[:, None]
    return features[bags, places[0]], features[bags, places[1]], counts


def _given(features: Tensor, mask: Tensor, block: int, random: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
    del block, random
    half = mask.shape[1] // 2
    if mask.shape[1] % 2 or not torch.equal(mask[:, :half], mask[:, half:]):
        msg = "a bag is no pair of equally long sequences: make bags with --rule csltal-pairs, or give pairs='drawn'"
        raise UsageError(msg)
    return features[:, :half], features[:, half:], mask[:, :half]


def place_scores(scores: ArrayLike, num_places: int, *, spline: bool = False) -> NDArray[np.float64]:
    """Interpolate ``scores (segment,)`` at ``num_places``, evenly from the first segment to the last.

    With ``spline`` the curve is the cubic B-spline that reflects at its ends, that of `scipy.ndimage.zoom` with
    ``order=3``, which the authors' code calls for 16 places a segment; else it is linear.
    """
    values = np.asarray(scores, np.float64)
    last = len(values) - 1
    at = np.linspace(0, last, num_places)
    if not spline or last < 1:
        return np.interp(at, np.arange(last + 1), values)
    return spline_places(values, num_places)


@dataclass(frozen=True, slots=True)
class Proposal:
    """Frames ``[start, stop)`` that a method finds abnormal as one event, and Eq. 7's score, in [0, 1]."""

    start: int
    stop: int
    score: float


def connected_spans(scores: ArrayLike, threshold: float) -> NDArray[np.int64]:
    """Give the half-open spans ``(span, 2)`` of neighbours at ``threshold`` or above."""
    kept = np.concatenate([[False], np.asarray(scores) >= threshold, [False]])
    return np.flatnonzero(kept[1:] != kept[:-1]).reshape(-1, 2)


def largest_span(spans: NDArray[np.int64]) -> NDArray[np.int64]:
    """Give the longest span, the first of several, as one row, or none of none."""
    longest = int(np.argmax(spans[:, 1] - spans[:, 0])) if len(spans) else 0
    return spans[longest : longest + 1]


def frame_activation(
    weighted: ArrayLike, num_frames: int, settings: AlignSettings | None = None
) -> NDArray[np.float64]:
    """Give the frame level of a video: its weighted T-CAM ``(segment,)``, interpolated, ``(num_frames,)`` in [0, 1].

    Raises
    ------
    UsageError
        if there is no segment or no frame.
    """
    chosen = settings or AlignSettings()
    values = np.asarray(weighted, np.float64)
    if values.ndim != 1 or not len(values) or num_frames < 1:
        msg = f"expected one score a segment and 1 frame or more, got {values.shape} and {num_frames}; score the video"
        raise UsageError(msg)
    frames = INTERPOLATIONS[chosen.interpolation](values, num_frames)
    frames[frames < chosen.floor] = 0
    # Splines overshoot.
    return frames.clip(0, 1)


def find_proposals(weighted: ArrayLike, num_frames: int, settings: AlignSettings | None = None) -> tuple[Proposal, ...]:
    """Give a video's temporal proposals, in their order, from its weighted T-CAM ``(segment,)``.

    The score is Eq. 7 over the number of frames of the proposal. The printed denominator, end - start - 1 of bounds
    that both belong to it, is 0 for two frames, and scores would exceed 1.
    """
    chosen = settings or AlignSettings()
    frames = frame_activation(weighted, num_frames, chosen)
    spans = PROPOSALS[chosen.proposals](connected_spans(frames, chosen.threshold))
    return tuple(Proposal(start, stop, float(frames[start:stop].mean())) for start, stop in spans.tolist())


def proposal_scores(proposals: tuple[Proposal, ...], num_frames: int) -> NDArray[np.float64]:
    """Give the proposal level of a video, ``(num_frames,)``: each proposal's score in its frames, 0 elsewhere."""
    scores = np.zeros(num_frames)
    for proposal in proposals:
        scores[proposal.start : proposal.stop] = proposal.score
    return scores


def _first_of_blocks(num_segments: int, block: int) -> NDArray[np.int64]:
    if num_segments <= 2 * block:
        return np.arange(num_segments)
    return block * np.arange(num_segments // block)


REDUCTIONS: Mapping[str, Callable[[_Terms], dict[str, Tensor]]] = MappingProxyType(
    {"videos": _of_videos, "segments": _of_segments}
)
"""Name -> how the terms of sequences become those of a batch."""

PAIRS: Mapping[str, Callable[[Tensor, Tensor, int, np.random.Generator], tuple[Tensor, Tensor, Tensor]]] = (
    MappingProxyType({"drawn": _drawn, "given": _given})
)
"""Name -> (features, mask, block, random numbers) -> the first sequences, the second ones, and their mask."""

SCORED: Mapping[str, Callable[[int, int], NDArray[np.int64]]] = MappingProxyType(
    {"all": lambda num_segments, _: np.arange(num_segments), "first": _first_of_blocks}
)
"""Name -> (segments, block) -> the segments that are scored."""

PROPOSALS: Mapping[str, Callable[[NDArray[np.int64]], NDArray[np.int64]]] = MappingProxyType(
    {"largest": largest_span, "all": lambda spans: spans}
)
"""Name -> which of the spans above the threshold are proposals."""

INTERPOLATIONS: Mapping[str, Callable[[NDArray[np.float64], int], NDArray[np.float64]]] = MappingProxyType(
    {"linear": place_scores, "spline": lambda scores, num_places: place_scores(scores, num_places, spline=True)}
)
"""Name -> (scores of segments, frames) -> scores of frames."""


class Align(Method):
    """CSL-TAL. Each of several crops is a sample, as in the authors' code; a video's scores are the crops' means.

    The paper's bags are videos of any length, a clip a segment, and so are those of ``rule``; a batch is as long as its
    longest video. ``xdviolence-200`` holds the longer ones to 200 clips, and ``csltal-pairs`` draws pairs once for all:
    see ``pairs``.
    """

    settings_class = AlignSettings
    rule = "clips"
    variants: ClassVar = MappingProxyType(
        {
            "code": _CODE,
            "code-head": MappingProxyType(
                {
                    **_CODE,
                    "normal_bags": 8,
                    "anomalous_bags": 8,
                    "iterations": 50 * _CROPS_EPOCH // 2,
                    "slower_from": 30 * _CROPS_EPOCH // 2,
                    "attention": "gated",
                    "smoothness": 0.0,
                    "alignment": 0.55,
                }
            ),
        }
    )
    settings: AlignSettings

    def network(self, dim: int) -> AlignNetwork:
        return AlignNetwork(dim, self.settings)

    def loss(self, network: nn.Module, batch: Batch, phase: str = "all") -> Losses:
        """Give Eq. 6 of two sequences of each bag."""
        del phase
        chosen, num_crops = self.settings, batch.features.shape[2]
        first, second, counts = PAIRS[chosen.pairs](
            batch.features.transpose(1, 2).flatten(0, 1),
            batch.mask.repeat_interleave(num_crops, dim=0),
            chosen.block,
            np.random.default_rng(batch.seed),
        )
        counts = torch.cat([counts, counts])
        attention, logits = network(torch.cat([first, second]), counts)
        labels = batch.labels.repeat_interleave(num_crops).repeat(2).to(logits.dtype)
        terms = _Terms(
            classification=functional.binary_cross_entropy_with_logits(logits, labels, reduction="none"),
            sparsity=sparsity(attention, counts),
            smoothness=smoothness(attention, counts),
            alignment=alignment(*attention.chunk(2)),
            num_segments=counts.sum(dim=1),
        )
        parts = REDUCTIONS[chosen.reduction](terms)
        weights = {"sparsity": chosen.sparsity, "smoothness": chosen.smoothness, "alignment": chosen.alignment}
        return Losses({name: weights.get(name, 1.0) * part for name, part in parts.items()})

    def score(self, network: nn.Module, features: Tensor) -> Scores:
        """Give the scores of segments, and the classifier's of the video.

        ``more`` holds ``attention``, the T-CAM ``activation`` and their product ``weighted``, ``(segment,)`` each, all
        in [0, 1]; `frame_activation` and `find_proposals` take the last.

        Raises
        ------
        UsageError
            with ``pairs="given"`` for an odd number of segments.
        """
        chosen, own = self.settings, cast("AlignNetwork", network)
        num_sequences = 2 if chosen.pairs == "given" else 1
        if len(features) % num_sequences:
            msg = f"{len(features)} segments are no pair of sequences: make bags with --rule csltal-pairs"
            raise UsageError(msg)
        num_segments = len(features) // num_sequences
        scored = SCORED[chosen.scored](num_segments, chosen.block)
        sequences = features.reshape(num_sequences, num_segments, *features.shape[1:]).transpose(1, 2).flatten(0, 1)
        sequences = sequences[:, scored]
        attention, logits = own(sequences, torch.ones(sequences.shape[:2], dtype=torch.bool, device=features.device))
        activation = own.activation(sequences)
        holders = np.searchsorted(scored, np.arange(num_segments), side="right") - 1

        def of_segments(values: Tensor) -> Tensor:
            return values[:, holders].reshape(num_sequences, -1, num_segments).mean(dim=1).flatten()

        more = {
            "attention": of_segments(attention),
            "activation": of_segments(activation),
            "weighted": of_segments(attention * activation),
        }
        return Scores(more[chosen.segment_score], video=torch.sigmoid(logits).mean().item(), more=more)

    def optimisers(self, network: nn.Module) -> dict[str, Optimizer]:
        return {"all": Adam(network.parameters(), lr=self.settings.learning_rate)}

    def pace(self, iteration: int) -> float:
        return 0.1 if iteration >= self.settings.slower_from else 1.0
