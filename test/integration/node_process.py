"""The node as its own process, and the camera and consumers around it, for integration tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
import json
import os
from pathlib import Path
import re
import signal
import subprocess
import sys
import tempfile
import time
from types import TracebackType
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.srv import ChangeState, GetState
import numpy as np
import numpy.typing as npt
from rcl_interfaces.msg import Parameter, SetParametersResult
from rcl_interfaces.srv import SetParameters
import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter as RclpyParameter
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
from std_msgs.msg import Header, String

from desertmind_seg.messages.images import label_info_type
from desertmind_seg.model.processes import ending_with_us

ROOT = Path(__file__).resolve().parents[2]
# Discovery can take 3 s, and the machine may be busy with other work: a node that is active after
# 4 s took more than 30 at a load of 35 on two cores.
DEADLINE_SEC = 90.0
NODE = '/segmentation'
MASK = f'{NODE}/mask'
IMAGE_TOPIC = '/camera/color/image_raw'
DEPTH_TOPIC = '/camera/aligned_depth_to_color/image_raw'
REMAP_DEPTH = ('-r', f'depth/image:={DEPTH_TOPIC}')
CAMERA_QOS = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
CONSUMER_QOS = QoSProfile(depth=50)
SENSOR_QOS = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
LATCHED_QOS = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
_WHO_IS_THERE = """
import time
import rclpy
from rclpy.node import Node
rclpy.init()
node = Node('witness')
time.sleep(5)
print(node.get_node_names_and_namespaces(), node.get_service_names_and_types())
"""


def node_arguments(parameters: Mapping[str, object], remap: str = IMAGE_TOPIC) -> list[str]:
    """Write parameters and the input topic as the node's command line has them."""
    assigned = (part for item in parameters.items() for part in ('-p', '{}:={}'.format(*item)))
    return ['--ros-args', '-r', f'image:={remap}', *assigned]


