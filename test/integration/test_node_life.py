"""The node's life: start, states, signals, time, overload; one process for each test."""

from __future__ import annotations

from bisect import bisect
from contextlib import suppress
from itertools import pairwise
import os
from pathlib import Path
import re
import signal
import subprocess
import sys
import time

import cv2
from lifecycle_msgs.msg import Transition
from node_process import (
    CONSUMER_QOS,
    IMAGE_TOPIC,
    MASK,
    NODE,
    NodeProcess,
    Peer,
    abandoned_segments,
    node_arguments,
    now_ns,
    pixels_of,
    rgb8,
    send_until_answered,
    stamp_header,
    stamp_ns_of,
)
import numpy as np
import numpy.typing as npt
import psutil
import pytest
import rclpy
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CompressedImage, Image
from slow_engine_node import number_frame

from desertmind_seg.messages.images import decode_compressed_image
from desertmind_seg.model.ontology import load_ontology
from desertmind_seg.node.node import SegmentationNode
from desertmind_seg.node.run import run_node
from desertmind_seg.parameters.spec import ParameterError
from desertmind_seg.pipeline.segmenter import Segmenter

Rgb = npt.NDArray[np.uint8]

# Frames are not dropped for their age unless a test is about that: the machine may be busy.
ACTIVE = {'autostart': 'true', 'input.max_age_ms': 0, 'diagnostics.period_sec': 0.2}
SLOW_NODE = (str(Path(__file__).with_name('slow_engine_node.py')),)
MODULE = ('-m', 'desertmind_seg.segmentation_node')
# The executor of ROS 2 Humble, whose rclpy has no EventsExecutor.
PORTABLE_EXECUTOR = (
    '-c',
    'import sys; from desertmind_seg.node import run; '
    'run.EventsExecutor = run.SingleThreadedExecutor; sys.exit(run.run_node())',
)
CONFIDENCE = f'{NODE}/confidence'
MASK_QOS = QoSProfile(depth=1)


def test_qos_override_and_mismatch_of_the_input(
    tiny_bundle: Path, peer: Peer, asymmetric_rgb: Rgb
) -> None:
    camera = peer.camera()
    parameters = {
        **ACTIVE,
        'model.bundle': tiny_bundle,
        'input.timeout_sec': 0.5,
        f'qos_overrides.{IMAGE_TOPIC}.subscription.reliability': 'reliable',
        f'qos_overrides.{NODE}/mask.publisher.reliability': 'best_effort',
    }
    with NodeProcess(parameters) as process:
        words = (
            f'/segmentation requests reliability reliable on {IMAGE_TOPIC}, but /camera offers '
            'best_effort: no message passes'
        )
        process.wait_for_log(words)
        values = peer.wait_for_diagnostic('Input', level='1', message=words)
        assert f'on {IMAGE_TOPIC}' in values['message']
        peer.node.destroy_publisher(camera)
        reliable = peer.camera(qos=QoSProfile(depth=1))
        best_effort = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
        masks = peer.collect(MASK, qos=best_effort)
        peer.wait_for_match(reliable, [MASK])
        send_until_answered(peer, reliable, rgb8(asymmetric_rgb, now_ns()), masks)
        assert 'requests' not in peer.wait_for_diagnostic('Input', received='1')['message']
        # An override is that of one topic.
        (other,) = peer.node.get_publishers_info_by_topic(CONFIDENCE)
        assert other.qos_profile.reliability == ReliabilityPolicy.RELIABLE


def test_no_event_handler_is_there_to_be_destroyed(tiny_bundle: Path) -> None:
    """While consumers with QoS that does not fit come and go, they end the process on cleanup.

    That is rclpy's EventsExecutor (ros2/rclpy#1644); fewer than six cleanups were enough.
    """
    parameters = {'model.bundle': tiny_bundle, 'depth.use': 'always', 'use_sim_time': 'true'}
    rclpy.init(args=node_arguments(parameters))
    node = SegmentationNode()
    assert node.start()
    assert len(list(node.publishers)) > 15
    assert len(list(node.subscriptions)) > 3
    assert list(node.waitables) == []
    overrides = node.get_parameters_by_prefix('qos_overrides')
    overridable = {tuple(name.split('.')[:2]) for name in overrides}
    assert len(overridable) > 15
    assert overridable <= set(node._own_topics().items())
    assert node.stop(10.0)
    node.destroy_node()
    rclpy.shutdown()


