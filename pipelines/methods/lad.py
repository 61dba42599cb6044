"""Kinds of anomaly and a score for every frame, learned together: B. Wan, W. Jiang, Y. Fang, Z. Luo, G. Ding, "Anomaly
detection in video sequences: A benchmark and computational model", IET Image Processing 2021.

The features of K = 5 clips in a row, I3D of RGB and of flow side by side, go through two convolutional LSTM layers; one
head names the kind of anomaly, another scores the 80 frames. It learns from labels of frames. What is said of the
authors' code is read in wanboyang/anomaly_detection_LAD2000.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import UsageError
from ...features.annotations import UCF_CLASSES
from . import Batch, Losses, Method, Scores, Settings, check_choices
from .deepmil import crop_mean

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch.optim import Optimizer

UNKNOWN = -1
"""The label of a frame that is not there, and of a kind of anomaly that nobody gave."""

NORMAL = "Normal"
"""The class of normal videos where they have one of their own."""

CLASS_LISTS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "lad": (
            *("Crash", "Crowd", "Destroy", "Drop", "FallIntoWater", "Falling", "Fighting", "Fire", "Hurt", "Loitering"),
            *("Panic", "Thiefing", "Trampled", "Violence"),
        ),
        "ucf-crime": (*UCF_CLASSES, NORMAL),
    }
)
"""Data set -> its kinds, in the order of the code's utils/gt_creater.py and gt_creater_UCF_Crime.py."""

