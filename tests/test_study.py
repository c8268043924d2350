"""The cells of an experiment between two arms: what is swept, what is said instead, what lacks."""

from pathlib import Path

import pytest
from study import asked_seeds, beside, missing, printed, studies, study

from tests.test_equivalence import begun, finish

P = ("lrd.p=1", "lrd.p=0.5")
NAMED = ("+arm=base", "+arm=dg")
OPTIMIZERS = ["sgdm", "rmsprop", "adam", "amsgrad", "radam"]


@pytest.mark.parametrize(
    "experiment, arms, overrides, cells",
    [
        ("quickstart", P, [], {"optim": OPTIMIZERS}),
        ("quickstart", P, ["optim=adam"], {}),  # one value is no sweep
        ("quickstart", P, ["optim=adam,sgdm"], {"optim": ["adam", "sgdm"]}),
        ("quickstart", P, ["lrd.p=0.7", "seed=0,1"], {"optim": OPTIMIZERS}),
        ("quickstart", P, ["train.epochs=2,3"], {"optim": OPTIMIZERS, "train.epochs": ["2", "3"]}),
        ("table3", NAMED, [], {"optim": ["adam", "sgdm"]}),
        ("fast_digits", P, [], {"train": ["paper", "fast"]}),
        (
            "fast_digits",
            ("train=paper lrd.p=1", "train=fast lrd.p=0.5"),
            ["optim=sgdm,adam"],
            {"optim": ["sgdm", "adam"]},
        ),
    ],
)
def test_the_cells_are_what_is_swept_beside_the_arms(
    experiment: str, arms: tuple[str, str], overrides: list[str], cells: dict[str, list[str]]
):
    assert beside(experiment, arms, overrides) == cells


def test_seeds_are_the_command_lines_then_the_experiments_then_ten():
    assert asked_seeds("quickstart", []) == (0, 1, 2)
    assert asked_seeds("quickstart", ["seed=4"]) == (4,)
    assert asked_seeds("quickstart", ["seed=range(5,8)", "optim=adam"]) == (5, 6, 7)
    assert asked_seeds("smoke", []) == tuple(range(10))


def test_every_cell_has_both_arms_with_their_runs(tmp_path: Path):
    for optim, p, seed in (("adam", 1, 0), ("adam", 0.5, 0), ("sgdm", 1, 2)):
        finish(tmp_path, 90.0 + seed, seed, "task=digits", f"optim={optim}", f"lrd.p={p}")
    begun(tmp_path, 1, "task=digits", "optim=sgdm", "lrd.p=0.5").write(status="failed")
    found = studies("quickstart", P, ["optim=sgdm,adam"], str(tmp_path))
    assert [s.at for s in found] == [("optim=sgdm",), ("optim=adam",)]
    sgdm, adam = ([f.n for f in s.filled] for s in found)
    assert (sgdm, adam) == ([1, 0], [1, 1])
    assert [r.seed for r in found[0].filled[1].failed] == [1]  # no run of its cell, and not lost
    assert [len(s.pairs()) for s in found] == [0, 1]
    assert found[1].filled[0].identity["optim._target_"] == "torch.optim.Adam"
    assert missing(found) == [
        "python run.py -m +experiment=quickstart optim=sgdm,adam lrd.p=1 seed=0,1,2",
        "python run.py -m +experiment=quickstart optim=sgdm,adam lrd.p=0.5 seed=0,1,2",
    ]


def test_a_study_is_one_cell(tmp_path: Path):
    (found,) = studies("quickstart", P, ["optim=adam", "seed=3"], str(tmp_path))
    assert found == study("quickstart", P, ["optim=adam", "seed=3"], str(tmp_path))
    assert (found.at, found.seeds, found.overrides) == ((), (3,), ("optim=adam",))
    with pytest.raises(ValueError, match="optim must be one value here, got sgdm,rmsprop,adam"):
        study("quickstart", P, [], str(tmp_path))
    with pytest.raises(ValueError, match="the arms must be different configurations"):
        studies("quickstart", ("lrd.p=1", "lrd.p=1.0"), ["optim=adam"], str(tmp_path))


def test_a_cell_knows_what_the_paper_prints_for_it(tmp_path: Path):
    """Table 1, MNIST, Adam: 97.88 without and 98.15 with LRD; nothing is printed at p = 0.4."""
    assert printed("table1_mnist", ("optim=adam", "scale=0.1", "lrd.p=1")) == 97.88
    assert printed("table1_mnist", ("optim=adam", "lrd.p=0.4")) is None
    assert printed("fast_digits", ("optim=adam", "lrd.p=1")) is None
    (found,) = studies("table1_mnist", P, ["optim=adam", "scale=0.1"], str(tmp_path))
    assert [f.cell.paper for f in found.filled] == [97.88, 98.15]
