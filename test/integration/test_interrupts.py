"""Ctrl-C at any moment, once and twice: every command ends quietly, with 130 or 0."""

from __future__ import annotations

from contextlib import suppress
import fcntl
import os
from pathlib import Path
import pty
import random
import signal
import subprocess
import sys
import termios
import time

import cv2
from node_process import ROOT, node_arguments
import numpy as np
import psutil
import pytest

# What ends while Python itself begins, before the first line of ours, ends by the signal.
QUIET = (0, 130, -signal.SIGINT)


def heed_ctrl_c() -> None:
    """Undo what a shell does to commands in the background, such as `make test &`: no SIGINT."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def run_until(
    command: list[str], after_sec: float, again_sec: float | None, environment: dict[str, str]
) -> tuple[int, str]:
    """Start a command, send SIGINT after a while, perhaps once more; returns status and stderr."""
    process = subprocess.Popen(
        [sys.executable, '-m', *command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        preexec_fn=heed_ctrl_c,
    )
    for wait_sec in (after_sec, again_sec):
        if wait_sec is not None:
            with suppress(subprocess.TimeoutExpired):
                process.wait(wait_sec)
            process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    return process.returncode, errors


@pytest.mark.parametrize('name', ['segmentation_node', 'segment', 'nav2_config'])
def test_ctrl_c_at_random_times_ends_quietly(name: str, tiny_bundle: Path, tmp_path: Path) -> None:
    images = tmp_path / 'images'
    images.mkdir()
    for index in range(20):
        cv2.imwrite(str(images / f'{index}.png'), np.zeros((480, 640, 3), np.uint8))
    bundle, out = str(tiny_bundle), str(tmp_path / 'out')
    arguments = {
        'segmentation_node': node_arguments({'autostart': 'true', 'model.bundle': bundle}),
        'segment': [str(images), '--bundle', bundle, '--out', out],
        'nav2_config': ['--bundle', bundle],
    }[name]
    environment = {**os.environ, 'PYTHONPATH': str(ROOT)}
    generator = random.Random(name)
    # Imports and configuring take 0.9 s, on a machine with nothing else to do.
    for index in range(8):
        after_sec = generator.uniform(0.0, 1.5)
        again_sec = generator.uniform(0.0, 0.1) if index % 2 else None
        status, errors = run_until(
            [f'desertmind_seg.{name}', *arguments], after_sec, again_sec, environment
        )
        when = f'{name} after {after_sec:.3f} s, again {again_sec}: {status}\n{errors}'
        # Python's own start, before the first line of ours, is not ours to keep quiet. It reads
        # files of `.venv`, which is in this folder, too.
        if 'Traceback' not in errors or f'{ROOT}/desertmind_seg/' in errors:
            assert 'Traceback' not in errors, when
            assert status in QUIET, when


@pytest.mark.parametrize('name', ['SIGINT', 'SIGTERM'])
def test_a_signal_that_an_import_swallows_ends_the_node(name: str) -> None:
    """As what C++ calls does, and a weak reference's callback."""
    code = f"""
import signal, sys
from desertmind_seg.segmentation_node import main
class Swallows:
    def find_spec(self, name, *_):
        if name == 'desertmind_seg.node.run':
            try:
                signal.raise_signal(signal.{name})
            except KeyboardInterrupt:
                pass
sys.meta_path.insert(0, Swallows())
sys.exit(main(['--ros-args', '-p', 'autostart:=true', '-p', 'model.bundle:=/nowhere.onnx']))
"""
    ended = subprocess.run([sys.executable, '-c', code], cwd=ROOT, check=False)
    assert ended.returncode == 130


