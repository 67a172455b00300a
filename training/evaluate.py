"""Command: score a checkpoint or a bundle on a labelled split."""

import argparse
from collections.abc import Sequence
import sys

from desertmind_seg.options import (
    ALL_DONE,
    add_backend,
    add_label_map,
    add_output_folder,
    add_rerun,
    command_parser,
    probability,
    run_command,
)
from training.options import add_dataset, bundle_file, checkpoint_file

_DESCRIPTION = """\
Score a checkpoint or a bundle on a labelled split, at the frames' own resolution.

Which frames a split has: 'all' is every frame of the root. 'train', 'val' and 'test' are the
publisher's, where the root has that part (for YCOR a folder train/, val/ or test/ of frames);
otherwise the frames are dealt by the rule of the recipe, which a bundle carries too, so that 'val'
is what the model was not trained on. --split-by settles it by hand. What was taken is printed.

The labels have to be of the classes of the model. What they are, the folder says itself (a class
table in classes.yaml), its layout, or --ontology; where they are others, --map says which of the
model's each is. Where a class has several (trail=smooth trail,rough trail) these count as one."""
_EXAMPLES = """\
examples:
  python -m training.evaluate --bundle models/ycor8_rgb.onnx --dataset ycor \\
      --root ../shared/data/ycor --split val --out out/scores
  python -m training.evaluate --checkpoint out/run/checkpoint.pt --dataset synthetic \\
      --root out/drives --split all --tta --out out/scores
  python -m training.evaluate --bundle models/ycor8_rgbd.onnx --dataset synthetic \\
      --root out/unseen --split all --depth-shares 0,0.25,0.5,0.75,1 --out out/depth_curve
  python -m training.evaluate --bundle models/ycor8_rgb.onnx --dataset folder --root farm \\
      --map 'track=smooth trail,rough trail' 'hedge=high vegetation' \\
      crop=ignore --out out/scores"""


def build_parser() -> argparse.ArgumentParser:
    """Build the command line."""
    parser = command_parser('training.evaluate', _DESCRIPTION, _EXAMPLES)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        '--checkpoint',
        metavar='FILE',
        type=checkpoint_file,
        help='checkpoint.pt of training.train',
    )
    source.add_argument(
        '--bundle', metavar='FILE', type=bundle_file, help='ONNX bundle, scored by the runtime'
    )
    add_dataset(parser, required=True)
    add_label_map(parser, merges=True)
    parser.add_argument(
        '--split', choices=('train', 'val', 'test', 'all'), default='val', help='default: val'
    )
    parser.add_argument(
        '--split-by',
        choices=('auto', 'official', 'recipe'),
        default='auto',
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
    add_backend(parser)
    add_rerun(parser)
    add_output_folder(parser)
    return parser


def _shares(text: str) -> list[float]:
    return [probability(part) for part in text.split(',')]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = build_parser()
    options = parser.parse_args(argv)
    if options.tta and options.bundle is not None:
        parser.error(
            '--tta averages class probabilities over views of several sizes, but a bundle '
            'computes one size and gives out only mask, confidence and cost; score its '
            '--checkpoint with --tta'
        )
    return run_command(parser, lambda: _run(options))


def _run(options: argparse.Namespace) -> int:
    from desertmind_seg.model.ontology import load_ontology

    ontology = options.ontology and load_ontology(options.ontology)

    from desertmind_seg.reports.output import output_folder
    from training.evaluation.evaluation_report import REPORT_FILE, write_evaluation_report
    from training.evaluation.metrics_file import METRICS_FILE, write_metrics
    from training.evaluation.run import bundle_model, checkpoint_model, evaluate
    from training.evaluation.text import print_depth_curve, print_scores

    names = (METRICS_FILE, REPORT_FILE)
    with output_folder(options.out, names, replace=options.force) as new:
        model = (
            checkpoint_model(options.checkpoint, tta=options.tta)
            if options.bundle is None
            else bundle_model(options.bundle, options.backend)
        )
        metrics = evaluate(
            model,
            options.dataset,
            options.root,
            split=options.split,
            split_by=options.split_by,
            depth_shares=options.depth_shares,
            labels_ontology=ontology,
            label_map=options.map,
            rerun=options.rerun,
        )
        write_metrics(new / METRICS_FILE, metrics)
        write_evaluation_report(new / REPORT_FILE, metrics, metrics.class_table or model.ontology)
    print_scores(metrics)
    if metrics.depth_curve is not None:
        print_depth_curve(metrics.depth_curve)
    print(options.out / METRICS_FILE)
    print(options.out / REPORT_FILE)
    return ALL_DONE


if __name__ == '__main__':
    sys.exit(main())
