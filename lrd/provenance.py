"""What a run's numbers came from: versions, commit, hardware, the job of a cluster."""

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch
import torchvision

from lrd import __version__
from lrd.jobs import this_job


def describe(device: torch.device, **computed: str) -> dict[str, Any]:
    """``computed`` adds how: the implementation of the step, the precision, the matrix product."""
    return {
        "versions": {
            "lrd": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
        },
        "commit": commit(),
        "hardware": {
            "cpu": cpu(),
            "cores": os.cpu_count(),
            "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        },
        "device": device.type,
        "threads": torch.get_num_threads(),
        "job": this_job(),
        **computed,
    }


def commit() -> str | None:
    """The checkout's commit, with a ``+`` where files differ from it; None outside a checkout."""
    root = str(Path(__file__).resolve().parents[1])
    try:
        command = ["git", "-C", root, "describe", "--always", "--abbrev=12", "--dirty=+"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
