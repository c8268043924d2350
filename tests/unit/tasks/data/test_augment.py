"""Augmentation of images with masks: distributions, and that both move together."""

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
from torchvision.transforms import v2

from tasks.data.augment import (
    MEAN_PIXEL,
    GaussianBlur,
    PhotometricDistort,
    RandomScale,
    normalize,
    segmentation_transform,
)
from tasks.data.dataloader import seeded_rng


def marked(height: int = 60, width: int = 80) -> tuple[tv_tensors.Image, tv_tensors.Mask]:
    """Labels in large blocks, and an image whose red is ten times the label."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    mask = (rows // 20 * 4 + columns // 20 + 1).to(torch.uint8)
    image = torch.stack([10 * mask, 255 - 10 * mask, torch.full_like(mask, 7)])
    return tv_tensors.Image(image), tv_tensors.Mask(mask)


def apply(transform: Any, *inputs: Any, seed: int = 0) -> Any:
    with seeded_rng("test", seed):
        return transform(*inputs)


@pytest.mark.parametrize("crop", [48, 97])
def test_image_and_mask_stay_together_and_what_lies_outside_is_mean_and_void(crop: int):
    agree, outside, transform = [], 0, segmentation_transform(crop)
    for seed in range(60):
        image, mask = apply(transform, *marked(), seed=seed)
        assert image.shape == (3, crop, crop) and mask.shape == (crop, crop)
        assert image.dtype == mask.dtype == torch.uint8
        labels = set(mask.unique().tolist())
        assert labels <= {*range(1, 13), 255}  # nearest: no label that was not there
        void = (mask == 255).numpy()
        inner = ndimage.binary_erosion(void, iterations=4, border_value=1)
        inside = ndimage.binary_erosion(~void, iterations=4)
        pixels = image.numpy().astype(int)
        outside += inner.sum()
        assert (np.abs(pixels[:, inner] - np.array(MEAN_PIXEL)[:, None]) <= 1).all()
        agree.append(np.abs(pixels[0] - 10 * mask.numpy().astype(int))[inside] <= 5)
    assert outside > 1000
    assert np.concatenate(agree).mean() > 0.8  # all but the blocks' blurred edges


def test_the_factor_of_the_scale_is_uniform():
    image, mask = marked(200, 300)
    with seeded_rng("scale", 1):
        heights, widths = zip(
            *(RandomScale(0.5, 2.0)(image, mask)[0].shape[1:] for _ in range(300)), strict=True
        )
    factors = np.array(heights) / 200
    assert stats.kstest(factors, stats.uniform(0.5, 1.5).cdf).pvalue > 0.01
    assert np.abs(np.array(widths) / 300 - factors).max() < 0.005


def test_blur_and_rotation_come_half_of_the_time_and_flips_too():
    """Apply each transform alone to an image."""
    transforms: Any = segmentation_transform(60).transforms  # type: ignore[attr-defined]
    rotate, flip, blur = transforms[1], transforms[2], transforms[4]
    sharp = tv_tensors.Image((torch.rand(3, 40, 40) > 0.5).to(torch.uint8) * 255)
    for transform in (rotate, flip, blur):
        with seeded_rng("often", 1):
            same = sum(torch.equal(transform(sharp), sharp) for _ in range(400))
        assert stats.binomtest(same, 400, 0.5).pvalue > 0.01
    assert rotate.transforms[0].degrees == [-10.0, 10.0]


@pytest.mark.parametrize("sigma", [0.1, 0.7, 1.3, 2.0])
def test_the_blur_is_torchvisions(sigma: float):
    image = tv_tensors.Image(torch.randint(0, 256, (3, 50, 67), dtype=torch.uint8))
    ours = GaussianBlur(5, (sigma, sigma))(image)
    theirs = v2.GaussianBlur(5, (sigma, sigma))(image)
    assert isinstance(ours, tv_tensors.Image) and ours.dtype == torch.uint8
    assert (ours.int() - theirs.int()).abs().max() <= 1
    assert (ours == theirs).float().mean() > 0.99
    mask = tv_tensors.Mask(image[0])
    assert torch.equal(GaussianBlur(5)(mask), mask)
    floats = tv_tensors.Image(torch.rand(3, 9, 9))
    blur = GaussianBlur(5, (sigma, sigma))
    assert torch.allclose(blur(floats), v2.GaussianBlur(5, (sigma, sigma))(floats))


def test_normalized_bytes_are_torchvisions_normalisation():
    images = torch.randint(0, 256, (2, 3, 8, 9), dtype=torch.uint8)
    theirs = v2.Compose(
        [
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    assert torch.allclose(normalize(images), theirs(images), atol=1e-5)
    fill = torch.tensor(MEAN_PIXEL, dtype=torch.uint8).view(3, 1, 1)
    assert normalize(fill).abs().max() < 0.01  # the padding is the mean


def test_what_is_drawn_depends_on_the_words_alone_and_leaves_no_trace():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    torch.set_num_threads(2)

    def draw(seed: int) -> Tensor:
        with seeded_rng("x", seed):
            assert torch.get_num_threads() == 1
            return torch.rand(4)

    a, b, c = draw(1), draw(1), draw(2)
    assert torch.equal(a, b) and not torch.equal(a, c)
    assert torch.equal(torch.get_rng_state(), before) and torch.get_num_threads() == 2
    with pytest.raises(KeyError), seeded_rng("x", 1):
        raise KeyError
    assert torch.equal(torch.get_rng_state(), before) and torch.get_num_threads() == 2


def distorted_by_hand(image: np.ndarray, params: dict[str, Any]) -> np.ndarray:
    """SSD's distortion of (h, w, 3) in 0 ... 255, with matplotlib's HSV."""

    def contrast(pixels: np.ndarray) -> np.ndarray:
        return np.clip(pixels * params["contrast"], 0, 255)

    pixels = np.clip(image + params["brightness"], 0, 255)
    if params["contrast_first"]:
        pixels = contrast(pixels)
    hue, saturation, value = np.moveaxis(rgb_to_hsv(pixels / 255), -1, 0)
    saturation = np.clip(saturation * params["saturation"], 0, 1)
    hsv = np.stack([(hue + params["hue"] / 6) % 1, saturation, value], -1)
    pixels = 255 * hsv_to_rgb(hsv)
    if not params["contrast_first"]:
        pixels = contrast(pixels)
    return pixels[..., params["order"]]


def drawn_by_hand(rng: np.random.Generator) -> dict[str, Any]:
    """Parameters with SSD's numbers: a hue of 18 in 180."""

    def half(value: float, neutral: float) -> float:
        return value if rng.random() < 0.5 else neutral

    return {
        "brightness": half(rng.uniform(-32, 32), 0),
        "contrast": half(rng.uniform(0.5, 1.5), 1),
        "saturation": half(rng.uniform(0.5, 1.5), 1),
        "hue": half(6 * rng.uniform(-18, 18) / 180, 0),
        "contrast_first": rng.random() < 0.5,
        "order": rng.permutation(3).tolist() if rng.random() < 0.5 else [0, 1, 2],
    }


