"""Figures from runs: what is drawn is what metrics.jsonl holds, and what is absent is named."""

import dataclasses
import math
import shlex
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lrd.analysis.frames import RunFrames
from lrd.analysis.matching import collect_results
from lrd.analysis.plotting import (
    FIGURE_FORMATS,
    average_curves,
    collect_figure,
    draw_curves,
    draw_figure,
    encode,
)
from lrd.analysis.resolve import expand_sweep
from lrd.analysis.studies import (
    CellSpec,
    CurveSpec,
    FigureSpec,
    GroupSpec,
    PanelSpec,
)
from lrd.analysis.studies.find import find_study
from scripts import figure
from tests.helpers.figures import MAGIC, draw, panels_of, write_run

PAPER, _ = find_study("lrd_paper")
FIGURES: Any = PAPER.figures
T2 = 4.302652729911275  # quantile 0.975 of Student's t with 2 degrees of freedom
BASE, LRD = ("task=digits", "optim=adam", "lrd.p=1"), ("task=digits", "optim=adam", "lrd.p=0.5")
MIOU, SLIDING = "val_whole_miou", "val_sliding_miou"
PIXELS = "val_whole_pixel_accuracy"


def scores(*miou: float) -> list[dict[str, float]]:
    return [{"epoch": e, MIOU: v, PIXELS: v + 20} for e, v in enumerate(miou, 1)]


@pytest.fixture
def digits(monkeypatch: pytest.MonkeyPatch) -> FigureSpec:
    """The layout of Figure 8 with the runs of the quickstart, as a figure ``digits``."""
    what = FIGURES["figure8"]
    (group,) = what.groups
    curves = []
    for curve in group.curves:
        cell = CellSpec("quickstart", ("optim=adam", curve.cell.overrides[-1]))
        curves.append(dataclasses.replace(curve, cell=cell))
    groups = (GroupSpec("", tuple(curves)),)
    made = dataclasses.replace(what, name="digits", title="Figure 8 on digits", groups=groups)
    monkeypatch.setitem(PAPER.figures, "digits", made)
    return made


def empty(what: FigureSpec, *overrides: str) -> Figure:
    """Draw a figure without runs."""
    return draw_curves(what, {curve.cell: {} for curve in what.curves()}, overrides).sheet


def legend(drawn: Figure, place: int = 0) -> list[str]:
    heads = [axis.get_legend() for axis in drawn.axes if not axis.axison]
    found = heads[place]
    assert found is not None
    return [text.get_text() for text in found.get_texts()]


def lines(axis: Axes, style: str) -> list[tuple[list[float], list[float]]]:
    """Epochs and values of what is drawn in a line style."""
    drawn = [np.asarray(x.get_data()) for x in axis.lines if x.get_linestyle() == style]
    return [(x.tolist(), y.tolist()) for x, y in drawn]


def texts(axis: Axes) -> list[str]:
    return [text.get_text() for text in axis.texts]


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[str, str]:
    assert figure.main(arguments) == 0
    out = capsys.readouterr()
    return out.out, out.err


def test_a_line_is_its_seeds_mean_and_the_band_its_t_interval(tmp_path: Path, digits: FigureSpec):
    seeds = [(10.0, 40.0), (13.0, 44.0), (19.0, 42.0)]
    for seed, values in enumerate(seeds):
        write_run(tmp_path, scores(*values), *LRD, f"seed={seed}")
    drawn = draw(digits, tmp_path)
    left, right = panels_of(drawn)
    assert lines(left, "-") == [([1, 2], pytest.approx([14, 42]))]
    assert lines(right, "-") == [([1, 2], pytest.approx([34, 62]))]
    (band,) = left.collections
    (path,) = band.get_paths()
    for epoch, values in enumerate(zip(*seeds, strict=True), 1):
        half = T2 * statistics.stdev(values) / math.sqrt(3)
        ys = {round(float(y), 9) for x, y in np.asarray(path.vertices) if x == epoch}
        mean = statistics.fmean(values)
        assert ys == {round(mean - half, 9), round(mean + half, 9)}
    assert legend(drawn) == ["no finished run: Adam", "Adam, LRD p = 0.5 (n = 3)"]
    assert (left.get_ylabel(), left.get_xlabel()) == ("Mean IoU (%)", "Epoch")
    assert right.get_ylabel() == "Pixel accuracy (%)"


