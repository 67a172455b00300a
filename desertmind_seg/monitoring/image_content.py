"""What images show, as far as it tells that the camera sees too little or nothing new.

A mask has a class for every pixel of a black, covered or frozen image too, and its confidence is
no lower for it. docs/node.md has how far the limits are from real frames.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from threading import Lock
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from desertmind_seg.model.arrays import Depth, Rgb

DARK, BURNT_OUT, FLAT, FROZEN, BLURRED = 'dark', 'burnt_out', 'flat', 'frozen', 'blurred'
UInt8 = npt.NDArray[np.uint8]
KINDS = (DARK, BURNT_OUT, FLAT, FROZEN, BLURRED)
# So many places are along the longer side, and at least so many along the other.
_PLACES, _MIN_PLACES = 96, 8
_DARK_BELOW = 40
_BRIGHTEST = 0.05
_BURNT_FROM, _MAX_BURNT_SHARE = 253, 0.5
_MIN_DETAIL = 1.0
_MIN_SHARPNESS = 0.68
# Sharpness is judged in these many parts, across and down, of those that have some contrast.
_PARTS = (6, 4)
_CONTRAST = 1.5
_SHARPEST = 0.1
# A driver that is asked more often than its camera has images sends some of them twice.
_FROZEN_AFTER_NS = 2_000_000_000
_FROZEN_REPEATS = 2
_DIGITS = {'brightness': 0, 'burnt_share': 3, 'detail': 2, 'sharpness': 2}
_RESTART = (
    'restart the camera or its driver (a simulator at rest without noise, a still image, or video '
    'of a scene at rest gives the same)'
)


@dataclass(frozen=True)
class ImageContent:
    """What one image shows.

    Attributes:
        brightness: 0 to 255, which 5 % of the image reach.
        burnt_share: of the lower half, that is white.
        detail: mean difference of neighbouring places in the lower half, 0 to 255; a place is
            about 1 % of the longer side.
        sharpness: how much of its contrast over two places the sharpest tenth of the image has
            over one; 0.5 is none finer, 1 and more is sharp. None without contrast.
    """

    brightness: float
    burnt_share: float
    detail: float
    sharpness: float | None

    @property
    def kind(self) -> str:
        """What is wrong with it, of KINDS; '' where nothing is."""
        if self.brightness < _DARK_BELOW:
            return DARK
        if self.burnt_share > _MAX_BURNT_SHARE:
            return BURNT_OUT
        if self.detail < _MIN_DETAIL:
            return FLAT
        if self.sharpness is not None and self.sharpness < _MIN_SHARPNESS:
            return BLURRED
        return ''


def _rows_of(image: npt.NDArray[Any], lower: int = 0) -> npt.NDArray[Any]:
    """Take a row of each place of an image (H, W, ...): a view, 96 rows at most if it is wide.

    Args:
        image: to look at.
        lower: how many pixels below the middle of its place a row lies; after the lowest one
            comes the uppermost.
    """
    place = _place_px(image)
    return image[(place // 2 + lower) % place :: place]


def look_at(rgb: Rgb) -> tuple[ImageContent, UInt8]:
    """Measure an image (H, W, 3) by `_rows_of` it; returns these too, (rows, W) in grey."""
    place = _place_px(rgb)
    rows = np.asarray(cv2.cvtColor(_rows_of(rgb), cv2.COLOR_RGB2GRAY), np.uint8)
    across = rgb.shape[1] // place
    # By a whole number it takes a quarter of the time.
    places = _smaller(rows[:, : across * place], (across, len(rows)))
    lower = places[len(places) // 2 :]
    content = ImageContent(
        brightness=_reached(places.ravel(), _BRIGHTEST),
        burnt_share=int(np.count_nonzero(lower >= _BURNT_FROM)) / lower.size,
        detail=sum(cv2.mean(steps)[0] for steps in _steps(lower)) / 2,
        sharpness=_sharpness(places.astype(np.float32)),
    )
    return content, rows


def _place_px(image: npt.NDArray[Any]) -> int:
    """Return the side of a place: about 1 % of the longer side."""
    height, width = image.shape[:2]
    return int(max(1, min(max(height, width) // _PLACES, min(height, width) // _MIN_PLACES)))


def _smaller(image: npt.NDArray[Any], size_wh: tuple[int, int]) -> npt.NDArray[Any]:
    return np.asarray(cv2.resize(image, size_wh, interpolation=cv2.INTER_AREA))


def _reached(values: npt.NDArray[Any], share: float) -> float:
    """Return what this share of the values (N,) reaches."""
    rank = int(values.size * (1 - share))
    return float(np.partition(values, rank)[rank])


def _steps(gray: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Return the differences of neighbours, across and down."""
    return cv2.absdiff(gray[:, 1:], gray[:, :-1]), cv2.absdiff(gray[1:], gray[:-1])


