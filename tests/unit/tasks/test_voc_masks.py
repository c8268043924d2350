"""VOC and SBD on disk: images, masks, and the messages about missing files."""

import os
import random
import struct
import tarfile
from pathlib import Path
from typing import Any
from zlib import compress, crc32

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import VOCSegmentation

from lrd.task import Setup
from tasks.voc_masks import VOCMasks
from tests.helpers import voc_layout


class Few(VOCMasks):
    """The data set with the short lists of these tests."""

    counts = {"train": 3, "val": 2, "sbd": 5}


def data(root: Path, kind: type[VOCMasks] = Few, download: bool = False, **settings: Any):
    return kind(Setup(root=str(root), download=download), "voc_seg", **settings)


def names(entries: Any) -> list[str]:
    return [entry.name for entry in entries]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """VOC train a c e, val b f; SBD train d e f and val a g, so that d and g are new."""
    voc_layout.devkit(tmp_path, "ace", "bf")
    voc_layout.sbd(tmp_path / "benchmark_RELEASE" / "dataset", "def", "ag")
    return tmp_path


def test_training_adds_sbds_images_that_are_in_neither_of_vocs_lists(root: Path):
    of = data(root)
    train, val = of.splits()
    assert names(train) == ["a", "c", "d", "e", "g"] and names(val) == ["b", "f"]
    labels = {entry.name: set(of.read(entry)[1].unique().tolist()) for entry in train}
    assert labels == {"a": {0, 1}, "c": {0, 1}, "e": {0, 1}, "d": {7}, "g": {7}}
    assert names(data(root, sbd=False).splits()[0]) == ["a", "c", "e"]
    (root / "benchmark_RELEASE" / "dataset").rename(root / "sbd")
    assert names(data(root).splits()[0]) == ["a", "c", "d", "e", "g"]


def test_the_join_of_the_official_lists_is_the_published_list_of_10582(tmp_path: Path):
    """SBD's own lists are not available; any lists of these images give the same join."""
    folder = os.environ.get("LRD_VOC_LISTS")
    if not folder:
        pytest.skip("the official id lists: set LRD_VOC_LISTS to their folder")
    voc = Path(folder) / "VOC2012" / "Segmentation"
    own, val = ((voc / f"{s}.txt").read_text().split() for s in ("train", "val"))
    published = (Path(folder) / "SBD" / "train_aug.txt").read_text().split()
    assert len(own) == 1464 and len(val) == 1449 and len(published) == 10582
    draw = random.Random(0)
    theirs = [*(set(published) - set(own)), *draw.sample(own, 500), *draw.sample(val, 800)]
    draw.shuffle(theirs)

    class Empty(VOCMasks):
        def available(self, entries: Any, count: int, source: Any) -> Any:
            assert len(entries) == count
            return list(entries)

        def verify(self, entry: Any) -> None:
            pass  # there are no files

    base = tmp_path / "VOCdevkit" / "VOC2012"
    voc_layout.write_lists(base / "ImageSets" / "Segmentation", train=own, val=val)
    voc_layout.write_lists(tmp_path / "sbd", train=theirs[:8000], val=theirs[8000:])
    train, validation = data(tmp_path, Empty).splits()
    assert names(train) == sorted(published) and names(validation) == sorted(val)


def test_what_is_missing_is_named_with_the_archive_it_comes_in(root: Path):
    mask = root / "VOCdevkit" / "VOC2012" / "SegmentationClass" / "c.png"
    mask.unlink()
    with pytest.raises(ValueError, match=r"c\.png is missing \(found 2 of 3 images\): unpack "):
        data(root).splits()
    with pytest.raises(ValueError, match="VOCtrainval_11-May-2012.tar .md5 6cd6e144f989b92b33"):
        data(root).splits()
    assert names(data(root, partial=True).splits()[0]) == ["a", "d", "e", "g"]
    (root / "benchmark_RELEASE" / "dataset" / "cls" / "g.mat").unlink()
    voc_layout.devkit(root, "ace", "bf")
    with pytest.raises(ValueError, match=r"g\.mat is missing .*benchmark.tgz .md5 82b4d87ceb2ed10"):
        data(root).splits()
    with pytest.raises(ValueError, match=r"VOC2012/ImageSets/Segmentation/train.txt is missing: "):
        data(root / "elsewhere").splits()


