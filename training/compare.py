r"""Compare runs: one table, and which differences are real.

A run is a folder with a metrics.json (of training.train or training.evaluate), or that file. Runs
are compared with each other only where they were scored on the same frames: the first with the
second of two runs, and each with its parent where that is given too.

Examples:
  python -m training.compare out/exp060 out/exp061 out/exp062
  python -m training.compare out/exp061 out/exp060 --out out/exp061_against_exp060.html
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
import sys

from desertmind_seg.model.ontology import OntologyError
from desertmind_seg.scores.bootstrap import ComparisonError
from training.evaluation.comparison import (
    Comparison,
    _difference_rows,
    as_text,
    comparisons,
    run_names,
    table,
    write,
)
from training.evaluation.metrics_file import MetricsFileError, read_metrics


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog='python -m training.compare',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('runs', type=Path, nargs='+', metavar='RUN')
    parser.add_argument('--out', type=Path, help='also write the result: .html, .md or .json')
    arguments = parser.parse_args(argv)
    if arguments.out is not None and arguments.out.suffix not in {'.html', '.md', '.json'}:
        parser.error(f'--out {arguments.out}: expected a name that ends in .html, .md or .json')
    try:
        runs = [read_metrics(path) for path in arguments.runs]
        names = run_names(arguments.runs)
        results = list(comparisons(names, runs))
    except (FileNotFoundError, ComparisonError, MetricsFileError, OntologyError) as err:
        print(f'error: {err}', file=sys.stderr)
        return 1
    found = [result for result in results if isinstance(result, Comparison)]
    warnings = [f'Not compared: {r}' for r in results if isinstance(r, ComparisonError)]
    splits = {run.data_hash for run in runs}
    if len(splits) > 1:
        warnings.insert(0, f'The runs were scored on {len(splits)} different sets of frames.')
    rows = table(names, runs)
    print(as_text(rows))
    for comparison in found:
        print(f'\n{as_text(_difference_rows(comparison))}\n{comparison.sentence}.')
    for warning in warnings:
        print(f'warning: {warning}', file=sys.stderr)
    if arguments.out is not None:
        write(arguments.out, rows, found, warnings)
        print(arguments.out)
    return 0


if __name__ == '__main__':
    sys.exit(main())
