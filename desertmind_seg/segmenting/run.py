"""Segments a source frame by frame, and hands each frame to what keeps or shows it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
import errno
import statistics
import time
from typing import Protocol

from desertmind_seg.model.errors import DesertmindError
from desertmind_seg.pipeline.progress import Progress
from desertmind_seg.pipeline.segmenter import Segmentation, Segmenter
from desertmind_seg.sources.frames import BadFrame, Source, SourceFrame
from desertmind_seg.sources.recorded import BagFrames

# So many failed frames are named; all are counted. A stream may run for days.
MAX_NAMED = 20
_MAX_LATENCIES = 10_000


class Watcher(Protocol):
    """What gets each frame: files, a video, a window, a viewer."""

    def show(self, frame: SourceFrame, found: Segmentation) -> bool:
        """Take a frame; returns False to end the run."""
        ...


@dataclass
class Summary:
    """What came of a run.

    Attributes:
        done: how many frames were segmented and handed on.
        failed: how many were not.
        named: the first of those.
        inference_ms: of the latest frames.
        seconds: how long it took.
        interrupted: whether Ctrl-C ended it.
    """

    done: int = 0
    failed: int = 0
    named: list[str] = field(default_factory=list)
    inference_ms: deque[float] = field(default_factory=lambda: deque(maxlen=_MAX_LATENCIES))
    seconds: float = 0.0
    interrupted: bool = False

    @property
    def wanted(self) -> int:
        """How many there were."""
        return self.done + self.failed

    @property
    def median_ms(self) -> float:
        """Median inference time; NaN without a frame."""
        return statistics.median(self.inference_ms) if self.inference_ms else float('nan')


def segment_source(
    source: Source,
    segmenter: Segmenter,
    watchers: Sequence[Watcher],
    report: Callable[[str], None],
) -> Summary:
    """Segment all frames of a source until it ends, a watcher wants no more, or Ctrl-C comes.

    A frame that cannot be read, segmented or written is reported and counted, and the others are
    done; but a full disk ends the run, as it would fail all of them.

    Args:
        source: open.
        segmenter: runs the model; depth is shown to it where it takes any.
        watchers: get each frame in their order.
        report: gets a line for each of the first frames that fail.
    """
    summary = Summary()
    start = time.perf_counter()
    unit = 'image' if source.kind == 'images' else 'frame'
    try:
        with Progress(source, desc='segmenting', total=source.count, unit=unit) as progress:
            for frame in progress:
                if isinstance(frame, BadFrame):
                    _fail(summary, frame.name, frame.error, report)
                    continue
                try:
                    goes_on = _segment(frame, segmenter, watchers, summary)
                except (DesertmindError, OSError) as err:
                    _fail(summary, frame.path or frame.name, str(err), report)
                    if isinstance(err, OSError) and err.errno in (errno.ENOSPC, errno.EDQUOT):
                        source.losses.append('the rest was not segmented: there is no room for it')
                        break
                    continue
                if not goes_on:
                    break
    except KeyboardInterrupt:
        summary.interrupted = True
    summary.seconds = time.perf_counter() - start
    return summary


def _segment(
    frame: SourceFrame, segmenter: Segmenter, watchers: Sequence[Watcher], summary: Summary
) -> bool:
    depth = frame.depth_m if segmenter.takes_depth else None
    found = segmenter.segment_picture(frame.rgb, depth, frame.stamp_ns)
    goes_on = [watcher.show(frame, found) for watcher in watchers]
    summary.inference_ms.append(found.inference_ms)
    summary.done += 1
    return all(goes_on)


def _fail(summary: Summary, name: str, error: str, report: Callable[[str], None]) -> None:
    summary.failed += 1
    if summary.failed <= MAX_NAMED:
        summary.named.append(name)
        report(f'{name}: {error}')


def depth_note(source: Source, segmenter: Segmenter) -> str:
    """Say that depth is missing or not used; '' where it is as the model wants it."""
    name = segmenter.engine.bundle.metadata.name
    depth_topic = source.depth_topic if isinstance(source, BagFrames) else None
    if segmenter.takes_depth and depth_topic is None:
        topics = source.bag.depth_topics() if isinstance(source, BagFrames) else []
        what = f'give --depth TOPIC; topics that look like depth: {", ".join(topics)}'
        if not topics:
            what = 'a bag with --depth TOPIC has some, and an rgb bundle needs none'
        return (
            f'{name} takes RGB and depth, and there is no depth: it counts as missing everywhere, '
            f'which makes worse masks ({what})'
        )
    if depth_topic is not None and not segmenter.takes_depth:
        return f'{name} takes no depth: masks are made without {depth_topic}'
    return ''
