"""Several ranks as forks of one process, which has the imports; torchrun starts each for itself.

python tests/helpers/forked_ranks.py COUNT OVERRIDE...      run.py on COUNT ranks
"""

import os
import socket
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from lrd.runs.ranks import ProcessRank  # noqa: E402


def fork_ranks(count: int, act: Callable[[], int | None]) -> None:
    """Call ``act`` in ``count`` forks, with torchrun's variables if they are several; each fork
    exits with what it returns.

    Raises:
        RuntimeError: One of them failed.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    sys.stdout.flush()
    children: list[int] = []
    for rank in range(count):
        if not (child := os.fork()):
            ProcessRank(rank, count, rank, count).export("127.0.0.1", port)
            sys.exit(act())
        children.append(child)
    statuses = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    if any(statuses):
        raise RuntimeError(f"the ranks ended with {statuses}")


def main() -> None:
    count, *arguments = sys.argv[1:]
    for module in ("lrd.training.runner", "tasks.classification", "sklearn.datasets"):
        import_module(module)
    sys.argv = ["run.py", *arguments]
    fork_ranks(int(count), import_module("lrd.cli").main)


if __name__ == "__main__":
    main()
