"""Segment every frame of a recorded drive exactly once, and score the masks against its labels.

Needs no ROS installation. Results, in the folder of --out:

- `masks/`: a rosbag2 MCAP with `/segmentation/mask` and `/segmentation/confidence` (mono8, headers
  and log times of the frames) and `/segmentation/label_info`. Two runs write the same masks.
- `masks_against/`: likewise, of the model of --against.
- `metrics.json`: `schema` 1; `command`; `created` (UTC); `bag` (path, image_topic, label_topic,
  start_ns, duration_s); `bundle` (path, name, sha256, precision); `ontology` (name, sha256);
  `engine` (backend, device, confidence_threshold); `temporal_filter` (null, or alpha, filter_ms
  (as latency_ms), blended_share of the pixels, frames_without_history by reason); `frames` (in,
  out, bad: stamp_ns and error of each, repeated_stamps); `latency_ms` (decode, inference and
  total, each with p50, p95, p99, max and count, all of this machine); `labels` (null, or topic,
  images, matched, without_frame, frames_without_label, ontology_recorded); `segmentation` (null,
  or `ConfusionMatrix.to_dict()` over the matched frames); `depth` (null, or what --depth gave:
  topic, max_dt_ms, max_wait_ms, used_by_model, frames_with_depth, frame_share, valid_share
  (pixels with depth among all of those frames), frames_without_depth by reason, images and what
  was wrong with them, problems, dt_ms (depth minus image: median, histogram), clock_offset_ms,
  hint, range_bands (null without labels, or of each band name, from_m, to_m, labelled_pixels,
  miou_present, false_safe_rate)); `flicker` (null where no two frames follow each other, or
  share of the counted pixels, p50 and p95 over the pairs of frames, pairs, counted_share of
  their pixels, frames_without_pair by reason; see `flicker`); `against` (null, or of the model
  of --against bundle, engine, temporal_filter, frames, latency_ms, segmentation, depth and
  flicker as above, and `comparison`: first and second (names), block_frames, sentences,
  differences (of each score, label, first, second, difference, interval_95 (null with one
  block), blocks, is_real, is_better)); `environment` (machine, versions, git_hash).
- `report.html`: the same for people, with the best and the worst frames.

Exit status: 0, or 1 when some frames could not be segmented, or 2 when nothing was written.
"""

import argparse
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime, timezone
import logging
from math import isfinite
from pathlib import Path
import sys
import time
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from desertmind_seg.engines.load import BACKENDS, load_engine
from desertmind_seg.engines.protocol import EngineError
from desertmind_seg.evaluation.comparison import (
    BLOCK_FRAMES,
    Compared,
    comparison_document,
    comparison_facts,
    comparison_sections,
)
from desertmind_seg.evaluation.depth import BagDepth, DepthTopic, depth_facts, depth_sections
from desertmind_seg.messages.bags import (
    COMPRESSED_IMAGE_TYPE,
    CONFIDENCE_TOPIC,
    IMAGE_TYPE,
    IMAGE_TYPES,
    LABEL_INFO_TOPIC,
    MASK_TOPIC,
    Bag,
    BagError,
    BagWriter,
    header_stamp_ns,
    pair_by_stamp,
    stamps_of,
)
from desertmind_seg.messages.images import (
    MessageError,
    decode_compressed_image,
    decode_image,
    decode_labels,
)
from desertmind_seg.messages.pairing import MAX_DT_MS, MAX_WAIT_MS
from desertmind_seg.model.bundle import MIN_SIZE_HW, Bundle, BundleError, read_bundle
from desertmind_seg.model.files import DEFAULT_BUNDLE, share_path
from desertmind_seg.model.ontology import UNLABELED, Ontology
from desertmind_seg.pipeline.latency import LatencyWindow, Percentiles
from desertmind_seg.pipeline.rendering import contact_sheet
from desertmind_seg.pipeline.segmenter import ImageError, Segmenter
from desertmind_seg.pipeline.temporal import MAX_ALPHA, TemporalFilter
from desertmind_seg.reports.page import (
    Fact,
    Section,
    classes_section,
    confusion_section,
    environment_section,
    images_section,
    latency_section,
    output_folder,
    pairs_section,
    write_json,
    write_report,
)
from desertmind_seg.reports.provenance import environment
from desertmind_seg.scores.bootstrap import ComparisonError, Counts
from desertmind_seg.scores.flicker import Flicker, flicker_facts, flicker_sections
from desertmind_seg.scores.metrics import ConfusionMatrix, MetricsError

