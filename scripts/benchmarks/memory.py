"""Peak memory: tensor bytes by torch's own count, and a process's resident memory."""

import json
import re
import tempfile
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile


def tensor_bytes(work: Callable[[], object], device: torch.device) -> tuple[int, int]:
    """(peak, kept): tensor bytes above what was there before, at most during ``work`` and after it.

    Every allocation of torch's is counted, on the CPU by its profiler and on CUDA by its caching
    allocator. Unlike resident memory that is exact to the byte, and free of what a compiler, an
    import or the allocation of a page leaves behind. On the CPU, tensors that no earlier call has
    counted must not be freed by ``work``.
    """
    if device.type == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        work()
        torch.cuda.synchronize()
        peak, kept = torch.cuda.max_memory_allocated(), torch.cuda.memory_allocated()
        return peak - before, kept - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    events = [e for e in events if e["name"] == "[memory]" and e["args"]["Device Type"] == 0]
    events.sort(key=lambda e: e["args"]["Ev Idx"])
    totals = list(accumulate((e["args"]["Bytes"] for e in events), initial=0))
    return max(totals), totals[-1]


def in_use(
    make: Callable[[], Callable[[], object]], device: torch.device, first: int = 3
) -> tuple[int, int]:
    """(steady, at first): tensor bytes at most in a call of what ``make`` returns, after ``first``
    others, and in those; all that ``make`` itself allocated included."""
    made: list[Callable[[], object]] = []

    def begin() -> None:
        made.append(make())
        for _ in range(first):
            made[0]()

    at_first, kept = tensor_bytes(begin, device)
    peak, _ = tensor_bytes(made[0], device)
    return kept + peak, at_first


def resident(what: str) -> int | None:
    """Bytes that this process has resident now (VmRSS) or had at most (VmHWM); None where /proc
    does not say.

    getrusage's ru_maxrss would not do: across exec a child keeps its parent's.
    """
    try:
        text = Path("/proc/self/status").read_text()
    except OSError:
        return None
    found = re.search(rf"{what}:\s+(\d+) kB", text)
    return int(found[1]) * 1024 if found else None
