"""What people read: command lines are accepted, links lead somewhere, tables are the code's."""

import argparse
import ast
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stderr, redirect_stdout
import importlib.util
import io
import multiprocessing
import os
from pathlib import Path
import re
import runpy
import shlex
import subprocess
import sys
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest
from tiny_bag import DepthShot, TinyDrive, write_drive

from desertmind_seg.decoding.image_files import EXTENSIONS as IMAGE_EXTENSIONS
from desertmind_seg.parameters.table import PARAMETERS
from desertmind_seg.sources.videos import EXTENSIONS as VIDEO_EXTENSIONS
from training import options
from training.recipes.load import load_ensemble, load_recipe
from training.recipes.schema import RecipeError

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / 'README.md', *sorted((ROOT / 'docs').glob('*.md'))]
LINKING = [
    *PAGES,
    *(ROOT / name / 'README.md' for name in ('desertmind_seg', 'training')),
    ROOT / 'CONTRIBUTING.md',
    *sorted((ROOT / 'models').glob('*.md')),
]

# Commands that are run as they stand, in a folder where what they name is small.
RUN = (
    r'desertmind segment IMAGE_OR_FOLDER --out .*',
    r'desertmind evaluate_bag out/demo/sample_drive .*',
    r'desertmind audit --dataset folder .*',
)
# Commands of which not even the arguments can be looked at -> why.
NOT_RUN = {
    r'sudo apt install .*': 'changes the machine',
    r'printf .* sudo tee .*|sudo sysctl .*|fastdds shm clean': 'changes the machine',
    r'docker run --network .*': 'needs Docker',
    r'pip install .*': 'needs the network; `make test` installs the same packages',
    r'pip download .*': 'needs the network',
    r'test/gpu/run .*': 'needs a GPU; test_gpu_run.py has its dry run',
    r'tensorboard .*': 'serves until it is stopped',
    r'ros2 bag .*': 'not ours',
    r'source /opt/ros/.*|cd ~/ros2_ws|rosdep .*|source install/.*': 'needs ROS 2 from apt',
    r'python3 .*colcon\)" build': 'needs ROS 2 from apt; test_install.py builds with colcon',
    r'python3 -m venv .*|source \.venv/.*': 'the tests have their environment',
    r'export .*|eval .*': 'sets variables of the shell',
    r'(sudo (cp|systemctl)|journalctl|docker) .*': 'changes the machine',
    r'(rviz2|ros2 (topic|run diagnostic_aggregator|launch foxglove_bridge)) .*': 'not ours',
    r'git (log|show) .*': 'needs the history',
    r'ray start .*': 'starts a cluster',
}
# Commands that must not pass -> what they are told.
WRONG = {
    'desertmind segment trail.jpg --outt out/masks': 'usage: ',
    'python -m training.train ycor8_rgb --out out/run optim.epoch=2': 'optim.epoch',
    'python -m training.train no_such_recipe --out out/run': 'no_such_recipe',
}
# An iPhone SE shows about 45 characters; a table may be scrolled to twice that.
MAX_WORD, MAX_TABLE = 42, 90


def blocks(page: Path) -> list[tuple[str, str]]:
    """List language and text of the fenced blocks of a page."""
    return re.findall(r'^```([^\n]*)\n(.*?)^```', page.read_text(), re.MULTILINE | re.DOTALL)


def documented_commands() -> Iterator[str]:
    """Yield each command of the pages once, on one line and without its comment."""
    seen = set()
    for page in PAGES:
        for language, text in blocks(page):
            lines = text.replace('\\\n', ' ').splitlines() if language == 'sh' else []
            for line in lines:
                command = ' '.join(line.split(' #')[0].split())
                if command and command not in seen:
                    seen.add(command)
                    yield command


COMMANDS = list(documented_commands())


def one_of(patterns: Iterable[str], command: str) -> bool:
    return any(re.fullmatch(pattern, command) for pattern in patterns)


def our_program(command: str) -> tuple[str, list[str]] | None:
    """Return module or script that a command runs, and its arguments; None if it is not ours."""
    words = shlex.split(command.split(' > ')[0])
    if words[0] in ('python', 'torchrun') and '-m' in words:
        place = words.index('-m') + 1
        return words[place], words[place + 1 :]
    if words[0] == 'python':
        return words[1], words[2:]
    if words == ['desertmind']:
        return 'desertmind_seg.__main__', []
    if words[:3] == ['ros2', 'run', 'desertmind_seg']:
        words = ['desertmind', *words[3:]]
    for half in ('desertmind_seg', 'training') if words[0] == 'desertmind' else ():
        if (ROOT / half / f'{words[1]}.py').is_file():
            return f'{half}.{words[1]}', words[2:]
    return None


PROGRAMS = {command: found for command in COMMANDS if (found := our_program(command))}
LAUNCHES = [command for command in COMMANDS if command.startswith('ros2 launch desertmind_seg ')]
MAKES = [command for command in COMMANDS if command.startswith('make ')]


