"""Configurations composed in parts are those that Hydra composes; sweeps are Hydra's."""

from itertools import product

import pytest

from lrd.analysis.resolve import expand_sweep, resolve, resolve_cells, sweep_values
from lrd.analysis.studies import all_studies
from lrd.config.compose import explain, load, to_config
from lrd.config.schema import Config


def hydra_alone(overrides: list[str]) -> Config:
    try:
        composed = load(overrides)
    except Exception as error:
        raise ValueError(explain(error, overrides)) from error
    return to_config(composed)


def both(overrides: list[str]) -> list[str]:
    """What comes of a command line by Hydra alone and here: a configuration with its types and its
    order, or a mistake's line."""
    found = []
    for how in (hydra_alone, lambda words: resolve(words).config):
        try:
            found.append(repr(how(overrides)))
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
        "train.weight_decay=0.1 optim.weight_decay=0.2",
        "task=cifar10 train.weight_decay=0.1 seed=7",  # the optimizer refers to it
        "dataset=folder dataset.path=/data/cats lrd.p=1",  # its name follows from its path
        "optim=sgdm optim.momentum=null train.max_steps=3 run.keep=none lrd.rescale=true",
        'lrd.p=1 lrd.schedule=linear lrd.p_end=0.5 run.name=3 data.root="~/a"',
    ],
)
def test_values_are_set_as_hydra_sets_them(overrides: str):
    alone, here = both(overrides.split())
    assert alone.startswith("Config(") and here == alone


@pytest.mark.exhaustive
@pytest.mark.parametrize("changes", ["", "scale=0.1 seed=5", "train.epochs=3 lr_factor=0.5"])
def test_every_configuration_of_the_studies_is_as_hydra_alone_makes_it(changes: str):
    cells = [cell for study in all_studies() for cell in study.cells()]
    resolve_cells((cell, changes.split()) for cell in cells)
    for cell in dict.fromkeys(cells):
        alone, here = both([f"+experiment={cell.experiment}", *cell.overrides, *changes.split()])
        assert alone.startswith("Config(") and here == alone


@pytest.mark.parametrize(
    "override",
    [
        *("lrd.p=abc", "lrd.p=2", "lrd.q=1", "optim.foo=1", "optim.lr=1,2", "lrd.p=", "optim=x"),
        *(
            "a b",
            "train.epochs=1.5",
            "seed=true",
            "run.name=null",
            "lrd=1",
            "optim=null",
            "lrd.p.q=1",
        ),
        *("lrd.p_end=0.5", "train.accumulate=3", "optim.lr=???", "seed=-1", "scale=0", "optim=1"),
    ],
)
def test_mistakes_are_told_as_ever(override: str):
    alone, here = both([override])
    assert here == alone and not alone.startswith("Config(")


def test_one_command_lines_values_do_not_leak_into_the_next():
    first = resolve(["task=digits", "optim.lr=0.5", "model.hidden=[3]"])
    second = resolve(["task=digits"])
    first, second = first.identity, second.identity
    assert (first["optim.lr"], second["optim.lr"]) == (0.5, 0.001)
    assert (first["model.hidden"], second["model.hidden"]) == ([3], [1000, 1000])


P = ("1", "0.1", "0.3", "0.5", "0.7", "0.9")


def test_a_sweep_is_the_product_of_its_values_in_their_order():
    found = expand_sweep("table2")
    asked = product(("adam", "sgdm"), P, "012")
    assert found == [
        (f"optim={o}", f"lrd.p={p}", f"seed={s}", "+experiment=table2") for o, p, s in asked
    ]


def test_what_is_given_on_the_command_line_replaces_the_files_sweep():
    found = expand_sweep("table2", ["optim=adam", "seed=range(3,5)", "scale=0.15"])
    asked = product(P, (3, 4))
    assert found == [
        ("optim=adam", f"lrd.p={p}", f"seed={s}", "+experiment=table2", "scale=0.15")
        for p, s in asked
    ]


def test_values_are_read_in_hydras_grammar():
    assert sweep_values("seed", "range(0,3)") == ["0", "1", "2"]
    assert sweep_values("lrd.p", "1,0.5") == ["1", "0.5"]
    assert sweep_values("regularizer", "[sd,nl]") == ["[sd,nl]"]
    assert set(sweep_values("optim", "glob(r*)")) == {"radam", "rmsprop", "rmsprop_authors"}


@pytest.mark.parametrize(
    "experiment, overrides, line",
    [
        ("nothing", [], "unknown experiment 'nothing'; available: cifar10_"),
        ("table2", ["seed=range(3"], "cannot parse 'seed=range(3' as KEY=VALUE"),
        ("table2", ["lrd.p=interval(0,1)"], "BasicSweeper does not support sweep type"),
    ],
)
def test_what_is_no_sweep_is_one_line(experiment: str, overrides: list[str], line: str):
    with pytest.raises(ValueError) as error:
        expand_sweep(experiment, overrides)
    assert line in str(error.value) and "\n" not in str(error.value)
