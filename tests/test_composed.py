"""Identities that are remembered are those that composing anew gives."""

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import composed
import pytest
import sweep
from composed import Memory, identity_of, key_of, recompose, sources

from lrd.config.compose import CONFIGS, compose, to_config
from lrd.config.fingerprint import identity

P_AND_SEED = {"lrd.p": "1,0.1,0.3,0.5,0.7,0.9", "seed": "0,1,2"}


@pytest.fixture(autouse=True)
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Memory:
    """An empty one, in place of the user's."""
    made = Memory(tmp_path / "cache" / "identities.json", "key")
    for module in (composed, sweep):
        monkeypatch.setattr(module, "remembered", lambda: made)
    return made


def both(overrides: list[str]) -> list[Any]:
    """What comes of a command line by Hydra alone and here: an identity, or a mistake's line."""
    found: list[Any] = []
    for how in (compose, recompose):
        try:
            found.append(identity(to_config(how(overrides))))
        except ValueError as error:
            found.append(str(error))
    return found


@pytest.mark.parametrize(
    "overrides",
    [
        "+experiment=table1_cifar10 optim=adam lrd.p=1",
        "+experiment=table1_cifar10 optim=adam lrd.p=0.5 scale=0.1 lr_factor=2",
        "lrd.p=0.3 optim=sgdm optim.lr=1e-3 optim.lr=2e-3",
        "task=cifar10 model=densenet121 dataset=cifar100 dataset.holdout=500",
        "+optim.amsgrad=true optim._target_=torch.optim.AdamW model.hidden=[7,8]",
        "train=fast train.epochs=5 seed=3",
        "optim.lr=${lrd.p}",
    ],
)
def test_values_are_set_as_hydra_sets_them(overrides: str):
    alone, here = both(overrides.split())
    assert isinstance(alone, dict) and here == alone


@pytest.mark.parametrize(
    "override",
    ["lrd.p=abc", "lrd.p=2", "lrd.q=1", "optim.foo=1", "optim.lr=1,2", "lrd.p=", "optim=x", "a b"],
)
def test_mistakes_are_told_as_ever(override: str):
    alone, here = both([override])
    assert here == alone and (isinstance(alone, str) or override == "lrd.p=")


def test_one_command_lines_values_do_not_leak_into_the_next():
    first = identity_of(["task=digits", "optim.lr=0.5", "model.hidden=[3]"])
    second = identity_of(["task=digits"])
    assert (first["optim.lr"], second["optim.lr"]) == (0.5, 0.001)
    assert (first["model.hidden"], second["model.hidden"]) == ([3], [1000, 1000])


def test_the_next_process_composes_nothing(memory: Memory, monkeypatch: pytest.MonkeyPatch):
    asked = ["task=digits", "lrd.p=0.3"]
    expected = identity_of(asked)
    memory.save()
    again = Memory(memory.path, "key")
    monkeypatch.setattr(composed, "remembered", lambda: again)
    monkeypatch.setattr(composed, "compose", lambda _: pytest.fail("composed anew"))
    assert identity_of(asked) == expected


def test_what_several_processes_learn_is_what_one_finds(
    memory: Memory, monkeypatch: pytest.MonkeyPatch
):
    """Alike groups go to one process; a mistake says nothing until it is asked for."""
    good = [["optim=adam", f"lrd.p={p}"] for p in (1, 0.5)] + [["task=mnist", "lrd.p=0.5"]]
    alone = [identity(to_config(compose(overrides))) for overrides in good]
    swept = sweep._swept("table2")
    with ProcessPoolExecutor(2, get_context("spawn")) as workers:
        composed.learn([*good, ["optim=none"], good[0]], workers)
        sweep.learn(["table2", "table2"], workers)
    monkeypatch.setattr(composed, "compose", lambda _: pytest.fail("composed anew"))
    monkeypatch.setattr(sweep, "_swept", lambda _: pytest.fail("composed anew"))
    assert [identity_of(overrides) for overrides in good] == alone
    assert sweep.swept("table2") == swept == {"optim": "adam,sgdm", **P_AND_SEED}
    assert len(memory.known) == 4
    monkeypatch.undo()
    with pytest.raises(ValueError, match="optim=none is no choice"):
        identity_of(["optim=none"])


def test_what_is_of_other_files_or_damaged_is_forgotten(memory: Memory):
    memory.known["a"] = {"lrd.p": 1}
    memory.save()
    assert Memory(memory.path, "key").known == {"a": {"lrd.p": 1}}
    assert Memory(memory.path, "another").known == {}
    for damage in (b"", b"[]", b"{", b'{"key": "key", "known": 3}'):
        memory.path.write_bytes(damage)
        assert Memory(memory.path, "key").known == {}


def test_what_cannot_be_kept_is_no_mistake(tmp_path: Path):
    (tmp_path / "file").write_text("")
    memory = Memory(tmp_path / "file" / "identities.json", "key")
    memory.known["a"] = {}
    memory.save()


def test_a_weights_file_may_change_and_is_not_remembered(memory: Memory, tmp_path: Path):
    weights = tmp_path / "w.pt"
    weights.write_bytes(b"one")
    before = identity_of(["model=ssd300_vgg16", f"model.weights={weights}"])
    memory.save()
    assert not memory.path.exists() and before["model.weights"].startswith("sha256:")


def test_every_file_that_an_identity_rests_on_is_part_of_the_key(tmp_path: Path):
    there = sources()
    assert {path.name for path in there} >= {"compose.py", "config.py", "identity.py", "adam.yaml"}
    assert {path.name for path in there} >= {"composed.py", "sweep.py"}
    assert len([path for path in there if path.suffix == ".yaml"]) == len(
        [*CONFIGS.rglob("*.yaml")]
    )
    path = tmp_path / "a.yaml"
    keys = set()
    for text in ("p: 1", "p: 0.5"):
        path.write_text(text)
        keys |= {key_of([path]), key_of([path])}
    assert len(keys) == 2
