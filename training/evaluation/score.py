"""Scores over the frames of a split, also by the share of valid depth."""

from collections.abc import Sequence
import hashlib
import os

import torch

from desertmind_seg.model.ontology import Ontology
from desertmind_seg.pipeline.progress import Progress
from desertmind_seg.scores.bootstrap import paired_difference
from desertmind_seg.scores.records import SplitMetrics
from desertmind_seg.scores.split_scores import SplitScores
from desertmind_seg.viewer.frames import FrameViewer, ViewedFrame
from training.data.augment import thin_depth
from training.data.datasets import data_hash
from training.data.frames import DatasetError, LabelledFrame
from training.evaluation.metrics_file import DepthCurve, DepthPoint
from training.evaluation.predict import Predict, depth_or_missing
from training.recipes.schema import DatasetSection

# Of the depth that was measured: the points of a model card's curve.
DEPTH_SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)


def score_frames(
    frames: Sequence[LabelledFrame],
    ontology: Ontology,
    predict: Predict,
    viewer: FrameViewer | None = None,
) -> SplitMetrics:
    """Run every frame once, show it to the viewer, and return the scores of them all.

    mIoU is that of one integer confusion matrix over all frames, at their own resolution. The
    intervals are a bootstrap over groups (sequences, blocks): frames of one are not independent.

    Raises:
        DatasetError: there is no frame.
        MetricsError: a prediction has another size than its labels.
    """
    if not frames:
        raise DatasetError('there is no frame to score; choose another split')
    scores = SplitScores(ontology)
    for number, frame in enumerate(Progress(frames, desc='scoring', unit='frame')):
        rgb, depth = frame.read_rgb(), frame.measured_depth()
        mask, confidence = predict(rgb, depth)
        labels = frame.read_labels(ontology)
        # Two data sets may both have a block 3.
        scores.add(frame.name, f'{frame.dataset}/{frame.group}', labels, mask, confidence)
        if viewer is not None:
            shown = ViewedFrame(rgb, mask, confidence, depth, labels=labels, name=frame.name)
            viewer.log(number, None, shown)
    return scores.metrics()


def score_depth_shares(
    frames: Sequence[LabelledFrame],
    ontology: Ontology,
    predict: Predict,
    shares: Sequence[float],
) -> list[DepthPoint]:
    """Score an RGB-D model with parts of the depth that the frames have, from none to all.

    Which part is `thin_depth`'s choice: patches, and what is far. It depends on the frame's name
    alone, so two models see the same holes, and a smaller share lies within a larger one.

    Args:
        frames: some of them with depth; what has none counts as missing.
        ontology: the class table.
        predict: of an RGB-D model.
        shares: 0..1 of the measured pixels; they are sorted, and 0 is added where it is not given.

    Returns:
        A point of the curve for each share.

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
    for frame in Progress(frames, desc='scoring depth shares', unit='frame'):
        rgb, labels = frame.read_rgb(), frame.read_labels(ontology)
        measured = torch.from_numpy(depth_or_missing(frame.measured_depth(), rgb))
        seed = hashlib.sha256(os.fsencode(f'{frame.dataset}/{frame.name}')).digest()[:7]
        for share, found in scores.items():
            generator = torch.Generator().manual_seed(int.from_bytes(seed, 'big'))
            depth = thin_depth(measured[None, None], torch.tensor([share]), generator)[0, 0]
            mask, confidence = predict(rgb, depth.numpy())
            valid_shares[share] += float((depth > 0).float().mean()) / len(frames)
            found.add(frame.name, f'{frame.dataset}/{frame.group}', labels, mask, confidence)
    points = []
    for share, found in scores.items():
        own = found.metrics()
        change = paired_difference(found.by_block, scores[0.0].by_block, ontology)
        points.append(
            DepthPoint(
                kept_share=share,
                valid_share=min(valid_shares[share], 1.0),
                miou_all=own.miou_all,
                miou_all_interval_95=own.miou_all_interval_95,
                pixel_accuracy=own.pixel_accuracy,
                false_safe_rate=own.false_safe_rate,
                against_none=change.difference,
                against_none_interval_95=change.interval_95,
            )
        )
    return points


def depth_curve(
    section: DatasetSection,
    frames: Sequence[LabelledFrame],
    ontology: Ontology,
    predict: Predict,
    shares: Sequence[float],
) -> DepthCurve:
    """Return `score_depth_shares` of frames of a section, and which frames they are."""
    return DepthCurve(
        dataset=section.dataset,
        root=section.root,
        frames=len(frames),
        blocks=len({frame.group for frame in frames}),
        data_hash=data_hash(frames),
        points=score_depth_shares(frames, ontology, predict, shares),
    )
