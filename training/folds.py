r"""Train a recipe once a fold and store what each network says of the frames it never saw.

The folder holds fold_<k>/ (a run of training.train each), out_of_fold/ (the probabilities) and,
once all folds are there, metrics.json (scores out of fold, at the temperature fitted for NLL) and
temperatures.json (T, mIoU, NLL, ECE). Finished folds are skipped, half-finished ones go on where
they stopped. With --ensemble the probabilities are predicted as that ensemble wants them (network
size, views, storage), into out_of_fold_<ensemble>/, and nothing is trained twice.

Where a recipe starts from another's checkpoint or has teachers, these must not have seen the
held-out frames either: write {fold} in their paths (out/stage1/fold_{fold}/checkpoint.pt).

Examples:
  python -m training.folds exp093_5 --out out/exp093_5
  python -m training.folds exp093_5 --out out/exp093_5 --resume --devices 0,1,2,3
  python -m training.folds exp093_5 --out out/exp093_5 --resume --ensemble exp093_ensemble
  srun python -m training.folds exp093_5 --out out/exp093_5 --resume --folds $SLURM_ARRAY_TASK_ID
"""

import argparse
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
import json
import os
from pathlib import Path
from queue import SimpleQueue
import signal
import subprocess
import sys
from threading import Event
import time
from types import FrameType
from typing import Any, get_args

import numpy as np
import torch
import yaml

from desertmind_seg.model.files import whole_file
from desertmind_seg.model.ontology import OntologyError, load_ontology
from desertmind_seg.scores.confusion import ConfusionMatrix
from training.data.datasets import data_hash, list_frames
from training.data.frames import DatasetError, LabelledFrame
from training.distillation import DistillationError
from training.ensemble import prediction_of
from training.evaluation.calibration import at_network_size
from training.evaluation.metrics_file import METRICS_FILE, Metrics, Views, write_metrics
from training.evaluation.text import print_scores
from training.evaluation.tta import tta_probabilities
from training.fit.run import CHECKPOINT, LAST, check_same_recipe, train
from training.fit.task import TrainingError
from training.networks.architectures import ModelError
from training.networks.checkpoint import CheckpointError, environment
from training.networks.encoder_weights import WeightsError
from training.out_of_fold import (
    FoldHeader,
    OutOfFoldError,
    OutOfFoldStore,
    Prediction,
    StoreDtype,
    combined_hash,
    file_sha256,
    print_temperature_table,
    read_index,
    store_name,
    temperature_table,
    write_fold,
)
from training.recipe import (
    EnsembleRecipe,
    Recipe,
    RecipeError,
    load_ensemble,
    load_recipe,
    parse_recipe,
)

TEMPERATURES_FILE = 'temperatures.json'

_ROOT = Path(__file__).resolve().parent.parent

_ERRORS = (
    FileNotFoundError,
    CheckpointError,
    DatasetError,
    DistillationError,
    ModelError,
    OntologyError,
    OutOfFoldError,
    RecipeError,
    TrainingError,
    WeightsError,
)


class FoldError(RuntimeError):
    """Folds that ran in processes of their own have failed."""


def fold_recipe(recipe: Recipe, fold: int) -> Recipe:
    """Return a recipe that trains on all folds but one and validates on that.

    Raises:
        RecipeError: there is no such fold, a validation source is not dealt to folds, or the start
            or a teacher may have seen the held-out frames.
    """
    tree = recipe.model_dump(mode='json')
    tree['data']['split'].update(by='folds', fold=fold)
    for section in tree['data']['val']:
        if section['split'] != 'val':
            raise RecipeError(
                f'{recipe.name}: data.val holds split {section["split"]!r} of '
                f'{section["dataset"]}, which is no fold; out of fold only split val is held out'
            )
    start = tree['model']['initial_checkpoint']
    teachers = [] if tree['distillation'] is None else tree['distillation']['teachers']
    for path in [*teachers, *([] if start == 'none' else [start])]:
        if '{fold}' not in path:
            raise RecipeError(
                f'{recipe.name}: {path} was trained on frames that fold {fold} holds out; give '
                'one a fold, with {fold} in the path (out/stage1/fold_{fold}/checkpoint.pt)'
            )
    tree['model']['initial_checkpoint'] = start.replace('{fold}', str(fold))
    if teachers:
        tree['distillation']['teachers'] = [path.replace('{fold}', str(fold)) for path in teachers]
    return parse_recipe(tree, f'{recipe.name}, fold {fold}')


