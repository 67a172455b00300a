"""The node and TensorRT engines: building only, two nodes at once, refusals, diagnostics."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
import signal
from threading import Event
from typing import Any

from node_process import NodeProcess, Peer, node_arguments
import numpy as np
import numpy.typing as npt
import pytest
import rclpy
from tiny_bundle import tiny_metadata, tiny_model

from desertmind_seg.engines.load import load_engine
from desertmind_seg.engines.protocol import Engine, EngineError
from desertmind_seg.engines.tensorrt_build import BuildOptions
from desertmind_seg.model.arrays import Rgb
from desertmind_seg.model.bundle import Bundle, write_bundle
from desertmind_seg.model.ontology import load_ontology
from desertmind_seg.node.node import SegmentationNode
from desertmind_seg.node.run import run_node


def building(bundle: Path, folder: Path, **changes: object) -> dict[str, object]:
    return {
        'build_only': 'true',
        'model.bundle': bundle,
        'engine.target': 'sm86',
        'engine.cache_dir': folder,
        **changes,
    }


@pytest.mark.usefixtures('process_state')
def test_build_only_builds_and_ends_with_status_0(
    tiny_bundle: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / 'engines'
    assert run_node(node_arguments(building(tiny_bundle, folder))) == 0
    log = capfd.readouterr().err
    assert 'Building the fp32 engine of tiny for sm86 with tensorrt_rtx' in log
    assert 'preparing the engine, 0%: Building engine' in log
    (engine,) = folder.glob('*.engine')
    assert f'Engine for sm86 was built: {engine}' in log
    assert run_node(node_arguments(building(tiny_bundle, folder))) == 0
    assert f'Engine for sm86 was there: {engine}' in capfd.readouterr().err


def test_two_nodes_at_once_build_once(tiny_bundle: Path, tmp_path: Path) -> None:
    parameters = building(tiny_bundle, tmp_path)
    with NodeProcess(parameters) as first, NodeProcess(parameters) as second:
        assert (first.wait(), second.wait()) == (0, 0)
        log = first.log + second.log
    assert log.count('Engine for sm86 was built') == 1
    assert log.count('Engine for sm86 was there') == 1
    assert len(list(tmp_path.glob('*.engine'))) == 1


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (
            {'engine.backend': 'onnxruntime-cpu'},
            "Cannot build: build_only builds TensorRT engines, but engine.backend is 'onnxruntime",
        ),
        (
            {'engine.cache_dir': '/sys/kernel/desertmind_seg'},
            'or set DESERTMIND_SEG_ENGINE_CACHE to a folder with room',
        ),
        (
            {'build_only': 'false', 'autostart': 'true', 'engine.backend': 'onnxruntime-cpu'},
            "Cannot configure: engine.target is 'sm86': a node runs on the GPU of its own machine",
        ),
    ],
)
@pytest.mark.usefixtures('process_state')
def test_what_cannot_be_built_ends_with_status_2(
    changes: Mapping[str, object],
    message: str,
    tiny_bundle: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert run_node(node_arguments({**building(tiny_bundle, tmp_path), **changes})) == 2
    assert message in capfd.readouterr().err


@pytest.mark.usefixtures('process_state')
def test_a_named_tensorrt_without_a_driver_ends_with_status_2(
    tiny_bundle: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    if Path('/dev/nvidiactl').exists():
        pytest.skip('this machine has an NVIDIA driver')
    parameters = {
        'autostart': 'true',
        'model.bundle': tiny_bundle,
        'engine.backend': 'tensorrt',
        'engine.cache_dir': tmp_path,
    }
    assert run_node(node_arguments(parameters)) == 2
    assert 'Cannot configure: no NVIDIA GPU can be used' in capfd.readouterr().err


def test_diagnostics_show_the_build_then_the_gate(tmp_path: Path) -> None:
    ontology = load_ontology('ycor-8')
    parity = {
        'reference': 'torch fp32',
        'pixel_agreement': 0.99987654321,
        'by_class': {'sky': 1.0},
    }
    path = tmp_path / 'tiny.onnx'
    write_bundle(tiny_model(ontology), tiny_metadata(ontology, parity=parity), path)
    arguments = [f'model.bundle:={path}', 'diagnostics.period_sec:=0.2']
    rclpy.init(args=['--ros-args', *(part for item in arguments for part in ('-p', item))])
    stop, going_on = Event(), []

    with Peer() as peer:

        def build(bundle: Bundle, _name: str, threads: int, options: BuildOptions) -> Engine:
            # The executor stands still, as it does while an engine is really built.
            going_on.append(options.progress('Timing tactics', 0.4))
            message = 'preparing the engine, 40%: Timing tactics'
            peer.wait_until(lambda: peer.diagnostic('Engine').get('message') == message, message)
            return load_engine(bundle, 'onnxruntime-cpu', threads)

        node = SegmentationNode(build, stop)
        assert not peer.diagnostic('Engine')
        peer.wait_until(node._diagnostics.publisher.get_subscription_count, 'the peer listens')
        peer.wait_until(lambda: peer.node.count_publishers('/diagnostics'), 'it hears the node')
        assert node.start()
        node._publish_diagnostics()
        peer.wait_until(lambda: peer.diagnostic('Engine').get('message') == 'active', 'active')
        values = peer.diagnostic('Engine')
        assert (values['backend'], values['lifecycle']) == ('onnxruntime-cpu', 'active')
        assert values['parity_pixel_agreement'] == '0.999877'
        assert values['parity_reference'] == 'torch fp32'
        assert 'parity_by_class' not in values
        assert values['onnxruntime']

        # A signal stops a builder.
        stop.set()
        assert not node._loader.build_options().progress('Timing tactics', 0.5)
        node.stop(10.0)
        node.destroy_node()
    rclpy.shutdown()
    assert going_on == [True]


def test_a_build_that_is_stopped_fails_the_configuration(tiny_bundle: Path) -> None:
    rclpy.init(args=['--ros-args', '-p', f'model.bundle:={tiny_bundle}'])

    def build(bundle: Bundle, _name: str, _threads: int, options: BuildOptions) -> Engine:
        options.progress('Timing tactics', 0.4)
        raise EngineError('stopped while building')

    node = SegmentationNode(build)
    assert not node.start()
    assert (node._failure, node._loader.building) == ('stopped while building', '')
    node.destroy_node()
    rclpy.shutdown()


@pytest.mark.usefixtures('process_state')
def test_ctrl_c_while_configuring_is_no_failure(
    tiny_bundle: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def build(_bundle: Bundle, _name: str, _threads: int, options: BuildOptions) -> Engine:
        signal.raise_signal(signal.SIGINT)
        assert not options.progress('Timing tactics', 0.4)
        raise EngineError('stopped while building')

    parameters = {'autostart': 'true', 'model.bundle': tiny_bundle}
    assert run_node(node_arguments(parameters), build) == 0
    log = capfd.readouterr().err
    assert 'stopped while building' in log
    assert 'ERROR' not in log


@pytest.mark.parametrize(
    ('shape', 'sizes_hw'),
    [('dynamic', [(64, 64)]), ('96x128,120x160', [(96, 128), (120, 160)])],
)
def test_warms_up_with_the_sizes_that_will_come(
    shape: str, sizes_hw: list[tuple[int, int]], tiny_bundle: Path
) -> None:
    """An engine for some sizes refuses all others, and compiles for each at its first frame."""
    arguments = [f'model.bundle:={tiny_bundle}', f'engine.shape:={shape}']
    rclpy.init(args=['--ros-args', *(part for item in arguments for part in ('-p', item))])
    seen, shapes = [], []

    def build(bundle: Bundle, _name: str, threads: int, options: BuildOptions) -> Engine:
        shapes.append(options.shape)
        engine = load_engine(bundle, 'onnxruntime-cpu', threads)
        infer = engine.infer

        def watched(rgb: Rgb, *arguments: Any) -> dict[str, npt.NDArray[np.uint8]]:
            seen.append(rgb.shape[:2])
            return infer(rgb, *arguments)

        engine.infer = watched  # type: ignore[method-assign]
        return engine

    node = SegmentationNode(build)
    assert node.start()
    assert seen == sizes_hw
    assert shapes == [shape]
    node.stop(10.0)
    node.destroy_node()
    rclpy.shutdown()
