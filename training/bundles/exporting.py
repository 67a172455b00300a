"""A checkpoint as a bundle: graph, precision, parity check, metadata."""

from collections.abc import Sequence
from pathlib import Path
import tempfile
from typing import Any, Literal

import onnx
import torch

from desertmind_seg.engines.load import load_engine
from desertmind_seg.model.bundle import (
    DEPTH_INPUT,
    IMAGE_INPUT,
    MAX_SIZE_HW,
    MIN_SIZE_HW,
    OUTPUTS,
    PROBABILITIES,
    BundleMetadata,
    read_bundle,
    write_bundle,
)
from training.bundles.half_precision import PrecisionError, to_half
from training.bundles.parity import (
    ParityError,
    Precision,
    fault,
    frame_inputs,
    parity,
    write_worst_frame,
)
from training.bundles.quantization import (
    CALIBRATION_FRAMES,
    Calibration,
    Feeds,
    quantise,
    stratified,
)
from training.data.datasets import LICENCES, list_frames
from training.data.frames import LabelledFrame
from training.evaluation.metrics_file import without_details
from training.evaluation.predict import predict_with_graph
from training.networks.checkpoint import Checkpoint
from training.networks.vehicle_graph import VehicleGraph
from training.recipes.schema import DatasetName

OPSET = 20
# Rounding shows on any few frames; a mIoU needs every frame there is (None).
GATE_FRAMES: dict[Precision, int | None] = {'fp32': 8, 'fp16': 8, 'int8': None}
# Of the three, percentile leaves least noise in the logits of ycor8_rgb: 29.1 dB over all layers
# in int8, minmax 28.7, entropy 19.8 (mIoU 0.5776, 0.5769 and 0.5652 on every 2nd validation frame,
# torch 0.5700).
DEFAULT_CALIBRATION: Calibration = 'percentile'


def to_onnx(graph: VehicleGraph) -> onnx.ModelProto:
    """Trace the graph with dynamic height and width.

    Returns:
        A model with the input ``image`` uint8 (1, H, W, 3), for RGB-D also ``depth`` float32
        (1, H, W), and the outputs ``mask``, ``confidence`` and ``cost``, each uint8 (1, H, W), and
        ``probabilities`` uint8 (1, C, h, w) at the network's size.
    """
    height, width = (
        torch.export.Dim('height', min=MIN_SIZE_HW[0], max=MAX_SIZE_HW[0]),
        torch.export.Dim('width', min=MIN_SIZE_HW[1], max=MAX_SIZE_HW[1]),
    )
    examples = [torch.zeros((1, 480, 640, 3), dtype=torch.uint8)]
    names = [IMAGE_INPUT]
    if graph.modality == 'rgbd':
        examples.append(torch.ones((1, 480, 640)))
        names.append(DEPTH_INPUT)
    program = torch.onnx.export(
        graph.eval(),
        tuple(examples),
        dynamo=True,
        opset_version=OPSET,
        input_names=names,
        output_names=[*OUTPUTS, PROBABILITIES],
        dynamic_shapes=tuple({1: height, 2: width} for _ in names),
        verbose=False,
    )
    if program is None:
        raise PrecisionError('torch.onnx.export returned no program; its log above says why')
    return program.model_proto


def at_precision(
    model: onnx.ModelProto,
    precision: Precision,
    calibration: Calibration,
    feeds: Sequence[Feeds],
) -> tuple[onnx.ModelProto, dict[str, Any] | None]:
    """Return the fp32 model in another number format, and for int8 how it was made.

    Raises:
        PrecisionError: a weight does not fit the format, or int8 has no frame to calibrate on.
    """
    if precision == 'fp16':
        return to_half(model), None
    if precision == 'int8':
        return quantise(model, feeds, calibration)
    return model, None


