"""Segments every frame of a bag once, and scores the masks."""

from contextlib import ExitStack
from pathlib import Path
import sys
import time
from typing import Any

from tqdm import tqdm

from desertmind_seg.evaluation.comparison import Compared, comparison_document
from desertmind_seg.evaluation.depth import BagDepth, DepthTopic, check_depth
from desertmind_seg.evaluation.document import (
    _run_results,
    bundle_document,
    labels_document,
    run_document,
)
from desertmind_seg.evaluation.labels import check_labels, score_masks
from desertmind_seg.evaluation.pages import write_evaluation_report
from desertmind_seg.evaluation.pictures import frames_sheet, select_frames
from desertmind_seg.evaluation.results import (
    MASKS,
    MASKS_AGAINST,
    METRICS,
    REPORT,
    BadFrame,
    LabelScore,
    SegmentedBag,
)
from desertmind_seg.messages.bag_writer import BagWriter
from desertmind_seg.messages.bags import (
    CONFIDENCE_TOPIC,
    LABEL_INFO_TOPIC,
    MASK_TOPIC,
    Bag,
    BagError,
    decode_frame,
    header_stamp_ns,
    stamps_of,
)
from desertmind_seg.messages.images import MessageError
from desertmind_seg.pipeline.segmenter import ImageError, Segmenter
from desertmind_seg.reports.output import output_folder, write_json
from desertmind_seg.scores.bootstrap import ComparisonError


def segment_bag(
    bag: Bag,
    topic: str,
    segmenter: Segmenter,
    writer: BagWriter,
    depth: BagDepth | None = None,
) -> SegmentedBag:
    """Run every frame of `topic` through the segmenter and write mask and confidence.

    A frame that cannot be decoded or segmented is listed in `bad`, and the run goes on. An rgbd
    bundle gets depth that is missing everywhere (0) where a frame has none.

    Raises:
        BagError: The bag is corrupt from some point on.
        EngineError: The engine failed.
    """
    run = SegmentedBag()
    stamps: set[int] = set()
    ontology = segmenter.ontology
    writer.write_label_info(
        LABEL_INFO_TOPIC, bag.start_ns, ontology.names, segmenter.confidence_threshold
    )
    frames = ((raw, None) for raw in bag.messages(topic)) if depth is None else depth.frames()
    for raw, depth_raw in tqdm(
        frames,
        total=bag.topics[topic].count,
        desc='segmenting',
        unit='frame',
        disable=None,
    ):
        run.frames_in += 1
        stamp = None
        start = time.perf_counter()
        try:
            stamp = header_stamp_ns(raw.cdr)
            run.repeated_stamps += stamp in stamps
            stamps.add(stamp)
            message = bag.deserialize(raw)
            rgb = decode_frame(bag, topic, message)
            metres = None
            if depth is not None:
                metres = depth.decode(stamp, depth_raw, rgb.shape[:2])
            decoded = time.perf_counter()
            segmentation = segmenter.segment(
                rgb, depth=metres if segmenter.takes_depth else None, stamp_ns=stamp
            )
        except (BagError, MessageError, ImageError) as err:
            run.bad.append(BadFrame(stamp, str(err)))
            run.flicker.reset()
            segmenter.reset()
            tqdm.write(f'Frame with stamp {stamp} ns left out: {err}', file=sys.stderr)
            continue
        done = time.perf_counter()
        run.log_times_ns.append(raw.log_time_ns)
        run.decode_ms.append((decoded - start) * 1e3)
        run.inference_ms.append(segmentation.inference_ms)
        run.total_ms.append((done - start) * 1e3)
        run.flicker.add(rgb, segmentation.mask, stamp)
        if segmentation.blended_share is not None:
            run.blended_share.append(segmentation.blended_share)
            run.filter_ms.append(segmentation.filter_ms)
        writer.write_mono8(MASK_TOPIC, raw.log_time_ns, segmentation.mask, message.header)
        if segmentation.confidence is not None:
            writer.write_mono8(
                CONFIDENCE_TOPIC, raw.log_time_ns, segmentation.confidence, message.header
            )
    return run


