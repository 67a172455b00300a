"""The mean of the weights of several stages of one network, calibrated."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from desertmind_seg.model.ontology import Ontology
from training.bundles.weights import load_stage
from training.data.class_table import ModelClasses
from training.data.datasets import list_sections
from training.data.frames import LabelledFrame
from training.evaluation.calibration import at_network_size, calibrate, with_depth_curve
from training.networks.checkpoint import (
    Checkpoint,
    CheckpointError,
    load_checkpoint,
    save_checkpoint,
)


def average(first: Checkpoint, *others: Checkpoint) -> Checkpoint:
    """Return the first checkpoint with the mean of all the networks' weights.

    For a stage and the stage it started from the mean generalises better than either (Wortsman et
    al., Robust fine-tuning of zero-shot models, CVPR 2022, with its coefficient 0.5); for several
    runs from one start it is their uniform soup (Wortsman et al., Model soups, ICML 2022). What
    was added to the logits of classes, which the weights hold, is the mean, too.

    Raises:
        CheckpointError: they are different networks or know different classes.
    """
    shapes = {name: value.shape for name, value in first.state_dict.items()}
    network = first.network()
    # An RGB stage has no say in the filters for depth: they stay those of the first.
    states = [network.stage_state(other.state_dict, own_filters=True) for other in others]
    for other, state in zip(others, states, strict=True):
        if first.parsed_ontology().sha256 != other.parsed_ontology().sha256:
            raise CheckpointError(
                f'{first.recipe["name"]} and {other.recipe["name"]} were trained for different '
                'class tables; average stages of one network'
            )
        if shapes != {name: value.shape for name, value in state.items()}:
            raise CheckpointError(
                f'{first.recipe["name"]} and {other.recipe["name"]} are different networks; '
                'average stages of one network'
            )
    count = 1 + len(others)
    mean = {
        name: (sum((state[name].double() for state in states), value.double()) / count).to(
            value.dtype
        )
        for name, value in first.state_dict.items()
    }
    given = [stage.scores.get('added_bias') or {} for stage in (first, *others)]
    names = dict.fromkeys(name for bias in given for name in bias)
    added = {name: sum(bias.get(name, 0.0) for bias in given) / count for name in names}
    scores = {**first.scores, **({'added_bias': added} if added else {})}
    return replace(first, state_dict=mean, scores=scores)


def calibrate_file(
    checkpoint_path: Path,
    out: Path,
    *,
    average_with: Sequence[Path] = (),
    network_size_hw: tuple[int, int] | None = None,
    added_bias: Mapping[str, float] | None = None,
    depth_curve_of: tuple[str, str] | None = None,
    labels_ontology: Ontology | None = None,
    label_map: Sequence[str] = (),
) -> None:
    """Write a checkpoint file, calibrated again, on a GPU where there is one.

    Args:
        checkpoint_path: what training.train wrote.
        out: the new checkpoint.
        average_with: checkpoints or fp32 bundles whose weights are averaged with its own; see
            `average`. A bundle has no BatchNorm. It is read with the statistics of the frames that
            the checkpoint was trained on, as the training from it read it: with others the same
            function has other weights.
        network_size_hw: of the new network; None for the recipe's.
        added_bias: see `calibrate`.
        depth_curve_of: data set and root to score by the share of valid depth; see
            `with_depth_curve`.
        labels_ontology: class table of the labels there; None for what the root says.
        label_map: which class of the model each of them is, as for `parse_label_map`.

    Raises:
        BundleError: an .onnx file is no bundle.
        CheckpointError: another stage is none, is another network or knows other classes.
        LabelMapError: the labels for the depth curve are of other classes than the model's.
    """
    checkpoint = load_checkpoint(checkpoint_path)
    mapped = None
    if depth_curve_of is not None:  # refused before what takes long
        known = ModelClasses(checkpoint_path, checkpoint.parsed_ontology(), checkpoint.recipe)
        mapped = known.labels_for(*depth_curve_of, labels_ontology, label_map)
        mapped = mapped and mapped.into_model()
    if average_with:
        stages = _stages(average_with, checkpoint)
        checkpoint = average(checkpoint, *stages)
        names = _names(average_with, stages, checkpoint)
        checkpoint.scores['averaged_with'] = ', '.join(names)
    if network_size_hw is not None:
        checkpoint = at_network_size(checkpoint, network_size_hw)
    device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    calibrated = calibrate(checkpoint, device, added_bias)
    if depth_curve_of is not None:
        calibrated = with_depth_curve(calibrated, *depth_curve_of, device, mapped)
    save_checkpoint(calibrated, out)


def _stages(paths: Sequence[Path], first: Checkpoint) -> list[Checkpoint]:
    recipe, ontology = first.parsed_recipe(), first.parsed_ontology()
    frames: list[LabelledFrame] = []
    if any(path.suffix == '.onnx' for path in paths):
        frames = list_sections(recipe.data.train, recipe.data, ontology)
    return [load_stage(path, frames) for path in paths]


def _names(paths: Sequence[Path], stages: Sequence[Checkpoint], first: Checkpoint) -> list[str]:
    """Name bundles by their path, checkpoints by recipe, and seed where several share one."""
    recipes = [(stage.recipe['name'], stage.recipe['seed']) for stage in stages]
    shared = Counter(name for name, _ in [*recipes, (first.recipe['name'], None)])
    names = []
    for path, (name, seed) in zip(paths, recipes, strict=True):
        if path.suffix == '.onnx':
            names.append(str(path))
        else:
            names.append(f'{name} seed={seed}' if shared[name] > 1 else name)
    return names
