"""Augmentation of images with boxes: colors, distributions, and that boxes move with pixels."""

from collections import Counter
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.colors import hsv_to_rgb, rgb_to_hsv
from PIL import Image
from scipy import ndimage, stats
from torch import Tensor
from torchvision import tv_tensors
from torchvision.ops import box_iou
from torchvision.transforms import v2

from tasks.data import augment_boxes
from tasks.data.augment import MEAN_PIXEL
from tasks.data.augment_boxes import (
    ColorParams,
    DetectionTransform,
    distort_colors,
    resize,
    sample_crop,
)
from tasks.data.dataloader import seeded_rng

BOXES = [[30.0, 20.0, 70.0, 50.0], [90.0, 60.0, 130.0, 95.0], [5.0, 5.0, 17.0, 30.0]]


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without distortion of colors."""
    monkeypatch.setattr(ColorParams, "sample", staticmethod(ColorParams))


def boxed() -> tuple[Tensor, dict[str, Tensor]]:
    """Two white blocks on black, and their boxes."""
    image = torch.zeros(3, 100, 140, dtype=torch.uint8)
    image[:, 20:50, 30:70] = image[:, 60:95, 90:130] = 255
    labels, difficult = torch.tensor([1, 2]), torch.tensor([False, True])
    return image, {"boxes": torch.tensor(BOXES[:2]), "labels": labels, "difficult": difficult}


def distorted_by_hand(image: np.ndarray, params: ColorParams) -> np.ndarray:
    """SSD's distortion of (h, w, 3) in 0 ... 255, with matplotlib's HSV."""

    def contrast(pixels: np.ndarray) -> np.ndarray:
        return np.clip(pixels * params.contrast, 0, 255)

    pixels = np.clip(image + params.brightness, 0, 255)
    if params.contrast_first:
        pixels = contrast(pixels)
    hue, saturation, value = np.moveaxis(rgb_to_hsv(pixels / 255), -1, 0)
    saturation = np.clip(saturation * params.saturation, 0, 1)
    hsv = np.stack([(hue + params.hue / 360) % 1, saturation, value], -1)
    pixels = 255 * hsv_to_rgb(hsv)
    pixels = pixels if params.contrast_first else contrast(pixels)
    return np.stack([pixels[:, :, channel] for channel in params.order], -1)


def drawn_by_hand(rng: np.random.Generator) -> ColorParams:
    """Parameters with SSD's numbers: a hue of 18 in 180."""

    def half(value: float, neutral: float) -> float:
        return value if rng.random() < 0.5 else neutral

    return ColorParams(
        brightness=half(rng.uniform(-32, 32), 0),
        contrast=half(rng.uniform(0.5, 1.5), 1),
        saturation=half(rng.uniform(0.5, 1.5), 1),
        hue=half(2 * rng.uniform(-18, 18), 0),
        contrast_first=rng.random() < 0.5,
        order=tuple(rng.permutation(3).tolist()) if rng.random() < 0.5 else (0, 1, 2),
    )


def colorful(seed: int, height: int = 40, width: int = 50) -> np.ndarray:
    """Smooth colors with gray, black, white and full ones among them, uint8 (h, w, 3)."""
    rng = np.random.default_rng(seed)
    field = ndimage.gaussian_filter(rng.normal(size=(height, width, 3)), (3, 3, 0))
    pixels = np.clip(rng.uniform(60, 170) + 45 * field / field.std(), 0, 255).astype(np.uint8)
    pixels[:2] = rng.choice([0, 255], (2, width, 3))
    pixels[2] = rng.integers(0, 256, (width, 1))
    return pixels


def test_the_distortion_of_colors_is_a_direct_computation():
    """Up to the rounding of HSV to bytes: half of a 256th of the circle is 3 of 255 levels, and the
    hue is rounded before and after its turn."""
    rng = np.random.default_rng(0)
    for seed in range(60):
        pixels, params = colorful(seed), drawn_by_hand(rng)
        before = pixels.copy()
        ours = distort_colors(pixels, params)
        assert ours.dtype == np.uint8 and (pixels == before).all()
        apart = np.abs(ours - distorted_by_hand(pixels, params))
        in_bytes = params.saturation != 1 or params.hue != 0
        assert apart.max() < (11 if in_bytes else 1.3), params
        assert apart.mean() < (1.2 if in_bytes else 0.5), params


