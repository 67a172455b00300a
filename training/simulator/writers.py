"""Write drives: as training folders, or as a rosbag2 bag with labels, depth and poses."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
import dataclasses
import itertools
import json
import math
import multiprocessing
from pathlib import Path
import signal
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
from rosbags.typesys.store import Typestore

from desertmind_seg.bag_geometry.truth import DRIVE_KEY, HEIGHT_TOPIC, KIND_TOPIC, SIZE_TOPIC
from desertmind_seg.messages.bags import ONTOLOGY_KEY_PREFIX
from desertmind_seg.model.documents import DocumentError, read_json
from desertmind_seg.model.errors import listed
from desertmind_seg.model.files import made_folder, partial_folder
from desertmind_seg.model.ontology import load_ontology
from desertmind_seg.model.processes import end_with_parent
from desertmind_seg.pipeline.progress import Progress
from desertmind_seg.reports.output import named_as_in, output_folder, write_json
from desertmind_seg.reports.provenance import environment
from training.scenery.parameters import CLASS_NAMES, FloatArray, HazardKind
from training.simulator.depth_sensor import frame_depth_mm
from training.simulator.drive import START_NS, Float64Array, SyntheticDrive, SyntheticFrame

CAMERA_FRAME, BASE_FRAME, ODOM_FRAME = 'camera_color_optical_frame', 'base_link', 'odom'
IMAGE_TOPIC = '/camera/color/image_raw'
DEPTH_TOPIC = '/camera/aligned_depth_to_color/image_raw'
CAMERA_INFO_TOPIC = '/camera/color/camera_info'
LABEL_TOPICS = {'/labels/desert_10': 'desert-10', '/labels/ycor_8': 'ycor-8'}
# height.png is 16-bit: millimetres above the local ground plus this; 0 where nothing is known.
HEIGHT_OFFSET_MM = 10_000

_JPEG_QUALITY = 92


@dataclasses.dataclass(frozen=True)
class DriveSpec:
    """What to render of a drive: its first `frames` frames, with these kinds of hazards.

    `desert` is a drive of the desert set.
    """

    seed: int
    size_hw: tuple[int, int]
    rate_hz: float
    frames: int
    hazards: tuple[str, ...] = ()
    desert: bool = False

    def drive(self) -> SyntheticDrive:
        """Return the drive."""
        return SyntheticDrive(
            self.seed, self.size_hw, self.rate_hz, self.hazards, desert=self.desert
        )


def drive_spec(
    seed: int,
    size_hw: tuple[int, int],
    rate_hz: float,
    frames: int | None = None,
    hazards: tuple[str, ...] = (),
    *,
    desert: bool = False,
) -> DriveSpec:
    """Specify the first `frames` frames of a drive, None for all of it.

    Raises:
        ValueError: the drive has fewer frames, or cannot be drawn so.
    """
    available = SyntheticDrive(seed, size_hw, rate_hz, hazards, desert=desert).num_frames
    if frames is not None and frames > available:
        raise ValueError(
            f'{frames} frames: the drive of seed {seed} has {available} at {rate_hz:g} Hz; ask '
            'for at most that many or a higher rate'
        )
    count = available if frames is None else frames
    return DriveSpec(seed, size_hw, rate_hz, count, hazards, desert)


def describe(spec: DriveSpec) -> dict[str, Any]:
    """Return what drive.json and a bag's custom data say about a drive."""
    return {
        'seed': spec.seed,
        'size_hw': list(spec.size_hw),
        'rate_hz': spec.rate_hz,
        'frames': spec.frames,
        'parameters': dataclasses.asdict(spec.drive().parameters),
        'hazard_kinds': {kind.name.lower(): int(kind) for kind in HazardKind},
        'ontologies': {name: load_ontology(name).sha256 for name in CLASS_NAMES},
        'git_hash': environment()['git_hash'] or 'unknown',
    }


def _render(spec: DriveSpec, index: int) -> tuple[SyntheticFrame, npt.NDArray[np.uint16]]:
    """Render a frame, with its sensor depth in millimetres."""
    frame = spec.drive().frame(index)
    return frame, frame_depth_mm(spec.seed, index, frame)


