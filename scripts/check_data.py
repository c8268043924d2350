"""Read all data of a task, and say what is wrong with them before anything is trained.

    python scripts/check_data.py task=voc_det data.root=DIR
    python scripts/check_data.py --config-dir DIR task=TASK dataset=MINE

Takes the settings of run.py. Every image and label of training and evaluation is read as training
reads it. Prints a line for each problem: the file, what is wrong, and what training does; then
counts. The exit status is 1 if a problem stops training. Runs check less when they start: lists,
headers and annotations.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Sequence

from lrd.analysis.command_line import run_command


def main(arguments: Sequence[str] | None = None) -> int:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("overrides", nargs="*", metavar="SETTING=VALUE")
    parser.add_argument("--config-dir", metavar="DIR", help="more groups and options, as of run.py")
    args = parser.parse_intermixed_args(arguments)

    def body() -> int:
        from lrd.config.compose import compose, to_config
        from lrd.training.builder import check_data

        counts, stops = Counter[str](), 0
        for problem in check_data(to_config(compose(args.overrides)), counts):
            stops += problem.effect is None
            print(f"{problem.what}: {problem.effect or 'training stops'}")
        for name, number in counts.items():
            print(f"{number:9,}  {name}")
        print(f"training stops: {stops} of these lines" if stops else "nothing stops training")
        return int(stops > 0)

    return run_command(body, args)


if __name__ == "__main__":
    sys.exit(main())
