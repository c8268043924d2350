"""Data sets of the benchmarks: random images, torchvision's data sets, photos."""

import random
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from PIL import Image, ImageFilter, ImageOps
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import datasets, transforms
from torchvision.transforms import functional as F

from lrd.task import Setup
from tasks import images
from tasks.data.augment import MEAN, MEAN_PIXEL, STD
from tasks.data.voc import VOID


class ImageSet(NamedTuple):
    """A data set of small images: this repository's class, torchvision's, counts, directory."""

    ours: type[images.Images]
    torchvision: type[Any]
    counts: tuple[int, int]
    folder: str


IMAGE_SETS = {
    "mnist": ImageSet(images.MNIST, datasets.MNIST, (60_000, 10_000), "MNIST"),
    "cifar10": ImageSet(images.CIFAR10, datasets.CIFAR10, (50_000, 10_000), "cifar-10-batches-py"),
    "cifar100": ImageSet(images.CIFAR100, datasets.CIFAR100, (50_000, 10_000), "cifar-100-python"),
}
VOC_FOLDERS = {
    "voc_seg": "VOCdevkit/VOC2012/SegmentationClass",
    "voc_det": "VOCdevkit/VOC2007/Annotations",
}
_FILL = (MEAN_PIXEL[0], MEAN_PIXEL[1], MEAN_PIXEL[2])
_BILINEAR, _NEAREST = Image.Resampling.BILINEAR, Image.Resampling.NEAREST
_EDGES = "xmin", "ymin", "xmax", "ymax"
ImagePair = tuple[Image.Image, Image.Image]


def is_on_disk(name: str, root: str) -> bool:
    """Return whether ``root`` has images of a task on VOC or of one of :data:`IMAGE_SETS`."""
    folder = VOC_FOLDERS.get(name) or IMAGE_SETS[name].folder
    return (Path(root).expanduser() / folder).is_dir()


def random_images(shape: tuple[int, int, int], classes: int, count: int) -> tuple[Tensor, Tensor]:
    """Return random images, uint8 (count, c, h, w), and labels, int64 (count,)."""
    generator = torch.Generator().manual_seed(count)
    pixels = torch.randint(256, (count, *shape), dtype=torch.uint8, generator=generator)
    return pixels, torch.randint(classes, (count,), generator=generator)


class RandomImages(images.Images):
    """Random images of the shape of ``like``, a name in :data:`IMAGE_SETS`, for ``dataset=``."""

    def __init__(
        self, setup: Setup, name: str, like: str, train: int, test: int, holdout: int = 0
    ) -> None:
        super().__init__(setup, name, holdout)
        for attribute in ("shape", "classes", "white", "mean", "std", "crop"):
            setattr(self, attribute, getattr(IMAGE_SETS[like].ours, attribute))
        self.counts = {True: train, False: test}

    def read(self, train: bool) -> tuple[Tensor, Tensor]:
        return random_images(self.shape, self.classes, self.counts[train])


def torchvision_dataset(name: str, root: str, count: int | None) -> Any:
    """Return torchvision's training set with the usual transforms.

    ``count`` random images replace the real ones unless it is None.
    """
    kind, cls = IMAGE_SETS[name].ours, IMAGE_SETS[name].torchvision
    steps: list[Any] = [transforms.ToTensor()]
    if kind.crop:
        crop = [transforms.RandomCrop(32, padding=kind.crop), transforms.RandomHorizontalFlip()]
        steps = [*crop, *steps, transforms.Normalize(kind.mean, kind.std)]
    transform = transforms.Compose(steps)
    if count is None:
        return cls(str(Path(root).expanduser()), train=True, transform=transform)
    made = object.__new__(cls)  # without __init__, which reads the files
    made.transform, made.target_transform = transform, None
    pixels, labels = random_images(kind.shape, kind.classes, count)
    if name == "mnist":
        made.data, made.targets = pixels[:, 0], labels
    else:
        made.data = pixels.permute(0, 2, 3, 1).contiguous().numpy()
        made.targets = labels.tolist()
    return made


class Photos(Dataset[tuple[Tensor, Tensor]]):
    """VOC2012's training images with masks as typical PyTorch code loads them: by PIL, one by one.

    An item is an augmented and normalized image, float32 (3, crop, crop), and its labels, int64
    (crop, crop). Images whose files are missing under ``root`` are left out.
    """

    def __init__(self, root: Path, crop: int) -> None:
        found = datasets.VOCSegmentation(str(root), "2012", "train")
        pairs = zip(found.images, found.masks, strict=True)
        self.files = [pair for pair in pairs if all(Path(file).is_file() for file in pair)]
        self.crop = crop

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image, mask = (Image.open(file) for file in self.files[index])
        image, mask = random_crop(*random_augmentation(image.convert("RGB"), mask), self.crop)
        inputs = F.normalize(F.to_tensor(image), list(MEAN), list(STD))
        return inputs, torch.from_numpy(np.array(mask)).long()