class NodeProcess:
    """`python -m desertmind_seg.segmentation_node` with parameters, its log kept.

    Args:
        parameters: name -> value as it is written after `-p name:=`.
        remap: input topic.
        command: other Python arguments than the module, for a script that wraps the node.
        environment: changes of the environment; None removes a variable.
        ros_arguments: further arguments after --ros-args.
        prefix: command that runs the process, such as nsenter with its options.
    """

    def __init__(
        self,
        parameters: Mapping[str, object],
        remap: str = IMAGE_TOPIC,
        command: Sequence[str] = ('-m', 'desertmind_seg.segmentation_node'),
        environment: Mapping[str, str | None] | None = None,
        ros_arguments: Sequence[str] = (),
        prefix: Sequence[str] = (),
    ) -> None:
        arguments = [sys.executable, *command, *node_arguments(parameters, remap), *ros_arguments]
        variables = {
            **os.environ,
            'PYTHONPATH': os.pathsep.join([str(ROOT), os.environ.get('PYTHONPATH', '')]),
            'PYTHONFAULTHANDLER': '1',
            'PYTHONUNBUFFERED': '1',
            **(environment or {}),
        }
        self._begin_sec = time.monotonic()
        self._log = tempfile.NamedTemporaryFile('w+', suffix='.log', prefix='segmentation_')  # noqa: SIM115
        # Of tests that were killed no node is left to answer the next ones.
        self._process = subprocess.Popen(
            [*prefix, *ending_with_us(arguments, signal.SIGKILL)],
            stdout=self._log,
            stderr=subprocess.STDOUT,
            env={name: value for name, value in variables.items() if value is not None},
        )

    def __enter__(self) -> NodeProcess:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        seen = '' if exc is None else self._seen_from_outside()
        self.stop()
        if exc is not None:
            sys.stderr.write(f'--- {seen}\n--- log of the node\n{self.log}')
        self._log.close()

    def _seen_from_outside(self) -> str:
        """Say whether the process runs, where, and what another process hears of it.

        Beside a second worker of tests now and then a node is not discovered within 30 s.
        """
        status = self._process.poll()
        if status is not None:
            return f'the node had ended with {status}'
        heard = subprocess.run(
            [sys.executable, '-c', _WHO_IS_THERE], capture_output=True, text=True, timeout=60
        )
        # PYTHONFAULTHANDLER: the stacks of all threads go into the log.
        self._process.send_signal(signal.SIGABRT)
        self._process.wait(DEADLINE_SEC)
        segments = sorted(path.name for path in Path('/dev/shm').glob('*fast*'))
        return f'the node ran; a new process hears {heard.stdout}{heard.stderr}; {segments}'

    def stop(self) -> None:
        """End the process, if it has not ended yet."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            try:
                self._process.wait(DEADLINE_SEC)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait_for_start(self) -> float:
        """Wait until the imports are done; return the seconds since the process began."""
        self.wait_for_log('backend auto chose')
        return time.monotonic() - self._begin_sec

    def shared_memory(self) -> set[str]:
        """Return the Fast DDS segments, 70 MB each, that the process has mapped."""
        return _mapped_segments(Path(f'/proc/{self.pid}/maps'))

    @property
    def log(self) -> str:
        return Path(self._log.name).read_text(encoding='utf-8', errors='replace')

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def wait(self, timeout_sec: float = DEADLINE_SEC) -> int:
        """Wait for the end; returns the exit status."""
        return self._process.wait(timeout_sec)

    def wait_for_log(self, pattern: str, timeout_sec: float = DEADLINE_SEC) -> re.Match[str]:
        """Wait until the log matches; fails when the process ends before."""
        deadline = time.monotonic() + timeout_sec
        while True:
            ended = self._process.poll() is not None
            match = re.search(pattern, self.log, re.DOTALL)
            if match:
                return match
            if ended or time.monotonic() > deadline:
                why = 'ended' if ended else f'for {timeout_sec} s'
                raise AssertionError(f'no {pattern!r} in the log ({why}):\n{self.log}')
            time.sleep(0.02)


class Peer:
    """A second ROS process: publishes frames and keeps what the node sends."""

    def __init__(self) -> None:
        self._context = Context()
        rclpy.init(context=self._context)
        self.node = Node('camera', context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self._diagnostics: list[DiagnosticArray] | None = None

    def __enter__(self) -> Peer:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown(context=self._context)

    def spin(self, timeout_sec: float = 0.0) -> None:
        """Handle what has arrived; waits for at most one message."""
        self._executor.spin_once(timeout_sec=timeout_sec)

    def wait_until(
        self, condition: Callable[[], Any], what: str, timeout_sec: float = DEADLINE_SEC
    ) -> Any:
        """Spin until the condition is true and return its value."""
        deadline = time.monotonic() + timeout_sec
        while not (value := condition()):
            assert time.monotonic() < deadline, f'not within {timeout_sec} s: {what}'
            self.spin(0.05)
        return value

    def collect(
        self, topic: str, message_type: type[Any] = Image, qos: QoSProfile = CONSUMER_QOS
    ) -> list[Any]:
        """Subscribe; the list grows while spinning."""
        received: list[Any] = []
        self.node.create_subscription(message_type, topic, received.append, qos)
        return received

    def camera(
        self,
        topic: str = IMAGE_TOPIC,
        message_type: type[Any] = Image,
        qos: QoSProfile = CAMERA_QOS,
    ) -> Publisher[Any]:
        """Make a publisher of frames."""
        return self.node.create_publisher(message_type, topic, qos)

    def wait_for_match(self, publisher: Publisher[Any], topics: Sequence[str] = ()) -> None:
        """Wait until the node hears the camera, and we hear the node on `topics`."""
        self.wait_until(publisher.get_subscription_count, 'the node subscribes to the camera')
        for topic in topics:
            self.wait_until(lambda topic=topic: self.node.count_publishers(topic), topic)
        # The node's side of the match is what decides whether it computes an output.
        self.wait_until(
            lambda: (
                {topic.rpartition('/')[2] for topic in topics}
                <= set(self.diagnostic('Inference').get('outputs', '').split())
            ),
            f'the node sees the subscribers of {topics}',
        )

    def diagnostic(self, status: str) -> dict[str, str]:
        """Return the values, level and message of the node's latest diagnostic; {} before it."""
        return next(self._kept_diagnostics(status), {})

    def _kept_diagnostics(self, status: str) -> Iterator[dict[str, str]]:
        if self._diagnostics is None:
            self._diagnostics = self.collect('/diagnostics', DiagnosticArray)
        for array in reversed(self._diagnostics):
            for entry in array.status:
                if entry.name == f'segmentation: {status}':
                    values = {pair.key: pair.value for pair in entry.values}
                    yield {**values, 'level': str(entry.level[0]), 'message': entry.message}

    def forget_diagnostics(self) -> None:
        """Make `diagnostic` wait for news."""
        if self._diagnostics is not None:
            self._diagnostics.clear()

    def wait_for_diagnostic(
        self, status: str, *, forget: bool = True, **expected: str
    ) -> dict[str, str]:
        """Wait for a diagnostic whose values match the regular expressions.

        Args:
            status: its name.
            forget: for a new one. What is said once, of a frame whose mask is waited for, may
                have come before: `forget_diagnostics`, send it, and wait without forgetting.
            expected: key -> regular expression.
        """
        if forget:
            self.forget_diagnostics()

        def fits(values: Mapping[str, str]) -> bool:
            return all(
                re.search(pattern, values.get(key, '')) for key, pattern in expected.items()
            )

        def matching() -> dict[str, str] | None:
            return next(filter(fits, self._kept_diagnostics(status)), None)

        try:
            found: dict[str, str] = self.wait_until(matching, f'{status} {expected}')
        except AssertionError as err:
            raise AssertionError(f'{err}; latest {self.diagnostic(status)}') from err
        return found

    def call(self, service_type: type[Any], name: str, request: Any) -> Any:
        """Call a service and return its response."""
        client = self.node.create_client(service_type, name)
        self.wait_until(client.service_is_ready, f'service {name}')
        # The node answers into the void while it has not discovered this client, which nothing
        # shows here. It discovers clients in their order: once it answers a younger one, asked
        # as often as needed, it knows this one.
        self.state()
        future = client.call_async(request)
        self.wait_until(future.done, f'response of {name}')
        self.node.destroy_client(client)
        return future.result()

    def transition(self, transition_id: int) -> bool:
        """Ask the node for a lifecycle transition; returns whether it succeeded."""
        request = ChangeState.Request()
        request.transition.id = transition_id
        return bool(self.call(ChangeState, f'{NODE}/change_state', request).success)

    def state(self) -> str:
        """Return the label of the node's lifecycle state."""
        client = self.node.create_client(GetState, f'{NODE}/get_state')
        self.wait_until(client.service_is_ready, 'service get_state')
        futures: list[Any] = []

        def answered() -> Any:
            # Again after each second, since an answer may be lost (see `call`).
            if time.monotonic() > asked_sec + len(futures):
                futures.append(client.call_async(GetState.Request()))
            return next((future for future in futures if future.done()), None)

        asked_sec = time.monotonic()
        label = self.wait_until(answered, 'response of get_state').result().current_state.label
        self.node.destroy_client(client)
        return str(label)

    def set_parameter(self, name: str, value: object) -> SetParametersResult:
        """Set one parameter of the node, as `ros2 param set` does."""
        message: Parameter = RclpyParameter(name, value=value).to_parameter_msg()
        response = self.call(
            SetParameters, f'{NODE}/set_parameters', SetParameters.Request(parameters=[message])
        )
        return response.results[0]


