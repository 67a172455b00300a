"""Masks of known colours or codes to labels; what a table does not name becomes no class."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import numpy.typing as npt

from desertmind_seg.decoding.image_bytes import decode_palette
from desertmind_seg.decoding.image_header import LABEL_FILE_LIMITS, DecodeError
from desertmind_seg.model.arrays import packed_colors, unpacked_color
from training.label_exports.records import Color, ExportClass, Labels, Painter
from training.label_exports.source import ExportError, ExportFile

_UNKNOWN = 65535
_SHOWN = 5


@dataclass(frozen=True)
class MaskTable:
    """What the pixels of a set of masks mean.

    Attributes:
        classes: with codes, colours, or both; one with neither is whatever no other lists.
        void_codes: codes that mean "not labelled" beside those of the classes.
        void_colors: such colours.
        instance_bits: how many bits below a code number the instances of its class.
    """

    classes: Sequence[ExportClass]
    void_codes: Collection[int] = ()
    void_colors: Collection[Color] = ()
    instance_bits: int = 0

    @property
    def _rest(self) -> int:
        """The label of codes and colours that are nowhere listed."""
        neither = (
            at
            for at, entry in enumerate(self.classes)
            if entry.code is None and entry.color is None
        )
        return next((at + 1 for at in neither), _UNKNOWN)

    @cached_property
    def _has_codes_alone(self) -> bool:
        return not any(entry.color for entry in self.classes)

    @cached_property
    def of_code(self) -> npt.NDArray[np.uint16]:
        """Table (65536,) from a code to its label, as in `Labels`."""
        table = np.full(65536, self._rest, np.uint16)
        table[list(self.void_codes)] = 0
        for position, entry in enumerate(self.classes):
            if entry.code is not None:
                table[entry.code] = position + 1
        return table

    @cached_property
    def of_color(self) -> npt.NDArray[np.uint16]:
        """Table (2**24,) from a packed colour to its label; of two classes the first counts."""
        # Of codes alone no colour is the rest: such a mask is of another kind.
        rest = _UNKNOWN if self._has_codes_alone else self._rest
        table = np.full(1 << 24, rest, np.uint16)
        for color in self.void_colors:
            table[_packed(color)] = 0
        for position, entry in reversed(list(enumerate(self.classes))):
            if entry.color is not None:
                table[_packed(entry.color)] = position + 1
        return table

    def painter(self, mask: ExportFile, *, colors: bool, grey_is_code: bool = True) -> Painter:
        """Return what reads the labels from a mask file.

        Args:
            mask: PNG, TIFF or BMP.
            colors: take a palette's colours and not its indices.
            grey_is_code: a grey mask holds codes; else its values are colours, too.
        """
        return partial(self._paint, mask, colors, grey_is_code)

    def _paint(
        self, mask: ExportFile, colors: bool, grey_is_code: bool, size_hw: tuple[int, int]
    ) -> tuple[Labels, list[str]]:
        values = read_mask(mask, colors=colors)
        if values.shape[:2] != size_hw:
            raise ExportError(
                f'{mask.name} has {values.shape[1]} x {values.shape[0]} pixels, its image '
                f'{size_hw[1]} x {size_hw[0]} (width x height)'
            )
        if values.ndim == 3 and self._has_codes_alone and (values == values[..., :1]).all():
            values = values[..., 0]  # grey that was saved in colour
        if self.instance_bits:
            if values.ndim != 2 or values.dtype != np.uint16:
                raise ExportError(
                    f'{mask.name} is {values.dtype} of shape {values.shape}; expected grey of 16 '
                    f'bits, {1 << self.instance_bits} times the class plus the instance'
                )
            values = values >> self.instance_bits
        in_codes = values.ndim == 2 and (grey_is_code or not colors)
        if not in_codes:
            values = packed_colors(np.stack([values] * 3, axis=2) if values.ndim == 2 else values)
        labels = (self.of_code if in_codes else self.of_color)[values]
        if (labels == _UNKNOWN).any():
            found, counts = np.unique(values[labels == _UNKNOWN], return_counts=True)
            commonest = np.argsort(-counts)[:_SHOWN]
            shown = [
                f'{found[i] if in_codes else unpacked_color(int(found[i]))} ({counts[i]} px)'
                for i in commonest
            ]
            raise ExportError(
                f'{mask.name} holds {len(found)} {"codes" if in_codes else "colours"} that its '
                f'table does not list: {", ".join(shown)}; list what means "not labelled" as '
                "unlabeled, or '*' as unlabeled for all that is not listed; masks must not be "
                'resized, recompressed or anti-aliased'
            )
        return labels, []


def read_mask(mask: ExportFile, *, colors: bool) -> npt.NDArray[Any]:
    """Decode a mask: (H, W) uint8 or uint16 of codes, or (H, W, 3) uint8 of colours.

    Raises:
        ExportError: it is damaged, or of a format that changes values.
    """
    try:
        return decode_palette(mask.read(), LABEL_FILE_LIMITS, colors=colors)
    except DecodeError as err:
        raise ExportError(f'{mask.name} cannot be read as a mask: {err}') from err


def _packed(color: Color) -> int:
    return int(packed_colors(np.array(color, np.uint8)))
