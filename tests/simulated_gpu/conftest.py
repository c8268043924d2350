"""Run each file of this folder in a process of its own, whose GPU is simulated.

The stand-ins for CUDA's libraries must be there before torch is. So the items of a file are run by
another pytest, and their reports become those of this one.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

import pytest

from tests.simulated_gpu.build import HERE, ROOT, RUNTIME, simulated_environment, why_unavailable

_reports: dict[Path, dict[str, list[pytest.TestReport]]] = {}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = [item for item in items if item.path.parent == HERE]
    if here and RUNTIME not in os.environ and (why := why_unavailable()):
        for item in here:
            item.add_marker(pytest.mark.skip(reason=why))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> bool | None:
    if item.path.parent != HERE or RUNTIME in os.environ or item.get_closest_marker("skip"):
        return None
    if item.path not in _reports:
        names = [other.nodeid for other in item.session.items if other.path == item.path]
        _reports[item.path] = _run(item, names)
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for report in _reports[item.path][item.nodeid]:
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


def _run(item: pytest.Item, names: list[str]) -> dict[str, list[pytest.TestReport]]:
    """Return the reports of the tests ``names`` of one file."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "reports"
        done = run_pytest(file, "-m", "simulated", *names)
        lines = file.read_text().splitlines() if file.exists() else []
    reports: dict[str, list[pytest.TestReport]] = defaultdict(list)
    for line in lines:
        hook = item.config.hook.pytest_report_from_serializable
        report = hook(config=item.config, data=json.loads(line))
        reports[report.nodeid].append(report)
    end = done.stdout[-4000:]
    said = f"the process with the simulated GPU ended with status {done.returncode}:\n{end}"
    for name in names:
        if not any(report.when == "teardown" for report in reports[name]):
            place = (str(item.path), None, name)
            reports[name] = [pytest.TestReport(name, place, {}, "failed", said, "call")]
    return reports


def run_pytest(file: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run pytest with a simulated GPU; the reports go to ``file``."""
    plugins = ("-p", "tests.simulated_gpu.plugin", "-p", "no:xdist", "-p", "no:cacheprovider")
    return subprocess.run(
        [sys.executable, "-X", "faulthandler", "-m", "pytest", "-q", *plugins, *arguments],
        cwd=ROOT,
        env={**simulated_environment(), "LRD_SIMULATED_REPORTS": str(file)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
