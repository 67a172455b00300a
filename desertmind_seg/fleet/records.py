"""What a fleet run knows of each bag: the entry of the manifest, and the row of the results."""

from __future__ import annotations

from collections.abc import Mapping
import hashlib
from itertools import chain
import json
from pathlib import Path
from typing import Literal, get_args

from pydantic import ConfigDict, Field

from desertmind_seg.messages.compressed_format import CompressedColors
from desertmind_seg.messages.pairing import MAX_DT_MS, MAX_WAIT_MS
from desertmind_seg.model.errors import DesertmindError
from desertmind_seg.model.ontology import Ontology
from desertmind_seg.model.records import Record

Status = Literal['ok', 'no_topic', 'torn', 'timeout', 'out_of_memory', 'bad_depth', 'failed']
STATUSES: tuple[Status, ...] = get_args(Status)
# How many frames of a bag the driver is told of: the worst ones.
WORST_FRAMES = 5
# The rooms whose code decides what the numbers of a bag are.
_DECIDING = (
    *('bag_geometry', 'decoding', 'engines', 'evaluation', 'geometry', 'hazards', 'messages'),
    *('model', 'pipeline', 'scores', 'storage'),
)
_ID_DIGITS = 16


class FleetError(DesertmindError):
    """A fleet of bags cannot be evaluated as asked."""


def _digest(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:_ID_DIGITS]


class BagEntry(Record):
    """One bag of the manifest."""

    uri: str = Field(description='absolute path, or URL in an object store; of a file or folder')
    size: int = Field(description='bytes, of all its files')
    etag: str = Field(description="the store's; of local files their time")
    labels_uri: str = Field(default='', description='bag with the labels, where it is another')
    tags: dict[str, str] = Field(default_factory=dict, description='to slice by')

    @property
    def bag_id(self) -> str:
        """Hash of what makes it another bag."""
        parts = [self.uri, self.size, self.etag]
        return _digest(*parts, *([self.labels_uri] if self.labels_uri else []))


class RunOptions(Record):
    """What is asked of every bag, as `evaluate_bag` takes it."""

    image: str
    labels: str | None = None
    label_codes: Literal['ids', 'raw'] = 'ids'
    labels_ontology: Ontology | None = None
    label_map: tuple[str, ...] = ()
    depth: str | None = None
    camera_info: str | None = None
    gravity_frame: str | None = None
    max_dt_ms: float = MAX_DT_MS
    max_wait_ms: float = MAX_WAIT_MS
    compressed_colors: CompressedColors = 'auto'
    backend: str = 'auto'
    confidence_threshold: float = 0.0
    temporal_alpha: float | None = None
    against_temporal_alpha: float | None = None


class Run(Record):
    """One model, or two, with one set of options and one state of the code."""

    options: RunOptions
    bundle_sha256: str
    against_sha256: str | None
    code_sha256: str = Field(description='of the sources that decide the numbers')

    @property
    def run_id(self) -> str:
        """Hash of all of it."""
        return _digest(self.model_dump())


class Limits(Record):
    """What one bag may take, and what one worker does."""

    timeout_sec: float = 3600.0
    memory_gib: float = 8.0
    threads: int = Field(default=1, description='CPU threads of the engine')


class ModelCounts(Record):
    """One model over a bag; all counts add up over bags."""

    bundle: str
    bundle_sha256: str
    backend: str
    device: str
    confusion: list[int] = Field(description='C x (C + 1) row by row; empty without labels')
    latency: list[int] = Field(description='frames by `measure.LATENCY_EDGES_MS`, whole chain')
    pixels: int = Field(description='of all masks')
    low_confidence: int = Field(description='of these, below `measure.LOW_CONFIDENCE`')
    flicker_counted: int
    flicker_changed: int
    miou_all: float | None
    miou_present: float | None
    pixel_accuracy: float | None
    flicker: float | None


