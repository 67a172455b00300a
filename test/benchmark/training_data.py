"""What decoding and augmentation cost a training step; prints JSON.

    python test/benchmark/training_data.py                       # the shipped recipe, 1 worker
    python test/benchmark/training_data.py data.num_workers=2 data.cache_dir=/tmp/frames

The same step (forward, loss, backward, AdamW, in the recipe's precision, on the CPU) is timed with
the training's own DataLoader and with batches that are already in memory, in turns of a few steps,
so that both see the same machine. Each turn begins with untimed steps: the loader's first ones are
served from what it prefetched meanwhile. The ratio is that of the mean step times of a turn, whose
median over the turns must be at most 1.10; exit status 1 above it. The mean and not the median of
a turn, because a loader that is too slow makes some steps wait and not all.

Other programs disturb the ratio (`load_average` says how many there were), but not `cpu_ratio`:
one plus the CPU time of a batch's samples over that of the step. Where the step keeps all cores
busy the first cannot fall below the second.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
import json
import os
from pathlib import Path
import sys
import time
from typing import Any
import warnings

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]

from desertmind_seg.model.ontology import Ontology, load_ontology
from training.batches.samples import Sample, SegmentationDataset, TrainingBatches
from training.data.augment import training_transform
from training.data.datasets import list_sections
from training.fit.task import SegmentationTask
from training.networks.checkpoint import environment
from training.recipes.load import load_recipe
from training.recipes.schema import Recipe

LIMIT = 1.10


class Step:
    """One optimisation step of a recipe's task on a batch."""

    def __init__(self, recipe: Recipe, ontology: Ontology) -> None:
        torch.manual_seed(recipe.seed)
        self._task = SegmentationTask(recipe, ontology, None, 1, Path())
        network = self._task.network.to(memory_format=torch.channels_last).train()
        for module in network.frozen_modules():
            module.requires_grad_(False).eval()
        trained = [p for p in network.parameters() if p.requires_grad]
        self._optimizer = torch.optim.AdamW(trained, lr=1e-4)
        self._bf16 = recipe.optim.precision == 'bf16-mixed'

    def __call__(self, batch: Mapping[str, torch.Tensor]) -> None:
        with torch.autocast('cpu', torch.bfloat16, enabled=self._bf16):
            loss = self._task.training_step(dict(batch), 0)
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()


def _endless(loader: DataLoader[Sample], batches: TrainingBatches) -> Iterator[Any]:
    epoch = 0
    while True:
        batches.set_epoch(epoch)
        yield from loader
        epoch += 1


@dataclass
class Turn:
    """Timed steps of one kind: seconds each, its batch waited for, and CPU seconds of all."""

    seconds: list[float]
    cpu_s: float


def _turn(step: Step, batches: Iterator[Any], warm_up: int, steps: int) -> Turn:
    """Run untimed and timed steps."""
    for _ in range(warm_up):
        step(next(batches))
    seconds = []
    cpu = time.process_time()
    for _ in range(steps):
        started = time.perf_counter()
        step(next(batches))
        seconds.append(time.perf_counter() - started)
    return Turn(seconds, time.process_time() - cpu)


def _cycle(kept: list[Any]) -> Iterator[Any]:
    while True:
        yield from kept


def _summary(turns: list[Turn]) -> dict[str, Any]:
    seconds = np.concatenate([turn.seconds for turn in turns])
    p10, p50, p90 = np.percentile(seconds, (10, 50, 90))
    return {
        'steps': len(seconds),
        'step_ms': {'p10': 1e3 * p10, 'p50': 1e3 * p50, 'p90': 1e3 * p90},
        'mean_ms_of_turns': [1e3 * float(np.mean(turn.seconds)) for turn in turns],
        'step_cpu_ms': 1e3 * sum(turn.cpu_s for turn in turns) / len(seconds),
    }


def _sample_cpu_ms(dataset: SegmentationDataset, count: int) -> float:
    """CPU time of making one sample on one core, in ms; other programs do not enter."""
    # As in a worker: waiting threads of OpenMP spin, which made it 166 ms instead of 8 on 2 cores.
    threads = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    dataset[0, 0]
    started = time.process_time()
    for index in range(count):
        dataset[index % len(dataset), index]
    cpu_ms = 1e3 * (time.process_time() - started) / count
    torch.set_num_threads(threads[0])
    cv2.setNumThreads(threads[1])
    return cpu_ms


def measure(recipe: Recipe, turns: int, steps: int) -> dict[str, Any]:
    """Time the recipe's step both ways."""
    ontology = load_ontology(recipe.ontology)
    frames = list_sections(recipe.data.train, recipe.data, ontology)
    dataset = SegmentationDataset(
        frames,
        ontology,
        training_transform(recipe.augment),
        with_depth=recipe.model.depth is not None,
    )
    workers = recipe.data.num_workers
    batches = TrainingBatches(
        len(frames),
        None,
        batch_size=recipe.optim.batch_size,
        passes=1,
        seed=recipe.seed,
        rank=0,
        world_size=1,
    )
    loader = DataLoader(
        dataset, batch_sampler=batches, num_workers=workers, persistent_workers=workers > 0
    )
    if recipe.data.cache_dir is not None:
        for frame in frames:  # a run reads all frames once before its first step
            frame.read_labels(ontology)
    loaded = _endless(loader, batches)
    in_memory = _cycle([next(loaded) for _ in range(4)])
    step = Step(recipe, ontology)
    prefetched = 2 * workers + 1
    from_loader, from_memory = [], []
    _turn(step, in_memory, 3, 0)
    for turn in range(turns):
        from_loader.append(_turn(step, loaded, prefetched, steps))
        from_memory.append(_turn(step, in_memory, prefetched, steps))
        print(f'turn {turn + 1} of {turns}', file=sys.stderr)
    ratios = [
        float(np.mean(a.seconds) / np.mean(b.seconds))
        for a, b in zip(from_loader, from_memory, strict=True)
    ]
    in_memory_ms = _summary(from_memory)['step_cpu_ms']
    sample_ms = _sample_cpu_ms(dataset, 40)
    return {
        'recipe': recipe.name,
        'batch_size': recipe.optim.batch_size,
        'crop_size_hw': list(recipe.augment.crop_size_hw),
        'workers': workers,
        'cache': recipe.data.cache_dir is not None,
        'from_loader': _summary(from_loader),
        'from_memory': _summary(from_memory),
        'ratio_of_turns': ratios,
        'ratio': float(np.median(ratios)),
        'limit': LIMIT,
        'sample_cpu_ms': sample_ms,
        'cpu_ratio': 1.0 + recipe.optim.batch_size * sample_ms / in_memory_ms,
        'torch_threads': torch.get_num_threads(),
        'load_average': os.getloadavg(),
        'environment': environment(),
    }


def main() -> int:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('overrides', nargs='*', help='section.key=value of the recipe')
    parser.add_argument('--recipe', default='ycor8_rgb_ycor_only', help='default: %(default)s')
    parser.add_argument('--turns', type=int, default=5, help='default: %(default)s')
    parser.add_argument('--steps', type=int, default=8, help='timed steps a turn (%(default)s)')
    options = parser.parse_intermixed_args()
    warnings.filterwarnings('ignore', '.*self.log.*')  # there is no trainer to log to
    result = measure(load_recipe(options.recipe, options.overrides), options.turns, options.steps)
    print(json.dumps(result, indent=2))
    print(
        f'{result["ratio"]:.3f} times the step on data in memory (limit {LIMIT})', file=sys.stderr
    )
    return 0 if result['ratio'] <= LIMIT else 1


if __name__ == '__main__':
    sys.exit(main())
