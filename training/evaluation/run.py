"""Scores a checkpoint or a bundle on a labelled split."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from desertmind_seg.engines.load import load_engine
from desertmind_seg.model.arrays import Depth, Mask, Rgb
from desertmind_seg.model.bundle import read_bundle
from desertmind_seg.model.ontology import Ontology
from desertmind_seg.pipeline.label_map import LabelMap
from desertmind_seg.viewer.frames import frame_viewer
from training.data.class_table import ModelClasses, ignored_pixels
from training.data.datasets import DEFAULT_RULE, SplitName, choose_frames, data_hash, split_rule
from training.data.frames import DatasetError, LabelledFrame, read_all
from training.evaluation.metrics_file import MappedLabels, Metrics, Views
from training.evaluation.predict import (
    Predict,
    predict_with_engine,
    predict_with_graph,
    predict_with_probabilities,
)
from training.evaluation.score import depth_curve, score_frames
from training.evaluation.tta import tta_probabilities
from training.networks.checkpoint import environment, load_checkpoint
from training.networks.vehicle_graph import VehicleGraph
from training.recipes.schema import DatasetName, DatasetSection

SplitBy = Literal['auto', 'official', 'recipe']


@dataclass(frozen=True)
class Model:
    """What can be scored.

    Attributes:
        path: the checkpoint or bundle.
        predict: computes a frame's mask and confidence.
        ontology: its class table.
        recipe: as it stands in the file; that of a bundle may be of any age.
        modality: 'rgbd' where it takes depth.
        tta: views whose probabilities are averaged; None for the one that the vehicle sees.
    """

    path: Path
    predict: Predict
    ontology: Ontology
    recipe: Mapping[str, Any]
    modality: Literal['rgb', 'rgbd']
    tta: Views | None = None


def bundle_model(path: Path, backend: str = 'auto') -> Model:
    """Open a bundle, to be run by the runtime's engine.

    Raises:
        FileNotFoundError: there is no such file.
        BundleError: it is no bundle.
        EngineError: the backend cannot run it here.
    """
    bundle = read_bundle(path)
    metadata = bundle.metadata
    predict = predict_with_engine(load_engine(bundle, backend))
    return Model(path, predict, metadata.ontology, metadata.recipe, metadata.modality)


def checkpoint_model(path: Path, *, tta: bool = False) -> Model:
    """Open a checkpoint, to be run by torch, on a GPU where there is one.

    Args:
        path: checkpoint.pt.
        tta: average the views of its recipe: evaluation.tta_scales and tta_flip.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: it is no checkpoint.
    """
    checkpoint = load_checkpoint(path)
    ontology, recipe = checkpoint.parsed_ontology(), checkpoint.parsed_recipe()
    device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    network = checkpoint.network().to(device)
    views = None
    if tta:
        views = Views(scales=recipe.evaluation.tta_scales, flip=recipe.evaluation.tta_flip)
        predict = predict_with_probabilities(
            tta_probabilities(network, views.scales, views.flip, device, checkpoint.temperature)
        )
    else:
        graph = VehicleGraph(network, ontology.costs, checkpoint.temperature)
        predict = predict_with_graph(graph.to(device).eval())
    resolved = recipe.model_dump(mode='json')
    return Model(path, predict, ontology, resolved, recipe.model.modality, views)


def evaluate(
    model: Model,
    dataset: DatasetName,
    root: Path,
    *,
    split: SplitName = 'val',
    split_by: SplitBy = 'auto',
    depth_shares: Sequence[float] | None = None,
    labels_ontology: Ontology | None = None,
    label_map: Sequence[str] = (),
    rerun: str | None = None,
) -> Metrics:
    """Score every frame of a split at its own resolution, and print which frames these are.

    Args:
        model: of `checkpoint_model` or `bundle_model`.
        dataset: kind of data set.
        root: its folder.
        split: 'all' is every frame of the root.
        split_by: 'auto' takes the publisher's part where the root has one, else the rule of the
            model's recipe; 'official' and 'recipe' settle it.
        depth_shares: parts 0..1 of the depth there is, with which an RGB-D model is scored too.
        labels_ontology: class table of the labels; None for what the root says.
        label_map: which class of the model each class of the labels is, as for
            `parse_label_map`.
        rerun: where every frame is shown, as `open_recording` takes it; None for nowhere.

    Returns:
        The content of metrics.json.

    Raises:
        DatasetError: the root has no such frames, nothing says what its labels mean, or the model
            cannot be scored as was asked.
        LabelMapError: the labels are of other classes than the model's, and no map says which.
        ViewerError: as `open_recording`.
    """
    if depth_shares is not None and model.modality == 'rgb':
        raise DatasetError(
            f'{model.path}: takes no depth, so its scores do not depend on the share of depth; '
            'leave --depth-shares out'
        )
    rule = split_rule(model.recipe)
    if rule is None and split_by == 'recipe':
        raise DatasetError(
            f'{model.path}: its recipe does not say how frames are split; use --split-by '
            'official, or --split all'
        )
    section = DatasetSection(dataset=dataset, root=str(root), split=split, repeat=1)
    known = ModelClasses(model.path, model.ontology, model.recipe)
    mapped = known.labels_for(dataset, root, labels_ontology, label_map)
    ontology = model.ontology if mapped is None else mapped.scored
    predict = model.predict if mapped is None else _mapped(model.predict, mapped)
    frames, chosen = choose_frames(section, ontology, rule or DEFAULT_RULE, split_by, mapped)
    print(f'{dataset} {split}: {len(frames)} frames, {chosen}')
    record = _record(mapped, frames) if mapped is not None and mapped.renames else None
    without = sum(not frame.has_depth for frame in frames)
    if model.modality == 'rgbd' and without:
        print(f'{without} of them have no depth: the model is scored with all of it missing')
    # A bad file at the end would take hours of scores along. Others cost a rendering, or are rare.
    files = [frame for frame in frames if frame.image_file() is not None]
    read_all(files, ontology, with_depth=model.modality == 'rgbd')
    curve = None
    if depth_shares is not None:
        curve = depth_curve(section, frames, ontology, predict, depth_shares)
    with frame_viewer(rerun, ontology) if rerun else nullcontext() as viewer:
        scores = score_frames(frames, ontology, predict, viewer)
    return Metrics(
        **dict(scores),
        model=str(model.path),
        recipe=dict(model.recipe),
        ontology=ontology.name,
        ontology_sha256=ontology.sha256,
        class_table=ontology,
        label_map=record,
        dataset=dataset,
        split=split,
        split_rule=chosen,
        tta=model.tta,
        depth_curve=curve,
        data_hash=data_hash(frames),
        environment=environment(),
    )


def _mapped(predict: Predict, label_map: LabelMap) -> Predict:
    """Predict the classes that are scored."""

    def predict_scored(rgb: Rgb, depth: Depth | None) -> tuple[Mask, Mask]:
        mask, confidence = predict(rgb, depth)
        return label_map.mask_table[mask], confidence

    return predict_scored


def _record(label_map: LabelMap, frames: Sequence[LabelledFrame]) -> MappedLabels:
    """Print what the labels count as, and return it for metrics.json."""
    left_out, labelled = ignored_pixels(frames, label_map)
    for sentence in label_map.sentences():
        print(sentence)
    if left_out:
        listed = ', '.join(f'{name} {pixels:,d}' for name, pixels in left_out.items())
        share = sum(left_out.values()) / max(labelled, 1)
        print(f'left out: {share:.2%} of the labelled pixels ({listed})')
    return MappedLabels(
        ontology=label_map.labels.name,
        ontology_sha256=label_map.labels.sha256,
        classes=dict(label_map.of_labels),
        predictions=dict(label_map.of_model),
        ignored_pixels=left_out,
    )
