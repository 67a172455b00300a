"""A procedural off-road drive with exact labels and depth: a rosbag2 bag or training folders.

Everything follows from the seed: same seed and size, same pixels, in any order of frames.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
import dataclasses
from functools import lru_cache
import json
import math
import multiprocessing
from pathlib import Path
import shutil
import subprocess
import sys
import tempfile
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from rosbags.interfaces import (
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore
from tqdm import tqdm

from desertmind_seg.ontology import UNLABELED, Ontology, load_ontology
from training.simulator.render import Camera, expose, render
from training.simulator.world import (
    MATERIAL_DESERT_10,
    MATERIAL_YCOR_8,
    DriveParameters,
    Material,
    World,
)

UInt8Array = npt.NDArray[np.uint8]
Float64Array = npt.NDArray[np.float64]

CAMERA_FRAME, BASE_FRAME, ODOM_FRAME = 'camera_color_optical_frame', 'base_link', 'odom'
IMAGE_TOPIC = '/camera/color/image_raw'
DEPTH_TOPIC = '/camera/aligned_depth_to_color/image_raw'
CAMERA_INFO_TOPIC = '/camera/color/camera_info'
LABEL_TOPICS = {'/labels/desert_10': 'desert-10', '/labels/ycor_8': 'ycor-8'}

# Stamps start here (2024-01-01 00:00:00 UTC): a drive is a function of its seed, not of the clock.
_START_NS = 1_704_067_200_000_000_000
_JPEG_QUALITY = 92
# A drive that shows every class of ycor-8 in its first 6 s: rough, then smooth, puddles, rocks.
_SHOW_SEED = 4353
# An active-stereo camera of D435's kind: 50 mm baseline, disparity steps of 1/8 pixel or so.
_BASELINE_M = 0.05
_DEPTH_MIN_M, _DEPTH_MAX_M = 0.3, 20.0
_CAMERA_FORWARD_M = 0.5


@dataclasses.dataclass(frozen=True)
class SyntheticFrame:
    """One frame of a drive.

    Attributes:
        stamp_ns: nanoseconds since the epoch.
        rgb: uint8 (H, W, 3).
        depth_m: float32 (H, W), exact depth along the optical axis in metres; inf for the sky and
            the far ridges, never 0 or NaN.
        labels_desert_10: uint8 (H, W), class ids of ontology desert-10.
        labels_ycor_8: uint8 (H, W), class ids of ontology ycor-8.
        material: uint8 (H, W), `Material` values, from which both label images derive.
        camera: intrinsics and pose (odom from camera_color_optical_frame).
        odom_from_base: (4, 4) pose of base_link, which lies on the ground between the wheels.
    """

    stamp_ns: int
    rgb: UInt8Array
    depth_m: npt.NDArray[np.float32]
    labels_desert_10: UInt8Array
    labels_ycor_8: UInt8Array
    material: UInt8Array
    camera: Camera
    odom_from_base: Float64Array


def label_table(ontology: Ontology, names: Mapping[Material, str]) -> UInt8Array:
    """Table (256,) uint8 from `Material` to the ontology's id; 255 for values without a class."""
    table = np.full(256, UNLABELED, np.uint8)
    for material, name in names.items():
        table[int(material)] = ontology.class_id(name)
    return table


def _rotation_y(angle: float) -> Float64Array:
    c, s = math.cos(angle), math.sin(angle)
    return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])


