"""Command: build TensorRT engines for a bundle. TensorRT-RTX needs no GPU for that."""

import argparse
from collections.abc import Sequence
from pathlib import Path
import signal
import sys
from types import FrameType

from desertmind_seg.model.files import DEFAULT_BUNDLE, share_path
from desertmind_seg.model.processes import drop_closed_terminal
from desertmind_seg.options import command_parser, error_line, exit_code, run_command

_EXAMPLES = """\
examples:
  for the GPU of this machine, any frame size
    python -m desertmind_seg.build_engine mine.onnx
  for the GPUs of the fleet, on a machine without any; the cameras send 640x480 and 1280x720
    python -m desertmind_seg.build_engine mine.onnx --target sm86,sm89 --shape 480x640,720x1280

Targets of TensorRT-RTX: sm75 (RTX 20), sm80, sm86 (RTX 30), sm89 (RTX 40), sm120 (RTX 50), sm121.
Plain TensorRT builds for the GPU of this machine only.

Engines lie in --cache-dir, else in $DESERTMIND_SEG_ENGINE_CACHE, else in
$XDG_CACHE_HOME/desertmind_seg/engines. One that is there and fits is not built again."""


class _Bar:
    """A progress bar that Ctrl-C stops, and a terminal that closes.

    Raising through TensorRT's C++ would end the process.
    """

    def __init__(self, target: str) -> None:
        from tqdm import tqdm

        self._interrupted = False
        self._bar = tqdm(
            total=100,
            desc=target,
            disable=None,
            bar_format='{desc} {percentage:3.0f}%|{bar}| {elapsed}{postfix}',
        )
        self._previous = {
            number: signal.signal(number, self._interrupt)
            for number in (signal.SIGINT, signal.SIGHUP)
            if signal.getsignal(number) != signal.SIG_IGN
        }

    def __enter__(self) -> '_Bar':
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._bar.close()
        if self._interrupted:
            raise KeyboardInterrupt

    def progress(self, what: str, fraction: float) -> bool:
        self._bar.set_postfix_str(what, refresh=False)
        self._bar.update(round(100 * fraction) - self._bar.n)
        return not self._interrupted

    def _interrupt(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            drop_closed_terminal()
        self._interrupted = True


def build_parser() -> argparse.ArgumentParser:
    """Build the command line."""
    parser = command_parser(
        'desertmind_seg.build_engine',
        'Build the TensorRT engines of a bundle into the engine cache.',
        _EXAMPLES,
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
        default='current',
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
    parser = build_parser()
    options = parser.parse_args(argv)
    return run_command(parser, lambda: _run(parser.prog, options))


def _run(prog: str, options: argparse.Namespace) -> int:
    from desertmind_seg.engines.profiles import parse_shape
    from desertmind_seg.engines.protocol import EngineError
    from desertmind_seg.engines.tensorrt_build import BuildOptions, stored_engine
    from desertmind_seg.engines.tensorrt_library import choose_target
    from desertmind_seg.model.bundle import read_bundle

    bundle = read_bundle(options.bundle or share_path(DEFAULT_BUNDLE))
    # All targets are checked before the first is built.
    wanted = [choose_target(target.strip()) for target in options.target.split(',')]
    parse_shape(options.shape)
    done = 0
    for tensorrt, target in wanted:
        try:
            with _Bar(target) as bar:
                build = BuildOptions(options.shape, options.cache_dir or '', bar.progress)
                stored = stored_engine(bundle, tensorrt, target, build)
        except EngineError as err:
            print(error_line(prog, err), file=sys.stderr)
            continue
        done += 1
        how = f'built in {stored.record.build_sec:.1f} s' if stored.built_now else 'was there'
        print(f'{target}: {stored.path} ({len(stored.plan) / 1e6:.1f} MB, {how})')
    return exit_code(done, len(wanted))


if __name__ == '__main__':
    sys.exit(main())
