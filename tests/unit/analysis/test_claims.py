"""Claims: what a study file says of them, and what is wrong in it, in one line."""

import re
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml

from lrd.analysis.claims.specs import MEASURES, CellSpec, Claim, read_claims
from lrd.analysis.studies import read_study
from lrd.analysis.studies.find import find_study
from lrd.config.compose import CONFIGS, compose, to_config
from tests.helpers.small_study import CLAIM


def read(**change: Any) -> Claim:
    claim: dict[str, Any] = deepcopy(CLAIM)
    claim["parts"][0] |= change
    return read_claims({"D1": claim})[0]


def test_a_claim():
    claim = read()
    (rule,) = claim.rules
    assert (claim.name, claim.says, claim.n) == ("D1", "LRD helps on the digits", 3)
    assert (rule.criterion.must, rule.criterion.together, rule.n) == ("rise", "mean", 3)
    assert [pair.label for pair in rule.pairs] == [
        "quickstart optim=adam: lrd.p=1 to lrd.p=0.5",
        "quickstart optim=sgdm: lrd.p=1 to lrd.p=0.5",
    ]
    assert rule.criterion.favors_other


@pytest.mark.parametrize(
    ("measure", "must", "favors"),
    [
        ({"final": "score"}, "rise", True),
        ({"final": "score"}, "no_fall", True),
        ({"final": "score"}, "no_rise", False),
        ({"final": "test_loss"}, "fall", True),
        ({"time": "train_loss", "marks": {"quickstart": [1]}}, "rise", False),
        ({"time": "train_loss", "marks": {"quickstart": [1]}}, "no_rise", True),
        ({"final": "score"}, "no_change", False),
    ],
)
def test_whom_a_rule_speaks_for(measure: Any, must: str, favors: bool):
    """Failed runs of the second arm speak against a rule only if it says something good of it."""
    assert read(measure=measure, must=must).rules[0].criterion.favors_other is favors


def test_sides_of_several_cells():
    pairs = [
        {
            "experiment": {"from": "table2", "to": "table4"},
            "over": {"from.optim": ["adam"]},
            "across": {"from.lrd.p": [0.3, 0.5], "to.+arm": ["sd", "sd_0.8"]},
        },
        {
            "experiment": ["table2"],
            "over": {"lrd.p": [0.5, 0.7]},
            "across": {"optim": ["adam", "sgdm"]},
            "from": ["lrd.p=1"],
        },
    ]
    first, second, third = read(pairs=pairs).rules[0].pairs
    assert first.base == (
        CellSpec("table2", ("optim=adam", "lrd.p=0.3")),
        CellSpec("table2", ("optim=adam", "lrd.p=0.5")),
    )
    assert first.other == (
        CellSpec("table4", ("+arm=sd",)),
        CellSpec("table4", ("+arm=sd_0.8",)),
    )
    assert first.label == "table2 optim=adam lrd.p=0.3,0.5 to table4 +arm=sd,sd_0.8"
    assert (
        second.base
        == third.base
        == (
            CellSpec("table2", ("optim=adam", "lrd.p=1")),
            CellSpec("table2", ("optim=sgdm", "lrd.p=1")),
        )
    )
    assert third.label == "table2 optim=adam,sgdm: lrd.p=1 to lrd.p=0.7"


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"must": "grow"}, "D1: must must be one of rise, fall, no_rise, no_fall, no_change, got"),
        ({"smallest": 0}, "D1: smallest must be above 0, got 0"),
        ({"sd": "wide"}, "D1: sd must be above 0, got wide"),
        ({"n": 1}, "D1: n must be a whole number of seeds of at least 2, got 1"),
        ({"n": True}, "D1: n must be a whole number of seeds of at least 2, got True"),
        ({"expect": "much"}, "D1: expect must be a number, got much"),
        ({"measure": {"last": "score"}}, "D1: measure must be one of final, gap,"),
        ({"measure": "score"}, "D1: measure must be NAME: METRIC, got score"),
        ({"measure": {"gap": "train_loss"}}, "D1: gap must have 2 names, got train_loss"),
        ({"measure": {"final": "score", "until": 1}}, "D1: final has no until"),
        ({"measure": {"time": "train_loss"}}, "D1: marks must be lists of values by experiment"),
        (
            {"measure": {"time": "train_loss", "marks": {"table2": [1]}}},
            "D1: marks must name quickstart",
        ),
        (
            {"measure": {"time": "train_loss", "marks": {"quickstart": [1]}, "until": 2}},
            "D1: until must be above 0 and at most 1, got 2",
        ),
        ({"together": "pooled"}, "D1: together must be one of mean, each, ordered, got pooled"),
        ({"least": 1}, "D1: least must be a whole number and goes with each, got 1"),
        ({"least": 3, "together": "each"}, "D1: least must be at most 2, got 3"),
        ({"pairs": []}, "D1: final must have pairs"),
        ({"pairs": ["quickstart"]}, "D1: pairs must have a list of experiments"),
        ({"measure": {"cost": ["a", "b", "c"]}}, "D1: cost must have no pairs"),
        ({"seeds": 3}, "D1: a part has no seeds: "),
    ],
)
def test_what_is_wrong_is_one_line(change: dict[str, Any], line: str):
    with pytest.raises(ValueError, match=re.escape(line)) as error:
        read(**change)
    assert "\n" not in str(error.value)


