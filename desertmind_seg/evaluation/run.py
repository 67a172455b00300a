"""Segments every frame of a bag once, and scores the masks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
import sys

from tqdm import tqdm

from desertmind_seg.bag_geometry.hazards import GeometryTopics, Judged, RecordedHazards
from desertmind_seg.bag_geometry.pictures import HazardPictures
from desertmind_seg.evaluation.depth import DepthTopic, RecordedDepth, check_depth
from desertmind_seg.evaluation.frames import Frame, RecordedFrames
from desertmind_seg.evaluation.labels import (
    LabelCodes,
    LabelScore,
    RecordedLabels,
    bag_label_map,
)
from desertmind_seg.evaluation.model_run import ModelRun, run_names
from desertmind_seg.evaluation.page import write_evaluation_report
from desertmind_seg.evaluation.pictures import FrameSources, ShownFrame, select_frames
from desertmind_seg.evaluation.results import (
    MASKS,
    MASKS_AGAINST,
    METRICS,
    REPORT,
    Against,
    BagInfo,
    EvaluationMetrics,
    OntologyInfo,
)
from desertmind_seg.hazards.records import HazardSettings
from desertmind_seg.messages.bag_writer import mask_writer
from desertmind_seg.messages.bags import Bag, BagError
from desertmind_seg.messages.compressed_format import CompressedColors
from desertmind_seg.model.arrays import Mask
from desertmind_seg.model.ontology import Ontology
from desertmind_seg.model.records import Environment, utc_now
from desertmind_seg.pipeline.progress import Progress
from desertmind_seg.pipeline.segmenter import Segmentation, Segmenter
from desertmind_seg.reports.output import output_folder, write_json
from desertmind_seg.reports.provenance import environment
from desertmind_seg.scores.comparison import compare
from desertmind_seg.viewer.frames import FrameViewer, ViewedFrame, frame_viewer

# So many bad frames are said as they come; all of them are counted.
_MAX_SAID = 5
# Is shown each good frame, what the models found in it, in their order, and what geometry did.
Watch = Callable[[Frame, Sequence[Segmentation], 'Judged | None'], None]


@dataclass(frozen=True)
class BagInputs:
    """What is read of a bag.

    Attributes:
        image: topic of raw or compressed images.
        labels: topic of label images; None without.
        label_codes: what these hold.
        label_bag: the bag that has them; None for the one that has the images.
        depth: topic of depth; None without.
        geometry: where camera and gravity are described.
        hazard_settings: when geometry is a hazard; None: the node's defaults.
        compressed_colors: how compressed images are read.
        labels_ontology: class table of the labels; None for what the bag says.
        label_map: as for `parse_label_map`, what each class of another table is to the model.
    """

    image: str
    labels: str | None = None
    label_codes: LabelCodes = 'ids'
    label_bag: Path | None = None
    depth: DepthTopic | None = None
    geometry: GeometryTopics = field(default_factory=GeometryTopics)
    hazard_settings: HazardSettings | None = None
    compressed_colors: CompressedColors = 'auto'
    labels_ontology: Ontology | None = None
    label_map: Sequence[str] = ()


@dataclass(frozen=True)
class ScoredBag:
    """A bag after every frame of it was segmented.

    Attributes:
        metrics: of all of it.
        runs: one a model.
        frames: as they came.
        shown: the frames that a report shows.
        pictures: of what geometry found.
    """

    metrics: EvaluationMetrics
    runs: list[ModelRun]
    frames: RecordedFrames
    shown: list[ShownFrame]
    pictures: HazardPictures


def evaluate_bag(
    bag_path: Path,
    inputs: BagInputs,
    segmenter: Segmenter,
    out: Path,
    *,
    against: Segmenter | None = None,
    rerun: str | None = None,
    force: bool = False,
) -> EvaluationMetrics:
    """Segment and score a bag; write masks/, metrics.json and report.html; return the metrics.

    The bag is read three times at most: once for its labels, which are checked before hours go
    into inference, once for CameraInfo and /tf, and once for frames and depth. The index finds the
    few frames that the report shows.

    An rgbd bundle needs depth; with every bundle it measures range, and is what geometry judges:
    then masks are scored alone and with geometry. With `against` both models see each frame, one
    after the other, and are compared. With `rerun`, as `open_recording` takes it, what the first
    model says is shown frame by frame.

    Raises:
        FileNotFoundError: There is no such bag.
        FileExistsError: `out` holds results and `force` is false.
        BagError: The bag lacks what was asked for, or none of its frames could be segmented.
        ComparisonError: `segmenter` and `against` cannot be compared.
        EngineError: The engine failed.
        LabelMapError: The labels are of other classes, and no map says which.
        ViewerError: As `open_recording`.
    """
    results = (MASKS, MASKS_AGAINST, METRICS, REPORT)
    with Bag(bag_path) as bag, output_folder(out, results, replace=force) as new:
        scored = score_bag(bag, inputs, segmenter, new, against=against, rerun=rerun)
        metrics, runs, times_ns = scored.metrics, scored.runs, scored.frames.times_ns
        write_json(new / METRICS, metrics.model_dump(by_alias=True))
        log_times_ns = scored.frames.log_times_ns()
        times_s = {stamp: (at_ns - bag.start_ns) / 1e9 for stamp, at_ns in log_times_ns.items()}
        write_evaluation_report(
            new / REPORT,
            metrics,
            ([(at_ns - bag.start_ns) / 1e9 for _, at_ns in times_ns], runs[0].inference_ms),
            {run.name: run.flicker.line(times_s) for run in runs},
            scored.shown,
            scored.pictures,
            segmenter.ontology,
        )
    return metrics


def score_bag(
    bag: Bag,
    inputs: BagInputs,
    segmenter: Segmenter,
    folder: Path,
    *,
    against: Segmenter | None = None,
    watch: Watch | None = None,
    rerun: str | None = None,
) -> ScoredBag:
    """Segment and score an open bag as `evaluate_bag` does; write masks/ below `folder`.

    Raises:
        BagError, ComparisonError, EngineError, ViewerError: as `evaluate_bag`.
    """
    ontology = segmenter.ontology
    segmenters = [segmenter] if against is None else [segmenter, against]
    names = run_names(segmenters)
    image_topic, label_topic, depth = inputs.image, inputs.labels, inputs.depth
    bag.compressed_colors = inputs.compressed_colors
    bag.topic(image_topic)
    for each in segmenters:
        check_depth(bag, image_topic, each.engine.bundle, None if depth is None else depth.name)
    labels = _read_labels(bag, inputs, ontology)
    bag_depth = hazards = None
    if depth is not None:
        bag_depth = RecordedDepth(bag, depth, image_topic)
        hazards = RecordedHazards(
            bag, image_topic, depth.name, inputs.geometry, inputs.hazard_settings
        )
    pictures = HazardPictures(ontology, labelled=labels is not None)
    frames = RecordedFrames(bag, image_topic, bag_depth)
    with ExitStack() as stack:
        runs: list[ModelRun] = []
        for name, each, masks_name in zip(names, segmenters, (MASKS, MASKS_AGAINST), strict=False):
            writer = stack.enter_context(
                mask_writer(folder / masks_name, ontology, bag.start_ns, each.confidence_threshold)
            )
            score = None
            if labels is not None:
                kinds = None if hazards is None else hazards.truth.kinds
                score = LabelScore(labels, kinds)
            runs.append(ModelRun(name, each, writer, score, None if runs else pictures))
        viewer = rerun and stack.enter_context(frame_viewer(rerun, ontology))
        _segment(frames, runs, hazards, watch, viewer or None)
    score = runs[0].score
    metrics = EvaluationMetrics(
        **dict(runs[0].metrics(frames, bag_depth, hazards)),
        command='evaluate_bag',
        created=utc_now(),
        bag=BagInfo.of(bag, image_topic, label_topic),
        ontology=OntologyInfo.of(ontology),
        labels=None if score is None else score.counts(),
        environment=Environment.model_validate(environment()),
        against=None
        if against is None
        else Against(
            **dict(runs[1].metrics(frames, bag_depth, hazards)),
            comparison=compare(runs[0].compared(), runs[1].compared(), ontology),
        ),
    )
    shown = _shown_frames(bag, inputs, frames, runs, labels, folder)
    return ScoredBag(metrics, runs, frames, shown, pictures)


def _shown_frames(
    bag: Bag,
    inputs: BagInputs,
    frames: RecordedFrames,
    runs: Sequence[ModelRun],
    labels: RecordedLabels | None,
    folder: Path,
) -> list[ShownFrame]:
    """Read the frames of the page, with the masks that the runs have written below `folder`."""
    score, log_times_ns = runs[0].score, frames.log_times_ns()
    chosen = select_frames(list(log_times_ns), {} if score is None else score.frame_miou)
    depth_topic = None if inputs.depth is None else inputs.depth.name
    with ExitStack() as stack:
        names = (MASKS, MASKS_AGAINST)[: len(runs)]
        masks = [stack.enter_context(Bag(folder / name)) for name in names]
        sources = FrameSources(
            bag,
            inputs.image,
            masks,
            log_times_ns,
            labels,
            depth_topic,
            frames.depth_log_times_ns,
        )
        return sources.read(chosen)


def _read_labels(bag: Bag, inputs: BagInputs, ontology: Ontology) -> RecordedLabels | None:
    if inputs.labels is None:
        return None
    with ExitStack() as stack:
        of = bag if inputs.label_bag is None else stack.enter_context(Bag(inputs.label_bag))
        mapped = bag_label_map(
            of, inputs.labels, ontology, inputs.labels_ontology, inputs.label_map
        )
        labels = RecordedLabels(of, inputs.labels, ontology, inputs.label_codes, mapped)
        if of is not bag:
            for loss in of.findings.losses:
                bag.findings.lose(f'of the bag of labels: {loss}')
        return labels


def _segment(
    frames: RecordedFrames,
    runs: list[ModelRun],
    hazards: RecordedHazards | None,
    watch: Watch | None,
    viewer: FrameViewer | None,
) -> None:
    """Show every frame to geometry, to every model, and to who watches."""
    for number, frame in enumerate(Progress(frames, desc='segmenting', unit='frame')):
        if isinstance(frame, Frame):
            judged = None
            if hazards is not None:
                times_ns = (frame.stamp_ns, frame.log_time_ns)
                height, width = frame.rgb.shape[:2]
                judged = hazards.judge(frame.header, times_ns, (height, width), frame.depth)
            said = [run.add(frame, judged) for run in runs]
            if watch is not None:
                watch(frame, [found for found, _ in said], judged)
            if viewer is not None:
                _view(viewer, number, frame, said[0], hazards, judged)
        else:
            for run in runs:
                run.reset()
            if frames.bad.count <= _MAX_SAID:
                text = f'Frame with stamp {frame.stamp_ns} ns left out: {frame.error}'
                tqdm.write(text, file=sys.stderr)
    if not frames.times_ns:
        first = frames.bad.first[0].error if frames.bad.first else 'lost, its bytes are damaged'
        raise BagError(
            f'None of the {len(frames)} frames of {frames.topic!r} could be segmented; the first '
            f'one: {first}'
        )


def _view(
    viewer: FrameViewer,
    number: int,
    frame: Frame,
    said: tuple[Segmentation, Mask | None],
    hazards: RecordedHazards | None,
    judged: Judged | None,
) -> None:
    found, labels = said
    rays = None
    if hazards is not None and frame.depth is not None:
        size_hw = (frame.rgb.shape[0], frame.rgb.shape[1])
        rays = hazards.rays(frame.header, frame.stamp_ns, size_hw)
    judgement = None if judged is None else judged.hazards
    kind = None if judgement is None else judgement.kind
    viewer.log(
        number,
        frame.stamp_ns,
        ViewedFrame(frame.rgb, found.mask, found.confidence, frame.depth, rays, kind, labels),
    )
