"""metrics.json of a training run or an evaluation. ``Metrics`` is its documentation.

A file is checked against it when it is read; what is written is one of it. Scores are fractions
of 1. A score that is not defined (no pixel of that kind) is null.
"""

from collections.abc import Mapping
import json
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field, ValidationError, field_validator

from desertmind_seg.model.documents import DocumentError, read_json
from desertmind_seg.model.errors import DesertmindError
from desertmind_seg.model.files import write_text
from desertmind_seg.model.ontology import Ontology, describe_validation_error
from desertmind_seg.model.records import Record
from desertmind_seg.scores.confusion import Counts
from desertmind_seg.scores.records import Interval, Score, ScoreInterval, SplitMetrics

# What a run leaves in its folder.
CHECKPOINT = 'checkpoint.pt'
METRICS_FILE = 'metrics.json'
# Of 64 classes each block of frames has 4,160 counts: 50,000 frames come to 30 MB.
_MAX_BYTES = 2**28


class MetricsFileError(DesertmindError):
    """A file is no metrics.json."""


class DepthPoint(Record):
    """Scores of an RGB-D model that is shown a share of the depth there is."""

    kept_share: Score = Field(description='of the pixels that were measured')
    valid_share: Score = Field(description='pixels with depth, of all pixels of the frames')
    miou_all: Score
    miou_all_interval_95: ScoreInterval | None
    pixel_accuracy: Score | None
    false_safe_rate: Score | None
    against_none: float = Field(description='mIoU(all) less that of no depth')
    against_none_interval_95: Interval | None = Field(
        description='paired over the same blocks; null with one block'
    )


class DepthCurve(Record):
    """How an RGB-D model's scores depend on how much of the depth is valid."""

    dataset: str
    root: str = Field(description='folder of the data set, as it was given')
    frames: Annotated[int, Field(ge=1)]
    blocks: Annotated[int, Field(ge=1)] = Field(description='groups: drives, sequences, blocks')
    data_hash: str
    points: Annotated[list[DepthPoint], Field(min_length=1)]


class Views(Record):
    """Test-time augmentation: what the probabilities are averaged over."""

    scales: list[float] = Field(description='of the network size')
    flip: bool = Field(description='each also mirrored left to right')


class MappedLabels(Record):
    """Labels of another class table than the model's."""

    ontology: str = Field(description='of the labels')
    ontology_sha256: str
    classes: dict[str, str | None] = Field(
        description='class of the labels -> class that is scored; null where it is left out'
    )
    predictions: dict[str, str] = Field(description='class of the model -> class that is scored')
    ignored_pixels: dict[str, int] = Field(description='by class of the labels')


class Metrics(SplitMetrics):
    """The whole file."""

    recipe: dict[str, Any] = Field(description='resolved; of a bundle, the one in its metadata')
    ontology: str
    ontology_sha256: str
    class_table: Ontology | None = Field(
        None, description='of the scores, whole; null in files of 0.1.0'
    )
    label_map: MappedLabels | None = Field(
        None, description='evaluate: null where the labels are of the classes of the model'
    )
    dataset: str = Field(description='names joined by + where several are scored together')
    split: str
    split_rule: str = Field(description='how the frames were chosen')
    data_hash: str = Field(description='SHA-256 of the scored frames, names and contents')
    environment: dict[str, Any] = Field(description='machine, versions and git_hash of the code')
    model: str | None = Field(None, description='evaluate: the checkpoint or bundle')
    tta: Views | None = Field(None, description='evaluate: null for one view')

    depth_curve: DepthCurve | None = Field(None, description='of RGB-D models, where asked for')

    # What a training run adds.
    train_data_hash: str | None = Field(None, description='SHA-256 of the training frames')
    temperature: float | None = Field(None, description='fitted softmax temperature')
    class_bias: list[float] | None = Field(None, description='added to the logits by calibration')
    training_sec: float | None = None
    averaged_with: str | None = Field(
        None, description='the other averaged stages: their recipes, or paths of bundles'
    )
    epochs: int | None = Field(None, description='epochs trained')
    steps: int | None = Field(None, description='optimiser steps')
    best_epoch: int | None = Field(None, description='epoch of the kept weights, from 1')

    @field_validator('class_table', mode='before')
    @classmethod
    def _table_of_json(cls, value: Any) -> Any:
        # Its strict fields take a JSON array for a tuple, but no Python list.
        return (
            Ontology.model_validate_json(json.dumps(value)) if isinstance(value, dict) else value
        )

    @property
    def block_counts(self) -> dict[str, Counts]:
        """Confusion counts int64 (C, C + 1) by block."""
        return {entry.block: np.array(entry.confusion, np.int64) for entry in self.per_block}


def without_details(scores: Mapping[str, Any]) -> dict[str, Any]:
    """Return scores without those of single blocks and frames, for what is read on a vehicle."""
    return {key: value for key, value in scores.items() if key not in ('per_block', 'per_frame')}


def write_metrics(path: Path, metrics: Metrics) -> None:
    """Write the file whole or not at all, one line a key, or a line an entry of a list.

    Keys that were not given, as those of a training run in an evaluation, are left out.
    """
    document = metrics.model_dump(exclude_unset=True)
    lines = [f'  {json.dumps(key)}: {_json(value)}' for key, value in document.items()]
    write_text(path, '{\n' + ',\n'.join(lines) + '\n}\n')


def read_metrics(path: Path) -> Metrics:
    """Read a metrics.json, or that of a run's folder.

    Raises:
        FileNotFoundError: there is none.
        MetricsFileError: the file is not as `Metrics` describes it.
    """
    if path.is_dir():
        path = path / METRICS_FILE
    if not path.is_file():
        raise FileNotFoundError(
            f'No metrics at {str(path)!r}; python -m training.train and python -m '
            'training.evaluate write them'
        )
    try:
        document = read_json(path, _MAX_BYTES)
    except DocumentError as err:
        raise MetricsFileError(f'{err}; evaluate the model again') from err
    try:
        return Metrics.model_validate(document)
    except ValidationError as err:
        raise MetricsFileError(
            f'{path}: not a metrics.json as training.train and training.evaluate of this version '
            f'write it: {describe_validation_error(err, document)}; evaluate the model again '
            'with python -m training.evaluate, or two bundles on a bag with evaluate_bag --against'
        ) from err


def _json(value: Any) -> str:
    if isinstance(value, list) and value and isinstance(value[0], dict | list):
        return '[\n    ' + ',\n    '.join(_json(entry) for entry in value) + '\n  ]'
    return json.dumps(value, allow_nan=False)
