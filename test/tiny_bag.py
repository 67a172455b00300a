"""Small recorded drives for the tests, in every storage that `desertmind_seg.bags` reads.

The scene is made of an ontology's colours, so that the tiny bundle segments it nearly right, and
differs from frame to frame; it is neither square nor symmetric.
"""

from dataclasses import dataclass, field
from pathlib import Path
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
from rosbags.rosbag1 import Writer as Rosbag1Writer
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from desertmind_seg.model.ontology import Ontology, load_ontology

IMAGE_TOPIC = '/camera/color/image_raw'
COMPRESSED_TOPIC = '/camera/color/image_raw/compressed'
LABEL_TOPIC = '/labels/ycor_8'
DEPTH_TOPIC = '/camera/aligned_depth_to_color/image_raw'
COMPRESSED_DEPTH_TOPIC = f'{DEPTH_TOPIC}/compressedDepth'
INFO_TOPIC = '/camera/color/camera_info'
FRAME_ID = 'camera_color_optical_frame'
START_NS = 1_700_000_000_123_456_789


@dataclass(frozen=True)
class DepthShot:
    """One depth message; times after the start of the drive.

    Attributes:
        millimetres: (h, w) uint16; 0 is missing.
        log_ms: when it was recorded; 3 ms after its stamp by default.
        frame_id: of its header.
        changes: fields of its Image message to overwrite.
    """

    stamp_ms: float
    millimetres: npt.NDArray[np.uint16]
    log_ms: float | None = None
    frame_id: str = FRAME_ID
    changes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TinyDrive:
    """What to record.

    Attributes:
        size_hw: of the frames.
        rate_hz: frames in a second.
        padding: bytes after each row of the image topic.
        log_delay_ns: how much later than its stamp a message was recorded.
        label_every: one label image for so many frames; 0 for no labels.
        record_ontology: put the ontology's hash into the bag's metadata.
        broken: frame number -> fields of its Image message to overwrite.
        offered: QoS recorded for the image topic; none by default.
        focal_px: of CameraInfo, whose principal point is the centre; 0 is not calibrated.
        depth: what DEPTH_TOPIC (16UC1) and COMPRESSED_DEPTH_TOPIC (its PNG) hold.
    """

    num_frames: int = 6
    size_hw: tuple[int, int] = (66, 90)
    rate_hz: float = 10.0
    padding: int = 0
    log_delay_ns: int = 3_000_000
    label_every: int = 1
    ontology: Ontology = field(default_factory=lambda: load_ontology('ycor-8'))
    record_ontology: bool = True
    broken: dict[int, dict[str, Any]] = field(default_factory=dict)
    broken_labels: dict[int, dict[str, Any]] = field(default_factory=dict)
    offered: tuple[Qos, ...] = ()
    focal_px: float = 0.0
    depth: tuple[DepthShot, ...] = ()

    def stamp_ns(self, index: int) -> int:
        return START_NS + round(index * 1e9 / self.rate_hz)

    def labels(self, index: int) -> npt.NDArray[np.uint8]:
        """Class ids (H, W) uint8: slanted bands that move, unlabelled in one corner."""
        height, width = self.size_hw
        rows, columns = np.mgrid[:height, :width]
        bands = (2 * rows + columns + 7 * index) // 24
        labels = (bands % self.ontology.num_classes).astype(np.uint8)
        labels[:8, :12] = 255
        return labels

    def rgb(self, index: int) -> npt.NDArray[np.uint8]:
        rgb: npt.NDArray[np.uint8] = self.ontology.colors_rgb[self.labels(index)]
        return rgb


def offered_qos(*, reliable: bool, transient_local: bool, depth: int = 5) -> Qos:
    unlimited = QosTime(9223372036, 854775807)
    return Qos(
        QosHistory.KEEP_LAST,
        depth,
        QosReliability.RELIABLE if reliable else QosReliability.BEST_EFFORT,
        QosDurability.TRANSIENT_LOCAL if transient_local else QosDurability.VOLATILE,
        unlimited,
        unlimited,
        QosLiveliness.AUTOMATIC,
        unlimited,
        avoid_ros_namespace_conventions=False,
    )


