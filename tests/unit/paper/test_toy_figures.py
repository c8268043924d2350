"""Figure 4: the paths and shares drawn are those that metrics.jsonl holds, with their intervals."""

import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes

from lrd.analysis.frames import RunFrames
from lrd.analysis.matching import collect_results
from lrd.analysis.plotting import FIGURE_FORMATS
from lrd.analysis.studies.find import find_study
from scripts import figure
from scripts.paper import toy_figures
from scripts.paper.toy_outcomes import (
    Proportion,
    StartOutcomes,
    count_outcomes,
    describe_difference,
    pair_outcomes,
)
from tasks.toy_function import BAD, DOMAIN, GOOD, f
from tests.helpers.figures import MAGIC, draw, panels_of, write_run

PAPER, _ = find_study("lrd_paper")
FIGURES = PAPER.figures
RATES = (0.0125, 0.025, 0.05, 0.1, 0.2, 0.4)
CONFIGS = Path(figure.__file__).parents[1] / "configs"
T4 = 2.7764451051977987  # quantile 0.975 of Student's t with 4 degrees of freedom
FIGURE4 = "+experiment=figure4"
NAMES = ("far", "top", "ridge", "corner", "near_bad", "plateau_high", "plateau_low")
SHARES = ("good_basin", "bad_basin", "outside", "elsewhere", "reached_bad", "escaped")
LAST: dict[str, float] = dict(zip(SHARES, (36.1, 60.2, 3.5, 0.2, 60.5, 0.3), strict=True))


def lines(places: Sequence[tuple[float, float]], step: int, **last: float) -> list[dict[str, Any]]:
    """The metrics of a run whose named starts are all at ``places`` after each ``step`` steps."""
    shares = LAST | last
    return [
        {"epoch": e, "step": e * step, **shares}
        | {f"{axis}_{name}": v for name in NAMES for axis, v in zip("xy", place, strict=True)}
        for e, place in enumerate(places, 1)
    ]


def paths(axis: Axes) -> list[list[list[float]]]:
    """What is drawn as a line, not as a mark."""
    drawn = [line for line in axis.lines if line.get_linestyle() != "None"]
    return [np.asarray(line.get_xydata()).tolist() for line in drawn]


def test_a_path_begins_at_its_start_and_goes_where_the_run_says(tmp_path: Path):
    """The places of the run that logs every step come first, then those of the one that goes on."""
    write_run(tmp_path, lines([(-1, 0), (-1.2, 0.1)], 1), FIGURE4, "task.steps=1", "lrd.p=1")
    write_run(tmp_path, lines([GOOD, BAD], 20), FIGURE4, "task.steps=20", "lrd.p=1")
    left, right = panels_of(draw("figure4", tmp_path))
    expected = [[-1, 0], [-1.2, 0.1], [*GOOD], [*BAD]]
    assert [path[1:] for path in paths(left)] == [expected] * 7
    assert [path[0] for path in paths(left)] == [
        *([-3.5, -1.5], [-3.8, 2.8], [-2, 0.4], [0, 1], [0, -0.5], [-2.4, 1.2], [-2.5, 2.8])
    ]
    assert not paths(right)
    assert (
        "missing runs are made by\npython run.py -m +experiment=figure4 optim=adam lrd.p=0.5"
        in [text.get_text() for text in right.texts]
    )
    assert not left.texts


@pytest.mark.parametrize("place, look", [(GOOD, GOOD), (BAD, BAD), ((1.67, 0.6), None)])
def test_a_path_looks_as_where_it_ends(tmp_path: Path, place: Any, look: Any):
    for seed in (0, 1):
        write_run(tmp_path, lines([place], 1), FIGURE4, "task.steps=1", "lrd.p=0.5", f"seed={seed}")
    _, axis = panels_of(draw("figure4", tmp_path))
    drawn = [line for line in axis.lines if line.get_linestyle() != "None"]
    assert {line.get_color() for line in drawn} == {toy_figures.PATHS[look]["color"]}
    assert len(drawn) == 14
    first, other = drawn[0], drawn[-1]
    assert first.get_linewidth() > other.get_linewidth() and other.get_alpha() == 0.5


def test_the_paths_differ_by_line_too_and_the_minima_by_mark():
    lines, marks = toy_figures.PATHS.values(), toy_figures.MINIMA.values()
    assert len({str(look["linestyle"]) for look in lines}) == len({x["marker"] for x in marks}) == 3


def test_the_contours_are_of_equation_3(tmp_path: Path):
    """Along the drawn contours, which are logarithmically spaced, f has their value."""
    axis = panels_of(draw("figure4", tmp_path))[0]
    (contour,) = axis.collections
    steps = np.diff(np.log(toy_figures.LEVELS))
    assert steps == pytest.approx(steps[0])
    levels = contour.levels  # type: ignore[attr-defined]
    tested = 0
    for level, path in zip(levels, contour.get_paths(), strict=True):
        for x, y in np.asarray(path.vertices)[::25]:
            assert f(x, y) == pytest.approx(level, rel=0.1, abs=0.02)
            tested += 1
    assert tested > 100
    (border,) = axis.patches
    corners = border.get_path().vertices @ border.get_patch_transform().get_matrix()[:2, :2].T
    assert np.ptp(corners, axis=0) == pytest.approx([np.ptp(side) for side in DOMAIN])


