"""Using what was trained: load a network, score it again, predict images."""

import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

import lrd
from lrd.runs.store import Run, find_runs, open_run
from lrd.training.trained import evaluate_run, load_trained, predict_image
from scripts import evaluate, predict
from tasks.data.labeled_images import read_image

DIGITS = ("train.epochs=2", "model.hidden=[32]", "train.threads=1")
SHAPES = (
    *("task=shapes_seg", "train.max_steps=3", "train.batch_size=4", "dataset.crop=65"),
    "eval.final_mode=whole",
)


def trained(cli: Any, *overrides: str) -> Run:
    known = {run.folder for run in find_runs("runs")}
    done = cli(*overrides)
    assert done.status == 0, done.err
    (run,) = (run for run in find_runs("runs") if run.folder not in known)
    return run


def line(capfd: pytest.CaptureFixture[str]) -> str:
    err = capfd.readouterr().err
    assert err.count("\n") == 1
    return err


@pytest.fixture
def digits(cli) -> Run:
    return trained(cli, *DIGITS)


def digit_images() -> tuple[np.ndarray, np.ndarray]:
    """The 360 test digits, by scikit-learn alone."""
    from sklearn.model_selection import train_test_split

    pixels, labels = load_digits(return_X_y=True)
    rows = np.arange(len(labels))
    _, test = train_test_split(rows, test_size=360, stratify=labels, random_state=0)
    return np.asarray(pixels)[test], np.asarray(labels)[test]


def test_a_loaded_network_has_the_recorded_score(digits: Run):
    state = torch.get_rng_state()
    model = lrd.load_model(digits)
    assert not model.training and torch.equal(state, torch.get_rng_state())
    saved = torch.load(digits.folder / "last.pt", weights_only=True)["model"]
    assert all(torch.equal(saved[name], value) for name, value in model.state_dict().items())
    pixels, labels = digit_images()
    with torch.no_grad():
        guesses = model(torch.tensor(pixels / 16, dtype=torch.float32).view(-1, 1, 8, 8)).argmax(1)
    assert float((guesses.numpy() == labels).mean() * 100) == pytest.approx(digits.final)
    assert lrd.load_model(str(digits.folder)) is not model


def test_the_best_weights_have_the_best_score(cli):
    run = trained(cli, *DIGITS, "train.epochs=6", "optim.lr=1", "run.keep=best", "lrd.p=1")
    best = run.metadata["best"]
    assert best["value"] > run.final  # or this test says nothing
    pixels, labels = digit_images()
    inputs = torch.tensor(pixels / 16, dtype=torch.float32).view(-1, 1, 8, 8)
    for weights, expected in (("best", best["value"]), ("last", run.final)):
        with torch.no_grad():
            guesses = lrd.load_model(run, weights=weights)(inputs).argmax(1)
        assert float((guesses.numpy() == labels).mean() * 100) == pytest.approx(expected)


def test_a_run_that_cannot_be_loaded_is_one_line(digits: Run, tmp_path: Path):
    with pytest.raises(ValueError, match="RUN must be a run directory, got nowhere: it has no"):
        lrd.load_model("nowhere")
    newer = Run(tmp_path / "newer", digits.metadata).update(format=99)
    with pytest.raises(ValueError, match="run.json has format 99, this version reads"):
        lrd.load_model(newer.folder)
    config = {**digits.metadata["config"], "model": {"_target_": "tasks.models.fcnet.FCNet"}}
    with pytest.raises(ValueError, match="last.pt must fit FCNet: size mismatch"):
        lrd.load_model(Run(digits.folder, {**digits.metadata, "config": config}))
    future = {**digits.metadata["config"], "train": {"warp": 9, "epochs": 2}}
    record = {**digits.metadata, "config": future}
    lrd.load_model(Run(digits.folder, record))  # a setting that changed no number
    other = {**record, "identity": {**digits.identity, "train.warp": 9}}
    with pytest.raises(ValueError, match="the run is of another version: train.warp is unknown"):
        lrd.load_model(Run(digits.folder, other))
    (digits.folder / "last.pt").unlink()
    with pytest.raises(ValueError, match="must have weights, got no last.pt"):
        lrd.load_model(digits)