@contextmanager
def map_over(jobs: int) -> Iterator[Callable[..., Iterator[Any]]]:
    """Yield a `map` that spreads its calls over processes; an error ends those in work, too."""
    if jobs == 1:
        yield map
        return
    with ProcessPoolExecutor(
        jobs, multiprocessing.get_context('spawn'), initializer=_start_worker
    ) as pool:
        try:
            yield pool.map
        except BaseException:  # Ctrl-C above all: a drive takes minutes, and would not be kept
            for process in list(pool._processes.values()):
                process.terminate()
            raise
        finally:
            pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    # Its parent takes Ctrl-C.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
    # One frame a core: OpenCV's own threads would fight over the cores that the jobs share.
    cv2.setNumThreads(1)


# ---------------------------------------------------------------------------------------------
# Folders


def write_folders(
    specs: Sequence[DriveSpec], root: Path, *, jobs: int = 1, force: bool = False
) -> list[Path]:
    """Write drives as root/drive_SEED/NNNNNN/{rgb.jpg, labels_*.png, depth.png} and drive.json.

    Drives with hazards have height.png (16-bit), hazard.png and hazard_size.png too. A drive's
    folder appears under its final name once it is complete; one that is there already, whole and
    as it is asked for, is not rendered again.

    Args:
        specs: of different seeds.
        root: created with its parents.
        jobs: processes that render.
        force: replace drives that are there.

    Returns:
        the folders in the order of `specs`.

    Raises:
        FileExistsError: another drive's folder exists and `force` is false; nothing is written
            then.
    """
    folder_of = {spec: root / f'drive_{spec.seed:06d}' for spec in specs}
    wanted = [spec for spec in specs if force or not _is_rendered(folder_of[spec], spec)]
    others = [folder_of[spec].name for spec in wanted if folder_of[spec].exists()]
    if others and not force:
        raise FileExistsError(
            f'{str(root)!r} already holds {listed(others, 5)}, of other settings or '
            'another version; choose another folder or pass --force to replace them.'
        )
    if len(wanted) < len(specs):
        print(f'{root}: {len(specs) - len(wanted)} of {len(specs)} drives are there already')
    # A whole drive a task where that keeps all jobs busy, so that each world is built once.
    pieces = 1 if len(wanted) >= jobs > 1 else 4 * jobs
    with made_folder(root), partial_folder(root) as partial, ExitStack() as stack:
        tasks = {}
        for spec in wanted:
            new = partial / folder_of[spec].name
            new.mkdir()
            size = math.ceil(spec.frames / pieces)
            starts = range(0, spec.frames, size)
            tasks[spec] = [(spec, range(i, min(i + size, spec.frames)), new) for i in starts]
        stack.enter_context(named_as_in(root, partial))
        total = sum(spec.frames for spec in wanted)
        progress = stack.enter_context(Progress(total=total, unit='frame', desc='drives'))
        written = stack.enter_context(map_over(jobs))(
            _write_frames, itertools.chain(*tasks.values())
        )
        for spec, parts in tasks.items():
            for frames in itertools.islice(written, len(parts)):
                progress.update(frames)
            final = folder_of[spec]
            new = partial / final.name
            write_json(new / 'drive.json', describe(spec))
            if final.exists():
                final.rename(partial / f'{final.name}.old')
            new.rename(final)
    return list(folder_of.values())


def _is_rendered(folder: Path, spec: DriveSpec) -> bool:
    record = folder / 'drive.json'
    try:
        return record.is_file() and json.dumps(read_json(record)) == json.dumps(describe(spec))
    except DocumentError:
        return False


