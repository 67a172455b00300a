"""Options that several commands of training have; those of all commands are in the runtime."""

import argparse
from pathlib import Path
from typing import get_args

from training.recipe import DatasetName


def add_dataset(parser: argparse.ArgumentParser, *, required: bool) -> None:
    """Add --dataset, a name, and --root, a path; each None where it is not given."""
    parser.add_argument(
        '--dataset', choices=get_args(DatasetName), required=required, help='kind of data set'
    )
    parser.add_argument(
        '--root', metavar='DIR', type=Path, required=required, help="the data set's folder"
    )


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
    """Add the path of a checkpoint, without an option's name."""
    parser.add_argument('checkpoint', type=Path, help='checkpoint.pt of training.train')
