"""The device of a run, and torch's switches."""

import ctypes
import os
from pathlib import Path

import torch

from lrd.config import Config
from lrd.runs.ranks import ProcessRank

_THREADS = torch.get_num_threads()
COMPILES = (7, 0)  # the least compute capability that torch.compile, by Triton, supports
# glibc's mallopt parameters: free memory at the top of the heap above which the heap is trimmed,
# and the number of allocations that may be mappings of their own, unmapped when freed.
TRIM_THRESHOLD, MMAP_MAX = -1, -4


def configure_device(config: Config) -> torch.device:
    """Set torch's switches and return the device.

    Raises:
        ValueError: The device does not exist, or is too old for what is asked of it.
    """
    train = config.train
    device = _device_of(train.device)
    if device.type == "cuda":
        torch.cuda.set_device(device)  # streams, graphs and memory are of the current one
        if train.compile and (found := torch.cuda.get_device_capability(device)) < COMPILES:
            raise ValueError(
                "train.compile must be false on a GPU below compute capability "
                f"{COMPILES[0]}.{COMPILES[1]}, got true on one of {found[0]}.{found[1]}"
            )
    torch.set_num_threads(train.threads or _THREADS)
    # These setters, unlike the newer fp32_precision, leave every older name readable.
    torch.backends.cuda.matmul.allow_tf32 = train.precision == "tf32"
    torch.backends.cudnn.allow_tf32 = train.precision == "tf32"
    torch.backends.cudnn.benchmark = train.cudnn_benchmark and not train.deterministic
    if train.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(train.deterministic)
    # Moments and gradients of converged weights fall below 1e-38, where a CPU computes many times
    # slower: flush them to 0.
    torch.set_flush_denormal(device.type == "cpu")
    if device.type == "cpu":
        disable_malloc_trim()
    return device


def _device_of(requested: str) -> torch.device:
    """Return the device that ``train.device`` means for this process.

    Raises:
        ValueError: It does not exist.
    """
    process = ProcessRank.from_environment()
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if requested == "cpu" or (requested == "auto" and not count):
        return torch.device("cpu")
    if not count:
        raise ValueError(
            f"train.device must be auto or cpu where torch finds no GPU, got {requested}"
        )
    if requested.startswith("cuda:"):
        number = int(requested.removeprefix("cuda:"))
        if number >= count:
            found = ", ".join(f"cuda:{n}" for n in range(count))
            raise ValueError(f"train.device must be one of {found}, got {requested}")
        if process.world > 1:
            raise ValueError(
                f"train.device must be auto or cuda on several ranks, of which each has a GPU, got "
                f"{requested}"
            )
        return torch.device("cuda", number)
    if process.local_rank >= count:
        raise ValueError(
            f"--nproc_per_node (cluster.ranks_per_cell) must be at most the {count} GPUs of this "
            f"machine, got {process.local_world}"
        )
    return torch.device("cuda", process.local_rank)


def disable_malloc_trim() -> None:
    """Keep freed memory in the process, up to its peak, for the next step.

    glibc returns an activation of 32 MiB or more to the system when it is freed, and the kernel
    clears the next one page by page: most of the time of a convolutional network's step.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # glibc only
        mallopt(TRIM_THRESHOLD, 2**31 - 1)
        mallopt(MMAP_MAX, 0)


def resolve_precision(requested: str, device: torch.device) -> str:
    """Return fp32, tf32 or bf16; ``fast`` is bf16 if the device computes in it, else fp32."""
    if requested != "fast":
        return requested
    return "bf16" if is_bf16_supported(device) else "fp32"


def default_num_workers(requested: int | None, device: torch.device) -> int:
    """Return the number of loading processes: by default one per core of a rank, up to 8, for a
    GPU, and none for a CPU, whose cores train."""
    if requested is not None:
        return requested
    cores = len(os.sched_getaffinity(0)) // ProcessRank.from_environment().local_world
    return min(8, max(1, cores)) if device.type == "cuda" else 0


def is_bf16_supported(device: torch.device) -> bool:
    """Return whether the device has bf16 arithmetic in hardware."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    flags = next((x for x in text.splitlines() if x.startswith(("flags", "Features"))), "").split()
    return not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(flags)
