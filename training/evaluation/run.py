"""Scores a checkpoint or a bundle on a labelled split."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from desertmind_seg.engines.load import load_engine
from desertmind_seg.model.bundle import read_bundle
from desertmind_seg.model.ontology import Ontology
from training.data.datasets import DEFAULT_RULE, SplitName, choose_frames, data_hash, split_rule
from training.data.frames import DatasetError
from training.evaluation.metrics_file import Metrics, Views
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

    Returns:
        The content of metrics.json.

    Raises:
        DatasetError: the root has no such frames, or the model cannot be scored as was asked.
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
    ontology, predict = model.ontology, model.predict
    frames, chosen = choose_frames(section, ontology, rule or DEFAULT_RULE, split_by)
    print(f'{dataset} {split}: {len(frames)} frames, {chosen}')
    without = sum(not frame.has_depth for frame in frames)
    if model.modality == 'rgbd' and without:
        print(f'{without} of them have no depth: the model is scored with all of it missing')
    curve = None
    if depth_shares is not None:
        curve = depth_curve(section, frames, ontology, predict, depth_shares)
    return Metrics(
        **dict(score_frames(frames, ontology, predict)),
        model=str(model.path),
        recipe=dict(model.recipe),
        ontology=ontology.name,
        ontology_sha256=ontology.sha256,
        dataset=dataset,
        split=split,
        split_rule=chosen,
        tta=model.tta,
        depth_curve=curve,
        data_hash=data_hash(frames),
        environment=environment(),
    )
