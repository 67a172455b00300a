"""report.html of a replay."""

from pathlib import Path

from desertmind_seg.evaluation.pictures import SHEET_CAPTION
from desertmind_seg.evaluation.sections import (
    bag_sections,
    score_facts,
    score_sections,
    source_section,
)
from desertmind_seg.model.arrays import Rgb
from desertmind_seg.model.ontology import Ontology
from desertmind_seg.replay.node_process import NODE_LOG
from desertmind_seg.replay.results import ReplayFrames, ReplayMetrics
from desertmind_seg.replay.through_node import Replay
from desertmind_seg.replay.video import MAX_VIDEO_RATE_HZ, VIDEO
from desertmind_seg.reports.charts import latency_section
from desertmind_seg.reports.page import Fact, write_report
from desertmind_seg.reports.tables import (
    environment_section,
    images_section,
    pairs_section,
    video_section,
)


def write_replay_report(
    path: Path,
    metrics: ReplayMetrics,
    result: Replay,
    ontology: Ontology,
    sheet: Rgb,
    extremes: Rgb | None,
    *,
    video: bool,
) -> None:
    """Write the page with frames from all over the drive, and the best and worst with labels."""
    bag, frames, latency = metrics.bag, metrics.frames, metrics.latency_ms.publish_to_mask
    headline = [
        Fact('frames in', f'{frames.in_}', f'{bag.duration_s:.1f} s of {bag.image_topic}'),
        Fact('masks out', f'{frames.out}', what_became_of(frames)),
        Fact('latency p50', f'{latency.p50:.0f} ms', 'frame published to mask received'),
        Fact('latency p95', f'{latency.p95:.0f} ms', f'p99 {latency.p99:.0f} ms'),
        *score_facts(metrics),
    ]
    sections = [images_section('Frames', [(SHEET_CAPTION, sheet)])]
    if video:
        sections.append(
            video_section(
                'Drive',
                VIDEO,
                f'Masks that came back, in real time, at most {MAX_VIDEO_RATE_HZ:g} a second.',
            )
        )
    if extremes is not None:
        caption = 'by mean IoU over the classes that are labelled in the frame'
        sections.append(images_section('Best and worst frames', [(caption, extremes)]))
    start_ns = result.frame_stamps_ns[0]
    masked = set(result.mask_stamps_ns)
    sections += [
        *score_sections(metrics, ontology),
        latency_section(
            'Latency',
            result.latencies_ms,
            [(stamp - start_ns) / 1e9 for stamp in result.mask_stamps_ns],
            [(stamp - start_ns) / 1e9 for stamp in result.frame_stamps_ns if stamp not in masked],
            'From just before a frame was published to the arrival of its mask, both measured in '
            'this process, on this machine. The newest frame wins: a frame that arrives while '
            'the node is busy replaces the one that waits.',
        ),
        pairs_section(
            'Node',
            {
                'exit status': metrics.node.exit_status,
                **{
                    name: f'{status.message} '
                    + ', '.join(f'{key}: {value}' for key, value in status.values.items())
                    for name, status in sorted(metrics.node.diagnostics.items())
                },
            },
            f'Its last report on /diagnostics. What it printed is in {NODE_LOG}.',
        ),
        *bag_sections(metrics),
        source_section(metrics),
        environment_section(metrics.environment.model_dump()),
    ]
    title = f'Replay of {Path(bag.path).name}'
    subtitle = [
        f'{bag.image_topic} played over DDS to the segmentation node in a process of its own, '
        f'at {metrics.play.rate:g} times the speed of the recording.'
    ]
    write_report(path, title, subtitle, headline, sections)


def what_became_of(frames: ReplayFrames) -> str:
    """Write out what became of the frames without a mask."""
    numbers = {
        'superseded or dropped': frames.dropped,
        'with the stamp of another': frames.repeated_stamps,
        'damaged': frames.damaged,
        'refused by the middleware': frames.refused,
        'lost in the bag': frames.lost,
    }
    text = ', '.join(f'{count} {what}' for what, count in numbers.items() if count)
    reasons = ', '.join(f'{count} {reason}' for reason, count in frames.dropped_by_reason.items())
    return (text or 'a mask for each frame') + (f' (the node says: {reasons})' if reasons else '')
