"""Command: train a recipe once a fold."""

import argparse
from collections.abc import Sequence
from pathlib import Path
import sys

from desertmind_seg.options import (
    ALL_DONE,
    DONE_IN_PART,
    command_parser,
    error_line,
    run_command,
)

_DESCRIPTION = """\
Train a recipe once a fold and store what each network says of the frames it never saw.

The folder holds fold_<k>/ (a run of training.train each), out_of_fold/ (the probabilities) and,
once all folds are there, metrics.json (scores out of fold, at the temperature fitted for NLL) and
temperatures.json (T, mIoU, NLL, ECE). Finished folds are skipped, half-finished ones go on where
they stopped. With --ensemble the probabilities are predicted as that ensemble wants them (network
size, views, storage), into out_of_fold_<ensemble>/, and nothing is trained twice.

Folds may run side by side, each in a process of its own; the last one to end scores them all.

Where a recipe starts from another's checkpoint or has teachers, these must not have seen the
held-out frames either: write {fold} in their paths (out/stage1/fold_{fold}/checkpoint.pt). Where
they have seen none of these data, as a shipped model has none of your own, --unseen says so.
"""
_EXAMPLES = r"""examples:
  python -m training.folds finetune data=DATA --unseen --out out/folds
  python -m training.folds exp093_5 --out out/exp093_5
  python -m training.folds exp093_5 --out out/exp093_5 --resume --ensemble exp093_ensemble
  srun python -m training.folds exp093_5 --out out/exp093_5 --resume --folds $SLURM_ARRAY_TASK_ID
  for k in 0 1 2 3 4; do CUDA_VISIBLE_DEVICES=$k \
      python -m training.folds exp093_5 --out out/exp093_5 --resume --folds $k & done; wait
"""


def _fold_numbers(text: str) -> list[int]:
    if not all(part.isdigit() for part in text.split(',')):
        raise argparse.ArgumentTypeError(f'{text!r} is not a list of folds, e.g. 0,1,4')
    return [int(part) for part in text.split(',')]


def build_parser() -> argparse.ArgumentParser:
    """Build the command line."""
    parser = command_parser('training.folds', _DESCRIPTION, _EXAMPLES)
    parser.add_argument('recipe', help='YAML file, or the name of one in training/recipes/')
    parser.add_argument('overrides', nargs='*', help='section.key=value')
    parser.add_argument('--out', type=Path, required=True, help='folder of all folds')
    parser.add_argument('--folds', type=_fold_numbers, help='e.g. 0,1,4; default: all')
    parser.add_argument('--resume', action='store_true', help='the folder holds folds already')
    parser.add_argument(
        '--unseen', action='store_true', help='start and teachers have seen none of these frames'
    )
    parser.add_argument('--ensemble', help='predict as this ensemble (a recipe) wants its members')
    parser.add_argument('--accelerator', default='auto', choices=('auto', 'cpu', 'gpu'))
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = build_parser()
    options = parser.parse_intermixed_args(argv)
    return run_command(parser, lambda: _run(parser, options))


def _run(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    from training.recipes.load import load_ensemble, load_recipe

    # Before torch: a wrong override is told at once.
    recipe = load_recipe(options.recipe, options.overrides)
    ensemble = None if options.ensemble is None else load_ensemble(options.ensemble)

    from training.ensembles.mixtures import print_temperature_table
    from training.evaluation.text import print_scores
    from training.fit.folds import FoldError, run_folds

    try:
        found = run_folds(
            recipe,
            options.out,
            folds=options.folds,
            ensemble=ensemble,
            resume=options.resume,
            accelerator=options.accelerator,
            unseen=options.unseen,
        )
    except FoldError as err:
        print(error_line(parser.prog, err), file=sys.stderr)
        return DONE_IN_PART
    if found is not None:
        scores, temperatures = found
        print_scores(scores)
        print_temperature_table(temperatures)
    print(options.out)
    return ALL_DONE


if __name__ == '__main__':
    sys.exit(main())
