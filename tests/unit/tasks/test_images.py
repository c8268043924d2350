"""The image data sets against the published files, and the messages about missing files."""

import hashlib
import io
import os
import pickle
import tarfile
import urllib.request
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torchvision import datasets

from lrd.task import Setup
from tasks.images import CIFAR10, CIFAR100, MNIST, Digits, Images

FOLDERS = {MNIST: "MNIST/raw", CIFAR10: "cifar-10-batches-py", CIFAR100: "cifar-100-python"}
MNIST_COUNTS = {  # LeCun's files: how often each of 0 ... 9 occurs
    True: [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949],
    False: [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009],
}


def data_set(
    kind: Any, root: Path | str = "none", holdout: int = 0, subset: Any = None, **settings: Any
) -> Images:
    setup = Setup(root=str(root), **settings)
    return kind(setup, name=kind.__name__.lower(), holdout=holdout, subset=subset)


def content(data: Images) -> list[tuple[Tensor, Tensor]]:
    """Images and labels of the training and of the evaluation split."""
    return [(s.images[s.index], s.labels[s.index]) for s in data.splits()]


@cache
def read(kind: Any, root: Path) -> list[tuple[Tensor, Tensor]]:
    return content(data_set(kind, root))


def error_line(data: Images) -> str:
    with pytest.raises(ValueError) as caught:
        data.splits()
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def rows(images: Any, labels: Any) -> list[tuple[bytes, int]]:
    """Return the samples in sorted order."""
    pixels = np.asarray(images).astype(np.uint8)
    return sorted((p.tobytes(), int(y)) for p, y in zip(pixels, labels, strict=True))


def test_digits_are_all_of_scikit_learns_in_two_parts():
    (images, labels), (test_images, test_labels) = content(data_set(Digits))
    assert images.shape == (1437, 1, 8, 8) and test_images.shape == (360, 1, 8, 8)
    assert images.dtype == torch.uint8 and (images.min(), images.max()) == (0, 16)
    pixels, targets = load_digits(return_X_y=True)
    together = rows(images, labels) + rows(test_images, test_labels)
    assert sorted(together) == rows(pixels, targets)


def test_digits_test_set_is_stratified_and_the_same_for_every_seed():
    _, (images, labels) = content(data_set(Digits))
    fair = np.bincount(load_digits(return_X_y=True)[1]) * 360 / 1797
    assert np.abs(np.bincount(labels.numpy()) - fair).max() < 1
    np.random.seed(5)
    torch.manual_seed(5)
    _, (again, _) = content(data_set(Digits, seed=7))
    assert torch.equal(images, again)


@pytest.mark.parametrize("train", [True, False])
def test_mnist_is_the_published_set(real_data: Path, train: bool):
    images, labels = read(MNIST, real_data)[0 if train else 1]
    assert np.bincount(labels.numpy()).tolist() == MNIST_COUNTS[train]
    stem = real_data / "MNIST/raw" / ("train" if train else "t10k")
    pixels = np.fromfile(f"{stem}-images-idx3-ubyte", np.uint8)[16:]
    targets = np.fromfile(f"{stem}-labels-idx1-ubyte", np.uint8)[8:]
    assert np.array_equal(images.numpy(), pixels.reshape(-1, 1, 28, 28))
    assert np.array_equal(labels.numpy(), targets) and labels.dtype == torch.int64
    reference = datasets.MNIST(str(real_data), train=train)
    assert torch.equal(images[:, 0], reference.data) and torch.equal(labels, reference.targets)


@pytest.mark.parametrize("train", [True, False])
def test_cifar10_is_torchvisions(real_data: Path, train: bool):
    images, labels = read(CIFAR10, real_data)[0 if train else 1]
    assert np.bincount(labels.numpy()).tolist() == [5000 if train else 1000] * 10
    assert images.dtype == torch.uint8 and images.shape[1:] == (3, 32, 32)
    reference = datasets.CIFAR10(str(real_data), train=train)
    assert np.array_equal(images.numpy().transpose(0, 2, 3, 1), reference.data)
    assert labels.tolist() == reference.targets
    picture, label = reference[4321]
    assert np.array_equal(images[4321].permute(1, 2, 0).numpy(), picture) and labels[4321] == label


