"""dataset=masks and dataset=boxes: images with labels of one's own, by settings alone."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lrd.config.compose import compose, to_config
from lrd.config.fingerprint import fingerprint, identity
from lrd.runs.store import find_runs
from lrd.task import Setup
from scripts import check_data, evaluate, predict
from tasks.voc_boxes import BoxFolder
from tasks.voc_masks import MaskFolder
from tests.helpers import voc_layout

CLASSES = "dataset.classes=[cat,dog]"
MASKS = (
    *("task=voc_seg", "dataset=masks", CLASSES, "dataset.crop=33", "model=pspnet18"),
    *("train.batch_size=2", "train.epochs=1", "eval.pictures_every=0"),
)
BOXES = (
    *("task=voc_det", "dataset=boxes", CLASSES, "model=ssdlite320_mobilenet"),
    *("train.batch_size=2", "train.epochs=1", "eval.pictures_every=0"),
)


def write_mask(folder: Path, name: str, label: int = 1) -> None:
    voc_layout.picture(folder / "images" / f"{name}.jpg", (40, 50), 40 * label)
    labels = np.zeros((40, 50), np.uint8)
    labels[10:30, 5:25] = label
    (folder / "masks").mkdir(exist_ok=True)
    Image.fromarray(labels).save(folder / "masks" / f"{name}.png")


def write_boxes(folder: Path, name: str, label: int = 1) -> None:
    voc_layout.picture(folder / "images" / f"{name}.jpg", (40, 50), 40 * label)
    thing = (["cat", "dog"][label - 1], 6, 11, 25, 30)
    voc_layout.annotation(folder / "annotations" / f"{name}.xml", thing)


KINDS = [
    pytest.param(write_mask, MaskFolder, "masks", id="masks"),
    pytest.param(write_boxes, BoxFolder, "annotations", id="boxes"),
]


def split(root: Path, write: Any, val: str = "val") -> Path:
    """Six training and two evaluation images, whose names are the same."""
    for part, count in (("train", 6), (val, 2)):
        for number in range(count):
            write(root / part, str(number), 1 + number % 2)
    return root


def data(kind: Any, path: Path, holdout: int = 0, seed: int = 0) -> Any:
    return kind(Setup(seed=seed), "own", str(path), ["cat", "dog"], holdout=holdout)


def names(entries: Any) -> list[str]:
    return [entry.name for entry in entries]


def test_masks_train_are_scored_and_predict(cli, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    path = split(tmp_path / "pets", write_mask)
    assert check_data.main([*MASKS, f"dataset.path={path}"]) == 0
    assert "3  training images with dog" in capfd.readouterr().out
    done = cli(*MASKS, f"dataset.path={path}")
    assert done.status == 0, done.err
    (run,) = find_runs("runs")
    assert run.folder.parts[1] == "pets"
    last = run.metrics[-1]
    assert {"val_whole_iou_background", "val_whole_macc", "val_sliding_miou"} <= last.keys()
    assert run.metadata["data"] == "pets: 6 training images and 2 evaluation images"
    moved = path.rename(tmp_path / "other")
    assert evaluate.main([str(run.folder), f"dataset.path={moved}", "eval.final_mode=whole"]) == 0
    assert "val_whole_miou" in capfd.readouterr().out
    image = moved / "val" / "images" / "1.jpg"
    assert predict.main([str(run.folder), str(image)]) == 0  # without the data set
    shares = json.loads(Path("predictions/1.json").read_text())["shares"]
    assert shares.keys() <= {"background", "cat", "dog"}
    with Image.open("predictions/1_mask.png") as mask:
        assert mask.size == (50, 40) and set(np.unique(np.array(mask))) <= {0, 1, 2}


def test_boxes_train_are_scored_and_predict(cli, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    path = split(tmp_path / "pets", write_boxes, "test")
    assert check_data.main([*BOXES, f"dataset.path={path}"]) == 0
    assert "3  training images with dog" in capfd.readouterr().out
    done = cli(*BOXES, f"dataset.path={path}")
    assert done.status == 0, done.err
    (run,) = find_runs("runs")
    assert {"test_map", "test_ap_cat", "test_ap_dog"} <= run.metrics[-1].keys()
    assert evaluate.main([str(run.folder), f"dataset.path={path}"]) == 0
    assert "test_map" in capfd.readouterr().out
    assert predict.main([str(run.folder), str(path / "test" / "images" / "0.jpg")]) == 0
    objects = json.loads(Path("predictions/0.json").read_text())["objects"]
    assert {o["label"] for o in objects} <= {"cat", "dog"}


@pytest.mark.parametrize(("write", "kind", "labels"), KINDS)
def test_the_three_layouts(tmp_path: Path, write: Any, kind: Any, labels: str):
    folders = data(kind, split(tmp_path / "folders", write))
    train, val = folders.splits()
    assert names(train) == [f"train/{n}" for n in range(6)] and names(val) == ["val/0", "val/1"]
    assert folders.manifest().startswith("8 images, ")
    flat = tmp_path / "flat"
    for number in range(5):
        write(flat, str(number), 1)
    rest, held = data(kind, flat, holdout=2).splits()
    assert len(rest) == 3 and sorted(names(rest) + names(held)) == list("01234")
    drawn = {tuple(names(data(kind, flat, 2, seed).splits()[1])) for seed in range(8)}
    assert len(drawn) > 2
    (flat / "train.txt").write_text("4\n0\n")
    (flat / "val.txt").write_text("2\n")
    assert [names(part) for part in data(kind, flat).splits()] == [["4", "0"], ["2"]]
    for found in (train, val, rest, data(kind, flat).splits()[0]):
        image, target = folders.read(found[0])
        assert image.shape == (3, 40, 50)
        if kind is MaskFolder:
            assert target.unique().tolist() == [0, 1] and int((target == 1).sum()) == 400
        else:
            assert target.boxes.tolist() == [[5, 10, 25, 30]] and target.labels.tolist() == [1]


@pytest.mark.parametrize(("write", "kind", "labels"), KINDS)
def test_a_wrong_folder_is_one_line(tmp_path: Path, write: Any, kind: Any, labels: str):
    def line(path: Path, holdout: int = 0) -> str:
        with pytest.raises(ValueError) as error:
            data(kind, path, holdout).splits()
        assert "\n" not in str(error.value)
        return str(error.value)

    assert "dataset.path must hold train/ and val/ (or test/)" in line(tmp_path / "nowhere")
    assert "got no images in images in" in line(tmp_path, 1)
    path = split(tmp_path / "own", write)
    val = (path / "val").rename(path / "validation")
    assert f"with images/ and {labels}/ in each" in (found := line(path))
    assert "got no val or test in " in found
    val.rename(path / "val")
    label = next((path / "train" / labels).glob("0.*"))
    hidden = label.rename(label.with_suffix(".hidden"))
    assert f"{label} cannot be read: No such file" in line(path)
    hidden.rename(label)
    voc_layout.picture(path / "train" / "images" / "0.png")
    run = MASKS if kind is MaskFolder else BOXES
    assert check_data.main([*run, f"dataset.path={path}"]) == 1
    assert "0.png and " in line(path) and "must have different names" in line(path)
    flat = tmp_path / "flat"
    write(flat, "a", 1)
    (flat / "train.txt").write_text("a.jpg\n")
    (flat / "val.txt").write_text("a\n")
    assert "train.txt must name images of " in line(flat) and "got a.jpg" in line(flat)
    (flat / "train.txt").write_text("a\n")
    (flat / "val.txt").write_text("\n")
    assert "val.txt must name images, got none" in line(flat)


@pytest.mark.parametrize(("write", "kind", "labels"), KINDS)
def test_labels_without_an_image_and_images_without_a_label_are_told(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], write: Any, kind: Any, labels: str
):
    path = split(tmp_path / "own", write)
    (path / "train" / "images" / "3.jpg").unlink()
    (path / "val" / "images" / "notes.txt").write_text("no image")
    run = MASKS if kind is MaskFolder else BOXES
    assert check_data.main([*run, f"dataset.path={path}"]) == 0
    out = capfd.readouterr().out
    assert f"{path}/train/{labels}/3." in out and "has no image: it is not used" in out
    for label in sorted((path / "train" / labels).iterdir())[:2]:
        label.unlink()
    assert check_data.main([*run, f"dataset.path={path}"]) == 1
    assert (
        capfd.readouterr().out.count("cannot be read: No such file or directory: training s") == 2
    )


@pytest.mark.parametrize(
    "classes", ["cat", "[]", "[cat,cat]", "[background,cat]", "[1,2]", "['',cat]", "[' cat']"]
)
def test_classes_are_names(cli, classes: str):
    for run in (MASKS, BOXES):
        done = cli(*run, "dataset.path=x", f"dataset.classes={classes}")
        assert done.status == 2 and done.err.count("\n") == 1
        assert "dataset.classes must be 1 to 254 different names in brackets" in done.err


def test_a_label_beyond_the_classes_and_an_unknown_name_are_one_line(cli, tmp_path: Path):
    path = split(tmp_path / "masks", write_mask)
    write_mask(path / "train", "0", 3)
    done = cli(*MASKS, f"dataset.path={path}")
    assert "train/masks/0.png must hold labels of 0 to 2, or 255, got 3" in done.err
    path = split(tmp_path / "boxes", write_boxes)
    voc_layout.annotation(path / "val" / "annotations" / "0.xml", ("cow", 1, 1, 5, 5))
    done = cli(*BOXES, f"dataset.path={path}")
    assert done.status == 2 and "val/annotations/0.xml must name one of cat, dog, got" in done.err
    done = cli("task=voc_det", "dataset=masks", CLASSES, "dataset.path=x", "model.weights=none")
    assert done.status == 2 and "choose voc_det, shapes_det or boxes" in done.err


@pytest.mark.parametrize("run", [MASKS, BOXES])
def test_the_folder_may_move_and_other_classes_are_another_run(run: tuple[str, ...]):
    def mark(*more: str) -> str:
        return fingerprint(identity(to_config(compose([*run, *more]))))

    assert mark("dataset.path=a/pets") == mark("dataset.path=b/pets")
    assert mark("dataset.path=a/pets") != mark("dataset.path=a/others")
    assert mark("dataset.path=a") != mark("dataset.path=a", "dataset.classes=[dog,cat]")
