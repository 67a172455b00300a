"""The temporal filter: blends worked by hand, what gets no history, and the pipeline around it."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from test_flow import STEP_NS, cut, texture
from tiny_bundle import write_tiny_bundle

from desertmind_seg.engines.load import load_engine
from desertmind_seg.engines.onnxruntime import OnnxRuntimeEngine
from desertmind_seg.engines.protocol import EngineError
from desertmind_seg.model.bundle import Bundle, read_bundle
from desertmind_seg.model.ontology import UNLABELED
from desertmind_seg.pipeline.flow import FIRST, GAP, JUMP, MAX_GAP_NS, OTHER_SIZE
from desertmind_seg.pipeline.segmenter import Segmenter
from desertmind_seg.pipeline.temporal import TemporalFilter, decide

SIZE_HW = (60, 80)
OUTPUTS = ('mask', 'confidence', 'cost')


def even(*values: int) -> npt.NDArray[np.uint8]:
    """Probabilities that are the same everywhere."""
    planes = np.array(values, np.uint8)[:, None, None]
    return np.broadcast_to(planes, (len(values), *SIZE_HW)).copy()


def middle(planes: npt.NDArray[np.float32]) -> list[float]:
    found: list[float] = planes[:, 30, 40].tolist()
    return found


def test_a_blend_by_hand() -> None:
    temporal, frame = TemporalFilter(0.6), cut(texture(), 40, 40)
    first = temporal.blend(even(255, 0), frame, 0)
    assert first.share == 0.0
    assert middle(first.probabilities) == [255.0, 0.0]
    second = temporal.blend(even(0, 255), frame, STEP_NS)
    assert second.share > 0.97
    assert middle(second.probabilities) == pytest.approx([0.6 * 255, 0.4 * 255])
    third = temporal.blend(even(0, 255), frame, 2 * STEP_NS)
    assert middle(third.probabilities) == pytest.approx([0.36 * 255, 0.64 * 255])
    temporal.alpha = 0.0
    assert middle(temporal.blend(even(100, 155), frame, 3 * STEP_NS).probabilities) == [100, 155]


def test_the_history_moves_with_the_scene() -> None:
    temporal, ground = TemporalFilter(0.5), texture()
    before = even(0, 255)
    before[0, :, 44:] = 255
    before[1, :, 44:] = 0
    # The camera goes 4 pixels of its own right, 2 of the network's: the edge goes 2 to the left.
    temporal.blend(before, cut(ground, 40, 40), 0)
    blended = temporal.blend(even(0, 255), cut(ground, 40, 44), STEP_NS).probabilities
    edge = blended[0, 10:50]
    assert edge[:, 45:74].min() > 0.5 * 255 - 1
    assert edge[:, 44].min() > 0.5 * 255 - 1
    assert edge[:, :40].max() < 1


def test_untrusted_pixels_are_decided_by_their_frame_alone() -> None:
    temporal, frame = TemporalFilter(0.9), cut(texture(), 40, 40)
    temporal.blend(even(255, 0), frame, 0)
    brighter = frame.copy()
    brighter[:, 80:] = np.clip(brighter[:, 80:].astype(int) + 40, 0, 255)
    blended = temporal.blend(even(0, 255), brighter, STEP_NS)
    assert 0.4 < blended.share < 0.55
    left, right = blended.probabilities[0, :, 5:35], blended.probabilities[0, :, 45:]
    assert np.median(left) == pytest.approx(0.9 * 255)
    assert (right == 0).mean() > 0.95


def test_frames_without_history() -> None:
    temporal, frame = TemporalFilter(0.9), cut(texture(), 40, 40)
    small = np.ascontiguousarray(frame[:100])
    # Stamp, frame, and whether the frame before is known: the same network sees both sizes.
    sequence = [
        (0, frame, False),
        (STEP_NS, frame, True),
        (STEP_NS, frame, False),
        (0, frame, False),
        (STEP_NS, frame, True),
        (2 * STEP_NS + MAX_GAP_NS, frame, False),
        (3 * STEP_NS + MAX_GAP_NS, small, False),
    ]
    for number, (stamp_ns, rgb, known) in enumerate(sequence):
        now = 255 * (number % 2)
        blended = temporal.blend(even(now, 255 - now), rgb, stamp_ns)
        assert (blended.share > 0) == known
        if not known:
            assert middle(blended.probabilities) == [now, 255 - now]
    assert temporal.resets == {FIRST: 1, JUMP: 2, GAP: 1, OTHER_SIZE: 1}
    temporal.reset()
    assert temporal.blend(even(0, 255), small, 4 * STEP_NS + MAX_GAP_NS).share == 0.0


@pytest.mark.parametrize('alpha', [-0.1, 0.96, 1.0, float('nan')])
def test_impossible_alpha(alpha: float) -> None:
    with pytest.raises(ValueError, match=f'alpha of the temporal filter is {alpha}; expected 0.0'):
        TemporalFilter(alpha)


def test_decisions_by_hand() -> None:
    probabilities = np.array([[[100, 0]], [[100, 55]], [[55, 200]]], np.float32)
    found = decide(probabilities, np.array([10, 20, 254], np.uint8), (2, 4))
    # Of two equal ones the first; each decision for 2 x 2 pixels of the camera.
    assert found['mask'].tolist() == [[0, 0, 2, 2]] * 2
    assert found['confidence'].tolist() == [[100, 100, 200, 200]] * 2
    cost = [round((1000 + 2000 + 55 * 254) / 255), round((55 * 20 + 200 * 254) / 255)]
    assert found['cost'].tolist() == [[cost[0], cost[0], cost[1], cost[1]]] * 2
    assert all(plane.dtype == np.uint8 for plane in found.values())
    # Sums of rounded values: 254 here is all there is.
    found = decide(np.full((2, 1, 1), 127, np.float32), np.array([100, 200], np.uint8), (1, 1))
    assert found['cost'].tolist() == [[150]]


@pytest.fixture(scope='module')
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    path = tmp_path_factory.mktemp('bundle') / 'tiny.onnx'
    return write_tiny_bundle(path, probabilities=True)


@pytest.fixture
def engine(bundle: Bundle) -> OnnxRuntimeEngine:
    return OnnxRuntimeEngine(bundle, 'cpu')


def test_the_engine_gives_probabilities_at_the_size_of_the_network(
    engine: OnnxRuntimeEngine, asymmetric_rgb: npt.NDArray[np.uint8]
) -> None:
    assert engine.outputs == ('mask', 'confidence', 'cost', 'probabilities')
    found = engine.infer(asymmetric_rgb, outputs=('probabilities',))['probabilities']
    assert (found.shape, found.dtype) == ((8, 48, 64), np.uint8)
    assert np.abs(found.astype(int).sum(axis=0) - 255).max() <= 4
    both = engine.infer(asymmetric_rgb, outputs=('probabilities', 'mask'))
    assert np.array_equal(both['probabilities'], found)


def test_the_pipeline_blends(engine: OnnxRuntimeEngine, a_second_a_look: None) -> None:
    ground = texture()
    frames = [cut(ground, 40, 40), cut(ground, 40, 41)]
    temporal = TemporalFilter(0.5)
    segmenter = Segmenter(engine, temporal=temporal)
    first = segmenter.segment(frames[0], OUTPUTS, stamp_ns=0)
    second = segmenter.segment(frames[1], OUTPUTS, stamp_ns=STEP_NS)
    again = TemporalFilter(0.5)
    for number, (frame, found) in enumerate(zip(frames, (first, second), strict=True)):
        planes = engine.infer(frame, outputs=('probabilities',))['probabilities']
        blended = again.blend(planes, frame, number * STEP_NS)
        expected = decide(blended.probabilities, segmenter.ontology.costs, (120, 160))
        assert np.array_equal(found.mask, expected['mask'])
        assert np.array_equal(found.confidence, expected['confidence'])
        assert np.array_equal(found.cost, expected['cost'])
        assert found.blended_share == blended.share
        assert (found.inference_ms, found.filter_ms) == (1000.0, 1000.0)
    assert first.blended_share == 0.0
    assert second.blended_share > 0.9
    assert segmenter.segment(frames[1], ('mask',), stamp_ns=2 * STEP_NS).confidence is None
    segmenter.reset()
    assert segmenter.segment(frames[1], stamp_ns=3 * STEP_NS).blended_share == 0.0


def test_a_frame_without_a_stamp_stands_alone(engine: OnnxRuntimeEngine) -> None:
    frame = cut(texture(), 40, 40)
    segmenter = Segmenter(engine, temporal=TemporalFilter(0.5))
    assert segmenter.segment(frame, stamp_ns=0).blended_share == 0.0
    assert segmenter.segment(frame).blended_share == 0.0
    assert segmenter.segment(frame, stamp_ns=STEP_NS).blended_share == 0.0
    assert segmenter.segment(frame, stamp_ns=2 * STEP_NS).blended_share > 0.9


def test_the_threshold_applies_to_the_blend(engine: OnnxRuntimeEngine) -> None:
    frame = cut(texture(), 40, 40)
    sure = Segmenter(engine, temporal=TemporalFilter(0.5)).segment(frame, OUTPUTS, stamp_ns=0)
    level = int(np.median(sure.confidence))
    segmenter = Segmenter(engine, level / 255, TemporalFilter(0.5))
    found = segmenter.segment(frame, ('cost',), stamp_ns=0)
    doubtful = sure.confidence < level
    assert 0.1 < doubtful.mean() < 0.9
    assert np.array_equal(found.mask == UNLABELED, doubtful)
    assert np.array_equal(found.cost == UNLABELED, doubtful)
    assert found.confidence is None


def test_a_bundle_or_backend_without_probabilities_is_refused(
    tiny_bundle: Path, bundle: Bundle
) -> None:
    older = load_engine(read_bundle(tiny_bundle), 'onnxruntime-cpu')
    with pytest.raises(EngineError, match='gives mask, confidence, cost: export it again with'):
        Segmenter(older, temporal=TemporalFilter(0.5))
    with pytest.raises(EngineError, match=r"'probabilities'.*expected some of .'mask', 'conf"):
        older.infer(np.zeros((64, 64, 3), np.uint8), outputs=('probabilities',))

    class OtherBackend:
        outputs = ('mask', 'confidence', 'cost')
        backend = 'tensorrt'

    other = OtherBackend()
    other.bundle = bundle
    with pytest.raises(EngineError, match=r'backend tensorrt gives .*: choose onnxruntime-cpu or'):
        Segmenter(other, temporal=TemporalFilter(0.5))
