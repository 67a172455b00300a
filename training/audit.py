r"""Check a labelled set before training on it.

Reads every frame once. Faults, each named with its file: an image or mask without its other half,
files that do not decode, sizes that differ, codes that the ontology does not list, masks without
any label, and pictures that are in both training and validation. Exit status 1 if there are any.

Examples:
  python -m training.audit --dataset ycor --root ../shared/data/ycor --ontology ycor-8 \
      --out out/audit_ycor
  python -m training.audit --dataset rugd --root ~/RUGD --ontology rugd-24 --by official \
      --out out/audit_rugd
"""

import argparse
from collections.abc import Sequence
import json
from pathlib import Path
import sys
from typing import Any, get_args

from desertmind_seg.model.ontology import OntologyError, load_ontology
from desertmind_seg.reports.output import output_folder, write_json
from desertmind_seg.reports.page import write_report
from training.data.frames import DatasetError
from training.inspection.page import JSON, REPORT, audit, headline
from training.recipes.schema import DatasetName, SplitSection

# ---------------------------------------------------------------------------------------------
# Command line


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='python -m training.audit',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    layouts = get_args(DatasetName)
    parser.add_argument('--dataset', required=True, choices=layouts, help='layout of the set')
    parser.add_argument('--root', required=True, help='its folder, as in data.train of a recipe')
    parser.add_argument('--ontology', required=True, help='name or YAML file of the class table')
    parser.add_argument('--out', required=True, type=Path, help=f'folder for {REPORT} and {JSON}')
    split = parser.add_argument_group('the split that is checked, as in data.split of a recipe')
    split.add_argument('--by', choices=('official', 'groups', 'folds'), default='groups')
    split.add_argument('--block-frames', type=int, default=16, help='default: %(default)s')
    split.add_argument('--val-every-groups', type=int, default=6, help='default: %(default)s')
    split.add_argument('--folds', type=int, default=5, help='default: %(default)s')
    split.add_argument('--fold', type=int, default=0, help='default: %(default)s')
    parser.add_argument('--force', action='store_true', help='replace an earlier audit in --out')
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code: 0 clean, 1 faults, 2 nothing could be checked."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    try:
        split = SplitSection(
            by=arguments.by,
            block_frames=arguments.block_frames,
            val_every_groups=arguments.val_every_groups,
            folds=arguments.folds,
            fold=arguments.fold,
        )
    except ValueError as err:
        parser.error(str(err))
    try:
        ontology = load_ontology(arguments.ontology)
        with output_folder(arguments.out, (REPORT, JSON), replace=arguments.force) as new:
            found = audit(arguments.dataset, arguments.root, split, ontology)
            document = found['document']
            write_json(new / JSON, document)
            write_report(
                new / REPORT,
                f'Audit of {arguments.dataset}',
                [arguments.root, f'{ontology.name}, split by {split.by}'],
                headline(document),
                found['sections'],
            )
    except (DatasetError, OntologyError, FileNotFoundError, FileExistsError) as err:
        print(f'error: {err}', file=sys.stderr)
        return 2
    print_findings(document)
    print(arguments.out / REPORT)
    return 1 if document['faults'] else 0


def print_findings(document: dict[str, Any]) -> None:
    """Print the class histogram, then what is wrong."""
    for row in document['classes']:
        print(
            f'{row["id"]:3d}  {row["name"]:32s} {row["share"]:8.3%}  {row["frames"]:>7,d} frames  '
            f'{json.dumps(row["pixels_by_side"])}'
        )
    sides = ', '.join(f'{frames} {side}' for side, frames in document['sides'].items())
    print(f'{document["frames"]} frames ({sides}) in {document["groups"]} groups')
    for text in document['warnings']:
        print(f'note: {text}')
    for fault in document['faults'][:20]:
        print(f'fault: {fault["kind"]}: {fault["text"]}')
    if len(document['faults']) > 20:
        print(f'fault: and {len(document["faults"]) - 20} more, in {JSON}')


if __name__ == '__main__':
    sys.exit(main())