def test_the_parameters_of_the_distortion_are_ssds():
    with seeded_rng("colors", 1):
        drawn = [ColorParams.sample() for _ in range(2000)]
    columns = list(zip(*map(astuple, drawn), strict=True))
    for values, low, high, neutral in zip(
        columns, (-32, 0.5, 0.5, -36), (32, 1.5, 1.5, 36), (0, 1, 1, 0), strict=False
    ):
        changed = [value for value in values if value != neutral]
        assert stats.binomtest(len(changed), 2000, 0.5).pvalue > 0.01
        assert stats.kstest(changed, stats.uniform(low, high - low).cdf).pvalue > 0.01
    assert stats.binomtest(sum(columns[4]), 2000, 0.5).pvalue > 0.01
    assert np.abs(np.corrcoef(columns[:5]) - np.eye(5)).max() < 0.1
    orders = Counter(columns[5])
    expected = [1000 + 1000 / 6, *[1000 / 6] * 5]  # half keep their order, and a sixth of the rest
    assert orders.most_common(1)[0][0] == (0, 1, 2)
    counts = [number for _, number in orders.most_common()]
    assert stats.chisquare(counts, expected).pvalue > 0.01


def spread(images: list[np.ndarray], draws: int, ours: bool) -> tuple[float, float]:
    """Return the standard deviations of the change of an image's mean, and of the ratio of its
    contrast after and before."""
    shifts, ratios, rng = [], [], np.random.default_rng(5)
    for pixels in images:
        for _ in range(draws):
            after = (
                distort_colors(pixels, ColorParams.sample())
                if ours
                else distorted_by_hand(pixels, drawn_by_hand(rng))
            )
            shifts.append(after.mean() - pixels.mean())
            ratios.append(after.std() / pixels.std())
    return float(np.std(shifts)), float(np.std(ratios))


def test_brightness_and_contrast_spread_as_in_an_independent_implementation():
    images = [colorful(seed) for seed in range(25)]
    with seeded_rng("spread", 1):
        ours = spread(images, 60, ours=True)
    theirs = spread(images, 60, ours=False)
    assert ours == pytest.approx(theirs, rel=0.08)


def test_the_brightness_of_photographs_spreads_as_in_ssd(real_data: Path):
    """26 and 0.176 with ssd.pytorch's code; 5.7 with torchvision's RandomPhotometricDistort."""
    files = sorted((real_data / "VOCdevkit" / "VOC2007" / "JPEGImages").glob("*.jpg"))[:25]
    images = [np.array(Image.open(file).convert("RGB").resize((125, 90))) for file in files]
    with seeded_rng("photographs", 1):
        shift, ratio = spread(images, 40, ours=True)
    assert 23 < shift < 29 and 0.16 < ratio < 0.2


def test_gray_stays_gray():
    pixels = np.repeat(np.arange(200, dtype=np.uint8).reshape(10, 20, 1), 3, axis=2)
    with seeded_rng("gray", 1):
        for _ in range(30):
            assert np.ptp(distort_colors(pixels, ColorParams.sample()), axis=-1).max() == 0


def test_boxes_move_with_the_image(plain: None):
    """The remaining white pixels lie in the remaining boxes."""
    move, seen = DetectionTransform(200), {1: 0, 2: 0}
    for seed in range(80):
        with seeded_rng("boxes", seed):
            image, moved = move(*boxed())
        assert image.shape == (3, 200, 200) and image.is_contiguous()
        assert [moved[name].dtype for name in ("boxes", "labels", "difficult")] == [
            *(torch.float32, torch.int64, torch.bool),
        ]
        assert moved["boxes"].shape == (len(moved["labels"]), 4)
        white = image.float().mean(0) > 200
        for box, label in zip(moved["boxes"].tolist(), moved["labels"].tolist(), strict=True):
            x1, y1, x2, y2 = box
            assert 0 <= x1 <= x2 <= 200 and 0 <= y1 <= y2 <= 200
            if min(x2 - x1, y2 - y1) > 8:
                inner = white[round(y1) + 2 : round(y2) - 2, round(x1) + 2 : round(x2) - 2]
                outer = white[:, round(x1) - 3 if x1 > 4 else 0].clone()
                assert inner.all()
                assert x1 <= 4 or not outer[round(y1) + 2 : round(y2) - 2].any()
                seen[label] += 1
        assert moved["difficult"].tolist() == [label == 2 for label in moved["labels"].tolist()]
    assert min(seen.values()) > 40


