"""The stand-ins for CUDA's runtime and driver: whether they can be built, and where they are."""

import hashlib
import importlib.util
import os
import shutil
import subprocess
from pathlib import Path

import torch

from lrd.optim.kernels.cache import cached_file

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
# Set in a process whose CUDA is simulated: the path of the runtime's stand-in.
RUNTIME = "LRD_SIMULATED_CUDART"


def why_unavailable() -> str | None:
    """Return why this machine cannot simulate a GPU, in one line, or None."""
    if shutil.which("gcc") is None:
        return "a simulated GPU needs gcc"
    if not (torch.version.cuda or "").startswith("13."):
        return f"a simulated GPU needs torch for CUDA 13, got {torch.version.cuda or 'a CPU build'}"
    if not all(folder.is_dir() for folder in header_folders()):
        return "a simulated GPU needs the CUDA headers of torch's wheels (nvidia, triton)"
    return None


def header_folders() -> tuple[Path, Path]:
    """Return the folders with CUDA's headers: the runtime's wheel lacks some that Triton has."""
    spec = importlib.util.find_spec("torch")
    assert spec is not None and spec.origin is not None
    site = Path(spec.origin).parents[1]
    return site / "nvidia/cu13/include", site / "triton/backends/nvidia/include"


def simulated_environment() -> dict[str, str]:
    """Return the environment of a process that takes the stand-ins for CUDA's own libraries.

    Triton's kernels are interpreted there, as nothing could launch them.
    """
    includes = [f"-I{folder}" for folder in header_folders()]
    runtime = _library("runtime", ["-pthread", *includes])
    driver = _library("driver", ["-Wl,-soname,libcuda.so.1"])
    return {
        **os.environ,
        RUNTIME: str(runtime),
        "LD_PRELOAD": f"{runtime} {driver}",
        "TRITON_INTERPRET": "1",
        "OMP_NUM_THREADS": "1",
    }


def _library(name: str, flags: list[str]) -> Path:
    """Compile ``name``.c unless the cache has it."""
    source = HERE / f"{name}.c"
    key = hashlib.sha256(source.read_bytes() + str(torch.version.cuda).encode()).hexdigest()[:16]

    def compile(path: Path) -> None:
        command = ["gcc", "-O2", "-shared", "-fPIC", "-w", "-o", str(path), str(source), *flags]
        subprocess.run(command, check=True)

    return cached_file(f"simulated_{name}_{key}.so", compile)
