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
  python -m training.evaluate --bundle models/ycor8_rgbd.onnx --dataset synthetic \
      --root out/unseen --split all --depth-shares 0,0.25,0.5,0.75,1 --out out/depth_curve
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
import hashlib
from pathlib import Path
import sys
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError
import torch
from tqdm import tqdm

from desertmind_seg.engines.load import load_engine
from desertmind_seg.engines.protocol import EngineError
from desertmind_seg.model.bundle import BundleError, read_bundle
from desertmind_seg.model.ontology import Ontology, OntologyError
from desertmind_seg.scores.bootstrap import paired_differences
from desertmind_seg.scores.split_scores import SplitScores
from training.data.datasets import data_hash, list_frames
from training.data.depth_holes import thin_depth
from training.data.frames import DatasetError, LabelledFrame
from training.evaluation.evaluation_report import write_evaluation_report
from training.evaluation.metrics_file import write_metrics
from training.evaluation.tta import Probabilities, tta_probabilities
from training.networks.checkpoint import CheckpointError, environment, load_checkpoint
from training.networks.network import VehicleGraph
from training.recipe import (
    DataSection,
    DatasetName,
    DatasetSection,
    Recipe,
    RecipeError,
    SplitSection,
)

Rgb = npt.NDArray[np.uint8]
Depth = npt.NDArray[np.float32]
Mask = npt.NDArray[np.uint8]
# RGB uint8 (H, W, 3) and depth float32 (H, W) metres, 0 = missing, or None where the set has none,
# which is all missing to an RGB-D network
# -> mask uint8 (H, W) class ids, confidence uint8 (H, W) 255 * probability.
Predict = Callable[[Rgb, Depth | None], tuple[Mask, Mask]]

Modality = Literal['rgb', 'rgbd']
SplitName = Literal['train', 'val', 'test', 'all']

# Of the depth that was measured: the points of a model card's curve.
DEPTH_SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)

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
        mask, confidence = predict(frame.read_rgb(), frame.measured_depth())
        # Two data sets may both have a block 3.
        block = f'{frame.dataset}/{frame.group}'
        scores.add(frame.name, block, frame.read_labels(ontology), mask, confidence)
    return scores.to_dict()


def score_depth_shares(
    frames: Sequence[LabelledFrame],
    ontology: Ontology,
    predict: Predict,
    shares: Sequence[float],
) -> list[dict[str, Any]]:
    """Score an RGB-D model with parts of the depth that the frames have, from none to all.

    Which part is `thin_depth`'s choice: patches, and what is far. It depends on the frame's name
    alone, so two models see the same holes, and a smaller share lies within a larger one.

    Args:
        frames: some of them with depth; what has none counts as missing.
        ontology: the class table.
        predict: of an RGB-D model.
        shares: 0..1 of the measured pixels; they are sorted, and 0 is added where it is not given.

    Returns:
        A point of the curve for each share, as `training.metrics_file.DepthPoint` describes it.

    Raises:
        DatasetError: no frame has depth.
    """
    if not any(frame.has_depth for frame in frames):
        raise DatasetError(
            f'none of the {len(frames)} frames has depth, so there is no share of it to score; '
            'choose a data set with depth'
        )
    scores = {share: SplitScores(ontology) for share in sorted({0.0, *shares})}
    valid_shares = dict.fromkeys(scores, 0.0)
    for frame in tqdm(frames, desc='scoring depth shares', unit='frame'):
        rgb, labels = frame.read_rgb(), frame.read_labels(ontology)
        measured = torch.from_numpy(_given(frame.measured_depth(), rgb))
        seed = hashlib.sha256(f'{frame.dataset}/{frame.name}'.encode()).digest()[:7]
        for share, found in scores.items():
            generator = torch.Generator().manual_seed(int.from_bytes(seed, 'big'))
            depth = thin_depth(measured[None, None], torch.tensor([share]), generator)[0, 0]
            mask, confidence = predict(rgb, depth.numpy())
            valid_shares[share] += float((depth > 0).float().mean()) / len(frames)
            found.add(frame.name, f'{frame.dataset}/{frame.group}', labels, mask, confidence)
    points = []
    for share, found in scores.items():
        own = found.to_dict()
        (change,) = paired_differences(found.by_block, scores[0.0].by_block, ontology)
        points.append(
            {
                'kept_share': share,
                'valid_share': min(valid_shares[share], 1.0),
                **{
                    key: own[key]
                    for key in (
                        'miou_all',
                        'miou_all_interval_95',
                        'pixel_accuracy',
                        'false_safe_rate',
                    )
                },
                'against_none': change.difference,
                'against_none_interval_95': change.interval_95,
            }
        )
    return points


