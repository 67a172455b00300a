"""A checkpoint as a bundle: graph, precision, parity check, metadata."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any
import warnings

import onnx
from timm.utils.model import reparameterize_model
import torch

from desertmind_seg.model.bundle import (
    DEPTH_INPUT,
    IMAGE_INPUT,
    MAX_SIZE_HW,
    MIN_SIZE_HW,
    OUTPUTS,
    PROBABILITIES,
    Bundle,
    BundleMetadata,
)
from desertmind_seg.model.ontology import Ontology
from training.bundles.frame_choice import calibration_frames, parity_frames
from training.bundles.half_precision import to_half
from training.bundles.parity import frame_inputs, what_to_try, write_checked
from training.bundles.precision import (
    DEFAULT_CALIBRATION,
    Calibration,
    Precision,
    PrecisionError,
)
from training.bundles.quantization import Feeds, quantise
from training.bundles.weights import note_tensors
from training.data.class_table import ModelClasses
from training.data.datasets import LICENCES
from training.data.frames import LabelledFrame
from training.evaluation.metrics_file import without_details
from training.evaluation.predict import predict_with_graph
from training.networks.checkpoint import Checkpoint, load_checkpoint
from training.networks.vehicle_graph import FrameGraph, VehicleGraph
from training.recipes.schema import DatasetName

OPSET = 20


def to_onnx(graph: FrameGraph, opset: int = OPSET) -> onnx.ModelProto:
    """Trace the graph with dynamic height and width.

    Args:
        graph: to trace.
        opset: version of ONNX's operators.

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
    with warnings.catch_warnings():
        for about_torch in ('.*LeafSpec', '.*axis name: .* will not be used'):
            warnings.filterwarnings('ignore', about_torch)
        program = torch.onnx.export(
            graph.eval(),
            tuple(examples),
            dynamo=True,
            opset_version=opset,
            input_names=names,
            output_names=[*OUTPUTS, PROBABILITIES],
            dynamic_shapes=tuple({1: height, 2: width} for _ in names),
            verbose=False,
        )
    if program is None:
        raise PrecisionError('torch.onnx.export returned no program; its log above says why')
    model = program.model_proto
    for part in (*model.graph.node, *model.graph.initializer, *model.graph.value_info):
        del part.metadata_props[:]  # stack traces of the export, with this machine's paths
    note_tensors(model, graph)
    return model


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


def export_file(
    checkpoint_path: Path,
    out: Path,
    precision: Precision = 'fp32',
    *,
    calibration: Calibration = DEFAULT_CALIBRATION,
    dataset: DatasetName | None = None,
    root: Path | None = None,
    labels_ontology: Ontology | None = None,
    label_map: Sequence[str] = (),
) -> Bundle:
    """Write the bundle of a checkpoint file, and return it; see `export`.

    Args:
        checkpoint_path: what training.train or training.calibrate wrote.
        out: the bundle.
        precision: its number format.
        calibration: how the ranges of int8 are chosen.
        dataset: whose frames the parity check takes; None for the recipe's first validation set.
        root: where they are; None for the folder in the recipe.
        labels_ontology: class table of the labels there; None for what the root says.
        label_map: which class of the model each of them is, as for `parse_label_map`.

    Raises:
        LabelMapError: the labels there are of other classes than the model's.
    """
    checkpoint = load_checkpoint(checkpoint_path)
    folder, mapped = None if root is None else str(root), None
    if folder is not None:
        known = ModelClasses(checkpoint_path, checkpoint.parsed_ontology(), checkpoint.recipe)
        named = dataset or checkpoint.parsed_recipe().data.val[0].dataset
        mapped = known.labels_for(named, folder, labels_ontology, label_map)
        mapped = mapped and mapped.into_model()
    return export(
        checkpoint,
        parity_frames(checkpoint, dataset, folder, precision, mapped),
        out,
        precision,
        calibration=calibration,
        calibrate_on=(
            calibration_frames(checkpoint, dataset, folder, mapped) if precision == 'int8' else ()
        ),
    )


def export(
    checkpoint: Checkpoint,
    frames: Sequence[LabelledFrame],
    out: Path,
    precision: Precision = 'fp32',
    *,
    calibration: Calibration = DEFAULT_CALIBRATION,
    calibrate_on: Sequence[LabelledFrame] = (),
) -> Bundle:
    """Write the bundle, if it passes the parity check, and return it.

    Args:
        checkpoint: what to export.
        frames: what the parity check compares on.
        out: the bundle.
        precision: its number format.
        calibration: how the ranges of int8 are chosen.
        calibrate_on: frames that they are chosen from.

    Raises:
        ParityError: a limit is broken; see `write_checked`.
        PrecisionError: the network cannot be written in this format.
    """
    recipe = checkpoint.parsed_recipe()
    ontology = checkpoint.parsed_ontology()
    network = checkpoint.network().drop_depth_head()
    graph = VehicleGraph(network, ontology.costs, checkpoint.temperature).eval()
    # One convolution in the place of the branches that MobileOne, RepVGG and their like train.
    fused = reparameterize_model(graph)
    assert isinstance(fused, VehicleGraph)
    model, quantization = at_precision(
        to_onnx(fused),
        precision,
        calibration,
        [_feed(frame, with_depth=graph.modality == 'rgbd') for frame in calibrate_on],
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
    return write_checked(
        model,
        metadata,
        out,
        predict_with_graph(graph),
        frames,
        precision,
        advice=what_to_try(precision, calibration, len(calibrate_on)),
    )


def _feed(frame: LabelledFrame, *, with_depth: bool) -> Feeds:
    rgb = frame.read_rgb()
    rgb, depth = frame_inputs(frame, (rgb.shape[0], rgb.shape[1]), with_depth=with_depth)
    feed = {IMAGE_INPUT: rgb[None]}
    return feed if depth is None else {**feed, DEPTH_INPUT: depth[None]}
