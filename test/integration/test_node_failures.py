"""What fails inside the node while it runs: publishing, the engine, and code with a bug."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
import re
import sys
import time
from typing import Any

from lifecycle_msgs.msg import Transition
from node_process import IMAGE_TOPIC, NodeProcess, Peer, now_ns, rgb8
import numpy as np
import numpy.typing as npt
import pytest
import rclpy
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.parameter import Parameter

from desertmind_seg.engines.protocol import EngineError
from desertmind_seg.node.node import SegmentationNode

Rgb = npt.NDArray[np.uint8]


@pytest.fixture
def node(tiny_bundle: Path) -> Iterator[SegmentationNode]:
    """The active node in this process; nothing spins it, frames are handed to its callback."""
    rclpy.init(args=['--ros-args', '-p', f'model.bundle:={tiny_bundle}'])
    node = SegmentationNode()
    assert node.start()
    yield node
    assert node.stop(10.0)
    node.destroy_node()
    rclpy.shutdown()


def wait_for_counts(node: SegmentationNode, **expected: int) -> None:
    deadline = time.monotonic() + 10
    while True:
        counts = node.health.counts()
        if {'published': counts['published'], **counts['dropped']} == expected:
            return
        assert time.monotonic() < deadline, f'{counts}, expected {expected}'
        time.sleep(0.01)


def subscribe_mask(node: SegmentationNode, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Make the node believe that its mask is wanted."""
    assert node._outputs is not None
    publisher, _ = node._outputs._images['mask']
    monkeypatch.setattr(publisher, 'get_subscription_count', lambda: 1)
    return publisher


def raiser(error: Exception) -> Callable[..., None]:
    def fail(*_: object) -> None:
        raise error

    return fail


def test_refused_publishing_is_counted_and_the_node_goes_on(
    node: SegmentationNode, monkeypatch: pytest.MonkeyPatch, asymmetric_rgb: Rgb
) -> None:
    publisher = subscribe_mask(node, monkeypatch)
    with monkeypatch.context() as refusing:
        refused = rclpy_implementation.RCLError('Failed to publish: cannot publish data')
        refusing.setattr(publisher, 'publish', raiser(refused))
        node._inputs.on_image(rgb8(asymmetric_rgb, now_ns()))
        wait_for_counts(node, published=0, publish_failed=1)
    status = node.health.inference_status({}, node.health.new_drops())
    assert status.message == '1 frames lost: ~/mask: Failed to publish: cannot publish data'
    node._inputs.on_image(rgb8(asymmetric_rgb, now_ns()))
    wait_for_counts(node, published=1, publish_failed=1)
    assert not node.worker_failed.is_set()


def test_engine_failure_is_counted_and_the_node_goes_on(
    node: SegmentationNode, monkeypatch: pytest.MonkeyPatch, asymmetric_rgb: Rgb
) -> None:
    subscribe_mask(node, monkeypatch)
    with monkeypatch.context() as failing:
        assert node._segmenter is not None
        failing.setattr(
            node._segmenter.engine, 'infer', raiser(EngineError('out of device memory'))
        )
        node._inputs.on_image(rgb8(asymmetric_rgb, now_ns()))
        wait_for_counts(node, published=0, engine_failed=1)
    status = node.health.inference_status({}, node.health.new_drops())
    assert (status.level, status.message) == (2, '1 frames lost: out of device memory')
    node._inputs.on_image(rgb8(asymmetric_rgb, now_ns()))
    wait_for_counts(node, published=1, engine_failed=1)


def test_result_of_a_frame_from_before_a_time_jump_is_dropped(
    node: SegmentationNode, monkeypatch: pytest.MonkeyPatch, asymmetric_rgb: Rgb
) -> None:
    subscribe_mask(node, monkeypatch)
    assert node._segmenter is not None
    infer = node._segmenter.engine.infer

    def infer_while_time_jumps(*arguments: Any) -> Any:
        node._inputs.time_jumped('In this test, time jumped')
        return infer(*arguments)

    with monkeypatch.context() as jumping:
        jumping.setattr(node._segmenter.engine, 'infer', infer_while_time_jumps)
        node._inputs.on_image(rgb8(asymmetric_rgb, now_ns()))
        wait_for_counts(node, published=0, time_jump=1)
    node._inputs.on_image(rgb8(asymmetric_rgb, now_ns()))
    wait_for_counts(node, published=1, time_jump=1)


@pytest.mark.parametrize(
    ('changed', 'words'),
    [
        (
            {'costmap.min_range_m': 50.0},
            'max_range_m - min_range_m is -40.0; expected more than 0',
        ),
        ({'temporal.alpha': 0.5}, 'the temporal filter needs the probabilities of all classes'),
        ({'costmap.extrinsics': 'tf'}, "costmap.extrinsics is 'tf', but tf2_ros is not installed"),
    ],
)
def test_parameters_that_do_not_go_together_are_refused(
    node: SegmentationNode, changed: dict[str, Any], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, 'tf2_ros', None)  # as without apt's ROS 2
    node.trigger_deactivate()
    node.trigger_cleanup()
    assert all(
        result.successful
        for result in node.set_parameters(
            [Parameter(name, value=value) for name, value in changed.items()]
        )
    )
    assert not node.start()
    assert words in node._failure
    assert node._segmenter is None


def test_a_bug_in_the_worker_ends_the_process_with_status_1(
    tiny_bundle: Path, asymmetric_rgb: Rgb
) -> None:
    """A node without its worker would look alive and send nothing."""
    script = Path(__file__).with_name('crashing_engine_node.py')
    parameters = {'autostart': 'true', 'model.bundle': tiny_bundle}
    with Peer() as peer, NodeProcess(parameters, command=[str(script)]) as process:
        peer.collect('/segmentation/mask')
        camera = peer.camera(IMAGE_TOPIC)
        peer.wait_for_match(camera, ['/segmentation/mask'])

        def ended() -> bool:
            camera.publish(rgb8(asymmetric_rgb, now_ns()))
            return 'ZeroDivisionError' in process.log

        peer.wait_until(ended, 'the bug shows')
        assert process.wait() == 1


def test_what_a_transition_raises_is_in_the_diagnostics(tiny_bundle: Path, peer: Peer) -> None:
    """Under a lifecycle manager nobody sees the log; the node is unconfigured again."""
    script = (
        'import sys; from desertmind_seg.node import inputs, run;'
        'inputs.NodeInputs.open = lambda self: 1 / 0; sys.exit(run.run_node())'
    )
    parameters = {'model.bundle': tiny_bundle, 'diagnostics.period_sec': 0.2}
    with NodeProcess(parameters, command=['-c', script]) as process:
        assert peer.transition(Transition.TRANSITION_CONFIGURE)
        peer.wait_for_diagnostic('Engine', level='0')
        assert not peer.transition(Transition.TRANSITION_ACTIVATE)
        engine = peer.wait_for_diagnostic('Engine', level='2', lifecycle='unconfigured')
        assert re.fullmatch('on_activate failed: .*division by zero', engine['message'])
        process.wait_for_log('on_activate failed: .*Traceback')


def test_a_bug_in_a_transition_is_logged(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Without our decorator rclpy says nothing at all."""
    rclpy.init(args=['--ros-args', '-p', f'model.bundle:={tiny_bundle}'])

    def load_engine(*_: object) -> Any:
        raise ZeroDivisionError('in this test')

    node = SegmentationNode(load_engine)
    assert not node.start()
    node.destroy_node()
    rclpy.shutdown()
    assert 'ZeroDivisionError: in this test' in capfd.readouterr().err
