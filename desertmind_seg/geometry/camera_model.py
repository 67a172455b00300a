"""Where each pixel looks: rays in the camera's optical frame, from a sensor_msgs/CameraInfo.

A CameraInfo describes the sensor at full resolution; region of interest and binning say which part
of it the image is (REP 104). Messages are duck-typed as in `messages`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from desertmind_seg.model.errors import DesertmindError

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

# Coefficients that OpenCV takes for the models of sensor_msgs/distortion_models.hpp. To it the
# first two are one, whose missing coefficients are 0; orbbec_camera calls 8 of them plumb_bob.
_POLYNOMIAL = (4, 5, 8, 12, 14)
_FISHEYE = 'equidistant'
_COEFFICIENTS = {'plumb_bob': _POLYNOMIAL, 'rational_polynomial': _POLYNOMIAL, _FISHEYE: (4,)}
# OpenCV's own limit, 5 steps, is off by pixels where the distortion is strong.
_CRITERIA = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 100, 1e-9)
# A ray that does not come back to its pixel is none of the lens's.
_MAX_RETURN_ERROR_PX = 0.1
# Of the image's longer side: a view of 178 degrees, or a fisheye that sees more than all around.
_MIN_FOCAL_SHARE = 0.01
# How far the principal point may lie from the middle, in sizes of the sensor: a driver may give a
# part of its picture for a whole one.
_FARTHEST_CENTER = 10.0
# Of the pixels; the round picture of a fisheye fills a third of a wide sensor.
_MIN_SHARE_OF_RAYS = 0.1


class CameraInfoError(DesertmindError):
    """A CameraInfo does not fit the image or describes no camera; says what to do."""


@dataclass(frozen=True)
class Rays:
    """The ray of each pixel, as the point where it meets the plane z = 1 m of the optical frame.

    Attributes:
        x: float32, to the right; (H, W), or (1, W) where the lens does not distort.
        y: float32, down; (H, W), or (H, 1). Both are NaN where the lens model has no ray.
    """

    x: Float32
    y: Float32

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width of the image in pixels."""
        return self.y.shape[0], self.x.shape[1]


class CameraRays:
    """Gives the rays of a camera, and computes them again only when its CameraInfo changes.

    Args:
        rectified: whether the images are rectified (image_proc's image_rect), so that P and no
            distortion applies. A CameraInfo is the same for both kinds.
    """

    def __init__(self, *, rectified: bool = False) -> None:
        self._rectified = rectified
        self._key: tuple[Any, ...] = ()
        self._rays: Rays | None = None

    def of(self, camera_info: Any, size_hw: tuple[int, int]) -> Rays:
        """Return the rays; the same object until the CameraInfo changes.

        Computing them takes 0.2 s for 640 x 480 pixels of a lens that distorts.

        Args:
            camera_info: a sensor_msgs/CameraInfo of the image's camera.
            size_hw: height and width of the image in pixels.

        Raises:
            CameraInfoError: the camera is not calibrated, the image has another size than
                camera_info tells, or the distortion model is not known.
        """
        key = (size_hw, *_content(camera_info))
        if self._rays is None or key != self._key:
            self._rays = _rays(camera_info, size_hw, self._rectified)
            self._key = key
        return self._rays


def is_named_rectified(image_topic: str) -> bool:
    """Whether images are rectified by the name of their topic, as image_proc gives it."""
    return '/image_rect' in image_topic


def check_frame(camera_info: Any, frame_id: str) -> None:
    """Refuse a CameraInfo of another camera, such as that of depth before it was aligned.

    A header without a frame is not held against it.

    Args:
        camera_info: a sensor_msgs/CameraInfo.
        frame_id: of the image.

    Raises:
        CameraInfoError: its frame is another one.
    """
    # ROS 1 wrote some frames with a slash before them.
    frames = [name.removeprefix('/') for name in (camera_info.header.frame_id, frame_id)]
    if all(frames) and frames[0] != frames[1]:
        raise CameraInfoError(
            f'camera_info is of frame {frames[0]!r}, the image of {frames[1]!r}: they are of two '
            'cameras. Take both topics from one camera and stream.'
        )


def image_size_hw(camera_info: Any) -> tuple[int, int]:
    """Return height and width in pixels of the images that a sensor_msgs/CameraInfo is of.

    Raises:
        CameraInfoError: it does not say.
    """
    (height, width), (binning_x, binning_y) = _region_hw(camera_info), _binning(camera_info)
    if not (height >= binning_y and width >= binning_x):
        raise CameraInfoError(
            f'camera_info says {width} x {height} pixels (width x height), binning {binning_x} x '
            f'{binning_y}; expected the size of the images: have the driver of the camera fill it '
            'in (image_width and image_height of its calibration file), or calibrate it (ros2 run '
            'camera_calibration cameracalibrator).'
        )
    return height // binning_y, width // binning_x


