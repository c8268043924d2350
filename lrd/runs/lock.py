"""One process per run: a lock that the kernel releases when its holder dies."""

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

LOCK_NAME = ".lock"
# Descriptors of the locks that this process holds. A forked process shares them, and a data worker
# that outlives its parent would keep the parent's locks: it closes its copies.
_held: set[int] = set()


class RunLocked(Exception):
    """Another process works on the run."""


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Hold the run directory ``folder``; create it if needed.

    Raises:
        RunLocked: Another process holds it. Does not wait.
        ValueError: The file system has no locks.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LOCK_NAME
    file = _acquire(path)
    _held.add(file)
    try:
        os.truncate(file, 0)
        os.write(file, f"process {os.getpid()} on {socket.gethostname()}".encode())
        yield
    finally:
        if file in _held:  # not in a forked process
            _held.remove(file)
            if _is_file_at(file, path):
                path.unlink(missing_ok=True)
            os.close(file)
            _remove_empty(folder)


def _remove_empty(folder: Path) -> None:
    """Remove a run's directory, and those of its configuration and data, where nothing is in
    them."""
    with suppress(OSError):
        for each in (folder, *folder.parents[:2]):
            each.rmdir()


def _close_inherited() -> None:
    for file in _held:
        os.close(file)
    _held.clear()


os.register_at_fork(after_in_child=_close_inherited)


def _acquire(path: Path) -> int:
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(file, 200).decode(errors="replace") or "another process"
            os.close(file)
            raise RunLocked(f"{holder} is working on {path.parent}") from None
        except OSError as error:
            if os.fstat(file).st_size == 0:  # of no other process
                path.unlink(missing_ok=True)
            os.close(file)
            _remove_empty(path.parent)
            raise ValueError(
                f"run.dir must be on a file system with file locks, got {path.parent} "
                f"({error.strerror}): choose another run.dir, or mount it with locks (Lustre: the "
                "option flock)"
            ) from error
        # The previous holder may have removed the file between our open and our lock.
        if _is_file_at(file, path):
            return file
        os.close(file)


def _is_file_at(file: int, path: Path) -> bool:
    """Return whether ``path`` names the open ``file``, and not another one or none."""
    try:
        return os.path.samestat(os.fstat(file), os.stat(path))
    except FileNotFoundError:
        return False


def is_locked(folder: Path) -> bool:
    """Return whether a living process on this machine holds ``folder``. Writes nothing."""
    try:
        file = os.open(folder / LOCK_NAME, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # a file system without locks
        return False
    finally:
        os.close(file)
    return False
