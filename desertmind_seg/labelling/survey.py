"""The first of two passes over a source: which of its frames to take."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from desertmind_seg.labelling.choice import Candidate, Chosen, EvenChoice, least_sure, thinned
from desertmind_seg.labelling.spacing import LabellingError, Spacing
from desertmind_seg.labelling.travel import Travel
from desertmind_seg.model.arrays import Depth
from desertmind_seg.model.errors import DesertmindError
from desertmind_seg.pipeline.segmenter import Segmenter
from desertmind_seg.scores.flicker import Flicker
from desertmind_seg.sources.frames import BadFrame, Shot, Source
from desertmind_seg.sources.recorded import BagFrames

Report = Callable[[str, str], None]
Done = Callable[[], object]


def survey(
    source: Source,
    spacing: Spacing,
    at_most: int,
    doubter: Segmenter | None,
    report: Report,
    done: Done,
) -> list[Chosen]:
    """Choose frames.

    Without a model no frame is decoded; with one each is, and of each a few numbers are kept.

    Args:
        source: read to its end.
        spacing: of the frames that are chosen.
        at_most: how many.
        doubter: the model whose doubt chooses; None for evenly spread frames.
        report: told the name of each frame that cannot be had, and why.
        done: called for each frame of the source.

    Returns:
        In order of the frames.

    Raises:
        LabellingError: the source has no such places; says what it lacks.
    """
    placed = _placed(source, spacing, report, done)
    if doubter is not None:
        return least_sure(list(_doubted(placed, doubter, report)), spacing, at_most)
    even = EvenChoice(spacing)
    taken = [Candidate(index, place) for index, place, _ in placed if even.takes(place)]
    return thinned(taken, spacing, at_most)


def _placed(
    source: Source, spacing: Spacing, report: Report, done: Done
) -> Iterator[tuple[int, float, Shot]]:
    """Yield number, place and shot of each frame that has a place."""
    travel = None
    if spacing.unit == 'm':
        if not isinstance(source, BagFrames):
            raise LabellingError(
                f'{source.description} is no bag: only a bag says how far its frames lie apart '
                f'(--every {spacing.amount:g}m). Choose by time (--every 2s) or by number '
                '(--every 30)'
            )
        travel = Travel(source.bag)
    first_ns: int | None = None
    for index, shot in enumerate(source.shots()):
        done()
        if isinstance(shot, BadFrame):
            report(shot.name, shot.error)
            continue
        if spacing.unit == 'frames':
            yield index, float(index), shot
            continue
        if shot.stamp_ns is None:
            raise LabellingError(
                f'{source.description} has no times, so that none can be {spacing} apart; choose '
                'by number, as --every 30'
            )
        first_ns = shot.stamp_ns if first_ns is None else first_ns
        try:
            place = travel.at(shot.stamp_ns) if travel else (shot.stamp_ns - first_ns) / 1e9
        except LabellingError as err:
            report(shot.name, str(err))
            continue
        yield index, place, shot


def _doubted(
    placed: Iterator[tuple[int, float, Shot]], segmenter: Segmenter, report: Report
) -> Iterator[Candidate]:
    """Yield each frame with what its segmentation says."""
    flicker = Flicker()
    for index, place, shot in placed:
        try:
            frame = shot.read()
            seen = segmenter.segment_picture(frame.rgb, depth_for(segmenter, frame.depth_m))
        except (DesertmindError, OSError) as err:
            report(shot.name, str(err))
            flicker.reset()
            continue
        assert seen.confidence is not None
        changed = None
        if frame.stamp_ns is not None:
            before = len(flicker.pairs)
            flicker.add(frame.rgb, seen.mask, frame.stamp_ns)
            pair = flicker.pairs.pop() if len(flicker.pairs) > before else None
            changed = pair.changed / pair.counted if pair and pair.counted else None
        yield Candidate(index, place, float(seen.confidence.mean()) / 255, changed)


def depth_for(segmenter: Segmenter, depth_m: Depth | None) -> Depth | None:
    """Return the depth that a model takes."""
    return depth_m if segmenter.takes_depth else None
