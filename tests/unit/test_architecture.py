"""The architecture, read from the sources: layers, cycles, names, sizes, imports, phrases."""

import ast
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("lrd", "tasks", "scripts")
MAX_MODULES = 12  # in a folder
MAX_COMMANDS = 14  # in scripts/, a file each
MAX_ENTRIES = 16  # at the top of lrd
MAX_LAYERS = 7  # of those entries: rng, optim, config, runs, loggers, training, cli
MAX_COMMAND_LINES = 60  # of code
# What each package or module of lrd may import of lrd.
LAYERS = {
    "rng": set(),
    "rmsprop": set(),
    "muon": set(),
    "schedules": set(),
    "optim": {"rng", "rmsprop"},
    "task": {"rng"},
    "unit_dropout": {"optim", "rng"},
    "regularizers": {"optim", "rng", "task", "unit_dropout"},
    "config": {"optim", "schedules"},
    "runs": {"config"},
    "loggers": {"config", "runs"},
    "launchers": {"config", "runs"},
    "analysis": {"config", "loggers", "runs"},
    "training": {
        *("", "config", "loggers", "optim", "regularizers", "rng", "runs", "schedules", "task"),
    },
    "cli": {"config", "launchers", "runs", "training"},
    "": {"optim"},  # lrd/__init__.py, on use
}
TORCH_FREE = ("config", "runs", "analysis", "launchers")
TASKS_MAY_IMPORT = {"lrd.task", "lrd.rng"}
# Public names that more than one module may define, with the reason.
DEFINED_TWICE = {
    "main": "every command has one",
    "log": "the logger of a module",
}
PHRASES = (  # and the plain English for each
    ("goes on", "resumes, continues"),
    ("go on from", "resume from"),
    ("gone on with", "resumed"),
    ("anew", "again, new"),
    ("to the bit", "bitwise identical"),
    ("to rounding", "up to floating-point error"),
    ("by heart", "overfit"),
    ("as ever", "as before"),
    ("what is there of it", "what is available"),
    ("what there is of it", "what is available"),
    ("no choice of", "unknown"),
    ("is no setting here", "unknown setting"),
    ("without a word", "without communication"),
    ("a word between", "communication"),
    ("waits for the device", "synchronizes"),
    ("wait for the device", "synchronization"),
    ("step in hand", "current step"),
    ("a rank's share", "a rank's shard"),
    ("people write it", "typical PyTorch"),
    ("tell apart", "distinguish"),
    ("told apart", "distinguished"),
    ("fills a cell", "matches a configuration"),
    ("learned by heart", "overfit"),
    ("there is to say", "state it"),
)


def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in sources(*PACKAGES)}


