"""SSD's augmentation of images with boxes, by OpenCV."""

from dataclasses import dataclass
from itertools import permutations

import cv2
import numpy as np
import torch
from torch import Tensor

from tasks.data.augment import MEAN_PIXEL, as_array, as_tensor

cv2.setNumThreads(1)  # worker processes load images side by side

MAX_ZOOM = 4.0
MIN_OVERLAPS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)  # 1: the whole image
ORDERS = tuple(permutations(range(3)))  # of the channels; the first one changes nothing
TRIES = 50  # crops for one of the overlaps


class DetectionTransform:
    """SSD's augmentation (Liu et al., 2016, sections 2.2 and 3.6, and the authors' Caffe code).

    It distorts the colors, zooms out by up to 4 onto the mean pixel with probability 0.5, crops so
    that some object overlaps by at least 0.1 ... 0.9, flips with probability 0.5, and resizes
    bilinearly without antialiasing. It removes objects whose center is outside the crop, and boxes
    that are less than a pixel wide or high.

    Colors are distorted after the crop, where that changes no pixel but costs less, and the
    zoomed-out image is filled only where the crop sees it.

    Args:
        size: Side of the result in pixels.
    """

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(
        self, image: Tensor, objects: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return a random view of an image, uint8 (3, h, w), and the objects in it.

        Args:
            image: The image.
            objects: ``boxes`` (m, 4) float32, x1 y1 x2 y2 in pixels, and further tensors of m rows.
        """
        pixels, colors = as_array(image), ColorParams.sample()
        (height, width), boxes = pixels.shape[:2], objects["boxes"].numpy()
        zooms, zoom, x, y, flips = torch.rand(5).tolist()
        left, top, canvas = 0, 0, (width, height)
        if zooms < 0.5:
            ratio = 1 + (MAX_ZOOM - 1) * zoom
            canvas = int(width * ratio), int(height * ratio)
            left, top = int(x * (canvas[0] - width)), int(y * (canvas[1] - height))
            boxes = boxes + np.array([left, top, left, top], np.float32)
        crop = sample_crop(boxes, *canvas)
        view = (crop[0] - left, crop[1] - top, crop[2] - left, crop[3] - top)
        resized = _resize(_see(pixels, view, colors), self.size)
        boxes, kept = _move(boxes, crop, self.size)
        if flips < 0.5:
            resized = resized[:, ::-1]
            boxes[:, [0, 2]] = self.size - boxes[:, [2, 0]]
        chosen = {name: value[torch.from_numpy(kept)] for name, value in objects.items()}
        return as_tensor(resized), {**chosen, "boxes": torch.from_numpy(boxes)}


def resize_image(image: Tensor, size: int) -> Tensor:
    """Return an image, uint8 (3, h, w), at (3, size, size), bilinear without antialiasing."""
    return as_tensor(_resize(as_array(image), size))


def resize(
    image: Tensor, objects: dict[str, Tensor], size: int
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return an image and all of its objects at ``size`` x ``size``, whatever the shape."""
    height, width = image.shape[-2:]
    factors = torch.tensor([size / width, size / height] * 2)
    return resize_image(image, size), {**objects, "boxes": objects["boxes"] * factors}


@dataclass(frozen=True, slots=True)
class ColorParams:
    """A distortion of colors with the numbers of SSD's Caffe code (``ssd_pascal.py``).

    Channels change their order with probability 0.5, as in ssd.pytorch; Caffe's script for VOC sets
    ``random_order_prob`` to 0.

    Args:
        brightness: What to add to all pixels, of 0 ... 255.
        contrast: Factor of all pixels.
        saturation: Factor of HSV's saturation.
        hue: Turn of HSV's hue in degrees: Caffe's 18 are of 180.
        contrast_first: Change the contrast before saturation and hue, not after.
        order: Which channel becomes the first, the second and the third.
    """

    brightness: float = 0.0
    contrast: float = 1.0
    saturation: float = 1.0
    hue: float = 0.0
    contrast_first: bool = True
    order: tuple[int, ...] = ORDERS[0]

    @staticmethod
    def sample() -> "ColorParams":
        """Sample each from torch's default generator, with probability 0.5 a neutral value."""
        draws = torch.rand(11).tolist()
        chosen = [draw < 0.5 for draw in draws[:6]]
        return ColorParams(
            32 * (2 * draws[6] - 1) if chosen[0] else 0.0,
            0.5 + draws[7] if chosen[1] else 1.0,
            0.5 + draws[8] if chosen[2] else 1.0,
            36 * (2 * draws[9] - 1) if chosen[3] else 0.0,
            chosen[4],
            ORDERS[int(draws[10] * len(ORDERS))] if chosen[5] else ORDERS[0],
        )


def distort_colors(pixels: np.ndarray, params: ColorParams) -> np.ndarray:
    """Return an image, uint8 RGB (h, w, 3), with other colors.

    Values are cut to 0 ... 255 after each change. Saturation and hue change together, in HSV of
    bytes as in Caffe, with 256 hues to the circle; hues wrap around.
    """
    levels = np.arange(256, dtype=np.float64)
    first = np.clip(levels + params.brightness, 0, 255)
    last = np.clip(levels * params.contrast, 0, 255)
    if params.contrast_first:
        first, last = np.clip(first * params.contrast, 0, 255), levels
    pixels = _map_levels(pixels, first)
    if params.saturation != 1 or params.hue:
        hues = np.rint(levels + params.hue * 256 / 360) % 256
        saturations = np.clip(levels * params.saturation, 0, 255)
        table = np.rint([[*zip(hues, saturations, levels, strict=True)]]).astype(np.uint8)
        hsv = cv2.LUT(cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV_FULL), table)
        pixels = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)
    pixels = _map_levels(pixels, last)
    return pixels if params.order == ORDERS[0] else pixels[..., list(params.order)]