CHOICES: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "frame_loss": {
            "sum": "equation 7 as printed: the sum over the 80 frames of a window",
            "mean": "train.py: the mean over them",
        },
        "normal_class": {
            "folder": "the kind whose name stands in the id, as in LAD2000, whose normal videos lie among them",
            "own": "the class Normal, as in UCF-Crime",
            "none": "normal videos teach no kind",
        },
        "beyond": {
            "ignore": "frames beyond a video's end count nowhere, a short video's last clip is repeated",
            "zero": "utils.py pad: they are normal frames, missing clips are zeros",
        },
        "redraw": {
            "together": "clips and labels are of the same window",
            "labels-restart": "the second draw is of clips already cut, so labels begin at the video's start",
        },
        "windows": {
            "disjoint": "windows that follow each other; each frame is scored once",
            "overlapping": "a window begins at every clip; a frame's score is the highest of its windows",
            "scrambled": "test.py: as overlapping, but .view(K, windows, D) mixes the clips of different windows",
        },
        "last_window": {
            "keep": "all frames are compared",
            "drop": "eval.py: a last window that had to be filled is left out",
        },
    }
)
"""Setting -> what it can be, and what that means."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LadSettings(Settings):
    """Settings of the multi-task network. [P] is the paper, section 5.1 unless named; [C] the authors' code.

    ``window_clips`` K = 5 and ``clip_frames`` m = 16 [P]; ``grid``: a clip's vector is seen as ``(dim / 16, 4, 4)``
    [C]; ``hidden_channels`` 128, ``kernel_size`` 3, ``num_layers`` 2 [P]; ``peepholes`` equations 1 to 5 [P], none [C].
    ``shared_widths``, ``head_width``: "four fully convolutional layers" of 2048, 1024, 512 and then C or 80 [P]; three
    in section 4 of [P] and in [C], where 2048 is what comes in. That all but the last two are shared, their ReLUs and
    which have biases is [C]'s.

    ``class_weight`` 1, ``frame_weight`` 10, equation 8. ``weight_decay`` 5e-4 of Adam adds 5e-4 W to the gradient and
    is all that is said of equation 6's gamma [P]; ``gamma`` adds that term itself, whose gradient is 2 gamma W.
    ``learning_rate`` 3e-4 [P], 1e-4 [C]; 60 windows a batch [P], 30 and 30 [C]; ``iterations`` up to 12,000 [C].
    ``max_redraws``: so often another window is drawn of an anomalous video until it has an anomalous frame [C].
    ``reach_last``: whether the last window is ever drawn, which it is not in [C]. ``threshold`` 0.5, from which on a
    frame is called anomalous [P].

    ``classes`` is one of `CLASS_LISTS`, or names with commas between them; the other settings are in `CHOICES`.

    Raises
    ------
    UsageError
        for a value that cannot be meant.
    """

    iterations: int = 12_000
    window_clips: int = 5
    clip_frames: int = 16
    grid: int = 4
    hidden_channels: int = 128
    kernel_size: int = 3
    num_layers: int = 2
    peepholes: bool = True
    shared_widths: tuple[int, ...] = (2048, 1024)
    head_width: int = 512
    classes: str = "lad"
    normal_class: str = "folder"
    class_weight: float = 1.0
    frame_weight: float = 10.0
    frame_loss: str = "sum"
    gamma: float = 0.0
    learning_rate: float = 3e-4
    weight_decay: float = 5e-4
    beyond: str = "ignore"
    redraw: str = "together"
    max_redraws: int = 10
    reach_last: bool = True
    windows: str = "disjoint"
    last_window: str = "keep"
    threshold: float = 0.5

    def __post_init__(self) -> None:
        Settings.__post_init__(self)
        check_choices(self, CHOICES)
        # What was written as JSON comes back as a list.
        object.__setattr__(self, "shared_widths", tuple(self.shared_widths))
        for name in ("window_clips", "clip_frames", "grid", "hidden_channels", "num_layers", "head_width"):
            if getattr(self, name) < 1:
                msg = f"{name} is {getattr(self, name)}: it counts what the network has; give 1 or more"
                raise UsageError(msg)
        if self.kernel_size < 1 or self.kernel_size % 2 == 0 or min(self.shared_widths, default=0) < 1:
            msg = (
                f"kernel_size is {self.kernel_size} and shared_widths {self.shared_widths}: the first is odd, of the "
                f"others there is one or more; give 3 and (1024,)"
            )
            raise UsageError(msg)
        for name in ("class_weight", "frame_weight", "gamma", "weight_decay", "max_redraws"):
            if not getattr(self, name) >= 0:
                msg = f"{name} is {getattr(self, name)}: give 0 or more"
                raise UsageError(msg)
        if not self.learning_rate > 0 or not 0 <= self.threshold <= 1:
            msg = f"learning_rate {self.learning_rate} is above 0, threshold {self.threshold} in [0, 1]: give 3e-4, 0.5"
            raise UsageError(msg)
        names = self.class_names
        if len(set(names)) != len(names) or not all(names) or (self.normal_class == "own" and NORMAL not in names):
            msg = (
                f"classes {self.classes!r} names a kind twice, or none, or not {NORMAL} for normal_class='own': give "
                f"one of {', '.join(CLASS_LISTS)}, or names with commas between them"
            )
            raise UsageError(msg)

    @property
    def class_names(self) -> tuple[str, ...]:
        return CLASS_LISTS.get(self.classes) or tuple(name.strip() for name in self.classes.split(","))

    @property
    def num_outputs(self) -> int:
        """Scores of a window, one a frame."""
        return self.window_clips * self.clip_frames


class ConvLstmCell(nn.Module):
    """Equations 1 to 5, where X_cf and X_hc must be W_cf and W_hc.

    The two convolutions of a gate are one over input and state together, and all four gates one. Peephole weights are
    one a place and channel, for the product is Hadamard's.
    """

    def __init__(self, in_channels: int, settings: LadSettings) -> None:
        super().__init__()
        hidden, grid = settings.hidden_channels, settings.grid
        kernel = settings.kernel_size
        self.gates = nn.Conv2d(in_channels + hidden, 4 * hidden, kernel, padding=kernel // 2)
        self.peepholes = nn.Parameter(torch.zeros(3, hidden, grid, grid)) if settings.peepholes else None

    def forward(self, seen: Tensor, hidden: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Give the next state and memory, ``(window, hidden channel, grid, grid)`` like those that go in."""
        gates = self.gates(torch.cat([seen, hidden], dim=1))
        into, forget, out, new = gates.chunk(4, dim=1)
        if self.peepholes is not None:
            into = into + self.peepholes[0] * memory
            forget = forget + self.peepholes[1] * memory
        memory = forget.sigmoid() * memory + into.sigmoid() * new.tanh()
        if self.peepholes is not None:
            # Equation 4 looks at the memory of now, the other two at the one before.
            out = out + self.peepholes[2] * memory
        return out.sigmoid() * memory.tanh(), memory


@dataclass(frozen=True, slots=True, eq=False)
class WindowOutput:
    """What the network says of windows: ``classes (window, class)``, logits; ``frames (window, frame)`` in [0, 1]."""

    classes: Tensor
    frames: Tensor


