"""What the node costs on top of what any node would cost; prints JSON.

    python test/benchmark/node_overhead.py            # all parts, the shipped bundle
    python test/benchmark/node_overhead.py --part relay
    python test/benchmark/node_overhead.py --part hazards

Part `relay`, at 1280x720: an engine that returns at once, time from the entry of the image
callback to the return of the last publish (mask and confidence), as a ratio to a bare rclpy relay
that republishes a mono8 image of that size, from the entry of its callback to the return of its
publish. Because `publish` may return before the image is sent, the time from the camera's publish
to the arrival of the outputs is given too (the node's input is rgb8, three times the relay's).
Part `model`, at 640x480: the same time of the node with the real model, as a ratio to a bare
`session.run` of that model on the same frames, in a process of its own with the engine's options
and in one with ONNX Runtime's defaults.
Part `hazards`, at 640x480: the mask's latency in one node with the real model, in turn without and
with a subscriber to ~/hazard and ~/height, 10 frames each; depth is a slope with rocks and stereo
noise. What the second adds to the first may be 2 ms.

Everything runs at the same time in processes of its own, and frames go to one after the other in
turn, so that all see the same machine. The limits are 1.5, 1.10 and 2 ms; exit status 1 above
them.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import json
import os
from pathlib import Path
import subprocess
import sys
import tempfile
import time
from typing import Any

import numpy as np
import numpy.typing as npt

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / 'test'), str(ROOT / 'test/integration')]

from node_process import (
    DEPTH_TOPIC,
    NODE,
    REMAP_DEPTH,
    NodeProcess,
    Peer,
    depth_16uc1,
    image_of_rows,
    rgb8,
    stamp_header,
)
import onnxruntime
import rclpy
from rclpy.context import Context
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, Image
from spread import summary
from tiny_bundle import write_tiny_bundle

from desertmind_seg.engines.load import load_engine
from desertmind_seg.engines.onnxruntime import OnnxRuntimeEngine
from desertmind_seg.engines.protocol import Engine
from desertmind_seg.messages.dds import keep_frame_memory, with_image_profile
from desertmind_seg.model.arrays import Depth, Rgb
from desertmind_seg.model.bundle import Bundle, read_bundle
from desertmind_seg.model.files import DEFAULT_BUNDLE, share_path
from desertmind_seg.monitoring.health import PipelineHealth
from desertmind_seg.node.run import run_node
from desertmind_seg.reports.provenance import environment

WARM_UP = 20
RELAY_LIMIT, MODEL_LIMIT, HAZARDS_LIMIT_MS = 1.5, 1.10, 2.0
CAMERA_QOS = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
OUTPUTS = ('mask', 'confidence')


class InstantEngine:
    """Returns the same arrays at once; stands for an engine that takes no time."""

    backend = 'instant'

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self.device = 'none'
        self.details: dict[str, str] = {}
        self._arrays: dict[tuple[int, ...], npt.NDArray[np.uint8]] = {}

    def infer(
        self, rgb: Rgb, depth: Depth | None = None, outputs: Sequence[str] = OUTPUTS
    ) -> dict[str, npt.NDArray[np.uint8]]:
        shape = rgb.shape[:2]
        if shape not in self._arrays:
            self._arrays[shape] = np.zeros(shape, np.uint8)
        return dict.fromkeys(outputs, self._arrays[shape])

    def close(self) -> None:
        self._arrays.clear()


def run_child(engine: str, samples_path: Path) -> None:
    """Child: the node; writes its times when it ends."""
    samples: list[tuple[float, float]] = []
    record = PipelineHealth.frame_published

    def recording(
        health: PipelineHealth, callback_to_publish_ms: float, inference_ms: float, age_ms: float
    ) -> None:
        samples.append((callback_to_publish_ms, inference_ms))
        record(health, callback_to_publish_ms, inference_ms, age_ms)

    PipelineHealth.frame_published = recording  # type: ignore[method-assign]

    def instant(bundle: Bundle, backend: str, num_threads: int, *_: object) -> Engine:
        return InstantEngine(bundle)

    build = instant if engine == 'instant' else load_engine
    keep_frame_memory()
    status = run_node(['node', *sys.argv[sys.argv.index('--ros-args') :]], build)
    samples_path.write_text(json.dumps(samples))
    sys.exit(status)


def run_relay(name: str, samples_path: Path, *, keep_memory: bool) -> None:
    """Child: republish each image as it is, for as long as stdin is open."""
    if keep_memory:
        keep_frame_memory()
    context = Context()
    rclpy.init(args=[], context=context)
    node = rclpy.create_node(name, context=context)
    publisher = node.create_publisher(Image, f'/{name}/out', QoSProfile(depth=1))
    samples: list[float] = []

    def relay(message: Image) -> None:
        begin = time.perf_counter()
        publisher.publish(message)
        samples.append((time.perf_counter() - begin) * 1e3)

    node.create_subscription(Image, f'/{name}/in', relay, CAMERA_QOS)
    executor = rclpy.executors.SingleThreadedExecutor(context=context)
    executor.add_node(node)
    parent = os.getppid()
    while os.getppid() == parent and not samples_path.with_suffix('.stop').exists():
        executor.spin_once(timeout_sec=0.2)
    samples_path.write_text(json.dumps(samples))
    node.destroy_node()
    rclpy.shutdown(context=context)


def run_session(bundle_path: Path, options: str, frames_path: Path) -> None:
    """Child: run the frame whose number comes on stdin; answer with the milliseconds."""
    frames = np.load(frames_path)
    if options == 'engine':
        engine = OnnxRuntimeEngine(read_bundle(bundle_path), 'cpu')
        session = engine._session(frozenset(OUTPUTS))
    else:
        session = onnxruntime.InferenceSession(bundle_path, providers=['CPUExecutionProvider'])
    for line in sys.stdin:
        feeds = {'image': frames[int(line)][None]}
        begin = time.perf_counter()
        session.run(list(OUTPUTS), feeds)
        print((time.perf_counter() - begin) * 1e3, flush=True)


def callback_to_publish(samples_path: Path) -> list[float]:
    """Read the times that a node wrote when it ended, without those of its engine."""
    return [callback_ms for callback_ms, _ in json.loads(samples_path.read_text())]


def child(*arguments: object) -> list[str]:
    return [str(Path(__file__).resolve()), '--child', *(str(argument) for argument in arguments)]


def ratio(numerator: Sequence[float], denominator: Sequence[float]) -> dict[str, float]:
    """Compare medians over the whole run, and over each tenth of it."""
    tops = np.array_split(np.asarray(numerator[WARM_UP:]), 10)
    bottoms = np.array_split(np.asarray(denominator[WARM_UP:]), 10)
    tenths = [float(np.median(a) / np.median(b)) for a, b in zip(tops, bottoms, strict=True)]
    whole = float(np.median(np.concatenate(tops)) / np.median(np.concatenate(bottoms)))
    return {'median': whole, 'tenths_min': min(tenths), 'tenths_max': max(tenths)}


def benchmark_relay(bundle_path: Path, num_frames: int, folder: Path) -> dict[str, Any]:
    """Part `relay`."""
    height, width = 720, 1280
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 256, (height, width, 3), np.uint8)
    mono = rng.integers(0, 256, (height, width), np.uint8)
    relays = {'relay': False, 'relay_keeping_memory': True}
    processes = {
        name: subprocess.Popen(
            [sys.executable, *child('relay', folder / f'{name}.json', name, int(keep))],
        )
        for name, keep in relays.items()
    }
    parameters = {'autostart': 'true', 'model.bundle': bundle_path, 'input.max_age_ms': 0}
    received = {}
    arrival_ms: dict[str, list[float]] = {name: [] for name in (*relays, 'node')}
    with (
        Peer() as peer,
        NodeProcess(parameters, command=child('node', folder / 'node.json', 'instant')) as node,
    ):
        targets = {name: peer.camera(f'/{name}/in') for name in relays}
        targets['node'] = peer.camera()
        for name in relays:
            received[name] = [peer.collect(f'/{name}/out', qos=QoSProfile(depth=1))]
        received['node'] = [
            peer.collect(f'/segmentation/{output}', qos=QoSProfile(depth=1)) for output in OUTPUTS
        ]
        for publisher in targets.values():
            peer.wait_until(publisher.get_subscription_count, 'a subscriber')
        peer.wait_for_match(targets['node'], [f'/segmentation/{output}' for output in OUTPUTS])
        next_sec = time.monotonic()
        for _ in range(num_frames + WARM_UP):
            for name, publisher in targets.items():
                stamp = time.time_ns()
                if name == 'node':
                    message = rgb8(rgb, stamp)
                else:
                    header = stamp_header(stamp)
                    message = image_of_rows(mono, 'mono8', (height, width), header)
                for messages in received[name]:
                    messages.clear()
                begin = time.perf_counter()
                publisher.publish(message)
                peer.wait_until(lambda name=name: all(received[name]), f'output of {name}')
                arrival_ms[name].append((time.perf_counter() - begin) * 1e3)
                next_sec = max(next_sec + 1 / 30, time.monotonic())
                while time.monotonic() < next_sec:
                    peer.spin(next_sec - time.monotonic())
        node.stop()
    for name, process in processes.items():
        (folder / f'{name}.stop').touch()
        process.wait(20)
    samples = {name: json.loads((folder / f'{name}.json').read_text()) for name in relays}
    samples['node'] = callback_to_publish(folder / 'node.json')
    shortest = min(len(values) for values in samples.values())
    samples = {name: values[-shortest:] for name, values in samples.items()}
    return {
        'size': f'{width}x{height}',
        'callback_to_publish': {
            name: summary(values, WARM_UP) for name, values in samples.items()
        },
        'camera_to_consumer': {
            name: summary(values, WARM_UP) for name, values in arrival_ms.items()
        },
        'ratio_to_relay': ratio(samples['node'], samples['relay']),
        'ratio_to_relay_keeping_memory': ratio(samples['node'], samples['relay_keeping_memory']),
        'limit': RELAY_LIMIT,
    }


def benchmark_model(bundle_path: Path, num_frames: int, folder: Path) -> dict[str, Any]:
    """Part `model`."""
    height, width = 480, 640
    frames = np.random.default_rng(0).integers(0, 256, (8, height, width, 3), np.uint8)
    frames_path = folder / 'frames.npy'
    np.save(frames_path, frames)
    sessions = {
        options: subprocess.Popen(
            [sys.executable, *child('session', bundle_path, options, frames_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for options in ('engine', 'default')
    }
    samples: dict[str, list[float]] = {options: [] for options in sessions}
    parameters = {'autostart': 'true', 'model.bundle': bundle_path, 'input.max_age_ms': 0}
    with (
        Peer() as peer,
        NodeProcess(parameters, command=child('node', folder / 'node.json', 'real')) as node,
    ):
        camera = peer.camera()
        received = [
            peer.collect(f'/segmentation/{output}', qos=QoSProfile(depth=1)) for output in OUTPUTS
        ]
        peer.wait_for_match(camera, [f'/segmentation/{output}' for output in OUTPUTS])
        for index in range(num_frames + WARM_UP):
            number = index % len(frames)
            for messages in received:
                messages.clear()
            camera.publish(rgb8(frames[number], time.time_ns()))
            peer.wait_until(lambda: all(received), 'outputs of the node')
            for options, process in sessions.items():
                assert process.stdin is not None
                assert process.stdout is not None
                process.stdin.write(f'{number}\n')
                process.stdin.flush()
                samples[options].append(float(process.stdout.readline()))
            # With ONNX Runtime's defaults threads spin for 37 ms after a run, on the cores that
            # the node needs next.
            rested_sec = time.monotonic() + 0.2
            while time.monotonic() < rested_sec:
                peer.spin(rested_sec - time.monotonic())
        node.stop()
    for process in sessions.values():
        process.communicate()
    samples['node'] = callback_to_publish(folder / 'node.json')[-num_frames - WARM_UP :]
    return {
        'size': f'{width}x{height}',
        'bundle': str(bundle_path),
        'callback_to_publish': summary(samples['node'], WARM_UP),
        'session_run': {options: summary(samples[options], WARM_UP) for options in sessions},
        'ratio_to_engine_options': ratio(samples['node'], samples['engine']),
        'ratio_to_default_options': ratio(samples['node'], samples['default']),
        'limit': MODEL_LIMIT,
    }


def depth_of_a_slope(rng: np.random.Generator) -> Depth:
    """Return (480, 640) metres: ground that rises by 5 degrees, rocks, and holes in the far."""
    height, width = 480, 640
    columns, rows = np.meshgrid(np.arange(width), np.arange(height))
    x, y = (columns - 319.5) / 500, (rows - 199.5) / 500
    with np.errstate(divide='ignore'):
        depth = np.where(y + 0.087 > 0.06, 1.2 / (y + 0.087), 0.0)
    for left, ahead, size in ((-1.0, 4.0, 0.5), (0.8, 6.0, 0.4), (0.1, 3.0, 0.25)):
        top = (1.2 - size) / ahead - 0.087
        rock = (abs(x * ahead - left) < size / 2) & (y > top) & (depth > ahead)
        depth[rock] = ahead
    depth += rng.normal(0.0, 1.0, depth.shape) * 0.002 * depth**2
    return np.where((depth > 0.3) & (depth < 20.0), depth, 0.0).astype(np.float32)


def benchmark_hazards(bundle_path: Path, num_frames: int, folder: Path) -> dict[str, Any]:
    """Part `hazards`."""
    rng = np.random.default_rng(0)
    depth = depth_of_a_slope(rng)
    frames = rng.integers(0, 256, (8, *depth.shape, 3), np.uint8)
    info = CameraInfo(height=depth.shape[0], width=depth.shape[1])
    info.k = [500.0, 0.0, 319.5, 0.0, 500.0, 199.5, 0.0, 0.0, 1.0]
    block, settle = 10, 2
    parameters = {'autostart': 'true', 'model.bundle': bundle_path, 'input.max_age_ms': 0}
    added_topics = [f'{NODE}/hazard', f'{NODE}/height']
    arrival_ms: dict[bool, list[float]] = {False: [], True: []}
    hazard_ms: list[float] = []
    is_on: list[tuple[bool, bool]] = []
    detection = 'nan'
    with (
        Peer() as peer,
        NodeProcess(
            parameters,
            command=child('node', folder / 'hazards.json', 'real'),
            ros_arguments=REMAP_DEPTH,
        ) as node,
    ):
        camera, depth_camera = peer.camera(), peer.camera(DEPTH_TOPIC)
        intrinsics = peer.camera('/camera_info', CameraInfo)
        masks = peer.collect(f'{NODE}/mask', qos=QoSProfile(depth=1))
        peer.wait_for_match(camera, [f'{NODE}/mask'])
        for publisher in (depth_camera, intrinsics):
            peer.wait_until(publisher.get_subscription_count, 'the node subscribes')
        intrinsics.publish(info)
        for number in range(2 * num_frames):
            on = number // block % 2 == 1
            if number % block == 0:
                hazards: list[Image] = []
                subscriptions = [
                    peer.node.create_subscription(
                        Image, topic, hazards.append if 'hazard' in topic else masks.count, 1
                    )
                    for topic in (added_topics if on else [])
                ]
                if on:
                    peer.wait_for_match(camera, added_topics)
            masks.clear()
            hazards.clear()
            stamp_ns = time.time_ns()
            begin = time.perf_counter()
            depth_camera.publish(depth_16uc1(depth, stamp_ns))
            camera.publish(rgb8(frames[number % len(frames)], stamp_ns))
            # No poll between: what spins here runs on a core of the node's.
            peer.wait_until(lambda: masks, 'the mask')
            mask_ms = (time.perf_counter() - begin) * 1e3
            if on:
                peer.wait_until(lambda hazards=hazards: hazards, 'the hazards')
            if number >= WARM_UP and number % block >= settle:
                arrival_ms[on].append(mask_ms)
                if on:
                    hazard_ms.append((time.perf_counter() - begin) * 1e3)
            is_on.append((on, number >= WARM_UP and number % block >= settle))
            rested_sec = time.monotonic() + 0.1
            while time.monotonic() < rested_sec:
                peer.spin(rested_sec - time.monotonic())
            if number % block == block - 1:
                values = peer.diagnostic('Hazards') if on else {}
                detection = values.get('detection_ms_p50', '') or detection
                for subscription in subscriptions:
                    peer.node.destroy_subscription(subscription)
        node.stop()
    samples = json.loads((folder / 'hazards.json').read_text())[-len(is_on) :]
    latency_ms: dict[bool, list[float]] = {False: [], True: []}
    engine_ms: dict[bool, list[float]] = {False: [], True: []}
    for (callback_ms, inference_ms), (on, kept) in zip(samples, is_on, strict=True):
        if kept:
            latency_ms[on].append(callback_ms)
            engine_ms[on].append(inference_ms)
    beside_ms = {on: np.subtract(latency_ms[on], engine_ms[on]).tolist() for on in (False, True)}
    added_ms = float(np.median(latency_ms[True]) - np.median(latency_ms[False]))
    of = {'callback_to_publish': latency_ms, 'engine': engine_ms, 'beside_the_engine': beside_ms}
    of['camera_to_mask'] = arrival_ms
    return {
        'size': '640x480',
        'bundle': str(bundle_path),
        **{
            name: {'off': summary(times[False]), 'on': summary(times[True])}
            for name, times in of.items()
        },
        'camera_to_hazard': summary(hazard_ms),
        'detection_ms_median': float(detection),
        'added_ms': added_ms,
        'limit_ms': HAZARDS_LIMIT_MS,
    }


def main() -> int:
    """Run the benchmark; returns 1 when a median ratio is above its limit."""
    if len(sys.argv) > 1 and sys.argv[1] == '--child':
        kind, *given = sys.argv[2:]
        if kind == 'node':
            run_child(given[1], Path(given[0]))
        elif kind == 'relay':
            run_relay(given[1], Path(given[0]), keep_memory=given[2] == '1')
        else:
            run_session(Path(given[0]), given[1], Path(given[2]))
        return 0
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--part', choices=('relay', 'model', 'hazards', 'all'), default='all')
    parser.add_argument('--bundle', type=Path, help='instead of the shipped one')
    parser.add_argument('--tiny', action='store_true', help='use the tiny bundle of the tests')
    parser.add_argument('--frames', type=int, default=300, help='to each process')
    options = parser.parse_args()
    os.environ.update(with_image_profile(os.environ))
    os.environ.setdefault('ROS_DOMAIN_ID', '101')
    os.environ.setdefault('OPENBLAS_NUM_THREADS', '1')  # as segmentation_node does
    result: dict[str, Any] = {'environment': environment(), 'load_before': os.getloadavg()}
    within = True
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tiny = write_tiny_bundle(folder / 'tiny.onnx').path
        bundle = tiny if options.tiny else options.bundle or share_path(DEFAULT_BUNDLE)
        if options.part in ('relay', 'all'):
            result['relay'] = benchmark_relay(tiny, options.frames, folder)
            within &= result['relay']['ratio_to_relay']['median'] <= RELAY_LIMIT
        if options.part in ('model', 'all'):
            result['model'] = benchmark_model(bundle, options.frames, folder)
            within &= result['model']['ratio_to_engine_options']['median'] <= MODEL_LIMIT
        if options.part in ('hazards', 'all'):
            result['hazards'] = benchmark_hazards(bundle, options.frames, folder)
            within &= result['hazards']['added_ms'] <= HAZARDS_LIMIT_MS
    result['load_after'] = os.getloadavg()
    result['within_limits'] = within
    print(json.dumps(result, indent=2))
    return 0 if within else 1


if __name__ == '__main__':
    sys.exit(main())
