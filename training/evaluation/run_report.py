"""report.html of a training run."""

from collections.abc import Mapping, Sequence
import csv
from dataclasses import replace
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import yaml

from desertmind_seg.model.arrays import Rgb
from desertmind_seg.model.ontology import Ontology
from desertmind_seg.pipeline.rendering import colorize_depth, mark_wrong, overlay
from desertmind_seg.reports.charts import Chart, charts_section, confusion_section
from desertmind_seg.reports.distributions import reliability_section
from desertmind_seg.reports.page import Section, write_report
from desertmind_seg.reports.pictures import frames_section
from desertmind_seg.reports.tables import (
    Change,
    classes_section,
    environment_section,
    pairs_section,
    text_section,
)
from desertmind_seg.scores.bootstrap import paired_differences
from training.data.frames import LabelledFrame
from training.evaluation.comparison import same_blocks
from training.evaluation.evaluation_report import REPORT_FILE, headline, scored_on
from training.evaluation.metrics_file import Metrics
from training.evaluation.predict import Predict
from training.recipes.changes import recipe_changes
from training.recipes.schema import Recipe

CURVES_FILE = 'metrics.csv'
# Of the best and of the worst frames.
_SHOWN_FRAMES = 3
_PICTURE_WIDTH_PX = 480


def write_run_report(
    out: Path,
    metrics: Metrics,
    recipe: Recipe,
    val_frames: Sequence[LabelledFrame],
    predict: Predict,
    ontology: Ontology,
    parent: Metrics | None,
) -> None:
    """Write report.html into the run's folder.

    Args:
        out: the run's folder; its metrics.csv, of Lightning's CSVLogger, is plotted.
        metrics: scores of the run.
        recipe: as resolved.
        val_frames: the frames that were scored, in that order.
        predict: computes the masks that are shown.
        ontology: the class table.
        parent: scores of the parent's run, None where there are none.

    Raises:
        ValueError: val_frames are not those that `metrics` has scores of.
    """
    parent, note = comparable(recipe.parent, parent, metrics)
    document = metrics.model_dump(include={'classes', 'confusion', 'reliability'})
    sections = [
        _curves(out / CURVES_FILE, metrics, ontology),
        classes_section(
            document,
            ontology,
            note,
            None if parent is None else _changes(metrics, parent, ontology),
        ),
        confusion_section(document, ontology),
        reliability_section(
            document,
            'Accuracy of the pixels of each confidence. Below the dashed line the network is '
            'surer than it is right.',
        ),
        *_frames(metrics, val_frames, predict, ontology),
    ]
    if parent is not None:
        sections.insert(1, _against_parent(recipe, metrics, parent, ontology))
    sections += [
        pairs_section('Run', _facts(metrics)),
        environment_section(metrics.environment),
        text_section('Recipe', yaml.safe_dump(metrics.recipe, sort_keys=False), 'As resolved.'),
    ]
    write_report(
        out / REPORT_FILE,
        recipe.name,
        [
            f'{recipe.model.architecture} with {recipe.model.encoder}, {recipe.model.modality}, '
            f'{recipe.model.network_size_hw[0]} x {recipe.model.network_size_hw[1]} (height x '
            f'width), {ontology.name}; parent: {recipe.parent}',
            scored_on(metrics),
        ],
        headline(metrics, parent),
        sections,
    )


def comparable(name: str, parent: Metrics | None, metrics: Metrics) -> tuple[Metrics | None, str]:
    """Return the parent's scores where they are of the same frames, and say what is compared.

    Args:
        name: of the parent's recipe, or 'none'.
        parent: its scores, None where there are none.
        metrics: scores of the run.
    """
    if parent is None:
        return None, (
            'This recipe has no parent.'
            if name == 'none'
            else f'No scores of the parent {name} were found, so no change is shown.'
        )
    if parent.data_hash != metrics.data_hash:
        return None, (
            f'The parent {name} was scored on other frames (data hash {parent.data_hash[:12]}, '
            f'here {metrics.data_hash[:12]}), so no change is shown; score both on one split with '
            'python -m training.evaluate.'
        )
    return parent, (
        f'Change: IoU minus that of {name} on the same frames, with the interval of the paired '
        'difference; coloured where that excludes zero.'
    )


