"""Where the published crops of a frame of 340 x 256 lie, and images that tell where they were cut."""

from __future__ import annotations

import torch
from torch import Tensor

Place = tuple[int, int, bool]
"""Top, left, and whether the crop is mirrored."""

PUBLISHED_TEN: dict[str, list[Place]] = {
    # torchvision, transforms/functional.py: ten_crop. The mirrored frame's left is the frame's right.
    "tv": [
        (0, 0, False),
        (0, 116, False),
        (32, 0, False),
        (32, 116, False),
        (16, 58, False),
        (0, 116, True),
        (0, 0, True),
        (32, 116, True),
        (32, 0, True),
        (16, 58, True),
    ],
    # Finspire13/pytorch-i3d-feature-extraction, extract_features.py: oversample_data.
    "oversample": [
        (0, 0, False),
        (0, 116, False),
        (16, 58, False),
        (32, 0, False),
        (32, 116, False),
        (0, 116, True),
        (0, 0, True),
        (16, 58, True),
        (32, 116, True),
        (32, 0, True),
    ],
    # nwpu-zxr/VadCLIP, crop.py; Roc-Ng/DeepMIL, README.md.
    "roc": [
        (16, 58, False),
        (0, 0, False),
        (0, 116, False),
        (32, 0, False),
        (32, 116, False),
        (16, 58, True),
        (0, 0, True),
        (0, 116, True),
        (32, 0, True),
        (32, 116, True),
    ],
    # jx-zhong-for-academic-purpose/GCN-Anomaly-Detection, after Caffe's oversample.
    "caffe": [
        (0, 0, False),
        (0, 116, False),
        (32, 0, False),
        (32, 116, False),
        (16, 58, False),
        (0, 0, True),
        (0, 116, True),
        (32, 0, True),
        (32, 116, True),
        (16, 58, True),
    ],
    # yjxiong/tsn-pytorch, transforms.py: GroupOverSample.
    "tsn": [
        (0, 0, False),
        (0, 0, True),
        (0, 116, False),
        (0, 116, True),
        (32, 0, False),
        (32, 0, True),
        (32, 116, False),
        (32, 116, True),
        (16, 58, False),
        (16, 58, True),
    ],
}

PUBLISHED_FIVE: dict[str, list[Place]] = {
    "tv": [(0, 0, False), (0, 116, False), (32, 0, False), (32, 116, False), (16, 58, False)],
    "oversample": [(0, 0, False), (0, 116, False), (16, 58, False), (32, 0, False), (32, 116, False)],
    "roc": [(16, 58, False), (0, 0, False), (0, 116, False), (32, 0, False), (32, 116, False)],
    "caffe": [(0, 0, False), (0, 116, False), (32, 0, False), (32, 116, False), (16, 58, False)],
    "tsn": [(0, 0, False), (0, 116, False), (32, 0, False), (32, 116, False), (16, 58, False)],
}


def coordinates(height: int, width: int) -> Tensor:
    """Give an image ``(2, height, width)`` whose pixels are their own places."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([y, x])


def places(crops: Tensor) -> list[Place]:
    """Say of each crop of `coordinates` where its top left corner lies in the frame, and whether it is mirrored."""
    found = []
    for crop in crops:
        mirrored = bool(crop[1, 0, 0] > crop[1, 0, -1])
        upright = crop.flip(-1) if mirrored else crop
        top, left = int(upright[0, 0, 0]), int(upright[1, 0, 0])
        height, width = crop.shape[-2:]
        assert torch.equal(upright, coordinates(top + height, left + width)[:, top:, left:])
        found.append((top, left, mirrored))
    return found
