"""Command: segment images, videos, cameras, streams and bags. Needs no ROS."""

import argparse
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
import sys
from typing import TYPE_CHECKING

from desertmind_seg.model.files import DEFAULT_BUNDLE, made_folder, share_path
from desertmind_seg.options import (
    ALL_DONE,
    DONE_IN_PART,
    add_backend,
    add_bundle,
    add_confidence_threshold,
    add_rerun,
    command_parser,
    error_line,
    exit_code,
    not_negative,
    positive,
    run_command,
    whole_number,
)

if TYPE_CHECKING:
    from desertmind_seg.model.ontology import Ontology
    from desertmind_seg.segmenting.run import Summary, Watcher
    from desertmind_seg.sources.frames import Source

# Of `segmenting.saving.CHOICES`; a test compares.
SAVE_CHOICES = ('mask', 'confidence', 'overlay', 'video')

_DESCRIPTION = """\
Segment an image, all images of a folder and its subfolders, a video, a bag, a camera or a stream.

SOURCE is one of
  trail.jpg, recordings/          an image, or a folder with images in it or below
  'drive/**/*.png' '*.mp4'        a pattern in quotes, for images or videos
  drive.mp4                       a video: .mp4 .mov .mkv .avi .webm .ts .mjpeg and so on
  drive_bag/ drive.mcap old.bag   a rosbag2 folder, .mcap, .db3 or ROS 1 .bag
  0                               camera 0 of this machine, /dev/video0
  rtsp://HOST/PATH                a stream; also rtmp:// udp:// http:// https://"""
_EXAMPLES = """\
What --save keeps, below --out; NAME is that of the image, or of video, camera or bag with the
number of the frame:
  mask        NAME.mask.png        class ids, in their colours; 255 = unlabelled, black
  confidence  NAME.confidence.png  255 times the probability of the class
  overlay     NAME.overlay.jpg     the classes' colours over the image, to look at
  video       SOURCE.overlay.mp4   (or .webm) overlay and legend, at the speed of the source
  none        nothing: to look only, with --show or --rerun
Images get mask,confidence,overlay, in the folders in which they lie; all else gets video. Masks
are PNGs with a palette: read their indices, as Pillow does (OpenCV gives the colours). The
orientation that a camera noted is applied first, as viewers do. Names that begin with a dot are
skipped. Images are taken by their extension: .bmp .jpeg .jpg .png .tif .tiff .webp

examples:
  one image with the model that is shipped
    python -m desertmind_seg.segment trail.jpg --out masks
  a folder with all its subfolders, with a model of your own
    python -m desertmind_seg.segment recordings/2026-05-04 --bundle mine.onnx --out masks
  mark what the model is unsure about as unlabelled
    python -m desertmind_seg.segment trail.jpg --confidence-threshold 0.6 --out masks
  two masks for each second of a video, and the video with its legend
    python -m desertmind_seg.segment drive.mp4 --fps 2 --save mask,video --out masks
  an RGB-D model on a bag, in the Rerun viewer beside its depth and points
    python -m desertmind_seg.segment drive_bag --image /camera/color/image_raw \\
        --depth /camera/aligned_depth_to_color/image_raw --bundle ycor8_rgbd.onnx \\
        --out masks --rerun
  a camera on the network, for a minute
    python -m desertmind_seg.segment rtsp://192.168.1.20/stream --end 60 --out masks

A frame that cannot be segmented is named, and the others are done: done in part. Ctrl-C ends a
camera or a stream with its video whole: all done."""


def build_parser() -> argparse.ArgumentParser:
    """Build the command line."""
    parser = command_parser('desertmind_seg.segment', _DESCRIPTION, _EXAMPLES)
    parser.add_argument('source', metavar='SOURCE', help='see above')
    parser.add_argument('--out', metavar='DIR', type=Path, help='where results go')
    parser.add_argument(
        '--save', metavar='WHAT,...', type=_save, help=f'{",".join(SAVE_CHOICES)} or none'
    )
    parser.add_argument('--show', action='store_true', help='show a window; q ends')
    add_rerun(parser)
    parser.add_argument(
        '--image', metavar='TOPIC', help='of a bag with several image topics, the one to take'
    )
    parser.add_argument(
        '--depth', metavar='TOPIC', help='of a bag: depth registered to the images'
    )
    parser.add_argument(
        '--every', metavar='N', type=whole_number(1), default=1, help='one of N frames'
    )
    parser.add_argument(
        '--fps', metavar='HZ', type=positive, help='at most so many frames a second'
    )
    for option, what in (('start', 'from this time of the source on'), ('end', 'up to this time')):
        parser.add_argument(
            f'--{option}', metavar='SEC', type=not_negative, help=f'{what}, in seconds'
        )
    add_bundle(parser)
    add_backend(parser)
    add_confidence_threshold(parser)
    return parser


def _save(text: str) -> frozenset[str]:
    chosen = frozenset(part.strip() for part in text.split(','))
    if unknown := chosen - {*SAVE_CHOICES, 'none'}:
        raise argparse.ArgumentTypeError(
            f'{", ".join(sorted(unknown))!r} is none of {", ".join(SAVE_CHOICES)}, none'
        )
    if 'none' in chosen and len(chosen) > 1:
        raise argparse.ArgumentTypeError(f'{text!r} is none and something')
    return chosen - {'none'}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = build_parser()
    options = parser.parse_args(argv)
    looks = options.show or options.rerun is not None
    if options.out is None and options.save is None and looks:
        options.save = frozenset()
    if options.out is None and options.save != frozenset():
        parser.error('give --out DIR, where results go; to look only: --show or --rerun')
    if options.end is not None and options.end <= (options.start or 0.0):
        parser.error(f'--end {options.end:g} is not after --start {options.start or 0.0:g}')
    return run_command(parser, lambda: _run(parser.prog, options))


