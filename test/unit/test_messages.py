"""Image messages to RGB and back, by numbers worked out apart from the code under test."""

from __future__ import annotations

import array
import json
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from sensor_msgs.msg import Image
from std_msgs.msg import Header, String
from zstd_packer import PACKERS, zstd_message

from desertmind_seg.messages.images import (
    SUPPORTED_ENCODINGS,
    MessageError,
    OutgoingImage,
    decode_compressed_image,
    decode_image,
    decode_labels,
    label_info_json,
    label_info_type,
)
from desertmind_seg.model.ontology import load_ontology

COLOR = (200, 100, 30)
PATCH = (20, 60, 240)


def scene(height: int, width: int) -> np.ndarray:
    """Draw a picture that no flip, transposition or exchange of channels leaves as it is."""
    rgb = np.empty((height, width, 3), np.uint8)
    rgb[:] = COLOR
    rgb[height // 2 :, : width // 3] = PATCH
    return rgb


def image_message(
    encoding: str,
    height: int,
    width: int,
    rows: np.ndarray,
    padding: int = 0,
    is_bigendian: int = 0,
) -> SimpleNamespace:
    """Build a message from the bytes of its rows, each followed by `padding` bytes of 0xAA."""
    padded = np.pad(rows, ((0, 0), (0, padding)), constant_values=0xAA)
    return SimpleNamespace(
        height=height,
        width=width,
        encoding=encoding,
        is_bigendian=is_bigendian,
        step=padded.shape[1],
        data=array.array('B', padded.tobytes()),
    )


def mosaic_of(rgb: np.ndarray, pattern: str) -> np.ndarray:
    """Keep one channel of each pixel; `pattern` is the top left 2 x 2 pixels, row by row."""
    mosaic = np.empty(rgb.shape[:2], np.uint8)
    for position, letter in enumerate(pattern):
        row, column = divmod(position, 2)
        mosaic[row::2, column::2] = rgb[row::2, column::2, 'rgb'.index(letter)]
    return mosaic


def interleaved_rows(rgb: np.ndarray, kind: str) -> np.ndarray:
    """Return the rows (H, W * channels) of an 8-bit encoding, written out channel by channel."""
    height, width = rgb.shape[:2]
    if kind == 'mono':
        return rgb[:, :, 0]
    if kind.startswith('bayer_'):
        return mosaic_of(rgb, kind.removeprefix('bayer_'))
    alpha = np.full((height, width), 7, np.uint8)
    planes = {'r': rgb[:, :, 0], 'g': rgb[:, :, 1], 'b': rgb[:, :, 2], 'a': alpha}
    return np.stack([planes[letter] for letter in kind], axis=2).reshape(height, -1)


def yuv_of(rgb: tuple[int, int, int]) -> tuple[int, int, int]:
    """ITU-R BT.601 with Y in 16..235, equations of section 2.5."""
    r, g, b = (value / 255 for value in rgb)
    luma = 0.299 * r + 0.587 * g + 0.114 * b
    y = 16 + 219 * luma
    u = 128 + 224 * (b - luma) / (2 * (1 - 0.114))
    v = 128 + 224 * (r - luma) / (2 * (1 - 0.299))
    return round(y), round(u), round(v)


INTERLEAVED = ('rgb', 'bgr', 'rgba', 'bgra', 'mono')
BAYER = ('bayer_rggb', 'bayer_bggr', 'bayer_gbrg', 'bayer_grbg')


@pytest.mark.parametrize('padding', [0, 5])
@pytest.mark.parametrize('size_hw', [(6, 9), (7, 12), (1, 1)])
@pytest.mark.parametrize('kind', INTERLEAVED)
def test_8_bit_interleaved_decodes_exactly(
    kind: str, size_hw: tuple[int, int], padding: int
) -> None:
    rgb = scene(*size_hw)
    message = image_message(f'{kind}8', *size_hw, interleaved_rows(rgb, kind), padding)
    decoded = decode_image(message)
    expected = rgb[:, :, :1].repeat(3, axis=2) if kind == 'mono' else rgb
    np.testing.assert_array_equal(decoded, expected)
    assert decoded.dtype == np.uint8
    assert decoded.flags.c_contiguous


@pytest.mark.parametrize('is_bigendian', [0, 1])
@pytest.mark.parametrize('kind', [*INTERLEAVED, *BAYER])
def test_16_bit_keeps_the_high_byte_in_either_byte_order(kind: str, is_bigendian: int) -> None:
    rgb = scene(8, 9)
    high = interleaved_rows(rgb, kind)
    wide = high.astype(np.uint16) * 256 + 99
    rows = wide.astype('>u2' if is_bigendian else '<u2').view(np.uint8)
    decoded = decode_image(image_message(f'{kind}16', 8, 9, rows, 6, is_bigendian))
    np.testing.assert_array_equal(decoded, decode_image(image_message(f'{kind}8', 8, 9, high)))


@pytest.mark.parametrize('size_hw', [(8, 12), (9, 11)])
@pytest.mark.parametrize('kind', BAYER)
def test_bayer_names_the_first_two_rows(kind: str, size_hw: tuple[int, int]) -> None:
    rgb = scene(*size_hw)
    decoded = decode_image(image_message(f'{kind}8', *size_hw, interleaved_rows(rgb, kind), 3))
    # Inside an area of one colour every interpolation is exact.
    height, width = size_hw
    assert tuple(decoded[1, width - 2]) == COLOR
    assert tuple(decoded[0, 0]) == COLOR
    assert tuple(decoded[height - 1, 0]) == PATCH


@pytest.mark.parametrize(
    ('encoding', 'order'),
    [('yuv422', 'UYVY'), ('uyvy', 'UYVY'), ('yuv422_yuy2', 'YUYV'), ('yuyv', 'YUYV')],
)
@pytest.mark.parametrize(('width', 'padding'), [(12, 0), (12, 8), (9, 0), (9, 3)])
def test_packed_422_decodes(encoding: str, order: str, width: int, padding: int) -> None:
    height, pairs = 5, (width + 1) // 2
    rgb = scene(height, 2 * pairs)
    rows = np.empty((height, 2 * pairs * 2), np.uint8)
    for row in range(height):
        for pair in range(pairs):
            y, u, v = yuv_of(tuple(rgb[row, 2 * pair]))
            values = {'Y': y, 'U': u, 'V': v}
            rows[row, 4 * pair : 4 * pair + 4] = [values[letter] for letter in order]
    rgb[height // 2 :, : 2 * pairs // 3] = PATCH
    decoded = decode_image(image_message(encoding, height, width, rows, padding))
    assert decoded.shape == (height, width, 3)
    np.testing.assert_allclose(decoded[0, -1].astype(int), COLOR, atol=3)
    np.testing.assert_allclose(decoded[-1, 0].astype(int), PATCH, atol=3)
    np.testing.assert_allclose(decoded[0, 0].astype(int), COLOR, atol=3)


@pytest.mark.parametrize('encoding', ['nv12', 'nv21'])
@pytest.mark.parametrize(
    ('size_hw', 'padding'), [((6, 12), 0), ((6, 12), 4), ((7, 12), 0), ((7, 9), 0), ((6, 9), 5)]
)
def test_semi_planar_420_decodes(encoding: str, size_hw: tuple[int, int], padding: int) -> None:
    height, width = size_hw
    even_width, color_rows = width + width % 2, (height + 1) // 2
    luma = np.empty((height, even_width), np.uint8)
    color = np.empty((color_rows, even_width), np.uint8)
    patch_rows, patch_columns = 4, 4
    for area, rgb in (
        ((slice(0, None), slice(0, None)), COLOR),
        ((slice(patch_rows, None), slice(0, patch_columns)), PATCH),
    ):
        y, u, v = yuv_of(rgb)
        rows, columns = area
        luma[rows, columns] = y
        halved = slice((rows.start or 0) // 2, None)
        first, second = (u, v) if encoding == 'nv12' else (v, u)
        color[halved, columns.start : columns.stop : 2] = first
        color[halved, columns.start + 1 : columns.stop : 2] = second
    message = image_message(encoding, height, width, np.vstack([luma, color]), padding)
    decoded = decode_image(message)
    assert decoded.shape == (height, width, 3)
    np.testing.assert_allclose(decoded[0, 0].astype(int), COLOR, atol=3)
    np.testing.assert_allclose(decoded[-1, -1].astype(int), COLOR, atol=3)
    np.testing.assert_allclose(decoded[-1, 0].astype(int), PATCH, atol=3)


# cv_bridge's names for arrays that nobody gave another, and what RViz shows them as.
UNNAMED = {'8UC1': 'mono8', '8UC3': 'bgr8', '8UC4': 'bgra8', '16UC3': 'bgr16', '16UC4': 'bgra16'}


@pytest.mark.parametrize(('encoding', 'named'), UNNAMED.items())
def test_arrays_without_a_name_are_read_as_rviz_reads_them(encoding: str, named: str) -> None:
    rows = interleaved_rows(scene(6, 9), named.rstrip('0123456789'))
    if named.endswith('16'):
        rows = (rows.astype(np.uint16) * 256).view(np.uint8)
    decoded = decode_image(image_message(encoding, 6, 9, rows, 2))
    np.testing.assert_array_equal(decoded, decode_image(image_message(named, 6, 9, rows, 2)))


def test_every_supported_encoding_is_tested_here() -> None:
    tested = {f'{kind}{bits}' for kind in (*INTERLEAVED, *BAYER) for bits in (8, 16)} | {*UNNAMED}
    tested |= {'yuv422', 'uyvy', 'yuv422_yuy2', 'yuyv', 'nv12', 'nv21'}
    assert tested == set(SUPPORTED_ENCODINGS)


def test_unpadded_rgb8_is_not_copied() -> None:
    message = image_message('rgb8', 6, 9, scene(6, 9).reshape(6, -1))
    assert np.shares_memory(decode_image(message), np.frombuffer(message.data, np.uint8))


@pytest.mark.parametrize('kind', ['bytes', 'numpy read-only', 'memoryview'])
def test_any_buffer_of_bytes_will_do(kind: str) -> None:
    rgb = scene(6, 9)
    message = image_message('bgr8', 6, 9, interleaved_rows(rgb, 'bgr'), 2)
    data = message.data.tobytes()
    message.data = {
        'bytes': data,
        'numpy read-only': np.frombuffer(data, np.uint8),
        'memoryview': memoryview(data),
    }[kind]
    np.testing.assert_array_equal(decode_image(message), rgb)


def test_data_beyond_the_last_row_is_ignored() -> None:
    message = image_message('rgb8', 6, 9, scene(6, 9).reshape(6, -1))
    message.data.frombytes(b'trailer')
    np.testing.assert_array_equal(decode_image(message), scene(6, 9))


def change(message: SimpleNamespace, **fields: Any) -> SimpleNamespace:
    return SimpleNamespace(**{**vars(message), **fields})


GOOD = image_message('rgb8', 6, 9, scene(6, 9).reshape(6, -1))


@pytest.mark.parametrize(
    ('message', 'words'),
    [
        (
            change(GOOD, encoding='8UC7'),
            r"Unknown image encoding '8UC7'; supported are rgb8, .*nv21",
        ),
        (change(GOOD, encoding=''), r"Unknown image encoding ''"),
        (change(GOOD, encoding='x' * 5000), r"Unknown image encoding 'x{60}'; supported"),
        (change(GOOD, encoding='RGB8'), r"Unknown image encoding 'RGB8'"),
        (change(GOOD, height=0), r'rgb8 image of 9 x 0 pixels .* is empty'),
        (change(GOOD, width=0), r'rgb8 image of 0 x 6 pixels .* is empty'),
        (change(GOOD, step=26), r'has step 26; expected at least 27 bytes a row'),
        (change(GOOD, step=0), r'has step 0; expected at least 27'),
        (
            change(GOOD, step=28),
            r'is truncated: it has 162 bytes of data; expected 168, .* 6 rows',
        ),
        (
            change(GOOD, data=GOOD.data[:-1]),
            r'is truncated: it has 161 bytes of data; expected 162',
        ),
        (change(GOOD, data=array.array('B')), r'is truncated: it has 0 bytes'),
        (change(GOOD, encoding='rgb16'), r'has step 27; expected at least 54'),
        (
            change(GOOD, encoding='yuv422', width=13, step=27, height=2),
            r'has step 27: two pixels share their colour, so an odd width needs .* 28 bytes',
        ),
        (change(GOOD, encoding='yuyv', width=13, step=20), r'has step 20; expected at least 28'),
        (
            change(GOOD, encoding='nv12', width=27, step=27, height=4),
            r'has step 27: two pixels share their colour, so an odd width needs .* 28 bytes',
        ),
        (
            change(GOOD, encoding='nv12', width=26, height=6),
            r'is truncated: it has 162 bytes of data; expected 243, which is 9 rows',
        ),
        (change(GOOD, encoding='bayer_rggb8', width=2), r'a colour mosaic is at least 3 x 3'),
    ],
)
def test_malformed_image_is_refused_in_words(message: SimpleNamespace, words: str) -> None:
    with pytest.raises(MessageError, match=words):
        decode_image(message)


def test_whatever_fails_is_a_message_error() -> None:
    with pytest.raises(MessageError, match=r'The message does not decode: .*encoding'):
        decode_image(SimpleNamespace())
    with pytest.raises(MessageError, match=r'The message does not decode: .*byte'):
        decode_compressed_image(SimpleNamespace(format='jpeg', data=[300]))


def test_no_combination_of_fields_gets_past_the_checks() -> None:
    """Whatever the fields say, decoding gives an image of their size or a MessageError."""
    rng = np.random.default_rng(2)
    outcomes = {'decoded': 0, 'refused': 0}
    for _ in range(4000):
        width, height = (int(size) for size in rng.integers(0, 12, 2))
        message = SimpleNamespace(
            width=width,
            height=height,
            step=int(rng.integers(0, 60)),
            encoding=str(rng.choice(SUPPORTED_ENCODINGS)),
            is_bigendian=int(rng.integers(0, 2)),
            data=rng.integers(0, 256, rng.integers(0, 700), dtype=np.uint8),
        )
        try:
            decoded = decode_image(message)
        except MessageError:
            outcomes['refused'] += 1
        else:
            assert decoded.shape == (height, width, 3)
            assert decoded.dtype == np.uint8
            outcomes['decoded'] += 1
    assert min(outcomes.values()) > 500


def compressed(extension: str, bgr: np.ndarray, message_format: str) -> SimpleNamespace:
    encoded, data = cv2.imencode(extension, bgr)
    assert encoded
    return SimpleNamespace(format=message_format, data=array.array('B', data.tobytes()))


@pytest.mark.parametrize(
    'message_format', ['png', 'bgr8; png compressed bgr8', 'rgb8; png compressed bgr8', '']
)
def test_png_decodes_exactly(message_format: str) -> None:
    rgb = scene(32, 49)
    decoded = decode_compressed_image(compressed('.png', rgb[:, :, ::-1], message_format))
    np.testing.assert_array_equal(decoded, rgb)
    assert decoded.flags.c_contiguous


def test_jpeg_decodes() -> None:
    rgb = scene(32, 48)
    decoded = decode_compressed_image(compressed('.jpg', rgb[:, :, ::-1], 'jpeg'))
    np.testing.assert_allclose(decoded[2, 2].astype(int), COLOR, atol=4)
    np.testing.assert_allclose(decoded[30, 2].astype(int), PATCH, atol=12)


# What image_transport's plugins, drivers and scripts write for colour, and whether an array in the
# order red, green, blue was handed to an encoder that takes blue, green, red.
FORMATS = {
    ('.png', 'rgb8; png compressed bgr8'): False,  # image_transport, both ROS
    ('.jpg', 'rgb8; jpeg compressed bgr8'): False,
    ('.jpg', 'bgra8; jpeg compressed bgr8'): False,
    ('.jpg', 'yuv422_yuy2; jpeg compressed bgr8'): False,
    ('.jpg', 'jpeg'): False,  # gscam, usb_cam, Foxglove
    ('.jpg', 'rgb8; jpeg compressed'): False,  # drivers that pass the camera's own JPEG through
    ('.jpg', 'rgb8; jpeg compressed '): False,
    ('.jpg', 'rgb8; jpeg'): False,
    ('.jpg', 'rgb8;jpeg'): False,
    ('.png', 'rgb8; png'): False,
    ('.png', 'bgr8; png compressed '): False,
    ('.png', '8UC3; png compressed '): False,
    ('.png', 'rgb8; png compressed rgb8'): True,
    ('.jpg', 'rgb8; jpeg compressed rgb8'): True,
    ('.tiff', 'rgb8; tiff compressed '): True,  # image_transport of ROS 2 converts nothing here
    ('.tiff', 'rgba8; tiff compressed '): True,
    ('.tiff', 'bgr8; tiff compressed '): False,
}


@pytest.mark.parametrize(('extension', 'message_format'), FORMATS)
def test_colours_of_compressed_images(extension: str, message_format: str) -> None:
    rgb = scene(32, 48)
    exchanged = FORMATS[extension, message_format]
    handed_over = np.ascontiguousarray(rgb if exchanged else rgb[..., ::-1])
    if 'a8; tiff' in message_format:
        handed_over = np.dstack([handed_over, np.full((32, 48), 255, np.uint8)])
    message = compressed(extension, handed_over, message_format)
    decoded = decode_compressed_image(message)
    np.testing.assert_allclose(decoded[2, 2].astype(int), COLOR, atol=4)
    np.testing.assert_allclose(decoded[30, 2].astype(int), PATCH, atol=12)
    as_stored = decode_compressed_image(message, 'as_stored')
    np.testing.assert_array_equal(as_stored, decoded[..., ::-1] if exchanged else decoded)
    other = decode_compressed_image(message, 'exchanged')
    np.testing.assert_array_equal(other, as_stored[..., ::-1])
    assert decoded.flags.c_contiguous
    assert other.flags.c_contiguous


@pytest.mark.parametrize('bits', [8, 16])
@pytest.mark.parametrize('kind', BAYER)
def test_a_compressed_mosaic_has_the_colours_of_the_raw_one(kind: str, bits: int) -> None:
    mosaic = interleaved_rows(scene(32, 48), kind)
    expected = decode_image(image_message(f'{kind}8', 32, 48, mosaic))
    wide = mosaic.astype(np.uint16) * 256 + 99 if bits == 16 else mosaic
    for extension in ('.png', '.tiff'):
        message_format = f'{kind}{bits}; {extension[1:]} compressed '
        decoded = decode_compressed_image(compressed(extension, wide, message_format))
        np.testing.assert_array_equal(decoded, expected)
    # ROS 1; and as FLIR's driver names it.
    for stored in ('', f'{kind}8'):
        message = compressed('.jpg', mosaic, f'{kind}8; jpeg compressed {stored}')
        decoded = decode_compressed_image(message).astype(int)
        np.testing.assert_allclose(decoded[3, 40], COLOR, atol=25)


def test_a_mosaic_that_image_transport_made_grey_or_colour_is_none() -> None:
    rgb = scene(32, 48)
    grey = compressed('.jpg', rgb[:, :, 0], 'bayer_rggb8; jpeg compressed mono8')  # ROS 2
    decoded = decode_compressed_image(grey)
    np.testing.assert_array_equal(decoded[..., 0], decoded[..., 2])
    for message_format in ('bayer_rggb8; png compressed bgr8', 'bayer_rggb8; png compressed'):
        message = compressed('.png', rgb[..., ::-1], message_format)
        np.testing.assert_array_equal(decode_compressed_image(message), rgb)


def test_an_impossible_mosaic_is_refused() -> None:
    for message_format, size in (('bayer_xyzw8; png compressed', 8), ('bayer_rggb8; png', 2)):
        message = compressed('.png', np.zeros((size, size), np.uint8), message_format)
        with pytest.raises(MessageError, match='a colour mosaic is at least 3 x 3'):
            decode_compressed_image(message)


def test_compressed_16_bit_and_grey_and_alpha_become_rgb() -> None:
    rgb = scene(8, 9)
    wide = rgb[:, :, ::-1].astype(np.uint16) * 256 + 99
    np.testing.assert_array_equal(decode_compressed_image(compressed('.png', wide, 'png')), rgb)
    grey = decode_compressed_image(compressed('.png', rgb[:, :, 0], 'mono8; png compressed mono8'))
    np.testing.assert_array_equal(grey, rgb[:, :, :1].repeat(3, axis=2))
    bgra = np.dstack([rgb[:, :, ::-1], np.full((8, 9), 3, np.uint8)])
    np.testing.assert_array_equal(decode_compressed_image(compressed('.png', bgra, 'png')), rgb)


@pytest.mark.parametrize('packer', PACKERS)
@pytest.mark.parametrize('encoding', ['rgb8', 'bgr16', 'nv12', 'bayer_rggb8'])
def test_an_image_in_zstd_is_the_raw_one(encoding: str, packer: str) -> None:
    rows = np.random.default_rng(3).integers(0, 256, (12, 48), np.uint8)
    raw = image_message(encoding, 8, 8, rows, padding=3, is_bigendian=1)
    packed = zstd_message(raw, PACKERS[packer])
    np.testing.assert_array_equal(decode_compressed_image(packed), decode_image(raw))


def test_exif_rotation_is_ignored() -> None:
    rgb = scene(32, 48)
    message = compressed('.jpg', rgb[:, :, ::-1], 'jpeg')
    # APP1 segment with the one tag Orientation (0x0112) = 6, "rotate 90 degrees".
    tiff = (
        b'MM\x00*\x00\x00\x00\x08\x00\x01\x01\x12\x00\x03\x00\x00\x00\x01\x00\x06\x00\x00'
        + bytes(4)
    )
    exif = b'Exif\x00\x00' + tiff
    segment = b'\xff\xe1' + (len(exif) + 2).to_bytes(2, 'big') + exif
    data = message.data.tobytes()
    message.data = data[:2] + segment + data[2:]
    rotated = cv2.imdecode(np.frombuffer(message.data, np.uint8), cv2.IMREAD_COLOR)
    assert rotated.shape[:2] == (48, 32), 'the segment must be one that OpenCV obeys'
    assert decode_compressed_image(message).shape == (32, 48, 3)


@pytest.mark.parametrize('kept', [0.0, 0.3, 0.9])
@pytest.mark.parametrize('extension', ['.jpg', '.png'])
def test_truncated_compressed_image_is_refused(extension: str, kept: float) -> None:
    message = compressed(extension, scene(64, 96), extension)
    message.data = message.data[: int(len(message.data) * kept)]
    with pytest.raises(MessageError, match=r'it is empty|its .* is truncated|it is truncated'):
        decode_compressed_image(message)


def test_foreign_bytes_and_depth_are_refused() -> None:
    with pytest.raises(
        MessageError, match=r'it is no image .*64 65 73 65.*; expected JPEG or PNG or TIFF'
    ):
        decode_compressed_image(SimpleNamespace(format='jpeg', data=b'desert' * 50))
    with pytest.raises(MessageError, match='holds depth; expected a colour image'):
        decode_compressed_image(SimpleNamespace(format='16UC1; compressedDepth', data=b'x'))


@pytest.mark.parametrize('encoding', ['mono8', '8UC1'])
def test_8_bit_labels_decode(encoding: str) -> None:
    ids = np.arange(35, dtype=np.uint8).reshape(5, 7)
    decoded = decode_labels(image_message(encoding, 5, 7, ids, 3))
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, ids)


@pytest.mark.parametrize('is_bigendian', [0, 1])
@pytest.mark.parametrize('encoding', ['mono16', '16UC1'])
def test_16_bit_labels_decode_in_either_byte_order(encoding: str, is_bigendian: int) -> None:
    codes = (np.arange(35, dtype=np.uint16) * 301).reshape(5, 7)
    rows = codes.astype('>u2' if is_bigendian else '<u2').view(np.uint8)
    decoded = decode_labels(image_message(encoding, 5, 7, rows, 4, is_bigendian))
    assert decoded.dtype == np.uint16
    np.testing.assert_array_equal(decoded, codes)


def test_labels_in_colour_are_refused() -> None:
    with pytest.raises(MessageError, match=r"has encoding 'rgb8'; expected mono8, 8UC1, mono16"):
        decode_labels(GOOD)


def test_built_images_decode_to_what_went_in() -> None:
    header = Header(frame_id='camera_color_optical_frame')
    header.stamp.sec, header.stamp.nanosec = 12, 999_999_999
    rgb = scene(6, 9)
    message = OutgoingImage('rgb8').fill(rgb, header)
    assert (message.encoding, message.height, message.width, message.step) == ('rgb8', 6, 9, 27)
    assert message.header == header
    np.testing.assert_array_equal(decode_image(message), rgb)
    ids = np.arange(54, dtype=np.uint8).reshape(6, 9)
    message = OutgoingImage('mono8').fill(ids, header)
    assert (message.encoding, message.height, message.width, message.step) == ('mono8', 6, 9, 9)
    np.testing.assert_array_equal(decode_labels(message), ids)


def test_outgoing_image_follows_frames_of_changing_size() -> None:
    outgoing = OutgoingImage('mono8')
    for height, width in ((4, 5), (4, 5), (7, 3), (5, 4), (2, 10)):
        ids = np.full((height, width), height * width, np.uint8)
        ids[0, 1] = 9
        message = outgoing.fill(ids[::-1], Header(frame_id=f'{height}'))
        assert message.header.frame_id == f'{height}'
        assert (message.height, message.width, message.step) == (height, width, width)
        np.testing.assert_array_equal(decode_labels(message), ids[::-1])


def test_outgoing_image_of_metres() -> None:
    outgoing = OutgoingImage('32FC1')
    for metres in (np.array([[0.5, np.nan, -1.25]], np.float32), np.ones((2, 3), np.float32)):
        message = outgoing.fill(metres, Header(frame_id='optical'))
        assert (message.encoding, message.is_bigendian) == ('32FC1', sys.byteorder == 'big')
        assert (message.height, message.width, message.step) == (*metres.shape, 12)
        np.testing.assert_array_equal(
            np.frombuffer(message.data, np.float32).reshape(metres.shape), metres
        )


def test_label_info_as_json() -> None:
    ontology = load_ontology('ycor-8')
    document = json.loads(label_info_json(ontology, 0.25))
    assert [entry['class_name'] for entry in document['class_map']] == list(ontology.names)
    assert [entry['class_id'] for entry in document['class_map']] == list(range(8))
    assert document['threshold'] == 0.25
    assert document['unlabeled'] == 255
    assert document['ontology_sha256'] == ontology.sha256


def test_label_info_without_vision_msgs_is_a_string(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, 'vision_msgs', None)
    monkeypatch.setitem(sys.modules, 'vision_msgs.msg', None)
    message_type, build = label_info_type()
    assert message_type is String
    ontology = load_ontology('ycor-8')
    assert build(ontology, 0.5).data == label_info_json(ontology, 0.5)


class FakeVisionClass:
    """Has the fields of vision_msgs/VisionClass, which PyPI does not have."""

    def __init__(self, *, class_id: int, class_name: str) -> None:
        self.class_id = class_id
        self.class_name = class_name


class FakeLabelInfo:
    """Has the fields of vision_msgs/LabelInfo, which PyPI does not have."""

    def __init__(self, *, class_map: list[FakeVisionClass], threshold: float) -> None:
        self.class_map = class_map
        self.threshold = threshold


def test_label_info_with_vision_msgs(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = ModuleType('vision_msgs.msg')
    fake.LabelInfo, fake.VisionClass = FakeLabelInfo, FakeVisionClass
    monkeypatch.setitem(sys.modules, 'vision_msgs', ModuleType('vision_msgs'))
    monkeypatch.setitem(sys.modules, 'vision_msgs.msg', fake)
    message_type, build = label_info_type()
    assert message_type is FakeLabelInfo
    ontology = load_ontology('ycor-8')
    message = build(ontology, 0.5)
    assert message.threshold == 0.5
    assert [(entry.class_id, entry.class_name) for entry in message.class_map] == list(
        enumerate(ontology.names)
    )


@pytest.mark.apt_ros('cv_bridge')
def test_conversions_equal_cv_bridge() -> None:
    """Compare with apt's cv_bridge (PyPI's is broken with numpy 2)."""
    cv_bridge = pytest.importorskip('cv_bridge')
    rgb = np.random.default_rng(5).integers(0, 256, (24, 32, 3), np.uint8)
    for kind in (*INTERLEAVED, *BAYER):
        rows = interleaved_rows(rgb, kind)
        message = Image(encoding=f'{kind}8', height=24, width=32, step=rows.shape[1])
        message.data.frombytes(rows.tobytes())
        expected = cv_bridge.CvBridge().imgmsg_to_cv2(message, 'rgb8')
        np.testing.assert_array_equal(decode_image(message), expected, err_msg=kind)