def depth_curve(
    section: DatasetSection,
    frames: Sequence[LabelledFrame],
    ontology: Ontology,
    predict: Predict,
    shares: Sequence[float],
) -> dict[str, Any]:
    """Return `score_depth_shares` of frames of a section, as metrics.json has it."""
    return {
        'dataset': section.dataset,
        'root': section.root,
        'frames': len(frames),
        'blocks': len({frame.group for frame in frames}),
        'data_hash': data_hash(frames),
        'points': score_depth_shares(frames, ontology, predict, shares),
    }


def predict_with_graph(graph: VehicleGraph) -> Predict:
    """Predict with the torch graph in evaluation mode; an RGB network is not shown depth."""

    def predict(rgb: Rgb, depth: Depth | None) -> tuple[Mask, Mask]:
        with torch.inference_mode():
            mask, confidence, _, _ = graph(*graph.tensors(rgb, depth))
        return mask[0].cpu().numpy(), confidence[0].cpu().numpy()

    return predict


def predict_with_probabilities(probabilities: Probabilities) -> Predict:
    """Predict the most probable class."""

    def predict(rgb: Rgb, depth: Depth | None) -> tuple[Mask, Mask]:
        of_class = probabilities(rgb, depth)  # (C, H, W)
        confidence = np.rint(255.0 * of_class.max(axis=0)).astype(np.uint8)
        return of_class.argmax(axis=0).astype(np.uint8), confidence

    return predict


def predict_with_bundle(
    path: Path, backend: str
) -> tuple[Predict, Ontology, dict[str, Any], Modality]:
    """Predict with the runtime's engine, the code that ships.

    Returns:
        The function, the bundle's class table, the recipe in its metadata as it stands there, and
        whether it takes depth.
    """
    bundle = read_bundle(path)
    engine = load_engine(bundle, backend)
    takes_depth = bundle.metadata.modality == 'rgbd'

    def predict(rgb: Rgb, depth: Depth | None) -> tuple[Mask, Mask]:
        out = engine.infer(
            rgb, _given(depth, rgb) if takes_depth else None, outputs=('mask', 'confidence')
        )
        return out['mask'], out['confidence']

    metadata = bundle.metadata
    return predict, metadata.ontology, dict(metadata.recipe), metadata.modality


def _given(depth: Depth | None, rgb: Rgb) -> Depth:
    return np.zeros(rgb.shape[:2], np.float32) if depth is None else depth


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
    parser.add_argument(
        '--depth-shares',
        type=_shares,
        metavar='SHARE,SHARE,...',
        help='of an RGB-D model: also score it with these parts (0..1) of the depth there is',
    )
    parser.add_argument('--backend', default='auto', help="the bundle's engine, default: auto")
    parser.add_argument('--out', required=True, type=Path, help='folder for metrics.json')
    return parser


def _shares(text: str) -> list[float]:
    try:
        shares = [float(part) for part in text.split(',')]
    except ValueError:
        shares = []
    if not shares or not all(0.0 <= share <= 1.0 for share in shares):
        raise argparse.ArgumentTypeError(f'{text!r} is no list of shares, e.g. 0,0.25,0.5,0.75,1')
    return shares


