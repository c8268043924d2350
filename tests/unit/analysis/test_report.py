"""The page: what it says is what run folders hold, and what stands in a record is text."""

import html
import json
import math
import os
import re
import statistics
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from matplotlib.figure import Figure

from lrd.analysis import studies
from lrd.analysis.frames import RunFrames, list_frame
from lrd.analysis.report.forest_plot import WIDTH, fit_axis
from lrd.analysis.report.render import read_deviations
from lrd.analysis.report.run_list import LIST_COLUMNS, list_run_rows
from lrd.analysis.report.svg import to_svg
from lrd.config.compose import CONFIGS
from lrd.runs.store import RunIndex, find_runs
from scripts import report
from tests.helpers.finished_runs import configured, curve, finish, grid
from tests.helpers.small_study import FIGURE, learning_curves, small_study, table, write_study
from tests.unit.analysis.test_tables import two_tasks

OPTIMIZERS = ("sgdm", "rmsprop", "adam", "amsgrad", "radam")
T2 = 4.302652729911275  # quantile 0.975 of Student's t with 2 degrees of freedom
ROOT = Path(report.__file__).parents[1]
Written = Callable[..., "Page"]


class Page(HTMLParser):
    """A page's text, tables, links and elements, by the standard library's parser."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.source = text
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if "script" not in self.open and "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        """What is read, with single spaces."""
        return " ".join(" ".join(self.words).split())

    def part(self, key: str) -> "Page":
        """The element with an id, of those that no other of its tag is in."""
        found = re.search(
            rf'<(section|article) [^>]*id="{re.escape(key)}">.*?</\1>', self.source, re.S
        )
        assert found is not None, key
        return Page(found[0])

    def rows(self, place: int = 0) -> list[list[str]]:
        """The texts of a table's cells, row by row."""
        table = re.findall(r"<table.*?</table>", self.source, re.S)[place]
        rows = re.findall(r"<tr[ >].*?</tr>", table, re.S)
        return [
            [Page(cell).text for cell in re.findall(r"<t[hd][ >].*?</t[hd]>", row, re.S)]
            for row in rows
        ]

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture
def write(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Written:
    """The page from the runs under tmp_path, and what was said of it on stderr."""

    def call(*arguments: str, err: str = "", out: Path | None = None) -> Page:
        path = out or tmp_path / "report.html"
        given = ["--runs", str(tmp_path), "--out", str(path), *arguments]
        assert report.main(given) == 0
        told = capsys.readouterr()
        assert told.out == f"{path}\n" and re.fullmatch(err, told.err)
        return Page(path.read_text())

    return call


@pytest.fixture(autouse=True)
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The directory of the only study, which has no figure."""
    made = tmp_path_factory.mktemp("study")
    with small_study(made):
        yield made


@pytest.fixture
def digits(folder: Path) -> None:
    """Add a figure of learning curves on the digits, with two panels."""
    write_study(folder, figures={FIGURE: learning_curves("adam")})


def test_without_runs_it_says_what_to_run_first(write: Written, digits: None):
    found = write()
    start = found.text.index("where to begin")
    assert start < found.text.index("Verdicts", start) < found.text.index("Tables", start)
    assert "python run.py -m +experiment=quickstart" in found.part("quickstart").text
    assert "No runs yet" in found.part("quickstart").text
    assert "No runs yet" in found.part(FIGURE).text
    assert not re.findall("<table", found.source) and "–" not in found.text
    assert "There are no runs" in found.text


def test_a_tables_numbers_are_the_runs_and_stand_beside_the_papers(
    tmp_path: Path, write: Written, folder: Path
):
    write_study(folder, tables={"quickstart": table(["adam"], [91.5, 92.25])})
    made = grid(tmp_path, "quickstart", ["adam"], 3, 2)
    found = write().part("quickstart")
    ours, half, n, published = found.rows()[2:]
    finals = [[run.final for run in made["adam", p]] for p in ("1", "0.5")]
    assert ours[2:] == ["ours", *(f"{statistics.fmean(v):.2f}" for v in finals)]
    assert half[1:] == [f"{T2 * statistics.stdev(v) / math.sqrt(3):.2f}" for v in finals]
    assert n[1:] == ["3", "3"] and published[1:] == ["91.50", "92.25"]
    heads, difference = found.rows(1)
    gaps = [b - a for a, b in zip(*finals, strict=True)]
    mean, width = statistics.fmean(gaps), T2 * statistics.stdev(gaps) / math.sqrt(3)
    assert difference[:2] == ["digits, FCNet, adam", "3"]
    assert difference[2:4] == [f"{mean:+.2f}", f"{mean - width:+.2f} to {mean + width:+.2f}"]
    assert difference[heads.index("published")] == "+0.75"
    assert "p (sign flip)" not in heads  # three pairs cannot attain less than 0.25


def test_how_a_study_was_made_and_what_fills_it(tmp_path: Path, write: Written):
    grid(tmp_path, "quickstart", ["adam"], 2, 2)
    other = {
        "hardware": {"cpu": "Host", "cores": 8, "gpu": "Some GPU"},
        "device": "cuda",
        "commit": "f00d",
    }
    late = {"started": "2026-04-01T00:00:00+00:00", "ended": "2026-04-02T00:00:00+00:00"}
    asked = configured(tmp_path, "+experiment=quickstart", "optim=adam", "lrd.p=1")
    finish(asked, 2, curve(91, 2), **other, **late)
    found = write().part("quickstart")
    assert "2 of 10 configurations, n = 2 to 3" in found.text
    assert "5, 2026-03-01 to 2026-04-02 (UTC)" in found.text
    assert "Testing CPU (2 cores, 1 thread) (4 runs); Some GPU (Host) (1 run)" in found.text
    assert "0123456789ab (4 runs); f00d (1 run)" in found.text
    assert "torch 2.14.1, torchvision 0.29.1, python 3.11.7, lrd 0.1.0" in found.text
    for command in (
        f"python run.py -m +experiment=quickstart run.dir={tmp_path}</pre>",
        f"python scripts/table.py quickstart --runs {tmp_path}",
        f"python scripts/plan.py quickstart --runs {tmp_path}",
        f"+experiment=quickstart optim=sgdm,rmsprop,amsgrad,radam run.dir={tmp_path}</pre>",
    ):
        assert command in html.unescape(found.source)


def test_a_cells_configuration_is_what_differs_from_the_first(tmp_path: Path, write: Written):
    grid(tmp_path, "quickstart", ["sgdm", "adam"], 1, 2)
    found = write().part("quickstart")
    cells = {row[0]: row for row in found.rows(2)}
    first, adam = cells["digits, FCNet, SGDM, lrd.p=1"], cells["digits, FCNet, Adam, lrd.p=0.5"]
    assert first[6] == "the first one"
    differing = {
        "lrd.p=0.5",
        "optim._target_=torch.optim.Adam",
        "optim.lr=0.001",
        "optim.momentum=None",
    }
    assert set(adam[6].split()) == differing
    whole = configured(tmp_path, "+experiment=quickstart", "optim=sgdm", "lrd.p=1")
    listed = set(re.findall(r"<li><code>(.*?)</code>", found.source))
    assert {
        "optim.momentum=0.9",
        "train.epochs=30",
        f"model.hidden={whole.model['hidden']}",
    } <= listed
    assert not any("data.root" in line or "seed" in line for line in listed)


def test_every_file_of_a_run_is_read_once(
    tmp_path: Path, write: Written, digits: None, monkeypatch: pytest.MonkeyPatch
):
    """A page of several tables and figures shows one state of a running sweep."""
    made = grid(tmp_path, "quickstart", ["adam"], 2, 3)
    grid(tmp_path, "quickstart", ["adam"], 2, 3, "scale=0.1")
    read, walks = Counter[str](), Counter[str]()
    read_bytes, glob = Path.read_bytes, Path.glob

    def counted_read(path: Path) -> bytes:
        read[path.name] += 1
        return read_bytes(path)

    def counted_glob(path: Path, pattern: str, **options: Any) -> Any:
        walks[pattern] += path == tmp_path
        return glob(path, pattern, **options)

    monkeypatch.setattr(Path, "read_bytes", counted_read)
    monkeypatch.setattr(Path, "glob", counted_glob)
    write()
    n = 2 * sum(map(len, made.values()))
    assert (read["run.json"], read["metrics.jsonl"], walks.total()) == (n, n, 1)


@pytest.mark.parametrize("place", ["report.html", "elsewhere/deep/page.html"])
def test_links_lead_to_run_folders_from_wherever_the_page_lies(
    tmp_path: Path, write: Written, place: str
):
    made = grid(tmp_path, "quickstart", ["adam"], 2, 1)
    out = tmp_path / place
    found = write(out=out)
    targets = [a["href"] or "" for a in found.named("a")]
    folders = {(out.parent / t).resolve() for t in targets if not t.startswith("#")}
    assert folders == {run.folder.resolve() for runs in made.values() for run in runs}
    anchors = {t[1:] for t in targets if t.startswith("#")}
    assert anchors <= {attributes.get("id") for _, attributes in found.tags}


def test_verdicts_come_first_with_words_symbols_and_every_comparison(
    tmp_path: Path, write: Written
):
    made = grid(tmp_path, "quickstart", ["adam", "sgdm"], 3, 1)
    found = write()
    assert found.source.index('id="verdicts"') < found.source.index('id="tables"')
    claim = found.part("D1")
    assert "supported D1 LRD helps on the digits" in claim.text and "section 9" in claim.text
    assert claim.named("use")[0]["href"] == "#is-supported"
    rows = {row[0]: row for row in claim.rows()}
    gaps = [b.final - a.final for a, b in zip(made["adam", "1"], made["adam", "0.5"], strict=True)]
    adam = rows["quickstart optim=adam: lrd.p=1 to lrd.p=0.5"]
    assert adam[1:3] == ["3", f"{statistics.fmean(gaps):+.2f}"] and adam[-1] == "supported"
    assert rows["mean"][-1] == "supported"
    assert "At the full number of epochs, the claim is supported." in found.text


def test_what_lacks_seeds_says_how_to_make_them(tmp_path: Path, write: Written):
    grid(tmp_path, "quickstart", ["adam"], 2, 1)
    claim = write("lrd.implementation=generic").part("D1")
    assert "not enough runs" in claim.text
    assert "'seed=range(0,3)' lrd.implementation=generic" in claim.text


def test_shortened_runs_have_a_section_of_their_own(tmp_path: Path, write: Written, digits: None):
    grid(tmp_path, "quickstart", ["adam", "sgdm"], 3, 3, "scale=0.1")
    finish(
        configured(tmp_path, "+experiment=quickstart", "optim=adam", "lrd.p=1"), 0, curve(77, 30)
    )
    found = write()
    full, short = found.part("quickstart"), found.part("quickstart-at-0.1")
    assert "At 10 % of the study's epochs" in found.text and "scale=0.1" in short.text
    assert "10 % of the epochs" in short.text
    assert "77.00" in full.text and "77.00" not in short.text
    assert (
        "1 of 10 configurations, n = 1" in full.text
        and "4 of 10 configurations, n = 3" in short.text
    )
    assert "not enough runs" in found.part("D1").text
    assert "At 10 % of the epochs: supported" in found.part("D1").text
    assert found.part("D1-at-0.1").text.startswith("supported")
    assert "python run.py -m +experiment=quickstart scale=0.1" in short.text
    figure = found.part(f"{FIGURE}-at-0.1")
    assert '"x":[[1,3]]' in figure.source
    alone = write("scale=0.1")
    assert (
        "4 of 10 configurations" in alone.part("quickstart").text and "at-0.1" not in alone.source
    )


def test_the_first_thing_is_a_sentence_and_a_forest_plot(
    tmp_path: Path, write: Written, folder: Path
):
    """Gains of 0.5 with Adam; with SGDM differences of both signs, whose interval holds 0."""
    write_study(folder, tables={"quickstart": table(["adam", "sgdm"], [91.5, 92.25, 90, 89])})
    made = grid(tmp_path, "quickstart", ["adam"], 3, 2)
    for p, finals in (("1", (90.0, 91.0, 92.0)), ("0.5", (90.4, 90.9, 92.1))):
        asked = configured(tmp_path, "+experiment=quickstart", "optim=sgdm", f"lrd.p={p}")
        for seed, final in enumerate(finals):
            finish(asked, seed, curve(final, 2))
    found = write()
    assert found.source.index('id="overview"') < found.source.index('id="verdicts"')
    adam = [b.final - a.final for a, b in zip(made["adam", "1"], made["adam", "0.5"], strict=True)]
    sgdm = [0.4, -0.1, 0.1]
    pooled = [statistics.fmean(gaps) for gaps in zip(adam, sgdm, strict=True)]

    def estimate(gaps: Sequence[float]) -> str:
        mean, width = statistics.fmean(gaps), T2 * statistics.stdev(gaps) / math.sqrt(3)
        return f"{mean:+.2f} ({mean - width:+.2f} to {mean + width:+.2f})"

    mean, interval = estimate(pooled).split(" ", 1)
    sentence = "With LRD against without: better in 1 of 2 (adam), no difference shown in 1 of 2 "
    sentence += f"(sgdm); mean difference {mean} percentage points {interval}; n = 3."
    overview = found.part("overview")
    assert sentence in overview.text
    rows = {row[0]: [row[2], *row[3:]] for row in overview.rows() if len(row) > 3}
    assert rows["adam"] == [estimate(adam), "3", "+0.75"]
    assert rows["sgdm"] == [estimate(sgdm), "3", "-1.00"]
    assert rows["all 2 together"][0] == estimate(pooled)
    marks = re.findall(r'<circle class="(\w+)" cx="([\d.]+)%"', overview.source)
    by_kind = {kind: [float(x) for name, x in marks if name == kind] for kind, _ in marks}
    (zero, *_) = re.findall(r'class="zero" x1="([\d.]+)%"', overview.source)
    unit = (by_kind["mean"][0] - float(zero)) / statistics.fmean(adam)  # of the linear axis
    assert by_kind["published"] == pytest.approx(
        [float(zero) + unit * d for d in (0.75, -1)], abs=0.3
    )


def test_rows_of_several_data_sets_are_grouped(tmp_path: Path, write: Written, folder: Path):
    both = table(["adam", "sgdm"], [])
    both["rows"] = [
        {"labels": ["digits", "FCNet"]},
        {"labels": ["MNIST", "Net"], "experiment": "table1_mnist"},
    ]
    write_study(folder, tables={"both": both}, claims={})
    for experiment in ("quickstart", "table1_mnist"):
        grid(tmp_path, experiment, ["adam", "sgdm"], 2, 2)
    names = [row[0] for row in write().part("overview").rows()[1:-2]]
    assert names == ["digits, FCNet", "adam", "sgdm", "MNIST, Net", "adam", "sgdm"]


def test_runs_of_other_settings_have_a_chapter_and_empty_studies_a_line(
    tmp_path: Path, write: Written, folder: Path
):
    (folder / "study" / "other.yaml").write_text(
        yaml.safe_dump({"tables": {"mnist": table(["adam"], []) | {"experiment": "table1_mnist"}}})
    )
    grid(tmp_path, "quickstart", ["adam", "sgdm"], 3, 3, "train.epochs=3")
    grid(tmp_path, "quickstart", ["adam"], 2, 5, "optim.lr=0.02")
    found = write()
    chapter = found.part("quickstart-with-train.epochs-3")
    assert "4 of 10 configurations, n = 3" in chapter.text
    assert "the 12 runs that differ from a study's by train.epochs=3" in found.text
    assert f"python scripts/report.py small --runs {tmp_path} train.epochs=3" in found.text
    assert found.part("D1-with-train.epochs-3").text.startswith("supported")
    assert "with train.epochs=3 With LRD against without: " in found.part("overview").text
    assert "No run has the settings of a study." in found.text
    line = found.part("elsewhere").text
    assert "4 finished runs with optim.lr=0.02: python scripts/report.py small" in line
    assert "own settings: other, small." in line and 'id="mnist"' not in found.source
    alone = write("train.epochs=3")
    assert "4 of 10 configurations" in alone.part("quickstart").text


def test_a_study_of_figures_says_what_its_curves_show(tmp_path: Path, write: Written, folder: Path):
    """Two lengths of training have no common mean; a table without runs says nothing."""
    lines = learning_curves("adam")
    lines["groups"] = [
        {"label": f"{n} epochs", "overrides": f"optim=adam train.epochs={n}", "color": "#D55E00"}
        for n in (2, 4)
    ]
    write_study(folder, tables={"none": table(["sgdm"], [])}, figures={FIGURE: lines})
    gaps = []
    for n in (2, 4):
        made = grid(tmp_path, "quickstart", ["adam"], 3, n, f"train.epochs={n}", gain=n / 4)
        pairs = zip(made["adam", "1"], made["adam", "0.5"], strict=True)
        gaps.append([other.final - base.final for base, other in pairs])
    found = write().part("overview")
    texts = []
    for values in gaps:
        mean, width = statistics.fmean(values), T2 * statistics.stdev(values) / math.sqrt(3)
        texts.append(f"{mean:+.2f} ({mean - width:+.2f} to {mean + width:+.2f})")
    one, two = (text.replace(" (", " percentage points (") for text in texts)
    said = f"LRD against base: better in 2 of 2; 2 epochs {one}, 4 epochs {two}; n = 3."
    assert said in found.text and "Curves on the digits" in found.text
    rows = {row[0]: row[2] for row in found.rows() if len(row) > 3}
    assert (rows["2 epochs"], rows["4 epochs"]) == tuple(texts)
    assert not any("together" in name for name in rows)
    assert {"href": f"#{FIGURE}"} in found.named("a")


def test_runs_of_a_length_and_settings_of_their_own_have_a_chapter_or_a_line(
    tmp_path: Path, write: Written
):
    fast = ("train.compile=true", "train.precision=fast", "train.channels_last=true")
    odd = ("train.batch_size=64", "train.clip_norm=1")
    grid(tmp_path, "quickstart", ["adam"], 3, 3, "scale=0.1", *fast, *odd)
    grid(tmp_path, "table1_mnist", ["adam", "sgdm"], 1, 2)
    found = write()
    given = " ".join(["scale=0.1", *sorted((*fast, *odd))])
    assert f"python scripts/report.py small --runs {tmp_path} {given}" in found.text
    assert "the study's epochs with train.batch_size=64" in found.text
    (key,) = re.findall(r'<section class="study" id="(quickstart-at-0.1-with-[^"]*)"', found.source)
    assert "2 of 10 configurations, n = 3" in found.part(key).text
    lines = found.part("elsewhere").text
    for optimizer in ("Adam", "SGDM"):
        filters = f"dataset=MNIST model=FCNet optimizer={optimizer}"
        shown = f"python scripts/runs.py --runs {tmp_path} state=finished {filters}"
        said = f"2 finished runs of no study's configuration, MNIST, FCNet, {optimizer}: {shown}"
        assert said in lines
    assert len(list_frame(list(find_runs(tmp_path)), ["state=finished", *filters.split()])) == 2


def test_a_table_and_a_figure_of_one_name_are_both_shown(
    tmp_path: Path, write: Written, folder: Path
):
    write_study(folder, figures={"quickstart": learning_curves("adam")})
    grid(tmp_path, "quickstart", ["adam"], 2, 2)
    found = write()
    ids = [attributes["id"] for _, attributes in found.tags if "id" in attributes]
    assert len(set(ids)) == len(ids)
    assert found.part("quickstart").rows()[0][0] == "Dataset"
    assert found.part("quickstart--2").named("svg")[0]["class"] == "drawn"
    links = {a["href"] for a in found.named("a")}
    assert {"#quickstart", "#quickstart--2"} <= links and "quickstart (figure)" in found.text


def test_what_contrasts_say_over_tasks_stands_below_the_table(tmp_path: Path, write: Written):
    """By hand, as in test_tables and test_aggregates."""
    found = write(str(two_tasks(tmp_path))).part("two")
    over, steps = (found.rows(place)[1] for place in (2, 3))
    assert over[:4] == ["sgdm - adam", "2", "2", "4 / 4 (1 failed)"]
    assert [text.split(" (")[0] for text in over[4:]] == ["100.00", "125.00", "+25.00", "0.75"]
    assert steps == ["digits", "test_accuracy >= 45", "21 (2 of 2)", "17.5 (2 of 2)"]
    grid(tmp_path, "quickstart", ["adam"], 2, 2)
    assert "Over tasks" not in write("quickstart").text  # of one data set


def test_the_values_sent_along_are_the_means_of_the_metrics(tmp_path: Path, write: Written, digits):
    made = grid(tmp_path, "quickstart", ["adam"], 3, 5)
    part = write().part(FIGURE)
    data = json.loads(re.findall(r"application/json\">(.*?)</script>", part.source)[0])
    assert [a["label"] for a in data["axes"]] == ["Loss", "Test"]
    for axis, key in zip(data["axes"], ("train_loss", "test_accuracy"), strict=True):
        for sent, p in zip(axis["curves"], ("1", "0.5"), strict=True):
            seeds = [[line[key] for line in run.metrics] for run in made["adam", p]]
            assert sent["x"] == [[1, 5]] and sent["n"] == 3
            assert sent["mean"] == pytest.approx(np.mean(seeds, axis=0), rel=1e-5)
            half = T2 * np.std(seeds, axis=0, ddof=1) / math.sqrt(3)
            assert sent["half"] == pytest.approx(half, rel=1e-5)
    last = {(r[0], r[1]): r for r in part.rows()}
    mean = statistics.fmean(run.final for run in made["adam", "0.5"])
    assert last["Adam, Test (%)", "LRD"][2:5] == ["3", "5", f"{mean:.2f}"]


def test_metrics_that_cannot_be_read_are_named_in_the_figures_place(
    tmp_path: Path, write: Written, digits: None
):
    asked = configured(tmp_path, "+experiment=quickstart", "optim=adam", "lrd.p=1")
    run = finish(asked, 0, [{"test_accuracy": 90.0, "epoch": 1}])
    found = write(err=rf"note: {FIGURE}: .*no epoch has train_loss in all 1 finished runs\n")
    assert f"Cannot be shown: {run.folder.parent}: no epoch has train_loss" in found.text
    assert found.part("quickstart").rows()[0][0] == "Dataset"


ODD = '<script>alert("1")</script> & <b onmouseover=alert(2)> \' \ud800 </script>'


def test_what_stands_in_a_record_is_text(tmp_path: Path, write: Written, digits: None):
    asked = configured(tmp_path, "+experiment=quickstart", "optim=adam", "lrd.p=1")
    odd = {
        "hardware": {"cpu": ODD, "cores": ODD, "gpu": None},
        "commit": ODD,
        "versions": {ODD: ODD},
    }
    finish(
        asked, 0, curve(90, 3), **odd, started=ODD, data=ODD, choices={"model": ODD, "optim": ODD}
    )
    finish(asked, 1, curve(90, 3), status="failed", error=ODD)
    found = write()
    scripts = found.named("script")
    assert [s.get("type") for s in scripts] == ["application/json", None]
    assert not any("onmouseover" in attributes for _, attributes in found.tags)
    assert found.text.count('<script>alert("1")</script> & <b onmouseover=alert(2)>') >= 5
    assert "failed" in [cell for row in found.part("runs").rows() for cell in row]


def test_the_page_lets_its_own_script_run_and_fetches_nothing(tmp_path: Path, write: Written):
    grid(tmp_path, "quickstart", ["adam"], 1, 1)
    found = write()
    (policy,) = [m["content"] for m in found.named("meta") if "http-equiv" in m]
    assert policy and policy.startswith("default-src 'none'; ") and "http" not in policy
    for attributes in (a for _, a in found.tags):
        assert not {"src", "srcset", "action"} & attributes.keys()
    outside = [a["href"] for a in found.named("a") if (a["href"] or "").startswith("http")]
    assert not outside and "@import" not in found.source and not found.named("link")


def test_all_runs_are_listed_with_what_their_records_say(tmp_path: Path, write: Written):
    asked = configured(tmp_path, "task=digits", "optim=adam", "lrd.p=0.3", "train.epochs=4")
    finish(asked, 7, curve(88.5, 4))
    finish(asked, 8, curve(80, 2), status="running")
    heads, first, second = write().part("runs").rows()
    assert heads == [*LIST_COLUMNS, "folder"]
    row = dict(zip(heads, first, strict=True))
    assert row["data"] == "Digits" and row["optimizer"] == "Adam" and row["model"] == "FCNet"
    assert (row["p"], row["learning rate"], row["seed"], row["epochs"]) == (
        "0.3",
        "0.001",
        "7",
        "4",
    )
    assert (row["final"], row["best"], row["seconds"]) == ("88.50 %", "88.50 %", "4")
    assert (row["hardware"], row["date"]) == ("Testing CPU (2 cores, 1 thread)", "2026-03-02")
    assert (row["commit"], row["status"]) == ("0123456789ab", "finished")
    row = dict(zip(heads, second, strict=True))
    assert (row["epochs"], row["status"]) == ("2 of 4", "partial")


def listed(root: Path, record: dict[str, Any]) -> dict[str, str]:
    """The list's row of a run with this record."""
    path = root / "digits" / "abc" / "seed0" / "run.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(record))
    (row,) = list_run_rows(RunFrames(RunIndex(root)), root)
    assert row.folder == row.link == "digits/abc/seed0"
    return dict(zip(LIST_COLUMNS, (value.text for value in row.values), strict=True))


@pytest.mark.parametrize(
    "record",
    [
        {},
        {"status": "unreadable"},
        {"config": [1], "choices": "x", "final": 3, "score": [], "hardware": "h", "identity": 4},
        {
            "config": {"lrd": {"p": "x"}, "optim": {"lr": [1]}, "regularizer": {"sd": 3}},
            "scale": "y",
        },
        {
            "started": 5,
            "ended": {},
            "error": ["a"],
            "seed": None,
            "versions": 7,
            "best": {"value": "b"},
        },
    ],
)
def test_a_record_may_lack_anything_and_hold_anything(record: dict[str, Any], tmp_path: Path):
    assert all(isinstance(text, str) for text in listed(tmp_path, record).values())


def test_regularizers_and_other_settings_of_lrd_are_listed(tmp_path: Path):
    config = {
        "lrd": {"p": 0.5},
        "regularizer": {"sd": {"_target_": "lrd.X", "p_sd": 0.8}, "nl": {}},
    }
    row = listed(tmp_path, {"config": config, "identity": {"lrd.rescale": True}})
    assert (row["p"], row["regularizers"]) == ("0.5, rescale True", "sd p_sd=0.8, nl")


def test_the_deviations_are_those_of_their_page():
    path = ROOT / "docs" / "deviations.md"
    section = path.read_text().partition("# Deviations")[2].partition("\n## ")[0]
    written = ["".join(re.sub(r"`|\*\*", "", item).split()) for item in section.split("\n- ")[1:]]
    title, items = read_deviations(path)
    assert title.startswith("Deviations from the paper")
    assert ["".join(Page(str(item)).text.split()) for item in items] == written
    paper = studies.read_study(CONFIGS / "study" / "lrd_paper.yaml")
    assert paper.deviations == path


def test_a_page_of_one_study_has_its_title_and_its_deviations_alone(
    tmp_path: Path, write: Written, capsys: pytest.CaptureFixture[str]
):
    study = tmp_path / "mine.yaml"
    row = "rows: [{labels: [r], overrides: optim=adam}], columns: {a: lrd.p=1}"
    table = f"{{mine: {{title: T, heads: [x], experiment: quickstart, {row}}}}}"
    study.write_text(f"title: Mine & more\ntables: {table}\n")
    source = write(str(study)).source
    assert "<h1>Mine &amp; more <span>" in source
    assert "deviations" not in source.lower() and "arXiv" not in source
    study.write_text(study.read_text() + "deviations: page.md\n")
    assert report.main([str(study), "--out", str(tmp_path / "a.html")]) == 2
    assert capsys.readouterr().err.startswith(f"error: cannot read the deviations {tmp_path}/page")
    (tmp_path / "page.md").write_text("# Deviations of mine\n\n- one\n")
    found = write(str(study)).part("deviations")
    assert "Deviations of mine" in found.text and "one" in found.text


def test_markdown_is_text_but_for_code_bold_and_links(tmp_path: Path):
    readme = tmp_path / "README.md"
    items = "- **one** `a<b` [x](https://y.z/w)\n  <i>two</i>\n- three\n"
    readme.write_text(f"# A\n## Deviations from the paper\n\n{items}\n## B\n- no\n")
    assert read_deviations(readme) == (
        "Deviations from the paper",
        [
            '<b>one</b> <code>a&lt;b</code> <a href="https://y.z/w">x</a> &lt;i&gt;two&lt;/i&gt;',
            "three",
        ],
    )
    readme.write_text("# A\n")
    with pytest.raises(ValueError, match="must have a section '# Deviations"):
        read_deviations(readme)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["train.epochs=0"], "train.epochs must be at least 1, got 0"),
        (["optim.rate=1"], "unknown setting optim.rate"),
        (["--out", "."], "cannot write .: it is a directory"),
        (["--runs", "pyproject.toml"], "--runs must be a directory of runs, got pyproject.toml"),
    ],
)
def test_a_mistake_is_one_line(
    tmp_path: Path, arguments: list[str], line: str, capsys, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(ROOT)
    given = ["--runs", str(tmp_path), "--out", str(tmp_path / "a.html"), *arguments]
    assert report.main(given) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith(f"error: {line}") and err.count("\n") == 1
    assert not (tmp_path / "a.html").exists()


def test_the_same_runs_give_the_same_bytes(tmp_path: Path, write: Written, digits: None):
    grid(tmp_path, "quickstart", ["adam", "sgdm"], 2, 4)
    first, second = tmp_path / "a" / "r.html", tmp_path / "b" / "r.html"
    write(out=first)
    write(out=second)
    assert first.read_bytes() == second.read_bytes()


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory) -> Page:
    """All tables, figures and claims, from 200 runs of 200 epochs, a tenth of them shortened."""
    root = tmp_path_factory.mktemp("complete")
    grid(root, "table1_cifar10", OPTIMIZERS, 9, 200)
    grid(root, "table1_cifar100", OPTIMIZERS, 9, 200)
    grid(root, "table1_cifar10", OPTIMIZERS, 2, 200, "scale=0.1")
    assert report.main(["--runs", str(root)]) == 0
    return Page((root / "report.html").read_text())


