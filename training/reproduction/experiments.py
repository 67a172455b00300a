"""Which experiments there are, at the size of two CPU cores."""

from collections.abc import Sequence
from pathlib import Path
import shlex
from typing import Literal

from desertmind_seg.model.errors import did_you_mean
from training.recipes.load import load_ensemble, load_recipe
from training.recipes.schema import RecipeError

# In the order in which one needs the other.
EXPERIMENTS: dict[str, Literal['train', 'folds', 'ensemble']] = {
    'exp060_small': 'train',
    'exp061_small': 'train',
    'exp062_small': 'train',
    'exp093_2_small': 'folds',
    'exp093_4_small': 'folds',
    'exp093_5_small': 'folds',
    'exp093_6_small': 'folds',
    'exp093_ensemble_small': 'ensemble',
    'desert_phase1_small': 'train',
    'desert_phase2_1_small': 'train',
    'desert_phase2_2_small': 'train',
    'desert_phase3_small': 'train',
}

# The set that the phases of the desert are trained on, and what makes it.
DESERT = Path('out/desert')
RENDER_DESERT = (
    f'python -m training.synthetic --folder {DESERT} --layout desert --seeds 0:80 --frames 6 '
    '--rate-hz 0.2 --size 270x480'
)


def choose(names: Sequence[str] | None) -> list[str]:
    """Return names of experiments in the order in which they are run, and read their recipes.

    Args:
        names: any of EXPERIMENTS; None for all.

    Raises:
        FileNotFoundError: there is no recipe of that name.
        RecipeError: a name is not one of EXPERIMENTS, or a recipe is wrong.
    """
    for name in names or ():
        if name not in EXPERIMENTS:
            raise RecipeError(
                f'{name!r} is none of the experiments{did_you_mean(name, EXPERIMENTS)}; they are '
                f'{", ".join(EXPERIMENTS)}'
            )
    chosen = [name for name in EXPERIMENTS if names is None or name in names]
    for name in chosen:
        (load_ensemble if EXPERIMENTS[name] == 'ensemble' else load_recipe)(name)
    return chosen


def go_on_command(names: Sequence[str] | None, out: Path, seed: int | None) -> str:
    """Return the command that goes on with what was stopped."""
    given = ['python -m training.reproduce', *(['--only', *names] if names else [])]
    given += [] if seed is None else [f'--seed {seed}']
    return ' '.join([*given, '--out', shlex.quote(str(out))])
