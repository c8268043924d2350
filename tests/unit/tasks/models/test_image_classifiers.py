"""The networks: sizes against published counts, the small-image stem, initialization."""

from collections.abc import Callable
from functools import partial
from itertools import product

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tasks.models.densenet import DenseNet121
from tasks.models.fcnet import FCNet
from tasks.models.resnet import ResNet18, ResNet34, ThinResNet

Network = Callable[..., nn.Module]
COLOR, MNIST, DIGITS = (3, 32, 32), (1, 28, 28), (1, 8, 8)
CONVOLUTIONAL = [ResNet18, ResNet34, DenseNet121, ThinResNet]


def build(network: Network, shape: tuple[int, int, int], classes: int = 10, seed: int = 0):
    torch.manual_seed(seed)
    return network(shape=shape, classes=classes)


def outputs(model: nn.Module, image: Tensor) -> dict[str, Tensor]:
    """The output of each submodule in eval mode, by name and in order of execution."""
    seen: dict[str, Tensor] = {}
    for name, module in model.named_modules():
        module.register_forward_hook(lambda m, x, y, name=name: seen.update({name: y.clone()}))
    with torch.no_grad():
        model.eval()(image)
    return seen


@pytest.mark.parametrize(
    "network, shape, classes, count",
    [
        (ResNet34, COLOR, 10, 21_282_122),
        (ResNet18, COLOR, 10, 11_173_962),
        (DenseNet121, COLOR, 100, 7_048_548),
        (ThinResNet, COLOR, 10, 272_474),
        (partial(ThinResNet, blocks=1), COLOR, 10, 78_042),
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
    [*product(CONVOLUTIONAL, [COLOR, MNIST, DIGITS]), (FCNet, MNIST), (FCNet, DIGITS)],
)
def test_there_is_one_logit_per_class(network: Network, shape: tuple[int, int, int]):
    model = build(network, shape, classes=7)
    logits = model(torch.rand(2, *shape))
    assert logits.shape == (2, 7)
    assert logits.min() < 0 < logits.max()  # neither probabilities nor cut at 0


@pytest.mark.parametrize("n, millions", [(3, 0.27), (5, 0.46), (7, 0.66), (9, 0.85), (18, 1.7)])
def test_thin_resnets_are_those_of_the_residual_paper_and_two_projections(n: int, millions: float):
    """Compare with Table 6 of He et al., whose shortcuts have no weights, and a count by layer."""
    model = ThinResNet(COLOR, 10, n)
    count = sum(p.numel() for p in model.parameters())
    projections = 16 * 32 + 2 * 32 + 32 * 64 + 2 * 64  # 1 x 1 convolutions, each with its norm
    assert (count - projections) / 1e6 == pytest.approx(millions, rel=0.02)
    inner = 2 * n * 16**2 + (2 * n - 1) * (32**2 + 64**2)  # between equal widths
    norms = 2 * (2 * n * (16 + 32 + 64) + 16)
    assert count == 9 * (3 * 16 + inner + 16 * 32 + 32 * 64) + norms + projections + 65 * 10
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert len(convolutions) - 2 + 1 == 6 * n + 2  # layers of weights, the linear one included


@pytest.mark.parametrize("blocks", [1, 2])
def test_a_thin_resnet_by_hand(blocks: int):
    model = build(partial(ThinResNet, blocks=blocks), COLOR)
    for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
        for values in (norm.weight.data, norm.bias.data, norm.running_mean, norm.running_var):
            assert values is not None
            values.uniform_(0.5, 1.5)
    state = model.eval().state_dict()

    def conv_norm(x: Tensor, conv: str, norm: str, stride: int = 1) -> Tensor:
        kernel = state[f"{conv}.weight"]
        y = F.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2)
        mean, var, gain, shift = (
            state[f"{norm}.{name}"].view(-1, 1, 1)
            for name in ("running_mean", "running_var", "weight", "bias")
        )
        return (y - mean) / (var + 1e-5).sqrt() * gain + shift

    image = torch.rand(3, *COLOR)
    x = conv_norm(image, "conv1", "bn1").relu()
    for stage in (1, 2, 3):
        for block in range(blocks):
            name = f"layer{stage}.{block}"
            stride = 2 if stage > 1 and block == 0 else 1
            y = conv_norm(x, f"{name}.conv1", f"{name}.bn1", stride).relu()
            y = conv_norm(y, f"{name}.conv2", f"{name}.bn2")
            down = f"{name}.downsample"
            x = (y + (conv_norm(x, f"{down}.0", f"{down}.1", 2) if stride == 2 else x)).relu()
    logits = x.mean((2, 3)) @ state["fc.weight"].T + state["fc.bias"]
    torch.testing.assert_close(model(image), logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("blocks", [0, -1, 1.5, "two", True])
def test_a_wrong_number_of_blocks_is_rejected(blocks: object):
    line = f"^model.blocks must be a whole number of at least 1, got {blocks}$"
    with pytest.raises(ValueError, match=line):
        ThinResNet(COLOR, 10, blocks)  # type: ignore[arg-type]


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


def test_fcnet_rejects_color_images_and_names_what_takes_them():
    with pytest.raises(ValueError, match="gray images.*got 3 channels") as caught:
        FCNet(shape=COLOR, classes=10)
    for choice in ("model=resnet18", "resnet34", "densenet121"):
        assert choice in str(caught.value)


@pytest.mark.parametrize("network", CONVOLUTIONAL)
def test_the_stem_is_one_3x3_convolution_that_keeps_the_resolution(network: Network):
    model = build(network, COLOR)
    first, *others = (m for m in model.modules() if isinstance(m, nn.Conv2d))
    assert (first.kernel_size, first.stride, first.padding) == ((3, 3), (1, 1), (1, 1))
    width = 16 if network is ThinResNet else 64
    assert (first.in_channels, first.out_channels, first.bias) == (3, width, None)
    blocks = [m for n, m in model.named_modules() if n in ("layer1", "features.denseblock1")]
    entering: list[torch.Size] = []
    blocks[0].register_forward_pre_hook(lambda m, args: entering.append(args[0].shape))
    outputs(model, torch.rand(1, *COLOR))
    assert entering == [(1, width, 32, 32)]
    assert not any(isinstance(m, nn.MaxPool2d) for m in model.modules())


@pytest.mark.parametrize(
    "network, stages",
    [
        (ResNet18, [("layer1", 64), ("layer2", 128), ("layer3", 256), ("layer4", 512)]),
        (ResNet34, [("layer1", 64), ("layer2", 128), ("layer3", 256), ("layer4", 512)]),
        (ThinResNet, [("layer1", 16), ("layer2", 32), ("layer3", 64)]),
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
    seen = outputs(build(network, COLOR), torch.rand(1, *COLOR))
    sizes = [tuple(seen[name].shape[1:]) for name, _ in stages]
    pixels = (32, 16, 8, 4)[: len(stages)]
    assert sizes == [(width, s, s) for (_, width), s in zip(stages, pixels, strict=True)]


def test_the_dense_stem_hands_its_convolution_to_the_first_block_as_it_is():
    """Huang et al.'s CIFAR networks normalize in the blocks; another norm and ReLU would repeat."""
    seen = outputs(build(DenseNet121, COLOR), torch.rand(1, *COLOR))
    assert torch.equal(seen["features.pool0"], seen["features.conv0"])


@pytest.mark.parametrize("network", [*CONVOLUTIONAL, FCNet])
def test_the_seed_decides_the_weights(network: Network):
    shape = MNIST if network is FCNet else COLOR
    first, same, other = (build(network, shape, seed=s).state_dict() for s in (0, 0, 1))
    drawn = [n for n, w in first.items() if w.ndim > 1]
    assert all(torch.equal(first[n], same[n]) for n in first)
    assert drawn and not any(torch.equal(first[n], other[n]) for n in drawn)


@pytest.mark.parametrize("network", [*CONVOLUTIONAL, FCNet])
def test_weights_are_uniform_below_one_over_root_fan_in_as_torch_draws_them(network: Network):
    model = build(network, MNIST)
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    for layer in layers:
        bound, count = layer.weight[0].numel() ** -0.5, layer.weight.numel()
        near = min(0.99, 1e-4 ** (1 / count))  # the largest of few weights is further below
        assert near < float(layer.weight.detach().abs().max()) / bound < 1 + 1e-6
        if layer.bias is not None:
            assert 0.5 < float(layer.bias.detach().abs().max()) / bound < 1 + 1e-6
        expected = bound / 3**0.5  # the standard deviation of a uniform distribution
        rel = max(0.05, 4 * (0.2 / count) ** 0.5)  # of a uniform one's estimate, 4 standard errors
        assert float(layer.weight.detach().std()) == pytest.approx(expected, rel=rel)
