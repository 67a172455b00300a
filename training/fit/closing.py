"""What a run leaves once its network is trained: checkpoint, scores, report, bundle."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
import logging
from pathlib import Path
import shlex
from typing import Any

import torch

from desertmind_seg.model.installed import as_called
from desertmind_seg.model.ontology import Ontology
from training.bundles.exporting import export
from training.bundles.frame_choice import parity_frames
from training.data.datasets import choose_frames, data_hash
from training.data.frames import LabelledFrame
from training.evaluation.calibration import calibrate
from training.evaluation.evaluation_report import REPORT_FILE
from training.evaluation.metrics_file import (
    CHECKPOINT,
    METRICS_FILE,
    Metrics,
    MetricsFileError,
    read_metrics,
    write_metrics,
)
from training.evaluation.predict import predict_with_graph
from training.evaluation.run_report import write_run_report
from training.networks.checkpoint import Checkpoint, save_checkpoint
from training.networks.vehicle_graph import VehicleGraph
from training.recipes.own_data import file_name
from training.recipes.schema import Recipe

_log = logging.getLogger(__name__)
LAST = 'last.ckpt'


def finish(
    raw: Checkpoint,
    facts: Mapping[str, Any],
    ontology: Ontology,
    val_frames: Sequence[LabelledFrame],
    out: Path,
    device: torch.device,
) -> Checkpoint:
    """Calibrate, score and report; last.ckpt goes when all else is there."""
    checkpoint = calibrate(raw, device)
    checkpoint = replace(checkpoint, scores={**checkpoint.scores, **facts})
    save_checkpoint(checkpoint, out / CHECKPOINT)
    recipe = checkpoint.parsed_recipe()
    rules = [
        choose_frames(section, ontology, recipe.data.split, 'recipe')[1]
        for section in recipe.data.val
    ]
    metrics = Metrics.model_validate(
        {
            **checkpoint.scores,
            'recipe': checkpoint.recipe,
            'ontology': ontology.name,
            'ontology_sha256': ontology.sha256,
            'class_table': ontology,
            'dataset': '+'.join(section.dataset for section in recipe.data.val),
            'split': '+'.join(section.split for section in recipe.data.val),
            'split_rule': '; '.join(dict.fromkeys(rules)),
            'data_hash': data_hash(val_frames),
            'environment': checkpoint.environment,
            'train_data_hash': checkpoint.data_hash,
            'temperature': checkpoint.temperature,
        }
    )
    write_metrics(out / METRICS_FILE, metrics)
    graph = VehicleGraph(checkpoint.network(), ontology.costs, checkpoint.temperature)
    write_run_report(
        out,
        metrics,
        recipe,
        val_frames,
        predict_with_graph(graph.to(device).eval()),
        ontology,
        _parent_metrics(recipe, out),
    )
    (out / LAST).unlink(missing_ok=True)
    return checkpoint


def bundle_path(recipe: Recipe, out: Path) -> Path:
    """Return where a run's bundle is: NAME.onnx in its folder."""
    return out / f'{file_name(recipe.name)}.onnx'


def leave_bundle(checkpoint: Checkpoint, out: Path) -> None:
    """Export the run's fp32 bundle into its folder, unless it is there, and say what comes next.

    Raises:
        ParityError: the bundle does not compute what torch does; all else of the run is there.
        PrecisionError: the network cannot be exported.
    """
    recipe = checkpoint.parsed_recipe()
    bundle = bundle_path(recipe, out)
    if not bundle.is_file():
        print('exporting the bundle, and checking it against torch', flush=True)
        export(checkpoint, parity_frames(checkpoint, None, None, 'fp32'), bundle)
    print(as_called(_what_is_there(recipe, bundle, out)))


def _what_is_there(recipe: Recipe, bundle: Path, out: Path) -> str:
    quoted, absolute = (shlex.quote(str(path)) for path in (bundle, bundle.resolve()))
    depth = ' depth:=DEPTH_TOPIC' if recipe.model.modality == 'rgbd' else ''
    return f"""
{out / REPORT_FILE}: scores, curves, best and worst frames
{out / CHECKPOINT}: to train on from, or to export in another precision
{bundle}: the bundle, for the vehicle
next:
  python -m desertmind_seg.segment IMAGES --bundle {quoted} --out masks
  python -m desertmind_seg.evaluate_bag BAG --image TOPIC --bundle {quoted} --out scores
  ros2 launch desertmind_seg seg.launch.py image:=TOPIC{depth} bundle:={absolute}"""


def _parent_metrics(recipe: Recipe, out: Path) -> Metrics | None:
    """Return the scores of the parent's run where it lies beside this one, as out/PARENT.

    With data=DATA the parent is the recipe itself, and out/PARENT may hold this very run, or
    another one that is named after its data.
    """
    path = out.parent / recipe.parent / METRICS_FILE
    if not path.is_file() or path.parent.resolve() == out.resolve():
        return None
    try:
        parent = read_metrics(path)
    except MetricsFileError as err:  # no reason to lose this run for
        _log.warning('No change against the parent is reported: %s', err)
        return None
    return parent if parent.recipe.get('name') == recipe.parent else None
