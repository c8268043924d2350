"""VOC07 and VOC12 with boxes on disk, and the messages about wrong files."""

import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
import torch

from lrd.task import Setup
from tasks.voc_boxes import VOCBoxes
from tests.helpers import voc_layout


class Few(VOCBoxes):
    """The data set with the short lists of these tests."""

    counts = {("2007", "trainval"): 3, ("2012", "trainval"): 2, ("2007", "test"): 2}


def data(root: Path, kind: type[VOCBoxes] = Few, **settings: Any) -> VOCBoxes:
    return kind(Setup(root=str(root)), "voc_det", **settings)


def names(entries: Any) -> list[str]:
    return [entry.name for entry in entries]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    voc_layout.boxes(tmp_path, "2007", trainval="cab", test="yx")
    voc_layout.boxes(tmp_path, "2012", trainval="ed")
    return tmp_path


def test_training_is_both_years_trainval_and_evaluation_vocs_2007_test(root: Path):
    train, test = data(root).splits()
    assert names(train) == ["a", "b", "c", "d", "e"] and names(test) == ["x", "y"]
    assert train[3].image.parts[-3] == "VOC2012" and train[0].image.parts[-3] == "VOC2007"
    of = data(root, voc12=False)
    assert names(of.splits()[0]) == ["a", "b", "c"]
    assert of.describe(3, 2) == "voc_det: 3 of 3 training images and 2 of 2 test images"
    assert sum(n for (_, s), n in VOCBoxes.counts.items() if s == "trainval") == 16551
    assert VOCBoxes.counts["2007", "test"] == 4952


def test_what_is_missing_is_named_with_the_archive_it_comes_in(root: Path):
    (root / "VOCdevkit" / "VOC2007" / "Annotations" / "x.xml").unlink()
    with pytest.raises(
        ValueError, match=r"x\.xml is missing .*VOCtest_06-Nov-2007.tar .md5 b6e924de"
    ):
        data(root).splits()
    assert names(data(root, partial=True).splits()[1]) == ["y"]
    (root / "VOCdevkit" / "VOC2007" / "JPEGImages" / "b.jpg").unlink()
    with pytest.raises(ValueError, match=r"b\.jpg .*VOCtrainval_06-Nov-2007.tar .md5 c52e2795"):
        data(root).splits()
    with pytest.raises(ValueError, match=r"VOC2012/ImageSets/Main/trainval.txt is missing"):
        (root / "VOCdevkit" / "VOC2012" / "ImageSets" / "Main" / "trainval.txt").unlink()
        data(root, partial=True).splits()


def test_boxes_are_counted_from_0_with_their_ends_outside(root: Path):
    of = data(root)
    entry = of.splits()[0][0]
    things = [("person", 1, 1, 30, 20), ("dog", "2.5", 3, 10, 3), ("cat", 30, 20, 30, 20)]
    voc_layout.annotation(entry.target, *things, hard="dog")
    image, objects = of.read(entry)
    assert image.shape == (3, 20, 30)
    expected = [[0, 0, 30, 20], [1.5, 2, 10, 3], [29, 19, 30, 20]]
    assert objects.boxes.tolist() == expected
    assert [of.classes[i - 1] for i in objects.labels.tolist()] == ["person", "dog", "cat"]
    assert objects.difficult.tolist() == [False, True, False]


def test_an_image_may_have_no_objects(root: Path):
    of = data(root)
    entry = of.splits()[0][0]
    voc_layout.annotation(entry.target)
    _, objects = of.read(entry)
    assert objects.boxes.shape == (0, 4) and objects.labels.dtype == torch.int64


@pytest.mark.parametrize(
    "thing, line",
    [
        (("cat", 6, 1, 5, 5), "xmin up to xmax and ymin up to ymax, got 6 1 5 5"),
        (("cat", 1, 7, 5, 6), "got 1 7 5 6"),
        (("cat", 1, 1, 5, "nan"), "must have boxes of finite numbers, .*got 1 1 5 nan"),
        (("cat", 1, 1, "inf", 5), "got 1 1 inf 5"),
        (("cat", 1, 1, "five", 5), "must have four numbers in each bndbox, got "),
        (("unicorn", 1, 1, 5, 5), "must name one of aeroplane, .*, got 'unicorn'"),
    ],
)
def test_a_wrong_annotation_is_one_line_that_names_the_file(root: Path, thing: Any, line: str):
    of = data(root)
    entry = of.splits()[0][0]
    voc_layout.annotation(entry.target, thing)
    with pytest.raises(ValueError, match=r"a\.xml .*" + line) as error:
        of.read(entry)
    assert "\n" not in str(error.value)


def test_wrong_annotations_are_found_before_anything_is_trained(root: Path):
    entry = data(root).splits()[0][4]
    voc_layout.annotation(entry.target, ("cat", 9, 1, 5, 5))
    with pytest.raises(ValueError, match=r"e\.xml .*got 9 1 5 5"):
        data(root).splits()


def test_malformed_xml_is_one_line_that_names_the_file(root: Path):
    of = data(root)
    entry = of.splits()[0][0]
    entry.target.write_text("<annotation><object>")
    with pytest.raises(ValueError, match=r"a\.xml cannot be read: ") as error:
        of.read(entry)
    assert "\n" not in str(error.value)
    entry.image.write_bytes(b"no jpeg")
    with pytest.raises(ValueError, match=r"a\.jpg cannot be read: "):
        of.read(entry)


