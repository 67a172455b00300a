r"""Export a checkpoint to a bundle: one self-describing ONNX file, checked against torch.

The check runs on labelled frames of any data set; without --dataset and --root on those that the
recipe validates on. The auxiliary depth head is left out.

Examples:
  python -m training.export out/ycor8_rgb/checkpoint.pt --out models/ycor8_rgb.onnx
  python -m training.export out/exp060/checkpoint.pt --dataset nyuv2 \
      --root ../shared/data/nyuv2 --out out/exp060/exp060.onnx
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
import sys
import tempfile
from typing import Any, get_args

import cv2
import numpy as np
import numpy.typing as npt
import onnx
import torch
from tqdm import tqdm

from desertmind_seg.bundle import (
    DEPTH_INPUT,
    IMAGE_INPUT,
    MAX_SIZE_HW,
    MIN_SIZE_HW,
    OUTPUTS,
    BundleError,
    BundleMetadata,
    read_bundle,
    write_bundle,
)
from desertmind_seg.engine import Engine, load_engine
from desertmind_seg.ontology import Ontology, OntologyError
from training.checkpoint import Checkpoint, CheckpointError, load_checkpoint
from training.datasets import LICENCES, DatasetError, LabelledFrame, list_frames
from training.evaluate import Predict, predict_with_graph
from training.metrics_file import without_details
from training.model import ModelError, VehicleGraph
from training.recipe import DatasetName, RecipeError

OPSET = 20
# Of all pixels, the share in which the fp32 graph and torch must agree.
MIN_PIXEL_AGREEMENT = 0.9995
# Camera sizes of the gate: VGA, HD, and one that is odd in both directions.
GATE_SIZES_HW = ((480, 640), (720, 1280), (543, 1023))
GATE_FRAMES = 8


class ParityError(RuntimeError):
    """The exported graph does not compute what the torch model computes."""


def to_onnx(graph: VehicleGraph) -> onnx.ModelProto:
    """Trace the graph with dynamic height and width.

    Returns:
        A model with the input ``image`` uint8 (1, H, W, 3), for RGB-D also ``depth`` float32
        (1, H, W), and the outputs ``mask``, ``confidence`` and ``cost``, each uint8 (1, H, W).
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
        output_names=list(OUTPUTS),
        dynamic_shapes=tuple({1: height, 2: width} for _ in names),
        verbose=False,
    )
    if program is None:
        raise ParityError('torch.onnx.export returned no program; its log above says why')
    return program.model_proto


def parity(
    expected: Predict, engine: Engine, frames: Sequence[LabelledFrame], ontology: Ontology
) -> dict[str, Any]:
    """Compare an engine with the torch graph on real frames at every gate size.

    RGB-D frames keep their own depth; a frame without any gets `made_up_depth`.

    Returns:
        ``pixel_agreement`` over all pixels, per size and per class (of the pixels that torch
        gives the class, the share that the engine gives it), the largest and mean absolute
        difference of the confidence (0..1), and for RGB-D where the depth came from.
    """
    takes_depth = engine.bundle.metadata.modality == 'rgbd'
    agree = np.zeros(ontology.num_classes, np.int64)
    total = np.zeros(ontology.num_classes, np.int64)
    of_size: dict[str, float] = {}
    largest, summed = 0.0, 0.0
    for size_hw in GATE_SIZES_HW:
        same, pixels = 0, 0
        for frame in tqdm(frames, desc=f'parity {size_hw[0]}x{size_hw[1]}', unit='frame'):
            rgb = _resized(frame.read_rgb(), size_hw)
            depth = _depth(frame, size_hw) if takes_depth else None
            mask, confidence = expected(rgb, depth)
            out = engine.infer(rgb, depth, outputs=('mask', 'confidence'))
            equal = mask == out['mask']
            same, pixels = same + int(equal.sum()), pixels + equal.size
            total += np.bincount(mask.ravel(), minlength=256)[: ontology.num_classes]
            agree += np.bincount(mask[equal], minlength=256)[: ontology.num_classes]
            difference = np.abs(confidence.astype(np.float32) - out['confidence']) / 255.0
            largest = max(largest, float(difference.max()))
            summed += float(difference.sum())
        of_size[f'{size_hw[0]}x{size_hw[1]}'] = same / pixels
    figures = {
        'reference': 'torch fp32, CPU',
        'frames': len(frames),
        'dataset': ', '.join(sorted({frame.dataset for frame in frames})),
        'pixel_agreement': float(agree.sum() / total.sum()),
        'pixel_agreement_by_size': of_size,
        'pixel_agreement_by_class': {
            name: float(agree[i] / total[i]) if total[i] else None
            for i, name in enumerate(ontology.names)
        },
        'confidence_max_difference': largest,
        'confidence_mean_difference': summed / float(total.sum()),
    }
    if takes_depth:
        own = sum(frame.has_depth for frame in frames)
        figures['depth'] = f'of {own} frames their own, of {len(frames) - own} made up'
    return figures


