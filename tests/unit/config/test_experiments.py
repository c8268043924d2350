"""The experiments: their numbers of runs, their configurations, and the runs that they share.

The expected configurations are written by hand: every setting that does not come from the files of
the task, the optimizer or their pair.
"""

import dataclasses
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from lrd.analysis.resolve import expand_sweep, setting_name
from lrd.analysis.studies import all_studies
from lrd.config.compose import CONFIGS, compose, to_config
from lrd.config.fingerprint import fingerprint, identity
from lrd.config.schema import Config

# Counted by hand: optimizers x arms x seeds, and so on.
RUNS = {
    "table1_mnist": 5 * 2 * 3,
    "table1_cifar10": 5 * 2 * 3,
    "table1_cifar100": 5 * 2 * 3,
    "table2": 2 * 6 * 3,
    "table3": 2 * 7 * 3,
    "table4": 5 * 3,
    "figure5": 5 * 2 * 3,
    "figure6": 5 * 2 * 3,
    "figure7": 5 * 2 * 3,
    "figure8": 2 * 3,
    "figure9": 2 * 3,
    "figure10": 2 * 6 * 3,
    "figure11": 2 * 7 * 3,
    "figure12": 2 * 3 * 3,
    "figure13": 5 * 3,
    "table1": 3 * 5 * 2 * 3,
    "rmsprop_decay": 2 * 2 * 3,
    "ssd_120k": 2 * 3,
    "lr_control": 5 * 4 * 10,
    "lr_tuned": 5 * 2 * 7 * 5,
    "quickstart": 5 * 2 * 3,
    "fast_digits": 2 * 10,
    "fast_cifar10": 2 * 10,
    "smoke": 4 * 1 * 2,
    "mnist10_p": 2 * 6 * 5,
    "mnist10_arms": 2 * 8 * 5,
    "mnist10_sd": 5 * 5,
    "mnist10_lr": 5 * 4 * 5,
    "cifar10_small": 5 * 2 * 3,
    "cifar10_small_decay": 2 * 2 * 3,
    "shapes": 2 * 2 * 5,
}
BASE, LRD = "lrd.p=1", "lrd.p=0.5"
OPTIMIZERS = ("sgdm", "rmsprop", "adam", "amsgrad", "radam")


@cache
def config(*overrides: str) -> Config:
    return to_config(compose(overrides))


@cache
def mark(*overrides: str) -> str:
    return fingerprint(identity(config(*overrides)))


@cache
def swept(experiment: str) -> list[tuple[str, ...]]:
    return expand_sweep(experiment)


def settings(experiment: str) -> list[tuple[str, ...]]:
    """Its cells, without what names the experiment and the seed."""
    left = ("seed", "experiment")
    found = (tuple(o for o in run if setting_name(o) not in left) for run in swept(experiment))
    return list(dict.fromkeys(found))


def marks(experiment: str) -> list[str]:
    """In the order in which Hydra's sweeper gives the overrides: the sweep's before the file's."""
    return [mark(*cell, f"+experiment={experiment}") for cell in settings(experiment)]


