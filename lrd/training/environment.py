"""The environment of a run's numbers: versions, commit, hardware, job."""

import os
import platform
import re
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
import torchvision

from lrd import __version__


def describe_environment(device: torch.device, **computed: str) -> dict[str, Any]:
    """Return the environment for run.json; ``computed`` adds how the run computes (implementation
    of the step, precision)."""
    return {
        "versions": {
            "lrd": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
            **(
                {"cuda": torch.version.cuda, "cudnn": cudnn_version()}
                if device.type == "cuda"
                else {}
            ),
        },
        "packages": installed_packages(),
        "commit": checkout_commit(),
        "hardware": {
            "cpu": cpu_name(),
            "cores": os.cpu_count(),
            "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
            "driver": driver_version() if device.type == "cuda" else None,
        },
        "device": device.type,
        "threads": torch.get_num_threads(),
        "blas": blas_name(),
        **(cuda_switches() if device.type == "cuda" else {}),
        "omp_wait_policy": os.environ.get("OMP_WAIT_POLICY"),
        "job": slurm_job_id(),
        **computed,
    }


@cache
def installed_packages() -> dict[str, str]:
    """Return the version of every installed distribution, by name."""
    found = {d.metadata["Name"]: d.version for d in metadata.distributions() if d.metadata["Name"]}
    return dict(sorted(found.items(), key=lambda item: item[0].lower()))


@cache
def blas_name() -> str:
    """Return the library of matrix products on the CPU that torch was built with."""
    found = re.search(r"BLAS_INFO=(\w+)", torch.__config__.show())
    return found[1] if found else "unknown"


def cuda_switches() -> dict[str, bool]:
    """Return torch's switches that decide how a GPU rounds."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    return {
        "tf32": bool(matmul.allow_tf32 and cudnn.allow_tf32),
        "cudnn_benchmark": bool(cudnn.benchmark),
    }


@cache
def driver_version() -> str | None:
    """Return the version of NVIDIA's driver, where the system says it."""
    try:
        text = Path("/proc/driver/nvidia/version").read_text()
    except OSError:
        return None
    found = re.search(r"\d+\.\d+(\.\d+)?", text)
    return found[0] if found else None


def cudnn_version() -> int | None:
    return torch.backends.cudnn.version()


@cache
def checkout_commit() -> str | None:
    """Return the checkout's commit, with a ``+`` if files differ; None outside a checkout."""
    root = str(Path(__file__).resolve().parents[2])
    try:
        command = ["git", "-C", root, "describe", "--always", "--abbrev=12", "--dirty=+"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


@cache
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
