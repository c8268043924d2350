"""Measure LRD's step, the training loop and the loading of data against what everyone has.

    python scripts/bench.py                       everything, on the CPU: some 40 minutes
    python scripts/bench.py step --threads 2
    python scripts/bench.py loop --device cuda
    python scripts/bench.py all --quick           toy sizes in a minute: does it run?

Forms take turns (A B A B ...) after a warm-up; a ratio is the median over rounds of a form's time
by the baseline's in the same round. Prints a table a section beside the targets, and writes
bench.json (every raw number, hardware, versions) and a chart a section.

step    one optimizer step, alone and with backward; memory; seconds to compile
loop    images/s of training, against the ordinary DataLoader loop
data    images/s of the batches alone, and of photos with masks
growth  how a step's cost grows with parameters, tensors, p and batch size
"""

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # torch's profiler reports a missing GPU otherwise
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks import batches, charts, growth, loops, report, steps
from benchmarks.options import Options
from benchmarks.results import Table

SECTIONS: dict[str, Callable[[Options], Iterator[Table]]] = {
    "step": steps.section,
    "loop": loops.section,
    "data": batches.section,
    "growth": growth.section,
}


def options_of(args: argparse.Namespace) -> Options:
    if args.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device must be cpu where torch finds no GPU, got cuda")
    return Options(
        torch.device("cuda", 0) if args.device == "cuda" else torch.device("cpu"),
        # On tensors as small as the toys' threads only wait for one another.
        args.threads or (1 if args.quick else torch.get_num_threads()),
        args.rounds,
        args.quick,
        args.large,
        args.data,
        lambda line: print(f"... {line}", file=sys.stderr, flush=True),
    )


def at_least_one(text: str) -> int:
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("section", nargs="?", choices=[*SECTIONS, "all"], default="all")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=at_least_one, help="(default: torch's; 1 if --quick)")
    parser.add_argument("--rounds", type=at_least_one, help="turns of every form")
    parser.add_argument("--quick", action="store_true", help="toy sizes, random images, no verdict")
    parser.add_argument("--large", action="store_true", help="on a CPU also ResNet-18")
    parser.add_argument("--data", default=os.environ.get("LRD_DATA", "data"), help="data.root")
    parser.add_argument("--out", type=Path, default=Path("runs/bench"), help="(runs/bench)")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    args = parse(arguments)
    try:
        options = options_of(args)
        args.out.mkdir(parents=True, exist_ok=True)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    torch.set_num_threads(options.threads)
    facts = report.facts(options, arguments)
    print(report.headline(facts), end="\n\n")
    tables: list[Table] = []
    written = ["bench.json"]
    for name in SECTIONS if args.section == "all" else [args.section]:
        own: list[Table] = []
        for table in SECTIONS[name](options):
            print(report.text(table), end="\n\n", flush=True)
            own.append(table)
        tables += own
        # After each section, so that a stop loses one at most.
        report.write_json(args.out / "bench.json", tables, facts)
        written += charts.draw(own, args.out, name, report.headline(facts))
    print("written:", *(args.out / name for name in written))
    return 0


if __name__ == "__main__":
    sys.exit(main())
