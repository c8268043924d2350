"""The device of a run, torch's switches, and the choices that run.json records."""

import ctypes
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lrd.config import Config
from lrd.training.distributed import local_rank, local_world_size

_THREADS = torch.get_num_threads()
# oneDNN multiplies float32 matrices if it is at least this many times faster ...
MIN_SPEEDUP = 1.2
# ... and its error against float64 is at most this many times the default's.
MAX_ERROR_RATIO = 2.0
# glibc's mallopt parameters: free memory at the top of the heap above which the heap is trimmed,
# and the number of allocations that may be mappings of their own, unmapped when freed.
TRIM_THRESHOLD, MMAP_MAX = -1, -4


def configure_device(
    config: Config, recorded: dict[str, Any] | None = None
) -> tuple[torch.device, str]:
    """Set torch's switches and return the device and the kind of matrix product.

    ``recorded``, the metadata of a resumed run, decides what would be measured otherwise.

    Raises:
        ValueError: The device does not exist.
    """
    train, has_gpu = config.train, torch.cuda.is_available()
    if train.device == "cuda" and not has_gpu:
        raise ValueError("train.device must be auto or cpu where torch finds no GPU, got cuda")
    uses_gpu = has_gpu and train.device != "cpu"
    device = torch.device("cuda", local_rank()) if uses_gpu else torch.device("cpu")
    if device.type == "cuda" and local_rank() >= torch.cuda.device_count():
        raise ValueError(
            f"--nproc_per_node must be at most the {torch.cuda.device_count()} GPUs of this "
            f"machine, got {local_world_size()}"
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
    return device, _matmul(device, (recorded or {}).get("matmul"))


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
    cores = len(os.sched_getaffinity(0)) // local_world_size()
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


def _matmul(device: torch.device, recorded: str | None) -> str:
    """Select what multiplies float32 matrices on a CPU: "default", or "onednn" if it is faster."""
    switch: Any = getattr(torch.backends.mkldnn, "matmul", None)
    if switch is None or device.type != "cpu":
        return "default"
    set_onednn(switch, False)
    choice = recorded or ("onednn" if _has_avx512() and is_onednn_faster(switch) else "default")
    set_onednn(switch, choice == "onednn")
    return choice


def _has_avx512() -> bool:
    """Return whether oneDNN's reduced-precision path, which its float32 kernels need, exists."""
    return "AVX512" in torch.backends.cpu.get_cpu_capability()


def set_onednn(switch: Any, on: bool) -> None:
    # Requesting bf16 directs float32 products to oneDNN. Without bf16 matrix instructions (AMX),
    # oneDNN still computes them in float32; the self-test checks that.
    switch.fp32_precision = "bf16" if on else "none"


def is_onednn_faster(
    switch: Any,
    product: Callable[[Tensor, Tensor], Tensor] = torch.matmul,
    clock: Callable[[], float] = time.perf_counter,
) -> bool:
    """Return whether oneDNN multiplies as accurately as the default, and faster."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(512, 512, generator=generator) for _ in range(2))
    exact = a.double() @ b.double()
    errors: dict[bool, float] = {}
    times: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(7):
        for on in (False, True):
            set_onednn(switch, on)
            began = clock()
            result = product(a, b)
            times[on].append(clock() - began)
            errors[on] = float((result.double() - exact).abs().max())
    set_onednn(switch, False)
    speedup = statistics.median(times[False]) / statistics.median(times[True])
    return errors[True] <= MAX_ERROR_RATIO * errors[False] and speedup >= MIN_SPEEDUP
