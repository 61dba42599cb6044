"""Recipes of CLIP's image tower."""

from __future__ import annotations

from ...features.recipe import Network, Sampling, Transform
from .preset import SCALE_TO_ONE, TAIL_OF_VADX, Preset

OPENAI_CLIP_VITB16 = Preset(
    name="openai-clip-vitb16",
    backbone="clip-vitb16",
    network=Network(name="clip-vitb16", layer="proj", temporal="mean"),
    sampling=Sampling(clip_length=16, clip_stride=16, tail="partial_mean"),
    transform=Transform(
        kernel="pil",
        interpolation="bicubic",
        resize=224,
        crop=224,
        center_rounding="round",
        scale=SCALE_TO_ONE,
        mean=(0.48145466, 0.4578275, 0.40821073),
        std=(0.26862954, 0.26130258, 0.27577711),
    ),
    weights="clip-vitb16-openai",
    note="OpenAI's program computes in half precision on a GPU, which moves features by about a thousandth.",
    sources={
        "short side 224 bicubic, centre 224, mean, std": "openai/CLIP, clip/clip.py, _transform",
        "the projected embedding, not normalised": "openai/CLIP, clip/model.py, encode_image",
        "mean of 16 frames every 16": "the field's convention: one feature for 16 frames",
        "tail partial_mean": TAIL_OF_VADX,
    },
)
