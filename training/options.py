"""Options that several commands of training share; how they fail is desertmind_seg.options'."""

import argparse
from pathlib import Path

from desertmind_seg.model.errors import did_you_mean

# Here, so that --help and a missing package are said at once; recipes/schema.py has what they are,
# a test compares.
DATASETS = (
    *('ycor', 'nyuv2', 'nyuv2_mat', 'desert', 'rugd', 'rellis', 'goose', 'folder', 'bag'),
    'synthetic',
)


def add_dataset(parser: argparse._ActionsContainer, *, required: bool) -> None:
    """Add --dataset, the layout of a labelled set, and --root, a path."""
    parser.add_argument(
        '--dataset',
        metavar='LAYOUT',
        type=_dataset,
        required=required,
        help=f'layout of the set: {", ".join(DATASETS)}; folder is images/, masks/ and depth/',
    )
    parser.add_argument(
        '--root',
        metavar='PATH',
        type=_one_line_path,
        required=required,
        help="the set's folder, as in data.train of a recipe",
    )


def _dataset(text: str) -> str:
    if text not in DATASETS:
        raise argparse.ArgumentTypeError(
            f'there is no layout {text!r}{did_you_mean(text, DATASETS)}; known are '
            f'{", ".join(DATASETS)}'
        )
    return text


def _one_line_path(text: str) -> Path:
    if any(char < ' ' or '\ud800' <= char <= '\udfff' for char in text):
        raise argparse.ArgumentTypeError(
            f'{text!r} has line breaks, control characters or other bytes than UTF-8; rename it, '
            'as it stands in recipes and reports'
        )
    return Path(text)


def add_checkpoint(parser: argparse._ActionsContainer) -> None:
    """Add `checkpoint`, the path of a file that is there."""
    parser.add_argument(
        'checkpoint',
        metavar='CHECKPOINT',
        type=checkpoint_file,
        help='what training.train writes: checkpoint.pt',
    )


def checkpoint_file(text: str) -> Path:
    """Parse the path of a checkpoint; whether it is there is asked before torch is imported."""
    return _file_there(
        text, f'no checkpoint at {text!r}; python -m training.train RECIPE --out DIR writes one'
    )


def stage_file(text: str) -> Path:
    """Parse the path of a checkpoint or a bundle; whether it is there is asked before torch."""
    return _file_there(
        text,
        f'no checkpoint or bundle at {text!r}; python -m training.train writes both',
    )


def bundle_file(text: str) -> Path:
    """Parse the path of a bundle; whether it is there is asked before torch is imported."""
    return _file_there(
        text, f'no bundle at {text!r}; python -m training.export CHECKPOINT --out FILE writes one'
    )


def network_file(text: str) -> Path:
    """Parse the path of an ONNX network; whether it is there is asked before torch is imported."""
    return _file_there(text, f'no network at {text!r}; give an ONNX file')


def _file_there(text: str, missing: str) -> Path:
    path = Path(text)
    try:
        is_there = path.is_file()
    except OSError as err:  # argparse would let it through: a name too long, a folder not ours
        raise argparse.ArgumentTypeError(f'{text!r} cannot be read: {err.strerror}') from err
    if not is_there:
        raise argparse.ArgumentTypeError(missing)
    return path