def image_camera_info(camera_info: Any, header: Any, size_hw: tuple[int, int]) -> Any:
    """Build the sensor_msgs/CameraInfo that goes with a mask.

    Region of interest and binning are worked into width, height, K and P, because consumers such
    as nvblox read only these. Distortion is of rays, not of pixels, and stays. An empty K, of a
    driver that gives rectified images alone, becomes that of P.

    Args:
        camera_info: that of the camera.
        header: the image's std_msgs/Header, which goes out as it is: camera_info may have been
            stamped apart from it, and consumers pair by equal stamps.
        size_hw: height and width of the mask, which are those of the image.

    Raises:
        CameraInfoError: as from `CameraRays.of`.
    """
    from sensor_msgs.msg import CameraInfo

    _check_size(camera_info, size_hw)
    matrix = _camera_matrix(camera_info, rectified=not np.any(camera_info.k))
    return CameraInfo(
        header=header,
        height=size_hw[0],
        width=size_hw[1],
        distortion_model=camera_info.distortion_model,
        d=[float(value) for value in camera_info.d],
        k=_of_the_image(camera_info, matrix).reshape(-1),
        r=[float(value) for value in camera_info.r],
        p=_of_the_image(camera_info, _matrix(camera_info.p, 4)).reshape(-1),
    )


def _content(camera_info: Any) -> tuple[Any, ...]:
    """Return all that rays depend on, to be compared."""
    roi = camera_info.roi
    return (
        *(camera_info.height, camera_info.width, camera_info.binning_x, camera_info.binning_y),
        *(roi.x_offset, roi.y_offset, roi.height, roi.width, camera_info.distortion_model),
        *(np.asarray(values, float).tobytes() for values in (camera_info.d, camera_info.k)),
        np.asarray(camera_info.p, float).tobytes(),
    )


def _matrix(values: Any, columns: int) -> Float64:
    return np.array(values, np.float64).reshape(3, columns)


def _binning(camera_info: Any) -> tuple[int, int]:
    # 0 is what an unset field holds, and means 1.
    return max(camera_info.binning_x, 1), max(camera_info.binning_y, 1)


def _region_hw(camera_info: Any) -> tuple[int, int]:
    # A region without a size is the whole sensor.
    roi = camera_info.roi
    region = roi if roi.height and roi.width else camera_info
    return region.height, region.width


def _of_the_image(camera_info: Any, matrix: Float64) -> Float64:
    """Return K or P for the image's pixels; as image_geometry does, region first, then binning."""
    binning_x, binning_y = _binning(camera_info)
    matrix[0, 2] -= camera_info.roi.x_offset
    matrix[1, 2] -= camera_info.roi.y_offset
    matrix[0] /= binning_x
    matrix[1] /= binning_y
    return matrix


def _camera_matrix(camera_info: Any, rectified: bool) -> Float64:
    """Return the 3 x 3 matrix of the sensor's pixels: of P for rectified images, else K.

    Of a camera whose driver gives rectified images alone, K may be empty.
    """
    name = 'P' if rectified else 'K'
    matrix = _matrix(camera_info.p, 4)[:, :3] if rectified else _matrix(camera_info.k, 3)
    (fx, _, cx), (_, fy, cy) = matrix[:2]
    shortest = _MIN_FOCAL_SHARE * max(camera_info.height, camera_info.width)
    if not (shortest < fx < np.inf and shortest < fy < np.inf):
        raise CameraInfoError(
            f'camera_info has the focal lengths {fx:g} and {fy:g} in {name}, which '
            f'{"" if rectified else "un"}rectified images have; expected pixels above '
            f'{shortest:g}: the camera is not calibrated. Calibrate it (ros2 run '
            'camera_calibration cameracalibrator) and give its driver the file (camera_info_url), '
            f'or set input.rectified to {str(not rectified).lower()} if the images are the other '
            'kind.'
        )
    if not np.isfinite(matrix).all():
        raise CameraInfoError(
            f'camera_info has the principal point ({cx:g}, {cy:g}) in {name}; expected numbers: '
            'calibrate the camera again.'
        )
    return matrix


