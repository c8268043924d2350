"""Disturb a sweep on a real SLURM in every way, and compare it with the same sweep run locally.

    python scripts/slurm_endurance.py          needs Debian's slurm-wlm and munge (slurm_local.sh)

Six runs, two at once, one of which must fail. Of the others one gets the signal before a time-out,
one is requeued, two are preempted, one is canceled before it starts. Submitting again adds what is
missing. Prints what a user would see and the differing bytes (0); the exit status is 1 if
any differ. Everything is in a temporary directory.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

from lrd.analysis.command_line import run_command


def main() -> int:
    kind = argparse.RawDescriptionHelpFormatter
    argparse.ArgumentParser(description=__doc__, formatter_class=kind).parse_args()
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    return run_command(disturb_local_slurm)


def disturb_local_slurm() -> int:
    """Start a SLURM in a temporary directory, run the comparison, and stop it."""
    from scripts.benchmarks.endurance import ROOT, disturb_slurm_sweep, local_slurm

    with tempfile.TemporaryDirectory() as folder, local_slurm(Path(folder) / "slurm") as conf:
        os.chdir(folder)
        os.environ["SLURM_CONF"] = conf
        try:
            return disturb_slurm_sweep()
        finally:
            os.chdir(ROOT)


if __name__ == "__main__":
    sys.exit(main())