def evaluate_bag(
    bag_path: Path,
    image_topic: str,
    label_topic: str | None,
    segmenter: Segmenter,
    out: Path,
    *,
    against: Segmenter | None = None,
    depth: DepthTopic | None = None,
    force: bool = False,
) -> dict[str, Any]:
    """Segment and score a bag; write masks/, metrics.json and report.html; return the metrics.

    An rgbd bundle needs `depth`; with an rgb bundle it only measures range. With `against` the bag
    is run a second time, and the two runs are compared.

    Raises:
        FileNotFoundError: There is no such bag.
        FileExistsError: `out` holds results and `force` is false.
        BagError: The bag lacks what was asked for, or none of its frames could be segmented.
        ComparisonError: `segmenter` and `against` cannot be compared.
        EngineError: The engine failed.
    """
    ontology = segmenter.ontology
    segmenters = {MASKS: segmenter}
    names = [segmenter.engine.bundle.metadata.name]
    if against is not None:
        segmenters[MASKS_AGAINST] = against
        names = _names(segmenter, against)
    with ExitStack() as stack:
        bag = stack.enter_context(Bag(bag_path))
        results = (MASKS, MASKS_AGAINST, METRICS, REPORT)
        new = stack.enter_context(output_folder(out, results, replace=force))
        again = stack.enter_context(Bag(bag_path))
        bag.topic(image_topic)
        for each in segmenters.values():
            check_depth(
                bag, image_topic, each.engine.bundle, None if depth is None else depth.name
            )
        if label_topic is not None:
            check_labels(bag, label_topic, ontology)
        runs, scores, documents = {}, [], []
        for name, (folder, each) in zip(names, segmenters.items(), strict=True):
            bag_depth = None
            if depth is not None:
                bag_depth = BagDepth(bag, again, depth, image_topic, ontology)
            run, score = _run(bag, image_topic, label_topic, each, new / folder, bag_depth)
            runs[name] = run
            scores.append(score)
            documents.append(_run_results(each, run, score, bag_depth))
        metrics = run_document(
            'evaluate_bag', bag, image_topic, label_topic, segmenter.engine.bundle
        )
        metrics |= labels_document(bag, label_topic, scores[0])
        metrics |= documents[0]
        metrics['against'] = None
        if against is not None:
            compared = [
                Compared(name, None if score is None else score.by_block, run.flicker)
                for (name, run), score in zip(runs.items(), scores, strict=True)
            ]
            metrics['against'] = {
                'bundle': bundle_document(against.engine.bundle),
                **documents[1],
                'segmentation': labels_document(bag, label_topic, scores[1])['segmentation'],
                'comparison': comparison_document(compared[0], compared[1], ontology),
            }
        with Bag(new / MASKS) as masks:
            # A stamp that occurs twice may belong to a bad frame as well as to a mask.
            bad = {frame.stamp_ns for frame in runs[names[0]].bad}
            chosen = select_frames(stamps_of(masks, MASK_TOPIC) - bad, scores[0])
            sheet = frames_sheet(bag, image_topic, masks, chosen, ontology)
        write_json(new / METRICS, metrics)
        write_evaluation_report(new / REPORT, metrics, runs, sheet, ontology)
    return metrics


def _names(first: Segmenter, second: Segmenter) -> list[str]:
    """Name two runs by what tells them apart."""
    if first.ontology.sha256 != second.ontology.sha256:
        raise ComparisonError(
            f'the bundles have other classes: {first.ontology.name} ({first.ontology.sha256}) and '
            f'{second.ontology.name} ({second.ontology.sha256}); only bundles of one class table '
            'can be compared'
        )
    bundles = [run.engine.bundle for run in (first, second)]
    names = [bundle.metadata.name for bundle in bundles]
    if names[0] == names[1] and bundles[0].sha256 != bundles[1].sha256:
        names = [f'{bundle.metadata.name} {bundle.sha256[:8]}' for bundle in bundles]
    for index, run in enumerate((first, second)):
        if run.temporal is not None:
            names[index] += f', temporal filter {run.temporal.alpha:g}'
    if names[0] == names[1]:
        raise ComparisonError(
            f'both runs are of {names[0]} ({bundles[0].path} and {bundles[1].path}); give '
            '--against another bundle, or another --against-temporal-alpha'
        )
    return names


def _run(
    bag: Bag,
    image_topic: str,
    label_topic: str | None,
    segmenter: Segmenter,
    folder: Path,
    depth: BagDepth | None,
) -> tuple[SegmentedBag, LabelScore | None]:
    """Write the masks of all frames to the new bag `folder`, and score them."""
    ontology = segmenter.ontology
    hashes = dict.fromkeys((MASK_TOPIC, CONFIDENCE_TOPIC), ontology.sha256)
    with BagWriter(folder, hashes) as writer:
        run = segment_bag(bag, image_topic, segmenter, writer, depth)
    if not run.inference_ms:
        raise BagError(
            f'None of the {run.frames_in} frames of {image_topic!r} could be segmented; the '
            f'first one: {run.bad[0].error}'
        )
    if label_topic is None:
        return run, None
    with Bag(folder) as masks:
        return run, score_masks(bag, label_topic, masks, ontology, depth)
