"""Kills commands at random moments, and looks at what they leave.

    python test/fuzz/kill_commands.py                        # all commands, 20 times each
    python test/fuzz/kill_commands.py train audit --times 5 --seed 7

What must hold: a file under its final name is whole, nothing that the command started lives on,
and the next run of the command ends well and clears what the killed ones left. The command is
forked off with its modules imported, so that the kill hits its work and not 10 s of imports.
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
import shutil
import signal
import sys
import tempfile
import time
import traceback

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / 'test/training')]

from tiny_ycor import write_tiny_ycor
import yaml

from desertmind_seg.decoding.image_files import read_color_file
from desertmind_seg.messages.bags import Bag
from desertmind_seg.model.bundle import read_bundle
from training.networks.checkpoint import load_checkpoint, read_last
from training.recipes.load import load_recipe

_SMALL = ['--seed', '5', '--rate-hz', '1', '--size', '120x160']
_TOPICS = ['--image', '/camera/color/image_raw', '--labels', '/labels/ycor_8']
# Grow while a run lasts: a kill may cut their last line.
_LOGS = ('metrics.csv', 'events.out.tfevents')


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
        ('desertmind_seg.pipeline.image_files', 'desertmind_seg.engines.load'),
    ),
    'evaluate_bag': Command(
        'desertmind_seg.evaluate_bag',
        ('IN/bag', '--out', 'OUT', *_TOPICS),
        ('desertmind_seg.evaluation.run',),
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
    'replay_bag': Command(
        'desertmind_seg.replay_bag',
        ('IN/bag', '--out', 'OUT', '--rate', '2', *_TOPICS),
        ('desertmind_seg.replay.run',),
    ),
}


def prepare(inputs: Path) -> None:
    """Make the inputs of all commands: frames, a recipe of seconds, its checkpoint, a bag."""
    frames = write_tiny_ycor(inputs / 'ycor', [0, 1, 2, 3, 4, 5])
    changes = {
        **{f'data.{side}.0.root': frames for side in ('train', 'val')},
        **{'data.split.block_frames': 2, 'data.split.val_every_groups': 3},
        **{'data.num_workers': 1, 'model.encoder_weights': 'none', 'optim.epochs': 2},
        **{'model.frozen_encoder': 'none', 'model.network_size_hw': [64, 96]},
        **{'model.decoder_channels': 32, 'augment.crop_size_hw': [64, 96]},
        **{'optim.batch_size': 2, 'optim.val_every_epochs': 1, 'optim.precision': '32-true'},
    }
    overrides = [f'{key}={value}' for key, value in changes.items()]
    recipe = load_recipe('ycor8_rgb_ycor_only', overrides).model_dump(mode='json')
    (inputs / 'recipe.yaml').write_text(yaml.safe_dump(recipe))
    for name, out in (('train', inputs / 'run'), ('synthetic_bag', inputs)):
        status = _wait(
            _start(COMMANDS[name], COMMANDS[name].arguments(inputs, out), inputs / 'log')
        )
        if status:
            raise SystemExit(f'{name} ended with {status}; see {inputs / "log"}')


def _start(command: Command, argv: list[str], log: Path) -> int:
    """Run a command in a session of its own; return its process id."""
    for name in (command.module, *command.imports):
        import_module(name)
    process = os.fork()
    if process:
        return process
    os.setsid()
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
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


def _children(session: int) -> list[int]:
    """List the processes of a session that are alive."""
    found = []
    for entry in Path('/proc').glob('[0-9]*/stat'):
        with suppress(OSError):
            state, *_, owner = entry.read_text().rpartition(')')[2].split()[:4]
            if int(owner) == session and state != 'Z':
                found.append(int(entry.parent.name))
    return found


def _wait_for_children(session: int, seconds: float = 30.0) -> list[int]:
    """Return those that live on; they are killed."""
    end = time.monotonic() + seconds
    while (alive := _children(session)) and time.monotonic() < end:
        time.sleep(0.2)
    for process in alive:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
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
        **dict.fromkeys(('.png', '.jpg'), read_color_file),
    }


def _files(out: Path) -> list[Path]:
    return sorted(path for path in out.rglob('*') if path.is_file()) if out.is_dir() else []


def _is_partial(path: Path) -> bool:
    return any(part.startswith('.partial-') for part in path.parts)


def _names(out: Path) -> set[str]:
    """Name the results, logs but for those that have a number of their run in their name."""
    names = {path.relative_to(out).as_posix() for path in _files(out)}
    return {name for name in names if not name.startswith(_LOGS[1])}


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


def kill_often(name: str, inputs: Path, work: Path, times: int, rng: random.Random) -> list[str]:
    """Kill a command and return its faults."""
    command, log = COMMANDS[name], work / f'{name}.log'
    reference, out = work / f'{name}_whole', work / name
    began = time.monotonic()
    status = _wait(_start(command, command.arguments(inputs, reference), log))
    seconds = time.monotonic() - began
    if status:
        return [f'a run that nobody kills ends with {status}; see {log}']
    whole, faults, left, ended = _names(reference), [], 0, 0
    argv = [*command.arguments(inputs, out), *command.again]
    for _ in range(times):
        process = _start(command, argv, log)
        time.sleep(rng.uniform(0.0, seconds))
        os.kill(process, signal.SIGKILL)
        if (status := _wait(process)) >= 0:  # it was faster: begin anew
            ended += 1
            faults += faults_of(command, out, whole)
            if status:
                faults.append(f'it ends with {status}; see {log}')
            shutil.rmtree(out, ignore_errors=True)
            continue
        faults += [f'process {alive} lives on' for alive in _wait_for_children(process)]
        faults += faults_of(command, out, whole)
        left += any(_is_partial(path) for path in _files(out))
    status = _wait(_start(command, argv, log))
    if status:
        faults.append(f'the next run ends with {status}; see {log}')
    if _names(out) != whole:
        faults.append(f'the next run leaves {sorted(_names(out) ^ whole)[:5]} more or less')
    print(
        f'{name}: {seconds:.1f} s, killed {times - ended} times, {ended} were faster; {left} left '
        f'something, {len(faults)} faults',
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
    with tempfile.TemporaryDirectory(prefix='kill_commands.') as folder:
        work = Path(folder)
        (work / 'inputs').mkdir()
        prepare(work / 'inputs')
        rng, failed = random.Random(options.seed), 0
        for name in options.commands or COMMANDS:
            for fault in kill_often(name, work / 'inputs', work, options.times, rng):
                print(f'  fault of {name}: {fault}', flush=True)
                failed = 1
    return failed


if __name__ == '__main__':
    sys.exit(main())
