"""Average precision against cases by hand and the devkit's loops; IoU against sklearn.

sklearn's average_precision_score has another definition and is no reference here: it has no
envelope, treats equal scores as one threshold, and counts recall among the detections, so that an
object without a detection costs nothing. torchmetrics' MeanAveragePrecision is COCO's: it assigns
another object if the best one is taken, and has crowds instead of difficult objects. It agrees
where neither occurs.
"""

from collections.abc import Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from sklearn import metrics as sklearn
from torch import Tensor
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex
from torchmetrics.detection import MeanAveragePrecision

from tasks.metrics import AveragePrecision, IoU

CLASSES = ("cat", "dog", "cow")
CAT, DOG, COW = 1, 2, 3
Box = tuple[float, float, float, float]
A, B, NOWHERE = (0, 0, 10, 10), (20, 0, 30, 10), (50, 50, 60, 60)
EASY, DIFFICULT = False, True


class Image(NamedTuple):
    """Detections (score, label, box) and objects (label, box, difficult) of one image."""

    found: Sequence[tuple[float, int, Box]]
    objects: Sequence[tuple[int, Box, bool]]


def tensors(image: Image) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The metric's arguments for one image."""
    scores, found, boxes = ([row[i] for row in image.found] for i in range(3))
    labels, objects, difficult = ([row[i] for row in image.objects] for i in range(3))
    return (
        {
            "boxes": torch.tensor(boxes, dtype=torch.float32).view(-1, 4),
            "scores": torch.tensor(scores, dtype=torch.float32),
            "labels": torch.tensor(found, dtype=torch.int64),
        },
        {
            "boxes": torch.tensor(objects, dtype=torch.float32).view(-1, 4),
            "labels": torch.tensor(labels, dtype=torch.int64),
            "difficult": torch.tensor(difficult, dtype=torch.bool),
        },
    )


def updated(images: Sequence[Image], numbers: Sequence[int], size: int = 3) -> AveragePrecision:
    """Return a metric updated with the images of these numbers, in order, ``size`` at a time."""
    metric = AveragePrecision(CLASSES, "test")
    for part in torch.tensor(numbers, dtype=torch.int64).split(size) if numbers else ():
        pairs = [tensors(images[n]) for n in part.tolist()]
        metric.update([found for found, _ in pairs], [truth for _, truth in pairs], part)
    return metric


def values(metric: AveragePrecision) -> dict[str, float]:
    scores = metric.compute()
    assert all(v.dtype == torch.float64 and v.shape == () for v in scores.values())
    return {name: v.item() for name, v in scores.items()}


def score(*images: Image) -> dict[str, float]:
    return values(updated(images, range(len(images))))


def cat(*images: Image) -> tuple[float, float]:
    """Return both averages of a set whose only objects are cats."""
    scores = score(*images)
    assert scores["test_map"] == scores["test_ap_cat"]
    assert scores.keys() == {"test_map", "test_map_area", "test_ap_cat"}
    return scores["test_map"], scores["test_map_area"]


def test_each_object_found_once_is_100():
    image = Image([(0.9, CAT, A), (0.8, CAT, B)], [(CAT, A, EASY), (CAT, B, EASY)])
    assert cat(image, image) == (100, 100)


def test_nothing_found_is_0():
    assert cat(Image([], [(CAT, A, EASY)])) == (0, 0)
    assert cat(Image([], []), Image([(0.5, CAT, NOWHERE)], [(CAT, A, EASY)])) == (0, 0)


def test_a_duplicate_is_a_false_positive():
    found = [(0.9, CAT, A), (0.8, CAT, A), (0.7, CAT, B)]
    points, area = cat(Image(found, [(CAT, A, EASY), (CAT, B, EASY)]))
    # precision 1, 1/2, 2/3 at recall 1/2, 1/2, 1: 1 up to t = 0.5, then 2/3
    assert points == pytest.approx(100 * (6 * 1 + 5 * 2 / 3) / 11)
    assert area == pytest.approx(100 * (1 / 2 * 1 + 1 / 2 * 2 / 3))


