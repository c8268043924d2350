"""Verdicts from run folders: the planned seeds, failures, and what is printed beside them."""

import json
from collections.abc import Iterable, Sequence
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from scipy import stats

from lrd.analysis.claims.listing import count_verdicts
from lrd.analysis.claims.printed import (
    judge_printed,
    judge_replications,
    planned_power,
    printed_effects,
    printed_values,
)
from lrd.analysis.claims.specs import MEASURES, Measure
from lrd.analysis.claims.verdicts import Verdict, judge_claims
from lrd.analysis.frames import RunFrames
from lrd.analysis.studies import all_studies, read_study
from lrd.analysis.studies.find import find_study
from lrd.config.compose import compose, to_config
from lrd.runs.store import RunStore
from scripts import verdicts
from tests.helpers.small_study import CLAIM, table

Curve = Sequence[dict[str, float]]


def run(root: Path, lines: Curve, *overrides: str, status: str = "finished", **record: Any) -> None:
    made = RunStore(to_config(compose([f"run.dir={root}", *overrides]))).run
    score = {"name": "test_accuracy", "maximize": True, "unit": "%"}
    made = made.update(status=status, score=score, **record)
    text = "".join(json.dumps({"epoch": e, **line}) + "\n" for e, line in enumerate(lines, 1))
    (made.folder / "metrics.jsonl").write_text(text)


def accuracies(*values: float, train: float = 100.0) -> Curve:
    return [{"test_accuracy": v, "train_accuracy": train} for v in values]


def claims_file(folder: Path, *parts: dict[str, Any], **content: Any) -> Path:
    """Write a study with one claim; each part changes that of small_study."""
    claim: dict[str, Any] = deepcopy(CLAIM)
    claim["parts"] = [claim["parts"][0] | change for change in (parts or ({},))]
    path = folder / "claims.yaml"
    path.write_text(yaml.safe_dump({"claims": {"D1": claim}} | content, sort_keys=False))
    return path


def judge(root: Path, *parts: dict[str, Any], **content: Any) -> Verdict:
    study = read_study(claims_file(root, *parts, **content))
    (verdict,) = judge_claims(study, RunFrames(root))
    return verdict


def fill(root: Path, optim: str, gain: float, seeds: Iterable[int] = range(3)) -> None:
    for seed in seeds:
        for p, value in ((1, 95.0 + seed), (0.5, 95.0 + seed + gain + 0.01 * seed)):
            run(root, accuracies(value), f"optim={optim}", f"lrd.p={p}", f"seed={seed}")


def fail(root: Path, optim: str, p: float, seeds: Iterable[int]) -> None:
    for seed in seeds:
        run(root, [], f"optim={optim}", f"lrd.p={p}", f"seed={seed}", status="failed")


ADAM: dict[str, Any] = {
    "pairs": [
        {"experiment": ["quickstart"], "over": {"optim": ["adam"]}}
        | {"from": ["lrd.p=1"], "to": ["lrd.p=0.5"]}
    ]
}


def test_a_claim_from_run_folders(tmp_path: Path):
    verdict = judge(tmp_path)
    assert verdict.status == "not enough runs"
    assert {c.experiment for c in verdict.missing} == {"quickstart"}
    assert "no comparison of 2 has a pair; it needs n = 3 seeds" in verdict.explanation
    fill(tmp_path, "adam", 1.0)
    verdict = judge(tmp_path)
    assert verdict.status == "not enough runs"
    assert "1 of 2 comparisons have fewer than 3 seeds (as few as 0)" in verdict.explanation
    assert {c.overrides[0] for c in verdict.missing} == {"optim=sgdm"}
    fill(tmp_path, "sgdm", 2.0)
    verdict = judge(tmp_path)
    assert verdict.status == "supported" and verdict.missing == {}
    # 1.01 and 2.01 on average; deviation of the seeds' means 0.01, so +- 4.303 x 0.01 / sqrt(3)
    assert "mean of 2 comparisons +1.51 (+1.49 to +1.53), n = 3" in verdict.explanation
    assert "worst quickstart optim=adam: lrd.p=1 to lrd.p=0.5 +1.01" in verdict.explanation
    study = read_study(claims_file(tmp_path))
    (short,) = judge_claims(study, RunFrames(tmp_path), ["scale=0.5"])
    assert short.status == "not enough runs"