def test_a_range_has_as_many_cells_on_both_sides():
    """The range of more runs is larger, so that identical arms would differ."""
    entry = {"experiment": ["table2"], "across": {"from.lrd.p": [1, 0.5], "to.lrd.p": [0.3]}}
    with pytest.raises(ValueError, match="D1: range must have as many cells on both sides"):
        read(pairs=[entry], measure={"range": "score"})
    with pytest.raises(ValueError, match="D1: best must have as many cells on both sides"):
        read(pairs=[entry], measure={"best": "score"})


@pytest.mark.parametrize("missing", ["must", "n", "sd", "smallest", "measure"])
def test_what_a_part_lacks_is_one_line(missing: str):
    claim = deepcopy(CLAIM)
    del claim["parts"][0][missing]
    with pytest.raises(ValueError, match=f"D1: a part must have {missing}"):
        read_claims({"D1": claim})
    with pytest.raises(ValueError, match="D1 must have says, where and parts"):
        read_claims({"D1": {"says": "so"}})


def test_claims_of_a_study_file(tmp_path: Path):
    path = tmp_path / "claims.yaml"
    path.write_text(yaml.safe_dump({"claims": {"D1": CLAIM}}))
    assert read_study(path).claims == (read(),)


def test_every_claim_of_the_paper_is_asked_of_cells_that_compose():
    claims = find_study("lrd_paper")[0].claims
    assert [claim.name for claim in claims][:13] == [f"C{k}" for k in range(1, 14)]
    first = claims[0].rules[0]
    assert len(first.pairs) == 15  # 3 data sets, 5 optimizers
    convergence = next(c for c in claims if c.name == "C12").rules[0].pairs
    assert len(convergence) == 12
    assert convergence[0].base[0].overrides == ("optim=rmsprop", "lrd.p=1")
    assert convergence[0].other[0].overrides == ("optim=sgdm", "lrd.p=0.5")
    last = (r.pairs[-1] for c in claims for r in c.rules if r.pairs)
    for cell in {cell for pair in last for cell in pair.cells}:
        to_config(compose([f"+experiment={cell.experiment}", *cell.overrides]))


def test_the_file_explains_every_word_it_uses():
    """A reader of the rules finds the words above them, or the name of the file that has them."""
    texts = {p.stem: p.read_text() for p in CONFIGS.glob("study/*.yaml")}
    heads = {k: t.partition("\nclaims:")[0] for k, t in texts.items() if "\nclaims:" in t}
    head = heads.pop("lrd_paper")
    assert all("lrd_paper.yaml explains the\n# words" in other for other in heads.values())
    words = ("rise", "fall", "no_rise", "no_change", "mean", "each", "least", "ordered", "sd")
    for word in (*MEASURES, *words, "expect", "marks", "until"):
        assert re.search(rf"\b{word}\b", head), word
