"""What every test shares: the folder of real data, and global state put back afterwards."""

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from unittest import mock

import pytest
import torch
from hydra.core.global_hydra import GlobalHydra

from lrd import cli as command_line

# The files that take longest, longest first: pytest-xdist distributes files in this order.
LONG = (
    *("endurance", "slurm_launcher", "documented_commands", "state_machine", "report"),
    *("distributed", "bench", "local_launcher", "dataloader", "detection", "segmentation"),
)
torch.set_num_threads(1)  # on tensors this small, threads on a shared machine only wait


def pytest_configure(config: pytest.Config) -> None:
    """pytest-xdist would begin with the files of most tests, and end with one long one."""
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    place = {f"test_{name}": number for number, name in enumerate(LONG)}
    items.sort(key=lambda item: place.get(item.path.stem, len(LONG)))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with the real data sets, as ``data.root`` wants it."""
    folder = os.environ.get("LRD_DATA")
    if not folder:
        pytest.skip("real data: set LRD_DATA to its folder")
    return Path(folder)


@pytest.fixture(autouse=True)
def _no_traces() -> Iterator[None]:
    """Puts back what a run sets for the whole process."""
    threads, random = torch.get_num_threads(), torch.get_rng_state()
    deterministic = torch.are_deterministic_algorithms_enabled()
    matmul, cudnn = torch.backends.cuda.matmul, cast(Any, torch.backends.cudnn)
    switches = matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark
    with mock.patch.dict(os.environ):
        yield
    torch.set_num_threads(threads)
    torch.set_rng_state(random)
    torch.use_deterministic_algorithms(deterministic)
    matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark = switches
    torch.set_flush_denormal(False)
    GlobalHydra.instance().clear()


@dataclass
class Done:
    status: int
    out: str
    err: str


@pytest.fixture
def cli(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., Done]:
    """Call ``run.py`` with the given arguments in the temporary directory of the test."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["run.py", *arguments])
        capfd.readouterr()
        status = command_line.main()
        out, err = capfd.readouterr()
        return Done(status, out, err)

    return call