def test_scoring_again_equals_a_run_that_was_scored_so(cli, capfd: pytest.CaptureFixture[str]):
    asked = ("eval.final_mode=whole", "eval.scales=[0.5]", "eval.base_size=80")
    plain = trained(cli, *SHAPES)
    before = (plain.folder / "metrics.jsonl").read_bytes()
    assert "note: " not in cli(*SHAPES).out
    note = cli(*SHAPES, *asked).out.partition("note: ")[2].splitlines()[0]
    command = shlex.split(note.partition("these: ")[2])
    assert command == ["python", "scripts/evaluate.py", str(plain.folder), *asked[1:]]
    assert evaluate.main([*command[2:], asked[0]]) == 0
    assert "val_whole_base80_multiscale_miou" in capfd.readouterr().out
    after = open_run(plain.folder)
    assert (plain.folder / "metrics.jsonl").read_bytes() == before
    added = {"evaluations": after.metadata["evaluations"]}
    assert after.metadata == {**plain.metadata, **added} and after.final == plain.final
    (entry,) = added["evaluations"]
    settings = {"eval.scales": [0.5], "eval.final_mode": "whole", "eval.base_size": 80}
    assert entry["settings"] == settings
    # The same training, whose last epoch is scored in that way.
    assert cli(*SHAPES, *asked, "run.dir=other").status == 0
    (reference,) = find_runs("other")
    last = reference.metrics[-1]
    assert "val_whole_base80_multiscale_miou" in entry["scores"]
    for name, value in entry["scores"].items():
        assert value == pytest.approx(last[name], rel=1e-6), name
    run, scores = evaluate_run(after)
    assert len(run.metadata["evaluations"]) == 2
    assert scores["val_whole_miou"] == pytest.approx(plain.final, rel=1e-6)


def test_a_weights_file_is_scored_without_a_run(cli, capfd: pytest.CaptureFixture[str]):
    plain = trained(cli, *SHAPES)
    settings = ["task=shapes_seg", "dataset.crop=65", "eval.final_mode=whole"]
    capfd.readouterr()
    assert evaluate.main([*settings, f"model.weights={plain.folder / 'last.pt'}"]) == 0
    printed = dict(row.split() for row in capfd.readouterr().out.splitlines())
    assert float(printed["val_whole_miou"]) == pytest.approx(plain.final, rel=1e-5)
    (only,) = find_runs("runs")
    assert "evaluations" not in only.metadata


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["task=shapes_seg"], "model.weights must be a file with the weights of a trained network"),
        (["task=shapes_seg", "model.weights=imagenet"], "of a trained network, got imagenet"),
        (["task=shapes_seg", "model.weights=/nowhere"], "or the path of a file, got /nowhere"),
        (["task=shapes_seg", "eval.mode=half"], "model.weights must be a file"),
        (["task=nothing"], "unknown task 'nothing'"),
        (["task=digits"], "model.weights must be a file"),
    ],
)
def test_a_wrong_weights_file_is_one_line(
    capfd: pytest.CaptureFixture[str], overrides: list[str], expected: str
):
    assert evaluate.main(overrides) == 2
    assert expected in line(capfd)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["train.epochs=3"], "an evaluation takes eval.*, data.*"),
        (["~eval.mode"], "an evaluation takes eval.*, data.*"),
        (["eval.every=1,2"], "an evaluation takes eval.*, data.*"),
        (["eval.mode=foo"], "eval.mode must be left out"),
        (["eval.batch_size=abc"], "eval.batch_size: Value 'abc'"),
        (["eval.batch_size=0"], "eval.batch_size must be at least 1, got 0"),
        (["eval.bach_size=1"], "eval.bach_size"),
        (["eval.mode"], "cannot parse"),
        (["dataset=nothing"], "unknown dataset 'nothing'"),
        (["dataset=cifar100"], "dataset must have the run's labels (classes: 10), got 100"),
        (["dataset=mnist"], "last.pt must fit FCNet: size mismatch"),
        (["dataset.subsett=5"], "dataset.subsett is no setting of Digits"),
    ],
)
def test_a_wrong_evaluation_is_one_line(
    digits: Run, capfd: pytest.CaptureFixture[str], overrides: list[str], expected: str
):
    assert evaluate.main([str(digits.folder), *overrides]) == 2
    assert expected in line(capfd)
    assert "evaluations" not in open_run(digits.folder).metadata