def test_ctrl_c_in_a_finaliser_ends_a_command_quietly() -> None:
    """Python prints what it cannot raise, and goes on."""
    code = """
import signal, sys
from desertmind_seg.nav2_config import main
class Interrupted:
    def __del__(self):
        signal.raise_signal(signal.SIGINT)
class Imports:
    def find_spec(self, name, *_):
        if name == 'desertmind_seg.model.bundle':
            Interrupted()
sys.meta_path.insert(0, Imports())
sys.exit(main(['--bundle', '/nowhere.onnx']))
"""
    ended = subprocess.run(
        [sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stdout) == (130, '')
    assert ended.stderr.strip().endswith('stopped')
    assert len(ended.stderr.splitlines()) == 1, ended.stderr


def test_ctrl_c_is_not_raised_through_an_extension_that_is_loaded() -> None:
    """Onnx's ends in a segmentation fault by it."""
    code = """
import signal, sys
from desertmind_seg.options import command_parser, run_command
text = 'def create_module(): signal.raise_signal(signal.SIGINT)'
exec(compile(text, '<frozen importlib._bootstrap_external>', 'exec'))
def work():
    try:
        create_module()
    finally:
        print('was raised')
sys.exit(run_command(command_parser('a_command', 'Load.', '', ''), work))
"""
    ended = subprocess.run(
        [sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stdout) == (130, '')
    assert ended.stderr.endswith('a_command: stopped\n')


def test_a_terminal_that_closes_ends_a_command_as_ctrl_c_does(tmp_path: Path) -> None:
    code = """
import signal, sys, time
from desertmind_seg.options import command_parser, run_command
def work():
    try:
        print('begun', flush=True)
        time.sleep(60)
    except KeyboardInterrupt:
        print('what the terminal would be told', flush=True)
        signal.raise_signal(signal.SIGHUP)  # bash hands it on, and the kernel does at bash's end
        open(sys.argv[1], 'x')
        raise
sys.exit(run_command(command_parser('a_command', 'Wait.', '', ''), work))
"""
    terminal, its_end = pty.openpty()

    def own_terminal() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    process = subprocess.Popen(
        [sys.executable, '-c', code, str(tmp_path / 'put_away')],
        cwd=ROOT,
        stdin=its_end,
        stdout=its_end,
        stderr=its_end,
        start_new_session=True,
        preexec_fn=own_terminal,
    )
    os.close(its_end)
    assert os.read(terminal, 100).startswith(b'begun')
    os.close(terminal)
    assert process.wait(60) == 130
    assert (tmp_path / 'put_away').exists()


def test_a_command_under_nohup_outlives_its_terminal() -> None:
    code = """
import signal, sys
from desertmind_seg.options import command_parser, run_command
signal.signal(signal.SIGHUP, signal.SIG_IGN)
work = lambda: signal.raise_signal(signal.SIGHUP) or 0
sys.exit(run_command(command_parser('a_command', 'Go on.', '', ''), work))
"""
    subprocess.run([sys.executable, '-c', code], cwd=ROOT, check=True)


@pytest.mark.parametrize('signals', [['SIGKILL'], ['SIGINT', 'SIGINT']])
def test_processes_of_a_command_end_with_it(signals: list[str], tmp_path: Path) -> None:
    command = ['training.synthetic', '--folder', str(tmp_path / 'drives'), '--frames', '250']
    process = subprocess.Popen(
        [sys.executable, '-m', *command, '--jobs', '2'],
        stderr=subprocess.DEVNULL,
        env={**os.environ, 'PYTHONPATH': str(ROOT)},
        preexec_fn=heed_ctrl_c,
    )
    try:
        # Two workers, and what multiprocessing starts to tidy up after them; all ready.
        children: list[psutil.Process] = []
        deadline = time.monotonic() + 60
        while len(children) < 3 or not all(map(ignores_sigint, children)):
            children = psutil.Process(process.pid).children(recursive=True)
            assert time.monotonic() < deadline
            time.sleep(0.05)
        for name in signals:
            process.send_signal(signal.Signals[name])
            time.sleep(0.1)
        process.wait(10)
    finally:
        process.kill()
        process.wait()
    _, alive = psutil.wait_procs(children, timeout=10)
    assert alive == []


def ignores_sigint(process: psutil.Process) -> bool:
    status = Path(f'/proc/{process.pid}/status').read_text()
    return bool(int(status.split('SigIgn:')[1].split()[0], 16) & 1 << (signal.SIGINT - 1))


@pytest.mark.parametrize('arguments', [['--help'], ['--ros-args', '--help'], ['-h', '-r', 'a:=b']])
def test_help_of_the_node(arguments: list[str]) -> None:
    run = subprocess.run(
        [sys.executable, '-m', 'desertmind_seg.segmentation_node', *arguments],
        check=True,
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert 'ros2 launch desertmind_seg seg.launch.py' in run.stdout
    assert run.stderr == ''