def random_augmentation(image: Image.Image, mask: Image.Image) -> ImagePair:
    """Scale, rotate, blur and flip, as ``segmentation_transform`` does before its crop."""
    factor = random.uniform(0.5, 2.0)
    size = round(image.width * factor), round(image.height * factor)
    image, mask = image.resize(size, _BILINEAR), mask.resize(size, _NEAREST)
    if random.random() < 0.5:
        angle = random.uniform(-10, 10)
        image = image.rotate(angle, _BILINEAR, fillcolor=_FILL)
        mask = mask.rotate(angle, _NEAREST, fillcolor=VOID)
    if random.random() < 0.5:
        image = image.filter(ImageFilter.GaussianBlur(random.random()))
    if random.random() < 0.5:
        image, mask = ImageOps.mirror(image), ImageOps.mirror(mask)
    return image, mask


def random_crop(image: Image.Image, mask: Image.Image, crop: int) -> ImagePair:
    """Cut out a random square of side ``crop``; smaller images are padded on all sides first."""
    wide, high = (max(crop - side, 0) for side in image.size)
    if wide or high:
        border = (wide // 2, high // 2, wide - wide // 2, high - high // 2)
        image = ImageOps.expand(image, border, fill=_FILL)
        mask = ImageOps.expand(mask, border, fill=VOID)
    left, top = (random.randint(0, side - crop) for side in image.size)
    box = (left, top, left + crop, top + crop)
    return image.crop(box), mask.crop(box)


class OpenCVPhotos(Photos):
    """The same photos by OpenCV and NumPy, in the manner of PSPNet's published PyTorch code.

    In floating point, one step after another, each over the whole image: scale by 0.5 to 2, rotate,
    blur, flip, pad, crop, normalize. The masks are read by Pillow: OpenCV would turn the palette
    into colors.
    """

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        file, mask = self.files[index]
        image = cv2.cvtColor(_read(file), cv2.COLOR_BGR2RGB).astype(np.float32)
        labels = np.array(Image.open(mask))
        factor, crop = random.uniform(0.5, 2.0), self.crop
        image = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_LINEAR)
        labels = cv2.resize(labels, None, fx=factor, fy=factor, interpolation=cv2.INTER_NEAREST)
        if random.random() < 0.5:
            height, width = labels.shape
            turn = cv2.getRotationMatrix2D((width / 2, height / 2), random.uniform(-10, 10), 1)
            image, labels = (
                cv2.warpAffine(source, turn, (width, height), flags=flags, borderValue=fill)
                for source, flags, fill in (
                    (image, cv2.INTER_LINEAR, _FILL),
                    (labels, cv2.INTER_NEAREST, [VOID]),
                )
            )
        if random.random() < 0.5:
            image = cv2.GaussianBlur(image, (5, 5), 0)
        if random.random() < 0.5:
            image, labels = cv2.flip(image, 1), cv2.flip(labels, 1)
        high, wide = (max(crop - side, 0) for side in labels.shape)
        if high or wide:
            border = high // 2, high - high // 2, wide // 2, wide - wide // 2
            image = cv2.copyMakeBorder(image, *border, cv2.BORDER_CONSTANT, value=_FILL)
            labels = cv2.copyMakeBorder(labels, *border, cv2.BORDER_CONSTANT, value=[VOID])
        top, left = (random.randint(0, side - crop) for side in labels.shape)
        window = slice(top, top + crop), slice(left, left + crop)
        inputs = torch.from_numpy(image[window].transpose(2, 0, 1)).float()
        for channel, mean, std in zip(inputs, MEAN, STD, strict=True):
            channel.sub_(255 * mean).div_(255 * std)
        return inputs, torch.from_numpy(labels[window]).long()


