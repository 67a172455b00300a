"""Depth messages to metres, by numbers and bytes worked out by hand."""

from __future__ import annotations

import array
import struct
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from rvl_encoder import rvl_encode, rvl_nibbles
from zstd_packer import PACKERS, zstd_message

from desertmind_seg.messages.depth import (
    at_image_size,
    decode_compressed_depth,
    decode_depth,
    doubt_of,
)
from desertmind_seg.messages.images import MessageError
from desertmind_seg.model.arrays import Depth

MILLIMETRES = np.array([[0, 1, 500], [1000, 4321, 65535]], np.uint16)
METRES = np.array([[0.0, 0.001, 0.5], [1.0, 4.321, 0.0]], np.float32)


def raw(pixels: np.ndarray, kind: str, padding: int = 0, **changes: Any) -> SimpleNamespace:
    """Make a sensor_msgs/Image whose rows end in `padding` bytes of noise."""
    height, width = pixels.shape
    rows = np.ascontiguousarray(pixels).view(np.uint8).reshape(height, -1)
    padded = np.pad(rows, ((0, 0), (0, padding)), constant_values=0x7F)
    fields = {
        'encoding': kind,
        'height': height,
        'width': width,
        'step': padded.shape[1],
        'is_bigendian': int(pixels.dtype.byteorder == '>'),
        'data': padded.reshape(-1),
        **changes,
    }
    return SimpleNamespace(**fields)


def compressed(
    body: bytes, message_format: str, quantization: tuple[float, float] = (0.0, 0.0), kind: int = 0
) -> SimpleNamespace:
    """Make the CompressedImage of compressed_depth_image_transport."""
    data = struct.pack('<iff', kind, *quantization) + body
    return SimpleNamespace(format=message_format, data=array.array('B', data))


def png(image: np.ndarray) -> bytes:
    _, encoded = cv2.imencode('.png', image)
    return encoded.tobytes()


