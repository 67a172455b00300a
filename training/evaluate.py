r"""Score a checkpoint or a bundle on a labelled split, at the frames' own resolution.

Which frames a split has: ``all`` is every frame of the root. ``train``, ``val`` and ``test`` are
the publisher's, where the root has that part (for YCOR a folder train/, val/ or test/ of frames);
otherwise the frames are dealt by the rule of the recipe, which a bundle carries too, so that "val"
is what the model was not trained on. --split-by settles it by hand. What was taken is printed.

Examples:
  python -m training.evaluate --bundle models/ycor8_rgb.onnx --dataset ycor \
      --root ../shared/data/ycor --split val --out out/scores
  python -m training.evaluate --checkpoint out/run/checkpoint.pt --dataset synthetic \
      --root out/drives --split all --tta --out out/scores
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
import sys
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError
import torch
from tqdm import tqdm

from desertmind_seg.bundle import BundleError, read_bundle
from desertmind_seg.engine import EngineError, load_engine
from desertmind_seg.ontology import Ontology, OntologyError
from training.checkpoint import CheckpointError, environment, load_checkpoint
from training.datasets import DatasetError, LabelledFrame, data_hash, list_frames
from training.metrics_file import write_metrics
from training.model import VehicleGraph
from training.recipe import (
    DataSection,
    DatasetName,
    DatasetSection,
    EvaluationSection,
    RecipeError,
    SplitSection,
)
from training.scores import SplitScores
from training.tta import Probabilities, tta_probabilities

Rgb = npt.NDArray[np.uint8]
Depth = npt.NDArray[np.float32]
Mask = npt.NDArray[np.uint8]
# RGB uint8 (H, W, 3) and depth float32 (H, W) metres, 0 = missing, or None where the set has none
# -> mask uint8 (H, W) class ids, confidence uint8 (H, W) 255 * probability.
Predict = Callable[[Rgb, Depth | None], tuple[Mask, Mask]]

SplitName = Literal['train', 'val', 'test', 'all']

# For bundles that do not say how their frames were split: YCOR's blocks of the first recipe.
_DEFAULT_RULE = SplitSection(by='groups', block_frames=16, val_every_groups=6, folds=5, fold=0)


def score_frames(
    frames: Sequence[LabelledFrame], ontology: Ontology, predict: Predict
) -> dict[str, Any]:
    """Run every frame once and return its scores, as `training.metrics_file` describes them.

    mIoU is that of one integer confusion matrix over all frames, at their own resolution. The
    intervals are a bootstrap over groups (sequences, blocks): frames of one are not independent.

    Raises:
        DatasetError: there is no frame.
        MetricsError: a prediction has another size than its labels.
    """
    if not frames:
        raise DatasetError('there is no frame to score; choose another split')
    scores = SplitScores(ontology)
    for frame in tqdm(frames, desc='scoring', unit='frame'):
        mask, confidence = predict(
            frame.read_rgb(), frame.read_depth() if frame.has_depth else None
        )
        # Two data sets may both have a block 3.
        block = f'{frame.dataset}/{frame.group}'
        scores.add(frame.name, block, frame.read_labels(ontology), mask, confidence)
    return scores.to_dict()


def predict_with_graph(graph: VehicleGraph, device: torch.device) -> Predict:
    """Predict with the torch graph in evaluation mode; an RGB network is not shown depth."""
    takes_depth = graph.modality == 'rgbd'

    def predict(rgb: Rgb, depth: Depth | None) -> tuple[Mask, Mask]:
        with torch.inference_mode():
            mask, confidence, _, _ = graph(
                torch.from_numpy(rgb)[None].to(device),
                torch.from_numpy(_given(depth))[None].to(device) if takes_depth else None,
            )
        return mask[0].cpu().numpy(), confidence[0].cpu().numpy()

    return predict


def predict_with_probabilities(probabilities: Probabilities) -> Predict:
    """Predict the most probable class."""

    def predict(rgb: Rgb, depth: Depth | None) -> tuple[Mask, Mask]:
        of_class = probabilities(rgb, depth)  # (C, H, W)
        confidence = np.rint(255.0 * of_class.max(axis=0)).astype(np.uint8)
        return of_class.argmax(axis=0).astype(np.uint8), confidence

    return predict


def predict_with_bundle(path: Path, backend: str) -> tuple[Predict, Ontology, dict[str, Any]]:
    """Predict with the runtime's engine, the code that ships.

    Returns:
        The function, the bundle's class table, and the recipe in its metadata as it stands there.
    """
    bundle = read_bundle(path)
    engine = load_engine(bundle, backend)
    takes_depth = bundle.metadata.modality == 'rgbd'

    def predict(rgb: Rgb, depth: Depth | None) -> tuple[Mask, Mask]:
        out = engine.infer(
            rgb, _given(depth) if takes_depth else None, outputs=('mask', 'confidence')
        )
        return out['mask'], out['confidence']

    return predict, bundle.metadata.ontology, dict(bundle.metadata.recipe)


def _given(depth: Depth | None) -> Depth:
    if depth is None:
        raise DatasetError(
            'the model takes RGB and depth, but these frames have no depth; score it on a data '
            'set with depth'
        )
    return depth


def split_rule(recipe: Mapping[str, Any]) -> SplitSection | None:
    """Return how a recipe deals frames, None where it does not say.

    A bundle's recipe is provenance of any age: of the schema of its day only this is taken.
    """
    data = recipe.get('data')
    if not isinstance(data, Mapping):
        return None
    if 'split' in data:
        rule = data['split']
    else:  # until version 0.2 blocks were the only rule
        rule = {
            **_DEFAULT_RULE.model_dump(),
            'block_frames': data.get('block_frames'),
            'val_every_groups': data.get('val_every_blocks'),
        }
    try:
        return SplitSection.model_validate(rule)
    except ValidationError:
        return None


def choose_frames(
    section: DatasetSection, ontology: Ontology, rule: SplitSection, by: str
) -> tuple[list[LabelledFrame], str]:
    """List a split's frames and say in words how they were chosen.

    Args:
        section: data set, root and split.
        ontology: the class table.
        rule: how frames are dealt where the publisher did not.
        by: 'auto' (as the module's text says), 'official' or 'recipe' (always the rule).

    Raises:
        DatasetError: the root holds no frame of this split.
    """

    def listed(name: SplitName, rule: SplitSection) -> list[LabelledFrame]:
        wanted = section.model_copy(update={'split': name})
        data = DataSection(
            train=[wanted],
            val=[wanted],
            split=rule,
            rare_class_boost=0,
            num_workers=0,
            cache_dir=None,
        )
        return list_frames(wanted, data, ontology)

    everything = listed('all', rule)
    if section.split == 'all':
        return everything, 'every frame of the root'
    # To train and to validate are two sides of one deal.
    part = 'test' if section.split == 'test' else 'val'
    published = {frame.official for frame in everything}
    if by == 'official' or (by == 'auto' and part in published):
        rule = rule.model_copy(update={'by': 'official'})
    frames = listed(section.split, rule)
    nothing_to_deal = published.isdisjoint({None, 'train'})
    if rule.by == 'official' or section.split == 'test' or nothing_to_deal:
        return frames, f"the publisher's {section.split} part"
    if rule.by == 'groups':
        return frames, (
            f'groups (of {rule.block_frames} frames where there are no sequences), of which 1 in '
            f'{rule.val_every_groups} validates'
        )
    return frames, f'fold {rule.fold} of {rule.folds} validates'


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='python -m training.evaluate',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument('--checkpoint', type=Path, help='checkpoint.pt of training.train')
    source.add_argument('--bundle', type=Path, help='ONNX bundle, scored by the runtime')
    parser.add_argument('--dataset', required=True, choices=get_args(DatasetName))
    parser.add_argument('--root', required=True, type=Path, help="the data set's folder")
    parser.add_argument('--split', default='val', choices=get_args(SplitName), help='default: val')
    parser.add_argument(
        '--split-by',
        default='auto',
        choices=('auto', 'official', 'recipe'),
        help="auto: the publisher's part where there is one, else the recipe's rule",
    )
    parser.add_argument(
        '--tta',
        action='store_true',
        help="average the views of the checkpoint's recipe: evaluation.tta_scales and tta_flip",
    )
    parser.add_argument('--backend', default='auto', help="the bundle's engine, default: auto")
    parser.add_argument('--out', required=True, type=Path, help='folder for metrics.json')
    return parser


def _of_checkpoint(
    path: Path, *, tta: bool
) -> tuple[Predict, Ontology, dict[str, Any], EvaluationSection]:
    checkpoint = load_checkpoint(path)
    ontology, recipe = checkpoint.parsed_ontology(), checkpoint.parsed_recipe()
    device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    network = checkpoint.network().to(device)
    if tta:
        predict = predict_with_probabilities(
            tta_probabilities(
                network,
                recipe.evaluation.tta_scales,
                recipe.evaluation.tta_flip,
                device,
                checkpoint.temperature,
            )
        )
    else:
        graph = VehicleGraph(network, ontology.costs, checkpoint.temperature)
        predict = predict_with_graph(graph.to(device).eval(), device)
    return predict, ontology, checkpoint.recipe, recipe.evaluation


def evaluate(arguments: argparse.Namespace) -> dict[str, Any]:
    """Do what the command's arguments say and return the content of metrics.json."""
    tta = None
    if arguments.bundle is not None:
        if arguments.tta:
            raise BundleError(
                f'{arguments.bundle}: --tta averages class probabilities over views of several '
                'sizes, but a bundle computes one size and gives out only mask, confidence and '
                'cost; score its --checkpoint with --tta'
            )
        predict, ontology, recipe = predict_with_bundle(arguments.bundle, arguments.backend)
    else:
        predict, ontology, recipe, evaluation = _of_checkpoint(
            arguments.checkpoint, tta=arguments.tta
        )
        if arguments.tta:
            tta = {'scales': evaluation.tta_scales, 'flip': evaluation.tta_flip}
    section = DatasetSection(
        dataset=arguments.dataset, root=str(arguments.root), split=arguments.split, repeat=1
    )
    rule = split_rule(recipe)
    if rule is None and arguments.split_by == 'recipe':
        raise DatasetError(
            f'{arguments.bundle or arguments.checkpoint}: its recipe does not say how frames are '
            'split; use --split-by official, or --split all'
        )
    frames, chosen = choose_frames(section, ontology, rule or _DEFAULT_RULE, arguments.split_by)
    print(f'{arguments.dataset} {arguments.split}: {len(frames)} frames, {chosen}')
    return {
        **score_frames(frames, ontology, predict),
        'model': str(arguments.bundle or arguments.checkpoint),
        'recipe': recipe,
        'ontology': ontology.name,
        'ontology_sha256': ontology.sha256,
        'dataset': arguments.dataset,
        'split': arguments.split,
        'split_rule': chosen,
        'tta': tta,
        'data_hash': data_hash(frames),
        'environment': environment(),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    arguments = _parser().parse_args(argv)
    try:
        metrics = evaluate(arguments)
    except (
        FileNotFoundError,
        BundleError,
        CheckpointError,
        DatasetError,
        EngineError,
        OntologyError,
        RecipeError,
    ) as err:
        print(f'error: {err}', file=sys.stderr)
        return 1
    arguments.out.mkdir(parents=True, exist_ok=True)
    target = arguments.out / 'metrics.json'
    write_metrics(target, metrics)
    print_scores(metrics)
    print(target)
    return 0


def print_scores(scores: Mapping[str, Any]) -> None:
    """Print the per-class table and the scores of the whole split."""
    for row in scores['classes']:
        print(f'{row["id"]:3d}  {row["name"]:32s} {_figure(row["iou"])}  {row["pixels"]:>12,d} px')
    interval = scores['miou_all_interval_95']
    shown = 'one block, no interval' if interval is None else '{:.4f}, {:.4f}'.format(*interval)
    print(
        f'mIoU(all) {_figure(scores["miou_all"])} [{shown}]  '
        f'mIoU(present) {_figure(scores["miou_present"])}  '
        f'pixel accuracy {_figure(scores["pixel_accuracy"])}  '
        f'boundary F1 {_figure(scores["boundary_f1"])}  ECE {_figure(scores["ece"])}  '
        f'false safe {_figure(scores["false_safe_rate"])}  '
        f'{scores["frames"]} frames in {scores["blocks"]} blocks'
    )


def _figure(score: float | None) -> str:
    return '  -   ' if score is None else f'{score:.4f}'


if __name__ == '__main__':
    sys.exit(main())
