"""Generated command lines: each is accepted, or answered by one line on stderr and status 2.

A line is a setting with a value that may be wrong, or a form of the override grammar. It runs
through :func:`lrd.cli.main` up to the first training step: composition, the rules, the build, the
lock, the data and the trainer.
"""

import itertools
import random
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from lrd import cli as command_line
from lrd.config.compose import compose
from lrd.config.messages import closed_settings, open_settings
from lrd.training import runner

SMALL = ["model.hidden=[4]", "train.device=cpu"]
# Choices with further settings, each as the beginning of its command lines.
CHOICES: list[list[str]] = [
    [],
    ["optim=sgdm"],
    ["optim=amsgrad"],
    ["optim=rmsprop"],
    ["optim=rmsprop_authors"],
    ["optim=radam"],
    ["optim=muon"],
    ["schedule=steps"],
    ["schedule=poly"],
    ["regularizer=nl"],
    ["regularizer=ng"],
    ["regularizer=sd"],
    ["regularizer=dg"],
    ["lrd.schedule=linear"],
    ["task=toy"],
]
VALUES = [
    *("", "null", "abc", "true", "0", "-1", "1.5", "1e30", "-inf", "nan", "[]", "[1,a]", "{}"),
    *("{a: 1}", "9" * 25, "x" * 300, "é", "日本", "'é b'", '"~/x"', "~/x", "a#b", "a b", "../x"),
    *("1,2", "0-4", "[", "]", "{", "(", "'", '"', "${", "${nope}", "${seed}", "${oc.env:NOPE}"),
    *("a=b", "=", "a:b", "%", "$(ls)", "\\", "\n", "\t", "range(0,3)", "choice(1,2)", "@"),
]
KEYS = [
    *("lr", "epochs", "foo", "optim.foo", "lrd", "lrd.q", "task", "optim", "model", "dataset"),
    *("schedule", "regularizer", "train", "arm", "experiment", "cluster", "search", "study"),
    *("tuned", "hydra", "hydra.run", "hydra.nope", "hydra/launcher", "hydra.sweeper.params"),
    *("hydra.mode", "", ".", "a..b", "1", "é", "a b", "task@x", "@", "seed.x", "run.dir.x", "/"),
]
FORMS = [
    *("{0}={1}", "+{0}={1}", "++{0}={1}", "~{0}={1}", "~{0}", "+{0}", "{0}", "{0}=={1}"),
    "--{0}={1}",
]
FLAGS = [
    *(["-m", "--cfg", "job"], ["--cfg", "nope"], ["--info", "nope"], ["--resolve"], ["-x"]),
    *(["--config-dir", "nope"], ["--config-name", "nope"], ["--cfg"], ["-c", "job", "--run"]),
    *(["seed=1", "-m", "lrd.p=1"], ["--multirun", "seed=a,b"], ["-m", "optim=nope"], ["--", "a"]),
]


def settings(choice: list[str]) -> list[str]:
    plain: Any = OmegaConf.to_container(compose(choice), resolve=False)
    groups = ("task", "dataset", "model", "optim", "schedule", "regularizer")
    own = (name for group in groups for name in open_settings(group, plain[group]))
    return [*closed_settings(), *own]


def generate() -> Iterator[tuple[str, ...]]:
    """Yield every command line once."""
    seen: set[str] = set()
    for choice in CHOICES:
        new = [name for name in settings(choice) if name not in seen]
        seen.update(new)
        begin = choice if "task=toy" in choice else [*SMALL, *choice]
        for name, value in itertools.product(new, VALUES):
            yield (*begin, f"{name}={value}")
        for name, form in itertools.product(new, FORMS[1:]):
            yield (*begin, form.format(name, "1"))
    for key, form, value in itertools.product(KEYS, FORMS, ("1", "adam", "null", "[a]", "")):
        yield (*SMALL, form.format(key, value))
    for flags in FLAGS:
        yield (*SMALL, *flags)


class Accepted(BaseException):
    """Raised in place of the first training step."""


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    """Return what is wrong with the answer to a command line, or "", and whether it is accepted."""

    def stop(session: runner._RunSession, choices: dict[str, str], command: str) -> None:
        session.trainer.task.close()
        raise Accepted

    monkeypatch.setattr(runner._RunSession, "run", stop)
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)

    def call(arguments: tuple[str, ...]) -> tuple[str, bool]:
        GlobalHydra.instance().clear()
        monkeypatch.setattr(sys, "argv", ["run.py", *arguments])
        capfd.readouterr()
        try:
            status = command_line.main()
        except Accepted:
            status = 0
        except BaseException as error:
            return f"{type(error).__name__} left main: {error}", False
        err = capfd.readouterr().err
        if status == 0:
            return (f"status 0, stderr {err!r}" if err else ""), True
        is_line = err.startswith("error: ") and err.count("\n") == 1 and len(err) > 20
        fault = "" if status == 2 and is_line else f"status {status}, stderr {err[-600:]!r}"
        return fault, False

    return call


def sample(number: int) -> list[tuple[str, ...]]:
    """Return command lines of every kind, the same each time."""
    lines = list(dict.fromkeys(generate()))
    return random.Random(0).sample(lines, number)


def check(answer, lines: list[tuple[str, ...]], capfd: pytest.CaptureFixture[str]) -> None:
    faults, counts = [], Counter[str]()
    for arguments in lines:
        fault, is_accepted = answer(arguments)
        counts["accepted" if is_accepted else "refused"] += 1
        if fault:
            faults.append(f"{' '.join(map(repr, arguments))}: {fault}")
    with capfd.disabled():
        print(f"\n{len(lines)} command lines: {dict(counts)}, {len(faults)} faults")
    assert not faults, "\n".join(faults)
    assert counts["accepted"] and counts["refused"] > counts["accepted"]


@pytest.mark.slow
def test_command_lines(answer, capfd: pytest.CaptureFixture[str]):
    check(answer, sample(200), capfd)


@pytest.mark.exhaustive
def test_many_command_lines(answer, capfd: pytest.CaptureFixture[str]):
    check(answer, sample(2500), capfd)
