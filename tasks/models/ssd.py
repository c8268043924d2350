"""SSD (Liu et al., 2016): SSD300 on VGG16, and SSDLite320 on MobileNetV3 for small machines.

torchvision implements matching, box coding, hard negative mining and non-maximum suppression. Its
``ssd.py`` (0.29) differs from the authors' Caffe code (``examples/ssd/ssd_pascal.py`` and its
layers):

- fc6 and fc7 have random (Xavier) weights, in Caffe VGG16's, subsampled; so they are here by
  ``decimate_fc`` or from ssd.pytorch's ``vgg16_reducedfc.pth``.
- If two objects have the same best prior, the later object gets it (here on a GPU too), and the
  other may get none. In Caffe each object gets its own prior.
- If more than a quarter of an image's priors are matched, there are too few negatives, and
  torchvision counts positives a second time instead.
- torchvision clips detections to the image before the suppression, Caffe after it; torchvision
  also limits predicted widths and heights to 62.5 times those of the prior.
- "Xavier" is uniform with variance 2 / (fan in + fan out), in Caffe 1 / fan in.
- Caffe's biases have twice the learning rate and no weight decay; here all parameters are equal.

Where torchvision's *defaults* differ, this module sets Caffe's: VOC's prior sizes instead of
COCO's, priors that may be wider than the image (``clip``; ssd.pytorch clips), every layer trained.
Both keep the 400 best detections per class before the suppression and the 200 best per image after.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import MobileNet_V3_Large_Weights, VGG16_Weights, mobilenet_v3_large
from torchvision.models.detection import ssdlite320_mobilenet_v3_large
from torchvision.models.detection._utils import encode_boxes
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.ssd import SSD, SSDFeatureExtractorVGG, SSDHead
from torchvision.models.detection.ssdlite import SSDLiteFeatureExtractorMobileNet, SSDLiteHead
from torchvision.models.vgg import cfgs, make_layers
from torchvision.ops import box_convert, box_iou, clip_boxes_to_image, nms

from tasks.data.augment import MEAN, STD
from tasks.models import published
from tasks.models.weights import load_weights, read_weights

# Prior sizes in pixels of 300; a map uses its own size and the next one.
PRIOR_SIZES = (30, 60, 111, 162, 213, 264, 315)
FIRST_MAP_BLOCK = 13  # MobileNetV3's block that gives the first map
# MobileNetV3's last layer, and its channels if torchvision's reduced tail halves them.
LAST, REDUCED = "backbone.features.1.3.0.weight", 480

HeadOutputs = dict[str, Tensor]  # bbox_regression (n, priors, 4), cls_logits (n, priors, classes)
Targets = list[dict[str, Tensor]]


class Detector(SSD):
    """torchvision's SSD for preprocessed images (n, 3, size, size).

    Images are normalized by ``mean`` and ``std``, those of images in [0, 1] that the weights
    expect. Under autocast the network runs in bfloat16 and the losses in float32.

    ``targets[i]`` holds the objects of image i: ``boxes`` (m, 4), x1 y1 x2 y2 in its pixels, with
    positive width and height, and ``labels`` (m,) int64 from 1 (0 is background); m may be 0.
    With targets the result contains that of :meth:`losses`. In eval mode it contains
    ``"detections"``: for each image ``boxes`` (d, 4) in its pixels, ``scores`` (d,), best first,
    and ``labels`` (d,).

    The losses are torchvision's, for all images at once: no operation is one of an image, and no
    shape depends on values, so a step does not synchronize the device.
    """

    recipe: ClassVar[int] = 2

    size: ClassVar[int]
    maps: ClassVar[tuple[int, ...]]  # sides of the feature maps
    mean: tuple[float, ...]
    std: tuple[float, ...]
    priors: Tensor  # (priors, 4), x1 y1 x2 y2 in pixels
    box_weights: Tensor  # (4,), of the offsets that a box is coded by

    def __init__(
        self, backbone: nn.Module, generator: DefaultBoxGenerator, head: nn.Module, classes: int
    ) -> None:
        super().__init__(
            backbone,
            generator,
            (self.size, self.size),
            classes,
            head=head,
            iou_thresh=0.5,
            positive_fraction=0.25,  # 3 negatives to a positive
            score_thresh=0.01,
            topk_candidates=400,
            nms_thresh=0.45,
            detections_per_img=200,
        )
        del self.transform  # it resizes and normalizes
        with torch.device("cpu"):  # the device of the generator's shapes
            image = ImageList(torch.empty(1, 3, self.size, self.size), [(self.size, self.size)])
            maps = [torch.empty(1, 1, side, side) for side in self.maps]
            self.register_buffer("priors", generator(image, maps)[0], persistent=False)
            weights = torch.tensor(self.box_coder.weights)
            self.register_buffer("box_weights", weights, persistent=False)

    # Compiling everything would recompile for every number of objects: only predict is compiled.
    @torch.compiler.disable(recursive=False)
    def forward(  # type: ignore[override]
        self, images: Tensor, targets: Targets | None = None
    ) -> dict[str, Any]:
        side = (self.size, self.size)
        assert images.shape[-2:] == side, f"images of {side}, got {tuple(images.shape)}"
        heads = self.predict(images)
        out: dict[str, Any] = {} if targets is None else self.losses(heads, targets)
        if not self.training:
            out["detections"] = self.detect(heads)
        return out

    def detect(self, heads: HeadOutputs) -> list[dict[str, Tensor]]:
        """Return ``"detections"`` as torchvision's ``postprocess_detections`` does, the same on
        every device (:func:`suppress`)."""
        found = []
        for offsets, logits in zip(heads["bbox_regression"], heads["cls_logits"], strict=True):
            boxes = self.box_coder.decode_single(offsets, self.priors)
            boxes = clip_boxes_to_image(boxes, (self.size, self.size))
            candidates = []
            for label, scores in enumerate(logits.softmax(-1).unbind(1)[1:], 1):
                (own,) = (scores > self.score_thresh).nonzero(as_tuple=True)
                best, at = scores[own].topk(min(self.topk_candidates, len(own)))
                candidates.append((boxes[own[at]], best, torch.full_like(at, label)))
            near, likely, labels = (torch.cat(part) for part in zip(*candidates, strict=True))
            keep = suppress(near, likely, labels, self.nms_thresh)[: self.detections_per_img]
            found.append({"boxes": near[keep], "scores": likely[keep], "labels": labels[keep]})
        return found

    def predict(self, images: Tensor) -> HeadOutputs:
        """Return the outputs of the heads for ``images``, in float32."""
        maps = list(self.backbone(images).values())
        return {name: out.float() for name, out in self.head(maps).items()}

    @torch.compiler.disable()
    def losses(self, heads: HeadOutputs, targets: Targets) -> dict[str, Any]:
        """Return the losses of a batch of n images.

        Returns:
            ``"losses"``: ``box_loss`` (smooth L1) and ``class_loss`` (cross entropy, hard negatives
            3:1), each a sum over the batch divided by the number of its matched priors, at least 1.
            ``"positives"`` (n,): the number of matched priors per image. ``"sums"``: both losses
            per image (n,) before the division, without gradient. The loss over several batches is
            the sum of ``"sums"`` divided by the sum of ``"positives"``. An image without objects
            contributes 0.
        """
        regression, logits = heads["bbox_regression"], heads["cls_logits"]
        matches = self.match([target["boxes"] for target in targets])
        is_matched, number = matches >= 0, matches + 1
        # Number 0 is no object: the background, and a box whose loss does not count.
        background = matches.new_zeros(1)
        labels = torch.cat([background, *(target["labels"] for target in targets)])[number]
        boxes = torch.cat([self.priors[:1], *(target["boxes"] for target in targets)])[number]
        priors = self.priors.expand_as(boxes)
        wanted = encode_boxes(boxes.flatten(0, 1), priors.flatten(0, 1), self.box_weights)
        box_losses = F.smooth_l1_loss(regression, wanted.view_as(boxes), reduction="none").sum(2)
        class_losses = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
        class_losses = class_losses.view_as(labels)
        is_hard = self._hard_negatives(class_losses.detach(), is_matched)
        # With too few negatives a hard one is a positive, which then counts twice.
        sums = {
            "box_loss": torch.where(is_matched, box_losses, 0).sum(1),
            "class_loss": torch.where(is_matched, class_losses, 0).sum(1)
            + torch.where(is_hard, class_losses, 0).sum(1),
        }
        positives = is_matched.sum(1)
        total = positives.sum().clamp(min=1)
        return {
            "losses": {name: s.sum() / total for name, s in sums.items()},
            "positives": positives,
            "sums": {name: s.detach() for name, s in sums.items()},
        }

    def _hard_negatives(self, losses: Tensor, is_matched: Tensor) -> Tensor:
        """Return which priors (n, priors) are the negatives of highest loss, 3 to a positive."""
        order = losses.masked_fill(is_matched, -torch.inf).sort(1, descending=True).indices
        places = torch.arange(losses.shape[1], device=losses.device).expand_as(order)
        rank = torch.empty_like(order).scatter_(1, order, places)
        return rank < self.neg_to_pos_ratio * is_matched.sum(1, keepdim=True)

    @torch.no_grad()
    def match(self, boxes: Sequence[Tensor]) -> Tensor:
        """Return for each prior of each image the number of its object, or -1; int64 (n, priors).

        ``boxes[i]`` (m, 4) are the objects of image i; objects are numbered over all images. A
        prior matches the object of its image with the highest IoU if that is at least 0.5. The best
        prior of an object matches it at any IoU; the last object wins a prior that is the best of
        several.
        """
        counts, priors = [len(own) for own in boxes], self.priors
        rows = [(i, j) for i, count in enumerate(counts) for j in range(count)]
        place = torch.tensor(rows, dtype=torch.int64, device="cpu").view(-1, 2)
        if priors.is_cuda:
            place = place.pin_memory()
        image, row = place.to(priors.device, non_blocking=True).unbind(1)
        overlaps = box_iou(torch.cat(list(boxes)), priors)  # (objects, priors)
        numbers = torch.arange(len(rows), device=priors.device)
        padded = overlaps.new_full((len(boxes), max(1, *counts), len(priors)), -1)
        padded[image, row] = overlaps
        number_of = numbers.new_full(padded.shape[:2], -1)
        number_of[image, row] = numbers
        overlap, best = padded.max(1)
        is_matched = overlap >= self.proposal_matcher.high_threshold
        matches = torch.where(is_matched, number_of.gather(1, best), -1).flatten()
        own = image * len(priors) + overlaps.argmax(1)
        matches = matches.scatter_reduce(0, own, numbers, "amax", include_self=False)
        return matches.view(len(boxes), -1)


def suppress(boxes: Tensor, scores: Tensor, labels: Tensor, threshold: float) -> Tensor:
    """Return the numbers of the boxes that non-maximum suppression within each label keeps, those
    of the highest score first.

    This is torchvision's ``batched_nms`` on a CPU. On a GPU it moves the labels apart in float32
    for more boxes, up to 25,000, so that an IoU near the threshold may fall on its other side and
    scores would depend on the device.
    """
    if len(boxes) == 0:
        return labels
    if boxes.numel() <= 4000:
        apart = labels.to(boxes) * (boxes.max() + 1)
        return nms(boxes + apart[:, None], scores, threshold)
    kept = torch.zeros_like(labels, dtype=torch.bool)
    for label in labels.unique():
        own = (labels == label).nonzero()[:, 0]
        kept[own[nms(boxes[own], scores[own], threshold)]] = True
    (keep,) = kept.nonzero(as_tuple=True)
    return keep[scores[keep].sort(descending=True).indices]


class SSD300VGG16(Detector):
    """SSD300 with the paper's 8,732 priors for VOC: 26,285,486 parameters with VOC's 21 classes.

    Args:
        classes: Number of classes, the background included.
        weights: Initial weights of VGG16's features, from a classifier with Caffe's normalization
            like ``imagenet``'s, or of the complete network; also ssd.pytorch's
            (:mod:`tasks.models.published`).
        clip_priors: Clip center, width and height of the priors to [0, 1], which ssd.pytorch does
            and its weights expect: 134 priors change.
        decimate_fc: Subsample fc6 and fc7 from the classifier of torchvision's VGG16, whose
            weights (``imagenet``: IMAGENET1K_V1) expect images with ImageNet's normalization.
    """

    size = 300
    maps = (38, 19, 10, 5, 3, 1)
    mean, std = (0.48235, 0.45882, 0.40784), (1 / 255,) * 3

    def __init__(
        self,
        classes: int,
        weights: str = "none",
        clip_priors: bool = False,
        decimate_fc: bool = False,
    ) -> None:
        if decimate_fc and weights == "none":
            raise ValueError("model.decimate_fc must be false with model.weights=none, got true")
        vgg = VGG16_Weights
        state = read_weights(weights, vgg.IMAGENET1K_V1 if decimate_fc else vgg.IMAGENET1K_FEATURES)
        complete = False
        if state is not None:
            settings = (weights, clip_priors, decimate_fc)
            state, complete = published.ssd300_weights(state, *settings)
        features = make_layers(cfgs["D"])
        _initialize(features)
        generator = DefaultBoxGenerator(
            [[2], [2, 3], [2, 3], [2, 3], [2], [2]],
            scales=[size / self.size for size in PRIOR_SIZES],
            steps=[8, 16, 32, 64, 100, 300],
            clip=False,
        )
        channels = [512, 1024, 512, 256, 256, 256]
        head = SSDHead(channels, generator.num_anchors_per_location(), classes)
        super().__init__(SSDFeatureExtractorVGG(features, highres=False), generator, head, classes)
        if clip_priors:
            scaled = box_convert(self.priors / self.size, "xyxy", "cxcywh").clamp(0, 1)
            self.priors = self.size * box_convert(scaled, "cxcywh", "xyxy")
        if decimate_fc:
            self.mean, self.std = MEAN, STD
        if state is not None:
            has_fc = complete or published.FC6 + "weight" in state
            parts = "backbone.features.", "backbone.extra.0."
            fc = () if has_fc else (published.FC6, published.FC7)
            own = [n for n in self.state_dict() if n.startswith(parts) and not n.startswith(fc)]
            load_weights(self, state, weights, names=None if complete else own)


class SSDLite320MobileNet(Detector):
    """torchvision's SSDLite320 on MobileNetV3-large, trained and evaluated like SSD300.

    With random weights the tail is reduced and images are in [-1, 1], as in torchvision: 2,469,860
    parameters with VOC's 21 classes. With a classifier's weights the tail is full, as in
    torchvision, and images have ImageNet's normalization; torchvision keeps [-1, 1]. The tail of a
    complete network's weights decides between the two.

    Args:
        classes: Number of classes, the background included.
        weights: Initial weights of MobileNetV3, from a classifier, or of the complete network.
    """

    size = 320
    maps = (20, 10, 5, 3, 2, 1)
    mean, std = (0.5,) * 3, (0.5,) * 3

    def __init__(self, classes: int, weights: str = "none") -> None:
        state = read_weights(weights, MobileNet_V3_Large_Weights.IMAGENET1K_V1)
        network = ssdlite320_mobilenet_v3_large(
            weights=None, weights_backbone=None, num_classes=classes
        )
        backbone, head, generator = network.backbone, network.head, network.anchor_generator
        full = state is not None and not (LAST in state and len(state[LAST]) == REDUCED)
        if full:
            norm = partial(nn.BatchNorm2d, eps=0.001, momentum=0.03)
            features = mobilenet_v3_large(norm_layer=norm).features
            _load(features, state, weights)
            backbone = SSDLiteFeatureExtractorMobileNet(features, FIRST_MAP_BLOCK, norm)
            channels = [672, 960, 512, 256, 256, 128]
            head = SSDLiteHead(channels, generator.num_anchors_per_location(), classes, norm)
        super().__init__(backbone, generator, head, classes)
        _load(self, state, weights)
        if full:
            self.mean, self.std = MEAN, STD


def _load(module: nn.Module, state: Mapping[str, Tensor] | None, weights: str) -> None:
    """Load ``state`` if it fits ``module``: the weights of a complete network into a Detector, the
    weights of a classifier into its features."""
    complete = isinstance(module, Detector)
    if state is None or any(name.startswith("backbone.") for name in state) != complete:
        return
    target = module if complete else nn.ModuleDict({"features": module})
    load_weights(target, state, weights, () if complete else ("classifier.",))


def _initialize(features: nn.Module) -> None:
    """Initialize by He's method like torchvision's VGG, without building VGG's classifier."""
    for layer in features.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