def test_other_data_of_the_same_labels(digits: Run):
    _, scores = evaluate_run(digits, ["dataset.holdout=200"])
    assert scores.keys() == {"holdout_loss", "holdout_accuracy"}


def test_data_of_ones_own_from_a_config_dir(
    digits: Run, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    """The test digits below five, by scikit-learn alone."""
    code = """from tasks.images import Digits
class FewDigits(Digits):
    def read(self, train):
        images, labels = super().read(train)
        return images[labels < 5], labels[labels < 5]
"""
    (tmp_path / "few_digits.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name, text in {
        "dataset/few.yaml": "{_target_: few_digits.FewDigits, name: few, holdout: 0}",
        "own/settings.yaml": "# @package _global_\nrun: {allow: [few_digits]}",
    }.items():
        (tmp_path / "mine" / name).parent.mkdir(parents=True)
        (tmp_path / "mine" / name).write_text(text)
    command = [str(digits.folder), "dataset=few", "--config-dir"]
    assert evaluate.main([*command, "nowhere"]) == 2
    assert "--config-dir must be a directory, got nowhere" in line(capfd)
    assert evaluate.main([*command, "mine"]) == 0
    pixels, labels = digit_images()
    pixels, labels = pixels[labels < 5], labels[labels < 5]
    inputs = torch.tensor(pixels / 16, dtype=torch.float32).view(-1, 1, 8, 8)
    with torch.no_grad():
        guesses = lrd.load_model(digits)(inputs).argmax(1)
    (entry,) = open_run(digits.folder).metadata["evaluations"]
    right = float((guesses.numpy() == labels).mean() * 100)
    assert entry["scores"]["test_accuracy"] == pytest.approx(right)


def test_only_a_finished_run_is_scored_again(digits: Run, capfd: pytest.CaptureFixture[str]):
    digits.update(status="interrupted")
    assert evaluate.main([str(digits.folder)]) == 2
    assert "RUN must be finished" in line(capfd)


def test_predictions_of_digits(digits: Run, capfd: pytest.CaptureFixture[str]):
    pixels, _ = digit_images()
    gray = (pixels[:3] * 255 / 16).round().astype(np.uint8).reshape(-1, 8, 8)
    for folder, image in zip(("a", "b", "c"), gray, strict=True):
        Path(folder).mkdir()
        Image.fromarray(image).save(Path(folder, "digit.png"))
    files = [f"{folder}/digit.png" for folder in "abc"]
    assert predict.main([digits.folder.parts[-2][:6], *files, "--out", "found/here"]) == 0
    out = capfd.readouterr().out
    model = lrd.load_model(digits)
    with torch.no_grad():
        inputs = torch.tensor(pixels[:3] / 16, dtype=torch.float32).view(-1, 1, 8, 8)
        chances = model(inputs).softmax(1)
    for name, expected in zip(("digit", "digit-2", "digit-3"), chances, strict=True):
        top = json.loads(Path(f"found/here/{name}.json").read_text())["top"]
        order = expected.argsort(descending=True)[:5].tolist()
        assert list(top) == [str(label) for label in order]
        assert list(top.values()) == pytest.approx(expected[order].tolist(), abs=0.02)
    assert f"a/digit.png: {int(chances[0].argmax())} " in out


def test_predictions_of_pixels(cli):
    run = trained(cli, *SHAPES)
    # The weights that a run started from need not exist any more.
    model = {**run.metadata["config"]["model"], "weights": "gone.pt"}
    run = run.update(config={**run.metadata["config"], "model": model})
    saved = torch.load(run.folder / "last.pt", weights_only=True)["model"]
    loaded = load_trained(run)
    assert all(torch.equal(saved[name], x) for name, x in loaded.model.state_dict().items())
    entry = loaded.task.entries["eval"][0]  # type: ignore[attr-defined]
    assert predict.main([str(run.folder), str(entry.image)]) == 0
    mask = np.array(Image.open(f"predictions/{entry.name}_mask.png"))
    image = read_image(entry.image)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    pixels = ((image / 255).movedim(0, -1) - mean) / std
    with torch.no_grad():
        expected = loaded.model(pixels.movedim(-1, 0)[None])["out"][0].argmax(0).numpy()
    assert (mask == expected).mean() > 0.999
    shares = json.loads(Path(f"predictions/{entry.name}.json").read_text())["shares"]
    assert sum(shares.values()) == pytest.approx(1)
    assert shares.get("background", 0) == pytest.approx((mask == 0).mean())
    with Image.open(f"predictions/{entry.name}_overlay.png") as overlay:
        assert overlay.size == mask.shape[::-1] and overlay.mode == "RGB"


def test_predictions_of_boxes(cli, capfd: pytest.CaptureFixture[str]):
    small = ("task=shapes_det", "model=ssdlite320_mobilenet", "train.max_steps=2")
    run = trained(cli, *small, "train.batch_size=4")
    wide = Image.fromarray(np.full((100, 200, 3), 90, np.uint8))
    wide.paste((250, 20, 20), (60, 20, 120, 80))
    wide.save("wide.png")
    assert predict.main([str(run.folder), "wide.png"]) == 0
    objects = json.loads(Path("predictions/wide.json").read_text())["objects"]
    loaded = load_trained(run)
    resized = np.array(wide.resize((320, 320), Image.Resampling.BILINEAR))
    inputs = torch.tensor(resized / 127.5 - 1, dtype=torch.float32).permute(2, 0, 1)[None]
    with torch.no_grad():
        (found,) = loaded.model(inputs)["detections"]
    assert len(objects) == len(found["scores"]) > 0
    expected = found["scores"].sort(descending=True).values.tolist()
    assert [o["score"] for o in objects] == pytest.approx(expected, abs=0.01)
    x1, y1, x2, y2 = np.array([o["box"] for o in objects]).T
    assert (0 <= x1).all() and (x1 < x2).all() and (x2 <= 200).all() and x2.max() > 100
    assert (0 <= y1).all() and (y1 < y2).all() and (y2 <= 100).all()
    printed = capfd.readouterr().out
    with Image.open("predictions/wide_boxes.png") as drawn:
        assert drawn.size == (200, 100)
        assert (np.array(drawn) != np.array(wide)).any(axis=2).sum() > 100  # boxes and captions
    # A network of two steps is sure of nothing: its highest three are shown all the same.
    assert objects[0]["score"] < 0.5
    shown = ", ".join(f"{o['label']} {o['score']:.2f}" for o in objects[:3])
    assert f"wide.png: nothing with a score of 0.5 or more; highest: {shown}\n" in printed


def test_what_cannot_be_predicted_is_one_line(cli, digits: Run, capfd: pytest.CaptureFixture[str]):
    Path("notes.txt").write_text("no image")
    assert predict.main([str(digits.folder), "notes.txt"]) == 2
    assert "notes.txt cannot be read: cannot identify image file" in line(capfd)
    assert predict.main([str(digits.folder), "missing.png"]) == 2
    assert "missing.png cannot be read: No such file" in line(capfd)
    assert not Path("predictions").exists()
    toy = trained(cli, "task=toy", "train.max_steps=2", "dataset.drawn=3")
    with pytest.raises(ValueError, match=r"Trajectories has no method predict|has no method"):
        predict_image(load_trained(toy), torch.zeros(3, 4, 4, dtype=torch.uint8))
