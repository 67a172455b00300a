r"""Train a recipe.

The folder of a run holds, while it runs, ``last.ckpt`` (the trainer's state after each epoch and
every few minutes), ``metrics.csv`` and TensorBoard's events; when it is done, ``checkpoint.pt``,
``metrics.json``, ``recipe.yaml`` (as resolved) and ``report.html``, and no ``last.ckpt``.

Several GPUs or machines train with DistributedDataParallel. torchrun and SLURM are recognised; the
folder must then be one that all machines share.

Examples:
  python -m training.train training/recipes/ycor8_rgb.yaml --out out/ycor8_rgb
  python -m training.train training/recipes/ycor8_rgb.yaml --out out/ycor8_rgb --resume
  python -m training.train training/recipes/ycor8_rgb.yaml --out out/try \
      optim.epochs=2 data.num_workers=2 'optim.precision=32-true'
  python -m training.train training/recipes/exp060.yaml --out out/exp060 --devices 4
  torchrun --nproc-per-node 4 -m training.train training/recipes/exp060.yaml --out out/exp060
  srun python -m training.train training/recipes/exp060.yaml --out out/exp060 \
      --nodes 2 --devices 4
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
import sys

from lightning.fabric.utilities.exceptions import MisconfigurationException

from desertmind_seg.model.ontology import OntologyError
from training.data.frames import DatasetError
from training.distillation import DistillationError
from training.fit.run import CHECKPOINT, SAVE_EVERY_MIN, train
from training.fit.task import TrainingError
from training.networks.architectures import ModelError
from training.networks.checkpoint import CheckpointError
from training.networks.encoder_weights import WeightsError
from training.recipes.load import load_recipe
from training.recipes.schema import RecipeError


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog='python -m training.train',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('recipe', help='YAML file, or the name of one in training/recipes/')
    parser.add_argument('overrides', nargs='*', help='section.key=value')
    parser.add_argument('--out', type=Path, required=True, help='folder for the run')
    parser.add_argument(
        '--resume',
        action='store_true',
        help='go on from the last.ckpt of the folder (from the start if there is none yet)',
    )
    parser.add_argument('--accelerator', default='auto', choices=('auto', 'cpu', 'gpu'))
    parser.add_argument(
        '--devices', type=int, help="processes a machine, default: torchrun's or 1"
    )
    parser.add_argument('--nodes', type=int, help="machines, default: torchrun's or 1")
    parser.add_argument(
        '--save-every-min',
        type=float,
        default=SAVE_EVERY_MIN,
        help='minutes between saves within an epoch, default: %(default)s',
    )
    arguments = parser.parse_intermixed_args(argv)
    try:
        recipe = load_recipe(arguments.recipe, arguments.overrides)
        train(
            recipe,
            arguments.out,
            accelerator=arguments.accelerator,
            devices=arguments.devices,
            nodes=arguments.nodes,
            resume=arguments.resume,
            save_every_min=arguments.save_every_min,
        )
    except (
        FileNotFoundError,
        CheckpointError,
        DatasetError,
        DistillationError,
        MisconfigurationException,
        ModelError,
        OntologyError,
        RecipeError,
        TrainingError,
        WeightsError,
    ) as err:
        print(f'error: {err}', file=sys.stderr)
        return 1
    print(f'{arguments.out / CHECKPOINT}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
