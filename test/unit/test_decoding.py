"""The one room that decodes bytes: what it refuses, how, and at what price."""

import ast
import io
import os
from pathlib import Path
import struct
import subprocess
import sys
import zlib

import cv2
from image_attacks import LARGEST, attacks, heavy, png
import numpy as np
from PIL import Image, ImageOps, PngImagePlugin
import pytest
from zstd_packer import PACKERS

from desertmind_seg.decoding.depth_bytes import decode_depth_image, decode_rvl
from desertmind_seg.decoding.image_bytes import decode_color, decode_unchanged
from desertmind_seg.decoding.image_files import (
    read_color_file,
    read_depth_file,
    read_label_file,
)
from desertmind_seg.decoding.image_header import (
    FILE_LIMITS,
    TOPIC_LIMITS,
    DecodeError,
    checked_image,
)
from desertmind_seg.decoding.zstd_image import unpack_zstd

ROOT = Path(__file__).resolve().parents[2]
ATTACKS = attacks()
RGB = np.random.default_rng(1).integers(0, 256, (48, 64, 3), np.uint8)
# What is written without loss, and by how much the others may differ.
LOSSLESS = ('.png', '.tiff', '.bmp')


def encoded(extension: str, pixels: np.ndarray, *flags: int) -> bytes:
    stored = pixels[..., ::-1] if pixels.ndim == 3 else pixels
    return cv2.imencode(extension, stored, flags)[1].tobytes()


@pytest.mark.parametrize('name', ATTACKS)
def test_what_claims_too_much_is_refused(name: str) -> None:
    for decode in (decode_color, decode_unchanged, decode_depth_image):
        with pytest.raises(DecodeError):
            decode(ATTACKS[name], TOPIC_LIMITS)


@pytest.mark.parametrize('kind', ['TIFF', 'PNG', 'WebP'])
def test_a_file_of_several_images_is_refused(tmp_path: Path, kind: str) -> None:
    first = Image.fromarray(RGB)
    for others in ([Image.fromarray(255 - RGB)], []):
        path = tmp_path / f'{len(others)}.{kind.lower()}'
        first.save(path, kind, save_all=True, append_images=others, lossless=True)
        for read in (read_color_file, *([] if kind == 'WebP' else [read_label_file])):
            if others:
                with pytest.raises(DecodeError, match=f'^it is a {kind} of several images'):
                    read(path)
            else:
                np.testing.assert_array_equal(read(path), RGB)


def test_floats_are_no_picture() -> None:
    content = encoded('.tiff', np.linspace(0, 1, 48 * 64, dtype=np.float32).reshape(48, 64))
    with pytest.raises(DecodeError, match='it is a TIFF of 32 bits a value'):
        decode_color(content, FILE_LIMITS)
    assert decode_unchanged(content, FILE_LIMITS).dtype == np.float32


@pytest.mark.parametrize('behind', [100, 'itself', 1 << 31])
def test_a_tiff_whose_last_directory_points_nowhere_is_one_image(behind: int | str) -> None:
    content = bytearray(encoded('.tiff', RGB))
    begin = int.from_bytes(content[4:8], 'little')
    end = begin + 2 + 12 * int.from_bytes(content[begin : begin + 2], 'little')
    assert content[end : end + 4] == bytes(4)
    content[end : end + 4] = (begin if behind == 'itself' else int(behind)).to_bytes(4, 'little')

    np.testing.assert_array_equal(decode_color(bytes(content), FILE_LIMITS), RGB)


def test_what_shows_the_same_image_again_is_no_other(tmp_path: Path) -> None:
    first, thumbnail = Image.fromarray(RGB), Image.fromarray(RGB[::2, ::2])
    for kind, tags in (
        ('reduced', {254: 1}),
        ('mask', {254: 4}),
        ('old', {255: 2}),
        ('unsaid', {}),
    ):
        thumbnail.encoderinfo = {'tiffinfo': tags}
        path = tmp_path / f'{kind}.tif'
        first.save(path, save_all=True, append_images=[thumbnail])
        with Image.open(path) as image:
            assert image.n_frames == 2
        np.testing.assert_array_equal(read_color_file(path), RGB)
    path = tmp_path / 'phone.jpg'
    first.save(path, 'MPO', save_all=True, append_images=[thumbnail], quality=95)
    assert read_color_file(path).shape == RGB.shape


