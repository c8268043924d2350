"""Identity of a run: what belongs to it, what does not, and that it never changes."""

import dataclasses
import json
import sys
from pathlib import Path

import pytest

from lrd.config.compose import compose, to_config
from lrd.config.fingerprint import DEFAULTS, fingerprint, identity
from lrd.runs.store import Run, RunIndex, RunStore, find_runs, summarize


def mark(*overrides: str) -> str:
    return fingerprint(identity(to_config(compose(overrides))))


@pytest.mark.parametrize(
    ("overrides", "golden"),
    [
        ((), "eaa700f7561d"),
        (("task=cifar10", "optim=sgdm", "lrd.p=1"), "1d39c26928c2"),
        (("task=cifar100", "optim=radam"), "4b0cd59c55d3"),
        (("task=voc_seg",), "a174c6936825"),  # recipe 2: semseg's augmentation by OpenCV
        (("task=voc_det",), "8d23ab3ba073"),  # recipe 3: SSD's augmentation by OpenCV
        (("task=toy",), "59a87f3434bf"),
    ],
)
def test_golden_fingerprints_never_change(overrides: tuple[str, ...], golden: str):
    """Pinned: a change here voids every finished run."""
    assert mark(*overrides) == golden


@pytest.mark.parametrize(
    "same",
    [
        "seed=7",
        "train.device=cpu",
        "train.threads=1",
        "train.checkpoint_every=3",
        "eval.batch_size=7",
        "data.root=/elsewhere",
        "data.workers=2",
        "data.download=true",
        "run.dir=/elsewhere",
        "run.force=true",
        "wandb.mode=offline",
        "dataset.name=mine",
        "eval.every=2",
        "eval.mode=whole",
        "eval.scales=[0.5,1]",
        "eval.base_size=512",
        "optim._target_=torch.optim.adam.Adam",
        "lrd.p=0.50",
        "optim.lr=1e-3",
        "optim.weight_decay=0",
        "train.precision=fp32",
    ],
)
def test_what_changes_no_number_is_no_part_of_the_identity(same: str):
    assert mark(same) == mark()


@pytest.mark.parametrize(
    "void",
    [
        "lrd.granularity=row",
        "lrd.rescale=true",
        "lrd.schedule=linear",
    ],
)
def test_what_p_1_makes_void_is_no_part_of_the_identity(void: str):
    assert mark("lrd.p=1", void) == mark("lrd.p=1")
    assert mark("lrd.p=1", "lrd.schedule=linear", "lrd.p_end=0.5") != mark("lrd.p=1")


@pytest.mark.parametrize(
    "other",
    [
        "lrd.p=0.4",
        "train.epochs=31",
        "train.batch_size=64",
        "train.precision=bf16",
        "train.max_steps=5",
        "train.deterministic=true",
        "optim.lr=0.002",
        "optim=amsgrad",
        "lrd.granularity=row",
        "lrd.rescale=true",
        "lrd.schedule=linear",
        "model.hidden=[1000]",
        "schedule=poly",
        "dataset.holdout=10",
    ],
)
def test_what_changes_numbers_is(other: str):
    assert mark(other) != mark()


def test_names_of_choices_do_not_matter():
    assert mark("task=cifar100") == mark("task=cifar10", "dataset=cifar100", "model=densenet121")
    assert mark("optim=amsgrad") == mark("+optim.amsgrad=true")


def test_scale_is_the_epochs_it_makes():
    assert mark("task=mnist", "scale=0.05") == mark("task=mnist", "train.epochs=5")
    assert to_config(compose(["scale=0.001"])).train.epochs == 1


def test_a_new_closed_setting_at_its_default_voids_nothing(monkeypatch: pytest.MonkeyPatch):
    """As a later version would add it: the identity of what exists stays."""
    module = sys.modules["lrd.config.fingerprint"]
    from lrd.config import schema

    @dataclasses.dataclass
    class Newer(schema.LRD):
        later: str = "no"

    newer = to_config(compose([]))
    old = identity(newer)
    newer.lrd = Newer()
    defaults = {**DEFAULTS, "lrd.later": "no"}
    monkeypatch.setattr(module, "DEFAULTS", defaults)
    assert identity(newer) == old
    newer.lrd = Newer(later="yes")
    assert identity(newer) != old


