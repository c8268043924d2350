"""Image classification data sets as uint8 tensors: digits, MNIST, CIFAR-10 and CIFAR-100."""

import hashlib
import pickle
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torchvision import datasets
from torchvision.datasets import mnist
from torchvision.datasets.utils import check_integrity, download_and_extract_archive

from lrd.rng import fold_key, random_bits
from lrd.task import Dataset, Problem, Setup


@dataclass(frozen=True, slots=True)
class Split:
    """``images`` (n, c, h, w) uint8 and ``labels`` (n,) int64 of all samples. ``index`` (m,) int64
    selects the samples of the split."""

    images: Tensor
    labels: Tensor
    index: Tensor


class Images(Dataset):
    """Base of the image data sets. A subclass sets the class variables and defines :meth:`read`.

    Args:
        setup: Gives the seed, the device, the root folder and whether to download.
        name: The data set's name in messages.
        holdout: How many training samples to hold out for model selection. The seed selects them.
            They replace the test set, which is then not read.
        subset: How many training samples to keep, or None for all. Classes are balanced as far as
            possible; the test set stays complete. The samples do not depend on the seed, and a
            larger subset contains every smaller one.
    """

    recipe: ClassVar[int] = 1

    shape: ClassVar[tuple[int, int, int]]
    classes: int = 10
    names: Sequence[str] = ()  # of the classes, for predictions; by default their numbers
    white: ClassVar[float] = 255.0  # the pixel value that is scaled to 1
    mean: ClassVar[tuple[float, ...]] = (0.0,)
    std: ClassVar[tuple[float, ...]] = (1.0,)
    crop: ClassVar[int] = 0  # padding of the random crop in pixels; 0: no augmentation

    def __init__(
        self, setup: Setup, name: str, holdout: int = 0, subset: int | None = None
    ) -> None:
        if holdout < 0:
            raise ValueError(f"dataset.holdout must be at least 0, got {holdout}")
        if subset is not None and (type(subset) is not int or subset < 1):
            raise ValueError(
                f"dataset.subset must be a whole number of at least 1, or null, got {subset}"
            )
        self.setup, self.name, self.holdout, self.subset = setup, name, holdout, subset
        self.root = Path(setup.root).expanduser()

    @abstractmethod
    def read(self, train: bool) -> tuple[Tensor, Tensor]:
        """Return images (n, c, h, w) uint8 and labels (n,) int64.

        Raises:
            ValueError: A file is missing or damaged.
        """

    def check(self, counts: Counter[str]) -> Iterator[Problem]:
        for part in ("training",) if self.holdout else ("training", "evaluation"):
            try:
                counts[f"{part} images"] = len(self.read(part == "training")[0])
            except ValueError as error:
                yield Problem(str(error))

    def manifest(self) -> str | None:
        """Return a hash of all images and labels."""
        return content_hash(*self.read(train=True), *self.read(train=False))

    def splits(self) -> tuple[Split, Split]:
        """Return the training and the evaluation split, on the training device."""
        images, labels = self._load(train=True)
        kept = self._subset(labels)
        count = len(kept)
        if self.holdout >= count:
            raise ValueError(
                f"dataset.holdout must be below the {count} training samples of {self.name}, "
                f"got {self.holdout}"
            )
        generator = torch.Generator().manual_seed(fold_key("holdout", self.setup.seed))
        chosen = kept[torch.randperm(count, generator=generator)].to(images.device)
        held, rest = (part.sort().values for part in chosen.tensor_split([self.holdout]))
        train = Split(images, labels, rest)
        if self.holdout:
            return train, Split(images, labels, held)
        images, labels = self._load(train=False)
        return train, Split(images, labels, torch.arange(len(labels), device=images.device))

    def _subset(self, labels: Tensor) -> Tensor:
        """Return the numbers of the training samples in the subset, ascending, on the CPU."""
        count = len(labels)
        if self.subset is None:
            return torch.arange(count)
        if self.subset > count:
            raise ValueError(
                f"dataset.subset must be at most the {count} training samples of {self.name}, "
                f"got {self.subset}"
            )
        order = random_bits("subset", start=0, count=count, device="cpu").argsort(stable=True)
        shuffled = labels.cpu()[order]
        turn = torch.empty_like(order)  # a sample's position within its class, in random order
        for label in shuffled.unique():
            own = shuffled == label
            turn[own] = torch.arange(int(own.sum()))
        return order[turn.argsort(stable=True)[: self.subset]].sort().values

    def _load(self, train: bool) -> tuple[Tensor, Tensor]:
        images, labels = self.read(train)
        assert images.dtype == torch.uint8 and images.shape[1:] == self.shape
        return images.to(self.setup.device), labels.to(self.setup.device)


