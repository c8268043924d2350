"""Published weights, against second implementations of the networks.

They are written from the papers and from the names and shapes in the published files: functions of
a dictionary of tensors.
"""

import math
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import VGG16_Weights, resnet50

from tasks.models.pspnet import PSPNet50
from tasks.models.ssd import SSD300VGG16

State = dict[str, Tensor]
CLASSES = 21
BLOCKS = (3, 4, 6, 3)  # of ResNet-50
VGG = (64, 64, "M", 128, 128, "M", 256, 256, 256, "C", 512, 512, 512, "M", 512, 512, 512)
EXTRAS = ((256, 1, 1, 0), (512, 3, 2, 1), (128, 1, 1, 0), (256, 3, 2, 1)) + (
    (128, 1, 1, 0),
    (256, 3, 1, 0),
) * 2  # channels, kernel, stride, padding
SOURCES, BOXES = (512, 1024, 512, 256, 256, 256), (4, 6, 6, 6, 4, 4)


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Path]:
    """Where a test writes weights: hundreds of megabytes, which pytest would keep."""
    path = tmp_path / "weights.pth"
    yield path
    path.unlink(missing_ok=True)


class Drawn:
    """Random tensors under published names, that keep activations near 1."""

    def __init__(self, seed: int) -> None:
        self.state: State = OrderedDict()
        self.rng = torch.Generator().manual_seed(seed)

    def conv(self, name: str, before: int, after: int, kernel: int, bias: bool = True) -> None:
        scale = math.sqrt(2 / (before * kernel**2))
        shape = (after, before, kernel, kernel)
        self.state[f"{name}.weight"] = scale * torch.randn(shape, generator=self.rng)
        if bias:
            self.state[f"{name}.bias"] = torch.randn(after, generator=self.rng) / 5

    def norm(self, name: str, channels: int) -> None:
        for what, low in (("weight", 0.5), ("bias", -0.2), ("running_mean", -0.2)):
            self.state[f"{name}.{what}"] = low + torch.rand(channels, generator=self.rng) / 2
        self.state[f"{name}.running_var"] = 0.7 + torch.rand(channels, generator=self.rng)
        self.state[f"{name}.num_batches_tracked"] = torch.tensor(7)


def draw_resnet(drawn: Drawn, stem: list[tuple[str, str]], prefix: str = "") -> None:
    """ResNet-50 with semseg's stem of 64, 64 and 128 channels."""
    for (conv, norm), (before, after) in zip(stem, ((3, 64), (64, 64), (64, 128)), strict=True):
        drawn.conv(conv, before, after, 3, bias=False)
        drawn.norm(norm, after)
    before = 128
    for layer, (blocks, width) in enumerate(zip(BLOCKS, (64, 128, 256, 512), strict=True), 1):
        for block in range(blocks):
            name = f"{prefix}layer{layer}.{block}"
            for i, (a, b, kernel) in enumerate(
                ((before, width, 1), (width, width, 3), (width, 4 * width, 1)), 1
            ):
                drawn.conv(f"{name}.conv{i}", a, b, kernel, bias=False)
                drawn.norm(f"{name}.bn{i}", b)
            if block == 0:
                drawn.conv(f"{name}.downsample.0", before, 4 * width, 1, bias=False)
                drawn.norm(f"{name}.downsample.1", 4 * width)
            before = 4 * width


@pytest.fixture(scope="module")
def semseg() -> State:
    """The tensors of semseg's PSPNet50 with 21 classes, as DataParallel names them."""
    drawn, m = Drawn(1), "module."
    draw_resnet(drawn, [(f"{m}layer0.{i}", f"{m}layer0.{i + 1}") for i in (0, 3, 6)], m)
    for i in range(4):
        drawn.conv(f"{m}ppm.features.{i}.1", 2048, 512, 1, bias=False)
        drawn.norm(f"{m}ppm.features.{i}.2", 512)
    for head, before, width in (("cls", 4096, 512), ("aux", 1024, 256)):
        drawn.conv(f"{m}{head}.0", before, width, 3, bias=False)
        drawn.norm(f"{m}{head}.1", width)
        drawn.conv(f"{m}{head}.4", width, CLASSES, 1)
    return drawn.state