MASKS, METRICS, REPORT = 'masks', 'metrics.json', 'report.html'
MASKS_AGAINST = 'masks_against'
_SHOWN_FRAMES = 4
_EXAMPLES = """\
examples:
  masks, metrics and a report of one model
    evaluate_bag drive --image /camera/color/image_raw --labels /labels/ycor_8 --out result
  is a new model better than the old one on this drive?
    evaluate_bag drive --image /camera/color/image_raw --labels /labels/ycor_8 \\
        --bundle new.onnx --against old.onnx --out result
  is one model better with the temporal filter than without?
    evaluate_bag drive --image /camera/color/image_raw --labels /labels/ycor_8 \\
        --bundle new.onnx --temporal-alpha 0.4 --against new.onnx --out result
"""

Image = npt.NDArray[np.uint8]


@dataclass
class BadFrame:
    """A frame that could not be segmented; `stamp_ns` is None where its header is cut off."""

    stamp_ns: int | None
    error: str


@dataclass
class SegmentedBag:
    """What a run over the frames of a bag did; latencies are in order of the frames."""

    frames_in: int = 0
    repeated_stamps: int = 0
    bad: list[BadFrame] = field(default_factory=list)
    log_times_ns: list[int] = field(default_factory=list)
    decode_ms: list[float] = field(default_factory=list)
    inference_ms: list[float] = field(default_factory=list)
    total_ms: list[float] = field(default_factory=list)
    flicker: Flicker = field(default_factory=Flicker)
    blended_share: list[float] = field(default_factory=list)
    filter_ms: list[float] = field(default_factory=list)


@dataclass
class LabelScore:
    """Masks against the labels of the same stamps.

    Attributes:
        matrix: over all matched frames.
        by_block: the same by blocks of BLOCK_FRAMES matched frames, int64 (C, C + 1) each.
        frame_miou: stamp of each matched frame -> its mean IoU over the classes in its labels.
        labels: label images in the bag.
        labels_without_frame: label images whose stamp no mask has.
        frames_without_label: masks whose stamp no label image has.
    """

    matrix: ConfusionMatrix
    by_block: dict[str, Counts]
    frame_miou: dict[int, float]
    labels: int
    labels_without_frame: int
    frames_without_label: int


@dataclass
class ShownFrame:
    """A frame with what was made of it: (H, W, 3) and twice (H, W) uint8."""

    stamp_ns: int
    rgb: Image
    mask: Image
    confidence: Image | None


def decode_frame(bag: Bag, topic: str, message: Any) -> Image:
    """Decode a deserialized frame of `topic`, raw or compressed, to (H, W, 3) uint8 RGB."""
    if bag.topics[topic].type == COMPRESSED_IMAGE_TYPE:
        return decode_compressed_image(message)
    return decode_image(message)


def check_labels(bag: Bag, topic: str, ontology: Ontology) -> None:
    """Make sure that every label image of `topic` can be scored, before hours go into inference.

    Raises:
        BagError: The topic is missing or no image, its labels belong to another ontology, or a
            label image cannot be decoded or holds an id outside of the ontology.
    """
    bag.topic(topic, {IMAGE_TYPE})
    recorded = bag.ontology_sha256(topic)
    if recorded not in (None, ontology.sha256):
        fitting = [name for name in bag.topics if bag.ontology_sha256(name) == ontology.sha256]
        raise BagError(
            f'Labels {topic!r} of bag {str(bag.path)!r} belong to the ontology with SHA-256 '
            f'{recorded}, the bundle to {ontology.name} with {ontology.sha256}. Label topics of '
            f'the bundle in this bag: {", ".join(fitting) or "none"}.'
        )
    for raw in bag.messages(topic):
        labels = _decode_labels(bag, topic, bag.deserialize(raw), header_stamp_ns(raw.cdr))
        try:
            ConfusionMatrix(ontology).add(labels, labels)
        except MetricsError as err:
            raise BagError(
                f'Label image of {topic!r} with stamp {header_stamp_ns(raw.cdr)} ns: {err}'
            ) from err


