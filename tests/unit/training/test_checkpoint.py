"""A checkpoint is whole or refused, in one line that says how to go on."""

import os
import random
import threading
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lrd.training import checkpoint
from lrd.training.checkpoint import CheckpointError, CheckpointWriter

WHAT = {"optim.lr": 0.1, "train.epochs": 5}


def state() -> dict[str, Any]:
    values = torch.randn(3000, generator=torch.Generator().manual_seed(0))
    return {"model": {"w": values, "b": values.bfloat16()}, "progress": {"epoch": 2}}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    checkpoint.save_checkpoint(tmp_path / "last.pt", state(), WHAT)
    return tmp_path / "last.pt"


def refused(path: Path, identity: dict[str, Any] = WHAT) -> str:
    with pytest.raises(CheckpointError) as caught:
        checkpoint.load_checkpoint(path, identity)
    text = str(caught.value)
    assert "\n" not in text and str(path) in text and "run.force=true" in text
    return text


def test_what_is_saved_is_loaded_bit_for_bit(saved: Path):
    loaded = checkpoint.load_checkpoint(saved, WHAT)
    assert all(torch.equal(loaded["model"][k], v) for k, v in state()["model"].items())
    assert loaded["progress"] == {"epoch": 2}
    assert os.listdir(saved.parent) == ["last.pt"]


@pytest.mark.parametrize("length", [0, 1, 100, 0.5, 0.99, -1])
def test_a_truncated_file_is_refused(saved: Path, length: float):
    whole = saved.read_bytes()
    end = length if length in (0, 1, 100, -1) else int(length * len(whole))
    saved.write_bytes(whole[: int(end)])
    assert "is damaged" in refused(saved)


def test_a_flipped_bit_is_refused_wherever_it_lies(saved: Path):
    """Or it lies between the records, and nothing that is loaded changes."""
    whole, dice, found = saved.read_bytes(), random.Random(0), 0
    for _ in range(300):
        at = dice.randrange(len(whole))
        flipped = bytes([whole[at] ^ 1 << dice.randrange(8)])
        saved.write_bytes(whole[:at] + flipped + whole[at + 1 :])
        try:
            loaded = checkpoint.load_checkpoint(saved, WHAT)
        except CheckpointError as error:
            assert "\n" not in str(error)
            found += 1
            continue
        assert all(torch.equal(loaded["model"][k], v) for k, v in state()["model"].items())
    assert found > 250


def test_torch_alone_would_not_notice(saved: Path):
    """Why the checksums are checked here: torch's reader loads a damaged tensor silently."""
    whole = bytearray(saved.read_bytes())
    with zipfile.ZipFile(saved) as archive:
        record = max(archive.infolist(), key=lambda r: r.file_size)
    whole[record.header_offset + 2000] ^= 1
    saved.write_bytes(whole)
    loaded = torch.load(saved, weights_only=True)["model"]
    assert not all(torch.equal(loaded[k], v) for k, v in state()["model"].items())
    assert "checksum" in refused(saved)


def test_another_configuration_is_refused_by_its_keys(saved: Path):
    text = refused(saved, {"optim.lr": 0.2, "train.epochs": 5, "model.depth": 3})
    assert "optim.lr=0.1 instead of 0.2" in text and "model.depth" in text
    assert "train.epochs" not in text


def test_a_newer_format_is_refused(saved: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(checkpoint, "CHECKPOINT_FORMAT", 0)
    assert "has format 1, this version reads 0" in refused(saved)


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path):
    torch.save([1, 2], tmp_path / "last.pt")
    assert "or no checkpoint" in refused(tmp_path / "last.pt")


class Shell:
    """What a hostile file would run as it is loaded."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch executed",)


def test_nothing_is_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"format": 1, "identity": WHAT, "model": Shell()}, tmp_path / "last.pt")
    assert "is damaged" in refused(tmp_path / "last.pt")
    assert os.listdir(tmp_path) == ["last.pt"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failed_save_leaves_the_one_before(
    saved: Path, monkeypatch: pytest.MonkeyPatch, call: str
):
    def fail(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    before = saved.read_bytes()
    monkeypatch.setattr(os, call, fail)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.save_checkpoint(saved, {"model": {}}, WHAT)
    assert saved.read_bytes() == before


def test_a_writer_in_the_background_writes_what_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Steps change the tensors before the thread reads them; a module's metadata stay."""
    gate, save = threading.Event(), checkpoint.save_checkpoint
    monkeypatch.setattr(checkpoint, "save_checkpoint", lambda *a: (gate.wait(), save(*a))[1])
    model, counts = nn.BatchNorm1d(3), {"steps": [torch.ones(()), 5]}
    writer = CheckpointWriter(background=True)
    writer.write(tmp_path / "last.pt", {"model": model.state_dict(), "counts": counts}, WHAT)
    with torch.no_grad():
        model.weight.add_(1)
        counts["steps"][0].add_(1)
    gate.set()
    writer.wait()
    loaded = checkpoint.load_checkpoint(tmp_path / "last.pt", WHAT)
    assert torch.equal(loaded["model"]["weight"], torch.ones(3))
    assert loaded["counts"] == {"steps": [torch.ones(()), 5]}
    assert loaded["model"]._metadata == model.state_dict()._metadata  # type: ignore[attr-defined]
    writer.close()


def test_one_write_is_in_flight_and_its_error_comes_with_the_next_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    gate, seen = threading.Event(), []

    def save(path: Path, state: dict[str, Any], identity: dict[str, Any]) -> None:
        seen.append(f"begin {state['number']}")
        gate.wait()
        seen.append(f"end {state['number']}")
        if state["number"] == 2:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_checkpoint", save)
    writer = CheckpointWriter(background=True)
    writer.write(tmp_path, {"number": 1}, WHAT)
    assert "end 1" not in seen
    threading.Timer(0.05, gate.set).start()
    writer.write(tmp_path, {"number": 2}, WHAT)
    assert seen[:2] == ["begin 1", "end 1"]
    with pytest.raises(OSError, match="No space left"):
        writer.write(tmp_path, {"number": 3}, WHAT)
    writer.wait()
    writer.close()
    assert "begin 3" not in seen


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpus_state_is_written_while_later_steps_change_it(tmp_path: Path):
    value = torch.zeros(1 << 24, device="cuda")
    writer = CheckpointWriter(background=True)
    for number in range(1, 4):
        value.fill_(number)
        writer.write(tmp_path / f"{number}.pt", {"model": {"w": value}}, WHAT)
        for _ in range(50):
            value.add_(1)
    writer.wait()
    writer.close()
    for number in range(1, 4):
        loaded = checkpoint.load_checkpoint(tmp_path / f"{number}.pt", WHAT)["model"]["w"]
        assert bool((loaded == number).all())
