"""Command: choose frames of a recording, and write them for a labelling tool."""

import argparse
from collections.abc import Sequence
import sys
from typing import TYPE_CHECKING

from desertmind_seg.model.files import DEFAULT_BUNDLE, share_path
from desertmind_seg.options import (
    ALL_DONE,
    DONE_IN_PART,
    add_backend,
    add_bundle,
    add_confidence_threshold,
    add_output_folder,
    command_parser,
    error_line,
    run_command,
    whole_number,
)

if TYPE_CHECKING:
    from desertmind_seg.labelling.run import Extraction
    from desertmind_seg.labelling.spacing import Spacing

_EXAMPLES = """\
The folder of --out holds
  images/        the frames: the bytes of a compressed topic or a file, else PNG (of a video JPEG)
  depth/         with --depth: 16-bit PNG in millimetres, 0 = missing
  frames.csv     of each: where it comes from, its stamp, why it was chosen
with pre-labels, which is where --bundle is given:
  masks/         class ids as palette PNG, 255 = unlabelled, and classes.yaml, the class table
  cvat/          labels.json for the labels of a new task (Raw); annotations.zip to upload to it as
                 "CVAT 1.1", once images/ is in it
  label_studio/  config.xml, the labelling interface; tasks.json to import, with images/ as local
                 storage; LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT is the folder that holds --out
Frames that show what the one before shows, as of a vehicle that stands, are left out and counted.

examples:
  a frame every two seconds
    python -m desertmind_seg.extract_frames drive --every 2s --out to_label
  a frame every five metres, with depth; needs odometry or /tf in the bag
    python -m desertmind_seg.extract_frames drive --image /camera/color/image_raw \\
        --depth /camera/aligned_depth_to_color/image_raw --every 5m --out to_label
  the 50 frames of which a model is least sure, with its masks to correct
    python -m desertmind_seg.extract_frames drive --choose uncertain --max 50 \\
        --bundle mine.onnx --out to_label
  of a video, or of a folder of images
    python -m desertmind_seg.extract_frames trail.mp4 --every 1s --max 100 --out to_label
    python -m desertmind_seg.extract_frames photos --every 5 --out to_label

The labels come back by python -m training.import_labels. A frame that cannot be read is named, and
the others are done: done in part."""
_TOOLS = {
    'none': (),
    'cvat': ('cvat',),
    'label_studio': ('label_studio',),
    'all': ('cvat', 'label_studio'),
}
_NEXT = {
    'cvat': 'labels.json is the Raw of a new task with images/; then upload annotations.zip to it',
    'label_studio': 'config.xml is the interface of a new project; then import tasks.json',
}
_MOST_NAMED = 20


def _spacing(text: str) -> 'Spacing':
    from desertmind_seg.labelling.spacing import parse_spacing

    try:
        return parse_spacing(text)
    except ValueError as err:
        raise argparse.ArgumentTypeError(str(err)) from err


def build_parser() -> argparse.ArgumentParser:
    """Build the command line."""
    parser = command_parser(
        'desertmind_seg.extract_frames',
        'Choose frames of a bag, video or folder, and write them for a labelling tool.',
        _EXAMPLES,
    )
    parser.add_argument('source', metavar='BAG|VIDEO|FOLDER', help='where the frames are')
    parser.add_argument(
        '--every',
        metavar='SPACING',
        type=_spacing,
        help='how far apart frames are: 2s, 5m (metres travelled) or 30 (frames); default: 2s, of '
        'images 1',
    )
    parser.add_argument(
        '--choose',
        choices=('even', 'uncertain'),
        default='even',
        help='uncertain: where the model has the lowest confidence and the most flicker, no two '
        'nearer than --every; looks at every frame (default: %(default)s)',
    )
    parser.add_argument(
        '--max',
        metavar='N',
        type=whole_number(1, 100_000),
        default=200,
        help='at most so many frames, spread over all (default: %(default)s)',
    )
    parser.add_argument(
        '--image', metavar='TOPIC', help='of a bag with several: raw or compressed images'
    )
    parser.add_argument(
        '--depth', metavar='TOPIC', help='of a bag: depth registered to the images'
    )
    parser.add_argument(
        '--pre-labels',
        choices=_TOOLS,
        help="write the model's masks to be corrected (default: all with --bundle, else none)",
    )
    parser.add_argument(
        '--keep-same', action='store_true', help='leave out no frame for showing nothing new'
    )
    add_bundle(parser)
    add_backend(parser)
    add_confidence_threshold(parser)
    add_output_folder(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = build_parser()
    options = parser.parse_args(argv)
    return run_command(parser, lambda: _run(parser.prog, options))


def _run(prog: str, options: argparse.Namespace) -> int:
    from tqdm import tqdm

    from desertmind_seg.engines.load import load_engine
    from desertmind_seg.labelling.run import Request, extract_frames
    from desertmind_seg.model.bundle import read_bundle
    from desertmind_seg.pipeline.segmenter import Segmenter

    named = 0

    def report(name: str, error: str) -> None:
        nonlocal named
        named += 1
        if named <= _MOST_NAMED:
            tqdm.write(error_line(prog, f'{name}: {error}'), file=sys.stderr)

    tools = _TOOLS[options.pre_labels or ('all' if options.bundle else 'none')]
    segmenter = None
    if tools or options.choose == 'uncertain':
        bundle = read_bundle(options.bundle or share_path(DEFAULT_BUNDLE))
        segmenter = Segmenter(load_engine(bundle, options.backend), options.confidence_threshold)
    done = extract_frames(
        Request(
            source=options.source,
            image_topic=options.image,
            depth_topic=options.depth,
            spacing=options.every,
            at_most=options.max,
            uncertain=options.choose == 'uncertain',
            keep_same=options.keep_same,
            tools=tools,
        ),
        segmenter,
        options.out,
        report,
        force=options.force,
    )
    _print(done, options)
    if done.bad:
        listed = f'{done.bad} frames left out' + (' (named above)' if named <= _MOST_NAMED else '')
        print(error_line(prog, listed), file=sys.stderr)
    for text in done.notes:
        print(f'{prog}: note: {text}', file=sys.stderr)
    for text in done.losses:
        print(error_line(prog, text), file=sys.stderr)
    in_part = done.bad or done.losses or done.written.without_depth
    return DONE_IN_PART if in_part else ALL_DONE


def _print(done: 'Extraction', options: argparse.Namespace) -> None:
    from desertmind_seg.labelling.pictures import FARTHEST_M

    chosen = (
        f'{done.spacing} apart' if options.choose == 'even' else 'of which the model is least sure'
    )
    print(f'{done.written.frames} of {done.surveyed} frames written to {options.out}: {chosen}')
    for count, what in (
        (done.written.same, 'left out, as they show what the one before shows (--keep-same)'),
        (done.written.without_depth, 'without depth'),
    ):
        if count:
            print(f'{count} {what}')
    if done.written.beyond_pixels:
        print(
            f'{done.written.beyond_pixels} pixels of depth are beyond {FARTHEST_M} m, the last '
            'that 16 bits of millimetres hold, and are missing in depth/'
        )
    for tool, next_step in _NEXT.items():
        if (options.out / tool).is_dir():
            print(f'{options.out / tool}: {next_step}')
    if not done.knows_flicker and options.choose == 'uncertain':
        print('chosen by confidence alone: without times in a row there is no flicker')


if __name__ == '__main__':
    sys.exit(main())
