r"""Score a checkpoint or a bundle on a labelled split, at the frames' own resolution.

Examples:
  python -m training.evaluate --bundle models/ycor8_rgb.onnx --dataset ycor \
      --root ../shared/data/ycor --split val --out out/scores
  python -m training.evaluate --checkpoint out/run/checkpoint.pt --dataset synthetic \
      --root out/drives --split all --out out/scores
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
import json
from pathlib import Path
import sys
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tqdm import tqdm

from desertmind_seg.bundle import BundleError, read_bundle
from desertmind_seg.engine import EngineError, load_engine
from desertmind_seg.metrics import ConfusionMatrix
from desertmind_seg.ontology import UNLABELED, Ontology
from desertmind_seg.share import whole_file
from training.checkpoint import CheckpointError, environment, load_checkpoint
from training.datasets import DatasetError, LabelledFrame, data_hash, list_frames
from training.model import VehicleGraph
from training.recipe import DataSection, DatasetSection, parse_recipe

# (mask uint8 (H, W), confidence uint8 (H, W)) of an RGB frame.
Predict = Callable[[npt.NDArray[np.uint8]], tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]]

_CONFIDENCE_BINS = 15  # as in Guo et al., On Calibration of Modern Neural Networks, ICML 2017


class Calibration:
    """Reliability of the confidence: accuracy against confidence in 15 equal bins."""

    def __init__(self) -> None:
        self._pixels = np.zeros(256, np.int64)  # by the confidence's 8-bit value
        self._correct = np.zeros(256, np.int64)

    def add(
        self,
        truth: npt.NDArray[np.uint8],
        mask: npt.NDArray[np.uint8],
        confidence: npt.NDArray[np.uint8],
    ) -> None:
        """Count one frame, each uint8 (H, W); unlabelled pixels do not count."""
        labelled = truth != UNLABELED
        values = confidence[labelled]
        self._pixels += np.bincount(values, minlength=256)
        self._correct += np.bincount(values[mask[labelled] == truth[labelled]], minlength=256)

    def to_dict(self) -> dict[str, Any]:
        """Return ``ece`` (0..1) and the curve.

        ECE = sum over bins of share * |accuracy - confidence| (Guo et al. 2017, equation 3).
        """
        value = np.arange(256) / 255.0
        in_bin = np.minimum((value * _CONFIDENCE_BINS).astype(int), _CONFIDENCE_BINS - 1)
        pixels = np.bincount(in_bin, self._pixels, _CONFIDENCE_BINS)
        confidence = np.bincount(in_bin, self._pixels * value, _CONFIDENCE_BINS)
        correct = np.bincount(in_bin, self._correct, _CONFIDENCE_BINS)
        filled = pixels > 0
        gap = np.abs(correct[filled] - confidence[filled])
        return {
            'ece': float(gap.sum() / max(pixels.sum(), 1)),
            'reliability': [
                {
                    'confidence': float(confidence[i] / pixels[i]),
                    'accuracy': float(correct[i] / pixels[i]),
                    'pixels': int(pixels[i]),
                }
                for i in np.flatnonzero(filled)
            ],
        }


def score_frames(
    frames: Sequence[LabelledFrame], ontology: Ontology, predict: Predict
) -> dict[str, Any]:
    """Run every frame once and return the scores as in metrics.json.

    mIoU is that of one integer confusion matrix over all frames. The interval is a bootstrap over
    blocks of neighbouring frames (1000 draws), since frames of one block are not independent.
    """
    calibration = Calibration()
    of_block: dict[int, ConfusionMatrix] = {}
    for frame in tqdm(frames, desc='scoring', unit='frame'):
        truth = frame.read_labels(ontology)
        mask, confidence = predict(frame.read_rgb())
        of_block.setdefault(frame.block, ConfusionMatrix(ontology)).add(truth, mask)
        calibration.add(truth, mask, confidence)
    blocks = np.stack([matrix.counts for matrix in of_block.values()])
    scores = _matrix(ontology, blocks.sum(axis=0)).to_dict()
    rng = np.random.default_rng(0)
    draws = [
        _matrix(ontology, blocks[rng.integers(len(blocks), size=len(blocks))].sum(axis=0)).miou_all
        for _ in range(1000)
    ]
    low, high = np.quantile(draws, [0.025, 0.975])
    return {
        **scores,
        'miou_all_interval_95': [float(low), float(high)],
        'frames': len(frames),
        'blocks': len(blocks),
        **calibration.to_dict(),
    }


def _matrix(ontology: Ontology, counts: npt.NDArray[np.int64]) -> ConfusionMatrix:
    matrix = ConfusionMatrix(ontology)
    matrix.counts = counts
    return matrix


def predict_with_graph(graph: VehicleGraph, device: torch.device) -> Predict:
    """Predict with the torch graph in evaluation mode."""

    def predict(
        rgb: npt.NDArray[np.uint8],
    ) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
        with torch.inference_mode():
            mask, confidence, _ = graph(torch.from_numpy(rgb)[None].to(device))
        return mask[0].cpu().numpy(), confidence[0].cpu().numpy()

    return predict


def predict_with_bundle(path: Path, backend: str) -> tuple[Predict, Ontology, dict[str, Any]]:
    """Predict with the runtime's engine, the code that ships."""
    bundle = read_bundle(path)
    engine = load_engine(bundle, backend)

    def predict(
        rgb: npt.NDArray[np.uint8],
    ) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
        out = engine.infer(rgb, outputs=('mask', 'confidence'))
        return out['mask'], out['confidence']

    return predict, bundle.metadata.ontology, dict(bundle.metadata.recipe)