@pytest.mark.parametrize('part', [np.s_[::3], np.s_[:, ::3]], ids=['lower', 'narrower'])
def test_a_page_that_is_no_smaller_picture_of_the_first_is_another(
    tmp_path: Path, part: tuple[slice, ...]
) -> None:
    path = tmp_path / 'pages.tif'
    other = Image.fromarray(np.ascontiguousarray(RGB[part]))
    Image.fromarray(RGB).save(path, save_all=True, append_images=[other])
    with pytest.raises(DecodeError, match=r'^it is a TIFF of several images'):
        read_color_file(path)


def test_colours_that_a_decoder_would_take_for_others_are_refused() -> None:
    stored = io.BytesIO()
    Image.fromarray(RGB).convert('CMYK').save(stored, 'TIFF')
    with pytest.raises(DecodeError, match='photometric interpretation 5; expected 0, 1, 2, 3'):
        decode_color(stored.getvalue(), FILE_LIMITS)


def test_a_webp_with_more_than_its_pixels_decodes() -> None:
    stored = io.BytesIO()
    exif = Image.Exif()
    exif[0x0110] = 'a camera'
    Image.fromarray(RGB).save(stored, 'WEBP', lossless=True, exif=exif)
    assert stored.getvalue()[12:16] == b'VP8X'
    header, _ = checked_image(stored.getvalue(), FILE_LIMITS)
    assert (header.width, header.height) == (64, 48)
    np.testing.assert_array_equal(decode_color(stored.getvalue(), FILE_LIMITS), RGB)


def test_the_heaviest_messages_take_little_memory(tmp_path: Path) -> None:
    for name, content in {**heavy(), **ATTACKS}.items():
        (tmp_path / name.replace(' ', '_')).write_bytes(content)
    code = """
from pathlib import Path
import resource, sys
from desertmind_seg.decoding.image_bytes import decode_color
from desertmind_seg.decoding.image_header import TOPIC_LIMITS, DecodeError
peak_kb = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sorted(Path(sys.argv[1]).iterdir()):
    content, before = path.read_bytes(), peak_kb()
    try:
        decode_color(content, TOPIC_LIMITS)
    except DecodeError:
        pass
    assert peak_kb() - before < 200_000, path
print('done')
"""
    environment = {**os.environ, 'PYTHONPATH': str(ROOT)}
    command = [sys.executable, '-c', code, str(tmp_path)]
    ran = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)

    assert ran.stdout == 'done\n', ran.stderr


@pytest.mark.parametrize(('name', 'content'), heavy().items())
def test_what_is_within_the_limits_is_decoded(name: str, content: bytes) -> None:
    assert decode_color(content, TOPIC_LIMITS).shape[2] == 3, name


@pytest.mark.parametrize('extension', [*LOSSLESS, '.webp', '.jpg'])
def test_formats_of_files_decode_and_are_refused_when_cut(extension: str) -> None:
    content = encoded(extension, cv2.GaussianBlur(RGB, (0, 0), 3))
    decoded = decode_color(content, FILE_LIMITS)

    assert decoded.flags.c_contiguous
    assert np.abs(decoded.astype(int) - cv2.GaussianBlur(RGB, (0, 0), 3)).mean() < 3
    for share in (0.1, 0.5, 0.9, 0.99):
        with pytest.raises(DecodeError):
            decode_color(content[: int(share * len(content))], FILE_LIMITS)


@pytest.mark.parametrize('extension', LOSSLESS)
def test_pixels_without_loss_come_out_unchanged(extension: str) -> None:
    np.testing.assert_array_equal(decode_color(encoded(extension, RGB), FILE_LIMITS), RGB)
    grey = RGB[..., 0]
    np.testing.assert_array_equal(decode_unchanged(encoded(extension, grey), FILE_LIMITS), grey)