class SyntheticDrive:
    """A vehicle follows a trail through a procedural world; a camera 1.6 m above it looks ahead.

    Args:
        seed: decides the world, the light and the camera.
        size_hw: image height and width in pixels.
        rate_hz: frames a second; the vehicle covers speed / rate metres between frames.
    """

    def __init__(
        self, seed: int, size_hw: tuple[int, int] = (480, 640), rate_hz: float = 10.0
    ) -> None:
        if min(size_hw) < 16:
            raise ValueError(f'size_hw {size_hw!r} is too small; expected at least 16x16 pixels')
        if not rate_hz > 0.0:
            raise ValueError(f'rate_hz {rate_hz!r} must be above 0')
        self.parameters = DriveParameters.from_seed(seed)
        self.size_hw = size_hw
        self.rate_hz = rate_hz
        self.world = World(self.parameters)
        blurred = cv2.GaussianBlur(self.world.height, (0, 0), 2.5)
        self._ride_height = np.asarray(blurred, np.float32)
        self._desert_10 = label_table(load_ontology('desert-10'), MATERIAL_DESERT_10)
        self._ycor_8 = label_table(load_ontology('ycor-8'), MATERIAL_YCOR_8)

    @property
    def num_frames(self) -> int:
        """Frames until the end of the drive."""
        step_m = self.parameters.speed_m_per_s / self.rate_hz
        return int(World.DRIVE_M / step_m) + 1

    @property
    def k(self) -> Float64Array:
        """Camera matrix (3, 3): square pixels, centred, no distortion."""
        height, width = self.size_hw
        focal = width / 2.0 / math.tan(self.parameters.hfov_rad / 2.0)
        return np.array(
            [[focal, 0.0, (width - 1) / 2.0], [0.0, focal, (height - 1) / 2.0], [0.0, 0.0, 1.0]]
        )

    @property
    def base_from_camera(self) -> Float64Array:
        """Static pose (4, 4) of the camera's optical frame in base_link."""
        optical = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
        pose = np.eye(4)
        pose[:3, :3] = _rotation_y(self.parameters.camera_pitch_down_rad) @ optical
        pose[:3, 3] = (_CAMERA_FORWARD_M, 0.0, self.parameters.camera_height_m)
        return pose

    def odom_from_base(self, index: int) -> Float64Array:
        """Pose (4, 4) of base_link in frame `index`: heading by the trail, tilt by the ground."""
        world = self.world
        x = index * self.parameters.speed_m_per_s / self.rate_hz
        sway = 0.15 * math.sin(0.21 * x + 0.7 * self.parameters.seed)
        y = float(world.trail_y(np.array([x], np.float32))[0]) + sway
        yaw = world.trail_heading(x) + 0.15 * 0.21 * math.cos(
            0.21 * x + 0.7 * self.parameters.seed
        )
        c, s = math.cos(yaw), math.sin(yaw)
        wheels = [(1.0, 0.75), (1.0, -0.75), (-1.0, 0.75), (-1.0, -0.75)]
        wheel_x = np.array([[x + c * a - s * b for a, b in wheels]], np.float32)
        wheel_y = np.array([[y + s * a + c * b for a, b in wheels]], np.float32)
        z = world.fine.sample(self._ride_height, wheel_x, wheel_y)[0].astype(float)
        pitch_up = math.atan2((z[0] + z[1] - z[2] - z[3]) / 2.0, 2.0)
        roll = math.atan2((z[0] + z[2] - z[1] - z[3]) / 2.0, 1.5)
        heading = np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
        cr, sr = math.cos(roll), math.sin(roll)
        bank = np.array([[1.0, 0.0, 0.0], [0.0, cr, -sr], [0.0, sr, cr]])
        pose = np.eye(4)
        pose[:3, :3] = heading @ _rotation_y(-pitch_up) @ bank
        pose[:3, 3] = (x, y, float(z.mean()))
        return pose

    def frame(self, index: int) -> SyntheticFrame:
        """Render frame `index`, 0..num_frames - 1, independent of the frames before it.

        Raises:
            IndexError: the drive has no such frame.
        """
        if not 0 <= index < self.num_frames:
            raise IndexError(
                f'frame {index} of a drive with {self.num_frames} frames '
                f'({World.DRIVE_M:.0f} m at {self.parameters.speed_m_per_s:.2f} m/s and '
                f'{self.rate_hz:g} Hz); ask for fewer frames, a higher rate or another seed'
            )
        odom_from_base = self.odom_from_base(index)
        camera = Camera(self.size_hw, self.k, odom_from_base @ self.base_from_camera)
        buffers = render(self.world, camera)
        rng = np.random.default_rng([self.parameters.seed, 10, index])
        return SyntheticFrame(
            stamp_ns=_START_NS + round(index * 1e9 / self.rate_hz),
            rgb=expose(self.world, buffers.radiance, rng),
            depth_m=buffers.depth_m,
            labels_desert_10=np.take(self._desert_10, buffers.material),
            labels_ycor_8=np.take(self._ycor_8, buffers.material),
            material=buffers.material,
            camera=camera,
            odom_from_base=odom_from_base,
        )


