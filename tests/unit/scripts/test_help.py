"""``--help`` of every command: it answers, and imports none of the libraries that take long."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
COMMANDS = ["run.py", *(f"scripts/{p.name}" for p in sorted((ROOT / "scripts").glob("[!_]*.py")))]
SLOW_LIBRARIES = {"torch", "pandas", "scipy", "matplotlib", "wandb", "sklearn", "statsmodels"}
RUN = """
import runpy, sys
sys.argv = [sys.argv[1], "--help"]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as done:
    assert not done.code, done.code
print("IMPORTED", *sys.modules)
"""


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_printed_without_slow_imports(command: str):
    arguments = [sys.executable, "-c", RUN, command]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    text, _, imported = done.stdout.partition("IMPORTED ")
    assert len(text.splitlines()) > 5
    assert SLOW_LIBRARIES & set(imported.split()) == set()
