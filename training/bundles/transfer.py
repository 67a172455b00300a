"""What a training takes over from an earlier stage, also where that knows other classes."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from desertmind_seg.model.files import expanded, share_path
from desertmind_seg.model.ontology import Ontology
from training.bundles.fusion import summed_decoder
from training.bundles.weights import load_stage
from training.data.datasets import class_pixels
from training.data.frames import LabelledFrame
from training.evaluation.predict import predict_with_graph
from training.networks.checkpoint import Checkpoint, CheckpointError
from training.networks.network import SegmentationNetwork
from training.networks.vehicle_graph import VehicleGraph
from training.recipes.schema import Recipe

_HEAD = 'network.segmentation_head.0'
# On so many frames the earlier stage is asked what it takes the new classes for.
_FRAMES = 16
_FUSION_FRAMES = 16
# What makes a network another one.
_SHAPING = 'architecture', 'encoder', 'decoder_channels', 'decoder_fusion'
# What it says of less than this share of a class's pixels is noise at the borders.
_LEAST_SHARE = 0.05


def initialise(
    network: SegmentationNetwork,
    recipe: Recipe,
    ontology: Ontology,
    frames: Sequence[LabelledFrame],
) -> None:
    """Give a network the weights that its recipe starts from, and print what became of the head.

    Where the earlier stage knows another class table, its encoder and decoder are taken over. A
    class of a name that it knows gets that class's filters; any other the mean of the classes that
    its pixels were taken for, weighted by how much of each of them is the new class; one that no
    asked frame shows keeps its random start.

    Args:
        network: of the recipe.
        recipe: its ``model.initial_checkpoint`` or ``encoder_weights`` say where from.
        ontology: the class table of the run.
        frames: to train on.

    Raises:
        CheckpointError: the stage is another network, or cannot be read.
        FileNotFoundError: it is not there.
        WeightsError: encoder weights are missing or do not fit.
    """
    source = recipe.model.initial_checkpoint
    if source == 'none':
        network.load_encoder_weights()
        return
    distinct = list({(frame.dataset, frame.name): frame for frame in frames}.values())
    initial = load_stage(find_stage(source), distinct)
    known = initial.parsed_ontology()
    state = network.stage_state(_fused(initial, recipe, distinct))
    if known.sha256 != ontology.sha256:
        shares = class_shares(initial, ontology, _spread(distinct, ontology))
        _take_head(state, network.state_dict(), shares)
        print(f'{source}: encoder and decoder are taken over from {known.name}, and of its head:')
        for line in _described(shares, known, ontology):
            print(f'  {line}')
    if recipe.model.initial_decoder == 'what_fits':
        state = _what_fits(state, network, source)
    try:
        network.load_state_dict(state)
    except RuntimeError as err:
        theirs = initial.parsed_recipe().model
        differing = [
            f'{key} is {getattr(theirs, key)} there, {getattr(recipe.model, key)} here'
            for key in _SHAPING
            if getattr(theirs, key) != getattr(recipe.model, key)
        ]
        raise CheckpointError(
            f'{source}: another network than {recipe.name} describes '
            f'({"; ".join(differing) or "by its depth"}); '
            'set model.KEY as it is there, or take over what fits of its decoder with '
            f'model.initial_decoder: what_fits. {err}'
        ) from err


def _fused(
    initial: Checkpoint, recipe: Recipe, frames: Sequence[LabelledFrame]
) -> dict[str, torch.Tensor]:
    """Return the stage's weights, as those of a decoder that sums where the recipe wants one."""
    wanted, section = recipe.model, initial.parsed_recipe().model
    same = ('architecture', 'encoder', 'decoder_channels')
    if (wanted.decoder_fusion, section.decoder_fusion) != ('sum', None) or any(
        getattr(wanted, key) != getattr(section, key) for key in same
    ):
        return initial.state_dict
    strided = section.model_copy(
        update={'output_stride': wanted.output_stride, 'network_size_hw': wanted.network_size_hw}
    )
    known = initial.parsed_ontology()
    concatenating = SegmentationNetwork(strided, known.num_classes)
    concatenating.load_state_dict(initial.state_dict)
    graph = VehicleGraph(concatenating, known.costs, initial.temperature)
    state, missed = summed_decoder(graph, frames[:: max(1, len(frames) // _FUSION_FRAMES)])
    print(f'decoder_fusion sum: {missed:.1%} of the power of the last convolution is not met')
    return state


def _what_fits(
    state: dict[str, torch.Tensor], network: SegmentationNetwork, source: str
) -> dict[str, torch.Tensor]:
    """Return the state with the network's own start where a layer beyond the encoder differs.

    A layer is taken whole or not at all: a bias means nothing to other filters.
    """
    own = network.state_dict()
    differing = {
        name.rpartition('.')[0]
        for name, value in own.items()
        if name not in state or state[name].shape != value.shape
    }
    fresh = [name for name in own if name.rpartition('.')[0] in differing]
    if any(name.startswith('network.encoder.') for name in fresh):
        return state  # another encoder, which loading refuses
    print(f'{source}: {len(own) - len(fresh)} of {len(own)} tensors are taken over', flush=True)
    for name in fresh:
        if name.endswith('.weight'):
            given = list(state[name].shape) if name in state else 'none'
            print(
                f'  {name.removeprefix("network.")} {list(own[name].shape)} starts anew: {given}'
            )
    return {name: own[name] if name in fresh else state[name] for name in own}


def find_stage(source: str, key: str = 'model.initial_checkpoint') -> Path:
    """Return the path of an earlier stage; ``models/...`` may be a file that is shipped.

    It is looked for from the current folder, then in the checkout that this module is of, then
    among the files of the installed package.

    Args:
        source: as the recipe gives it.
        key: of the recipe, which a refusal names.

    Raises:
        FileNotFoundError: it is in none of them.
    """
    path = expanded(source)
    if path.exists() or path.is_absolute() or path.parts[0] != 'models':
        return path
    beside = Path(__file__).resolve().parents[2] / path
    if beside.exists():
        return beside
    try:
        return share_path(source)
    except FileNotFoundError as err:
        raise FileNotFoundError(
            f'{key} {source}: {err} Or give the path of an fp32 bundle or of a checkpoint.pt'
        ) from err


def class_shares(
    initial: Checkpoint, ontology: Ontology, frames: Sequence[LabelledFrame]
) -> npt.NDArray[np.float64]:
    """Return of which classes of an earlier stage each new class is made.

    Args:
        initial: the earlier stage.
        ontology: the new class table.
        frames: labelled with it.

    Returns:
        float64 (new classes, known classes); a row adds up to 1, or is 0 where nothing is known.
    """
    known = initial.parsed_ontology()
    predict = predict_with_graph(VehicleGraph(initial.network(), known.costs, 1.0))
    counts = np.zeros((256, known.num_classes), np.int64)
    for frame in frames:
        mask, _ = predict(frame.read_rgb(), frame.measured_depth())
        labels = frame.read_labels(ontology)
        pairs = labels.astype(np.int64).ravel() * known.num_classes + mask.ravel()
        counts += np.bincount(pairs, minlength=counts.size).reshape(counts.shape)
    shares = shared_pixels(counts[: ontology.num_classes])
    for row, name in zip(shares, ontology.names, strict=True):
        if name in known.names:
            row[:] = 0.0
            row[known.names.index(name)] = 1.0
    totals = shares.sum(axis=1, keepdims=True)
    np.divide(shares, totals, out=shares, where=totals > 0)
    return shares


def shared_pixels(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Return P(new | known) of each pair of classes, each new class's scaled to add up to 1.

    Of fences most were taken for grass, but little of the grass is a fence, and much of what was
    taken for an obstacle.

    Args:
        counts: int64 (new classes, known classes), pixels of one taken for the other.

    Returns:
        float64 of that shape; what is below a twentieth is 0.
    """
    shares = counts.astype(np.float64)
    shares /= shares.sum(axis=0, keepdims=True).clip(min=1)
    shares /= shares.sum(axis=1, keepdims=True).clip(min=np.finfo(float).tiny)
    shares[shares < _LEAST_SHARE] = 0.0
    return shares


def _take_head(
    state: dict[str, torch.Tensor],
    own: dict[str, torch.Tensor],
    shares: npt.NDArray[np.float64],
) -> None:
    mixture = torch.from_numpy(shares).float()  # (C, K)
    is_known = mixture.sum(dim=1) > 0
    for part in ('weight', 'bias'):
        name = f'{_HEAD}.{part}'
        if name in state and name in own and state[name].shape[1:] == own[name].shape[1:]:
            taken = torch.tensordot(mixture, state[name].cpu().float(), dims=1)
            fresh = own[name].clone()
            fresh[is_known] = taken[is_known]
            state[name] = fresh


def _described(shares: npt.NDArray[np.float64], known: Ontology, ontology: Ontology) -> list[str]:
    lines = []
    for name, row in zip(ontology.names, shares, strict=True):
        parts = [f'{known.names[k]} {row[k]:.0%}' for k in np.argsort(-row) if row[k] > 0]
        if name in known.names:
            lines.append(f'{name}: the class of that name')
        elif parts:
            lines.append(f'{name}: {", ".join(parts)}, by the pixels that they share')
        else:
            lines.append(
                f'{name}: nothing, no asked frame shows it; it starts from random filters'
            )
    return lines


def _spread(frames: Sequence[LabelledFrame], ontology: Ontology) -> list[LabelledFrame]:
    """Choose frames evenly, and one with most of its pixels for each class that they lack."""
    pixels = class_pixels(frames, ontology)
    chosen = list(dict.fromkeys(np.linspace(0, len(frames) - 1, _FRAMES).round().astype(int)))
    lacking = pixels[chosen].sum(axis=0) == 0
    chosen += [int(pixels[:, k].argmax()) for k in np.flatnonzero(lacking) if pixels[:, k].any()]
    return [frames[index] for index in dict.fromkeys(chosen)]