def test_silence_is_explained(tiny_bundle: Path, peer: Peer) -> None:
    parameters = {**ACTIVE, 'model.bundle': tiny_bundle, 'input.timeout_sec': 0.5}
    at_home = {'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST', 'ROS_STATIC_PEERS': None}
    with NodeProcess(parameters, environment=at_home) as process:
        peer.wait_for_diagnostic(
            'Input', level='1', message=f'No image for .* on {IMAGE_TOPIC}: it has no publisher'
        )
        process.wait_for_log(
            'No image for .* it has no publisher. Remap image.* '
            'ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST: nodes of other computers are not found.'
        )
        peer.camera(message_type=CompressedImage)
        peer.wait_for_diagnostic(
            'Input',
            message='expected sensor_msgs/msg/Image, but its publishers are '
            r'/camera \(sensor_msgs/msg/CompressedImage\)',
        )


def test_compressed_input(
    tiny_bundle: Path, peer: Peer, segmenter: Segmenter, asymmetric_rgb: Rgb
) -> None:
    parameters = {
        **ACTIVE,
        'model.bundle': tiny_bundle,
        'input.transport': 'compressed',
    }
    with NodeProcess(parameters):
        masks = peer.collect(MASK)
        camera = peer.camera(f'{IMAGE_TOPIC}/compressed', CompressedImage)
        peer.wait_for_match(camera, [MASK])
        for extension, message_format in (
            ('.jpg', 'rgb8; jpeg compressed bgr8'),
            ('.png', 'bgr8; png compressed bgr8'),
            ('.jpg', 'jpeg'),
        ):
            _, encoded = cv2.imencode(extension, asymmetric_rgb[:, :, ::-1])
            message = CompressedImage(header=stamp_header(now_ns()), format=message_format)
            message.data.frombytes(encoded.tobytes())
            mask = send_until_answered(peer, camera, message, masks)
            assert mask.header == message.header
            expected = segmenter.segment(decode_compressed_image(message), ()).mask
            np.testing.assert_array_equal(pixels_of(mask), expected)
        del message.data[len(message.data) // 2 :]
        message.header = stamp_header(now_ns())
        camera.publish(message)
        peer.wait_for_diagnostic('Input', message='does not decode: it is truncated or corrupt')
        values = peer.wait_for_diagnostic('Input', format='jpeg 131x97', dropped_bad_frame='1')
        assert values['topic'] == f'{IMAGE_TOPIC}/compressed'


def test_lifecycle_up_and_down_twice(tiny_bundle: Path, peer: Peer, asymmetric_rgb: Rgb) -> None:
    camera = peer.camera()
    with NodeProcess({'model.bundle': tiny_bundle, 'diagnostics.period_sec': 0.2}):
        for _ in range(2):
            assert peer.state() == 'unconfigured'
            assert not peer.node.count_publishers(MASK)
            assert peer.transition(Transition.TRANSITION_CONFIGURE)
            assert peer.state() == 'inactive'
            assert camera.get_subscription_count() == 0
            assert peer.transition(Transition.TRANSITION_ACTIVATE)
            masks = peer.collect(MASK)
            peer.wait_for_match(camera, [MASK])
            send_until_answered(peer, camera, rgb8(asymmetric_rgb, now_ns()), masks)
            assert peer.transition(Transition.TRANSITION_DEACTIVATE)
            peer.wait_until(lambda: not camera.get_subscription_count(), 'unsubscribed')
            peer.wait_for_diagnostic('Engine', lifecycle='inactive', backend='onnxruntime-cpu')
            assert peer.transition(Transition.TRANSITION_CLEANUP)
            peer.wait_until(lambda: not peer.node.count_publishers(MASK), 'outputs are gone')
            assert 'backend' not in peer.wait_for_diagnostic('Engine', lifecycle='unconfigured')
        # What configure reads can be set now; a bundle that is missing leaves it unconfigured.
        assert peer.set_parameter('model.bundle', '/nowhere.onnx').successful
        assert not peer.transition(Transition.TRANSITION_CONFIGURE)
        assert peer.state() == 'unconfigured'
        peer.wait_for_diagnostic('Engine', level='2', message='/nowhere.onnx does not exist')
        assert peer.set_parameter('model.bundle', str(tiny_bundle)).successful
        assert peer.transition(Transition.TRANSITION_CONFIGURE)
        assert peer.transition(Transition.TRANSITION_INACTIVE_SHUTDOWN)
        assert peer.state() == 'finalized'


@pytest.mark.parametrize(
    ('number', 'times', 'command'),
    [
        (signal.SIGHUP, 1, MODULE),  # the terminal was closed
        (signal.SIGINT, 100, MODULE),
        (signal.SIGTERM, 100, MODULE),
        (signal.SIGINT, 2, PORTABLE_EXECUTOR),
    ],
)
def test_signals_end_it_with_status_0_within_2_s(
    tiny_bundle: Path,
    peer: Peer,
    asymmetric_rgb: Rgb,
    number: signal.Signals,
    times: int,
    command: tuple[str, str],
    process_state: None,
) -> None:
    """Also those that come until it has ended, while Python itself ends."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may run under nohup
    with NodeProcess({**ACTIVE, 'model.bundle': tiny_bundle}, command=command) as process:
        start_sec = process.wait_for_start()
        masks = peer.collect(MASK)
        camera = peer.camera()
        peer.wait_for_match(camera, [MASK])
        send_until_answered(peer, camera, rgb8(asymmetric_rgb, now_ns()), masks)
        camera.publish(rgb8(asymmetric_rgb, now_ns()))
        segments = process.shared_memory()
        begin = time.monotonic()
        for _ in range(times):
            process.send(number)
            with suppress(subprocess.TimeoutExpired):
                process.wait(0.02)
        assert process.wait() == 0
        # Imports of 1 s that take longer than 2 s tell of a machine that is busy with other work.
        assert time.monotonic() - begin < max(2.0, start_sec)
        assert 'Traceback' not in process.log
        assert segments
        assert not abandoned_segments(segments)


def test_signal_during_a_long_inference(
    tiny_bundle: Path, peer: Peer, asymmetric_rgb: Rgb
) -> None:
    with NodeProcess(
        {**ACTIVE, 'model.bundle': tiny_bundle},
        command=SLOW_NODE,
        environment={'SLOW_ENGINE_MS': '4000'},
    ) as process:
        start_sec = process.wait_for_start()
        peer.collect(MASK)
        camera = peer.camera()
        peer.wait_for_match(camera, [MASK])

        def superseded() -> bool:
            camera.publish(rgb8(asymmetric_rgb, now_ns()))
            return peer.diagnostic('Input').get('dropped_superseded', '0') != '0'

        # A frame is superseded only while another one is in the engine.
        peer.wait_until(superseded, 'a superseded frame')
        segments = process.shared_memory()
        begin = time.monotonic()
        process.send(signal.SIGINT)
        assert process.wait() == 0
        assert time.monotonic() - begin < max(2.0, start_sec)
        assert segments
        assert not abandoned_segments(segments)


def test_sim_time_and_a_looping_bag(tiny_bundle: Path, peer: Peer, asymmetric_rgb: Rgb) -> None:
    """A bag of 2 s, played three times with /clock: masks in every pass, none of a pass before."""
    parameters = {**ACTIVE, 'model.bundle': tiny_bundle, 'use_sim_time': 'true'}
    with NodeProcess(parameters) as process:
        masks = peer.collect(MASK)
        clock = peer.node.create_publisher(Clock, '/clock', 10)
        camera = peer.camera()
        peer.wait_for_match(camera, [MASK])
        peer.wait_until(clock.get_subscription_count, 'the node listens to /clock')
        start_ns = 1_600_000_000_000_000_000
        for loop in range(3):
            answered = len(masks)
            for index in range(21):
                time_ns = start_ns + index * 100_000_000
                message = Clock()
                message.clock.sec, message.clock.nanosec = divmod(time_ns, 1_000_000_000)
                clock.publish(message)
                camera.publish(rgb8(asymmetric_rgb, time_ns))
                # At the node's pace: on a busy machine the next frame would take its place.
                count, end_sec = len(masks), time.monotonic() + 0.5
                while len(masks) == count and time.monotonic() < end_sec:
                    peer.spin(0.02)
            peer.wait_until(lambda n=answered: len(masks) > n + 5, f'masks in pass {loop}')
        values = peer.wait_for_diagnostic('Input', time_jumps=r'\d')
        assert int(values['time_jumps']) >= 2
        assert values['dropped_too_old'] == '0'
        assert 'Stamps differ' not in values['message']
        process.wait_for_log('state cleared')


def test_bag_without_sim_time_gives_masks_and_a_warning(
    tiny_bundle: Path, peer: Peer, asymmetric_rgb: Rgb
) -> None:
    with NodeProcess({**ACTIVE, 'model.bundle': tiny_bundle}):
        masks = peer.collect(MASK)
        camera = peer.camera()
        peer.wait_for_match(camera, [MASK])
        for stamp_ns in (
            1_600_000_000_000_000_000,
            1_600_000_001_000_000_000,
            1_600_000_000_000_000_000,
        ):
            masks.clear()
            send_until_answered(peer, camera, rgb8(asymmetric_rgb, stamp_ns), masks)
        values = peer.wait_for_diagnostic(
            'Input', level='1', message='Stamps differ from the node clock by .* use_sim_time'
        )
        assert int(values['time_jumps']) >= 1


def test_old_frames_are_dropped(tiny_bundle: Path, peer: Peer, asymmetric_rgb: Rgb) -> None:
    with NodeProcess({'autostart': 'true', 'model.bundle': tiny_bundle}):
        masks = peer.collect(MASK)
        camera = peer.camera()
        peer.wait_for_match(camera, [MASK])
        send_until_answered(peer, camera, rgb8(asymmetric_rgb, now_ns()), masks)
        late_ns = stamp_ns_of(masks[-1]) + 10_000_000
        peer.wait_until(lambda: now_ns() > late_ns + 700_000_000, 'the frame to be late')
        camera.publish(rgb8(asymmetric_rgb, late_ns))
        values = peer.wait_for_diagnostic('Input', dropped_too_old='^[1-9]')
        assert 'ms old when its turn came, input.max_age_ms 500' in values['message']
        assert late_ns not in {stamp_ns_of(mask) for mask in masks}
        assert peer.set_parameter('input.max_age_ms', 0).successful
        send_until_answered(peer, camera, rgb8(asymmetric_rgb, late_ns + 1), masks)


def overload(peer: Peer, tiny_bundle: Path, rgb: Rgb, duration_sec: float) -> None:
    """Send twice as many frames as the engine can take; check order, age and memory.

    Age shows in the order of events and in ratios, not in milliseconds: on a busy machine all of
    it takes longer, in the same order.
    """
    inference_ms, period_sec = 200.0, 0.1
    with NodeProcess(
        {**ACTIVE, 'model.bundle': tiny_bundle, 'diagnostics.period_sec': 0.5},
        command=SLOW_NODE,
        environment={'SLOW_ENGINE_MS': str(inference_ms)},
    ) as process:
        memory = psutil.Process(process.pid)
        sent_ns, sent_sec = [], []
        masks, arrived_sec, ages_ms, rss_mb = [], {}, [], []

        def on_mask(mask: Image) -> None:
            masks.append(mask)
            arrived_sec[sent_ns.index(stamp_ns_of(mask)) + 1] = time.monotonic()
            ages_ms.append((now_ns() - stamp_ns_of(mask)) / 1e6)
            rss_mb.append(memory.memory_info().rss / 2**20)

        peer.node.create_subscription(Image, MASK, on_mask, CONSUMER_QOS)
        camera = peer.camera()
        peer.wait_for_match(camera, [MASK])
        begin = next_sec = time.monotonic()
        while time.monotonic() < begin + duration_sec:
            if time.monotonic() >= next_sec:
                next_sec += period_sec
                sent_ns.append(now_ns())
                number_frame(rgb, len(sent_ns))
                message = rgb8(rgb, sent_ns[-1])
                sent_sec.append(time.monotonic())
                camera.publish(message)
            peer.spin(max(0.0, next_sec - time.monotonic()))
        counts = peer.wait_until(lambda: settled_counts(peer), 'every frame is accounted for')
        values = peer.diagnostic('Inference')
        lines = re.findall(r'frame (\d+) was in the engine from (\S+) to (\S+) s', process.log)
    # Frame 0 is the one that warms up.
    inferences = [(int(number), float(b), float(e)) for number, b, e in lines if int(number)]
    stamps = [stamp_ns_of(mask) for mask in masks]
    assert stamps == sorted(stamps)
    assert len(set(stamps)) == len(stamps)
    assert set(arrived_sec) <= {number for number, _, _ in inferences}
    assert abs(len(masks) - counts['published']) <= 2
    assert counts['dropped_superseded'] > 0
    # The engine is busy all the time.
    in_engine_sec = sum(end - begin for _, begin, end in inferences)
    assert in_engine_sec > 0.85 * (inferences[-1][2] - inferences[0][1])
    # It takes the newest frame that was sent: one frame waiting in a queue would make this 1 or
    # more, a growing queue would show in the later half.
    newer = [bisect(sent_sec, begin) - number for number, begin, _ in inferences]
    half = len(newer) // 2
    assert (np.median(newer[:half]), np.median(newer[half:])) == (0, 0), newer
    # A mask arrives here before the engine has finished the next frame.
    late = [
        arrived_sec[number] > next_end
        for (number, _, _), (_, _, next_end) in pairwise(inferences)
        if number in arrived_sec
    ]
    assert np.mean(late) < 0.1, late
    # The ages that the node tells are those seen here.
    assert inference_ms < float(values['age_at_publish_ms_p50']) < 1.25 * np.median(ages_ms)
    assert float(values['age_at_publish_ms_p99']) < 1.25 * max(ages_ms)
    half = len(rss_mb) // 2
    assert max(rss_mb[half:]) - max(rss_mb[:half]) < 4.0, rss_mb[:: max(1, half // 10)]


def settled_counts(peer: Peer) -> dict[str, int] | None:
    """Return the node's counts once each frame is published or dropped, None before."""
    values = {**peer.diagnostic('Input'), **peer.diagnostic('Inference')}
    counts = {
        key: int(value)
        for key, value in values.items()
        if key in ('received', 'published') or key.startswith('dropped_')
    }
    accounted = sum(count for key, count in counts.items() if key != 'received')
    return counts if counts.get('received') == accounted else None


def test_newest_frame_wins_at_twice_the_load(
    tiny_bundle: Path, peer: Peer, asymmetric_rgb: Rgb
) -> None:
    overload(peer, tiny_bundle, asymmetric_rgb, duration_sec=6.0)


@pytest.mark.slow
def test_60_s_of_twice_the_load_without_growth(tiny_bundle: Path, peer: Peer) -> None:
    rgb = np.random.default_rng(4).integers(0, 256, (480, 640, 3), np.uint8)
    overload(peer, tiny_bundle, rgb, duration_sec=60.0)


def test_missing_image_profile_is_warned_about(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def log_of_a_start(*arguments: str) -> str:
        rclpy.init(args=['--ros-args', *arguments])
        SegmentationNode().destroy_node()
        rclpy.shutdown()
        return capfd.readouterr().err

    misspelt = log_of_a_start('-p', 'input.max_age:=5')
    assert re.search(
        'There is no parameter input.max_age, .* did you mean input.max_age_ms', misspelt
    )
    assert 'No Fast DDS profile' not in misspelt
    override = 'qos_overrides./image.subscription.reliab{}'
    misspelt = log_of_a_start('-p', override.format('ilty:=reliable'))
    assert f'{override.format("ilty")} is no QoS override, its value is ignored' in misspelt
    with pytest.raises(ParameterError, match='best_efort'):
        log_of_a_start('-p', override.format('ility:=best_efort'))
    rclpy.shutdown()
    for name in ('FASTDDS_DEFAULT_PROFILES_FILE', 'FASTRTPS_DEFAULT_PROFILES_FILE'):
        monkeypatch.delenv(name, raising=False)
    assert re.search(
        'No Fast DDS profile is set: .* export FASTDDS_DEFAULT_PROFILES_FILE=', log_of_a_start()
    )


def corrupt_bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    path = tmp_path / 'corrupt.onnx'
    path.write_bytes(tiny_bundle.read_bytes()[:-500])
    return path


@pytest.mark.parametrize(
    ('parameters', 'words'),
    [
        ({'model.bundle': '/nowhere/x.onnx'}, 'Cannot configure: bundle /nowhere/x.onnx does not'),
        ({'model.bundle': 'CORRUPT'}, 'Cannot configure: bundle .*corrupt.onnx'),
        (
            {'model.expected_ontology': 'desert-10'},
            "trained for ontology 'ycor-8' .* but model.expected_ontology is 'desert-10': set",
        ),
        (
            {'model.expected_ontology': 'f' * 64},
            "trained for ontology 'ycor-8' .* but model.expected_ontology is 'ffff",
        ),
        ({'engine.backend': 'abacus'}, "Cannot configure: no backend 'abacus'; there are auto"),
        ({'output.overlay_alpha': '.nan'}, 'Cannot start: .*output.overlay_alpha.*nan'),
        ({'confidence.threshold': '1'}, "Cannot start: .*'INTEGER', expecting type 'DOUBLE'"),
        ({'use_sim_time': '1'}, "Cannot start: .*'use_sim_time' to '1' .* expecting type 'BOOL'"),
    ],
)
@pytest.mark.usefixtures('process_state')
def test_a_start_that_fails_ends_with_status_2_and_the_reason(
    tiny_bundle: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    parameters: dict[str, str],
    words: str,
) -> None:
    if parameters.get('model.bundle') == 'CORRUPT':
        parameters = {'model.bundle': str(corrupt_bundle(tiny_bundle, tmp_path))}
    given = {'autostart': 'true', 'model.bundle': tiny_bundle, **parameters}
    assert run_node(node_arguments(given)) == 2
    log = capfd.readouterr().err
    assert re.search(words, log)
    assert 'Traceback' not in log


def test_a_domain_without_ports_ends_with_status_2_and_the_limit() -> None:
    with NodeProcess({}, environment={'ROS_DOMAIN_ID': '233'}) as process:
        assert process.wait() == 2
        process.wait_for_log('Cannot start: ROS_DOMAIN_ID is 233; expected 0 to 232')


def test_a_log_that_cannot_be_written_ends_with_status_2_and_the_remedy() -> None:
    with NodeProcess({}, environment={'ROS_LOG_DIR': '/dev/null/log'}) as process:
        assert process.wait() == 2
        process.wait_for_log("Cannot start: .* '/dev/null/log': .*; set ROS_LOG_DIR to a folder")


def test_a_missing_parameter_file_ends_with_status_2_and_its_name() -> None:
    with NodeProcess({}, ros_arguments=['--params-file', '/nowhere.yaml']) as process:
        assert process.wait() == 2
        process.wait_for_log('Cannot start: .*/nowhere.yaml')


def test_expected_ontology_is_accepted_by_name_and_by_hash(tiny_bundle: Path) -> None:
    for expected in ('ycor-8', load_ontology('ycor-8').sha256):
        parameters = {'model.bundle': tiny_bundle, 'model.expected_ontology': expected}
        rclpy.init(args=node_arguments(parameters))
        node = SegmentationNode()
        assert node.start()
        assert node.stop(10.0)
        node.destroy_node()
        rclpy.shutdown()


def test_no_node_outlives_tests_that_are_killed() -> None:
    # Stands in for tests, and for their node.
    tests = (
        'from node_process import NodeProcess\n'
        "node = NodeProcess({}, command=['-c', 'import time; time.sleep(600)'])\n"
        'print(node.pid, flush=True)\n'
        'node.wait(600)\n'
    )
    environment = {**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, '-c', tests], stdout=subprocess.PIPE, env=environment
    ) as killed:
        assert killed.stdout is not None
        node = psutil.Process(int(killed.stdout.readline()))
        killed.kill()
    deadline = time.monotonic() + 20.0
    while node.is_running() and node.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.02)