def _decode_labels(bag: Bag, topic: str, message: Any, stamp_ns: int) -> Image:
    try:
        labels = decode_labels(message)
    except MessageError as err:
        raise BagError(f'Label image of {topic!r} with stamp {stamp_ns} ns: {err}') from err
    if labels.dtype == np.uint8:
        return labels.astype(np.uint8, copy=False)
    largest = int(labels.max())
    if largest > UNLABELED:
        raise BagError(
            f'Label image of {topic!r} with stamp {stamp_ns} ns holds id {largest} '
            f'({int((labels == largest).sum())} px); expected class ids or {UNLABELED} '
            '(unlabelled). Translate raw codes with Ontology.from_raw when recording.'
        )
    return labels.astype(np.uint8)


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


def score_masks(
    bag: Bag,
    label_topic: str,
    masks: Bag,
    ontology: Ontology,
    depth: BagDepth | None = None,
) -> LabelScore:
    """Score a bag of masks against the labels of the same stamps, with `depth` also by range.

    Raises:
        BagError: A mask and its labels differ in size, or the labels are bad (`check_labels`).
    """
    matrix = ConfusionMatrix(ontology)
    by_block: dict[str, Counts] = {}
    frame_miou: dict[int, float] = {}
    pairs = pair_by_stamp((bag, label_topic), (masks, MASK_TOPIC))
    for stamp, label_message, mask_message in tqdm(
        pairs, desc='scoring', unit='frame', disable=None
    ):
        frame = ConfusionMatrix(ontology)
        try:
            labels = _decode_labels(bag, label_topic, label_message, stamp)
            mask = decode_labels(mask_message).astype(np.uint8, copy=False)
            frame.add(labels, mask)
        except MetricsError as err:
            raise BagError(f'Label image of {label_topic!r} with stamp {stamp} ns: {err}') from err
        if depth is not None:
            depth.score(stamp, labels, mask)
        block = f'block {len(frame_miou) // BLOCK_FRAMES}'
        by_block[block] = by_block.get(block, np.int64(0)) + frame.counts
        matrix.counts += frame.counts
        frame_miou[stamp] = frame.miou_present
    return LabelScore(
        matrix,
        by_block,
        frame_miou,
        labels=bag.topics[label_topic].count,
        labels_without_frame=bag.topics[label_topic].count - len(frame_miou),
        frames_without_label=masks.topics[MASK_TOPIC].count - len(frame_miou),
    )


def shown_frames(
    bag: Bag, topic: str, masks: Bag, stamps: Collection[int]
) -> dict[int, ShownFrame]:
    """Fetch frame, mask and confidence of some stamps."""
    frames: dict[int, ShownFrame] = {}
    confidences: dict[int, Image] = {}
    if CONFIDENCE_TOPIC in masks.topics:
        for raw in masks.messages(CONFIDENCE_TOPIC):
            if header_stamp_ns(raw.cdr) in stamps:
                confidence = decode_labels(masks.deserialize(raw)).astype(np.uint8, copy=False)
                confidences[header_stamp_ns(raw.cdr)] = confidence
    for stamp, image, mask in pair_by_stamp((bag, topic), (masks, MASK_TOPIC), stamps):
        frames[stamp] = ShownFrame(
            stamp,
            decode_frame(bag, topic, image),
            decode_labels(mask).astype(np.uint8, copy=False),
            confidences.get(stamp),
        )
    return frames


