"""Command: compare bundles, backends and frame sizes by time and memory, beside their rooflines.

Results below --out: `metrics.json`, whose keys `timing.results.BenchmarkMetrics` describes, and
`report.html`, the same for people.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
import sys

from desertmind_seg.options import (
    ALL_DONE,
    BACKENDS,
    DONE_IN_PART,
    add_output_folder,
    command_parser,
    run_command,
    size_hw,
    whole_number,
)

_EXAMPLES = """\
Every bundle runs on every backend at every size, each case in a process of its own. After a
warm-up the cases take turns, so that all see the same machine. Times are those of Engine.infer,
from the frame in memory to the finished mask and confidence in memory, transfers included, one
frame after the other.

The roofline is what the machine could do at best: the operations of convolutions and matrix
products over the fastest product that was measured, or the bytes of weights, frame, results of
these operators and outputs over the fastest copy, whichever is longer. Caches can beat the second.

Columns: in parentheses the lowest and highest round; ratio, to the first case that was measured,
of the medians round by round; RSS, the most that the process grew by for bundle, engine and
frames; GPU, what all GPUs held more after the warm-up than before.

examples:
  two precisions on whatever this machine has
    python -m desertmind_seg.benchmark fp32.onnx int8.onnx --out out/benchmark
  one backend at the size of one camera, longer
    python -m desertmind_seg.benchmark mine.onnx --backend onnxruntime-cpu --size 720x1280 \\
        --frames 500

A case that this machine cannot run is listed with the reason, and counts as done unless --backend
names its backend. A case that fails on the way is listed too: done in part. Where no case can be
measured, nothing is written."""


def build_parser() -> argparse.ArgumentParser:
    """Build the command line."""
    parser = command_parser(
        'desertmind_seg.benchmark',
        'Compare bundles, backends and frame sizes by time and memory.',
        _EXAMPLES,
    )
    parser.add_argument('bundles', metavar='BUNDLE', type=Path, nargs='+', help='models to run')
    parser.add_argument(
        '--backend',
        metavar='NAME',
        choices=BACKENDS,
        nargs='+',
        action='extend',
        default=[],
        help=f'what runs them (default: those of {" ".join(BACKENDS)} that work here)',
    )
    parser.add_argument(
        '--size',
        metavar='HxW',
        type=size_hw,
        nargs='+',
        action='extend',
        default=[],
        help='camera sizes, height x width (default: 480x640 720x1280)',
    )
    parser.add_argument(
        '--frames',
        metavar='N',
        type=whole_number(1),
        default=100,
        help='timed frames of each case, in up to 5 rounds (default: %(default)s)',
    )
    parser.add_argument(
        '--num-threads',
        metavar='N',
        type=whole_number(0),
        default=0,
        help='CPU threads (default: 0, one for each physical core)',
    )
    parser.add_argument(
        '--image',
        metavar='FILE',
        type=Path,
        help='picture to run, scaled to each size (default: a made-up one; what is in it makes no '
        'difference in time)',
    )
    add_output_folder(parser, required=False)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = build_parser()
    options = parser.parse_args(argv)
    return run_command(parser, lambda: _run(options))


def _run(options: argparse.Namespace) -> int:
    from desertmind_seg.model.bundle import read_bundle
    from desertmind_seg.reports.output import output_folder, write_json
    from desertmind_seg.timing.cases import benchmark
    from desertmind_seg.timing.results import METRICS, REPORT, BenchmarkMetrics
    from desertmind_seg.timing.tables import benchmark_text

    def measure() -> BenchmarkMetrics:
        return benchmark(
            [read_bundle(path) for path in options.bundles],
            options.backend or BACKENDS,
            options.size or [(480, 640), (720, 1280)],
            options.frames,
            options.num_threads,
            options.image,
        )

    if options.out is None:
        metrics = measure()
    else:
        from desertmind_seg.timing.pages import write_benchmark_report

        # Results that are in the way are found before anything is measured.
        with output_folder(options.out, (METRICS, REPORT), replace=options.force) as new:
            metrics = measure()
            write_json(new / METRICS, metrics.model_dump(mode='json', by_alias=True))
            write_benchmark_report(new / REPORT, metrics)
    print(benchmark_text(metrics))
    if options.out is not None:
        print(f'Report: {options.out / REPORT}\nMetrics: {options.out / METRICS}')
    complete = all(
        case.failed is None and (case.not_run is None or case.backend not in options.backend)
        for case in metrics.cases
    )
    return ALL_DONE if complete else DONE_IN_PART


if __name__ == '__main__':
    sys.exit(main())
