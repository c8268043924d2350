"""Sample predictions as PNG files in the run directory."""

from io import BytesIO
from pathlib import Path
from typing import Any

from lrd.loggers.base import Logger
from lrd.runs.store import atomic_write


class ImageLogger(Logger):
    """Write ``pictures/<name>/epoch<k>.png``: a name's files show its progress."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_images(self, epoch: int, images: dict[str, Any]) -> None:
        for name, tensor in images.items():
            path = self.folder / image_path(name, epoch)
            path.parent.mkdir(parents=True, exist_ok=True)
            file = BytesIO()
            to_image(tensor).save(file, "PNG")
            atomic_write(path, file.getvalue())


def image_path(name: str, epoch: int) -> str:
    """Return an image's path in the run directory; the name ``*`` matches all of an epoch."""
    return f"pictures/{name}/epoch{epoch:04}.png"


def to_image(tensor: Any) -> Any:
    """Convert a uint8 tensor (3, h, w) to a PIL image."""
    from PIL import Image

    return Image.fromarray(tensor.permute(1, 2, 0).numpy())
