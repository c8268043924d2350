"""What a run computes on: the device, torch's switches, and what of it a record must say."""

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
from lrd.ranks import here, place

_THREADS = torch.get_num_threads()
# A float32 matrix product through oneDNN is taken where it is this much faster ...
GAIN = 1.2
# ... and its error against float64 at most this many times that of the default.
ACCURACY = 2.0
# Of glibc's mallopt: what is freed at the top of the heap beyond this goes back to the system, and
# how many allocations may lie in a mapping of their own, given back as soon as they are freed.
TRIM_THRESHOLD, MMAP_MAX = -1, -4


def prepare(config: Config, recorded: dict[str, Any] | None = None) -> tuple[torch.device, str]:
    """Set torch's switches as the configuration says; the device, and its kind of matrix product.

    ``recorded``, the record of an unfinished run, decides what would else be measured. Raises
    ValueError, in one line, for a device that is not there.
    """
    train, gpu = config.train, torch.cuda.is_available()
    if train.device == "cuda" and not gpu:
        raise ValueError("train.device must be auto or cpu where torch finds no GPU, got cuda")
    device = torch.device("cuda", place()) if gpu and train.device != "cpu" else torch.device("cpu")
    if device.type == "cuda" and place() >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise ValueError(
            f"--nproc_per_node must be at most the {count} GPUs of this machine, got {here()}"
        )
    torch.set_num_threads(train.threads or _THREADS)
    float32 = "tf32" if train.precision == "tf32" else "ieee"
    torch.backends.cuda.matmul.fp32_precision = float32
    torch.backends.cudnn.conv.fp32_precision = float32  # type: ignore[attr-defined]
    if train.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(train.deterministic)
    # Numbers below 1e-38 become 0: moments and gradients of what stopped moving get there, and a
    # CPU computes many times slower with them.
    torch.set_flush_denormal(device.type == "cpu")
    if device.type == "cpu":
        keep_memory()
    return device, _matmul(device, (recorded or {}).get("matmul"))


def keep_memory() -> None:
    """Let freed memory stay with the process, up to the most it ever had, for the next step.

    glibc returns an activation of 32 MiB or more to the system when it is freed, and the next one
    is then cleared page by page: most of the time of a convolutional network's step.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # glibc has it
        mallopt(TRIM_THRESHOLD, 2**31 - 1)
        mallopt(MMAP_MAX, 0)


def precision(wanted: str, device: torch.device) -> str:
    """fp32, tf32 or bf16: ``fast`` is bf16 where the device computes in it, and fp32 elsewhere."""
    if wanted != "fast":
        return wanted
    return "bf16" if has_bf16(device) else "fp32"


def workers(wanted: int | None, device: torch.device) -> int:
    """Processes that load data: by default one for each core of a rank, up to 8, beside a GPU, and
    none on a CPU, whose cores the training has."""
    if wanted is not None:
        return wanted
    cores = len(os.sched_getaffinity(0)) // here()
    return min(8, max(1, cores)) if device.type == "cuda" else 0


def has_bf16(device: torch.device) -> bool:
    """Whether the device has bf16 arithmetic of its own."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    flags = next((x for x in text.splitlines() if x.startswith(("flags", "Features"))), "").split()
    return not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(flags)


def _matmul(device: torch.device, recorded: str | None) -> str:
    """Choose what multiplies float32 matrices on a CPU: "default", or "onednn" where that pays."""
    switch: Any = getattr(torch.backends.mkldnn, "matmul", None)
    if switch is None or device.type != "cpu":
        return "default"
    set_onednn(switch, False)
    choice = recorded or ("onednn" if _capable() and onednn_pays(switch) else "default")
    set_onednn(switch, choice == "onednn")
    return choice


def _capable() -> bool:
    """oneDNN's reduced-precision path, by which its float32 kernels are reached, wants AVX-512."""
    return "AVX512" in torch.backends.cpu.get_cpu_capability()


def set_onednn(switch: Any, on: bool) -> None:
    # Asking for bf16 leads float32 products to oneDNN. Where the processor multiplies no bf16
    # matrices (AMX), oneDNN computes them in float32 all the same: the self-test tells.
    switch.fp32_precision = "bf16" if on else "none"


def onednn_pays(
    switch: Any,
    product: Callable[[Tensor, Tensor], Tensor] = torch.matmul,
    clock: Callable[[], float] = time.perf_counter,
) -> bool:
    """The self-test: whether oneDNN multiplies as exactly as the default does, and faster."""
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
    gain = statistics.median(times[False]) / statistics.median(times[True])
    return errors[True] <= ACCURACY * errors[False] and gain >= GAIN