def test_edges_of_boxes_are_where_the_pixels_change(plain: None):
    """To half a pixel of the result, at any crop and zoom."""
    image, objects = boxed()
    found = 0
    for seed in range(60):
        with seeded_rng("edges", seed):
            pixels, moved = DetectionTransform(300)(image, objects)
        for x1, y1, x2, y2 in moved["boxes"].tolist():
            if min(x2 - x1, y2 - y1) < 20:
                continue
            row = pixels[0, round((y1 + y2) / 2) - 1].float() / 255
            if x1 > 4 and pixels[0, round((y1 + y2) / 2) - 1, round(x1) - 4] == 0:
                area = float(row[round(x1) - 4 : round((x1 + x2) / 2)].sum())
                assert round((x1 + x2) / 2) - area == pytest.approx(x1, abs=0.75)
                found += 1
    assert found > 30


def test_what_lies_outside_a_zoomed_out_image_keeps_the_mean_color():
    """Colors are distorted before the fill, whatever comes first."""
    zoomed_out = 0
    for seed in range(60):
        with seeded_rng("fill", seed):
            image, _ = DetectionTransform(100)(*boxed())
        corners = image[:, [0, 0, -1, -1], [0, -1, 0, -1]].T.tolist()
        zoomed_out += corners.count(MEAN_PIXEL) > 1
    assert 15 < zoomed_out < 35


def views(count: int, ours: bool) -> dict[str, list[float]]:
    """Return the kept boxes' numbers, places and sizes, and the mean of the image's coordinates."""
    rows, columns = np.mgrid[:100, :140]
    image = torch.from_numpy(np.stack([columns, rows, 0 * rows])).to(torch.uint8)
    labels = torch.arange(3)
    theirs = v2.Compose(
        [
            v2.RandomZoomOut(fill=dict.fromkeys((tv_tensors.Image,), MEAN_PIXEL), p=0.5),
            v2.RandomIoUCrop(trials=50),
            v2.RandomHorizontalFlip(),
            v2.Resize([300, 300], antialias=False),
            v2.SanitizeBoundingBoxes(),
        ]
    )
    results: dict[str, list[float]] = {name: [] for name in ("kept", "x", "y", "wide", "high")}
    results |= {"mean_x": [], "mean_y": [], "fill": []}
    for _ in range(count):
        if ours:
            pixels, moved = DetectionTransform(300)(
                image, {"boxes": torch.tensor(BOXES), "labels": labels}
            )
        else:
            canvas: Any = {"format": "XYXY", "canvas_size": (100, 140)}
            given = {"boxes": tv_tensors.BoundingBoxes(BOXES, **canvas), "labels": labels}
            pixels, moved = theirs(tv_tensors.Image(image), given)
        results["kept"].append(len(moved["boxes"]))
        for x1, y1, x2, y2 in moved["boxes"].tolist():
            for name, value in (("x", x1), ("y", y1), ("wide", x2 - x1), ("high", y2 - y1)):
                results[name].append(value)
        outside = pixels[2] > 50
        results["fill"].append(float(100 * outside.float().mean()))
        results["mean_x"].append(float(pixels[0][~outside].float().mean()))
        results["mean_y"].append(float(pixels[1][~outside].float().mean()))
    return results


