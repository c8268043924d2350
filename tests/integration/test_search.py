"""A search by one of Hydra's sweepers chooses by held-out samples only."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from lrd.runs.store import find_runs

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(
    find_spec("hydra_plugins.hydra_optuna_sweeper") is None, reason="pip install -e '.[search]'"
)


def search(root: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    small = ["train.epochs=1", "model.hidden=[4]", "hydra.sweeper.n_trials=3", f"run.dir={root}"]
    command = [sys.executable, "run.py", "-m", "+search=optuna", *small, *overrides]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_optuna_chooses_the_best_trial_on_held_out_samples(tmp_path: Path):
    rates = "optim.lr=choice(0.01,1e30)"  # the loss is not finite at 1e30
    more = ("optim=sgdm", "hydra.sweeper.n_trials=6")
    done = search(tmp_path, "dataset.holdout=300", rates, *more)
    runs = {run.metadata["config"]["lrd"]["p"]: run for run in find_runs(tmp_path)}
    assert len(runs) == 6
    scores = {p: run.final for p, run in runs.items() if run.status == "finished"}
    assert {run.metadata["score"]["name"] for run in runs.values()} == {"holdout_accuracy"}
    chosen = yaml.safe_load((tmp_path / "optimization_results.yaml").read_text())
    assert chosen["best_value"] == max(scores.values())
    assert scores[chosen["best_params"]["lrd.p"]] == max(scores.values())
    failed = [run for run in runs.values() if run.status == "failed"]
    assert failed and done.returncode == 1
    assert done.stderr.count("error: ") == len(failed)


def test_a_search_by_a_loss_takes_the_smallest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    code = """from lrd.task import Score
from tasks.classification import Classification
class ByLoss(Classification):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.score = Score(f"{self.split}_loss", maximize=False)
"""
    (tmp_path / "by_loss.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")
    own = ("task._target_=by_loss.ByLoss", "run.allow=[by_loss]", "dataset.holdout=300")
    done = search(tmp_path, *own)
    assert done.returncode == 0, done.stderr
    scores = [run.final for run in find_runs(tmp_path)]
    chosen = yaml.safe_load((tmp_path / "optimization_results.yaml").read_text())
    assert len(set(scores)) == 3 and chosen["best_value"] == min(scores)


def test_a_search_without_held_out_samples_is_rejected(tmp_path: Path):
    done = search(tmp_path)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: dataset.holdout must be above 0 where a search chooses")
    assert not list(find_runs(tmp_path))
