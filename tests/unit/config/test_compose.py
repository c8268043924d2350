"""Composition: each rule has its error line, and the command line wins."""

import shlex
from pathlib import Path

import pytest

from lrd.analysis.resolve import resolve, sweep_parameters
from lrd.config.compose import CONFIGS, compose, config_dirs, to_config, use_config_dir
from lrd.config.fingerprint import fingerprint, identity
from lrd.config.messages import GROUP_MEANINGS, MAIN_SETTINGS, READ_ELSEWHERE, closed_settings
from lrd.config.schema import LRD
from lrd.optim.options import GRANULARITIES
from lrd.schedules import RAMPS

ERRORS = {
    "lrd.p=0": "lrd.p must be in (0, 1] (the probability to KEEP an update), got 0.0",
    "lrd.p=1.5": "lrd.p must be in (0, 1] (the probability to KEEP an update), got 1.5",
    "lrd.p=nan": "lrd.p must be in (0, 1] (the probability to KEEP an update), got nan",
    "lrd.p=abc": "lrd.p must be a number, got abc",
    "lrd.granularity=column": "lrd.granularity must be one of element, row, tensor, got column",
    "lrd.rescale=maybe": "lrd.rescale must be true or false, got maybe",
    "lrd.schedule=poly": "lrd.schedule must be one of constant, linear, cosine, got poly",
    "lrd.p_end=0": "lrd.p_end must be in (0, 1] (the p after the last step), got 0.0",
    "lrd.p_end=0.3": "lrd.p_end must be left out under lrd.schedule=constant (choose linear or",
    "lrd.q=1": "unknown setting lrd.q. Did you mean lrd.p?",
    "+lrd.q=1": "unknown setting lrd.q. Did you mean lrd.p?",
    "+foo=1": "unknown setting foo; python run.py --help lists all settings",
    "train.precison=tf32": "unknown setting train.precison. Did you mean train.precision?",
    "optim=foo": "unknown optim 'foo'; available: adam, amsgrad, muon, radam,",
    "+experiment=foo": "unknown experiment 'foo'; available: cifar10_small,",
    "optim.lrr=1": "unknown setting optim.lrr. Did you mean optim.lr?",
    "optim.momentun=1": "unknown setting optim.momentun; if the class takes it: +optim.momentun=1",
    "optim.betas=[0.9,0.99]": "if the class takes it: +optim.betas=[0.9,0.99]",
    "lr=0.1": "unknown setting lr. Did you mean optim.lr?",
    "epochs=3": "unknown setting epochs. Did you mean train.epochs?",
    "~epochs": "unknown setting epochs. Did you mean train.epochs?",
    "+epochs=3": "unknown setting epochs. Did you mean train.epochs?",
    "batch_size=3": "Did you mean train.batch_size or eval.batch_size?",
    "hiddens=[3]": "unknown setting hiddens. Did you mean model.hidden?",
    "lrd.zzzz=1": "unknown setting lrd.zzzz; available: lrd.p, lrd.granularity,",
    "experiment=table1_mnist": "experiment is added with +: +experiment=table1_mnist (every run",
    "cluster=slurm": "cluster is added with +: +cluster=slurm (where the runs",
    "arm=lrd": "arm is added with +: +arm=lrd (LRD and",
    "search=optuna": "search is added with +: +search=optuna (a search",
    "task@x=mnist": "unknown setting task@x",
    "study=paper": "study is nothing to train; scripts/table.py reads it",
    "+study=lrd_paper": "configs/study/lrd_paper.yaml has an unknown setting: study",
    "~arm": "~arm: nothing to remove, no arm is chosen",
    "+task=mnist": "task is chosen without +: task=mnist",
    "++task=mnist": "task is chosen without +: task=mnist",
    "+optim=sgdm": "optim is chosen without +: optim=sgdm",
    "optim=lion": "sgdm; a class of your own: optim._target_=PACKAGE.CLASS run.allow=[PACKAGE]",
    "~optim": "one optim must be chosen: optim=NAME, of adam, amsgrad, muon, radam, rmsprop,",
    "~task": "one task must be chosen: task=NAME, of cifar10,",
    "~model": "one model must be chosen: model=NAME, of densenet121,",
    "optim=null": "optim=null: one optim must be chosen: optim=NAME, of adam,",
    "optim=[adam,sgdm]": "one optim must be chosen: optim=NAME, of adam,",
    "hydra=null": "hydra is a group, whose options have names, got hydra=null",
    "wandb=offline": "wandb holds several settings, got offline. Did you mean wandb.mode=offline?",
    "lrd=0.5": "lrd holds several settings, got 0.5. Did you mean lrd.p=0.5? It has lrd.p, ",
    "seed=0-4": "seed=0-4: a run has one value; several runs: -m seed=range(0,5)",
    "task=mnist,cifar10": "task=mnist,cifar10 is a sweep and needs -m",
    "seed=": "seed must be a whole number, got nothing",
    "run.dir=null": "run.dir must have a value, got null",
    "~run.dir": "~run.dir: a setting cannot be removed; run.dir=VALUE changes it",
    "run.dir=~/x": """'~' needs quotes: 'run.dir="~/x"'""",
    "run.dir=a#b": """'#' needs quotes: 'run.dir="a#b"'""",
    "run.dir=é": """'é' needs quotes: 'run.dir="é"'""",
    'run.dir=a"#': "a bracket or a quote is not closed",
    "=3": "cannot parse '=3' as KEY=VALUE: the key is missing",
    "é=3": "cannot parse 'é=3' as KEY=VALUE: 'é' is no name of a setting",
    "train.epochs=-1": "train.epochs must be at least 1, got -1",
    "train.epochs=1.5": "train.epochs must be a whole number, got 1.5",
    "train.weight_decay=-1": "train.weight_decay must be at least 0, got -1.0",
    "train.batch_size=0": "train.batch_size must be at least 1, got 0",
    "train.max_steps=0": "train.max_steps must be at least 1, or null, got 0",
    "train.threads=0": "train.threads must be at least 1, or null, got 0",
    "train.precision=fp64": "train.precision must be one of fp32, tf32, bf16, fast, got fp64",
    "train.device=tpu": "train.device must be auto, cpu, cuda, or a GPU such as cuda:1, got tpu",
    "train.device=cuda:x": "train.device must be auto, cpu, cuda, or a GPU such as cuda:1, got ",
    "cluster.cells_per_gpu=0": "cluster.cells_per_gpu must be at least 1, got 0",
    "eval.batch_size=0": "eval.batch_size must be at least 1, got 0",
    "data.workers=-1": "data.workers must be at least 0, or null (by the device), got -1",
    "seed=-1": "seed must be in [0, 2**63), got -1",
    "scale=0": "scale must be above 0, got 0",
    "run.name=../../etc": "run.name must be letters, digits, '_', '-' and '.', got ../../etc",
    "dataset.name=../etc": "run.name must be letters, digits, '_', '-' and '.', got ../etc",
    "lrd=${0}": "lrd: Interpolation key '0' not found",
    "wandb.mode=on": "wandb.mode must be one of disabled, offline, online, got ",
    "lrd.p=1,0.5": "lrd.p=1,0.5 is a sweep and needs -m (a list needs brackets)",
    "lrd": "cannot parse 'lrd' as KEY=VALUE: '=' is missing",
    "train.epochs=[": "a bracket or a quote is not closed",
    "run.allow=${seed}": "run.allow must be a list in brackets, got 0",
    "eval.scales=${lrd.p}": "eval.scales must be a list in brackets, got 0.5",
    "wandb.tags=3": "wandb.tags must be a list in brackets, got 3",
    "lrd=null": "lrd must have a value, got null",
}


