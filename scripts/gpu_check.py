"""Check a GPU within a given time, the most telling part first: is it right, is it fast, what runs.

    python scripts/gpu_check.py --minutes 8
    python scripts/gpu_check.py --minutes 8 dataset.subset=25000 data.root=../data
    python scripts/gpu_check.py --minutes 2 --device cpu --quick task=digits   a rehearsal

In this order: the tests marked gpu but the long ones; bench.py step, loop and data; three epochs,
one of them profiled, with a count of what synchronizes; then real runs in pairs, LRD and its base,
at the longest length at which both fit: ResNet-34 on CIFAR-10 with SGDM, then with Adam. Settings
are those of the real runs.

Each part has its own limit, and none stops the next. --out holds gpu_check.json, written as parts
end, with the card's name, and a log of each part. The same command continues: parts that are done
are not repeated, and unfinished runs resume. The exit status is 1 if a test failed.
"""

import argparse
import logging
import os
import sys
from pathlib import Path

from lrd.analysis.command_line import run_command


def positive(text: str) -> float:
    if not (value := float(text)) > 0:
        raise argparse.ArgumentTypeError(f"must be above 0, got {text}")
    return value


def main(arguments: list[str] | None = None) -> int:
    kind = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=kind)
    parser.add_argument("settings", nargs="*", metavar="SETTING=VALUE", help="of the real runs")
    parser.add_argument("--minutes", type=positive, default=8, help="for everything together (8)")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--quick", action="store_true", help="benchmarks of toy sizes")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu_check"), help="(%(default)s)")
    args = parser.parse_intermixed_args(arguments)
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

    def body() -> int:
        from scripts.gpu.check import check_device

        logging.basicConfig(format="... %(message)s")
        logging.getLogger("scripts.gpu").setLevel(logging.INFO)
        record = check_device(args.minutes, args.device, args.quick, args.settings, args.out)
        return int(bool(record.parts["tests"]["result"].get("failed")))

    return run_command(body)


if __name__ == "__main__":
    sys.exit(main())