class Published(Images):
    """Base of the data sets whose files are published with an md5.

    Another copy, whose files have other md5s, is accepted where it decodes to the same arrays.
    """

    # content_hash of images and labels as :meth:`decode` returns them; [0]: test, [1]: training
    content: ClassVar[tuple[str, str] | None] = None

    @abstractmethod
    def files(self, train: bool) -> dict[Path, str]:
        """Return the files of the training or the test set with their md5."""

    @abstractmethod
    def fetch(self) -> object:
        """Download the files."""

    @abstractmethod
    def decode(self, train: bool) -> tuple[Tensor, Tensor]:
        """Return what :meth:`read` does, from unchecked files."""

    def manifest(self) -> None:
        """Return None, as what is read is what was published, if the files are there."""
        for path in (*self.files(True), *self.files(False)):
            if not path.is_file() and not self.setup.download:
                raise self._error(f"{path} is missing")

    def read(self, train: bool) -> tuple[Tensor, Tensor]:
        files = self.files(train)
        bad = [path for path, md5 in files.items() if not check_integrity(str(path), md5)]
        if bad and self.setup.download:
            for path in bad:
                path.unlink(missing_ok=True)
            self._download()
            bad = [path for path, md5 in files.items() if not check_integrity(str(path), md5)]
        if missing := [path for path in bad if not path.is_file()]:
            raise self._error(f"{missing[0]} is missing")
        if not bad:
            return self.decode(train)
        try:
            found = self.decode(train)
        except Exception as error:  # a cut or foreign file breaks its decoder anywhere
            raise self._error(f"{bad[0]} is damaged ({type(error).__name__})") from error
        if self.content is None or content_hash(*found) != self.content[train]:
            raise self._error(f"{bad[0]} is damaged (its md5 is not {files[bad[0]]})")
        return found

    def _error(self, what: str) -> ValueError:
        return ValueError(
            f"{self.name}: {what}: put it under data.root={self.root} (the environment variable "
            "LRD_DATA names that folder too), or fetch it with data.download=true"
        )

    def _download(self) -> None:
        try:
            self.fetch()
        except (OSError, RuntimeError) as error:
            raise ValueError(
                f"{self.name}: the download failed ({' '.join(str(error).split())}): try again, or "
                f"put the files under data.root={self.root} by hand"
            ) from error