@pytest.mark.parametrize(("override", "line"), ERRORS.items(), ids=ERRORS)
def test_every_mistake_is_one_line(override: str, line: str):
    with pytest.raises(ValueError) as caught:
        to_config(compose([override]))
    assert line in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("value", ["a#b", "~/x", "é", "a'b", "a(b"])
def test_the_quoted_form_in_an_error_works(value: str, monkeypatch: pytest.MonkeyPatch):
    """What the line says to type is typed, as a shell passes it on."""
    monkeypatch.setenv("HOME", "/home/me")
    with pytest.raises(ValueError) as caught:
        compose([f"run.dir={value}"])
    if value in ("a'b", "a(b"):
        assert "a bracket or a quote is not closed" in str(caught.value)
        return
    (typed,) = shlex.split(str(caught.value).rpartition("needs quotes: ")[2])
    assert to_config(compose([typed])).run.dir == value.replace("~", "/home/me")


def test_a_home_directory_is_expanded_in_every_path(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("LRD_DATA", "~/data")
    asked = ["+dataset.path='~/own'", "+model.files=['~/a','b~/c']", "run.dir='a/~'"]
    config = to_config(compose(asked))
    assert config.data.root == "/home/me/data" and config.run.dir == "a/~"
    assert config.dataset["path"] == "/home/me/own"
    assert config.model["files"] == ["/home/me/a", "b~/c"]


def test_every_group_says_what_it_chooses():
    folders = {path.name for path in CONFIGS.iterdir() if path.is_dir()}
    assert folders - READ_ELSEWHERE.keys() == GROUP_MEANINGS.keys()
    names = closed_settings()
    assert set(MAIN_SETTINGS.values()) <= set(names) and len(names) == len(set(names))


PAPER = {
    "sgdm": {"lr": 0.1, "momentum": 0.9},
    "rmsprop": {"lr": 0.001, "alpha": 0.99},
    "rmsprop_authors": {"lr": 0.001, "alpha": 0.99},
    "adam": {"lr": 0.001},
    "amsgrad": {"lr": 0.001, "amsgrad": True},
    "radam": {"lr": 0.03},
}


@pytest.mark.parametrize("optim", PAPER)
@pytest.mark.parametrize("task", ["mnist", "cifar10", "cifar100"])
def test_the_papers_learning_rates_and_weight_decays_apply(task: str, optim: str):
    got = to_config(compose([f"task={task}", f"optim={optim}"])).optim
    target = got.pop("_target_")
    decay = 0.0 if task == "mnist" else 5e-4
    assert got == {**PAPER[optim], "weight_decay": decay} and isinstance(target, str)


def test_an_optimizer_without_a_weight_decay_takes_the_task_s():
    class_alone = ["~optim.weight_decay", "optim._target_=my.Lion"]
    assert to_config(compose(["task=cifar10", *class_alone])).optim["weight_decay"] == 5e-4
    assert to_config(compose(["task=voc_seg", *class_alone])).optim["weight_decay"] == 1e-4
    assert "weight_decay" not in to_config(compose(class_alone)).optim  # the digits have none


@pytest.mark.parametrize("weight_decay", [0.0, 0.25])
def test_an_optimizer_s_own_weight_decay_wins_over_the_task_s(weight_decay: float):
    config = to_config(compose(["task=cifar10", f"optim.weight_decay={weight_decay}"]))
    assert config.optim["weight_decay"] == weight_decay
    task_s = to_config(compose(["task=cifar10", f"train.weight_decay={weight_decay}"]))
    assert identity(task_s) == identity(config)


@pytest.mark.parametrize(
    ("task", "dataset", "model", "schedule", "epochs"),
    [
        ("mnist", "MNIST", "FCNet", "Constant", 100),
        ("cifar10", "CIFAR10", "ResNet34", "Steps", 200),
        ("cifar100", "CIFAR100", "DenseNet121", "Steps", 200),
    ],
)
def test_the_papers_protocol(task: str, dataset: str, model: str, schedule: str, epochs: int):
    config = to_config(compose([f"task={task}"]))
    parts = (config.dataset, config.model, config.schedule)
    assert [p["_target_"].split(".")[-1] for p in parts] == [dataset, model, schedule]
    assert (config.train.epochs, config.train.batch_size, config.lrd.p) == (epochs, 128, 0.5)
    assert config.train.precision == "fp32"
    assert config.run.name == task


@pytest.mark.parametrize("first", [True, False])
def test_the_command_line_wins_in_any_order(first: bool):
    choices = ["task=cifar10", "model=resnet18", "dataset=cifar100", "optim=adam"]
    values = ["optim.weight_decay=0.25", "train.epochs=3"]
    config = to_config(compose((values + choices) if first else (choices + values)))
    assert config.model["_target_"].endswith("ResNet18")
    assert config.dataset["name"] == "cifar100" == config.run.name
    assert config.optim["weight_decay"] == 0.25 and config.train.epochs == 3


def test_the_data_folder_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LRD_DATA", "/some/where")
    assert to_config(compose([])).data.root == "/some/where"
    monkeypatch.delenv("LRD_DATA")
    assert to_config(compose([])).data.root == "data"


def test_lr_factor_multiplies_the_learning_rate():
    """Both ways to request half the learning rate give one identity."""
    half, same = to_config(compose(["lr_factor=0.5"])), to_config(compose(["optim.lr=0.0005"]))
    assert half.optim["lr"] == 0.0005 and identity(half) == identity(same)
    with pytest.raises(ValueError, match="lr_factor must be above 0, got 0"):
        to_config(compose(["lr_factor=0"]))
    with pytest.raises(ValueError, match="lr_factor must have an optim.lr to multiply, got .*None"):
        to_config(compose(["optim.lr=null", "lr_factor=2"]))


def test_settings_beyond_the_paper_are_in_the_identity_if_they_differ_from_the_default():
    def mark(*overrides: str) -> str:
        return fingerprint(identity(to_config(compose(overrides))))

    defaults = ["lrd.granularity=element", "lrd.rescale=false", "lrd.schedule=constant"]
    assert mark(*defaults, "lrd.p_end=1") == mark()
    others = [["lrd.granularity=row"], ["lrd.granularity=tensor"], ["lrd.rescale=true"]]
    others += [["lrd.schedule=linear"], ["lrd.schedule=cosine"]]
    others += [["lrd.schedule=cosine", "lrd.p_end=0.9"]]
    assert len({mark(), *(mark(*other) for other in others)}) == 7


def test_the_settings_have_the_options_that_the_optimizer_has():
    for granularity in GRANULARITIES:
        assert LRD(granularity=granularity).granularity == granularity
    for schedule in RAMPS:
        assert LRD(schedule=schedule).schedule == schedule


def test_a_directory_of_ones_own_adds_options_while_it_is_in_use(tmp_path: Path):
    """As run.py --config-dir does; the same options have other values in another directory."""
    for name, rates in {"one": "0.1,0.2", "other's": "0.3"}.items():
        folder = tmp_path / name / "experiment"
        folder.mkdir(parents=True)
        text = "# @package _global_\nhydra: {sweeper: {params: {optim.lr: 'RATES'}}}\n"
        (folder / "mine.yaml").write_text(text.replace("RATES", rates))
        with use_config_dir(tmp_path / name):
            assert sweep_parameters("mine") == {"optim.lr": rates}
            assert resolve(["+experiment=mine", "optim=sgdm"]).config.optim["momentum"] == 0.9
            assert config_dirs() == (tmp_path / name, CONFIGS)
    with pytest.raises(ValueError, match="unknown experiment 'mine'; available: cifar10_"):
        compose(["+experiment=mine"])
    with (
        pytest.raises(ValueError, match="--config-dir must be a directory, got nowhere"),
        use_config_dir("nowhere"),
    ):
        pass
