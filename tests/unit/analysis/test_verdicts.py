"""Verdicts: the rules by hand-worked intervals, the measures by hand-made runs."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from lrd.analysis.frames import RunFrames
from lrd.analysis.matching import CellResults, collect_results
from lrd.analysis.studies import (
    STUDIES,
    Catalog,
    CellSpec,
    Measure,
    Rule,
    read_catalog,
    read_study,
)
from lrd.analysis.verdicts import (
    RuleComparison,
    RuleResult,
    decide,
    judge_claims,
    measure_differences,
)
from lrd.config.compose import compose, to_config
from lrd.runs.store import Run, RunStore
from scripts import verdicts
from tests.helpers.small_study import CLAIM

ACCURACY = Measure("final", ("test_accuracy",))


def rule(must: Any, smallest: float = 0.1, together: Any = "each") -> Rule:
    return Rule(ACCURACY, must, smallest, together, ())


@pytest.mark.parametrize(
    ("mean", "one", "among", "rise", "no_rise"),
    [
        (0.3, (0.1, 0.5), (0.0, 0.6), "confirmed", "not confirmed"),
        (0.3, (0.1, 0.5), (0.05, 0.55), "confirmed", "contradicted"),
        (0.3, (-0.1, 0.7), (-0.2, 0.8), "not confirmed", "not confirmed"),
        (0.05, (0.02, 0.08), (0.01, 0.09), "contradicted", "confirmed"),  # real, but too small
        (0.05, (0.02, 0.08), (-0.01, 0.11), "not confirmed", "confirmed"),
        (0.09, (0.01, 0.17), (0.01, 0.17), "not confirmed", "not confirmed"),
        (-0.4, (-0.5, -0.3), (-0.6, -0.2), "contradicted", "confirmed"),
    ],
)
def test_the_rules_by_hand(mean: float, one: Any, among: Any, rise: str, no_rise: str):
    """Each and its mirror image: what falls is what rises with the other sign."""

    def mirrored(interval: tuple[float, float]) -> tuple[float, float]:
        return -interval[1], -interval[0]

    for must, status in (("rise", rise), ("no_rise", no_rise)):
        assert decide(rule(must), mean, one, among) == status
        other = must.replace("rise", "fall")
        assert decide(rule(other), -mean, mirrored(one), mirrored(among)) == status


def comparison(
    differences: Sequence[float], of: Rule, seeds: int = 3, k: int = 1
) -> RuleComparison:
    cell = CellSpec("quickstart", ("lrd.p=1",))
    return RuleComparison(of, cell, cell, dict(enumerate(differences)), seeds, 1 - 0.05 / k)


UP, DOWN, EVEN, FEW = (0.9, 1.0, 1.1), (-1.1, -1.0, -0.9), (-1.0, 0.0, 1.0), (1.0, 1.0)


@pytest.mark.parametrize(
    ("together", "parts", "status"),
    [
        ("each", [UP, UP], "confirmed"),
        ("each", [UP, EVEN], "not confirmed"),
        ("each", [UP, FEW], "not enough data"),
        ("each", [UP, DOWN], "contradicted"),
        ("each", [FEW, DOWN], "contradicted"),  # one is enough against all
        ("pooled", [UP, UP], "confirmed"),
        ("pooled", [UP, UP, DOWN], "contradicted"),
        ("pooled", [UP, FEW], "not enough data"),
        ("pooled", [UP], "confirmed"),
        ("pooled", [EVEN, EVEN], "not confirmed"),
        ("most", [UP] * 4 + [EVEN], "confirmed"),
        ("most", [UP] * 4 + [DOWN], "confirmed"),
        ("most", [UP] * 3 + [EVEN] * 2, "not confirmed"),
        ("most", [UP] * 3 + [DOWN] * 2, "contradicted"),
        ("most", [UP] * 4 + [FEW], "not enough data"),
    ],
)
def test_comparisons_together(together: str, parts: list[tuple[float, ...]], status: str):
    of = rule("rise", together=together)
    made = tuple(comparison(d, of, k=len(parts)) for d in parts)
    assert RuleResult(of, made).status == status


def test_comparisons_that_share_too_few_seeds_are_not_pooled():
    of = rule("rise", together="pooled")
    cell = CellSpec("quickstart", ())
    other = RuleComparison(of, cell, cell, {1: 1.0, 2: 1.1, 9: 0.9}, 3, 0.95)
    apart = (comparison(UP, of), other)
    part = RuleResult(of, apart)
    assert part.pooled is None and part.status == "not enough data"
    assert "1 of 2 comparisons: +1 " in part.explanation


def test_one_of_many_comparisons_contradicts_at_a_wider_interval():
    """-1 with deviation 0.2 at n = 3: t = 8.66, p = 0.013; below 0.05, above 0.05 / 10."""
    differences = (-1.2, -1.0, -0.8)
    assert comparison(differences, rule("rise")).status == "contradicted"
    among = comparison(differences, rule("rise"), k=10)
    assert among.status == "not confirmed" and not among.is_opposite


def run(root: Path, lines: Sequence[dict[str, float]], *overrides: str, **record: Any) -> Run:
    made = RunStore(to_config(compose([f"run.dir={root}", *overrides]))).run
    score = {"name": "test_accuracy", "maximize": True, "unit": "%"}
    made = made.update(status="finished", score=score, **record)
    text = "".join(json.dumps({"epoch": e, **line}) + "\n" for e, line in enumerate(lines, 1))
    (made.folder / "metrics.jsonl").write_text(text)
    return made


def curve(*accuracy: float, train: float = 100.0, seconds: float = 1.0) -> list[dict[str, float]]:
    return [
        {"test_accuracy": v, "train_accuracy": train, "train_seconds": seconds} for v in accuracy
    ]


def arm(root: Path, *overrides: str) -> CellResults:
    cell = CellSpec("smoke", ("task=digits", "train.epochs=30", *overrides))
    return collect_results([cell], RunFrames(root))[cell]


def measured(root: Path, name: str, *keys: str, base: str = "1", other: str = "0.5") -> Any:
    """The difference at seed 0; None if it is left out."""
    arms = (arm(root, f"lrd.p={p}") for p in (base, other))
    return measure_differences(Measure(name, keys), *arms).get(0)


def test_the_measures_by_hand(tmp_path: Path):
    run(tmp_path, curve(80, 90, 92, 91), "lrd.p=1", implementation="generic")
    lines = curve(85, 91, 92, 95, train=98, seconds=1.1)
    run(tmp_path, lines, "lrd.p=0.5", implementation="generic")
    assert measured(tmp_path, "final", "score") == measured(tmp_path, "final", "test_accuracy") == 4
    # trapezoids over three intervals: 88 + 91.5 + 93.5 and 85 + 91 + 91.5
    mean = measured(tmp_path, "mean", "test_accuracy")
    assert mean == pytest.approx(273 / 3 - 267.5 / 3)
    gap = measured(tmp_path, "gap", "train_accuracy", "test_accuracy")
    assert gap == (98 - 95) - (100 - 91)
    # the base first has its last 91 % in epoch 3, the other in epoch 2 of 4
    assert measured(tmp_path, "reach", "test_accuracy") == pytest.approx(-25)
    assert measured(tmp_path, "seconds") == pytest.approx(10)
    assert measured(tmp_path, "final", "val_miou") is None
    # the other way round 95 % is never had: twice the run, against epoch 4 of 4
    back = measured(tmp_path, "reach", "test_accuracy", base="0.5", other="1")
    assert back == pytest.approx(100)


def test_times_are_compared_only_of_equal_machines_and_implementations(tmp_path: Path):
    lines = curve(90)
    run(tmp_path, lines, "lrd.p=1", implementation="generic", threads=1)
    run(tmp_path, lines, "lrd.p=0.5", implementation="single_pass", threads=1)
    run(tmp_path, lines, "lrd.p=0.3", implementation="generic", threads=2)
    assert measured(tmp_path, "seconds") is measured(tmp_path, "seconds", other="0.3") is None


def test_every_claim_of_the_paper_is_asked_of_cells_that_compose():
    claims = read_catalog().claims
    assert read_catalog().seeds == 3
    assert [claim.name for claim in claims][:13] == [f"C{k}" for k in range(1, 14)]
    first = claims[0].rules[0]
    assert len(first.pairs) == 15  # 3 data sets, 5 optimizers
    convergence = next(c for c in claims if c.name == "C12").rules[0].pairs
    assert len(convergence) == 12
    assert convergence[0][0].overrides == ("optim=rmsprop", "lrd.p=1")
    assert convergence[0][1].overrides == ("optim=sgdm", "lrd.p=0.5")
    for cell in {cell for c in claims for r in c.rules for cell in r.pairs[-1]}:
        to_config(compose([f"+experiment={cell.experiment}", *cell.overrides]))


@pytest.fixture
def asked(tmp_path: Path) -> Catalog:
    """A study with one claim, on the digits."""
    return read_study(claims_file(tmp_path))


def claims_file(folder: Path, **change: Any) -> Path:
    claim = CLAIM | {"parts": [CLAIM["parts"][0] | change]}
    path = folder / "claims.yaml"
    path.write_text(yaml.safe_dump({"seeds": 3, "claims": {"D1": claim}}))
    return path


def fill(root: Path, optim: str, gain: float) -> None:
    for seed in range(3):
        for p, value in ((1, 95.0 + seed), (0.5, 95.0 + seed + gain + 0.01 * seed)):
            run(root, curve(value), f"optim={optim}", f"lrd.p={p}", f"seed={seed}")


def test_a_claim_from_run_folders(tmp_path: Path, asked: Catalog):
    (verdict,) = judge_claims(RunFrames(tmp_path), (), asked)
    assert verdict.status == "not enough data" and verdict.missing == ["quickstart"]
    fill(tmp_path, "adam", 1.0)
    (verdict,) = judge_claims(RunFrames(tmp_path), (), asked)
    assert verdict.status == "not enough data"
    assert "1 of 2 comparisons: +1.01" in verdict.explanation and "n = 3" in verdict.explanation
    fill(tmp_path, "sgdm", 2.0)
    (verdict,) = judge_claims(RunFrames(tmp_path), (), asked)
    assert verdict.status == "confirmed" and verdict.missing == []
    assert "2 comparisons, pooled: +1.51" in verdict.explanation
    assert judge_claims(RunFrames(tmp_path), ["scale=0.5"], asked)[0].status == "not enough data"


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"must": "grow"}, "D1: must must be one of rise, fall, no_rise, no_fall, got grow"),
        ({"smallest": 0}, "D1: smallest must be above 0, got 0"),
        ({"measure": {"last": "score"}}, "D1: measure must be one of final, mean,"),
        ({"together": "all"}, "D1: together must be one of each, pooled, most, got all"),
    ],
)
def test_what_is_wrong_in_the_file_is_one_line(tmp_path: Path, change: dict[str, Any], line: str):
    with pytest.raises(ValueError, match=line):
        read_study(claims_file(tmp_path, **change))


@pytest.mark.parametrize("text", ["claims: {C: {}}", "tables: {t: {titel: x}}", "{", "claims: 3"])
def test_a_file_that_is_no_study_is_one_line(tmp_path: Path, text: str):
    path = tmp_path / "study.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match="must be as study/paper.yaml") as error:
        read_study(path)
    assert "\n" not in str(error.value)


def test_the_command_prints_every_claim_and_what_is_missing(tmp_path: Path, capsys):
    fill(tmp_path, "adam", 1.0)
    path = str(claims_file(tmp_path))
    assert verdicts.main(["--claims", path, "--runs", str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("D1  NOT ENOUGH DATA: LRD helps on the digits (section 9)\n")
    assert err.endswith(f"  python run.py -m +experiment=quickstart run.dir={tmp_path}\n")
    assert verdicts.main(["--claims", "nowhere.yaml"]) == 2
    assert capsys.readouterr().err.startswith("error: nowhere.yaml must be as study/paper.yaml: ")


def test_the_file_explains_every_word_it_uses():
    """What a reader of the rules has to know stands above them."""
    head = (STUDIES / "paper.yaml").read_text().partition("seeds: 3")[0]
    for word in ("final", "mean", "gap", "reach", "seconds", "rise", "no_rise", "pooled", "most"):
        assert word in head