def select_frames(stamps: Collection[int], score: LabelScore | None) -> list[tuple[int, str]]:
    """Choose what the report shows: (stamp, title), the best and worst, or an even spread."""
    start = min(stamps)

    def title(prefix: str, stamp: int) -> str:
        return f'{prefix}{(stamp - start) / 1e9:.1f} s into the drive'

    miou_of = {} if score is None else score.frame_miou
    scored = [
        (miou, stamp) for stamp, miou in miou_of.items() if stamp in stamps and not np.isnan(miou)
    ]
    if len(scored) > _SHOWN_FRAMES:
        scored.sort(reverse=True)
        half = _SHOWN_FRAMES // 2
        return [
            (stamp, title(f'{rank}, mIoU {miou:.2f}, ', stamp))
            for rank, chosen in (('best', scored[:half]), ('worst', scored[-half:]))
            for miou, stamp in chosen
        ]
    ordered = sorted(stamps)
    positions = np.linspace(0, len(ordered) - 1, min(_SHOWN_FRAMES, len(ordered)))
    return [(ordered[round(at)], title('', ordered[round(at)])) for at in positions]


def frames_sheet(
    bag: Bag, topic: str, masks: Bag, chosen: Sequence[tuple[int, str]], ontology: Ontology
) -> Image:
    """Draw the chosen frames with their masks, confidences and the legend, (H, W, 3) RGB."""
    frames = shown_frames(bag, topic, masks, {stamp for stamp, _ in chosen})
    rows = [frames[stamp] for stamp, _ in chosen]
    return contact_sheet(
        [(row.rgb, row.mask, row.confidence) for row in rows],
        ontology,
        [title for _, title in chosen],
    )


def percentiles(latencies_ms: Sequence[float]) -> Percentiles:
    """Return the percentiles of all latencies of a run."""
    window = LatencyWindow(max(1, len(latencies_ms)))
    for latency_ms in latencies_ms:
        window.add(latency_ms)
    return window.percentiles()


def run_document(
    command: str, bag: Bag, image_topic: str, label_topic: str | None, bundle: Bundle
) -> dict[str, Any]:
    """Return the part of metrics.json that says what was run on what."""
    ontology = bundle.metadata.ontology
    return {
        'schema': 1,
        'command': command,
        'created': datetime.now(timezone.utc).isoformat(timespec='seconds'),
        'bag': {
            'path': str(bag.path),
            'image_topic': image_topic,
            'label_topic': label_topic,
            'start_ns': bag.start_ns,
            'duration_s': bag.duration_ns / 1e9,
        },
        'bundle': bundle_document(bundle),
        'ontology': {'name': ontology.name, 'sha256': ontology.sha256},
        'environment': environment(),
    }


def bundle_document(bundle: Bundle) -> dict[str, str]:
    """Return the part of metrics.json that says which bundle was run."""
    return {
        'path': str(bundle.path),
        'name': bundle.metadata.name,
        'sha256': bundle.sha256,
        'precision': bundle.metadata.precision,
    }


def labels_document(bag: Bag, topic: str | None, score: LabelScore | None) -> dict[str, Any]:
    """Return the part of metrics.json that says how well the masks fit the labels."""
    if topic is None or score is None:
        return {'labels': None, 'segmentation': None}
    return {
        'labels': {
            'topic': topic,
            'images': score.labels,
            'matched': len(score.frame_miou),
            'without_frame': score.labels_without_frame,
            'frames_without_label': score.frames_without_label,
            'ontology_recorded': bag.ontology_sha256(topic) is not None,
        },
        'segmentation': score.matrix.to_dict(),
    }


def score_facts(metrics: Mapping[str, Any]) -> list[Fact]:
    """Return the headline's mIoU, or nothing where nothing was scored."""
    segmentation = metrics['segmentation']
    if segmentation is None or segmentation['miou_present'] is None:
        return []
    present = sum(entry['pixels'] > 0 for entry in segmentation['classes'])
    matched = metrics['labels']['matched']
    return [
        Fact(
            'mIoU',
            f'{segmentation["miou_present"]:.3f}',
            f'{present} of {len(segmentation["classes"])} classes in {matched} labelled frames',
        )
    ]


