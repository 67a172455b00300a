"""ROS image messages to numpy arrays and back; depth has its own file, `depth`.

Decoding is duck-typed: a message is anything with the fields of sensor_msgs/Image or
CompressedImage, so rclpy's messages (`data` is an array.array) and those of rosbags (`data` is a
numpy array) both work. ROS types are imported only where a message is built.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
import json
import sys
from typing import Any, ParamSpec, TypeVar

import cv2
import numpy as np
import numpy.typing as npt

from desertmind_seg.decoding.image_bytes import (
    Note,
    decode_color,
    decode_unchanged,
    note_dull_16_bits,
)
from desertmind_seg.decoding.image_header import TOPIC_LIMITS, DecodeError
from desertmind_seg.decoding.zstd_image import unpack_zstd
from desertmind_seg.messages.compressed_format import ZSTD, CompressedColors, CompressedFormat
from desertmind_seg.model.errors import DesertmindError, one_line
from desertmind_seg.model.ontology import UNLABELED, Ontology

UInt8 = npt.NDArray[np.uint8]


class MessageError(DesertmindError):
    """A message cannot be decoded; says which field is wrong, its value and what was expected."""


P = ParamSpec('P')
T = TypeVar('T')


def message_decoder(decode: Callable[P, T]) -> Callable[P, T]:
    """Make every failure of a decoder a MessageError, which costs one frame and not the node.

    What is known to be wrong with messages is told before, in words. This is for the rest, such as
    memory that runs out or an array that OpenCV does not like.
    """

    @wraps(decode)
    def refusing(*arguments: P.args, **options: P.kwargs) -> T:
        try:
            return decode(*arguments, **options)
        except DesertmindError:
            raise
        except Exception as err:
            raise MessageError(f'The message does not decode: {one_line(err)}') from err

    return refusing


# ROS names a mosaic by its first two pixels in each of its first two rows; OpenCV's names start at
# the second row's second pixel, so ROS's rggb is OpenCV's BG.
_BAYER = {
    'bayer_rggb': cv2.COLOR_BayerBG2RGB,
    'bayer_bggr': cv2.COLOR_BayerRG2RGB,
    'bayer_gbrg': cv2.COLOR_BayerGR2RGB,
    'bayer_grbg': cv2.COLOR_BayerGB2RGB,
}
# Interleaved formats: channels, and the OpenCV conversion to RGB (None: it is RGB already).
_INTERLEAVED: dict[str, tuple[int, int | None]] = {
    'rgb': (3, None),
    'bgr': (3, cv2.COLOR_BGR2RGB),
    'rgba': (4, cv2.COLOR_RGBA2RGB),
    'bgra': (4, cv2.COLOR_BGRA2RGB),
    'mono': (1, cv2.COLOR_GRAY2RGB),
    **{kind: (1, conversion) for kind, conversion in _BAYER.items()},
}
# Two pixels in four bytes. 'yuv422' is U Y V Y, in ROS and in OpenCV BT.601 with 16..235.
_PACKED_422: dict[str, int] = {
    'yuv422': cv2.COLOR_YUV2RGB_UYVY,
    'uyvy': cv2.COLOR_YUV2RGB_UYVY,
    'yuv422_yuy2': cv2.COLOR_YUV2RGB_YUY2,
    'yuyv': cv2.COLOR_YUV2RGB_YUY2,
}
# A plane of Y and, half as high and in the same step, a plane of alternating U and V.
_SEMI_PLANAR_420: dict[str, int] = {
    'nv12': cv2.COLOR_YUV2RGB_NV12,
    'nv21': cv2.COLOR_YUV2RGB_NV21,
}
# Encoding -> kind, bytes of a value, channels, conversion.
_INTERLEAVED_ENCODINGS = {
    f'{kind}{8 * value_bytes}': (kind, value_bytes, channels, conversion)
    for kind, (channels, conversion) in _INTERLEAVED.items()
    for value_bytes in (1, 2)
}
# What cv_bridge calls arrays of OpenCV that nobody gave a name, and how RViz shows them. 16UC1 is
# not among them: that is how depth travels.
_INTERLEAVED_ENCODINGS |= {
    f'{8 * value_bytes}UC{channels}': _INTERLEAVED_ENCODINGS[f'{kind}{8 * value_bytes}']
    for channels, kind in ((1, 'mono'), (3, 'bgr'), (4, 'bgra'))
    for value_bytes in (1, 2)
    if (channels, value_bytes) != (1, 2)
}
SUPPORTED_ENCODINGS = (*_INTERLEAVED_ENCODINGS, *_PACKED_422, *_SEMI_PLANAR_420)
# Types of messages that people take for images or depth, and what to do.
_VIDEO = 'Its messages are parts of a video: decode it to sensor_msgs/msg/Image before.'
_OTHER_TYPES = {
    'stereo_msgs/msg/DisparityImage': (
        "Disparity is not depth: take the driver's depth image, or publish focal length x "
        'baseline / disparity, in metres as 32FC1.'
    ),
    'sensor_msgs/msg/PointCloud2': (
        "Points are no image: for depth let rtabmap_util's pointcloud_to_depthimage project them "
        'into the camera (docs/formats.md).'
    ),
    'ffmpeg_image_transport_msgs/msg/FFMPEGPacket': _VIDEO,
    'theora_image_transport/msg/Packet': _VIDEO,
    'foxglove_msgs/msg/CompressedVideo': _VIDEO,
    'foxglove.CompressedVideo': _VIDEO,
}
_LABEL_BYTES = {'mono8': 1, '8UC1': 1, 'mono16': 2, '16UC1': 2}


def nanoseconds(stamp: Any) -> int:
    """Return a builtin_interfaces/Time as nanoseconds."""
    return int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)


def advice_for_type(message_type: str) -> str:
    """Return what to do about a topic that is no sensor_msgs/Image; '' where that is not known."""
    return _OTHER_TYPES.get(message_type, '')


@message_decoder
def decode_image(message: Any, note: Note | None = None) -> UInt8:
    """Decode a sensor_msgs/Image to RGB.

    16-bit encodings keep the high byte of each value. Colour mosaics are interpolated bilinearly;
    their outermost pixels are copies of their neighbours.

    Args:
        message: any with the fields of one.
        note: told what is odd.

    Returns:
        (H, W, 3) uint8, C-contiguous. For unpadded rgb8 it is the message's own memory, so it is
        valid as long as the message is not changed, and read-only where the message's data are.

    Raises:
        MessageError: unknown encoding (the supported ones are listed), zero size, `step` too small
            for the width, data shorter than step x rows, or a size the encoding cannot have.
    """
    encoding = message.encoding
    if encoding in _INTERLEAVED_ENCODINGS:
        kind, value_bytes, channels, conversion = _INTERLEAVED_ENCODINGS[encoding]
        pixels = _pixels(message, channels, value_bytes)
        if kind in _BAYER:
            rgb = _demosaic(pixels, kind)
        else:
            converted = pixels if conversion is None else cv2.cvtColor(pixels, conversion)
            rgb = np.ascontiguousarray(converted, np.uint8)
        if value_bytes == 2 and note is not None:
            note_dull_16_bits(rgb, note)
        return rgb
    if encoding in _PACKED_422:
        return _decode_packed_422(message, _PACKED_422[encoding])
    if encoding in _SEMI_PLANAR_420:
        return _decode_semi_planar_420(message, _SEMI_PLANAR_420[encoding])
    if encoding in ('16UC1', '32FC1'):
        raise MessageError(
            f'Image has encoding {encoding!r}, which is depth; expected colour or grey: '
            'choose the topic of the colour images.'
        )
    raise MessageError(
        f'Unknown image encoding {encoding[:60]!r}; supported are '
        f'{", ".join(SUPPORTED_ENCODINGS)}. Set the driver to one of them.'
    )


@message_decoder
def decode_compressed_image(
    message: Any, colors: CompressedColors = 'auto', note: Note | None = None
) -> UInt8:
    """Decode a sensor_msgs/CompressedImage (JPEG, PNG, TIFF, or a raw image in zstd) to RGB.

    16-bit images keep the high byte, alpha is dropped, grey becomes RGB, EXIF rotation is ignored
    (the camera's calibration belongs to the pixels as they are stored). Damage inside a JPEG that
    leaves its structure whole cannot be told from picture content and is decoded.

    `format` is 'SOURCE; CODEC compressed STORED', or a part of it. Where STORED is missing, a
    source of bayer_* is a mosaic that was compressed as it is, and is interpolated as in
    `decode_image`.

    Args:
        message: any with the fields `format` and `data`.
        colors: 'auto' exchanges red and blue where the sender says that it stored them so:
            docs/formats.md tells who does. The others overrule what `format` says.
        note: told what is odd.

    Returns:
        (H, W, 3) uint8, C-contiguous.

    Raises:
        MessageError: empty, truncated or corrupt data, or a format that holds no colour image.
    """
    said = CompressedFormat.of(message.format)
    if said.codec.startswith('compressedDepth'):
        raise MessageError(
            f'Compressed image of format {message.format[:60]!r} holds depth; expected a colour '
            'image. Subscribe to the topic that ends in /compressed, not in /compressedDepth.'
        )
    content = bytes(message.data)
    try:
        if said.mosaic:
            pixels = decode_unchanged(content, TOPIC_LIMITS)
            if pixels.ndim == 2:
                values = pixels >> 8 if pixels.dtype == np.uint16 else pixels
                kind = said.mosaic.rstrip('0123456789')
                rgb = _demosaic(values.astype(np.uint8, copy=False), kind)
                if pixels.dtype == np.uint16 and note is not None:
                    note_dull_16_bits(rgb, note)
                return rgb
        if message.format == ZSTD:
            rgb = decode_image(unpack_zstd(content, TOPIC_LIMITS), note)
        else:
            rgb = decode_color(content, TOPIC_LIMITS, note=note)
    except DecodeError as err:
        raise MessageError(f'Compressed image of format {message.format[:60]!r}: {err}.') from err
    if colors == 'exchanged' or (colors == 'auto' and said.exchanged):
        return np.ascontiguousarray(rgb[..., ::-1])
    return rgb


@message_decoder
def decode_labels(message: Any) -> npt.NDArray[np.uint8] | npt.NDArray[np.uint16]:
    """Decode a sensor_msgs/Image of class ids or raw codes: mono8, 8UC1, mono16 or 16UC1.

    Returns:
        (H, W) uint8, or uint16 in the machine's byte order.

    Raises:
        MessageError: another encoding, or a malformed message as in `decode_image`.
    """
    if message.encoding not in _LABEL_BYTES:
        raise MessageError(
            f'Label image has encoding {message.encoding[:60]!r}; expected '
            f'{", ".join(_LABEL_BYTES)}.'
        )
    if _LABEL_BYTES[message.encoding] == 1:
        return np.ascontiguousarray(image_rows(message, message.width, message.height))
    rows = np.ascontiguousarray(image_rows(message, 2 * message.width, message.height))
    stored = rows.view('>u2' if message.is_bigendian else '<u2')
    return stored.astype(np.uint16, copy=False)


def _describe(message: Any) -> str:
    return (
        f'{message.encoding} image of {message.width} x {message.height} pixels (width x height)'
    )


def image_rows(message: Any, row_bytes: int, num_rows: int) -> UInt8:
    """Return the bytes of each row without its padding, (num_rows, row_bytes), as a view."""
    if message.width == 0 or message.height == 0:
        raise MessageError(f'{_describe(message)} is empty; expected at least one pixel.')
    step = message.step
    if step < row_bytes:
        raise MessageError(
            f'{_describe(message)} has step {step}; expected at least {row_bytes} bytes a row.'
        )
    data = np.frombuffer(message.data, np.uint8)
    if data.size < step * num_rows:
        raise MessageError(
            f'{_describe(message)} is truncated: it has {data.size} bytes of data; expected '
            f'{step * num_rows}, which is {num_rows} rows of step {step}.'
        )
    return data[: step * num_rows].reshape(num_rows, step)[:, :row_bytes]


def _pixels(message: Any, channels: int, value_bytes: int) -> UInt8:
    """Return the high bytes of interleaved pixels: (H, W, channels), (H, W) for one channel."""
    rows = image_rows(message, message.width * channels * value_bytes, message.height)
    if value_bytes == 2:
        rows = np.ascontiguousarray(rows[:, 0 if message.is_bigendian else 1 :: 2])
    if channels == 1:
        return rows
    return rows.reshape(message.height, message.width, channels)


def _demosaic(values: UInt8, kind: str) -> UInt8:
    """Interpolate the colours of a mosaic (H, W), named 'bayer_' and its first four pixels."""
    if kind not in _BAYER or min(values.shape) < 3:
        raise MessageError(
            f'{kind} image of {values.shape[1]} x {values.shape[0]} pixels (width x height): a '
            'colour mosaic is at least 3 x 3 pixels, and bayer_rggb, _bggr, _gbrg or _grbg'
        )
    return np.ascontiguousarray(cv2.cvtColor(values, _BAYER[kind]), np.uint8)


def _decode_packed_422(message: Any, conversion: int) -> UInt8:
    # An odd width is possible only where the row's padding holds the rest of its last pair.
    pairs = (message.width + 1) // 2
    if message.width % 2 and 2 * message.width <= message.step < 4 * pairs:
        raise MessageError(
            f'{_describe(message)} has step {message.step}: two pixels share their colour, so an '
            f'odd width needs a step of at least {4 * pairs} bytes, or make the width even.'
        )
    rows = image_rows(message, 4 * pairs, message.height)
    rgb = cv2.cvtColor(rows.reshape(message.height, 2 * pairs, 2), conversion)
    return np.ascontiguousarray(rgb[:, : message.width], np.uint8)


def _decode_semi_planar_420(message: Any, conversion: int) -> UInt8:
    width, height = message.width, message.height
    even_width, color_rows = width + width % 2, (height + 1) // 2
    if width % 2 and message.step == width:
        raise MessageError(
            f'{_describe(message)} has step {width}: two pixels share their colour, so an odd '
            f'width needs a step of at least {even_width} bytes, or make the width even.'
        )
    planes = image_rows(message, even_width, height + color_rows)
    # OpenCV wants even sizes: the row that is missing under an odd height is cropped again.
    luma = planes[:height] if height % 2 == 0 else planes[: height + 1]
    color = planes[height:].reshape(color_rows, even_width // 2, 2)
    rgb = cv2.cvtColorTwoPlane(np.ascontiguousarray(luma), np.ascontiguousarray(color), conversion)
    return np.ascontiguousarray(rgb[:height, :width], np.uint8)


class OutgoingImage:
    """A sensor_msgs/Image that is filled again for each frame, in the same memory.

    A fresh message for each frame costs 1.7 ms to fill and publish at 1280x720 mono8, a reused one
    0.75: allocator and kernel have less to do. `publish` copies, so the message may be filled
    again as soon as it returns; one thread at a time.
    """

    def __init__(self, encoding: str) -> None:
        """Make an empty image of encoding 'mono8', 'rgb8' or '32FC1'."""
        from sensor_msgs.msg import Image

        self.encoding = encoding
        self._message = Image(is_bigendian=sys.byteorder == 'big')
        self._message.encoding = encoding
        self._pixels: npt.NDArray[Any] | None = None

    def fill(self, pixels: npt.NDArray[Any], header: Any) -> Any:
        """Copy pixels and refer to the header.

        Args:
            pixels: (H, W) or (H, W, C) uint8; (H, W) float32 for 32FC1.
            header: a std_msgs/Header, which goes out as it is.

        Returns:
            The sensor_msgs/Image; the next call changes it.
        """
        message = self._message
        message.header = header
        if self._pixels is None or self._pixels.shape != pixels.shape:
            # An array.array that numpy looks at cannot change its size: let go first.
            self._pixels = None
            del message.data[:]
            message.data.frombytes(pixels.tobytes())
            self._pixels = np.frombuffer(message.data, pixels.dtype).reshape(pixels.shape)
            message.height, message.width = pixels.shape[:2]
            message.step = pixels.nbytes // message.height
        else:
            np.copyto(self._pixels, pixels)
        return message


def label_info_json(ontology: Ontology, threshold: float = 0.0) -> str:
    """Return what vision_msgs/LabelInfo says, and more, as JSON.

    Args:
        ontology: the class table of the masks.
        threshold: confidence 0..1 below which a pixel is unlabeled.
    """
    return json.dumps(
        {
            'class_map': [
                {
                    'class_id': entry.id,
                    'class_name': entry.name,
                    'color_rgb': entry.color_rgb,
                    'group': entry.group,
                    'cost': entry.cost,
                }
                for entry in ontology.classes
            ],
            'threshold': threshold,
            'unlabeled': UNLABELED,
            'ontology': ontology.name,
            'ontology_sha256': ontology.sha256,
        }
    )


LabelInfoBuilder = Callable[[Ontology, float], Any]


def label_info_type() -> tuple[type[Any], LabelInfoBuilder]:
    """Return the message type of ~/label_info and the function that fills it.

    vision_msgs/LabelInfo where vision_msgs is installed (apt has it, PyPI does not), else
    std_msgs/String with `label_info_json`.
    """
    try:
        from vision_msgs.msg import LabelInfo, VisionClass
    except ModuleNotFoundError:
        from std_msgs.msg import String

        return String, lambda ontology, threshold: String(
            data=label_info_json(ontology, threshold)
        )

    def build(ontology: Ontology, threshold: float) -> Any:
        return LabelInfo(
            class_map=[
                VisionClass(class_id=entry.id, class_name=entry.name) for entry in ontology.classes
            ],
            threshold=threshold,
        )

    return LabelInfo, build
