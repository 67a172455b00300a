"""How fast training steps are here: the shipped recipe on made-up frames; the last line is JSON.

    python test/gpu/step_rate.py           # on the GPU, at the recipe's own sizes
    python test/gpu/step_rate.py --cpu     # whether it runs: two tiny frames a step

As the forecast of `training.train`: whole steps, with reading and augmenting the frames.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
import sys
import tempfile

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE.parent / 'training')]

from tiny_ycor import write_tiny_ycor
import torch

from desertmind_seg.model.ontology import load_ontology
from training.data.datasets import list_frames
from training.fit.rehearsal import rehearse
from training.recipes.load import load_recipe

RECIPE = 'ycor8_rgb_ycor_only'
_TINY = (
    'model.network_size_hw=[64, 96]',
    'model.decoder_channels=32',
    'augment.crop_size_hw=[64, 96]',
    'optim.batch_size=2',
)


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--cpu', action='store_true', help='tiny, on the CPU')
    on_cpu = parser.parse_args().cpu
    if not on_cpu and not torch.cuda.is_available():
        print(f'torch {torch.__version__} finds no GPU')
        return 1
    workers = 0 if on_cpu else min(8, len(os.sched_getaffinity(0)))
    measured = {}
    with tempfile.TemporaryDirectory(prefix='desertmind_seg_') as folder:
        numbers, size_hw = (range(6), (68, 128)) if on_cpu else (range(96), (544, 1024))
        root = write_tiny_ycor(Path(folder) / 'ycor', list(numbers), size_hw)
        for precision in ('32-true',) if on_cpu else ('32-true', 'bf16-mixed'):
            recipe = load_recipe(
                RECIPE,
                [
                    f'data.train.0.root={root}',
                    f'data.val.0.root={root}',
                    'data.split.block_frames=2',
                    'data.split.val_every_groups=3',
                    f'data.num_workers={workers}',
                    f'optim.precision={precision}',
                    *(_TINY if on_cpu else ()),
                ],
            )
            ontology = load_ontology(recipe.ontology)
            train, val = (
                list_frames(section, recipe.data, ontology)
                for section in (*recipe.data.train, *recipe.data.val)
            )
            found = rehearse(
                recipe, ontology, train, val, on_gpu=not on_cpu, out=Path(folder) / 'run'
            )
            measured[precision] = {
                'step_sec': round(found.step_sec, 4),
                'frames_per_sec': round(recipe.optim.batch_size / found.step_sec, 1),
                'validation_frame_sec': round(found.frame_sec, 4),
            }
    device = 'cpu' if on_cpu else torch.cuda.get_device_name()
    setting = {'recipe': RECIPE, 'batch_size': recipe.optim.batch_size, 'num_workers': workers}
    print(json.dumps({'device': device, **setting, 'by_precision': measured}))
    return 0


if __name__ == '__main__':
    sys.exit(main())
