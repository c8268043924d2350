"""The composer against ``hydra.compose``."""

from pathlib import Path
from typing import Any

import pytest
from hydra._internal import defaults_list
from omegaconf import DictConfig, OmegaConf

from lrd.analysis.resolve import list_experiments
from lrd.analysis.studies import all_studies
from lrd.config.compose import CONFIGS, compose, composer, load, use_config_dir

SAMPLES = [
    "",
    "task=voc_seg optim=sgdm",  # a file of configs/tuned
    "task=cifar10 model=densenet121 dataset=cifar100 train=fast schedule=warmup_cosine",
    "+experiment=table3 optim=sgdm +arm=lrd_sd lrd.p=0.3",
    "+experiment=lr_control task=mnist +arm=base_half optim.lr=0.1 +optim.momentum=0.5",
    "+experiment=table4 +arm=sd_0.6 scale=0.1 seed=3 ~optim.amsgrad",
    "regularizer=dg logger=tensorboard +cluster=local data.root=/a",
    "optim=muon ++model.hidden=[3,4] train.epochs=2",
]
GROUPS = sorted(  # a study is nothing to train
    f"{path.parent.name}={path.stem}"
    for path in CONFIGS.glob("*/*.yaml")
    if path.parent.name != "study"
)


def assert_equal(overrides: list[str]) -> None:
    try:
        expected = load(overrides)
    except Exception as error:
        with pytest.raises(type(error)):
            composer().compose(overrides)
        return
    for _ in range(2):  # what was read is not changed
        found, _ = composer().compose(overrides)
        assert found == expected and list(found) == list(expected)
        assert OmegaConf.to_yaml(found) == OmegaConf.to_yaml(expected)
        assert types_of(found) == types_of(expected)


def types_of(node: DictConfig) -> list[object]:
    nodes: list[Any] = [node._get_node(name) for name in node]
    return [
        (type(n), n._metadata.object_type, types_of(n) if isinstance(n, DictConfig) else None)
        for n in nodes
    ]


@pytest.mark.parametrize("overrides", SAMPLES)
def test_it_composes_as_hydra_does(overrides: str):
    assert_equal(overrides.split())


@pytest.mark.exhaustive
@pytest.mark.parametrize("choice", GROUPS)
def test_every_option_is_composed_as_hydra_does(choice: str):
    group = choice.partition("=")[0]
    added = group in ("arm", "cluster", "experiment", "search", "tuned")
    assert_equal([f"+{choice}" if added else choice])


@pytest.mark.exhaustive
def test_every_configuration_of_the_studies_is_composed_as_hydra_does():
    cells = dict.fromkeys(cell for study in all_studies() for cell in study.cells())
    assert len(cells) > 300
    for cell in cells:
        assert_equal([f"+experiment={cell.experiment}", *cell.overrides])


def test_what_an_experiment_says_to_hydra():
    for experiment in list_experiments():
        _, launch = composer().compose([f"+experiment={experiment}"])
        expected = load([f"+experiment={experiment}"], return_hydra_config=True).hydra.sweeper
        assert OmegaConf.create(launch).sweeper.params == expected.params


def test_options_of_ones_own_are_read_anew(tmp_path: Path):
    (tmp_path / "optim").mkdir()
    (tmp_path / "optim" / "own.yaml").write_text("_target_: torch.optim.SGD\nlr: 3.0\n")
    with use_config_dir(tmp_path):
        assert_equal(["optim=own"])
        assert compose(["optim=own"]).optim.lr == 3
        (tmp_path / "optim" / "own.yaml").write_text("_target_: torch.optim.SGD\nlr: 4.0\n")
    with pytest.raises(ValueError, match="unknown optim 'own'"):
        compose(["optim=own"])
    with use_config_dir(tmp_path):  # as it is now
        assert compose(["optim=own"]).optim.lr == 4


@pytest.mark.parametrize("override", ["seed=0,1", "hydra.run.dir=x", "hydra/launcher=basic"])
def test_what_is_for_run_py_is_refused(override: str):
    with pytest.raises(ValueError, match=r"for hydra\.compose"):
        composer().compose([override])


@pytest.mark.parametrize(
    "content, is_wrong",
    [
        ("model: {hidden: {a: 3}}", True),  # a dictionary over a list
        ("optim: {lr: '???', betas: [0.5, 0.9]}", False),
        ("optim: {weight_decay: {a: 1}}", False),  # over an interpolation
        ("model: {hidden: null, own: {a: {b: [1, {c: 2}]}}}", False),
        ("data: {root: '${run.dir}/data'}", False),
        ("train: {epochs: abc}", True),
        ("train: 3", True),
        ("lrd: {p: null}", True),
    ],
)
def test_files_of_ones_own_merge_as_hydra_merges_them(tmp_path: Path, content: str, is_wrong: bool):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "own.yaml").write_text(f"# @package _global_\n{content}\n")
    overrides = ["+experiment=own", "train.epochs=2", "lrd.p=0.5"]
    with use_config_dir(tmp_path):
        if is_wrong:
            with pytest.raises(Exception):  # noqa: B017 -- whatever Hydra raises
                load(overrides)
            with pytest.raises(ValueError):
                compose(overrides)
            return
        expected, found = load(overrides), compose(overrides)
    assert OmegaConf.to_yaml(found) == OmegaConf.to_yaml(expected)
    assert types_of(found) == types_of(expected)


def test_hydra_itself_is_as_it_was():
    make = defaults_list._create_interpolation_map
    composer().compose(["task=voc_seg"])
    assert defaults_list._create_interpolation_map is make
