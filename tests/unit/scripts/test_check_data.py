"""scripts/check_data.py: every problem a line, what training does, counts, and the exit status."""

import os
from pathlib import Path

import pytest
from PIL import Image

from scripts import check_data
from tests.helpers import voc_layout

BOXES = ("task=voc_det", "dataset.voc12=false", "dataset.partial=true", "model.weights=none")
MASKS = ("task=voc_seg", "dataset.sbd=false", "dataset.partial=true", "model.weights=none")


def checked(capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, list[str]]:
    capfd.readouterr()
    status = check_data.main(arguments)
    out, err = capfd.readouterr()
    assert err == "" or status == 2
    return status, (out or err).splitlines()


def counted(lines: list[str]) -> dict[str, int]:
    rows = [line.split("  ", 1) for line in (line.strip() for line in lines) if line[:1].isdigit()]
    return {name: int(number.replace(",", "")) for number, name in rows}


def test_boxes_are_read_as_training_reads_them(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    folder = voc_layout.boxes(tmp_path, "2007", trainval="abcde", test="ax")
    run = (*BOXES, "train.batch_size=2", f"data.root={tmp_path}")
    status, lines = checked(capfd, *run)
    assert status == 0 and lines[-1] == "nothing stops training"
    assert "a.jpg is a training and an evaluation image: it is used as both" in lines[0]
    assert sum("has no training image with" in line for line in lines) == 19  # all but the cat
    found = counted(lines)
    assert found["training images"] == found["training objects"] == 5
    assert found["evaluation images with cat"] == 2 and found["training images with dog"] == 0
    assert found["training steps per epoch"] == 3

    label = folder / "Annotations"
    voc_layout.annotation(label / "b.xml", ("dog", 0, 1, 9, 9), ("cat", 99, 1, 101, 9))
    size = "<size><width>7</width><height>9</height></size>"
    (label / "c.xml").write_text(
        (label / "c.xml").read_text().replace("<object>", size + "<object>")
    )
    (label / "d.xml").write_text("<annotation>")
    jpeg = folder / "JPEGImages" / "x.jpg"
    jpeg.write_bytes(jpeg.read_bytes()[:-200])  # its header is good
    status, lines = checked(capfd, *run)
    assert status == 1 and lines[-1] == "training stops: 2 of these lines"
    text = "\n".join(lines)
    assert "b.xml: 1 boxes over the edge, its image b.jpg is 30 x 20: cut there\n" in text
    assert "b.xml: 1 boxes outside, its image b.jpg is 30 x 20: left out\n" in text
    assert "c.xml: 1 sizes that disagree, its image c.jpg is 30 x 20: the image's counts\n" in text
    stopping = [line for line in lines if line.endswith(": training stops")]
    assert len(stopping) == 2 and "d.xml cannot be read: " in stopping[0]
    assert "x.jpg cannot be read: " in stopping[1]
    found = counted(lines)
    assert found["training boxes over the edge"] == found["training sizes that disagree"] == 1
    assert found["training objects"] == 4


def test_masks_are_read_as_training_reads_them(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    folder = voc_layout.devkit(tmp_path, "abc", "xy") / "SegmentationClass"
    run = (*MASKS, "train.batch_size=2", f"data.root={tmp_path}")
    status, lines = checked(capfd, *run)
    assert status == 0 and counted(lines)["training images with aeroplane"] == 3
    Image.new("L", (30, 20), 255).save(folder / "a.png")
    Image.new("L", (30, 20), 77).save(folder / "b.png")
    Image.new("RGB", (30, 20)).save(folder / "y.png")
    status, lines = checked(capfd, *run)
    assert status == 1
    assert f"{folder}/a.png has no label but 255: none of its pixels counts" in lines
    stopping = [line for line in lines if line.endswith(": training stops")]
    assert "b.png must hold labels of 0 to 20, or 255, got 77" in stopping[0]
    assert "y.png cannot be read: a mask must have one label per pixel" in stopping[1]
    found = counted(lines)
    assert found["training masks with a palette"] == found["training masks of gray"] == 1


def test_what_the_run_would_say_of_its_lists_is_said(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    status, lines = checked(capfd, *MASKS, f"data.root={tmp_path}")
    assert status == 1 and "Segmentation/train.txt is missing: unpack VOC" in lines[0]
    voc_layout.devkit(tmp_path, "abc", "xy")
    status, lines = checked(capfd, *MASKS, f"data.root={tmp_path}")
    assert status == 1 and "train.batch_size must be at most the 3 training images" in "".join(
        lines
    )


def test_images_in_folders_are_read_one_by_one(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    for part in ("train", "test"):
        for name in ("cat", "dog"):
            (tmp_path / part / name).mkdir(parents=True)
            for number in range(3):
                Image.new("RGB", (9, 9)).save(tmp_path / part / name / f"{number}.png")
    run = ("task=cifar10", "dataset=folder", f"dataset.path={tmp_path}", "model=resnet8")
    status, lines = checked(capfd, *run)
    assert status == 0 and counted(lines)["training images"] == 6
    for torn in ("train/cat/0.png", "test/dog/2.png"):
        (tmp_path / torn).write_bytes(b"no image")
    status, lines = checked(capfd, *run)
    assert status == 1 and counted(lines)["evaluation images of dog"] == 3
    assert ["0.png" in lines[0], "2.png" in lines[1]] == [True, True]


def test_data_in_memory_and_settings(capfd: pytest.CaptureFixture[str], tmp_path: Path):
    status, lines = checked(capfd, "dataset.holdout=100")
    assert status == 0 and counted(lines)["training images"] == 1437
    assert counted(lines)["training steps per epoch"] == 11  # of 1,337
    status, lines = checked(capfd, "task=mnist", f"data.root={tmp_path}")
    assert status == 1 and "train-images-idx3-ubyte is missing" in lines[0]
    status, lines = checked(capfd, "task=nothing")
    assert status == 2 and lines[0].startswith("error: unknown task 'nothing'")


def test_data_of_a_class_of_ones_own(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "checked_parts.py").write_text(
        "import torch\nfrom tasks.images import Images\n"
        "class Few(Images):\n    shape = (1, 8, 8)\n    def read(self, train):\n"
        "        return torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.zeros(4).long()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own" / "dataset").mkdir(parents=True)
    text = "{_target_: checked_parts.Few, name: few}"
    (tmp_path / "own" / "dataset" / "few.yaml").write_text(text)
    own = ("--config-dir", os.fspath(tmp_path / "own"), "dataset=few")
    status, lines = checked(capfd, *own, "run.allow=[checked_parts]")
    assert status == 0 and counted(lines)["evaluation images"] == 4
