"""Command: `desertmind`, which lists the other commands and runs them.

`desertmind segment ...` is `python -m desertmind_seg.segment ...`, and `desertmind train ...` is
`python -m training.train ...` where the package lies in a checkout.
"""

import argparse
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module
import os
from pathlib import Path
import signal
import sys
from typing import Any

from desertmind_seg import __version__
from desertmind_seg.model.files import share_path
from desertmind_seg.options import NOTHING_WRITTEN, command_parser, error_line, exit_on

_ROOT = Path(__file__).resolve().parents[1]
# In the order of a user's work: command -> its half, and what it does.
_SECTIONS = {
    'try it, without a vehicle': {
        'synthetic': ('training', 'render an off-road drive with labels and depth'),
        'replay_bag': ('desertmind_seg', 'play a bag through the node and report what came back'),
    },
    'label frames of your own': {
        'extract_frames': ('desertmind_seg', 'choose frames of a recording for a labelling tool'),
        'import_labels': ('training', 'make a data folder of what a labelling tool exported'),
        'audit': ('training', 'name what is wrong with a labelled set before training on it'),
    },
    'train a model': {
        'train': ('training', 'train a recipe'),
        'folds': ('training', 'train a recipe once a fold'),
        'ensemble': ('training', 'weigh networks that folds trained'),
        'calibrate': ('training', "make a checkpoint's confidence true"),
    },
    'judge and export it': {
        'evaluate': ('training', 'score a checkpoint or bundle on a labelled set'),
        'compare': ('training', 'tell which differences between runs are real'),
        'reproduce': ('training', 'run the reference experiments, small, and compare'),
        'export': ('training', 'write the bundle that runs on a vehicle: one ONNX file'),
        'import_network': ('training', 'make a bundle of an ONNX network of another program'),
        'model_card': ('training', "write a bundle's card from what it says about itself"),
    },
    'use it': {
        'segment': ('desertmind_seg', 'segment images, videos, bags, cameras, streams'),
        'evaluate_bag': ('desertmind_seg', 'segment every frame of a bag, and score the masks'),
        'evaluate_fleet': ('desertmind_seg', 'evaluate thousands of bags, and say pass or fail'),
    },
    'on the vehicle': {
        'segmentation_node': ('desertmind_seg', 'run the ROS 2 node'),
        'nav2_config': ('desertmind_seg', 'write the parameters of a layer of Nav2'),
        'play_bag': ('desertmind_seg', 'publish a bag on its topics in real time'),
        'build_engine': ('desertmind_seg', 'build TensorRT engines'),
        'benchmark': ('desertmind_seg', 'measure time and memory of bundles on this machine'),
    },
}
_COMMANDS = {name: half for rows in _SECTIONS.values() for name, (half, _) in rows.items()}

# Option -> the suffixes of the files it takes; folders lead to them.
_SUFFIXES = {
    **dict.fromkeys(('bundle', 'bundles', 'against'), ('onnx',)),
    'checkpoint': ('pt',),
    'recipe': ('yaml',),
    'ontology': ('yaml',),
}


def build_parser() -> argparse.ArgumentParser:
    """Build the command line: a command, and what that one reads."""
    width = max(map(len, _COMMANDS))
    lines = ['Commands, in the order of the work:']
    for title, rows in _SECTIONS.items():
        lines.append(f'\n{title}')
        for name, (_, what) in rows.items():
            note = '' if _is_there(name) else ' (from a checkout)'
            lines.append(f'  {name:{width}}  {what}{note}')
    parser = command_parser('desertmind_seg', '\n'.join(lines))
    parser.usage = '%(prog)s COMMAND [OPTION ...]\n       %(prog)s COMMAND --help'
    parser.add_argument('command', nargs='?', choices=_COMMANDS, help=argparse.SUPPRESS)
    parser.add_argument('--version', action='version', version=f'desertmind {__version__}')
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that is named first; return its exit status."""
    exit_on(signal.SIGINT)
    if str(_ROOT) not in sys.path:  # of an editable install, which finds desertmind_seg alone
        sys.path.append(str(_ROOT))
    parser = build_parser()
    if '_ARGCOMPLETE' in os.environ:
        _complete(parser)
    name, *given = (sys.argv[1:] if argv is None else argv) or ['--help']
    if name.startswith('-') or not name:
        parser.parse_args([name])
    elif name not in _COMMANDS:
        parser.error(f'no command {name!r}.{_guess(name)} {parser.prog} lists all commands.')
    elif not _is_there(name):
        text = (
            f'{name} belongs to the training half, which pip does not install. In a checkout of '
            f'the repository: python -m {_COMMANDS[name]}.{name}'
        )
        print(error_line(parser.prog, text), file=sys.stderr)
        return NOTHING_WRITTEN
    status: int = _module(name).main(given)
    return status


def _is_there(name: str) -> bool:
    return (_ROOT / _COMMANDS[name] / f'{name}.py').is_file()


def _module(name: str) -> Any:
    return import_module(f'{_COMMANDS[name]}.{name}')


def _guess(name: str) -> str:
    word = name.lower().replace('-', '_')
    near = get_close_matches(word, _COMMANDS, n=1) or [each for each in _COMMANDS if word in each]
    return f' Did you mean {" or ".join(near[:3])}?' if near else ''


def _complete(parser: argparse.ArgumentParser) -> None:
    """Print what can come at the cursor and end, as the shell's completion asked.

    Once the command is there and a space behind it, its own parser completes, as that of a program
    of its name.
    """
    import argcomplete

    line = os.environ['COMP_LINE'][: int(os.environ['COMP_POINT'])]
    words = [*line.split(), ''] if line[-1:].isspace() else line.split()
    if len(words) > 2 and words[1] in _COMMANDS and _is_there(words[1]):
        parser = _module(words[1]).build_parser()
        os.environ['_ARGCOMPLETE'] = '2'
    for action in parser._actions:
        if action.dest in _SUFFIXES:
            action.completer = _completer(action.dest)  # type: ignore[attr-defined]
    argcomplete.autocomplete(parser)


def _completer(option: str) -> Any:
    from argcomplete.completers import FilesCompleter

    folders = {'recipe': _ROOT / 'training/recipes', 'ontology': share_path('config/ontologies')}
    folder = folders.get(option)
    names = sorted(path.stem for path in folder.glob('*.yaml')) if folder else []
    files = FilesCompleter(_SUFFIXES[option])
    return lambda prefix, **_: [*names, *files(prefix)]


if __name__ == '__main__':
    sys.exit(main())
