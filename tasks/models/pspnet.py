"""PSPNet (Zhao et al., 2017) on torchvision's ResNets."""

from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import models
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from tasks.models import published
from tasks.models.hidden_units import Unit, resnet_hidden_units
from tasks.models.weights import load_weights, read_weights

IMAGENET_WEIGHTS = {
    18: models.ResNet18_Weights.IMAGENET1K_V1,
    50: models.ResNet50_Weights.IMAGENET1K_V1,
    101: models.ResNet101_Weights.IMAGENET1K_V1,
}
RESNET_LAYERS: dict[int, tuple[type[BasicBlock | Bottleneck], list[int]]] = {
    18: (BasicBlock, [2, 2, 2, 2]),
    50: (Bottleneck, [3, 4, 6, 3]),
    101: (Bottleneck, [3, 4, 23, 3]),
}


class GridAverage(nn.Module):
    """Averages of maps (n, c, h, w) over b x b cells.

    The gradient of torch's own operation is not deterministic on a GPU; where
    ``torch.use_deterministic_algorithms`` asks for it, slices take its place.
    """

    def __init__(self, bins: int) -> None:
        super().__init__()
        self.bins = bins

    def forward(self, x: Tensor) -> Tensor:
        bins = self.bins
        if not torch.are_deterministic_algorithms_enabled():
            return F.adaptive_avg_pool2d(x, bins)
        for dim in (-2, -1):
            size = x.shape[dim]
            ends = [(size * i // bins, -(-size * (i + 1) // bins)) for i in range(bins)]
            parts = [x.narrow(dim, start, end - start).mean(dim) for start, end in ends]
            x = torch.stack(parts, dim)
        return x


class PyramidPooling(nn.Module):
    """Concatenate maps (n, c, h, w) with averages over grids (section 3.2).

    Each element b of ``bins`` gives the averages over b x b cells, projected to c / len(bins)
    channels and resized to h x w. The result is (n, 2 c, h, w).
    """

    def __init__(self, channels: int, bins: tuple[int, ...] = (1, 2, 3, 6)) -> None:
        super().__init__()
        width = channels // len(bins)
        self.bins = nn.ModuleList(
            nn.Sequential(GridAverage(bin), *_conv(channels, width, 1)) for bin in bins
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, *(_resize_like(pooled(x), x) for pooled in self.bins)], 1)


class PSPNet(nn.Module):
    """PSPNet with layer3 and layer4 dilated by 2 and 4, so that maps have 1/8 of the image size.

    Maps images (n, 3, h, w) to ``{"out": logits}``, logits (n, classes, h, w); in training also
    ``"aux"``, the logits of the auxiliary head on layer3.

    Args:
        classes: Number of classes, the background included.
        weights: Initial weights (:func:`tasks.models.weights.read_weights`): of the body, from a
            classifier, or of the complete network, also semseg's (:mod:`tasks.models.published`).
        head_lr_factor: Learning rate of the heads divided by the learning rate of the body.
        dropout: Probability to drop a channel of the heads.
        stem: ``plain``, torchvision's 7 x 7 convolution; or ``deep``, semseg's three of 3 x 3.
    """

    recipe: ClassVar[int] = 1

    depth: ClassVar[int]

    def __init__(
        self,
        classes: int,
        weights: str = "none",
        head_lr_factor: float = 1.0,
        dropout: float = 0.1,
        stem: str = "plain",
    ) -> None:
        super().__init__()
        if head_lr_factor <= 0:
            raise ValueError(f"model.head_lr_factor must be above 0, got {head_lr_factor}")
        if not 0 <= dropout < 1:
            raise ValueError(f"model.dropout must be in [0, 1), got {dropout}")
        if stem not in ("plain", "deep"):
            raise ValueError(f"model.stem must be one of plain, deep, got {stem}")
        if stem == "deep" and weights == "imagenet":
            raise ValueError(
                "model.weights must be none or the path of a file with model.stem=deep, such as "
                f"semseg's resnet{self.depth}_v2.pth, got imagenet"
            )
        self.head_lr_factor, self.stem = float(head_lr_factor), stem
        block, layers = RESNET_LAYERS[self.depth]
        body = ResNet(block, layers)
        if stem == "deep":
            deepen_stem(body, block, layers[0])
        dilate(body.layer3, 2)
        dilate(body.layer4, 4)
        del body.fc, body.avgpool
        self.body = body
        features = 512 * block.expansion
        self.head = nn.Sequential(
            PyramidPooling(features),
            *_head(2 * features, features // 4, classes, dropout),
        )
        self.aux = nn.Sequential(*_head(features // 2, features // 8, classes, dropout))
        self._load(weights)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        body = self.body
        x = body.maxpool(body.relu(body.bn1(body.conv1(images))))
        third = body.layer3(body.layer2(body.layer1(x)))
        out = {"out": _resize_like(self.head(body.layer4(third)), images)}
        if self.training:
            out["aux"] = _resize_like(self.aux(third), images)
        return out

    def units(self) -> Iterator[Unit]:
        """Yield the units of the body; the heads have their own dropout."""
        return resnet_hidden_units(self.body)

    def _load(self, weights: str) -> None:
        state = read_weights(weights, IMAGENET_WEIGHTS[self.depth])
        if state is None:
            return
        state, complete = published.pspnet_weights(state, weights, self.stem)
        if complete:
            load_weights(self, state, weights)
        else:
            load_weights(self.body, state, weights, ("fc.",))


class PSPNet18(PSPNet):
    """For small machines: 12,771,242 parameters with VOC's 21 classes."""

    depth = 18


class PSPNet50(PSPNet):
    depth = 50


class PSPNet101(PSPNet):
    depth = 101


def dilate(layer: nn.Module, rate: int) -> None:
    """Set stride 1 in all convolutions of a ResNet layer and dilation ``rate`` in the 3 x 3 ones.

    torchvision's ``replace_stride_with_dilation`` dilates a layer's first block by half the rate,
    unlike PSPNet, and does not support ResNet-18.
    """
    for conv in layer.modules():
        if isinstance(conv, nn.Conv2d):
            conv.stride = (1, 1)
            if conv.kernel_size == (3, 3):
                conv.dilation = conv.padding = (rate, rate)


def deepen_stem(body: ResNet, block: type[BasicBlock | Bottleneck], blocks: int) -> None:
    """Give a ResNet semseg's stem: 3 x 3 convolutions of 64, 64 and 128 channels for the one of
    7 x 7, and a first layer of ``blocks`` that takes 128."""
    last = nn.Conv2d(64, 128, 3, padding=1, bias=False)
    stem = nn.Sequential(*_conv(3, 64, 3, stride=2), *_conv(64, 64, 3), last)
    body.conv1, body.bn1, body.inplanes = stem, nn.BatchNorm2d(128), 128  # type: ignore[assignment]
    body.layer1 = body._make_layer(block, 64, blocks)
    for layer in [*stem.modules(), *body.layer1.modules()]:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")


def _conv(before: int, after: int, kernel: int, stride: int = 1) -> list[nn.Module]:
    conv = nn.Conv2d(before, after, kernel, stride, padding=kernel // 2, bias=False)
    return [conv, nn.BatchNorm2d(after), nn.ReLU(inplace=True)]


def _head(before: int, width: int, classes: int, dropout: float) -> list[nn.Module]:
    return [*_conv(before, width, 3), nn.Dropout2d(dropout), nn.Conv2d(width, classes, 1)]


def _resize_like(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, like.shape[-2:], mode="bilinear", align_corners=True)
