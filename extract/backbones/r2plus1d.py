"""R(2+1)D-18 of torchvision: Tran et al., "A Closer Look at Spatiotemporal Convolutions", 2018."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn
from torchvision.models.video import r2plus1d_18

if TYPE_CHECKING:
    from torch import Tensor

DIM = 512
MIN_CLIP_LENGTH = 1


class R2Plus1D18(nn.Module):
    """Maps clips ``(B, 3, T, H, W)`` to the 512-d output of the average pool. Keys are torchvision's own."""

    def __init__(self, num_classes: int = 400):
        super().__init__()
        network = r2plus1d_18(weights=None, num_classes=num_classes)
        self.stem, self.avgpool, self.fc = network.stem, network.avgpool, network.fc
        self.layer1, self.layer2 = network.layer1, network.layer2
        self.layer3, self.layer4 = network.layer3, network.layer4

    def forward(self, clips: Tensor) -> Tensor:
        x = self.stem(clips)
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = layer(x)
        pooled: Tensor = self.avgpool(x).flatten(1)
        return pooled

    def head(self, features: Tensor) -> Tensor:
        """Give class scores ``(B, num_classes)``, before softmax, for features ``(B, 512)``."""
        scores: Tensor = self.fc(features)
        return scores
