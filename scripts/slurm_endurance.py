"""Disturb a sweep on a real SLURM in every way, and compare it with the same sweep run locally.

    python scripts/slurm_endurance.py          needs Debian's slurm-wlm and munge (slurm_local.sh)

Six runs, two at once, one of which must fail. Of the others one gets the signal before a time-out,
one is requeued, two are preempted, one is canceled before it starts. Submitting again adds what is
missing. Prints what a user would see and the differing bytes (0); the exit status is 1 if
any differ. Everything is in a temporary directory.
"""

import argparse
import os
import subprocess
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
    from scripts.benchmarks.endurance import ROOT, SLURM_CPUS, disturb_slurm_sweep

    script = str(ROOT / "scripts" / "slurm_local.sh")
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        os.environ.update(SLURM_LOCAL=f"{folder}/slurm", SLURM_LOCAL_CPUS=str(SLURM_CPUS))
        started = subprocess.run([script, "start"], stdout=subprocess.PIPE, text=True)
        if started.returncode:
            return started.returncode
        os.environ["SLURM_CONF"] = started.stdout.strip().partition("=")[2]
        try:
            return disturb_slurm_sweep()
        finally:
            subprocess.run([script, "stop"])
            os.chdir(ROOT)


if __name__ == "__main__":
    sys.exit(main())
