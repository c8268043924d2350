"""Where residual networks have hidden units, for standard dropout (``regularizer=sd``)."""

from collections.abc import Iterator

from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck

# A module and which side of it units are on: "input" or "output".
Unit = tuple[nn.Module, str]


def of_resnet(body: nn.Module) -> Iterator[Unit]:
    """Where the paper's authors drop units in theirs: after the stem's ReLU, and in every block
    after its first ReLU, after its last batch norm, before the addition, and after the projection
    of its shortcut if it has one. In a Bottleneck, of which they had none, after its second ReLU
    too.

    ``body.relu`` is the stem's. A block calls its one ReLU again after the addition, so what
    follows the others is named by the convolution that it enters.
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