class AcceptedError(Exception):
    """Ends a command when its arguments were accepted; holds what was parsed."""


def _stop_after_parsing(workplace: Path) -> None:
    """Let no command of this process go further than its arguments, which name files there."""
    os.chdir(workplace)

    def stop_after(parse: Callable[..., argparse.Namespace]) -> Callable[..., None]:
        def parse_and_stop(*args: Any, **kwargs: Any) -> None:
            raise AcceptedError(parse(*args, **kwargs))

        return parse_and_stop

    for name in ('parse_args', 'parse_intermixed_args'):
        parse = getattr(argparse.ArgumentParser, name)
        setattr(argparse.ArgumentParser, name, stop_after(parse))
    # Documents name checkpoints and bundles that the command before would have written.
    options.checkpoint_file = options.bundle_file = options.stage_file = Path


def _why_refused(program: str, arguments: list[str]) -> str | None:
    """Return what a command says against its arguments, None if it takes them."""
    sys.argv = [program, *arguments]
    said = io.StringIO()
    try:
        with redirect_stderr(said), redirect_stdout(said):
            if program.endswith('.py'):
                sys.path.insert(0, str((ROOT / program).parent))  # as Python does for a script
                runpy.run_path(str(ROOT / program), run_name='__main__')
            else:
                runpy.run_module(program, run_name='__main__')
    except SystemExit as stop:
        return None if stop.code == 0 else said.getvalue()  # 0: --help
    except AcceptedError as accepted:
        return _why_no_recipe(program, **vars(accepted.args[0]))
    return f'{program} did not look at its arguments'


def _why_no_recipe(
    program: str, recipe: str = '', overrides: Sequence[str] = (), **_others: Any
) -> str | None:
    """Return what is wrong with the recipe that a command names, None if it names none."""
    try:
        if recipe:
            load = load_ensemble if program.endswith('.ensemble') else load_recipe
            load(recipe, overrides)
    except (RecipeError, FileNotFoundError) as err:
        return str(err)
    return None


@pytest.fixture(scope='module')
def refused(workplace: Path) -> dict[str, str | None]:
    """Why each command refuses its arguments; in a process of their own, as some load torch."""
    jobs = PROGRAMS | {command: our_program(command) for command in WRONG}
    context = multiprocessing.get_context('spawn')
    with ProcessPoolExecutor(1, context, _stop_after_parsing, (workplace,)) as pool:
        reasons = pool.map(_why_refused, *zip(*jobs.values(), strict=True))
        return dict(zip(jobs, reasons, strict=True))