def test_precision_is_the_highest_at_this_recall_or_above():
    wrong, right = [(0.9, CAT, NOWHERE)], [(0.8, CAT, A), (0.7, CAT, B)]
    objects = [(CAT, A, EASY), (CAT, B, EASY), (CAT, (80, 0, 90, 9), EASY)]
    points, area = cat(Image(wrong + right, objects))
    # precision 0, 1/2, 2/3 at recall 0, 1/3, 2/3: 2/3 up to t = 0.6, then none
    assert points == pytest.approx(100 * 7 * 2 / 3 / 11)
    assert area == pytest.approx(100 * 2 / 3 * 2 / 3)


def test_a_difficult_object_found_is_neither_right_nor_wrong_however_often():
    found = [(0.9, CAT, B), (0.8, CAT, B), (0.7, CAT, A), (0.6, CAT, B)]
    assert cat(Image(found, [(CAT, A, EASY), (CAT, B, DIFFICULT)])) == (100, 100)


def test_a_difficult_object_not_found_is_not_missed():
    image = Image([(0.9, CAT, A)], [(CAT, B, DIFFICULT), (CAT, A, EASY)])
    assert cat(image) == (100, 100)


def test_classes_without_an_object_that_counts_are_left_out():
    found = [(0.9, CAT, A), (0.8, DOG, A), (0.7, COW, B)]
    image = Image(found, [(CAT, A, EASY), (COW, B, DIFFICULT)])
    assert cat(image) == (100, 100)
    with_dog = Image([(0.9, DOG, A)], [(DOG, A, EASY), (DOG, B, EASY)])
    ours = score(image, with_dog)
    # dogs: a true positive at 0.9, then a false one: precision 1 up to recall 1/2
    assert ours["test_ap_dog"] == pytest.approx(100 * 6 / 11)
    assert ours["test_map"] == pytest.approx(100 * (1 + 6 / 11) / 2)
    assert ours["test_map_area"] == pytest.approx(100 * (1 + 1 / 2) / 2)
    assert "test_ap_cow" not in ours


@pytest.mark.parametrize(
    "image",
    [
        Image([], []),
        Image([(0.9, CAT, A)], []),
        Image([], [(CAT, A, DIFFICULT)]),
        Image([(0.9, CAT, A), (0.8, DOG, A)], [(CAT, A, DIFFICULT)]),
    ],
)
def test_no_class_with_an_object_that_counts_is_0(image: Image):
    assert score(image) == score(image, image) == {"test_map": 0, "test_map_area": 0}


def test_an_object_of_another_image_or_class_is_not_found():
    elsewhere = Image([(0.9, CAT, A)], [(DOG, A, EASY)])
    here = Image([(0.8, CAT, A)], [(CAT, A, EASY)])
    ours = score(elsewhere, here)
    # cats: precision 0, 1/2 at recall 0, 1; dogs: nothing found
    assert ours["test_ap_cat"] == pytest.approx(50)
    assert ours["test_ap_dog"] == 0
    assert ours["test_map"] == ours["test_map_area"] == pytest.approx(25)


def test_the_object_overlapped_most_is_taken_though_another_would_do():
    left, middle, right = (0, 0, 10, 10), (1, 0, 11, 10), (3, 0, 13, 10)
    objects = [(CAT, left, EASY), (CAT, right, EASY)]
    # middle: 9/11 of left, 8/12 of right; left goes to the first, and is not there for the second
    points, area = cat(Image([(0.9, CAT, middle), (0.8, CAT, left)], objects))
    assert (points, area) == (pytest.approx(100 * 6 / 11), pytest.approx(50))
    assert cat(Image([(0.9, CAT, middle), (0.8, CAT, right)], objects)) == (100, 100)
    difficult = [(CAT, left, DIFFICULT), (CAT, right, EASY)]
    assert cat(Image([(0.9, CAT, middle)], difficult)) == (0, 0)
    easy = [(CAT, left, EASY), (CAT, right, DIFFICULT)]
    assert cat(Image([(0.9, CAT, middle)], easy)) == (100, 100)