def holed_depth(size_hw: tuple[int, int] = (480, 640), seed: int = 0) -> np.ndarray:
    """A slope with noise, a box on it, blotches of missing depth and single missing pixels."""
    generator = np.random.default_rng(seed)
    height, width = size_hw
    depth = np.linspace(9000, 700, height)[:, None] + generator.normal(0, 6, size_hw)
    depth[height // 3 : height // 2, width // 2 :] = 2300
    coarse = generator.random((height // 16 + 1, width // 16 + 1)) < 0.16
    depth[np.kron(coarse, np.ones((16, 16), bool))[:height, :width]] = 0
    depth[generator.random(size_hw) < 0.01] = 0
    return depth.astype(np.uint16)


@pytest.mark.parametrize('padding', [0, 1, 6])
@pytest.mark.parametrize('byte_order', ['<', '>'])
def test_millimetres(byte_order: str, padding: int) -> None:
    depth = decode_depth(raw(MILLIMETRES.astype(f'{byte_order}u2'), '16UC1', padding))
    assert depth.dtype == np.float32
    assert depth.flags.c_contiguous
    np.testing.assert_array_equal(depth, METRES)


def test_only_the_greatest_of_16_bits_is_missing() -> None:
    depth = decode_depth(raw(np.array([[65533, 65534, 65535]], np.uint16), '16UC1'))
    np.testing.assert_array_equal(depth, np.array([[65.533, 65.534, 0.0]], np.float32))


@pytest.mark.parametrize('padding', [0, 1, 8])
@pytest.mark.parametrize('byte_order', ['<', '>'])
def test_metres_follow_rep_117(byte_order: str, padding: int) -> None:
    stored = np.array([[np.nan, -np.inf, np.inf, -1.5], [0.0, 1.0, 0.25, 12.5]], f'{byte_order}f4')
    stored.view(f'{byte_order}u4')[1, 1] = 0x7FA00000  # a signalling NaN
    depth = decode_depth(raw(stored, '32FC1', padding))
    assert depth.dtype == np.dtype('=f4')
    assert depth.flags.c_contiguous
    np.testing.assert_array_equal(depth, [[0, 0, np.inf, 0], [0, 0, 0.25, 12.5]])


def test_the_message_stays_as_it_is() -> None:
    stored = np.array([[np.nan, 2.0]], np.float32)
    message = raw(stored, '32FC1')
    message.data.flags.writeable = False
    decode_depth(message)[:] = 9.0
    np.testing.assert_array_equal(message.data.view(np.float32), [np.nan, 2.0])


@pytest.mark.parametrize(
    ('changes', 'match'),
    [
        ({'encoding': '8UC1'}, "encoding '8UC1'; expected 32FC1"),
        ({'encoding': 'mono8'}, "encoding 'mono8'"),
        ({'encoding': ''}, "encoding ''"),
        ({'encoding': '32FC1'}, 'step 6; expected at least 12 bytes a row'),
        ({'width': 0, 'step': 0}, 'is empty'),
        ({'height': 0}, 'is empty'),
        ({'step': 5}, 'step 5; expected at least 6'),
        ({'height': 3}, 'truncated: it has 12 bytes of data; expected 18'),
        ({'data': np.zeros(11, np.uint8)}, 'truncated: it has 11 bytes'),
    ],
)
def test_malformed_raw_depth_is_refused(changes: dict[str, Any], match: str) -> None:
    with pytest.raises(MessageError, match=match):
        decode_depth(raw(MILLIMETRES, '16UC1', **changes))


@pytest.mark.parametrize(
    ('message_format', 'encode'),
    [
        ('16UC1; compressedDepth', png),
        ('16UC1; compressedDepth png', png),
        ('16UC1;compressedDepth png ', png),
        ('16UC1; compressedDepth rvl', rvl_encode),
    ],
)
def test_compressed_millimetres(message_format: str, encode: Any) -> None:
    # The transport does not fill the header in for 16UC1: whatever it holds changes nothing.
    message = compressed(encode(MILLIMETRES), message_format, (float('nan'), 7.0), kind=1234)
    depth = decode_compressed_depth(message)
    assert depth.dtype == np.float32
    np.testing.assert_array_equal(depth, METRES)


def test_the_transport_s_header_may_be_missing_before_millimetres_alone() -> None:
    message = SimpleNamespace(format='16UC1; compressedDepth png', data=png(MILLIMETRES))
    np.testing.assert_array_equal(decode_compressed_depth(message), METRES)
    message.format = '32FC1; compressedDepth png'
    with pytest.raises(MessageError, match='begins with its PNG; expected 12 bytes before it'):
        decode_compressed_depth(message)


@pytest.mark.parametrize('extension', ['.png', '.tiff'])
@pytest.mark.parametrize('encoding', ['16UC1', 'mono16'])
def test_millimetres_through_plain_compressed(encoding: str, extension: str) -> None:
    _, data = cv2.imencode(extension, MILLIMETRES)
    for words in (f'{encoding}; {extension[1:]} compressed ', f'{encoding}; {extension[1:]}'):
        message = SimpleNamespace(format=words, data=data.tobytes())
        np.testing.assert_array_equal(decode_compressed_depth(message), METRES)


def test_metres_through_plain_compressed() -> None:
    stored = np.array([[np.nan, -np.inf, np.inf], [0.0, 0.25, 12.5]], np.float32)
    _, data = cv2.imencode('.tiff', stored)
    message = SimpleNamespace(format='32FC1; tiff compressed ', data=data.tobytes())
    depth = decode_compressed_depth(message)
    np.testing.assert_array_equal(depth, [[0, 0, np.inf], [0, 0.25, 12.5]])
    message = SimpleNamespace(format='32FC1; png compressed ', data=png(MILLIMETRES))
    with pytest.raises(MessageError, match='32-bit floats, which TIFF can hold and PNG cannot'):
        decode_compressed_depth(message)


@pytest.mark.parametrize('packer', PACKERS)
def test_depth_in_zstd_is_the_raw_one(packer: str) -> None:
    metres = np.array([[np.nan, -np.inf, np.inf], [0.0, 0.25, 12.5]], np.float32)
    for message in (raw(metres, '32FC1', padding=2), raw(MILLIMETRES, '16UC1')):
        packed = zstd_message(message, PACKERS[packer])
        np.testing.assert_array_equal(decode_compressed_depth(packed), decode_depth(message))


def test_mono16_is_millimetres() -> None:
    np.testing.assert_array_equal(decode_depth(raw(MILLIMETRES, 'mono16')), METRES)
    message = compressed(png(MILLIMETRES), 'mono16; compressedDepth png')
    np.testing.assert_array_equal(decode_compressed_depth(message), METRES)


@pytest.mark.parametrize('codec', ['png', 'rvl'])
def test_compressed_metres_by_hand(codec: str) -> None:
    # The transport's defaults, depth_quantization 100 and depth_max 10 m: a = 100 * 101,
    # b = 1 - a / 10. At 2 m the code is int(10100 / 2 - 1009) = 4041, and 10100 / 5050 = 2.
    quantization = (10100.0, -1009.0)
    codes = np.array([[0, 1, 4041], [9091, 65534, 65535]], np.uint16)
    body = png(codes) if codec == 'png' else rvl_encode(codes)
    depth = decode_compressed_depth(
        compressed(body, f'32FC1; compressedDepth {codec}', quantization)
    )
    assert depth.dtype == np.float32
    expected = [[0.0, 10.0, 2.0], [1.0, 10100 / 66543, 0.0]]
    np.testing.assert_allclose(depth, expected, rtol=1e-6)


@pytest.mark.parametrize(('b', 'code'), [(-1009.0, 64527), (-251.5, 65285)])
def test_what_is_too_near_is_missing_in_compressed_metres(b: float, code: int) -> None:
    # -Inf, as of ZED cameras and Gazebo. With depth_max 10 and 40 m the transport computes
    # 10100 / -Inf + b, of which x86 makes 65536 - 1009 and 65536 - 251. The next code is a depth.
    codes = np.array([[code, code - 1]], np.uint16)
    message = compressed(png(codes), '32FC1; compressedDepth png', (10100.0, b))
    expected = [[0.0, 10100 / (code - 1 - b)]]
    np.testing.assert_allclose(decode_compressed_depth(message), expected, rtol=1e-6)


def test_compressed_metres_without_limit_go_to_infinity() -> None:
    codes = np.array([[1, 2]], np.uint16)
    message = compressed(png(codes), '32FC1; compressedDepth', (10100.0, 1.0))
    np.testing.assert_array_equal(decode_compressed_depth(message), [[np.inf, 10100.0]])


@pytest.mark.parametrize(
    'quantization', [(0.0, 0.0), (-1.0, 0.5), (np.nan, 0.0), (1.0, -np.inf), (1.0, 1.5)]
)
def test_impossible_quantization_is_refused(quantization: tuple[float, float]) -> None:
    message = compressed(png(MILLIMETRES), '32FC1; compressedDepth png', quantization)
    with pytest.raises(MessageError, match='quantization parameters a = '):
        decode_compressed_depth(message)


@pytest.mark.parametrize(
    'message_format',
    [
        '',
        '16UC1',
        '16UC1; jpeg compressed ',
        'jpeg',
        '8UC1; compressedDepth',
        '16UC1; compressedDepth zstd',
    ],
)
def test_other_formats_are_refused(message_format: str) -> None:
    with pytest.raises(MessageError, match=r'ends in /compressedDepth'):
        decode_compressed_depth(compressed(png(MILLIMETRES), message_format))


@pytest.mark.parametrize(
    ('message_format', 'body', 'kind', 'match'),
    [
        ('16UC1; compressedDepth', b'', 0, 'has 12 bytes; expected a header of 12'),
        ('32FC1; compressedDepth', png(MILLIMETRES), -1, 'compression -1 in its header'),
        ('16UC1; compressedDepth', png(MILLIMETRES)[:-20], 0, 'its PNG .* is truncated'),
        ('16UC1; compressedDepth', b'no picture', 0, 'begins with the bytes 6e 6f 20 70'),
        ('16UC1; compressedDepth', png(MILLIMETRES.astype(np.uint8)), 0, 'type uint8'),
        ('16UC1; compressedDepth', png(np.zeros((2, 2, 3), np.uint16)), 0, r'shape \(2, 2, 3\)'),
        ('16UC1; compressedDepth rvl', bytes(7), 0, 'it has 7 bytes; expected 8'),
        ('16UC1; compressedDepth rvl', bytes(8), 0, 'it claims 0 x 0 pixels'),
        ('16UC1; compressedDepth rvl', b'\xff' * 12, 0, 'it claims 4294967295 x 4294967295'),
        ('16UC1; compressedDepth rvl', rvl_encode(MILLIMETRES)[:-1], 0, 'words of 4'),
        (
            '16UC1; compressedDepth rvl',
            rvl_encode(MILLIMETRES)[:-4],
            0,
            'it ends within the last 5',
        ),
        ('16UC1; compressedDepth rvl', rvl_encode(MILLIMETRES)[:8], 0, 'after 0 of 6 pixels'),
    ],
)
def test_malformed_compressed_depth_is_refused(
    message_format: str, body: bytes, kind: int, match: str
) -> None:
    with pytest.raises(MessageError, match=match):
        decode_compressed_depth(compressed(body, message_format, (10100.0, -1009.0), kind))


def rvl_message(width: int, height: int, *words: int) -> SimpleNamespace:
    return compressed(
        struct.pack(f'<II{len(words)}I', width, height, *words), '16UC1; compressedDepth rvl'
    )


def test_rvl_by_hand() -> None:
    # 0 0 7 5 0 9 in nibbles: 2 zeros, 2 values, +7 = 14 = 6|8 1, -2 = 3; 1 zero, 1 value,
    # +4 = 8 = 0|8 1. Hence 2 2 e 1 3 1 1 8, then 1 and seven nibbles of padding.
    depth = decode_compressed_depth(rvl_message(3, 2, 0x22E13118, 0x10000000))
    np.testing.assert_array_equal(depth, np.array([[0, 0, 7], [5, 0, 9]], np.float32) / 1000)
    assert rvl_encode(np.array([[0, 0, 7], [5, 0, 9]], np.uint16))[8:] == bytes.fromhex(
        '1831e12200000010'
    )
    assert rvl_nibbles(42) == [0b1010, 0b0101]  # the paper's example


@pytest.mark.parametrize(
    ('words', 'match'),
    [
        ((0x23E13111, 0x11000000), 'its runs cover'),  # 3 values where 2 are left
        ((0x70000000,), 'its runs cover 7 pixels; expected 6'),
        ((0x60000000, 0x00000001), 'data follow after its 6 pixels'),
        ((0x22131110, 0x00000000), 'its values go from -4 to -1; expected 1 to 65535'),
        ((0xFFFFFFFF, 0xF0000000), 'more than 9 nibbles'),
        ((0xFFFFFFFF,), 'it ends after 0 of 6 pixels'),
        ((0x00000000,), 'it ends after 0 of 6 pixels'),
    ],
)
def test_bad_rvl_streams_are_refused(words: tuple[int, ...], match: str) -> None:
    with pytest.raises(MessageError, match=match):
        decode_compressed_depth(rvl_message(3, 2, *words))


@pytest.mark.parametrize(
    'image',
    [
        np.zeros((3, 5), np.uint16),
        np.full((3, 5), 65535, np.uint16),
        np.array([[1, 65535, 1, 0, 65535]], np.uint16),
        np.eye(7, dtype=np.uint16),
        holed_depth((97, 131)),
    ],
)
def test_rvl_round_trip(image: np.ndarray) -> None:
    message = compressed(rvl_encode(image), '16UC1; compressedDepth rvl')
    np.testing.assert_array_equal(
        decode_compressed_depth(message),
        np.where(image < 65535, image, 0).astype(np.float32) / np.float32(1000),
    )


@pytest.mark.parametrize('codec', ['png', 'rvl'])
def test_damage_is_refused_or_decodes_to_the_size(codec: str) -> None:
    generator = np.random.default_rng(3)
    image = holed_depth((24, 32))
    body = rvl_encode(image) if codec == 'rvl' else png(image)
    refused = 0
    for _ in range(60):
        damaged = bytearray(body)
        damaged[generator.integers(8 if codec == 'rvl' else 0, len(body))] ^= int(
            generator.integers(1, 256)
        )
        cut = len(body) if generator.random() < 0.5 else int(generator.integers(len(body)))
        message = compressed(bytes(damaged[:cut]), f'16UC1; compressedDepth {codec}')
        try:
            depth = decode_compressed_depth(message)
        except MessageError:
            refused += 1
        else:
            assert depth.shape == image.shape
            assert np.isfinite(depth).all()
            assert (depth >= 0).all()
    assert refused > 30


def test_nearest_pixel_by_hand() -> None:
    depth: Depth = np.array([[1.0, 2.0, 0.0], [np.inf, 4.0, 5.0]], np.float32)
    doubled = at_image_size(depth, (4, 6))
    assert doubled.dtype == np.float32
    np.testing.assert_array_equal(doubled, np.kron(depth > 0, np.ones((2, 2))) * doubled)
    np.testing.assert_array_equal(
        doubled,
        [
            [1, 1, 2, 2, 0, 0],
            [1, 1, 2, 2, 0, 0],
            [np.inf, np.inf, 4, 4, 5, 5],
            [np.inf, np.inf, 4, 4, 5, 5],
        ],
    )
    # Each third pixel of each third row, from the centre of its 3 x 3 block.
    large = np.arange(54, dtype=np.float32).reshape(6, 9)
    np.testing.assert_array_equal(at_image_size(large, (2, 3)), large[1::3, 1::3])
    assert at_image_size(depth, (2, 3)) is depth


def test_resampling_makes_up_no_value() -> None:
    depth = holed_depth((60, 80)).astype(np.float32)
    for size_hw in ((720, 960), (45, 60), (73, 97)):
        resized = at_image_size(depth, size_hw)
        assert resized.shape == size_hw
        assert set(np.unique(resized)) <= set(np.unique(depth))


@pytest.mark.parametrize(
    ('depth_hw', 'image_hw'), [((480, 848), (360, 640)), ((480, 640), (720, 1280))]
)
def test_another_aspect_ratio_is_refused(
    depth_hw: tuple[int, int], image_hw: tuple[int, int]
) -> None:
    with pytest.raises(MessageError, match='another aspect ratio'):
        at_image_size(np.zeros(depth_hw, np.float32), image_hw)


@pytest.mark.parametrize('beyond', [2.0, np.inf])
def test_some_depth_beyond_a_metre_is_no_other_unit(beyond: float) -> None:
    depth = np.full((80, 80), 0.5, np.float32)
    depth[:8] = beyond
    assert doubt_of(depth) == ''
    assert doubt_of(np.zeros_like(depth)) == ''
    assert doubt_of(np.full_like(depth, np.inf)) == ''


def test_the_sky_of_a_simulator_is_no_other_unit() -> None:
    depth = np.full((80, 80), 65504.0, np.float32)  # AirSim
    depth[60:] = np.linspace(30.0, 3.0, 80)
    assert doubt_of(depth) == ''
    depth[60:] *= 1000.0
    assert 'look like millimetres' in doubt_of(depth)
