"""The environment of a run's numbers: versions, commit, hardware, job."""

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch
import torchvision

from lrd import __version__


def describe_environment(device: torch.device, **computed: str) -> dict[str, Any]:
    """Return the environment for run.json; ``computed`` adds how the run computes (implementation
    of the step, precision, matrix product)."""
    return {
        "versions": {
            "lrd": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
        },
        "commit": checkout_commit(),
        "hardware": {
            "cpu": cpu_name(),
            "cores": os.cpu_count(),
            "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        },
        "device": device.type,
        "threads": torch.get_num_threads(),
        "job": slurm_job_id(),
        **computed,
    }


def checkout_commit() -> str | None:
    """Return the checkout's commit, with a ``+`` if files differ; None outside a checkout."""
    root = str(Path(__file__).resolve().parents[2])
    try:
        command = ["git", "-C", root, "describe", "--always", "--abbrev=12", "--dirty=+"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def cpu_name() -> str:
    """Return the processor's model name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def slurm_job_id() -> str | None:
    """Return the id of the SLURM job that this process belongs to (``12`` or ``12_3``), or None."""
    array, task = (os.environ.get(f"SLURM_ARRAY_{name}_ID") for name in ("JOB", "TASK"))
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID")