def test_every_real_annotation_is_read_and_its_boxes_are_its_numbers(real_data: Path):
    of = data(real_data, VOCBoxes, voc12=False, partial=True)
    train, test = of.splits()
    assert (len(train), len(test)) == (422, 210)
    counted = 0
    for entry in (*train, *test):
        root = ET.parse(entry.target).getroot()
        sides = [int(root.findtext(f"size/{side}") or 0) for side in ("height", "width")]
        objects = of.objects(entry.target, sides)
        for box, thing in zip(objects.boxes.tolist(), root.iter("bndbox"), strict=True):
            edges = {edge.tag: float(edge.text or 0) for edge in thing}
            assert box == [edges["xmin"] - 1, edges["ymin"] - 1, edges["xmax"], edges["ymax"]]
            counted += 1
    assert counted > 1500
    assert "422 of 5,011 training images and 210 of 4,952 test images" in of.describe(422, 210)


def test_a_box_over_the_edge_is_cut_there_and_one_outside_left_out(root: Path):
    entry = data(root).splits()[0][0]
    things = {
        ("cat", 0, 1, 5, 5): [0, 0, 5, 5],
        ("dog", 20, -3, 31, 5): [19, 0, 30, 5],
        ("cow", 1, 1, 30, 20): [0, 0, 30, 20],
        ("sheep", 31, 1, 40, 5): None,
        ("bird", -9, 1, 0, 5): None,
        ("person", -1e9, -1e9, 1e9, 1e9): [0, 0, 30, 20],
    }
    voc_layout.annotation(entry.target, *things)
    of = data(root)
    assert len(of.splits()[0]) == 5
    _, objects = of.read(entry)
    assert objects.boxes.tolist() == [box for box in things.values() if box]
    names = [of.classes[i - 1] for i in objects.labels.tolist()]
    assert names == ["cat", "dog", "cow", "person"] and len(objects.difficult) == 4
    assert of.describe(5, 2).endswith(
        "; 3 boxes over the edge of their image (cut there); 2 boxes outside their image (left out)"
    )


def edited(path: Path, *changes: tuple[str, str]) -> None:
    text = path.read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path.write_text(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        *((text, True) for text in ("1", "true", "True", " TRUE ", "1.0", "2", "-1")),
        *((text, False) for text in ("0", "false", "False", "0.0", "", "  ")),
    ],
)
def test_difficult_is_true_or_a_number_other_than_0(root: Path, text: str, expected: bool):
    of = data(root)
    entry = of.splits()[0][0]
    edited(entry.target, ("<difficult>0<", f"<difficult>{text}<"))
    assert of.read(entry)[1].difficult.tolist() == [expected]
    edited(entry.target, (f"<difficult>{text}</difficult>", ""))
    assert of.read(entry)[1].difficult.tolist() == [False]


@pytest.mark.parametrize("text", ["yes", "nan", "1 0"])
def test_another_difficult_is_one_line(root: Path, text: str):
    entry = data(root).splits()[0][0]
    edited(entry.target, ("<difficult>0<", f"<difficult>{text}<"))
    with pytest.raises(
        ValueError, match=rf"a\.xml must have 0, 1, true or .*difficult, got '{text}'"
    ):
        data(root).splits()


def test_elements_count_in_any_namespace(root: Path):
    entry = data(root).splits()[0][0]
    for changes in (
        [("<annotation>", '<annotation xmlns="http://example.org/voc">')],
        [("<annotation", "<v:annotation"), ("annotation xmlns", "annotation xmlns:v"),
         ("</annotation", "</v:annotation"), ("<object>", '<object xmlns="urn:other">')],
    ):  # fmt: skip
        edited(entry.target, *changes)
        _, objects = data(root).read(entry)
        assert objects.boxes.tolist() == [[0, 0, 30, 20]] and objects.labels.tolist() == [8]


def test_another_document_is_refused(root: Path):
    entry = data(root).splits()[0][0]
    entry.target.write_text("<annotations><image/></annotations>")
    with pytest.raises(ValueError, match=r"a\.xml must be an <annotation> .* got <annotations>"):
        data(root).splits()


@pytest.mark.parametrize(("width", "said"), [("30", False), ("0", False), ("60", True), ("", True)])
def test_the_image_counts_where_the_annotated_size_disagrees(root: Path, width: str, said: bool):
    entry = data(root).splits()[0][0]
    height = 0 if width == "0" else 20  # as some tools write it: unknown
    size = f"<size><width>{width}</width><height>{height}</height></size>"
    edited(entry.target, ("<object>", f"{size}<object>"), ("<xmax>30", "<xmax>45"))
    of = data(root)
    of.splits()
    assert of.read(entry)[1].boxes.tolist() == [[0, 0, 30, 20]]
    assert ("; 1 annotations of another size" in of.describe(5, 2)) == said


def test_a_list_of_a_class_is_refused(root: Path):
    file = root / "VOCdevkit" / "VOC2007" / "ImageSets" / "Main" / "trainval.txt"
    file.write_text("a  1\nb -1\n")
    with pytest.raises(ValueError, match=r"Main/trainval\.txt must hold one name per line, got 'a"):
        data(root, partial=True).splits()
