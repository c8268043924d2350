"""Delete runs that neither finished nor run, and run directories in which nothing is."""

import logging
import re
from collections.abc import Iterable
from pathlib import Path

from lrd.runs.lock import LOCK_NAME, RunLocked, is_locked, run_lock
from lrd.runs.store import Run, delete_content

log = logging.getLogger(__name__)


def is_prunable(run: Run, root: Path) -> bool:
    """Return whether a run neither finished nor runs, and no link leads to it."""
    return run.state in ("partial", "failed", "unreadable") and not _is_linked(run.folder, root)


def find_empty_folders(root: Path) -> list[Path]:
    """Return the run directories that hold nothing, or the lock of a process that ended."""
    return [
        folder
        for folder in sorted(root.glob("*/*/seed*"))
        if re.fullmatch(r"[0-9a-f]{12}/seed\d+", "/".join(folder.parts[-2:]))
        and not _is_linked(folder, root)
        and folder.is_dir()
        and {path.name for path in folder.iterdir()} <= {LOCK_NAME}
        and not is_locked(folder)
    ]


def delete_folders(folders: Iterable[Path]) -> int:
    """Delete run directories, and those around them that become empty; return how many. One whose
    run starts meanwhile is left."""
    deleted = 0
    for folder in folders:
        try:
            with run_lock(folder):  # which removes the empty directories
                delete_content(folder)
                deleted += 1
        except RunLocked as busy:
            log.warning(f"left: {busy}")
    return deleted


def _is_linked(folder: Path, root: Path) -> bool:
    return folder.resolve() != root.resolve() / folder.relative_to(root)
