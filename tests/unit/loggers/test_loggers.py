"""Where an epoch's numbers go: read back from the file and the terminal."""

import io
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import tqdm.std
from PIL import Image

from lrd.loggers.console import ConsoleLogger
from lrd.loggers.images import ImageLogger
from lrd.loggers.jsonl import JSONLLogger
from tests.helpers.finished_runs import numbers


def lines(path: Path) -> list[dict[str, Any]]:
    assert path.read_bytes().endswith(b"\n")
    return [json.loads(line) for line in path.read_text().splitlines()]


def written(path: Path, epochs: int) -> Path:
    logger = JSONLLogger(path)
    for epoch in range(1, epochs + 1):
        logger.on_epoch(numbers(epoch))
    logger.close({})
    return path


def test_json_lines_have_each_epoch_on_disk_as_soon_as_it_ended(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    logger = JSONLLogger(path)
    for epoch in (1, 2, 3):
        logger.on_step(epoch - 1, 10)
        logger.on_epoch(numbers(epoch))
        assert lines(path) == [numbers(e) for e in range(1, epoch + 1)]
    logger.close({"status": "finished"})
    assert lines(path) == [numbers(e) for e in (1, 2, 3)]


def test_json_lines_opened_again_go_on_behind_the_epochs_that_count(tmp_path: Path):
    path = written(tmp_path / "metrics.jsonl", 5)
    with path.open("ab") as file:
        file.write(b'{"epoch": 6, "tra')  # killed in the middle of a line
    logger = JSONLLogger(path, epochs=3)
    assert lines(path) == [numbers(e) for e in (1, 2, 3)]
    logger.on_epoch(numbers(4, seed=1))
    assert lines(path) == [*(numbers(e) for e in (1, 2, 3)), numbers(4, seed=1)]
    logger.close({})
    JSONLLogger(path, epochs=4).close({})
    assert len(lines(path)) == 4
    JSONLLogger(path).close({})
    assert path.read_bytes() == b""


@pytest.mark.parametrize("there, half", [(0, b""), (2, b""), (2, b'{"epoch": 3, "tra')])
def test_json_lines_refuse_a_file_shorter_than_the_checkpoint(
    tmp_path: Path, there: int, half: bytes
):
    path = tmp_path / "metrics.jsonl"
    if there:
        with written(path, there).open("ab") as file:
            file.write(half)
    before = path.read_bytes() if there else None
    with pytest.raises(ValueError) as caught:
        JSONLLogger(path, epochs=3)
    text = str(caught.value)
    assert text.startswith(f"{path} has {there} epochs and the checkpoint 3")
    assert "run.force=true" in text and len(text.splitlines()) == 1
    assert (path.read_bytes() if path.exists() else None) == before


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def watch(out: io.StringIO) -> list[str]:
    """What two epochs of three steps leave in ``out``: after each epoch, and at the end."""
    console, seen = ConsoleLogger(2, 3, out), []
    for epoch in (0, 1):
        for step in (1, 2, 3):
            console.on_step(epoch, step)
        console.on_epoch(
            {**numbers(epoch + 1), "test_loss": 0.5, "val_miou": 40.0, "val_map": 60.0}
        )
        seen.append(out.getvalue())
    console.close({"status": "finished"})
    return [*seen, out.getvalue()]


def test_without_a_terminal_there_is_one_line_per_epoch_at_its_end():
    after_one, after_two, end = watch(io.StringIO())
    assert after_one.count("\n") == 1 and after_two.count("\n") == 2 and end == after_two
    first, second = (line.split("  ") for line in end.splitlines())
    scores = ["test loss 0.5", "val miou 40", "val map 60", "1.2 s"]
    assert first == ["epoch 1/2", "train loss 0.3", "test accuracy 90", *scores]
    assert second == ["epoch 2/2", "train loss 0.15", "test accuracy 92.5", *scores]


def test_lines_go_to_what_is_standard_output_at_the_time(capsys: pytest.CaptureFixture[str]):
    ConsoleLogger(2, 3).on_epoch(numbers(1))
    assert capsys.readouterr().out.startswith("epoch 1/2  train loss 0.3")


def test_on_a_terminal_there_is_a_bar_over_all_steps_and_no_lines(monkeypatch: pytest.MonkeyPatch):
    clock = itertools.count()
    monkeypatch.setattr(tqdm.std, "time", lambda: float(next(clock)))  # every step is a second on
    *_, after, end = watch(Terminal())
    assert "\n" not in end and "0/6" in after and "6/6" in after
    assert "epoch 1/2  train loss 0.3  test accuracy 90" in after
    assert end.startswith(after) and end.rsplit("\r", 2)[1].strip() == ""  # the bar is wiped


def test_a_bar_of_a_resumed_run_starts_where_the_run_goes_on(monkeypatch: pytest.MonkeyPatch):
    clock = itertools.count()
    monkeypatch.setattr(tqdm.std, "time", lambda: float(next(clock)))
    out = Terminal()
    console = ConsoleLogger(5, 10, out)
    console.on_step(3, 4)
    assert "34/50" in out.getvalue()
    console.close({})


def test_pictures_are_files_by_name_and_epoch(tmp_path: Path):
    logger = ImageLogger(tmp_path)
    picture = torch.randint(0, 256, (3, 5, 7), dtype=torch.uint8)
    logger.on_images(12, {"2007_000033": picture, "b": picture[:, :2]})
    logger.on_images(12, {"b": picture[:, :3]})  # as a resumed run may
    found = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*.*"))
    assert found == ["pictures/2007_000033/epoch0012.png", "pictures/b/epoch0012.png"]
    with Image.open(tmp_path / found[0]) as image:
        assert torch.equal(torch.from_numpy(np.array(image)).permute(2, 0, 1), picture)
    with Image.open(tmp_path / found[1]) as image:
        assert image.size == (7, 3)