def test_the_verdict_is_that_of_the_planned_seeds(tmp_path: Path):
    """Seeds 0 to 2 are planned. Later ones are shown, and change nothing."""
    fill(tmp_path, "adam", 1.0)
    fill(tmp_path, "adam", -4.0, range(3, 9))
    verdict = judge(tmp_path, ADAM)
    assert verdict.status == "supported"
    assert "+1.01 (+0.985 to +1.03), n = 3" in verdict.explanation
    assert "extension, not planned: opposite found, -2.29" in verdict.explanation
    assert "n = 9" in verdict.explanation
    # and no other three seeds decide
    other = tmp_path / "other"
    other.mkdir()
    fill(other, "adam", 1.0, range(3, 6))
    assert judge(other, ADAM).status == "not enough runs"


def test_the_line_names_what_decided(tmp_path: Path):
    """For "every", the worst comparison and not the mean; cells that disagree have a name."""
    fill(tmp_path, "adam", 3.0)
    fill(tmp_path, "sgdm", -1.0)
    verdict = judge(tmp_path, {"together": "each"})
    assert verdict.status == "opposite found"
    text = verdict.explanation
    assert "worst of 2: quickstart optim=sgdm: lrd.p=1 to lrd.p=0.5 -0.99" in text
    assert "opposite in quickstart optim=sgdm: lrd.p=1 to lrd.p=0.5" in text
    assert "1 of 2 supported individually" in text
    on_average = judge(tmp_path)
    assert on_average.status == "supported"
    assert "opposite in quickstart optim=sgdm" in on_average.explanation
    both = judge(tmp_path, {}, {"together": "each"})
    assert both.status == "opposite found" and len(both.parts) == 2


def test_failed_runs_are_in_the_line_and_support_nothing(tmp_path: Path):
    fill(tmp_path, "adam", 1.0, range(9))
    fail(tmp_path, "adam", 0.5, [9])
    run(tmp_path, accuracies(95.0), "optim=adam", "lrd.p=1", "seed=9")
    verdict = judge(tmp_path, ADAM | {"n": 10})
    assert verdict.status == "undecided"
    assert "failed runs: 1, of the base 0" in verdict.explanation
    assert judge(tmp_path, ADAM | {"n": 9}).status == "supported"  # seed 9 was not planned


def test_mostly_failed_runs_are_the_opposite(tmp_path: Path):
    """7 of 10 LRD runs diverge; the mean of the three others is 1 higher."""
    fill(tmp_path, "adam", 1.0, range(3))
    fail(tmp_path, "adam", 0.5, range(3, 10))
    for seed in range(3, 10):
        run(tmp_path, accuracies(95.0), "optim=adam", "lrd.p=1", f"seed={seed}")
    verdict = judge(tmp_path, ADAM | {"n": 10})
    assert verdict.status == "opposite found" and verdict.missing == {}
    assert "failed runs: 7, of the base 0" in verdict.explanation


def test_equal_differences_are_no_missing_seeds(tmp_path: Path):
    for seed in range(3):
        for p, value in ((1, 95.0), (0.5, 93.0)):
            run(tmp_path, accuracies(value), "optim=adam", f"lrd.p={p}", f"seed={seed}")
    verdict = judge(tmp_path, ADAM)
    assert verdict.status == "undecided" and verdict.missing == {}
    assert "no spread: 3 equal differences" in verdict.explanation


def test_undecided_has_the_number_of_seeds_that_would_decide(tmp_path: Path):
    for seed, gain in enumerate((0.9, -0.4, 0.7)):
        for p, value in ((1, 95.0), (0.5, 95.0 + gain)):
            run(tmp_path, accuracies(value), "optim=adam", f"lrd.p={p}", f"seed={seed}")
    verdict = judge(tmp_path, ADAM)
    assert verdict.status == "undecided" and verdict.parts[0].more
    assert f"about n = {verdict.parts[0].more} would decide" in verdict.explanation


