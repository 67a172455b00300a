"""Scores over the frames of a split, also by the share of valid depth."""

from collections.abc import Mapping, Sequence
import hashlib
from typing import Any

import torch
from tqdm import tqdm

from desertmind_seg.model.ontology import Ontology
from desertmind_seg.scores.bootstrap import paired_differences
from desertmind_seg.scores.split_scores import SplitScores
from training.data.augment import thin_depth
from training.data.datasets import data_hash
from training.data.frames import DatasetError, LabelledFrame
from training.evaluation.predict import Predict, inputs_given
from training.recipes.schema import DatasetSection

# Of the depth that was measured: the points of a model card's curve.
DEPTH_SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)


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
        measured = torch.from_numpy(inputs_given(frame.measured_depth(), rgb))
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
