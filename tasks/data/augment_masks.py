"""PSPNet's augmentation of images with masks, by OpenCV."""

from dataclasses import dataclass
from math import cos, radians, sin

import cv2
import numpy as np
import torch
from torch import Tensor

from tasks.data.augment import MEAN_PIXEL, as_array, as_tensor
from tasks.data.voc import VOID

cv2.setNumThreads(1)  # worker processes load images side by side

SCALES = 0.5, 2.0
MAX_ANGLE = 10.0
BLUR = 5  # side of the kernel in pixels, for which OpenCV has 1 4 6 4 1 on both axes


@dataclass(frozen=True, slots=True)
class CropParams:
    """How to cut a crop out of an image.

    Args:
        scale: Factor of height and width.
        angle: Rotation about the center in degrees, counterclockwise as seen.
        blur: Blur the pixels.
        flip: Mirror left and right.
        top: Place among the possible first rows of the crop, in [0, 1).
        left: Place among the possible first columns, in [0, 1).
    """

    scale: float = 1.0
    angle: float = 0.0
    blur: bool = False
    flip: bool = False
    top: float = 0.0
    left: float = 0.0

    @staticmethod
    def sample() -> "CropParams":
        """Sample from torch's default generator."""
        scale, rotate, angle, blur, flip, top, left = torch.rand(7).tolist()
        return CropParams(
            SCALES[0] + (SCALES[1] - SCALES[0]) * scale,
            MAX_ANGLE * (2 * angle - 1) if rotate < 0.5 else 0.0,
            blur < 0.5,
            flip < 0.5,
            top,
            left,
        )


class SegmentationTransform:
    """PSPNet's augmentation (semseg, util/transform.py and config/voc2012).

    It scales by 0.5 to 2, rotates by up to 10 degrees and blurs, each with probability 0.5, flips
    with probability 0.5, pads around the middle and crops. Pixels outside the image are the mean
    pixel and :data:`VOID`.

    semseg computes the whole image at every step. Here one affine map computes the crop's pixels,
    2 more on each side for the blur, so a rotated image is interpolated once and not twice.
    Interpolation is bilinear without antialiasing, as in semseg.

    Args:
        crop: Side of the result in pixels.
    """

    def __init__(self, crop: int) -> None:
        self.crop = crop

    def __call__(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return a random crop of an image (3, h, w) and its mask (h, w), both uint8."""
        pixels, labels = cut(as_array(image), mask.numpy(), self.crop, CropParams.sample())
        return as_tensor(pixels), torch.from_numpy(labels)


def cut(
    pixels: np.ndarray, labels: np.ndarray, crop: int, params: CropParams
) -> tuple[np.ndarray, np.ndarray]:
    """Return the crop of an image (h, w, 3) and of its labels (h, w) that ``params`` describe."""
    margin = BLUR // 2 if params.blur else 0
    height, width = (max(1, round(side * params.scale)) for side in labels.shape)
    rows = _Span.of(height, crop, params.top, margin)
    columns = _Span.of(width, crop, params.left, margin)
    matrix = _source_map(labels.shape, (height, width), rows.start, columns.start, params)
    size = columns.stop - columns.start, rows.stop - rows.start
    border = cv2.BORDER_CONSTANT if params.angle else cv2.BORDER_REPLICATE
    inner = (
        slice(rows.skip, rows.skip + rows.count),
        slice(columns.skip, columns.skip + columns.count),
    )
    results = []
    for source, interpolation, fill in (
        (pixels, cv2.INTER_LINEAR, MEAN_PIXEL),
        (labels, cv2.INTER_NEAREST, [VOID]),
    ):
        flags = interpolation | cv2.WARP_INVERSE_MAP
        part = cv2.warpAffine(
            source, matrix, size, flags=flags, borderMode=border, borderValue=fill
        )
        if params.blur and source is pixels:
            part = cv2.GaussianBlur(part, (BLUR, BLUR), 0)
        sides = rows.before, rows.after, columns.before, columns.after
        padded = cv2.copyMakeBorder(part[inner], *sides, cv2.BORDER_CONSTANT, value=fill)
        results.append(padded)
    return results[0], results[1]


@dataclass(frozen=True, slots=True)
class _Span:
    """The pixels of a scaled image that a crop needs along one axis.

    ``start`` to ``stop`` are computed. ``count`` of them belong to the crop, after ``skip`` at the
    edge, which the blur alone needs. ``before`` and ``after`` them the crop is padded.
    """

    start: int
    stop: int
    skip: int
    count: int
    before: int
    after: int

    @staticmethod
    def of(length: int, crop: int, place: float, margin: int) -> "_Span":
        before = max(0, crop - length) // 2
        first = int(place * (max(0, length - crop) + 1))
        count = min(length, crop)
        start, stop = max(0, first - margin), min(length, first + count + margin)
        return _Span(start, stop, first - start, count, before, crop - count - before)


def _source_map(
    shape: tuple[int, ...], scaled: tuple[int, int], top: int, left: int, params: CropParams
) -> np.ndarray:
    """Return the matrix (2, 3) from pixels (x, y), counted from (left, top) of the flipped, rotated
    and scaled image, to those of the original. Pixels have their centers at whole numbers."""
    (height, width), angle = scaled, radians(params.angle)
    middle = np.array([(width - 1) / 2, (height - 1) / 2])
    factor = np.array([shape[1] / width, shape[0] / height])
    matrix = np.array([[cos(angle), -sin(angle)], [sin(angle), cos(angle)]])
    if params.flip:
        matrix[:, 0] *= -1
    offset = matrix @ (np.array([left, top]) - middle) + middle
    return np.column_stack([factor[:, None] * matrix, factor * (offset + 0.5) - 0.5])