def test_of_objects_overlapped_alike_the_first_is_taken():
    middle, left, right = (2, 0, 12, 10), (0, 0, 10, 10), (4, 0, 14, 10)
    easy, difficult = (CAT, left, EASY), (CAT, right, DIFFICULT)
    assert cat(Image([(0.9, CAT, middle)], [easy, difficult])) == (100, 100)
    assert cat(Image([(0.9, CAT, middle)], [difficult, easy])) == (0, 0)


def test_exactly_half_is_enough():
    assert cat(Image([(0.9, CAT, (0, 0, 10, 5))], [(CAT, A, EASY)])) == (100, 100)
    assert cat(Image([(0.9, CAT, (0, 0, 10, 4.9999))], [(CAT, A, EASY)])) == (0, 0)
    thirds = Image([(0.9, CAT, (0, 0, 2, 1))], [(CAT, (1, 0, 3, 1), EASY)])
    assert cat(thirds) == (0, 0)


def test_pixels_are_counted_inclusively_as_the_devkit_does():
    """Columns 1-10 against 1-5: 5 of 10 pixels, where xmax - xmin would have 4 of 9."""
    truth, found = (1, 1, 10, 10), (1, 1, 5, 10)
    boxes = [(x1 - 1, y1 - 1, x2, y2) for x1, y1, x2, y2 in (truth, found)]
    assert cat(Image([(0.9, CAT, boxes[1])], [(CAT, boxes[0], EASY)])) == (100, 100)


def test_equal_scores_of_an_image_are_in_its_order():
    right, wrong = (0.5, CAT, A), (0.5, CAT, NOWHERE)
    assert cat(Image([right, wrong], [(CAT, A, EASY)])) == (100, 100)
    assert cat(Image([wrong, right], [(CAT, A, EASY)])) == (pytest.approx(50), pytest.approx(50))


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_equal_scores_of_two_images_are_in_the_order_of_their_numbers(
    order: tuple[int, int], size: int
):
    right, wrong = Image([(0.5, CAT, A)], [(CAT, A, EASY)]), Image([(0.5, CAT, A)], [])
    assert values(updated([right, wrong], order, size))["test_map"] == 100
    assert values(updated([wrong, right], order, size))["test_map"] == pytest.approx(50)


@pytest.mark.parametrize("count", [10, 20, 30, 70, 110])
def test_a_recall_of_exactly_a_tenth_reaches_it(count: int):
    """As floats 3 / 10 < 3 * 0.1, and 6 and 7 tenths are no better."""
    image = Image([(0.5, CAT, A)], [(CAT, A, EASY)])
    missed = Image([], [(CAT, A, EASY)])
    for tenths in range(1, 11):
        found = count * tenths // 10
        points, area = cat(*[image] * found, *[missed] * (count - found))
        assert points == pytest.approx(100 * (tenths + 1) / 11, abs=1e-9)
        assert area == pytest.approx(10 * tenths)
        fewer = cat(*[image] * (found - 1), *[missed] * (count - found + 1))
        assert fewer[0] == pytest.approx(100 * tenths / 11 if found > 1 else 0, abs=1e-9)


def test_a_box_that_is_no_box_finds_nothing_and_a_score_that_is_no_number_comes_last():
    inf, nan, big = float("inf"), float("nan"), 3e38
    boxes = [(nan, 0, 10, 10), (0, 0, inf, 10), (-inf, -inf, inf, inf), (inf, inf, inf, inf)]
    boxes += [(-big, -big, big, big), (10, 10, 0, 0), (0, 0, 0, 0), (5, 5, 5, 5)]
    objects = [(CAT, A, EASY), (CAT, (5, 5, 5, 5), DIFFICULT)]
    for box in boxes:
        found = [(0.9, CAT, box), (0.8, CAT, A)]
        assert cat(Image(found, objects)) == (pytest.approx(50), pytest.approx(50)), box
    assert cat(Image([(nan, CAT, NOWHERE), (-5, CAT, A)], objects)) == (100, 100)


