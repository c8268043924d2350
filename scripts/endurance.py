"""Kill runs at the worst moments, resume them, and compare them with undisturbed runs.

    python scripts/endurance.py --kills 30
    python scripts/endurance.py --kills 36 --every-optimizer
    python scripts/endurance.py --writers 8            8 processes sweep one experiment at once
    python scripts/endurance.py --kills 10 task=mnist train.epochs=1 train.max_steps=60
    python scripts/endurance.py --slurm                six jobs on a SLURM of one node, disturbed

Prints kills, resumes and differing bytes (0); the exit status is 1 if any differ. Needs no network;
runs go to a temporary directory. A kill is SIGKILL: in an optimizer step (weights and moments are
updated, the step is not yet recorded), in evaluation, in the middle of a line of metrics.jsonl,
before a flush to disk, before a rename, or at a random time; each as often as any other.

--slurm needs Debian's slurm-wlm and munge (slurm_local.sh). Of six runs, two at once, one must
fail, one gets the signal before a time-out, one is requeued, two are preempted, and one is canceled
before it starts.
"""

import argparse
import sys
from pathlib import Path

from lrd.analysis.command_line import run_command


def main() -> int:
    kind = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=kind)
    parser.add_argument("overrides", nargs="*", help="settings of the runs")
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0, help="of when and where to kill")
    parser.add_argument("--every-optimizer", action="store_true", help="each with and without LRD")
    parser.add_argument("--writers", type=int, help="sweep with this many processes instead")
    parser.add_argument("--slurm", action="store_true", help="disturb a sweep on a real SLURM")
    args = parser.parse_intermixed_args()
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

    def body() -> int:
        from scripts.benchmarks.endurance import (
            disturb_local_slurm,
            kill_and_compare,
            sweep_with_writers,
        )

        if args.slurm:
            return disturb_local_slurm()
        if args.writers:
            return sweep_with_writers(args.writers, args.overrides)
        return kill_and_compare(args.kills, args.overrides, args.seed, args.every_optimizer)

    return run_command(body)


if __name__ == "__main__":
    sys.exit(main())
