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
from collections.abc import Sequence
from pathlib import Path
import sys
from typing import Any, get_args

import torch

from desertmind_seg.engines.protocol import EngineError
from desertmind_seg.model.bundle import BundleError
from desertmind_seg.model.ontology import Ontology, OntologyError
from training.data.datasets import DEFAULT_RULE, SplitName, choose_frames, data_hash, split_rule
from training.data.frames import DatasetError
from training.evaluation.evaluation_report import write_evaluation_report
from training.evaluation.metrics_file import write_metrics
from training.evaluation.predict import (
    Predict,
    predict_with_bundle,
    predict_with_graph,
    predict_with_probabilities,
)
from training.evaluation.score import depth_curve, print_depth_curve, print_scores, score_frames
from training.evaluation.tta import tta_probabilities
from training.networks.checkpoint import CheckpointError, environment, load_checkpoint
from training.networks.vehicle_graph import VehicleGraph
from training.recipes.schema import DatasetName, DatasetSection, Recipe, RecipeError


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
    rule = rule or DEFAULT_RULE
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


if __name__ == '__main__':
    sys.exit(main())
