"""Augmentation of images with masks: distributions, and that both move together."""

from dataclasses import astuple, replace

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage, stats
from torch import Tensor

from tasks.data.augment import MEAN_PIXEL
from tasks.data.augment_masks import CropParams, SegmentationTransform, cut
from tasks.data.dataloader import seeded_rng


def marked(height: int = 60, width: int = 80) -> tuple[Tensor, Tensor]:
    """Labels in large blocks, and an image whose red is ten times the label."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    mask = (rows // 20 * 4 + columns // 20 + 1).to(torch.uint8)
    return torch.stack([10 * mask, 255 - 10 * mask, torch.full_like(mask, 7)]), mask


def smooth(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth colors, uint8 (h, w, 3)."""
    rng = np.random.default_rng(seed)
    field = ndimage.gaussian_filter(rng.normal(size=(height, width, 3)), (6, 6, 0), mode="wrap")
    return np.clip(128 + 40 * field / field.std(), 0, 255).astype(np.uint8)


def eroded(where: np.ndarray, by: int, edge: int = 0) -> np.ndarray:
    return np.array(ndimage.binary_erosion(where, iterations=by, border_value=edge), bool)


def draw(count: int, seed: int = 1) -> list[CropParams]:
    with seeded_rng("crops", seed):
        return [CropParams.sample() for _ in range(count)]


def test_the_parameters_have_semsegs_distributions():
    drawn = draw(2000)
    scales, angles, blurs, flips, tops, lefts = zip(*map(astuple, drawn), strict=True)
    turned = [angle for angle in angles if angle]
    for values, low, high in ((scales, 0.5, 2), (turned, -10, 10), (tops, 0, 1), (lefts, 0, 1)):
        assert stats.kstest(values, stats.uniform(low, high - low).cdf).pvalue > 0.01
    for count in (len(turned), sum(blurs), sum(flips)):
        assert stats.binomtest(count, 2000, 0.5).pvalue > 0.01
    correlations = np.corrcoef([scales, np.abs(angles), blurs, flips, tops, lefts])
    assert np.abs(correlations - np.eye(6)).max() < 0.1


def blurred(image: np.ndarray) -> np.ndarray:
    """OpenCV's Gaussian of 5 pixels and no given deviation has a fixed kernel."""
    kernel = np.array([1, 4, 6, 4, 1]) / 16
    along = ndimage.convolve1d(image, kernel, axis=0, mode="mirror")
    return ndimage.convolve1d(along, kernel, axis=1, mode="mirror")