def _mapped_segments(maps: Path) -> set[str]:
    try:
        return set(re.findall(r'/dev/shm/fastdds_[0-9a-f]{16}$', maps.read_text(), re.MULTILINE))
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return set()  # another process, which has ended or is not ours


def abandoned_segments(segments: set[str]) -> set[str]:
    """Return those that still exist though no process uses them."""
    used = set().union(*(_mapped_segments(maps) for maps in Path('/proc').glob('[0-9]*/maps')))
    return {segment for segment in segments - used if Path(segment).exists()}


def stamp_header(stamp_ns: int, frame_id: str = 'camera_color_optical_frame') -> Header:
    """Build a header."""
    header = Header(frame_id=frame_id)
    header.stamp.sec, header.stamp.nanosec = divmod(stamp_ns, 1_000_000_000)
    return header


def stamp_ns_of(message: Any) -> int:
    """Return a message's stamp."""
    return int(message.header.stamp.sec * 1_000_000_000 + message.header.stamp.nanosec)


def image_of_rows(
    rows: npt.NDArray[np.uint8],
    encoding: str,
    size_hw: tuple[int, int],
    header: Header,
    padding: int = 0,
) -> Image:
    """Build an Image from the bytes of its rows, each followed by `padding` bytes of 0xA5."""
    padded = np.pad(rows, ((0, 0), (0, padding)), constant_values=0xA5)
    message = Image(header=header, encoding=encoding, step=padded.shape[1])
    message.height, message.width = size_hw
    message.data.frombytes(padded.tobytes())
    return message


