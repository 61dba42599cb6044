"""Features made with numpy, and models made by hand, to be scored."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vadx.extract.backbones import find_backbone
from vadx.features.timeline import ClipFeatures, VideoFacts
from vadx.pipelines.methods import METHODS, Method
from vadx.pipelines.methods.deepmil import DeepMil
from vadx.pipelines.model_folder import Mark, Model, read_model, write_facts, write_network
from vadx.pipelines.plan import Overrides, make_plan

FPS = 25.0
CLIP_FRAMES = 16
SMALL: dict[str, dict[str, Any]] = {
    "lad": {"hidden_channels": 2, "shared_widths": (8,), "head_width": 4, "grid": 1, "num_layers": 1},
    "align": {"attention_units": (4,), "classifier_units": 4},
    "mgpr": {"hidden_widths": (8, 4)},
}
"""Method -> what makes its network small."""


class FirstNumber(nn.Module):
    """Scores a segment by its first feature."""

    def forward(self, features: Tensor) -> Tensor:
        return features[..., 0]


def make_clips(num_frames: int, values: np.ndarray[Any, Any] | None = None, **facts: Any) -> ClipFeatures:
    """Make the features of a video of 25 frames/s: clips of 16 frames, the last one of what is left."""
    starts = np.arange(0, num_frames, CLIP_FRAMES)
    frames = np.stack([starts, np.minimum(starts + CLIP_FRAMES, num_frames)], axis=1).astype(np.int64)
    if values is None:
        values = np.random.default_rng(num_frames).random((len(frames), 1, 16))
    return ClipFeatures(
        values=values.astype(np.float32),
        frames=frames,
        seconds=frames / FPS,
        damaged=np.zeros(len(frames), np.bool_),
        facts=VideoFacts(fps=FPS, num_frames_decoded=num_frames, width=64, height=48, **facts),
    )


def facts_of(clips: ClipFeatures, rule: str, num_segments: int, **more: Any) -> dict[str, Any]:
    """Give what ``model.json`` holds, as a training with these bags writes it."""
    dim = clips.values.shape[2]
    return {"dim": dim, "num_crops": 1, "num_segments": num_segments, "rule": rule, "recipe_digest": "ab" * 32, **more}


def first_number_model(clips: ClipFeatures, rule: str = "rtfm", num_segments: int = 4, **more: Any) -> Model:
    """Make a model whose score of a segment is the segment's first feature."""
    facts = facts_of(clips, rule, num_segments, **more)
    return Model(DeepMil(), FirstNumber().eval(), "last", Mark(1), facts)


def random_model(name: str, clips: ClipFeatures, rule: str, num_segments: int, **more: Any) -> Model:
    """Make a model of a method with weights as they are drawn."""
    torch.manual_seed(1)
    method: Method = METHODS[name].make(**SMALL.get(name, {}))
    network = method.network(clips.values.shape[2]).eval()
    return Model(method, network, "last", Mark(1), {"method": name, **facts_of(clips, rule, num_segments, **more)})


def write_tiny_model(folder: Path, method: str = "deepmil", *, weights: str = "random:5", **changes: Any) -> Model:
    """Write a model folder for features of the plug-in network ``tiny``, as a training writes it, and read it."""
    plan = make_plan(find_backbone("tiny").default_preset, Overrides(), weights)
    made = METHODS[method].make(**SMALL.get(method, {}))
    torch.manual_seed(2)
    network = made.network(8)
    with torch.no_grad():
        # Weights as they are drawn score all videos alike.
        for values in network.parameters():
            values.mul_(4)
    folder.mkdir(parents=True, exist_ok=True)
    facts = {
        "method": method,
        "settings": dataclasses.asdict(made.settings),
        "dim": 8,
        "num_crops": 1,
        "num_segments": 4,
        "rule": "rtfm",
        "recipe_digest": plan.recipe.digest,
        "recipe": plan.recipe.to_mapping(),
        "set_name": f"{plan.slug}-{plan.recipe.digest[:8]}",
        "crop_pool": "keep",
        "bags_seed": 0,
        "classes": [],
        "choice": "nothing was measured",
        "weights_sha256": plan.recipe.weights,
    }
    write_facts(folder, {**facts, **changes})
    write_network(folder, "last", network, Mark(7))
    return read_model(folder)
