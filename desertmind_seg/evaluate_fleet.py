"""Command: evaluate thousands of bags, on one machine or many. Needs the extra fleet, no ROS.

Results, below --out, which may be a prefix in an object store:

- `bags/run_id=RUN/BAG.parquet`: one file a bag and run, written whole: `fleet.records.BagRow`.
- `runs/RUN/`: `manifest.parquet`, `totals.json` (`release.totals.FleetTotals`), `report.html` and
  `log.jsonl`, a line where a bag is begun and one where it is done.

docs/fleet.md has the tables, the criteria, and queries.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
import sys
from typing import TYPE_CHECKING

from desertmind_seg.model.files import DEFAULT_BUNDLE, share_path
from desertmind_seg.options import (
    ALL_DONE,
    add_bag_topics,
    add_compared_models,
    check_bag_options,
    command_parser,
    exit_code,
    not_negative,
    positive,
    run_command,
    whole_number,
)

if TYPE_CHECKING:
    from desertmind_seg.fleet.records import RunOptions
    from desertmind_seg.release.totals import FleetTotals

CRITERIA_NOT_MET = 3
_EXAMPLES = """\
examples:
  every bag below a folder
    python -m desertmind_seg.evaluate_fleet /data/drives --image /camera/color/image_raw \\
        --labels /labels/ycor_8 --out results
  is the new model good enough to be released? exit status 0 or 3
    python -m desertmind_seg.evaluate_fleet drives.csv --image /camera/color/image_raw \\
        --labels /labels/ycor_8 --bundle new.onnx --against old.onnx --by site \\
        --criteria release.yaml --out results
  from an object store, on a cluster
    python -m desertmind_seg.evaluate_fleet s3://drives/2026/ --image /camera/color/image_raw \\
        --out s3://results/fleet --address ray-head:6379