def _sharpness(gray: npt.NDArray[np.float32]) -> float | None:
    """Return that of the direction with less: a camera that turns blurs one.

    Steps are squared, for the sum of plain ones is that of a blurred edge, too.
    """
    coarse = _smaller(gray, (gray.shape[1] // 2, gray.shape[0] // 2))
    ratios = []
    for fine_steps, coarse_steps in zip(_steps(gray), _steps(coarse), strict=True):
        contrast = _smaller(coarse_steps**2, _PARTS)
        judged = contrast > _CONTRAST**2
        if judged.any():
            parts = _smaller(fine_steps**2, _PARTS)[judged] / contrast[judged]
            ratios.append(_reached(parts, _SHARPEST) ** 0.5)
    return min(ratios, default=None)


class Repeats:
    """Tells when the same pixels come again and again while stamps advance.

    A sensor's noise never repeats. Equal stamps are one message twice, and no news.
    """

    def __init__(self) -> None:
        self._sample: npt.NDArray[Any] | None = None
        self._first_ns = self._latest_ns = 0
        self.count = 0

    def add(self, sample: npt.NDArray[Any], stamp_ns: int) -> bool:
        """Take pixels of the next image, not to be changed; returns whether it is frozen."""
        same = self._sample is not None and np.array_equal(sample, self._sample)
        if not same or stamp_ns < self._latest_ns:
            self._sample, self._first_ns, self.count = sample, stamp_ns, 0
        elif stamp_ns > self._latest_ns:
            self.count += 1
        self._latest_ns = stamp_ns
        return self.count >= _FROZEN_REPEATS and stamp_ns - self._first_ns >= _FROZEN_AFTER_NS

    def add_depth(self, depth: Depth, stamp_ns: int) -> bool:
        """Take the next depth (H, W): where nothing is measured (0 and Inf), nothing has noise."""
        place = _place_px(depth)
        for lower in range(place):  # sparse depth may lie between the rows
            rows = _rows_of(depth, lower)
            if np.any((rows > 0) & (rows < np.inf)):
                return self.add(rows.copy(), stamp_ns)
        self._sample = None
        return False

    def text(self, what: str) -> str:
        """Say it of `what`, such as 'image'."""
        seconds = (self._latest_ns - self._first_ns) / 1e9
        return (
            f'The same {what} comes again and again: the pixels of {self.count + 1} in '
            f'{seconds:.1f} s are equal while their stamps advance; expected noise: {_RESTART}.'
        )


class ContentWatch:
    """Looks at one image after the other; `add` in one thread, the rest in another.

    Attributes:
        latest: what the latest image shows; None before the first.
    """

    def __init__(self) -> None:
        self.latest: ImageContent | None = None
        self._lock = Lock()
        self._repeats = Repeats()
        self._counts: Counter[str] = Counter()
        self._reported: Counter[str] = Counter()
        self._texts: dict[str, str] = {}
        self._problem = ''

    def add(self, rgb: Rgb, stamp_ns: int) -> str:
        """Look at an image (H, W, 3); returns what is wrong with it, of KINDS, or ''."""
        content, rows = look_at(rgb)
        with self._lock:
            frozen = self._repeats.add(rows, stamp_ns)
            # What is black or covered may be equal for that.
            kind = FROZEN if frozen and content.kind in ('', BLURRED) else content.kind
            self.latest = content
            self._counts[kind] += 1
            if kind == FROZEN:
                self._texts[kind] = self._repeats.text('image')
            elif kind:
                self._texts[kind] = text_of(kind, content)
        return kind

    def clear(self) -> None:
        """Forget the images before; totals stay."""
        with self._lock:
            self.latest = None
            self._repeats = Repeats()
            self._reported = self._counts.copy()
            self._problem = ''

    @property
    def counts(self) -> dict[str, int]:
        """How many images there were of each of KINDS."""
        with self._lock:
            return {kind: self._counts[kind] for kind in KINDS}

    def problem(self) -> str:
        """Say what is wrong with most of the bad images, if these are more than half.

        Counted are images since the last call that had any.
        """
        with self._lock:
            new = self._counts - self._reported
            if new:
                self._reported = self._counts.copy()
                good = new.pop('', 0)
                # In fog or at dusk one image is of this kind and the next one of that.
                most = new.most_common(1)[0][0] if new.total() > good else ''
                self._problem = self._texts[most] if most else ''
            return self._problem

    def values(self) -> dict[str, str]:
        """Return the figures of the latest image, '' where there are none, and the totals."""
        latest = self.latest
        shown = dict.fromkeys(_DIGITS, '')
        if latest is not None:
            figures = ((name, getattr(latest, name)) for name in _DIGITS)
            shown |= {name: f'{of:.{_DIGITS[name]}f}' for name, of in figures if of is not None}
        shown = {f'image_{name}': text for name, text in shown.items()}
        return shown | {f'images_{kind}': str(count) for kind, count in self.counts.items()}


def text_of(kind: str, content: ImageContent) -> str:
    """Say what is wrong with images like this one, what was expected, and what to do."""
    if kind == DARK:
        return (
            f'Images are too dark: no more than {_BRIGHTEST:.0%} of them reach '
            f'{content.brightness:.0f} of 255; expected {_DARK_BELOW}: take off the cap, clean '
            'the lens, raise exposure or gain, or switch on lights. Do not drive by their masks.'
        )
    if kind == BURNT_OUT:
        return (
            f'Images are burnt out: {content.burnt_share:.0%} of their lower half are white; '
            f'expected at most {_MAX_BURNT_SHARE:.0%}: lower exposure or gain, or turn the camera '
            'out of the sun. Do not drive by their masks.'
        )
    if kind == FLAT:
        return (
            'The lower half of images has hardly any detail: neighbouring places differ by '
            f'{content.detail:.2f} of 255; expected at least {_MIN_DETAIL:g}: see whether the '
            'lens is covered, images lose a part on their way, or there is thick fog. Do not '
            'drive by their masks.'
        )
    return (
        f'Images are blurred everywhere: their sharpness is {content.sharpness:.2f}; expected at '
        f'least {_MIN_SHARPNESS:g}: clean, dry or focus the lens, or shorten the exposure. '
        'Their masks call too much ground.'
    )