def read_curves(path: Path) -> dict[str, tuple[list[float], list[float]]]:
    """Read Lightning's metrics.csv.

    Returns:
        (steps, values) of every column, without the rows in which it is empty.
    """
    curves: dict[str, tuple[list[float], list[float]]] = {}
    with path.open(newline='', encoding='utf-8') as file:
        for row in csv.DictReader(file):
            for name, value in row.items():
                if name not in {'epoch', 'step'} and value:
                    steps, values = curves.setdefault(name, ([], []))
                    steps.append(float(row['step']))
                    values.append(float(value))
    return curves


def _curves(path: Path, metrics: Metrics, ontology: Ontology) -> Section:
    if not path.is_file():
        return text_section('Curves', f'{path} does not exist: the run kept no curves.')
    best = (
        '' if not metrics.best_epoch else f' The weights of epoch {metrics.best_epoch} are kept.'
    )
    return charts_section(
        'Curves',
        curve_charts(read_curves(path), metrics, ontology),
        'The scores of validation are those before calibration.' + best,
    )


def curve_charts(
    curves: Mapping[str, tuple[list[float], list[float]]], metrics: Metrics, ontology: Ontology
) -> list[Chart]:
    """Arrange what `read_curves` returned over the epochs, or the steps where these are unknown.

    IoU of validation has the classes' colours.
    """
    # Steps count from 0; the first ends at 1.
    per_epoch = (metrics.steps or 0) / (metrics.epochs or 1) or 1.0
    lines = {
        name: ([(step + 1) / per_epoch for step in steps], values)
        for name, (steps, values) in curves.items()
    }
    axis = 'epoch' if metrics.steps else 'optimiser step'

    def chart(y_label: str, labels: Mapping[str, str]) -> Chart:
        return Chart(
            axis, y_label, {label: lines[name] for name, label in labels.items() if name in lines}
        )

    def after(prefix: str) -> dict[str, str]:
        return {name: name.removeprefix(prefix) for name in lines if name.startswith(prefix)}

    classes = {f'val_iou/{entry.name}': entry.name for entry in ontology.classes}
    colors = {entry.name: entry.color_hex for entry in ontology.classes}
    parts = {name: label.replace('_', ' ') for name, label in after('train_').items()}
    charts = [
        chart('loss', {**parts, 'train_loss': 'training', 'val_loss': 'validation'}),
        chart(
            'score of validation',
            {
                'val_miou_all': 'mIoU (all)',
                'val_miou_present': 'mIoU (present)',
                'val_pixel_accuracy': 'pixel accuracy',
            },
        ),
        replace(chart('IoU of validation', classes), colors=colors),
        chart('learning rate', after('lr-')),
    ]
    return [drawn for drawn in charts if drawn.lines]


def _changes(metrics: Metrics, parent: Metrics, ontology: Ontology) -> dict[str, Change]:
    shown = [entry.name for entry in metrics.classes if entry.pixels]
    changes = {}
    for found in paired_differences(*same_blocks(metrics, parent), ontology, shown):
        text = f'{found.difference:+.3f}'
        if found.interval_95 is not None:
            text += f' [{found.interval_95[0]:+.3f}, {found.interval_95[1]:+.3f}]'
        direction: Literal['', 'better', 'worse'] = ''
        if found.is_real:
            direction = 'better' if found.difference > 0 else 'worse'
        changes[found.score] = Change(text, direction)
    return changes


