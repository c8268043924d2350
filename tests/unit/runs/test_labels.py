"""What a run is called on a dashboard, by what its configuration amounts to."""

from dataclasses import asdict
from pathlib import Path

import pytest

from lrd.runs import labels
from tests.helpers.finished_runs import configured

OPTIMIZERS = {
    "sgdm": "SGDM",
    "rmsprop": "RMSprop",
    "adam": "Adam",
    "amsgrad": "AMSGrad",
    "radam": "RAdam",
}


@pytest.mark.parametrize("arm", ["base", "lrd", "sd", "nl", "ng", "dg", "lrd_sd", "lrd_ng"])
def test_the_arm_is_what_the_configuration_amounts_to(tmp_path: Path, arm: str):
    config = asdict(configured(tmp_path, "task=cifar10", f"+arm={arm}"))
    assert labels.arm_name(config) == arm


def test_a_schedule_of_p_is_lrd_too(tmp_path: Path):
    asked = ("lrd.p=1", "lrd.schedule=linear", "lrd.p_end=0.5")
    assert labels.arm_name(asdict(configured(tmp_path, *asked))) == "lrd"


@pytest.mark.parametrize("optim, name", OPTIMIZERS.items())
def test_an_optimizer_has_the_papers_name(tmp_path: Path, optim: str, name: str):
    assert labels.names_of(asdict(configured(tmp_path, f"optim={optim}")))["optimizer"] == name


def test_everything_is_named_by_what_is_made_and_not_by_the_choice(tmp_path: Path):
    made = configured(
        tmp_path,
        "optim=adam",
        "optim._target_=torch.optim.AdamW",
        "task=digits",
        "dataset._target_=mine.data.Scans",
        "model._target_=mine.nets.UNet",
        "dataset.name=digits",
    )
    assert labels.names_of(asdict(made)) == {
        "task": "Classification",
        "dataset": "Scans",
        "model": "UNet",
        "optimizer": "AdamW",
        "arm": "lrd",
    }
