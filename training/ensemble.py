"""Command: fit the weights of an ensemble's members."""

import argparse
from collections.abc import Sequence
from pathlib import Path
import sys

from desertmind_seg.model.files import check_writable
from desertmind_seg.options import ALL_DONE, command_parser, run_command

_DESCRIPTION = """\
Fit the weights of an ensemble's members by their out-of-fold probabilities.

The members' probabilities are averaged with weights on the simplex (each at least 0, their sum 1)
that are fitted for the mIoU of the mean's arg-max, by a smooth surrogate of it, or by SLSQP as in
the reference (method=slsqp), which stops where it starts. Whether that helps is said honestly: the
weights that score a fold's frames were fitted on the frames of the others.
"""
_EXAMPLES = r"""examples:
  python -m training.folds exp093_5 --out out/exp093_5 --ensemble exp093_ensemble
  python -m training.folds exp093_4 --out out/exp093_4 --ensemble exp093_ensemble
  python -m training.ensemble exp093_ensemble --out out/exp093_ensemble
  python -m training.ensemble exp093_ensemble --oof out/exp093_5 out/exp093_4 \
      --out out/exp093_slsqp method=slsqp
"""


def build_parser() -> argparse.ArgumentParser:
    """Build the command line."""
    parser = command_parser('training.ensemble', _DESCRIPTION, _EXAMPLES)
    parser.add_argument('recipe', help='YAML file with members, see training/recipes/')
    parser.add_argument('overrides', nargs='*', help='key=value, e.g. method=slsqp')
    parser.add_argument(
        '--oof',
        type=Path,
        nargs='+',
        action='extend',
        metavar='DIR',
        help="folders of training.folds in the members' order; default: named as they are, beside "
        '--out',
    )
    parser.add_argument('--out', type=Path, required=True, help='folder for the weights')
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = build_parser()
    options = parser.parse_intermixed_args(argv)
    return run_command(parser, lambda: _run(options))


def _run(options: argparse.Namespace) -> int:
    from training.recipes.load import load_ensemble

    # Before torch: a wrong override is told at once.
    recipe = load_ensemble(options.recipe, options.overrides)

    from training.ensembles.ensemble_file import ENSEMBLE_FILE
    from training.ensembles.fit_weights import fit_ensemble_weights, print_held_out
    from training.ensembles.mixtures import print_temperature_table

    check_writable(options.out / ENSEMBLE_FILE)
    beside = [options.out.parent / member.recipe for member in recipe.members]
    ensemble = fit_ensemble_weights(recipe, options.oof or beside, options.out)
    print_held_out(ensemble)
    print_temperature_table(ensemble.temperatures)
    print(options.out / ENSEMBLE_FILE)
    return ALL_DONE


if __name__ == '__main__':
    sys.exit(main())
