"""Whether this process is one of several that train one run together. Imports no torch.

Only this module reads the variables by which a launcher says so, and they are torchrun's: a process
is one of several if RANK and WORLD_SIZE, above 1, are set. Then all of torchrun's variables must be
there and fit together. Whatever other launchers leave behind (SLURM, MPI), or one of the two
alone, means nothing: the process trains alone, and prints.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class ProcessRank:
    """This process is ``rank`` (from 0) of ``world``, and ``local_rank`` of the ``local_world``
    processes on its machine."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    local_world: int = 1

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> "ProcessRank":
        """Read torchrun's variables.

        Raises:
            ValueError: The process is one of several, but variables are missing or contradictory.
        """
        given = {name: environ[name].strip() for name in VARIABLES if environ.get(name, "").strip()}
        if not {"RANK", "WORLD_SIZE"} <= given.keys() or given["WORLD_SIZE"] == "1":
            return cls()
        if missing := [name for name in VARIABLES if name not in given]:
            raise ValueError(_mistake(f"{', '.join(missing)} too", given))
        try:
            numbers = (int(given[name]) for name in VARIABLES[:4])
            rank, world, local_rank, local_world = numbers
            port = int(given["MASTER_PORT"])
        except ValueError:
            raise ValueError(_mistake("whole numbers", given)) from None
        is_valid = 0 <= rank < world and 0 <= local_rank < local_world <= world
        if not is_valid or not 0 < port < 2**16:
            raise ValueError(_mistake("numbers that fit together", given))
        return cls(rank, world, local_rank, local_world)

    def export(self, address: str, port: int) -> None:
        """Set torchrun's variables in this process, or remove them if it trains alone."""
        for name in VARIABLES:
            os.environ.pop(name, None)
        if self.world > 1:
            values = (self.rank, self.world, self.local_rank, self.local_world, address, port)
            os.environ.update(zip(VARIABLES, map(str, values), strict=True))

    @property
    def is_rank_zero(self) -> bool:
        """Whether this process prints and writes."""
        return self.rank == 0

    @contextmanager
    def output(self) -> Iterator[None]:
        """Discard what is printed to ``sys.stdout``, unless this is rank zero."""
        if self.is_rank_zero:
            yield
            return
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
            yield


def _mistake(rule: str, given: Mapping[str, str]) -> str:
    values = " ".join(f"{name}={value}" for name, value in given.items())
    return (
        f"RANK and WORLD_SIZE must come with {rule}, got {values}: start several ranks by torchrun "
        "--nproc_per_node=N run.py ..., or unset WORLD_SIZE to train alone"
    )
