"""A procedural off-road drive with exact labels and depth: a rosbag2 bag or training folders.

Everything follows from the seed: same seed and size, same pixels, in any order of frames.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
import sys

# A drive that shows every class of ycor-8 in its first 6 s: rough, then smooth, puddles, rocks.
_SHOW_SEED = 4353


def _size(text: str) -> tuple[int, int]:
    try:
        height, width = (int(part) for part in text.lower().split('x'))
    except ValueError as err:
        raise argparse.ArgumentTypeError(
            f'{text!r} is not HEIGHTxWIDTH, for example 480x640'
        ) from err
    if min(height, width) < 16:
        raise argparse.ArgumentTypeError(f'{text!r} is too small; expected at least 16x16')
    return height, width


def _seeds(text: str) -> range:
    try:
        first, last = (int(part) for part in text.split(':'))
    except ValueError as err:
        raise argparse.ArgumentTypeError(f'{text!r} is not A:B, for example 0:40') from err
    if not 0 <= first < last:
        raise argparse.ArgumentTypeError(f'{text!r} must have 0 <= A < B')
    return range(first, last)


def _positive(text: str) -> int:
    try:
        value = int(text)
    except ValueError as err:
        raise argparse.ArgumentTypeError(f'{text!r} is not a whole number') from err
    if value < 1:
        raise argparse.ArgumentTypeError(f'{text!r} must be at least 1')
    return value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='python -m training.synthetic',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="""examples:
  a 10 s bag for replay:     python -m training.synthetic --bag out/sample_drive --frames 100
  40 drives to train on:     python -m training.synthetic --folder out/synthetic --seeds 0:40 \\
                               --frames 20 --rate-hz 1 --jobs 2
  one drive, HD camera:      python -m training.synthetic --folder out/hd --seed 7 --size 720x1280
""",
    )
    output = parser.add_mutually_exclusive_group(required=True)
    output.add_argument('--bag', type=Path, metavar='DIR', help='write one drive as a rosbag2 bag')
    output.add_argument('--folder', type=Path, metavar='DIR', help='write DIR/drive_SEED/ folders')
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        '--seed', type=int, default=_SHOW_SEED, help='one drive (default: %(default)s)'
    )
    which.add_argument('--seeds', type=_seeds, metavar='A:B', help='drives A..B-1, --folder only')
    parser.add_argument(
        '--frames', type=_positive, metavar='N', help='frames a drive (default: the whole drive)'
    )
    parser.add_argument(
        '--rate-hz', type=float, default=10.0, help='frames a second (default: %(default)g)'
    )
    parser.add_argument(
        '--size', type=_size, default=(480, 640), metavar='HxW', help='default: 480x640'
    )
    parser.add_argument(
        '--jobs', type=_positive, default=1, help='processes (default: %(default)s)'
    )
    parser.add_argument('--force', action='store_true', help='replace existing output')
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.bag is not None and options.seeds is not None:
        parser.error('--bag holds one drive: use --seed N, or --folder with --seeds')
    if not options.rate_hz > 0.0:
        parser.error(f'--rate-hz {options.rate_hz} must be above 0')
    if options.seed < 0:
        parser.error(f'--seed {options.seed} must be 0 or more')
    from training.simulator.writers import drive_spec, write_bag, write_folders

    try:
        specs = [
            drive_spec(seed, options.size, options.rate_hz, options.frames)
            for seed in options.seeds or (options.seed,)
        ]
    except ValueError as err:
        parser.error(str(err))
    try:
        if options.bag is not None:
            print(write_bag(specs[0], options.bag, jobs=options.jobs, force=options.force))
        else:
            write_folders(specs, options.folder, jobs=options.jobs, force=options.force)
            print(options.folder)
    except FileExistsError as err:
        print(f'error: {err}', file=sys.stderr)
        return 2
    return 0


if __name__ == '__main__':
    sys.exit(main())
