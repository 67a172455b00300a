"""The node under twice the load that it can carry, for long; `make soak` runs it.

    python test/soak/run.py --minutes 30 --out out/soak

The node runs with depth, hazards, points, costmap and simulated time. Around it: a camera at
twice the rate that the node reaches here, one frame in a hundred damaged, a clock that jumps;
consumers that come, go and are killed; parameters set at 50 Hz; lifecycle transitions, raw and
compressed images in turn. In the second half the node rests each minute, but is not cleaned up:
what would grow within one life shows there.

Writes report.html, samples.json and node.log; exits with 1 when something grew, fell silent, got
too old or went unanswered (see measurements.py for the limits), or when no frame had geometry.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
import os
from pathlib import Path
import random
import signal
import subprocess
import sys
import time
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / 'test'), str(ROOT / 'test/integration')]

from lifecycle_msgs.msg import Transition
from measurements import Finding, Rest, Sample, judge, sample_process
from node_process import DEADLINE_SEC, MASK, NODE, SENSOR_QOS, NodeProcess, Peer
from rcl_interfaces.msg import Parameter
from rcl_interfaces.srv import SetParameters
from rclpy.parameter import Parameter as RclpyParameter
from rclpy.qos import qos_profile_parameters
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image
from traffic import COMPRESSED, DEPTH, IMAGE, INFO, JUMP_SEC

from desertmind_seg.messages.dds import with_image_profile
from desertmind_seg.model.files import share_path
from desertmind_seg.model.processes import ending_with_us
from desertmind_seg.reports.charts import Chart, charts_section
from desertmind_seg.reports.output import write_json
from desertmind_seg.reports.page import Fact, write_report
from desertmind_seg.reports.provenance import environment
from desertmind_seg.reports.tables import environment_section, table_section

HERE = Path(__file__).resolve().parent
MAX_AGE_MS = 500
STORM_HZ, STORM_SEC, STORM_EVERY_SEC = 50.0, 10.0, 40.0
LIFECYCLE_EVERY_SEC, KILL_EVERY_SEC = 60.0, 75.0
# The answer to a parameter request is waited for so long.
ANSWER_SEC = 15.0
# A report comes each second; the first after a jump back has forgotten what was before.
REPORT_SEC = 2.0
PARAMETERS: dict[str, Any] = {
    'autostart': 'true',
    'use_sim_time': 'true',
    'input.max_age_ms': MAX_AGE_MS,
    'hazard.use': 'override',
    'costmap.extrinsics': 'static',
    'costmap.z_m': 1.2,
}
REMAPS = (
    *('-r', f'{IMAGE}/compressed:={COMPRESSED}'),
    *('-r', f'depth/image:={DEPTH}'),
    *('-r', f'camera_info:={INFO}'),
)


class Soak:
    """One run: what goes on around the node, and what is seen of it.

    Args:
        node: the node's process.
        peer: through which it is asked and heard.
        minutes: length.
        dice: of what happens when.
    """

    def __init__(self, node: NodeProcess, peer: Peer, minutes: float, dice: random.Random) -> None:
        self.samples: list[Sample] = []
        self.rests: list[Rest] = []
        self.problems: list[str] = []
        self.requests = {'asked': 0, 'answered': 0}
        self.longest_silence_sec = 0.0
        self.saw_geometry = False
        self._node, self._peer, self._dice = node, peer, dice
        self._end_sec = time.monotonic() + 60 * minutes
        self._begin_sec = time.monotonic()
        self._life = 1
        self._pending: list[tuple[float, Any]] = []
        # As rclcpp's clients do; rclpy's default keeps 10 answers (docs/node.md).
        self._setter = peer.node.create_client(
            SetParameters, f'{NODE}/set_parameters', qos_profile=qos_profile_parameters
        )
        self._latest_mask_sec = time.monotonic()
        peer.node.create_subscription(Image, MASK, self._on_mask, 10, raw=True)
        self._clock_sec, self._ages_from_sec = float('nan'), float('-inf')
        peer.node.create_subscription(Clock, '/clock', self._on_clock, SENSOR_QOS)
        self._transport = 'raw'
        self.half_sec = 30 * minutes
        self.settled_sec = float('inf')

    def run(self) -> None:
        """Let it all happen until the time is over."""
        with ExitStack() as processes:
            consumers = [self._consumer(processes, seed) for seed in range(3)]
            next_sample = next_line = self._begin_sec
            next_storm = self._begin_sec + 10
            next_lifecycle = self._begin_sec + LIFECYCLE_EVERY_SEC
            next_kill = self._begin_sec + KILL_EVERY_SEC
            next_request = storm_end = 0.0
            while (now := time.monotonic()) < self._end_sec and not self.problems:
                self._peer.spin(0.005)
                if now >= next_sample:
                    next_sample = now + 1.0
                    self._sample()
                if now >= next_line:
                    next_line = now + 60.0
                    print(self._line(), flush=True)
                if now >= next_storm:
                    next_storm, storm_end = now + STORM_EVERY_SEC, now + STORM_SEC
                if now < storm_end and now >= next_request:
                    next_request = now + 1 / STORM_HZ
                    self._ask()
                if now >= next_lifecycle:
                    self._turn_lifecycle()
                    next_lifecycle = time.monotonic() + LIFECYCLE_EVERY_SEC
                if now - self._begin_sec >= self.half_sec and self.settled_sec == float('inf'):
                    self._ask_for_masks_alone(processes, consumers)
                    next_kill = time.monotonic() + KILL_EVERY_SEC
                if now >= next_kill:
                    next_kill = now + KILL_EVERY_SEC
                    victim = self._dice.randrange(len(consumers))
                    consumers[victim].send_signal(signal.SIGKILL)
                    consumers[victim] = self._consumer(processes, int(now))
                self._collect_answers()
            answers_until = time.monotonic() + ANSWER_SEC
            while self._pending and time.monotonic() < answers_until:
                self._peer.spin(0.01)
                self._collect_answers()

    def _on_mask(self, _: bytes) -> None:
        now = time.monotonic()
        self.longest_silence_sec = max(self.longest_silence_sec, now - self._latest_mask_sec)
        self._latest_mask_sec = now

    def _on_clock(self, message: Clock) -> None:
        before_sec, self._clock_sec = (
            self._clock_sec,
            message.clock.sec + message.clock.nanosec / 1e9,
        )
        if self._clock_sec - before_sec > JUMP_SEC / 2:
            self._ages_from_sec = float('inf')
        elif self._clock_sec - before_sec < -JUMP_SEC / 2:
            self._ages_from_sec = time.monotonic() + REPORT_SEC

    def _ask_for_masks_alone(
        self, processes: ExitStack, consumers: list[subprocess.Popen[bytes]]
    ) -> None:
        """Let the consumers leave for 3 s: the node then has what it loads for its mask alone."""
        for consumer in consumers:
            consumer.send_signal(signal.SIGINT)  # not killed: the node sees at once that they left
        for consumer in consumers:
            consumer.wait(DEADLINE_SEC)
        until_sec = time.monotonic() + 3.0
        while time.monotonic() < until_sec:
            self._peer.spin(0.05)
        consumers[:] = [self._consumer(processes, seed) for seed in range(len(consumers))]
        self.settled_sec = time.monotonic() - self._begin_sec

    def _consumer(self, processes: ExitStack, seed: int) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            ending_with_us([sys.executable, str(HERE / 'consumers.py'), '--seed', str(seed)]),
            stderr=subprocess.DEVNULL,
        )
        processes.callback(process.wait)
        processes.callback(process.kill)
        return process

    def _sample(self) -> None:
        try:
            figures = sample_process(self._node.pid)
        except OSError:
            self.problems.append(f'the node has ended with status {self._node.wait()}')
            return
        silent_sec = time.monotonic() - self._latest_mask_sec
        self.longest_silence_sec = max(self.longest_silence_sec, silent_sec)
        came_in, went_out, hazards = (
            self._peer.diagnostic(name) for name in ('Input', 'Inference', 'Hazards')
        )
        self.saw_geometry |= float(hazards.get('known_share') or 0) > 0.2
        self._peer.forget_diagnostics()
        age = went_out.get('age_at_publish_ms_p99', '')
        if time.monotonic() < self._ages_from_sec:
            age = ''
        dropped = sum(int(value) for key, value in came_in.items() if key.startswith('dropped_'))
        previous = self.samples[-1] if self.samples else None
        self.samples.append(
            Sample(
                time_sec=time.monotonic() - self._begin_sec,
                rss_mb=figures['rss_mb'],
                shm_mb=figures['shm_mb'],
                threads=int(figures['threads']),
                fds=int(figures['fds']),
                age_ms=float(age) if age else float('nan'),
                received=int(came_in.get('received', previous.received if previous else 0)),
                published=int(went_out.get('published', previous.published if previous else 0)),
                dropped=dropped if came_in else (previous.dropped if previous else 0),
            )
        )

    def _ask(self) -> None:
        name, low, high = self._dice.choice(
            [('confidence.threshold', 0.0, 0.9), ('output.overlay_alpha', 0.0, 1.0)]
        )
        message: Parameter = RclpyParameter(
            name, value=self._dice.uniform(low, high)
        ).to_parameter_msg()
        request = SetParameters.Request(parameters=[message])
        self.requests['asked'] += 1
        self._pending.append((time.monotonic(), self._setter.call_async(request)))

    def _collect_answers(self) -> None:
        now = time.monotonic()
        open_requests = []
        for asked_sec, future in self._pending:
            if future.done():
                self.requests['answered'] += 1
            elif now - asked_sec < ANSWER_SEC:
                open_requests.append((asked_sec, future))
        self._pending = open_requests

    def _turn_lifecycle(self) -> None:
        """Take the node down and up again, with the other transport half of the times."""
        steps = [Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_ACTIVATE]
        now = time.monotonic()
        if now - self._begin_sec < self.half_sec and self._dice.random() < 0.5:
            steps[1:1] = [Transition.TRANSITION_CLEANUP, Transition.TRANSITION_CONFIGURE]
        for step in steps:
            if step == Transition.TRANSITION_CONFIGURE:
                self._transport = 'compressed' if self._transport == 'raw' else 'raw'
                result = self._peer.set_parameter('input.transport', self._transport)
                if not result.successful:
                    self.problems.append(f'input.transport was refused: {result.reason}')
            if not self._peer.transition(step):
                self.problems.append(f'transition {step} failed')
            if step == Transition.TRANSITION_DEACTIVATE:
                rss_mb = sample_process(self._node.pid)['rss_mb']
                self.rests.append(Rest(time.monotonic() - self._begin_sec, rss_mb, self._life))
            self._life += step == Transition.TRANSITION_CONFIGURE
        self._latest_mask_sec = time.monotonic()

    def _line(self) -> str:
        latest = self.samples[-1]
        minutes = (self._end_sec - time.monotonic()) / 60
        return (
            f'{latest.time_sec / 60:5.1f} min, {minutes:.0f} to go: RSS {latest.rss_mb:.1f} MB, '
            f'{latest.threads} threads, {latest.fds} files, {latest.published} masks, '
            f'{latest.dropped} dropped, age {latest.age_ms:.0f} ms'
        )


def start_camera(rate_hz: float, seed: int) -> subprocess.Popen[bytes]:
    """Start the camera's process."""
    arguments = ['--rate-hz', f'{rate_hz:.2f}', '--seed', str(seed)]
    return subprocess.Popen(ending_with_us([sys.executable, str(HERE / 'traffic.py'), *arguments]))