def test_underfitting_does_not_prevent_overfitting(tmp_path: Path):
    """Two points less on the training set, one less in the test: the gap falls all the same."""
    for seed in range(12):
        noise = 0.02 * (seed % 5)
        arms = {1: accuracies(95 + noise, train=99), 0.5: accuracies(94.0 + 2 * noise, train=97)}
        for p, lines in arms.items():
            run(tmp_path, lines, "optim=adam", f"lrd.p={p}", f"seed={seed}")
    rules = find_study("C13")[0].claims[0].rules
    parts = [
        ADAM
        | {"measure": {rule.measure.name: list(rule.measure.keys)}}
        | {"must": rule.criterion.must, "smallest": rule.criterion.smallest, "n": rule.n}
        for rule in rules
    ]
    verdict = judge(tmp_path, *parts)
    assert [part.status for part in verdict.parts] == ["supported", "opposite found"]
    assert verdict.status == "opposite found"


def toy(good: float, bad: float, reached: float, escaped: float) -> Curve:
    names = ("test_accuracy", "bad_basin", "reached_bad", "escaped")
    return [dict(zip(names, (good, bad, reached, escaped), strict=True))]


def test_more_good_ends_are_no_escapes(tmp_path: Path):
    """Ten points more end at the good minimum; of those that reached the bad one 1 % leave it."""
    for seed in range(3):
        run(tmp_path, toy(30 + seed, 60, 60, 0), "optim=adam", "lrd.p=1", f"seed={seed}")
        lines = toy(40 + seed, 50, 50, 0.5 + 0.01 * seed)
        run(tmp_path, lines, "optim=adam", "lrd.p=0.5", f"seed={seed}")
    rate = ADAM | {"measure": {"rate": ["escaped", "reached_bad"]}, "smallest": 5}
    verdict = judge(tmp_path, rate)
    assert verdict.status == "no effect of a size that counts"
    assert "+1.02 (" in verdict.explanation
    assert judge(tmp_path, rate | {"smallest": 0.5}).status == "supported"


def test_the_range_over_cells(tmp_path: Path):
    """Ranges 1 and 3 in each seed, a little more in seed 1."""
    for seed in range(3):
        values = {1: 90.0, 0.9: 91.0, 0.5: 90.0, 0.3: 93.0 + 0.1 * (seed == 1)}
        for p, value in values.items():
            run(tmp_path, accuracies(value), "optim=adam", f"lrd.p={p}", f"seed={seed}")
    across = {"from.lrd.p": [1, 0.9], "to.lrd.p": [0.5, 0.3]}
    entry = {"experiment": ["quickstart"], "over": {"optim": ["adam"]}, "across": across}
    verdict = judge(tmp_path, {"pairs": [entry], "measure": {"range": "score"}})
    assert verdict.status == "supported"
    one = verdict.parts[0].comparisons[0]
    assert one.mean == pytest.approx((2 + 2.1 + 2) / 3)
    # and a side's mean: 91.5 against 90.5
    mean = judge(tmp_path, {"pairs": [entry], "measure": {"final": "score"}})
    assert mean.parts[0].comparisons[0].mean == pytest.approx((1 + 1.05 + 1) / 3)


def test_the_papers_numbers_by_the_same_rule(tmp_path: Path):
    """Printed 90 / 91 for Adam and 90 / 89.9 for SGDM: +0.45 on average, and not in each."""
    tables = {"ours": table(["adam", "sgdm"], [90, 91, 90, 89.9])}
    verdict = judge(tmp_path, {}, {"together": "each"}, tables=tables)
    mean, each = (part.printed for part in verdict.parts)
    assert mean == "supported (+0.45)"
    assert each == "no effect of a size that counts (1 of 2)"
    assert "the published numbers: supported (+0.45)" in verdict.explanation