def test_with_and_without_lrd_differ_by_color_line_and_marker(tmp_path: Path, digits):
    write_run(tmp_path, scores(10, 20), *BASE)
    write_run(tmp_path, scores(30, 40), *LRD)
    left, _ = panels_of(draw(digits, tmp_path))
    (base,), (lrd,) = ([x for x in left.lines if x.get_linestyle() == s] for s in ("--", "-"))
    assert lines(left, "--") == [([1, 2], [10, 20])] and lines(left, "-") == [([1, 2], [30, 40])]
    assert (base.get_color(), lrd.get_color()) == ("#000000", "#D55E00")
    assert base.get_marker() != lrd.get_marker()
    assert base.get_markerfacecolor() == "white" != lrd.get_markerfacecolor()
    assert not left.collections  # one run has no interval
    colors = [[c.color for c in group.curves] for group in FIGURES["figure5"].groups]
    assert len({lrd for _, lrd in colors}) == 5 and {base for base, _ in colors} == {"#000000"}


def test_epochs_without_the_metric_are_left_out_and_those_of_all_runs_drawn(tmp_path, digits):
    sparse = [m if m["epoch"] % 2 == 0 else {"epoch": m["epoch"]} for m in scores(1, 2, 3, 4, 5, 6)]
    write_run(tmp_path, sparse, *LRD)
    write_run(tmp_path, scores(11, 12, 13, 14, 15), *LRD, "seed=1")
    left, _ = panels_of(draw(digits, tmp_path))
    assert lines(left, "-") == [([2, 4], [7, 9])]


def test_the_final_evaluation_is_a_mark_of_its_own(tmp_path: Path, digits: FigureSpec):
    for seed, value in enumerate((60.0, 63.0, 69.0)):
        last = {"epoch": 3, MIOU: 50.0, PIXELS: 80.0, SLIDING: value}
        write_run(tmp_path, [*scores(30, 40), last], *LRD, f"seed={seed}")
    drawn = draw(digits, tmp_path)
    left, right = panels_of(drawn)
    (mark,) = left.containers
    assert mark.lines[0].get_xydata().tolist() == [[3, 64]]  # type: ignore[union-attr]
    (bar,) = mark.lines[2]  # type: ignore[union-attr]
    (ends,) = bar.get_segments()
    half = T2 * statistics.stdev((60, 63, 69)) / math.sqrt(3)
    assert ends[:, 1].tolist() == pytest.approx([64 - half, 64 + half])
    assert not right.containers
    assert legend(drawn)[2:] == ["Adam, LRD p = 0.5, sliding window (n = 3)"]


def test_the_papers_final_values_are_dotted_lines_with_their_names():
    """Against the paper's text, section 4.2: 0.637/0.905 without, 0.688/0.921 with LRD."""
    what = FIGURES["figure8"]
    left, right = panels_of(empty(what))
    for axis, base, lrd in ((left, 63.7, 68.8), (right, 90.5, 92.1)):
        assert [ys for _, ys in lines(axis, ":")] == [[base] * 2, [lrd] * 2]
        assert {f"published: base {base}", f"published: LRD {lrd}"} < set(texts(axis))
        low, high = axis.get_ylim()
        assert low < base < lrd < high


def test_figure_8_is_drawn_from_the_runs_of_its_experiment(tmp_path: Path, capsys):
    """Needs task=voc_seg to compose, and nothing of VOC's."""
    asked = "+experiment=figure8"
    for seed in range(3):
        write_run(tmp_path, scores(30, 60), asked, "lrd.p=1", f"seed={seed}")
    write_run(tmp_path, scores(40, 70), asked, "lrd.p=0.5")
    write_run(tmp_path, scores(99, 99), asked, "lrd.p=0.49")
    out, err = run(capsys, "figure8", "--runs", str(tmp_path))
    assert out == f"{tmp_path}/figures/figure8.png\n" and err == ""
    drawn = draw("figure8", tmp_path)
    assert legend(drawn) == ["Adam (n = 3)", "Adam, LRD p = 0.5 (n = 1)"]
    left, _ = panels_of(drawn)
    assert lines(left, "--") == [([1, 2], [30, 60])] and lines(left, "-") == [([1, 2], [40, 70])]


