"""Command: train a recipe."""

import argparse
from collections.abc import Sequence
from pathlib import Path
import sys

from desertmind_seg.options import (
    ALL_DONE,
    command_parser,
    not_negative,
    run_command,
    whole_number,
)

_DESCRIPTION = """\
Train a recipe.

`finetune` trains the shipped model on with your classes, on 20 to 500 frames of your own; it needs
nothing but data=DATA, a folder of images/, masks/ and classes.yaml as training.import_labels
writes it. Any recipe takes data=DATA, or data=LAYOUT:ROOT for a published set (data=ycor:../ycor).

First it says how long it will take on this machine, from a few real steps. The folder of a run
holds, while it runs, last.ckpt (the trainer's state after each epoch and every few minutes),
metrics.csv and TensorBoard's events; when it is done, report.html, checkpoint.pt, NAME.onnx (the
bundle), metrics.json and recipe.yaml (as resolved), and no last.ckpt.

Several GPUs or machines train with DistributedDataParallel. torchrun and SLURM are recognised; the
folder must then be one that all machines share.
"""
_EXAMPLES = r"""examples:
  python -m training.train finetune data=DATA
  python -m training.train finetune_rgbd data=DATA    # DATA has depth/ too
  python -m training.train finetune data=DATA name=longer optim.steps=1000
  python -m training.train ycor8_rgb --out out/ycor8_rgb
  python -m training.train ycor8_rgb --out out/ycor8_rgb --resume
  python -m training.train ycor8_rgb --out out/try \
      optim.epochs=2 data.num_workers=2 optim.precision=32-true
  python -m training.train exp060 --out out/exp060 --devices 4
  torchrun --nproc-per-node 4 -m training.train exp060 --out out/exp060
  srun python -m training.train exp060 --out out/exp060 --nodes 2 --devices 4
"""


def build_parser() -> argparse.ArgumentParser:
    """Build the command line."""
    parser = command_parser('training.train', _DESCRIPTION, _EXAMPLES)
    parser.add_argument(
        'recipe', metavar='RECIPE', help='YAML file, or the name of one in training/recipes/'
    )
    parser.add_argument(
        'overrides',
        metavar='KEY=VALUE',
        nargs='*',
        help='other values for keys of the recipe, as in optim.epochs=2, or data=DATA',
    )
    parser.add_argument(
        '--out',
        metavar='DIR',
        type=Path,
        help="the folder of the run (default: out/NAME, NAME being the data's or the recipe's)",
    )
    parser.add_argument(
        '--resume',
        action='store_true',
        help='go on from the last.ckpt of the folder (from the start if there is none yet); with '
        'fewer optim.epochs than before, end after these',
    )
    parser.add_argument('--accelerator', default='auto', choices=('auto', 'cpu', 'gpu'))
    parser.add_argument(
        '--devices',
        metavar='N',
        type=whole_number(1),
        help="processes on each machine (default: torchrun's number, or 1)",
    )
    parser.add_argument(
        '--nodes',
        metavar='N',
        type=whole_number(1),
        help="machines (default: torchrun's number, or 1)",
    )
    parser.add_argument(
        '--save-every-min',
        metavar='MIN',
        type=not_negative,
        default=10.0,
        help='minutes between two saves within an epoch (default: %(default)g)',
    )
    parser.add_argument(
        '--no-bundle', action='store_true', help='leave the export to training.export'
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = build_parser()
    options = parser.parse_intermixed_args(argv)
    return run_command(parser, lambda: _run(options))


def _run(options: argparse.Namespace) -> int:
    from training.recipes.load import load_recipe
    from training.recipes.own_data import check_data_given, file_name

    # Before torch: a wrong override is told at once.
    recipe = load_recipe(options.recipe, options.overrides)
    check_data_given(recipe)
    out = options.out or Path('out', file_name(recipe.name))

    from training.fit.run import run_folder, train

    try:
        with run_folder(out):
            train(
                recipe,
                out,
                accelerator=options.accelerator,
                devices=options.devices,
                nodes=options.nodes,
                resume=options.resume,
                save_every_min=options.save_every_min,
                forecast=True,
                bundle=not options.no_bundle,
            )
    except (KeyboardInterrupt, SystemExit):  # the latter is what Lightning makes of Ctrl-C
        if (out / 'recipe.yaml').is_file():
            print(f'{out} keeps what is done: --resume goes on from there', file=sys.stderr)
        raise
    if options.no_bundle:
        print(out)
    return ALL_DONE


if __name__ == '__main__':
    sys.exit(main())
