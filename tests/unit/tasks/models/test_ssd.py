"""SSD: priors, matching, losses, detections, and initial weights."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.models import MobileNet_V3_Large_Weights, VGG16_Weights, mobilenet_v3_large, vgg16
from torchvision.models.detection import ssdlite320_mobilenet_v3_large
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.ssd import SSDHead
from torchvision.models.vgg import cfgs, make_layers
from torchvision.ops import box_iou

from lrd.config.compose import CONFIGS
from lrd.training.builder import compile_forward
from tasks.data.augment import MEAN, STD
from tasks.models.ssd import SSD300VGG16, Detector, SSDLite320MobileNet

Box = tuple[float, ...]
CLASSES = 4  # of heads made by hand
# From ssd.pytorch's data/config.py and the Caffe script
MAPS, STEPS = (38, 19, 10, 5, 3, 1), (8, 16, 32, 64, 100, 300)
SMALL, LARGE = (30, 60, 111, 162, 213, 264), (60, 111, 162, 213, 264, 315)
RATIOS = ((2,), (2, 3), (2, 3), (2, 3), (2,), (2,))


@pytest.fixture(scope="module")
def ssd() -> SSD300VGG16:
    torch.manual_seed(0)
    return SSD300VGG16(21)


def objects(*rows: Box) -> dict[str, Tensor]:
    """Return the targets of one image from rows of x1, y1, x2, y2, label."""
    table = torch.tensor(rows).view(-1, 5)
    return {"boxes": table[:, :4], "labels": table[:, 4].long()}


THREE = [
    objects((30, 41, 151, 262, 2), (100.1, 20.7, 290.2, 170.9, 1), (7.3, 9.9, 48.2, 61.4, 3)),
    objects(),
    objects((60.3, 80.1, 255.5, 201.7, 1)),
]


def random_heads(model: Detector, images: int) -> dict[str, Tensor]:
    n = len(model.priors)
    made = torch.Generator().manual_seed(4)
    boxes, logits = (torch.randn(images, n, k, generator=made) for k in (4, CLASSES))
    return {"bbox_regression": boxes, "cls_logits": 2 * logits}


def run(model: Detector, heads: dict[str, Tensor], targets: Any = None) -> dict[str, Any]:
    """Return the model's result for given outputs of its heads."""
    images = torch.zeros(len(heads["cls_logits"]), 3, model.size, model.size)
    with mock.patch.object(model, "predict", lambda _: heads):
        return model(images, targets)


def priors_by_hand() -> Iterator[Box]:
    """Yield center, width and height of each prior of an image of side 1."""
    for side, step, small, large, ratios in zip(MAPS, STEPS, SMALL, LARGE, RATIOS, strict=True):
        shapes = [(small, small), (math.sqrt(small * large),) * 2]
        for ratio in ratios:
            wide, narrow = small * math.sqrt(ratio), small / math.sqrt(ratio)
            shapes += [(wide, narrow), (narrow, wide)]
        for y in range(side):
            for x in range(side):
                for w, h in shapes:
                    yield (x + 0.5) * step / 300, (y + 0.5) * step / 300, w / 300, h / 300


def test_priors_are_the_papers_8732(ssd: SSD300VGG16):
    corners, size = ssd.priors.double() / 300, (ssd.priors[:, 2:] - ssd.priors[:, :2]) / 300
    ours = torch.cat([(corners[:, :2] + corners[:, 2:]) / 2, size], 1)
    direct = torch.tensor(list(priors_by_hand()), dtype=torch.float64)
    assert len(direct) == 38**2 * 4 + 19**2 * 6 + 10**2 * 6 + 5**2 * 6 + 3**2 * 4 + 4 == 8732
    assert ours.shape == direct.shape and torch.allclose(ours, direct, rtol=0, atol=1e-6)
    assert (direct[:, 2:].amax(1) > 1).sum() == 3**2 * 2 + 2  # not clipped