@pytest.mark.parametrize('size', [LARGEST, LARGEST[::-1]])
def test_the_largest_frame_decodes_upright_and_on_its_side(size: tuple[int, int]) -> None:
    frame = np.full((size[1], size[0], 3), 128, np.uint8)
    np.testing.assert_array_equal(decode_color(encoded('.jpg', frame), TOPIC_LIMITS), frame)


def test_progressive_jpeg_of_encoders_decodes() -> None:
    for quality in (10, 50, 95):
        for subsampling in (0, 2):
            stored = io.BytesIO()
            options = {'quality': quality, 'subsampling': subsampling, 'progressive': True}
            Image.fromarray(RGB).save(stored, 'JPEG', **options)
            assert decode_color(stored.getvalue(), TOPIC_LIMITS).shape == RGB.shape


@pytest.mark.parametrize('flags', [(), (cv2.IMWRITE_JPEG_RST_INTERVAL, 3)])
@pytest.mark.parametrize('size_hw', [(48, 64), (41, 67)])
def test_a_jpeg_that_lacks_pixels_before_its_end_is_refused(
    size_hw: tuple[int, int], flags: tuple[int, ...]
) -> None:
    frame = cv2.resize(cv2.GaussianBlur(RGB, (0, 0), 1), size_hw[::-1])
    content = encoded('.jpg', frame, *flags)
    scan = content.index(b'\xff\xda')
    scan += 2 + int.from_bytes(content[scan + 2 : scan + 4], 'big')
    packets = content[scan:-2]
    for share in (0.0, 0.5, 0.9):
        short = content[:scan] + packets[: int(share * len(packets))].rstrip(b'\xff')
        with pytest.raises(DecodeError, match='ends before its last pixel'):
            decode_color(short + b'\xff\xd9', TOPIC_LIMITS)
    frame[-9:, -9:] = frame[:9, :9] = 128
    assert decode_color(encoded('.jpg', frame, *flags), TOPIC_LIMITS).shape == frame.shape


@pytest.mark.parametrize('end', [b'', b'\xff', b'\0' * 1000])
def test_a_jpeg_that_lacks_nothing_but_its_end_marker_is_whole(end: bytes) -> None:
    whole = encoded('.jpg', RGB)
    found = decode_color(whole[:-2] + end, TOPIC_LIMITS)

    np.testing.assert_array_equal(found, decode_color(whole, TOPIC_LIMITS))
    for content in (whole, encoded('.jpg', RGB, cv2.IMWRITE_JPEG_PROGRESSIVE, 1)):
        for share in (0.5, 0.99):
            with pytest.raises(DecodeError, match='truncated or corrupt'):
                decode_color(content[: int(share * len(content))] + end, TOPIC_LIMITS)


def test_zeros_behind_a_jpeg_are_told_from_the_zero_of_its_last_value() -> None:
    rng = np.random.default_rng(1)
    frames = (rng.integers(0, 256, (16, 24, 3), np.uint8) for _ in range(5000))
    whole = next(
        content for frame in frames if (content := encoded('.jpg', frame))[-4:-2] == b'\xff\0'
    )
    for end in (b'', b'\0' * 1000):
        found = decode_color(whole[:-2] + end, TOPIC_LIMITS)
        np.testing.assert_array_equal(found, decode_color(whole, TOPIC_LIMITS))


def test_a_jpeg_that_no_camera_sends_is_named_by_its_process() -> None:
    content = encoded('.jpg', RGB).replace(b'\xff\xc0', b'\xff\xc9', 1)
    with pytest.raises(DecodeError, match='coding process 9; expected baseline or progressive'):
        decode_color(content, TOPIC_LIMITS)


def test_a_flipped_bit_of_a_png_is_found() -> None:
    content = encoded('.png', RGB)
    for at in range(30, len(content) - 12, 997):
        damaged = bytearray(content)
        damaged[at] ^= 4
        with pytest.raises(DecodeError):
            decode_color(bytes(damaged), TOPIC_LIMITS)


