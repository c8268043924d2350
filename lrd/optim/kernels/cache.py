"""The folder that keeps compiled kernels."""

import os
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path


def cached_file(name: str, make: Callable[[Path], None]) -> Path:
    """Return the file ``name``, which ``make(path)`` writes if it is not there.

    It lies in ``lrd`` in the user's cache folder. If nothing can be written there, a temporary
    folder serves this process.
    """
    try:
        return _file(cache_folder(), name, make)
    except OSError:
        return _file(_temporary_folder(), name, make)


def cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lrd"


@cache
def _temporary_folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="lrd-"))


def _file(folder: Path, name: str, make: Callable[[Path], None]) -> Path:
    """Make the file beside its place and move it there at once: others may do the same."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / name).exists():
        with tempfile.TemporaryDirectory(dir=folder) as unfinished:
            make(Path(unfinished) / name)
            os.replace(Path(unfinished) / name, folder / name)
    return folder / name