@pytest.fixture(scope='module')
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder in which the documented commands find what they name, small."""
    folder = tmp_path_factory.mktemp('docs')
    (folder / 'models').symlink_to(ROOT / 'models')
    (folder / 'segformer.onnx').touch()  # whether it is there is asked with the arguments
    shots = tuple(DepthShot(100.0 * i, np.full((66, 90), 4000, np.uint16)) for i in range(3))
    (folder / 'out/demo').mkdir(parents=True)
    write_drive(folder / 'out/demo/sample_drive', TinyDrive(3, depth=shots))

    (table,) = (text for kind, text in blocks(ROOT / 'docs/own_data.md') if kind == 'yaml')
    (folder / 'my_frames').mkdir()
    random = np.random.default_rng(0)
    for drive in range(7):
        for kind, pixels in (
            ('images', random.integers(0, 256, (72, 96, 3), np.uint8)),
            ('masks', random.integers(1, 5, (72, 96), np.uint8)),
        ):
            path = folder / f'my_frames/{kind}/drive_{drive}/0.png'
            path.parent.mkdir(parents=True)
            cv2.imwrite(str(path), pixels)
    (folder / 'my_frames/classes.yaml').write_text(table)
    (folder / 'DATA').symlink_to('my_frames')
    (folder / 'IMAGE_OR_FOLDER').mkdir()
    cv2.imwrite(str(folder / 'IMAGE_OR_FOLDER/trail.jpg'), pixels)

    (folder / 'bin').mkdir()
    for name, words in {
        'python': '',
        'desertmind': '-m desertmind_seg',
    }.items():
        script = folder / 'bin' / name
        script.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {words} "$@"\n')
        script.chmod(0o755)
    return folder


def test_every_command_has_its_test_or_a_reason() -> None:
    known = {*PROGRAMS, *LAUNCHES, *MAKES}
    assert len(known) > 40
    assert [line for line in COMMANDS if line not in known and not one_of(NOT_RUN, line)] == []
    for pattern in (*RUN, *NOT_RUN):
        assert any(re.fullmatch(pattern, line) for line in COMMANDS), f'{pattern} fits nothing'


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_commands_stand_in_blocks_that_are_read(page: Path) -> None:
    assert {language for language, _ in blocks(page)} <= {
        'sh',
        'yaml',
        'python',
        'ini',
        'sql',
        '{toctree}',
    }


@pytest.mark.parametrize('command', PROGRAMS)
def test_arguments_are_accepted(command: str, refused: dict[str, str | None]) -> None:
    assert refused[command] is None


@pytest.mark.parametrize('command', WRONG)
def test_wrong_arguments_are_seen(command: str, refused: dict[str, str | None]) -> None:
    assert WRONG[command] in str(refused[command])


@pytest.mark.parametrize('command', [line for line in COMMANDS if one_of(RUN, line)])
def test_command_runs_as_it_stands(command: str, workplace: Path) -> None:
    if 'training' in command and importlib.util.find_spec('torch') is None:
        pytest.skip('needs torch')
    environment = os.environ | {
        'PATH': f'{workplace / "bin"}:{os.environ["PATH"]}',
        'PYTHONPATH': str(ROOT),
    }
    result = subprocess.run(
        ['bash', '-c', command], cwd=workplace, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    out = workplace / re.findall(r'--out (\S+)', command)[0]
    assert any(out.iterdir())


def launch_arguments(name: str) -> set[str]:
    """Read which arguments a launch file declares: strings that stand first in a call or tuple."""
    tree = ast.parse((ROOT / 'launch' / name).read_text())
    firsts = [
        *(node.elts[0] for node in ast.walk(tree) if isinstance(node, ast.Tuple) and node.elts),
        *(node.args[0] for node in ast.walk(tree) if isinstance(node, ast.Call) and node.args),
    ]
    return {str(first.value) for first in firsts if isinstance(first, ast.Constant)}


@pytest.mark.parametrize('command', LAUNCHES)
def test_launch_file_takes_the_arguments(command: str) -> None:
    _, _, _, name, *given = shlex.split(command)
    known = launch_arguments(name) | launch_arguments('seg.launch.py')
    names = {word.split(':=')[0] for word in given if word != '--show-args'}
    assert names <= known


@pytest.mark.parametrize('command', MAKES)
def test_makefile_knows_the_target(command: str) -> None:
    words = [*shlex.split(command), '--dry-run']
    result = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def anchors(page: Path) -> set[str]:
    """List what a link into a page may name, as GitHub and Sphinx do: its headings as words."""
    text = re.sub(r'^```.*?^```', '', page.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r'^#+ (.+)', text, re.MULTILINE)
    return {re.sub(r'[^\w -]', '', each.lower()).replace(' ', '-') for each in headings}


@pytest.mark.parametrize('page', LINKING, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r'\]\((?!https?:)([^)#]*)#?([^)]*)\)', page.read_text())
    targets = [(page.parent / path if path else page, anchor) for path, anchor in links]
    lost = [
        (target, anchor)
        for target, anchor in targets
        if not target.exists() or (anchor and anchor not in anchors(target))
    ]
    assert lost == []


def unbreakable(text: str) -> int:
    """Length of the longest word that a phone cannot break; a link shows its text alone."""
    shown = re.sub(r'\]\([^)]*\)', '', text)
    return max((len(word.strip('`*[]!.,;:')) for word in shown.split()), default=0)


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_page_fits_a_phone(page: Path) -> None:
    text = re.sub(r'^```.*?^```', '', page.read_text(), flags=re.MULTILINE | re.DOTALL)
    lines = [line for line in text.splitlines() if not line.startswith(('    ', '|'))]
    assert [line for line in lines if unbreakable(line) > MAX_WORD] == []
    for table in re.findall(r'(?:^\|.*\n)+', text, re.MULTILINE):
        rows = [re.split(r'(?<!\\)\|', line)[1:-1] for line in table.splitlines()]
        width = sum(
            max(unbreakable(cell) for cell in column) for column in zip(*rows, strict=True)
        )
        assert width <= MAX_TABLE, table


@pytest.fixture(scope='module')
def generate() -> ModuleType:
    """docs/generate.py, as a module."""
    spec = importlib.util.spec_from_file_location('generate', ROOT / 'docs/generate.py')
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_generated_files_are_those_of_the_code(generate: ModuleType) -> None:
    assert len(generate.WRITERS) >= 2
    for path, text in generate.WRITERS.items():
        assert (ROOT / path).read_text() == text(), f'write {path} again: python docs/generate.py'


def test_parameters_page_explains_every_parameter() -> None:
    page = ' '.join((ROOT / 'docs/parameters.md').read_text().split())
    for spec in PARAMETERS:
        assert f'- `{spec.name}`: ' in page
        assert spec.description in page


def test_segment_page_lists_every_extension() -> None:
    page = (ROOT / 'docs/segment.md').read_text()
    for kind, extensions in ('an image', IMAGE_EXTENSIONS), ('a video', VIDEO_EXTENSIONS):
        assert f'| {kind}: `{" ".join(extensions)}` |' in page


def test_api_pages_hold_every_module(generate: ModuleType) -> None:
    pages = '\n'.join(generate.api_pages().values())
    for path in (ROOT / 'desertmind_seg').rglob('*.py'):
        module = '.'.join(path.relative_to(ROOT).with_suffix('').parts)
        assert f'.. automodule:: {module.removesuffix(".__init__")}\n' in pages