def imports(path: Path) -> set[str]:
    """Every module that a file imports, also inside functions and for type checking."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            for alias in node.names:
                member = f"{node.module}.{alias.name}"
                found.add(member if member in MODULES else node.module or "")
    return found


GRAPH = {name: imports(path) & MODULES.keys() for name, path in MODULES.items()}


def entry(module: str) -> str:
    """The part of lrd that a module belongs to; "" for the package itself."""
    return module.split(".")[1] if "." in module else ""


def test_the_import_graph_has_no_cycle():
    TopologicalSorter(GRAPH).prepare()  # raises CycleError


@pytest.mark.parametrize("module", [m for m in MODULES if m.split(".")[0] == "lrd"])
def test_lrd_imports_only_lower_layers(module: str):
    own = {entry(m) for m in GRAPH[module] if m.split(".")[0] == "lrd"} - {entry(module)}
    assert own <= LAYERS[entry(module)]
    assert not any(m.split(".")[0] in ("tasks", "scripts", "run") for m in imports(MODULES[module]))


def test_the_layers_of_lrd_are_few():
    sorter, count = TopologicalSorter(LAYERS), 0
    sorter.prepare()
    while sorter.is_active():
        ready = sorter.get_ready()
        sorter.done(*ready)
        count += bool(set(ready) - {""})
    assert count <= MAX_LAYERS


@pytest.mark.parametrize("path", sources("lrd/optim"), ids=lambda p: p.name)
def test_the_optimizer_imports_torch_and_its_own_alone(path: Path):
    allowed = {*sys.stdlib_module_names, "torch", "lrd"}
    if path.name == "triton.py":
        allowed.add("triton")  # which torch brings where it can be used
    assert {name.split(".")[0] for name in imports(path)} <= allowed


@pytest.mark.parametrize("path", sources("tasks"), ids=lambda p: p.name)
def test_tasks_import_the_contract_and_random_numbers_alone(path: Path):
    assert {name for name in imports(path) if name.split(".")[0] == "lrd"} <= TASKS_MAY_IMPORT
    assert not any(name.split(".")[0] in ("scripts", "run") for name in imports(path))


def test_no_command_imports_another_or_is_long():
    commands = {path.stem for path in (ROOT / "scripts").glob("*.py")} - {"__init__"}
    for command in commands:
        path = ROOT / "scripts" / f"{command}.py"
        imported = {name.removeprefix("scripts.") for name in imports(path)}
        assert not imported & commands, command
        assert lines_of_code(path) <= MAX_COMMAND_LINES, command


def test_general_code_reaches_the_papers_package_only_by_configuration():
    for module, found in GRAPH.items():
        if not module.startswith("scripts.paper"):
            assert not any(name.startswith("scripts.paper") for name in found), module


def lines_of_code(path: Path) -> int:
    """Lines without blanks, comments and docstrings."""
    tree, documented = ast.parse(path.read_text()), set[int]()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            documented |= set(range(node.lineno, (node.end_lineno or 0) + 1))
    lines = enumerate(path.read_text().splitlines(), 1)
    return sum(
        bool(text.strip()) and not text.strip().startswith("#") and number not in documented
        for number, text in lines
    )


def public_names(path: Path) -> Iterator[str]:
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Assign):
            yield from (t.id for t in node.targets if isinstance(t, ast.Name))
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id


def test_no_public_name_is_defined_twice():
    assert len(DEFINED_TWICE) <= 10
    where: dict[str, list[str]] = defaultdict(list)
    for module, path in MODULES.items():
        for name in set(public_names(path)):
            if not name.startswith("_"):
                where[name].append(module)
    twice = {name: found for name, found in where.items() if len(found) > 1}
    assert {n: found for n, found in twice.items() if n not in DEFINED_TWICE} == {}


def test_folders_are_small():
    folders: dict[Path, set[str]] = defaultdict(set)
    for path in sources(*PACKAGES):
        if path.stem != "__init__":
            folders[path.parent].add(path.stem)
    assert len(folders.pop(ROOT / "scripts")) <= MAX_COMMANDS
    assert {f.name: len(m) for f, m in folders.items() if len(m) > MAX_MODULES} == {}
    entries = {p.stem for p in (ROOT / "lrd").iterdir()} - {"__init__", "__pycache__"}
    assert len(entries) <= MAX_ENTRIES


@pytest.mark.parametrize("path", sources("lrd", "tasks"), ids=lambda p: p.name)
def test_only_the_command_line_prints(path: Path):
    calls = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)]
    prints = any(isinstance(c.func, ast.Name) and c.func.id == "print" for c in calls)
    assert not prints or path.stem in ("cli", "command_line")


def test_wandb_is_imported_only_on_use():
    for path in sources(*PACKAGES):
        top = [n for n in ast.parse(path.read_text()).body if isinstance(n, ast.Import)]
        assert not any(a.name.split(".")[0] == "wandb" for n in top for a in n.names), path


def test_the_torch_free_packages_import_without_torch():
    code = """
import sys
class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "torchvision"):
            raise ImportError(name)
sys.meta_path.insert(0, NoTorch())
import importlib
for module in sys.argv[1:]:
    importlib.import_module(module)
"""
    free = [m for m in MODULES if m.split(".")[0] == "lrd" and entry(m) in TORCH_FREE]
    command = [sys.executable, "-c", code, *free]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_importing_lrd_imports_nothing_heavy():
    code = "import sys, lrd, lrd.analysis; print(*sys.modules)"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    heavy = {"torch", "pandas", "scipy", "statsmodels", "matplotlib", "jinja2", "wandb"}
    assert not heavy & set(done.stdout.split())


@pytest.mark.parametrize(
    "command",
    [
        "table.py table1",
        "table.py --help",
        "table.py table3",
        "figure.py figure8",
        "runs.py",
        "compare.py fast_digits --arms train=paper train=fast --equivalent-within 0.3",
        "compare.py quickstart optim=adam",
        "plan.py quickstart",
        "report.py --help",
    ],
)
def test_reading_commands_need_no_torch(command: str, tmp_path: Path):
    name, *args = command.split()
    code = f"""
import runpy, sys
class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "torchvision"):
            raise ImportError(name)
sys.meta_path.insert(0, NoTorch())
sys.argv = [{name!r}, *{args!r}]
runpy.run_path({str(ROOT / "scripts" / name)!r}, run_name="__main__")
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_no_odd_phrases():
    """Refuse phrases that readers stumbled over, in code, configuration and templates."""
    found = []
    files = [*sources("lrd", "tasks", "scripts", "hydra_plugins"), ROOT / "run.py"]
    for kind in ("yaml", "html", "js"):
        files += [p for f in ("configs", *PACKAGES) for p in (ROOT / f).rglob(f"*.{kind}")]
    for path in files:
        text = " ".join(path.read_text().lower().replace("#", " ").split())
        found += [
            (str(path.relative_to(ROOT)), phrase)
            for phrase, _ in PHRASES
            if re.search(rf"\b{phrase}\b", text)
        ]
    assert found == []