def _against_parent(
    recipe: Recipe, metrics: Metrics, parent: Metrics, ontology: Ontology
) -> Section:
    sentences = [
        found.sentence(recipe.name, recipe.parent)
        for found in paired_differences(
            *same_blocks(metrics, parent), ontology, ('miou_all', 'pixel_accuracy')
        )
    ]
    rows = {
        key: f'{"-" if then is None else then} → {"-" if now is None else now}'
        for key, (then, now) in recipe_changes(parent.recipe, metrics.recipe).items()
        if key not in {'name', 'parent'}
    }
    return pairs_section(f'Against {recipe.parent}', rows, '. '.join(sentences) + '.')


def _frames(
    metrics: Metrics, frames: Sequence[LabelledFrame], predict: Predict, ontology: Ontology
) -> list[Section]:
    if [frame.name for frame in frames] != [score.name for score in metrics.per_frame]:
        raise ValueError(
            f'{len(frames)} frames were given, but the metrics have scores of '
            f'{len(metrics.per_frame)}, or of others; give the frames that were scored, in order'
        )
    scored = [
        (score, frame)
        for score, frame in zip(metrics.per_frame, frames, strict=True)
        if score.miou_present is not None
    ]
    scored.sort(key=lambda pair: pair[0].miou_present or 0.0)
    worst = scored[:_SHOWN_FRAMES]
    best = scored[max(_SHOWN_FRAMES, len(scored) - _SHOWN_FRAMES) :][::-1]
    sections = []
    for title, chosen in (('Worst frames', worst), ('Best frames', best)):
        rows = [
            (
                f'{frame.name}: mIoU {score.miou_present:.3f}, pixel accuracy '
                f'{score.pixel_accuracy:.3f}',
                _pictures(frame, predict, ontology),
            )
            for score, frame in chosen
        ]
        if rows:
            note = 'By the mean IoU over the classes that a frame shows.'
            columns = ['camera', 'labelled', 'predicted', 'wrong pixels in red']
            if any(pictures[-1] is not None for _, pictures in rows):
                columns.append('depth, near is bright')
            shown = [(caption, pictures[: len(columns)]) for caption, pictures in rows]
            sections.append(frames_section(title, columns, shown, ontology, note))
    return sections


def _pictures(frame: LabelledFrame, predict: Predict, ontology: Ontology) -> list[Rgb | None]:
    rgb, truth = frame.read_rgb(), frame.read_labels(ontology)
    mask, _ = predict(rgb, frame.measured_depth())
    size = (_PICTURE_WIDTH_PX, round(_PICTURE_WIDTH_PX * rgb.shape[0] / rgb.shape[1]))
    small = np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), np.uint8)
    small_truth, small_mask = (
        np.asarray(cv2.resize(ids, size, interpolation=cv2.INTER_NEAREST_EXACT), np.uint8)
        for ids in (truth, mask)
    )
    depth = None
    if frame.has_depth:
        nearest = cv2.resize(frame.read_depth(), size, interpolation=cv2.INTER_NEAREST)
        depth = colorize_depth(np.asarray(nearest, np.float32))
    return [
        small,
        overlay(small, small_truth, ontology, 0.6),
        overlay(small, small_mask, ontology, 0.6),
        mark_wrong(small, small_mask, small_truth),
        depth,
    ]


def _facts(metrics: Metrics) -> dict[str, object]:
    facts = {
        'epochs': metrics.epochs,
        'optimiser steps': metrics.steps,
        'epoch of the kept weights': metrics.best_epoch,
        'training': None if metrics.training_sec is None else f'{metrics.training_sec:.0f} s',
        'temperature': metrics.temperature and f'{metrics.temperature:.3f}',
        'class biases': metrics.class_bias
        and ', '.join(
            f'{entry.name} {bias:+.2f}'
            for entry, bias in zip(metrics.classes, metrics.class_bias, strict=True)
        ),
        'averaged with': metrics.averaged_with,
        'false stop': metrics.false_stop_rate and f'{metrics.false_stop_rate:.4f}',
        'data hash, training': metrics.train_data_hash,
        'data hash, validation': metrics.data_hash,
        'class table': f'{metrics.ontology}, {metrics.ontology_sha256}',
    }
    return {name: value for name, value in facts.items() if value is not None}
