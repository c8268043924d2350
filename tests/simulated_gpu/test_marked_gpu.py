"""Every test marked ``gpu`` but that of killed processes, which the simulation does not enter."""

import json
from pathlib import Path

import pytest

from tests.simulated_gpu.build import ROOT
from tests.simulated_gpu.conftest import run_pytest

pytestmark = pytest.mark.simulated
KILLS = "test_endurance.py"


def test_all_tests_marked_gpu_pass(tmp_path: Path):
    paths = [p for p in ROOT.glob("tests/**/test_*.py") if "\n@pytest.mark.gpu" in p.read_text()]
    files = [str(path) for path in paths if path.name != KILLS]
    done = run_pytest(tmp_path / "reports", "-m", "gpu and not slow and not exhaustive", *files)
    reports = [json.loads(line) for line in (tmp_path / "reports").read_text().splitlines()]
    assert done.returncode == 0, done.stdout
    passed = {r["nodeid"].split("::")[0] for r in reports if r["outcome"] == "passed"}
    assert {str(ROOT / name) for name in passed} >= set(files)
    skipped = {str(r["longrepr"][2]) for r in reports if r["outcome"] == "skipped"}
    assert all("has no" in why for why in skipped), skipped  # an optimizer's form