class LadNetwork(nn.Module):
    """ConvLSTM layers, shared fully connected layers and two heads."""

    def __init__(self, dim: int, settings: LadSettings) -> None:
        super().__init__()
        self.grid = settings.grid
        self.hidden_channels = settings.hidden_channels
        channels = dim // settings.grid**2
        self.cells = nn.ModuleList(
            ConvLstmCell(settings.hidden_channels if layer else channels, settings)
            for layer in range(settings.num_layers)
        )
        widths = [settings.hidden_channels * settings.grid**2, *settings.shared_widths]
        layers: list[nn.Module] = []
        for width, next_width in pairwise(widths):
            layers += [nn.Linear(width, next_width), nn.ReLU()]
        self.shared = nn.Sequential(*layers)
        self.class_head = _head(widths[-1], settings.head_width, len(settings.class_names))
        self.score_head = _head(widths[-1], settings.head_width, settings.num_outputs)

    def forward(self, windows: Tensor) -> WindowOutput:
        """Score ``windows (window, clip, feature)``."""
        num_windows, num_clips, _ = windows.shape
        seen = windows.reshape(num_windows, num_clips, -1, self.grid, self.grid)
        steps = list(seen.unbind(dim=1))
        hidden = steps[0]
        for cell in self.cells:
            hidden = memory = steps[0].new_zeros(num_windows, self.hidden_channels, self.grid, self.grid)
            for at, step in enumerate(steps):
                hidden, memory = cell(step, hidden, memory)
                steps[at] = hidden
        shared = self.shared(hidden.flatten(1))
        return WindowOutput(self.class_head(shared), self.score_head(shared).sigmoid())


def _head(width: int, hidden: int, num_outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, hidden, bias=False), nn.ReLU(), nn.Linear(hidden, num_outputs, bias=False))


def class_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Give the mean cross entropy, equation 6 without gamma: ``logits (window, class)``, ``targets (window,)``; those
    that are `UNKNOWN` count nowhere.
    """
    total = F.cross_entropy(logits, targets, ignore_index=UNKNOWN, reduction="sum")
    return total / (targets != UNKNOWN).sum().clamp(min=1)


def frame_loss(scores: Tensor, labels: Tensor, reduction: str = "sum") -> Tensor:
    """Give the smooth L1 loss of scores of frames, equation 7: ``(window, frame)`` both; `UNKNOWN` counts nowhere.

    ``sum`` adds the frames of a window and takes the mean over windows, ``mean`` that over all frames. Scores and
    labels are never more than 1 apart, so it is half the square.
    """
    known = labels != UNKNOWN
    each = F.smooth_l1_loss(scores, labels.to(scores), reduction="none") * known
    return each.sum() / (len(scores) if reduction == "sum" else known.sum().clamp(min=1))


def squared_weights(network: nn.Module) -> Tensor:
    """Give gamma's factor in equation 6, the squared length of all weights; biases are not among them."""
    return torch.stack([p.square().sum() for name, p in network.named_parameters() if not name.endswith("bias")]).sum()


def class_index(name: str, identifier: str, *, anomalous: bool, settings: LadSettings) -> int:
    """Give the class of a video, `UNKNOWN` where none is to be known.

    Raises
    ------
    UsageError
        if an anomalous video's kind is not among the classes.
    """
    names = settings.class_names
    if anomalous:
        if name and name not in names:
            msg = (
                f"{identifier}: its kind {name!r} is none of {', '.join(names)}, and lad learns kinds: give them all, "
                f"as classes='{name},...'"
            )
            raise UsageError(msg)
        return names.index(name) if name else UNKNOWN
    if settings.normal_class == "own":
        return names.index(NORMAL)
    if settings.normal_class == "folder":
        words = re.split(r"[^A-Za-z]+", identifier)
        return next((at for at, kind in enumerate(names) if kind in (name, *words)), UNKNOWN)
    return UNKNOWN


def frame_spans(clips: NDArray[np.int64], clip_frames: int = 16) -> NDArray[np.int64]:
    """Give the source frames that each score of a clip is of, ``(clip * clip_frames, 2)``, for `expand_scores`.

    ``clips (clip, 2)`` are half-open source frames. A full clip is as long as the longest; it has 16 frames unless
    frames were sampled at another rate. Spans beyond a clip's end are empty.
    """
    edges = clips[:, :1] + _steps(clips, np.arange(clip_frames + 1), clip_frames)
    edges = np.minimum(edges, clips[:, 1:])
    return np.stack([edges[:, :-1], edges[:, 1:]], axis=2).reshape(-1, 2)


