"""Command: compare runs in one table, and say which differences are real."""

import argparse
from collections.abc import Sequence
from pathlib import Path
import sys

from desertmind_seg.options import ALL_DONE, command_parser, run_command

_DESCRIPTION = """\
Compare runs: one table, and which differences are real.

A run is a folder with a metrics.json (of training.train or training.evaluate), or that file. Runs
are compared with each other only where they were scored on the same frames: the first with the
second of two runs, and each with its parent where that is given too.

Beside the mIoU stands how much of each hazardous class a run calls traversable. One that calls
more of a hazard traversable is not called better, whatever its mIoU."""
_EXAMPLES = """\
examples:
  python -m training.compare out/exp060 out/exp061 out/exp062
  python -m training.compare out/exp061 out/exp060 --out out/exp061_against_exp060.html"""


def build_parser() -> argparse.ArgumentParser:
    """Build the command line."""
    parser = command_parser('training.compare', _DESCRIPTION, _EXAMPLES)
    parser.add_argument('runs', type=Path, nargs='+', metavar='RUN')
    parser.add_argument(
        '--out', metavar='FILE', type=_page, help='also write the result: .html, .md or .json'
    )
    return parser


def _page(text: str) -> Path:
    path = Path(text)
    if path.suffix not in {'.html', '.md', '.json'}:
        raise argparse.ArgumentTypeError(
            f'{path}: expected a name that ends in .html, .md or .json'
        )
    return path


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = build_parser()
    options = parser.parse_args(argv)
    return run_command(parser, lambda: _run(options))


def _run(options: argparse.Namespace) -> int:
    from training.evaluation.comparison import (
        check_no_file_of,
        compare_runs,
        difference_rows,
        hazard_rows,
        table,
        write,
    )
    from training.evaluation.text import for_terminal

    if options.out is not None:
        check_no_file_of(options.runs, options.out)
    compared = compare_runs(options.runs)
    print(for_terminal(table(compared)))
    if hazards := hazard_rows(compared):
        print(f'\n{for_terminal(hazards)}')
    for comparison in compared.comparisons:
        print(f'\n{for_terminal(difference_rows(comparison))}\n{comparison.sentence}.')
    for warning in compared.warnings:
        print(f'warning: {warning}', file=sys.stderr)
    if options.out is not None:
        write(options.out, compared)
        print(options.out)
    return ALL_DONE


if __name__ == '__main__':
    sys.exit(main())