def test_parameters_are_the_published_ones(ssd: SSD300VGG16):
    channels, boxes = (512, 1024, 512, 256, 256, 256), (4, 6, 6, 6, 4, 4)

    def conv(before: int, after: int, kernel: int) -> int:
        return (before * kernel**2 + 1) * after

    vgg = 14_714_688  # published: VGG16's 138,357,544 without its classifier's 123,642,856
    fc = conv(512, 1024, 3) + conv(1024, 1024, 1)
    extra = sum(
        conv(before, half, 1) + conv(half, 2 * half, 3)
        for before, half in ((1024, 256), (512, 128), (256, 128), (256, 128))
    )
    heads = sum(conv(c, b * (4 + 21), 3) for c, b in zip(channels, boxes, strict=True))
    total = vgg + fc + 512 + extra + heads
    assert sum(p.numel() for p in ssd.parameters()) == total == 26_285_486  # ssd.pytorch's
    assert all(p.requires_grad for p in ssd.parameters())
    assert not any("priors" in name for name in ssd.state_dict())


def test_settings_are_the_papers(ssd: SSD300VGG16):
    for model in (ssd, SSDLite320MobileNet(3)):
        assert (model.score_thresh, model.topk_candidates) == (0.01, 400)
        assert (model.nms_thresh, model.detections_per_img) == (0.45, 200)
        assert model.proposal_matcher.high_threshold == 0.5 and model.neg_to_pos_ratio == 3
        assert model.box_coder.weights == (1 / 0.1, 1 / 0.1, 1 / 0.2, 1 / 0.2)
    assert torch.equal(ssd.state_dict()["backbone.scale_weight"], torch.full((512,), 20.0))
    preset = VGG16_Weights.IMAGENET1K_FEATURES.transforms()
    assert (ssd.mean, ssd.std) == (tuple(preset.mean), tuple(preset.std))
    preset = MobileNet_V3_Large_Weights.IMAGENET1K_V1.transforms()
    assert (MEAN, STD) == (tuple(preset.mean), tuple(preset.std))


def test_vgg_starts_from_hes_initialisation(ssd: SSD300VGG16):
    state = ssd.state_dict()
    assert not state["backbone.features.19.bias"].any()
    assert state["backbone.features.19.weight"].std().item() == pytest.approx(
        math.sqrt(2 / (512 * 3**2)), rel=0.01
    )


def iou(a: Box, b: Box) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    both = max(width, 0) * max(height, 0)
    areas = ((x[2] - x[0]) * (x[3] - x[1]) for x in (a, b))
    return both / (sum(areas) - both)


def matched_by_hand(boxes: list[Box], priors: list[Box]) -> list[int]:
    overlaps = [[iou(box, prior) for box in boxes] for prior in priors]
    match = [row.index(max(row)) if max(row) >= 0.5 else -1 for row in overlaps]
    for j in range(len(boxes)):
        column = [row[j] for row in overlaps]
        match[column.index(max(column))] = j
    return match


def encoded_by_hand(box: Box, prior: Box) -> Box:
    (x, y, w, h), (px, py, pw, ph) = (
        ((b[0] + b[2]) / 2, (b[1] + b[3]) / 2, b[2] - b[0], b[3] - b[1]) for b in (box, prior)
    )
    where = (x - px) / pw / 0.1, (y - py) / ph / 0.1
    return *where, math.log(w / pw) / 0.2, math.log(h / ph) / 0.2


def losses_by_hand(
    regression: list[Box], logits: list[Box], priors: list[Box], target: dict[str, Tensor]
) -> tuple[float, float, int]:
    """Sums of box and class loss of one image, and its matched priors."""
    boxes, labels = target["boxes"].tolist(), target["labels"].tolist()
    match = matched_by_hand(boxes, priors) if boxes else [-1] * len(priors)
    box_loss, class_loss, negatives = 0.0, 0.0, []
    for at, prior, row, j in zip(regression, priors, logits, match, strict=True):
        cross_entropy = math.log(sum(map(math.exp, row))) - row[labels[j] if j >= 0 else 0]
        if j < 0:
            negatives.append(cross_entropy)
            continue
        class_loss += cross_entropy
        for got, wanted in zip(at, encoded_by_hand(boxes[j], prior), strict=True):
            off = abs(got - wanted)
            box_loss += off**2 / 2 if off < 1 else off - 0.5
    positives = len(priors) - len(negatives)
    class_loss += sum(sorted(negatives, reverse=True)[: 3 * positives])
    return box_loss, class_loss, positives


def match_of_one(model: Detector, boxes: Tensor) -> Tensor:
    (match,) = model.match([boxes])
    return match


