"""Tubes and videolets that guide each other: J. Wu et al., "Weakly-Supervised Spatio-Temporal Anomaly Detection in
Surveillance Video", IJCAI 2021.

Two branches of the same form score instances of a video: the tube branch those that follow objects, the temporal branch
the video's equal segments, its videolets. Each is trained on the instance that it finds worst in a video, and the other
branch says how much that instance counts. No code was published: where the paper is silent, `MgprSettings` says what is
done here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...detectors.tubes import MAX_TUBES, Tube, coarser_parts
from ...errors import UsageError
from ..localisation import PredictedTrack
from . import Batch, Losses, Method, Scores, Settings, check_choices
from .deepmil import crop_mean

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch.optim import Optimizer

OTHER: Mapping[str, str] = MappingProxyType({"temporal": "tube", "tube": "temporal"})
"""A branch -> the one that guides it. The order is that of an iteration, algorithm 3: the tube branch is updated after,
and guided by, the temporal branch of the same iteration."""

CHOICES: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "ranking": {
            "guided": "equations 4 and 5: the other branch weighs the pair",
            "plain": "every pair weighs 1, as Sultani et al.; L_Rank of table 3",
            "none": "left out; CE of table 3",
        },
        "guide_context": {
            "bag": "the guide sees the whole bag, as it does when it scores",
            "single": "it sees the one instance alone, so that its attention has nothing to relate",
        },
        "relation": {"attention": "equations 1 to 3", "none": "left out; MVT only of table 4"},
        "normalize": {"none": "features as they are; the paper names nothing", "l2": "rows of unit length"},
        "branches": {
            "both": "equation 9: the mean of both",
            "tube": "the tube branch alone; Tube of table 2",
            "temporal": "the temporal branch alone; Temporal of table 2",
        },
    }
)
"""Setting -> what it can be, and what that means."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MgprSettings(Settings):
    """Settings of WSSTAD, with what section 4 of the paper gives where it does.

    ``num_heads`` H = 8 (section 3.2); ``hidden_widths`` 512 and 32 and ``dropout`` 0.6, the predictor of Sultani et al.
    2018, section 5.1; ``learning_rate`` 5e-4 of Adam and 30 bags of each kind; ``max_tubes`` 200 instances in a bag;
    ``num_parts`` M, into how many a tube is cut for scoring (3.4), for which the paper gives no number, and neither for
    ``iterations``; ``cross_entropy`` equation 7. `CHOICES` has the others.

    Raises
    ------
    UsageError
        for a value that cannot be meant.
    """

    iterations: int = 2000
    num_heads: int = 8
    hidden_widths: tuple[int, int] = (512, 32)
    dropout: float = 0.6
    learning_rate: float = 5e-4
    max_tubes: int = MAX_TUBES
    num_parts: int = 4
    ranking: str = "guided"
    cross_entropy: bool = True
    guide_context: str = "bag"
    relation: str = "attention"
    normalize: str = "none"
    branches: str = "both"

    def __post_init__(self) -> None:
        Settings.__post_init__(self)
        check_choices(self, CHOICES)
        # What was written as JSON comes back as a list.
        object.__setattr__(self, "hidden_widths", tuple(self.hidden_widths))
        if self.normal_bags != self.anomalous_bags:
            msg = (
                f"normal_bags {self.normal_bags} and anomalous_bags {self.anomalous_bags}: each normal bag is compared "
                f"with one anomalous bag; give the same number of both"
            )
            raise UsageError(msg)
        if min(self.num_heads, self.max_tubes, *self.hidden_widths) < 1 or len(self.hidden_widths) != 2:
            msg = (
                f"num_heads {self.num_heads}, max_tubes {self.max_tubes} and both hidden_widths {self.hidden_widths} "
                f"count things: give 1 or more, such as 8, 200 and (512, 32)"
            )
            raise UsageError(msg)
        if not 0 <= self.dropout < 1 or not self.learning_rate > 0:
            msg = f"dropout {self.dropout} is below 1, learning_rate {self.learning_rate} above 0: give 0.6 and 5e-4"
            raise UsageError(msg)
        if self.ranking == "none" and not self.cross_entropy:
            msg = "ranking is 'none' and cross_entropy off, so nothing would be learned: give one of them"
            raise UsageError(msg)
        # The same limits as where tubes are cut.
        coarser_parts(1, self.num_parts)


