"""Recognition of the kind of anomaly from whole videos' features: the baselines of Sultani et al. 2018, table 5.

The first, C3D, is a nearest neighbour among the training videos. The second, TCNN (R. Hou, C. Chen, M. Shah, ICCV
2017), is a network trained end to end; what of it can be had on stored features is its pooling and its classifier.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Adam, Optimizer

from ...errors import UsageError
from . import Batch, Losses, Method, Scores, Settings, check_choices
from .baselines import video_means
from .deepmil import crop_mean
from .lad import CLASS_LISTS, NORMAL, UNKNOWN

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class KindSettings(Settings):
    """What is recognised: ``classes`` is one of `vadx.pipelines.methods.lad.CLASS_LISTS`, or names with commas between.

    Raises
    ------
    UsageError
        if a kind is named twice, or none is.
    """

    classes: str = "ucf-crime"

    def __post_init__(self) -> None:
        Settings.__post_init__(self)
        names = self.class_names
        if len(set(names)) != len(names) or not all(names):
            msg = (
                f"classes {self.classes!r} names a kind twice, or none: give one of {', '.join(CLASS_LISTS)}, or names "
                "with commas between them"
            )
            raise UsageError(msg)

    @property
    def class_names(self) -> tuple[str, ...]:
        return CLASS_LISTS.get(self.classes) or tuple(name.strip() for name in self.classes.split(","))


def kinds_of(batch: Batch, names: Sequence[str]) -> list[int]:
    """Give the place of each bag's kind in ``names``; `UNKNOWN` where nobody gave it.

    A normal bag is of the kind Normal, where that is one.

    Raises
    ------
    UsageError
        if an anomalous bag's kind is not among the names.
    """
    normal = names.index(NORMAL) if NORMAL in names else UNKNOWN
    found = []
    for bag, is_anomalous in enumerate(batch.anomalous.tolist()):
        name = batch.classes[bag] if batch.classes else ""
        if is_anomalous and name and name not in names:
            msg = (
                f"{batch.ids[bag]}: its kind {name!r} is none of {', '.join(names)}, and kinds are what is learned: "
                f"give them all, as classes='{name},...'"
            )
            raise UsageError(msg)
        known = names.index(name) if name else UNKNOWN
        found.append(known if is_anomalous else normal)
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class NearestSettings(KindSettings):
    """How training videos are remembered: in 100 ``iterations``, of 30 bags of each label, up to 3,000 of each."""

    iterations: int = 100


NO_KEY = -1
"""The key of a video without an id."""


class Memory(nn.Module):
    """Videos that were seen: nothing is learned, and everything is kept.

    ``means (video, feature)`` of unit length, ``labels (video,)``, ``kinds (video,)``, and ``keys (video,)``, which
    stand for their ids.
    """

    means: Tensor
    labels: Tensor
    kinds: Tensor
    keys: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("means", torch.zeros(0, dim))
        for name in ("labels", "kinds", "keys"):
            self.register_buffer(name, torch.zeros(0, dtype=torch.int64))

    def remember(self, means: Tensor, labels: Tensor, kinds: Tensor, keys: Tensor) -> None:
        """Keep those videos whose keys are new, or `NO_KEY`; shapes as in the class."""
        known, new = {*self.keys.tolist()}, []
        for at, key in enumerate(keys.tolist()):
            if key not in known or key == NO_KEY:
                new.append(at)
                known.add(key)
        for name, values in (("means", means), ("labels", labels), ("kinds", kinds), ("keys", keys)):
            kept = getattr(self, name)
            setattr(self, name, torch.cat([kept, values[new].to(kept)]))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        # How many videos it holds shows only now.
        for name in ("means", "labels", "kinds", "keys"):
            if prefix + name in state_dict:
                kept = getattr(self, name)
                setattr(self, name, kept.new_empty(len(state_dict[prefix + name]), *kept.shape[1:]))
        super()._load_from_state_dict(state_dict, prefix, *rest)


def nearest(queries: Tensor, means: Tensor) -> Tensor:
    """Give the distance from each of ``queries (query, feature)`` to the nearest of ``means``: ``(query,)``.

    All are of unit length, or 0, so that none is more than 2; so far away is the nearest of none.
    """
    if not len(means):
        return queries.new_full(queries.shape[:1], 2.0)
    # The quicker way by products is off by 1e-3 where vectors are alike.
    return torch.cdist(queries, means, compute_mode="donot_use_mm_for_euclid_dist").amin(dim=1)


class NearestNeighbour(Method):
    """C3D in table 5: the mean of a video's features, of unit length, and the class of the nearest training video.

    The mean is that of segments, equally long but for rounding; of clips themselves it is with the rule ``clips``. A
    class scores ``1 - d / 2`` with the distance d to its nearest video, 0 without any, so that the best of them is that
    of the nearest video of all. A segment scores ``n / (n + a)``, the distances to the nearest normal and the nearest
    anomalous video, which is none of the paper's.

    Nothing descends a gradient: the loss has no parts, and a step of a training only looks at its bags.
    """

    settings_class = NearestSettings
    rule = "rtfm"
    settings: NearestSettings

    def network(self, dim: int) -> Memory:
        return Memory(dim)

    def loss(self, network: nn.Module, batch: Batch, phase: str = "all") -> Losses:
        """Remember the batch's videos, those without an id always."""
        del phase
        memory = cast("Memory", network)
        means = F.normalize(video_means(crop_mean(batch.features), batch.mask), dim=1)
        digests = [hashlib.sha256(identifier.encode()).digest() for identifier in batch.ids]
        keys = [int.from_bytes(digest[:8]) >> 1 for digest in digests] or [NO_KEY] * len(means)
        kinds = kinds_of(batch, self.settings.class_names)
        memory.remember(means, batch.labels, torch.tensor(kinds), torch.tensor(keys))
        return Losses({})

    def score(self, network: nn.Module, features: Tensor) -> Scores:
        memory, segments = cast("Memory", network), crop_mean(features)
        video = F.normalize(segments.mean(dim=0, keepdim=True), dim=1)
        queries = torch.cat([F.normalize(segments, dim=1), video])
        normal, anomalous = (nearest(queries, memory.means[memory.labels == label]) for label in (0, 1))
        both = normal + anomalous
        scores = torch.where(both > 0, normal / both.clamp(min=torch.finfo(both.dtype).tiny), 0.5)
        kinds = range(len(self.settings.class_names))
        far = torch.cat([nearest(video, memory.means[memory.kinds == kind]) for kind in kinds])
        return Scores(segments=scores[:-1], video=scores[-1].item(), classes=1 - far / 2)

    def optimisers(self, network: nn.Module) -> dict[str, Optimizer]:
        del network
        return {}


