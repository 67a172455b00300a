"""Rays of pixels, by hand and against OpenCV's projection, and the camera_info of a mask."""

from __future__ import annotations

import array
from typing import Any

from camera_infos import camera_info
import cv2
import numpy as np
import pytest
from sensor_msgs.msg import CameraInfo
from std_msgs.msg import Header

from desertmind_seg.geometry.camera_model import (
    CameraInfoError,
    CameraRays,
    Rays,
    image_camera_info,
)

SIZE_HW = 480, 640
DISTORTIONS = {
    'plumb_bob': [-0.28, 0.08, 0.001, -0.002, -0.01],
    'rational_polynomial': [0.15, -0.02, 0.0007, -0.0002, 0.001, 0.02, 0.01, 0.001],
    'equidistant': [0.02, -0.01, 0.003, -0.0005],
}


def rays_of(size_hw: tuple[int, int] = SIZE_HW, **changes: Any) -> Rays:
    return CameraRays().of(camera_info(**changes), size_hw)


def at(rays: Rays, u: int, v: int) -> tuple[float, float]:
    x, y = np.broadcast_arrays(rays.x, rays.y)
    return float(x[v, u]), float(y[v, u])


def test_rays_by_hand() -> None:
    rays = rays_of()

    assert rays.size_hw == SIZE_HW
    assert (rays.x.shape, rays.y.shape) == ((1, 640), (480, 1))
    assert rays.x.dtype == rays.y.dtype == np.float32
    # By hand: 89.5 of 450 and -132.25 of 440 pixels.
    assert at(rays, 405, 110) == pytest.approx((0.19888889, -0.30056818), rel=1e-6)


@pytest.mark.parametrize('model', DISTORTIONS)
def test_rays_come_back_to_their_pixels(model: str) -> None:
    coefficients = np.array(DISTORTIONS[model])
    info = camera_info(distortion_model=model, d=list(coefficients))
    rays = CameraRays().of(info, SIZE_HW)

    points = np.stack([rays.x, rays.y, np.ones(SIZE_HW)], axis=-1).astype(float).reshape(-1, 1, 3)
    matrix = np.array(info.k).reshape(3, 3)
    project = cv2.fisheye.projectPoints if model == 'equidistant' else cv2.projectPoints
    pixels, _ = project(points, np.zeros(3), np.zeros(3), matrix, coefficients)
    columns, rows = np.meshgrid(np.arange(640), np.arange(480))

    # A quarter of a thousandth of a pixel is what single precision leaves of 640.
    np.testing.assert_allclose(pixels[:, 0, 0].reshape(SIZE_HW), columns, atol=2.5e-4)
    np.testing.assert_allclose(pixels[:, 0, 1].reshape(SIZE_HW), rows, atol=2.5e-4)
    # And the distortion is not nothing: it moves a corner by pixels.
    assert abs(at(rays, 0, 0)[0] + 315.5 / 450) > 0.02


def test_plumb_bob_by_hand() -> None:
    # k1 = -0.2 alone, and a pixel whose undistorted place is x = 0.5, y = 0: r2 = 0.25, so it is
    # seen at 0.5 * (1 - 0.05) = 0.475, which is u = 315.5 + 450 * 0.475 = 529.25.
    info = camera_info(center=(315.25, 242.0), d=[-0.2, 0.0, 0.0, 0.0, 0.0])
    rays = CameraRays().of(info, SIZE_HW)

    assert at(rays, 529, 242) == pytest.approx((0.5, 0.0), abs=1e-6)


@pytest.mark.parametrize(
    ('model', 'like', 'coefficients'),
    [
        ('plumb_bob', 'rational_polynomial', DISTORTIONS['rational_polynomial']),  # orbbec_camera
        ('rational_polynomial', 'plumb_bob', DISTORTIONS['plumb_bob']),
    ],
)
def test_the_count_of_coefficients_tells_the_polynomial_and_not_its_name(
    model: str, like: str, coefficients: list[float]
) -> None:
    rays = rays_of(distortion_model=model, d=coefficients)
    np.testing.assert_array_equal(rays.x, rays_of(distortion_model=like, d=coefficients).x)


def test_pixels_that_the_lens_model_cannot_reach_have_no_ray() -> None:
    # r * (1 + k1 r2) with k1 = -0.4 has its maximum 0.609 at r = 0.913: nothing is seen beyond.
    rays = rays_of(focal=(450.0, 450.0), d=[-0.4, 0.0, 0.0, 0.0, 0.0])
    columns, rows = np.meshgrid(np.arange(640), np.arange(480))
    radius = np.hypot(columns - 315.5, rows - 242.25) / 450

    assert np.isfinite(rays.x[radius < 0.6]).all()
    assert np.isnan(rays.x[radius > 0.62]).all()
    assert np.isnan(rays.y[radius > 0.62]).all()
    assert (radius > 0.62).any()


