"""C3D of Sports-1M: Tran et al., "Learning Spatiotemporal Features with 3D Convolutional Networks", ICCV 2015.

Layers: facebookarchive/C3D, C3D-v1.0/examples/c3d_feature_extraction/prototxt,
c3d_sport1m_feature_extractor_frm.prototxt. Names: DavideA/c3d-pytorch, C3D_model.py.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional as F

from ..key_maps import KeyMap

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from torch import Tensor

DIM = 4096
CLIP_LENGTH = 16
INPUT_SIZE = 112

_CONVS: tuple[tuple[str, int, int], ...] = (
    ("conv1", 3, 64),
    ("conv2", 64, 128),
    ("conv3a", 128, 256),
    ("conv3b", 256, 256),
    ("conv4a", 256, 512),
    ("conv4b", 512, 512),
    ("conv5a", 512, 512),
    ("conv5b", 512, 512),
)
_POOLED_AFTER = {"conv1": (1, 2, 2), "conv2": (2, 2, 2), "conv3b": (2, 2, 2), "conv4b": (2, 2, 2)}
"""Convolution -> kernel and stride of the max pool that follows it. pool5 is a switch."""

_POOL5: dict[str, dict[str, Any]] = {
    # Caffe rounds sizes up: 7 becomes 4 by half a window beyond the last row and column (C3D-v1.0, pool3d_layer.cpp).
    "caffe": {"ceil_mode": True},
    # The ports reach the same 4 by a border on both sides, and so pool other pixels together.
    "ports": {"padding": (0, 1, 1)},
}


class C3D(nn.Module):
    """Maps clips ``(B, 3, 16, 112, 112)`` to fc6 ``(B, 4096)``, after its ReLU unless ``relu`` is False.

    ``pool5`` names the rounding of the last pool: ``caffe``, as the weights were trained, or ``ports``, that of the
    PyTorch ports (DavideA/c3d-pytorch, ekosman/AnomalyDetectionCVPR2018-Pytorch, mmaction2).
    """

    def __init__(self, num_classes: int = 487, pool5: str = "caffe", relu: bool = True):
        super().__init__()
        self.num_classes = num_classes
        self._pool5, self._relu = _POOL5[pool5], relu
        for name, channels_in, channels_out in _CONVS:
            self.add_module(name, nn.Conv3d(channels_in, channels_out, 3, padding=1))
        self.fc6 = nn.Linear(8192, DIM)
        if num_classes:
            self.fc7 = nn.Linear(DIM, DIM)
            self.fc8 = nn.Linear(DIM, num_classes)

    def forward(self, clips: Tensor) -> Tensor:
        x = clips
        for name, _, _ in _CONVS:
            x = F.relu(self.get_submodule(name)(x), inplace=True)
            if name in _POOLED_AFTER:
                x = F.max_pool3d(x, _POOLED_AFTER[name])
        x = F.max_pool3d(x, 2, **self._pool5)
        features: Tensor = self.fc6(x.flatten(1))
        return F.relu(features) if self._relu else features

    def head(self, features: Tensor) -> Tensor:
        """Give class scores ``(B, num_classes)``, before softmax, for fc6 ``(B, 4096)``, before or after its ReLU."""
        scores: Tensor = self.fc8(F.relu(self.fc7(F.relu(features))))
        return scores


_FIRST_OF_PORTS = re.compile(r"(backbone\.)?conv1a\.(conv\.)?weight")


def _is_port(keys: Collection[str]) -> bool:
    return any(_FIRST_OF_PORTS.fullmatch(key) for key in keys)


def _from_port(state: Mapping[str, Any]) -> dict[str, Tensor]:
    renamed: dict[str, Tensor] = {}
    for key, value in state.items():
        name = key.removeprefix("backbone.").replace("cls_head.fc_cls.", "fc8.")
        name = re.sub(r"^conv([12])a\.", r"conv\1.", name)
        name = re.sub(r"^(conv\d[ab]?)\.conv\.", r"\1.", name)
        renamed[name] = torch.as_tensor(value)
    # Published without fc8, fc7 leads nowhere.
    return renamed if "fc8.weight" in renamed else {k: v for k, v in renamed.items() if not k.startswith("fc7.")}


KEY_MAPS = (
    KeyMap(
        name="c3d-ports",
        matches=_is_port,
        convert=_from_port,
        source=(
            "open-mmlab/mmaction2, mmaction/models/backbones/c3d.py (conv1a.conv.weight); "
            "fjchange/MIST_VAD, models/C3D_STD.py, and open-mmlab/mmaction, tenons/backbones/c3d.py (conv1a.weight)"
        ),
    ),
)