def rgb8(rgb: npt.NDArray[np.uint8], stamp_ns: int, padding: int = 0) -> Image:
    """Build an rgb8 Image of a frame."""
    height, width = rgb.shape[:2]
    rows = rgb.reshape(height, 3 * width)
    return image_of_rows(rows, 'rgb8', (height, width), stamp_header(stamp_ns), padding)


def pixels_of(message: Image) -> npt.NDArray[np.uint8]:
    """Return the pixels of an unpadded mono8 or rgb8 message."""
    channels = {'mono8': 1, 'rgb8': 3}[message.encoding]
    assert message.step == message.width * channels
    pixels = np.frombuffer(message.data, np.uint8)
    shape = (message.height, message.width) + ((3,) if channels == 3 else ())
    return pixels.reshape(shape)


def label_info_of(peer: Peer) -> list[Any]:
    """Subscribe to the classes, latched, in the type that this machine publishes them in."""
    return peer.collect(f'{NODE}/label_info', label_info_type()[0], LATCHED_QOS)


def names_and_threshold(label_info: Any) -> tuple[list[str], float]:
    """Read a vision_msgs/LabelInfo, or the JSON that stands for it where it is not installed."""
    if isinstance(label_info, String):
        document = json.loads(label_info.data)
        return [entry['class_name'] for entry in document['class_map']], document['threshold']
    return [entry.class_name for entry in label_info.class_map], label_info.threshold


def now_ns() -> int:
    """Return the wall clock, which is the node's without sim time."""
    return time.time_ns()


def send_until_answered(
    peer: Peer, camera: Publisher[Any], message: Image, masks: list[Image]
) -> Image:
    """Send a frame until its mask comes: a best-effort frame may be lost while peers discover."""
    stamp_ns = stamp_ns_of(message)

    def answer() -> Image | None:
        return next((mask for mask in masks if stamp_ns_of(mask) == stamp_ns), None)

    for _ in range(3):
        camera.publish(message)
        deadline = time.monotonic() + 10.0
        while time.monotonic() < deadline:
            if answer() is not None:
                return answer()
            peer.spin(0.05)
    raise AssertionError(f'no mask for the frame of {stamp_ns}')


def depth_16uc1(metres: npt.NDArray[np.float32], stamp_ns: int, **fields: Any) -> Image:
    """Build depth in millimetres from (H, W) float32 metres; `fields` overwrite the message's."""
    rows = (metres * 1000).round().astype('<u2').view(np.uint8)
    message = image_of_rows(rows, '16UC1', metres.shape, stamp_header(stamp_ns))
    for name, value in fields.items():
        setattr(message, name, value)
    return message


def wait_for_depth_match(peer: Peer, depth: Publisher[Any], message: Any) -> None:
    """Send depth until the node hears it: it is not repeated later as an image is."""
    heard = int(peer.wait_for_diagnostic('Depth', received=r'\d')['received'])

    def hears() -> bool:
        message.header.stamp = stamp_header(now_ns()).stamp
        depth.publish(message)
        peer.spin(0.05)
        return int(peer.diagnostic('Depth').get('received', heard)) > heard

    peer.wait_until(hears, 'the node hears depth')
