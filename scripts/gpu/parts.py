"""Parts of a check: commands under limits of time, and a record that is written as they end."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[2]
GRACE = 2.0  # seconds in which a command that is asked to end may do so


@dataclass
class PartOutcome:
    """How a command ended: ``done``, ``failed``, ``out of time``, or ``no time`` to start it.

    ``log`` is its output, and ``result`` what it measured.
    """

    command: str
    state: str
    limit: float
    seconds: float = 0.0
    log: str = ""
    result: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.state}, {self.seconds:.0f} of {self.limit:.0f} s"


class Deadline:
    """The end of a budget of ``seconds``, counted from now."""

    def __init__(self, seconds: float) -> None:
        self.budget, self._end = seconds, time.monotonic() + seconds

    @property
    def left(self) -> float:
        return max(0.0, self._end - time.monotonic())


class Record:
    """The record of a check, a JSON file: facts, parts by name, and pairs of runs.

    A record that exists is continued: what it holds as done is not repeated.

    Raises:
        ValueError: it is of another card, commit or settings.
    """

    def __init__(self, folder: Path, facts: dict[str, Any]) -> None:
        self.path, self.facts = folder / "gpu_check.json", facts
        self.parts: dict[str, dict[str, Any]] = {}
        self.pairs: list[dict[str, Any]] = []
        if self.path.exists():
            before = json.loads(self.path.read_text())
            for name in ("commit", "hardware", "settings"):
                if before["facts"][name] != facts[name]:
                    raise ValueError(
                        f"--out must be another folder: {folder} holds a check with {name} "
                        f"{before['facts'][name]}, now {facts[name]}"
                    )
            self.parts, self.pairs = before["parts"], before["pairs"]
        folder.mkdir(parents=True, exist_ok=True)
        self.write()

    def write(self) -> None:
        """Replace the file at once: an interruption leaves the old record or the new one."""
        document = {"facts": self.facts, "parts": self.parts, "pairs": self.pairs}
        new = self.path.with_suffix(".new")
        new.write_text(json.dumps(document, indent=1) + "\n")
        new.replace(self.path)

    def add(self, name: str, outcome: PartOutcome) -> None:
        self.parts[name] = asdict(outcome)
        self.write()

    def is_done(self, name: str) -> bool:
        return self.parts.get(name, {}).get("state") == "done"


def portable(path: str | Path) -> str:
    """Return a path as commands in the checkout take it: relative to the checkout if inside."""
    full = Path(path).expanduser().resolve()
    return str(full.relative_to(PROJECT) if full.is_relative_to(PROJECT) else full)


def run_limited(
    arguments: Sequence[str], limit: float, log: Path, grace: float = GRACE
) -> PartOutcome:
    """Run ``python ARGUMENTS`` in the checkout for at most ``limit`` seconds.

    ``grace`` seconds before the limit the command and its processes get SIGTERM, on which a run
    saves its state, and at the limit SIGKILL. Its output is appended to ``log``.
    """
    outcome = PartOutcome(" ".join(["python", *arguments]), "no time", round(limit, 1))
    if limit <= grace:
        return outcome
    outcome.log, began = log.name, time.monotonic()
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=PROJECT,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            status = process.wait(limit - grace)
            outcome.state = "failed" if status else "done"
        except subprocess.TimeoutExpired:
            outcome.state = "out of time"
        finally:
            _end(process, grace)
    outcome.seconds = round(time.monotonic() - began, 1)
    return outcome


def _end(process: subprocess.Popen[bytes], grace: float) -> None:
    """End a process and those it left behind in its session."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(grace)
    process.wait()
