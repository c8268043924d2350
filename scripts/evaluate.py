"""Score a finished run again, with other evaluation settings or on other data, or a weights file.

    python scripts/evaluate.py RUN eval.final_mode=sliding eval.scales=[0.5,1,1.5]
    python scripts/evaluate.py RUN dataset=NAME data.root=DIR    data with the same labels
    python scripts/evaluate.py RUN --config-dir DIR dataset=MINE    data of your own
    python scripts/evaluate.py task=TASK model.weights=FILE    a network trained elsewhere

RUN is a run directory, or the start of its fingerprint, with /seed<k> where there are several. The
scores are added to the record of the run (run.json, evaluations) with their settings. The run's own
score and its metrics.jsonl stay as they are. Without a RUN, the settings are those of run.py, and
the scores are only printed.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from lrd.analysis.command_line import build_parser, run_command


def main(arguments: Sequence[str] | None = None) -> int:
    parser = build_parser(__doc__, "run", metavar="RUN", help="the run")
    parser.add_argument("--config-dir", metavar="DIR", help="more groups and options, as of run.py")
    args = parser.parse_intermixed_args(arguments)

    def body() -> None:
        from lrd.analysis.frames import locate_run
        from lrd.config.compose import use_config_dir
        from lrd.training.trained import evaluate_run, evaluate_weights

        is_run = "=" not in args.run or Path(args.run).exists()
        run = locate_run(args.runs, args.run) if is_run else None
        with use_config_dir(args.config_dir):
            if run is None:
                scores = evaluate_weights([args.run, *args.overrides])
            else:
                run, scores = evaluate_run(run, args.overrides)
        width = max(map(len, scores))
        print(*(f"{name:{width}}  {value:.6g}" for name, value in scores.items()), sep="\n")
        if run is not None:
            print(f"added to {run.folder / 'run.json'}")

    return run_command(body)


if __name__ == "__main__":
    sys.exit(main())
