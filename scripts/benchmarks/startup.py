"""Section ``startup``: CPU time until a command answers."""

import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from scripts.benchmarks.measure import Options
from scripts.benchmarks.report import BenchmarkTable, Bound, Measurement

_ROOT = Path(__file__).resolve().parents[2]


def measure_startup(options: Options) -> Iterator[BenchmarkTable]:
    """Yield the table of user and system seconds of ``import lrd`` and of every ``--help``.

    The target is that of the commands in ``scripts/``; ``run.py`` composes a configuration.
    """
    commands = {"import lrd": ["-c", "import lrd"], "run.py --help": ["run.py", "--help"]}
    scripts = [path.name for path in sorted((_ROOT / "scripts").glob("[!_]*.py"))]
    commands |= {f"{name} --help": [f"scripts/{name}", "--help"] for name in scripts}
    samples: dict[str, list[float]] = {label: [] for label in commands}
    for turn in range(options.rounds_or(5) + 1):
        for label, arguments in commands.items():
            seconds = _cpu_seconds(arguments)
            if turn:  # the first turn reads the files from disk and compiles them
                samples[label].append(seconds)
    targets = {f"{name} --help": Bound("<=", 0.5, "value") for name in scripts}
    lines = [
        Measurement(label, "s", seconds, target=targets.get(label))
        for label, seconds in samples.items()
    ]
    yield BenchmarkTable("startup", "CPU time (user and system) of a new process", "", lines)


def _cpu_seconds(arguments: list[str]) -> float:
    """Return the CPU time of ``python ARGUMENTS``."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], cwd=_ROOT, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