def colorful(seed: int, height: int = 40, width: int = 50) -> np.ndarray:
    """Smooth colors with gray, black, white and full ones among them, uint8 (h, w, 3)."""
    rng = np.random.default_rng(seed)
    field = ndimage.gaussian_filter(rng.normal(size=(height, width, 3)), (3, 3, 0))
    pixels = np.clip(rng.uniform(60, 170) + 45 * field / field.std(), 0, 255).astype(np.uint8)
    pixels[:2] = rng.choice([0, 255], (2, width, 3))
    pixels[2] = rng.integers(0, 256, (width, 1))
    return pixels


def test_the_distortion_of_colors_is_a_direct_computation():
    rng, distort = np.random.default_rng(0), PhotometricDistort()
    for seed in range(60):
        pixels, params = colorful(seed), drawn_by_hand(rng)
        image = tv_tensors.Image(torch.from_numpy(pixels).permute(2, 0, 1).contiguous())
        before = image.clone()
        ours = distort.transform(image, params)
        assert ours.dtype == torch.uint8 and torch.equal(image, before)
        off = ours.permute(1, 2, 0).numpy() - distorted_by_hand(pixels, params)
        assert np.abs(off).max() < 0.51, params  # rounded once


def test_the_parameters_of_the_distortion_are_ssds():
    with seeded_rng("colors", 1):
        drawn = [PhotometricDistort().make_params([]) for _ in range(2000)]
    for name, low, high, neutral in (
        ("brightness", -32, 32, 0),
        ("contrast", 0.5, 1.5, 1),
        ("saturation", 0.5, 1.5, 1),
        ("hue", -0.6, 0.6, 0),
    ):
        changed = [params[name] for params in drawn if params[name] != neutral]
        assert stats.binomtest(len(changed), 2000, 0.5).pvalue > 0.01
        assert stats.kstest(changed, stats.uniform(low, high - low).cdf).pvalue > 0.01
    first = sum(params["contrast_first"] for params in drawn)
    assert stats.binomtest(first, 2000, 0.5).pvalue > 0.01
    counts = np.unique([params["order"] for params in drawn], axis=0, return_counts=True)[1]
    expected = [2000 * (0.5 + 1 / 12), *[2000 / 12] * 5]
    assert stats.chisquare(counts, expected).pvalue > 0.01


def spread(images: list[np.ndarray], draws: int, ours: bool) -> tuple[float, float]:
    """Return the standard deviations of the change of an image's mean, and of the ratio of its
    contrast after and before."""
    shifts, ratios, rng, distort = [], [], np.random.default_rng(5), PhotometricDistort()
    for pixels in images:
        image = tv_tensors.Image(torch.from_numpy(pixels).permute(2, 0, 1).contiguous())
        for _ in range(draws):
            after = (
                distort(image).numpy() if ours else distorted_by_hand(pixels, drawn_by_hand(rng))
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
