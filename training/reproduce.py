"""Command: run the reference experiments at a small size, and compare with what was reported."""

import argparse
from collections.abc import Sequence
from pathlib import Path
import sys

from desertmind_seg.options import (
    ALL_DONE,
    DONE_IN_PART,
    command_parser,
    positive,
    run_command,
    whole_number,
)

_DESCRIPTION = """\
Run the reference experiments at a small size, and compare with what was reported.

The small recipes (exp060_small ...) differ from those of the reports in encoder, sizes and epochs;
two CPU cores train them in hours. Each is compared with the one that it changes, and a table says
whether the reported change is there: yes, no, or cannot be told.

The phases of the desert set are trained on rendered places: --layout desert below makes them.

The folder holds a run of training.train or training.folds an experiment, and reproduction.html,
.md and .json, which are written anew after each. What is done is skipped, what was stopped goes
on: give the same command again, after Ctrl-C or a power cut or with another --budget.
"""
_EXAMPLES = r"""examples:
  python -m training.synthetic --folder out/desert --layout desert --seeds 0:80 --frames 6 \
      --rate-hz 0.2 --size 270x480
  python -m training.reproduce
  python -m training.reproduce --budget 60
  python -m training.reproduce --only exp060_small exp061_small
  python -m training.reproduce --only exp060_small --seed 1 --out out/reproduction_seed1
  python -m training.compare out/reproduction/exp060_small out/reproduction_seed1/exp060_small
"""


def build_parser() -> argparse.ArgumentParser:
    """Build the command line."""
    parser = command_parser('training.reproduce', _DESCRIPTION, _EXAMPLES)
    parser.add_argument(
        '--only',
        metavar='NAME',
        nargs='+',
        action='extend',
        help='these experiments, by the names of their recipes (default: all)',
    )
    parser.add_argument(
        '--budget',
        metavar='MIN',
        type=positive,
        help='begin no training or fold later than so many minutes from now',
    )
    parser.add_argument(
        '--seed',
        metavar='N',
        type=whole_number(0, 2**32 - 1),
        help="of all experiments (default: the recipes')",
    )
    parser.add_argument(
        '--out',
        metavar='DIR',
        type=Path,
        default=Path('out/reproduction'),
        help='folder of all experiments (default: %(default)s)',
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = build_parser()
    options = parser.parse_args(argv)
    return run_command(parser, lambda: _run(options))


def _run(options: argparse.Namespace) -> int:
    from training.reproduction.experiments import choose, go_on_command
    from training.reproduction.reported import read_reported

    # Before torch: a wrong name is told at once.
    names, reported = choose(options.only), read_reported()

    from training.evaluation.text import for_terminal
    from training.reproduction.plan import plan
    from training.reproduction.results import collect
    from training.reproduction.run import run_experiments
    from training.reproduction.table import experiment_rows, write_tables

    experiments = plan(names, options.out, options.seed)
    budget_sec = None if options.budget is None else 60.0 * options.budget
    outcome = run_experiments(
        experiments,
        budget_sec,
        lambda: write_tables(options.out, collect(experiments, reported, {})),
    )
    results = collect(experiments, reported, outcome.failed)
    page = write_tables(options.out, results)
    print(f'\n{for_terminal(experiment_rows(results))}\n{page}')
    for name, why in outcome.failed.items():
        print(f'failed: {name}: {why}', file=sys.stderr)
    if outcome.left:
        print(f'{options.budget:g} minutes are spent; left: {", ".join(outcome.left)}')
    if outcome.left or outcome.failed:
        print(f'go on: {go_on_command(options.only, options.out, options.seed)}')
        return DONE_IN_PART
    return ALL_DONE


if __name__ == '__main__':
    sys.exit(main())
