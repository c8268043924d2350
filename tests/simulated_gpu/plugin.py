"""pytest's plugin of a process with a simulated GPU: ``pytest -p tests.simulated_gpu.plugin``.

It needs the environment of :func:`tests.simulated_gpu.build.simulated_environment`. torch.compile
is the identity here, as nothing could launch what it compiles.
"""

import json
import os
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import _tensor_str
from torch.utils import deterministic

from lrd.optim.kernels.c import CKernels
from lrd.optim.kernels.triton import TritonKernels
from tests.simulated_gpu.simulator import SimulatedGPU, on_host

# The file for the reports of a process, a line of JSON each.
REPORTS = "LRD_SIMULATED_REPORTS"
MOST_INTERPRETED = 1 << 14  # elements of a launch; the interpreter takes 10 ms a block

gpu = SimulatedGPU()


def pytest_configure(config: pytest.Config) -> None:
    torch.backends.cudnn.enabled = False
    deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # by a kernel
    torch.compile = lambda function=None, **options: function  # type: ignore[assignment]
    torch.compiler.set_stance = lambda *args, **options: nullcontext()  # type: ignore[assignment]
    torch.cuda.is_bf16_supported = lambda including_emulation=True: True
    _interpret_triton()
    _print_by_host()
    if file := os.environ.pop(REPORTS, ""):
        config.pluginmanager.register(_Reporter(config, file))
    gpu.start()


def _interpret_triton() -> None:
    """Interpret Triton's kernels on the memory itself; for large tensors C does the same."""
    from triton.runtime.interpreter import GridExecutor

    def on_memory(call: Any) -> Any:
        def run(self: Any, *args: Any, **kwargs: Any) -> Any:
            def down(x: Any) -> Any:
                return on_host(x) if isinstance(x, torch.Tensor) else x

            with torch._C._DisableTorchDispatch():
                return call(self, *map(down, args), **{k: down(x) for k, x in kwargs.items()})

        return run

    def if_small(name: str) -> Any:
        interpreted, at = getattr(TritonKernels, name), 1 if name == "update" else 0

        def run(self: TritonKernels, *args: Any) -> None:
            if sum(piece.length for piece in args[at]) <= MOST_INTERPRETED:
                return interpreted(self, *args)
            args = tuple(on_host(x) if isinstance(x, torch.Tensor) else x for x in args)
            pieces = [p._replace(tensors=tuple(map(on_host, p.tensors))) for p in args[at]]
            return getattr(CKernels(), name)(*args[:at], pieces, *args[at + 1 :])

        return run

    GridExecutor.__call__ = on_memory(GridExecutor.__call__)
    TritonKernels.update = if_small("update")  # type: ignore[method-assign]
    TritonKernels.restore = if_small("restore")  # type: ignore[method-assign]


def _print_by_host() -> None:
    """Print a tensor from its memory: torch leaves every dispatch mode to print one."""
    original = _tensor_str._str
    _tensor_str._str = lambda tensor, **options: original(on_host(tensor.detach()), **options)


class _Reporter:
    """Write every report to a file, for the process that started this one."""

    def __init__(self, config: pytest.Config, file: str) -> None:
        self.config, self.file = config, file

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        data = self.config.hook.pytest_report_to_serializable(config=self.config, report=report)
        with open(self.file, "a") as lines:
            lines.write(json.dumps(data) + "\n")
