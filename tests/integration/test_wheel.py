"""The wheel: what it holds and needs, and one step in an environment that has torch alone."""

import os
import re
import subprocess
import sys
import venv
import zipfile
from email.parser import Parser
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
STEP = """
import torch
from lrd import LRDropout

model = torch.nn.Linear(64, 64)
optimizer = LRDropout(torch.optim.AdamW(model.parameters(), lr=1e-2), p=0.5, seed=0)
before = model.weight.detach().clone()
model(torch.ones(8, 64)).sum().backward()
optimizer.step()
print(float((model.weight != before).float().mean()))
"""
TYPED = """
import torch
from lrd import LRDropout, __version__

optimizer = LRDropout(torch.optim.SGD([torch.zeros(1)], lr=1), q=0.5)
version: int = __version__
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (file,) = folder.glob("*.whl")
    return file


@pytest.fixture(scope="module")
def python(wheel: Path) -> str:
    """The interpreter of an environment with the wheel, torch and what torch requires."""
    folder = wheel.parent / "environment"
    venv.create(folder, with_pip=False)
    (packages,) = folder.glob("lib/python*/site-packages")
    for entry in sorted(entries_of_torch()):
        (packages / entry.name).symlink_to(entry)
    python = str(folder / "bin" / "python")
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index"]
    subprocess.run([*pip, str(wheel)], check=True, capture_output=True)
    return python


def entries_of_torch() -> set[Path]:
    """What torch and its requirements have in site-packages: folders and single modules."""
    found: set[Path] = set()
    names, done = ["torch"], set[str]()
    while names:
        if (name := names.pop()) in done:
            continue
        done.add(name)
        package = distribution(name)
        required = map(Requirement, package.requires or [])
        names += [r.name for r in required if r.marker is None or r.marker.evaluate({"extra": ""})]
        files = [file for file in package.files or [] if file.parts[0] not in ("..", "__pycache__")]
        found |= {Path(str(package.locate_file(file.parts[0]))) for file in files}
    return {path for path in found if path.suffix != ".pth"}


def run(
    *command: str, cwd: Path = Path("/"), **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a command outside the checkout, without its path."""
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | environment
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True)


def test_it_holds_lrd_alone_with_types_and_templates(wheel: Path):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"lrd"}
    files = [p.relative_to(ROOT).as_posix() for p in (ROOT / "lrd").rglob("*") if p.is_file()]
    assert {f for f in files if "__pycache__" not in f} <= set(names)
    assert "lrd/py.typed" in names


def test_it_requires_torch_alone(wheel: Path):
    archive = zipfile.ZipFile(wheel)
    (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
    metadata = Parser().parsestr(archive.read(name).decode())
    assert "lrd/optim/kernels/step.c" in archive.namelist()
    required = [Requirement(text) for text in metadata.get_all("Requires-Dist", [])]
    assert [r.name for r in required if r.marker is None] == ["torch"]
    extras = ["browser", "cluster", "compat", "dev", "experiments", "search", "test"]
    assert sorted(metadata.get_all("Provides-Extra", [])) == extras


def test_a_step_needs_torch_alone(python: str):
    done = run(python, "-c", STEP)
    assert done.returncode == 0, done.stderr
    assert 0.45 < float(done.stdout) < 0.55  # of 4,096 weights; 0.05 are 6 standard deviations
    for missing in ("hydra", "pandas", "tasks", "hydra_plugins"):
        assert run(python, "-c", f"import {missing}").returncode == 1, missing


def test_dir_shows_the_public_names(python: str):
    shown = run(python, "-c", "import lrd, lrd.optim; print(dir(lrd), dir(lrd.optim))")
    names = ["LRDropout", "__version__", "load_model"], ["LRDropout", "keep_mask"]
    assert shown.stdout == f"{names[0]} {names[1]}\n"


COMMANDS = {
    **{"table": ["table1"], "figure": ["figure5"], "compare": ["quickstart"]},
    **{"plan": ["quickstart"], "bench": ["startup", "--quick"], "endurance": ["--kills", "1"]},
    **{"evaluate": ["runs/x", "eval.mode=whole"], "predict": ["runs/x", "image.png"]},
}


@pytest.mark.parametrize(
    "path",
    [ROOT / "run.py", *sorted((ROOT / "scripts").glob("[!_]*.py"))],
    ids=lambda p: p.name,
)
def test_a_command_without_its_packages_is_one_line(path: Path, python: str, tmp_path: Path):
    done = run(python, str(path), *COMMANDS.get(path.stem, []), cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    lines = done.stderr.splitlines()  # torch warns of a missing NumPy before the last one
    assert re.fullmatch(r"error: \w+ is missing: pip install -e '\.\[experiments\]'", lines[-1])
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "code",
    [
        "from lrd.cli import main; raise SystemExit(main())",
        "import lrd.config.compose as c; c.compose(['task=mnist'])",
        "import lrd.analysis as la; la.all_studies()",
        "import lrd.analysis as la; la.plan_experiment('table1', la.RunFrames('runs'))",
    ],
)
def test_experiments_outside_a_checkout_are_one_line(code: str, wheel: Path, tmp_path: Path):
    zipfile.ZipFile(wheel).extractall(tmp_path)
    done = run(sys.executable, "-c", code, PYTHONPATH=str(tmp_path))
    assert done.returncode in (1, 2)
    last = done.stderr.splitlines()[-1]
    assert "rror: experiments need a checkout of the repository, got the package alone in" in last


def test_load_runs_needs_no_checkout(wheel: Path, tmp_path: Path):
    zipfile.ZipFile(wheel).extractall(tmp_path)
    code = f"import lrd.analysis as la; print(len(la.load_runs({str(ROOT / 'results')!r})))"
    done = run(sys.executable, "-c", code, PYTHONPATH=str(tmp_path))
    assert int(done.stdout) >= 20, done.stderr


def test_mypy_sees_the_types(python: str, tmp_path: Path):
    pytest.importorskip("mypy")
    (tmp_path / "mypy.ini").write_text("[mypy]\n[mypy-torch.*]\nfollow_imports = skip\n")
    (tmp_path / "typed.py").write_text(TYPED)
    mypy = [sys.executable, "-m", "mypy", "--python-executable", python, "--cache-dir=/dev/null"]
    config = f"--config-file={tmp_path / 'mypy.ini'}"
    found = run(*mypy, config, str(tmp_path / "typed.py")).stdout
    assert 'Unexpected keyword argument "q" for "LRDropout"' in found
    assert "Incompatible types in assignment" in found
    assert "Found 2 errors in 1 file" in found