def test_every_rule_of_the_paper_on_its_own_numbers():
    printed, claims = printed_values(all_studies()), find_study("lrd_paper")[0].claims
    found = {
        f"{claim.name}.{i}": judge_printed(rule, printed)
        for claim in claims
        for i, rule in enumerate(claim.rules)
    }
    assert {name: text for name, text in found.items() if text} == {
        "C1.0": "supported (+0.871)",
        "C1.1": "supported (15 of 15)",
        "C3.0": "supported (4 of 5)",
        "C3.1": "supported (4 of 4)",
        "C5.0": "supported (4 of 4)",
        "C7.0": "supported (+0.61)",
        "C10.0": "supported (+5.1)",
        "C10.1": "supported (+1.6)",
        "C13.1": "supported (+0.871)",
        "R1.0": "supported (+0.459)",
    }
    c3 = next(c for c in claims if c.name == "C3").rules[0]
    effects = printed_effects(c3, printed)
    assert effects == pytest.approx([-0.355, 0.485, 0.48, 0.285, 0.13])


def test_a_ladder_says_where_it_turns_and_whose_spreads_are_unlike(tmp_path: Path):
    """91, 92, 93 with a spread of 0.1, and then 92 with one of 1."""
    for seed, noise in enumerate((-0.1, 0.0, 0.1)):
        for p, value in {1: 91, 0.9: 92 + noise, 0.7: 93 - noise, 0.5: 92 + 10 * noise}.items():
            run(tmp_path, accuracies(value), "optim=adam", f"lrd.p={p}", f"seed={seed}")
    steps = [
        {"experiment": ["quickstart"], "from": ["optim=adam", f"lrd.p={a}"], "to": ["optim=adam"]}
        | {"over": {"to.lrd.p": [b]}}
        for a, b in ((1, 0.9), (0.9, 0.7), (0.7, 0.5))
    ]
    verdict = judge(tmp_path, {"pairs": steps, "together": "ordered"})
    assert verdict.status == "undecided"
    assert "worst of 3: quickstart optim=adam: lrd.p=0.7 to lrd.p=0.5 -1 (" in verdict.explanation
    assert "spreads differ 11 times" in verdict.explanation


def test_cost_is_judged_by_the_records_of_the_benchmark():
    """Without runs: by the records in the repository, a comparison a table."""
    (verdict,) = judge_claims(find_study("C8")[0], RunFrames("nowhere"))
    (part,) = verdict.parts
    assert len(part.comparisons) >= 10 and verdict.status != "not enough runs"
    assert all(one.n >= 3 and one.mean is not None for one in part.comparisons)
    one = next(c for c in part.comparisons if c.label.startswith("step: sgdm: zero_grad"))
    record = json.loads(Path("results/benchmarks/step.json").read_text())
    (table_,) = (t for t in record["tables"] if f"step: {t['title']}" == one.label)
    (line,) = (line for line in table_["lines"] if line["label"] == "LRD, fused")
    assert one.mean == pytest.approx(100 * (sum(line["ratios"]) / len(line["ratios"]) - 1))


def test_what_others_published_stands_beside_a_verdict():
    """0.065 less and 0.07 more, of one of Table 1's fifteen comparisons, without an interval."""
    gain, every = find_study("C1")[0].claims[0].rules
    for rule in (gain, every):
        first, second = judge_replications(rule, all_studies())
        assert first.startswith("no effect of a size that counts (-0.065 of table1_cifar10 optim=s")
        assert "maximum over epochs of the mean curve, n = 4, noahgolmant/" in first
        assert second.startswith("no effect of a size that counts (+0.07 of ")
    assert not judge_replications(find_study("C6")[0].claims[0].rules[0], all_studies())
    (verdict,) = judge_claims(find_study("C1")[0], RunFrames("nowhere"))
    assert verdict.explanation.count("replication: ") == 2


def test_power_is_that_of_the_plan(tmp_path: Path):
    study = read_study(claims_file(tmp_path, ADAM | {"expect": 0.5, "n": 4, "sd": 0.3}))
    from statsmodels.stats.power import TTestPower

    exact = TTestPower().power(0.5 / 0.3, 4, 0.05, alternative="two-sided")
    assert planned_power(study.claims[0].rules[0], {}) == pytest.approx(exact, abs=0.03)


