"""Classes and functions of one's own, or of torchvision, by name."""

import inspect
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import torchvision
from torch import nn

from lrd.analysis.resolve import resolve
from lrd.config.compose import use_config_dir
from lrd.config.signatures import ANY, arguments_of
from lrd.runs.store import find_runs
from lrd.task import Setup
from tasks.images import Digits

SHORT = ("train.max_steps=1", "train.epochs=1")
OWN = "run.allow=[tests]"
HERE = "tests.unit.training.test_own_classes"
calls: list[dict[str, Any]] = []


def make_flat(num_classes: int = 3, in_chans: int = 3, width: int = 4) -> nn.Module:
    calls.append({"num_classes": num_classes, "in_chans": in_chans, "width": width})
    layers = [nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * in_chans, width)]
    return nn.Sequential(*layers, nn.Linear(width, num_classes))


def make_nothing(num_classes: int) -> str:
    return "no network"


def run_a_shell(command: str) -> None:
    calls.append({"command": command})


class Own(Digits):
    def __init__(self, setup: Setup) -> None:
        super().__init__(setup, "own")


class Plain(torch.optim.SGD):
    """An optimizer with fewer settings than its file."""

    def __init__(self, params: Any, lr: float = 1e-3) -> None:
        super().__init__(params, lr=lr)


def test_a_function_gets_classes_and_channels_as_it_calls_them(cli):
    calls.clear()
    done = cli(*SHORT, OWN, f"model._target_={HERE}.make_flat", "+model.width=5")
    assert done.status == 0, done.err
    assert calls == [{"num_classes": 10, "in_chans": 1, "width": 5}]
    assert "note: make_flat takes no hidden, model.hidden=[1000, 1000] is left out" in done.out


def test_a_network_of_torchvision_is_that_network(cli, tmp_path: Path):
    from tests.unit.tasks.test_folder import write

    write(tmp_path / "pets" / "train", 8)
    write(tmp_path / "pets" / "test", 2)
    data = ("dataset=folder", f"dataset.path={tmp_path / 'pets'}", "dataset.size=32")
    model = "model._target_=torchvision.models.squeezenet1_1"
    done = cli(*SHORT, "task=cifar10", *data, "train.batch_size=8", model)
    assert done.status == 0, done.err
    (run,) = find_runs("runs")
    saved = torch.load(run.folder / "last.pt", weights_only=True)["model"]
    reference = torchvision.models.squeezenet1_1(num_classes=2).state_dict()
    assert {n: x.shape for n, x in saved.items()} == {n: x.shape for n, x in reference.items()}


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([f"model._target_={HERE}.make_nothing", OWN], "model._target_ must return a Module, got"),
        ([f"model._target_={HERE}.make_flat"], "run.allow=[tests] allows its package"),
        ([f"model._target_={HERE}.run_a_shell", "+model.command=x", OWN], "must take classes or"),
        (
            ["model._target_=torch.utils.collect_env.run", "+model.command=x"],
            "must be a subclass of Module, or",
        ),
        ([f"optim._target_={HERE}.make_flat", OWN], "optim._target_ must be a subclass of Optim"),
        (["model._target_=torchvision.models.resnet18"], "must be given color images, got 1 chan"),
        ([f"model._target_={HERE}.make_flat", "+model.wide=5", OWN], "Did you mean model.width"),
    ],
)
def test_a_function_that_is_no_network_is_one_line(cli, overrides: list[str], expected: str):
    calls.clear()
    done = cli(*SHORT, *overrides)
    assert done.status == 2 and expected in done.err and done.err.count("\n") == 1
    assert not any("command" in call for call in calls)


