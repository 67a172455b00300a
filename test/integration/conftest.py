"""What tests of the node share: a second ROS process, and the pipelines and frames to compare."""

from __future__ import annotations

from collections.abc import Generator, Iterator
import gc
import os
from pathlib import Path
import signal

from node_process import Peer
import numpy as np
import numpy.typing as npt
import pytest
from tiny_bundle import write_tiny_bundle

from desertmind_seg.engines.onnxruntime import OnnxRuntimeEngine
from desertmind_seg.model.bundle import read_bundle
from desertmind_seg.pipeline.segmenter import Segmenter

DEPTH_SIZE_HW = (240, 320)
OBSTACLE = 4


def _nodes(kind: type) -> set[int]:
    """Return the ids of the nodes in this process; 0.1 s beside torch's objects."""
    return {id(each) for each in gc.get_objects() if type(each) is kind}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Function) -> Generator[None, object, object]:
    """Let no node in this process outlive its test, and fail a test whose node does.

    It refers to itself, so that its context, with 70 MB of shared memory and its place in the
    graph, goes only when garbage is collected: twelve tests later a node that is alone was told of
    13 of its name.
    """
    kind = getattr(item.module, 'SegmentationNode', None)
    if kind is None:  # as of nearly all tests, which all come here
        return (yield)
    # A test that failed keeps its nodes, for debuggers.
    before, failed = _nodes(kind), item.session.testsfailed
    result = yield
    gc.collect()
    if _nodes(kind) - before and item.session.testsfailed == failed:
        said = 'a node in this process outlives its test: what still refers to it?'
        report = pytest.TestReport(item.nodeid, item.location, {}, 'failed', said, 'teardown')
        item.ihook.pytest_runtest_logreport(report=report)
    return result


@pytest.fixture
def peer() -> Iterator[Peer]:
    with Peer() as peer:
        yield peer


@pytest.fixture
def process_state() -> Iterator[None]:
    """Put back what a command changes for the rest of its process, to run it in this one.

    A process of its own takes 0.8 s of CPU time for its imports alone.
    """
    environment = dict(os.environ)
    numbers = signal.SIGINT, signal.SIGTERM, signal.SIGHUP
    handlers = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)
    os.environ.clear()
    os.environ.update(environment)


@pytest.fixture(scope='module')
def segmenter(tiny_bundle: Path) -> Segmenter:
    """The pipeline that the node runs, in this process."""
    return Segmenter(OnnxRuntimeEngine(read_bundle(tiny_bundle), 'cpu'))


@pytest.fixture(scope='module')
def rgbd_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The farther a pixel, the likelier it is an obstacle."""
    path = tmp_path_factory.mktemp('rgbd') / 'rgbd.onnx'
    return write_tiny_bundle(path, modality='rgbd', depth_class=OBSTACLE).path


@pytest.fixture(scope='module')
def rgbd_segmenter(rgbd_bundle: Path) -> Segmenter:
    return Segmenter(OnnxRuntimeEngine(read_bundle(rgbd_bundle), 'cpu'))


@pytest.fixture(scope='module')
def rgb() -> npt.NDArray[np.uint8]:
    """A frame that goes with `metres`."""
    return np.random.default_rng(2).integers(0, 256, (*DEPTH_SIZE_HW, 3), np.uint8)


@pytest.fixture(scope='module')
def metres() -> npt.NDArray[np.float32]:
    """Depth that rises from left to right, with a hole, in whole millimetres."""
    height, width = DEPTH_SIZE_HW
    columns = np.linspace(1.0, 30.0, width, dtype=np.float32).round(3)
    depth = np.tile(columns, (height, 1))
    depth[50:90, 100:180] = 0.0
    return depth