class Functional:
    """Layers as functions of a state."""

    def __init__(self, state: State) -> None:
        self.state = state

    def conv(self, x: Tensor, name: str, stride: int = 1, pad: int = 0, rate: int = 1) -> Tensor:
        weight, bias = self.state[f"{name}.weight"], self.state.get(f"{name}.bias")
        return F.conv2d(x, weight, bias, stride, pad, rate)

    def norm(self, x: Tensor, name: str) -> Tensor:
        kinds = ("running_mean", "running_var", "weight", "bias")
        mean, var, weight, bias = (self.state[f"{name}.{kind}"] for kind in kinds)
        return F.batch_norm(x, mean, var, weight, bias)


def pspnet_by_hand(state: State, images: Tensor, stem: list[tuple[str, str]], m: str) -> Tensor:
    """Zhao et al. (2017): ResNet-50 with layers 3 and 4 dilated, pyramid pooling, and a head."""
    net, x = Functional(state), images
    for i, (conv, norm) in enumerate(stem):
        x = F.relu(net.norm(net.conv(x, conv, 1 if i else 2, 1), norm))
    x = resnet_by_hand(net, F.max_pool2d(x, 3, 2, 1), m)
    parts, size = [x], x.shape[2:]
    for i, cells in enumerate((1, 2, 3, 6)):
        pooled = net.conv(F.adaptive_avg_pool2d(x, cells), f"{m}ppm.features.{i}.1")
        pooled = F.relu(net.norm(pooled, f"{m}ppm.features.{i}.2"))
        parts.append(F.interpolate(pooled, size, mode="bilinear", align_corners=True))
    x = F.relu(net.norm(net.conv(torch.cat(parts, 1), f"{m}cls.0", 1, 1), f"{m}cls.1"))
    x = net.conv(x, f"{m}cls.4")
    return F.interpolate(x, images.shape[2:], mode="bilinear", align_corners=True)


def resnet_by_hand(net: Functional, x: Tensor, m: str) -> Tensor:
    for layer, blocks in enumerate(BLOCKS, 1):
        rate = {3: 2, 4: 4}.get(layer, 1)
        for block in range(blocks):
            name, stride = f"{m}layer{layer}.{block}", 2 if (layer, block) == (2, 0) else 1
            y = F.relu(net.norm(net.conv(x, f"{name}.conv1"), f"{name}.bn1"))
            y = F.relu(net.norm(net.conv(y, f"{name}.conv2", stride, rate, rate), f"{name}.bn2"))
            y = net.norm(net.conv(y, f"{name}.conv3"), f"{name}.bn3")
            if block == 0:
                x = net.norm(net.conv(x, f"{name}.downsample.0", stride), f"{name}.downsample.1")
            x = F.relu(y + x)
    return x


@torch.inference_mode()
def test_semsegs_pspnet_gives_the_same_logits(semseg: State, file: Path):
    optimizer = {"state": {0: {"momentum_buffer": torch.zeros(3)}}, "param_groups": [{"lr": 0.1}]}
    torch.save({"epoch": 50, "state_dict": semseg, "optimizer": optimizer}, file)
    model = PSPNet50(CLASSES, str(file), stem="deep").eval()
    images = torch.randn(2, 3, 73, 97)
    stem = [(f"module.layer0.{i}", f"module.layer0.{i + 1}") for i in (0, 3, 6)]
    theirs = pspnet_by_hand(semseg, images, stem, "module.")
    ours = model(images)["out"]
    assert theirs.std() > 0.1 and (ours - theirs).abs().max() == 0
    assert len(model.state_dict()) == len(semseg)
    for name in ("0.weight", "1.running_var", "4.weight", "4.bias"):
        assert torch.equal(model.aux.state_dict()[name], semseg[f"module.aux.{name}"])
    with pytest.raises(ValueError, match="model.stem must be deep with .*: add .model.stem=deep"):
        PSPNet50(CLASSES, str(file))
    with pytest.raises(ValueError, match="head.5.weight must be .20, 512, 1, 1., got .21, 512"):
        PSPNet50(CLASSES - 1, str(file), stem="deep")
    # Its own checkpoint starts a network again.
    torch.save({"model": model.state_dict()}, file)
    again = PSPNet50(CLASSES, str(file), stem="deep").eval()
    assert torch.equal(again(images)["out"], ours)