def held_out_frames(recipe: Recipe) -> list[LabelledFrame]:
    """List the frames that a fold's recipe holds out, each once.

    Raises:
        DatasetError: the recipe also trains on one of them.
    """
    ontology = load_ontology(recipe.ontology)
    held_out = {
        (frame.dataset, frame.name): frame
        for section in recipe.data.val
        for frame in list_frames(section, recipe.data, ontology)
    }
    trained = {
        (frame.dataset, frame.name)
        for section in recipe.data.train
        for frame in list_frames(section, recipe.data, ontology)
    }
    both = sorted(held_out.keys() & trained)
    if both:
        raise DatasetError(
            f'{recipe.name}, fold {recipe.data.split.fold}: {len(both)} of {len(held_out)} '
            f'held-out frames are trained on too, {"/".join(both[0])!r} first; data.train must '
            'take split train of what data.val holds out'
        )
    return list(held_out.values())


def run_fold(
    recipe: Recipe, fold: int, out: Path, store: Path, prediction: Prediction, accelerator: str
) -> None:
    """Train one fold, unless it is done, and store its probabilities, unless they are there.

    Args:
        recipe: of the experiment.
        fold: 0..folds-1.
        out: folder of all folds.
        store: folder of the probabilities.
        prediction: how they are made.
        accelerator: 'auto', 'cpu' or 'gpu'.

    Raises:
        CheckpointError: the fold's folder holds a run of another recipe.
    """
    of_fold = fold_recipe(recipe, fold)
    frames = held_out_frames(of_fold)
    run = out / f'fold_{fold}'
    checkpoint = train(of_fold, run, accelerator=accelerator, devices=1, nodes=1, resume=True)
    header = FoldHeader(
        recipe=recipe.name,
        fold=fold,
        folds=recipe.data.split.folds,
        ontology=checkpoint.ontology,
        data_hash=data_hash(frames),
        checkpoint=Path(os.path.relpath(run / CHECKPOINT, store)).as_posix(),
        checkpoint_sha256=file_sha256(run / CHECKPOINT),
        checkpoint_git_hash=checkpoint.git_hash,
        prediction=prediction,
    )
    index = store / f'fold_{fold}.json'
    if index.is_file() and _is_of(header, index):
        print(f'fold {fold}: {index} is there')
        return
    device = torch.device('cuda' if accelerator != 'cpu' and torch.cuda.is_available() else 'cpu')
    network = at_network_size(checkpoint, prediction.network_size_hw).network().to(device)
    probabilities = tta_probabilities(
        network, prediction.tta_scales, prediction.tta_flip, device, 1.0
    )
    write_fold(store, header, frames, checkpoint.parsed_ontology(), probabilities)


def _is_of(header: FoldHeader, index: Path) -> bool:
    found = read_index(index)
    return all(getattr(found, key) == getattr(header, key) for key in FoldHeader.model_fields)


def score_store(recipe: Recipe, store: OutOfFoldStore, where: Path) -> list[dict[str, Any]]:
    """Write metrics.json and temperatures.json of a complete store, and print both.

    Returns:
        The table over T.
    """
    rows, scores = temperature_table(
        [store], np.ones(1), recipe.evaluation.temperatures, recipe.seed
    )
    figures = scores.metrics()
    fitted = next(row['temperature'] for row in rows if row['fitted'])
    metrics = Metrics(
        **dict(figures),
        recipe=recipe.model_dump(mode='json'),
        ontology=store.ontology.name,
        ontology_sha256=store.ontology.sha256,
        dataset=store.datasets,
        split='out of fold',
        split_rule=_split_rule(recipe, store.folds),
        data_hash=combined_hash(store),
        environment=environment(),
        tta=Views(scales=store.prediction.tta_scales, flip=store.prediction.tta_flip),
        temperature=fitted,
    )
    write_metrics(where / METRICS_FILE, metrics)
    with whole_file(where / TEMPERATURES_FILE) as temporary:
        temporary.write_text(json.dumps(rows, indent=1) + '\n', encoding='utf-8')
    print_scores(figures)
    for fold, counts in sorted(scores.by_fold.items()):
        print(f'fold {fold}: mIoU(all) {ConfusionMatrix(store.ontology, counts).miou_all:.4f}')
    print_temperature_table(rows)
    return rows


def _split_rule(recipe: Recipe, folds: int) -> str:
    rule = f'each of {folds} folds by the network that did not train on it'
    if recipe.optim.keep == 'best' or recipe.optim.early_stopping_patience is not None:
        # Not seen, but not unseen either: the score is a little too kind.
        rule += ', its epoch chosen by the score on the fold (optim.keep, early stopping)'
    return rule


