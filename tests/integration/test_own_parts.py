"""The pages on parts of one's own: their files are written and their commands run, in a folder."""

import re
import shlex
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import yaml

from tests.integration.test_documented_commands import OWN_PARTS, ROOT, commands_of, run


@pytest.mark.slow
@pytest.mark.parametrize("page, module", OWN_PARTS.items())
def test_the_examples_of_ones_own_parts_run(
    page: str, module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The page's files are written as it says; then its commands run in their order."""
    text = (ROOT / "docs" / page).read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (tmp_path / f"{module}.py").write_text("\n".join(blocks))
    files = dict(re.findall(r"^\| `([\w/]+\.yaml)` \| `(.+?)`", text, re.MULTILINE))
    contents = {f"my_configs/{name}": content for name, content in files.items()}
    for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL):
        ((name, folder),) = re.findall(r"^# (\S+\.yaml) in (\S+)/$", block, re.MULTILINE)
        contents[f"{folder}/{name}"] = block
    assert len(contents) == len(files) + text.count("```yaml")
    for name, content in contents.items():
        yaml.safe_load(content)
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for command in commands_of(ROOT / "docs" / page):
        _, script, *arguments = shlex.split(command)
        small = ["train.epochs=1", "train.max_steps=2"]
        if page == "your_optimizer.md":
            small += ["dataset.holdout=8"]  # fewer images to score than the shapes have
        of_runs = len(small)
        if "+experiment=lion_adam" in arguments:
            small += ["seed=0,1"]
        if script == f"{module}.py":
            subprocess.run([sys.executable, script], check=True)
        elif script == "run.py":
            arguments = [word for word in arguments if word != "+cluster=local"]
            assert run([*arguments, *small], monkeypatch) == 0, command
        else:
            reader = import_module(script.removesuffix(".py").replace("/", "."))
            assert reader.main([*arguments, *small[:of_runs]]) == 0, command
