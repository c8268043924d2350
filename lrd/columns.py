"""What a run is called where many stand beside one another: its arm, its optimizer, its columns."""

from collections.abc import Mapping
from typing import Any

from lrd.log import Numbers


def arm(config: Mapping[str, Any]) -> str:
    """What is done to the plain optimizer, by the resolved configuration: ``lrd_sd``, ``base``."""
    lrd = config["lrd"]
    on = lrd["p"] < 1 or lrd.get("schedule", "constant") != "constant"
    return "_".join([*(["lrd"] if on else []), *sorted(config.get("regularizer", {}))]) or "base"


def optimizer(node: Mapping[str, Any]) -> str:
    """The name of an optimizer as papers have it, by what makes it: SGDM, Adam, AMSGrad ..."""
    name = node["_target_"].rpartition(".")[2]
    if name == "SGD" and node.get("momentum"):
        return "SGDM"
    return "AMSGrad" if name == "Adam" and node.get("amsgrad") else name


def experiments(record: Numbers, choices: Mapping[str, str]) -> list[str]:
    """Those that asked for a run: noted in its record, and the one of ``choices``."""
    asked = [*record.get("experiments", []), choices.get("experiment")]
    return list(dict.fromkeys(name for name in asked if name))


def columns(record: Numbers) -> dict[str, Any]:
    """What a table of runs is sorted, grouped and filtered by."""
    config, choices = record["config"], record["choices"]
    return {
        "arm": arm(config),
        "optimizer": optimizer(config["optim"]),
        "p": config["lrd"]["p"],
        "task": choices.get("task"),
        "dataset": config["dataset"].get("name"),
        "model": choices.get("model"),
        "seed": record["seed"],
        "fingerprint": record["fingerprint"],
    }
