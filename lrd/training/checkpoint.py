"""A run's state on disk: written atomically, verified on reading."""

import io
import zipfile
from pathlib import Path
from typing import Any

import torch

from lrd.config import diff_identities
from lrd.runs.store import atomic_write

CHECKPOINT_FORMAT = 1


class CheckpointError(ValueError):
    """A checkpoint cannot be used; the message says what to do."""


def save_checkpoint(path: Path, state: dict[str, Any], identity: dict[str, Any]) -> None:
    """Write ``state`` atomically to ``path`` with the run's ``identity``."""
    memory = io.BytesIO()
    torch.save({"format": CHECKPOINT_FORMAT, "identity": identity, **state}, memory)
    atomic_write(path, memory.getbuffer())


def load_checkpoint(path: Path, identity: dict[str, Any]) -> dict[str, Any]:
    """Return what :func:`save_checkpoint` wrote, tensors and plain values only, on the CPU.

    Whoever loads a tensor moves it: an optimizer leaves a loaded step count where it lies, and one
    on a GPU would make every later step wait for it.

    Raises:
        CheckpointError: A byte is wrong (every record has a checksum), or the file is of another
            configuration or of a newer version.
    """
    fix = f"delete {path} or pass run.force=true to restart the run"
    try:
        with zipfile.ZipFile(path) as archive:
            if (record := archive.testzip()) is not None:
                raise CheckpointError(f"{path} is damaged (checksum of {record}): {fix}")
        state = torch.load(path, map_location="cpu", weights_only=True)
        version, saved = state["format"], state["identity"]
    except (CheckpointError, OSError):
        raise
    except Exception as error:  # zipfile, pickle and torch raise errors of their own
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path} is damaged or no checkpoint ({why}): {fix}") from error
    if version > CHECKPOINT_FORMAT:
        raise CheckpointError(
            f"{path} has format {version}, this version reads {CHECKPOINT_FORMAT}: update, {fix}"
        )
    if settings := diff_identities(identity, saved):
        raise CheckpointError(f"{path} is of another configuration ({', '.join(settings)}): {fix}")
    return state