def test_labels_are_classes_without_the_background():
    for label in (0, len(CLASSES) + 1):
        with pytest.raises(AssertionError):
            score(Image([(0.9, label, A)], []))
        with pytest.raises(AssertionError):
            score(Image([], [(label, A, EASY)]))


def pixels(box: Box) -> Box:
    """Return the devkit's inclusive box."""
    return box[0] + 1, box[1] + 1, box[2], box[3]


def judged(found: tuple[float, Box], objects: list[list[Any]]) -> str:
    """VOCevaldet.m's inner loop: "tp", "fp" or "" of a detection; marks the object it takes."""
    bb, highest, best = found[1], -1.0, None
    for o in objects:
        gt = o[0]
        width = min(bb[2], gt[2]) - max(bb[0], gt[0]) + 1
        height = min(bb[3], gt[3]) - max(bb[1], gt[1]) + 1
        if width > 0 and height > 0:
            sizes = [(b[2] - b[0] + 1) * (b[3] - b[1] + 1) for b in (bb, gt)]
            overlap = width * height / (sum(sizes) - width * height)
            if overlap > highest:
                highest, best = overlap, o
    if best is None or highest < 0.5:
        return "fp"
    if best[1]:
        return ""
    taken, best[2] = best[2], True
    return "fp" if taken else "tp"


def curve(images: Sequence[Image], label: int) -> tuple[int, list[Fraction], list[Fraction]]:
    """VOCevaldet.m: objects that count, recall and precision after each detection."""
    truth = [[[pixels(b), d, False] for c, b, d in i.objects if c == label] for i in images]
    found = [
        (-s, number, place, pixels(b))
        for number, image in enumerate(images)
        for place, (s, c, b) in enumerate(image.found)
        if c == label
    ]
    count = sum(not o[1] for objects in truth for o in objects)
    right = wrong = 0
    recall, precision = [], []
    for s, number, _, box in sorted(found):
        verdict = judged((-s, box), truth[number])
        right, wrong = right + (verdict == "tp"), wrong + (verdict == "fp")
        if count and right + wrong:  # max() of the devkit passes over 0 / 0
            recall.append(Fraction(right, count))
            precision.append(Fraction(right, right + wrong))
    return count, recall, precision


def eleven_points(recall: list[Fraction], precision: list[Fraction]) -> Fraction:
    """VOC2007's VOCevaldet.m, its last lines."""
    ap = Fraction(0)
    for k in range(11):
        above = [p for r, p in zip(recall, precision, strict=True) if r >= Fraction(k, 10)]
        ap += max(above, default=Fraction(0)) / 11
    return ap


def area_under(recall: list[Fraction], precision: list[Fraction]) -> Fraction:
    """VOC2010's VOCap.m."""
    mrec, mpre = [Fraction(0), *recall, Fraction(1)], [Fraction(0), *precision, Fraction(0)]
    for i in range(len(mpre) - 2, -1, -1):
        mpre[i] = max(mpre[i], mpre[i + 1])
    return sum(((mrec[i] - mrec[i - 1]) * mpre[i] for i in range(1, len(mrec))), Fraction(0))


def twin(images: Sequence[Image]) -> dict[str, float]:
    """The scores by the devkit's loops, in exact arithmetic from the overlaps on."""
    points, areas = {}, []
    for label, name in enumerate(CLASSES, 1):
        count, recall, precision = curve(images, label)
        if count:
            points[name] = eleven_points(recall, precision)
            areas.append(area_under(recall, precision))
    scores = {f"test_ap_{name}": float(100 * p) for name, p in points.items()}
    scores["test_map"] = float(100 * sum(points.values()) / max(len(points), 1))
    scores["test_map_area"] = float(100 * sum(areas) / max(len(areas), 1))
    return scores


