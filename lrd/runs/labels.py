"""Labels of a run: its arm, its optimizer, its experiments. Imports no torch."""

from collections.abc import Mapping
from typing import Any


def is_lrd_enabled(lrd: Mapping[str, Any]) -> bool:
    """Return whether LRD drops updates, by the ``lrd`` node of a resolved configuration."""
    return lrd["p"] < 1 or lrd.get("schedule", "constant") != "constant"


def arm_name(config: Mapping[str, Any]) -> str:
    """Return what is added to the plain optimizer: ``lrd_sd``, or ``base`` for nothing."""
    lrd = ["lrd"] if is_lrd_enabled(config["lrd"]) else []
    return "_".join([*lrd, *sorted(config.get("regularizer", {}))]) or "base"


def names_of(config: Mapping[str, Any]) -> dict[str, str]:
    """Return how a configuration's parts are called, everywhere: task, dataset, model and optimizer
    by their classes, and the arm.

    An optimizer has its name in papers: SGDM, Adam, AMSGrad ...
    """
    optim, optimizer = config["optim"], class_name(config["optim"])
    if optimizer == "SGD" and optim.get("momentum"):
        optimizer = "SGDM"
    elif optimizer == "Adam" and optim.get("amsgrad"):
        optimizer = "AMSGrad"
    return {
        "task": class_name(config["task"]),
        "dataset": class_name(config["dataset"]),
        "model": class_name(config["model"]),
        "optimizer": optimizer,
        "arm": arm_name(config),
    }


def class_name(node: Mapping[str, Any]) -> str:
    """Return the name of the class that a node of a configuration names."""
    return str(node["_target_"]).rpartition(".")[2]


def experiment_names(metadata: Mapping[str, Any], choices: Mapping[str, str]) -> list[str]:
    """Return the experiments that requested a run: the recorded ones and that of ``choices``."""
    requested = [*metadata.get("experiments", []), choices.get("experiment")]
    return list(dict.fromkeys(name for name in requested if name))


def run_labels(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns by which a table of runs is sorted, grouped and filtered."""
    config = metadata["config"]
    return {
        **names_of(config),
        "p": config["lrd"]["p"],
        "seed": metadata["seed"],
        "fingerprint": metadata["fingerprint"],
    }