def sensor_depth_mm(frame: SyntheticFrame, rng: np.random.Generator) -> npt.NDArray[np.uint16]:
    """Degrade exact depth to what an aligned active-stereo camera reports.

    Noise is that of a disparity (sigma_z = z^2 / (f B) * sigma_d), quantised to 1/8 pixel. Holes
    (0): sky, nearer than 0.3 m or beyond 20 m, the strip left of near things that the second
    imager cannot see, most of the water, blown-out pixels, and patches without texture.

    Returns:
        uint16 (H, W) millimetres, 0 = no measurement.
    """
    depth = frame.depth_m
    height, width = depth.shape
    focal_baseline = float(frame.camera.k[0, 0]) * _BASELINE_M * max(1.0, 640.0 / width)
    finite = np.where(np.isfinite(depth), depth, 1e6).astype(np.float32)
    disparity = (focal_baseline / np.maximum(finite, 0.05)).astype(np.float32)
    coarse = rng.standard_normal((height // 6 + 2, width // 6 + 2), np.float32)
    blotch = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    error = 0.045 * blotch + 0.03 * rng.standard_normal(depth.shape, np.float32)
    measured = np.round((disparity + error) * 8.0) / 8.0
    metres = focal_baseline / np.maximum(measured, 1.0 / 16.0)
    hole = (finite < _DEPTH_MIN_M) | (metres > _DEPTH_MAX_M) | ~np.isfinite(depth)
    # The other imager sees a point at column - disparity; what something nearer covers is lost.
    band = max(1, round(width / 640 * 6))
    nearer = cv2.dilate(disparity, np.ones((1, 2 * band + 1), np.uint8), anchor=(0, 0))
    hole |= nearer > disparity + 1.5 * 640.0 / max(width, 640)
    patches = cv2.resize(
        rng.standard_normal((height // 24 + 2, width // 24 + 2), np.float32),
        (width, height),
        interpolation=cv2.INTER_CUBIC,
    )
    hole |= patches + 0.06 * finite > 2.6
    hole |= (frame.material == Material.PUDDLE) & (patches > -0.9)
    hole |= frame.rgb.min(axis=2) > 250
    hole |= rng.random(depth.shape, np.float32) < 0.004
    hole = cv2.morphologyEx(hole.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8)) > 0
    millimetres = np.asarray(np.clip(metres * 1000.0 + 0.5, 0.0, 65535.0), np.uint16)
    millimetres[hole] = 0
    return millimetres


def frame_depth_mm(seed: int, index: int, frame: SyntheticFrame) -> npt.NDArray[np.uint16]:
    """Sensor depth with the noise that belongs to this seed and frame."""
    return sensor_depth_mm(frame, np.random.default_rng([seed, 11, index]))


# ---------------------------------------------------------------------------------------------
# Rendering in parallel


@dataclasses.dataclass(frozen=True)
class DriveSpec:
    """What a worker needs to know to render frames of one drive."""

    seed: int
    size_hw: tuple[int, int]
    rate_hz: float
    frames: int


@lru_cache(maxsize=1)
def _drive(seed: int, size_hw: tuple[int, int], rate_hz: float) -> SyntheticDrive:
    return SyntheticDrive(seed, size_hw, rate_hz)


def _runs(spec: DriveSpec, pieces: int) -> list[range]:
    """Split the frames of a drive into at most `pieces` runs of consecutive frames."""
    size = max(1, math.ceil(spec.frames / pieces))
    return [range(i, min(i + size, spec.frames)) for i in range(0, spec.frames, size)]


def _start_worker() -> None:
    # One frame a core: OpenCV's own threads would fight over the cores that the jobs share.
    cv2.setNumThreads(1)


def _pool(jobs: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(
        jobs, mp_context=multiprocessing.get_context('spawn'), initializer=_start_worker
    )


# ---------------------------------------------------------------------------------------------
# Folder form


def _write_png(path: Path, image: npt.NDArray[Any]) -> None:
    if not cv2.imwrite(str(path), image, [cv2.IMWRITE_PNG_COMPRESSION, 3]):
        raise OSError(f'cannot write {path}')


def _write_frames(spec: DriveSpec, frames: range, folder: Path) -> int:
    """Render frames into folder/NNNNNN/; returns how many."""
    drive = _drive(spec.seed, spec.size_hw, spec.rate_hz)
    for index in frames:
        frame = drive.frame(index)
        target = folder / f'{index:06d}'
        target.mkdir()
        bgr = cv2.cvtColor(frame.rgb, cv2.COLOR_RGB2BGR)
        path = target / 'rgb.jpg'
        if not cv2.imwrite(str(path), bgr, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]):
            raise OSError(f'cannot write {path}')
        _write_png(target / 'labels_ycor8.png', frame.labels_ycor_8)
        _write_png(target / 'labels_desert10.png', frame.labels_desert_10)
        _write_png(target / 'depth.png', frame_depth_mm(spec.seed, index, frame))
    return len(frames)


_Task = tuple[int, DriveSpec, range, Path]  # number of the drive, drive, frames, folder


def _write_all(tasks: Sequence[_Task], jobs: int) -> Iterator[tuple[int, int]]:
    """Run the tasks; yield (number of the drive, frames written) as each ends."""
    if jobs == 1:
        for number, spec, run, folder in tasks:
            yield number, _write_frames(spec, run, folder)
        return
    with _pool(jobs) as pool:
        waiting = {
            pool.submit(_write_frames, spec, run, folder): number
            for number, spec, run, folder in tasks
        }
        try:
            while waiting:
                done, _ = wait(waiting, return_when=FIRST_COMPLETED)
                for future in done:
                    yield waiting.pop(future), future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _git_hash() -> str:
    """Commit of this checkout, with '-dirty' where it has changes; 'unknown' outside git."""
    command = ['git', 'describe', '--always', '--dirty', '--abbrev=40', '--match=']
    try:
        found = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        )
    except (FileNotFoundError, subprocess.CalledProcessError):
        return 'unknown'
    return found.stdout.strip()


def _describe(spec: DriveSpec) -> dict[str, Any]:
    """Return what drive.json and a bag's custom data say about a drive."""
    parameters = DriveParameters.from_seed(spec.seed)
    return {
        'seed': spec.seed,
        'size_hw': list(spec.size_hw),
        'rate_hz': spec.rate_hz,
        'frames': spec.frames,
        'parameters': dataclasses.asdict(parameters),
        'ontologies': {name: load_ontology(name).sha256 for name in LABEL_TOPICS.values()},
        'git_hash': _git_hash(),
    }


def _publish(temporary: Path, final: Path, force: bool) -> None:
    """Move a finished folder to its final name; an old one goes only once the new one is there."""
    if final.exists():
        if not force:
            raise FileExistsError(f'{final} exists; choose another name or pass --force')
        retired = Path(tempfile.mkdtemp(prefix=f'.{final.name}.old-', dir=final.parent))
        final.replace(retired / final.name)
        temporary.replace(final)
        shutil.rmtree(retired)
    else:
        temporary.replace(final)


def _refuse_existing(paths: Sequence[Path], force: bool) -> None:
    existing = [path for path in paths if path.exists()]
    if existing and not force:
        raise FileExistsError(
            f'{existing[0]} exists ({len(existing)} of {len(paths)} outputs do); choose another '
            'name or pass --force to replace'
        )


def write_folders(
    specs: Sequence[DriveSpec], root: Path, *, jobs: int = 1, force: bool = False
) -> list[Path]:
    """Write drives as root/drive_SEED/NNNNNN/{rgb.jpg, labels_*.png, depth.png} and drive.json.

    A drive's folder appears under its final name once it is complete.

    Returns:
        the folders in the order of `specs`.

    Raises:
        FileExistsError: a drive's folder exists and `force` is false; nothing is written then.
    """
    finals = [root / f'drive_{spec.seed:06d}' for spec in specs]
    _refuse_existing(finals, force)
    root.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix='.synthetic-', dir=root) as scratch,
        tqdm(total=sum(spec.frames for spec in specs), unit='frame', desc='drives') as progress,
    ):
        folders = [Path(scratch) / final.name for final in finals]
        # A whole drive a task where that keeps all jobs busy, so that each world is built once.
        pieces = 1 if len(specs) >= jobs > 1 else 4 * jobs
        tasks: list[_Task] = []
        left: list[int] = []
        for number, spec in enumerate(specs):
            folders[number].mkdir()
            runs = _runs(spec, pieces)
            tasks += [(number, spec, run, folders[number]) for run in runs]
            left.append(len(runs))
        for number, frames in _write_all(tasks, jobs):
            progress.update(frames)
            left[number] -= 1
            if left[number] == 0:
                text = json.dumps(_describe(specs[number]), indent=2) + '\n'
                (folders[number] / 'drive.json').write_text(text, encoding='utf-8')
                _publish(folders[number], finals[number], force)
    return finals


