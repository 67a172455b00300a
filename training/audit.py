"""Command: check a labelled set before training on it."""

import argparse
from collections.abc import Sequence
import sys
from typing import TYPE_CHECKING, Any

from desertmind_seg.model.errors import visible
from desertmind_seg.options import (
    ALL_DONE,
    DONE_IN_PART,
    add_output_folder,
    command_parser,
    run_command,
    whole_number,
)
from training.options import add_dataset

if TYPE_CHECKING:
    from desertmind_seg.model.ontology import Ontology
    from training.recipes.schema import SplitSection

_DESCRIPTION = """\
Check a labelled set before training on it.

Reads every frame once. Faults, each named with its file: an image or mask without its other half,
files that do not decode, sizes that differ, codes that the ontology does not list, masks without
any label, depth that is missing everywhere, pictures that are in both training and validation, and
what finetune stops at when it deals the frames. Exit status 1 if there are any.
"""
_EXAMPLES = r"""examples:
  python -m training.audit --dataset folder --root DATA --out out/audit
  python -m training.audit --dataset rugd --root ~/RUGD --by official --out out/audit_rugd
  python -m training.audit --dataset bag --ontology ycor-8 --out out/audit_drive \
      --root 'drive?image=/camera/color/image_raw&labels=/labels/ycor_8'
"""
_SHOWN_FAULTS = 20


def build_parser() -> argparse.ArgumentParser:
    """Build the command line."""
    parser = command_parser('training.audit', _DESCRIPTION, _EXAMPLES)
    add_dataset(parser, required=True)
    parser.add_argument(
        '--ontology',
        metavar='TABLE',
        help='class table of the labels: name or .yaml file (default: ROOT/classes.yaml, or the '
        'one that the layout is published with)',
    )
    add_output_folder(parser)
    split = parser.add_argument_group('the split that is checked, as in data.split of a recipe')
    split.add_argument(
        '--by',
        choices=('auto', 'official', 'groups', 'folds'),
        help='auto: as finetune deals them (default: auto for folder, groups for others)',
    )
    for option, least, most, default in (
        ('block-frames', 1, 1_000_000, 16),
        ('val-every-groups', 2, 1_000_000, 6),
        ('folds', 2, 1000, 5),
        ('fold', 0, 999, 0),
    ):
        split.add_argument(
            f'--{option}',
            metavar='N',
            type=whole_number(least, most),
            default=default,
            help='default: %(default)s',
        )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = build_parser()
    options = parser.parse_args(argv)
    if options.fold >= options.folds:
        parser.error(
            f'--fold {options.fold} of --folds {options.folds}: expected 0..{options.folds - 1}'
        )
    return run_command(parser, lambda: _run(options))


def _run(options: argparse.Namespace) -> int:
    from desertmind_seg.model.ontology import load_ontology
    from training.data.class_table import labels_table, no_table
    from training.data.frames import DatasetError
    from training.inspection.audit import REPORT, audit_to_folder
    from training.recipes.schema import RecipeError, SplitSection

    given = options.ontology and load_ontology(options.ontology)
    ontology = labels_table(options.dataset, options.root, given)
    if ontology is None:
        raise no_table(options.dataset, options.root)
    by: Any = options.by or ('auto' if options.dataset == 'folder' else 'groups')
    split = SplitSection(
        by='groups' if by == 'auto' else by,
        block_frames=options.block_frames,
        val_every_groups=options.val_every_groups,
        folds=options.folds,
        fold=options.fold,
    )
    stop = None
    if by == 'auto':
        try:
            split = _split_of_finetune(options, ontology)
        except (DatasetError, RecipeError) as err:
            stop = f'{err} (checked as with --by groups)'
    document = audit_to_folder(
        options.dataset,
        str(options.root),
        split,
        ontology,
        options.out,
        replace=options.force,
        stop=stop,
    )
    _print_findings(document)
    print(options.out / REPORT)
    return DONE_IN_PART if document['faults'] else ALL_DONE


def _split_of_finetune(options: argparse.Namespace, ontology: 'Ontology') -> 'SplitSection':
    """Return how `train finetune` would deal the frames, or raise what it would stop at."""
    from training.batches.split_choice import with_decided_split
    from training.recipes.load import load_recipe

    table = [f'ontology={options.ontology}'] if options.ontology else []
    recipe = load_recipe('finetune', [f'data={options.dataset}:{options.root}', *table])
    return with_decided_split(recipe, ontology).data.split


def _print_findings(document: dict[str, Any]) -> None:
    """Print the class histogram, then what is wrong."""
    from training.evaluation.text import for_terminal, short_count

    sides = list(document['sides'])
    rows = [['id', 'class', 'share']]
    for side in sides:
        rows[0] += [f'{side} px', 'frames']
    for row in document['classes']:
        cells = [str(row['id']), row['name'], f'{row["share"]:.2%}']
        for side in sides:
            cells.append(short_count(row['pixels_by_side'].get(side, 0)))
            cells.append(str(row['frames_by_side'].get(side, 0)))
        rows.append(cells)
    print(for_terminal(rows))
    listed = ', '.join(f'{frames} {side}' for side, frames in document['sides'].items())
    print(f'{document["frames"]} frames ({listed}) in {document["groups"]} groups')
    for text in document['warnings']:
        print(visible(f'note: {text}'))
    faults = document['faults']
    for fault in faults[:_SHOWN_FAULTS]:
        print(visible(f'fault: {fault["kind"]}: {fault["text"]}'))
    if len(faults) > _SHOWN_FAULTS:
        print(f'fault: and {len(faults) - _SHOWN_FAULTS} more, in audit.json')


if __name__ == '__main__':
    sys.exit(main())
