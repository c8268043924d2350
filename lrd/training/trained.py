"""What a finished run trained: its network, its scores under other settings, its predictions; and
the scores of published weights."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor, nn

from lrd.config import Config, identity
from lrd.config.compose import compose, format_error, restore_config, to_config
from lrd.loggers.base import Metrics
from lrd.runs import Run, open_run, run_lock
from lrd.task import Prediction, Task
from lrd.training.builder import build_dataset, build_regularizers, build_task, check_eval
from lrd.training.checkpoint import load_checkpoint
from lrd.training.device import configure_device, resolve_precision
from lrd.training.distributed import SINGLE_PROCESS
from lrd.training.environment import checkout_commit
from lrd.training.evaluator import Evaluator

log = logging.getLogger(__name__)
# What an evaluation may change: settings of these groups, and these settings.
EVALUATION_GROUPS = ("eval.", "data.", "dataset.")
EVALUATION_SETTINGS = ("dataset", "train.device", "train.threads", "run.allow")


@dataclass
class TrainedRun:
    """A run's task and its trained network, in eval mode. No data have been read."""

    run: Run
    config: Config
    task: Task
    model: nn.Module


def load_model(run: str | Path | Run, weights: str = "last") -> nn.Module:
    """Return a run's network in eval mode on the CPU, with its weights.

    Args:
        run: A run directory, or a ``Run``.
        weights: ``last``, or ``best``: those of the best epoch, which ``run.keep=best`` keeps.

    Raises:
        ValueError: There is no such run or it has no weights, its record or its weights are of
            another version, or a class of its configuration is missing.

    Example:
        >>> model = lrd.load_model("runs/digits/0123456789ab/seed0")
    """
    return load_trained(run, weights).model


def load_trained(run: str | Path | Run, weights: str = "last") -> TrainedRun:
    """Return a run's task and network on the CPU. Raises ValueError as :func:`load_model`."""
    run = run if isinstance(run, Run) else open_run(run)
    return _load(run, recorded_config(run), torch.device("cpu"), weights)


def recorded_config(run: Run) -> Config:
    """Return the configuration that a run recorded. Raises ValueError if it is of another
    version."""
    try:
        return restore_config(run.metadata["config"], run.identity)
    except KeyError as error:
        raise ValueError(f"{run.folder}/run.json must have {error}: run it again") from error


def _load(run: Run, config: Config, device: torch.device, weights: str = "last") -> TrainedRun:
    if weights not in ("last", "best"):
        raise ValueError(f"weights must be last or best, got {weights}")
    checkpoint = run.folder / f"{weights}.pt"
    if not checkpoint.is_file():
        raise ValueError(
            f"{run.folder} must have weights, got no {checkpoint.name}: run.keep says what a "
            "finished run keeps, run.force=true trains it again"
        )
    state = load_checkpoint(checkpoint, run.identity)["model"]
    _note_changed_code(run, config)
    task = build_task(_starting_from(checkpoint, config), device)
    with torch.random.fork_rng(devices=[]):  # the initial weights are replaced
        model = task.model()
    for regularizer in build_regularizers(config):
        regularizer.on_model(model, task)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        why = str(error).splitlines()[-1].strip()
        raise ValueError(f"{checkpoint} must fit {type(model).__name__}: {why}") from error
    return TrainedRun(run, config, task, model.to(device).eval())


def _note_changed_code(run: Run, config: Config) -> None:
    """Log if a class or a package has other code, or another recipe, than the run had."""
    now = identity(config)
    for name in sorted(now.keys() | run.identity.keys()):
        if name.startswith(("source.", "recipe.")) and now.get(name) != run.identity.get(name):
            log.warning(
                f"note: {name} is {now.get(name)}, was {run.identity.get(name)}: {run.folder}"
            )


def _starting_from(checkpoint: Path, config: Config) -> Config:
    """Replace the initial weights, which need not exist any more, by those of a checkpoint: some
    networks have a layer more with initial weights than without."""
    own = str(config.model.get("_target_")).startswith("tasks.models.")
    if own and config.model.get("weights", "none") != "none":
        return replace(config, model={**config.model, "weights": str(checkpoint)})
    return config


@torch.inference_mode()
def predict_image(trained: TrainedRun, image: Tensor) -> Prediction:
    """Return what a trained network says of an image, uint8 (3, h, w) in RGB.

    Raises:
        ValueError: The task has no method ``predict``.
    """
    return trained.task.predict(trained.model, image)