class Relation(nn.Module):
    """Equations 1 to 3: multi-head self-attention over the instances of a bag, plus the instances.

    Heads are scaled by the square root of their own width, d/H, for in equation 2 that is the height of W^Q_j. They are
    set side by side and that is all: `torch.nn.MultiheadAttention`, with its biases and output projection, is another
    model.
    """

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(dim, dim, bias=False)
        self.key = nn.Linear(dim, dim, bias=False)
        self.value = nn.Linear(dim, dim, bias=False)

    def forward(self, instances: Tensor, mask: Tensor) -> Tensor:
        """Map ``instances (bag, instance, dim)`` to the same shape; ``mask (bag, instance)`` is False at padding."""
        num_bags, num_instances, _ = instances.shape
        query, key, value = (
            layer(instances).view(num_bags, num_instances, self.num_heads, -1).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        # Over no key at all the softmax would be NaN, and so would gradients of bags beside it.
        seen = mask | ~mask.any(dim=1, keepdim=True)
        context = F.scaled_dot_product_attention(query, key, value, attn_mask=seen[:, None, None, :])
        return context.transpose(1, 2).reshape(instances.shape) + instances


class Branch(nn.Module):
    """The relation module and the abnormal score predictor: FC 512, ReLU, FC 32, FC 1, with dropout between."""

    def __init__(self, dim: int, settings: MgprSettings) -> None:
        super().__init__()
        first, second = settings.hidden_widths
        self.normalize = settings.normalize
        self.relation = Relation(dim, settings.num_heads) if settings.relation == "attention" else None
        self.predictor = nn.Sequential(
            nn.Linear(dim, first),
            nn.ReLU(),
            nn.Dropout(settings.dropout),
            nn.Linear(first, second),
            nn.Dropout(settings.dropout),
            nn.Linear(second, 1),
        )

    def forward(self, instances: Tensor, mask: Tensor) -> Tensor:
        """Give the logit of each instance, ``(bag, instance)``, minus infinity at padding."""
        if self.normalize == "l2":
            instances = F.normalize(instances, dim=-1)
        if self.relation is not None:
            instances = self.relation(instances, mask)
        logits: Tensor = self.predictor(instances).squeeze(-1)
        return logits.masked_fill(~mask, -torch.inf)


class MgprNetwork(nn.Module):
    """Both branches, ``branches["temporal"]`` and ``branches["tube"]``; they share nothing."""

    def __init__(self, dim: int, settings: MgprSettings) -> None:
        super().__init__()
        self.branches = nn.ModuleDict({name: Branch(dim, settings) for name in OTHER})


def guided_ranking(guide: Tensor, anomalous: Tensor, normal: Tensor) -> Tensor:
    """Equations 4 and 5 for each pair, ``(pair,)``: ``max(0, guide * (1 - anomalous + normal))``, all scores.

    The guide is a constant, for its branch is frozen: a gradient would push the guide's own score of an abnormal
    instance down. Scores lie between 0 and 1, so the maximum never acts.
    """
    return F.relu(guide.detach() * (1 - anomalous + normal))


def worst_cross_entropy(anomalous: Tensor, normal: Tensor) -> tuple[Tensor, Tensor]:
    """Equation 7 of one branch, from logits of worst instances: ``-log p`` of anomalous bags and ``-log(1 - p)`` of
    normal ones, one a bag.
    """
    return -F.logsigmoid(anomalous), -F.logsigmoid(-normal)


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Have a module guide: no gradient, no dropout."""
    was_training = module.training
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        module.train(was_training)


def guide_scores(branch: nn.Module, instances: Tensor, mask: Tensor, at: Tensor, context: str = "bag") -> Tensor:
    """Give what a branch thinks of instance ``at (bag,)`` of each bag, ``(bag,)``; ``context`` as in `CHOICES`."""
    rows = torch.arange(len(at), device=at.device)
    if context == "single":
        instances, mask = instances[rows, at].unsqueeze(1), mask[rows, at].unsqueeze(1)
        at = torch.zeros_like(at)
    with frozen(branch):
        scores: Tensor = branch(instances, mask)[rows, at].sigmoid()
    return scores


@dataclass(frozen=True, slots=True, eq=False)
class BranchBags:
    """What a phase looks at. Shapes: ``own`` and ``guide (bag, instance, feature)``, the same instances as the branch
    and as its guide sees them; ``mask (bag, instance)``.
    """

    own: Tensor
    guide: Tensor
    mask: Tensor


def phase_bags(batch: Batch, phase: str) -> BranchBags:
    """Give what a phase looks at.

    Videolets are the mean over crops. Tubes are ``more["region"]`` and ``more["whole_frame"] (bag, instance,
    feature)``, T^r and T^g, with ``more["tube_mask"] (bag, instance)``; `tube_tensors` makes them. In bags without
    these the videolets stand in for tubes, as they do where the tube branch guides.
    """
    videolets = crop_mean(batch.features)
    if phase == "temporal" or "region" not in batch.more:
        return BranchBags(videolets, videolets, batch.mask)
    return BranchBags(batch.more["region"], batch.more["whole_frame"], batch.more["tube_mask"])


def tube_tensors(shards: Sequence[Mapping[str, NDArray[Any]]], max_tubes: int = MAX_TUBES) -> dict[str, Tensor]:
    """Give what a batch's ``more`` holds of tubes, from the arrays of each bag's shard of tube features.

    The first ``max_tubes`` of each are taken: the best come first. A video may have none.
    """
    counts = [min(len(arrays["region"]), max_tubes) for arrays in shards]
    dim = max((arrays["region"].shape[1] for arrays in shards), default=0)
    # One at least: a maximum over nothing cannot be taken.
    shape = len(shards), max([1, *counts]), dim
    tensors = {name: torch.zeros(shape) for name in ("region", "whole_frame")}
    mask = torch.zeros(shape[:2], dtype=torch.bool)
    for bag, (arrays, count) in enumerate(zip(shards, counts, strict=True)):
        mask[bag, :count] = True
        for name, tensor in tensors.items():
            if count:
                tensor[bag, :count] = torch.from_numpy(np.asarray(arrays[name][:count], np.float32))
    return {**tensors, "tube_mask": mask}


@dataclass(frozen=True, slots=True, eq=False)
class TubeParts:
    """Tubes of a video, cut into parts.

    Shapes: ``region`` and ``whole_frame (part, feature)`` float32; ``instance (part,)``, which tube it is a part of;
    ``frames (part, 2)``, its half-open source frames.
    """

    region: NDArray[np.float32]
    whole_frame: NDArray[np.float32]
    instance: NDArray[np.int64]
    frames: NDArray[np.int64]


def cut_tubes(arrays: Mapping[str, NDArray[Any]], tubes: Sequence[Tube], num_parts: int) -> TubeParts:
    """Cut every tube of a shard of tube features evenly into ``num_parts``, from its 32 stored parts.

    ``tubes`` are those of the shard of tubes, in its order. Features are the means over the clips of a part. A part
    begins where its first clip does, and the last also takes the frames that fill no clip. A tube of fewer clips has
    one part a clip.

    Raises
    ------
    UsageError
        unless ``num_parts`` divides 32.
    """
    dim = arrays["region"].shape[1]
    means: dict[str, list[NDArray[np.float32]]] = {"region": [], "whole_frame": []}
    instance: list[int] = []
    frames = [np.zeros((0, 2), np.int64)]
    for place, number in enumerate(arrays["tube"].tolist()):
        first, stop = arrays["part_offset"][place : place + 2].tolist()
        clips = arrays["part_clips"][first:stop].astype(np.int64)
        edges = coarser_parts(int(clips.sum()), num_parts)[:, 0]
        for name, found in means.items():
            weighted = arrays[f"{name}_parts"][first:stop].astype(np.float64) * clips[:, None]
            mean = np.add.reduceat(weighted, edges) / np.add.reduceat(clips, edges)[:, None]
            found.append(mean.astype(np.float32))
        first_clips = arrays["clip_offset"][place] + (np.cumsum(clips) - clips)[edges]
        starts = arrays["clip_frames"][first_clips, 0].astype(np.int64)
        starts[0] = tubes[number].frames[0]
        frames.append(np.stack([starts, [*starts[1:], tubes[number].frames[-1] + 1]], axis=1))
        instance += [place] * len(edges)
    empty = np.zeros((0, dim), np.float32)
    return TubeParts(
        np.concatenate([empty, *means["region"]]),
        np.concatenate([empty, *means["whole_frame"]]),
        np.array(instance, np.int64),
        np.concatenate(frames),
    )


@dataclass(frozen=True, slots=True, eq=False)
class ScoredTubes:
    """The parts of a video's tubes with their boxes and ``scores (part,)`` float64, as `evaluate.VideoTubes` takes
    them. Equation 9: ``top`` is the first of the highest score, None without tubes; ``score`` the video's, 0 then.
    """

    parts: TubeParts
    tracks: tuple[PredictedTrack, ...]
    scores: NDArray[np.float64]

    @property
    def top(self) -> int | None:
        return int(np.argmax(self.scores)) if len(self.scores) else None

    @property
    def score(self) -> float:
        return float(self.scores.max(initial=0.0))


class Mgpr(Method):
    """WSSTAD with mutually-guided progressive refinement. Its bags are 32 videolets, and tubes in ``Batch.more``."""

    settings: MgprSettings
    settings_class: ClassVar[type[Settings]] = MgprSettings
    # "We also follow [Sultani et al.]" for 32 equal segments, but no unit length is spoken of.
    rule: ClassVar[str] = "rtfm"
    phases: ClassVar[tuple[str, ...]] = tuple(OTHER)

    def network(self, dim: int) -> MgprNetwork:
        if dim % self.settings.num_heads:
            msg = f"{self.settings.num_heads} heads cannot share features of {dim} numbers: give num_heads that divides"
            raise UsageError(msg)
        return MgprNetwork(dim, self.settings)

    def optimisers(self, network: nn.Module) -> dict[str, Optimizer]:
        branches = _branches(network)
        return {name: torch.optim.Adam(branches[name].parameters(), lr=self.settings.learning_rate) for name in OTHER}

    def loss(self, network: nn.Module, batch: Batch, phase: str = "all") -> Losses:
        """Give equation 8 of one branch: the mean over pairs of bags, i-th with i-th, of ranking and cross entropy.

        A bag without tubes counts nowhere in the tube phase; where none has any, there are no parts, and no step.
        """
        if phase not in OTHER:
            msg = f"mgpr has the phases {', '.join(OTHER)}, in this order; got {phase!r}"
            raise UsageError(msg)
        branches = _branches(network)
        bags = phase_bags(batch, phase)
        here = bags.mask.any(dim=1)
        if not bool(here.any()):
            return Losses({})
        worst, at = branches[phase](bags.own, bags.mask).max(dim=1)
        anomalous, normal = batch.anomalous, batch.normal
        parts: dict[str, Tensor] = {}
        if self.settings.ranking != "none":
            pairs = here[anomalous] & here[normal]
            scores = worst.sigmoid()
            guide = torch.ones_like(scores[anomalous])
            if self.settings.ranking == "guided":
                guide = guide_scores(
                    branches[OTHER[phase]],
                    bags.guide[anomalous],
                    bags.mask[anomalous],
                    at[anomalous],
                    self.settings.guide_context,
                )
            parts["ranking"] = _mean(guided_ranking(guide, scores[anomalous], scores[normal])[pairs])
        if self.settings.cross_entropy:
            terms = worst_cross_entropy(worst[anomalous & here], worst[normal & here])
            parts["cross_entropy"] = _mean(terms[0]) + _mean(terms[1])
        return Losses(parts)

    def score(self, network: nn.Module, features: Tensor) -> Scores:
        """Score the segments of a video by the mean of both branches, appendix F; ``more`` has each branch's."""
        videolets = crop_mean(features)
        scores, each = self._score(network, videolets, videolets)
        return Scores(scores, float(scores.max()), more=each)

    def score_tubes(self, network: nn.Module, arrays: Mapping[str, NDArray[Any]], tubes: Sequence[Tube]) -> ScoredTubes:
        """Score the parts of a video's tubes, equation 9. ``arrays`` and ``tubes`` as in `cut_tubes`.

        All parts are one bag, up to 800: scores depend on what attention sees beside them.
        """
        parts = cut_tubes(arrays, tubes, self.settings.num_parts)
        scores = np.zeros(len(parts.instance))
        if len(scores):
            near = next(network.parameters())
            region, whole = (torch.from_numpy(one).to(near) for one in (parts.region, parts.whole_frame))
            with frozen(network):
                scores = self._score(network, region, whole)[0].cpu().numpy().astype(np.float64)
        tracks = tuple(
            _track(tubes[int(arrays["tube"][place])], *frames)
            for place, frames in zip(parts.instance.tolist(), parts.frames.tolist(), strict=True)
        )
        return ScoredTubes(parts, tracks, scores)

    def _score(self, network: nn.Module, region: Tensor, whole_frame: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Score instances ``(instance, feature)`` of one video."""
        branches = _branches(network)
        mask = torch.ones(1, len(region), dtype=torch.bool, device=region.device)
        seen = {"temporal": whole_frame, "tube": region}
        each = {name: branches[name](seen[name].unsqueeze(0), mask)[0].sigmoid() for name in OTHER}
        if self.settings.branches != "both":
            return each[self.settings.branches], each
        return (each["tube"] + each["temporal"]) / 2, each


def _branches(network: nn.Module) -> nn.ModuleDict:
    if not isinstance(network, MgprNetwork):
        msg = f"expected what Mgpr.network makes, got {type(network).__name__}"
        raise TypeError(msg)
    return network.branches


def _mean(terms: Tensor) -> Tensor:
    """Give the mean, 0 of nothing."""
    return terms.sum() / max(1, len(terms))


def _track(tube: Tube, start: int, stop: int) -> PredictedTrack:
    rows = slice(start - int(tube.frames[0]), stop - int(tube.frames[0]))
    return PredictedTrack(tube.frames[rows], tube.boxes[rows], tube.interpolated[rows])
