"""Random images and photos with masks: both pipelines load the same data."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

from lrd.task import Setup
from scripts.benchmarks import datasets
from scripts.benchmarks.datasets import (
    IMAGE_SETS,
    OpenCVBoxes,
    OpenCVPhotos,
    Photos,
    RandomImages,
    distorted,
    jaccard,
    random_augmentation,
    random_crop,
    torchvision_dataset,
    zoomed_out,
)
from tasks.data.augment import MEAN_PIXEL, normalize
from tasks.data.augment_masks import SegmentationTransform
from tasks.data.dataloader import seeded_rng
from tasks.data.synthetic_shapes import SHAPE_CLASSES, shapes_root
from tasks.data.voc import VOID, color_map
from tasks.voc_masks import ShapesMasks
from tests.helpers import voc_layout


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    state = random.getstate()
    random.seed(0)
    yield
    random.setstate(state)


@pytest.mark.parametrize("kind", [Photos, OpenCVPhotos])
def test_photos_are_what_training_takes(kind: type[Photos]):
    data = kind(shapes_root(), 33)
    assert len(data) == 64
    seen: set[int] = set()
    values = []
    for index in range(64):
        inputs, labels = data[index]
        assert inputs.shape == (3, 33, 33) and inputs.dtype == torch.float32
        assert labels.shape == (33, 33) and labels.dtype == torch.int64
        seen |= set(labels.unique().tolist())
        values.append(inputs)
    assert seen == {0, 1, 2, 3, VOID}
    every = torch.stack(values)
    black, white = (normalize(torch.full((3, 1, 1), v)) for v in (0, 255))
    assert (every >= black - 1e-5).all() and (every <= white + 1e-5).all()
    assert every.std() > 0.5


def test_without_augmentation_photos_equal_what_ours_reads(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(datasets, "random_augmentation", lambda image, mask: (image, mask))
    crop = 161  # no image is as large
    theirs, ours = Photos(shapes_root(), crop), ShapesMasks(Setup(), "shapes_seg")
    entries = ours.splits()[0]
    assert [Path(file).stem for file, _ in theirs.files] == [entry.name for entry in entries]
    for index in (0, 7, 63):
        inputs, labels = theirs[index]
        image, mask = ours.read(entries[index])
        high, wide = mask.shape
        top, left = (crop - high) // 2, (crop - wide) // 2
        inner = np.s_[..., top : top + high, left : left + wide]
        torch.testing.assert_close(inputs[inner], normalize(image))
        assert torch.equal(labels[inner], mask.long())
        inputs[inner], labels[inner] = 0, VOID
        assert (labels == VOID).all()
        assert inputs.abs().max() < 0.5 / 255 / 0.22  # the mean pixel, to a byte


def test_photos_by_opencv_look_like_ours():
    """Mean and spread of the pixels, and share of each label, over the shapes at random crops."""
    theirs, ours = OpenCVPhotos(shapes_root(), 97), ShapesMasks(Setup(), "shapes_seg")
    entries, transform = ours.splits()[0], SegmentationTransform(97)
    with seeded_rng("ours", 1):
        pairs = [transform(*ours.read(entry)) for entry in entries for _ in range(4)]
    mine = torch.stack([normalize(image) for image, _ in pairs])
    labels = torch.stack([mask for _, mask in pairs]).long()
    images, masks = zip(*(theirs[i] for i in range(64) for _ in range(4)), strict=True)
    other, expected = torch.stack(images), torch.stack(masks)
    assert float(mine.mean()) == pytest.approx(float(other.mean()), abs=0.05)
    assert float(mine.std()) == pytest.approx(float(other.std()), rel=0.05)
    for label in (0, 1, 2, 3, VOID):
        share, there = (float((x == label).float().mean()) for x in (labels, expected))
        assert share == pytest.approx(there, rel=0.25)


def test_boxes_by_opencv_are_what_training_takes():
    data = OpenCVBoxes(shapes_root(), 64, SHAPE_CLASSES)
    assert len(data) == 64
    rows, means, kinds = [], [], set()
    for index in range(64):
        inputs, objects = data[index]
        assert inputs.shape == (3, 64, 64) and inputs.dtype == torch.float32
        assert (0 <= objects[:, :4]).all() and (objects[:, :4] <= 1).all()
        assert (objects[:, 0] < objects[:, 2]).all() and (objects[:, 1] < objects[:, 3]).all()
        rows.append(len(objects))
        kinds |= set(objects[:, 4])
        means.append(float(inputs.mean()))
    assert kinds == {0, 1, 2} and sum(rows) >= 64
    assert abs(np.mean(means)) < 60  # of 255, about the mean pixel


def test_the_parts_of_the_pipeline_for_boxes(monkeypatch: pytest.MonkeyPatch):
    boxes = np.array([[0.0, 0, 4, 4], [2, 2, 6, 6], [9, 9, 10, 10]])
    assert jaccard(boxes, np.array([0, 0, 4, 4])) == pytest.approx([1, 4 / 28, 0])
    image = np.full((10, 12, 3), 100, np.float32)
    canvas, moved = zoomed_out(image.copy(), boxes)
    left, top = moved[0, :2].astype(int)
    assert (moved - boxes == (left, top, left, top)).all()
    assert (canvas[top : top + 10, left : left + 12] == 100).all()
    outside = canvas.sum(-1) != 300
    assert outside.sum() == canvas.shape[0] * canvas.shape[1] - 120
    assert (canvas[outside] == MEAN_PIXEL[::-1]).all()
    monkeypatch.setattr(random, "random", lambda: 1.0)  # no change is chosen
    assert np.abs(distorted(image.copy()) - image).max() < 0.01


def marked(height: int = 60, width: int = 80) -> tuple[Image.Image, Image.Image]:
    """Labels in large blocks in a palette image, and a photo whose red is ten times the label."""
    rows, columns = np.mgrid[:height, :width]
    labels = (rows // 20 * 4 + columns // 20 + 1).astype(np.uint8)
    image = Image.fromarray(np.stack([10 * labels, 255 - 10 * labels, 0 * labels], axis=-1))
    mask = Image.fromarray(labels)
    mask.putpalette(color_map())
    return image, mask


def augmented_crop(crop: int) -> tuple[Image.Image, Image.Image]:
    return random_crop(*random_augmentation(*marked()), crop)


@pytest.mark.parametrize("crop", [48, 97])
def test_image_and_mask_stay_aligned_and_padding_is_mean_and_void(crop: int):
    agree, outside = [], 0
    for _ in range(60):
        image, mask = (np.array(x).astype(int) for x in augmented_crop(crop))
        assert image.shape == (crop, crop, 3) and mask.shape == (crop, crop)
        assert set(np.unique(mask)) <= {*range(1, 13), VOID}  # nearest: none that was not there
        void = mask == VOID
        # The blur reaches four pixels.
        inner = np.array(ndimage.binary_erosion(void, iterations=4, border_value=1), bool)
        inside = np.array(ndimage.binary_erosion(~void, iterations=4), bool)
        outside += inner.sum()
        assert (image[inner] == MEAN_PIXEL).all()
        agree.append(np.abs(image[..., 0] - 10 * mask)[inside] <= 5)
    assert outside > 100
    assert np.concatenate(agree).mean() > 0.8  # all but the blocks' blurred edges


def test_augmentations_have_their_frequencies_and_ranges(monkeypatch: pytest.MonkeyPatch):
    image, mask = Image.new("RGB", (100, 50)), Image.new("P", (100, 50))
    angles, sizes, filters = [], [], []
    rotate, resize = Image.Image.rotate, Image.Image.resize

    def spy_rotate(self: Any, angle: float, *args: Any, **kwargs: Any) -> Any:
        angles.append((self.mode, angle))
        return rotate(self, angle, *args, **kwargs)

    def spy_resize(self: Any, size: Any, *args: Any, **kwargs: Any) -> Any:
        sizes.append(size)
        return resize(self, size, *args, **kwargs)

    monkeypatch.setattr(Image.Image, "rotate", spy_rotate)
    monkeypatch.setattr(Image.Image, "resize", spy_resize)
    monkeypatch.setattr(Image.Image, "filter", lambda self, f: filters.append(f) or self)
    for _ in range(400):
        random_augmentation(image, mask)
    assert sizes[::2] == sizes[1::2]  # the image's and its mask's
    factors = [width / 100 for width, _ in sizes[::2]]
    assert 0.5 <= min(factors) < 0.55 and 1.95 < max(factors) <= 2
    turns, same = ([angle for mode, angle in angles if mode == m] for m in ("RGB", "P"))
    assert turns == same and -10 <= min(turns) < -9 and 9 < max(turns) <= 10
    assert len(turns) == pytest.approx(200, abs=40)
    assert len(filters) == pytest.approx(200, abs=40)


def test_missing_images_are_left_out(tmp_path: Path):
    folder = voc_layout.devkit(tmp_path, "abc", "d")
    (folder / "JPEGImages" / "a.jpg").unlink()
    (folder / "SegmentationClass" / "c.png").unlink()
    data = Photos(tmp_path, 33)
    assert [Path(image).name for image, _ in data.files] == ["b.jpg"]


@pytest.mark.parametrize("name", ["mnist", "cifar10", "cifar100"])
def test_both_loops_see_the_same_random_images(name: str):
    theirs = torchvision_dataset(name, "", 16)
    theirs.transform.transforms = theirs.transform.transforms[-2 if name != "mnist" else -1 :]
    ours = RandomImages(Setup(), name=name, like=name, train=16, test=4)
    split, test = ours.splits()
    mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (ours.mean, ours.std))
    assert len(test.index) == 4 and ours.classes == IMAGE_SETS[name].ours.classes
    for index in range(16):
        inputs, label = theirs[index]
        torch.testing.assert_close(inputs, (split.images[index] / 255 - mean) / std)
        assert label == split.labels[index]
