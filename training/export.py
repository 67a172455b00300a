r"""Export a checkpoint to a bundle: one self-describing ONNX file, checked against torch.

Example:
  python -m training.export out/ycor8_rgb/checkpoint.pt --frames ../shared/data/ycor \
      --out models/ycor8_rgb.onnx
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
import sys
import tempfile
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import onnx
import torch
from tqdm import tqdm

from desertmind_seg.bundle import BundleMetadata, read_bundle, write_bundle
from desertmind_seg.engine import Engine, load_engine
from desertmind_seg.ontology import Ontology
from training.checkpoint import Checkpoint, CheckpointError, load_checkpoint
from training.datasets import LICENCES, DatasetError, LabelledFrame, list_frames
from training.evaluate import Predict, predict_with_graph
from training.model import VehicleGraph
from training.recipe import RecipeError

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
        A model with the input ``image`` uint8 (1, H, W, 3) and the outputs ``mask``,
        ``confidence`` and ``cost``, each uint8 (1, H, W).
    """
    height, width = (
        torch.export.Dim('height', min=64, max=2160),
        torch.export.Dim('width', min=64, max=3840),
    )
    example = torch.zeros((1, 480, 640, 3), dtype=torch.uint8)
    program = torch.onnx.export(
        graph.eval(),
        (example,),
        dynamo=True,
        opset_version=OPSET,
        input_names=['image'],
        output_names=['mask', 'confidence', 'cost'],
        dynamic_shapes=({1: height, 2: width},),
        verbose=False,
    )
    if program is None:
        raise ParityError('torch.onnx.export returned no program; its log above says why')
    return program.model_proto


def parity(
    expected: Predict, engine: Engine, frames: Sequence[LabelledFrame], ontology: Ontology
) -> dict[str, Any]:
    """Compare an engine with the torch graph on real frames at every gate size.

    Returns:
        ``pixel_agreement`` over all pixels, per size and per class (of the pixels that torch
        gives the class, the share that the engine gives it), and the largest and mean absolute
        difference of the confidence (0..1).
    """
    agree = np.zeros(ontology.num_classes, np.int64)
    total = np.zeros(ontology.num_classes, np.int64)
    of_size: dict[str, float] = {}
    largest, summed = 0.0, 0.0
    for size_hw in GATE_SIZES_HW:
        same, pixels = 0, 0
        for frame in tqdm(frames, desc=f'parity {size_hw[0]}x{size_hw[1]}', unit='frame'):
            rgb = _resized(frame.read_rgb(), size_hw)
            mask, confidence = expected(rgb)
            out = engine.infer(rgb, outputs=('mask', 'confidence'))
            equal = mask == out['mask']
            same, pixels = same + int(equal.sum()), pixels + equal.size
            total += np.bincount(mask.ravel(), minlength=256)[: ontology.num_classes]
            agree += np.bincount(mask[equal], minlength=256)[: ontology.num_classes]
            difference = np.abs(confidence.astype(np.float32) - out['confidence']) / 255.0
            largest = max(largest, float(difference.max()))
            summed += float(difference.sum())
        of_size[f'{size_hw[0]}x{size_hw[1]}'] = same / pixels
    return {
        'reference': 'torch fp32, CPU',
        'frames': len(frames),
        'pixel_agreement': float(agree.sum() / total.sum()),
        'pixel_agreement_by_size': of_size,
        'pixel_agreement_by_class': {
            name: float(agree[i] / total[i]) if total[i] else None
            for i, name in enumerate(ontology.names)
        },
        'confidence_max_difference': largest,
        'confidence_mean_difference': summed / float(total.sum()),
    }


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
    graph = VehicleGraph(checkpoint.network(), ontology.costs, checkpoint.temperature).eval()
    model = to_onnx(graph)
    metadata = BundleMetadata(
        name=out.stem,
        ontology=ontology,
        ontology_sha256=ontology.sha256,
        network_size_hw=recipe.model.network_size_hw,
        modality='rgb',
        depth_range_m=None,
        precision='fp32',
        temperature=checkpoint.temperature,
        recipe=recipe.model_dump(mode='json'),
        datasets=[
            {'name': name, 'licence': LICENCES[name], 'frames': count}
            for name, count in checkpoint.frames.items()
        ],
        scores={**checkpoint.scores, 'environment': checkpoint.environment},
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


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog='python -m training.export',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('checkpoint', type=Path)
    parser.add_argument(
        '--frames', type=Path, required=True, help="YCOR's folder, for the parity gate"
    )
    parser.add_argument('--out', type=Path, required=True, help='the bundle, e.g. models/x.onnx')
    arguments = parser.parse_args(argv)
    try:
        checkpoint = load_checkpoint(arguments.checkpoint)
        recipe = checkpoint.parsed_recipe()
        section = recipe.data.val[0].model_copy(update={'root': str(arguments.frames)})
        frames = list_frames(section, recipe.data, checkpoint.parsed_ontology())
        step = max(1, len(frames) // GATE_FRAMES)
        export(checkpoint, frames[::step][:GATE_FRAMES], arguments.out)
    except (FileNotFoundError, CheckpointError, DatasetError, ParityError, RecipeError) as err:
        print(f'error: {err}', file=sys.stderr)
        return 1
    print(arguments.out)
    return 0


if __name__ == '__main__':
    sys.exit(main())