def _run(prog: str, options: argparse.Namespace) -> int:
    from tqdm import tqdm

    from desertmind_seg.engines.load import load_engine
    from desertmind_seg.model.bundle import read_bundle
    from desertmind_seg.pipeline.segmenter import Segmenter
    from desertmind_seg.segmenting.run import depth_note, segment_source
    from desertmind_seg.segmenting.saving import check_out, default_choices
    from desertmind_seg.sources.frames import Selection
    from desertmind_seg.sources.opening import open_source

    def report(text: str) -> None:
        tqdm.write(error_line(prog, text), file=sys.stderr)

    selection = Selection(options.every, options.fps, options.start, options.end)
    with ExitStack() as stack:
        source = stack.enter_context(
            open_source(
                options.source,
                image_topic=options.image,
                depth_topic=options.depth,
                selection=selection,
            )
        )
        save = default_choices(source.kind) if options.save is None else options.save
        if save:
            folder = Path(options.source)
            is_folder = source.kind == 'images' and folder.is_dir()
            check_out(source, folder if is_folder else None, options.out)
        bundle = read_bundle(options.bundle or share_path(DEFAULT_BUNDLE))
        engine = stack.enter_context(closing(load_engine(bundle, options.backend)))
        segmenter = Segmenter(engine, options.confidence_threshold)
        if note := depth_note(source, segmenter):
            print(f'{prog}: note: {note}', file=sys.stderr)
        watchers, video = _watchers(options, save, source, segmenter.ontology, stack)
        if source.live:
            print(f'{source.description}: until Ctrl-C', file=sys.stderr)
        summary = segment_source(source, segmenter, watchers, report)
    unit = 'images' if source.kind == 'images' else 'frames'
    if summary.done:
        into = f' into {options.out}' if save else ''
        print(
            f'{summary.done} of {summary.wanted} {unit} segmented{into} with '
            f'{bundle.metadata.name} ({bundle.metadata.ontology.name}) by {engine.backend} on '
            f'{engine.device}; median inference {summary.median_ms:.1f} ms, '
            f'{summary.done / summary.seconds:.1f} {unit} a second'
        )
        if video is not None:
            print(f'Video: {video}')
    _tell_losses(prog, source, summary, unit)
    if summary.interrupted and not source.live:
        raise KeyboardInterrupt
    if not summary.wanted:
        text = f'{source.description} gave no frame'
        if selection.by_time:
            text += f' from {options.start or 0.0:g} s on: it ends before that, or is empty'
        print(error_line(prog, text), file=sys.stderr)
        return exit_code(0, 1)
    status = exit_code(summary.done, summary.wanted)
    return DONE_IN_PART if status == ALL_DONE and source.losses else status


def _watchers(
    options: argparse.Namespace,
    save: frozenset[str],
    source: 'Source',
    ontology: 'Ontology',
    stack: ExitStack,
) -> tuple[list['Watcher'], Path | None]:
    """Open what gets the frames, until `stack` ends; also returns the path of the video."""
    from desertmind_seg.pipeline.video import video_extension
    from desertmind_seg.segmenting.annotated import annotated_video, video_rate_hz
    from desertmind_seg.segmenting.saving import FILES, VIDEO, FrameFiles
    from desertmind_seg.segmenting.viewing import RerunFrames, clock_of
    from desertmind_seg.segmenting.window import Window
    from desertmind_seg.viewer.frames import frame_viewer

    watchers: list[Watcher] = []
    video = None
    if save & FILES.keys():
        stack.enter_context(made_folder(options.out))
        watchers.append(FrameFiles(options.out, save, ontology))
    if VIDEO in save:
        video = options.out / f'{source.name}.overlay{video_extension()}'
        watchers.append(
            stack.enter_context(annotated_video(video, ontology, video_rate_hz(source)))
        )
    if options.show:
        window = Window(ontology, stills=source.kind == 'images')
        watchers.append(stack.enter_context(closing(window)))
    if options.rerun is not None:
        viewer = frame_viewer(options.rerun, ontology, clock_of(source))
        watchers.append(RerunFrames(stack.enter_context(viewer), source))
    return watchers, video


def _tell_losses(prog: str, source: 'Source', summary: 'Summary', unit: str) -> None:
    """Print what is to be known of a source, and what of it was not segmented."""
    if source.skipped:
        print(f'{source.skipped} frames came while others were segmented, and were skipped.')
    for note in source.notes:
        print(f'{prog}: note: {note}', file=sys.stderr)
    for loss in source.losses:
        print(error_line(prog, loss), file=sys.stderr)
    if summary.failed:
        more = summary.failed - len(summary.named)
        listed = ', '.join(summary.named) + (f' and {more} more' if more else '')
        text = f'{summary.failed} of {summary.wanted} {unit} failed: {listed}'
        print(error_line(prog, text), file=sys.stderr)


if __name__ == '__main__':
    sys.exit(main())
