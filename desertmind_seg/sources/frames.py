"""What every source gives: frames one after the other, each read only when it is asked for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from types import TracebackType
from typing import Literal

from desertmind_seg.model.arrays import Depth, Rgb
from desertmind_seg.model.errors import DesertmindError

Kind = Literal['images', 'video', 'bag', 'live']


class SourceError(DesertmindError):
    """A source cannot be opened, or lacks what was asked of it."""


@dataclass(frozen=True)
class SourceFrame:
    """A frame.

    Attributes:
        name: of this frame alone among those of the source, with '/' for the folders of images;
            results are named after it.
        rgb: (H, W, 3) uint8.
        stamp_ns: when it was taken: of a bag the header's stamp (the log time where the first two
            have none), of a live source the time of day at which it arrived, of a video the time
            since its beginning; None for images.
        depth_m: (H, W) float32 metres, 0 for missing; None where there is none.
        path: of an image file, for messages; '' of other kinds.
        encoded: of a compressed image of a bag, the bytes it was decoded from; else b''.
    """

    name: str
    rgb: Rgb
    stamp_ns: int | None
    depth_m: Depth | None = None
    path: str = ''
    encoded: bytes = b''


@dataclass(frozen=True)
class BadFrame:
    """A frame that cannot be had; `name` is its file, or the name that it would have."""

    name: str
    error: str


@dataclass(frozen=True)
class Shot:
    """A frame that has not been decoded; `read` it before the next one is asked for.

    `read` raises DesertmindError or OSError.
    """

    name: str
    stamp_ns: int | None
    read: Callable[[], SourceFrame]
    path: str = ''


@dataclass(frozen=True)
class Selection:
    """Which frames of a source are taken; what is not taken is not decoded where that is spared.

    Attributes:
        every: one of so many.
        rate_hz: at most so many a second, by their stamps.
        start_s: none before this time after the first one.
        end_s: none from this time after the first one on.
    """

    every: int = 1
    rate_hz: float | None = None
    start_s: float | None = None
    end_s: float | None = None

    @property
    def by_time(self) -> bool:
        """Whether frames need stamps for it."""
        return not self.rate_hz is self.start_s is self.end_s is None

    def apply(self, shots: Iterator[Shot | BadFrame]) -> Iterator[Shot | BadFrame]:
        """Yield the shots that are taken; a bad one always is."""
        first_ns: int | None = None
        due_ns: int | None = None
        position = -1
        for shot in shots:
            if isinstance(shot, BadFrame):
                yield shot
                continue
            if shot.stamp_ns is not None:
                first_ns = shot.stamp_ns if first_ns is None else first_ns
                at_s = (shot.stamp_ns - first_ns) / 1e9
                if self.end_s is not None and at_s >= self.end_s:
                    return
                if self.start_s is not None and at_s < self.start_s:
                    continue
            position += 1
            if position % self.every:
                continue
            if self.rate_hz is not None and shot.stamp_ns is not None:
                period_ns = 1e9 / self.rate_hz
                # A quarter of a period of slack: a camera that jitters keeps every second frame.
                # A stamp further back than a period is a recording that began again.
                if due_ns is not None and -2 * period_ns < shot.stamp_ns - due_ns < -period_ns / 4:
                    continue
                # On the grid of the rate where frames keep up with it, so that the mean is right.
                on_time = due_ns is not None and abs(shot.stamp_ns - due_ns) < period_ns
                due_ns = round((due_ns if on_time and due_ns else shot.stamp_ns) + period_ns)
            yield shot


def distinct_names(forms: Mapping[Path, Sequence[str]]) -> dict[Path, str]:
    """Return a name for each file: the first of its forms that it shares with no other.

    Args:
        forms: of each file, from short to long; the last are distinct.
    """
    chosen = dict.fromkeys(forms, 0)
    while True:
        names = {path: forms[path][at] for path, at in chosen.items()}
        counts = Counter(names.values())
        shared = [path for path, at in chosen.items() if counts[names[path]] > 1]
        if not (longer := [path for path in shared if chosen[path] + 1 < len(forms[path])]):
            return names
        for path in longer:
            chosen[path] += 1


class Source(ABC):
    """Frames of one kind; a context manager, to be iterated once.

    Args:
        kind: what it is.
        name: short, of the whole, for results on all of it.
        description: for people, without passwords.
        total: how many frames it has; None where nobody knows.
        selection: which of them are taken.
        rate_hz: frames a second, as far as it says so.

    Attributes:
        count: how many frames will come, bad ones included; None where nobody knows.
        losses: what is missing that the source promised, one sentence each; complete at the end.
        notes: what is odd about it, while nothing is missing; likewise.
        skipped: of a live source, frames that were too old by the time they could be taken.
    """

    def __init__(
        self,
        kind: Kind,
        name: str,
        description: str,
        total: int | None,
        selection: Selection,
        rate_hz: float | None = None,
    ) -> None:
        self.kind: Kind = kind
        if selection.by_time and not self.timed:
            raise SourceError(
                f'{description} has no times, so that frames cannot be chosen by them (--fps, '
                '--start, --end); choose by number (--every)'
            )
        self.name = name
        self.description = description
        self.rate_hz = rate_hz
        self.selection = selection
        known = total is not None and not selection.by_time
        self.count = ceil(total / selection.every) if known and total is not None else None
        self.losses: list[str] = []
        self.notes: list[str] = []
        self.skipped = 0

    @property
    def live(self) -> bool:
        """Whether frames come when they come, and without an end."""
        return self.kind == 'live'

    @property
    def timed(self) -> bool:
        """Whether its frames have stamps."""
        return self.kind != 'images'

    def __enter__(self) -> Source:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of files, cameras and connections."""
        return

    @abstractmethod
    def _shots(self) -> Iterator[Shot | BadFrame]:
        """Yield all frames in their order."""

    def shots(self) -> Iterator[Shot | BadFrame]:
        """Yield the frames that are taken, without decoding them."""
        return self.selection.apply(self._shots())

    def __iter__(self) -> Iterator[SourceFrame | BadFrame]:
        """Yield the frames that are taken, a bad one as what is wrong with it."""
        for shot in self.shots():
            if isinstance(shot, BadFrame):
                yield shot
                continue
            try:
                frame = shot.read()
            except (DesertmindError, OSError) as err:
                yield BadFrame(shot.path or shot.name, str(err))
            else:
                yield frame
