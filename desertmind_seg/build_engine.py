"""Command: build TensorRT engines for a bundle. TensorRT-RTX needs no GPU for that."""

import argparse
from collections.abc import Sequence
from pathlib import Path
import signal
import sys
from types import FrameType

from tqdm import tqdm

from desertmind_seg.engines.cache import CACHE_VARIABLE, parse_shape
from desertmind_seg.engines.protocol import EngineError
from desertmind_seg.engines.tensorrt_build import BuildOptions, stored_engine
from desertmind_seg.engines.tensorrt_library import CURRENT, choose_target
from desertmind_seg.model.bundle import BundleError, read_bundle
from desertmind_seg.model.files import DEFAULT_BUNDLE, share_path

_EXAMPLES = f"""\
examples:
  for the GPU of this machine, any frame size
    python -m desertmind_seg.build_engine mine.onnx
  for the GPUs of the fleet, on a machine without any; the cameras send 640x480 and 1280x720
    python -m desertmind_seg.build_engine mine.onnx --target sm86,sm89 --shape 480x640,720x1280

Targets of TensorRT-RTX: sm75 (RTX 20), sm80, sm86 (RTX 30), sm89 (RTX 40), sm120 (RTX 50), sm121.
Plain TensorRT builds for the GPU of this machine only.

Engines lie in --cache-dir, else in ${CACHE_VARIABLE}, else in
$XDG_CACHE_HOME/desertmind_seg/engines. One that is there and fits is not built again.

exit status: 0 all engines are there, 1 one could not be built, 130 stopped by Ctrl-C
"""


class _Bar:
    """A progress bar that Ctrl-C stops: raising through TensorRT's C++ would end the process."""

    def __init__(self, target: str) -> None:
        self._interrupted = False
        self._bar = tqdm(
            total=100,
            desc=target,
            disable=None,
            bar_format='{desc} {percentage:3.0f}%|{bar}| {elapsed}{postfix}',
        )
        self._previous = signal.signal(signal.SIGINT, self._interrupt)

    def __enter__(self) -> '_Bar':
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._previous)
        self._bar.close()

    @property
    def interrupted(self) -> bool:
        return self._interrupted

    def progress(self, what: str, fraction: float) -> bool:
        self._bar.set_postfix_str(what, refresh=False)
        self._bar.update(round(100 * fraction) - self._bar.n)
        return not self._interrupted

    def _interrupt(self, _number: int, _frame: FrameType | None) -> None:
        self._interrupted = True


def build_parser() -> argparse.ArgumentParser:
    """Build the command line."""
    parser = argparse.ArgumentParser(
        prog='python -m desertmind_seg.build_engine',
        description='Build the TensorRT engines of a bundle into the engine cache.',
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        'bundle',
        metavar='BUNDLE',
        type=Path,
        nargs='?',
        help=f'the model (default: {DEFAULT_BUNDLE})',
    )
    parser.add_argument(
        '--target',
        default=CURRENT,
        help='GPUs by compute capability, e.g. sm86,sm89 (default: current, the GPU of this '
        'machine)',
    )
    parser.add_argument(
        '--shape',
        default='dynamic',
        help='frame sizes, height x width, e.g. 480x640,720x1280; an engine for few sizes takes '
        'less GPU memory (default: dynamic, every size)',
    )
    parser.add_argument('--cache-dir', metavar='DIR', type=Path, help='where the engines lie')
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    args = build_parser().parse_args(argv)
    try:
        bundle = read_bundle(args.bundle or share_path(DEFAULT_BUNDLE))
        # All targets are checked before the first is built.
        wanted = [choose_target(target.strip()) for target in args.target.split(',')]
        parse_shape(args.shape)
    except (BundleError, EngineError, OSError) as err:
        print(f'error: {err}', file=sys.stderr)
        return 1
    for tensorrt, target in wanted:
        with _Bar(target) as bar:
            options = BuildOptions(args.shape, args.cache_dir or '', bar.progress)
            try:
                stored = stored_engine(bundle, tensorrt, target, options)
            except (EngineError, OSError) as err:
                failure: Exception | None = err
            else:
                failure = None
        if failure is not None:
            print(f'error: {failure}', file=sys.stderr)
            return 130 if bar.interrupted else 1
        record = stored.record
        how = f'built in {record.build_sec:.1f} s' if stored.built_now else 'was there'
        print(f'{target}: {stored.path} ({len(stored.plan) / 1e6:.1f} MB, {how})')
    return 0


if __name__ == '__main__':
    sys.exit(main())