def test_cifar10_channel_mean_and_std_are_those_of_its_training_pixels(
    real_data: Path,
):
    counts = np.zeros((3, 256))
    for file in sorted((real_data / "cifar-10-batches-py").glob("data_batch_*")):
        pixels = pickle.loads(file.read_bytes(), encoding="bytes")[b"data"].reshape(-1, 3, 1024)
        counts += [np.bincount(pixels[:, c].ravel(), minlength=256) for c in range(3)]
    assert counts.sum() == 50_000 * 3072
    value, share = np.arange(256) / 255, counts / counts.sum(1, keepdims=True)
    mean = share @ value
    std = np.sqrt(share @ value**2 - mean**2)
    assert np.abs(mean - CIFAR10.mean).max() < 5.1e-5 and np.abs(std - CIFAR10.std).max() < 5.1e-5


def damage(root: Path, kind: type, name: str, keep: int | None, copy: Path) -> Path:
    """A copy of a set by links, with one file cut to ``keep`` bytes, or left out."""
    folder = copy / FOLDERS[kind]
    folder.mkdir(parents=True)
    for file in (root / FOLDERS[kind]).iterdir():
        if file.name != name and file.suffix != ".gz":
            (folder / file.name).symlink_to(file)
    if keep is not None:
        with (root / FOLDERS[kind] / name).open("rb") as whole:
            (folder / name).write_bytes(whole.read(keep))
    return folder / name


SOME_FILES = [
    (MNIST, "train-images-idx3-ubyte"),
    (MNIST, "t10k-labels-idx1-ubyte"),
    (CIFAR10, "data_batch_3"),
    (CIFAR10, "test_batch"),
]


@pytest.mark.parametrize("kind, name", SOME_FILES)
@pytest.mark.parametrize("keep, what", [(None, "is missing"), (100, "is damaged")])
def test_a_file_missing_or_cut_short_is_named_with_the_fix(
    real_data: Path, tmp_path: Path, kind: type, name: str, keep: int | None, what: str
):
    file = damage(real_data, kind, name, keep, tmp_path)
    text = error_line(data_set(kind, tmp_path))
    assert text.startswith(f"{kind.__name__.lower()}: {file} {what}")
    assert f"data.root={tmp_path}" in text and "data.download=true" in text


def test_one_wrong_byte_in_a_file_of_the_right_length_is_damage(real_data: Path, tmp_path: Path):
    file = damage(real_data, MNIST, "t10k-labels-idx1-ubyte", 10_008, tmp_path)
    data_set(MNIST, tmp_path).splits()  # the copy is good so far
    whole = bytearray(file.read_bytes())
    whole[5000] ^= 1
    file.write_bytes(whole)
    assert f"{file} is damaged" in error_line(data_set(MNIST, tmp_path))


def repickled(folder: Path, change: Callable[[dict[str, Any]], None] = lambda batch: None) -> Path:
    """Rewrite a batch of CIFAR-10 as another program would: same arrays, other bytes."""
    file = folder / "cifar-10-batches-py" / "data_batch_2"
    batch = pickle.loads(file.read_bytes(), encoding="latin1")
    change(batch)
    file.unlink()
    file.write_bytes(pickle.dumps({"labels": batch["labels"], "data": batch["data"]}, protocol=4))
    return file


def test_another_copy_counts_by_its_arrays(real_data: Path, tmp_path: Path):
    damage(real_data, CIFAR10, "data_batch_2", 10**9, tmp_path)  # a copy, not cut
    official, _ = content(data_set(CIFAR10, real_data))
    repickled(tmp_path)
    (tmp_path / "cifar-10-batches-py" / "batches.meta").unlink()  # names of classes
    copied, _ = content(data_set(CIFAR10, tmp_path))
    assert all(torch.equal(a, b) for a, b in zip(official, copied, strict=True))

    def one_pixel(batch: dict[str, Any]) -> None:
        batch["data"][7, 7] ^= 1

    file = repickled(tmp_path, one_pixel)
    assert f"{file} is damaged" in error_line(data_set(CIFAR10, tmp_path))


def test_a_pickle_that_would_run_code_is_refused_and_runs_nothing(real_data: Path, tmp_path: Path):
    class Bomb:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "exploded"),)

    file = damage(real_data, CIFAR10, "test_batch", 10**9, tmp_path)
    file.unlink()
    file.write_bytes(pickle.dumps({"data": Bomb()}))
    assert f"{file} is damaged (UnpicklingError)" in error_line(data_set(CIFAR10, tmp_path))
    assert not (tmp_path / "exploded").exists()


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr(urllib.request, "urlopen", fail)


