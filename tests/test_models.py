"""The networks: sizes against published counts, the small-image stem, the initialisation."""

from collections.abc import Callable
from itertools import product

import pytest
import torch
from torch import Tensor, nn

from tasks.models.densenet import DenseNet121
from tasks.models.fcnet import FCNet
from tasks.models.resnet import ResNet18, ResNet34

Network = Callable[..., nn.Module]
COLOUR, MNIST, DIGITS = (3, 32, 32), (1, 28, 28), (1, 8, 8)
CONVOLUTIONAL = [ResNet18, ResNet34, DenseNet121]


def build(network: Network, shape: tuple[int, int, int], classes: int = 10, seed: int = 0):
    torch.manual_seed(seed)
    return network(shape=shape, classes=classes)


def outputs(model: nn.Module, image: Tensor) -> dict[str, Tensor]:
    """What each submodule puts out, by name and in order of execution, in evaluation mode."""
    seen: dict[str, Tensor] = {}
    for name, module in model.named_modules():
        module.register_forward_hook(lambda m, x, y, name=name: seen.update({name: y.clone()}))
    with torch.no_grad():
        model.eval()(image)
    return seen


@pytest.mark.parametrize(
    "network, shape, classes, count",
    [
        (ResNet34, COLOUR, 10, 21_282_122),
        (ResNet18, COLOUR, 10, 11_173_962),
        (DenseNet121, COLOUR, 100, 7_048_548),
        (FCNet, MNIST, 10, 784 * 1000 + 1000 + 1000 * 1000 + 1000 + 1000 * 10 + 10),
        (FCNet, DIGITS, 10, 64 * 1000 + 1000 + 1000 * 1000 + 1000 + 1000 * 10 + 10),
    ],
)
def test_parameter_counts_are_the_published_ones(
    network: Network, shape: tuple[int, int, int], classes: int, count: int
):
    parameters = list(build(network, shape, classes).parameters())
    assert sum(p.numel() for p in parameters) == count
    assert all(p.requires_grad for p in parameters)


@pytest.mark.parametrize(
    "network, shape",
    [*product(CONVOLUTIONAL, [COLOUR, MNIST, DIGITS]), (FCNet, MNIST), (FCNet, DIGITS)],
)
def test_there_is_one_logit_per_class(network: Network, shape: tuple[int, int, int]):
    model = build(network, shape, classes=7)
    logits = model(torch.rand(2, *shape))
    assert logits.shape == (2, 7)
    assert logits.min() < 0 < logits.max()  # neither probabilities nor cut at 0


def test_fcnet_is_linear_layers_with_relu_between_and_none_behind_the_last():
    model = build(FCNet, MNIST)
    image = torch.rand(5, *MNIST)
    x = image.flatten(1)
    w1, b1, w2, b2, w3, b3 = model.parameters()
    by_hand = ((x @ w1.T + b1).relu() @ w2.T + b2).relu() @ w3.T + b3
    torch.testing.assert_close(model(image), by_hand)


def test_fcnet_takes_its_hidden_layers_from_the_setting():
    model = FCNet(shape=DIGITS, classes=3, hidden=[5, 4, 6])
    sizes = [tuple(p.shape) for p in model.parameters() if p.ndim == 2]
    assert sizes == [(5, 64), (4, 5), (6, 4), (3, 6)]


def test_fcnet_refuses_colour_images_and_names_what_takes_them():
    with pytest.raises(ValueError, match="grey images.*got 3 channels") as caught:
        FCNet(shape=COLOUR, classes=10)
    for choice in ("model=resnet18", "resnet34", "densenet121"):
        assert choice in str(caught.value)


@pytest.mark.parametrize("network", CONVOLUTIONAL)
def test_the_stem_is_one_3x3_convolution_that_keeps_the_resolution(network: Network):
    model = build(network, COLOUR)
    first, *others = (m for m in model.modules() if isinstance(m, nn.Conv2d))
    assert (first.kernel_size, first.stride, first.padding) == ((3, 3), (1, 1), (1, 1))
    assert (first.in_channels, first.out_channels, first.bias) == (3, 64, None)
    blocks = [m for n, m in model.named_modules() if n in ("layer1", "features.denseblock1")]
    entering: list[torch.Size] = []
    blocks[0].register_forward_pre_hook(lambda m, args: entering.append(args[0].shape))
    outputs(model, torch.rand(1, *COLOUR))
    assert entering == [(1, 64, 32, 32)]
    assert not any(isinstance(m, nn.MaxPool2d) for m in model.modules())


@pytest.mark.parametrize(
    "network, stages",
    [
        (ResNet18, [("layer1", 64), ("layer2", 128), ("layer3", 256), ("layer4", 512)]),
        (ResNet34, [("layer1", 64), ("layer2", 128), ("layer3", 256), ("layer4", 512)]),
        (
            DenseNet121,
            [
                ("features.denseblock1", 256),
                ("features.denseblock2", 512),
                ("features.denseblock3", 1024),
                ("features.denseblock4", 1024),
            ],
        ),
    ],
)
def test_the_stages_work_at_32_16_8_and_4_pixels(network: Network, stages: list[tuple[str, int]]):
    seen = outputs(build(network, COLOUR), torch.rand(1, *COLOUR))
    sizes = [tuple(seen[name].shape[1:]) for name, _ in stages]
    assert sizes == [(width, s, s) for (_, width), s in zip(stages, (32, 16, 8, 4), strict=True)]


def test_the_dense_stem_hands_its_convolution_to_the_first_block_as_it_is():
    """Huang et al.'s CIFAR networks normalise in the blocks; another norm and ReLU would repeat."""
    seen = outputs(build(DenseNet121, COLOUR), torch.rand(1, *COLOUR))
    assert torch.equal(seen["features.pool0"], seen["features.conv0"])


@pytest.mark.parametrize("network", [*CONVOLUTIONAL, FCNet])
def test_the_seed_decides_the_weights(network: Network):
    shape = MNIST if network is FCNet else COLOUR
    first, same, other = (build(network, shape, seed=s).state_dict() for s in (0, 0, 1))
    drawn = [n for n, w in first.items() if w.ndim > 1]
    assert all(torch.equal(first[n], same[n]) for n in first)
    assert drawn and not any(torch.equal(first[n], other[n]) for n in drawn)


@pytest.mark.parametrize("network", [*CONVOLUTIONAL, FCNet])
def test_weights_are_uniform_below_one_over_root_fan_in_as_torch_draws_them(network: Network):
    model = build(network, MNIST)
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    for layer in layers:
        bound = layer.weight[0].numel() ** -0.5
        assert 0.99 < float(layer.weight.detach().abs().max()) / bound < 1 + 1e-6
        if layer.bias is not None:
            assert 0.5 < float(layer.bias.detach().abs().max()) / bound < 1 + 1e-6
        expected = bound / 3**0.5  # the standard deviation of a uniform distribution
        assert float(layer.weight.detach().std()) == pytest.approx(expected, rel=0.05)