def random_box(random: np.random.Generator, near: Sequence[Box]) -> Box:
    """On a coarse grid, often near one of ``near``: so some overlaps are equal, or exactly 0.5."""
    if near and random.random() < 0.7:
        x1, y1, x2, y2 = near[int(random.integers(len(near)))]
        dx1, dy1, dx2, dy2 = (int(d) for d in random.integers(-1, 2, 4))
        box = x1 + dx1, y1 + dy1, x2 + dx2, y2 + dy2
        if box[0] < box[2] and box[1] < box[3]:
            return box
    (x1, y1), (w, h) = random.integers(0, 8, 2).tolist(), random.integers(1, 7, 2).tolist()
    return x1, y1, x1 + w, y1 + h


def random_images(seed: int) -> list[Image]:
    """A few images with crowded objects, many equal scores, and sometimes a missing class."""
    random = np.random.default_rng(seed)
    labels, levels = random.integers(1, 4, 2), int(random.integers(2, 40))
    images = []
    for _ in range(int(random.integers(1, 9))):
        objects = []
        for _ in range(int(random.integers(0, 7))):
            box = random_box(random, [o[1] for o in objects])
            objects.append((int(random.choice(labels)), box, bool(random.random() < 0.25)))
        found = []
        for _ in range(int(random.integers(0, 16))):
            box = random_box(random, [o[1] for o in objects])
            where = [o[0] for o in objects] or [CAT]
            label = int(random.choice(where) if random.random() < 0.8 else random.integers(1, 4))
            found.append((int(random.integers(levels)) / 64, label, box))
        images.append(Image(found, objects))
    return images


@pytest.mark.parametrize("seed", range(150))
def test_random_sets_score_as_by_the_devkits_loops(seed: int):
    images = random_images(seed)
    ours, theirs = score(*images), twin(images)
    assert ours.keys() == theirs.keys()
    assert ours == pytest.approx(theirs, rel=1e-12, abs=1e-12)


def test_the_random_sets_hold_what_they_are_for():
    sets = [random_images(seed) for seed in range(150)]
    scores = [twin(images) for images in sets]
    assert sum(len(s) == 2 for s in scores) > 0, "no class at all"
    assert {len(s) for s in scores} >= {3, 4}, "one class, two"
    assert sum(5 < s["test_map"] < 95 for s in scores) > 100
    found = [[f for image in images for f in image.found] for images in sets]
    assert sum(len({f[:2] for f in fs}) < len(fs) for fs in found) > 100, "equal scores"
    difficult = [o[2] for images in sets for image in images for o in image.objects]
    assert 0.2 < sum(difficult) / len(difficult) < 0.3


@pytest.mark.parametrize("seed", range(60))
def test_11_points_and_area_bound_each_other(seed: int):
    """Precision p(t) falls with recall and lies in 0 .. 1, so the area is between the sums over
    t = 0.1 .. 1 and over t = 0 .. 0.9 of p(t) / 10, which are 11 points less one of them."""
    ours = score(*random_images(1000 + seed))
    assert all(0 <= v <= 100 for v in ours.values())
    points, area = 11 * ours["test_map"], 10 * ours["test_map_area"]
    assert points - 100 - 1e-9 <= area <= points + 1e-9


@pytest.mark.parametrize("seed", range(12))
def test_batches_and_their_order_change_no_bit(seed: int):
    images = random_images(seed) + random_images(100 + seed)
    expected = values(updated(images, range(len(images)), len(images)))
    random = np.random.default_rng(seed)
    for size in (1, 2, 5):
        order = random.permutation(len(images)).tolist()
        assert values(updated(images, order, size)) == expected


