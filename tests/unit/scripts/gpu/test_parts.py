"""Commands under limits, and the record of a check."""

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from scripts.gpu.parts import Deadline, PartOutcome, Record, run_limited

FACTS: dict[str, Any] = {"commit": "abc", "hardware": {"gpu": "card"}, "settings": []}
STUBBORN = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.fork():
    print("started", flush=True)
open(sys.argv[1], "a").write(f"{os.getpid()}\\n")
time.sleep(600)
"""
OBEDIENT = """
import signal, sys, time
def save(*_):
    open(sys.argv[1], "a").write("saved")
    sys.exit(143)
signal.signal(signal.SIGTERM, save)
time.sleep(600)
"""


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_a_command_and_its_children_end_at_the_limit(tmp_path: Path):
    log, pids = tmp_path / "part.log", tmp_path / "pids"
    outcome = run_limited(["-c", STUBBORN, str(pids)], 4.0, log, grace=1.0)
    assert outcome.state == "out of time" and log.read_text() == "started\n"
    both = [int(pid) for pid in pids.read_text().split()]
    assert len(both) == 2 and os.getpid() not in both
    deadline = time.monotonic() + 30
    while any(map(is_alive, both)):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_command_may_save_its_state(tmp_path: Path):
    outcome = run_limited(
        ["-c", OBEDIENT, str(tmp_path / "state")], 5.0, tmp_path / "log", grace=3.0
    )
    assert outcome.state == "out of time" and (tmp_path / "state").read_text() == "saved"


def test_a_command_without_time_does_not_start(tmp_path: Path):
    log = tmp_path / "log"
    outcome = run_limited(["-c", "print(1)"], 1.0, log)
    assert outcome.state == "no time" and not log.exists()


@pytest.mark.parametrize(("status", "state"), [(0, "done"), (1, "failed"), (2, "failed")])
def test_a_command_ends_by_its_status(status: int, state: str, tmp_path: Path):
    outcome = run_limited(["-c", f"raise SystemExit({status})"], 60.0, tmp_path / "log")
    assert outcome.state == state


def test_the_record_is_complete_at_any_time_and_is_continued(tmp_path: Path):
    record = Record(tmp_path, FACTS)
    record.add("tests", PartOutcome("python -m pytest", "done", 10.0, 3.0, "tests.log"))
    record.add("step", PartOutcome("python scripts/bench.py", "out of time", 10.0))
    record.pairs.append({"optimizer": "sgdm", "counts": False})
    record.write()
    stored = json.loads((tmp_path / "gpu_check.json").read_text())
    assert stored["facts"] == FACTS and list(stored["parts"]) == ["tests", "step"]
    again = Record(tmp_path, FACTS)
    assert again.is_done("tests") and not again.is_done("step") and not again.is_done("loop")
    assert again.pairs == record.pairs


@pytest.mark.parametrize("name", list(FACTS))
def test_a_check_of_something_else_is_refused(name: str, tmp_path: Path):
    Record(tmp_path, FACTS)
    with pytest.raises(
        ValueError, match=f"^--out must be another folder: .* with {name} "
    ) as error:
        Record(tmp_path, {**FACTS, name: "another"})
    assert "\n" not in str(error.value)


def test_a_deadline_is_never_below_zero():
    assert Deadline(0).left == 0 and 0 < Deadline(100).left <= 100
