"""The page in headless Chromium: of use by pointer, touch and keyboard, at any width.

Skipped where the machine has no Chromium.
"""

import shutil
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, sync_playwright

from lrd.runs.store import Run
from scripts import report
from tests.helpers.finished_runs import configured, curve, finish, grid
from tests.helpers.small_study import FIGURE, HUES, learning_curves, small_study, table

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), "")
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no Chromium on this machine")
Runs = dict[tuple[str, str], list[Run]]
OPTIMS, SEEDS, EPOCHS = ("sgdm", "adam"), 3, 8
T2 = 4.302652729911275  # quantile 0.975 of Student's t with 2 degrees of freedom
WCAG = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]
OPEN_ALL = "document.querySelectorAll('details').forEach((d) => { d.open = true; })"
CENTER = "(e) => { const box = e.getBoundingClientRect(); return box.x + box.width / 2; }"
OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Finished runs of two optimizers, shortened ones besides, and one that failed."""
    root = tmp_path_factory.mktemp("runs")
    made = grid(root, "quickstart", OPTIMS, SEEDS, EPOCHS)
    grid(root, "quickstart", ["adam"], SEEDS, 3, "scale=0.1")
    odd = configured(root, "task=digits", "lrd.p=0.7")
    finish(odd, 0, curve(50, 2), status="failed", error="the loss is not finite any more")
    return made


@pytest.fixture(scope="module")
def made(runs: Runs) -> Path:
    """The page of these runs: a table with the paper's numbers, a figure, a claim."""
    root = runs["adam", "1"][0].folder.parents[2]
    tables = {"quickstart": table(["sgdm", "rmsprop", "adam", "amsgrad", "radam"], [91.0, 92.0])}
    with small_study(root, tables=tables, figures={FIGURE: learning_curves(*OPTIMS)}):
        assert report.main(["--runs", str(root)]) == 0
    return root / "report.html"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM)
        yield started
        started.close()


@pytest.fixture
def opened(browser: Browser, made: Path, request: pytest.FixtureRequest) -> Iterator[Page]:
    """The page at a window's size; it may say nothing on the console and ask for nothing else."""
    options: dict[str, Any] = {"viewport": {"width": 1280, "height": 900}}
    options |= getattr(request, "param", {})
    context = browser.new_context(**options)
    said, asked = [], []
    context.on("console", lambda message: said.append(message.text))
    context.on("weberror", lambda error: said.append(str(error.error)))
    context.on("request", lambda request: asked.append(request.url))
    tab = context.new_page()
    tab.goto(made.as_uri())
    yield tab
    assert said == [] and asked == [made.as_uri()]
    context.close()


def column(tab: Page, table: str, head: str) -> list[str]:
    heads = tab.locator(f"{table} thead th").all_inner_texts()
    place = heads.index(head) + 1
    return tab.locator(f"{table} tbody tr > :nth-child({place})").all_inner_texts()


def expected(runs: Runs, optim: str, p: str, key: str, epoch: int) -> float:
    return statistics.fmean(run.metrics[epoch - 1][key] for run in runs[optim, p])


def test_runs_are_sorted_by_number_and_by_text_and_what_is_empty_is_last(opened: Page):
    head = opened.locator("#all-runs thead th", has_text="final")
    button = head.get_by_role("button")
    button.click()
    *texts, failed = column(opened, "#all-runs", "final")
    values = [float(text.split()[0]) for text in texts]
    assert values == sorted(values) and len(values) == 2 * 2 * SEEDS + 2 * SEEDS
    assert failed == ""
    assert head.get_attribute("aria-sort") == "ascending"
    button.click()
    *texts, failed = column(opened, "#all-runs", "final")
    assert failed == "" and [float(text.split()[0]) for text in texts] == sorted(
        values, reverse=True
    )
    assert head.get_attribute("aria-sort") == "descending"
    other = opened.locator("#all-runs thead th", has_text="status")
    other.get_by_role("button").focus()
    opened.keyboard.press("Enter")
    assert column(opened, "#all-runs", "status")[0] == "failed"
    assert other.get_attribute("aria-sort") == "ascending"
    assert head.get_attribute("aria-sort") is None


def test_empty_cells_are_last_in_either_direction(opened: Page):
    opened.evaluate(OPEN_ALL)
    table = "#quickstart table.cells"
    for down in (False, True):
        opened.locator(f"{table} thead th", has_text="mean").get_by_role("button").click()
        found = [text.strip() for text in column(opened, table, "mean")]
        assert found[:4] == sorted(filter(None, found), reverse=down)
        assert found[4:] == [""] * 6


def test_runs_are_searched_by_every_word(opened: Page):
    opened.get_by_label("Show runs with").fill("failed FINITE")
    rows = opened.locator("#all-runs tbody tr:visible")
    assert rows.count() == 1 and "the loss is not finite any more" in rows.inner_text()
    assert opened.locator("#runs output").inner_text() == f"1 of {6 * SEEDS + 1}"
    opened.get_by_label("Show runs with").fill("")
    assert rows.count() == 6 * SEEDS + 1


# Where a drawn line begins or ends, in the window, wherever the script thinks that is.
PLACE = """(path, share) => {
  const at = path.getPointAtLength(share * path.getTotalLength());
  const { x, y } = at.matrixTransform(path.getScreenCTM());
  return [x, y];
}"""


def ends(tab: Page, optim: str, share: float = 1.0) -> list[tuple[float, float]]:
    """Of the base's lines, which are dashed: in the figure's panels, from the first."""
    hue = HUES[optim].lower()
    lines = tab.locator(f"#{FIGURE} .drawn path[style*='stroke: {hue}'][style*='dasharray']")
    return [tuple(line.evaluate(PLACE, share)) for line in lines.all()][1:]  # not the legend's


