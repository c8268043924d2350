"""A run's state on disk: written whole or not at all."""

import os
from pathlib import Path
from typing import Any

import torch

FORMAT = 1


def save(path: Path, state: dict[str, Any]) -> None:
    """Write ``state`` to a temporary file, flush it to disk and rename it to ``path``."""
    part = path.with_name(path.name + ".part")
    with part.open("wb") as file:
        torch.save({"format": FORMAT, **state}, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


def load(path: Path, device: torch.device) -> dict[str, Any]:
    """What :func:`save` wrote. Loads tensors and plain values only (``weights_only=True``)."""
    return torch.load(path, map_location=device, weights_only=True)
