"""R(2+1)D: Tran et al., "A Closer Look at Spatiotemporal Convolutions", 2018.

18 layers are torchvision's; 34 are those of the models trained on 65 million Instagram videos (Ghadiyaram et al.,
"Large-scale weakly-supervised pre-training for video action recognition", 2019), from facebookresearch/VMZ's Caffe2
by way of moabitcoin/ig65m-pytorch, ig65m/models.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn
from torchvision.models.video import r2plus1d_18
from torchvision.models.video.resnet import BasicBlock, Conv2Plus1D, R2Plus1dStem, VideoResNet

if TYPE_CHECKING:
    from torch import Tensor

DIM = 512
MIN_CLIP_LENGTH = 1
VMZ_BN_EPS = 1e-3


class R2Plus1D(nn.Module):
    """Maps clips ``(B, 3, T, H, W)`` to the 512-d output of the average pool. Keys are torchvision's own."""

    def __init__(self, network: VideoResNet, num_classes: int):
        super().__init__()
        self.num_classes = num_classes
        self.stem, self.avgpool = network.stem, network.avgpool
        self.layer1, self.layer2 = network.layer1, network.layer2
        self.layer3, self.layer4 = network.layer3, network.layer4
        if num_classes:
            self.fc = nn.Linear(DIM, num_classes)

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


class R2Plus1D18(R2Plus1D):
    """The 18-layer network as torchvision publishes it."""

    def __init__(self, num_classes: int = 400):
        super().__init__(r2plus1d_18(weights=None), num_classes)


class R2Plus1D34(R2Plus1D):
    """The 34-layer network as VMZ trained it."""

    def __init__(self, num_classes: int = 400):
        network = VideoResNet(BasicBlock, [Conv2Plus1D] * 4, [3, 4, 6, 3], R2Plus1dStem)
        # Where channels double, torchvision sizes the second convolution of a block after the block's input, VMZ
        # after the convolution's own (facebookresearch/VMZ#89, pytorch/vision#1265).
        for layer, channels in ((network.layer2, 128), (network.layer3, 256), (network.layer4, 512)):
            layer[0].conv2[0] = Conv2Plus1D(channels, channels, channels * 9 // 4)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm3d):
                module.eps = VMZ_BN_EPS
        super().__init__(network, num_classes)