def test_region_of_interest_and_binning() -> None:
    # Of 640 x 480 the 320 x 200 pixels from (100, 60) on, binned 2 x 4: 160 x 50. The image's
    # pixel (30, 20) is the sensor's (100 + 2 * 30, 60 + 4 * 20) = (160, 140).
    rays = rays_of((50, 160), roi=(100, 60, 200, 320), binning_x=2, binning_y=4)

    assert at(rays, 30, 20) == pytest.approx(at(rays_of(), 160, 140), rel=1e-5)
    assert rays.size_hw == (50, 160)


def test_region_of_interest_of_a_lens_that_distorts() -> None:
    lens = {'d': DISTORTIONS['plumb_bob']}
    part = rays_of((200, 320), roi=(100, 60, 200, 320), **lens)

    np.testing.assert_allclose(part.x, rays_of(**lens).x[60:260, 100:420], atol=1e-6)


def test_rectified_images_have_p_and_no_distortion() -> None:
    p = [300.0, 0.0, 310.0, 0.0, 0.0, 300.0, 240.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    info = camera_info(p=p, d=DISTORTIONS['plumb_bob'])

    assert at(CameraRays(rectified=True).of(info, SIZE_HW), 400, 90) == pytest.approx((0.3, -0.5))
    camera = CameraRays(rectified=True)
    before = camera.of(info, SIZE_HW)
    info.p = [2 * value for value in p]
    assert camera.of(info, SIZE_HW) is not before
    info.p = [0.0] * 12
    with pytest.raises(CameraInfoError, match='focal lengths 0 and 0 in P'):
        CameraRays(rectified=True).of(info, SIZE_HW)


def test_rectified_images_need_no_k() -> None:
    p = [300.0, 0.0, 310.0, 0.0, 0.0, 300.0, 240.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    info = camera_info(p=p, k=[0.0] * 9, d=[])

    assert at(CameraRays(rectified=True).of(info, SIZE_HW), 400, 90) == pytest.approx((0.3, -0.5))
    with pytest.raises(CameraInfoError, match=r'in K, which unrectified .*rectified to true'):
        CameraRays().of(info, SIZE_HW)
    of_mask = image_camera_info(info, Header(), SIZE_HW)
    assert list(of_mask.k) == [300.0, 0.0, 310.0, 0.0, 300.0, 240.0, 0.0, 0.0, 1.0]
    info.p = [0.0] * 12
    with pytest.raises(CameraInfoError, match='focal lengths 0 and 0 in P'):
        image_camera_info(info, Header(), SIZE_HW)


def test_rays_are_computed_once_for_each_camera_info() -> None:
    camera = CameraRays()
    first = camera.of(camera_info(), SIZE_HW)

    # Values of other types, as rclpy and rosbags have them, are the same content.
    same = camera_info()
    same.k, same.d = np.array(same.k), array.array('d', same.d)
    assert camera.of(same, SIZE_HW) is first

    changes: list[tuple[tuple[int, int], dict[str, Any]]] = [
        (SIZE_HW, {'focal': (451.0, 440.0)}),
        (SIZE_HW, {'d': DISTORTIONS['plumb_bob']}),
        (SIZE_HW, {'d': DISTORTIONS['equidistant'], 'distortion_model': 'equidistant'}),
        ((240, 640), {'binning_y': 2}),
        ((480, 320), {'binning_x': 2}),
        ((40, 50), {'roi': (3, 0, 40, 50)}),
        ((40, 50), {'roi': (0, 3, 40, 50)}),
        ((60, 80), {'size_hw': (60, 80)}),
    ]
    for size_hw, change in changes:
        before = camera.of(camera_info(), SIZE_HW)
        changed = camera.of(camera_info(**change), size_hw)
        assert changed is not before, change
        assert not np.array_equal(changed.x, before.x) or not np.array_equal(changed.y, before.y)


def test_an_error_is_not_hidden_by_the_rays_before_it() -> None:
    camera = CameraRays()
    camera.of(camera_info(), SIZE_HW)

    for _ in range(2):
        with pytest.raises(CameraInfoError):
            camera.of(camera_info(), (240, 320))
    assert camera.of(camera_info(), SIZE_HW).size_hw == SIZE_HW


@pytest.mark.parametrize(
    ('changes', 'match'),
    [
        ({'k': [0.0] * 9}, r'focal lengths 0 and 0 in K.*not calibrated.*cameracalibrator'),
        ({'focal': (450.0, -1.0)}, 'focal lengths 450 and -1'),
        ({'focal': (float('nan'), 450.0)}, 'focal lengths nan'),
        ({'focal': (450.0, float('nan'))}, 'focal lengths 450 and nan'),
        ({'focal': (1e-9, 450.0)}, '1e-09 and 450 .* pixels above 6.4'),
        (
            {'k': [450.0, 0.0, float('inf'), 0.0, 450.0, 240.0, 0.0, 0.0, 1.0]},
            r'principal point \(inf, 240\)',
        ),
        ({'center': (1e9, 240.0)}, r'principal point \(1e\+09, 240\)'),
        # Column by column, as MATLAB has matrices.
        ({'k': [450.0, 0.0, 0.0, 0.0, 440.0, 0.0, 315.5, 242.25, 1.0]}, r'\(0, 0\) .* row by row'),
        # In degrees, or of another lens.
        ({'d': [-30.0, 10.0, 0.0, 0.0]}, 'plumb_bob.*with which 1% of the pixels have a ray'),
        (
            {'height': 720, 'width': 1280},
            'of images of 1280 x 720 pixels .* but the image has 640 x 480',
        ),
        (
            {'height': 0, 'width': 0},
            r'says 0 x 0 pixels .* have the driver .* fill it in',
        ),
        ({'binning_x': 2, 'binning_y': 2}, r'320 x 240 pixels .*binning 2 x 2'),
        ({'roi': (0, 0, 100, 200)}, r'200 x 100 pixels .*region of interest 200 x 100'),
        ({'distortion_model': 'double_sphere', 'd': [0.1, 0.2]}, "'double_sphere' with 2 coeff"),
        (
            {'d': [0.1, 0.2, 0.3]},
            "'plumb_bob' with 3 coefficients; expected plumb_bob with 4 or 5 or 8",
        ),
        # As orbbec_camera writes the four of a fisheye: which are meant is not said.
        ({'distortion_model': 'equidistant', 'd': [0.02] * 8}, "'equidistant' with 8 coeff"),
        ({'d': [float('nan'), 0.0, 0.0, 0.0]}, r'coefficients \[nan, 0.0, 0.0, 0.0\]'),
    ],
)
def test_what_is_no_camera_of_this_image_is_refused(changes: dict[str, Any], match: str) -> None:
    with pytest.raises(CameraInfoError, match=match):
        rays_of(**changes)


def test_only_focal_lengths_and_principal_point_count() -> None:
    distorted = {'d': DISTORTIONS['plumb_bob']}
    # With skew, and with a last row that nobody filled in.
    odd = [450.0, 1.0, 315.5, 0.0, 440.0, 242.25, 0.0, 0.0, 0.0]
    np.testing.assert_array_equal(rays_of(**distorted, k=odd).x, rays_of(**distorted).x)


def test_a_lens_without_distortion_needs_no_model() -> None:
    plain = rays_of()
    for changes in ({'distortion_model': '', 'd': []}, {'distortion_model': 'none', 'd': [0.0]}):
        np.testing.assert_array_equal(rays_of(**changes).x, plain.x)


def test_camera_info_of_the_mask() -> None:
    header = Header(frame_id='front_optical')
    header.stamp.sec, header.stamp.nanosec = 17, 250
    info = camera_info(d=DISTORTIONS['plumb_bob'])

    message = image_camera_info(info, header, SIZE_HW)

    assert isinstance(message, CameraInfo)
    assert message.header == header
    assert (message.height, message.width) == SIZE_HW
    assert message.distortion_model == 'plumb_bob'
    for name in ('d', 'k', 'r', 'p'):
        assert list(getattr(message, name)) == list(getattr(info, name)), name


def test_camera_info_of_the_mask_says_in_k_what_region_and_binning_said() -> None:
    info = camera_info(roi=(100, 60, 200, 320), binning_x=2, binning_y=4)
    message = image_camera_info(info, Header(), (50, 160))

    assert (message.height, message.width) == (50, 160)
    assert (message.binning_x, message.binning_y, message.roi.width) == (0, 0, 0)
    # By hand: 450 / 2, 215.5 / 2, 440 / 4, 182.25 / 4.
    expected = [225.0, 0.0, 107.75, 0.0, 110.0, 45.5625, 0.0, 0.0, 1.0]
    assert list(message.k) == pytest.approx(expected)
    assert list(message.p) == pytest.approx(
        [*expected[:3], 0.0, *expected[3:6], 0.0, 0.0, 0.0, 1.0, 0.0]
    )
    # A reader that knows nothing of regions finds the same rays.
    rays = CameraRays().of(message, (50, 160))
    np.testing.assert_allclose(rays.x, CameraRays().of(info, (50, 160)).x, atol=1e-7)
    with pytest.raises(CameraInfoError, match='but the image has 640 x 480'):
        image_camera_info(info, Header(), SIZE_HW)