def test_without_sbd_the_line_says_what_trains_without_it(tmp_path: Path):
    voc_layout.devkit(tmp_path, "ace", "bf")
    with pytest.raises(ValueError, match=r"dataset.sbd=false trains on VOC's own 3 images"):
        data(tmp_path).splits()
    partial = data(tmp_path, partial=True)
    assert [names(split) for split in partial.splits()] == [["a", "c", "e"], ["b", "f"]]
    assert partial.describe(3, 2) == (
        "voc_seg: 3 of 5 training images and 2 of 2 validation images; dataset.partial=true"
    )


def test_lists_of_another_length_than_the_official_ones_are_an_error_unless_partial(root: Path):
    voc_layout.devkit(root, "ac", "bf")
    with pytest.raises(ValueError, match=r"a list has 2 images \(found 2 of 3 images\)"):
        data(root).splits()
    assert len(data(root, partial=True, sbd=False).splits()[0]) == 2


def test_partial_with_nothing_there_is_an_error(tmp_path: Path):
    voc_layout.devkit(tmp_path, "ace", "bf")
    for path in (tmp_path / "VOCdevkit" / "VOC2012" / "JPEGImages").iterdir():
        path.unlink()
    with pytest.raises(ValueError, match=r"a\.jpg is missing \(found 0|a\.jpg is missing"):
        data(tmp_path, partial=True).splits()


def test_an_archive_in_the_root_is_unpacked_without_a_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from torchvision.datasets import SBDataset, voc
    from torchvision.datasets.utils import calculate_md5

    from tasks import voc_masks

    voc_layout.devkit(tmp_path / "made", "ace", "bf")
    voc_layout.sbd(tmp_path / "made" / "benchmark_RELEASE" / "dataset", "de", "g")
    root = tmp_path / "root"
    root.mkdir()
    tars = {"VOCdevkit": "VOCtrainval_11-May-2012.tar", "benchmark_RELEASE": "benchmark.tgz"}
    for part, name in tars.items():
        with tarfile.open(root / name, "w:gz" if name.endswith("tgz") else "w") as tar:
            tar.add(tmp_path / "made" / part, part)
    md5 = calculate_md5(str(root / tars["VOCdevkit"]))
    monkeypatch.setitem(voc.DATASET_YEAR_DICT["2012"], "md5", md5)
    md5 = calculate_md5(str(root / "benchmark.tgz"))
    monkeypatch.setattr(voc_masks, "SBD", voc_masks.Archive("benchmark.tgz", md5))
    monkeypatch.setattr(SBDataset, "url", "http://nowhere.invalid/benchmark.tgz")
    with pytest.raises(ValueError, match="is missing"):
        data(root).splits()
    train, val = data(root, download=True).splits()
    assert names(train) == ["a", "c", "d", "e", "g"] and names(val) == ["b", "f"]
    # A damaged archive is rejected, and the message names the failed download.
    (root / "benchmark.tgz").write_bytes(b"damaged")
    for path in sorted((root / "benchmark_RELEASE").rglob("*.txt")):
        path.unlink()
    with pytest.raises(ValueError, match="benchmark.tgz .md5"):
        data(root, download=True).splits()


def test_a_holdout_is_drawn_by_the_seed_and_needs_no_validation_images(root: Path):
    for path in (root / "VOCdevkit" / "VOC2012" / "JPEGImages").glob("[bf].jpg"):
        path.unlink()
    rest, held = data(root, holdout=2).splits()
    assert len(rest) == 3 and len(held) == 2 and not {*names(rest)} & {*names(held)}
    others = [
        Few(Setup(seed=seed, root=str(root)), "voc_seg", holdout=2).splits()[1] for seed in range(8)
    ]
    assert names(others[0]) == names(held) and len({tuple(names(o)) for o in others}) > 2
    with pytest.raises(ValueError, match="dataset.holdout must be below the 5 training images"):
        data(root, holdout=5).splits()