def measure_rate_hz(peer: Peer) -> float:
    """Return how many masks a second the node publishes when it gets as many frames as it can."""
    masks = peer.collect(MASK)
    peer.wait_until(lambda: masks, 'a first mask', 60.0)
    masks.clear()
    begin_sec = time.monotonic()
    while time.monotonic() - begin_sec < 8.0:
        peer.spin(0.05)
    return len(masks) / 8.0


def write_results(
    out: Path, soak: Soak, findings: Sequence[Finding], warm_up_sec: float, rate_hz: float
) -> None:
    """Write the page and the samples."""
    out.mkdir(parents=True, exist_ok=True)
    provenance = environment()
    write_json(
        out / 'samples.json',
        {
            **provenance,
            'findings': [asdict(finding) for finding in findings],
            'rests': [asdict(rest) for rest in soak.rests],
            # JSON has no NaN.
            'samples': [
                {key: None if value != value else value for key, value in asdict(sample).items()}
                for sample in soak.samples
            ],
        },
    )
    minutes = [sample.time_sec / 60 for sample in soak.samples]
    rows = [asdict(sample) for sample in soak.samples]
    charts = [
        Chart('minutes', label, {label: (minutes, [row[name] for row in rows])})
        for name, label in (
            ('rss_mb', 'RSS, MB'),
            ('shm_mb', 'shared memory, MB'),
            ('threads', 'threads'),
            ('fds', 'open files'),
            ('age_ms', 'age of masks (p99), ms'),
            ('received', 'frames received'),
            ('published', 'masks published'),
            ('dropped', 'frames dropped'),
        )
    ]
    held = all(finding.held for finding in findings)
    write_report(
        out / 'report.html',
        'Soak of the node',
        [f'{minutes[-1]:.1f} minutes, camera at {rate_hz:.1f} Hz'],
        [Fact('verdict', 'held' if held else 'FAILED')],
        [
            table_section(
                'Findings',
                [
                    ('what', 'found', 'limit', 'held'),
                    *((f.name, f.value, f.limit, 'yes' if f.held else 'NO') for f in findings),
                ],
                f'Judged after a warm-up of {warm_up_sec / 60:.1f} minutes.',
            ),
            charts_section('Over time', charts),
            environment_section(provenance),
        ],
    )


