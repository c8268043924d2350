"""Whatever is typed, a configuration builds or is refused in one line; never a traceback."""

import os
import subprocess
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lrd.config.compose import compose, to_config
from lrd.config.fingerprint import fingerprint, flatten, identity
from lrd.config.schema import Config
from lrd.training import builder

GROUPS = ["task", "dataset", "model", "optim", "schedule", "regularizer", "train", "+experiment"]
OPTIONS = [
    *("digits", "mnist", "cifar10", "fcnet", "resnet18", "adam", "radam", "sgdm", "constant"),
    *("steps", "poly", "none", "paper", "smoke", "table1_mnist", "toy", "", "../config", "[a,b]"),
]
SETTINGS = [
    *(name for name in flatten(asdict(Config())) if "." in name),
    *("seed", "scale", "optim.lr", "optim.weight_decay", "optim.momentum", "optim.betas"),
    *("optim._target_", "model._target_", "task._target_", "schedule._target_", "model.hidden"),
    *("dataset.holdout", "dataset.name", "schedule.milestones", "task.x", "foo", "lrd", "optim"),
]
VALUES = st.one_of(
    st.integers(-(2**70), 2**70).map(str),
    st.integers(-2, 40).map(str),
    st.floats().map(str),
    st.sampled_from(["null", "true", "[]", "[1,2]", "{a: 1}", "{_target_: os.system}", "'", "a b"]),
    st.sampled_from(["${seed}", "${nothing}", "${oc.env:HOME}", "???", "cpu", "bf16", "offline"]),
    st.sampled_from(["torch.optim.AdamW", "torch.optim.LBFGS", "torch.optim.Muon", "os.system"]),
    st.sampled_from(
        ["torch.utils.collect_env.run", "torch.load", "torch", "lrd.rng.fold_key", "a..b"]
    ),
    st.text(max_size=8),
)
OVERRIDES = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(GROUPS), st.sampled_from(OPTIONS)).map("=".join),
        st.tuples(st.sampled_from(["", "+", "++"]), st.sampled_from(SETTINGS), VALUES).map(
            lambda t: f"{t[0]}{t[1]}={t[2]}"
        ),
        st.sampled_from(SETTINGS).map(lambda name: f"~{name}"),
        st.text(max_size=12),
    ),
    min_size=1,
    max_size=4,
)


@settings(
    max_examples=int(os.environ.get("LRD_EXAMPLES", "300")),
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(overrides=OVERRIDES)
def test_random_settings_build_or_are_refused_in_one_line(
    overrides: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    def never(*arguments: object, **settings: object) -> None:
        raise AssertionError(f"executed {arguments}")

    monkeypatch.setattr(os, "system", never)
    monkeypatch.setattr(subprocess, "Popen", never)
    monkeypatch.chdir(tmp_path)
    try:
        config = to_config(compose(overrides))
        config.model = {**config.model, "hidden": [8]} if "hidden" in config.model else config.model
        builder.build(config)
    except ValueError as error:
        assert str(error) and "\n" not in str(error), str(error)
    else:
        assert len(fingerprint(identity(config))) == 12
    finally:
        torch.set_flush_denormal(False)  # which a run sets, and which hypothesis is not made for
    assert not list(tmp_path.iterdir())
