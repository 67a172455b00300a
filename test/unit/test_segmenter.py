"""The pipeline: threshold, outputs asked of the engine, and refused frames."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from tiny_typed import write_tiny_typed_bundle

from desertmind_seg.engines.load import load_engine
from desertmind_seg.model.bundle import Bundle, read_bundle
from desertmind_seg.model.ontology import UNLABELED
from desertmind_seg.pipeline.segmenter import ImageError, Segmenter

FRAME = np.zeros((64, 80, 3), np.uint8)


class ScriptedEngine:
    """Returns given confidences for a frame of class 3 and cost 100, and notes what was asked."""

    backend = 'scripted'
    device = 'none'

    def __init__(self, bundle: Bundle, confidences: Sequence[int] = (255,)) -> None:
        self.bundle = bundle
        self.confidences = confidences
        self.asked: list[list[str]] = []

    def infer(
        self, rgb: npt.NDArray[np.uint8], depth: Any = None, outputs: Sequence[str] = ()
    ) -> dict[str, npt.NDArray[np.uint8]]:
        self.asked.append(list(outputs))
        row = np.resize(np.array(self.confidences, np.uint8), rgb.shape[:2])
        results = {
            'mask': np.full(rgb.shape[:2], 3, np.uint8),
            'confidence': row,
            'cost': np.full(rgb.shape[:2], 100, np.uint8),
        }
        return {name: results[name] for name in outputs}

    def close(self) -> None:
        pass


@pytest.fixture
def scripted(tiny_bundle: Path) -> ScriptedEngine:
    return ScriptedEngine(read_bundle(tiny_bundle))


def test_real_engine(tiny_bundle: Path, asymmetric_rgb: npt.NDArray[np.uint8]) -> None:
    engine = load_engine(read_bundle(tiny_bundle))
    segmenter = Segmenter(engine)
    result = segmenter.segment(asymmetric_rgb, ('mask', 'confidence', 'cost'))
    arrays = engine.infer(asymmetric_rgb, outputs=('mask', 'confidence', 'cost'))
    assert np.array_equal(result.mask, arrays['mask'])
    assert result.confidence is not None
    assert np.array_equal(result.confidence, arrays['confidence'])
    assert result.cost is not None
    assert np.array_equal(result.cost, arrays['cost'])
    assert result.inference_ms > 0
    assert segmenter.ontology.name == 'ycor-8'


def test_the_time_of_the_engine_is_in_milliseconds(
    scripted: ScriptedEngine, a_second_a_look: None
) -> None:
    result = Segmenter(scripted).segment(FRAME)
    assert (result.inference_ms, result.filter_ms) == (1000.0, 0.0)


@pytest.mark.parametrize(
    ('threshold', 'outputs', 'asked'),
    [
        (0.0, ('mask', 'confidence'), ['confidence', 'mask']),
        (0.0, ('mask',), ['mask']),
        (0.0, ('cost',), ['cost', 'mask']),
        (0.5, ('mask',), ['confidence', 'mask']),
        (0.5, ('cost',), ['confidence', 'cost', 'mask']),
    ],
)
def test_only_what_is_needed_is_asked_of_the_engine(
    scripted: ScriptedEngine, threshold: float, outputs: tuple[str, ...], asked: list[str]
) -> None:
    result = Segmenter(scripted, threshold).segment(FRAME, outputs)
    assert scripted.asked == [asked]
    assert (result.confidence is not None) == ('confidence' in outputs)
    assert (result.cost is not None) == ('cost' in outputs)


def test_half_precision_is_asked_for_its_confidence(tmp_path: Path) -> None:
    """By it alone is it seen that a frame overflowed."""
    scripted = ScriptedEngine(write_tiny_typed_bundle(tmp_path / 'half.onnx', 'fp16'))
    result = Segmenter(scripted).segment(FRAME, ('mask',))
    assert scripted.asked == [['confidence', 'mask']]
    assert result.confidence is None


@pytest.mark.parametrize(
    ('threshold', 'lowest_kept'),
    # 0.2 * 255 = 51 and 0.6 * 255 = 153 are met exactly; 0.5 * 255 = 127.5 is not.
    [(0.0, 0), (0.001, 1), (0.2, 51), (0.5, 128), (0.6, 153), (0.999, 255), (1.0, 255)],
)
def test_threshold_keeps_what_reaches_it(
    scripted: ScriptedEngine, threshold: float, lowest_kept: int
) -> None:
    scripted.confidences = range(256)
    result = Segmenter(scripted, threshold).segment(FRAME, ('mask', 'confidence', 'cost'))
    assert result.confidence is not None
    assert result.cost is not None
    kept = result.confidence >= lowest_kept
    assert (result.mask[kept] == 3).all()
    assert (result.cost[kept] == 100).all()
    assert (result.mask[~kept] == UNLABELED).all()
    assert (result.cost[~kept] == UNLABELED).all()
    assert kept.sum() == (256 - lowest_kept) * FRAME[..., 0].size // 256


def test_threshold_can_be_changed_between_frames(scripted: ScriptedEngine) -> None:
    scripted.confidences = (100,)
    segmenter = Segmenter(scripted)
    assert (segmenter.segment(FRAME).mask == 3).all()
    segmenter.confidence_threshold = 0.9
    assert (segmenter.segment(FRAME).mask == UNLABELED).all()


@pytest.mark.parametrize('threshold', [-0.1, 1.1, float('nan')])
def test_impossible_threshold(scripted: ScriptedEngine, threshold: float) -> None:
    segmenter = Segmenter(scripted, 0.25)
    with pytest.raises(
        ValueError, match=f'confidence_threshold is {threshold}; expected 0.0 to 1'
    ):
        segmenter.confidence_threshold = threshold
    assert segmenter.confidence_threshold == 0.25


@pytest.mark.parametrize(
    ('frame', 'message'),
    [
        (np.zeros((64, 80), np.uint8), r'shape \(64, 80\) and type uint8; expected \(H, W, 3\)'),
        (np.zeros((64, 80, 4), np.uint8), r'shape \(64, 80, 4\)'),
        (np.zeros((64, 80, 3), np.float32), r'type float32; expected \(H, W, 3\) uint8 RGB'),
        (np.zeros((0, 0, 3), np.uint8), 'frame is 0 x 0 pixels; expected 64 x 64 to 3840 x 2160'),
        (np.zeros((63, 80, 3), np.uint8), 'frame is 80 x 63 pixels'),
        (np.zeros((64, 3841, 3), np.uint8), 'frame is 3841 x 64 pixels'),
        (np.zeros((2161, 64, 3), np.uint8), 'frame is 64 x 2161 pixels'),
    ],
)
def test_refused_frame(scripted: ScriptedEngine, frame: npt.NDArray[Any], message: str) -> None:
    with pytest.raises(ImageError, match=message):
        Segmenter(scripted).segment(frame)
    assert scripted.asked == []


@pytest.mark.parametrize('depth', [np.zeros((80, 64), np.float32), np.zeros((64, 80), np.uint16)])
def test_refused_depth(scripted: ScriptedEngine, depth: npt.NDArray[Any]) -> None:
    with pytest.raises(
        ImageError, match=r'depth has shape .*; expected \(64, 80\) float32, regis'
    ):
        Segmenter(scripted).segment(FRAME, depth=depth)