def sample_crop(boxes: np.ndarray, width: int, height: int) -> tuple[int, int, int, int]:
    """Return edges x1 y1 x2 y2 of a random crop of an image with ``boxes`` (m, 4).

    Samples the overlap that at least one object must have with the crop, or the whole image. Up to
    50 crops are tried for it, with sides of 0.3 to 1 of the image's and an aspect ratio of 0.5 to
    2; the object's center must be inside. If none fits, the overlap is sampled again. An image
    without objects stays whole.
    """
    size, corners = np.array([width, height]), (boxes[:, :2], boxes[:, 2:])
    centers, areas = sum(corners) / 2, np.prod(corners[1] - corners[0], axis=1)
    while len(boxes):
        draws = torch.rand(TRIES + 1, 4).numpy().astype(np.float64)
        least = MIN_OVERLAPS[int(draws[0, 0] * len(MIN_OVERLAPS))]
        if least == 1:
            break
        sides = np.floor((0.3 + 0.7 * draws[1:, :2]) * size)
        start = np.floor((size - sides) * draws[1:, 2:])
        low, high = start[:, None], (start + sides)[:, None]  # (tries, 1, 2)
        inside = ((low < centers) & (centers < high)).all(-1)
        shared = np.minimum(high, corners[1]) - np.maximum(low, corners[0])
        common = shared.clip(min=0).prod(-1)
        overlaps = common / (sides.prod(-1)[:, None] + areas - common).clip(min=1e-9)
        fits = (inside & (overlaps >= least)).any(-1)
        fits &= (sides > 0).all(-1) & (sides.max(-1) <= 2 * sides.min(-1))
        if fits.any():
            chosen = fits.argmax()
            x1, y1, x2, y2 = *start[chosen], *(start + sides)[chosen]
            return int(x1), int(y1), int(x2), int(y2)
    return 0, 0, width, height


def _see(pixels: np.ndarray, view: tuple[int, int, int, int], colors: ColorParams) -> np.ndarray:
    """Return what lies within the edges ``view`` of an image: outside, the mean pixel."""
    (x1, y1, x2, y2), (height, width) = view, pixels.shape[:2]
    part = pixels[max(y1, 0) : min(y2, height), max(x1, 0) : min(x2, width)]
    part = distort_colors(part, colors)
    sides = max(-y1, 0), max(y2 - height, 0), max(-x1, 0), max(x2 - width, 0)
    if not any(sides):
        return part
    return cv2.copyMakeBorder(part, *sides, cv2.BORDER_CONSTANT, value=MEAN_PIXEL)


def _move(
    boxes: np.ndarray, crop: tuple[int, int, int, int], size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the boxes that stay in ``crop``, resized with it, and which of all these are."""
    x1, y1, x2, y2 = crop
    centers = (boxes[:, :2] + boxes[:, 2:]) / 2
    inside = ((centers > (x1, y1)) & (centers < (x2, y2))).all(1)
    moved = np.clip(boxes - (x1, y1, x1, y1), 0, (x2 - x1, y2 - y1) * 2)
    moved = moved * np.array([size / (x2 - x1), size / (y2 - y1)] * 2)
    kept = np.logical_and(inside, (moved[:, 2:] - moved[:, :2] >= 1).all(1))
    return moved[kept].astype(np.float32), kept


def _resize(pixels: np.ndarray, size: int) -> np.ndarray:
    return cv2.resize(pixels, (size, size), interpolation=cv2.INTER_LINEAR)


def _map_levels(pixels: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Return ``pixels`` with new values of the 256 levels, rounded."""
    table = np.rint(levels).astype(np.uint8)
    return pixels if (table == np.arange(256)).all() else cv2.LUT(pixels, table)