def wilson(k: int, n: int) -> tuple[float, float]:
    """Wilson (1927): the roots of (p - k/n)^2 = z^2 p (1 - p) / n, in %."""
    z2 = statistics.NormalDist().inv_cdf(0.975) ** 2
    low, high = sorted(np.roots([1 + z2 / n, -(2 * k / n + z2 / n), (k / n) ** 2]).real)
    return 100 * low, 100 * high


@pytest.mark.parametrize("k, n", [(0, 10), (361, 1000), (15, 148), (2000, 2000)])
def test_the_interval_of_a_share_is_wilsons(k: int, n: int):
    assert Proportion(k, n).interval == pytest.approx(wilson(k, n), abs=1e-6)


def test_the_interval_is_that_of_a_published_example():
    """Newcombe (1998), Table I: 81 of 263 gives 0.2553 to 0.3662 by Wilson's method."""
    assert Proportion(81, 263).interval == pytest.approx((25.53, 36.62), abs=0.005)


def run_figure4(root: Path, arm: str, goods: Sequence[float], **more: float) -> None:
    for seed, good in enumerate(goods):
        last = {"good_basin": good, "bad_basin": 96.3 - good} | more
        made = lines([BAD, GOOD], 2000, **last)
        write_run(root, made, FIGURE4, "task.steps=20", arm, f"seed={seed}")


def test_below_a_panel_stand_the_shares_of_all_seeds_together(tmp_path: Path):
    run_figure4(tmp_path, "lrd.p=1", (30.0, 40.1), reached_bad=60.0, escaped=0.3)
    left, _ = panels_of(draw("figure4", tmp_path))
    low, high = wilson(701, 2000)
    text = left.get_xlabel().splitlines()
    assert text[:2] == ["x", "1,000 sampled starts x 2 seeds after 4,000 steps:"]
    assert text[2].startswith(f"good basin 35.0 % [{low:.1f}, {high:.1f}], bad basin 61.2 % [")
    assert text[3].startswith("outside the domain 3.5 % [") and ", elsewhere 0.2 % [" in text[3]
    assert text[4:] == [
        "of the 1,200 that reached the bad minimum,",
        "6 ended in the good basin",
    ]


def test_lrd_is_compared_with_its_base_on_the_same_starts(tmp_path: Path):
    base, lrd = (30.0, 41.0, 35.0, 36.0, 33.0), (33.0, 44.5, 40.0, 38.0, 37.5)
    run_figure4(tmp_path, "lrd.p=1", base)
    run_figure4(tmp_path, "lrd.p=0.5", (*lrd, 99.0))  # the sixth seed has no pair
    found = draw("figure4", tmp_path).get_supxlabel()
    differences = [b - a for a, b in zip(base, lrd, strict=True)]
    mean = statistics.fmean(differences)
    half = T4 * statistics.stdev(differences) / math.sqrt(5)
    assert (
        f"on the same starts: {mean:+.1f} points [{mean - half:+.1f}, {mean + half:+.1f}] "
        "(t interval over n = 5 seeds)"
    ) in found


def test_without_two_pairs_nothing_is_compared(tmp_path: Path):
    run_figure4(tmp_path, "lrd.p=1", (30.0, 31.0))
    run_figure4(tmp_path, "lrd.p=0.5", (32.0,))
    assert "on the same starts" not in draw("figure4", tmp_path).get_supxlabel()
    one = StartOutcomes(1000, 1, {0: LAST})
    assert pair_outcomes(one, one, "good_basin").t_interval(0.95) is None
    assert describe_difference(None, one) == describe_difference(one, one) == []


def test_without_a_start_at_the_bad_minimum_no_escape_is_told():
    away = StartOutcomes(1000, 1, {0: LAST | {"reached_bad": 0.0, "escaped": 0.0}})
    assert away.escape_rate() is None and len(away.lines()) == 3


def test_the_rates_are_drawn_with_their_intervals(tmp_path: Path):
    for rate, good in (("0.05", 39.0), ("0.2", 34.0)):
        made = lines([BAD], 20, good_basin=good)
        for seed in (0, 1):
            asked = ("+experiment=figure4_lr", f"optim.lr={rate}", "lrd.p=1", f"seed={seed}")
            write_run(tmp_path, made, *asked)
    drawn = draw("figure4_lr", tmp_path)
    first, _, third = panels_of(drawn)
    bars = [container for container in first.containers if container.lines[0].get_xdata().size]  # type: ignore[union-attr]
    (bar,) = bars
    assert bar.lines[0].get_xydata().tolist() == [[0.05, 39], [0.2, 34]]  # type: ignore[union-attr]
    (ends,) = bar.lines[2]  # type: ignore[union-attr]
    assert ends.get_segments()[0][:, 1].tolist() == pytest.approx(wilson(780, 2000))
    escaped = third.containers[0].lines[0].get_ydata()  # type: ignore[union-attr]
    assert escaped.tolist() == pytest.approx([100 * 6 / 1210] * 2)
    legend = drawn.axes[0].get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == [
        "Adam, without LRD (missing: 0.0125, 0.025, 0.1, 0.4)",
        "Adam, LRD p = 0.5 (missing: 0.0125, 0.025, 0.05, 0.1, 0.2, 0.4)",
    ]