def random_targets(images: int, most: int, seed: int = 0) -> list[dict[str, Tensor]]:
    """Return up to ``most`` objects an image, and none in every third image."""
    made, targets = torch.Generator().manual_seed(seed), list[dict[str, Tensor]]()
    for number in range(images):
        count = int(torch.randint(most + 1, (), generator=made)) if number % 3 else 0
        corners = 250 * torch.rand(count, 2, generator=made)
        sizes = 1 + 120 * torch.rand(count, 2, generator=made)
        labels = torch.randint(1, CLASSES, (count,), generator=made)
        targets.append({"boxes": torch.cat([corners, corners + sizes], 1), "labels": labels})
    return targets


class Operations(TorchDispatchMode):
    """Collects the names of the operations that are dispatched."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.names.append(str(function))
        return function(*args, **(kwargs or {}))


def test_no_operation_of_the_loss_is_one_of_an_image_or_waits(ssd: SSD300VGG16):
    """The number of operations does not grow with the batch, and no shape depends on values."""
    names: dict[int, list[str]] = {}
    for images in (2, 8, 32):
        heads = {k: v.requires_grad_() for k, v in random_heads(ssd, images).items()}
        targets = random_targets(images, 5)
        with Operations() as operations:
            losses = ssd.losses(heads, targets)["losses"]
            torch.stack(list(losses.values())).sum().backward()
        names[images] = operations.names
    assert names[2] == names[8] == names[32] and 50 < len(names[2]) < 200
    waiting = ("nonzero", "masked_select", "_local_scalar_dense", "unique", "repeat_interleave")
    assert not [name for name in names[2] if any(each in name for each in waiting)]


@pytest.mark.parametrize(("images", "most"), [(1, 3), (4, 3), (7, 80)])
def test_the_losses_of_a_batch_are_those_of_torchvision_image_by_image(
    images: int, most: int, ssd: SSD300VGG16
):
    """Few objects and many, more than one prior's best, and images without."""
    heads = {name: out.requires_grad_() for name, out in random_heads(ssd, images).items()}
    targets = random_targets(images, most, seed=most)
    out, sums = ssd.losses(heads, targets), dict[str, list[Tensor]]()
    for number, target in enumerate(targets):
        match = torch.full((len(ssd.priors),), -1)
        if len(target["boxes"]):
            overlaps = box_iou(target["boxes"], ssd.priors)
            match = ssd.proposal_matcher(overlaps)
            for row, best in enumerate(overlaps.argmax(1)):  # the last object wins
                match[best] = row
        assert out["positives"][number] == (match >= 0).sum()
        own = {name: value[number : number + 1] for name, value in heads.items()}
        for name, loss in ssd.compute_loss([target], own, [ssd.priors], [match]).items():
            sums.setdefault(name, []).append(loss * (match >= 0).sum().clamp(min=1))
    total, theirs = out["positives"].sum().clamp(min=1), list[Tensor]()
    for ours, name in (("box_loss", "bbox_regression"), ("class_loss", "classification")):
        theirs.append(torch.stack(sums[name]).sum() / total)
        assert torch.allclose(out["sums"][ours], torch.stack(sums[name]), rtol=1e-6, atol=0)
        assert torch.allclose(out["losses"][ours], theirs[-1], rtol=1e-6, atol=0)
    ours = torch.stack(list(out["losses"].values())).sum()
    leaves = list(heads.values())
    for a, b in zip(
        torch.autograd.grad(ours, leaves),
        torch.autograd.grad(torch.stack(theirs).sum(), leaves),
        strict=True,
    ):
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-9)


def test_the_loss_is_a_direct_computation(ssd: SSD300VGG16):
    heads = random_heads(ssd, 3)
    out, priors = ssd.losses(heads, THREE), ssd.priors.tolist()
    direct = [
        losses_by_hand(boxes.tolist(), logits.tolist(), priors, target)
        for boxes, logits, target in zip(*heads.values(), THREE, strict=True)
    ]
    box_loss, class_loss, positives = (list(column) for column in zip(*direct, strict=True))
    assert out["positives"].tolist() == positives and positives[1] == 0 < min(positives[::2])
    assert out["sums"]["box_loss"].tolist() == pytest.approx(box_loss, rel=1e-5)
    assert out["sums"]["class_loss"].tolist() == pytest.approx(class_loss, rel=1e-5)
    assert out["losses"]["box_loss"].item() == pytest.approx(sum(box_loss) / sum(positives))
    assert out["losses"]["class_loss"].item() == pytest.approx(sum(class_loss) / sum(positives))


