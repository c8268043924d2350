"""Photos with masks in the bench: PIL's pipeline loads the same data, and nothing stays behind."""

import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from benchmarks import batches, photos
from benchmarks.children import Child
from benchmarks.options import Options
from benchmarks.photos import Photos, augmented, cropped
from PIL import Image
from scipy import ndimage

from lrd.task import Setup
from tasks import shapes
from tasks.augment import MEAN_PIXEL, normalised
from tasks.segmentation import Segmentation
from tasks.voc import VOID, palette
from tasks.voc_masks import ShapesMasks
from tests import voc_layout

QUICK = Options(quick=True, rounds=2)


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    state = random.getstate()
    random.seed(0)
    yield
    random.setstate(state)


# The plain pipeline


def test_it_gives_what_training_takes():
    data = Photos(shapes.folder(), 33)
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
    black, white = (normalised(torch.full((3, 1, 1), v)) for v in (0, 255))
    assert (every >= black - 1e-5).all() and (every <= white + 1e-5).all()
    assert every.std() > 0.5


def test_without_augmentation_it_is_the_image_and_the_labels_that_ours_reads(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(photos, "augmented", lambda image, mask: (image, mask))
    crop = 161  # no image is as large
    theirs, ours = Photos(shapes.folder(), crop), ShapesMasks(Setup(), "shapes_seg")
    entries = ours.splits()[0]
    assert [Path(file).stem for file, _ in theirs.files] == [entry.name for entry in entries]
    for index in (0, 7, 63):
        inputs, labels = theirs[index]
        image, mask = ours.read(entries[index])
        high, wide = mask.shape
        top, left = (crop - high) // 2, (crop - wide) // 2
        inner = np.s_[..., top : top + high, left : left + wide]
        torch.testing.assert_close(inputs[inner], normalised(image))
        assert torch.equal(labels[inner], mask.long())
        inputs[inner], labels[inner] = 0, VOID
        assert (labels == VOID).all()
        assert inputs.abs().max() < 0.5 / 255 / 0.22  # the mean pixel, to a byte


def marked(height: int = 60, width: int = 80) -> tuple[Image.Image, Image.Image]:
    """Labels in large blocks in a palette image, and a photo whose red is ten times the label."""
    rows, columns = np.mgrid[:height, :width]
    labels = (rows // 20 * 4 + columns // 20 + 1).astype(np.uint8)
    image = Image.fromarray(np.stack([10 * labels, 255 - 10 * labels, 0 * labels], axis=-1))
    mask = Image.fromarray(labels)
    mask.putpalette(palette())
    return image, mask


@pytest.mark.parametrize("crop", [48, 97])
def test_image_and_mask_stay_together_and_what_lies_outside_is_mean_and_void(crop: int):
    agree, outside = [], 0
    for _ in range(60):
        image, mask = (np.array(x).astype(int) for x in cropped(*augmented(*marked()), crop))
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


def test_each_step_is_drawn_as_often_and_as_far_as_it_should(monkeypatch: pytest.MonkeyPatch):
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
        augmented(image, mask)
    assert sizes[::2] == sizes[1::2]  # the image's and its mask's
    factors = [width / 100 for width, _ in sizes[::2]]
    assert 0.5 <= min(factors) < 0.55 and 1.95 < max(factors) <= 2
    turns, same = ([angle for mode, angle in angles if mode == m] for m in ("RGB", "P"))
    assert turns == same and -10 <= min(turns) < -9 and 9 < max(turns) <= 10
    assert len(turns) == pytest.approx(200, abs=40)
    assert len(filters) == pytest.approx(200, abs=40)


def test_images_that_are_not_there_are_left_out(tmp_path: Path):
    folder = voc_layout.devkit(tmp_path, "abc", "d")
    (folder / "JPEGImages" / "a.jpg").unlink()
    (folder / "SegmentationClass" / "c.png").unlink()
    data = Photos(tmp_path, 33)
    assert [Path(image).name for image, _ in data.files] == ["b.jpg"]


# The table


def test_the_table_has_both_loaders_with_and_without_workers():
    table = batches.photos(QUICK)
    assert [line.label for line in table.lines] == [
        "PIL in a DataLoader, 0 workers",
        "PIL in a DataLoader, 2 workers",
        "ours, 0 workers",
        "ours, 2 workers",
    ]
    assert table.baseline == "PIL in a DataLoader, 2 workers" and table.better == "higher"
    assert table.title == "batches of 8 of the embedded shapes, crop 33"
    for line in table.lines:
        assert len(line.samples) == 2 and line.unit == "images/s"
        assert all(math.isfinite(n) and n > 0 for n in line.samples)
        assert len(line.ratios) == (0 if line.label == table.baseline else 2)


def test_real_images_are_taken_where_there_are_some_and_the_title_says_so(tmp_path: Path):
    voc_layout.devkit(tmp_path, [f"a{i}" for i in range(16)], "b")
    of, crop = batches.with_masks(Options(root=str(tmp_path)))
    assert (of.data, of.title, of.batch, crop) == ("voc_seg", "voc_seg, real images", 16, 473)
    for turn in (batches.ours(of), batches.by_pil(of, crop, 0)):
        assert turn(None)["images"] == 16
    of, crop = batches.with_masks(Options(root=str(tmp_path / "elsewhere")))
    assert (of.data, of.title, of.batch, crop) == ("shapes_seg", "the embedded shapes", 16, 97)


def test_a_turn_is_an_epoch_or_a_part_of_it():
    of, crop = batches.with_masks(QUICK)
    for turn in (batches.ours(of), batches.by_pil(of, crop, 0)):
        assert [turn(steps)["images"] for steps in (3, None, 99)] == [24, 64, 64]


def test_a_short_turn_leaves_no_worker_reading_ahead(monkeypatch: pytest.MonkeyPatch):
    asked: list[tuple[int, int]] = []
    whole = Segmentation.train_batches

    def spy(self: Segmentation, epoch: int, start: int = 0, *args: int) -> Any:
        asked.append((epoch, start))
        return whole(self, epoch, start, *args)

    monkeypatch.setattr(Segmentation, "train_batches", spy)
    turn = batches.ours(batches.with_masks(QUICK)[0])
    for steps in (3, None, 99):
        turn(steps)
    assert asked == [(0, 5), (1, 0), (2, 0)]


def children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def test_workers_end_with_the_child_they_belong_to():
    of, crop = batches.with_masks(QUICK)
    with (
        Child(batches.ours, of, "data.workers=2") as ours,
        Child(batches.by_pil, of, crop, 2) as theirs,
    ):
        left = []
        for child, workers in ((ours, 2), (theirs, 0)):  # ours live on, theirs end with the epoch
            assert child.turn(2)["images"] == 16
            pid = child._process.pid
            assert pid is not None and len(children(pid)) == workers
            left += [str(pid), *children(pid)]
    assert [pid for pid in left if Path(f"/proc/{pid}").exists()] == []