def test_the_sweep_of_figure_8_is_its_two_curves():
    file = (Path(figure.__file__).parents[1] / "configs/experiment/figure8.yaml").read_text()
    assert "lrd.p: 1,0.5\n" in file and "seed: 0,1,2\n" in file
    cells = [curve.cell for curve in FIGURES["figure8"].curves()]
    assert [(c.experiment, c.overrides[-1]) for c in cells] == [
        ("figure8", "lrd.p=1"),
        ("figure8", "lrd.p=0.5"),
    ]


@pytest.mark.parametrize("name, row", [("5", 0), ("6", 1)])
def test_figures_of_five_optimizers_have_a_column_each(name: str, row: int):
    what = FIGURES[f"figure{name}"]
    drawn = empty(what)
    columns = np.reshape(np.array(panels_of(drawn)), (5, 4))
    labels = ["Training loss", "Training accuracy (%)", "Test accuracy (%)"]
    labels += ["LRD less base (points)"]
    assert [axis.get_ylabel() for axis in columns[0]] == labels
    cells = PAPER.tables["table1"].rows[row].groups
    for column, (base, lrd) in zip(columns, cells, strict=True):
        loss, train, test, _ = column
        assert loss.get_yscale() == "log" and not lines(train, ":")
        assert [ys[0] for _, ys in lines(test, ":")] == [base.published, lrd.published]
        said = f"published: base {base.published:.2f}\npublished: LRD {lrd.published:.2f}"
        assert said in texts(test)


def test_an_optimizers_runs_are_drawn_in_its_column_alone(tmp_path: Path, capsys):
    metrics = [
        {"epoch": e, "train_loss": 1 / e, "train_accuracy": 50 + e, "test_accuracy": 40 + e}
        for e in (1, 2, 3)
    ]
    short = ("task=mnist", "train.epochs=3")
    for seed in (0, 1):
        write_run(tmp_path, metrics, *short, "optim=radam", "lrd.p=0.5", f"seed={seed}")
    what = FIGURES["figure5"]
    drawn = draw(what, tmp_path, "train.epochs=3")
    assert drawn.get_suptitle().endswith("[train.epochs=3]")
    columns = np.reshape(np.array(panels_of(drawn)), (5, 4))[:, :3]
    assert [lines(axis, "-")[0][1] for axis in columns[4]] == [
        pytest.approx([1, 1 / 2, 1 / 3]),
        [51, 52, 53],
        [41, 42, 43],
    ]
    for axis in columns[:4].flat:
        assert not lines(axis, "-") and "no runs yet" in texts(axis)
    assert legend(drawn, 0) == ["no finished run: without LRD", "no finished run: LRD p = 0.5"]
    assert legend(drawn, 4) == ["no finished run: without LRD", "LRD p = 0.5 (n = 2)"]
    ticks = columns[4, 2].get_xticks().tolist()
    assert ticks == [1, 2, 3]
    out, err = run(capsys, "figure5", "train.epochs=3", "--runs", str(tmp_path))
    assert out == f"{tmp_path}/figures/figure5.png\n"
    for lacks in ("optim=sgdm,rmsprop,adam,amsgrad", "optim=radam lrd.p=1"):
        given = f"train.epochs=3 run.dir={tmp_path}"
        assert f"python run.py -m +experiment=table1_mnist {lacks} {given}\n" in err


def test_the_authors_curve_is_drawn_with_sgdm_on_cifar_10():
    """Against the published file: epochs 1 and 200."""
    what = FIGURES["figure6"]
    drawn = empty(what)
    columns = np.reshape(np.array(panels_of(drawn)), (5, 4))[:, :3]
    ends = [(649.2485 / 391, 0.4638 / 391), (38.494, 99.994), (47.98, 95.57)]
    for axis, (first, last) in zip(columns[0], ends, strict=True):
        ((epochs, values),) = lines(axis, "-.")
        assert epochs == list(range(1, 201))
        assert (values[0], values[-1]) == pytest.approx((first, last))
    assert not any(lines(axis, "-.") for axis in columns[1:].flat)
    assert legend(drawn, 0)[-1] == "authors' LRD run (n = 1)"
    assert columns[0, 0].get_xticks().tolist() == [1, 50, 100, 150, 200]


