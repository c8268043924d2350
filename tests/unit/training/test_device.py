"""What a run computes on: torch's switches."""

import subprocess
import sys

import pytest
import torch

from lrd.config.compose import compose, to_config
from lrd.training import device

CPU = torch.device("cpu")


def test_denormals_are_zero_after_it():
    tiny = torch.tensor([1e-39])
    torch.set_flush_denormal(False)
    assert (tiny * 0.5).item() != 0
    device.configure_device(to_config(compose([])))
    assert (tiny * 0.5).item() == 0


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> list[torch.device]:
    """Let torch say that there are two GPUs; return those that are made current."""
    made: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", made.append)
    return made


@pytest.mark.parametrize(
    ("setting", "expected"),
    [("auto", "cuda:0"), ("cuda", "cuda:0"), ("cuda:1", "cuda:1"), ("cpu", "cpu")],
)
def test_a_gpu_is_chosen_by_its_number(setting: str, expected: str, two_gpus: list[torch.device]):
    chosen = device.configure_device(to_config(compose([f"train.device={setting}"])))
    assert chosen == torch.device(expected)
    assert two_gpus == ([] if setting == "cpu" else [chosen])  # streams and graphs are on it


def test_a_gpu_that_is_not_there_is_one_line(
    two_gpus: list[torch.device], monkeypatch: pytest.MonkeyPatch
):
    config = to_config(compose(["train.device=cuda:2"]))
    rule = "train.device must be one of cuda:0, cuda:1, got cuda:2"
    with pytest.raises(ValueError, match=f"^{rule}$"):
        device.configure_device(config)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    rule = "train.device must be auto or cpu where torch finds no GPU, got cuda:2"
    with pytest.raises(ValueError, match=f"^{rule}$"):
        device.configure_device(config)


def test_an_old_gpu_does_not_compile(two_gpus: list[torch.device], monkeypatch: pytest.MonkeyPatch):
    """It is said before the data are read, not in the first step."""
    config = to_config(compose(["train.compile=true"]))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 0))
    assert device.configure_device(config).type == "cuda"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (6, 1))
    with pytest.raises(ValueError, match="^train.compile must be false .* got true on one of 6.1$"):
        device.configure_device(config)
    assert device.configure_device(to_config(compose([]))).type == "cuda"


def test_ranks_take_the_gpus_in_turn(two_gpus: list[torch.device], monkeypatch: pytest.MonkeyPatch):
    ranks = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
    for name, value in {**ranks, "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}.items():
        monkeypatch.setenv(name, value)
    assert device.configure_device(to_config(compose([]))) == torch.device("cuda:1")
    with pytest.raises(ValueError, match="^train.device must be auto or cuda on several ranks"):
        device.configure_device(to_config(compose(["train.device=cuda:0"])))


PAGES = """
import resource, torch
from lrd.training import device
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(8):
        torch.ones(2**24)  # 64 MiB, freed at once
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(faults(), device.disable_malloc_trim() or faults(), faults())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_memory_once_had_is_used_again_without_asking_the_system():
    """By the system's count of pages handed to the process: one time 64 MiB instead of eight."""
    done = subprocess.run([sys.executable, "-c", PAGES], capture_output=True, text=True, check=True)
    before, first, later = map(int, done.stdout.split())
    assert before > 4 * first and later < 0.01 * before


def test_fast_is_bf16_where_the_device_has_it(monkeypatch: pytest.MonkeyPatch):
    for has, precision in ((True, "bf16"), (False, "fp32")):
        monkeypatch.setattr(device, "is_bf16_supported", lambda device, has=has: has)
        assert device.resolve_precision("fast", CPU) == precision
    assert [device.resolve_precision(p, CPU) for p in ("fp32", "bf16")] == ["fp32", "bf16"]


@pytest.mark.parametrize(
    ("line", "has"),
    [
        ("flags\t\t: fpu sse avx2 avx512f", False),
        ("flags\t\t: fpu avx512f avx512_bf16", True),
        ("flags\t\t: fpu amx_bf16 amx_tile", True),
        ("Features\t: fp asimd bf16", True),
        ("model name\t: bf16", False),
    ],
)
def test_bf16_is_read_from_the_processors_flags(
    line: str, has: bool, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(device.Path, "read_text", lambda self: f"processor\t: 0\n{line}\n")
    assert device.is_bf16_supported(CPU) is has


def test_data_are_loaded_by_the_cores_that_a_gpu_leaves_idle(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(5)))
    gpu, cpu = torch.device("cuda", 0), torch.device("cpu")
    assert device.default_num_workers(None, gpu) == 5 and device.default_num_workers(None, cpu) == 0
    assert device.default_num_workers(3, cpu) == device.default_num_workers(3, gpu) == 3
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(64)))
    assert device.default_num_workers(None, gpu) == 8