@pytest.mark.exhaustive
def test_200_runs_of_200_epochs_take_less_than_5_mb(complete: Page):
    assert len(complete.part("runs").rows()) == 1 + 200
    assert 1e6 < len(complete.source.encode()) < 5e6


@pytest.mark.exhaustive
def test_every_table_figure_and_claim_is_there_once(complete: Page):
    catalog = studies.read_study(CONFIGS / "study" / "lrd_paper.yaml")
    heads = [html.unescape(title) for title in re.findall("<h3>(.*?)</h3>", complete.source)]
    titles = [spec.title for spec in (*catalog.tables.values(), *catalog.figures.values())]
    assert len(titles) == 15 and [heads.count(title) for title in titles] == [1] * len(titles)
    claims = [claim.name for claim in catalog.claims]
    assert [complete.source.count(f'id="{name}"') for name in claims] == [1] * len(claims)
    ids = [attributes["id"] for _, attributes in complete.tags if "id" in attributes]
    assert len(set(ids)) == len(ids)
    links = [a for tag in ("a", "use") for a in complete.named(tag)]
    targets = [a.get("href") or a.get("xlink:href") or "" for a in links]
    assert {target[1:] for target in targets if target.startswith("#")} <= set(ids)


@pytest.mark.exhaustive
def test_the_papers_numbers_stand_beside_ours_in_table_1(complete: Page):
    """Against the paper's text."""
    rows = [row for row in complete.part("table1").rows() if row[0] == "published"]
    assert [" ".join(row[1:]) for row in rows] == [
        "97.82 98.21 98.06 98.40 97.88 98.15 97.88 98.51 97.97 98.21",
        "95.30 95.54 92.71 93.68 93.05 93.77 93.31 93.73 94.24 94.61",
        "79.09 79.42 70.21 74.02 72.55 74.34 73.91 75.23 71.81 73.04",
    ]


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of all tables and figures, beside the folder of the few runs that it is from."""
    page = tmp_path_factory.mktemp("few") / "page.html"
    runs = page.with_name("runs")
    grid(runs, "table1_mnist", ["adam"], 2, 4)
    grid(runs, "table2", ["adam"], 2, 4)
    assert report.main(["--runs", str(runs), "--out", str(page)]) == 0
    return page


@pytest.mark.slow
def test_the_same_runs_give_the_same_bytes_in_another_process(few: Path):
    """All tables and figures, in an interpreter with other hashes, that has done nothing before."""
    runs, again = few.with_name("runs"), few.with_name("again.html")
    seed = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
    env = {"PYTHONHASHSEED": seed, "PATH": "", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "scripts/report.py", "--runs", str(runs), "--out", str(again)]
    subprocess.run(command, cwd=ROOT, check=True, env=env)
    assert again.read_bytes() == few.read_bytes()


def drawing(values: Sequence[float]) -> Figure:
    sheet = Figure(figsize=(4, 3))
    axis = sheet.add_subplot()
    axis.plot(range(len(values)), values, marker="o", markevery=10)
    axis.set_title('a "quoted" <title> 0.123456')
    return sheet


def test_figures_in_one_page_share_no_ids_and_every_reference_is_resolved():
    values = np.cumsum(np.random.default_rng(0).normal(size=100)).tolist()
    one, two = (to_svg(drawing(values), name) for name in ("one", "two"))
    ids = [set(re.findall(r'\bid="([^"]+)"', svg)) for svg in (one, two)]
    assert ids[0] and not ids[0] & ids[1]
    for svg, there in zip((one, two), ids, strict=True):
        assert set(re.findall(r'(?:url\(|href=")#([\w.-]+)', svg)) == there
        assert "metadata" not in svg and "<style" not in svg and "font-family" not in svg
        assert 'a "quoted" &lt;title&gt; 0.123456' in svg


def test_long_lines_written_as_steps_end_up_where_they_were():
    """Against matplotlib's own SVG, whose coordinates are absolute."""
    rng = np.random.default_rng(1)
    values = np.cumsum(rng.normal(size=90)) * np.where(rng.random(90) < 0.1, 1e-3, 1)
    sheet = drawing(values.tolist())
    steps = re.findall(r'd="M([^"l]*)l([^"z]*)', to_svg(sheet, "x"))
    (longest,) = [s for s in steps if s[1].count(" ") + s[1].count("-") > 100]
    start, moves = (
        np.array([float(n) for n in re.findall(r"-?\d*\.?\d+", part)]).reshape(-1, 2)
        for part in longest
    )
    places = start + np.vstack([np.zeros(2), np.cumsum(moves, axis=0)])
    line = sheet.axes[0].lines[0]
    pixels = line.get_transform().transform(np.asarray(line.get_xydata()))
    expected = sheet.transFigure.inverted().transform(pixels) * (4 * 72, 3 * 72)
    expected[:, 1] = 3 * 72 - expected[:, 1]
    assert np.abs(places - expected).max() <= 0.06


def test_an_axis_holds_all_means_and_cuts_intervals_that_are_far_wider():
    made = fit_axis([0.5, 1.0, None], [0.2, 0.8, -30.0, 40.0, math.nan], threshold=0.1)
    marks = [made.position(v) for v in (0.0, 0.1, 0.5, 1.0)]
    assert None not in marks and marks == sorted(m for m in marks if m is not None)
    assert made.position(-30.0) == 0.0 or made.position(40.0) == WIDTH
    assert made.position(None) is made.position(math.inf) is None
    assert fit_axis([], []).position(0) == WIDTH / 2