@torch.inference_mode()
def test_semsegs_resnet_gives_the_same_features(file: Path):
    stem, drawn = [("conv1", "bn1"), ("conv2", "bn2"), ("conv3", "bn3")], Drawn(2)
    draw_resnet(drawn, stem)
    torch.save({**drawn.state, "fc.weight": torch.zeros(1000, 2048)}, file)
    model, seen = PSPNet50(CLASSES, str(file), stem="deep").eval(), []
    model.head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    x = images = torch.randn(1, 3, 65, 65)
    model(images)
    net = Functional(drawn.state)
    for i, (conv, norm) in enumerate(stem):
        x = F.relu(net.norm(net.conv(x, conv, 1 if i else 2, 1), norm))
    x = resnet_by_hand(net, F.max_pool2d(x, 3, 2, 1), "")
    assert x.std() > 0.1 and torch.equal(seen[0], x)


def test_a_deep_stem_starts_from_hes_initialization_and_has_no_imagenet_weights(file: Path):
    torch.manual_seed(0)
    body = PSPNet50(CLASSES, stem="deep").body
    for name, fan_out in (("conv1.3", 64 * 9), ("conv1.6", 128 * 9), ("layer1.0.conv1", 64)):
        weight = body.get_parameter(f"{name}.weight")
        assert weight.std().item() == pytest.approx(math.sqrt(2 / fan_out), rel=0.02)
    with pytest.raises(ValueError, match="resnet50_v2.pth, got imagenet"):
        PSPNet50(CLASSES, "imagenet", stem="deep")
    with pytest.raises(ValueError, match="model.stem must be one of plain, deep, got wide"):
        PSPNet50(CLASSES, stem="wide")
    with torch.device("meta"):
        published = resnet50().state_dict()
    torch.save({name: torch.zeros(t.shape) for name, t in published.items()}, file)
    with pytest.raises(ValueError, match="model.stem must be plain with model.weights="):
        PSPNet50(CLASSES, str(file), stem="deep")


def draw_vgg(drawn: Drawn, prefix: str, fc: bool) -> None:
    """VGG16's convolutions by the number of the layer, and with ``fc`` those of the reduced fc6 and
    fc7."""
    layer, before = 0, 3
    for width in VGG:
        if isinstance(width, int):
            drawn.conv(f"{prefix}{layer}", before, width, 3)
            layer, before = layer + 2, width  # a ReLU follows
        else:
            layer += 1
    if fc:
        drawn.conv(f"{prefix}31", 512, 1024, 3)
        drawn.conv(f"{prefix}33", 1024, 1024, 1)


@pytest.fixture(scope="module")
def ssd_pytorch() -> State:
    """The tensors of ssd.pytorch's SSD300 with 21 classes."""
    drawn = Drawn(3)
    draw_vgg(drawn, "vgg.", fc=True)
    drawn.state["L2Norm.weight"] = 15 + 10 * torch.rand(512, generator=drawn.rng)
    before = 1024
    for i, (width, kernel, _, _) in enumerate(EXTRAS):
        drawn.conv(f"extras.{i}", before, width, kernel)
        before = width
    for head, size in (("loc", 4), ("conf", CLASSES)):
        for i, (channels, boxes) in enumerate(zip(SOURCES, BOXES, strict=True)):
            drawn.conv(f"{head}.{i}", channels, boxes * size, 3)
    return drawn.state


def vgg_by_hand(net: Functional, x: Tensor, prefix: str) -> tuple[Tensor, Tensor]:
    """Return conv4_3 and fc7 (Liu et al., 2016, section 3): the third pooling rounds up, the fifth
    is 3 x 3 with stride 1, and fc6 is dilated by 6."""
    layer, conv4_3 = 0, x
    for width in VGG:
        if isinstance(width, int):
            x = F.relu(net.conv(x, f"{prefix}{layer}", 1, 1))
            layer, conv4_3 = layer + 2, x if layer == 21 else conv4_3
        else:
            x, layer = F.max_pool2d(x, 2, 2, ceil_mode=width == "C"), layer + 1
    x = F.relu(net.conv(F.max_pool2d(x, 3, 1, 1), f"{prefix}31", 1, 6, 6))
    return conv4_3, F.relu(net.conv(x, f"{prefix}33"))