# ---------------------------------------------------------------------------------------------
# Bag form


@dataclasses.dataclass(frozen=True)
class _BagFrame:
    """What a bag needs of a frame; small enough to come back from a worker."""

    stamp_ns: int
    rgb: UInt8Array
    depth_mm: npt.NDArray[np.uint16]
    labels: dict[str, UInt8Array]
    odom_from_base: Float64Array


def _bag_frame(spec: DriveSpec, index: int) -> _BagFrame:
    frame = _drive(spec.seed, spec.size_hw, spec.rate_hz).frame(index)
    return _BagFrame(
        frame.stamp_ns,
        frame.rgb,
        frame_depth_mm(spec.seed, index, frame),
        {'desert-10': frame.labels_desert_10, 'ycor-8': frame.labels_ycor_8},
        frame.odom_from_base,
    )


def _all_bag_frames(spec: DriveSpec, jobs: int) -> Iterator[_BagFrame]:
    """Render the drive's frames in order."""
    if jobs == 1:
        for index in range(spec.frames):
            yield _bag_frame(spec, index)
        return
    with _pool(jobs) as pool:
        try:
            yield from pool.map(_bag_frame, [spec] * spec.frames, range(spec.frames))
        finally:
            pool.shutdown(cancel_futures=True)


def _quaternion(rotation: Float64Array) -> tuple[float, float, float, float]:
    """Return (x, y, z, w) of a rotation matrix whose angle is well below 180 degrees or not."""
    m = rotation
    w = math.sqrt(max(0.0, 1.0 + m[0, 0] + m[1, 1] + m[2, 2])) / 2.0
    x = math.copysign(
        math.sqrt(max(0.0, 1.0 + m[0, 0] - m[1, 1] - m[2, 2])) / 2.0, m[2, 1] - m[1, 2]
    )
    y = math.copysign(
        math.sqrt(max(0.0, 1.0 - m[0, 0] + m[1, 1] - m[2, 2])) / 2.0, m[0, 2] - m[2, 0]
    )
    z = math.copysign(
        math.sqrt(max(0.0, 1.0 - m[0, 0] - m[1, 1] + m[2, 2])) / 2.0, m[1, 0] - m[0, 1]
    )
    return (x, y, z, w)