def test_a_weights_file_counts_by_its_content(tmp_path: Path):
    marks = []
    for name, content in (("a.pt", b"one"), ("b.pt", b"one"), ("c.pt", b"two")):
        (tmp_path / name).write_bytes(content)
        marks.append(mark(f"+model.weights={tmp_path / name}"))
    assert marks[0] == marks[1] != marks[2]


def test_the_folder_is_name_fingerprint_and_seed(tmp_path: Path):
    run = RunStore(to_config(compose([f"run.dir={tmp_path}", "seed=3"]))).run
    assert run.folder == tmp_path / "digits" / mark() / "seed3" and run.status == "new"
    assert not run.folder.exists()


def test_a_record_is_written_whole_and_found_again(tmp_path: Path):
    run = RunStore(to_config(compose([f"run.dir={tmp_path}"]))).run.update(status="running")
    assert [p.name for p in run.folder.iterdir()] == ["run.json"]
    run.update(status="finished", scale=1.5)
    (again,) = find_runs(tmp_path)
    assert again.status == "finished" and again.metadata["scale"] == 1.5 and again.seed == 0
    assert again.identity == identity(to_config(compose([])))
    moved = tmp_path.rename(tmp_path.with_name("moved"))
    assert [r.fingerprint for r in find_runs(moved)] == [mark()]


def test_summary_takes_the_last_and_the_first_best():
    lines = [{"epoch": e + 1, "s": v} for e, v in enumerate([3.0, 5.0, 5.0, 4.0])]
    up, down = ({"name": "s", "maximize": m} for m in (True, False))
    assert summarize(lines, up)["best"] == {"value": 5.0, "epoch": 2}
    assert summarize(lines, down)["best"] == {"value": 3.0, "epoch": 1}
    assert summarize(lines, up)["final"] == {"value": 4.0, "epoch": 4}
    rarely = [{"epoch": 1}, *lines[1:]]  # not every epoch need be evaluated
    assert summarize(rarely, down)["best"] == {"value": 4.0, "epoch": 4}


def test_metrics_are_read_line_by_line(tmp_path: Path):
    assert Run(tmp_path, {}).metrics == []
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"epoch": 1}) + "\n")
    assert Run(tmp_path, {}).metrics == [{"epoch": 1}]


def test_scores_come_from_the_metrics_and_not_from_the_record(tmp_path: Path):
    score = {"name": "s", "maximize": True, "unit": ""}
    record = {"score": score, "final": {"value": 1.0, "epoch": 2}, "best": {"value": 1.0}}
    with pytest.raises(ValueError, match="metrics.jsonl must have s in an epoch"):
        assert Run(tmp_path, record).final
    lines = [{"epoch": 1, "s": 7.0}, {"epoch": 2, "s": 5.0}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    run = Run(tmp_path, record)
    assert (run.final, run.best) == (5.0, 7.0)


def test_an_index_is_one_moment_of_a_runs_directory(tmp_path: Path):
    for seed, status in enumerate(("finished", "failed", "finished")):
        config = to_config(compose([f"run.dir={tmp_path}", f"seed={seed}"]))
        RunStore(config).run.update(status=status)
    index = RunIndex(tmp_path)
    index.runs[0].update(status="failed")
    assert [run.seed for run in index.with_status("finished")] == [0, 2]
    assert [run.seed for run in RunIndex(tmp_path).with_status("finished", "failed")] == [0, 1, 2]


def test_a_store_sees_what_another_process_has_written_since(tmp_path: Path):
    config = to_config(compose([f"run.dir={tmp_path}"]))
    ours, theirs = RunStore(config), RunStore(config)
    assert not ours.is_finished
    theirs.run.update(status="finished")
    assert not ours.is_finished and ours.refresh().status == "finished" and ours.is_finished
    ours.delete_outputs()
    assert ours.run.status == "new" and list(ours.folder.iterdir()) == []
