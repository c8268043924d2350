"""A run's state on disk: written whole or not at all, and read only when it is sound."""

import io
import zipfile
from pathlib import Path
from typing import Any

import torch

from lrd.identity import differences
from lrd.runs import write_whole

FORMAT = 1


class Damaged(ValueError):
    """A file of a run that cannot be used, with what to do about it."""


def save(path: Path, state: dict[str, Any], identity: dict[str, Any]) -> None:
    """Write ``state`` whole to ``path``; ``identity``, the run's, is what :func:`load` compares."""
    memory = io.BytesIO()
    torch.save({"format": FORMAT, "identity": identity, **state}, memory)
    write_whole(path, memory.getbuffer())


def load(path: Path, device: torch.device, identity: dict[str, Any]) -> dict[str, Any]:
    """What :func:`save` wrote, on ``device``: tensors and plain values only (``weights_only``).

    Raises Damaged if a bit is wrong (every record has a checksum), if the file is of another
    configuration or of a newer version.
    """
    way_out = f"delete {path} or pass run.force=true to start the run anew"
    try:
        with zipfile.ZipFile(path) as archive:
            if (record := archive.testzip()) is not None:
                raise Damaged(f"{path} is damaged (checksum of {record}): {way_out}")
        state = torch.load(path, map_location=device, weights_only=True)
        version, saved = state["format"], state["identity"]
    except (Damaged, OSError):
        raise
    except Exception as error:  # zipfile, pickle and torch each have their own for a wrong byte
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise Damaged(f"{path} is damaged or no checkpoint ({why}): {way_out}") from error
    if version > FORMAT:
        raise Damaged(
            f"{path} has format {version}, this version reads {FORMAT}: update, {way_out}"
        )
    if keys := differences(identity, saved):
        raise Damaged(f"{path} is of another configuration ({', '.join(keys)}): {way_out}")
    return state