FEW = (random_images(0) + random_images(1) + random_images(2))[:11]


@pytest.mark.parametrize("world", [2, 3, 12])
def test_ranks_merge_to_the_same_bits(world: int):
    """Ranks beyond the images have none and have never been updated."""
    expected = score(*FEW)
    ranks = [updated(FEW, range(len(FEW))[rank::world], 2) for rank in range(world)]
    for rank in ranks[1:]:
        ranks[0].merge_state(rank)
    assert values(ranks[0]) == expected


@pytest.mark.parametrize("me", [0, 1, 11])
def test_a_gathering_of_ranks_gets_the_same_bits_on_each(me: int):
    """As torch.distributed, ``gather`` needs tensors of one type that differ in length alone."""
    images, world = FEW, 12
    ranks = [updated(images, range(len(images))[rank::world], 2) for rank in range(world)]
    states = iter(("detections", "truths"))

    def gather(mine: Tensor, group: Any = None) -> list[Tensor]:
        name = next(states)
        theirs = [torch.cat(getattr(rank, name)) for rank in ranks]
        assert {(t.dtype, t.shape[1:]) for t in theirs} == {(mine.dtype, mine.shape[1:])}
        assert mine.shape == theirs[me].shape
        return theirs

    before = [len(rows) for rows in (ranks[me].detections, ranks[me].truths)]
    ranks[me].sync(dist_sync_fn=gather, distributed_available=lambda: True)
    gathered = AveragePrecision(CLASSES, "test")
    gathered.update([], [], torch.empty(0, dtype=torch.int64))
    gathered.merge_state({k: [getattr(ranks[me], k)] for k in ("detections", "truths")})
    ranks[me].unsync()
    assert values(gathered) == score(*images)
    assert [len(rows) for rows in (ranks[me].detections, ranks[me].truths)] == before


def test_a_reset_metric_is_as_new():
    first, second = random_images(1), random_images(2)
    metric = updated(first, range(len(first)))
    assert values(metric) == score(*first) == values(metric)
    metric.reset()
    for number, image in enumerate(second):
        found, truth = tensors(image)
        metric.update([found], [truth], torch.tensor([number]))
    assert values(metric) == score(*second)


def test_neither_autocast_nor_inference_changes_a_bit():
    images = random_images(5)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        inside = score(*images)
    assert inside == score(*images)


def test_the_states_hold_every_number_exactly():
    box = (0.1, 1 / 3, 499.9999, 374.7)
    metric = AveragePrecision(CLASSES, "test")
    found, truth = tensors(Image([(0.12345679, CAT, box)], [(COW, box, DIFFICULT)]))
    metric.update([found], [truth], torch.tensor([2**40 + 1]))
    number, label, value, *sides = torch.cat(metric.detections)[0].tolist()
    assert (number, label, value) == (2**40 + 1, CAT, found["scores"].item())
    assert sides == found["boxes"][0].tolist()
    assert torch.cat(metric.truths)[0, :3].tolist() == [2**40 + 1, COW, 1]
    assert metric.detections[0].shape == metric.truths[0].shape == (0, 7)


@pytest.mark.parametrize("seed", range(3))
def test_the_area_is_torchmetrics_where_the_definitions_agree(seed: int):
    """100 objects of a class, far apart and none difficult: COCO's average at each hundredth of
    recall, where the curve steps, is the area."""
    draw = np.random.default_rng(seed)
    images: list[Image] = []
    for _ in range(10):
        objects: list[tuple[int, Box, bool]] = []
        found: list[tuple[float, int, Box]] = []
        for x in range(0, 400, 40):
            objects.append((CAT, (x, 0, x + 20, 20), EASY))
            for dx, dy in draw.uniform(-6, 6, (draw.integers(0, 3), 2)):
                box = (x + dx, dy, x + dx + 20, dy + 20)
                found.append((draw.random(), CAT, box))
        images.append(Image(found, objects))
    ours = updated(images, range(10)).compute()["test_map_area"]
    hundredths = [k / 100 for k in range(1, 101)]
    theirs = MeanAveragePrecision("xyxy", "bbox", [0.5], hundredths)
    pairs = [tensors(image) for image in images]
    theirs.update([found for found, _ in pairs], [truth for _, truth in pairs])
    assert 20 < ours < 90
    assert float(ours) == pytest.approx(100 * float(theirs.compute()["map"]), abs=1e-4)


