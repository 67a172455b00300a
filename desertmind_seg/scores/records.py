"""Scores as metrics.json holds them, of bags and of training; fields say what they mean.

Scores are fractions of 1. A score that is not defined (no pixel of that kind) is null.
"""

from math import isnan
from typing import Annotated, SupportsFloat

from pydantic import Field

from desertmind_seg.model.records import Record

Score = Annotated[float, Field(ge=0.0, le=1.0)]
Pixels = Annotated[int, Field(ge=0)]
Interval = tuple[float, float]
ScoreInterval = tuple[Score, Score]
Confusion = list[list[Pixels]]


def defined(score: SupportsFloat) -> float | None:
    """Return a score as a record holds it: None for NaN, which JSON does not have."""
    return None if isnan(score) else float(score)


class ClassScore(Record):
    """One class, in the order of the ids."""

    id: int
    name: str
    iou: Score | None = Field(description='null: neither labelled nor predicted')
    pixels: Pixels = Field(description='labelled pixels')


class SegmentationMetrics(Record):
    """Scores of one confusion matrix."""

    miou_all: Score = Field(description='mean IoU over all classes; without true pixels 0')
    miou_present: Score | None = Field(description='mean IoU over classes with true pixels')
    pixel_accuracy: Score | None
    classes: list[ClassScore]
    confusion: Confusion = Field(
        description='pixels, rows the true class, columns the predicted, the last one unlabelled'
    )


class BandMetrics(Record):
    """Scores of the labelled pixels whose depth lies in a band, its nearer edge included."""

    name: str
    from_m: float | None = Field(description='null: the band of pixels without depth')
    to_m: float | None = Field(description='null: no limit, or without depth')
    labelled_pixels: Pixels
    miou_present: Score | None
    false_safe_rate: Score | None


class FlickerMetrics(Record):
    """How often the class of a pixel changes where the scene does not."""

    share: Score = Field(description='flickering pixels of all that were counted')
    p50: Score = Field(description='of the shares of each pair of frames')
    p95: Score
    pairs: int = Field(description='pairs of frames in a row')
    counted_share: Score = Field(description='pixels that optical flow knows again, of all')
    frames_without_pair: dict[str, int] = Field(description='by reason')


class ScoreDifference(Record):
    """One score of both models."""

    score: str = Field(description='key of the score, or name of a class for its IoU')
    label: str = Field(description='the score as people write it')
    first: float
    second: float
    difference: float = Field(description='first minus second')
    interval_95: tuple[float, float] | None = Field(
        description='of the difference, by paired bootstrap over blocks; null with one block'
    )
    blocks: int
    is_real: bool = Field(description='whether the interval excludes zero')
    is_better: bool = Field(description='whether the first model scores better, real or not')


class Comparison(Record):
    """Which differences between two models are real."""

    first: str = Field(description='name of the model')
    second: str = Field(description='name of the model of --against')
    block_frames: int = Field(description='frames in a row that the bootstrap draws together')
    sentences: list[str]
    differences: list[ScoreDifference]


class ConfidenceBin(Record):
    """One filled bin of the reliability curve."""

    confidence: Score = Field(description='mean of the bin')
    accuracy: Score
    pixels: Pixels


class BlockCounts(Record):
    """Confusion of one group of frames: what the bootstrap draws, and what is paired."""

    block: str
    frames: int
    confusion: Confusion


class FrameScore(Record):
    """One frame; mIoU is over the classes that it shows."""

    name: str
    block: str | None = Field(None, description='in which it is counted; null in files of 0.1.0')
    miou_present: Score | None
    pixel_accuracy: Score | None


class SplitMetrics(SegmentationMetrics):
    """All scores of a split of labelled frames."""

    false_safe_rate: Score | None = Field(
        description='obstacle and non-traversable pixels predicted traversable'
    )
    false_stop_rate: Score | None = Field(
        description='traversable pixels predicted obstacle or non-traversable'
    )
    boundary_f1: Score | None = Field(
        description='mean over classes with a true boundary; tolerance 0.75 % of the diagonal'
    )
    boundary_f1_classes: list[Score | None]
    ece: Score | None = Field(description='expected calibration error, 15 bins')
    reliability: list[ConfidenceBin]
    miou_all_interval_95: ScoreInterval | None = Field(
        description='bootstrap over blocks; null with one block, as for the others'
    )
    miou_present_interval_95: ScoreInterval | None
    pixel_accuracy_interval_95: ScoreInterval | None
    false_safe_rate_interval_95: ScoreInterval | None
    false_stop_rate_interval_95: ScoreInterval | None
    frames: Annotated[int, Field(ge=1)]
    blocks: Annotated[int, Field(ge=1)] = Field(description='groups that the frames belong to')
    per_block: list[BlockCounts]
    per_frame: list[FrameScore]
