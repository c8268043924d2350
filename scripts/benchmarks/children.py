"""Forms in processes of their own, which take turns when told to.

A form that sets something for its whole process (threads, precision of matrix products, the folder
of compiled kernels) then changes nothing for another, and each has its own peak memory.
"""

import multiprocessing
import os
import traceback
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from threading import Thread
from types import TracebackType
from typing import Any

from benchmarks.memory import resident

Turn = Callable[..., Any]
# Children fork from a server that has these loaded, so that one starts at once.
PRELOAD = ["torch", "torchvision", "torchmetrics", "hydra", "torch.optim.lr_scheduler"]


class Child:
    """A process in which ``factory(*arguments)`` made a function that :meth:`turn` calls.

    If that function has a ``close``, the process calls it at its end. Use a Child as a context
    manager. Raises RuntimeError with the child's traceback when it fails.
    """

    def __init__(
        self,
        factory: Callable[..., Turn],
        *arguments: Any,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOAD)
        self._pipe, other = context.Pipe()
        # No daemon: those may not have children, such as the workers of a DataLoader.
        self._process = context.Process(
            target=_serve, args=(other, factory, arguments, dict(environment or {}))
        )
        self._process.start()
        other.close()

    def __enter__(self) -> "Child":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._pipe.close()
        self._process.join(10)
        if self._process.is_alive():
            self._process.terminate()
            self._process.join()
        self._process.close()

    def ask(self, *arguments: Any) -> None:
        """Begin a turn; :meth:`answer` waits for its end."""
        self._pipe.send(arguments)

    def answer(self) -> Any:
        try:
            failed, result = self._pipe.recv()
        except EOFError as error:
            raise RuntimeError("a child process of the bench ended early") from error
        if failed:
            raise RuntimeError(f"a child process of the bench failed:\n{result}")
        return result

    def turn(self, *arguments: Any) -> Any:
        self.ask(*arguments)
        return self.answer()

    def memory(self) -> int | None:
        """Bytes at most: on CUDA of tensors, else resident beyond those of the imports."""
        return self.turn("memory")


def _serve(
    pipe: Connection,
    factory: Callable[..., Turn],
    arguments: tuple[Any, ...],
    environment: dict[str, str],
) -> None:
    os.environ.update(environment)
    # A child of a fork server would start the workers of its DataLoaders by one too, which takes
    # seconds; fork is what they start by in a program of one's own.
    multiprocessing.set_start_method("fork", force=True)
    Thread(target=_end_with_parent, daemon=True).start()
    before, turn = resident("VmRSS") or 0, None
    try:
        while True:
            asked = pipe.recv()
            if asked == ("memory",):
                pipe.send((False, _memory(before)))
                continue
            turn = turn or factory(*arguments)
            pipe.send((False, turn(*asked)))
    except EOFError:
        return  # the parent has closed its end
    except BaseException:
        pipe.send((True, traceback.format_exc()))
    finally:
        # Nothing else would: functions of atexit are not called where this process ends.
        getattr(turn, "close", lambda: None)()


def _end_with_parent() -> None:
    """End this process when the bench was killed, though it be in the middle of a turn."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _memory(before: int) -> int | None:
    import torch

    if torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated()
    peak = resident("VmHWM")
    return None if peak is None else peak - before