@dataclass(frozen=True, slots=True, kw_only=True)
class RecognitionSettings(KindSettings):
    """How the linear classifier is trained.

    ``pooling`` of a video's segments: ``max`` as TCNN's pooling of clips, or ``mean``. ``learning_rate`` 1e-3 and
    ``weight_decay`` 5e-4 of Adam are vadx's; 1,000 ``iterations``.

    Raises
    ------
    UsageError
        if a value cannot be meant.
    """

    pooling: str = "max"
    learning_rate: float = 1e-3
    weight_decay: float = 5e-4

    def __post_init__(self) -> None:
        KindSettings.__post_init__(self)
        check_choices(self, {"pooling": ("max", "mean")})
        if self.learning_rate <= 0 or self.weight_decay < 0:
            msg = (
                f"learning_rate is {self.learning_rate}, weight_decay {self.weight_decay}; give a learning rate above "
                "0 and a decay of 0 or more"
            )
            raise UsageError(msg)


class Recognition(Method):
    """TCNN in table 5, as far as stored features allow: pooling over a video, and a linear softmax classifier.

    TCNN trains the convolutions below as well, and pools them in tubes. Videos without a known kind teach nothing.
    Normal ones are a class of their own, after the others where it is none of ``classes``; a segment scores one minus
    its probability, the segment pooled alone.
    """

    settings_class = RecognitionSettings
    rule = "rtfm"
    settings: RecognitionSettings

    @property
    def _outputs(self) -> tuple[str, ...]:
        names = self.settings.class_names
        return names if NORMAL in names else (*names, NORMAL)

    def network(self, dim: int) -> nn.Linear:
        return nn.Linear(dim, len(self._outputs))

    def loss(self, network: nn.Module, batch: Batch, phase: str = "all") -> Losses:
        del phase
        segments = crop_mean(batch.features)
        if self.settings.pooling == "mean":
            pooled = video_means(segments, batch.mask)
        else:
            pooled = segments.masked_fill(~batch.mask[..., None], -torch.inf).amax(dim=1)
        kinds = torch.tensor(kinds_of(batch, self._outputs), device=pooled.device)
        known = kinds != UNKNOWN
        if not bool(known.any()):
            return Losses({})
        return Losses({"classes": F.cross_entropy(network(pooled[known]), kinds[known])})

    def score(self, network: nn.Module, features: Tensor) -> Scores:
        segments = crop_mean(features)
        pooled = segments.amax(dim=0) if self.settings.pooling == "max" else segments.mean(dim=0)
        normal = self._outputs.index(NORMAL)
        classes = network(pooled).softmax(dim=0)
        return Scores(
            segments=1 - network(segments).softmax(dim=1)[:, normal],
            video=1 - classes[normal].item(),
            classes=classes[: len(self.settings.class_names)],
        )

    def optimisers(self, network: nn.Module) -> dict[str, Optimizer]:
        chosen = self.settings
        return {"all": Adam(network.parameters(), lr=chosen.learning_rate, weight_decay=chosen.weight_decay)}