def _write_frames(task: tuple[DriveSpec, range, Path]) -> int:
    """Render frames of a drive into folder/NNNNNN/; returns how many."""
    spec, frames, folder = task
    for index in frames:
        frame, depth_mm = _render(spec, index)
        target = folder / f'{index:06d}'
        target.mkdir()
        bgr = cv2.cvtColor(frame.rgb, cv2.COLOR_RGB2BGR)
        write_image(target / 'rgb.jpg', bgr, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
        images: dict[str, npt.NDArray[Any]] = {
            'labels_ycor8': frame.labels_ycor_8,
            'labels_desert10': frame.labels_desert_10,
            'depth': depth_mm,
        }
        if spec.hazards:
            images |= {
                'height': _height_mm(frame.height_m),
                'hazard': frame.hazard,
                'hazard_size': frame.hazard_size_cm,
            }
        for name, image in images.items():
            write_image(target / f'{name}.png', image, [cv2.IMWRITE_PNG_COMPRESSION, 3])
    return len(frames)


def _height_mm(height_m: FloatArray) -> npt.NDArray[np.uint16]:
    """Return heights as height.png holds them."""
    shifted = np.clip(np.round(height_m * 1000.0) + HEIGHT_OFFSET_MM, 1.0, 65535.0)
    return np.where(np.isnan(height_m), 0.0, shifted).astype(np.uint16)


def write_image(
    path: Path, image: npt.NDArray[Any] | cv2.typing.MatLike, options: list[int]
) -> None:
    # imwrite says nothing of why a file was not written, such as a full disk.
    path.write_bytes(cv2.imencode(path.suffix, image, options)[1].tobytes())


# ---------------------------------------------------------------------------------------------
# Bag

_IMAGE, _TF = 'sensor_msgs/msg/Image', 'tf2_msgs/msg/TFMessage'
_UNLIMITED = QosTime(2147483647, 4294967295)
_VOLATILE = Qos(
    QosHistory.KEEP_LAST,
    10,
    QosReliability.RELIABLE,
    QosDurability.VOLATILE,
    _UNLIMITED,
    _UNLIMITED,
    QosLiveliness.AUTOMATIC,
    _UNLIMITED,
    avoid_ros_namespace_conventions=False,
)
_LATCHED = _VOLATILE._replace(durability=QosDurability.TRANSIENT_LOCAL, depth=1)


def write_bag(spec: DriveSpec, path: Path, *, jobs: int = 1, force: bool = False) -> Path:
    """Write a drive as a rosbag2 bag (MCAP) that appears under `path` once it is complete.

    Drives with hazards have topics of the true height and hazard of each pixel too.

    Args:
        spec: the drive.
        path: folder of the bag; its parents are created.
        jobs: processes that render.
        force: replace what is at `path`.

    Raises:
        FileExistsError: `path` exists and `force` is false.
    """
    drive = spec.drive()
    store = get_typestore(Stores.ROS2_KILTED)
    messages = _Messages(store, spec.size_hw, drive.k)
    with ExitStack() as stack:
        new = stack.enter_context(output_folder(path.parent, (path.name,), replace=force))
        # The storage file is named after its folder.
        writer = Writer(new / path.name, version=9, storage_plugin=StoragePlugin.MCAP)
        stack.enter_context(writer)
        for topic, name in LABEL_TOPICS.items():
            writer.set_custom_data(f'{ONTOLOGY_KEY_PREFIX}{topic}', load_ontology(name).sha256)
        writer.set_custom_data(DRIVE_KEY, json.dumps(describe(spec)))

        truth = (HEIGHT_TOPIC, KIND_TOPIC, SIZE_TOPIC) if spec.hazards else ()
        connections = {
            topic: writer.add_connection(
                topic, msgtype, typestore=store, offered_qos_profiles=[qos]
            )
            for topic, msgtype, qos in (
                ('/tf_static', _TF, _LATCHED),
                ('/tf', _TF, _VOLATILE._replace(depth=100)),
                (CAMERA_INFO_TOPIC, 'sensor_msgs/msg/CameraInfo', _VOLATILE),
                (IMAGE_TOPIC, _IMAGE, _VOLATILE),
                (DEPTH_TOPIC, _IMAGE, _VOLATILE),
                *((topic, _IMAGE, _VOLATILE) for topic in (*LABEL_TOPICS, *truth)),
            )
        }

        def write(topic: str, stamp_ns: int, message: Any) -> None:
            connection = connections[topic]
            writer.write(connection, stamp_ns, store.serialize_cdr(message, connection.msgtype))

        mount = messages.transform(START_NS, BASE_FRAME, CAMERA_FRAME, drive.base_from_camera)
        write('/tf_static', START_NS, mount)
        map_frames = stack.enter_context(map_over(jobs))
        frames = map_frames(_render, [spec] * spec.frames, range(spec.frames))
        for frame, depth_mm in Progress(frames, total=spec.frames, unit='frame', desc=path.name):
            stamp = frame.stamp_ns
            moved = messages.transform(stamp, ODOM_FRAME, BASE_FRAME, frame.odom_from_base)
            write('/tf', stamp, moved)
            write(CAMERA_INFO_TOPIC, stamp, messages.camera_info(stamp))
            write(IMAGE_TOPIC, stamp, messages.image(stamp, 'rgb8', frame.rgb))
            write(DEPTH_TOPIC, stamp, messages.image(stamp, '16UC1', depth_mm))
            for topic, labels in zip(
                LABEL_TOPICS, (frame.labels_desert_10, frame.labels_ycor_8), strict=True
            ):
                write(topic, stamp, messages.image(stamp, 'mono8', labels))
            if spec.hazards:
                write(HEIGHT_TOPIC, stamp, messages.image(stamp, '32FC1', frame.height_m))
                write(KIND_TOPIC, stamp, messages.image(stamp, 'mono8', frame.hazard))
                size = messages.image(stamp, 'mono8', frame.hazard_size_cm)
                write(SIZE_TOPIC, stamp, size)
    return path


class _Messages:
    """The ROS 2 messages of one drive.

    Args:
        store: defines their types.
        size_hw: of its images.
        k: camera matrix (3, 3).
    """

    def __init__(self, store: Typestore, size_hw: tuple[int, int], k: Float64Array) -> None:
        self._types, self._size_hw, self._k = store.types, size_hw, k

    def _header(self, stamp_ns: int, frame_id: str) -> Any:
        sec, nanosec = divmod(stamp_ns, 1_000_000_000)
        stamp = self._types['builtin_interfaces/msg/Time'](sec=sec, nanosec=nanosec)
        return self._types['std_msgs/msg/Header'](stamp=stamp, frame_id=frame_id)

    def image(self, stamp_ns: int, encoding: str, pixels: npt.NDArray[Any]) -> Any:
        """Make a sensor_msgs/Image of pixels (H, W) or (H, W, C) in `encoding`."""
        little = np.ascontiguousarray(pixels).astype(pixels.dtype.newbyteorder('<'), copy=False)
        return self._types[_IMAGE](
            header=self._header(stamp_ns, CAMERA_FRAME),
            height=pixels.shape[0],
            width=pixels.shape[1],
            encoding=encoding,
            is_bigendian=0,
            step=little.strides[0],
            data=little.reshape(-1).view(np.uint8),
        )

    def transform(self, stamp_ns: int, parent: str, child: str, pose: Float64Array) -> Any:
        """Make a tf2_msgs/TFMessage of one pose (4, 4)."""
        vector, quaternion = 'geometry_msgs/msg/Vector3', 'geometry_msgs/msg/Quaternion'
        moved = self._types['geometry_msgs/msg/Transform'](
            translation=self._types[vector](*pose[:3, 3].tolist()),
            rotation=self._types[quaternion](*_quaternion(pose[:3, :3])),
        )
        stamped = self._types['geometry_msgs/msg/TransformStamped'](
            header=self._header(stamp_ns, parent), child_frame_id=child, transform=moved
        )
        return self._types[_TF](transforms=[stamped])

    def camera_info(self, stamp_ns: int) -> Any:
        """Make a sensor_msgs/CameraInfo of a camera without distortion."""
        return self._types['sensor_msgs/msg/CameraInfo'](
            header=self._header(stamp_ns, CAMERA_FRAME),
            height=self._size_hw[0],
            width=self._size_hw[1],
            distortion_model='plumb_bob',
            d=np.zeros(5),
            k=self._k.reshape(-1),
            r=np.eye(3).reshape(-1),
            p=np.hstack([self._k, np.zeros((3, 1))]).reshape(-1),
            binning_x=0,
            binning_y=0,
            roi=self._types['sensor_msgs/msg/RegionOfInterest'](
                x_offset=0, y_offset=0, height=0, width=0, do_rectify=False
            ),
        )


def _quaternion(rotation: Float64Array) -> tuple[float, float, float, float]:
    """Return x, y, z, w of a rotation matrix (3, 3)."""
    xx, yy, zz = np.diag(rotation).tolist()

    def part(squared: float, sign: float = 1.0) -> float:
        return math.copysign(math.sqrt(max(0.0, squared)) / 2.0, sign)

    return (
        part(1.0 + xx - yy - zz, rotation[2, 1] - rotation[1, 2]),
        part(1.0 - xx + yy - zz, rotation[0, 2] - rotation[2, 0]),
        part(1.0 - xx - yy + zz, rotation[1, 0] - rotation[0, 1]),
        part(1.0 + xx + yy + zz),
    )