def ssd_by_hand(state: State, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return offsets (n, 8732, 4) and logits (n, 8732, classes)."""
    net = Functional(state)
    conv4_3, x = vgg_by_hand(net, images, "vgg.")
    length = conv4_3.square().sum(1, keepdim=True).sqrt()
    sources = [conv4_3 / length * state["L2Norm.weight"].view(1, -1, 1, 1), x]
    for i, (_, _, stride, padding) in enumerate(EXTRAS):
        x = F.relu(net.conv(x, f"extras.{i}", stride, padding))
        sources += [x] if i % 2 else []
    found = []
    for head, size in (("loc", 4), ("conf", CLASSES)):
        maps = [net.conv(source, f"{head}.{i}", 1, 1) for i, source in enumerate(sources)]
        rows = [m.permute(0, 2, 3, 1).reshape(len(images), -1, size) for m in maps]
        found.append(torch.cat(rows, 1))
    return found[0], found[1]


def largest_difference(ours: Tensor, theirs: Tensor) -> float:
    """Relative to the largest value."""
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


@torch.inference_mode()
def test_ssd_pytorchs_ssd300_gives_the_same_heads(ssd_pytorch: State, file: Path):
    torch.save(ssd_pytorch, file, _use_new_zipfile_serialization=False)  # as files of 2017 are
    model = SSD300VGG16(CLASSES, str(file), clip_priors=True).eval()
    images = torch.randn(1, 3, 300, 300)
    offsets, logits = ssd_by_hand(ssd_pytorch, images)
    heads = model.predict(images)
    assert offsets.shape == (1, 8732, 4) and logits.std() > 0.1
    assert largest_difference(heads["bbox_regression"], offsets) < 3e-6
    assert largest_difference(heads["cls_logits"], logits) < 3e-6
    with pytest.raises(ValueError, match="model.clip_priors must be true .*add .model.clip_priors"):
        SSD300VGG16(CLASSES, str(file))
    with pytest.raises(ValueError, match="model.decimate_fc must have the classifier of VGG16"):
        SSD300VGG16(CLASSES, str(file), clip_priors=True, decimate_fc=True)
    torch.save({"model": model.state_dict()}, file)
    again = SSD300VGG16(CLASSES, str(file), clip_priors=True).eval()
    assert torch.equal(again.predict(images)["cls_logits"], heads["cls_logits"])


def test_clipped_priors_are_ssd_pytorchs():
    """Centers and sizes in [0, 1], by hand: 114 centers outside and 20 sizes above 1."""
    plain, clipped = SSD300VGG16(CLASSES), SSD300VGG16(CLASSES, clip_priors=True)
    rows, changed = [], 0
    for x1, y1, x2, y2 in (plain.priors.double() / 300).tolist():
        row = ((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1)
        inside = tuple(min(max(value, 0.0), 1.0) for value in row)
        changed += max(abs(a - b) for a, b in zip(row, inside, strict=True)) > 1e-6
        x, y, w, h = inside
        rows.append([300 * v for v in (x - w / 2, y - h / 2, x + w / 2, y + h / 2)])
    assert changed == 134
    assert torch.allclose(clipped.priors, torch.tensor(rows), atol=1e-3)
    assert not any("priors" in name for name in clipped.state_dict())


@torch.inference_mode()
def test_the_reduced_vgg16_gives_the_same_features_and_leaves_the_rest(file: Path):
    drawn = Drawn(4)
    draw_vgg(drawn, "", fc=True)
    torch.save(drawn.state, file)
    torch.manual_seed(0)
    model = SSD300VGG16(CLASSES, str(file)).eval()
    images = torch.randn(1, 3, 300, 300)
    _, fc7 = vgg_by_hand(Functional(drawn.state), images, "")
    second: Any = list(model.backbone(images).values())[1]
    assert fc7.std() > 0.1 and largest_difference(second, fc7) < 3e-6
    torch.manual_seed(0)
    random = SSD300VGG16(CLASSES).state_dict()
    loaded = {n for n, t in model.state_dict().items() if not torch.equal(t, random[n])}
    assert len(loaded) == 2 * 15 == len(drawn.state)  # 13 convolutions, fc6 and fc7


@pytest.fixture(scope="module")
def classifier() -> State:
    """torchvision's VGG16 without its last layer. The rows of the others overlap in memory, which
    keeps files small."""
    drawn = Drawn(5)
    draw_vgg(drawn, "features.", fc=False)
    for layer, before in ((0, 25088), (3, 4096)):
        name = f"classifier.{layer}"
        values = torch.randn(4096 * 1009 + before, generator=drawn.rng) * math.sqrt(2 / before)
        drawn.state[f"{name}.weight"] = values.as_strided((4096, before), (1009, 1))
        drawn.state[f"{name}.bias"] = torch.randn(4096, generator=drawn.rng)
    return drawn.state


def test_fc6_and_fc7_are_taken_from_vgg16s_classifier(classifier: State, file: Path):
    """Every fourth unit, and of 7 x 7 places the corners, the middle ones and those between."""
    torch.save(classifier, file)
    model = SSD300VGG16(CLASSES, str(file), decimate_fc=True)
    fc6, fc7 = (model.get_submodule(f"backbone.extra.0.7.{i}") for i in (1, 3))
    assert isinstance(fc6, nn.Conv2d) and isinstance(fc7, nn.Conv2d)
    assert fc6.bias is not None and fc7.bias is not None
    first, second = classifier["classifier.0.weight"], classifier["classifier.3.weight"]
    for unit, channel, y, x in ((0, 0, 0, 0), (5, 17, 1, 2), (1023, 511, 2, 2)):
        place = channel * 49 + 3 * y * 7 + 3 * x  # the features are flattened (c, h, w)
        assert fc6.weight[unit, channel, y, x] == first[4 * unit, place]
        assert fc7.weight[unit, channel, 0, 0] == second[4 * unit, 4 * channel]
        assert fc6.bias[unit] == classifier["classifier.0.bias"][4 * unit]
        assert fc7.bias[unit] == classifier["classifier.3.bias"][4 * unit]
    assert fc6.weight.shape == (1024, 512, 3, 3) and fc7.weight.shape == (1024, 1024, 1, 1)
    preset = VGG16_Weights.IMAGENET1K_V1.transforms()
    assert (model.mean, model.std) == (tuple(preset.mean), tuple(preset.std))
    for layer, name in ((21, "features.21"), (28, "extra.0.5")):
        own = model.get_parameter(f"backbone.{name}.weight")
        assert torch.equal(own, classifier[f"features.{layer}.weight"])
    # The file alone gives the features, and fc6 and fc7 stay random.
    plain = SSD300VGG16(CLASSES, str(file))
    assert plain.mean == SSD300VGG16.mean
    assert not plain.get_parameter("backbone.extra.0.7.1.bias").any()


def test_imagenet_weights_of_the_whole_vgg16_come_from_torch_hubs_cache(
    classifier: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cached = tmp_path / "hub" / "checkpoints" / "vgg16-397923af.pth"  # torchvision's, V1
    cached.parent.mkdir(parents=True)
    torch.save(classifier, cached)
    model = SSD300VGG16(CLASSES, "imagenet", decimate_fc=True)
    fc7 = model.get_parameter("backbone.extra.0.7.3.weight")
    assert torch.equal(fc7[:, :, 0, 0], classifier["classifier.3.weight"][::4, ::4])


def test_settings_that_do_not_go_with_the_weights_are_one_line(classifier: State, file: Path):
    with pytest.raises(ValueError, match="model.decimate_fc must be false with model.weights=none"):
        SSD300VGG16(CLASSES, decimate_fc=True)
    nan = torch.tensor(math.nan).expand(4096, 4096)
    for change, line in (
        ({"classifier.3.weight": nan}, "classifier.3.weight of VGG16, .4096, 4096. and finite"),
        ({"classifier.0.weight": nan}, r"\(4096, 25088\) and finite, .* got \(4096, 4096\)"),
    ):
        torch.save({**classifier, **change}, file)
        with pytest.raises(ValueError, match=line) as error:
            SSD300VGG16(CLASSES, str(file), decimate_fc=True)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("network", [PSPNet50, SSD300VGG16])
def test_a_file_of_another_network_is_one_line_with_its_names(network: Any, file: Path):
    names = ("backbone.0.body", "transformer.encoder", "bbox_embed", "query_embed")
    torch.save({"state_dict": {name: torch.zeros(2) for name in names}}, file)
    with pytest.raises(ValueError, match="does not fit: ") as error:
        network(CLASSES, str(file))
    message = str(error.value)
    assert "4 tensors: backbone.0.body, transformer.encoder, bbox_embed, ..." in message
    assert "\n" not in message
