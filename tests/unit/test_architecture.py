"""Who may import whom: read from the sources."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# What each module of lrd may import of lrd, from the ground up.
FLOORS = {
    "masks": set(),
    "config": set(),
    "compose": {"config"},
    "kinds": {"regularizers", "schedules", "task"},
    "kernels": {"masks"},
    "flat": {"kernels"},
    "hooks": set(),
    "reference": {"masks"},
    "blocks": {"kernels", "masks"},
    "restore": {"blocks", "kernels", "reference"},
    "units": {"kernels", "masks", "reference"},
    "rules": {"rmsprop"},
    "single_pass": {"flat", "kernels", "rules"},
    "bind": {"flat", "kernels", "rules", "single_pass"},
    "checks": {"flat", "kernels", "rules"},
    "generic": {"checks", "hooks", "kernels", "reference", "restore", "units"},
    "optim": {"bind", "checks", "flat", "generic", "masks", "reference", "single_pass"},
    "rmsprop": set(),
    "task": {"masks"},
    "schedules": set(),
    "regularizers": {"dropout", "flat", "kernels", "masks", "task"},
    "dropout": {"kernels", "masks"},
    "identity": {"config"},
    "runs": {"config", "identity", "lock"},
    "log": {"runs"},
    "columns": {"log"},
    "dashboard": {"columns", "config", "lock", "log", "runs"},
    "checkpoint": {"identity", "runs"},
    "lock": set(),
    "interrupt": set(),
    "implement": {"checks", "flat", "kernels", "optim", "restore", "rules", "single_pass"},
    "ranks": {"task"},
    "machine": {"config", "ranks"},
    "graph": {"kernels", "task"},
    "build": {
        *("checks", "config", "implement", "kernels", "kinds", "machine", "masks", "optim"),
        *("ranks", "regularizers", "schedules", "task", "train"),
    },
    "session": {
        *("build", "checkpoint", "columns", "config", "dashboard", "interrupt", "lock", "log"),
        *("machine", "provenance", "ranks", "runs", "train"),
    },
    "provenance": {"__init__", "jobs"},
    "jobs": {"runs"},
    "cluster": {"beside", "compose", "config", "runs", "slurm"},
    "beside": {"cluster", "interrupt"},
    "slurm": {"cluster", "jobs", "requeued"},
    "requeued": {"cluster", "interrupt"},
    "progress": {"log", "ranks", "task"},
    "evaluation": {"log", "ranks", "task"},
    "train": {
        *("checkpoint", "evaluation", "graph", "log", "masks", "optim", "progress", "ranks"),
        *("regularizers", "schedules", "task"),
    },
}
TASKS_MAY = {"lrd.task", "lrd.masks", "lrd.runs"}


def imports(path: Path) -> set[str]:
    """Every module that a file imports, wherever the statement stands."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module or "")
            if node.module == "lrd":
                found |= {f"lrd.{alias.name}" for alias in node.names}
    return found


def sources(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("path", sources("lrd"), ids=lambda p: p.name)
def test_lrd_imports_go_down_and_never_to_tasks(path: Path):
    found = imports(path)
    assert not any(name.split(".")[0] in ("tasks", "scripts", "run") for name in found)
    if path.stem == "__init__":
        return
    own = {n.removeprefix("lrd.") for n in found if n.startswith("lrd.")} - {"__version__"}
    assert own <= FLOORS[path.stem], f"{path.stem} imports {own - FLOORS[path.stem]}"


@pytest.mark.parametrize("path", sources("tasks"), ids=lambda p: p.name)
def test_tasks_import_the_contract_and_the_ground_floor_alone(path: Path):
    own = {n for n in imports(path) if n.split(".")[0] == "lrd"}
    assert own <= TASKS_MAY


@pytest.mark.parametrize("path", sources("lrd") + sources("tasks"), ids=lambda p: p.name)
def test_nothing_prints_below_the_entry(path: Path):
    calls = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)]
    assert not any(isinstance(c.func, ast.Name) and c.func.id == "print" for c in calls)


def test_wandb_is_imported_only_when_it_is_switched_on():
    for path in sources("lrd") + sources("tasks"):
        top = [n for n in ast.parse(path.read_text()).body if isinstance(n, ast.Import)]
        assert not any(a.name.startswith("wandb") for n in top for a in n.names)


@pytest.mark.parametrize(
    "script",
    [
        "table.py table1",
        "table.py --help",
        "table.py table3",
        "figure.py figure8",
        "runs.py",
        "equivalence.py fast_digits",
        "compare.py quickstart optim=adam",
        "plan.py quickstart",
        "report.py --help",
    ],
)
def test_reading_scripts_need_no_torch(script: str, tmp_path: Path):
    name, *args = script.split()
    code = f"""
import runpy, sys
class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "torchvision"):
            raise ImportError(name)
sys.meta_path.insert(0, NoTorch())
sys.path.insert(0, {str(ROOT / "scripts")!r})
sys.argv = [{name!r}, *{args!r}]
runpy.run_path({str(ROOT / "scripts" / name)!r}, run_name="__main__")
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
