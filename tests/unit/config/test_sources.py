"""The code behind a ``_target_``: hashed from files, by what it means."""

import re
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from lrd.config.compose import CONFIGS, compose, to_config
from lrd.config.fingerprint import fingerprint, identity
from lrd.config.sources import recipe_of, source_of

OPTIMIZER = '''
"""Signs."""
import torch
from helper_of_mine import scale

class Signed(torch.optim.SGD):
    """Steps by signs."""

    def step(self, closure=None):
        "Take a step."
        return scale(1.0)  # of the rate
'''


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "optimizer_of_mine.py").write_text(OPTIMIZER)
    (tmp_path / "helper_of_mine.py").write_text("def scale(x):\n    return x\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def edited(folder: Path, file: str, old: str, new: str) -> str | None:
    path = folder / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    found = source_of("optimizer_of_mine")
    path.write_text(text)
    return found


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("optimizer_of_mine.py", "scale(1.0)", "scale(2.0)"),
        ("optimizer_of_mine.py", "torch.optim.SGD", "torch.optim.Adam"),
        ("optimizer_of_mine.py", "closure=None", "closure=0"),
        ("optimizer_of_mine.py", "return scale", "return -scale"),
        ("helper_of_mine.py", "return x", "return 2 * x"),  # which it imports
    ],
)
def test_another_meaning_is_another_source(mine: Path, file: str, old: str, new: str):
    assert edited(mine, file, old, new) != source_of("optimizer_of_mine")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("# of the rate", "# of whatever"),
        ('"""Steps by signs."""', '"""Takes steps."""'),
        ('"Take a step."', '"""Step."""'),
        ('"""Signs."""', ""),
        ("scale(1.0)", "scale(\n            1.0,\n        )"),
        ("import torch\n", "\n\nimport torch\n"),
    ],
)
def test_comments_docstrings_and_layout_do_not_count(mine: Path, old: str, new: str):
    assert edited(mine, "optimizer_of_mine.py", old, new) == source_of("optimizer_of_mine")


def test_a_package_counts_with_all_its_modules_and_is_never_imported(mine: Path):
    package = mine / "package_of_mine"
    (package / "deep").mkdir(parents=True)
    (package / "__init__.py").write_text("raise SystemExit('imported')\n")
    (package / "deep" / "net.py").write_text("WIDTH = 3\n")
    before = source_of("package_of_mine")
    (package / "deep" / "net.py").write_text("WIDTH = 30\n")
    assert before != source_of("package_of_mine") and "package_of_mine" not in sys.modules
    moved = package / "deep" / "other.py"
    changed = source_of("package_of_mine")
    (package / "deep" / "net.py").rename(moved)
    assert source_of("package_of_mine") != changed


def test_what_does_not_parse_counts_by_its_bytes(mine: Path):
    (mine / "broken_of_mine.py").write_text("def f(:\n")
    one = source_of("broken_of_mine")
    (mine / "broken_of_mine.py").write_text("def g(:\n")
    assert one is not None and one != source_of("broken_of_mine")


def test_an_installed_package_counts_by_its_version_and_a_missing_one_as_none():
    import pytest as installed

    assert source_of("pytest") == f"pytest {installed.__version__}"
    assert source_of("no_such_package_of_mine") is None


def test_the_hash_does_not_depend_on_the_process(mine: Path):
    code = "from lrd.config.sources import source_of; print(source_of('optimizer_of_mine'))"
    root = str(CONFIGS.parent)
    for hash_seed in ("1", "2"):
        environment = {"PYTHONPATH": f"{mine}:{root}", "PYTHONHASHSEED": hash_seed}
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True
        )
        assert done.stdout.strip() == source_of("optimizer_of_mine"), done.stderr


def test_an_identity_holds_the_users_code_and_nobody_elses(mine: Path):
    def found(*overrides: str) -> dict[str, object]:
        return identity(to_config(compose(overrides)))

    assert not [name for name in found() if name.startswith(("source.", "recipe."))]
    assert not [n for n in found("optim._target_=torch.optim.NAdam") if n.startswith("source.")]
    own = found("optim._target_=optimizer_of_mine.Signed")
    assert own["source.optimizer_of_mine"] == source_of("optimizer_of_mine")
    before = fingerprint(own)
    path = mine / "helper_of_mine.py"
    path.write_text("def scale(x):\n    return 3 * x\n")
    assert fingerprint(found("optim._target_=optimizer_of_mine.Signed")) != before


def shipped_targets() -> list[str]:
    found = set()
    for group in ("task", "dataset", "model"):
        for path in (CONFIGS / group).glob("*.yaml"):
            lines = path.read_text().splitlines()
            found |= {x.split(": ")[1] for x in lines if x.strip().startswith("_target_: ")}
    return sorted(found)


@pytest.mark.parametrize("target", shipped_targets())
def test_every_task_data_set_and_model_has_the_recipe_that_is_read(target: str):
    module, _, name = target.rpartition(".")
    assert recipe_of(target) == getattr(import_module(module), name).recipe >= 1


def test_a_raised_recipe_voids_the_runs_of_its_class_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    def mark(*overrides: str) -> str:
        return fingerprint(identity(to_config(compose(overrides))))

    digits, seg, det = mark(), mark("task=voc_seg"), mark("task=voc_det")
    path = tmp_path / "tasks" / "segmentation.py"
    shutil.copytree(CONFIGS.parent / "tasks", path.parent)
    text = path.read_text()
    raised, count = re.subn(r"(recipe: ClassVar\[int\] = )(\d+)", r"\g<1>99", text)
    assert count == 1
    path.write_text(raised)
    monkeypatch.setattr("lrd.config.sources.CHECKOUT", tmp_path)
    assert mark("task=voc_seg") != seg and (mark(), mark("task=voc_det")) == (digits, det)


def test_a_recipe_is_inherited_within_a_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "nets.py").write_text(
        "class A:\n    recipe: int = 3\nclass B(A): ...\nclass C(A):\n    recipe = 4\n"
        "class D: ...\nclass E(B, D): ...\nclass F(Base[A]): ...\n"
    )
    monkeypatch.setattr("lrd.config.sources.CHECKOUT", tmp_path)
    found = [recipe_of(f"tasks.nets.{name}") for name in "ABCDEF"]
    assert found == [3, 3, 4, 1, 3, 1] and recipe_of("tasks.nowhere.X") == 1
