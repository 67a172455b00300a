"""metrics.json of a replay: what a vehicle would have got."""

from __future__ import annotations

from pydantic import Field

from desertmind_seg.evaluation.results import BagMetrics, Percentiles
from desertmind_seg.model.records import Record


class ReplayFrames(Record):
    """The frames of the bag: `in` is the sum of all numbers up to `lost`."""

    in_: int = Field(description='frames in the bag')
    out: int = Field(description='masks that came back')
    dropped: int = Field(description='frames that went out and whose mask did not come')
    repeated_stamps: int = Field(
        description='frames whose stamp an earlier one has: which the mask is of cannot be told'
    )
    damaged: int = Field(description='frames that are not whole; those with bytes were played')
    refused: int = Field(description='frames that the middleware did not take')
    lost: int = Field(description="frames that the bag's index has and its damaged bytes have not")
    dropped_by_reason: dict[str, int] = Field(
        description="of the frames that reached the node, by the node's last report"
    )
    first_dropped_ns: list[int] = Field(description='stamps of the first 20 that were dropped')
    without_confidence: int = Field(description='masks whose confidence did not come')


class ReplayLatency(Record):
    """Latency over DDS, there and back."""

    publish_to_mask: Percentiles = Field(
        description='from just before a frame is published to the arrival of its mask'
    )


class ReplayDepth(Record):
    """Depth that was played beside the frames."""

    topic: str
    images: int = Field(description='published')


class ReplayHazards(Record):
    """What came on ~/hazard."""

    problem: str = Field(description="why the node was not asked for hazards; '' where it was")
    camera_info: str | None = Field(description='topic that was played; null: none')
    images: int = Field(description='frames whose hazards came back')


class PlayMetrics(Record):
    """How the bag was played."""

    rate: float = Field(description='bag seconds in a second')
    max_late_ms: float = Field(description='the longest that a message went out after its time')


class NodeStatus(Record):
    """One status of the report on /diagnostics."""

    level: int = Field(description='0 ok, 1 warning, 2 error, 3 stale')
    message: str
    values: dict[str, str]


class NodeMetrics(Record):
    """What is known of the node."""

    exit_status: int
    diagnostics: dict[str, NodeStatus] = Field(description='its last report, by name')


class ReplayMetrics(BagMetrics):
    """metrics.json of replay_bag."""

    frames: ReplayFrames
    latency_ms: ReplayLatency
    depth: ReplayDepth | None = Field(description='null: no depth topic')
    hazards: ReplayHazards | None = Field(description='null: no depth topic')
    play: PlayMetrics
    node: NodeMetrics