def write_drive(path: Path, drive: TinyDrive, storage: str = 'mcap') -> Path:
    """Record the drive at `path`; storage is 'mcap', 'sqlite3' or 'ros1'."""
    ros1 = storage == 'ros1'
    store = get_typestore(Stores.ROS1_NOETIC if ros1 else Stores.ROS2_KILTED)
    types = store.types

    def header_at(stamp_ns: int, frame_id: str) -> Any:
        sec, nanosec = divmod(stamp_ns, 1_000_000_000)
        stamp = types['builtin_interfaces/msg/Time'](sec=sec, nanosec=nanosec)
        extra = {'seq': 0} if ros1 else {}
        return types['std_msgs/msg/Header'](stamp=stamp, frame_id=frame_id, **extra)

    def header(index: int) -> Any:
        return header_at(drive.stamp_ns(index), FRAME_ID)

    def image(index: int, pixels: npt.NDArray[np.uint8], padding: int, **changes: Any) -> Any:
        height, width = pixels.shape[:2]
        rows = np.ascontiguousarray(pixels).reshape(height, -1)
        padded = np.pad(rows, ((0, 0), (0, padding)), constant_values=0xA5)
        fields = {
            'header': header(index),
            'height': height,
            'width': width,
            'encoding': 'mono8' if pixels.ndim == 2 else 'rgb8',
            'is_bigendian': 0,
            'step': padded.shape[1],
            'data': padded.reshape(-1),
            **changes,
        }
        return types['sensor_msgs/msg/Image'](**fields)

    def compressed(index: int) -> Any:
        bgr = cv2.cvtColor(drive.rgb(index), cv2.COLOR_RGB2BGR)
        _, data = cv2.imencode('.png', bgr)
        return types['sensor_msgs/msg/CompressedImage'](
            header=header(index), format='rgb8; png compressed bgr8', data=data.reshape(-1)
        )

    def camera_info(index: int) -> Any:
        height, width = drive.size_hw
        matrix = np.zeros(9)
        if drive.focal_px:
            matrix[[0, 2, 4, 5, 8]] = drive.focal_px, width / 2, drive.focal_px, height / 2, 1.0
        upper = {'D': np.zeros(5), 'K': matrix, 'R': np.zeros(9), 'P': np.zeros(12)}
        roi = types['sensor_msgs/msg/RegionOfInterest'](0, 0, 0, 0, False)
        return types['sensor_msgs/msg/CameraInfo'](
            header=header(index),
            height=height,
            width=width,
            distortion_model='plumb_bob',
            binning_x=0,
            binning_y=0,
            roi=roi,
            **(upper if ros1 else {name.lower(): value for name, value in upper.items()}),
        )

    records: list[tuple[int, str, str, Any]] = []
    for index in range(drive.num_frames):
        log_time_ns = drive.stamp_ns(index) + drive.log_delay_ns
        frame = image(index, drive.rgb(index), drive.padding, **drive.broken.get(index, {}))
        records.append((log_time_ns, INFO_TOPIC, 'sensor_msgs/msg/CameraInfo', camera_info(index)))
        records.append((log_time_ns, IMAGE_TOPIC, 'sensor_msgs/msg/Image', frame))
        records.append(
            (log_time_ns, COMPRESSED_TOPIC, 'sensor_msgs/msg/CompressedImage', compressed(index))
        )
        if drive.label_every and index % drive.label_every == 0:
            changes = drive.broken_labels.get(index, {})
            labels = image(index, drive.labels(index), 0, **changes)
            records.append((log_time_ns + 1, LABEL_TOPIC, 'sensor_msgs/msg/Image', labels))

    for shot in drive.depth:
        stamp_ns = START_NS + round(shot.stamp_ms * 1e6)
        log_ms = shot.stamp_ms + 3 if shot.log_ms is None else shot.log_ms
        log_time_ns = START_NS + round(log_ms * 1e6)
        head = header_at(stamp_ns, shot.frame_id)
        height, width = shot.millimetres.shape
        raw = types['sensor_msgs/msg/Image'](
            **{
                'header': head,
                'height': height,
                'width': width,
                'encoding': '16UC1',
                'is_bigendian': 0,
                'step': 2 * width,
                'data': shot.millimetres.astype('<u2').reshape(-1).view(np.uint8),
                **shot.changes,
            }
        )
        records.append((log_time_ns, DEPTH_TOPIC, 'sensor_msgs/msg/Image', raw))
        _, encoded = cv2.imencode('.png', shot.millimetres)
        png = types['sensor_msgs/msg/CompressedImage'](
            header=head,
            format='16UC1; compressedDepth png',
            data=np.concatenate([np.zeros(12, np.uint8), encoded.reshape(-1)]),
        )
        kind = 'sensor_msgs/msg/CompressedImage'
        records.append((log_time_ns, COMPRESSED_DEPTH_TOPIC, kind, png))
    records.sort(key=lambda record: record[0])

    if ros1:
        with Rosbag1Writer(path) as writer1:
            connections1 = {}
            for log_time_ns, topic, msgtype, message in records:
                if topic not in connections1:
                    connections1[topic] = writer1.add_connection(topic, msgtype, typestore=store)
                data = store.serialize_ros1(message, msgtype)
                writer1.write(connections1[topic], log_time_ns, data)
        return path

    plugin = StoragePlugin.MCAP if storage == 'mcap' else StoragePlugin.SQLITE3
    with Writer(path, version=8, storage_plugin=plugin) as writer:
        if drive.record_ontology:
            writer.set_custom_data(f'desertmind_seg.ontology/{LABEL_TOPIC}', drive.ontology.sha256)
        connections = {}
        for log_time_ns, topic, msgtype, message in records:
            if topic not in connections:
                connections[topic] = writer.add_connection(
                    topic,
                    msgtype,
                    typestore=store,
                    offered_qos_profiles=drive.offered if topic == IMAGE_TOPIC else (),
                )
            data = store.serialize_cdr(message, msgtype)
            writer.write(connections[topic], log_time_ns, data)
    return path