def test_a_png_above_256_kb_decodes_as_below() -> None:
    large = np.random.default_rng(2).integers(0, 256, (480, 640, 3), np.uint8)
    content = encoded('.png', large)

    assert len(content) > 1 << 18
    np.testing.assert_array_equal(decode_color(content, TOPIC_LIMITS), large)
    interlaced = png(640, 480, zlib.compress(bytes(1_000_000)))
    with pytest.raises(DecodeError):
        decode_color(interlaced[:-30], TOPIC_LIMITS)


def test_chunks_that_make_no_pixels_do_not_reach_the_decoder() -> None:
    content = heavy()['png with 900 MB of text']
    header, plain = checked_image(content, TOPIC_LIMITS)

    assert (header.width, header.height) == (64, 64)
    assert len(plain) < 1000 < len(content)


def test_a_png_with_a_palette_keeps_it_beside_chunks_that_are_dropped() -> None:
    picture = Image.fromarray(RGB).quantize(200)
    text = PngImagePlugin.PngInfo()
    text.add_text('Software', 'a labelling tool')
    stored = io.BytesIO()
    picture.save(stored, 'PNG', pnginfo=text)

    expected = np.asarray(picture.convert('RGB'))
    np.testing.assert_array_equal(decode_color(stored.getvalue(), TOPIC_LIMITS), expected)


def test_a_size_other_than_the_header_says_is_refused() -> None:
    # A WebP whose canvas is not that of its frame.
    content = bytearray(cv2.imencode('.webp', RGB, [cv2.IMWRITE_WEBP_QUALITY, 101])[1].tobytes())
    assert content[12:16] in (b'VP8L', b'VP8 ')
    canvas = struct.pack('<B3xHBHB', 0, 99, 0, 99, 0)
    extended = b'VP8X' + struct.pack('<I', 10) + canvas
    content[12:12] = extended
    content[4:8] = struct.pack('<I', len(content) - 8)
    with pytest.raises(DecodeError):
        decode_color(bytes(content), FILE_LIMITS)


@pytest.mark.parametrize(
    ('size', 'match'),
    [((0, 5), 'claims 0 x 5'), ((2**32 - 1, 1), 'claims'), ((3840, 2161), 'claims 3840 x 2161')],
)
def test_rvl_that_claims_too_much_is_refused(size: tuple[int, int], match: str) -> None:
    with pytest.raises(DecodeError, match=match):
        decode_rvl(struct.pack('<II', *size) + bytes(64), TOPIC_LIMITS)


def test_no_regular_file_is_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / 'fifo.png')
    (tmp_path / 'folder.png').mkdir()
    (tmp_path / 'zero.png').symlink_to('/dev/zero')
    (tmp_path / 'empty.png').touch()
    for name, match in (
        *(('fifo.png', 'a FIFO, socket or device'), ('folder.png', 'it is a folder')),
        *(('zero.png', 'a FIFO, socket or device'), ('empty.png', 'it is empty')),
    ):
        for read in (read_color_file, read_label_file, read_depth_file):
            with pytest.raises(DecodeError, match=match):
                read(tmp_path / name)


def test_label_files_keep_their_values(tmp_path: Path) -> None:
    codes = np.arange(256, dtype=np.uint8).reshape(16, 16)
    palette = Image.fromarray(codes)
    palette.putpalette(list(range(255, -1, -1)) * 3)
    for stored, expected in (
        (palette, codes),
        (Image.fromarray(codes), codes),
        (Image.fromarray(codes.astype(np.uint16) * 257), codes.astype(np.uint16) * 257),
        (Image.fromarray(np.dstack([codes] * 3)), np.dstack([codes] * 3)),
        (
            Image.fromarray(np.dstack([codes] * 3 + [np.full_like(codes, 255)])),
            np.dstack([codes] * 3),
        ),
        (Image.fromarray(codes > 99), (codes > 99).astype(np.uint8)),
    ):
        stored.save(tmp_path / 'labels.png')
        values = read_label_file(tmp_path / 'labels.png')
        assert values.dtype == expected.dtype
        np.testing.assert_array_equal(values, expected)