def test_the_loss_is_torchvisions_of_the_whole_batch_and_no_division_into_batches_shows(
    ssd: SSD300VGG16,
):
    heads = {name: out.requires_grad_() for name, out in random_heads(ssd, 3).items()}
    out = ssd.losses(heads, THREE)
    matches = [match_of_one(ssd, target["boxes"]) for target in THREE]
    theirs = ssd.compute_loss(THREE, heads, [ssd.priors] * 3, matches)
    for ours, name in (("box_loss", "bbox_regression"), ("class_loss", "classification")):
        assert torch.allclose(out["losses"][ours], theirs[name])
    leaves = list(heads.values())
    gradients = [
        torch.autograd.grad(torch.stack(list(losses.values())).sum(), leaves)
        for losses in (out["losses"], theirs)
    ]
    assert all(torch.allclose(a, b, atol=1e-8) for a, b in zip(*gradients, strict=True))
    parts = [
        ssd.losses({k: v[part] for k, v in heads.items()}, THREE[part])
        for part in (slice(0, 1), slice(1, 3))
    ]
    for name, sums in out["sums"].items():
        assert not sums.requires_grad
        assert torch.equal(torch.cat([part["sums"][name] for part in parts]), sums)
        count = torch.cat([part["positives"] for part in parts]).sum()
        assert torch.allclose(sums.sum() / count, out["losses"][name])


def test_an_object_has_its_best_prior_below_an_iou_of_a_half(ssd: SSD300VGG16):
    tiny = torch.tensor([[101.0, 102.0, 106.0, 108.0]])
    match = match_of_one(ssd, tiny)
    (best,) = (match >= 0).nonzero().flatten().tolist()
    overlaps = [iou(tuple(tiny[0].tolist()), prior) for prior in ssd.priors.tolist()]
    assert overlaps[best] == pytest.approx(max(overlaps)) and 0 < max(overlaps) < 0.1


def test_of_two_objects_with_one_best_prior_the_later_has_it(ssd: SSD300VGG16):
    inner = torch.tensor([[101.0, 102.0, 106.0, 108.0], [101.0, 102.0, 106.0, 109.0]])
    match = match_of_one(ssd, inner)
    assert match.max() == 1 and (match >= 0).sum() == 1
    assert torch.equal(match_of_one(ssd, inner.flip(0)), match)


@pytest.mark.parametrize("images", [1, 2])
def test_images_without_objects_have_a_finite_loss(ssd: SSD300VGG16, images: int):
    heads = {name: out.requires_grad_() for name, out in random_heads(ssd, images).items()}
    out = ssd.losses(heads, [objects()] * images)
    assert out["positives"].tolist() == [0] * images
    loss = out["losses"]["box_loss"] + out["losses"]["class_loss"]
    loss.backward()
    assert loss == 0 and all((v.grad == 0).all() for v in heads.values())


def heads_for(
    model: Detector, wanted: list[tuple[Box, int, float]], classes: int = CLASSES
) -> dict[str, Tensor]:
    """Return outputs in which prior i predicts box i with its label and score, others nothing."""
    boxes, chances = model.priors.clone(), torch.full((len(model.priors), classes), 1e-3)
    for i, (box, label, score) in enumerate(wanted):
        boxes[i], chances[i, label] = torch.tensor(box), score
    chances[:, 0] = 1 - chances[:, 1:].sum(1)
    regression = model.box_coder.encode_single(boxes, model.priors)
    return {"bbox_regression": regression[None], "cls_logits": chances.log()[None]}


def detected_by_hand(wanted: list[tuple[Box, int, float]]) -> list[tuple[Box, int, float]]:
    kept = []
    for box, label, score in sorted(wanted, key=lambda row: -row[2]):
        box = tuple(min(max(x, 0), 300) for x in box)
        if score > 0.01 and all(label != o[1] or iou(box, o[0]) <= 0.45 for o in kept):
            kept.append((box, label, score))
    return kept


