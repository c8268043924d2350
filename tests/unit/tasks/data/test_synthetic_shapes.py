"""The synthetic shapes, read by torchvision's VOC classes and measured again from the files."""

import hashlib
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import ndimage
from torchvision.datasets import VOCDetection, VOCSegmentation

from lrd.rng import fold_key
from tasks.data import synthetic_shapes
from tasks.data.voc import color_map

ROOT = Path(__file__).parents[4]
COUNTS = {"train": 64, "val": 16, "trainval": 80}
CORNERS = ("xmin", "ymin", "xmax", "ymax")
VOC_COLORS = {  # as the development kit publishes them
    **{0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0), 3: (128, 128, 0)},
    **{8: (64, 0, 0), 15: (192, 128, 128), 20: (0, 64, 128), 255: (224, 224, 192)},
}
Box = tuple[int, ...]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data set's root, in a cache of this module."""
    cache = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(cache))
        return synthetic_shapes.shapes_root()


def segmentation(root: Path, part: str, year: str = "2012") -> list[tuple[np.ndarray, np.ndarray]]:
    """Image (h, w, 3) and mask (h, w) of every sample, as torchvision reads them."""
    found = []
    for image, mask in VOCSegmentation(str(root), year, part):
        assert (image.mode, mask.mode) == ("RGB", "P") and image.size == mask.size
        assert mask.getpalette() == color_map()
        found.append((np.asarray(image), np.asarray(mask)))
    return found


def detection(root: Path, part: str, year: str = "2012") -> list[tuple[np.ndarray, dict[str, Any]]]:
    """Image (h, w, 3) and annotation of every sample, as torchvision reads them."""
    data = VOCDetection(str(root), year, part)
    return [(np.asarray(image), target["annotation"]) for image, target in data]


def both(root: Path) -> list[tuple[np.ndarray, np.ndarray, list[dict[str, Any]]]]:
    """Image, mask and objects of all images."""
    pairs = zip(segmentation(root, "trainval"), detection(root, "trainval"), strict=True)
    return [(image, mask, a["object"]) for (image, mask), (_, a) in pairs]


def box(item: dict[str, Any]) -> Box:
    return tuple(int(item["bndbox"][corner]) for corner in CORNERS)


def tight(pixels: np.ndarray) -> Box:
    """The smallest box of VOC's around all True pixels, found by numpy's nonzero."""
    y, x = np.nonzero(pixels)
    return int(x.min()) + 1, int(y.min()) + 1, int(x.max()) + 1, int(y.max()) + 1