def test_the_command_prints_every_claim_and_what_is_missing(tmp_path: Path, capsys):
    fill(tmp_path, "adam", 1.0)
    path = str(claims_file(tmp_path))
    assert verdicts.main([path, "--runs", str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    assert out.startswith(
        "D1  NOT ENOUGH RUNS: LRD helps on the digits (section 9)\n    - not enou"
    )
    command = "python run.py -m +experiment=quickstart optim=sgdm 'seed=range(0,3)'"
    assert err.endswith(f"  {command} run.dir={tmp_path}\n")
    assert verdicts.main(["nowhere.yaml"]) == 2
    assert capsys.readouterr().err.startswith("error: cannot read the study nowhere.yaml: ")


@pytest.mark.parametrize(
    "counts, said",
    [
        (
            {"supported": 1, "no effect of a size that counts": 1, "not enough runs": 12},
            "1 of 14 claims is supported, 1 shows no effect of a size that counts, 12 lack runs",
        ),
        (
            {"undecided": 1, "opposite found": 2},
            "for 2 of 3 claims the opposite is found, 1 is undecided",
        ),
        ({"not enough runs": 3}, "all 3 claims lack runs"),
        ({"opposite found": 1}, "for the claim the opposite is found"),
    ],
)
def test_verdicts_are_counted_in_a_sentence(counts: dict[str, int], said: str):
    statuses = [status for status, n in counts.items() for _ in range(n)]
    made: Any = [SimpleNamespace(status=status) for status in statuses]
    assert count_verdicts(made) == said


@pytest.mark.parametrize("text", ["claims: {C: {}}", "tables: {t: {titel: x}}", "{", "claims: 3"])
def test_a_file_that_is_no_study_is_one_line(tmp_path: Path, text: str):
    path = tmp_path / "study.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match="must be as study/|C must have says") as error:
        read_study(path)
    assert "\n" not in str(error.value)


def test_every_measure_has_a_text():
    for name, (_, _, count) in MEASURES.items():
        assert "a b" in str(Measure(name, ("a_b",) * count))


def test_times_are_printed_as_percentages(tmp_path: Path):
    """Epochs 2, 4 and 3 without, 4, 8 and 6 with: twice as long, +100 %, and no 100 log 2 = 69.3.
    The fourth pair, 3 and 6.2, gives a spread."""
    for seed, (base, other) in enumerate([(2, 4), (4, 8), (3, 6), (3, 6.2)]):
        for p, end in ((1, base), (0.5, other)):
            lines = [
                {**line, "train_loss": end / e} for e, line in enumerate(accuracies(*[9] * 8), 1)
            ]
            run(tmp_path, lines, "optim=adam", f"lrd.p={p}", f"seed={seed}")
    measure = {"time": "train_loss", "until": 1, "marks": {"quickstart": [1.0]}}
    verdict = judge(tmp_path, ADAM | {"measure": measure, "must": "fall", "n": 3})
    assert "+100 (no interval) %, n = 3" in verdict.explanation
    verdict = judge(tmp_path, ADAM | {"measure": measure, "must": "fall", "n": 4})
    # between epochs 6 and 7 the loss is interpolated: 6.2 / 6 and 6.2 / 7 around 1
    share = (6.2 / 6 - 1) / (6.2 / 6 - 6.2 / 7)
    logs = np.log([2, 2, 2, (6 + share) / 3])
    low, high = stats.t.interval(0.95, 3, logs.mean(), stats.sem(logs))
    shown = [f"{100 * (np.exp(x) - 1):+.3g}" for x in (logs.mean(), low, high)]
    assert f"{shown[0]} ({shown[1]} to {shown[2]}) %, n = 4" in verdict.explanation


def test_more_seeds_are_not_asked_for_where_runs_failed(tmp_path: Path):
    fill(tmp_path, "adam", 1.0)
    for p in (1, 0.5):
        fail(tmp_path, "sgdm", p, range(3))
    verdict = judge(tmp_path, {"together": "each"})
    assert verdict.status == "undecided" and "failed runs: 3, of the base 3" in verdict.explanation
    assert "1 of 2 supported individually" in verdict.explanation
    assert "would decide" not in verdict.explanation
