"""Writes the bags of masks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
from rosbags.interfaces import (
    Connection,
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer, WriterError
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from desertmind_seg.messages.bags import (
    CONFIDENCE_TOPIC,
    IMAGE_TYPE,
    LABEL_INFO_TOPIC,
    LABEL_INFO_TYPE,
    MASK_TOPIC,
    ONTOLOGY_KEY_PREFIX,
    BagError,
)
from desertmind_seg.model.ontology import Ontology

# vision_msgs 4 (ROS 2 Humble and later), which rosbags does not know.
_VISION_CLASS_DEFINITION = 'uint16 class_id\nstring class_name\n'
_LABEL_INFO_DEFINITION = (
    'std_msgs/Header header\nvision_msgs/VisionClass[] class_map\nfloat32 threshold\n'
)


def _recorded_qos(*, latched: bool) -> Qos:
    unlimited = QosTime(9223372036, 854775807)
    return Qos(
        QosHistory.KEEP_LAST,
        1,
        QosReliability.RELIABLE,
        QosDurability.TRANSIENT_LOCAL if latched else QosDurability.VOLATILE,
        unlimited,
        unlimited,
        QosLiveliness.AUTOMATIC,
        unlimited,
        avoid_ros_namespace_conventions=False,
    )


@contextmanager
def mask_writer(
    path: Path, ontology: Ontology, start_ns: int, confidence_threshold: float
) -> Iterator[BagWriter]:
    """Open a `BagWriter` for masks and confidences that says first what the classes are."""
    with BagWriter(path, dict.fromkeys((MASK_TOPIC, CONFIDENCE_TOPIC), ontology.sha256)) as writer:
        writer.write_label_info(LABEL_INFO_TOPIC, start_ns, ontology.names, confidence_threshold)
        yield writer


class BagWriter:
    """Write a new rosbag2 folder in MCAP (chunks compressed by zstd), a context manager.

    Metadata version 8, the newest that ROS 2 Humble still reads. When the with statement is left
    by an exception the folder stays without its index: write inside a folder that is discarded
    then (`reports.output.output_folder`).

    Raises:
        BagError: Something exists at `path` already.
    """

    def __init__(self, path: Path, ontology_sha256: Mapping[str, str]) -> None:
        """Start no file yet; `ontology_sha256` maps mask topics to the hash of their ontology."""
        self._typestore = get_typestore(Stores.ROS2_KILTED)
        for definition, name in (
            (_VISION_CLASS_DEFINITION, 'vision_msgs/msg/VisionClass'),
            (_LABEL_INFO_DEFINITION, LABEL_INFO_TYPE),
        ):
            self._typestore.register(get_types_from_msg(definition, name))
        self._connections: dict[str, Connection] = {}
        try:
            self._writer = Writer(path, version=8, storage_plugin=StoragePlugin.MCAP)
        except WriterError as err:
            raise BagError(
                f'Bag {str(path)!r} exists already; remove it or choose another name.'
            ) from err
        self._writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
        for topic, sha256 in ontology_sha256.items():
            self._writer.set_custom_data(ONTOLOGY_KEY_PREFIX + topic, sha256)

    def __enter__(self) -> BagWriter:
        self._writer.open()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._writer.__exit__(exc_type, exc, traceback)

    def write_raw(
        self,
        topic: str,
        msgtype: str,
        log_time_ns: int,
        cdr: bytes | memoryview,
        *,
        latched: bool = False,
    ) -> None:
        """Append a serialized message; the first one of a topic creates it."""
        connection = self._connections.get(topic)
        if connection is None:
            connection = self._writer.add_connection(
                topic,
                msgtype,
                typestore=self._typestore,
                offered_qos_profiles=[_recorded_qos(latched=latched)],
            )
            self._connections[topic] = connection
        self._writer.write(connection, log_time_ns, cdr)

    def write_mono8(
        self, topic: str, log_time_ns: int, pixels: npt.NDArray[np.uint8], header: Any
    ) -> None:
        """Append a (H, W) uint8 image under the stamp and frame id of `header`."""
        types = self._typestore.types
        height, width = pixels.shape
        image = types[IMAGE_TYPE](
            header=self._header(int(header.stamp.sec), int(header.stamp.nanosec), header.frame_id),
            height=height,
            width=width,
            encoding='mono8',
            is_bigendian=0,
            step=width,
            data=np.ascontiguousarray(pixels).reshape(-1),
        )
        cdr = self._typestore.serialize_cdr(image, IMAGE_TYPE)
        self.write_raw(topic, IMAGE_TYPE, log_time_ns, cdr)

    def write_label_info(
        self, topic: str, log_time_ns: int, class_names: Sequence[str], threshold: float
    ) -> None:
        """Append a latched vision_msgs/LabelInfo: ids are positions in `class_names`.

        Its stamp is `log_time_ns`, its threshold a confidence in [0, 1].
        """
        types = self._typestore.types
        vision_class = types['vision_msgs/msg/VisionClass']
        sec, nanosec = divmod(log_time_ns, 1_000_000_000)
        info = types[LABEL_INFO_TYPE](
            header=self._header(sec, nanosec, ''),
            class_map=[
                vision_class(class_id=class_id, class_name=name)
                for class_id, name in enumerate(class_names)
            ],
            threshold=threshold,
        )
        cdr = self._typestore.serialize_cdr(info, LABEL_INFO_TYPE)
        self.write_raw(topic, LABEL_INFO_TYPE, log_time_ns, cdr, latched=True)

    def _header(self, sec: int, nanosec: int, frame_id: str) -> Any:
        types = self._typestore.types
        stamp = types['builtin_interfaces/msg/Time'](sec=sec, nanosec=nanosec)
        return types['std_msgs/msg/Header'](stamp=stamp, frame_id=frame_id)