def evaluate_run(run: str | Path | Run, overrides: Sequence[str] = ()) -> tuple[Run, Metrics]:
    """Score a finished run again and add the scores to its record, under ``evaluations``.

    The run's own score and its metrics.jsonl stay as they are.

    Args:
        run: A run directory, or a ``Run``.
        overrides: ``eval.*``, ``data.*``, ``dataset=``, ``dataset.*``, ``train.device``,
            ``train.threads`` and ``run.allow``, as for run.py.

    Returns:
        The run with the new record, and the scores by name.

    Raises:
        ValueError: A user's mistake, in one line.
        RunLocked: Another process has the run.
    """
    run = run if isinstance(run, Run) else open_run(run)
    if run.status != "finished":
        raise ValueError(f"RUN must be finished, got {run.folder}, which is {run.state}")
    own = recorded_config(run)
    config, settings = change_evaluation(own, overrides)
    device = configure_device(config)
    _require_same_labels(own, config, device)
    trained = _load(run, config, device)
    check_eval(config.eval, trained.task)
    bf16 = resolve_precision(config.train.precision, device) == "bf16"
    try:
        evaluator = Evaluator(trained.task, trained.model, device, SINGLE_PROCESS, bf16)
        scores = evaluator.scores(True, lambda: None)
    finally:
        trained.task.close()
    entry = {
        "settings": settings,
        "scores": scores,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": checkout_commit(),
    }
    with run_lock(run.folder):
        run = open_run(run.folder)
        return run.update(evaluations=[*run.metadata.get("evaluations", []), entry]), scores


def evaluate_weights(overrides: Sequence[str]) -> Metrics:
    """Return the scores of the network whose weights ``model.weights`` names, trained by any code.

    Args:
        overrides: A configuration, as for run.py. What concerns training is not used.

    Raises:
        ValueError: A user's mistake, in one line.
    """
    config = to_config(compose(overrides))
    if (weights := config.model.get("weights")) in (None, "none", "imagenet"):
        raise ValueError(
            f"model.weights must be a file with the weights of a trained network, got {weights}"
        )
    device = configure_device(config)
    task = build_task(config, device)
    check_eval(config.eval, task)
    model = task.model().to(device)
    bf16 = resolve_precision(config.train.precision, device) == "bf16"
    try:
        return Evaluator(task, model, device, SINGLE_PROCESS, bf16).scores(True, lambda: None)
    finally:
        task.close()


def change_evaluation(config: Config, overrides: Sequence[str]) -> tuple[Config, dict[str, Any]]:
    """Return ``config`` with other evaluation settings, and these settings by name.

    Raises:
        ValueError: An override is of another group, or breaks a rule.
    """
    changed = OmegaConf.structured(config)
    settings: dict[str, Any] = {}
    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
        # A data set replaces the whole node, so it comes before settings of it.
        for override in sorted(parsed, key=lambda o: o.key_or_group != "dataset"):
            name = override.key_or_group
            is_allowed = name in EVALUATION_SETTINGS or name.startswith(EVALUATION_GROUPS)
            if override.is_delete() or override.is_sweep_override() or not is_allowed:
                raise ValueError(
                    "an evaluation takes eval.*, data.*, dataset=NAME, dataset.*, train.device, "
                    f"train.threads and run.allow, got {override.input_line}"
                )
            settings[name] = value = override.value()
            if name == "dataset":
                composed: Any = OmegaConf.to_container(compose([f"dataset={value}"]), resolve=True)
                changed.dataset = composed["dataset"]
                changed.run.allow += composed["run"]["allow"]  # of own/settings.yaml
            else:
                OmegaConf.update(changed, name, value, force_add=name.startswith("dataset."))
        made = OmegaConf.to_object(changed)
    except (OmegaConfBaseException, HydraException) as error:
        raise ValueError(format_error(error)) from error
    assert isinstance(made, Config)
    return made, settings


def _require_same_labels(own: Config, other: Config, device: torch.device) -> None:
    """Raises ValueError if the data sets of two configurations have other labels."""
    if own.dataset == other.dataset:
        return
    trained, scored = (build_dataset(config, device) for config in (own, other))
    for name in ("classes", "names"):
        one, two = getattr(trained, name, None), getattr(scored, name, None)
        if one and two and one != two:
            raise ValueError(f"dataset must have the run's labels ({name}: {one}), got {two}")