def _qos(durability: QosDurability, depth: int) -> Qos:
    unlimited = QosTime(2147483647, 4294967295)
    return Qos(
        QosHistory.KEEP_LAST,
        depth,
        QosReliability.RELIABLE,
        durability,
        unlimited,
        unlimited,
        QosLiveliness.AUTOMATIC,
        unlimited,
        False,
    )


def write_bag(spec: DriveSpec, path: Path, *, jobs: int = 1, force: bool = False) -> Path:
    """Write a drive as a rosbag2 bag (MCAP) that appears under `path` once it is complete.

    Raises:
        FileExistsError: `path` exists and `force` is false.
    """
    _refuse_existing([path], force)
    path.parent.mkdir(parents=True, exist_ok=True)
    store = get_typestore(Stores.ROS2_KILTED)
    types = store.types
    drive = SyntheticDrive(spec.seed, spec.size_hw, spec.rate_hz)
    height, width = spec.size_hw

    def header(stamp_ns: int, frame_id: str) -> Any:
        stamp = types['builtin_interfaces/msg/Time'](
            sec=stamp_ns // 1_000_000_000, nanosec=stamp_ns % 1_000_000_000
        )
        return types['std_msgs/msg/Header'](stamp=stamp, frame_id=frame_id)

    def image(stamp_ns: int, encoding: str, pixels: npt.NDArray[Any]) -> Any:
        little = np.ascontiguousarray(pixels).astype(pixels.dtype.newbyteorder('<'), copy=False)
        return types['sensor_msgs/msg/Image'](
            header=header(stamp_ns, CAMERA_FRAME),
            height=height,
            width=width,
            encoding=encoding,
            is_bigendian=0,
            step=little.strides[0],
            data=little.reshape(-1).view(np.uint8),
        )

    def transform(stamp_ns: int, parent: str, child: str, pose: Float64Array) -> Any:
        x, y, z, w = _quaternion(pose[:3, :3])
        return types['tf2_msgs/msg/TFMessage'](
            transforms=[
                types['geometry_msgs/msg/TransformStamped'](
                    header=header(stamp_ns, parent),
                    child_frame_id=child,
                    transform=types['geometry_msgs/msg/Transform'](
                        translation=types['geometry_msgs/msg/Vector3'](
                            x=float(pose[0, 3]), y=float(pose[1, 3]), z=float(pose[2, 3])
                        ),
                        rotation=types['geometry_msgs/msg/Quaternion'](x=x, y=y, z=z, w=w),
                    ),
                )
            ]
        )

    def camera_info(stamp_ns: int) -> Any:
        k = drive.k
        projection = np.hstack([k, np.zeros((3, 1))])
        return types['sensor_msgs/msg/CameraInfo'](
            header=header(stamp_ns, CAMERA_FRAME),
            height=height,
            width=width,
            distortion_model='plumb_bob',
            d=np.zeros(5),
            k=k.reshape(-1),
            r=np.eye(3).reshape(-1),
            p=projection.reshape(-1),
            binning_x=0,
            binning_y=0,
            roi=types['sensor_msgs/msg/RegionOfInterest'](
                x_offset=0, y_offset=0, height=0, width=0, do_rectify=False
            ),
        )

    # The storage file is named after its folder: make the folder under its own name elsewhere.
    with tempfile.TemporaryDirectory(prefix=f'.{path.name}.part-', dir=path.parent) as scratch:
        temporary = Path(scratch) / path.name
        with Writer(temporary, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
            for topic, name in LABEL_TOPICS.items():
                writer.set_custom_data(
                    f'desertmind_seg.ontology/{topic}', load_ontology(name).sha256
                )
            writer.set_custom_data('desertmind_seg.drive', json.dumps(_describe(spec)))
            volatile = _qos(QosDurability.VOLATILE, 10)

            def connect(topic: str, kind: str, qos: Qos) -> Any:
                return writer.add_connection(
                    topic, kind, typestore=store, offered_qos_profiles=[qos]
                )

            static = connect(
                '/tf_static', 'tf2_msgs/msg/TFMessage', _qos(QosDurability.TRANSIENT_LOCAL, 1)
            )
            moving = connect('/tf', 'tf2_msgs/msg/TFMessage', _qos(QosDurability.VOLATILE, 100))
            info = connect(CAMERA_INFO_TOPIC, 'sensor_msgs/msg/CameraInfo', volatile)
            color = connect(IMAGE_TOPIC, 'sensor_msgs/msg/Image', volatile)
            depth = connect(DEPTH_TOPIC, 'sensor_msgs/msg/Image', volatile)
            labels = {
                name: connect(topic, 'sensor_msgs/msg/Image', volatile)
                for topic, name in LABEL_TOPICS.items()
            }

            def write(connection: Any, stamp_ns: int, message: Any) -> None:
                data = store.serialize_cdr(message, connection.msgtype)
                writer.write(connection, stamp_ns, data)

            write(
                static,
                _START_NS,
                transform(_START_NS, BASE_FRAME, CAMERA_FRAME, drive.base_from_camera),
            )
            frames = _all_bag_frames(spec, jobs)
            for frame in tqdm(frames, total=spec.frames, unit='frame', desc=path.name):
                stamp = frame.stamp_ns
                write(
                    moving, stamp, transform(stamp, ODOM_FRAME, BASE_FRAME, frame.odom_from_base)
                )
                write(info, stamp, camera_info(stamp))
                write(color, stamp, image(stamp, 'rgb8', frame.rgb))
                write(depth, stamp, image(stamp, '16UC1', frame.depth_mm))
                for name, connection in labels.items():
                    write(connection, stamp, image(stamp, 'mono8', frame.labels[name]))
        _publish(temporary, path, force)
    return path


# ---------------------------------------------------------------------------------------------
# Command line


def _size(text: str) -> tuple[int, int]:
    try:
        height, width = (int(part) for part in text.lower().split('x'))
    except ValueError as err:
        raise argparse.ArgumentTypeError(
            f'{text!r} is not HEIGHTxWIDTH, for example 480x640'
        ) from err
    if min(height, width) < 16:
        raise argparse.ArgumentTypeError(f'{text!r} is too small; expected at least 16x16')
    return height, width


def _seeds(text: str) -> range:
    try:
        first, last = (int(part) for part in text.split(':'))
    except ValueError as err:
        raise argparse.ArgumentTypeError(f'{text!r} is not A:B, for example 0:40') from err
    if not 0 <= first < last:
        raise argparse.ArgumentTypeError(f'{text!r} must have 0 <= A < B')
    return range(first, last)


def _positive(text: str) -> int:
    try:
        value = int(text)
    except ValueError as err:
        raise argparse.ArgumentTypeError(f'{text!r} is not a whole number') from err
    if value < 1:
        raise argparse.ArgumentTypeError(f'{text!r} must be at least 1')
    return value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='python -m training.synthetic',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="""examples:
  a 10 s bag for replay:     python -m training.synthetic --bag out/sample_drive --frames 100
  40 drives to train on:     python -m training.synthetic --folder out/synthetic --seeds 0:40 \\
                               --frames 20 --rate-hz 1 --jobs 2
  one drive, HD camera:      python -m training.synthetic --folder out/hd --seed 7 --size 720x1280
""",
    )
    output = parser.add_mutually_exclusive_group(required=True)
    output.add_argument('--bag', type=Path, metavar='DIR', help='write one drive as a rosbag2 bag')
    output.add_argument('--folder', type=Path, metavar='DIR', help='write DIR/drive_SEED/ folders')
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        '--seed', type=int, default=_SHOW_SEED, help='one drive (default: %(default)s)'
    )
    which.add_argument('--seeds', type=_seeds, metavar='A:B', help='drives A..B-1, --folder only')
    parser.add_argument(
        '--frames', type=_positive, metavar='N', help='frames a drive (default: the whole drive)'
    )
    parser.add_argument(
        '--rate-hz', type=float, default=10.0, help='frames a second (default: %(default)g)'
    )
    parser.add_argument(
        '--size', type=_size, default=(480, 640), metavar='HxW', help='default: 480x640'
    )
    parser.add_argument(
        '--jobs', type=_positive, default=1, help='processes (default: %(default)s)'
    )
    parser.add_argument('--force', action='store_true', help='replace existing output')
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.bag is not None and options.seeds is not None:
        parser.error('--bag holds one drive: use --seed N, or --folder with --seeds')
    if not options.rate_hz > 0.0:
        parser.error(f'--rate-hz {options.rate_hz} must be above 0')
    if options.seed < 0:
        parser.error(f'--seed {options.seed} must be 0 or more')
    specs = []
    for seed in options.seeds if options.seeds is not None else (options.seed,):
        speed = DriveParameters.from_seed(seed).speed_m_per_s
        available = int(World.DRIVE_M / (speed / options.rate_hz)) + 1
        frames = options.frames if options.frames is not None else available
        if frames > available:
            parser.error(
                f'--frames {frames}: the drive of seed {seed} has {available} frames at '
                f'{options.rate_hz:g} Hz; ask for at most that many or raise --rate-hz'
            )
        specs.append(DriveSpec(seed, options.size, options.rate_hz, frames))
    try:
        if options.bag is not None:
            print(write_bag(specs[0], options.bag, jobs=options.jobs, force=options.force))
        else:
            write_folders(specs, options.folder, jobs=options.jobs, force=options.force)
            print(options.folder)
    except FileExistsError as err:
        print(f'error: {err}', file=sys.stderr)
        return 2
    return 0


if __name__ == '__main__':
    sys.exit(main())
