"""Sample predictions as PNG files in the run directory."""

from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from lrd.loggers.base import Logger
from lrd.runs.store import atomic_write


class ImageLogger(Logger):
    """Write ``pictures/<name>/epoch<k>.png``: a name's files show its progress.

    A name's odd characters, such as a slash, are percent-encoded, as in a URL.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_images(self, epoch: int, images: dict[str, Any]) -> None:
        for name, tensor in images.items():
            path = self.folder / f"pictures/{_encode(name)}/epoch{epoch:04}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            save_image(tensor, path)


def read_images(folder: Path, epoch: int) -> dict[str, Any]:
    """Return the images of an epoch that :class:`ImageLogger` wrote, as it got them."""
    paths = sorted(folder.glob(f"pictures/*/epoch{epoch:04}.png"))
    return {unquote(path.parent.name): _read_image(path) for path in paths}


def _encode(name: str) -> str:
    encoded = quote(name, safe=" ")
    return f"%2E{encoded[1:]}" if encoded.startswith(".") else encoded  # not "..", not hidden


def save_image(tensor: Any, path: Path) -> None:
    """Write a uint8 tensor as PNG: (3, h, w) in RGB, or (h, w) in gray."""
    file = BytesIO()
    to_image(tensor).save(file, "PNG")
    atomic_write(path, file.getvalue())


def to_image(tensor: Any) -> Any:
    """Convert a uint8 tensor, (3, h, w) or (h, w), to a PIL image."""
    from PIL import Image

    return Image.fromarray((tensor if tensor.dim() == 2 else tensor.permute(1, 2, 0)).numpy())


def _read_image(path: Path) -> Any:
    import numpy as np
    import torch
    from PIL import Image

    with Image.open(path) as image:
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
