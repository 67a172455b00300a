"""What a run over a bag did: frames, latencies, scores."""

from dataclasses import dataclass, field

from desertmind_seg.model.arrays import Image
from desertmind_seg.scores.confusion import ConfusionMatrix, Counts
from desertmind_seg.scores.flicker import Flicker

MASKS, METRICS, REPORT = 'masks', 'metrics.json', 'report.html'
MASKS_AGAINST = 'masks_against'


@dataclass
class BadFrame:
    """A frame that could not be segmented; `stamp_ns` is None where its header is cut off."""

    stamp_ns: int | None
    error: str


@dataclass
class SegmentedBag:
    """What a run over the frames of a bag did; latencies are in order of the frames."""

    frames_in: int = 0
    repeated_stamps: int = 0
    bad: list[BadFrame] = field(default_factory=list)
    log_times_ns: list[int] = field(default_factory=list)
    decode_ms: list[float] = field(default_factory=list)
    inference_ms: list[float] = field(default_factory=list)
    total_ms: list[float] = field(default_factory=list)
    flicker: Flicker = field(default_factory=Flicker)
    blended_share: list[float] = field(default_factory=list)
    filter_ms: list[float] = field(default_factory=list)


@dataclass
class LabelScore:
    """Masks against the labels of the same stamps.

    Attributes:
        matrix: over all matched frames.
        by_block: the same by blocks of BLOCK_FRAMES matched frames, int64 (C, C + 1) each.
        frame_miou: stamp of each matched frame -> its mean IoU over the classes in its labels.
        labels: label images in the bag.
        labels_without_frame: label images whose stamp no mask has.
        frames_without_label: masks whose stamp no label image has.
    """

    matrix: ConfusionMatrix
    by_block: dict[str, Counts]
    frame_miou: dict[int, float]
    labels: int
    labels_without_frame: int
    frames_without_label: int


@dataclass
class ShownFrame:
    """A frame with what was made of it: (H, W, 3) and twice (H, W) uint8."""

    stamp_ns: int
    rgb: Image
    mask: Image
    confidence: Image | None
