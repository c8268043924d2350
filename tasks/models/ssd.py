"""SSD (Liu et al., 2016): SSD300 on VGG16, and SSDLite320 on MobileNetV3 for small machines.

Matching, box coding, hard negatives and non-maximum suppression are torchvision's. Its ``ssd.py``
(0.29) and the authors' Caffe code (``examples/ssd/ssd_pascal.py`` and its layers) part in these:

- fc6 and fc7 are drawn (Xavier); Caffe's start from VGG16's own, subsampled.
- Of two objects with the same best prior the later one has it (here on a GPU too), and the other
  perhaps none. Caffe pairs them off, each with one of its own.
- Where more than a quarter of an image's priors are matched, negatives are too few, and torchvision
  fills up with positives, counted a second time.
- Detections are cut to the image before the suppression, in Caffe after it; torchvision also
  bounds predicted widths and heights to 62.5 times a prior's.
- "Xavier" is uniform with variance 2 / (fan in + fan out), in Caffe 1 / fan in.
- Caffe's biases have twice the learning rate and no weight decay; here all parameters are alike.

Where torchvision's *defaults* differ, Caffe's are set here: VOC's sizes of priors instead of
COCO's, priors that may be wider than the image (``clip``; ssd.pytorch clips), every layer trained.
The 400 best per class before and the 200 best per image after suppression are the same in both.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torchvision.models import MobileNet_V3_Large_Weights, VGG16_Weights, mobilenet_v3_large
from torchvision.models.detection import ssdlite320_mobilenet_v3_large
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.ssd import SSD, SSDFeatureExtractorVGG, SSDHead
from torchvision.models.detection.ssdlite import SSDLiteFeatureExtractorMobileNet, SSDLiteHead
from torchvision.models.vgg import cfgs, make_layers
from torchvision.ops import box_iou

from tasks.augment import MEAN, STD
from tasks.models import weights as pretrained

SIZES = (30, 60, 111, 162, 213, 264, 315)  # of priors, of 300: each map's smaller and larger one
LOSSES = {"box_loss": "bbox_regression", "class_loss": "classification"}  # torchvision's names
# MobileNetV3's block that the first map is taken from, and the channels of its last layer where the
# tail is halved.
C4 = 13
LAST, HALVED = "backbone.features.1.3.0.weight", 480

Heads = dict[str, Tensor]  # bbox_regression (n, priors, 4) and cls_logits (n, priors, classes)
Target = dict[str, Tensor]


class Detector(SSD):
    """torchvision's SSD for images that come prepared: (n, 3, size, size), normalised by ``mean``
    and ``std``, which are those of images in [0, 1] that the weights expect.

    ``targets[i]`` holds the objects of image i: ``boxes`` (m, 4) as x1, y1, x2, y2 in pixels of it,
    of positive width and height, and ``labels`` (m,) int64 from 1, for 0 is background; m may be 0.
    Given targets it returns what :meth:`losses` does; in eval mode also ``"detections"``, for each
    image ``boxes`` (d, 4) in its pixels, ``scores`` (d,), best first, and ``labels`` (d,).
    Under autocast the network runs in bfloat16, what follows in float32.

    torchvision's loss selects by masks, whose counts the CPU needs: a step waits for the device.
    """

    size: ClassVar[int]
    maps: ClassVar[tuple[int, ...]]  # sides of the maps that boxes are predicted from
    mean: tuple[float, ...]
    std: tuple[float, ...]
    priors: Tensor  # (priors, 4) as boxes are

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
        del self.transform  # resizes and normalises
        with torch.device("cpu"):  # where the generator's shapes are
            image = ImageList(torch.empty(1, 3, self.size, self.size), [(self.size, self.size)])
            maps = [torch.empty(1, 1, side, side) for side in self.maps]
            self.register_buffer("priors", generator(image, maps)[0], persistent=False)

    # Compiled whole it would be so anew for every number of objects: only predict is compiled.
    @torch.compiler.disable(recursive=False)
    def forward(  # type: ignore[override]
        self, images: Tensor, targets: list[Target] | None = None
    ) -> dict[str, Any]:
        side = (self.size, self.size)
        assert images.shape[-2:] == side, f"images of {side}, got {tuple(images.shape)}"
        heads = self.predict(images)
        out: dict[str, Any] = {} if targets is None else self.losses(heads, targets)
        if not self.training:
            n = len(images)
            out["detections"] = self.postprocess_detections(heads, [self.priors] * n, [side] * n)
        return out

    def predict(self, images: Tensor) -> Heads:
        """What backbone and head make of ``images``, in float32."""
        maps = list(self.backbone(images).values())
        return {name: out.float() for name, out in self.head(maps).items()}

    @torch.compiler.disable()
    def losses(self, heads: Heads, targets: list[Target]) -> dict[str, Any]:
        """``"losses"``, ``box_loss`` (smooth L1) and ``class_loss`` (cross entropy, hard negatives
        3:1): sums over the batch by its matched priors, of which 1 is taken where there is none.

        Besides ``"positives"`` (n,), the matched priors of each image, and ``"sums"``, the two
        losses of each image before the division (n,), without gradient: over any batches, sum by
        sum they make the loss of all images. An image without objects adds nothing.
        """
        matches = [self.match(target["boxes"]) for target in targets]
        positives = torch.stack([(match >= 0).sum() for match in matches])
        each = []
        for i, (target, match) in enumerate(zip(targets, matches, strict=True)):
            own = {name: out[i : i + 1] for name, out in heads.items()}
            each.append(self.compute_loss([target], own, [self.priors], [match]))
        sums = {
            name: torch.stack([loss[theirs] for loss in each]) * positives.clamp(min=1)
            for name, theirs in LOSSES.items()
        }
        total = positives.sum().clamp(min=1)
        return {
            "losses": {name: s.sum() / total for name, s in sums.items()},
            "positives": positives,
            "sums": {name: s.detach() for name, s in sums.items()},
        }

    @torch.no_grad()
    def match(self, boxes: Tensor) -> Tensor:
        """For each prior the index of its object in ``boxes`` (m, 4), or -1: the one of greatest
        IoU if that is at least 0.5, or one whose best prior this is, whatever the IoU."""
        if len(boxes) == 0:
            return torch.full((len(self.priors),), -1, device=self.priors.device)
        overlaps = box_iou(boxes, self.priors)
        matches, own = self.proposal_matcher(overlaps), overlaps.argmax(1)
        # Again, for torchvision's assignment leaves open which of two objects has a prior on a GPU.
        last = torch.arange(len(boxes), device=own.device)
        return matches.scatter_reduce(0, own, last, "amax", include_self=False)


class SSD300VGG16(Detector):
    """SSD300 with the paper's 8,732 priors for VOC: 26,285,486 parameters with its 21 classes.

    ``classes`` counts the background. ``weights`` are those of VGG16's features (a classifier's in
    Caffe's normalisation, as ``imagenet``'s are) or of the whole network.
    """

    size = 300
    maps = (38, 19, 10, 5, 3, 1)
    mean, std = (0.48235, 0.45882, 0.40784), (1 / 255,) * 3

    def __init__(self, classes: int, weights: str = "none") -> None:
        state = pretrained.state_dict(weights, VGG16_Weights.IMAGENET1K_FEATURES)
        features = make_layers(cfgs["D"])
        _he(features)
        _start(features, state, weights)
        generator = DefaultBoxGenerator(
            [[2], [2, 3], [2, 3], [2, 3], [2], [2]],
            scales=[size / self.size for size in SIZES],
            steps=[8, 16, 32, 64, 100, 300],
            clip=False,
        )
        channels = [512, 1024, 512, 256, 256, 256]
        head = SSDHead(channels, generator.num_anchors_per_location(), classes)
        super().__init__(SSDFeatureExtractorVGG(features, highres=False), generator, head, classes)
        _start(self, state, weights)


class SSDLite320MobileNet(Detector):
    """torchvision's SSDLite320 on MobileNetV3-large, trained and tested as SSD300 is here.

    Drawn at random its tail is halved and images lie in [-1, 1], as in torchvision: 2,469,860
    parameters with VOC's 21 classes. A classifier's ``weights`` need the whole tail, again as in
    torchvision, and ImageNet's normalisation, where torchvision stays with [-1, 1]. Of a whole
    network's the tail says which.
    """

    size = 320
    maps = (20, 10, 5, 3, 2, 1)
    mean, std = (0.5,) * 3, (0.5,) * 3

    def __init__(self, classes: int, weights: str = "none") -> None:
        state = pretrained.state_dict(weights, MobileNet_V3_Large_Weights.IMAGENET1K_V1)
        made = ssdlite320_mobilenet_v3_large(
            weights=None, weights_backbone=None, num_classes=classes
        )
        backbone, head, generator = made.backbone, made.head, made.anchor_generator
        full = state is not None and not (LAST in state and len(state[LAST]) == HALVED)
        if full:
            norm = partial(nn.BatchNorm2d, eps=0.001, momentum=0.03)
            features = mobilenet_v3_large(norm_layer=norm).features
            _start(features, state, weights)
            backbone = SSDLiteFeatureExtractorMobileNet(features, C4, norm)
            channels = [672, 960, 512, 256, 256, 128]
            head = SSDLiteHead(channels, generator.num_anchors_per_location(), classes, norm)
        super().__init__(backbone, generator, head, classes)
        _start(self, state, weights)
        if full:
            self.mean, self.std = MEAN, STD


def _start(module: nn.Module, state: Mapping[str, Tensor] | None, weights: str) -> None:
    """Load what is meant for ``module``: a whole network's weights for a Detector, a classifier's
    for the features of one."""
    whole = isinstance(module, Detector)
    if state is None or any(name.startswith("backbone.") for name in state) != whole:
        return
    target = module if whole else nn.ModuleDict({"features": module})
    pretrained.load(target, state, weights, () if whole else ("classifier.",))


def _he(features: nn.Module) -> None:
    """He's initialisation, as torchvision's VGG has it, without making its classifier."""
    for layer in features.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