def test_detections_are_a_direct_computation(ssd: SSD300VGG16):
    made = torch.Generator().manual_seed(1)
    rows = torch.rand(60, 6, generator=made).tolist()
    wanted: list[tuple[Box, int, float]] = []
    for a, b, c, d, label, score in rows:  # about three places, so that many overlap
        x, y = 100 * int(3 * a) - 10 + 20 * b, 90 + 30 * c
        box = (x, y, x + 60 + 30 * d, y + 70 + 30 * b)
        wanted.append((box, 1 + int(2 * label), score**2))
    wanted[0], wanted[1] = (wanted[0][0], 3, 0.0099), (wanted[1][0], 3, 0.0101)
    (found,) = run(ssd.eval(), heads_for(ssd, wanted))["detections"]
    direct = detected_by_hand(wanted)
    assert 6 < len(direct) < 40 and (3, 0.0101) in [row[1:] for row in direct]
    assert found["labels"].tolist() == [label for _, label, _ in direct]
    assert found["scores"].tolist() == pytest.approx([score for *_, score in direct], rel=1e-4)
    assert torch.allclose(found["boxes"], torch.tensor([box for box, *_ in direct]), atol=1e-3)


def test_400_of_a_class_are_considered_and_200_of_an_image_kept(ssd: SSD300VGG16):
    same = [((10.0, 10.0, 50.0, 50.0), 1, 0.9 - i / 1000) for i in range(400)]
    unseen = [((200.0, 200.0, 250.0, 250.0), 1, 0.4)]
    corners = [(18.0 * (i % 16), 18.0 * (i // 16)) for i in range(250)]
    distinct = [((x, y, x + 10, y + 10), 2, 0.2 + i / 1000) for i, (x, y) in enumerate(corners)]
    heads = heads_for(ssd, same + unseen + distinct)
    (found,) = run(ssd.eval(), heads)["detections"]
    assert found["labels"].tolist() == [1] + [2] * 199
    best = [box for box, *_ in (same[0], *distinct[:-200:-1])]
    assert torch.allclose(found["boxes"], torch.tensor(best), atol=1e-3)


@pytest.mark.parametrize("background", [0, 9])
def test_detections_are_torchvisions_on_a_cpu(ssd: SSD300VGG16, background: int):
    """More than 1,000 boxes above the threshold, and fewer, which torchvision shifts apart."""
    heads = random_heads(ssd, 2)
    heads["cls_logits"][..., 0] += background
    priors, side = [ssd.priors] * 2, [(300, 300)] * 2
    expected = ssd.postprocess_detections(heads, priors, side)
    assert all(len(found["boxes"]) >= 100 for found in expected)
    for ours, theirs in zip(ssd.detect(heads), expected, strict=True):
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_detections_come_in_eval_mode_and_losses_with_targets(ssd: SSD300VGG16):
    heads, loss = random_heads(ssd, 3), {"losses", "sums", "positives"}
    assert run(ssd.train(), heads, THREE).keys() == loss
    assert run(ssd.eval(), heads).keys() == {"detections"}
    out = run(ssd, heads, THREE)
    assert out.keys() == {*loss, "detections"} and len(out["detections"]) == 3
    assert torch.equal(out["losses"]["box_loss"], ssd.losses(heads, THREE)["losses"]["box_loss"])


@torch.inference_mode()
def test_ssd300_predicts_from_six_maps_the_first_of_length_20(ssd: SSD300VGG16):
    seen: list[Any] = []
    hook = ssd.head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    out = ssd.eval()(torch.randn(1, 3, 300, 300), THREE[:1])
    hook.remove()
    assert [m.shape[-1] for m in seen[0]] == [m.shape[-2] for m in seen[0]] == list(MAPS)
    assert torch.allclose(seen[0][0].norm(dim=1), torch.tensor(20.0))
    assert out.keys() == {"losses", "sums", "positives", "detections"}
    assert all(v.isfinite() for v in out["losses"].values())
    boxes = out["detections"][0]["boxes"]
    assert len(boxes) and boxes.min() >= 0 and boxes.max() <= 300


class Tiny(Detector):
    size, maps = 64, (2, 1)

    def __init__(self) -> None:
        generator = DefaultBoxGenerator([[2], [2]])
        head = SSDHead([8, 8], generator.num_anchors_per_location(), CLASSES)
        super().__init__(Pyramid(), generator, head, CLASSES)


class Pyramid(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.conv(x)
        return {str(side): nn.functional.adaptive_avg_pool2d(x, side) for side in Tiny.maps}


def test_a_compiled_network_is_not_recompiled_for_every_number_of_objects():
    torch.manual_seed(0)
    model, graphs = Tiny(), []
    plain = model.forward

    def backend(graph: Any, _: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    compile_forward(model, backend=backend)
    for count in (2, 0, 3, 1):
        rows = [(4.0 + i, 5.0, 40.0 + 5 * i, 50.0, 1 + i % 3) for i in range(count)]
        images, targets = torch.randn(2, 3, 64, 64), [objects(*rows), objects((9, 9, 30, 40, 2))]
        losses, expected = model(images, targets)["losses"], plain(images, targets)["losses"]
        assert all(torch.allclose(losses[name], expected[name]) for name in expected)
    assert len(graphs) == 1


@pytest.mark.parametrize("fast", [False, True], ids=["fp32", "bf16, channels last"])
def test_ssdlite_trains(fast: bool):
    torch.manual_seed(0)
    model, images = SSDLite320MobileNet(CLASSES), torch.randn(2, 3, 320, 320)
    if fast:
        images = images.contiguous(memory_format=torch.channels_last)
    with (
        torch.autocast("cpu", torch.bfloat16, enabled=fast),
        mock.patch.object(model, "losses", wraps=model.losses) as losses,
    ):
        out = model(images, THREE[:2])
    assert all(v.dtype == torch.float32 for v in losses.call_args.args[0].values())
    assert all(v.dtype == torch.float32 and v.isfinite() for v in out["losses"].values())
    (out["losses"]["box_loss"] + out["losses"]["class_loss"]).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_ssdlite_is_torchvisions():
    torch.manual_seed(3)
    model = SSDLite320MobileNet(21)
    torch.manual_seed(3)
    theirs = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=21)
    state = model.state_dict()
    assert state.keys() == theirs.state_dict().keys()
    assert all(torch.equal(state[name], t) for name, t in theirs.state_dict().items())
    assert sum(p.numel() for p in model.parameters()) == 2_469_860
    seen: list[Any] = []
    theirs.anchor_generator.register_forward_hook(lambda *passed: seen.append(passed[2]))
    images = torch.rand(2, 3, 320, 320)  # torchvision's model normalizes
    with torch.no_grad():
        ours, expected = model(2 * images - 1, THREE[::2]), theirs(list(images), THREE[::2])
    assert torch.equal(seen[0][0], model.priors) and len(model.priors) == 3234
    assert torch.allclose(ours["losses"]["box_loss"], expected["bbox_regression"])
    assert torch.allclose(ours["losses"]["class_loss"], expected["classification"])


def features(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: t for name, t in state.items() if name.startswith("features.")}


def vgg(**more: Tensor) -> dict[str, Tensor]:
    """A classifier's weights like IMAGENET1K_FEATURES, whose classifier is NaN."""
    torch.manual_seed(1)
    state = nn.ModuleDict({"features": make_layers(cfgs["D"])}).state_dict()
    return {**state, "classifier.0.weight": torch.full((2,), math.nan), **more}


def of_vgg(name: str) -> str:
    """Return the name in SSD300 of a tensor of VGG's features."""
    _, layer, what = name.split(".")
    after = int(layer) - 23  # from the fourth pooling on
    return f"backbone.{f'extra.0.{after}' if after >= 0 else f'features.{layer}'}.{what}"


def test_a_classifiers_weights_start_vgg_and_a_whole_networks_everything(tmp_path: Path):
    file, state = tmp_path / "weights.pth", vgg()
    with torch.device("meta"):
        assert features(state).keys() == features(vgg16().state_dict()).keys()
    torch.save(state, file)
    model = SSD300VGG16(CLASSES, str(file))
    own = model.state_dict()
    assert all(torch.equal(t, own[of_vgg(name)]) for name, t in features(state).items())
    assert all(t.isfinite().all() for t in own.values())
    torch.save({"model": own, "progress": {}}, file)
    again = SSD300VGG16(CLASSES, str(file))
    assert all(torch.equal(t, again.state_dict()[name]) for name, t in own.items())
    with pytest.raises(
        ValueError, match="module_list.0.weight must be .12, 512.*got .16, 512, 3, 3"
    ):
        SSD300VGG16(CLASSES - 1, str(file))


def test_weights_that_do_not_fit_are_one_line(tmp_path: Path):
    file, whole = tmp_path / "weights.pth", SSDLite320MobileNet(CLASSES).state_dict()
    cases: list[tuple[type[Any], dict[str, Tensor], str]] = [
        (SSD300VGG16, vgg(**{"features.0.weight": torch.zeros(1)}), "64, 3, 3, 3., got .1,"),
        (
            SSD300VGG16,
            vgg(**{"features.30.bias": torch.zeros(1)}),
            "30.bias must be no such tensor",
        ),
        (SSD300VGG16, whole, "must be .*, got none"),
        (SSDLite320MobileNet, vgg(), "features.0.0.weight must be .16, 3, 3, 3., got none"),
        (SSDLite320MobileNet, {**whole, "x": torch.zeros(1)}, "x must be no such tensor, got .1,"),
    ]
    for kind, state, line in cases:
        torch.save(state, file)
        with pytest.raises(ValueError, match=f"model.weights=.* does not fit: .*{line}") as error:
            kind(CLASSES, str(file))
        assert "\n" not in str(error.value)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """torch.hub's cache, on a machine without network."""

    def offline(*args: object, **kwargs: object) -> None:
        raise OSError("no route\nto host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def test_imagenet_weights_of_vgg_are_the_caffe_style_features(cache: Path):
    name = VGG16_Weights.IMAGENET1K_FEATURES.url.rsplit("/", 1)[1]
    with pytest.raises(ValueError, match=f"model.weights=imagenet cannot be .* put {name} into "):
        SSD300VGG16(CLASSES, "imagenet")
    torch.save(vgg(), cache / name)
    own = SSD300VGG16(CLASSES, "imagenet").state_dict()
    assert all(torch.equal(t, own[of_vgg(n)]) for n, t in features(vgg()).items())


def test_imagenet_weights_of_mobilenet_keep_its_tail_and_its_normalization(cache: Path):
    weights = MobileNet_V3_Large_Weights.IMAGENET1K_V1
    state = mobilenet_v3_large().state_dict()
    torch.save(state, cache / weights.url.rsplit("/", 1)[1])
    model = SSDLite320MobileNet(CLASSES, "imagenet")
    theirs = ssdlite320_mobilenet_v3_large(
        weights=None, weights_backbone=weights, num_classes=CLASSES
    ).state_dict()
    own = model.state_dict()
    assert {n: t.shape for n, t in own.items()} == {n: t.shape for n, t in theirs.items()}
    loaded = [n for n in own if n.startswith("backbone.features.")]
    assert len(loaded) == len(features(state))
    assert all(torch.equal(own[n], theirs[n]) for n in loaded)
    norms = [{(m.eps, m.momentum) for m in model.modules() if isinstance(m, nn.BatchNorm2d)}]
    assert norms == [{(0.001, 0.03)}]
    torch.save(own, cache / "whole.pth")
    again = SSDLite320MobileNet(CLASSES, str(cache / "whole.pth"))
    assert all(torch.equal(t, again.state_dict()[n]) for n, t in own.items())
    for started in (model, again):
        assert (started.mean, started.std) == (MEAN, STD)
    scratch = SSDLite320MobileNet(CLASSES)
    torch.save(scratch.state_dict(), cache / "whole.pth")
    for started in (scratch, SSDLite320MobileNet(CLASSES, str(cache / "whole.pth"))):
        assert (started.mean, started.std) == ((0.5,) * 3, (0.5,) * 3)


@pytest.mark.parametrize(
    "name, kind, weights",
    [
        ("ssd300_vgg16", SSD300VGG16, "imagenet"),
        ("ssdlite320_mobilenet", SSDLite320MobileNet, "none"),
    ],
)
def test_the_configuration_names_them(name: str, kind: type[Detector], weights: str):
    file = OmegaConf.to_container(OmegaConf.load(CONFIGS / "model" / f"{name}.yaml"))
    assert file == {"_target_": f"{kind.__module__}.{kind.__name__}", "weights": weights}