def _pinhole(camera_info: Any, rectified: bool) -> Float64:
    """Return the matrix for rays, without skew, which no lens model of OpenCV has."""
    (fx, _, cx), (_, fy, cy) = _camera_matrix(camera_info, rectified)[:2]
    size = np.array([camera_info.width, camera_info.height])
    off = np.abs(np.array([cx, cy]) / size - 0.5)
    if cx == cy == 0 or off.max() > _FARTHEST_CENTER:
        name = 'P' if rectified else 'K'
        raise CameraInfoError(
            f'camera_info has the principal point ({cx:g}, {cy:g}) in {name}; expected one near '
            f'the middle of {size[0]} x {size[1]} pixels, and {name} row by row (fx 0 cx ...): '
            'calibrate the camera again.'
        )
    return np.array([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]])


def _check_size(camera_info: Any, size_hw: tuple[int, int]) -> None:
    (binning_x, binning_y), region_hw = _binning(camera_info), _region_hw(camera_info)
    expected_hw = image_size_hw(camera_info)
    if expected_hw != tuple(size_hw):
        raise CameraInfoError(
            f'camera_info is of images of {expected_hw[1]} x {expected_hw[0]} pixels (width x '
            f'height: the sensor has {camera_info.width} x {camera_info.height}, region of '
            f'interest {region_hw[1]} x {region_hw[0]}, binning {binning_x} x {binning_y}), but '
            f'the image has {size_hw[1]} x {size_hw[0]}. Take both topics from one camera and '
            'stream; whoever resizes images has to publish a camera_info of their size.'
        )


def _distortion(camera_info: Any) -> tuple[str, Float64]:
    """Return model and coefficients; an empty name where the lens does not distort."""
    name, values = camera_info.distortion_model, np.array(camera_info.d, np.float64)
    if not values.any():
        return '', values
    if len(values) not in _COEFFICIENTS.get(name, ()):
        known = '; '.join(
            f'{model} with {" or ".join(map(str, counts))}'
            for model, counts in _COEFFICIENTS.items()
        )
        raise CameraInfoError(
            f'camera_info has the distortion model {name!r} with {len(values)} coefficients; '
            f'expected {known}. Use rectified images, or calibrate for one of these models.'
        )
    if not np.isfinite(values).all():
        raise CameraInfoError(
            f'camera_info has the distortion coefficients {values.tolist()}; expected numbers: '
            'calibrate the camera again.'
        )
    return name, values


def _rays(camera_info: Any, size_hw: tuple[int, int], rectified: bool) -> Rays:
    _check_size(camera_info, size_hw)
    matrix = _pinhole(camera_info, rectified)
    height, width = size_hw
    model, coefficients = ('', np.empty(0)) if rectified else _distortion(camera_info)
    matrix = _of_the_image(camera_info, matrix)
    (fx, _, cx), (_, fy, cy) = matrix[:2]
    columns, rows = np.arange(width, dtype=np.float64), np.arange(height, dtype=np.float64)
    if not model:
        x, y = (columns[None] - cx) / fx, (rows[:, None] - cy) / fy
        return Rays(x.astype(np.float32), y.astype(np.float32))

    pixels = np.stack(np.meshgrid(columns, rows), axis=-1).reshape(-1, 1, 2)
    no_motion = np.zeros(3)
    if model == _FISHEYE:
        plane = cv2.fisheye.undistortPoints(
            pixels, matrix, coefficients, None, None, None, _CRITERIA
        )
        points = np.dstack([plane, np.ones(plane.shape[:2])])
        back, _ = cv2.fisheye.projectPoints(points, no_motion, no_motion, matrix, coefficients)
    else:
        # Of the two that OpenCV has, the one that takes criteria in 4 and 5.
        straight = cv2.undistortImagePoints(pixels, matrix, coefficients, None, _CRITERIA)
        plane = (straight - (cx, cy)) / (fx, fy)
        points = np.dstack([plane, np.ones(plane.shape[:2])])
        back, _ = cv2.projectPoints(points, no_motion, no_motion, matrix, coefficients)
    # Written so that NaN counts as lost, too.
    found = np.linalg.norm(back - pixels, axis=-1) <= _MAX_RETURN_ERROR_PX
    if found.mean() < _MIN_SHARE_OF_RAYS:
        raise CameraInfoError(
            f'camera_info has the distortion coefficients {coefficients.tolist()} ({model}), with '
            f'which {found.mean():.0%} of the pixels have a ray; expected most: calibrate the '
            'camera again.'
        )
    rays = np.where(found[..., None], plane, np.nan).astype(np.float32).reshape(height, width, 2)
    return Rays(np.ascontiguousarray(rays[..., 0]), np.ascontiguousarray(rays[..., 1]))