@pytest.mark.parametrize("kind", list(FOLDERS))
def test_a_failed_download_is_one_line_with_the_reason(offline: None, tmp_path: Path, kind: type):
    text = error_line(data_set(kind, tmp_path, download=True))
    assert text.startswith(f"{kind.__name__.lower()}: the download failed")
    assert "no route to host" in text and "data.root" in text


@pytest.mark.parametrize("kind, name", SOME_FILES)
def test_a_damaged_file_is_fetched_again_or_named_when_downloading_is_on(
    offline: None, real_data: Path, tmp_path: Path, kind: type, name: str
):
    damage(real_data, kind, name, 100, tmp_path)
    text = error_line(data_set(kind, tmp_path, download=True))
    assert f"{name} is damaged" in text or "no route to host" in text


def fake_cifar100(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Small files in the official format, which torchvision's md5 tables then agree with."""
    folder.mkdir()
    random = np.random.default_rng(0)
    files: dict[str, Any] = {"meta": {"fine_label_names": [f"class {i}" for i in range(100)]}}
    for name, count in (("train", 12), ("test", 7)):
        fine, coarse = random.integers(0, 100, count), random.integers(0, 20, count)
        pixels = random.integers(0, 256, (count, 3072), dtype=np.uint8)
        files[name] = {
            "data": pixels,
            "fine_labels": fine.tolist(),
            "coarse_labels": coarse.tolist(),
        }
    for name, value in files.items():
        (folder / name).write_bytes(pickle.dumps(value))
        md5 = hashlib.md5((folder / name).read_bytes()).hexdigest()
        table, new = f"{name}_list", [[name, md5]]
        if name == "meta":
            table, new = "meta", {**datasets.CIFAR100.meta, "md5": md5}
        monkeypatch.setattr(datasets.CIFAR100, table, new)
    return files


def test_cifar100_has_the_fine_labels_and_the_planes_of_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    files = fake_cifar100(tmp_path / "cifar-100-python", monkeypatch)
    parts = content(data_set(CIFAR100, tmp_path))
    for (images, labels), name in zip(parts, ("train", "test"), strict=True):
        assert np.array_equal(images.numpy(), files[name]["data"].reshape(-1, 3, 32, 32))
        assert labels.tolist() == files[name]["fine_labels"]
    monkeypatch.undo()  # the published md5 again
    assert "train is damaged" in error_line(data_set(CIFAR100, tmp_path))


class Response(io.BytesIO):
    length = url = None


def test_what_is_missing_is_downloaded_unpacked_and_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    files = fake_cifar100(tmp_path / "cifar-100-python", monkeypatch)
    with tarfile.open(archive := tmp_path / "archive", "w:gz") as tar:
        tar.add(tmp_path / "cifar-100-python", "cifar-100-python")
    packed = archive.read_bytes()
    monkeypatch.setattr(datasets.CIFAR100, "tgz_md5", hashlib.md5(packed).hexdigest())
    monkeypatch.setattr(urllib.request, "urlopen", lambda *args, **kwargs: Response(packed))
    (images, _), _ = content(data_set(CIFAR100, tmp_path / "new", download=True))
    assert np.array_equal(images.numpy(), files["train"]["data"].reshape(-1, 3, 32, 32))


def test_cifar100_has_100_classes_and_its_published_channel_statistics():
    assert CIFAR100.classes == 100
    assert np.abs(np.subtract(CIFAR100.mean, [0.50707516, 0.48654887, 0.44091784])).max() < 5.1e-5
    assert np.abs(np.subtract(CIFAR100.std, [0.26733429, 0.25643846, 0.27615047])).max() < 5.1e-5


def held(seed: int, holdout: int = 300) -> Tensor:
    return data_set(Digits, holdout=holdout, seed=seed).splits()[1].index


def test_a_holdout_is_training_samples_that_are_not_trained_on():
    train, kept = data_set(Digits, holdout=300).splits()
    assert len(kept.index) == 300 and len(train.index) == 1137
    assert torch.equal(torch.cat([train.index, kept.index]).sort().values, torch.arange(1437))
    (images, labels), _ = content(data_set(Digits))
    for split in (train, kept):
        assert torch.equal(split.images[split.index], images[split.index])
        assert torch.equal(split.labels[split.index], labels[split.index])


def test_a_holdout_is_chosen_by_the_seed():
    assert torch.equal(held(0), held(0))
    shared = len(set(held(0).tolist()) & set(held(1).tolist()))
    assert shared < 110  # 300 * 300 / 1437 = 63 by chance


def test_the_test_set_is_not_read_with_a_holdout(monkeypatch: pytest.MonkeyPatch):
    asked, whole = [], Digits.read
    monkeypatch.setattr(
        Digits, "read", lambda self, train: asked.append(train) or whole(self, train)
    )
    data_set(Digits, holdout=10).splits()
    assert asked == [True]


def test_a_holdout_that_leaves_nothing_or_is_negative_is_rejected():
    assert len(held(0, 1436)) == 1436
    for size in (1437, 5000):
        rule = f"dataset.holdout must be below the 1437 training samples of digits, got {size}"
        assert error_line(data_set(Digits, holdout=size)) == rule
    with pytest.raises(ValueError, match="dataset.holdout must be at least 0, got -1"):
        data_set(Digits, holdout=-1)


def sampled(subset: int | None, **settings: Any) -> Tensor:
    return data_set(Digits, subset=subset, **settings).splits()[0].index


@pytest.mark.parametrize("subset", [1, 9, 10, 101, 1385, 1400, 1437])
def test_a_subset_has_as_many_of_each_class_as_can_be(subset: int):
    (_, everything), _ = content(data_set(Digits))
    (_, labels), _ = content(data_set(Digits, subset=subset))
    there, taken = (np.bincount(y.numpy(), minlength=10) for y in (everything, labels))
    assert taken.sum() == subset and (taken <= there).all()
    assert (taken[taken < there] >= taken.max() - 1).all()  # fewer only where there are no more


def test_a_subset_is_the_same_samples_for_every_seed_and_generator():
    assert torch.equal(sampled(500), sampled(500, seed=9))
    torch.manual_seed(3)
    assert torch.equal(sampled(500), sampled(500))
    index = sampled(500)
    assert torch.equal(index, index.unique())  # in ascending order, each once


def test_the_samples_of_a_subset_may_never_change():
    assert sampled(10).tolist() == [69, 135, 540, 584, 619, 977, 1006, 1053, 1158, 1163]


def test_a_smaller_subset_lies_within_a_larger_one_and_all_is_the_whole_set():
    sizes = [10, 11, 300, 1400]
    nested = [set(sampled(size).tolist()) for size in sizes]
    assert nested[0] < nested[1] < nested[2] < nested[3]
    assert torch.equal(sampled(1437), sampled(None))


def test_a_subset_is_drawn_from_anywhere_in_the_set():
    index = sampled(700).double()
    assert abs(float(index.mean()) - 718) < 4 * 1437 / 12**0.5 / 700**0.5
    assert torch.histc(index, 10, 0, 1437).min() > 45  # 70 by chance


def test_a_subset_leaves_the_test_set_whole_and_every_sample_its_number(real_data: Path):
    train, test = data_set(CIFAR10, real_data, subset=5000).splits()
    (images, labels), (test_images, test_labels) = read(CIFAR10, real_data)
    assert np.bincount(train.labels[train.index].numpy()).tolist() == [500] * 10
    assert torch.equal(train.images[train.index], images[train.index])
    assert torch.equal(train.labels[train.index], labels[train.index])
    assert torch.equal(test.images[test.index], test_images)
    assert torch.equal(test.labels[test.index], test_labels)


def test_a_holdout_is_taken_from_the_subset():
    train, kept = data_set(Digits, subset=500, holdout=120).splits()
    assert len(train.index) == 380 and len(kept.index) == 120
    assert torch.equal(torch.cat([train.index, kept.index]).sort().values, sampled(500))
    rule = "dataset.holdout must be below the 500 training samples of digits, got 500"
    assert error_line(data_set(Digits, subset=500, holdout=500)) == rule


def test_a_subset_that_is_no_count_or_larger_than_the_set_is_rejected():
    for size in (0, -5, 2.5, "half", True):
        rule = f"^dataset.subset must be a whole number of at least 1, or null, got {size}$"
        with pytest.raises(ValueError, match=rule):
            data_set(Digits, subset=size)
    rule = "dataset.subset must be at most the 1437 training samples of digits, got 1438"
    assert error_line(data_set(Digits, subset=1438)) == rule
