"""One process per run: the lock ends with its holder, and only with it."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lrd.runs.lock import RunLocked, is_locked, run_lock

HOLDER = """
import os, sys, time
from pathlib import Path
from lrd.runs.lock import run_lock
with run_lock(Path({folder!r})):
    said, says = os.pipe()
    worker = os.fork() if {forks} else 0
    if {forks} and worker == 0:
        os.write(says, b"lives")
        time.sleep(600)
    if {forks}:
        os.read(said, 5)  # a kill before the worker's first step would find its copies open
    print("held", worker, flush=True)
    sys.stdin.readline()
    os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize("forks", [False, True], ids=["alone", "worker"])
def test_a_lock_dies_with_its_process_though_a_worker_lives(tmp_path: Path, forks: bool):
    """A data worker shares its parent's descriptors, and may outlive it by seconds."""
    folder = tmp_path / "run"
    code = HOLDER.format(folder=str(folder), forks=forks)
    pipes: dict[str, Any] = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with subprocess.Popen([sys.executable, "-c", code], **pipes) as holder:
        assert holder.stdin and holder.stdout
        held, worker = holder.stdout.readline().split()
        assert held == "held" and is_locked(folder)
        with pytest.raises(RunLocked, match=f"process {holder.pid} on"), run_lock(folder):
            pass
        assert is_locked(folder)
        holder.stdin.write("\n")
        holder.stdin.close()
        assert holder.wait() == -signal.SIGKILL
        try:
            assert (folder / ".lock").exists() and not is_locked(folder)
            with run_lock(folder):
                assert is_locked(folder)
        finally:
            if forks:
                os.kill(int(worker), signal.SIGKILL)  # raises if the worker did not live
    assert not folder.exists()


def test_a_worker_that_ends_leaves_the_lock_to_its_parent(tmp_path: Path):
    with run_lock(tmp_path / "run"):
        if (child := os.fork()) == 0:
            os._exit(0)
        os.waitpid(child, 0)
        assert is_locked(tmp_path / "run")


def test_the_lock_of_another_process_is_not_removed(tmp_path: Path):
    """Somebody deleted the file, and somebody else holds the run now."""
    with run_lock(tmp_path / "run"):
        (tmp_path / "run" / ".lock").unlink()
        (tmp_path / "run" / ".lock").write_text("process 1 on another machine")
    assert (tmp_path / "run" / ".lock").read_text() == "process 1 on another machine"


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK, errno.EPERM])
def test_a_file_system_without_locks_is_named(
    cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
):
    def refuse(file: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    done = cli("train.epochs=1")
    assert done.status == 2 and done.err.count("\n") == 1
    assert "run.dir must be on a file system with file locks" in done.err
    assert os.strerror(number) in done.err and "room" not in done.err
    assert not list((tmp_path / "runs").glob("*/*/*"))
    (tmp_path / ".lock").touch()
    assert not is_locked(tmp_path)
