"""PASCAL VOC on disk: find the available images and name missing files."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torchvision.datasets.voc import DATASET_YEAR_DICT

from tasks.data.labeled_images import Entry, LabeledImages

VOC_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
    *("train", "tvmonitor"),
)
VOID = 255  # the label of pixels that neither loss nor scores count


def color_map() -> list[int]:
    """Return VOC's colors as 256 times r, g, b (the devkit's VOClabelcolormap).

    The bits of an index go to r, g, b, r, ... in turn: its lowest bits become the highest bits of
    the color.
    """
    return [
        sum((index >> 3 * turn + channel & 1) << 7 - turn for turn in range(8))
        for index in range(256)
        for channel in range(3)
    ]


@dataclass(frozen=True, slots=True)
class Archive:
    """A published archive, by its file name and md5."""

    filename: str
    md5: str

    def __str__(self) -> str:
        return f"{self.filename} (md5 {self.md5})"


def voc_archive(year: str) -> Archive:
    """Return VOC's archive of a year as torchvision calls it: "2012", "2007" or "2007-test"."""
    return Archive(DATASET_YEAR_DICT[year]["filename"], DATASET_YEAR_DICT[year]["md5"])


class VOC(LabeledImages):
    """Base of the VOC data sets, before the class that reads their labels.

    ``partial``: use the available images instead of requiring all.
    """

    classes: Sequence[str] = VOC_CLASSES
    partial: bool = False

    @abstractmethod
    def expected_counts(self) -> tuple[int, int]:
        """Return the numbers of training and evaluation images of the complete data, before any
        holdout."""

    def describe(self, train: int, evaluation: int) -> str:
        """Return one line on how many of the expected images are used."""
        count, tested = self.expected_counts()
        kind = f"{self.holdout:,} held-out" if self.holdout else f"{tested:,} {self.eval_split}"
        return (
            f"{self.name}: {train:,} of {count - self.holdout:,} training images and "
            f"{evaluation:,} of {kind} images{self.notes()}"
        )

    def notes(self) -> str:
        return ("; dataset.partial=true" if self.partial else "") + super().notes()

    @property
    def root(self) -> Path:
        return Path(self.setup.root).expanduser()

    def available(self, entries: Sequence[Entry], count: int, source: Archive) -> list[Entry]:
        """Return the entries whose files exist.

        Raises:
            ValueError: None is available, or, without ``partial``, not exactly ``count``.
        """
        found = [entry for entry in entries if entry.exists]
        if found and (self.partial or len(found) == len(entries) == count):
            return found
        if missing := next((e for e in entries if not e.exists), None):
            what = f"{missing.target if missing.image.is_file() else missing.image} is missing"
        else:
            what = f"a list has {len(entries)} images" if entries else "every image is missing"
        raise self.missing_error(what, source, len(found), count)

    def missing_error(
        self,
        what: str,
        source: Archive,
        found: int = 0,
        count: int = 0,
        error: Exception | None = None,
    ) -> ValueError:
        """Return an error of one line that names the archive and the settings to try.

        Args:
            what: What is missing.
            source: The archive that contains it.
            found: How many images are available, if known.
            count: How many images are expected, if known.
            error: The reason of a failed download; ignored if ``data.download`` is off.
        """
        if error and self.setup.download:
            what += f" ({' '.join(str(error).split())})"
        of = f" (found {found} of {count} images)" if count else ""
        partial = ", or use the available images with dataset.partial=true" if found else ""
        return ValueError(
            f"{self.name}: {what}{of}: unpack {source} under data.root={self.root}, or set "
            f"data.download=true, which unpacks an archive in that folder or downloads it{partial}"
        )
