"""Plain masks: pictures, masks of colours or codes, and a table that somebody writes for them."""

from collections import Counter
from collections.abc import Sequence
import dataclasses
import re

import numpy as np

from desertmind_seg.model.arrays import packed_colors, unpacked_color
from training.label_exports.records import Export, ExportClass, split_of
from training.label_exports.source import ExportError, ExportFile, ExportFiles
from training.label_masks.layouts import Keys, apart, paired
from training.label_masks.mask_files import MaskTable, read_mask
from training.label_masks.pairs import pair_by_patterns

_MASK_FOLDERS = re.compile(
    r'masks?|labels?|annotations?|annotated|segmentations?|gt|ground_?truth|semantic|seg',
    re.IGNORECASE,
)
_IMAGE_FOLDERS = re.compile(
    r'images?|imgs?|rgb|frames?|pictures?|photos?|color|data', re.IGNORECASE
)
_MASK_END = re.compile(
    r'[_.-](masks?|labels?|gt|seg|segmentation|annotation|color|l)$', re.IGNORECASE
)
_FURTHER_END = re.compile(r'(.+)[_.-][a-z]+', re.IGNORECASE)
_MOST_VALUES = 256


class ColorsError(ExportError):
    """Masks have no table.

    Attributes:
        template: what is in them, as a CSV that lacks the names.
    """

    def __init__(self, message: str, template: str) -> None:
        super().__init__(message)
        self.template = template


def _key(file: ExportFile) -> tuple[str, bool]:
    """Key a file, and whether it is a mask."""
    folders, is_mask = [], False
    for folder in file.parts[:-1]:
        if _MASK_FOLDERS.fullmatch(folder):
            is_mask = True
        elif not _IMAGE_FOLDERS.fullmatch(folder):
            folders.append(folder)
    stem = _MASK_END.sub('', file.stem)
    is_mask = is_mask or stem != file.stem
    return '/'.join([*folders, stem if is_mask else file.stem]), is_mask


def recognise(files: ExportFiles) -> str | None:
    """Say what looks like this format, None where nothing does."""
    return next((file.name for file in files if file.is_image and _key(file)[1]), None)


def read(
    files: ExportFiles,
    table: list[ExportClass] | None,
    pairs: Sequence[Sequence[str]] = (),
    images: ExportFiles | None = None,
) -> Export:
    """Pair pictures and masks by name.

    Args:
        files: of the export.
        table: classes with colours or codes; None to be told what the masks hold.
        pairs: which pictures and masks belong together, as for `pair_by_patterns`; by their
            names where there are none.
        images: where pictures lie that a pattern names, beside the export.

    Raises:
        ColorsError: there is no table.
        ExportError: there are no masks, or several of one picture.
    """
    faults: list[str] = []
    if pairs:
        pictures, masks = pair_by_patterns([*files, *(images or ())], pairs)
    else:
        pictures, masks, faults = apart(files, _key)
        if not masks:
            raise ExportError(
                f'{files.place}: no masks; expected images/NAME.jpg and masks/NAME.png, or '
                'NAME.jpg and NAME_mask.png; of other names say which belong together by --pair '
                f"'PICTURES/*.jpg' 'MASKS/*.png'. It holds {files.seen()}"
            )
        _check_one_each(pictures, masks)
    if table is None:
        raise _without_table(masks)
    listed = [entry for entry in table if entry.code is not None or entry.color is not None]
    in_colors = all(entry.color is not None for entry in listed) and not all(
        entry.code is not None for entry in listed
    )
    export = paired(
        pictures,
        masks,
        MaskTable(table),
        colors=in_colors,
        grey_is_code=not in_colors,
        split=lambda key: split_of(key.rpartition('/')[0]),
    )
    export.faults += faults
    if pairs:  # the name of a frame is what the patterns leave of its path
        export.frames[:] = [
            dataclasses.replace(frame, folder=frame.name.rpartition('/')[0])
            for frame in export.frames
        ]
    return export


def _check_one_each(pictures: Keys, masks: Keys) -> None:
    """Refuse masks that are further ones of a picture: which of them holds the labels?

    Of PixelAnnotationTool's NAME_mask.png, NAME_watershed_mask.png and NAME_color_mask.png the
    first has the strokes alone; EISeg writes NAME_pseudo.png and NAME_cutout.png beside NAME.png.
    """
    for key, mask in masks.items():
        shorter = _FURTHER_END.fullmatch(key)
        if shorter and shorter[1] in pictures and shorter[1] in masks and key not in pictures:
            raise ExportError(
                f'{masks[shorter[1]].name} and {mask.name} are both masks of '
                f'{pictures[shorter[1]].name}, as PixelAnnotationTool and EISeg write them; keep '
                'one of each picture, called NAME_mask.png (of PixelAnnotationTool that is '
                'NAME_watershed_mask.png)'
            )


def _without_table(masks: dict[str, ExportFile]) -> ExportError:
    """Count what the masks hold."""
    counts: Counter[int] = Counter()
    in_colors = False
    for mask in masks.values():
        values = read_mask(mask, colors=False)
        if values.ndim == 3:
            in_colors, values = True, packed_colors(values)
        elif in_colors:
            raise ExportError(f'{mask.name} is grey or has a palette, other masks are in colour')
        found, pixels = np.unique(values, return_counts=True)
        counts.update(dict(zip(found.tolist(), pixels.tolist(), strict=True)))
        if len(counts) > _MOST_VALUES:
            return ExportError(
                f'{mask.name} and the masks before it hold more than {_MOST_VALUES} '
                f'{"colours" if in_colors else "codes"}: they are pictures, number objects '
                '(instances, panoptic masks), or were resized or recompressed; take the masks of '
                'classes, as PNG, and say by --pair which these are'
            )
    whole = counts.total()
    head = 'name,r,g,b,pixels' if in_colors else 'name,code,pixels'
    lines = [
        f'NAME_{number},{",".join(map(str, unpacked_color(value))) if in_colors else value},'
        f'{pixels} ({pixels / whole:.1%})'
        for number, (value, pixels) in enumerate(counts.most_common(), 1)
    ]
    return ColorsError(
        f'{len(masks)} masks of {len(counts)} {"colours" if in_colors else "codes"}, and no table '
        'that names them: save the lines above as colors.csv, put a name for each NAME (unlabeled '
        'where it is no class) and pass --colors colors.csv',
        '\n'.join([head, *lines]),
    )