def score_sections(metrics: Mapping[str, Any], ontology: Ontology) -> list[Section]:
    """Return the report's part on classes, or nothing where nothing was scored."""
    segmentation, labels = metrics['segmentation'], metrics['labels']
    if segmentation is None or segmentation['miou_present'] is None:
        return []
    note = (
        f'Mean IoU {segmentation["miou_present"]:.3f} over the classes with labelled pixels, '
        f'{segmentation["miou_all"]:.3f} over all with absent ones as 0; pixel accuracy '
        f'{segmentation["pixel_accuracy"]:.3f}. {labels["matched"]} frames scored; '
        f'{labels["without_frame"]} label images had no mask of their stamp, '
        f'{labels["frames_without_label"]} masks no label.'
    )
    if not labels['ontology_recorded']:
        note += ' The bag does not record which ontology its labels follow.'
    return [
        classes_section(segmentation, ontology, note),
        confusion_section(segmentation, ontology),
    ]


def source_section(metrics: Mapping[str, Any]) -> Section:
    """Return the report's table of what was run on what."""
    bag, bundle, engine = metrics['bag'], metrics['bundle'], metrics['engine']
    return pairs_section(
        'Source',
        {
            'bag': f'{bag["path"]}, {bag["duration_s"]:.1f} s',
            'image topic': bag['image_topic'],
            'label topic': bag['label_topic'] or 'none',
            'bundle': f'{bundle["name"]} ({bundle["precision"]}), {bundle["path"]}',
            'bundle SHA-256': bundle['sha256'],
            'ontology': f'{metrics["ontology"]["name"]}, SHA-256 {metrics["ontology"]["sha256"]}',
            'engine': f'{engine["backend"]} on {engine["device"]}, confidence threshold '
            f'{engine["confidence_threshold"]:g}',
            **_filter_rows(metrics.get('temporal_filter')),
        },
    )


def _filter_rows(temporal: Mapping[str, Any] | None) -> dict[str, str]:
    if temporal is None:
        return {}
    resets = temporal['frames_without_history']
    return {
        'temporal filter': f'alpha {temporal["alpha"]:g}, {temporal["blended_share"]:.1%} of the '
        f'pixels had a history, {temporal["filter_ms"]["p50"]:.1f} ms (p50); frames without one: '
        + ', '.join(f'{count} ({reason})' for reason, count in resets.items())
    }


def _write_evaluation_report(
    path: Path,
    metrics: Mapping[str, Any],
    runs: Mapping[str, SegmentedBag],
    sheet: Image,
    ontology: Ontology,
) -> None:
    """Write the page on the first of `runs`, by their names, and on both where there are two."""
    frames, latency, against = metrics['frames'], metrics['latency_ms'], metrics['against']
    bag = metrics['bag']
    run = next(iter(runs.values()))
    comparison = None if against is None else against['comparison']
    headline = [
        Fact('frames', f'{frames["in"]}', f'{bag["duration_s"]:.1f} s of {bag["image_topic"]}'),
        Fact('masks', f'{frames["out"]}', f'{len(frames["bad"])} frames left out'),
        Fact('inference p50', f'{latency["inference"]["p50"]:.1f} ms', 'of this machine'),
        Fact('inference p99', f'{latency["inference"]["p99"]:.1f} ms', 'of this machine'),
        *score_facts(metrics),
        *flicker_facts(metrics['flicker']),
        *depth_facts(metrics['depth']),
        *comparison_facts(comparison),
    ]
    times_s = [(at - bag['start_ns']) / 1e9 for at in run.log_times_ns]
    both = [metrics] if against is None else [metrics, against]
    sections = [
        *comparison_sections(
            comparison,
            [of['latency_ms']['total']['p50'] for of in both],
            [None if of['depth'] is None else of['depth']['range_bands'] for of in both],
        ),
        images_section('Frames', [('camera frame, class mask and confidence', sheet)]),
        *score_sections(metrics, ontology),
        *flicker_sections(
            metrics['flicker'],
            {name: of.flicker.line(bag['start_ns']) for name, of in runs.items()},
        ),
        *depth_sections(metrics['depth']),
        latency_section(
            'Inference',
            run.inference_ms,
            times_s,
            note=f'Time in the engine per frame; decoding took another '
            f'{latency["decode"]["p50"]:.1f} ms (p50).',
        ),
    ]
    if run.bad:
        rows = {f'{bad.stamp_ns} ns': bad.error for bad in run.bad}
        sections.append(pairs_section('Frames left out', rows, 'By the stamp in the header.'))
    sections += [source_section(metrics), environment_section(metrics['environment'])]
    title = f'Evaluation of {Path(bag["path"]).name}'
    subtitle = [f'{" and ".join(runs)} on every frame of {bag["image_topic"]}, once.']
    write_report(path, title, subtitle, headline, sections)


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
        _write_evaluation_report(new / REPORT, metrics, runs, sheet, ontology)
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


