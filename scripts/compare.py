"""Compare configurations of a study, pair by pair: scores, convergence, power, equivalence.

    python scripts/compare.py quickstart                      with LRD against without
    python scripts/compare.py table3 --arms +arm=base +arm=dg
    python scripts/compare.py table1_cifar10 scale=0.15 seed=0,1,2,3,4 --gap 0.3
    python scripts/compare.py fast_digits --equivalent-within 0.3

Pairs the finished runs of every configuration by seed; every difference is the second arm's minus
the first's. The primary answer is the 95 % t interval. Trains nothing. The seeds are those of
seed=0,1,2, else the experiment's, else 0 to 9. Equivalent within a margin are arms whose 90 % t
interval lies within it, that is, where both one-sided t tests reject at 5 %.
--format markdown, latex or csv (one line a comparison).
"""

import sys
from collections.abc import Sequence

from lrd.analysis.command_line import (
    StudyRequest,
    print_missing,
    print_reports,
    report_parser,
    run_command,
)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = report_parser(__doc__)
    parser.add_argument(
        "--arms",
        nargs=2,
        metavar="SETTING=VALUE",
        help="compare these two in every configuration of the experiments (default: what the "
        "study compares)",
    )
    parser.add_argument("--gap", type=float, help="plan for this difference (default: published)")
    parser.add_argument(
        "--equivalent-within",
        type=float,
        metavar="MARGIN",
        help="test that the final scores differ by no more than this many points",
    )
    args = parser.parse_intermixed_args(arguments)

    def body() -> None:
        from lrd.analysis import comparison, comparison_text
        from lrd.analysis.studies.find import find_study

        margin = args.equivalent_within
        if args.gap is not None and not 0 < abs(args.gap) < float("inf"):
            raise ValueError(f"--gap must be a number other than 0, got {args.gap:g}")
        if margin is not None and not 0 < margin < float("inf"):
            raise ValueError(f"--equivalent-within must be above 0, got {margin:g}")
        request = StudyRequest(args)
        frames, found = request.frames(), []
        if args.arms:
            names = [n for each in request.names for n in find_study(each)[0].experiments]
            pairs = (comparison.pair_arms(n, args.arms, frames, request.given) for n in names)
            found += [([], each) for each in pairs]
        else:
            for study, overrides in request.studies():
                sets = comparison.study_pairs(study, frames, overrides, request.seeds)
                found += [(overrides, pairs) for pairs in sets]
        reports, commands = [], []
        for overrides, pairs in found:
            if margin is None:
                reports.append(comparison_text.comparison_report(pairs, args.gap))
            else:
                reports.append(comparison_text.equivalence_report(pairs, margin))
            given = request.run_overrides(overrides, seeds=False)
            commands += comparison.missing_commands(pairs, given)
        print_reports(reports, args.format)
        results = [arm for _, pairs in found for pair in pairs for arm in pair.results]
        print_missing(results, list(dict.fromkeys(commands)), "To run the missing seeds")

    return run_command(body, args)


if __name__ == "__main__":
    sys.exit(main())
