"""Flicker against counts worked by hand, and on grounds that move under a camera."""

import numpy as np
import numpy.typing as npt
import pytest
from test_flow import SIZE_HW, STEP_NS, cut, texture

from desertmind_seg.evaluation.sections import flicker_facts, flicker_sections
from desertmind_seg.model.ontology import UNLABELED
from desertmind_seg.pipeline.flow import MAX_GAP_NS, Warp
from desertmind_seg.scores.flicker import Flicker, changed_pixels

CROPS = [(40 + 3 * step, 40 + 5 * step) for step in range(4)]


def bands(ground: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Classes that lie on the ground: slanted bands of 24 pixels."""
    rows, columns = np.mgrid[: ground.shape[0], : ground.shape[1]]
    return ((rows + 2 * columns) // 24 % 7).astype(np.uint8)


def warp_of(x: list[list[float]], trusted: list[list[int]]) -> Warp:
    columns = np.array(x, np.float32)
    rows = np.repeat(np.arange(len(x), dtype=np.float32)[:, None], columns.shape[1], axis=1)
    return Warp(columns, rows, np.array(trusted, bool))


def test_changes_by_hand() -> None:
    before = np.array([[1, 1, 2, 2, 3]], np.uint8)
    # Every pixel was one to the right; the last one came from outside and is not trusted.
    shifted = warp_of([[1, 2, 3, 4, 5]], [[1, 1, 1, 1, 0]])
    same = np.array([[1, 2, 2, 3, 9]], np.uint8)
    assert not changed_pixels(before, same, shifted).any()
    mask = np.array([[3, 2, 1, 3, 9]], np.uint8)
    assert changed_pixels(before, mask, shifted).tolist() == [[True, False, True, False, False]]
    # Half way between two pixels it may have the class of either, and of no third.
    between = warp_of([[0.5, 1.5, 2.5, 3.5, 4]], [[1, 1, 1, 1, 1]])
    assert not changed_pixels(before, np.array([[1, 2, 2, 3, 3]], np.uint8), between).any()
    assert not changed_pixels(before, np.array([[1, 1, 2, 2, 3]], np.uint8), between).any()
    third = np.array([[2, 3, 3, 1, 2]], np.uint8)
    assert changed_pixels(before, third, between).all()


def test_rows_count_as_columns_do() -> None:
    before = np.array([[1], [2], [3]], np.uint8)
    warp = Warp(
        np.zeros((3, 1), np.float32),
        np.array([[0.5], [1.5], [2.0]], np.float32),
        np.ones((3, 1), bool),
    )
    assert not changed_pixels(before, np.array([[2], [2], [3]], np.uint8), warp).any()
    assert changed_pixels(before, np.array([[3], [1], [2]], np.uint8), warp).all()


def test_classes_that_lie_on_the_ground_do_not_flicker() -> None:
    ground, flicker = texture(), Flicker()
    classes = bands(ground)
    for number, place in enumerate(CROPS):
        flicker.add(cut(ground, *place), cut(classes, *place), number * STEP_NS)
    assert [(pair.frame, pair.stamp_ns, pair.changed) for pair in flicker.pairs] == [
        (number, number * STEP_NS, 0) for number in (1, 2, 3)
    ]
    found = flicker.metrics()
    assert found is not None
    assert found.share == 0.0
    assert found.counted_share > 0.9
    assert found.pairs == 3
    # Masks that stay where they are while the ground moves do.
    still = Flicker()
    for number, place in enumerate(CROPS):
        still.add(cut(ground, *place), cut(classes, *CROPS[0]), number * STEP_NS)
    found = still.metrics()
    assert found is not None
    assert found.share > 0.3


@pytest.mark.parametrize(('every', 'value'), [(20, 9), (5, 9), (10, UNLABELED)])
def test_the_share_is_that_of_the_pixels_that_change(every: int, value: int) -> None:
    ground, flicker = texture(), Flicker()
    mask = bands(ground)[: SIZE_HW[0], : SIZE_HW[1]].copy()
    changed = mask.copy()
    changed.ravel()[::every] = value
    flicker.add(cut(ground, 40, 40), mask, 0)
    flicker.add(cut(ground, 40, 40), changed, STEP_NS)  # the camera stands still
    (pair,) = flicker.pairs
    assert pair.counted > 0.98 * pair.pixels
    assert pair.changed / pair.counted == pytest.approx(1 / every, abs=0.001)


def test_hidden_pixels_are_not_counted() -> None:
    ground, thing, flicker = texture(), texture(seed=4), Flicker()
    for number, column in enumerate((50, 58)):
        frame = cut(ground, 40, 40).copy()
        frame[30:90, column : column + 60] = thing[:60, :60]
        mask = np.zeros(SIZE_HW, np.uint8)
        mask[30:90, column : column + 60] = 1
        flicker.add(frame, mask, number * STEP_NS)
    (pair,) = flicker.pairs
    # 60 x 8 pixels went from 1 to 0 where the ground came out, and as many to 1.
    assert pair.counted > 0.9 * pair.pixels
    assert pair.changed < 0.1 * 2 * 60 * 8


def test_large_masks_are_compared_at_480_pixels() -> None:
    ground = np.kron(texture(size_hw=(120, 160)), np.ones((6, 6, 1), np.uint8))  # 720 x 960
    flicker = Flicker()
    mask = np.zeros((720, 960), np.uint8)
    flicker.add(ground, mask, 0)
    mask = mask.copy()
    mask[:, :96] = 3
    flicker.add(ground, mask, STEP_NS)
    (pair,) = flicker.pairs
    assert pair.pixels == 360 * 480
    assert pair.changed / pair.counted == pytest.approx(0.1, abs=0.005)


def test_no_pair_spans_a_bad_frame_a_jump_or_a_gap() -> None:
    ground, flicker = texture(), Flicker()
    frame, mask = cut(ground, 40, 40), np.zeros(SIZE_HW, np.uint8)
    for stamp_ns in (0, STEP_NS, 0, STEP_NS, STEP_NS + MAX_GAP_NS + 1):
        flicker.add(frame, mask, stamp_ns)
    flicker.reset()
    flicker.add(frame, mask, 2 * STEP_NS + MAX_GAP_NS)
    flicker.add(frame, mask, 3 * STEP_NS + MAX_GAP_NS)
    assert [pair.frame for pair in flicker.pairs] == [1, 3, 6]
    found = flicker.metrics()
    assert found is not None
    assert found.frames_without_pair == {
        'first frame': 2,
        'time jump': 1,
        'gap': 1,
        'other size': 0,
    }
    assert flicker.by_block(2)[:, 0].tolist() == [
        *(pair.counted for pair in flicker.pairs[:2]),
        0,
        flicker.pairs[2].counted,
    ]


def test_what_cannot_be_counted_is_left_out_of_the_report() -> None:
    flicker = Flicker()
    assert flicker.metrics() is None
    flicker.add(cut(texture(), 0, 0), np.zeros(SIZE_HW, np.uint8), 0)
    assert flicker.metrics() is None
    assert flicker_facts(None) == []
    assert flicker_sections(None, {}) == []