def _of_checkpoint(path: Path, *, tta: bool) -> tuple[Predict, Ontology, Recipe]:
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
        predict = predict_with_graph(graph.to(device).eval())
    return predict, ontology, recipe


def evaluate(arguments: argparse.Namespace) -> tuple[dict[str, Any], Ontology]:
    """Do what the command's arguments say; return the content of metrics.json and its classes."""
    tta = None
    if arguments.bundle is not None:
        if arguments.tta:
            raise BundleError(
                f'{arguments.bundle}: --tta averages class probabilities over views of several '
                'sizes, but a bundle computes one size and gives out only mask, confidence and '
                'cost; score its --checkpoint with --tta'
            )
        predict, ontology, recipe, modality = predict_with_bundle(
            arguments.bundle, arguments.backend
        )
    else:
        predict, ontology, parsed = _of_checkpoint(arguments.checkpoint, tta=arguments.tta)
        recipe, modality = parsed.model_dump(mode='json'), parsed.model.modality
        evaluation = parsed.evaluation
        if arguments.tta:
            tta = {'scales': evaluation.tta_scales, 'flip': evaluation.tta_flip}
    if arguments.depth_shares is not None and modality == 'rgb':
        raise DatasetError(
            f'{arguments.bundle or arguments.checkpoint}: takes no depth, so --depth-shares would '
            'score it the same each time; leave them out'
        )
    section = DatasetSection(
        dataset=arguments.dataset, root=str(arguments.root), split=arguments.split, repeat=1
    )
    rule = split_rule(recipe)
    if rule is None and arguments.split_by == 'recipe':
        raise DatasetError(
            f'{arguments.bundle or arguments.checkpoint}: its recipe does not say how frames are '
            'split; use --split-by official, or --split all'
        )
    rule = rule or _DEFAULT_RULE
    frames, chosen = choose_frames(section, ontology, rule, arguments.split_by)
    print(f'{arguments.dataset} {arguments.split}: {len(frames)} frames, {chosen}')
    without = sum(not frame.has_depth for frame in frames)
    if modality == 'rgbd' and without:
        print(f'{without} of them have no depth: the model is scored with all of it missing')
    curve = None
    if arguments.depth_shares is not None:
        curve = depth_curve(section, frames, ontology, predict, arguments.depth_shares)
    metrics = {
        **score_frames(frames, ontology, predict),
        'model': str(arguments.bundle or arguments.checkpoint),
        'recipe': recipe,
        'ontology': ontology.name,
        'ontology_sha256': ontology.sha256,
        'dataset': arguments.dataset,
        'split': arguments.split,
        'split_rule': chosen,
        'tta': tta,
        'depth_curve': curve,
        'data_hash': data_hash(frames),
        'environment': environment(),
    }
    return metrics, ontology


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    arguments = _parser().parse_args(argv)
    try:
        metrics, ontology = evaluate(arguments)
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
    if metrics['depth_curve'] is not None:
        print_depth_curve(metrics['depth_curve'])
    print(target)
    print(write_evaluation_report(arguments.out, ontology))
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


def print_depth_curve(curve: Mapping[str, Any]) -> None:
    """Print a line a share of the depth."""
    for point in curve['points']:
        interval = point['against_none_interval_95']
        shown = '' if interval is None else ' [{:+.4f}, {:+.4f}]'.format(*interval)
        print(
            f'{point["kept_share"]:4.0%} of the depth ({point["valid_share"]:.0%} of the pixels): '
            f'mIoU(all) {_figure(point["miou_all"])}, against none '
            f'{point["against_none"]:+.4f}{shown}'
        )


def _figure(score: float | None) -> str:
    return '  -   ' if score is None else f'{score:.4f}'


if __name__ == '__main__':
    sys.exit(main())