def frame_labels(clips: NDArray[np.int64], labels: NDArray[np.integer], clip_frames: int = 16) -> NDArray[np.int8]:
    """Give the labels that the scores of clips are compared with, ``(clip, clip_frames)``.

    ``labels (frame,)`` are a video's, 1 anomalous; `UNKNOWN` stands beyond a clip's end and the video's.
    """
    frames = clips[:, :1] + _steps(clips, np.arange(clip_frames), clip_frames)
    there = frames < np.minimum(clips[:, 1:], len(labels))
    return np.where(there, labels[np.where(there, frames, 0)], UNKNOWN).astype(np.int8)


def _steps(clips: NDArray[np.int64], places: NDArray[np.int64], clip_frames: int) -> NDArray[np.int64]:
    steps: NDArray[np.int64] = places * int((clips[:, 1] - clips[:, 0]).max()) // clip_frames
    return steps


def draw_window(
    labels: NDArray[np.integer], settings: LadSettings, random: np.random.Generator, *, anomalous: bool
) -> tuple[int, int]:
    """Draw where a window of a video begins: its first clip, and the clip whose labels stand first.

    ``labels (clip, clip_frames)``. The two differ only with ``redraw="labels-restart"``.
    """
    size = settings.window_clips
    num_starts = len(labels) - size + (1 if settings.reach_last else 0)
    if num_starts < 1 or len(labels) <= size:
        return 0, 0
    first = start = int(random.integers(num_starts))
    for _ in range(settings.max_redraws if anomalous else 0):
        if (labels[start : start + size] == 1).any():
            break
        start = 0 if settings.redraw == "labels-restart" else int(random.integers(num_starts))
    return (first if settings.redraw == "labels-restart" else start), start


def disjoint_rows(num_clips: int, size: int) -> NDArray[np.int64]:
    """Give the clips of windows that follow each other, ``(window, size)``; ``num_clips`` is a multiple of ``size``."""
    return np.arange(num_clips).reshape(-1, size)


def overlapping_rows(num_clips: int, size: int) -> NDArray[np.int64]:
    """Give the clips of a window from every clip on, ``(window, size)``."""
    return np.arange(num_clips - size + 1)[:, None] + np.arange(size)


def scrambled_rows(num_clips: int, size: int) -> NDArray[np.int64]:
    """Give the clips that test.py takes for those of `overlapping_rows`: window w holds rows w, w + n, w + 2n ... of
    the n windows' rows one after the other.
    """
    rows = overlapping_rows(num_clips, size)
    return rows.reshape(size, len(rows)).T


WINDOWS: Mapping[str, Callable[[int, int], NDArray[np.int64]]] = MappingProxyType(
    {"disjoint": disjoint_rows, "overlapping": overlapping_rows, "scrambled": scrambled_rows}
)
"""Choice of ``windows`` -> which clips a window is made of."""

_WINDOWS_AT_ONCE = 512


