"""Images with labels of one's own, in a folder."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

from torchvision.datasets.folder import IMG_EXTENSIONS

from lrd.task import Problem
from tasks.data.labeled_images import Entry, LabeledImages, read_names

EVALUATION = ("val", "test")  # the first that the folder has


class LabeledFolder(LabeledImages):
    """Base of the data sets of one's own: an image and a label file share their name up to the
    suffix. A subclass sets ``path`` and ``classes``.

    ``path`` has ``train`` and ``val`` (or ``test``), each with ``images`` and the folder of the
    labels; or these two folders, and ``train.txt`` and ``val.txt`` with a name per line; or these
    two alone, of which ``holdout`` images are then held out.
    """

    eval_split = "evaluation"
    labels: ClassVar[tuple[str, str]]  # the folder of the labels, and their suffix
    path: Path

    def lists(self) -> tuple[list[Entry], list[Entry]]:
        if self.holdout:
            return self.split_holdout(self._entries("train"))
        part = next((part for part in EVALUATION if self._has(part)), None)
        if part is None or not self._has("train"):
            raise self._layout_error(f"got no {part and 'train' or ' or '.join(EVALUATION)}")
        return self._entries("train"), self._entries(part)

    def check(self, counts: Counter[str]) -> Iterator[Problem]:
        yield from super().check(counts)
        kind, suffix = self.labels
        for folder in (self.path, *(self.path / part for part in ("train", *EVALUATION))):
            known = {path.stem for path in (folder / "images").glob("*")}
            for label in sorted((folder / kind).glob(f"*{suffix}")):
                if label.stem not in known:
                    yield Problem(f"{label} has no image", "it is not used")

    def _has(self, part: str) -> bool:
        return (self.path / part).is_dir() or (self.path / f"{part}.txt").is_file()

    def _layout_error(self, reason: str) -> ValueError:
        kind, _ = self.labels
        return ValueError(
            f"dataset.path must hold train/ and val/ (or test/) with images/ and {kind}/ in each, "
            f"or images/ and {kind}/ with train.txt and val.txt or with dataset.holdout above 0: "
            f"{reason} in {self.path}"
        )

    def _entries(self, part: str) -> list[Entry]:
        own = self.path / part
        folder, prefix = (own, f"{part}/") if own.is_dir() else (self.path, "")
        images, (kind, suffix) = self._images(folder), self.labels
        if not images:
            raise self._layout_error(f"got no images in {prefix}images")
        names, file = sorted(images), self.path / f"{part}.txt"
        if not prefix and file.is_file():
            names = read_names(file)
        if not names:
            raise ValueError(f"{file} must name images, got none")
        entries = []
        for name in names:
            if name not in images:
                raise ValueError(
                    f"{file} must name images of {folder / 'images'}, without suffix, got {name}"
                )
            target = folder / kind / f"{name}{suffix}"
            entries.append(Entry(prefix + name, images[name], target))
        return entries

    def _images(self, folder: Path) -> dict[str, Path]:
        """Return the images of a folder by name."""
        images: dict[str, Path] = {}
        for path in sorted((folder / "images").glob("[!.]*")):
            if path.suffix.lower() not in IMG_EXTENSIONS:
                continue
            if path.stem in images:
                raise ValueError(f"{path} and {images[path.stem]} must have different names")
            images[path.stem] = path
        return images


def check_classes(classes: Sequence[str]) -> tuple[str, ...]:
    """Return ``dataset.classes`` if they are names of classes; label 1 is the first."""
    names = () if isinstance(classes, str) else tuple(classes)
    is_named = all(isinstance(name, str) and name.strip() == name != "" for name in names)
    if not is_named or not 1 <= len(set(names)) == len(names) <= 254 or "background" in names:
        raise ValueError(
            "dataset.classes must be 1 to 254 different names in brackets, without the background, "
            f"got {classes}"
        )
    return names
