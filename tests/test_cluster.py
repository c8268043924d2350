"""What stands around Hydra's launchers: which cells are started, and what comes back of them."""

import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import hydra
import pytest
from hydra.core.global_hydra import GlobalHydra

from lrd.cluster import Cell, Elsewhere, Failure, Outcome
from lrd.config.compose import CONFIGS, compose, to_config
from lrd.config.fingerprint import fingerprint, identity

ROOT = Path(__file__).parents[1]


class Played(Elsewhere):
    """Runs nothing; a cell's score is its seed, and the cells of seed 2 fail."""

    started: Sequence[Cell] = ()

    def start(self, cells: Sequence[Cell], done: int) -> Iterator[tuple[Path, Outcome]]:
        self.started, self.done = cells, done
        for cell in reversed(cells):  # whichever ends first
            seed = cell.config.seed
            failures = [("", "it broke", 1)] if seed == 2 else []
            yield cell.run.folder, Outcome(None if failures else float(seed), failures)


@pytest.fixture
def played(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Played]:
    monkeypatch.chdir(tmp_path)
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = hydra.compose("config", return_hydra_config=True)
        context = SimpleNamespace(config_loader=GlobalHydra.instance().config_loader())
        launcher = SimpleNamespace(config=config, hydra_context=context)
        failures: list[Failure] = []
        yield Played(launcher, failures, lambda text: None)


def launch(played: Played, *sweep: str) -> list[float | None]:
    return [r.return_value for r in played.launch([text.split() for text in sweep], 0)]


def test_only_what_is_missing_is_started_and_every_cell_has_its_score(played: Played):
    launch(played, "seed=1")
    played.started[0].run.write(status="finished", final={"value": 97.5, "epoch": 30})
    scores = launch(played, "seed=0", "seed=1", "seed=2", "seed=3", "seed=0 lrd.p=0.5")
    assert scores == [0.0, 97.5, None, 3.0, 0.0]  # the last one is the first again
    assert [c.config.seed for c in played.started] == [0, 2, 3] and played.done == 1
    assert played.failures == [("seed=2", "it broke", 1)]
    assert launch(played, "seed=1 run.force=true") == [1.0]


def test_a_wrong_cell_is_told_with_its_settings_and_the_others_run(played: Played):
    assert launch(played, "lrd.p=2 seed=0", "seed=1") == [None, 1.0]
    ((cell, line, status),) = played.failures
    assert cell == "lrd.p=2 seed=0" and "lrd.p must be in (0, 1]" in line and status == 2


def test_where_jobs_are_costly_one_wrong_cell_keeps_all_from_starting(played: Played):
    played.careful = True
    assert launch(played, "seed=0", "lrd.p=2") == [None, None]
    assert played.started == () and len(played.failures) == 1


def test_a_mistake_of_all_cells_is_one_line(played: Played):
    launch(played, "seed=0 cluster.mem_gb=0", "seed=1 cluster.mem_gb=0")
    assert played.failures == [("", "cluster.mem_gb must be at least 1, or null, got 0", 2)]


@pytest.mark.parametrize(
    ("setting", "rule"),
    [
        ("cluster.timeout_min=0", "cluster.timeout_min must be at least 1, got 0"),
        ("cluster.gpus_per_node=-1", "cluster.gpus_per_node must be at least 1, or null, got -1"),
        ("cluster.partition='a b'", "cluster.partition must be a name of the cluster's, or null"),
        ("cluster.partition=''", "cluster.partition must be a name of the cluster's, or null"),
        ("+cluster.foo=1", "cluster.foo is no setting"),
    ],
)
def test_settings_have_rules(setting: str, rule: str):
    with pytest.raises(ValueError, match=rule.replace("(", r"\(")):
        to_config(compose([setting]))


def test_where_a_cell_runs_is_no_part_of_its_identity():
    elsewhere = to_config(compose(["cluster.partition=gpu", "cluster.mem_gb=8", "cluster.jobs=2"]))
    assert fingerprint(identity(elsewhere)) == fingerprint(identity(to_config(compose([]))))


@pytest.mark.parametrize(
    ("cluster", "plugin"),
    [("slurm", "hydra_submitit_launcher"), ("local", "hydra_joblib_launcher")],
)
def test_without_its_package_a_cluster_is_one_line_and_all_else_works(
    cluster: str, plugin: str, tmp_path: Path
):
    code = f"""
import runpy, sys
class Without:
    def find_spec(self, name, path=None, target=None):
        if name == "hydra_plugins":
            raise ImportError(name)
sys.meta_path.insert(0, Without())
runpy.run_path({str(ROOT / "run.py")!r}, run_name="__main__")
"""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", code, *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)

    done = run(f"+cluster={cluster}", "seed=0,1", "-m")
    package = plugin.replace("_", "-")
    line = f"error: cluster={cluster} needs {package}: pip install -e '.[cluster]'\n"
    assert (done.returncode, done.stderr) == (2, line)
    assert run("--cfg", "job").returncode == 0