def test_label_files_of_other_pixels_are_refused(tmp_path: Path) -> None:
    Image.new('RGBA', (16, 16)).save(tmp_path / 'clear.png')
    with pytest.raises(DecodeError, match='it is RGBA with transparent pixels'):
        read_label_file(tmp_path / 'clear.png')
    assert cv2.imwrite(str(tmp_path / 'deep.png'), np.zeros((16, 16, 3), np.uint16))
    with pytest.raises(DecodeError, match=r'its pixels are RGB;16B .*; expected palette indices'):
        read_label_file(tmp_path / 'deep.png')
    Image.new('L', (16, 16)).save(tmp_path / 'labels.jpg')
    with pytest.raises(DecodeError, match='it is JPEG; expected PNG or TIFF or BMP'):
        read_label_file(tmp_path / 'labels.jpg')


def test_depth_files_keep_their_values(tmp_path: Path) -> None:
    for dtype in (np.uint8, np.uint16):
        steps = np.arange(200, dtype=dtype).reshape(10, 20)
        assert cv2.imwrite(str(tmp_path / 'depth.png'), steps)
        values = read_depth_file(tmp_path / 'depth.png')
        assert values.dtype == dtype
        np.testing.assert_array_equal(values, steps)
    assert cv2.imwrite(str(tmp_path / 'depth.png'), RGB)
    with pytest.raises(DecodeError, match=r'shape \(48, 64, 3\)'):
        read_depth_file(tmp_path / 'depth.png')


@pytest.mark.parametrize('extension', ['.png', '.tiff'])
@pytest.mark.parametrize('channels', [1, 3, 4])
@pytest.mark.parametrize('dtype', [np.uint8, np.uint16])
def test_lossless_files_keep_the_high_byte_and_drop_alpha(
    extension: str, channels: int, dtype: type[np.uint8 | np.uint16]
) -> None:
    values = np.arange(1 << 16, dtype=np.uint16).reshape(256, 256)
    bgra = np.stack([values, values[::-1], values.T, values[:, ::-1]][:channels], axis=-1)
    stored = bgra if dtype == np.uint16 else (bgra >> 8).astype(np.uint8)

    found = decode_color(encoded(extension, stored[..., ::-1].squeeze()), FILE_LIMITS)

    expected = (bgra[..., :3] >> 8)[..., ::-1]
    np.testing.assert_array_equal(found, np.broadcast_to(expected, found.shape))


def test_planes_of_16_bits_are_no_others() -> None:
    # Red, green and blue one after the other, as Pillow does not know of 16 bits.
    planes = (np.arange(3 * 64 * 64, dtype='<u2') * 5).reshape(3, 64, 64)
    entries = [(256, 64), (257, 64), (259, 1), (262, 2), (277, 3), (278, 64), (284, 2)]
    size = planes[0].nbytes
    arrays = {258: (16, 16, 16), 273: (8, 8 + size, 8 + 2 * size), 279: (size,) * 3}
    begin = 8 + planes.nbytes
    at = begin + 2 + 12 * (len(entries) + len(arrays)) + 4
    directory = [struct.pack('<HHII', tag, 4, 1, value) for tag, value in entries]
    directory += [struct.pack('<HHII', tag, 4, 3, at + 12 * n) for n, tag in enumerate(arrays)]
    content = b''.join(
        [
            b'II*\0' + struct.pack('<I', begin) + planes.tobytes(),
            struct.pack('<H', len(directory)) + b''.join(sorted(directory)) + bytes(4),
            *(struct.pack('<3I', *values) for values in arrays.values()),
        ]
    )

    found = decode_color(content, FILE_LIMITS)

    # OpenCV's libtiff rounds to the nearest.
    assert np.abs(np.moveaxis(planes >> 8, 0, -1) - found.astype(int)).max() <= 1


