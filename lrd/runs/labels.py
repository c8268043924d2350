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


def optimizer_name(node: Mapping[str, Any]) -> str:
    """Return an optimizer's name as in papers, by its class: SGDM, Adam, AMSGrad ..."""
    name = node["_target_"].rpartition(".")[2]
    if name == "SGD" and node.get("momentum"):
        return "SGDM"
    return "AMSGrad" if name == "Adam" and node.get("amsgrad") else name


def experiment_names(metadata: Mapping[str, Any], choices: Mapping[str, str]) -> list[str]:
    """Return the experiments that requested a run: the recorded ones and that of ``choices``."""
    requested = [*metadata.get("experiments", []), choices.get("experiment")]
    return list(dict.fromkeys(name for name in requested if name))


def run_labels(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns by which a table of runs is sorted, grouped and filtered."""
    config, choices = metadata["config"], metadata["choices"]
    return {
        "arm": arm_name(config),
        "optimizer": optimizer_name(config["optim"]),
        "p": config["lrd"]["p"],
        "task": choices.get("task"),
        "dataset": config["dataset"].get("name"),
        "model": choices.get("model"),
        "seed": metadata["seed"],
        "fingerprint": metadata["fingerprint"],
    }
