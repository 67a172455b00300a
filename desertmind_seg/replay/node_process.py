"""The node as a process of its own."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
import signal
import subprocess
import sys

from desertmind_seg.messages.bags import COMPRESSED_IMAGE_TYPE, Bag
from desertmind_seg.model.errors import DesertmindError
from desertmind_seg.model.processes import ending_with_us

NODE_LOG = 'node.log'
_STOP_TIMEOUT_SEC = 10.0
_LOG_TAIL_LINES = 15


class ReplayError(DesertmindError):
    """The node did not start, died, or sent no mask; the message says what is known."""


@dataclass(frozen=True)
class NodeOptions:
    """How the node is started.

    Attributes:
        bundle: resolved path.
        backend: its engine.backend.
        confidence_threshold: probability 0..1.
        depth_topic: of the bag, aligned to the images; None plays no depth.
        camera_info_topic: of the bag; with it and depth the node finds hazards. None: without.
    """

    bundle: Path
    backend: str
    confidence_threshold: float
    depth_topic: str | None = None
    camera_info_topic: str | None = None


@dataclass(frozen=True)
class NodeInput:
    """A topic of the bag as the node hears it.

    Attributes:
        topic: in the bag.
        base: what the node's input is remapped to, without the suffix of its transport.
        played_on: where the messages go.
        transport: 'raw' or 'compressed'.
    """

    topic: str
    base: str
    played_on: str
    transport: str


def node_input(bag: Bag, topic: str, suffix: str) -> NodeInput:
    """Say how the node hears a topic; compressed ones lie where image_transport puts them."""
    if bag.topics[topic].type != COMPRESSED_IMAGE_TYPE:
        return NodeInput(topic, topic, topic, 'raw')
    base = topic.removesuffix(suffix)
    return NodeInput(topic, base, f'{base}{suffix}', 'compressed')


def node_command(image: NodeInput, depth: NodeInput | None, options: NodeOptions) -> list[str]:
    """Return the command line of the node for these inputs."""
    parameters = {
        'autostart': 'true',
        'use_sim_time': 'true',
        'model.bundle': _quoted(options.bundle),
        'engine.backend': _quoted(options.backend),
        'input.transport': image.transport,
        'confidence.threshold': f'{options.confidence_threshold:f}',
    }
    remaps = {'image': image.base}
    if depth is not None:
        parameters |= {'depth.transport': depth.transport}
        remaps |= {'depth/image': depth.base}
    if options.camera_info_topic is not None:
        remaps |= {'camera_info': options.camera_info_topic}
    arguments = [part for item in parameters.items() for part in ('-p', ':='.join(item))]
    arguments += [part for item in remaps.items() for part in ('-r', ':='.join(item))]
    module = 'desertmind_seg.segmentation_node'
    return [sys.executable, '-m', module, '--ros-args', *arguments]


def _quoted(value: object) -> str:
    """Write a value so that YAML reads a string, whatever path or number it looks like."""
    text = str(value).replace("'", "''")
    return f"'{text}'"


@contextmanager
def running_node(command: Sequence[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run the node; on leaving, interrupt it and wait for its end.

    It ends with this process, too; the thread that calls must be the main one.
    """
    with log.open('wb') as output:
        # A session of its own: Ctrl-C comes here, and the node is stopped in order after that.
        process = subprocess.Popen(
            ending_with_us(command),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(_STOP_TIMEOUT_SEC)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def log_tail(log: Path) -> str:
    """Return the last lines that the node printed, indented."""
    lines = log.read_text(encoding='utf-8', errors='replace').splitlines()[-_LOG_TAIL_LINES:]
    return '\n'.join(f'    {line}' for line in lines) or '    (nothing)'
