"""PSPNet (Zhao et al., 2017) on torchvision's ResNets."""

from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import models
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from tasks.models import weights as pretrained
from tasks.models.hidden import Unit, of_resnet

IMAGENET = {
    18: models.ResNet18_Weights.IMAGENET1K_V1,
    50: models.ResNet50_Weights.IMAGENET1K_V1,
    101: models.ResNet101_Weights.IMAGENET1K_V1,
}
BLOCKS: dict[int, tuple[type[BasicBlock | Bottleneck], list[int]]] = {
    18: (BasicBlock, [2, 2, 2, 2]),
    50: (Bottleneck, [3, 4, 6, 3]),
    101: (Bottleneck, [3, 4, 23, 3]),
}


class PyramidPooling(nn.Module):
    """Maps (n, c, h, w) beside their averages over grids of ``bins`` x ``bins`` cells, each taken
    to c / 4 channels and back to h x w: (n, 2 c, h, w) for four bins (their section 3.2)."""

    def __init__(self, channels: int, bins: tuple[int, ...] = (1, 2, 3, 6)) -> None:
        super().__init__()
        width = channels // len(bins)
        self.bins = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(bin), *_unit(channels, width, 1)) for bin in bins
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, *(_resize(pooled(x), x) for pooled in self.bins)], 1)


class PSPNet(nn.Module):
    """PSPNet with layer3 and layer4 dilated by 2 and 4 throughout, so that maps are 1/8 in size.

    Takes images (n, 3, h, w) and gives logits of their size: ``{"out": (n, classes, h, w)}``, in
    training also ``"aux"`` of the auxiliary head on layer3. ``weights`` are those of the body (a
    classifier's) or of the whole network; ``head_lr_factor`` is the learning rate of what is not
    the body, in units of the body's.
    """

    depth: ClassVar[int]

    def __init__(
        self, classes: int, weights: str = "none", head_lr_factor: float = 1.0, dropout: float = 0.1
    ) -> None:
        super().__init__()
        if head_lr_factor <= 0:
            raise ValueError(f"model.head_lr_factor must be above 0, got {head_lr_factor}")
        if not 0 <= dropout < 1:
            raise ValueError(f"model.dropout must be in [0, 1), got {dropout}")
        self.head_lr_factor = float(head_lr_factor)
        block, layers = BLOCKS[self.depth]
        body = ResNet(block, layers)
        dilate(body.layer3, 2)
        dilate(body.layer4, 4)
        del body.fc, body.avgpool
        self.body = body
        features = 512 * block.expansion
        self.head = nn.Sequential(
            PyramidPooling(features), *_classifier(2 * features, features // 4, classes, dropout)
        )
        self.aux = nn.Sequential(*_classifier(features // 2, features // 8, classes, dropout))
        self._start_from(weights)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        body = self.body
        x = body.maxpool(body.relu(body.bn1(body.conv1(images))))
        third = body.layer3(body.layer2(body.layer1(x)))
        out = {"out": _resize(self.head(body.layer4(third)), images)}
        if self.training:
            out["aux"] = _resize(self.aux(third), images)
        return out

    def units(self) -> Iterator[Unit]:
        """Those of the body; the heads have a dropout of their own."""
        return of_resnet(self.body)

    def _start_from(self, weights: str) -> None:
        state = pretrained.state_dict(weights, IMAGENET[self.depth])
        if state is None:
            return
        whole = any(name.startswith("body.") for name in state)
        module = self if whole else self.body
        pretrained.load(module, state, weights, () if whole else ("fc.",))


class PSPNet18(PSPNet):
    """For small machines: 12,771,242 parameters with VOC's 21 classes."""

    depth = 18


class PSPNet50(PSPNet):
    depth = 50


class PSPNet101(PSPNet):
    depth = 101


def dilate(layer: nn.Module, rate: int) -> None:
    """Stride 1 in every convolution of a ResNet's layer, and dilation ``rate`` in its 3 x 3 ones.

    torchvision's ``replace_stride_with_dilation`` leaves a layer's first block at half the rate,
    where PSPNet has it throughout, and refuses ResNet-18.
    """
    for conv in layer.modules():
        if isinstance(conv, nn.Conv2d):
            conv.stride = (1, 1)
            if conv.kernel_size == (3, 3):
                conv.dilation = conv.padding = (rate, rate)


def _unit(before: int, after: int, kernel: int) -> list[nn.Module]:
    conv = nn.Conv2d(before, after, kernel, padding=kernel // 2, bias=False)
    return [conv, nn.BatchNorm2d(after), nn.ReLU(inplace=True)]


def _classifier(before: int, width: int, classes: int, dropout: float) -> list[nn.Module]:
    return [*_unit(before, width, 3), nn.Dropout2d(dropout), nn.Conv2d(width, classes, 1)]


def _resize(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, like.shape[-2:], mode="bilinear", align_corners=True)