def test_a_run_of_figure_4_is_one_of_the_rates_too(tmp_path: Path):
    run_figure4(tmp_path, "lrd.p=0.5", (37.0,))
    cell = FIGURES["figure4_lr"].groups[1].curves[RATES.index(0.1)].cell
    assert collect_results([cell], RunFrames(tmp_path))[cell].n == 1


@pytest.mark.parametrize("name", ["figure4", "figure4_lr"])
def test_the_sweep_of_the_experiment_is_what_the_figure_asks_for(name: str):
    file = (CONFIGS / f"experiment/{name}.yaml").read_text()
    swept = "task.steps: 1,20\n" if name == "figure4" else f"optim.lr: {','.join(map(str, RATES))}"
    assert swept in file and "lrd.p: 1,0.5\n" in file
    asked = {o for curve in FIGURES[name].curves() for o in curve.cell.overrides}
    assert {o for o in asked if o.startswith("lrd.p")} == {"lrd.p=1", "lrd.p=0.5"}
    assert {o for o in asked if o.startswith("task.steps")} in (
        set(),
        {"task.steps=1", "task.steps=20"},
    )


def main(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    status = figure.main(arguments)
    out = capsys.readouterr()
    return status, out.out, out.err


@pytest.mark.parametrize("form", FIGURE_FORMATS)
def test_the_same_runs_give_the_same_bytes(form: str, tmp_path: Path, capsys: Any):
    write_run(tmp_path, lines([BAD, GOOD], 1), FIGURE4, "task.steps=1", "lrd.p=1")
    asked = ("figure4", "--format", form, "--runs", str(tmp_path))
    status, out, err = main(capsys, *asked)
    assert status == 0 and out == f"{tmp_path}/figures/figure4.{form}\n"
    for lacks in ("task.steps=1 optim=adam lrd.p=0.5", "task.steps=20 optim=adam"):
        assert f"+experiment=figure4 {lacks} run.dir={tmp_path}\n" in err
    first = Path(out.strip()).read_bytes()
    assert first.startswith(MAGIC[form])
    main(capsys, *asked)
    assert Path(out.strip()).read_bytes() == first


@pytest.mark.parametrize("name", ["figure4", "figure4_lr"])
def test_without_any_run_it_says_what_makes_them(name: str, tmp_path: Path, capsys: Any):
    status, out, err = main(capsys, name, "--runs", str(tmp_path / "none"))
    assert status == 0 and Path(out.strip()).stat().st_size > 10_000
    assert f"python run.py -m +experiment={name} optim=adam run.dir={tmp_path}/none\n" in err
    assert err.endswith(f"no matching run under {tmp_path}/none. Finished runs:\n  none\n")


def test_other_settings_are_asked_for_on_the_command_line(tmp_path: Path, capsys: Any):
    run_figure4(tmp_path, "lrd.p=1", (30.0,))
    _, _, err = main(capsys, "figure4", "dataset.drawn=50", "--runs", str(tmp_path))
    assert f"+experiment=figure4 optim=adam dataset.drawn=50 run.dir={tmp_path}\n" in err
    assert "1 finished with dataset.drawn=1000 instead of 50" in err
    assert (
        draw("figure4", tmp_path, "dataset.drawn=50").get_suptitle().endswith("[dataset.drawn=50]")
    )


def test_mistakes_are_one_line(tmp_path: Path, capsys: Any):
    status, out, err = main(capsys, "figure4", "task.steps=5", "--runs", str(tmp_path))
    assert (status, out) == (2, "") and err == (
        "error: figure4 has no table and no curve with task.steps=5\n"
    )
    path = write_run(tmp_path, [{"epoch": 1, "step": 1}], FIGURE4, "task.steps=1", "lrd.p=1")
    status, _, err = main(capsys, "figure4", "--runs", str(tmp_path))
    assert (status, err) == (2, f"error: {path.parent}: an epoch has no place of corner\n")
    made = [{**line, "escaped": None} for line in lines([GOOD], 20)]
    path = write_run(tmp_path, made, "+experiment=figure4_lr", "optim.lr=0.2", "lrd.p=1")
    status, _, err = main(capsys, "figure4_lr", "--runs", str(tmp_path))
    assert (status, err) == (2, f"error: {path.parent}: the last epoch has no escaped\n")


def test_a_cell_without_runs_has_no_outcome(tmp_path: Path):
    cell = FIGURES["figure4"].curves()[0].cell
    assert count_outcomes(collect_results([cell], RunFrames(tmp_path))[cell]) is None
