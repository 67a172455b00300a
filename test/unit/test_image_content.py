"""What images show: dark, burnt out, covered, blurred and frozen ones, and that good ones pass."""

from __future__ import annotations

from pathlib import Path
import re

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from desertmind_seg.decoding.image_files import read_color_file
from desertmind_seg.model.arrays import Rgb
from desertmind_seg.monitoring.image_content import (
    BLURRED,
    BURNT_OUT,
    DARK,
    FLAT,
    FROZEN,
    KINDS,
    ContentWatch,
    Repeats,
    look_at,
    text_of,
)

SEC = 1_000_000_000
SIZES_HW = [(64, 64), (97, 131), (480, 640), (720, 1280), (1280, 720), (64, 3840), (2160, 64)]


def ground(size_hw: tuple[int, int] = (480, 640), seed: int = 0) -> Rgb:
    """Draw a bright sky above ground with detail of every size, as outdoors."""
    dice = np.random.default_rng(seed)
    height, width = size_hw
    gray = np.zeros(size_hw, np.float32)
    cells = 4
    while cells < 2 * max(size_hw):
        coarse = dice.normal(size=(cells, cells)).astype(np.float32)
        gray += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
        cells *= 2
    gray = 90 + 18 * gray
    gray[: height // 3] = 215 + gray[: height // 3] / 10
    rgb = gray[..., None] * np.float32([1.0, 0.9, 0.8]) + dice.normal(0, 1, (*size_hw, 3))
    return np.clip(rgb, 0, 255).astype(np.uint8)


def noise(level: float, size_hw: tuple[int, int]) -> Rgb:
    """Draw what a covered sensor gives; the smaller an image, the more pixels it was made of."""
    dice = np.random.default_rng(1)
    spread = 2.0 if min(size_hw) > 200 else 0.5
    return np.clip(dice.normal(level, spread, (*size_hw, 3)), 0, 255).astype(np.uint8)


def blurred(rgb: Rgb, across: float, down: float) -> Rgb:
    """Average over these shares of width and height."""
    size = (max(1, int(rgb.shape[1] * across)), max(1, int(rgb.shape[0] * down)))
    return np.asarray(cv2.blur(cv2.blur(rgb, size), size), np.uint8)


def without_lower_half(rgb: Rgb, color: tuple[int, int, int]) -> Rgb:
    rgb = rgb.copy()
    rgb[rgb.shape[0] // 2 :] = color
    return rgb


def kind_of(rgb: Rgb) -> str:
    return look_at(rgb)[0].kind


@pytest.mark.parametrize('size_hw', SIZES_HW)
def test_a_good_image_passes_at_every_size(size_hw: tuple[int, int]) -> None:
    content, _ = look_at(ground(size_hw))
    assert content.kind == ''
    assert content.brightness > 200
    assert content.burnt_share == 0.0
    assert content.detail > 4
    assert content.sharpness is not None
    assert content.sharpness > 0.8


@pytest.mark.parametrize('size_hw', SIZES_HW)
def test_a_bad_image_is_found_at_every_size(size_hw: tuple[int, int]) -> None:
    good = ground(size_hw)
    assert kind_of(good // 8) == DARK
    assert kind_of(np.zeros_like(good)) == DARK
    assert kind_of(noise(12.0, size_hw)) == DARK
    assert kind_of(np.full_like(good, 255)) == BURNT_OUT
    assert kind_of(np.maximum(good, 254)) == BURNT_OUT
    assert kind_of(noise(120.0, size_hw)) == FLAT
    assert kind_of(without_lower_half(good, (0, 135, 0))) == FLAT


@pytest.mark.parametrize('shares', [(0.05, 0.05), (0.2, 0.0), (0.0, 0.3)])
def test_blur_is_found_in_every_direction(shares: tuple[float, float]) -> None:
    assert kind_of(blurred(ground((720, 1280)), *shares)) == BLURRED


def test_a_ramp_has_nothing_fine() -> None:
    ramp = np.broadcast_to((np.arange(640) * 255 // 639)[None, :, None], (480, 640, 3))
    assert kind_of(np.ascontiguousarray(ramp, dtype=np.uint8)) == BLURRED


def test_sharp_edges_without_texture_are_not_blurred() -> None:
    cartoon = cv2.resize(ground((12, 16)), (640, 480), interpolation=cv2.INTER_NEAREST)
    assert kind_of(np.asarray(cartoon, np.uint8)) == ''


def test_what_masks_still_stand_is_no_problem() -> None:
    good = ground()
    sky = good.copy()
    sky[:240] = 255  # burnt out where there is no ground
    assert kind_of(sky) == ''
    assert kind_of(good // 3) == ''
    assert kind_of(np.repeat(good.mean(axis=2, keepdims=True), 3, 2).astype(np.uint8)) == ''
    assert kind_of(blurred(good, 0.004, 0.004)) == ''
    night = (good // 10).copy()
    night[300:400, 200:500] = good[300:400, 200:500]  # what headlights show
    assert kind_of(night) == ''


def test_a_constant_image_has_no_sharpness() -> None:
    content, _ = look_at(np.full((480, 640, 3), 128, np.uint8))
    assert (content.detail, content.sharpness, content.kind) == (0.0, None, FLAT)


@pytest.mark.data
def test_no_real_frame_is_called_bad(shared_data_dir: Path) -> None:
    paths = sorted((shared_data_dir / 'ycor/train').glob('*/rgb.jpg'))[::10]
    paths += sorted((shared_data_dir / 'rendered/images').glob('*/*.jpg'))[::10]
    assert len(paths) > 100
    found = {path: kind_of(read_color_file(path)) for path in paths}
    assert {path: kind for path, kind in found.items() if kind} == {}


@pytest.mark.parametrize('hz', [1, 5, 30, 60])
def test_the_same_image_for_two_seconds_is_frozen(hz: int) -> None:
    watch, rgb = ContentWatch(), ground()
    kinds = [watch.add(rgb, index * SEC // hz) for index in range(4 * hz)]
    assert kinds == [''] * 2 * hz + [FROZEN] * 2 * hz
    assert watch.counts == {**dict.fromkeys(KINDS, 0), FROZEN: 2 * hz}


def test_images_that_a_driver_sends_twice_are_not_frozen() -> None:
    watch = ContentWatch()
    for index in range(12):  # of a camera with an image a second, sent at 3 Hz
        assert watch.add(ground((64, 64), seed=index // 3), index * SEC // 3) == ''


def test_one_pixel_of_noise_is_life() -> None:
    watch, rgb = ContentWatch(), ground((64, 64))
    for index in range(60):
        rgb[10, 10, 1] = 4 * index
        assert watch.add(rgb, index * SEC) == ''


def test_stamps_that_stand_or_go_back_tell_nothing() -> None:
    repeats, sample = Repeats(), np.zeros((4, 4))
    assert not any(repeats.add(sample, 5 * SEC) for _ in range(20))
    assert not any(repeats.add(sample, stamp * SEC) for stamp in (4, 3, 2, 1))
    assert [repeats.add(sample, stamp * SEC) for stamp in (2, 3)] == [False, True]
    # Two images in 2 s, the second of them sent twice, are no three.
    twice = Repeats()
    assert [twice.add(sample, at * SEC) for at in (1, 3, 3, 4)] == [False, False, False, True]


@pytest.mark.parametrize('first_row', [0, 1, 2])
def test_depth_in_every_third_row(first_row: int) -> None:
    dice, live, frozen = np.random.default_rng(0), Repeats(), Repeats()
    depth = np.zeros((480, 640), np.float32)
    for stamp in range(5):
        depth[first_row::3, ::3] = dice.normal(3, 0.05, depth[first_row::3, ::3].shape)
        assert not live.add_depth(depth, stamp * SEC)
    assert [frozen.add_depth(depth, stamp * SEC) for stamp in range(4)] == [False] * 2 + [True] * 2
    assert frozen._sample is not None
    assert frozen._sample.shape == (80, 640)  # all of 4K takes 14 ms a frame instead of 0.5


@pytest.mark.parametrize('nothing', [0.0, np.inf])
def test_depth_that_measures_nothing_is_not_frozen(nothing: float) -> None:
    repeats, empty = Repeats(), np.full((480, 640), nothing, np.float32)
    wall = np.full((480, 640), 2.0, np.float32)
    assert not any(repeats.add_depth(empty, stamp * SEC) for stamp in range(5))
    assert [repeats.add_depth(wall, stamp * SEC) for stamp in (5, 6, 7)] == [False, False, True]
    assert not repeats.add_depth(empty, 8 * SEC)
    assert not repeats.add_depth(wall, 9 * SEC)


def test_what_is_black_or_blurred_and_frozen() -> None:
    watch = ContentWatch()
    for stamp in range(4):
        assert watch.add(np.zeros((64, 64, 3), np.uint8), stamp * SEC) == DARK
    soft = blurred(ground(), 0.08, 0.08)
    assert [watch.add(soft, stamp * SEC) for stamp in (5, 6, 7)] == [BLURRED, BLURRED, FROZEN]


def test_a_problem_is_that_of_most_images_since_the_last_report() -> None:
    watch, good = ContentWatch(), ground()
    assert watch.problem() == ''
    assert watch.values() == {
        **{f'image_{name}': '' for name in ('brightness', 'burnt_share', 'detail', 'sharpness')},
        **{f'images_{kind}': '0' for kind in KINDS},
    }
    for stamp, rgb in enumerate([good, good // 8, good]):
        watch.add(rgb, stamp)
    assert watch.problem() == ''
    for stamp, rgb in enumerate([good // 8, good // 8, good // 8, good], start=3):
        watch.add(rgb, stamp)
    assert 'no more than 5% of them reach 2' in watch.problem(), 'of a dark one'
    assert watch.problem().startswith('Images are too dark'), 'no image since'
    assert watch.values()['images_dark'] == '4'
    watch.add(good, 7)
    assert watch.problem() == ''
    watch.add(good // 8, 8)
    watch.clear()
    assert watch.problem() == ''
    assert watch.values()['image_brightness'] == ''
    assert watch.values()['images_dark'] == '5'


def test_images_that_are_bad_in_turn_are_a_problem() -> None:
    watch, good = ContentWatch(), ground()
    soft = blurred(good, 0.08, 0.08)
    for stamp, rgb in enumerate([good] * 4 + [good // 8] * 2 + [soft] * 3):
        watch.add(rgb, stamp)
    assert watch.problem().startswith('Images are blurred everywhere')
    for stamp, rgb in enumerate([good] * 4 + [good // 8] * 2 + [soft] * 2, start=9):
        watch.add(rgb, stamp)
    assert watch.problem() == '', 'of half of them'


@pytest.mark.parametrize(
    ('rgb', 'words'),
    [
        (
            np.full((64, 64, 3), 20, np.uint8),
            'no more than 5% of them reach 20 of 255; expected 40: take off the cap',
        ),
        (
            np.full((64, 64, 3), 255, np.uint8),
            '100% of their lower half are white; expected at most 50%: lower exposure',
        ),
        (
            np.full((64, 64, 3), 128, np.uint8),
            'differ by 0.00 of 255; expected at least 1: see whether the lens is covered',
        ),
        (
            blurred(ground(), 0.1, 0.1),
            r'sharpness is 0.5\d; expected at least 0.68: clean, dry or focus the lens',
        ),
    ],
)
def test_a_sentence_says_the_value_what_was_expected_and_what_to_do(
    rgb: npt.NDArray[np.uint8], words: str
) -> None:
    content, _ = look_at(rgb)
    assert re.search(words, text_of(content.kind, content))


def test_the_sentence_on_frozen_images_counts_them() -> None:
    watch, rgb = ContentWatch(), ground((64, 64))
    for stamp in range(4):
        watch.add(rgb, stamp * SEC)
        watch.problem()
    assert watch.problem() == (
        'The same image comes again and again: the pixels of 4 in 3.0 s are equal while their '
        'stamps advance; expected noise: restart the camera or its driver (a simulator at rest '
        'without noise, a still image, or video of a scene at rest gives the same).'
    )