def _run_results(
    segmenter: Segmenter, run: SegmentedBag, score: LabelScore | None, depth: BagDepth | None
) -> dict[str, Any]:
    """Return the part of metrics.json that each of two models has."""
    return {
        'engine': {
            'backend': segmenter.engine.backend,
            'device': segmenter.engine.device,
            'confidence_threshold': segmenter.confidence_threshold,
        },
        'temporal_filter': None
        if segmenter.temporal is None
        else {
            'alpha': segmenter.temporal.alpha,
            'filter_ms': percentiles(run.filter_ms),
            'blended_share': float(np.mean(run.blended_share)),
            'frames_without_history': segmenter.temporal.resets,
        },
        'frames': {
            'in': run.frames_in,
            'out': len(run.inference_ms),
            'bad': [{'stamp_ns': bad.stamp_ns, 'error': bad.error} for bad in run.bad],
            'repeated_stamps': run.repeated_stamps,
        },
        'latency_ms': {
            'decode': percentiles(run.decode_ms),
            'inference': percentiles(run.inference_ms),
            'total': percentiles(run.total_ms),
        },
        'flicker': run.flicker.to_dict(),
        'depth': None
        if depth is None
        else depth.document(
            run.frames_in,
            with_labels=score is not None,
            used_by_model=segmenter.takes_depth,
        ),
    }


def check_depth(bag: Bag, image_topic: str, bundle: Bundle, depth_topic: str | None) -> None:
    """Raise BagError unless the bag gives the depth that `bundle` takes, on a topic of its own."""
    if depth_topic is not None:
        bag.topic(depth_topic)
        if depth_topic == image_topic:
            raise BagError(f'{depth_topic!r} is given as topic of the images and of their depth.')
        return
    if bundle.metadata.modality == 'rgb':
        return
    others = [
        name for name, topic in bag.topics.items() if topic.type in IMAGE_TYPES and 'depth' in name
    ]
    raise BagError(
        f'Bundle {bundle.metadata.name!r} takes RGB and depth, but no depth topic was given; pass '
        f'--depth TOPIC, or use an rgb bundle. Topics of bag {str(bag.path)!r} that look like '
        f'depth beside {image_topic!r}: {", ".join(others) or "none"}.'
    )


def _milliseconds(text: str) -> float:
    value = float(text)
    if not (isfinite(value) and value >= 0):
        raise argparse.ArgumentTypeError(f'{text} is not 0 or more milliseconds')
    return value


def _alpha(text: str) -> float:
    value = float(text)
    if not 0 <= value <= MAX_ALPHA:
        raise argparse.ArgumentTypeError(f'{text} is not from 0 to {MAX_ALPHA}')
    return value


def _segmenter(bundle: Path, alpha: float | None, options: argparse.Namespace) -> Segmenter:
    engine = load_engine(read_bundle(bundle), options.backend)
    temporal = None if alpha is None else TemporalFilter(alpha)
    segmenter = Segmenter(engine, options.confidence_threshold, temporal)
    # As in the node: what an engine loads with its first frame is not that frame's time.
    height, width = np.maximum(engine.bundle.metadata.network_size_hw, MIN_SIZE_HW)
    segmenter.segment(np.zeros((height, width, 3), np.uint8))
    return segmenter


