"""metrics.json of a bag: the models below describe every key.

Scores and shares are fractions of 1. What is not known or not defined (no such pixel, no such
option) is null, for JSON knows no NaN. Times are of the machine that `environment` names.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from desertmind_seg.messages.bags import Bag
from desertmind_seg.model.bundle import Bundle
from desertmind_seg.model.ontology import Ontology
from desertmind_seg.model.records import Environment, Record
from desertmind_seg.pipeline.latency import LatencyWindow
from desertmind_seg.scores.hazard_records import HazardMetrics, Problem
from desertmind_seg.scores.records import (
    BandMetrics,
    Comparison,
    FlickerMetrics,
    SegmentationMetrics,
)

MASKS, METRICS, REPORT = 'masks', 'metrics.json', 'report.html'
MASKS_AGAINST = 'masks_against'


class Percentiles(Record):
    """Times in milliseconds, null while there are none; linear between neighbours."""

    p50: float | None
    p95: float | None
    p99: float | None
    max: float | None
    count: int = Field(description='how many times were taken')

    @classmethod
    def of(cls, times_ms: Sequence[float]) -> Percentiles:
        """Return the percentiles of all times of a run."""
        window = LatencyWindow(max(1, len(times_ms)))
        for time_ms in times_ms:
            window.add(time_ms)
        return cls(**window.percentiles())


class BagInfo(Record):
    """What was read."""

    path: str
    image_topic: str
    label_topic: str | None
    start_ns: int = Field(description='log time of the first message of the bag')
    duration_s: float = Field(description='log time from the first message to the last')
    losses: list[str] = Field(description='what is damaged or missing and could not be read')
    notes: list[str] = Field(description='what is odd, while every message is there')
    unreadable_topics: dict[str, str] = Field(
        description='topics that nothing here could read, none of them asked for, and why'
    )

    @classmethod
    def of(cls, bag: Bag, image_topic: str, label_topic: str | None) -> BagInfo:
        """Describe an open bag, after all of it was read."""
        return cls(
            path=str(bag.path),
            image_topic=image_topic,
            label_topic=label_topic,
            start_ns=bag.start_ns,
            duration_s=bag.duration_ns / 1e9,
            losses=bag.findings.losses,
            notes=bag.findings.notes,
            unreadable_topics=bag.unreadable_topics(),
        )


class BundleInfo(Record):
    """Which model was run."""

    path: str
    name: str
    sha256: str = Field(description='of the file')
    precision: str = Field(description='fp32, fp16 or int8')

    @classmethod
    def of(cls, bundle: Bundle) -> BundleInfo:
        """Describe a bundle."""
        return cls(
            path=str(bundle.path),
            name=bundle.metadata.name,
            sha256=bundle.sha256,
            precision=bundle.metadata.precision,
        )


class OntologyInfo(Record):
    """The class table of masks and labels."""

    name: str
    sha256: str

    @classmethod
    def of(cls, ontology: Ontology) -> OntologyInfo:
        """Describe a class table."""
        return cls(name=ontology.name, sha256=ontology.sha256)


class EngineInfo(Record):
    """What ran the model."""

    backend: str
    device: str
    confidence_threshold: float = Field(
        description='probability below which a pixel became unlabelled'
    )


class TemporalFilterMetrics(Record):
    """What the temporal filter did."""

    alpha: float = Field(description='weight of the frames before')
    filter_ms: Percentiles = Field(description='time in the filter, for each frame')
    blended_share: float = Field(description='of the pixels, that took a history')
    frames_without_history: dict[str, int] = Field(description='by reason')


class BadMessage(Record):
    """A frame or label image that was left out."""

    stamp_ns: int | None = Field(description='in its header; null where the header is cut off')
    reason: str
    error: str


class BadMessages(Record):
    """Messages that were left out."""

    count: int
    reasons: dict[str, int] = Field(description='how many for each reason')
    first: list[BadMessage] = Field(description='the first of them, at most 20')


class FrameCounts(Record):
    """The frames of the image topic: `in` is the sum of `out`, `bad.count` and `lost`."""

    in_: int = Field(description='frames in the bag')
    out: int = Field(description='masks')
    bad: BadMessages = Field(description='frames that could not be decoded or segmented')
    lost: int = Field(description="frames that the bag's index has and its damaged bytes have not")
    repeated_stamps: int = Field(description='frames whose stamp an earlier one has')
    content: dict[str, int] = Field(
        {},
        description='masks of images of which the node warns: dark, burnt out, flat (hardly '
        'any detail in the lower half), frozen (the same pixels again for 2 s), blurred',
    )


class StageLatencies(Record):
    """Times of each frame with a mask."""

    decode: Percentiles = Field(description='from the message to image and depth in memory')
    inference: Percentiles = Field(description='in the engine')
    total: Percentiles = Field(description='from the message to the mask: decode, engine, filter')


class LabelCounts(Record):
    """The label images: `images` is the sum of matched, without_frame, bad.count and lost."""

    topic: str
    images: int
    matched: int = Field(description='scored: a mask has their stamp, to the millisecond')
    rounded: int = Field(description='of the matched, those whose stamp is not the very same')
    without_frame: int = Field(description='the other label images: no mask, or a repeated stamp')
    nearest_frame_ms: float | None = Field(
        description='median of their stamps minus those of the nearest masks; null: none'
    )
    bad: BadMessages = Field(description='damaged ones, and those of another size than the mask')
    lost: int = Field(description="those that the bag's index has and its damaged bytes have not")
    frames_without_label: int = Field(description='masks whose stamp no label image has')
    ontology_recorded: bool = Field(description='whether the bag says which ontology they follow')
    label_map: dict[str, str | None] | None = Field(
        None,
        description='class of the labels -> class of the model, null where its pixels are left '
        "out; null where the labels are of the model's classes",
    )
    ignored_pixels: dict[str, int] = Field(
        {}, description='labelled pixels that the map leaves out, by class of the labels'
    )


class HistogramBin(Record):
    """One bin, its lower edge included; null is open."""

    from_ms: float | None
    to_ms: float | None
    frames: int


class TimeDifference(Record):
    """Stamp of the nearest depth minus that of its image."""

    median: float | None = Field(description='milliseconds')
    histogram: list[HistogramBin]


class DepthMetrics(Record):
    """Depth, and how it was paired with the images."""

    topic: str
    max_dt_ms: float = Field(description='how far apart the stamps of a pair may be')
    max_wait_ms: float = Field(description='how long an image waits for its depth, in log time')
    used_by_model: bool = Field(description='whether the model takes depth')
    frames_with_depth: int
    frame_share: float = Field(description='of all frames, that had depth')
    valid_share: float | None = Field(description='of the pixels of those frames, with depth')
    frames_without_depth: dict[str, int] = Field(description='by reason')
    images: int = Field(description='depth images in the bag')
    images_unreadable: int = Field(description='of these, with a header that is cut off')
    images_duplicate: int = Field(description='of these, with a stamp that an earlier one has')
    images_out_of_order: int
    frames_frozen: int = Field(0, description='with the same depth again for 2 s')
    problems: list[Problem]
    time_jumps: int = Field(description='how often the time of the images went back')
    dt_ms: TimeDifference
    clock_offset_ms: float | None = Field(
        description="how far depth's stamps are ahead of the images', by when both arrive"
    )
    hint: str = Field(
        description="which setting of the driver would help; '' where none is needed"
    )
    range_bands: list[BandMetrics] | None = Field(description='from near to far; null: no labels')


class ModelOnBag(Record):
    """What every run of a model over a bag has."""

    bundle: BundleInfo
    engine: EngineInfo
    segmentation: SegmentationMetrics | None = Field(description='null: no labels')


class ModelMetrics(ModelOnBag):
    """One model over every frame of a bag."""

    temporal_filter: TemporalFilterMetrics | None = Field(description='null: switched off')
    frames: FrameCounts
    latency_ms: StageLatencies
    depth: DepthMetrics | None = Field(description='null: no depth topic')
    hazards: HazardMetrics | None = Field(description='null: no depth topic')
    flicker: FlickerMetrics | None = Field(description='null: no two frames follow each other')


class Against(ModelMetrics):
    """The model of --against over the same frames, and the comparison."""

    comparison: Comparison


class BagMetrics(ModelOnBag):
    """What metrics.json has for every command that runs a model over a bag."""

    schema_: Literal[1] = 1
    command: str
    created: str = Field(description='when, in UTC')
    bag: BagInfo
    ontology: OntologyInfo
    labels: LabelCounts | None = Field(description='null: no labels')
    environment: Environment


class EvaluationMetrics(BagMetrics, ModelMetrics):
    """metrics.json of evaluate_bag."""

    against: Against | None = Field(description='null: no second model')
