"""metrics.json: what a run or an evaluation found. This module is its documentation.

``Metrics`` describes every key; a file is checked against it when it is written and when it is
read. Scores are fractions of 1. A score that is not defined (no pixel of that kind) is null.
"""

from collections.abc import Mapping
import json
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from desertmind_seg.model.errors import DesertmindError
from desertmind_seg.model.files import whole_file

METRICS_FILE = 'metrics.json'

Score = Annotated[float, Field(ge=0.0, le=1.0)]
Pixels = Annotated[int, Field(ge=0)]
Interval = tuple[Score, Score]
Confusion = list[list[Pixels]]


class MetricsFileError(DesertmindError):
    """A file is no metrics.json, or what is to be written is none."""


class _Entry(BaseModel):
    model_config = ConfigDict(extra='forbid', frozen=True)


class ClassScore(_Entry):
    """One class, in the order of the ids."""

    id: int
    name: str
    iou: Score | None = Field(description='null: neither labelled nor predicted')
    pixels: Pixels = Field(description='labelled pixels of the split')


class ConfidenceBin(_Entry):
    """One filled bin of the reliability curve."""

    confidence: Score = Field(description='mean of the bin')
    accuracy: Score
    pixels: Pixels


class BlockCounts(_Entry):
    """Confusion of one group of frames: what is drawn by the bootstrap and paired between runs."""

    block: str
    frames: int
    confusion: Confusion


class FrameScore(_Entry):
    """One frame; mIoU is over the classes that it shows."""

    name: str
    miou_present: Score | None
    pixel_accuracy: Score | None


class DepthPoint(_Entry):
    """Scores of an RGB-D model that is shown a share of the depth there is."""

    kept_share: Score = Field(description='of the pixels that were measured')
    valid_share: Score = Field(description='pixels with depth, of all pixels of the frames')
    miou_all: Score
    miou_all_interval_95: Interval | None
    pixel_accuracy: Score | None
    false_safe_rate: Score | None
    against_none: float = Field(description='mIoU(all) less that of no depth')
    against_none_interval_95: tuple[float, float] | None = Field(
        description='paired over the same blocks; null with one block'
    )


class DepthCurve(_Entry):
    """How an RGB-D model's scores depend on how much of the depth is valid."""

    dataset: str
    root: str = Field(description='folder of the data set, as it was given')
    frames: Annotated[int, Field(ge=1)]
    blocks: Annotated[int, Field(ge=1)] = Field(description='groups: drives, sequences, blocks')
    data_hash: str
    points: Annotated[list[DepthPoint], Field(min_length=1)]


class Metrics(_Entry):
    """The whole file."""

    miou_all: Score = Field(description='mean IoU over all classes; without true pixels 0')
    miou_present: Score | None = Field(description='mean IoU over classes with true pixels')
    pixel_accuracy: Score | None
    classes: list[ClassScore]
    confusion: Confusion = Field(
        description='pixels, rows the true class, columns the predicted, the last one unlabelled'
    )
    boundary_f1: Score | None = Field(
        description='mean over classes; tolerance 0.75 % of the diagonal (training.scores)'
    )
    boundary_f1_classes: list[Score | None]
    ece: Score | None = Field(description='expected calibration error, 15 bins')
    reliability: list[ConfidenceBin]
    false_safe_rate: Score | None = Field(
        description='obstacle and non-traversable pixels predicted traversable'
    )
    false_stop_rate: Score | None = Field(
        description='traversable pixels predicted obstacle or non-traversable'
    )
    miou_all_interval_95: Interval | None = Field(
        description='bootstrap over blocks; null with one block, as for the others'
    )
    miou_present_interval_95: Interval | None
    pixel_accuracy_interval_95: Interval | None
    false_safe_rate_interval_95: Interval | None
    false_stop_rate_interval_95: Interval | None
    frames: Annotated[int, Field(ge=1)]
    blocks: Annotated[int, Field(ge=1)] = Field(description='groups that the frames belong to')
    per_block: list[BlockCounts]
    per_frame: list[FrameScore]

    recipe: dict[str, Any] = Field(description='resolved; of a bundle, the one in its metadata')
    ontology: str
    ontology_sha256: str
    dataset: str = Field(description='names joined by + where several are scored together')
    split: str
    split_rule: str = Field(description='how the frames were chosen, in words')
    data_hash: str = Field(description='SHA-256 of the scored frames, names and contents')
    environment: dict[str, Any] = Field(description='machine, versions and git_hash of the code')
    model: str | None = Field(None, description='evaluate: the checkpoint or bundle')
    tta: dict[str, Any] | None = Field(None, description='evaluate: scales and flip')

    depth_curve: DepthCurve | None = Field(None, description='of RGB-D models, where asked for')

    # What a training run adds.
    train_data_hash: str | None = Field(None, description='SHA-256 of the training frames')
    temperature: float | None = Field(None, description='fitted softmax temperature')
    class_bias: list[float] | None = Field(None, description='added to the logits by calibration')
    training_sec: float | None = None
    averaged_with: str | None = Field(None, description='recipe of the other averaged stage')
    epochs: int | None = Field(None, description='epochs trained')
    steps: int | None = Field(None, description='optimiser steps')
    best_epoch: int | None = Field(None, description='epoch of the kept weights, from 1')

    @property
    def block_counts(self) -> dict[str, npt.NDArray[np.int64]]:
        """Confusion counts int64 (C, C + 1) by block."""
        return {entry.block: np.array(entry.confusion, np.int64) for entry in self.per_block}


def without_details(scores: Mapping[str, Any]) -> dict[str, Any]:
    """Return scores without those of single blocks and frames, for what is read on a vehicle."""
    return {key: value for key, value in scores.items() if key not in ('per_block', 'per_frame')}


def write_metrics(path: Path, metrics: Mapping[str, Any]) -> None:
    """Write the file whole or not at all, one line a key, or a line an entry of a list.

    Raises:
        MetricsFileError: `metrics` is not as `Metrics` describes it.
    """
    _checked(metrics, str(path))
    lines = [f'  {json.dumps(key)}: {_json(value)}' for key, value in metrics.items()]
    with whole_file(path) as temporary:
        temporary.write_text('{\n' + ',\n'.join(lines) + '\n}\n', encoding='utf-8')


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
        document = json.loads(path.read_text(encoding='utf-8'))
    except json.JSONDecodeError as err:
        raise MetricsFileError(f'{path}: not JSON ({err}); evaluate the model again') from err
    return _checked(document, str(path))


def _checked(document: Any, source: str) -> Metrics:
    try:
        return Metrics.model_validate(document)
    except ValidationError as err:
        faults = [f'{".".join(map(str, f["loc"]))}: {f["msg"]}' for f in err.errors()]
        raise MetricsFileError(
            f'{source}: not as training.metrics_file describes it: {"; ".join(faults[:5])}'
            f'{f" and {len(faults) - 5} more" if len(faults) > 5 else ""}; evaluate the model '
            'again with python -m training.evaluate'
        ) from err


def _json(value: Any) -> str:
    if isinstance(value, list) and value and isinstance(value[0], dict | list):
        return '[\n    ' + ',\n    '.join(_json(entry) for entry in value) + '\n  ]'
    return json.dumps(value, allow_nan=False)
