"""Command: make a data folder of what a labelling tool exported."""

import argparse
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
import shlex
import sys
from typing import TYPE_CHECKING

from desertmind_seg.model.errors import visible
from desertmind_seg.model.installed import as_called
from desertmind_seg.options import (
    ALL_DONE,
    DONE_IN_PART,
    add_output_folder,
    command_parser,
    run_command,
)

if TYPE_CHECKING:
    from training.label_folders.importing import Imported

# training.label_folders.detect has what they are, which takes a second to import; a test compares.
_FORMATS = (
    *('cvat', 'voc', 'coco', 'labelme', 'label-studio', 'yolo', 'roboflow-masks', 'cityscapes'),
    *('camvid', 'coco-stuff', 'mapillary', 'datumaro', 'masks'),
)
_DESCRIPTION = """\
Make a data folder of what a labelling tool exported: images/, masks/ and classes.yaml.

SOURCE is a zip, a folder or a file, as CVAT, Label Studio, LabelMe, Roboflow and others export it;
the format is found out. Pixels without a label stay without one. What crossing a class costs is
guessed from its name and printed: correct it in classes.yaml before training. Exit status 1 if a
picture or a shape was left out as damaged or missing; each is named.
"""
_EXAMPLES = """\
examples:
  an export of CVAT with its images ("Save images" was ticked)
    python -m training.import_labels task_1.zip --out data/farm
  an export without images, as Label Studio's JSON is
    python -m training.import_labels export.json --images ~/recordings/farm --out data/farm
  masks of colours, and the table that names them; without it the colours are listed
    python -m training.import_labels masks.zip --colors colors.csv --out data/farm
  a published set: which of its pictures and masks belong together, and what their codes mean
    python -m training.import_labels WildScenes2d --pair '*/image/*.png' '*/indexLabel/*.png' \\
        --colors codes.csv --out data/wildscenes
  what nobody labelled is ground
    python -m training.import_labels task_1.zip --background ground --out data/farm
"""
_SHOWN = 20


