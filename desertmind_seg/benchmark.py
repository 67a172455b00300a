"""Command: compare bundles, backends and frame sizes by time and memory, beside their floors.

Results below --out:
- `metrics.json`: `schema`; `command`; `created`; `settings` (frames, rounds, warm_up_frames,
  num_threads, outputs, picture); `load_average` (before, after); `limits` by backend
  (flops_per_sec by number format and by what ran the product, bytes_per_sec, not_measured);
  `cases`, one for each bundle, backend and size, in the order of the command line: `bundle`,
  `backend`, `size_hw`, `cost` (flops, weight_bytes, activation_bytes; null where `not_counted`
  says why), `not_run` (null, or the reason), `device`, `details`, `load_sec`, `warm_up_sec`,
  `latency_ms` (p50, p95, p99: value over all frames, lowest and highest of a round),
  `frames_per_sec`, `ratio_to_first` (of the medians of each round: value, lowest, highest),
  `memory_mib` (before, peak, growth, device), `floor` (compute_ms, memory_ms, ms, bound_by,
  peaks_from, distance); what was not measured is null; `environment` (machine, versions,
  git_hash).
- `report.html`: the same for people.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
import sys

from desertmind_seg.engines.protocol import EngineError
from desertmind_seg.model.bundle import BundleError, read_bundle
from desertmind_seg.options import BACKENDS, size_hw, whole_number
from desertmind_seg.pipeline.segmenter import ImageError
from desertmind_seg.reports.output import output_folder, write_json
from desertmind_seg.timing.cases import ROUNDS, OwnProcess, benchmark
from desertmind_seg.timing.engine_case import TimedEngine
from desertmind_seg.timing.limits import LimitProbe
from desertmind_seg.timing.pages import (
    METRICS,
    REPORT,
    _aligned,
    _floor_notes,
    _write_benchmark_report,
    limit_rows,
    machine_line,
    table_rows,
)

_SIZES_HW = ((480, 640), (720, 1280))
_EXAMPLES = """\
Every bundle runs on every backend at every size, each case in a process of its own. After a
warm-up the cases take turns, so that all see the same machine. A case that cannot run here is
listed as not run, with the reason. Times are those of Engine.infer, from the frame in memory to
the finished mask and confidence in memory, transfers included, one frame after the other.

The floor is what the machine could do at best: the operations of convolutions and matrix products
over the fastest product that was measured, or the bytes of weights, frame, results of these
operators and outputs over the fastest copy, whichever is longer. Caches can beat the second.

Columns: in parentheses the lowest and highest round; ratio, to the first case that ran, of the
medians round by round; RSS, the most that the process grew by for bundle, engine and frames; GPU,
what all GPUs held more after the warm-up than before.

examples:
  two precisions on whatever this machine has
    python -m desertmind_seg.benchmark fp32.onnx int8.onnx --out out/benchmark
  one backend at the size of one camera, longer
    python -m desertmind_seg.benchmark mine.onnx --backend onnxruntime-cpu --size 720x1280 \\
        --frames 500

exit status: 0 at least one case was measured, 1 none could run, 2 bad input, 130 stopped by Ctrl-C
"""
OwnProcess.register('TimedEngine', TimedEngine)
OwnProcess.register('LimitProbe', LimitProbe)


def build_parser() -> argparse.ArgumentParser:
    """Build the command line."""
    parser = argparse.ArgumentParser(
        prog='python -m desertmind_seg.benchmark',
        description='Compare bundles, backends and frame sizes by time and memory.',
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('bundles', metavar='BUNDLE', type=Path, nargs='+', help='models to run')
    parser.add_argument(
        '--backend',
        metavar='NAME',
        choices=BACKENDS,
        nargs='+',
        default=list(BACKENDS),
        help=f'what runs them (default: {" ".join(BACKENDS)})',
    )
    parser.add_argument(
        '--size',
        metavar='HxW',
        type=size_hw,
        nargs='+',
        default=list(_SIZES_HW),
        help='camera sizes, height x width (default: 480x640 720x1280)',
    )
    parser.add_argument(
        '--frames',
        metavar='N',
        type=whole_number(ROUNDS),
        default=100,
        help=f'timed frames of each case, over {ROUNDS} rounds (default: 100)',
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
    parser.add_argument('--out', metavar='DIR', type=Path, help=f'{METRICS} and {REPORT} go there')
    parser.add_argument('--force', action='store_true', help='replace results of an earlier run')
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    args = build_parser().parse_args(argv)
    try:
        bundles = [read_bundle(path) for path in args.bundles]
        arguments = (bundles, args.backend, args.size, args.frames, args.num_threads, args.image)
        if args.out is None:
            document = benchmark(*arguments)
        else:
            # Results that are in the way are found before anything is measured.
            with output_folder(args.out, (METRICS, REPORT), replace=args.force) as new:
                document = benchmark(*arguments)
                write_json(new / METRICS, document)
                _write_benchmark_report(new / REPORT, document)
    except (BundleError, EngineError, ImageError, OSError) as err:
        print(f'error: {err}', file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print('stopped', file=sys.stderr)
        return 130
    print(machine_line(document))
    print(_aligned(table_rows(document['cases'])))
    for name, text in {
        **limit_rows(document['limits']),
        **_floor_notes(document['cases']),
    }.items():
        print(f'{name}: {text}')
    if args.out is not None:
        print(f'Report: {args.out / REPORT}\nMetrics: {args.out / METRICS}')
    return 0 if any(case['not_run'] is None for case in document['cases']) else 1


if __name__ == '__main__':
    sys.exit(main())
