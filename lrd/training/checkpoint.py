"""A run's state on disk: written atomically, verified on reading."""

import copy
import io
import zipfile
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lrd.config import diff_identities
from lrd.loggers.base import Logger, Metrics
from lrd.runs.store import atomic_write
from lrd.task import Score

CHECKPOINT_FORMAT = 1


class CheckpointError(ValueError):
    """A checkpoint cannot be used; the message says what to do."""


def save_checkpoint(path: Path, state: dict[str, Any], identity: dict[str, Any]) -> None:
    """Write ``state`` atomically to ``path`` with the run's ``identity``."""
    memory = io.BytesIO()
    torch.save({"format": CHECKPOINT_FORMAT, "identity": identity, **state}, memory)
    atomic_write(path, memory.getbuffer())


class CheckpointWriter:
    """Write checkpoints one after the other, in a thread while training continues, or at once.

    A call waits for the file before it. An error of the thread is raised by the next call.

    Args:
        background: Whether to write in a thread, for training on a GPU; on a CPU the thread would
            take a core from it.
    """

    def __init__(self, background: bool) -> None:
        self._thread = ThreadPoolExecutor(1) if background else None
        self._pending: Future[None] | None = None

    def write(self, path: Path, state: dict[str, Any], identity: dict[str, Any]) -> None:
        """Write ``state`` as it is now; later steps may change its tensors."""
        self.wait()
        if self._thread is None:
            save_checkpoint(path, state, identity)
            return
        state = _copy_to_host(state)
        # The copies are complete once the GPU gets here.
        copied = torch.cuda.current_stream().record_event() if torch.cuda.is_available() else None

        def write() -> None:
            if copied is not None:
                copied.synchronize()
            save_checkpoint(path, state, identity)

        self._pending = self._thread.submit(write)

    def wait(self) -> None:
        """Wait until everything is written; raise the error of the last write."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def close(self) -> None:
        """Wait, and end the thread."""
        if self._thread is not None:
            self._thread.shutdown()


def _copy_to_host(value: Any) -> Any:
    """Return a copy of nested containers and their tensors on the CPU. From a GPU the copy goes to
    pinned memory, and the host does not wait for it."""
    if isinstance(value, Tensor):
        host = torch.empty_like(value, device="cpu", pin_memory=value.is_cuda)
        return host.copy_(value.detach(), non_blocking=True)
    if isinstance(value, dict):
        copied = copy.copy(value)  # keeps the _metadata of a module's state
        copied.update({name: _copy_to_host(item) for name, item in value.items()})
        return copied
    if isinstance(value, list | tuple):
        return type(value)(_copy_to_host(item) for item in value)
    return value


class BestWeights(Logger):
    """Keep a copy of the weights of the best epoch so far, the first of several (run.keep=best).

    ``kept`` has the epoch, its score and the weights. A run continues from the ``kept`` of its
    checkpoint; its weights are None if that has none, as its run.keep was another one.
    """

    def __init__(self, model: nn.Module, score: Score, kept: dict[str, Any] | None) -> None:
        self.model, self.score, self.kept = model, score, kept

    def on_epoch(self, metrics: Metrics) -> None:
        value = metrics.get(self.score.name)
        if value is None:
            return
        if self.kept is None or self.score.better(value, self.kept["score"]):
            state = self.model.state_dict()
            weights = {name: tensor.to("cpu", copy=True) for name, tensor in state.items()}
            self.kept = {"epoch": metrics["epoch"], "score": value, "model": weights}


def load_checkpoint(path: Path, identity: dict[str, Any]) -> dict[str, Any]:
    """Return what :func:`save_checkpoint` wrote, tensors and plain values only, on the CPU.

    Whoever loads a tensor moves it: an optimizer leaves a loaded step count where it lies, and one
    on a GPU would make every later step wait for it.

    Raises:
        CheckpointError: A byte is wrong (every record has a checksum), or the file is of another
            configuration or of a newer version.
    """
    fix = f"delete {path} or pass run.force=true to restart the run"
    try:
        with zipfile.ZipFile(path) as archive:
            if (record := archive.testzip()) is not None:
                raise CheckpointError(f"{path} is damaged (checksum of {record}): {fix}")
        state = torch.load(path, map_location="cpu", weights_only=True)
        version, saved = state["format"], state["identity"]
    except (CheckpointError, OSError):
        raise
    except Exception as error:  # zipfile, pickle and torch raise errors of their own
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path} is damaged or no checkpoint ({why}): {fix}") from error
    if version > CHECKPOINT_FORMAT:
        raise CheckpointError(
            f"{path} has format {version}, this version reads {CHECKPOINT_FORMAT}: update, {fix}"
        )
    if settings := diff_identities(identity, saved):
        raise CheckpointError(f"{path} is of another configuration ({', '.join(settings)}): {fix}")
    return state
