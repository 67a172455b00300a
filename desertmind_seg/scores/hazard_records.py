"""Geometry as a second witness, as metrics.json holds it; fields say what they mean.

"Class alone" goes by the mask: a pixel is called safe where its class is traversable. "With
geometry" takes the worse of both: it is called safe where, besides, geometry sees no hazard.
"""

from typing import Annotated, Literal

from pydantic import Field

from desertmind_seg.model.records import Record
from desertmind_seg.scores.records import Interval, Pixels, Score

SortedBy = Literal[
    'all', 'near', 'distance', 'class', 'near class', 'kind', 'size', 'target', 'flat'
]
Metres = Annotated[float, Field(ge=0.0)]


class Problem(Record):
    """What was wrong, and how often."""

    error: str
    count: int


class WitnessRate(Record):
    """A share of the same pixels by class alone, and with geometry."""

    by: SortedBy = Field(
        description='what the pixels are sorted by: all of them, those nearer than 10 m, depth, '
        'labelled class, class of those nearer than 10 m, true kind of hazard, its true size, '
        'those that the target is set for, or true heights near the ground'
    )
    name: str
    pixels: Pixels = Field(description='that the share is of')
    class_alone: Score | None
    with_geometry: Score | None
    difference: float | None = Field(description='with geometry minus class alone')
    interval_95: Interval | None = Field(
        description='of the difference, by paired bootstrap over blocks; null with one block'
    )
    is_real: bool = Field(description='whether the interval excludes zero')


class FalseAlarms(Record):
    """How often geometry sees a hazard on ground that is labelled traversable."""

    name: str
    pixels: Pixels = Field(description='labelled traversable and with depth')
    share: Score | None = Field(description='of these, called a hazard')
    unknown_share: Score | None = Field(description='of these, of which geometry knows nothing')


class HazardScores(Record):
    """Masks with and without geometry, against labels."""

    block_frames: int = Field(description='frames in a row that the bootstrap draws together')
    blocks: int
    sentences: list[str] = Field(description='whether geometry makes a real difference')
    false_safe: list[WitnessRate] = Field(
        description='obstacle and non-traversable pixels that are called safe'
    )
    false_stop: list[WitnessRate] = Field(
        description='traversable pixels that are called unsafe: a class that is not traversable, '
        'or a hazard by geometry'
    )
    false_alarms: list[FalseAlarms] = Field(description='of geometry alone, from near to far')


class Disagreement(Record):
    """Where mask and geometry contradict each other; needs no labels."""

    safe_but_hazard: Score | None = Field(
        description='of the pixels that geometry knows: class traversable, geometry sees a hazard'
    )
    unsafe_but_free: Score | None = Field(
        description='likewise: class obstacle or non-traversable, geometry sees free ground'
    )


class HeightError(Record):
    """Height above the ground, found minus true, of the pixels of a band of depth."""

    name: str
    pixels: Pixels
    mean_m: float | None
    rms_m: Metres | None = Field(description='root mean square')
    p95_m: Metres | None = Field(description='95 % of the pixels are off by less')


class HazardMetrics(Record):
    """What geometry says of the frames with depth, and what it changes."""

    problem: str = Field(description="why geometry is not scored; '' where it is")
    camera_info: str | None = Field(description='topic; null: none')
    settings: dict[str, float] = Field(
        description="when geometry is a hazard: the node's parameters hazard.NAME"
    )
    gravity: str = Field(description='where up comes from')
    frames: int = Field(description='judged: depth, and ground was found in it')
    frames_unknown: int = Field(
        description='with depth, in which no ground was found, or no up in /tf: nothing is known'
    )
    frames_up_from_data: int = Field(description='of both, up was guessed from the depth alone')
    problems: list[Problem]
    known_share: Score | None = Field(
        description='pixels of which geometry knows something, of all in the frames with depth'
    )
    hazard_shares: dict[str, Score] = Field(
        description='of the known pixels, by kind: positive, negative, steep'
    )
    residual_m: Metres | None = Field(
        description='how far the ground lies from the surface that was fitted; median of frames'
    )
    disagreement: Disagreement
    height_errors: list[HeightError] | None = Field(
        description='from near to far; null: no true heights'
    )
    truth: list[str] = Field(description='topics of true heights, kinds and sizes in the bag')
    scores: HazardScores | None = Field(description='null: no labels, or geometry not scored')
