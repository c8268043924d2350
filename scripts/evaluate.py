"""Score a finished run again, with other evaluation settings or on other data.

    python scripts/evaluate.py RUN eval.final_mode=sliding eval.scales=[0.5,1,1.5]
    python scripts/evaluate.py RUN dataset=NAME data.root=DIR    data with the same labels
    python scripts/evaluate.py RUN --config-dir DIR dataset=MINE    data of your own

RUN is a run directory, or the start of its fingerprint, with /seed<k> where there are several. The
scores are added to the record of the run (run.json, evaluations) with their settings. The run's own
score and its metrics.jsonl stay as they are.
"""

import sys
from collections.abc import Sequence

from lrd.analysis.command_line import build_parser, run_command


def main(arguments: Sequence[str] | None = None) -> int:
    parser = build_parser(__doc__, "run", metavar="RUN", help="the run")
    parser.add_argument("--config-dir", metavar="DIR", help="more groups and options, as of run.py")
    args = parser.parse_intermixed_args(arguments)

    def body() -> None:
        from lrd.analysis.frames import locate_run
        from lrd.config.compose import use_config_dir
        from lrd.training.trained import evaluate_run

        run = locate_run(args.runs, args.run)
        with use_config_dir(args.config_dir):
            run, scores = evaluate_run(run, args.overrides)
        width = max(map(len, scores))
        print(*(f"{name:{width}}  {value:.6g}" for name, value in scores.items()), sep="\n")
        print(f"added to {run.folder / 'run.json'}")

    return run_command(body)


if __name__ == "__main__":
    sys.exit(main())