def made_up_depth(size_hw: tuple[int, int]) -> npt.NDArray[np.float32]:
    """Return a ground plane below a horizon, float32 (H, W) metres, with all kinds of holes.

    Half of what a real sensor leaves out is 0 here, the other half NaN; the sky is +Inf.
    """
    height, width = size_hw
    rows = np.arange(height, dtype=np.float32)[:, None]
    columns = np.arange(width, dtype=np.float32)[None]
    below = rows - 0.4 * height
    depth = np.where(below > 0, 1.5 * height / np.maximum(below, 1.0), np.inf)  # camera 1.5 m up
    depth = depth * (1.0 + 0.1 * np.sin(columns / 37.0))
    depth[(rows % 29 < 5) & (columns % 41 < 7)] = 0.0
    depth[(rows % 31 < 4) & (columns % 23 < 5)] = np.nan
    return np.asarray(depth, np.float32)


def _depth(frame: LabelledFrame, size_hw: tuple[int, int]) -> npt.NDArray[np.float32]:
    if not frame.has_depth:
        return made_up_depth(size_hw)
    resized = cv2.resize(
        frame.read_depth(), (size_hw[1], size_hw[0]), interpolation=cv2.INTER_NEAREST
    )
    return np.ascontiguousarray(resized, np.float32)


def _resized(rgb: npt.NDArray[np.uint8], size_hw: tuple[int, int]) -> npt.NDArray[np.uint8]:
    resized = cv2.resize(rgb, (size_hw[1], size_hw[0]), interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(resized, np.uint8)


def export(checkpoint: Checkpoint, frames: Sequence[LabelledFrame], out: Path) -> None:
    """Write the fp32 bundle, if the parity gate lets it pass.

    Raises:
        ParityError: too few pixels agree; nothing is written under the final name.
    """
    recipe = checkpoint.parsed_recipe()
    ontology = checkpoint.parsed_ontology()
    network = checkpoint.network().drop_depth_head()
    graph = VehicleGraph(network, ontology.costs, checkpoint.temperature).eval()
    model = to_onnx(graph)
    depth = network.depth_input
    metadata = BundleMetadata(
        name=out.stem,
        ontology=ontology,
        ontology_sha256=ontology.sha256,
        network_size_hw=recipe.model.network_size_hw,
        modality=graph.modality,
        depth_range_m=None if depth is None else depth.range_m,
        precision='fp32',
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
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f'.{out.name}.') as folder:
        candidate = Path(folder) / out.name
        write_bundle(model, metadata, candidate)
        engine = load_engine(read_bundle(candidate), 'onnxruntime-cpu')
        figures = parity(predict_with_graph(graph, torch.device('cpu')), engine, frames, ontology)
        engine.close()
    agreement = figures['pixel_agreement']
    if agreement < MIN_PIXEL_AGREEMENT:
        raise ParityError(
            f'{agreement:.4%} of pixels agree with torch, expected at least '
            f'{MIN_PIXEL_AGREEMENT:.2%}; nothing was written to {str(out)!r}. Figures: {figures}'
        )
    write_bundle(model, metadata.model_copy(update={'parity': figures}), out)


def _gate_frames(
    checkpoint: Checkpoint, dataset: DatasetName | None, root: str | None
) -> list[LabelledFrame]:
    """Return the gate's frames, evenly spread over the validation frames or over a whole set."""
    recipe = checkpoint.parsed_recipe()
    section = recipe.data.val[0]
    if dataset is not None and dataset != section.dataset:
        section = section.model_copy(update={'dataset': dataset, 'split': 'all'})
    if root is not None:
        section = section.model_copy(update={'root': root})
    frames = list_frames(section, recipe.data, checkpoint.parsed_ontology())
    return frames[:: max(1, len(frames) // GATE_FRAMES)][:GATE_FRAMES]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog='python -m training.export',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('checkpoint', type=Path)
    parser.add_argument(
        '--dataset',
        choices=get_args(DatasetName),
        help="whose frames the parity gate takes, default: the recipe's first validation set",
    )
    parser.add_argument(
        '--root', help="the data set's folder, default: the one in the recipe's validation set"
    )
    parser.add_argument('--out', type=Path, required=True, help='the bundle, e.g. models/x.onnx')
    arguments = parser.parse_args(argv)
    if arguments.dataset is not None and arguments.root is None:
        parser.error('--dataset needs --root')
    try:
        checkpoint = load_checkpoint(arguments.checkpoint)
        frames = _gate_frames(checkpoint, arguments.dataset, arguments.root)
        export(checkpoint, frames, arguments.out)
    except (
        FileNotFoundError,
        BundleError,
        CheckpointError,
        DatasetError,
        ModelError,
        OntologyError,
        ParityError,
        RecipeError,
    ) as err:
        print(f'error: {err}', file=sys.stderr)
        return 1
    print(arguments.out)
    return 0


if __name__ == '__main__':
    sys.exit(main())