def test_what_cannot_be_read_is_one_line_that_names_the_file(root: Path):
    of = data(root)
    entry = of.splits()[0][0]
    entry.image.write_bytes(b"no jpeg")
    with pytest.raises(ValueError, match=r"a\.jpg cannot be read") as error:
        of.read(entry)
    assert "\n" not in str(error.value)
    voc_layout.picture(entry.image, (20, 31))
    with pytest.raises(ValueError, match=r"a\.png must have the size of its image, \(20, 31\)"):
        of.read(entry)
    voc_layout.picture(entry.image)
    voc_layout.mask(entry.target, np.full((20, 30), 21))
    with pytest.raises(ValueError, match=r"a\.png must hold labels of 0 to 20, or 255, got 21"):
        of.read(entry)


@pytest.mark.parametrize("setting", ["crop=7", "resolution=0", "resolution=1.5", "holdout=-1"])
def test_settings_have_rules(tmp_path: Path, setting: str):
    name, value = setting.split("=")
    settings: Any = {name: float(value) if "." in value else int(value)}
    with pytest.raises(ValueError, match=f"dataset.{name} must be "):
        data(tmp_path, **settings)


def test_real_images_and_masks_are_pillows_to_the_pixel(real_data: Path):
    of = data(real_data, VOCMasks, sbd=False, partial=True)
    train, val = of.splits()
    assert (len(train), len(val)) == (311, 321)
    theirs = VOCSegmentation(str(real_data), "2012", "train")
    for entry, (image, mask) in ((train[i], theirs[i]) for i in (0, 100, 310)):
        ours, labels = of.read(entry)
        pixels = np.array(image).transpose(2, 0, 1).astype(int)
        assert np.abs(ours.numpy().astype(int) - pixels).max() == 0
        assert np.array_equal(labels.numpy(), np.array(mask))
    half = data(real_data, VOCMasks, sbd=False, partial=True, resolution=0.5)
    image, mask = half.read(train[0])
    height, width = of.read(train[0])[1].shape
    assert mask.shape == image.shape[1:] == (round(height / 2), round(width / 2))
    assert set(mask.unique().tolist()) <= set(of.read(train[0])[1].unique().tolist())


def test_a_mask_of_bytes_without_a_palette_is_read_too(root: Path):
    of = data(root)
    entry = of.splits()[0][0]
    Image.fromarray(np.full((20, 30), 3, np.uint8), "L").save(entry.target)
    assert torch.equal(of.read(entry)[1], torch.full((20, 30), 3, dtype=torch.uint8))


VOC_COLORS = {0: (0, 0, 0), 1: (128, 0, 0), 15: (192, 128, 128), 255: (224, 224, 192)}  # devkit


def paletted(path: Path, labels: np.ndarray, colors: dict[int, tuple[int, ...]]) -> None:
    image = Image.fromarray(labels.astype(np.uint8))
    image.putpalette([v for i in range(max(colors) + 1) for v in colors.get(i, (9, 9, 9))])
    image.save(path)


def test_a_palette_has_vocs_colors_for_the_labels_that_are_used(root: Path):
    of = data(root)
    entry = of.splits()[0][0]
    labels = np.zeros((20, 30))
    labels[3:9, 4:8], labels[3, 4:8] = 15, 255
    paletted(entry.target, labels, VOC_COLORS)
    assert (of.read(entry)[1].numpy() == labels).all()
    # An editor that saves VOC's mask with as many colors as it uses.
    with Image.open(entry.target) as mask:
        mask.convert("RGB").quantize(3).save(entry.target)
    with pytest.raises(ValueError, match=r"a\.png must have VOC's colors in its palette, got") as e:
        of.read(entry)
    assert "for label" in str(e.value) and "which is (" in str(e.value)
    paletted(entry.target, labels == 15, {0: (0, 0, 0), 1: (192, 128, 128)})
    with pytest.raises(ValueError, match=r"\(192, 128, 128\) for label 1, which is \(128, 0, 0\)"):
        of.read(entry)
    paletted(entry.target, labels, {i: (i, i, i) for i in range(256)})  # gray
    assert (of.read(entry)[1].numpy() == labels).all()
    entry.target.write_bytes(png(labels.astype(int), 8, palette=bytes(6)))  # no colors from 2 on
    assert (of.read(entry)[1].numpy() == labels).all()