def runs(experiment: str) -> set[tuple[str, int]]:
    """What identifies each run: its fingerprint and its seed."""
    seeds = range(len(swept(experiment)) // len(settings(experiment)))
    return {(m, seed) for m in marks(experiment) for seed in seeds}


def test_every_experiment_is_counted_and_composes():
    """figure4 and figure4_lr are the toy example's, with tests of their own."""
    there = {path.stem for path in (CONFIGS / "experiment").glob("*.yaml")}
    assert there - {"figure4", "figure4_lr"} == set(RUNS)
    for name, number in RUNS.items():
        assert len(set(swept(name))) == number, name
        first = config(*settings(name)[0], f"+experiment={name}")
        assert first.train.epochs >= 1 and identity(first)


@pytest.mark.parametrize("name", ["table1_cifar10", "table2", "table3", "table4"])
def test_no_two_runs_of_an_experiment_are_the_same(name: str):
    assert len(runs(name)) == RUNS[name]


def test_the_cells_of_table_2():
    asked = [f"lrd.p={p}" for p in (1, 0.1, 0.3, 0.5, 0.7, 0.9)]
    cells = [mark("task=cifar10", f"optim={o}", p) for o in ("adam", "sgdm") for p in asked]
    assert marks("table2") == cells


# Table 3 and Figure 12 by hand: p and the regularizers.
ARMS = {
    "base": (BASE, "regularizer=none"),
    "sd": (BASE, "regularizer=sd"),
    "ng": (BASE, "regularizer=ng"),
    "nl": (BASE, "regularizer=nl"),
    "lrd": (LRD, "regularizer=none"),
    "lrd_sd": (LRD, "regularizer=sd"),
    "lrd_ng": (LRD, "regularizer=ng"),
    "dg": (BASE, "regularizer=dg"),
}


@pytest.mark.parametrize(
    "name, arms",
    [
        ("table3", ("base", "sd", "ng", "nl", "lrd", "lrd_sd", "lrd_ng")),
        ("figure12", ("base", "lrd", "dg")),
    ],
)
def test_the_cells_of_named_arms(name: str, arms: tuple[str, ...]):
    cells = [("task=cifar10", f"optim={o}", *ARMS[a]) for o in ("adam", "sgdm") for a in arms]
    assert marks(name) == [mark(*cell) for cell in cells]


def test_table_4_keeps_units_with_p_sd_and_all_of_them_without_dropout():
    base, *dropped = marks("table4")
    adam = ("task=cifar10", "optim=adam", BASE)
    assert base == mark(*adam)
    for found, p_sd in zip(dropped, (0.9, 0.8, 0.7, 0.6), strict=True):
        assert found == mark(*adam, "regularizer=sd", f"regularizer.sd.p_sd={p_sd}")


def test_rmsprop_with_decay_in_the_update_or_not():
    cells = [(o, p) for o in ("rmsprop", "rmsprop_authors") for p in (BASE, LRD)]
    assert marks("rmsprop_decay") == [mark("task=cifar10", f"optim={o}", p) for o, p in cells]
    authors = config("+experiment=rmsprop_decay", "optim=rmsprop_authors").optim
    assert authors["_target_"] == "lrd.rmsprop.RMSpropDecayInMoment"
    assert authors["weight_decay"] == 5e-4


def test_the_small_scale_changes_the_size_alone():
    short = ("task=mnist", "train.epochs=10")
    for arm in ("sd", "lrd_ng", "dg"):
        found = mark("+experiment=mnist10_arms", "optim=sgdm", f"+arm={arm}")
        assert found == mark(*short, "optim=sgdm", f"+arm={arm}")
    assert mark("+experiment=mnist10_sd", "+arm=sd_0.6") == mark(*short, "+arm=sd_0.6")
    assert mark("+experiment=mnist10_p", "lrd.p=0.1") == mark(*short, "optim=adam", "lrd.p=0.1")
    fifth = ("task=cifar10", "model=resnet8", "train.epochs=20", "+dataset.subset=10000")
    for optim in ("radam", "rmsprop_authors"):
        found = mark("+experiment=cifar10_small_decay", f"optim={optim}", LRD)
        assert found == mark(*fifth, f"optim={optim}", LRD)
    long = ("optim=adam", "train.epochs=40", "eval.every=5")
    for task in ("task=shapes_seg", "task=shapes_det"):
        assert mark("+experiment=shapes", task, LRD) == mark(task, *long, LRD)


@pytest.mark.parametrize("optim, rate", [("sgdm", 0.1), ("adam", 0.001), ("radam", 0.03)])
def test_the_arms_of_the_control_are_rates(optim: str, rate: float):
    arms = ("base", "base_half", "lrd", "lrd_rescaled")
    assert [c for c in settings("lr_control") if c[0] == f"optim={optim}"] == [
        (f"optim={optim}", f"+arm={arm}") for arm in arms
    ]
    here = ("task=digits", f"optim={optim}")
    for arm, asked in zip(
        arms,
        [(BASE,), (BASE, f"optim.lr={rate / 2!r}"), (LRD,), (LRD, "lrd.rescale=true")],
        strict=True,
    ):
        found = mark(f"optim={optim}", f"+arm={arm}", "+experiment=lr_control")
        assert found == mark(*here, *asked)
        if arm in ("base", "lrd"):
            assert found == mark("+experiment=quickstart", f"optim={optim}", *asked)


def test_half_a_rate_is_half_of_the_rate_that_a_task_has():
    """SSD's own recipe for SGDM has 0.001, where sgdm has 0.1 elsewhere."""
    for task, rate in (("voc_det", 0.001), ("cifar10", 0.1)):
        asked = ("+experiment=lr_control", f"task={task}", "optim=sgdm", "+arm=base_half")
        assert config(*asked).optim["lr"] == rate / 2
        assert config(*asked, "optim.lr=0.5").optim["lr"] == 0.25


def test_the_grid_of_rates_is_the_same_for_both_arms_and_held_out_samples_choose():
    cells = settings("lr_tuned")
    grid = [f"lr_factor={f}" for f in (0.125, 0.25, 0.5, 1, 2, 4, 8)]
    for optim in OPTIMIZERS:
        for p in (BASE, LRD):
            assert [c[2] for c in cells if c[:2] == (f"optim={optim}", p)] == grid
    asked = config(*cells[0], "+experiment=lr_tuned")
    assert asked.optim["lr"] == 0.1 / 8 and asked.dataset["holdout"] == round(1437 / 5)
    there = mark("task=digits", "optim=radam", LRD, "optim.lr=0.06", "dataset.holdout=287")
    assert mark("+experiment=lr_tuned", "optim=radam", LRD, "lr_factor=2") == there


@pytest.mark.parametrize(
    "name, other, shared",
    [
        ("table2", "table1_cifar10", 2 * 2 * 3),  # p = 1 and p = 0.5
        ("table3", "table1_cifar10", 2 * 2 * 3),  # base and lrd
        ("table4", "table3", 2 * 3),  # Adam's base and sd
        ("table4", "table1_cifar10", 3),  # Adam's base
        ("figure12", "table3", 2 * 2 * 3),  # base and lrd
        ("rmsprop_decay", "table1_cifar10", 2 * 3),  # RMSprop
        ("mnist10_arms", "mnist10_p", 2 * 2 * 5),  # base and lrd
        ("mnist10_sd", "mnist10_arms", 2 * 5),  # Adam's base and sd
        ("mnist10_lr", "mnist10_p", 2 * 2 * 5),  # Adam's and SGDM's base and lrd
        ("cifar10_small_decay", "cifar10_small", 2 * 3),  # RMSprop
    ],
)
def test_a_cell_that_two_experiments_share_is_one_run(name: str, other: str, shared: int):
    assert len(runs(name) & runs(other)) == shared


@pytest.mark.parametrize(
    "name, other",
    [
        ("figure5", "table1_mnist"),
        ("figure6", "table1_cifar10"),
        ("figure7", "table1_cifar100"),
        ("figure10", "table2"),
        ("figure11", "table3"),
        ("figure13", "table4"),
    ],
)
def test_a_figure_of_a_table_is_its_runs(name: str, other: str):
    assert settings(name) == settings(other)
    for cell in (settings(name)[0], settings(name)[-1]):
        assert mark(*cell, f"+experiment={name}") == mark(*cell, f"+experiment={other}")


def test_table1_is_table_1():
    rows = [("mnist", "mnist"), ("cifar10", "cifar10"), ("cifar100", "cifar100")]
    table = {(f"task={task}", *cell) for task, row in rows for cell in settings(f"table1_{row}")}
    assert set(settings("table1")) == table
    for task, row in rows:
        for p in (BASE, LRD):
            asked = ("+experiment=table1", f"task={task}", "optim=radam", p)
            assert mark(*asked) == mark(f"+experiment=table1_{row}", "optim=radam", p)


def test_every_cell_of_a_table_or_a_figure_is_one_of_its_experiments_sweep():
    studies = all_studies()
    asked = [cell for s in studies for table in s.tables.values() for cell in table.cells()]
    figures = [figure for study in studies for figure in study.figures.values()]
    asked += [curve.cell for figure in figures for curve in figure.curves()]
    for cell in asked:
        assert any(set(cell.overrides) >= set(swept) for swept in settings(cell.experiment)), cell


def test_a_table_asks_for_every_cell_of_its_experiments():
    for table in (table for study in all_studies() for table in study.tables.values()):
        for experiment in dict.fromkeys(cell.experiment for cell in table.cells()):
            asked = {frozenset(c.overrides) for c in table.cells() if c.experiment == experiment}
            assert asked == set(map(frozenset, settings(experiment)))


def test_scale_shortens_an_experiment_with_its_schedule():
    for name, epochs in (("table2", 200), ("table4", 200), ("table1_mnist", 100)):
        whole, part = (config(f"+experiment={name}", *more) for more in ((), ("scale=0.15",)))
        assert (whole.train.epochs, part.train.epochs) == (epochs, round(0.15 * epochs))
        same = dataclasses.replace(part, scale=1.0, train=whole.train)
        assert same == whole  # milestones are parts of the run


def test_the_sweep_is_what_hydra_runs(cli: Callable[..., object], monkeypatch: pytest.MonkeyPatch):
    """Against the jobs that Hydra's own multirun starts, their order and settings."""
    monkeypatch.setattr("lrd.cli.RunFunction.check", lambda self, config: None)  # CIFAR's files
    for name, more in (("table4", ("seed=range(3,4)",)), ("smoke", ("task=digits", "seed=0,1"))):
        jobs: list[list[str]] = []
        monkeypatch.setattr(
            "lrd.cli.RunFunction.__call__",
            lambda self, cfg, to=jobs: to.append(list(HydraConfig.get().overrides.task)),
        )
        cli("-m", f"+experiment={name}", *more)
        assert len(jobs) > 1 and [tuple(job) for job in jobs] == expand_sweep(name, more)


def test_a_run_that_another_experiment_made_is_found(cli: Callable[..., Any]):
    """Table 3's arm lrd and Table 2's p = 0.5, on the digits for an epoch."""
    short = ("task=digits", "optim=adam", "seed=0", "train.epochs=1")
    first = cli("-m", "+experiment=table2", *short, LRD)
    assert first.status == 0 and "finished already" not in first.out
    second = cli("-m", "+experiment=table3", *short, "+arm=lrd,sd")
    assert second.status == 0 and second.out.count("finished already") == 1


def test_the_files_name_their_runs():
    """The comment at the head of an experiment says how many runs it is."""
    for name, number in RUNS.items():
        text = (CONFIGS / "experiment" / f"{name}.yaml").read_text()
        if OmegaConf.select(OmegaConf.create(text), "hydra.sweeper.params.seed"):
            head = " ".join(line[2:] for line in text.splitlines() if line.startswith("# "))
            assert f" {number} runs" in head, name