class Lad(Method):
    """The multi-task network. Its bags are all clips of a video, a row each, padded at the end; a window is drawn.

    ``Batch.more`` may hold ``frame_labels (bag, clip, clip_frames)``, of `frame_labels`; without them every frame has
    the label of its video, as UCF-Crime's training videos have in the code. It may hold ``class_index (bag,)``; without
    it classes are known by their names, `class_index`.
    """

    settings: LadSettings
    settings_class: ClassVar[type[Settings]] = LadSettings
    rule: ClassVar[str] = "clips"
    variants: ClassVar[Mapping[str, Mapping[str, object]]] = MappingProxyType(
        {
            "code": MappingProxyType(
                {
                    "peepholes": False,
                    "shared_widths": (1024,),
                    "frame_loss": "mean",
                    "learning_rate": 1e-4,
                    "beyond": "zero",
                    "redraw": "labels-restart",
                    "reach_last": False,
                    "windows": "scrambled",
                    "last_window": "drop",
                }
            )
        }
    )

    def network(self, dim: int) -> LadNetwork:
        cells = self.settings.grid**2
        if dim % cells:
            msg = f"features of {dim} numbers are no maps of {cells} places: give those of I3D, or grid=1"
            raise UsageError(msg)
        return LadNetwork(dim, self.settings)

    def optimisers(self, network: nn.Module) -> dict[str, Optimizer]:
        chosen = self.settings
        adam = torch.optim.Adam(network.parameters(), lr=chosen.learning_rate, weight_decay=chosen.weight_decay)
        return {"all": adam}

    def loss(self, network: nn.Module, batch: Batch, phase: str = "all") -> Losses:
        """Give equation 8 of a window of each bag, drawn with ``batch.seed``."""
        del phase
        chosen = self.settings
        windows, labels = self.draw(batch)
        output: WindowOutput = network(windows)
        parts = {
            "class": chosen.class_weight * class_loss(output.classes, self._classes(batch)),
            "frames": chosen.frame_weight * frame_loss(output.frames, labels, chosen.frame_loss),
        }
        if chosen.gamma:
            parts["weights"] = chosen.class_weight * chosen.gamma * squared_weights(network)
        return Losses(parts)

    def draw(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Draw a window of each bag: features ``(bag, clip, feature)`` and labels of frames ``(bag, frame)``."""
        chosen = self.settings
        random = np.random.default_rng(batch.seed)
        features = crop_mean(batch.features)
        counts = batch.mask.sum(dim=1).tolist()
        if "frame_labels" in batch.more:
            every = batch.more["frame_labels"]
        else:
            every = batch.labels[:, None, None].expand(*batch.mask.shape, chosen.clip_frames)
        windows, targets = [], []
        for bag, count in enumerate(counts):
            labels = every[bag, :count].cpu().numpy()
            start, label_start = draw_window(labels, chosen, random, anomalous=bool(batch.anomalous[bag]))
            windows.append(self._filled(features[bag, start : min(start + chosen.window_clips, count)]))
            targets.append(self._targets(labels[label_start : label_start + chosen.window_clips]))
        return torch.stack(windows), torch.stack(targets).to(features.device)

    def _filled(self, clips: Tensor) -> Tensor:
        """Fill clips up to a window."""
        missing = self.settings.window_clips - len(clips)
        last = clips[-1:] if self.settings.beyond == "ignore" else torch.zeros_like(clips[-1:])
        return torch.cat([clips, last.expand(missing, -1)])

    def _targets(self, labels: NDArray[np.integer]) -> Tensor:
        """Give the labels of a window's frames, ``(frame,)``."""
        filled = np.full((self.settings.window_clips, self.settings.clip_frames), UNKNOWN, np.int64)
        filled[: len(labels)] = labels
        if self.settings.beyond == "zero":
            filled[filled == UNKNOWN] = 0
        return torch.from_numpy(filled.ravel())

    def _classes(self, batch: Batch) -> Tensor:
        if "class_index" in batch.more:
            return batch.more["class_index"].to(batch.labels)
        if not batch.ids or not batch.classes:
            return torch.full_like(batch.labels, UNKNOWN)
        found = [
            class_index(name, identifier, anomalous=bool(is_anomalous), settings=self.settings)
            for name, identifier, is_anomalous in zip(batch.classes, batch.ids, batch.anomalous.tolist(), strict=True)
        ]
        return torch.tensor(found, device=batch.labels.device)

    def score(self, network: nn.Module, features: Tensor) -> Scores:
        """Score a video's clips. The last clip is repeated where a window is not full, and those scores are dropped.

        ``segments`` are means over a clip's frames, ``classes`` the mean over windows of probabilities. ``more`` has
        ``frames (clip, clip_frames)``, the scores themselves; ``window_classes (window, class)``, logits, whose best
        the code counts window by window; ``compared (clip,)``, False in a last window that ``last_window="drop"``
        leaves out.
        """
        chosen = self.settings
        size = chosen.window_clips
        clips = crop_mean(features)
        num_clips = len(clips)
        num_filled = -(-num_clips // size) * size
        clips = torch.cat([clips, clips[-1:].expand(num_filled - num_clips, -1)])
        rows = torch.from_numpy(WINDOWS[chosen.windows](num_filled, size)).to(clips.device)
        firsts = range(0, len(rows), _WINDOWS_AT_ONCE)
        outputs: list[WindowOutput] = [network(clips[rows[at : at + _WINDOWS_AT_ONCE]]) for at in firsts]
        logits = torch.cat([output.classes for output in outputs])
        scored = torch.cat([output.frames for output in outputs]).view(len(rows), size, chosen.clip_frames)
        frames = clips.new_zeros(num_filled, chosen.clip_frames)
        # Scrambled windows are put where the windows would lie that they are taken for.
        step = size if chosen.windows == "disjoint" else 1
        for place in range(size):
            at = torch.arange(len(rows), device=clips.device) * step + place
            frames[at] = torch.maximum(frames[at], scored[:, place])
        frames = frames[:num_clips]
        num_compared = num_clips - num_clips % size if chosen.last_window == "drop" else num_clips
        return Scores(
            segments=frames.mean(dim=1),
            classes=logits.softmax(dim=1).mean(dim=0),
            more={
                "frames": frames,
                "window_classes": logits,
                "compared": torch.arange(num_clips, device=clips.device) < num_compared,
            },
        )