def content_hash(*tensors: Tensor) -> str:
    """Return a hash of the tensors' bytes."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(np.ascontiguousarray(tensor.numpy()).tobytes())
    return f"sha256:{digest.hexdigest()[:16]}"


class Digits(Images):
    """scikit-learn's 1,797 handwritten digits of 8 x 8 pixels, which its wheel contains.

    There is no official split: 360 fixed, stratified samples are the test set.
    """

    shape = (1, 8, 8)
    white = 16.0

    def read(self, train: bool) -> tuple[Tensor, Tensor]:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        pixels, labels = load_digits(return_X_y=True)
        rows = np.arange(len(labels))
        parts = train_test_split(rows, test_size=360, stratify=labels, random_state=0)
        chosen = np.sort(parts[0 if train else 1])
        images = torch.from_numpy(np.asarray(pixels)[chosen].astype(np.uint8))
        return images.view(-1, *self.shape), torch.from_numpy(np.asarray(labels)[chosen])

    def manifest(self) -> None:
        return None  # a part of scikit-learn


class MNIST(Published):
    """MNIST: 60,000 and 10,000 gray images of 28 x 28, scaled to [0, 1] and not normalized."""

    shape = (1, 28, 28)
    # torchvision publishes the md5 of the archives and does not check unpacked files. These are the
    # md5 of files unpacked from correct archives.
    md5: ClassVar[dict[str, str]] = {
        "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
        "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
        "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
        "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
    }

    content = ("sha256:a0863a96c44e5666", "sha256:d18cfd466eb143ac")

    def files(self, train: bool) -> dict[Path, str]:
        part, folder = "train" if train else "t10k", self.root / "MNIST" / "raw"
        return {folder / name: md5 for name, md5 in self.md5.items() if name.startswith(part)}

    def fetch(self) -> object:
        return datasets.MNIST(str(self.root), download=True)

    def decode(self, train: bool) -> tuple[Tensor, Tensor]:
        images, labels = map(str, self.files(train))
        return mnist.read_image_file(images)[:, None], mnist.read_label_file(labels)


class CIFAR10(Published):
    """CIFAR-10: 50,000 and 10,000 color images of 32 x 32; random crop with padding 4, and flip."""

    shape = (3, 32, 32)
    mean = (0.4914, 0.4822, 0.4465)
    std = (0.2470, 0.2435, 0.2616)
    crop = 4
    names = "airplane automobile bird cat deer dog frog horse ship truck".split()
    source: ClassVar[type[datasets.CIFAR10]] = datasets.CIFAR10

    labels: ClassVar[str] = "labels"
    content = ("sha256:2c33b053d1cd726a", "sha256:973ef2abb5897efc")

    def files(self, train: bool) -> dict[Path, str]:
        listed = self.source.train_list if train else self.source.test_list
        return {self.root / self.source.base_folder / name: md5 for name, md5 in listed}

    def fetch(self) -> object:
        source = self.source
        return download_and_extract_archive(
            source.url, str(self.root), filename=source.filename, md5=source.tgz_md5
        )

    def decode(self, train: bool) -> tuple[Tensor, Tensor]:
        parts = [load_arrays(path) for path in self.files(train)]
        pixels = np.concatenate([part["data"] for part in parts]).reshape(-1, *self.shape)
        labels = [label for part in parts for label in part[self.labels]]
        return torch.from_numpy(pixels), torch.tensor(labels)


class CIFAR100(CIFAR10):
    """CIFAR-100: like CIFAR-10, with 100 classes."""

    classes = 100
    names = (
        "apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus "
        "butterfly camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach "
        "couch crab crocodile cup dinosaur dolphin elephant flatfish forest fox girl hamster "
        "house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree "
        "motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear "
        "pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray road "
        "rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel "
        "streetcar sunflower sweet_pepper table tank telephone television tiger tractor train "
        "trout tulip turtle wardrobe whale willow_tree wolf woman worm"
    ).split()
    mean = (0.5071, 0.4865, 0.4409)
    std = (0.2673, 0.2564, 0.2762)
    source = datasets.CIFAR100
    labels = "fine_labels"
    content = None  # unknown: its md5 alone counts


class _ArrayUnpickler(pickle.Unpickler):
    """Unpickle plain values and numpy arrays, and nothing that could run code."""

    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] == "numpy" and name in ("_reconstruct", "ndarray", "dtype"):
            return super().find_class(module, name)
        if (module, name) == ("_codecs", "encode"):  # how bytes are pickled by old protocols
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name} is no array")


def load_arrays(path: Path) -> dict[str, Any]:
    """Return a pickled dictionary of arrays and lists, as CIFAR's files are."""
    with path.open("rb") as file:
        return _ArrayUnpickler(file, encoding="latin1").load()
