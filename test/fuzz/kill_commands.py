"""Kills commands at random moments, and looks at what they leave.

    python test/fuzz/kill_commands.py                        # all commands, 20 times each
    python test/fuzz/kill_commands.py train audit --times 5 --seed 7

What must hold: a file under its final name is whole, nothing that the command started lives on,
and the next run of the command ends well, clears what the killed ones left, shared memory too, and
has trained to the very weights of a run that nobody killed. The command is forked off with its
modules imported, so that the kill hits its work and not 10 s of imports.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
import json
import os
from pathlib import Path
import random
import re
import shutil
import signal
import sys
import tempfile
import time
import traceback

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / 'test/training')]

import numpy as np
from tiny_ycor import write_tiny_ycor
import torch
import yaml

from desertmind_seg.decoding.image_files import read_color_file
from desertmind_seg.messages.bags import Bag
from desertmind_seg.model.bundle import read_bundle
from training.networks.checkpoint import load_checkpoint, read_last
from training.recipes.load import load_ensemble, load_recipe
from training.recipes.schema import EnsembleRecipe, Recipe

_SMALL = ['--seed', '5', '--rate-hz', '1', '--size', '120x160']
_TOPICS = ['--image', '/camera/color/image_raw', '--labels', '/labels/ycor_8']
# Grow while a run lasts: a kill may cut their last line.
_LOGS = ('metrics.csv', 'events.out.tfevents')
# Of Fast DDS, as a process maps it.
_SEGMENT = re.compile('/dev/shm/fast(?:dds|rtps)_[0-9a-f]{16}')


@dataclass(frozen=True)
class Command:
    """How a command is run on the inputs of `prepare`.

    Attributes:
        module: of its `main`.
        argv: OUT and IN stand for the folder of its results and that of the inputs.
        imports: what its work imports.
        again: what is added where an earlier run may have left results.
        units: results that appear as one, by pattern below OUT.
    """

    module: str
    argv: tuple[str, ...]
    imports: tuple[str, ...]
    again: tuple[str, ...] = ()
    units: str | None = None

    def arguments(self, inputs: Path, out: Path) -> list[str]:
        """Return the arguments for an empty folder `out`."""
        return [text.replace('OUT', str(out)).replace('IN', str(inputs)) for text in self.argv]


_LABELLED = ('--dataset', 'ycor', '--root', 'IN/ycor')
COMMANDS = {
    'train': Command(
        'training.train',
        ('IN/recipe.yaml', '--out', 'OUT', '--save-every-min', '0'),
        ('training.fit.run',),
        ('--resume',),
    ),
    'folds': Command(
        'training.folds',
        ('IN/first.yaml', '--out', 'OUT'),
        ('training.fit.folds', 'training.ensembles.mixtures'),
        ('--resume',),
    ),
    'ensemble': Command(
        'training.ensemble',
        ('IN/pair.yaml', '--oof', 'IN/first', 'IN/second', '--out', 'OUT'),
        ('training.ensembles.fit_weights',),
    ),
    'compare': Command(
        'training.compare',
        (
            *('IN/first/out_of_fold_pair', 'IN/second/out_of_fold_pair'),
            *('--out', 'OUT/table.html'),
        ),
        ('training.evaluation.comparison', 'desertmind_seg.reports.tables'),
    ),
    'synthetic': Command(
        'training.synthetic',
        ('--folder', 'OUT', '--frames', '4', *_SMALL),
        ('training.simulator.writers',),
        ('--force',),
        'drive_*',
    ),
    'synthetic_jobs': Command(
        'training.synthetic',
        ('--folder', 'OUT', '--frames', '4', '--jobs', '2', *_SMALL),
        ('training.simulator.writers',),
        ('--force',),
        'drive_*',
    ),
    'synthetic_bag': Command(
        'training.synthetic',
        ('--bag', 'OUT/bag', '--frames', '3', *_SMALL),
        ('training.simulator.writers',),
        ('--force',),
        'bag',
    ),
    'audit': Command(
        'training.audit',
        (*_LABELLED, '--ontology', 'ycor-8', '--out', 'OUT'),
        ('training.inspection.audit',),
        ('--force',),
    ),
    'import_labels': Command(
        'training.import_labels',
        ('IN/labelme', '--out', 'OUT'),
        ('training.label_folders.importing',),
        ('--force',),
    ),
    'export': Command(
        'training.export',
        ('IN/run/checkpoint.pt', '--out', 'OUT/model.onnx'),
        ('training.bundles.exporting',),
    ),
    'evaluate': Command(
        'training.evaluate',
        ('--checkpoint', 'IN/run/checkpoint.pt', *_LABELLED, '--split', 'all', '--out', 'OUT'),
        ('training.evaluation.run', 'training.evaluation.evaluation_report'),
    ),
    'segment': Command(
        'desertmind_seg.segment',
        ('IN/ycor', '--out', 'OUT'),
        ('desertmind_seg.segmenting.run', 'desertmind_seg.engines.load'),
    ),
    'evaluate_bag': Command(
        'desertmind_seg.evaluate_bag',
        ('IN/bag', '--out', 'OUT', *_TOPICS),
        ('desertmind_seg.evaluation.run',),
        ('--force',),
    ),
    'extract_frames': Command(
        'desertmind_seg.extract_frames',
        (
            *('IN/bag', '--out', 'OUT', '--image', '/camera/color/image_raw'),
            *('--every', '1', '--pre-labels', 'all'),
        ),
        ('desertmind_seg.labelling.run',),
        ('--force',),
    ),
    'calibrate': Command(
        'training.calibrate',
        ('IN/run/checkpoint.pt', '--out', 'OUT/calibrated.pt'),
        ('training.evaluation.calibration',),
    ),
    'model_card': Command(
        'training.model_card',
        (f'{ROOT}/models/ycor8_rgb.onnx', '--out', 'OUT/card.md'),
        ('training.bundles.card',),
    ),
    'benchmark': Command(
        'desertmind_seg.benchmark',
        (
            *(f'{ROOT}/models/ycor8_rgb_int8.onnx', '--out', 'OUT', '--frames', '5'),
            *('--backend', 'onnxruntime-cpu', '--size', '64x64'),
        ),
        ('desertmind_seg.timing.cases',),
        ('--force',),
    ),
    'build_engine': Command(
        'desertmind_seg.build_engine',
        (
            *(f'{ROOT}/models/ycor8_rgb.onnx', '--target', 'sm86', '--shape', '64x64'),
            *('--cache-dir', 'OUT'),
        ),
        ('desertmind_seg.engines.cache',),
    ),
    'play_bag': Command('desertmind_seg.play_bag', ('IN/bag',), ('desertmind_seg.replay.player',)),
    'replay_bag': Command(
        'desertmind_seg.replay_bag',
        ('IN/bag', '--out', 'OUT', '--rate', '2', *_TOPICS),
        ('desertmind_seg.replay.run',),
    ),
}


def prepare(inputs: Path) -> None:
    """Make the inputs of all commands: frames, recipes of seconds, what comes of them, a bag."""
    frames = write_tiny_ycor(inputs / 'ycor', [0, 1, 2, 3, 4, 5])
    triangle = {'label': 'rock', 'shape_type': 'polygon', 'points': [[9, 9], [40, 9], [20, 30]]}
    for image in sorted((inputs / 'ycor').rglob('rgb.jpg')):
        (inputs / 'labelme').mkdir(exist_ok=True)
        shutil.copy(image, inputs / 'labelme' / f'{image.parent.name}.jpg')
        document = {'shapes': [triangle], 'imagePath': f'{image.parent.name}.jpg'}
        (inputs / 'labelme' / f'{image.parent.name}.json').write_text(json.dumps(document))
    changes = {
        **{f'data.{side}.0.root': frames for side in ('train', 'val')},
        **{'data.split.block_frames': 2, 'data.split.val_every_groups': 3},
        **{'data.num_workers': 1, 'model.encoder_weights': 'none', 'optim.epochs': 2},
        **{'model.frozen_encoder': 'none', 'model.network_size_hw': [64, 96]},
        **{'model.decoder_channels': 32, 'augment.crop_size_hw': [64, 96]},
        **{'optim.batch_size': 2, 'optim.val_every_epochs': 1, 'optim.precision': '32-true'},
    }
    folds = {'data.split.by': 'folds', 'data.split.folds': 2}
    for name, changed in {
        'recipe': changes,
        'first': {**changes, **folds, 'name': 'first'},
        'second': {**changes, **folds, 'name': 'second', 'seed': 5, 'optim.epochs': 1},
    }.items():
        overrides = [f'{key}={value}' for key, value in changed.items()]
        recipe = load_recipe('ycor8_rgb_ycor_only', overrides)
        _write_recipe(inputs / f'{name}.yaml', recipe)
    pair = {
        **{'name': 'pair', 'ontology': 'ycor-8', 'base_size_hw': [64, 96]},
        **{'members': '[{recipe: first, folds: 2}, {recipe: second, folds: 2}]'},
    }
    overrides = [f'{key}={value}' for key, value in pair.items()]
    _write_recipe(inputs / 'pair.yaml', load_ensemble('exp093_ensemble', overrides))
    for command, arguments in (
        (COMMANDS['train'], COMMANDS['train'].arguments(inputs, inputs / 'run')),
        (COMMANDS['synthetic_bag'], COMMANDS['synthetic_bag'].arguments(inputs, inputs)),
        *((COMMANDS['folds'], _member(inputs, name)) for name in ('first', 'second')),
    ):
        status = _wait(_start(command, arguments, inputs / 'log'))
        if status:
            raise SystemExit(f'{command.module} ended with {status}; see {inputs / "log"}')


def _member(inputs: Path, name: str) -> list[str]:
    ensemble = ['--ensemble', str(inputs / 'pair.yaml')]
    return [str(inputs / f'{name}.yaml'), '--out', str(inputs / name), *ensemble]


def _write_recipe(path: Path, recipe: Recipe | EnsembleRecipe) -> None:
    path.write_text(yaml.safe_dump(recipe.model_dump(mode='json')))


def _start(command: Command, argv: list[str], log: Path) -> int:
    """Run a command in a session of its own; return its process id."""
    for name in (command.module, *command.imports):
        import_module(name)
    process = os.fork()
    if process:
        return process
    os.setsid()
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    status = 70
    try:
        status = import_module(command.module).main(argv)
    except SystemExit as err:
        status = int(err.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def _wait(process: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def _processes() -> Iterator[tuple[int, int, int]]:
    """Yield number, parent and session of each process that is alive."""
    for entry in Path('/proc').glob('[0-9]*/stat'):
        with suppress(OSError):
            state, parent, _, session = entry.read_text().rpartition(')')[2].split()[:4]
            if state != 'Z':
                yield int(entry.parent.name), int(parent), int(session)


def _family(process: int) -> set[int]:
    """List a process, its session, and what they started in sessions of their own."""
    listed, family = list(_processes()), {process}
    while more := {
        number
        for number, parent, session in listed
        if (parent in family or session == process) and number not in family
    }:
        family |= more
    return family


def _segments(family: set[int]) -> set[Path]:
    """List the shared memory of Fast DDS that processes map."""
    found: set[Path] = set()
    for process in family:
        with suppress(OSError):
            maps = Path(f'/proc/{process}/maps').read_text()
            found |= {Path(name) for name in _SEGMENT.findall(maps)}
    return found


def _wait_for_end(process: int, family: set[int], seconds: float = 30.0) -> set[int]:
    """Wait for what a killed process had started; return what lives on, which is killed."""

    def listed() -> set[int]:
        return {each for each, _, session in _processes() if each in family or session == process}

    end = time.monotonic() + seconds
    while (alive := listed()) and time.monotonic() < end:
        time.sleep(0.2)
    for each in alive:
        with suppress(ProcessLookupError):
            os.kill(each, signal.SIGKILL)
    return alive


def _read_bag(path: Path) -> object:
    with Bag(path.parent) as bag:
        return sum(1 for _ in bag.messages())


def _readers() -> dict[str, Callable[[Path], object]]:
    """Return what reads the files of a suffix and raises where one is not whole."""

    def page(path: Path) -> None:
        if not path.read_text().rstrip().endswith('</html>'):
            raise ValueError('a page that is cut off')

    def tree(path: Path) -> None:
        if not isinstance(yaml.safe_load(path.read_text()), dict):
            raise ValueError('no mapping')

    return {
        '.json': lambda path: json.loads(path.read_text()),
        '.html': page,
        '.yaml': tree,
        '.pt': load_checkpoint,
        '.ckpt': read_last,
        '.onnx': read_bundle,
        '.mcap': _read_bag,
        '.npz': lambda path: dict(np.load(path)),
        **dict.fromkeys(('.png', '.jpg'), read_color_file),
    }


def _files(out: Path) -> list[Path]:
    return sorted(path for path in out.rglob('*') if path.is_file()) if out.is_dir() else []


def _is_partial(path: Path) -> bool:
    return any(part.startswith('.partial-') for part in path.parts)


def _names(out: Path) -> set[str]:
    """Name the results, logs but for those that have a number of their run in their name."""
    names = {path.relative_to(out).as_posix() for path in _files(out)}
    return {name for name in names if not Path(name).name.startswith(_LOGS[1])}


def faults_of(command: Command, out: Path, whole: set[str]) -> Iterator[str]:
    """Say what a killed run left that is not whole; `whole` are the results of one that ended."""
    readers = _readers()
    for path in _files(out):
        name = path.relative_to(out).as_posix()
        if _is_partial(path) or path.name.startswith(_LOGS):
            continue
        try:
            readers.get(path.suffix, lambda _: None)(path)
        except Exception as err:  # whatever a reader says of half a file
            yield f'{name}: {type(err).__name__}: {err}'
    for unit in out.glob(command.units) if command.units else ():
        missing = {name for name in whole if name.startswith(f'{unit.name}/')} - _names(out)
        if missing:
            yield f'{unit.name} lacks {sorted(missing)[:3]}'


def _other_weights(out: Path, whole: Path) -> Iterator[str]:
    """Name the checkpoints below `out` that are not those below `whole`, bit by bit."""
    for path in sorted(whole.rglob('*.pt')):
        name = path.relative_to(whole)
        ours, theirs = (load_checkpoint(root / name).state_dict for root in (out, whole))
        if any(not torch.equal(ours[key], theirs[key]) for key in theirs):
            yield f'{name} has other weights than that of a run that nobody killed'


def kill_often(name: str, inputs: Path, work: Path, times: int, rng: random.Random) -> list[str]:
    """Kill a command and return its faults."""
    command, log = COMMANDS[name], work / f'{name}.log'
    reference, out = work / f'{name}_whole', work / name
    began = time.monotonic()
    status = _wait(_start(command, command.arguments(inputs, reference), log))
    seconds = time.monotonic() - began
    if status:
        return [f'a run that nobody kills ends with {status}; see {log}']
    whole, faults, left, killed, ended = _names(reference), [], 0, 0, 0
    segments: set[Path] = set()
    argv = [*command.arguments(inputs, out), *command.again]
    while killed < times and ended < 5 * times:  # of 0.1 s, most end before the kill
        process = _start(command, argv, log)
        time.sleep(rng.uniform(0.0, seconds))
        os.kill(process, signal.SIGSTOP)  # it starts nothing more while we look at what it has
        family = _family(process)
        mapped = _segments(family)
        os.kill(process, signal.SIGKILL)
        if (status := _wait(process)) >= 0:  # it was faster: begin anew
            ended += 1
            faults += faults_of(command, out, whole)
            if status:
                faults.append(f'it ends with {status}; see {log}')
            shutil.rmtree(out, ignore_errors=True)
            continue
        faults += [f'process {alive} lives on' for alive in _wait_for_end(process, family)]
        faults += faults_of(command, out, whole)
        killed += 1
        left += any(_is_partial(path) for path in _files(out))
        segments |= mapped
    status = _wait(_start(command, argv, log))
    if status:
        faults.append(f'the next run ends with {status}; see {log}')
    if _names(out) != whole:
        faults.append(f'the next run leaves {sorted(_names(out) ^ whole)[:5]} more or less')
    elif not status:
        faults += _other_weights(out, reference)
    faults += [f'the next run leaves {segment}' for segment in segments if segment.exists()]
    print(
        f'{name}: {seconds:.1f} s, killed {killed} times, {ended} were faster; {left} left '
        f'something, {len(segments)} had shared memory, {len(faults)} faults',
        flush=True,
    )
    return faults


def main() -> int:
    """Run the script; return 1 if a command has a fault."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('commands', nargs='*', choices=[*COMMANDS, []], metavar='COMMAND')
    parser.add_argument('--times', type=int, default=20, help='default: %(default)s')
    parser.add_argument('--seed', type=int, default=0, help='of the moments')
    options = parser.parse_args()
    # Nobody else hears the bag that is played, or is heard.
    os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] = 'OFF'
    work = Path(tempfile.mkdtemp(prefix='kill_commands.'))
    (work / 'inputs').mkdir()
    prepare(work / 'inputs')
    rng, failed = random.Random(options.seed), 0
    for name in options.commands or COMMANDS:
        for fault in kill_often(name, work / 'inputs', work, options.times, rng):
            print(f'  fault of {name}: {fault}', flush=True)
            failed = 1
    if failed:
        print(f'what was left and the logs are in {work}')
    else:
        shutil.rmtree(work)
    return failed


if __name__ == '__main__':
    sys.exit(main())
