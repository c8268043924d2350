"""The programs of docs/recipes.md: 5 steps, a checkpoint and 5 more are 10 steps."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from lrd import LRDropout

pytestmark = [pytest.mark.compat, pytest.mark.filterwarnings("ignore")]  # the tools warn
PAGE = Path(__file__).parents[2] / "docs" / "recipes.md"
SECTIONS = PAGE.read_text().split("\n## ")
SHARED, *RECIPES = [re.findall(r"```python\n(.*?)```", s, re.DOTALL) for s in SECTIONS]
TITLES = [section.splitlines()[0] for section in SECTIONS[1:]]
BY_EPOCHS = ("Lightning", "Hugging Face Trainer")  # the tool's own loop counts the epochs
OTHER = "p=0.9, seed=7"  # what a constructor says when the file's values must win


def run(title: str, weight_seed: int, epochs: int, settings: str = "") -> dict[str, Any]:
    """Run a recipe in the current folder and return its names. Its data are always the same."""
    space: dict[str, Any] = {"__name__": "recipe"}
    torch.manual_seed(0)
    exec(SHARED[0], space)
    torch.manual_seed(weight_seed)
    space["model"].reset_parameters()
    space["epochs"] = epochs
    if title not in BY_EPOCHS:
        space["batches"] = list(space["batches"]) * epochs
    (block,) = RECIPES[TITLES.index(title)]
    assert block.count("p=0.5, seed=0") == 1
    exec(block.replace("p=0.5, seed=0", settings or "p=0.5, seed=0"), space)
    return space


def optimizer_of(space: dict[str, Any]) -> LRDropout:
    found = space.get("optimizer") or space["trainer"].optimizers[0]
    assert isinstance(found, LRDropout)
    return found


def end_of(space: dict[str, Any]) -> list[Tensor]:
    """Return weights and moments."""
    base = optimizer_of(space).base
    moments = [base.state[p][k] for p in space["model"].parameters() for k in sorted(base.state[p])]
    return [*space["model"].parameters(), *moments]


@pytest.mark.parametrize("title", TITLES)
def test_a_recipe_resumes_bitwise(title: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    for folder in (whole, halves):
        folder.mkdir()
    monkeypatch.chdir(whole)
    expected = run(title, weight_seed=0, epochs=2)
    monkeypatch.chdir(halves)
    if title == "Hugging Face Trainer":  # its learning rate depends on the epochs that it plans
        shutil.copytree(whole / "output" / "checkpoint-5", halves / "output" / "checkpoint-5")
    else:
        run(title, weight_seed=0, epochs=1)
    resumed = run(title, 1, epochs=2 if title in BY_EPOCHS else 1, settings=OTHER)

    optimizer, other = optimizer_of(resumed), optimizer_of(expected)
    assert (optimizer.t, optimizer.seed, optimizer.p) == (other.t, other.seed, other.p)
    assert (optimizer.t, optimizer.seed, optimizer.p) == (10, 0, 0.5)
    pairs = list(zip(end_of(resumed), end_of(expected), strict=True))
    assert len(pairs) == 8  # weight and bias, each with step and two moments
    assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("title", [t for t in TITLES if t != "Hugging Face Trainer"])
def test_a_recipe_takes_the_steps_of_a_plain_loop(
    title: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    found = run(title, weight_seed=0, epochs=1)
    torch.manual_seed(0)
    space: dict[str, Any] = {}
    exec(SHARED[0], space)
    model = space["model"]
    torch.manual_seed(0)
    model.reset_parameters()
    optimizer = LRDropout(torch.optim.AdamW(model.parameters()), p=0.5, seed=0)
    for inputs, targets in space["batches"]:
        optimizer.zero_grad()
        mse_loss(model(inputs), targets).backward()
        optimizer.step()
    assert all(map(torch.equal, found["model"].parameters(), model.parameters()))