class FrameRow(Record):
    """One frame with a mask; shares are fractions of 1, null where not known."""

    stamp_ns: int
    miou: float | None = Field(description='over the classes in its labels')
    miou_against: float | None
    confidence: float = Field(description='mean')
    low_confidence: float = Field(description='share of pixels')
    flicker: float | None = Field(description='share of pixels known again from the frame before')
    disagreement: float | None = Field(description='share of pixels that two models call apart')
    hazard: float | None = Field(description='share of the pixels that geometry judges')
    valid_depth: float | None
    brightness: float = Field(description='mean grey level, 0 to 255')
    sharpness: float = Field(description='variance of the Laplacian at 480 pixels; low: blurred')
    inference_ms: float

    @property
    def badness(self) -> float:
        """How much it is worth a look, 0 to 1: by its labels, or two models, or one."""
        if self.miou is not None:
            return 1.0 - self.miou
        if self.disagreement is not None:
            return self.disagreement
        return 1.0 - self.confidence


class BagRow(Record):
    """One bag of one run: a row of the table `bags`, with its rows of the table `frames`."""

    model_config = ConfigDict(ser_json_bytes='base64', val_json_bytes='base64')

    bag_id: str
    run_id: str
    uri: str
    size: int
    etag: str
    labels_uri: str
    tags: dict[str, str]
    status: Status
    reason: str = ''
    log_tail: str = ''
    host: str = Field(default='', description='machine that did it')
    created: str = Field(default='', description='when, in UTC')
    fetch_sec: float = Field(default=0.0, description='that nothing was evaluated meanwhile')
    evaluate_sec: float = 0.0
    duration_sec: float = Field(default=0.0, description='of the drive')
    start_ns: int = 0
    classes: list[str] = Field(default_factory=list)
    ontology_sha256: str = ''
    frames_in: int = 0
    frames_out: int = 0
    frames_bad: int = 0
    frames_lost: int = 0
    depth_pixels: int = 0
    depth_valid: int = 0
    hazard_known: int = 0
    hazard_pixels: int = 0
    compared_pixels: int = 0
    disagreeing: int = 0
    dark_frames: int = 0
    bright_frames: int = 0
    blurred_frames: int = 0
    code_sha256: str = ''
    git_hash: str = ''
    versions: dict[str, str] = Field(default_factory=dict)
    model: ModelCounts | None = None
    against: ModelCounts | None = None
    metrics: str = Field(default='', description='metrics.json of evaluate_bag')
    sheet: bytes = Field(default=b'', description='JPEG of frames with their masks')
    frames: list[FrameRow] = Field(default_factory=list)

    @classmethod
    def of(cls, entry: BagEntry, run_id: str, status: Status, reason: str = '') -> BagRow:
        """Return the row of a bag that has no numbers."""
        return cls(
            **entry.model_dump(), bag_id=entry.bag_id, run_id=run_id, status=status, reason=reason
        )

    def summary(self) -> BagRow:
        """Return what totals are made of: without the bulk, and the worst frames alone."""
        worst = sorted(self.frames, key=lambda frame: -frame.badness)[:WORST_FRAMES]
        return self.model_copy(update={'metrics': '', 'sheet': b'', 'frames': worst})


def code_sha256(package: Path) -> str:
    """Hash the sources of `package` that decide what the numbers of a bag are."""
    total = hashlib.sha256()
    rooms = [sorted((package / room).glob('*.py')) for room in _DECIDING]
    for path in [*chain(*rooms), package / 'fleet' / 'measure.py']:
        total.update(f'{path.parent.name}/{path.name}\n'.encode())
        total.update(path.read_bytes())
    return total.hexdigest()


def not_counted(statuses: Mapping[str, int]) -> str:
    """Return how many bags are not ok, as in '2 torn, 1 failed'; '' for none."""
    return ', '.join(f'{n} {status}' for status, n in statuses.items() if n and status != 'ok')
