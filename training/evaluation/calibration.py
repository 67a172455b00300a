"""What is set after training: batch statistics, class biases, temperature, network size."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from pydantic import ValidationError
from scipy import optimize
import torch
from torch import nn
from torch.nn import functional

from desertmind_seg.model.errors import did_you_mean
from desertmind_seg.model.ontology import UNLABELED, Ontology
from desertmind_seg.pipeline.label_map import LabelMap
from desertmind_seg.pipeline.progress import Progress
from training.data.datasets import list_frames, list_sections
from training.data.frames import DatasetError, LabelledFrame
from training.evaluation.predict import predict_with_graph
from training.evaluation.score import DEPTH_SHARES, depth_curve, score_frames
from training.evaluation.text import print_depth_curve, print_scores
from training.networks.checkpoint import Checkpoint
from training.networks.vehicle_graph import VehicleGraph
from training.recipes.load import parse_recipe
from training.recipes.schema import DatasetSection, Recipe, RecipeError

# Every 8th pixel of both axes: neighbours say the same, and a million pixels fit nine numbers.
_PIXEL_STEP = 8
_STATISTICS_BATCH = 8
# Of the training frames, every 4th where there are enough: they are neighbours too.
_FRAME_STEP = 4


def sampled_logits(
    frames: Sequence[LabelledFrame], ontology: Ontology, graph: VehicleGraph
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return logits float32 (P, C) and labels int64 (P,) of a grid of labelled pixels.

    Of a frame with none on the grid, as of points and thin strokes, all that are labelled.
    """
    logits, labels = [], []
    with torch.inference_mode():
        for frame in Progress(frames, desc='calibrating', unit='frame'):
            truth = torch.from_numpy(frame.read_labels(ontology).copy())  # (H, W)
            grid = slice(_PIXEL_STEP // 2, None, _PIXEL_STEP)
            if not (truth[grid, grid] != UNLABELED).any():
                grid = slice(None)
            truth = truth[grid, grid].reshape(-1)
            image, depth = graph.tensors(frame.read_rgb(), frame.measured_depth())
            out = graph.logits(image, depth)[0, :, grid, grid]  # (C, y, x)
            out = out.flatten(1).T.cpu()  # (P, C)
            labelled = truth != UNLABELED
            logits.append(out[labelled])
            labels.append(truth[labelled].long())
    return torch.cat(logits), torch.cat(labels)


def refresh_batch_norm(frames: Sequence[LabelledFrame], graph: VehicleGraph) -> None:
    """Replace the statistics of every BatchNorm of `graph` by those of `frames`.

    Each is the mean over batches of what the layer sees while the network infers (Izmailov et al.,
    Averaging weights leads to wider optima, UAI 2018, section 3.2, for averaged weights; Li et
    al., Understanding the disharmony between dropout and batch normalization, CVPR 2019, for why
    dropout is off). Frozen layers are among them: theirs are those of the pictures that the
    encoder first learned from. A network without BatchNorm is left as it is.

    Raises:
        RecipeError: there are fewer frames than a batch needs.
    """
    layers = [m for m in graph.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    if not layers:
        return
    if len(frames) < 2:
        raise RecipeError(
            f'evaluation.refresh_batch_norm needs at least 2 training frames, but there is '
            f'{len(frames)}; set it to false'
        )
    graph.eval()
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # the mean of all batches instead of a moving one
        layer.train()
    # Neighbours are alike: a batch of them would vary less than the frames do.
    order = np.random.default_rng(0).permutation(len(frames))
    batches = np.array_split(order, max(1, len(frames) // _STATISTICS_BATCH))
    with torch.inference_mode():
        for batch in Progress(batches, desc='batch statistics', unit='batch'):
            inputs = [
                graph.network_input(*graph.tensors(frame.read_rgb(), frame.measured_depth()))
                for frame in (frames[index] for index in batch)
            ]
            images = torch.cat([image for image, _ in inputs])
            depths = [depth for _, depth in inputs if depth is not None]
            graph.network(images, torch.cat(depths) if depths else None)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
        layer.eval()


def fit_class_bias(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Fit one bias a class that minimises the negative log likelihood.

    Bias-corrected temperature scaling (Alexandari, Kundaje and Shrikumar, ICML 2020, section 3):
    bias and temperature are fitted together, and the bias is returned for the logits before the
    temperature.

    Args:
        logits: float32 (P, C).
        labels: int64 (P,).

    Returns:
        float32 (C,) with mean 0.
    """
    classes = logits.shape[1]

    def loss_and_gradient(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        leaf = torch.tensor(parameters, dtype=torch.float32, requires_grad=True)
        loss = functional.cross_entropy((logits + leaf[:classes]) * leaf[classes].exp(), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        assert leaf.grad is not None
        return loss.item(), leaf.grad.numpy().astype(np.float64)

    best = optimize.minimize(
        loss_and_gradient,
        np.zeros(classes + 1),
        jac=True,
        method='L-BFGS-B',
        # A class without a pixel would be pushed away for ever.
        bounds=[(-8.0, 8.0)] * classes + [(-2.0, 2.0)],
    )
    bias = best.x[:classes]
    return torch.tensor(bias - bias.mean(), dtype=torch.float32)


def fit_temperature(
    logits: torch.Tensor,
    labels: torch.Tensor,
    pixel_weights: torch.Tensor | None = None,
    limits: tuple[float, float] = (0.25, 8.0),
) -> float:
    """Fit the softmax temperature that minimises the negative log likelihood.

    Temperature scaling of Guo et al., On Calibration of Modern Neural Networks, ICML 2017,
    section 4.2.

    Args:
        logits: float32 (P, C).
        labels: int64 (P,).
        pixel_weights: float32 (P,), how much each pixel counts; None for all alike.
        limits: between which it is looked for.

    Returns:
        The temperature, above 1 for an over-confident network.
    """

    def negative_log_likelihood(log_temperature: float) -> float:
        scaled = logits / float(np.exp(log_temperature))
        if pixel_weights is None:
            return functional.cross_entropy(scaled, labels).item()
        share = pixel_weights / pixel_weights.sum()
        return float(share @ functional.cross_entropy(scaled, labels, reduction='none'))

    best = optimize.minimize_scalar(
        negative_log_likelihood, bounds=np.log(limits), method='bounded'
    )
    return float(np.exp(best.x))


def at_network_size(checkpoint: Checkpoint, size_hw: tuple[int, int]) -> Checkpoint:
    """Return the checkpoint for another network size; its scores are not true until calibrated."""
    model = {**checkpoint.recipe['model'], 'network_size_hw': size_hw}
    recipe = parse_recipe({**checkpoint.recipe, 'model': model}, f'--network-size {size_hw}')
    return replace(checkpoint, recipe=recipe.model_dump(mode='json'))


def calibrate(
    checkpoint: Checkpoint,
    device: torch.device,
    added_bias: Mapping[str, float] | None = None,
) -> Checkpoint:
    """Return the checkpoint with class biases and temperature fitted, and scored again.

    BatchNorm's statistics and the biases, where the recipe wants them, come from the training
    frames of the data sets that also validate, the temperature and the scores from the validation
    frames.

    Args:
        checkpoint: of any stage.
        device: where the network runs.
        added_bias: by class, what is added to its logits after the fit and before the temperature:
            where obstacles are e^b times as common as in those frames, or a miss is e^b times as
            bad as a false alarm. What an earlier calibration added stays: where the biases are
            fitted again, unless another is given; else with what is given on top.

    Raises:
        RecipeError: statistics or biases are wanted, but no data set both trains and validates; or
            a class of `added_bias` is unknown.
    """
    recipe, ontology = checkpoint.parsed_recipe(), checkpoint.parsed_ontology()
    added, earlier = dict(added_bias or {}), checkpoint.scores.get('added_bias', {})
    if unknown := set(added) - set(ontology.names):
        raise RecipeError(
            f'no class {", ".join(sorted(unknown))} in {ontology.name}'
            f'{did_you_mean(min(unknown), ontology.names)}; there are {", ".join(ontology.names)}'
        )
    network = checkpoint.network()
    graph = VehicleGraph(network, ontology.costs, 1.0).to(device).eval()
    bias, asked = None, recipe.evaluation
    if asked.refresh_batch_norm or asked.calibrate_class_bias:
        fit_frames = _fit_frames(recipe, ontology)
    if asked.refresh_batch_norm:
        refresh_batch_norm(fit_frames, graph)
    if asked.calibrate_class_bias:
        bias = fit_class_bias(*sampled_logits(fit_frames, ontology, graph))
        network.add_class_bias(bias)
        earlier, added = {}, added or earlier
    network.add_class_bias(torch.tensor([added.get(name, 0.0) for name in ontology.names]))
    added = {name: earlier.get(name, 0.0) + added.get(name, 0.0) for name in {**earlier, **added}}
    if added and not added_bias:
        print(
            'added before, and kept:',
            ', '.join(f'{name} {value:+g}' for name, value in added.items()),
        )
    val_frames = list_sections(recipe.data.val, recipe.data, ontology)
    graph.temperature = fit_temperature(*sampled_logits(val_frames, ontology, graph))
    scores = score_frames(val_frames, ontology, predict_with_graph(graph))
    print_scores(scores)
    kept = {name: checkpoint.scores.get(name) for name in ('training_sec', 'averaged_with')}
    return replace(
        checkpoint,
        state_dict={name: value.cpu() for name, value in network.state_dict().items()},
        temperature=graph.temperature,
        scores={
            **scores.model_dump(mode='json'),
            **kept,
            'class_bias': None if bias is None else bias.tolist(),
            **({'added_bias': added} if added else {}),
        },
    )


def with_depth_curve(
    checkpoint: Checkpoint,
    dataset: str,
    root: str,
    device: torch.device,
    label_map: LabelMap | None = None,
) -> Checkpoint:
    """Return the checkpoint with scores by the share of valid depth, for its card.

    Args:
        checkpoint: of an RGB-D network, calibrated.
        dataset: name of a data set with depth.
        root: its folder; every frame there is scored.
        device: where the network runs.
        label_map: of the labels there; None where they are of the network's classes.

    Raises:
        DatasetError: the name is unknown, no frame has depth, or it was trained on some of them.
        RecipeError: the network takes no depth.
    """
    recipe, ontology = checkpoint.parsed_recipe(), checkpoint.parsed_ontology()
    if recipe.model.modality == 'rgb':
        raise RecipeError(f'{recipe.name} takes no depth; leave --depth-curve out')
    try:
        section = DatasetSection.model_validate(
            {'dataset': dataset, 'root': root, 'split': 'all', 'repeat': 1}
        )
    except ValidationError as err:
        raise DatasetError(f'--depth-curve {dataset} {root}: {err}') from err
    frames = list_frames(section, recipe.data, ontology, label_map)
    trained_on = {
        (frame.dataset, frame.name)
        for frame in list_sections(recipe.data.train, recipe.data, ontology)
    }
    known = [frame.name for frame in frames if (frame.dataset, frame.name) in trained_on]
    if known:
        raise DatasetError(
            f'{root}: {recipe.name} was trained on {len(known)} of these {len(frames)} frames, '
            f'such as {known[0]}; give others'
        )
    graph = VehicleGraph(checkpoint.network(), ontology.costs, checkpoint.temperature)
    predict = predict_with_graph(graph.to(device).eval())
    curve = depth_curve(section, frames, ontology, predict, DEPTH_SHARES)
    print_depth_curve(curve)
    scores = {**checkpoint.scores, 'depth_curve': curve.model_dump(mode='json')}
    return replace(checkpoint, scores=scores)


def _fit_frames(recipe: Recipe, ontology: Ontology) -> list[LabelledFrame]:
    validating = {section.dataset for section in recipe.data.val}
    sections = [section for section in recipe.data.train if section.dataset in validating]
    if not sections:
        raise RecipeError(
            'evaluation.refresh_batch_norm and calibrate_class_bias need training frames of what '
            f'validates, but data.val is {sorted(validating)} and data.train is '
            f'{[section.dataset for section in recipe.data.train]}; set them to false'
        )
    frames = list_sections(sections, recipe.data, ontology)
    return frames[:: fitted_step(len(frames))]


def fitted_step(frames: int) -> int:
    """Return which of so many training frames calibration takes: every n-th."""
    return min(_FRAME_STEP, max(1, frames // _STATISTICS_BATCH))