def test_views_are_distributed_as_torchvisions(plain: None):
    """Number, place and size of the kept objects, what is seen of the image, and of the fill."""
    with seeded_rng("views", 1):
        ours, theirs = views(1000, ours=True), views(250, ours=False)
    for name, values in ours.items():
        # In bins of 4: a whole image gives one value but for rounding, which must not count.
        a, b = (np.floor((np.array(v) + 1.3) / 4).tolist() for v in (values, theirs[name]))
        result: Any = stats.ks_2samp(a, b)
        assert result.pvalue > 0.01, name


def test_a_crop_overlaps_as_sampled_and_has_ssds_shapes(monkeypatch: pytest.MonkeyPatch):
    boxes = torch.tensor(BOXES)
    for least in (0.1, 0.5, 0.9):
        monkeypatch.setattr(augment_boxes, "MIN_OVERLAPS", (least, 1.0))
        whole = 0
        with seeded_rng("overlap", 1):
            for _ in range(300):
                x1, y1, x2, y2 = sample_crop(boxes.numpy(), 140, 100)
                if (x1, y1, x2, y2) == (0, 0, 140, 100):
                    whole += 1
                    continue
                assert 0 <= x1 < x2 <= 140 and 0 <= y1 < y2 <= 100
                assert 0.5 <= (x2 - x1) / (y2 - y1) <= 2
                assert x2 - x1 >= 0.3 * 140 - 1 and y2 - y1 >= 0.3 * 100 - 1
                crop = torch.tensor([[x1, y1, x2, y2]], dtype=torch.float32)
                middle = (boxes[:, :2] + boxes[:, 2:]) / 2
                inside = ((middle > crop[:, :2]) & (middle < crop[:, 2:])).all(1)
                assert box_iou(boxes[inside], crop).max() >= least - 1e-6
        assert whole > 100


@pytest.mark.parametrize("shape", [(1, 1), (1, 60), (60, 1), (2, 2)])
def test_tiny_images_keep_their_object(shape: tuple[int, int]):
    image = torch.full((3, *shape), 200, dtype=torch.uint8)
    box = torch.tensor([[0.0, 0.0, shape[1], shape[0]]])
    kept = 0
    for seed in range(40):
        with seeded_rng("tiny", seed):
            pixels, moved = DetectionTransform(64)(image, {"boxes": box, "labels": torch.ones(1)})
        assert pixels.shape == (3, 64, 64)
        kept += len(moved["boxes"])
    assert kept > 30


def test_an_image_without_objects_stays_whole(plain: None):
    empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    image = torch.full((3, 50, 60), 9, dtype=torch.uint8)
    whole = 0
    for seed in range(20):
        with seeded_rng("empty", seed):
            pixels, moved = DetectionTransform(64)(image, empty)
        assert pixels.shape == (3, 64, 64) and moved["boxes"].shape == (0, 4)
        assert moved["labels"].dtype == torch.int64
        whole += bool((pixels == 9).all())
    assert 4 < whole < 16  # or zoomed out


def test_the_resize_for_evaluation_samples_bilinearly_without_antialiasing():
    image = torch.from_numpy(colorful(3, 90, 130)).permute(2, 0, 1)
    pixels, objects = resize(image, {"boxes": torch.tensor(BOXES), "labels": torch.arange(3)}, 50)
    rows, columns = ((np.arange(50) + 0.5) * n / 50 - 0.5 for n in (90, 130))
    grid = np.meshgrid(rows, columns, indexing="ij")
    for channel, ours in zip(image.numpy().astype(float), pixels.numpy(), strict=True):
        assert np.abs(ndimage.map_coordinates(channel, grid, order=1) - ours).max() < 1.1
    assert torch.allclose(objects["boxes"][:, 0::2], torch.tensor(BOXES)[:, 0::2] * 50 / 130)
    assert torch.allclose(objects["boxes"][:, 1::2], torch.tensor(BOXES)[:, 1::2] * 50 / 90)
    assert objects["labels"].tolist() == [0, 1, 2]


def test_the_callers_image_and_objects_stay_as_they_are():
    image, objects = boxed()
    for seed in range(10):
        with seeded_rng("input", seed):
            DetectionTransform(64)(image, objects)
    other, same = boxed()
    assert torch.equal(image, other)
    assert all(torch.equal(value, same[name]) for name, value in objects.items())
