"""Which mask is whose where names do not say it: two patterns, paired by what '*' stands for."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
import re

from training.label_exports.source import ExportError, ExportFile

_SHOWN = 3
# By what '*' stands for in a path: the text of each.
_Texts = tuple[str, ...]


@dataclass(frozen=True)
class Pattern:
    """Paths of files, such as '*/rgb/*_left.jpg'; '*' is any text, also of several folders."""

    text: str

    def texts(self, name: str) -> _Texts | None:
        """Return what each '*' stands for in a path, None where it is another path."""
        expression = '(.*?)'.join(map(re.escape, self.text.split('*')))
        match = re.fullmatch(expression, name, re.IGNORECASE | re.DOTALL)
        return None if match is None else match.groups()

    def key(self, texts: _Texts) -> str:
        """Join them to the name of a frame: folders stay folders, within a name '_' parts them."""
        _, *between, _ = self.text.split('*')
        ends = ['/' if '/' in part else '_' for part in between]
        joined = ''.join(text + end for text, end in zip(texts, [*ends, ''], strict=True))
        return re.sub('/+', '/', joined).strip('/')


def pair_by_patterns(
    files: Sequence[ExportFile], pairs: Iterable[Sequence[str]]
) -> tuple[dict[str, ExportFile], dict[str, ExportFile]]:
    """Find the pictures and masks that patterns name.

    Args:
        files: where they lie.
        pairs: a pattern of pictures and one of masks, each.

    Returns:
        Pictures and masks by the name of their frame; those of one frame have the same texts in
        place of '*'. What is a mask is no picture.

    Raises:
        ExportError: a pattern names nothing, no two files fit, or two have one name.
    """
    pictures: dict[str, ExportFile] = {}
    masks: dict[str, ExportFile] = {}
    for image_text, mask_text in pairs:
        image_of, mask_of = Pattern(image_text), Pattern(mask_text)
        if image_text.count('*') != mask_text.count('*') or '*' not in image_text:
            raise ExportError(
                f'--pair {image_text!r} {mask_text!r}: {image_text.count("*")} and '
                f"{mask_text.count('*')} '*'; expected as many in both, and one at least"
            )
        found_masks = _found(mask_of, files)
        taken = {(str(file.place), file.name) for file in found_masks.values()}
        found = _found(image_of, [f for f in files if (str(f.place), f.name) not in taken])
        found_masks = _in_case_of(found_masks, found)
        if not found.keys() & found_masks.keys():
            raise ExportError(
                f'--pair {image_text!r} {mask_text!r}: no picture has the text of a mask in place '
                f"of '*': pictures have {_shown(found)}, masks {_shown(found_masks)}"
            )
        for kind, ours in ((pictures, found), (masks, found_masks)):
            for texts, file in ours.items():
                key = image_of.key(texts)
                if kind.setdefault(key, file) != file:
                    raise two_of_one(kind[key], file)
    return pictures, masks


def _found(pattern: Pattern, files: Sequence[ExportFile]) -> dict[_Texts, ExportFile]:
    found: dict[_Texts, ExportFile] = {}
    for file in files:
        if file.is_image and (texts := pattern.texts(file.name)) is not None:
            if texts in found:
                raise two_of_one(found[texts], file)
            found[texts] = file
    if not found:
        names = ', '.join([file.name for file in files if file.is_image][:_SHOWN]) or 'none'
        raise ExportError(
            f"--pair: no image file is called {pattern.text!r}, where '*' is any text; the image "
            f'files are {names}, ...'
        )
    return found


def _in_case_of(
    masks: dict[_Texts, ExportFile], pictures: dict[_Texts, ExportFile]
) -> dict[_Texts, ExportFile]:
    """Write the texts of masks as their pictures do, where upper and lower case alone differ."""
    cased: dict[_Texts, list[_Texts]] = defaultdict(list)
    for texts in pictures.keys() - masks.keys():
        cased[_folded(texts)].append(texts)
    named: dict[_Texts, ExportFile] = {}
    for texts, mask in masks.items():
        others = [] if texts in pictures else cased[_folded(texts)]
        key = others[0] if len(others) == 1 else texts
        if key in named:
            raise two_of_one(named[key], mask)
        named[key] = mask
    return named


def _folded(texts: _Texts) -> _Texts:
    return tuple(text.casefold() for text in texts)


def _shown(found: dict[_Texts, ExportFile]) -> str:
    return ', '.join(' and '.join(map(repr, texts)) for texts in list(found)[:_SHOWN])


def two_of_one(one: ExportFile, other: ExportFile) -> ExportError:
    """Return the error for two files of which either may be meant."""
    return ExportError(
        f'{one.name} and {other.name} would both be the picture, or both the mask, of one frame; '
        "keep one of them, or say by --pair 'PICTURES/*.jpg' 'MASKS/*.png' which files belong "
        'together'
    )
