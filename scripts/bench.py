"""Measure LRD's step, the training loop and data loading against torch and typical PyTorch code.

    python scripts/bench.py                       everything, on the CPU: some 40 minutes
    python scripts/bench.py step --threads 2
    python scripts/bench.py step --against HEAD~1     also LRDropout as it was at that commit
    python scripts/bench.py loop --device cuda
    python scripts/bench.py all --quick           toy sizes in a minute: does it run?

Variants take turns (A B A B ...) after a warm-up; a ratio is the median over rounds of a variant's
time divided by the baseline's in the same round. Prints a table a section with the targets, and
writes bench.json (every raw number, hardware, versions) and a chart a section.

step    one optimizer step, alone and with backward; memory; seconds to compile
loop    images/s of training, against a plain PyTorch loop
data    images/s of the batches alone, and of photos with masks; CPU time beside plain OpenCV
growth  how a step's cost grows with parameters, tensors, p and batch size
hours   how long the paper's experiments take, from a few steps of each
startup CPU time of `import lrd` and of every command's --help
page    seconds of report.py over all studies, from invented runs
sweep   seconds of several runs on this machine: in turn, by +cluster=local, two at once
"""

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from lrd.analysis.command_line import run_command

SECTIONS = {  # functions of scripts.benchmarks, imported after the arguments are checked
    "step": "optimizer_step.measure_steps",
    "loop": "training_loop.measure_training",
    "data": "data_loading.measure_loading",
    "growth": "scaling.measure_scaling",
    "hours": "duration.measure_hours",
    "startup": "commands.measure_startup",
    "page": "commands.measure_pages",
    "sweep": "commands.measure_sweeps",
}


def at_least_one(text: str) -> int:
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    kind = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=kind)
    parser.add_argument("section", nargs="?", choices=[*SECTIONS, "all"], default="all")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=at_least_one, help="(default: torch's; 1 if --quick)")
    parser.add_argument("--rounds", type=at_least_one, help="turns of every variant")
    parser.add_argument("--quick", action="store_true", help="toy sizes, random images, no verdict")
    parser.add_argument("--large", action="store_true", help="on a CPU also ResNet-18")
    parser.add_argument("--against", metavar="COMMIT", help="its LRDropout takes part in step")
    parser.add_argument("--data", default=os.environ.get("LRD_DATA", "data"), help="data.root")
    parser.add_argument("--out", type=Path, default=Path("runs/bench"), help="(runs/bench)")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    args = parse(arguments)
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # torch's profiler reports a missing GPU else
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

    def body() -> None:
        from scripts.benchmarks import report
        from scripts.benchmarks.measure import Options

        options = Options.of(args)
        try:
            args.out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(str(error)) from error
        logging.basicConfig(format="... %(message)s")
        logging.getLogger("scripts.benchmarks").setLevel(logging.INFO)
        facts = report.environment_facts(options, arguments)
        print(report.headline(facts), end="\n\n")
        measures = {}
        for name in SECTIONS if args.section == "all" else [args.section]:
            module, function = SECTIONS[name].split(".")
            measures[name] = getattr(import_module(f"scripts.benchmarks.{module}"), function)
        print("written:", *report.run_sections(measures, options, facts, args.out))

    return run_command(body)


if __name__ == "__main__":
    sys.exit(main())