# Figures 10 to 13 by hand: the curves of a panel, and its experiment.
VARIANTS = {
    "figure10": ("table2", ["p = 1 (no LRD)", *(f"p = {p}" for p in (0.1, 0.3, 0.5, 0.7, 0.9))]),
    "figure11": (
        "table3",
        ["no regularization", "SD", "NG", "NL", "LRD", "LRD and SD", "LRD and NG"],
    ),
    "figure12": ("figure12", ["base", "LRD", "DG"]),
    "figure13": ("table4", ["p_sd = 1 (no SD)", *(f"p_sd = {p}" for p in (0.9, 0.8, 0.7, 0.6))]),
}
ROWS = {"figure13": ["Adam"]}  # the others: the paper's "Top: Adam. Bottom: SGDM."


@pytest.mark.parametrize("name", VARIANTS)
def test_figures_of_variants_have_a_row_for_each_optimizer(name: str):
    what, (experiment, labels) = FIGURES[name], VARIANTS[name]
    drawn = empty(what, "scale=0.15")
    assert [g.label for g in what.groups] == ROWS.get(name, ["Adam", "SGDM"])
    assert {curve.cell.experiment for curve in what.curves()} == {experiment}
    rows = np.reshape(np.array(panels_of(drawn)), (len(what.groups), 3))
    for place, row in enumerate(rows):
        assert legend(drawn, place) == [f"no finished run: {label}" for label in labels]
        assert [axis.get_ylabel() for axis in row] == [
            "Training loss",
            "Training accuracy (%)",
            "Test accuracy (%)",
        ]
        assert row[0].get_yscale() == "log"
    title = " ".join(drawn.get_suptitle().split())
    assert title == f"{what.title} [scale=0.15 (15 % of the epochs)]"


# The paper's Tables 2 to 4, from its text; Figure 12's arms stand in Table 3.
PRINTED = {
    "figure10": [
        [93.05, 93.32, 93.93, 93.77, 93.50, 93.35],
        [95.30, 94.32, 95.39, 95.54, 95.42, 95.26],
    ],
    "figure11": [
        [93.05, 94.05, 93.70, 92.59, 93.77, 94.73, 93.92],
        [95.30, 95.33, 95.00, 94.61, 95.54, 95.58, 95.26],
    ],
    "figure12": [[93.05, 93.77], [95.30, 95.54]],
    "figure13": [[93.05, 94.05, 94.08, 93.34, 92.89]],
}


def inset(axis: Axes) -> Axes:
    (found,) = axis.child_axes
    assert isinstance(found, Axes)
    return found


@pytest.mark.parametrize("name", PRINTED)
def test_what_the_paper_prints_stands_beside_the_curves(name: str):
    what = FIGURES[name]
    drawn = empty(what)
    rows = np.reshape(np.array(panels_of(drawn)), (len(what.groups), 3))
    for (loss, train, test), printed in zip(rows, PRINTED[name], strict=True):
        assert not loss.child_axes and not train.child_axes
        if len(printed) == 2:
            assert [ys[0] for _, ys in lines(test, ":")] == printed
            continue
        marks = inset(test).lines
        assert [np.asarray(line.get_ydata()).tolist() for line in marks] == [[v] for v in printed]
        assert all(line.get_marker() == "<" for line in marks)


@pytest.mark.parametrize("name", VARIANTS)
def test_curves_that_share_a_panel_are_told_apart_in_colour_and_without(name: str):
    for group in FIGURES[name].groups:
        count = len(group.curves)
        assert len({c.color for c in group.curves}) == count
        assert len({c.line for c in group.curves}) == len({c.marker for c in group.curves}) == count
        assert [c.line for c in group.curves].count("-") == 1