def _parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog='python -m desertmind_seg.evaluate_bag',
        description='Segment every frame of a bag once; write masks, metrics and a report.',
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('bag', type=Path, help='rosbag2 folder, .mcap, .db3 or ROS 1 .bag')
    parser.add_argument('--image', required=True, metavar='TOPIC', help='raw or compressed images')
    parser.add_argument('--labels', metavar='TOPIC', help='label images of class ids, same stamps')
    parser.add_argument(
        '--depth',
        metavar='TOPIC',
        help='depth registered to the images (raw or compressedDepth): input of rgbd bundles, and '
        'scores by distance for all',
    )
    parser.add_argument(
        '--max-dt-ms',
        type=_milliseconds,
        default=MAX_DT_MS,
        metavar='MS',
        help='how far apart the stamps of an image and its depth may be (%(default)g)',
    )
    parser.add_argument(
        '--max-wait-ms',
        type=_milliseconds,
        default=MAX_WAIT_MS,
        metavar='MS',
        help='how long an image waits for its depth, by the log time (%(default)g)',
    )
    parser.add_argument('--bundle', type=Path, help=f'model to run ({DEFAULT_BUNDLE})')
    parser.add_argument(
        '--against',
        type=Path,
        metavar='BUNDLE',
        help='a second model for the same frames; the report says which differences are real',
    )
    for option, which in (('', 'the model'), ('against-', 'the model of --against')):
        parser.add_argument(
            f'--{option}temporal-alpha',
            type=_alpha,
            metavar='ALPHA',
            help=f'weight of the frames before, 0 to {MAX_ALPHA}, for {which}: steadier masks '
            '(default: each frame on its own)',
        )
    parser.add_argument('--backend', default='auto', choices=('auto', *BACKENDS))
    parser.add_argument('--confidence-threshold', type=float, default=0.0, metavar='P')
    parser.add_argument('--out', type=Path, required=True, metavar='DIR', help='where results go')
    parser.add_argument('--force', action='store_true', help='replace results of an earlier run')
    options = parser.parse_args(arguments)
    if options.against is None and options.against_temporal_alpha is not None:
        parser.error('--against-temporal-alpha needs --against')
    return options


def main(arguments: list[str] | None = None) -> int:
    """Evaluate a bag from the command line; the module's docstring has the exit status."""
    logging.basicConfig(level=logging.INFO, format='%(message)s')
    options = _parse_arguments(arguments)
    try:
        bundle = options.bundle or share_path(DEFAULT_BUNDLE)
        segmenter = _segmenter(bundle, options.temporal_alpha, options)
        against = None
        if options.against is not None:
            against = _segmenter(options.against, options.against_temporal_alpha, options)
        depth = None
        if options.depth is not None:
            depth = DepthTopic(options.depth, options.max_dt_ms, options.max_wait_ms)
        metrics = evaluate_bag(
            options.bag,
            options.image,
            options.labels,
            segmenter,
            options.out,
            against=against,
            depth=depth,
            force=options.force,
        )
    except (
        BagError,
        BundleError,
        ComparisonError,
        EngineError,
        FileExistsError,
        FileNotFoundError,
    ) as err:
        print(f'evaluate_bag: {err}', file=sys.stderr)
        return 2
    frames, inference = metrics['frames'], metrics['latency_ms']['inference']
    print(f'{frames["out"]} of {frames["in"]} frames segmented.')
    print(
        f'Inference p50 {inference["p50"]:.1f}, p95 {inference["p95"]:.1f}, '
        f'p99 {inference["p99"]:.1f} ms on this machine.'
    )
    facts = [
        *score_facts(metrics),
        *flicker_facts(metrics['flicker']),
        *depth_facts(metrics['depth']),
    ]
    for fact in facts:
        print(f'{fact.label} {fact.value} ({fact.note}).')
    if metrics['against'] is not None:
        for sentence in metrics['against']['comparison']['sentences']:
            print(f'{sentence}.')
    print(f'Report: {options.out / REPORT}\nMetrics: {options.out / METRICS}')
    print(f'Masks: {options.out / MASKS}')
    if metrics['depth'] is not None:
        problems = [entry['error'] for entry in metrics['depth']['problems']]
        for text in filter(None, [metrics['depth']['hint'], *problems]):
            print(f'Depth: {text}', file=sys.stderr)
    if frames['bad']:
        print(f'{len(frames["bad"])} frames were left out, see the report.', file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