def test_hovering_shows_the_mean_of_the_metrics_where_the_curve_is_drawn(opened: Page, runs: Runs):
    """At the ends of the lines that matplotlib drew, against the lines of metrics.jsonl."""
    figure = opened.locator(f"#{FIGURE}")
    figure.scroll_into_view_if_needed()
    tip = figure.locator(".tip")
    assert tip.is_hidden()
    loss, test = ends(opened, "adam")
    opened.mouse.move(*loss)
    mean = expected(runs, "adam", "1", "train_loss", EPOCHS)
    assert tip.inner_text().splitlines()[:2] == ["Adam, base", f"Loss {mean:.4g}"]
    opened.mouse.move(*test)
    values = [run.final for run in runs["adam", "1"]]
    mean, half = statistics.fmean(values), T2 * statistics.stdev(values) / SEEDS**0.5
    lines = ["Adam, base", f"Test {mean:.2f} %"]
    lines += [f"95 % interval {mean - half:.2f} to {mean + half:.2f}", "epoch 8, n = 3"]
    assert tip.inner_text().splitlines() == lines
    assert figure.locator("output").inner_text() == "; ".join(lines)
    opened.mouse.move(5, 5)
    assert tip.is_hidden()


def test_every_point_is_reached_by_the_keyboard(opened: Page, runs: Runs):
    figure = opened.locator(f"#{FIGURE}")
    figure.locator("select").select_option(label="Sgdm: Test: LRD")
    slider = figure.locator("input")
    slider.focus()
    opened.keyboard.press("Home")
    for epoch in range(1, EPOCHS + 1):
        mean = expected(runs, "sgdm", "0.5", "test_accuracy", epoch)
        told = figure.locator("output").inner_text()
        assert f"Test {mean:.2f} %" in told and f"epoch {epoch}, n = {SEEDS}" in told
        assert slider.get_attribute("aria-valuetext") == f"epoch {epoch}"
        opened.keyboard.press("ArrowRight")
    opened.keyboard.press("Escape")
    assert figure.locator(".tip").is_hidden()


PHONE = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True}


@pytest.mark.parametrize("opened", [{}, PHONE], ids=["desktop", "phone"], indirect=True)
def test_the_first_screen_has_the_sentence_and_its_forest_plot(opened: Page):
    """The mark of the published difference, 1, lies where the axis has it."""
    height = (opened.viewport_size or {"height": 0})["height"]
    plot = opened.locator("#overview .forest").first
    box = plot.bounding_box() or {"x": 0, "y": 0, "width": 0, "height": 0}
    assert opened.locator(".finding").first.inner_text().startswith("With LRD against without")
    assert 0 < box["y"] and box["y"] + box["height"] < height
    ticks = {
        float(tick.text_content() or ""): tick.evaluate(CENTER)
        for tick in plot.locator(".axis text").all()
    }
    mark = plot.locator("circle.published").first.evaluate(CENTER)
    low, high = min(ticks), max(ticks)
    place = ticks[low] + (ticks[high] - ticks[low]) * (1.0 - low) / (high - low)
    assert mark == pytest.approx(place, abs=1.5)


@pytest.mark.parametrize("opened", [PHONE], indirect=True)
def test_on_a_phone_nothing_overflows_and_a_tap_tells_a_value(opened: Page):
    assert opened.evaluate(OVERFLOW) == 0
    opened.evaluate(OPEN_ALL)
    assert opened.evaluate(OVERFLOW) == 0
    boxes = opened.locator(".scroll").evaluate_all(
        "(all) => all.filter((box) => box.scrollWidth > box.clientWidth).map((box) => box.tabIndex)"
    )
    assert boxes and set(boxes) == {0}  # what is wider scrolls in its own box, by the keyboard too
    figure = opened.locator(f"#{FIGURE}")
    figure.locator(".drawn").scroll_into_view_if_needed()
    opened.touchscreen.tap(*ends(opened, "sgdm", 0.0)[0])
    assert "epoch 1, n = 3" in figure.locator(".tip").inner_text()


@pytest.mark.parametrize(
    "opened",
    [{"color_scheme": "light"}, {"color_scheme": "dark"}, PHONE],
    ids=["light", "dark", "phone"],
    indirect=True,
)
def test_axe_finds_no_violation(opened: Page):
    """WCAG 2.1, A and AA, and axe's own best practice; everything unfolded, a value shown."""
    opened.evaluate(OPEN_ALL)
    opened.locator(f"#{FIGURE} input").press("End")
    opened.locator("#all-runs thead th button").first.click()
    found = Axe().run(opened, options={"runOnly": WCAG, "resultTypes": ["violations"]})
    assert found.violations_count == 0, found.generate_report()


@pytest.mark.parametrize("opened", [{"java_script_enabled": False}], indirect=True)
def test_without_a_script_all_is_there_to_be_read(opened: Page):
    assert opened.locator("button, input:visible, select:visible").count() == 0
    assert opened.locator("#quickstart table.grid").is_visible()
    assert opened.locator(f"#{FIGURE} .drawn").is_visible()
    assert opened.locator("#all-runs tbody tr:visible").count() == 6 * SEEDS + 1


def test_a_print_has_the_numbers_and_no_controls(opened: Page):
    rows = opened.locator("#D1 table").first
    assert rows.is_hidden()
    opened.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert rows.is_visible()
    opened.emulate_media(media="print")
    assert opened.locator(".contents").is_hidden() and opened.locator(".filter").is_hidden()
    opened.evaluate("dispatchEvent(new Event('afterprint'))")
    assert rows.is_hidden()