def test_what_is_ordered_goes_from_dark_to_light():
    """By the relative luminance of WCAG 2."""

    def luminance(color: str) -> float:
        parts = (int(color[i : i + 2], 16) / 255 for i in (1, 3, 5))
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for name, ordered in (("figure10", slice(1, None)), ("figure13", slice(None, 0, -1))):
        for group in FIGURES[name].groups:
            found = [luminance(curve.color) for curve in group.curves[ordered]]
            assert all(b > 1.3 * a for a, b in zip(found, found[1:], strict=False)), found


def learned(*accuracy: float) -> list[dict[str, float]]:
    return [
        {"epoch": e, "train_loss": 1 / e, "train_accuracy": v + 1, "test_accuracy": v}
        for e, v in enumerate(accuracy, 1)
    ]


def test_an_arm_is_drawn_from_the_runs_of_its_configuration(tmp_path: Path, capsys):
    """Commands of a user's own, which name no experiment and no arm."""
    here = ("task=cifar10", "optim=sgdm", "train.epochs=3")
    for seed, last in enumerate((90.0, 93.0, 99.0)):
        arm = ("lrd.p=1", "regularizer=nl", f"seed={seed}")
        write_run(tmp_path, learned(50, 60, last), *here, *arm)
    write_run(tmp_path, learned(55, 65, 75), *here, "lrd.p=0.5", "regularizer=sd")
    what = FIGURES["figure11"]
    drawn = draw(what, tmp_path, "train.epochs=3")
    (*_, adam), (loss, train, test) = np.reshape(np.array(panels_of(drawn)), (2, 3))
    assert legend(drawn, 0) == [f"no finished run: {label}" for label in VARIANTS["figure11"][1]]
    assert [label for label in legend(drawn, 1) if "no finished" not in label] == [
        "NL (n = 3)",
        "LRD and SD (n = 1)",
    ]
    assert not adam.lines and "no runs yet" in texts(adam)
    ours = [line.get_ydata() for line in test.lines]
    assert [y.tolist() for y in ours] == [[50, 60, 94], [55, 65, 75]]
    assert [line.get_ydata()[-1] for line in train.lines] == [95, 76]
    assert [len(axis.lines) for axis in (loss, train)] == [2, 2]
    mark, single = inset(test).containers
    assert mark.lines[0].get_ydata().tolist() == [94]  # type: ignore[union-attr]
    (ends,) = mark.lines[2][0].get_segments()  # type: ignore[union-attr]
    half = T2 * statistics.stdev((90, 93, 99)) / math.sqrt(3)
    assert ends[:, 1].tolist() == pytest.approx([94 - half, 94 + half])
    assert single.lines[0].get_ydata().tolist() == [75]  # type: ignore[union-attr]


def test_the_command_for_what_is_missing_makes_it(tmp_path: Path, capsys):
    made = ("optim=adam", "+arm=lrd")
    write_run(tmp_path, learned(50, 60), "+experiment=figure12", *made, "scale=0.01")
    _, err = run(capsys, "figure12", "scale=0.01", "--runs", str(tmp_path))
    commands = [line.strip() for line in err.splitlines() if "run.py" in line]
    assert commands
    for command in commands:
        for cell in expand_sweep("figure12", shlex.split(command)[4:]):
            if "seed=0" in cell:
                write_run(tmp_path, learned(50, 60), *cell)
    _, err = run(capsys, "figure12", "scale=0.01", "--runs", str(tmp_path))
    assert not err
    drawn = draw("figure12", tmp_path, "scale=0.01")
    assert legend(drawn, 0) == legend(drawn, 1) == [f"{x} (n = 1)" for x in ("base", "LRD", "DG")]


def test_many_printed_values_are_marks_of_their_own(tmp_path: Path):
    cells = [CellSpec("quickstart", ("optim=adam", f"lrd.p={p}")) for p in (1, 0.5, 0.1)]
    variants = [
        CurveSpec(f"p = {i}", "", cell, "#0072B2", published={"test_accuracy": 90.0 + i})
        for i, cell in enumerate(cells)
    ]
    panel = PanelSpec("test_accuracy", "Test accuracy", "%")
    groups = (GroupSpec("Adam", tuple(variants)), GroupSpec("SGDM", ()))
    what = FigureSpec("sweep", "Sweep", (panel,), groups)
    drawn = empty(what)
    first, second = panels_of(drawn)
    marks = inset(first).lines
    assert [line.get_ydata() for line in marks] == [[90], [91], [92]]
    assert all(line.get_marker() == "<" for line in marks)
    assert not second.child_axes and first.get_ylim() == second.get_ylim()
    assert "triangles: published final values" in drawn.get_supxlabel()