def main() -> int:
    """Run the soak; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--minutes', type=float, default=30.0)
    parser.add_argument('--out', type=Path, default=Path('out/soak'))
    parser.add_argument('--bundle', type=Path, default=share_path('models/ycor8_rgbd.onnx'))
    parser.add_argument('--max-rate-hz', type=float, default=120.0, help='bound of the camera')
    parser.add_argument('--seed', type=int, default=0)
    options = parser.parse_args()
    # Else whoever ends the soak leaves its node, camera and consumers behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    warm_up_sec = 60 * options.minutes / 5
    parameters = {**PARAMETERS, 'model.bundle': options.bundle}
    # All processes below inherit both; another domain than the vehicle's, unless it is named.
    os.environ.update(with_image_profile(os.environ))
    os.environ.setdefault('ROS_DOMAIN_ID', '93')
    os.environ['PYTHONFAULTHANDLER'] = '1'  # a crash of the node leaves its stacks in its log
    with ExitStack() as stack:
        node = stack.enter_context(NodeProcess(parameters, IMAGE, ros_arguments=REMAPS))
        peer = stack.enter_context(Peer())
        camera = start_camera(min(60.0, options.max_rate_hz), options.seed)
        try:
            rate_hz = min(2 * measure_rate_hz(peer), options.max_rate_hz)
        finally:
            camera.kill()
            camera.wait()
        camera = start_camera(rate_hz, options.seed)
        stack.callback(camera.wait)
        stack.callback(camera.kill)
        soak = Soak(node, peer, options.minutes, random.Random(options.seed))
        try:
            soak.run()
        except AssertionError as err:
            soak.problems.append(str(err))
        if camera.poll() is not None:
            soak.problems.append('the camera has ended')
        log = node.log
    if not soak.saw_geometry:
        soak.problems.append('no report of the node had geometry')
    if 'Traceback' in log:
        soak.problems.append('a traceback in the log of the node')
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / 'node.log').write_text(log, encoding='utf-8')
    findings = judge(
        soak.samples,
        soak.rests,
        warm_up_sec,
        soak.settled_sec,
        MAX_AGE_MS,
        soak.longest_silence_sec,
        soak.requests,
        soak.problems,
    )
    write_results(options.out, soak, findings, warm_up_sec, rate_hz)
    for finding in findings:
        verdict = 'held' if finding.held else 'FAILED'
        print(f'{verdict}: {finding.name}: {finding.value} (limit {finding.limit})')
    print(f'Report: {options.out / "report.html"}')
    return 0 if all(finding.held for finding in findings) else 1


if __name__ == '__main__':
    sys.exit(main())
