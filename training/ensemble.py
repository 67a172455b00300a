r"""Fit the weights of an ensemble's members by their out-of-fold probabilities.

The members' probabilities are averaged with weights on the simplex (each at least 0, their sum 1)
that are fitted for the mIoU of the mean's arg-max, by a smooth surrogate of it, or by SLSQP as in
the reference (method=slsqp), which stops where it starts. Whether that helps is said honestly: the
weights that score a fold's frames were fitted on the frames of the others.

Examples:
  python -m training.folds exp093_5 --out out/exp093_5 --ensemble exp093_ensemble
  python -m training.folds exp093_4 --out out/exp093_4 --ensemble exp093_ensemble
  python -m training.ensemble exp093_ensemble --out out/exp093_ensemble
  python -m training.ensemble exp093_ensemble --oof out/exp093_5 out/exp093_4 \
      --out out/exp093_slsqp method=slsqp
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
import sys

from desertmind_seg.ontology import OntologyError
from training.recipe import RecipeError, load_ensemble


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog='python -m training.ensemble',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('recipe', help='YAML file with members, see training/recipes/')
    parser.add_argument('overrides', nargs='*', help='key=value, e.g. method=slsqp')
    parser.add_argument(
        '--oof',
        type=Path,
        nargs='+',
        metavar='DIR',
        help="folders of training.folds in the members' order; default: named as they are, beside "
        '--out',
    )
    parser.add_argument('--out', type=Path, required=True, help='folder for the weights')
    arguments = parser.parse_intermixed_args(argv)
    try:
        recipe = load_ensemble(arguments.recipe, arguments.overrides)
    except (FileNotFoundError, RecipeError) as err:
        print(f'{parser.prog}: error: {err}', file=sys.stderr)
        return 2

    # Not before now: torch takes seconds, and a misspelt argument needs none of it.
    from training.ensembles.ensemble_file import ENSEMBLE_FILE
    from training.ensembles.fit_weights import fit_ensemble_weights, print_held_out
    from training.ensembles.mixtures import print_temperature_table
    from training.ensembles.store import EnsembleError

    try:
        beside = [arguments.out.parent / member.recipe for member in recipe.members]
        ensemble = fit_ensemble_weights(recipe, arguments.oof or beside, arguments.out)
    except (FileNotFoundError, EnsembleError, OntologyError) as err:
        print(f'{parser.prog}: error: {err}', file=sys.stderr)
        return 2
    print_held_out(ensemble)
    print_temperature_table(ensemble.temperatures)
    print(arguments.out / ENSEMBLE_FILE)
    return 0


if __name__ == '__main__':
    sys.exit(main())