def run_folds(
    recipe: Recipe,
    out: Path,
    *,
    folds: Sequence[int],
    views: Prediction | EnsembleRecipe,
    resume: bool = False,
    jobs: int = 1,
    devices: Sequence[str] | None = None,
    accelerator: str = 'auto',
    summary: bool = True,
) -> list[dict[str, Any]] | None:
    """Train folds, store their probabilities, and score the store once all folds are in it.

    Args:
        recipe: of the experiment; data.split.folds says how many folds there are.
        out: folder of all folds.
        folds: which to run.
        views: how the probabilities are made, or the ensemble that says so and gets a store of its
            own.
        resume: the folder may hold folds already.
        jobs: folds at a time; above 1 each is a process of its own.
        devices: GPUs (as in CUDA_VISIBLE_DEVICES) that the processes take turns on; None leaves
            this process's GPU to all.
        accelerator: 'auto', 'cpu' or 'gpu'.
        summary: score the store if it is complete.

    Returns:
        The table over T, or None where folds are missing or no summary is wanted.

    Raises:
        CheckpointError: the folder holds folds and `resume` is False, or folds of another recipe.
        FoldError: a fold's process failed; the others were finished first.
    """
    beyond = [fold for fold in folds if not 0 <= fold < recipe.data.split.folds]
    if beyond:
        raise RecipeError(
            f'folds {beyond}: {recipe.name} has folds 0..{recipe.data.split.folds - 1} '
            '(data.split.folds)'
        )
    there = sorted(
        path.parent.name for name in (CHECKPOINT, LAST) for path in out.glob(f'fold_*/{name}')
    )
    if there and not resume:
        raise CheckpointError(
            f'{out} holds {", ".join(dict.fromkeys(there))} already; go on with --resume, or give '
            'another folder'
        )
    for fold in folds:
        held_out_frames(fold_recipe(recipe, fold))  # errors of the last fold come before training
    if isinstance(views, Prediction):
        ensemble, prediction = None, views
    else:
        ensemble, prediction = views, prediction_of(views)
    name = store_name(None if ensemble is None else ensemble.name)
    store = out / name
    if resume and (out / 'recipe.yaml').is_file():
        before = load_recipe(out / 'recipe.yaml').model_dump(mode='json')
        check_same_recipe(before, recipe, out)
    _write_yaml(recipe, out / 'recipe.yaml')
    if jobs == 1 and devices is None:
        for fold in folds:
            print(f'fold {fold} of {recipe.data.split.folds}', flush=True)
            run_fold(recipe, fold, out, store, prediction, accelerator)
    else:
        # A process predicts as we would: what we were told goes on to it.
        if ensemble is None:
            told = ['--store-scale', str(prediction.store_scale)]
            told += ['--store-dtype', prediction.store_dtype]
        else:
            _write_yaml(ensemble, out / f'{name}.yaml')
            told = ['--ensemble', str(out / f'{name}.yaml')]
        told += ['--accelerator', accelerator]
        _run_processes(out, folds, told, jobs, devices)
    if not summary:
        return None
    missing = [
        fold
        for fold in range(recipe.data.split.folds)
        if not (store / f'fold_{fold}.json').is_file()
    ]
    if missing:
        print(f'folds {",".join(map(str, missing))} are missing: no scores yet')
        return None
    return score_store(recipe, OutOfFoldStore(store), out if ensemble is None else store)


