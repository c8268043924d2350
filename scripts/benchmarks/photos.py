"""Photos with masks as people load them for PSPNet and DeepLab in PyTorch: by PIL, one by one."""

import random
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFilter, ImageOps
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.datasets import VOCSegmentation
from torchvision.transforms import functional as F

from tasks.augment import MEAN, MEAN_PIXEL, STD
from tasks.voc import VOID

BILINEAR, NEAREST = Image.Resampling.BILINEAR, Image.Resampling.NEAREST
FILL = (MEAN_PIXEL[0], MEAN_PIXEL[1], MEAN_PIXEL[2])
Pair = tuple[Image.Image, Image.Image]


class Photos(Dataset[tuple[Tensor, Tensor]]):
    """VOC2012's own training images below ``root``, those that are there, augmented: a normalised
    float32 (3, crop, crop) and its int64 labels (crop, crop)."""

    def __init__(self, root: Path, crop: int) -> None:
        found = VOCSegmentation(str(root), "2012", "train")
        pairs = zip(found.images, found.masks, strict=True)
        self.files = [pair for pair in pairs if all(Path(file).is_file() for file in pair)]
        self.crop = crop

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image, mask = (Image.open(file) for file in self.files[index])
        image, mask = cropped(*augmented(image.convert("RGB"), mask), self.crop)
        inputs = F.normalize(F.to_tensor(image), list(MEAN), list(STD))
        return inputs, torch.from_numpy(np.array(mask)).long()


def augmented(image: Image.Image, mask: Image.Image) -> Pair:
    """What :func:`tasks.augment.segmentation` does before its crop, in the order of most code:
    scale, rotation, blur, flip."""
    factor = random.uniform(0.5, 2.0)
    size = round(image.width * factor), round(image.height * factor)
    image, mask = image.resize(size, BILINEAR), mask.resize(size, NEAREST)
    if random.random() < 0.5:
        angle = random.uniform(-10, 10)
        image = image.rotate(angle, BILINEAR, fillcolor=FILL)
        mask = mask.rotate(angle, NEAREST, fillcolor=VOID)
    if random.random() < 0.5:
        image = image.filter(ImageFilter.GaussianBlur(random.random()))
    if random.random() < 0.5:
        image, mask = ImageOps.mirror(image), ImageOps.mirror(mask)
    return image, mask


def cropped(image: Image.Image, mask: Image.Image, crop: int) -> Pair:
    """A random square of side ``crop``; what is smaller is padded on all sides first."""
    wide, high = (max(crop - side, 0) for side in image.size)
    if wide or high:
        border = (wide // 2, high // 2, wide - wide // 2, high - high // 2)
        image = ImageOps.expand(image, border, fill=FILL)
        mask = ImageOps.expand(mask, border, fill=VOID)
    left, top = (random.randint(0, side - crop) for side in image.size)
    box = (left, top, left + crop, top + crop)
    return image.crop(box), mask.crop(box)
