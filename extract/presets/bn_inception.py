"""Recipes of BN-Inception, the network of temporal segment networks."""

from __future__ import annotations

from ...features.recipe import Flow, Network, Sampling, Transform
from .preset import TAIL_OF_VADX, Preset

_TSN = "yjxiong/tsn-pytorch"
_MEAN_OF_FRAMES = "the field's convention for frame-wise networks: the mean over 16 frames"

IMAGENET_TSN_BNINCEPTION = Preset(
    name="imagenet-tsn-bninception",
    backbone="tsn-bninception",
    network=Network(name="tsn-bninception", layer="global_pool", temporal="mean"),
    sampling=Sampling(clip_length=16, clip_stride=16, tail="repeat_last"),
    transform=Transform(
        kernel="pil",
        resize=256,
        crop=224,
        center_rounding="round",
        channel_order="bgr",
        mean=(104.0, 117.0, 128.0),
    ),
    weights="bn-inception-imagenet-cadene",
    sources={
        "BGR in 0-255, mean (104, 117, 128)": f"{_TSN}, models.py, input_mean",
        "short side 256, crop 224": f"{_TSN}, models.py, scale_size and crop_size",
        "resize kernel pil, centre rounded": f"{_TSN}, transforms.py: torchvision's Scale and CenterCrop on Pillow's",
        "mean of 16 frames every 16": _MEAN_OF_FRAMES,
        "tail repeat_last": TAIL_OF_VADX,
    },
    disputed=("the mean of red: 128 (tsn-pytorch, mmaction) or 123 (TSN in Caffe, GCN-Anomaly-Detection)",),
)

KINETICS_TSN_BNINCEPTION_FLOW = Preset(
    name="kinetics-tsn-bninception-flow",
    backbone="tsn-bninception-flow",
    network=Network(name="tsn-bninception-flow", layer="global_pool", temporal="mean"),
    sampling=Sampling(clip_length=16, clip_stride=16, tail="repeat_last"),
    transform=Transform(kernel="pil", resize=256, crop=224, center_rounding="round", offset=-128.0),
    flow=Flow(method="tvl1", bound=20.0, quantization="round_255", stack=5),
    weights="bn-inception-flow-k400-yjxiong",
    sources={
        "five flows, x before y": f"{_TSN}, models.py, new_length, and dataset.py, _load_image",
        "0-255 minus 128": f"{_TSN}, models.py, input_mean of Flow",
        "short side 256, crop 224": f"{_TSN}, models.py, scale_size and crop_size",
        "TV-L1, clipped to 20 pixels, rounded to 0-255": (
            "yjxiong/temporal-segment-networks, tools/build_of.py; yjxiong/dense_flow, convertFlowToImage"
        ),
        "mean of 16 flows every 16": _MEAN_OF_FRAMES,
        "tail repeat_last, last flow repeated": TAIL_OF_VADX,
    },
    disputed=("TSN computes flow on frames of 340 x 256, whatever their aspect, and keeps it as JPEG files",),
)