def test_settings_of_the_class_before_are_left_out_and_ones_own_are_not(cli):
    plain = (f"optim._target_={HERE}.Plain", OWN, "lrd.p=1", "train.threads=1")
    done = cli(*SHORT, "optim=sgdm", *plain, "optim.lr=0.25")
    assert done.status == 0, done.err
    assert "note: Plain takes no momentum, optim.momentum=0.9 is left out" in done.out
    (run,) = find_runs("runs")
    assert run.metrics[0]["lr"] == 0.25
    done = cli(*SHORT, "optim=sgdm", *plain, "optim.momentum=0.8")
    assert done.status == 2 and "optim.momentum is no setting of Plain" in done.err
    done = cli(*SHORT, "optim=adam", "+optim.momentum=0.9")  # a class that has a file
    assert done.status == 2 and "optim.momentum is no setting of Adam" in done.err


def test_a_swapped_class_is_the_run_of_its_own_file(tmp_path: Path):
    """What is left out of the settings is not in the identity either."""

    def identity_of(*overrides: str) -> dict[str, Any]:
        return resolve([OWN, *overrides]).identity

    files = {
        "optim/plain": f"{{_target_: {HERE}.Plain, lr: 0.1}}",
        "optim/rprop": "{_target_: torch.optim.Rprop, lr: 0.1}",
        "model/flat": f"{{_target_: {HERE}.make_flat}}",
        "model/squeeze": "{_target_: torchvision.models.squeezenet1_1}",
        "schedule/step": "{_target_: torch.optim.lr_scheduler.StepLR, step_size: 5}",
        "dataset/own": f"{{_target_: {HERE}.Own}}",
    }
    for name, text in files.items():
        path = tmp_path / f"{name}.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    swapped = {
        "optim/plain": ("optim=sgdm", f"optim._target_={HERE}.Plain"),
        "optim/rprop": ("optim=sgdm", "optim._target_=torch.optim.Rprop"),
        "model/flat": (f"model._target_={HERE}.make_flat",),
        "model/squeeze": ("model._target_=torchvision.models.squeezenet1_1",),
        "schedule/step": (
            *("schedule=poly", "+schedule.step_size=5"),
            "schedule._target_=torch.optim.lr_scheduler.StepLR",
        ),
        "dataset/own": (f"dataset._target_={HERE}.Own", "run.name=own"),
    }
    with use_config_dir(tmp_path):
        for name, overrides in swapped.items():
            group, _, option = name.partition("/")
            own = (f"{group}={option}", *(("run.name=own",) if group == "dataset" else ()))
            assert identity_of(*overrides) == identity_of(*own), name
            assert identity_of(*overrides) != identity_of(), name


@pytest.mark.parametrize("module", [torch.optim, torch.optim.lr_scheduler, torchvision.models])
def test_arguments_are_read_as_python_sees_them(module: ModuleType):
    known = 0
    for name, found in vars(module).items():
        if name.startswith("_") or not callable(found) or "torch" not in found.__module__:
            continue
        taken = arguments_of(f"{module.__name__}.{name}")
        if taken is not None:  # else the settings stay
            parameters = inspect.signature(found).parameters.values()
            kinds = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: ANY}
            assert taken == {kinds.get(p.kind, p.name) for p in parameters} - {"*"}, name
            known += 1
    assert known > 12


def test_a_package_is_allowed_once(cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "mine_once.py").write_text("import torch\nclass Own(torch.optim.SGD):\n    pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "mine_once", raising=False)
    for name, text in {
        "own/settings.yaml": "# @package _global_\nrun: {allow: [mine_once]}\n",
        "optim/own.yaml": "{_target_: mine_once.Own, lr: 0.1}\n",
    }.items():
        path = tmp_path / "my_configs" / name
        path.parent.mkdir(parents=True)
        path.write_text(text)
    done = cli("--config-dir", str(tmp_path / "my_configs"), *SHORT, "optim=own")
    assert done.status == 0, done.err
    (run,) = find_runs("runs")
    assert run.metadata["config"]["run"]["allow"] == ["mine_once"]
    assert run.metadata["config"]["optim"]["_target_"] == "mine_once.Own"