class OpenCVBoxes(Dataset[tuple[Tensor, np.ndarray]]):
    """VOC2007's training images with boxes by OpenCV and NumPy, in the manner of ssd.pytorch.

    In floating point, one step after another, each over the whole image: distort the colors, zoom
    out, crop so that an object overlaps, flip, resize, subtract the mean. An item is an image,
    float32 (3, size, size), and an array of rows x1, y1, x2, y2 (in parts of the image), class.
    """

    overlaps = (None, 0.0, 0.1, 0.3, 0.5, 0.7, 0.9)  # None: the whole image

    def __init__(self, root: Path, size: int, classes: Sequence[str]) -> None:
        found = datasets.VOCDetection(str(root), "2007", "trainval")
        pairs = zip(found.images, found.annotations, strict=True)
        self.files = [pair for pair in pairs if all(Path(file).is_file() for file in pair)]
        self.size, self.classes = size, list(classes)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, np.ndarray]:
        file, annotation = self.files[index]
        image = _read(file).astype(np.float32)
        objects = ET.parse(annotation).getroot().findall("object")
        edges = [[int(o.findtext(f"bndbox/{k}") or 0) - 1 for k in _EDGES] for o in objects]
        boxes = np.array(edges, np.float64)
        labels = np.array([self.classes.index(o.findtext("name") or "") for o in objects])
        image = distorted(image)
        if random.random() < 0.5:
            image, boxes = zoomed_out(image, boxes)
        image, boxes, labels = self._crop(image, boxes, labels)
        height, width, _ = image.shape
        if random.random() < 0.5:
            image = image[:, ::-1]
            boxes[:, [0, 2]] = width - boxes[:, [2, 0]]
        image = cv2.resize(image, (self.size, self.size)).astype(np.float32)
        image -= np.array(_FILL[::-1], np.float32)
        inputs = torch.from_numpy(image[:, :, ::-1].copy()).permute(2, 0, 1)
        targets = np.column_stack([boxes / (width, height, width, height), labels])
        return inputs, targets

    def _crop(self, image: np.ndarray, boxes: np.ndarray, labels: np.ndarray) -> tuple[Any, ...]:
        height, width, _ = image.shape
        centers = (boxes[:, :2] + boxes[:, 2:]) / 2
        while (least := random.choice(self.overlaps)) is not None:
            for _ in range(50):
                wide, high = (random.uniform(0.3 * side, side) for side in (width, height))
                if not 0.5 <= high / wide <= 2:
                    continue
                left, top = random.uniform(0, width - wide), random.uniform(0, height - high)
                crop = np.array([int(left), int(top), int(left + wide), int(top + high)])
                inside = ((crop[:2] < centers) & (centers < crop[2:])).all(1)
                if not inside.any() or jaccard(boxes[inside], crop).max() < least:
                    continue
                kept = boxes[inside]
                kept[:, :2] = np.maximum(kept[:, :2], crop[:2]) - crop[:2]
                kept[:, 2:] = np.minimum(kept[:, 2:], crop[2:]) - crop[:2]
                return image[crop[1] : crop[3], crop[0] : crop[2]], kept, labels[inside]
        return image, boxes, labels


def _read(file: str) -> np.ndarray:
    """Return an image, uint8 BGR (h, w, 3)."""
    image = cv2.imread(file, cv2.IMREAD_COLOR)
    assert image is not None, file
    return image


def distorted(image: np.ndarray) -> np.ndarray:
    """Return an image, float32 BGR of 0 ... 255, with other brightness, contrast and color."""
    if random.random() < 0.5:
        image += random.uniform(-32, 32)
    first = random.random() < 0.5
    if first:
        image = _contrast(image)
    image = cv2.cvtColor(image, cv2.COLOR_BGR2HSV)
    if random.random() < 0.5:
        image[:, :, 1] *= random.uniform(0.5, 1.5)
    if random.random() < 0.5:
        image[:, :, 0] += random.uniform(-18, 18)
        image[:, :, 0][image[:, :, 0] > 360] -= 360
        image[:, :, 0][image[:, :, 0] < 0] += 360
    image = cv2.cvtColor(image, cv2.COLOR_HSV2BGR)
    if not first:
        image = _contrast(image)
    if random.random() < 0.5:
        image = image[:, :, random.sample(range(3), 3)]
    return image


def _contrast(image: np.ndarray) -> np.ndarray:
    return image * np.float32(random.uniform(0.5, 1.5)) if random.random() < 0.5 else image


def zoomed_out(image: np.ndarray, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the image and its boxes on a canvas of up to 4 times its sides."""
    height, width, _ = image.shape
    ratio = random.uniform(1, 4)
    left, top = (random.uniform(0, side * ratio - side) for side in (width, height))
    canvas = np.zeros((int(height * ratio), int(width * ratio), 3), image.dtype)
    canvas[:] = _FILL[::-1]
    canvas[int(top) : int(top + height), int(left) : int(left + width)] = image
    return canvas, boxes + (int(left), int(top)) * 2


def jaccard(boxes: np.ndarray, crop: np.ndarray) -> np.ndarray:
    """Return the intersections over the unions of boxes (m, 4) with a crop (4,)."""
    shared = np.minimum(boxes[:, 2:], crop[2:]) - np.maximum(boxes[:, :2], crop[:2])
    common = shared.clip(min=0).prod(1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    return common / (areas + (crop[2:] - crop[:2]).prod() - common)