def test_what_pillow_does_not_read_is_named() -> None:
    # Grey of 16 bits with alpha, 64 x 64.
    entries = [(256, 64), (257, 64), (258, 16 << 16 | 16), (259, 1), (262, 1), (273, 8)]
    entries += [(277, 2), (278, 64), (279, 64 * 64 * 4), (338, 2)]
    directory = b''.join(
        struct.pack('<HHII', tag, 3 if tag == 258 else 4, 1 + (tag == 258), value)
        for tag, value in entries
    )
    pixels = bytes(64 * 64 * 4)
    content = b'II*\0' + struct.pack('<I', 8 + len(pixels)) + pixels
    content += struct.pack('<H', len(entries)) + directory + bytes(4)
    with pytest.raises(DecodeError, match='does not read such pixels; save it as PNG'):
        decode_color(content, FILE_LIMITS)


@pytest.mark.parametrize('extension', ['.jpg', '.png', '.webp', '.tif'])
@pytest.mark.parametrize('orientation', range(1, 9))
def test_files_are_upright_as_viewers_show_them(
    tmp_path: Path, extension: str, orientation: int
) -> None:
    path = tmp_path / f'a{extension}'
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {'tiffinfo': {0x0112: orientation}} if extension == '.tif' else {'exif': exif}
    if extension == '.webp':
        options['lossless'] = True
    Image.fromarray(RGB).save(path, **options)
    with Image.open(path) as image:
        expected = np.asarray(ImageOps.exif_transpose(image).convert('RGB')).astype(int)

    found = read_color_file(path)

    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= (4 if extension == '.jpg' else 0)


def test_nobody_else_decodes() -> None:
    decoders = {'imdecode', 'imread', 'imreadmulti', 'imdecodemulti', 'Image.open'}
    found = {
        str(path.relative_to(ROOT)): sorted(calls)
        for half in ('desertmind_seg', 'training')
        for path in (ROOT / half).rglob('*.py')
        if path.parent.name != 'decoding'
        and (
            calls := decoders
            & {
                text
                for node in ast.walk(ast.parse(path.read_text()))
                if isinstance(node, ast.Attribute)
                for text in (node.attr, ast.unparse(node)[-10:])
            }
        )
    }

    assert found == {}


def test_opencv_has_a_wall_of_its_own() -> None:
    def limit(given: str) -> str:
        code = 'import desertmind_seg, os; print(os.environ["OPENCV_IO_MAX_IMAGE_PIXELS"])'
        environment = {**os.environ, 'PYTHONPATH': str(ROOT), 'OPENCV_IO_MAX_IMAGE_PIXELS': given}
        command = [sys.executable, '-c', code]
        return subprocess.run(
            command, capture_output=True, text=True, env=environment, check=True
        ).stdout.strip()

    assert [limit(given) for given in ('', '1000', str(1 << 40))] == [
        *(str(1 << 26), '1000', str(1 << 26))
    ]


def zstd_image(
    packed: bytes, size_hw: tuple[int, int] = (4, 8), step: int = 8, encoding: bytes = b'mono8'
) -> bytes:
    return struct.pack('<IIBII', *size_hw, 0, step, len(encoding)) + encoding + packed


@pytest.mark.parametrize('packer', PACKERS)
def test_zstd_that_is_damaged_or_claims_too_much_is_refused(packer: str) -> None:
    pack = PACKERS[packer]
    whole = zstd_image(pack(bytes(range(32))))
    assert unpack_zstd(whole, TOPIC_LIMITS).data == bytes(range(32))
    for length in range(len(whole)):
        with pytest.raises(DecodeError):
            unpack_zstd(whole[:length], TOPIC_LIMITS)
    bomb = pack(bytes(1 << 24))
    assert len(bomb) < 20_000
    for content, words in (
        (zstd_image(bomb), 'size'),
        (zstd_image(bomb, (4, 8), 1 << 24), 'claims a step of 16777216 bytes for a width of 8'),
        (zstd_image(bomb, (5000, 5000), 5000), 'claims 5000 x 5000 pixels'),
        (zstd_image(pack(bytes(32)), encoding=b'\xff'), 'not of zstd_image_transport'),
        (zstd_image(b'no stream'), 'not of zstd_image_transport'),
    ):
        with pytest.raises(DecodeError, match=words):
            unpack_zstd(content, TOPIC_LIMITS)