def test_a_palette_of_other_classes_may_have_any_colors(root: Path):
    class Own(Few):
        classes = ("cat", "dog")

    of = data(root, Own)
    entry = of.splits()[0][0]
    labels = np.zeros((20, 30))
    labels[5:9] = 2
    paletted(entry.target, labels, {0: (255, 255, 255), 2: (1, 2, 3)})
    assert (of.read(entry)[1].numpy() == labels).all()


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_gray_masks_of_any_depth_hold_their_numbers(root: Path, bits: int):
    """Written byte by byte: Pillow writes gray of 1, 8 and 16 bits only."""
    of = data(root)
    entry = of.splits()[0][0]
    labels = np.zeros((20, 30), int)
    labels[4:9, 3:8] = top = min(2**bits - 1, 20)
    entry.target.write_bytes(png(labels, bits))
    assert (of.read(entry)[1].numpy() == labels).all() and top in (1, 3, 15, 20)
    if bits == 16:
        entry.target.write_bytes(png(labels * 257, 16))  # 257 is 1 in 8 bits
        with pytest.raises(ValueError, match=r"a\.png must hold labels of 0 to 20.*got 5140"):
            of.read(entry)


def png(values: np.ndarray, bits: int, palette: bytes = b"") -> bytes:
    """A PNG of gray, or with a palette, by its specification."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", crc32(kind + body))

    height, width = values.shape
    places = np.arange(bits)[::-1]
    rows = (values[:, :, None] >> places & 1).reshape(height, -1).astype(np.uint8)
    lines = b"".join(b"\0" + np.packbits(row).tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", width, height, bits, 3 if palette else 0, 0, 0, 0)
    colors = [(b"PLTE", palette)] if palette else []
    parts = [(b"IHDR", header), *colors, (b"IDAT", compress(lines)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "F"])
def test_a_mask_of_colors_or_fractions_is_found_before_training(root: Path, mode: str):
    entry = data(root).splits()[0][1]
    entry.target.unlink()
    path = entry.target.with_suffix(".tif")  # a suffix for Pillow to save fractions
    Image.new(mode, (30, 20)).save(path)
    path.rename(entry.target)
    line = f"c.png cannot be read: a mask must have one label per pixel.*mode {mode}"
    with pytest.raises(ValueError, match=line) as error:
        data(root).splits()
    assert "\n" not in str(error.value)


def test_a_mask_has_the_size_of_the_upright_image(root: Path):
    entry = data(root).splits()[0][0]
    for size, orientation, fits in (((30, 20), 1, True), ((30, 20), 6, False), ((20, 30), 8, True)):
        image = Image.new("RGB", size)
        exif = image.getexif()
        exif[0x0112] = orientation
        image.save(entry.image, exif=exif)
        of = data(root)
        if fits:
            of.splits()
            assert of.read(entry)[0].shape == (3, 20, 30)
        else:
            with pytest.raises(
                ValueError, match=r"a\.png must have the size of its image, \(30, 2"
            ):
                of.splits()


def test_damaged_labels_of_sbd_are_one_line(root: Path):
    of = data(root)
    entry = next(entry for entry in of.splits()[0] if entry.name == "d")
    whole = entry.target.read_bytes()
    for content in (b"", b"no labels", whole[: len(whole) // 2]):
        entry.target.write_bytes(content)
        with pytest.raises(ValueError, match=r"d\.mat cannot be read: ") as error:
            of.read(entry)
        assert "\n" not in str(error.value)


def test_a_list_of_a_class_and_names_that_stand_twice_are_refused(root: Path):
    folder = root / "VOCdevkit" / "VOC2012" / "ImageSets" / "Segmentation"
    for text, line in (
        ("a 1\nb -1\n", "one name per line, got 'a 1'"),
        ("a\na\n", "got a 2 times"),
    ):
        (folder / "train.txt").write_text(text)
        with pytest.raises(ValueError, match=rf"Segmentation/train\.txt must .*{line}"):
            data(root, partial=True).splits()