@pytest.mark.parametrize("other", ["optim.lr=0.002", "train.epochs=99", "lrd.p=0.49"])
def test_runs_of_other_settings_are_not_drawn(tmp_path: Path, capsys, digits, other: str):
    write_run(tmp_path, scores(1, 2), *LRD, other)
    (tmp_path / "out").mkdir()
    out, err = run(capsys, "digits", "--runs", str(tmp_path), "--out", str(tmp_path / "out/a.svg"))
    assert out == f"{tmp_path}/out/a.svg\n"
    assert f"python run.py -m +experiment=quickstart optim=adam run.dir={tmp_path}\n" in err
    assert f"no matching run under {tmp_path}. Finished runs:\n  1 finished with {other}" in err
    for axis in panels_of(draw(digits, tmp_path)):
        assert "no runs yet" in texts(axis) and not lines(axis, "-")


def test_without_any_run_the_axes_are_drawn(tmp_path: Path, capsys, digits):
    _, err = run(capsys, "digits", "--runs", str(tmp_path / "none"))
    assert err.endswith(f"no matching run under {tmp_path}/none. Finished runs:\n  none\n")
    assert (tmp_path / "none/figures/digits.png").stat().st_size > 10_000


@pytest.mark.parametrize("form", FIGURE_FORMATS)
def test_the_same_runs_give_the_same_bytes(form: str, tmp_path: Path, capsys, digits):
    for seed in (0, 1):
        write_run(tmp_path, scores(10 + seed, 20, 30), *LRD, f"seed={seed}")
    asked = ("digits", "--format", form, "--runs", str(tmp_path))
    out, _ = run(capsys, *asked)
    first = Path(out.strip()).read_bytes()
    assert out.strip().endswith(f"digits.{form}") and first.startswith(MAGIC[form])
    other = tmp_path / f"again.{form}"
    run(capsys, "digits", "--runs", str(tmp_path), "--out", str(other))
    assert other.read_bytes() == first
    assert not list(tmp_path.rglob("*.part"))


def test_a_loss_of_zero_and_one_epoch_are_drawn(tmp_path: Path, digits: FigureSpec):
    """A logarithmic axis has no zero, and one epoch no line; neither warns."""
    loss = PanelSpec("train_loss", "Training loss", log=True)
    what = dataclasses.replace(digits, panels=(loss,))
    for seed, value in enumerate((0.0, 1e-4, 0.5)):
        write_run(tmp_path, [{"epoch": 1, "train_loss": value}], *LRD, f"seed={seed}")
    write_run(tmp_path, [{"epoch": 1, "train_loss": 0.0}], *BASE)
    drawn = draw(what, tmp_path)
    for form in FIGURE_FORMATS:
        assert encode(drawn, form)
    (axis,) = panels_of(drawn)
    assert axis.get_ylim()[0] > 0 and axis.get_xlim()[0] < 1 < axis.get_xlim()[1]


def test_differences_are_paired_by_seed(tmp_path: Path):
    """LRD less base at seeds 0 and 1: 2 and 4, then 1 and 2; seed 2 has no pair."""
    curves = {BASE: [(90, 95), (80, 85), (1, 1)], LRD: [(92, 96), (84, 87)]}
    for arm, values in curves.items():
        for seed, accuracies in enumerate(values):
            lines = [
                {"epoch": e, "train_loss": 1 / e, "train_accuracy": 9, "test_accuracy": a}
                for e, a in enumerate(accuracies, 1)
            ]
            write_run(tmp_path, lines, *arm, f"seed={seed}")
    what = FIGURES["figure5"]
    curves_of = [
        dataclasses.replace(curve, cell=CellSpec("quickstart", arm[1:]))
        for curve, arm in zip(what.groups[2].curves, (BASE, LRD), strict=True)
    ]
    made = dataclasses.replace(what, groups=(GroupSpec("Adam", tuple(curves_of)),))
    drawn = draw_figure(made, collect_figure(made, RunFrames(tmp_path)))
    (gain,) = drawn.panels[-1].numbers.curves
    assert (gain.label, gain.n) == ("LRD p = 0.5", 2)
    assert gain.mean.tolist() == [3.0, 1.5]
    half = 12.706204736174694 * 0.5  # t quantile 0.975 of one degree; the error of 1 and 2
    assert gain.half_width[1] == pytest.approx(half)
    low, high = drawn.panels[-1].axis.get_ylim()
    assert low < 0 < high