def digest(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_torchvision_reads_every_set_for_segmentation(root: Path):
    for part, count in COUNTS.items():
        samples = segmentation(root, part)
        assert len(samples) == count
        for image, mask in samples:
            assert image.shape == (*mask.shape, 3)
            assert all(96 <= side <= 160 for side in mask.shape)
            assert {0, 255} <= set(np.unique(mask)) <= {0, 1, 2, 3, 255}


def test_torchvision_reads_every_set_for_detection(root: Path):
    for part, count in COUNTS.items():
        samples = detection(root, part)
        assert len(samples) == count
        for image, annotation in samples:
            size = {"height": image.shape[0], "width": image.shape[1], "depth": 3}
            assert annotation["size"] == {name: str(side) for name, side in size.items()}
            assert (annotation["folder"], annotation["segmented"]) == ("VOC2012", "1")
            assert 1 <= len(annotation["object"]) <= 4
            for item in annotation["object"]:
                assert (
                    item["name"] in synthetic_shapes.SHAPE_CLASSES and item["pose"] == "Unspecified"
                )
                assert {item["truncated"], item["difficult"]} <= {"0", "1"}


def test_images_come_in_many_sizes_and_both_orientations(root: Path):
    sizes = {image.shape[:2] for image, _ in segmentation(root, "train")}
    assert len(sizes) > 50
    assert {bool(h > w) for h, w in sizes if h != w} == {False, True}


def test_voc2007_has_the_same_images_as_trainval_and_test(root: Path):
    for part, of_2012 in {"trainval": "train", "test": "val"}.items():
        old, new = detection(root, part, "2007"), detection(root, of_2012)
        for (image, annotation), (other, of_other) in zip(old, new, strict=True):
            assert np.array_equal(image, other)
            assert annotation == {**of_other, "folder": "VOC2007"}
        masks = zip(segmentation(root, part, "2007"), segmentation(root, of_2012), strict=True)
        assert all(np.array_equal(a, b) for (_, a), (_, b) in masks)


def test_sets_share_no_image(root: Path):
    sets = root / "VOCdevkit" / "VOC2012" / "ImageSets"
    for use in ("Segmentation", "Main"):
        ids = {part: (sets / use / f"{part}.txt").read_text().split() for part in COUNTS}
        assert not set(ids["train"]) & set(ids["val"])
        assert ids["trainval"] == ids["train"] + ids["val"]
        assert ids["train"][0] == "shapes_000001" and len(set(ids["trainval"])) == 80
    pictures = [image.tobytes() for image, _ in segmentation(root, "trainval")]
    assert len(set(pictures)) == 80


def test_every_box_is_tight_around_the_pixels_of_the_mask(root: Path):
    alone = 0
    for _, mask, items in both(root):
        names = Counter(item["name"] for item in items)
        assert set(np.unique(mask)) - {0, 255} == {
            synthetic_shapes.SHAPE_CLASSES.index(n) + 1 for n in names
        }
        for label, name in enumerate(synthetic_shapes.SHAPE_CLASSES, start=1):
            boxes = [box(item) for item in items if item["name"] == name]
            if len(boxes) == 1:
                assert boxes[0] == tight(mask == label)
                alone += 1
            parts, count = ndimage.label(mask == label, np.ones((3, 3)))  # type: ignore
            if count == len(boxes):  # no object is cut in two
                assert sorted(boxes) == sorted(tight(parts == i + 1) for i in range(count))
    assert alone > 80


def test_boxes_lie_on_the_shapes_that_the_image_shows(root: Path):
    """Found by color in the JPEG alone, where an object stands out from all the rest."""
    checked = 0
    for image, mask, items in both(root):
        for item in items:
            x0, y0, x1, y1 = box(item)
            own = np.zeros_like(mask, bool)
            own[y0 - 1 : y1, x0 - 1 : x1] = mask[y0 - 1 : y1, x0 - 1 : x1] == (
                synthetic_shapes.SHAPE_CLASSES.index(item["name"]) + 1
            )
            color = np.median(image[own], axis=0)
            like = np.abs(image.astype(int) - color).sum(-1) < 90
            like = ndimage.binary_opening(ndimage.median_filter(like, 3))
            if len(items) == 1 and like[mask == 0].mean() < 1e-3:
                assert np.abs(np.subtract(tight(like), box(item))).max() <= 2
                checked += 1
    assert checked >= 5


def test_void_parts_every_object_from_what_it_borders(root: Path):
    for _, mask, _ in both(root):
        for down, right in ((0, 1), (1, 0), (1, 1), (1, -1)):
            other = np.roll(mask, (-down, -right), (0, 1))
            inner = np.s_[1:-1, 1:-1]  # np.roll wraps at the edge
            a, b = mask[inner], other[inner]
            assert np.all((a == b) | (a == 255) | (b == 255))
        void = mask == 255
        assert 0 < void.mean() < 0.15
        distance = ndimage.distance_transform_edt((mask == 0) | void)  # to the next object's pixel
        assert np.asarray(distance)[void].max() < 6  # a border, no area: a corner's tip at most


def test_objects_show_enough_of_themselves():
    for number in range(1, 81):
        made = synthetic_shapes.draw_scene(number)
        for shape in made.shapes:
            x0, y0, x1, y1 = shape.box
            label = synthetic_shapes.SHAPE_CLASSES.index(shape.name) + 1
            shown = (made.mask[y0 - 1 : y1, x0 - 1 : x1] == label).sum()
            # The least shape: a triangle of 20 by 20, of which 40 % are left.
            assert shown >= 0.4 * 180 and min(x1 - x0, y1 - y0) >= 8
            assert max(x1 - x0, y1 - y0) < 60 * 2**0.5 + 1
            height, width = made.mask.shape
            if shape.truncated:
                assert 1 in (x0, y0) or x1 == width or y1 == height


def test_whole_shapes_have_the_form_of_their_class():
    """Pixels against the circle's pi/4 of its box's area, the triangle's half of width x height."""
    seen: Counter[str] = Counter()
    for number in range(1, 201):
        made = synthetic_shapes.draw_scene(number)
        if len(made.shapes) > 1 or made.shapes[0].truncated:
            continue
        (shape,) = made.shapes
        own = made.mask == synthetic_shapes.SHAPE_CLASSES.index(shape.name) + 1
        y, x = np.nonzero(own)
        # Variance by area: a disc has the least of all planar forms, 1 / 2 pi. A square
        # has 1/6, a triangle as wide as high 7/36.
        variance = (x.var() + y.var()) / len(x)
        expected = {"circle": 1 / (2 * np.pi), "square": 1 / 6, "triangle": 7 / 36}
        assert variance == pytest.approx(expected[shape.name], rel=0.02)
        seen[shape.name] += 1
    assert min(seen[name] for name in synthetic_shapes.SHAPE_CLASSES) >= 3


def test_both_sets_have_every_class_and_a_few_difficult_and_truncated_objects(root: Path):
    for part in ("train", "val"):
        items = [item for _, a in detection(root, part) for item in a["object"]]
        assert {item["name"] for item in items} == set(synthetic_shapes.SHAPE_CLASSES)
        difficult = Counter(item["difficult"] for item in items)
        assert 0 < difficult["1"] < 0.2 * len(items)
        assert 0 < sum(item["truncated"] == "1" for item in items) < 0.5 * len(items)
        plain = {item["name"] for item in items if item["difficult"] == "0"}
        assert plain == set(synthetic_shapes.SHAPE_CLASSES)


def test_colors_say_nothing_of_the_class():
    """Over many images every class has the same mean and standard deviation of colors, and a
    shape's nearest color belongs to its own class as often as by chance."""
    colors, labels = [], []
    for number in range(1, 301):
        made = synthetic_shapes.draw_scene(number)
        for shape in made.shapes:
            x0, y0, x1, y1 = shape.box
            label = synthetic_shapes.SHAPE_CLASSES.index(shape.name) + 1
            crop = np.s_[y0 - 1 : y1, x0 - 1 : x1]
            colors.append(np.median(made.pixels[crop][made.mask[crop] == label], axis=0))
            labels.append(label)
    color, label = np.array(colors), np.array(labels)
    for one in (1, 2, 3):
        assert np.all(np.abs(color[label == one].mean(0) - 127.5) < 20)
        assert np.all(color[label == one].std(0) > 60)
    distance = np.linalg.norm(color[:, None] - color[None], axis=-1)
    np.fill_diagonal(distance, np.inf)
    assert (label[distance.argmin(1)] == label).mean() < 1 / 3 + 0.08


def test_the_color_map_is_vocs():
    colors = np.reshape(color_map(), (256, 3))
    assert {i: tuple(colors[i].tolist()) for i in VOC_COLORS} == VOC_COLORS
    assert len(np.unique(colors, axis=0)) == 256


def test_made_twice_the_files_are_the_same(root: Path, tmp_path: Path):
    synthetic_shapes.generate(tmp_path)
    assert digest(tmp_path) == digest(root)
    assert len(digest(tmp_path)) == 2 * 3 * 80 + 2 * (3 + 2)


def test_an_image_does_not_depend_on_how_many_there_are(root: Path, tmp_path: Path):
    synthetic_shapes.generate(tmp_path, train=3, val=2)
    few, all_ = digest(tmp_path), digest(root)
    images = {name: text for name, text in few.items() if "ImageSets" not in name}
    assert len(images) == 2 * 3 * 5 and images.items() <= all_.items()
    ids = (tmp_path / "VOCdevkit/VOC2007/ImageSets/Main/test.txt").read_text()
    assert ids == "shapes_000004\nshapes_000005\n"


def test_the_pixels_are_pinned():
    """The same on every machine; another hash means other data and other scores."""
    made = [synthetic_shapes.draw_scene(number) for number in range(1, 81)]
    content = b"".join(m.pixels.tobytes() + m.mask.tobytes() for m in made)
    assert hashlib.sha256(content).hexdigest()[:16] == "578fada8bf26e957"
    random = np.random.Generator(np.random.PCG64(fold_key("shapes", 1)))
    assert made[0].mask.shape == tuple(random.integers(96, 161, size=2))


def test_folder_is_made_once_below_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    place = synthetic_shapes.shapes_root()
    assert place.parent == tmp_path / "learning-rate-dropout"
    assert len(place.name.removeprefix("shapes-")) == 12 and list(place.parent.iterdir()) == [place]
    monkeypatch.setattr(synthetic_shapes, "generate", lambda *_: pytest.fail("made again"))
    assert synthetic_shapes.shapes_root() == place


def test_other_counts_are_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(synthetic_shapes, "generate", lambda root: root.mkdir())
    place = synthetic_shapes.shapes_root()
    monkeypatch.setattr(synthetic_shapes, "NUM_VAL", 17)
    assert synthetic_shapes.shapes_root() != place


def test_without_the_setting_the_cache_is_the_homes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(synthetic_shapes, "generate", lambda root: root.mkdir())
    assert synthetic_shapes.shapes_root().parent == tmp_path / ".cache" / "learning-rate-dropout"


def test_processes_that_start_at_once_end_in_one_whole_folder(root: Path, tmp_path: Path):
    gate = tmp_path / "go"  # all have imported before any makes
    code = f"""
import time
from pathlib import Path
from tasks.data import synthetic_shapes
from tasks.data.voc import color_map
print("ready", flush=True)
while not Path({str(gate)!r}).exists():
    time.sleep(0.001)
print(synthetic_shapes.shapes_root())
"""
    command = [sys.executable, "-W", "error", "-c", code]
    env = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    jobs = [
        subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for job in jobs:
        assert job.stdout is not None and job.stdout.readline() == "ready\n"
    gate.touch()
    printed = {job.communicate(timeout=120)[0].strip() for job in jobs}
    assert [job.returncode for job in jobs] == [0, 0] and len(printed) == 1
    (place,) = (tmp_path / "cache" / "learning-rate-dropout").iterdir()
    assert printed == {str(place)} and digest(place) == digest(root)


def test_a_process_that_comes_second_uses_the_existing_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def overtake(root: Path) -> None:
        for place in (root, root.parents[1] / root.parent.name.rsplit("-", 1)[0]):
            place.mkdir()
            (place / "whose").write_text("own" if place == root else "other's")

    monkeypatch.setattr(synthetic_shapes, "generate", overtake)
    place = synthetic_shapes.shapes_root()
    assert (place / "whose").read_text() == "other's"
    assert list(place.parent.iterdir()) == [place]


def test_what_fails_half_way_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def full(root: Path) -> None:
        (root / "VOCdevkit").mkdir(parents=True)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(synthetic_shapes, "generate", full)
    with pytest.raises(ValueError, match="XDG_CACHE_HOME .*No space left on device"):
        synthetic_shapes.shapes_root()
    assert not list((tmp_path / "learning-rate-dropout").iterdir())


def test_a_cache_that_cannot_be_written_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file" / "cache"))
    with pytest.raises(ValueError) as caught:
        synthetic_shapes.shapes_root()
    (line,) = str(caught.value).splitlines()
    assert line.startswith("XDG_CACHE_HOME must be a writable folder")
    assert f"got {tmp_path}/file/cache" in line and "Not a directory" in line
