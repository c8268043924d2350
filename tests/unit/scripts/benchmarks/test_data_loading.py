"""Turns over batches, and the data that they take."""

from pathlib import Path
from typing import Any

import pytest

from scripts.benchmarks.data_loading import (
    boxes_workload,
    opencv_boxes,
    opencv_crops,
    photos_workload,
    pil_batches,
    task_batches,
)
from scripts.benchmarks.measure import Options
from scripts.benchmarks.workloads import Workload
from tasks.segmentation import Segmentation
from tests.helpers import voc_layout

QUICK = Options(quick=True, rounds=2)


def facts(workload: Workload, crop: int) -> tuple[str, str, int, int]:
    return workload.data, workload.title, workload.batch, crop


def test_real_images_are_used_where_available_and_named_in_the_title(tmp_path: Path):
    voc_layout.devkit(tmp_path, [f"a{i}" for i in range(16)], "b")
    workload, crop = photos_workload(Options(root=str(tmp_path)))
    assert facts(workload, crop) == (
        "voc_seg",
        "voc_seg, real images",
        16,
        473,
    )
    for turn in (task_batches(workload), pil_batches(workload, crop, 0)):
        assert turn(None).images == 16
    workload, crop = photos_workload(Options(root=str(tmp_path / "elsewhere")))
    assert facts(workload, crop) == (
        "shapes_seg",
        "the embedded shapes",
        16,
        97,
    )


def test_a_turn_is_an_epoch_or_a_part_of_it():
    workload, crop = photos_workload(QUICK)
    for turn in (task_batches(workload), pil_batches(workload, crop, 0)):
        assert [turn(steps).images for steps in (3, None, 99)] == [24, 64, 64]


def test_no_worker_prefetches_after_a_short_turn(monkeypatch: pytest.MonkeyPatch):
    requested: list[tuple[int, int]] = []
    original = Segmentation.train_batches

    def spy(self: Segmentation, epoch: int, start: int = 0, *args: int) -> Any:
        requested.append((epoch, start))
        return original(self, epoch, start, *args)

    monkeypatch.setattr(Segmentation, "train_batches", spy)
    turn = task_batches(photos_workload(QUICK)[0])
    for steps in (3, None, 99):
        turn(steps)
    assert requested == [(0, 5), (1, 0), (2, 0)]


def test_turns_of_both_pipelines_have_cpu_time_and_the_same_number_of_images():
    crops, crop = photos_workload(QUICK)
    boxes = boxes_workload(QUICK)
    assert (boxes.data, boxes.batch, boxes.threads) == ("shapes_det", 8, 1)
    for turns in (
        (task_batches(crops), opencv_crops(crops, crop)),
        (task_batches(boxes), opencv_boxes(boxes)),
    ):
        results = [turn(2) for turn in turns]
        assert [result.images for result in results] == [16, 16]
        assert all(result.cpu_seconds > 0 for result in results)
