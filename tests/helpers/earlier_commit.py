"""A repository whose only commit has a changed copy of this checkout's lrd."""

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

LRD = Path(__file__).parents[2] / "lrd"


def commit_lrd(folder: Path, edits: Mapping[str, tuple[str, str]]) -> str:
    """Make a repository in ``folder`` and return its commit.

    Args:
        folder: where the repository is made.
        edits: (what is replaced once, what replaces it) by the file's path in ``lrd``; a file that
            does not exist is made.
    """
    copy = folder / "lrd"
    shutil.copytree(LRD, copy, ignore=shutil.ignore_patterns("__pycache__"))
    for name, (old, new) in edits.items():
        path = copy / name
        text = path.read_text() if path.exists() else ""
        assert old in text, f"{old!r} is not in {name}"
        path.write_text(text.replace(old, new, 1))

    def git(*arguments: str) -> str:
        who = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
        command = ["git", "-C", str(folder), *who, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "-q")
    git("add", ".")
    git("commit", "-q", "-m", "earlier")
    return git("rev-parse", "--short", "HEAD")
