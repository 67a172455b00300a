r"""What helps in places that were not trained on: one change at a time, several seeds each.

    python -m training.synthetic --folder out/few_hazards --seeds 2000:2010 --frames 4 \
        --rate-hz 0.5 --hazards all
    python -m training.synthetic --folder out/unseen_hazards --seeds 3000:3020 --frames 3 \
        --rate-hz 0.33 --hazards all
    python test/benchmark/places.py --out out/places                     # 30 runs of 100 s
    python test/benchmark/places.py --out out/places --only ycor drives  # some
    python test/benchmark/places.py --out out/places --tables            # of those there are

Every run is `python -m training.train ycor8_places` with the overrides of CHANGES, which are
printed. It is scored on YCOR's validation blocks, on drives that no run saw, and on the Blender
scenes of odd number (layout: labelled_scenes.py); those of even number may be trained on. A run
that is there is not repeated.

A score less that of its base is the mean over seeds of the differences of two runs with the same
seed. Its interval is a bootstrap over blocks, drives or scenes, the same ones drawn for all runs:
it is about places, not about seeds. So the difference of each seed stands beside it.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
import os
from pathlib import Path
import shlex
import shutil
import sys

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]

from desertmind_seg.model.files import share_path
from desertmind_seg.model.ontology import CLASS_TABLE, load_ontology
from desertmind_seg.pipeline.label_map import parse_label_map
from desertmind_seg.scores.bootstrap import interval_95, resampled
from desertmind_seg.scores.confusion import Counts, Floats, ratio, scores_of
from training.evaluation.metrics_file import (
    CHECKPOINT,
    METRICS_FILE,
    Metrics,
    read_metrics,
    write_metrics,
)
from training.evaluation.run import checkpoint_model, evaluate
from training.evaluation.text import as_markdown
from training.fit.run import train
from training.recipes.load import load_recipe
from training.recipes.schema import DatasetName

SCENES = Path('../shared/data/rendered')
UNSEEN: dict[str, tuple[DatasetName, str]] = {
    'drives': ('synthetic', 'out/unseen_hazards'),
    'scenes': ('folder', 'out/scenes/odd'),
}
_YCOR = '{dataset: ycor, root: ../shared/data/ycor, split: train, repeat: 1}'
_DRIVES = '{dataset: synthetic, root: out/few_hazards, split: all, repeat: %d}'  # 40 frames
_SCENES = '{dataset: folder, root: out/scenes/even, split: all, repeat: %d}'  # 80 frames
# YCOR trains with 784 frames; what is added comes to 400, a third of all.
_WITH_DRIVES = f'data.train=[{_YCOR}, {_DRIVES % 10}]'
# By name: what it is compared with, and its overrides of the recipe.
CHANGES: dict[str, tuple[str, list[str]]] = {
    'ycor': ('', []),
    'drives': ('ycor', [_WITH_DRIVES]),
    'scenes': ('ycor', [f'data.train=[{_YCOR}, {_SCENES % 5}]']),
    'both': ('ycor', [f'data.train=[{_YCOR}, {_DRIVES % 4}, {_SCENES % 3}]']),
    'amplitude': ('ycor', ['augment.amplitude_mix=0.5']),
    'style': ('ycor', ['augment.style_mix=0.5']),
    'colour': (
        'ycor',
        [
            *('augment.photometric=1.0', 'augment.brightness=0.7', 'augment.contrast=0.7'),
            *('augment.saturation=0.7', 'augment.hue=0.1', 'augment.grayscale=0.2'),
            'augment.blur=0.3',
        ],
    ),
    'classes mixed': ('drives', [_WITH_DRIVES, 'augment.class_mix=0.5']),
    'no average': ('ycor', ['optim.ema_decay=0.0']),
    'no smoothing': ('ycor', ['loss.label_smoothing=0.0']),
}
ONTOLOGY = load_ontology('ycor-8')
_GROUPS = parse_label_map(['groups'], ONTOLOGY, ONTOLOGY)


def link_scenes(out: Path) -> None:
    """Part the scenes by even and odd number into two data folders of links."""
    for kind in ('images', 'masks'):
        for scene in sorted((SCENES / kind).iterdir()):
            half = out / ('odd' if int(scene.name[-4:]) % 2 else 'even')
            (half / kind).mkdir(parents=True, exist_ok=True)
            if not (half / kind / scene.name).is_symlink():
                (half / kind / scene.name).symlink_to(scene.resolve())
    for name in ('even', 'odd'):
        shutil.copyfile(share_path('config/ontologies/ycor-8.yaml'), out / name / CLASS_TABLE)


def run(name: str, seed: int, folder: Path) -> None:
    """Train one run and score it where it was not trained, unless that is there."""
    overrides = [*CHANGES[name][1], f'seed={seed}', 'data.cache_dir=out/frames']
    print(f'{folder}: python -m training.train ycor8_places {shlex.join(overrides)}')
    resume = folder.exists()
    train(load_recipe('ycor8_places', overrides), folder, resume=resume)
    for place, (dataset, root) in UNSEEN.items():
        path = folder / place / METRICS_FILE
        if not path.is_file():
            model = checkpoint_model(folder / CHECKPOINT)
            path.parent.mkdir(exist_ok=True)
            write_metrics(path, evaluate(model, dataset, Path(root), split='all'))


def by_group(counts: Counts) -> Counts:
    """Add up counts of classes (..., C, C + 1) to those of their groups (..., G, G + 1)."""
    groups = _GROUPS.scored.num_classes
    table = np.append(_GROUPS.mask_table[: ONTOLOGY.num_classes], groups)
    joins = np.eye(groups + 1, dtype=np.int64)[table]  # (C + 1, G + 1)
    joined: Counts = joins[:-1, :-1].T @ counts @ joins
    return joined


def called_traversable(name: str) -> Callable[[Counts], Floats]:
    """Return the score of one class: the share of its pixels that is called traversable."""
    safe = [entry.id for entry in ONTOLOGY.classes if entry.group == 'traversable']
    row = ONTOLOGY.class_id(name)
    return lambda counts: ratio(counts[..., row, safe].sum(axis=-1), counts[..., row, :].sum(-1))


SCORES: dict[str, Callable[[Counts], Floats]] = {
    'mIoU of classes': lambda counts: scores_of(counts, ONTOLOGY)['miou_all'],
    'mIoU of groups': lambda counts: scores_of(by_group(counts), _GROUPS.scored)['miou_all'],
    'false safe': lambda counts: scores_of(counts, ONTOLOGY)['false_safe_rate'],
    'false stop': lambda counts: scores_of(counts, ONTOLOGY)['false_stop_rate'],
    **{
        f'{entry.name} called traversable': called_traversable(entry.name)
        for entry in ONTOLOGY.classes
        if entry.group in ('obstacle', 'non_traversable')
    },
}


def stacked(runs: Sequence[Metrics]) -> Counts:
    """Return the counts of runs on one split, (B, R, C, C + 1)."""
    if len({run.data_hash for run in runs}) > 1:
        raise ValueError('the runs were scored on different frames; remove their folders')
    return np.stack(
        [[run.block_counts[block] for run in runs] for block in sorted(runs[0].block_counts)]
    )


def rows(score: str, runs: dict[str, dict[int, Metrics]]) -> list[list[str]]:
    """Return a row a change, of runs by name and seed; header first."""
    compute = SCORES[score]
    table = [['Change', score, 'Less its base (95 %)', 'By seed']]
    for name, found in runs.items():
        mean = compute(stacked([*found.values()]).sum(axis=0)).mean()
        base = runs.get(CHANGES[name][0], {})
        seeds = [seed for seed in found if seed in base]
        row = [name, f'{mean:.3f}', '', '']
        if seeds:
            counts = stacked([of[seed] for of in (found, base) for seed in seeds])
            counts = counts.reshape(len(counts), 2, len(seeds), *counts.shape[2:])
            change, drawn = compute(counts.sum(axis=0)), compute(resampled(counts))
            by_seed = change[0] - change[1]  # (S,)
            low, high = interval_95((drawn[:, 0] - drawn[:, 1]).mean(axis=1)) or (np.nan,) * 2
            row[2] = f'{by_seed.mean():+.3f} ({low:+.3f} to {high:+.3f})'
            row[3] = ', '.join(f'{value:+.3f}' for value in by_seed)
        table.append(row)
    return table


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script; return its exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--out', type=Path, required=True, metavar='DIR')
    parser.add_argument('--only', nargs='+', choices=CHANGES, default=list(CHANGES))
    parser.add_argument('--seeds', nargs='+', type=int, default=[0, 1, 2])
    parser.add_argument('--tables', action='store_true', help='of the runs there are; train none')
    options = parser.parse_args(argv)
    os.chdir(ROOT)
    link_scenes(Path('out/scenes'))
    runs: dict[str, dict[str, dict[int, Metrics]]] = {place: {} for place in ('ycor', *UNSEEN)}
    for seed in options.seeds:
        for name in options.only:
            folder = options.out / f'{name.replace(" ", "_")}_{seed}'
            if options.tables and not (folder / [*UNSEEN][-1] / METRICS_FILE).is_file():
                continue
            run(name, seed, folder)
            for place, found in runs.items():
                path = folder / ('' if place == 'ycor' else place)
                found.setdefault(name, {})[seed] = read_metrics(path)
    for place, found in runs.items():
        for score in SCORES:
            print(f'\n{place}\n\n{as_markdown(rows(score, found))}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