def build_parser() -> argparse.ArgumentParser:
    """Build the command line."""
    parser = command_parser('training.import_labels', _DESCRIPTION, _EXAMPLES)
    parser.add_argument('source', metavar='SOURCE', type=Path, help='zip, folder or file')
    add_output_folder(parser)
    parser.add_argument(
        '--images', metavar='PATH', type=Path, help='folder or zip of the images, if not in SOURCE'
    )
    parser.add_argument(
        '--depth',
        metavar='PATH',
        type=Path,
        help='folder or zip of 16-bit PNG in millimetres, of equal names, one for each frame',
    )
    parser.add_argument(
        '--format', choices=_FORMATS, help='take SOURCE for this format (default: found out)'
    )
    parser.add_argument(
        '--colors',
        metavar='FILE',
        type=Path,
        help='table of plain masks: CSV with name,r,g,b or name,code, or YAML or JSON; several '
        'lines of one name are one class, the code or colour * is all that is not listed',
    )
    parser.add_argument(
        '--pair',
        nargs=2,
        action='append',
        default=[],
        metavar=('PICTURES', 'MASKS'),
        help='plain masks of other names than their pictures: two patterns of paths in SOURCE, '
        "such as '*/rgb/*_left.jpg' '*/gt/*_labels.png'; those with the same text in place of * "
        'belong together, which may be of several folders; may be given several times',
    )
    parser.add_argument(
        '--split',
        nargs='+',
        action='extend',
        default=[],
        metavar='PART=FILE',
        help='lists of the pictures of train, val and test, a line for each (or for a folder of '
        'them); pictures in no list are left out (default: folders of these names)',
    )
    parser.add_argument(
        '--background',
        metavar='NAME',
        help='pixels without a label are this class (default: they stay without one)',
    )
    parser.add_argument(
        '--keep-unlabelled',
        action='store_true',
        help='keep images without any label, too, to label them; no training takes them so',
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = build_parser()
    options = parser.parse_args(argv)
    if options.format not in (None, 'masks'):
        if options.colors is not None:
            parser.error(
                f'--colors is for plain masks, --format {options.format} has its own classes'
            )
        if options.pair:
            parser.error(f'--pair is for plain masks, --format {options.format} has its own names')
    return run_command(parser, lambda: _run(options))


def _run(options: argparse.Namespace) -> int:
    from training.label_exports.source import ExportFiles, open_export
    from training.label_folders.detect import FORMATS
    from training.label_folders.importing import Request, import_labels
    from training.label_masks.plain import ColorsError

    with ExitStack() as stack:

        def opened(path: Path) -> ExportFiles:
            return stack.enter_context(open_export(path))

        request = Request(
            source=opened(options.source),
            out=options.out,
            images=opened(options.images) if options.images else None,
            depth=opened(options.depth) if options.depth else None,
            format=options.format,
            colors=options.colors,
            pairs=options.pair,
            split=options.split,
            background=options.background,
            keep_unlabelled=options.keep_unlabelled,
            replace=options.force,
        )

        def tell(name: str, known_by: str) -> None:
            title = FORMATS[name].title if name in FORMATS else 'plain masks'
            print(visible(f'{options.source}: {name}, {title} ({known_by})'), flush=True)

        try:
            result = import_labels(request, tell)
        except ColorsError as err:
            print(err.template)
            raise
    _print_result(result, options.out)
    return DONE_IN_PART if result.faults or result.missing else ALL_DONE


def _print_result(result: 'Imported', out: Path) -> None:
    """Print the class table, the counts, what was left out, and what comes next."""
    from desertmind_seg.model.ontology import CLASS_TABLE
    from training.label_folders.pictures import shown

    table, written = result.table, result.written
    pixels = written.pixels.total()
    width = max(18, *(len(name) for name in table.ontology.names))
    print(f'code  {"class":{width}s}    share  frames  group            cost  guessed')
    for entry, origin in zip(table.ontology.classes, table.origins, strict=True):
        (code,) = entry.raw
        print(
            f'{code:4d}  {entry.name:{width}s} {written.pixels[code] / pixels:8.3%}  '
            f'{written.frames_with[code]:6d}  {entry.group:15s}  {entry.cost:4d}  {origin}'
        )
    rest = written.pixels[table.unlabelled_code]
    print(f'{table.unlabelled_code:4d}  {"(not labelled)":{width}s} {rest / pixels:8.3%}')
    splits = ', '.join(
        f'{count} {split or "in no part"}' for split, count in written.by_split.items()
    )
    print(f'{written.frames} frames ({splits})')
    for old, new in table.renamed.items():
        print(f'note: class {old!r} is {new!r} here')
    if table.not_labelled:
        print(visible(f'note: taken for "not labelled": {", ".join(table.not_labelled)}'))
    for text in [*table.notes, *result.notes]:
        print(visible(f'note: {text}'))
    if never := [
        entry.name for entry in table.ontology.classes if not written.pixels[entry.raw[0]]
    ]:
        print(f'note: never labelled: {", ".join(never)}')
    for what, count in result.left_out.items():
        print(visible(f'left out: {count} {what}'))
    if result.unlabelled:
        text = f'{len(result.unlabelled)} images without labels ({shown(result.unlabelled)})'
        print(visible(f'left out: {text}; --keep-unlabelled keeps them'))
    if result.missing:
        print(visible(f'fault: {len(result.missing)} images are missing: {shown(result.missing)}'))
    for text in result.faults[:_SHOWN]:
        print(visible(f'fault: {text}'))
    if len(result.faults) > _SHOWN:
        print(f'fault: and {len(result.faults) - _SHOWN} more')
    root = shlex.quote(str(out))
    print(f'costs and groups are guesses: correct them in {out / CLASS_TABLE}. Then')
    audit = f'python -m training.audit --dataset folder --root {root} --out out/audit'
    for command in (audit, f'python -m training.train finetune data={root}'):
        print(f'  {as_called(command)}')


if __name__ == '__main__':
    sys.exit(main())
