"""PSPNet: sizes, dilation, pyramid pooling, and initial weights."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import models
from torchvision.models import resnet18
from torchvision.models.resnet import BasicBlock

from tasks.models.pspnet import (
    GridAverage,
    PSPNet,
    PSPNet18,
    PSPNet50,
    PSPNet101,
    PyramidPooling,
    dilate,
)


def unit(before: int, after: int, kernel: int) -> int:
    """Parameters of a convolution without bias and its batch norm."""
    return before * after * kernel**2 + 2 * after


def counted(features: int, classes: int) -> int:
    """Parameters in addition to the ResNet's, by hand."""
    pyramid = 4 * unit(features, features // 4, 1)
    head = unit(2 * features, features // 4, 3) + (features // 4 + 1) * classes
    aux = unit(features // 2, features // 8, 3) + (features // 8 + 1) * classes
    return pyramid + head + aux


@pytest.mark.parametrize(
    "kind, body, features",
    # torchvision's published parameters of its ResNets, and those of their classifier
    [
        (PSPNet18, 11_689_512 - 513_000, 512),
        (PSPNet50, 25_557_032 - 2_049_000, 2048),
        (PSPNet101, 44_549_160 - 2_049_000, 2048),
    ],
)
def test_parameters_are_the_resnets_and_what_the_paper_adds(
    kind: type[PSPNet], body: int, features: int
):
    with torch.device("meta"):
        model = kind(21)
    total = sum(p.numel() for p in model.parameters())
    assert total == body + counted(features, 21)
    assert (kind is not PSPNet18) or total == 12_771_242
    assert (kind is not PSPNet50) or (counted(2048, 21), total) == (25_449_770, 48_957_802)


@pytest.mark.parametrize("size", [(65, 65), (97, 72), (37, 50)])
def test_logits_have_the_images_size_and_maps_an_eighth_of_it(size: tuple[int, int]):
    model, seen = PSPNet18(5), []
    model.head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape))
    out = model(torch.randn(2, 3, *size))
    assert {k: v.shape for k, v in out.items()} == {k: (2, 5, *size) for k in ("out", "aux")}
    assert list(seen[0][2:]) == [-(-side // 8) for side in size]
    assert model.eval()(torch.randn(1, 3, *size)).keys() == {"out"}


def test_every_3x3_convolution_of_layers_3_and_4_is_dilated_and_none_strides():
    with torch.device("meta"):
        body = PSPNet50(21).body
    for layer, rate in ((body.layer3, 2), (body.layer4, 4)):
        convs = [m for m in layer.modules() if isinstance(m, nn.Conv2d)]
        spatial = [m for m in convs if m.kernel_size == (3, 3)]
        assert len(spatial) == len(layer) and all(m.stride == (1, 1) for m in convs)
        assert all(m.dilation == m.padding == (rate, rate) for m in spatial)


def test_dilation_computes_what_the_strided_layer_would_at_every_second_place():
    """The known identity: without batch effects, dilating keeps the strided outputs."""
    torch.manual_seed(0)
    strided = resnet18().layer3[0].eval()
    assert isinstance(strided, BasicBlock)
    dilated = resnet18().layer3[0].eval()
    dilated.load_state_dict(strided.state_dict())
    dilate(dilated, 2)
    x = torch.randn(1, 128, 24, 24)
    with torch.inference_mode():
        # The first convolution of the dilated block is dilated too; undo that for the comparison.
        dilated.conv1.dilation = dilated.conv1.padding = (1, 1)  # type: ignore[attr-defined]
        assert torch.allclose(dilated(x)[..., ::2, ::2], strided(x), atol=1e-5)


def pooled_by_hand(x: Tensor, bins: int) -> Tensor:
    """Averages over cells [floor(i h / b), ceil((i + 1) h / b)), pixel by pixel."""
    n, c, h, w = x.shape
    out = torch.zeros(n, c, bins, bins)
    for i in range(bins):
        for j in range(bins):
            rows = range(i * h // bins, -(-(i + 1) * h // bins))
            columns = range(j * w // bins, -(-(j + 1) * w // bins))
            cells = [x[:, :, r, k] for r in rows for k in columns]
            out[:, :, i, j] = torch.stack(cells).mean(0)
    return out


def enlarged_by_hand(x: Tensor, height: int, width: int) -> Tensor:
    """Bilinear with aligned corners: output y lies at y (h - 1) / (height - 1)."""
    h, w = x.shape[2:]
    out = torch.zeros(*x.shape[:2], height, width)
    for y in range(height):
        for k in range(width):
            v = y * (h - 1) / (height - 1)
            u = k * (w - 1) / (width - 1)
            top, left = min(int(v), max(h - 2, 0)), min(int(u), max(w - 2, 0))
            a, b = v - top, u - left
            bottom, right = min(top + 1, h - 1), min(left + 1, w - 1)
            out[:, :, y, k] = (1 - a) * ((1 - b) * x[:, :, top, left] + b * x[:, :, top, right]) + (
                a * ((1 - b) * x[:, :, bottom, left] + b * x[:, :, bottom, right])
            )
    return out


def test_the_pyramid_is_a_direct_computation():
    torch.manual_seed(0)
    pyramid, x = PyramidPooling(8), torch.randn(2, 8, 13, 10)
    parts = [x]
    for bins, branch in zip((1, 2, 3, 6), pyramid.bins, strict=True):
        weight = dict(branch.named_modules())["1"].weight  # type: ignore[union-attr]
        assert isinstance(weight, Tensor)
        mixed = torch.einsum("oc,ncij->noij", weight[:, :, 0, 0], pooled_by_hand(x, bins))
        mean = mixed.mean((0, 2, 3), keepdim=True)
        var = mixed.var((0, 2, 3), unbiased=False, keepdim=True)
        parts.append(enlarged_by_hand(F.relu((mixed - mean) / (var + 1e-5).sqrt()), 13, 10))
    assert torch.allclose(pyramid(x), torch.cat(parts, 1), atol=1e-4)


@pytest.mark.parametrize("bin", [1, 2, 3, 6])
@pytest.mark.parametrize("size", [(6, 6), (13, 10), (5, 60)])
def test_deterministic_averages_are_torchs(bin: int, size: tuple[int, int]):
    x = torch.randn(2, 3, *size, dtype=torch.float64, requires_grad=True)
    results = []
    for deterministic in (False, True):
        torch.use_deterministic_algorithms(deterministic)
        out = GridAverage(bin)(x)
        (grad,) = torch.autograd.grad((out * torch.arange(out.numel()).view_as(out)).sum(), x)
        results.append((out, grad))
    for ours, plain in zip(*results, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-12, atol=1e-12)


def test_a_classifiers_weights_start_the_body_and_a_whole_networks_everything(tmp_path: Path):
    torch.manual_seed(1)
    classifier, file = resnet18(), tmp_path / "weights.pth"
    torch.save(classifier.state_dict(), file)
    model = PSPNet18(4, str(file))
    for name, tensor in model.body.state_dict().items():
        assert torch.equal(tensor, classifier.state_dict()[name])
    torch.save({"model": model.state_dict(), "progress": {}}, file)
    again = PSPNet18(4, str(file))
    assert all(torch.equal(a, again.state_dict()[n]) for n, a in model.state_dict().items())


def test_weights_that_do_not_fit_are_one_line(tmp_path: Path):
    file = tmp_path / "weights.pth"
    state = resnet18().state_dict()
    for change, line in (
        ({"layer1.0.conv1.weight": torch.zeros(1)}, "must be .64, 64, 3, 3., got .1,."),
        ({"extra": torch.zeros(1)}, "extra must be no such tensor, got .1,."),
    ):
        torch.save({**state, **change}, file)
        with pytest.raises(ValueError, match=f"model.weights=.* does not fit: .*{line}"):
            PSPNet18(4, str(file))
    del state["layer2.0.conv1.weight"]
    torch.save(state, file)
    with pytest.raises(ValueError, match="layer2.0.conv1.weight must be .128, 64, 3, 3., got none"):
        PSPNet18(4, str(file))
    file.write_bytes(b"nothing")
    with pytest.raises(ValueError, match="weights.pth cannot be read: "):
        PSPNet18(4, str(file))
    torch.save([1, 2], file)
    with pytest.raises(ValueError, match="must hold a state_dict"):
        PSPNet18(4, str(file))
    with pytest.raises(ValueError, match="must be imagenet, none or the path of a file, got x"):
        PSPNet18(4, "x")


def test_imagenet_weights_come_from_torch_hubs_cache_or_the_line_says_where_to_put_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    weights = models.ResNet18_Weights.IMAGENET1K_V1
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def offline(*args: object, **kwargs: object) -> None:
        raise OSError("no route\nto host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(ValueError) as error:
        PSPNet18(4, "imagenet")
    name = weights.url.rsplit("/", 1)[1]
    assert f"(no route to host): put {name} into {tmp_path}/hub/checkpoints" in str(error.value)
    classifier = resnet18()
    torch.save(classifier.state_dict(), tmp_path / "hub" / "checkpoints" / name)
    body = PSPNet18(4, "imagenet").body
    assert torch.equal(body.conv1.weight, classifier.conv1.weight)


@pytest.mark.parametrize(
    "setting", [{"head_lr_factor": 0}, {"dropout": 1.0}], ids=lambda s: next(iter(s))
)
def test_settings_have_rules(setting: dict[str, float]):
    with pytest.raises(ValueError, match=f"model.{next(iter(setting))} must be "):
        PSPNet18(4, **setting)  # type: ignore[arg-type]
