"""Where residual networks have hidden units, for standard dropout (``regularizer=sd``)."""

from collections.abc import Iterator

from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck

# A module, and whether the hidden units are its "input" or its "output".
Unit = tuple[nn.Module, str]


def resnet_hidden_units(body: nn.Module) -> Iterator[Unit]:
    """Yield the places where the paper's authors drop units in their ResNet.

    The places are: after the stem's ReLU, and in every block after its first ReLU, after its last
    batch norm before the addition, and after the projection of its shortcut, if it has one. The
    authors' network has no Bottleneck; there a place after the second ReLU is added.

    ``body.relu`` is the stem's ReLU. A block calls its one ReLU again after the addition, so the
    places after its other ReLUs are named by the convolution that follows.
    """
    assert isinstance(body.relu, nn.Module)
    yield body.relu, "output"
    for block in body.modules():
        if isinstance(block, BasicBlock | Bottleneck):
            yield block.conv2, "input"
            if isinstance(block, Bottleneck):
                yield block.conv3, "input"
            yield block.bn3 if isinstance(block, Bottleneck) else block.bn2, "output"
            if block.downsample is not None:
                yield block.downsample, "output"
