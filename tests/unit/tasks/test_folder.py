"""dataset=folder: images of one's own, in a folder per class."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lrd.runs.store import find_runs
from lrd.task import Setup
from tasks.folder import ImageFolder

COLORS = {"cats": (200, 30, 30), "dogs": (30, 30, 200)}
FOLDER = ("task=cifar10", "dataset=folder", "dataset.size=16", "model=resnet8", "train.epochs=1")


def write(folder: Path, count: int, size: tuple[int, int] = (20, 30)) -> None:
    for name, color in COLORS.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", size, color).save(folder / name / f"{number}.png")


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    write(tmp_path / "pets" / "train", 24)
    write(tmp_path / "pets" / "test", 4)
    return tmp_path / "pets"


def test_images_are_cut_out_of_the_middle(tmp_path: Path):
    pixels = np.zeros((10, 30, 3), np.uint8)
    pixels[:, 10:20] = 200  # the middle third, which is square
    for part in ("train", "val"):
        for name in ("a", "b"):
            (tmp_path / part / name).mkdir(parents=True)
            Image.fromarray(pixels).save(tmp_path / part / name / "0.png")
    data = ImageFolder(Setup(), "own", str(tmp_path), size=10)
    images, labels = data.read(train=False)
    assert data.shape == (3, 10, 10) and data.classes == 2 and list(data.names) == ["a", "b"]
    assert labels.tolist() == [0, 1] and bool((images == 200).all())
    assert ImageFolder(Setup(), "own", str(tmp_path), size=5).read(True)[0].shape == (2, 3, 5, 5)


def test_a_network_learns_the_folders(cli, pets: Path):
    done = cli(*FOLDER, f"dataset.path={pets}", "train.batch_size=4", "lrd.p=1", "optim=sgdm")
    assert done.status == 0, done.err
    assert "test accuracy" in done.out


def test_the_folder_may_move_and_other_images_are_another_run(cli, pets: Path, tmp_path: Path):
    def train(path: Path | str, *more: str):
        return cli(*FOLDER, f"dataset.path={path}", "train.batch_size=8", *more)

    assert train(pets).status == 0
    (first,) = find_runs("runs")
    assert first.folder.parts[1] == "pets"
    moved = tmp_path / "elsewhere" / "pets"
    moved.parent.mkdir()
    pets.rename(moved)
    assert "finished already" in train(moved).out
    assert "finished already" in train("elsewhere/pets/").out
    write(pets / "train", 24, size=(31, 17))  # another set of the same name
    write(pets / "test", 4)
    done = train(pets)
    assert done.status == 2 and "with other data" in done.err and done.err.count("\n") == 1
    assert "dataset.name=NAME" in done.err
    assert train(pets, "dataset.name=other").status == 0
    pets.rename(tmp_path / "dogs")
    assert train(tmp_path / "dogs").status == 0  # another name, without a setting
    assert [run.folder.parts[1] for run in find_runs("runs")] == ["dogs", "other", "pets"]
    assert len({run.fingerprint for run in find_runs("runs")}) == 3


def test_an_unfinished_run_is_not_resumed_with_other_images(cli, pets: Path):
    command = (*FOLDER, f"dataset.path={pets}", "train.batch_size=8")
    assert cli(*command, "train.epochs=2", "train.checkpoint_every=1").status == 0
    (run,) = find_runs("runs")
    run.update(status="interrupted")
    Image.new("RGB", (9, 9)).save(pets / "test" / "cats" / "9.png")
    done = cli(*command, "train.epochs=2")
    assert done.status == 2 and "is unfinished, with other data" in done.err


def test_without_a_test_folder_images_are_held_out(cli, tmp_path: Path):
    write(tmp_path / "flat", 12)
    done = cli(*FOLDER, f"dataset.path={tmp_path / 'flat'}", "dataset.holdout=6")
    assert done.status == 0 and "holdout accuracy" in done.out


def test_other_files_have_another_manifest(pets: Path):
    def manifest(path: Path) -> str:
        return ImageFolder(Setup(), "own", str(path), size=8).manifest()

    before = manifest(pets)
    moved = pets.rename(pets.with_name("moved"))
    assert manifest(moved) == before
    Image.new("RGB", (9, 9)).save(moved / "test" / "cats" / "9.png")
    assert manifest(moved) != before


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (["dataset.path=nowhere"], "dataset.path must be a folder of images, got nowhere"),
        (["dataset.path=pets/train"], "dataset.path must hold train/ and test/ (or val/), or"),
        (["dataset.path=empty", "dataset.holdout=1"], "must hold a folder of images per class"),
        (["dataset.path=pets", "dataset.size=0"], "dataset.size must be a whole number"),
        (["dataset.path=pets", "dataset.mean=[1,2]"], "dataset.mean must be 1 or 3 numbers"),
        (["dataset.path=pets", "dataset.std=[0]"], "dataset.std must be 1 or 3 numbers, of std"),
        (["dataset.path=torn", "dataset.holdout=1"], "torn/a/0.png cannot be read"),
        (["dataset.path=uneven"], "uneven/test must have the classes ['a', 'b'], got ['a']"),
        ([], "dataset.path: Missing mandatory value"),
    ],
)
def test_a_wrong_folder_is_one_line(cli, pets: Path, settings: list[str], expected: str):
    Path("empty").mkdir()
    for path in ("torn/a", "torn/b", "uneven/train/a", "uneven/train/b", "uneven/test/a"):
        Path(path).mkdir(parents=True)
        Image.new("RGB", (9, 9)).save(f"{path}/0.png")
    Path("torn/a/0.png").write_bytes(b"no image")
    done = cli(*FOLDER, *settings)
    assert done.status == 2 and expected in done.err and done.err.count("\n") == 1


def test_predictions_name_the_folders(cli, pets: Path):
    from lrd.training.trained import load_trained, predict_image

    assert cli(*FOLDER, f"dataset.path={pets}", "train.batch_size=8").status == 0
    (run,) = find_runs("runs")
    found = predict_image(load_trained(run), torch.zeros(3, 40, 30, dtype=torch.uint8))
    assert set(found.values["top"]) == set(COLORS)
