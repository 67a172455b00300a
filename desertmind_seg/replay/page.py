"""report.html of a replay."""

from collections.abc import Sequence
from pathlib import Path

from desertmind_seg.evaluation.pictures import ShownFrame, shown_section
from desertmind_seg.evaluation.sections import (
    bag_sections,
    score_facts,
    score_sections,
    source_section,
)
from desertmind_seg.model.ontology import Ontology
from desertmind_seg.replay.node_process import NODE_LOG
from desertmind_seg.replay.results import NodeStatus, ReplayFrames, ReplayMetrics
from desertmind_seg.replay.through_node import Replay
from desertmind_seg.replay.video import MAX_VIDEO_RATE_HZ, VIDEO
from desertmind_seg.reports.distributions import latency_section
from desertmind_seg.reports.page import Fact, write_report
from desertmind_seg.reports.pictures import video_section
from desertmind_seg.reports.tables import Group, environment_section, groups_section

_LEVELS = ('ok', 'warning', 'error', 'stale')


def write_replay_report(
    path: Path,
    metrics: ReplayMetrics,
    result: Replay,
    ontology: Ontology,
    spread: Sequence[ShownFrame],
    extremes: Sequence[ShownFrame],
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
    sections = [shown_section('Frames', spread, ontology)]
    if video:
        sections.append(
            video_section(
                'Drive',
                VIDEO,
                f'Masks that came back, in real time, at most {MAX_VIDEO_RATE_HZ:g} a second.',
            )
        )
    if extremes:
        note = 'By mean IoU over the classes that are labelled in the frame.'
        sections.append(shown_section('Best and worst frames', extremes, ontology, note=note))
    node = metrics.node
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
        groups_section(
            'Node',
            [
                Group('Process', f'exit status {node.exit_status}', not node.exit_status, '', {}),
                *(_diagnostics(name, node.diagnostics[name]) for name in sorted(node.diagnostics)),
            ],
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


def _diagnostics(name: str, status: NodeStatus) -> Group:
    return Group(name, _LEVELS[status.level], not status.level, status.message, status.values)


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