def _write_yaml(recipe: Recipe | EnsembleRecipe, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as temporary:
        tree = recipe.model_dump(mode='json')
        temporary.write_text(yaml.safe_dump(tree, sort_keys=False), encoding='utf-8')


def _run_processes(
    out: Path, folds: Sequence[int], told: Sequence[str], jobs: int, devices: Sequence[str] | None
) -> None:
    free: SimpleQueue[str | None] = SimpleQueue()
    for number in range(jobs):
        free.put(None if devices is None else devices[number % len(devices)])
    running: dict[int, subprocess.Popen[bytes]] = {}
    stopping = Event()

    def run(fold: int) -> int:
        device = free.get()
        path = os.pathsep.join([str(_ROOT), *filter(None, [os.environ.get('PYTHONPATH')])])
        environ = {**os.environ, 'PYTHONPATH': path}
        if device is not None:
            environ['CUDA_VISIBLE_DEVICES'] = device
        threads = max(1, len(os.sched_getaffinity(0)) // jobs)
        environ.setdefault('OMP_NUM_THREADS', str(threads))
        command = [sys.executable, '-m', 'training.folds', str(out / 'recipe.yaml')]
        command += ['--out', str(out), '--folds', str(fold), '--resume', '--no-summary', *told]
        log = out / f'fold_{fold}.log'
        started = time.monotonic()
        print(f'fold {fold}: {"GPU " + device if device else "CPU or GPU"}, {log}', flush=True)
        with log.open('ab') as file:
            process = subprocess.Popen(command, env=environ, stdout=file, stderr=subprocess.STDOUT)
            running[fold] = process
            if stopping.is_set():  # while this one was being started
                process.terminate()
            code = process.wait()
        minutes = (time.monotonic() - started) / 60
        print(f'fold {fold}: {"failed" if code else "done"} in {minutes:.1f} min', flush=True)
        free.put(device)
        return code

    with _terminated_by_exit(), ThreadPoolExecutor(jobs) as pool:
        try:
            codes = dict(zip(folds, pool.map(run, folds), strict=True))
        finally:
            # Where this was interrupted: the folds keep their last.ckpt, and no other is started.
            pool.shutdown(wait=False, cancel_futures=True)
            stopping.set()
            for process in list(running.values()):
                if process.poll() is None:
                    process.terminate()
    failed = {fold: code for fold, code in codes.items() if code}
    if failed:
        last = '\n'.join(
            f'fold {fold} (exit code {code}): {_last_error(out / f"fold_{fold}.log")}'
            for fold, code in failed.items()
        )
        raise FoldError(f'{len(failed)} of {len(folds)} folds failed; --resume goes on\n{last}')


def _last_error(log: Path) -> str:
    lines = log.read_text(encoding='utf-8', errors='replace').strip().splitlines() or ['no output']
    said = [line for line in lines if line.startswith('error: ')] or lines
    return f'{said[-1]} ({log})'


@contextmanager
def _terminated_by_exit() -> Iterator[None]:
    """Let SIGTERM raise SystemExit, so that the folds' processes are stopped with this one."""

    def leave(number: int, frame: FrameType | None) -> None:
        del frame
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _fold_numbers(text: str) -> list[int]:
    if not all(part.isdigit() for part in text.split(',')):
        raise argparse.ArgumentTypeError(f'{text!r} is not a list of folds, e.g. 0,1,4')
    return [int(part) for part in text.split(',')]


def command_line() -> argparse.ArgumentParser:
    """Return the command's arguments, which the folds' processes are given too."""
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
    parser.add_argument(
        '--store-scale',
        type=float,
        default=0.5,
        help="of the frame's sides, default %(default)s; an ensemble brings its own",
    )
    parser.add_argument(
        '--store-dtype',
        choices=get_args(StoreDtype),
        default='uint8',
        help='default %(default)s; an ensemble brings its own',
    )
    parser.add_argument(
        '--devices', help='GPUs that folds run on in parallel, e.g. 0,1; default: one GPU or CPU'
    )
    parser.add_argument(
        '--jobs', type=int, help='folds at a time, default: one a device; on the CPU one'
    )
    parser.add_argument('--accelerator', default='auto', choices=('auto', 'cpu', 'gpu'))
    parser.add_argument(
        '--no-summary', action='store_true', help='do not score the store: another call will'
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    arguments = command_line().parse_intermixed_args(argv)
    devices = arguments.devices.split(',') if arguments.devices else None
    jobs = arguments.jobs or (len(devices) if devices else 1)
    try:
        recipe = load_recipe(arguments.recipe, arguments.overrides)
        views: Prediction | EnsembleRecipe
        if arguments.ensemble is None:
            views = Prediction(
                network_size_hw=recipe.model.network_size_hw,
                tta_scales=recipe.evaluation.tta_scales,
                tta_flip=recipe.evaluation.tta_flip,
                store_scale=arguments.store_scale,
                store_dtype=arguments.store_dtype,
            )
        else:
            views = load_ensemble(arguments.ensemble)
        run_folds(
            recipe,
            arguments.out,
            folds=arguments.folds or range(recipe.data.split.folds),
            views=views,
            resume=arguments.resume,
            jobs=jobs,
            devices=devices,
            accelerator=arguments.accelerator,
            summary=not arguments.no_summary,
        )
    except (*_ERRORS, FoldError) as err:
        print(f'error: {err}', file=sys.stderr)
        return 1
    print(arguments.out)
    return 0


if __name__ == '__main__':
    sys.exit(main())
