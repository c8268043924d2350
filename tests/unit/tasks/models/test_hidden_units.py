"""The places of hidden units (``regularizer=sd``), against explicit forward passes."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck, ResNet

from lrd.regularizers import StandardDropout
from lrd.task import Batch
from lrd.unit_dropout import UnitDropout, drop_units, unit_keys
from tasks.models.densenet import DenseNet121
from tasks.models.fcnet import FCNet
from tasks.models.hidden_units import resnet_hidden_units
from tasks.models.pspnet import PSPNet18, PSPNet50
from tasks.models.resnet import ResNet18, ResNet34, ThinResNet

STAGES = ("layer1", "layer2", "layer3", "layer4")


def place_by_place(places: int, index: Tensor) -> Callable[[Tensor], Tensor]:
    """Drop units as the hooks do at step 9: call i drops at place i."""
    keys = iter(unit_keys(0, 9, places, index))
    return lambda x: drop_units(x, next(keys), 0.8)


def residual(body: Any, x: Tensor, drop: Callable[[Tensor], Tensor]) -> Tensor:
    """Run a ResNet explicitly, with dropout at the places (a) to (d) of the authors' network."""
    x = drop(torch.relu(body.bn1(body.conv1(x))))  # (a)
    if isinstance(body, ResNet):
        x = body.maxpool(x)
    for name in STAGES:
        for block in getattr(body, name, ()):
            out = drop(torch.relu(block.bn1(block.conv1(x))))  # (b)
            out = block.bn2(block.conv2(out))
            if isinstance(block, Bottleneck):
                out = block.bn3(block.conv3(drop(torch.relu(out))))
            out = drop(out)  # (c)
            if block.downsample is not None:
                x = drop(block.downsample(x))  # (d)
            x = torch.relu(out + x)
    return x


@pytest.mark.parametrize(
    ("model", "places"),
    [
        (ResNet18([3, 8, 8], 10), 1 + 8 * 2 + 3),  # type: ignore[arg-type]
        (ThinResNet((3, 8, 8), 10), 1 + 9 * 2 + 2),
        (PSPNet18(5).body, 1 + 8 * 2 + 3),
        (ResNet(Bottleneck, [1, 2, 1, 1], width_per_group=8), 1 + 5 * 3 + 4),
    ],
    ids=["ResNet18", "ThinResNet", "PSPNet18's body", "bottlenecks"],
)
def test_a_residual_network_drops_where_the_authors_did(model: Any, places: int):
    twin, dropout = copy.deepcopy(model), UnitDropout(0.8, seed=0)
    for module, side in resnet_hidden_units(model):
        dropout.hook(module, side)
    assert dropout.places == places
    x, index = torch.randn(4, 3, 32, 32), torch.arange(4)
    dropout.prepare(index, 9)
    stages = [getattr(model, name) for name in STAGES if hasattr(model, name)]
    maps = model.relu(model.bn1(model.conv1(x)))
    maps = nn.Sequential(getattr(model, "maxpool", nn.Identity()), *stages)(maps)
    assert torch.equal(maps, residual(twin, x, place_by_place(places, index)))


@pytest.mark.parametrize(
    ("make", "places"),
    [
        (lambda: ResNet34((3, 32, 32), 10), 1 + 16 * 2 + 3),
        (lambda: PSPNet50(21), 1 + 16 * 3 + 4),
        (lambda: DenseNet121((3, 32, 32), 100), 58 * 2 + 3),
        (lambda: FCNet((1, 8, 8), 10, [9, 9, 9]), 3),
    ],
    ids=["ResNet34", "PSPNet50", "DenseNet121", "FCNet"],
)
def test_every_model_that_says_where_its_units_are(make: Callable[[], Any], places: int):
    with torch.device("meta"):
        model = make()
    units = list(model.units())
    assert len({(id(module), side) for module, side in units}) == len(units) == places
    assert all(any(module is m for m in model.modules()) for module, _ in units)


@pytest.mark.parametrize(
    ("model", "dropped", "spared"),
    [
        (FCNet((1, 8, 8), 10, [400, 400]), nn.ReLU, ()),
        (DenseNet121((1, 8, 8), 10), nn.Conv2d, ("features.conv0",)),
    ],
    ids=["FCNet", "DenseNet121"],
)
def test_units_are_dropped_after_these_layers(
    model: nn.Module, dropped: type[nn.Module], spared: tuple[str, ...]
):
    """In a network without zero activations, half of these become 0 and no others."""
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.forward = lambda x: x.abs() + 1  # type: ignore[method-assign]
    dropout = StandardDropout(0.5)
    dropout.on_model(model, None)  # type: ignore[arg-type]
    shares: dict[str, tuple[nn.Module, float]] = {}
    for name, module in model.named_modules():
        if not list(module.children()):
            module.register_forward_hook(
                lambda module, x, y, name=name: shares.update(
                    {name: (module, float((y == 0).double().mean()))}
                )
            )
    x = torch.rand(16, 1, 8, 8) + 0.5
    dropout.on_batch(Batch(x, x, torch.arange(16)), 0)
    model(x)
    for name, (module, share) in shares.items():
        lost = isinstance(module, dropped) and name not in spared
        assert share == pytest.approx(0.5, abs=0.06) if lost else share < 0.3, name