def _split(
    arguments: argparse.Namespace, data: DataSection, ontology: Ontology
) -> Iterator[LabelledFrame]:
    section = DatasetSection(
        dataset=arguments.dataset, root=str(arguments.root), split=arguments.split, repeat=1
    )
    yield from list_frames(section, data, ontology)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='python -m training.evaluate',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument('--checkpoint', type=Path, help='checkpoint.pt of training.train')
    source.add_argument('--bundle', type=Path, help='ONNX bundle, scored by the runtime')
    parser.add_argument('--dataset', required=True, choices=('ycor', 'synthetic'))
    parser.add_argument('--root', required=True, type=Path, help="the data set's folder")
    parser.add_argument(
        '--split', default='val', choices=('train', 'val', 'all'), help='default: val'
    )
    parser.add_argument('--backend', default='auto', help="the bundle's engine, default: auto")
    parser.add_argument('--out', required=True, type=Path, help='folder for metrics.json')
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    arguments = _parser().parse_args(argv)
    try:
        if arguments.bundle is not None:
            predict, ontology, recipe_tree = predict_with_bundle(
                arguments.bundle, arguments.backend
            )
            recipe = parse_recipe(recipe_tree, str(arguments.bundle))
        else:
            checkpoint = load_checkpoint(arguments.checkpoint)
            ontology, recipe = checkpoint.parsed_ontology(), checkpoint.parsed_recipe()
            device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
            graph = VehicleGraph(checkpoint.network(), ontology.costs, checkpoint.temperature)
            predict = predict_with_graph(graph.to(device).eval(), device)
        frames = list(_split(arguments, recipe.data, ontology))
        scores = score_frames(frames, ontology, predict)
    except (FileNotFoundError, BundleError, CheckpointError, DatasetError, EngineError) as err:
        print(f'error: {err}', file=sys.stderr)
        return 1
    report = {
        **scores,
        'dataset': arguments.dataset,
        'split': arguments.split,
        'data_hash': data_hash(frames),
        'environment': environment(),
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    target = arguments.out / 'metrics.json'
    with whole_file(target) as temporary:
        temporary.write_text(json.dumps(report, indent=2) + '\n', encoding='utf-8')
    print_scores(scores)
    print(target)
    return 0


def print_scores(scores: dict[str, Any]) -> None:
    """Print the per-class table."""
    for row in scores['classes']:
        iou = '   -  ' if row['iou'] is None else f'{row["iou"]:.4f}'
        print(f'{row["id"]:3d}  {row["name"]:32s} {iou}  {row["pixels"]:>12,d} px')
    low, high = scores['miou_all_interval_95']
    print(
        f'mIoU(all) {scores["miou_all"]:.4f} [{low:.4f}, {high:.4f}]  '
        f'mIoU(present) {scores["miou_present"]:.4f}  '
        f'pixel accuracy {scores["pixel_accuracy"]:.4f}  ECE {scores["ece"]:.4f}  '
        f'{scores["frames"]} frames in {scores["blocks"]} blocks'
    )


if __name__ == '__main__':
    sys.exit(main())