IOU_CLASSES = ("background", "a", "b", "c", "d")


def iou_scores(predicted: Tensor, truth: Tensor, parts: int = 1) -> dict[str, float]:
    metric = IoU(IOU_CLASSES, "val")
    for p, t in zip(predicted.chunk(parts), truth.chunk(parts), strict=True):
        metric.update(p, t)
    return {k: float(v) for k, v in metric.compute().items()}


@pytest.mark.parametrize("deterministic", [False, True])
def test_scores_are_sklearns_with_255_left_out(deterministic: bool):
    torch.use_deterministic_algorithms(deterministic)
    torch.manual_seed(0)
    truth = torch.randint(0, 5, (4000,))
    predicted = torch.where(torch.rand(4000) < 0.6, truth, torch.randint(0, 5, (4000,)))
    truth[torch.rand(4000) < 0.1] = 255
    counted = truth != 255
    t, p = truth[counted].numpy(), predicted[counted].numpy()
    ours = iou_scores(predicted, truth, parts=7)
    per_class = 100 * np.asarray(sklearn.jaccard_score(t, p, average=None))  # type: ignore[arg-type]
    assert [ours[f"val_iou_{c}"] for c in IOU_CLASSES] == pytest.approx(list(per_class))
    assert ours["val_miou"] == pytest.approx(per_class.mean())
    assert ours["val_pixel_accuracy"] == pytest.approx(100 * sklearn.accuracy_score(t, p))
    theirs = MulticlassJaccardIndex(5, ignore_index=255)(predicted, truth)
    assert ours["val_miou"] == pytest.approx(100 * float(theirs), rel=1e-5)
    assert ours["val_macc"] == pytest.approx(100 * sklearn.balanced_accuracy_score(t, p))
    assert ours["val_macc"] == pytest.approx(mean_accuracy(predicted, truth), rel=1e-5)


def mean_accuracy(predicted: Tensor, truth: Tensor) -> float:
    return 100 * float(MulticlassAccuracy(5, average="macro", ignore_index=255)(predicted, truth))


def test_a_class_in_neither_is_left_out_and_one_in_either_counts():
    truth = torch.tensor([0, 0, 1, 1, 255])
    predicted = torch.tensor([0, 2, 1, 1, 3])
    ours = iou_scores(predicted, truth)
    assert {k for k in ours if "iou_" in k} == {"val_iou_background", "val_iou_a", "val_iou_b"}
    assert ours["val_miou"] == pytest.approx((50 + 100 + 0) / 3)
    assert ours["val_pixel_accuracy"] == pytest.approx(75)
    assert ours["val_macc"] == pytest.approx((50 + 100 + 0) / 3)
    assert ours["val_macc"] == pytest.approx(mean_accuracy(predicted, truth))


def test_scores_of_several_images_are_of_one_matrix_and_no_average():
    truth = torch.tensor([0, 0, 0, 0, 1, 1])
    predicted = torch.tensor([0, 0, 0, 1, 1, 0])
    together = iou_scores(predicted, truth, parts=3)
    assert together == iou_scores(predicted, truth)
    assert together["val_miou"] == pytest.approx(100 * (3 / 5 + 1 / 3) / 2)


def test_nothing_labelled_is_0_and_no_division_by_it():
    ours = iou_scores(torch.tensor([0, 1]), torch.tensor([255, 255]))
    assert ours == {"val_miou": 0.0, "val_pixel_accuracy": 0.0, "val_macc": 0.0}