def step_by_step(
    pixels: np.ndarray, labels: np.ndarray, crop: int, params: CropParams
) -> tuple[np.ndarray, np.ndarray]:
    """semseg's steps, each on the whole image, by SciPy and Pillow: scale, rotate, blur, flip, pad,
    crop."""
    sides = [max(1, round(side * params.scale)) for side in labels.shape]
    places = [
        (np.arange(n) + 0.5) * old / n - 0.5 for n, old in zip(sides, labels.shape, strict=True)
    ]
    grid = np.meshgrid(*places, indexing="ij")
    scaled = [
        ndimage.map_coordinates(c.astype(float), grid, order=1, mode="nearest")
        for c in np.moveaxis(pixels, -1, 0)
    ]
    images = [Image.fromarray(channel.astype(np.float32)) for channel in scaled]
    mask = Image.fromarray(ndimage.map_coordinates(labels, grid, order=0, mode="nearest"))
    if params.angle:
        bilinear, nearest = Image.Resampling.BILINEAR, Image.Resampling.NEAREST
        images = [
            image.rotate(params.angle, bilinear, fillcolor=fill)
            for image, fill in zip(images, MEAN_PIXEL, strict=True)
        ]
        mask = mask.rotate(params.angle, nearest, fillcolor=255)
    image, result = np.stack([np.array(each) for each in images], -1), np.array(mask)
    if params.blur:
        image = blurred(image)
    if params.flip:
        image, result = image[:, ::-1], result[:, ::-1]
    pads = [(max(crop - n, 0) // 2, max(crop - n, 0) - max(crop - n, 0) // 2) for n in sides]
    layers = zip(np.moveaxis(image, -1, 0), MEAN_PIXEL, strict=True)
    image = np.stack([np.pad(c, pads, constant_values=fill) for c, fill in layers], -1)
    result = np.pad(result, pads, constant_values=255)
    top = int(params.top * (result.shape[0] - crop + 1))
    left = int(params.left * (result.shape[1] - crop + 1))
    window = slice(top, top + crop), slice(left, left + crop)
    return image[window], result[window]


@pytest.mark.parametrize("crop", [40, 97])
def test_one_map_is_semsegs_steps_one_after_another(crop: int):
    """Up to two interpolations instead of one, and to half a pixel at the edges of what rotates."""
    pixels, labels = smooth(70, 90), marked(70, 90)[1].numpy()
    for params in draw(60, seed=2):
        image, mask = cut(pixels, labels, crop, params)
        other, labels_there = step_by_step(pixels, labels, crop, params)
        assert image.shape == (crop, crop, 3) and image.dtype == mask.dtype == np.uint8
        inside = eroded(labels_there != 255, 3)
        outside = eroded(labels_there == 255, 3)
        apart = np.abs(image - other)
        assert apart[inside | outside].max() < 4 and apart[inside | outside].mean() < 0.6, params
        assert (mask == labels_there)[inside | outside].mean() > 0.93, params
        assert ((mask == 255) == (labels_there == 255)).mean() > 0.96, params


def test_without_rotation_edges_are_exactly_those_of_the_scaled_image():
    """No blend with the mean pixel, which bilinear interpolation beyond the edge would give."""
    pixels, labels = smooth(70, 90), marked(70, 90)[1].numpy()
    for scale in (0.5, 0.77, 1.0, 1.9):
        for blur in (False, True):
            params = CropParams(scale, blur=blur, flip=True, top=0.4, left=0.9)
            image, mask = cut(pixels, labels, 97, params)
            other, labels_there = step_by_step(pixels, labels, 97, params)
            assert np.abs(image - other).max() < 1.6
            assert ((mask == 255) == (labels_there == 255)).all()


def test_the_identity_is_bitwise():
    pixels, labels = smooth(50, 50), marked(50, 50)[1].numpy()
    image, mask = cut(pixels, labels, 50, CropParams())
    assert (image == pixels).all() and (mask == labels).all()


def test_the_blur_of_a_crop_sees_the_pixels_beyond_it():
    pixels = (np.random.default_rng(1).random((60, 60, 3)) > 0.5).astype(np.uint8) * 255
    labels = np.zeros((60, 60), np.uint8)
    whole, _ = cut(pixels, labels, 60, CropParams(blur=True))
    part, _ = cut(pixels, labels, 21, CropParams(blur=True, top=0.5, left=0.5))
    assert (part == whole[20:41, 20:41]).all()
    assert np.abs(whole - blurred(pixels.astype(float))).max() < 0.6
    sharp, _ = cut(pixels, labels, 60, CropParams())
    assert (sharp == pixels).all()


def test_pixels_lie_where_the_matrix_says_they_do():
    """A ramp whose colors are the coordinates, turned by 10 degrees and twice as large."""
    rows, columns = np.mgrid[:60, :80]
    ramp = np.stack([columns, rows, 0 * rows], -1).astype(np.uint8)
    params = CropParams(2.0, angle=10.0, top=0.5, left=0.5)
    image, mask = cut(ramp, np.zeros((60, 80), np.uint8), 61, params)
    y, x = (
        np.mgrid[:61, :61]
        + np.array([30, 50])[:, None, None]
        - np.array([59.5, 79.5])[:, None, None]
    )
    turn = np.exp(-1j * np.radians(10)) * (x - 1j * y) / 2  # the plane's y points up
    assert (mask == 0).all()
    assert np.abs(image[..., 0] - (39.5 + turn.real)).max() < 0.6
    assert np.abs(image[..., 1] - (29.5 - turn.imag)).max() < 0.6


@pytest.mark.parametrize("crop", [48, 97])
def test_image_and_mask_stay_together_and_what_lies_outside_is_mean_and_void(crop: int):
    agree, outside, transform = [], 0, SegmentationTransform(crop)
    for seed in range(60):
        with seeded_rng("test", seed):
            image, mask = transform(*marked())
        assert image.shape == (3, crop, crop) and mask.shape == (crop, crop)
        assert image.dtype == mask.dtype == torch.uint8
        assert image.is_contiguous() and mask.is_contiguous()
        labels = set(mask.unique().tolist())
        assert labels <= {*range(1, 13), 255}  # nearest: no label that was not there
        void = (mask == 255).numpy()
        inner = eroded(void, 4, edge=1)
        inside = eroded(~void, 4)
        pixels = image.numpy().astype(int)
        outside += inner.sum()
        assert (np.abs(pixels[:, inner] - np.array(MEAN_PIXEL)[:, None]) <= 1).all()
        agree.append(np.abs(pixels[0] - 10 * mask.numpy().astype(int))[inside] <= 5)
    assert outside > 1000
    assert np.concatenate(agree).mean() > 0.8  # all but the blocks' blurred edges


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (50, 1), (2, 3)])
def test_tiny_images_are_padded(shape: tuple[int, int]):
    image, mask = (
        torch.full((3, *shape), 9, dtype=torch.uint8),
        torch.full(shape, 3, dtype=torch.uint8),
    )
    transform = SegmentationTransform(33)
    for seed in range(20):
        with seeded_rng("tiny", seed):
            pixels, labels = transform(image, mask)
        assert pixels.shape == (3, 33, 33) and labels.shape == (33, 33)
        assert set(labels.unique().tolist()) <= {3, 255} and (labels == 3).any()


def test_gray_stays_gray():
    image = torch.from_numpy(smooth(60, 80)[..., :1]).permute(2, 0, 1).expand(3, -1, -1)
    for params in draw(20):
        mask = np.zeros((60, 80), np.uint8)
        pixels, labels = cut(
            np.ascontiguousarray(image.permute(1, 2, 0).numpy()),
            mask,
            50,
            replace(params, blur=True),
        )
        inside = eroded(labels == 0, 4)
        assert np.ptp(pixels[inside], axis=-1).max(initial=0) == 0


def test_opencv_has_one_thread_and_its_own_generator_changes_nothing():
    assert cv2.getNumThreads() == 1
    results = []
    for seed in (1, 2):
        cv2.setRNGSeed(seed)
        with seeded_rng("opencv", 5):
            results.append(SegmentationTransform(40)(*marked()))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