Run the same command again to go on where it was stopped: a bag that has results is not evaluated
again. Bags that cannot be evaluated are named with the reason, and do not count: done in part.
With --criteria the exit status is 0 where all hold, and 3 where not."""


def build_parser() -> argparse.ArgumentParser:
    """Build the command line."""
    parser = command_parser(
        'desertmind_seg.evaluate_fleet',
        'Evaluate every bag of a fleet once; write tables, totals and a report.',
        _EXAMPLES,
    )
    parser.add_argument(
        'bags',
        help='manifest (.csv or .parquet with a column uri), folder, prefix such as s3://drives/ '
        'or glob; in a glob * also stands for folders',
    )
    add_bag_topics(parser)
    add_compared_models(parser)
    parser.add_argument(
        '--out', required=True, metavar='DIR', help='folder, or s3://bucket/prefix'
    )
    parser.add_argument('--by', metavar='TAG', action='append', default=[], help='slice by a tag')
    parser.add_argument('--criteria', type=Path, metavar='FILE', help='bounds that must hold')
    parser.add_argument(
        '--retry', action='store_true', help='evaluate bags again whose status is not ok'
    )
    parser.add_argument(
        '--export-worst',
        type=whole_number(1, 1000),
        metavar='N',
        help='write the N worst frames with masks for CVAT and Label Studio into RUN/worst',
    )
    _add_pool(parser)
    return parser


def _add_pool(parser: argparse.ArgumentParser) -> None:
    """Add who does it, and what a bag may take."""
    parser.add_argument(
        '--address', metavar='HOST:PORT', help='of a Ray cluster (default: this machine alone)'
    )
    parser.add_argument(
        '--workers', type=whole_number(1), metavar='N', help='default: as many as fit'
    )
    parser.add_argument(
        '--cpus-per-worker',
        type=whole_number(1),
        default=1,
        metavar='N',
        help='threads of each engine, too (default: %(default)s)',
    )
    parser.add_argument(
        '--gpus-per-worker',
        type=not_negative,
        metavar='G',
        help='such as 0.25 for four on a GPU (default: 1 where there are GPUs)',
    )
    parser.add_argument(
        '--timeout-sec',
        type=positive,
        default=3600.0,
        metavar='SEC',
        help='longest time for a bag (default: %(default)g)',
    )
    parser.add_argument(
        '--memory-gib',
        type=positive,
        default=8.0,
        metavar='GIB',
        help='most memory for a bag (default: %(default)g)',
    )
    parser.add_argument(
        '--scratch',
        default='/tmp',
        metavar='DIR',
        help='on every machine, for what is fetched (default: %(default)s)',
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = build_parser()
    options = parser.parse_args(argv)
    check_bag_options(parser, options)
    if options.export_worst and '://' in options.out:
        parser.error('--export-worst needs a local --out; labelling tools read files')
    return run_command(parser, lambda: _run(options))


def _run(options: argparse.Namespace) -> int:
    from desertmind_seg.fleet.pool import Pool
    from desertmind_seg.fleet.records import Limits
    from desertmind_seg.release.page import verdict_rows
    from desertmind_seg.release.run import REPORT, TOTALS, FleetRequest, evaluate_fleet
    from desertmind_seg.release.worst import export_worst

    asked = asked_of_bags(options)
    result = evaluate_fleet(
        FleetRequest(
            source=options.bags,
            options=asked,
            bundle=options.bundle or share_path(DEFAULT_BUNDLE),
            against=options.against,
            out=options.out,
            limits=Limits(
                timeout_sec=options.timeout_sec,
                memory_gib=options.memory_gib,
                threads=options.cpus_per_worker,
            ),
            pool=Pool(
                address=options.address,
                workers=options.workers,
                cpus=options.cpus_per_worker,
                gpus=options.gpus_per_worker,
                scratch=options.scratch,
            ),
            by=options.by,
            criteria=options.criteria,
            retry=options.retry,
        )
    )
    totals = result.totals
    _print_totals(totals)
    if options.labels is None and result.listing.labels_apart:
        print(
            f'{result.listing.labels_apart} bags have a labels_uri; without --labels TOPIC it is '
            'not read.',
            file=sys.stderr,
        )
    print(f'Report: {result.folder}/{REPORT}\nTotals: {result.folder}/{TOTALS}')
    if options.export_worst:
        written = export_worst(
            result.worst.worst_frames(options.export_worst),
            result.listing,
            options.bundle or share_path(DEFAULT_BUNDLE),
            asked,
            Path(result.folder, 'worst'),
            Path(options.scratch),
            lambda text: print(f'Not exported: {text}', file=sys.stderr),
        )
        print(f'{written} frames to label: {result.folder}/worst')
    if options.criteria is not None:
        for row in verdict_rows(result.verdicts)[1:]:
            print(f'{row[-1]}: {row[0]} of {row[1]} {row[2]}: {row[3]} ({row[4]}, n {row[5]})')
        return ALL_DONE if all(each.passed for each in result.verdicts) else CRITERIA_NOT_MET
    return exit_code(totals.statuses['ok'], totals.bags)


def _print_totals(totals: 'FleetTotals') -> None:
    from desertmind_seg.fleet.records import not_counted
    from desertmind_seg.release.page import shown, shown_interval

    for part in totals.slices:
        print(f'{part.name}: {part.bags} bags, {part.frames} frames')
        for name, number in part.numbers.items():
            if number.value is not None and '/' not in name:
                print(f'  {name} {shown(number.value)} ({shown_interval(number.interval_95)})')
    if others := not_counted(totals.statuses):
        print(f'{others}: not in the totals.', file=sys.stderr)
    if totals.copies:
        first = ' and '.join(totals.copies[0][:2])
        print(
            f'{len(totals.copies)} recordings are there more than once and count so, by start, '
            f'length and frames: {first}',
            file=sys.stderr,
        )


def asked_of_bags(options: argparse.Namespace) -> 'RunOptions':
    """Return what is asked of each bag, with the content of files in place of their names."""
    from desertmind_seg.fleet.records import RunOptions
    from desertmind_seg.model.ontology import load_ontology
    from desertmind_seg.pipeline.label_map import written_out

    texts = {'labels_ontology', 'label_map'}
    values = {name: getattr(options, name) for name in RunOptions.model_fields.keys() - texts}
    return RunOptions(
        **values,
        labels_ontology=options.ontology and load_ontology(options.ontology),
        label_map=written_out(options.map),
    )


if __name__ == '__main__':
    sys.exit(main())