def error(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert figure.main(arguments) == 2
    out = capsys.readouterr()
    assert out.out == "" and out.err.count("\n") == 1 and out.err.startswith("error: ")
    return out.err.removeprefix("error: ").rstrip("\n")


def test_mistakes_are_one_line(tmp_path: Path, capsys, digits):
    root = ("--runs", str(tmp_path))
    assert error(capsys, "figure99").startswith("figure99 must be a study (lr_control, lr_tuned, ")
    for wrong in (("--format", "gif"), ("--out", "a.gif")):
        said = error(capsys, "digits", *root, *wrong)
        assert said == "the format must be one of png, svg, pdf, got gif"
    said = error(capsys, "digits", "train.epochs=0", *root)
    assert said == "train.epochs must be at least 1, got 0"
    said = error(capsys, "digits", "lrd.p=0.3", *root)
    assert said == "digits has no table and no curve with lrd.p=0.3"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("bad", ["{", "3", '{"step": 1}', '{"epoch": "1"}', "[1, 2]"])
def test_a_line_that_cannot_be_read_is_named(tmp_path: Path, capsys, digits, bad: str):
    path = write_run(tmp_path, scores(1, 2), *LRD)
    path.write_text(path.read_text() + bad + "\n")
    said = error(capsys, "digits", "--runs", str(tmp_path))
    assert said == f"{path} is damaged in line 3"
    assert not (tmp_path / "figures").exists()


def test_runs_without_the_metric_are_named(tmp_path: Path, capsys, digits):
    path = write_run(tmp_path, scores(1, 2), *LRD)
    write_run(tmp_path, [{"epoch": 1, MIOU: None, PIXELS: 3.0}], *LRD, "seed=1")
    said = error(capsys, "digits", "--runs", str(tmp_path))
    assert said == f"{path.parents[1]}: no epoch has {MIOU} in all 2 finished runs"


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path, capsys, digits):
    (tmp_path / "file").touch()
    root = ("--runs", str(tmp_path))
    said = error(capsys, "digits", *root, "--out", f"{tmp_path}/file/a.png")
    assert said == f"cannot write {tmp_path}/file/a.png: File exists: {tmp_path}/file"
    said = error(capsys, "digits", *root, "--out", str(tmp_path))
    assert said == f"cannot write {tmp_path}: it is a directory"


def test_the_interval_is_that_of_the_tables(tmp_path: Path, digits: FigureSpec):
    """Where the last epoch's value is the final score, table.py prints the same interval."""
    for seed, value in enumerate((60.0, 63.0, 69.0)):
        write_run(tmp_path, scores(value), *LRD, f"seed={seed}", score=MIOU)
    cell = digits.curves()[1].cell
    found = collect_results([cell], RunFrames(tmp_path))[cell]
    drawn = average_curves(list(found.curves(MIOU).values()))
    assert drawn.mean == pytest.approx([found.mean])
    assert drawn.half_width == pytest.approx([found.half_width])


def test_a_diverged_epoch_is_a_gap_in_the_line(tmp_path: Path, digits: FigureSpec):
    """A loss that is not finite is no missing value: the line must not bridge it."""
    for seed, last in enumerate((math.nan, 30.0)):
        write_run(tmp_path, scores(10, last, 50), *LRD, f"seed={seed}")
    left, _ = panels_of(draw(digits, tmp_path))
    ((epochs, values),) = lines(left, "-")
    assert epochs == [1, 2, 3] and values[0] == 10 and math.isnan(values[1])
