r"""Train a recipe once a fold and store what each network says of the frames it never saw.

The folder holds fold_<k>/ (a run of training.train each), out_of_fold/ (the probabilities) and,
once all folds are there, metrics.json (scores out of fold, at the temperature fitted for NLL) and
temperatures.json (T, mIoU, NLL, ECE). Finished folds are skipped, half-finished ones go on where
they stopped. With --ensemble the probabilities are predicted as that ensemble wants them (network
size, views, storage), into out_of_fold_<ensemble>/, and nothing is trained twice.

Folds may run side by side, each in a process of its own; the last one to end scores them all.

Where a recipe starts from another's checkpoint or has teachers, these must not have seen the
held-out frames either: write {fold} in their paths (out/stage1/fold_{fold}/checkpoint.pt).

Examples:
  python -m training.folds exp093_5 --out out/exp093_5
  python -m training.folds exp093_5 --out out/exp093_5 --resume --ensemble exp093_ensemble
  srun python -m training.folds exp093_5 --out out/exp093_5 --resume --folds $SLURM_ARRAY_TASK_ID
  for k in 0 1 2 3 4; do CUDA_VISIBLE_DEVICES=$k \
      python -m training.folds exp093_5 --out out/exp093_5 --resume --folds $k & done; wait
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
import sys

from training.recipe import RecipeError, load_ensemble, load_recipe


def _fold_numbers(text: str) -> list[int]:
    if not all(part.isdigit() for part in text.split(',')):
        raise argparse.ArgumentTypeError(f'{text!r} is not a list of folds, e.g. 0,1,4')
    return [int(part) for part in text.split(',')]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog='python -m training.folds',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('recipe', help='YAML file, or the name of one in training/recipes/')
    parser.add_argument('overrides', nargs='*', help='section.key=value')
    parser.add_argument('--out', type=Path, required=True, help='folder of all folds')
    parser.add_argument('--folds', type=_fold_numbers, help='e.g. 0,1,4; default: all')
    parser.add_argument('--resume', action='store_true', help='the folder holds folds already')
    parser.add_argument('--ensemble', help='predict as this ensemble (a recipe) wants its members')
    parser.add_argument('--accelerator', default='auto', choices=('auto', 'cpu', 'gpu'))
    arguments = parser.parse_intermixed_args(argv)
    try:
        recipe = load_recipe(arguments.recipe, arguments.overrides)
        ensemble = None if arguments.ensemble is None else load_ensemble(arguments.ensemble)
    except (FileNotFoundError, RecipeError) as err:
        print(f'{parser.prog}: error: {err}', file=sys.stderr)
        return 2

    # Not before now: torch takes seconds, and a misspelt argument needs none of it.
    from training.ensembles.mixtures import print_temperature_table
    from training.evaluate import print_scores
    from training.fit.folds import ERRORS, FoldError, run_folds

    try:
        found = run_folds(
            recipe,
            arguments.out,
            folds=arguments.folds,
            ensemble=ensemble,
            resume=arguments.resume,
            accelerator=arguments.accelerator,
        )
    except (*ERRORS, FoldError) as err:
        print(f'{parser.prog}: error: {err}', file=sys.stderr)
        return 1 if isinstance(err, FoldError) else 2
    if found is not None:
        scores, temperatures = found
        print_scores(scores)
        print_temperature_table(temperatures)
    print(arguments.out)
    return 0


if __name__ == '__main__':
    sys.exit(main())