def export(
    checkpoint: Checkpoint,
    frames: Sequence[LabelledFrame],
    out: Path,
    precision: Precision = 'fp32',
    *,
    calibration: Calibration = DEFAULT_CALIBRATION,
    calibration_frames: Sequence[LabelledFrame] = (),
) -> None:
    """Write the bundle, if the parity gate lets it pass.

    Args:
        checkpoint: what to export.
        frames: what the gate compares on.
        out: the bundle.
        precision: its number format.
        calibration: how the ranges of int8 are chosen.
        calibration_frames: what they are chosen from.

    Raises:
        ParityError: a limit is broken; nothing is written under the final name, but beside it the
            worst frame, whose path the message has.
        PrecisionError: the network cannot be written in this format.
    """
    recipe = checkpoint.parsed_recipe()
    ontology = checkpoint.parsed_ontology()
    network = checkpoint.network().drop_depth_head()
    graph = VehicleGraph(network, ontology.costs, checkpoint.temperature).eval()
    model, quantization = at_precision(
        to_onnx(graph),
        precision,
        calibration,
        [_feed(frame, with_depth=graph.modality == 'rgbd') for frame in calibration_frames],
    )
    depth = network.depth_input
    metadata = BundleMetadata(
        name=out.stem,
        ontology=ontology,
        ontology_sha256=ontology.sha256,
        network_size_hw=recipe.model.network_size_hw,
        modality=graph.modality,
        depth_range_m=None if depth is None else depth.range_m,
        precision=precision,
        quantization=quantization,
        temperature=checkpoint.temperature,
        recipe=recipe.model_dump(mode='json'),
        datasets=[
            {'name': name, 'licence': LICENCES[name], 'frames': count}
            for name, count in checkpoint.frames.items()
        ],
        scores={**without_details(checkpoint.scores), 'environment': checkpoint.environment},
        parity={},
        git_hash=checkpoint.git_hash,
        data_hash=checkpoint.data_hash,
        seed=recipe.seed,
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    predict = predict_with_graph(graph)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f'.{out.name}.') as folder:
        candidate = Path(folder) / out.name
        write_bundle(model, metadata, candidate)
        engine = load_engine(read_bundle(candidate), 'onnxruntime-cpu')
        figures = parity(predict, engine, frames, ontology)
        broken = fault(figures, precision)
        if broken is not None:
            picture = out.with_name(f'{out.stem}.worst_frame.png')
            write_worst_frame(figures, predict, engine, frames, picture)
            raise ParityError(
                f'{broken}; nothing was written to {str(out)!r}. The worst frame (torch, the '
                f'bundle, where they differ): {picture}. Figures: {figures}'
            )
        engine.close()
    write_bundle(model, metadata.model_copy(update={'parity': figures}), out)


def _feed(frame: LabelledFrame, *, with_depth: bool) -> Feeds:
    rgb = frame.read_rgb()
    rgb, depth = frame_inputs(frame, (rgb.shape[0], rgb.shape[1]), with_depth=with_depth)
    return (
        {IMAGE_INPUT: rgb[None]}
        if depth is None
        else {
            IMAGE_INPUT: rgb[None],
            DEPTH_INPUT: depth[None],
        }
    )


def gate_frames(
    checkpoint: Checkpoint, dataset: DatasetName | None, root: str | None, precision: Precision
) -> list[LabelledFrame]:
    """Return the gate's frames, evenly spread over the validation frames or over a whole set.

    Of a set that the recipe does not know int8 takes the validation frames too, by the recipe's
    rule: the others calibrate. An RGB-D network that validates without depth gets as many frames
    of a set that it trains on and that has depth.
    """
    recipe = checkpoint.parsed_recipe()
    section = recipe.data.val[0]
    if dataset is not None and dataset != section.dataset:
        split: Literal['val', 'all'] = 'val' if precision == 'int8' else 'all'
        section = section.model_copy(update={'dataset': dataset, 'split': split})
    if root is not None:
        section = section.model_copy(update={'root': root})
    frames = list_frames(section, recipe.data, checkpoint.parsed_ontology())
    count = GATE_FRAMES[precision] or len(frames)
    chosen = _spread(frames, count)
    if (
        recipe.model.modality == 'rgb'
        or dataset is not None
        or any(frame.has_depth for frame in chosen)
    ):
        return chosen
    with_depth = [
        frame
        for train in recipe.data.train
        for frame in list_frames(train, recipe.data, checkpoint.parsed_ontology())
        if frame.has_depth
    ]
    return chosen + _spread(with_depth, len(chosen))


def _spread(frames: Sequence[LabelledFrame], count: int) -> list[LabelledFrame]:
    return list(frames[:: max(1, len(frames) // count)][:count])


def calibration_frames(
    checkpoint: Checkpoint, dataset: DatasetName | None, root: str | None
) -> list[LabelledFrame]:
    """Return a stratified list of the frames that the recipe trains on, of the gate's set."""
    recipe, ontology = checkpoint.parsed_recipe(), checkpoint.parsed_ontology()
    section = recipe.data.val[0].model_copy(update={'split': 'train'})
    if dataset is not None:
        section = section.model_copy(update={'dataset': dataset})
    if root is not None:
        section = section.model_copy(update={'root': root})
    frames = list_frames(section, recipe.data, ontology)
    return stratified(frames, ontology, CALIBRATION_FRAMES)
