"""The way back to the frame before: known shifts, hidden pixels, changed light, and resets."""

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from desertmind_seg.pipeline.flow import FIRST, GAP, JUMP, MAX_GAP_NS, OTHER_SIZE, FrameFlow

SIZE_HW = (120, 160)
STEP_NS = 100_000_000


def texture(seed: int = 3, size_hw: tuple[int, int] = (220, 260)) -> npt.NDArray[np.uint8]:
    """A grainy ground, (h, w, 3) uint8, of which frames are cut."""
    noise = np.random.default_rng(seed).normal(size=size_hw).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 2.0)
    grey = np.clip(128 + 60 * smooth / smooth.std(), 0, 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


def cut(ground: npt.NDArray[np.uint8], row: int, column: int) -> npt.NDArray[np.uint8]:
    return ground[row : row + SIZE_HW[0], column : column + SIZE_HW[1]]


def test_a_shift_is_found() -> None:
    ground, flow = texture(), FrameFlow(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    assert flow.follow(cut(ground, 40, 40), 0, SIZE_HW) is None
    warp = flow.follow(cut(ground, 43, 45), STEP_NS, SIZE_HW)
    assert warp is not None
    rows, columns = np.mgrid[: SIZE_HW[0], : SIZE_HW[1]]
    # The camera moved 3 rows down and 5 columns right: all was that much further down and right.
    assert np.abs(warp.x - (columns + 5))[warp.trusted].max() < 0.5
    assert np.abs(warp.y - (rows + 3))[warp.trusted].max() < 0.5
    inside = (rows + 3 <= SIZE_HW[0] - 1) & (columns + 5 <= SIZE_HW[1] - 1)
    assert warp.trusted[inside].mean() > 0.97
    assert warp.trusted[~inside].mean() < 0.05


def test_larger_frames_are_followed_at_the_size_asked_for() -> None:
    ground, flow = texture(), FrameFlow()
    flow.follow(cut(ground, 40, 40), 0, (60, 80))
    warp = flow.follow(cut(ground, 44, 46), STEP_NS, (60, 80))
    assert warp is not None
    assert warp.x.shape == warp.y.shape == warp.trusted.shape == (60, 80)
    assert np.median(warp.x - np.arange(80)) == pytest.approx(3.0, abs=0.2)
    assert np.median(warp.y - np.arange(60)[:, None]) == pytest.approx(2.0, abs=0.2)


def test_what_was_hidden_is_not_trusted() -> None:
    ground, thing = texture(), texture(seed=4)
    frames = []
    for column in (50, 58):  # a thing of 60 x 60 pixels moves by 8 pixels over the ground
        frame = cut(ground, 40, 40).copy()
        frame[30:90, column : column + 60] = thing[:60, :60]
        frames.append(frame)
    flow = FrameFlow(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    flow.follow(frames[0], 0, SIZE_HW)
    warp = flow.follow(frames[1], STEP_NS, SIZE_HW)
    assert warp is not None
    assert warp.trusted[34:86, 51:57].mean() < 0.15  # uncovered
    assert warp.trusted[34:86, 62:114].mean() > 0.9  # on the thing
    assert warp.trusted[:20].mean() > 0.97


def test_a_change_of_light_is_not_trusted() -> None:
    ground, flow = texture(), FrameFlow()
    frame = cut(ground, 40, 40)
    flow.follow(frame, 0, SIZE_HW)
    brighter = frame.copy()
    brighter[:, 80:] = np.clip(brighter[:, 80:].astype(int) + 40, 0, 255)
    warp = flow.follow(brighter, STEP_NS, SIZE_HW)
    assert warp is not None
    assert warp.trusted[:, :70].mean() > 0.97
    assert warp.trusted[:, 90:].mean() < 0.05


def test_frames_without_one_before_them() -> None:
    ground, flow = texture(), FrameFlow()
    frame = cut(ground, 0, 0)

    def has_way_back(stamp_ns: int, size_hw: tuple[int, int] = SIZE_HW) -> bool:
        return flow.follow(frame, stamp_ns, size_hw) is not None

    assert not has_way_back(0)
    assert has_way_back(STEP_NS)
    assert not has_way_back(STEP_NS)
    assert not has_way_back(STEP_NS - 1)  # a bag that began again
    assert has_way_back(STEP_NS - 1 + MAX_GAP_NS)
    assert not has_way_back(STEP_NS + 2 * MAX_GAP_NS)
    assert not has_way_back(2 * STEP_NS + 2 * MAX_GAP_NS, (60, 80))
    assert has_way_back(3 * STEP_NS + 2 * MAX_GAP_NS, (60, 80))
    larger = np.pad(frame, ((0, 8), (0, 0), (0, 0)), mode='edge')
    assert flow.follow(larger, 4 * STEP_NS + 2 * MAX_GAP_NS, (60, 80)) is None
    flow.reset()
    assert not has_way_back(5 * STEP_NS + 2 * MAX_GAP_NS, (60, 80))
    assert flow.resets == {FIRST: 2, JUMP: 2, GAP: 1, OTHER_SIZE: 2}
