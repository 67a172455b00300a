"""A procedural off-road drive with exact labels and depth: a rosbag2 bag or training folders.

--layout desert writes drives through arid places as a set that the reader `desert` takes: train/,
val/ and test/, each with Color_Images/ and Segmentation/ of equal names and the codes of
desert-10. A whole drive lies in one part: of 8 seeds in a row, from 0 on, 6 train, the next one is
for val and the last for test.

Everything follows from the seed: same seed and size, same pixels, in any order of frames. So
--folder leaves drives that are there already, whole and of the same settings and version: after a
stop the same command goes on. A bag and a desert set appear whole or not at all.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
import sys

from desertmind_seg.options import (
    ALL_DONE,
    command_parser,
    positive,
    run_command,
    size_hw,
    whole_number,
)

# A drive that shows every class of ycor-8 in its first 6 s: rough, then smooth, puddles, rocks.
_SHOW_SEED = 4353
_MOST_DRIVES = 10_000
# training.scenery.parameters.HAZARDS, which takes numpy to import.
_HAZARDS = ('rock', 'log', 'stump', 'ledge', 'ditch')
_EXAMPLES = """\
examples:
  a 10 s bag for replay
    python -m training.synthetic --bag out/sample_drive --frames 100
  40 drives to train on
    python -m training.synthetic --folder out/synthetic --seeds 0:40 --frames 20 \\
        --rate-hz 1 --jobs 2
  a drive over slopes with rocks, logs, stumps, ledges and ditches, and their true heights
    python -m training.synthetic --bag out/hazards --hazards all --seed 11 --frames 100
  a set of the desert layout, 360 frames to train on, 60 to validate and 60 to test
    python -m training.synthetic --folder out/desert --layout desert --seeds 0:80 --frames 6 \\
        --rate-hz 0.2 --size 270x480
  one drive, HD camera
    python -m training.synthetic --folder out/hd --seed 7 --size 720x1280
"""


def _seeds(text: str) -> range:
    try:
        first, last = (int(part) for part in text.split(':'))
    except ValueError as err:
        raise argparse.ArgumentTypeError(f'{text!r} is not A:B, for example 0:40') from err
    if not 0 <= first < last:
        raise argparse.ArgumentTypeError(f'{text!r} must have 0 <= A < B')
    if last - first > _MOST_DRIVES:
        raise argparse.ArgumentTypeError(
            f'{text!r} asks for {last - first} drives; expected at most {_MOST_DRIVES}; '
            'render more with several commands'
        )
    return range(first, last)


def _hazards(text: str) -> tuple[str, ...]:
    if text in ('all', 'none'):
        return _HAZARDS if text == 'all' else ()
    kinds = tuple(text.split(','))
    if unknown := set(kinds) - set(_HAZARDS):
        raise argparse.ArgumentTypeError(
            f'{text!r} names {", ".join(map(repr, sorted(unknown)))}; expected all, none or some '
            f'of {",".join(_HAZARDS)}'
        )
    return kinds


def build_parser() -> argparse.ArgumentParser:
    """Build the command line."""
    parser = command_parser('training.synthetic', __doc__ or '', _EXAMPLES)
    output = parser.add_mutually_exclusive_group(required=True)
    output.add_argument('--bag', type=Path, metavar='DIR', help='write one drive as a rosbag2 bag')
    output.add_argument('--folder', type=Path, metavar='DIR', help='write DIR/drive_SEED/ folders')
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        '--seed', type=whole_number(0), default=_SHOW_SEED, help='one drive (default: %(default)s)'
    )
    which.add_argument('--seeds', type=_seeds, metavar='A:B', help='drives A..B-1, --folder only')
    parser.add_argument(
        '--hazards',
        type=_hazards,
        default=(),
        metavar='KIND,...',
        help=f'put all, none or some of {",".join(_HAZARDS)} on and beside the trail, on slopes, '
        'and write the true height and kind of each pixel (default: none)',
    )
    parser.add_argument(
        '--layout',
        choices=('drives', 'desert'),
        default='drives',
        help='of --folder: a folder a drive, or the desert set (default: %(default)s)',
    )
    parser.add_argument(
        '--frames',
        type=whole_number(1),
        metavar='N',
        help='frames a drive (default: the whole drive)',
    )
    parser.add_argument(
        '--rate-hz', type=positive, default=10.0, help='frames a second (default: %(default)g)'
    )
    parser.add_argument(
        '--size', type=size_hw, default=(480, 640), metavar='HxW', help='default: 480x640'
    )
    parser.add_argument(
        '--jobs', type=whole_number(1), default=1, help='processes (default: %(default)s)'
    )
    parser.add_argument('--force', action='store_true', help='replace existing output')
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = build_parser()
    options = parser.parse_args(argv)
    if options.bag is not None and options.seeds is not None:
        parser.error('--bag holds one drive: use --seed N, or --folder with --seeds')
    if options.layout == 'desert' and (options.bag is not None or options.hazards):
        parser.error(
            '--layout desert is for --folder without --hazards: the set has no class for ditches'
        )
    return run_command(parser, lambda: _render(parser, options))


def _render(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    from training.simulator.desert_set import desert_specs, write_desert_set
    from training.simulator.writers import drive_spec, write_bag, write_folders

    seeds = options.seeds or (options.seed,)
    try:
        if options.layout == 'desert':
            specs = desert_specs(seeds, options.size, options.rate_hz, options.frames)
        else:
            specs = [
                drive_spec(seed, options.size, options.rate_hz, options.frames, options.hazards)
                for seed in seeds
            ]
    except ValueError as err:
        parser.error(str(err))
    if options.layout == 'desert':
        write_desert_set(specs, options.folder, jobs=options.jobs, force=options.force)
        print(options.folder)
    elif options.bag is not None:
        print(write_bag(specs[0], options.bag, jobs=options.jobs, force=options.force))
    else:
        write_folders(specs, options.folder, jobs=options.jobs, force=options.force)
        print(options.folder)
    return ALL_DONE


if __name__ == '__main__':
    sys.exit(main())
