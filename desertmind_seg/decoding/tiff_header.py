"""The first image of a TIFF: its size, and whether decoding it takes no more than it seems to."""

from __future__ import annotations

import struct

# Tags; the first two say what an image is of another: a reduced one, a page, its mask.
_SUBFILE, _OLD_SUBFILE = 254, 255
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 256, 257, 258, 259, 262
_SAMPLES, _TILE_WIDTH, _TILE_HEIGHT = 277, 322, 323
_READ = {
    *(_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC),
    *(_SAMPLES, _TILE_WIDTH, _TILE_HEIGHT),
}
# An image pyramid has some ten.
_MAX_DIRECTORIES = 100
# Scanners and GeoTIFF write some 60 tags.
_MAX_TAGS = 500
# Type -> struct character of what a tag's values are: byte, 16 and 32 bits.
_TYPES = {1: 'B', 3: 'H', 4: 'I'}
# None, LZW, deflate under both its numbers, PackBits. The others wrap a codec with limits of its
# own (JPEG, WebP, ZSTD, LZMA), or are for fax machines.
_COMPRESSIONS = {1, 5, 8, 32946, 32773}
# Grey (white or black is 0), RGB, palette.
_PHOTOMETRICS = {0, 1, 2, 3}
# A decoder holds one whole tile, or one strip, which is not larger than the image; tiles of 16
# pixels make it start 32,000 times for 3840 x 2160.
_MIN_TILE_SIDE, _MAX_TILE_SIDE = 64, 1024


def read_tiff(content: bytes) -> tuple[int, int, int]:
    """Return width and height of the first image in pixels, and the bits of a value.

    Raises:
        ValueError: the directory is damaged, or the image is of a kind that is not decoded.
        struct.error: it is cut off.
    """
    order = '<' if content.startswith(b'II') else '>'
    if (
        content[2:4] not in (b'*\0', b'\0*')
        or struct.unpack_from(f'{order}H', content, 2)[0] != 42
    ):
        raise ValueError('BigTIFF; expected classic TIFF')
    (begin,) = struct.unpack_from(f'{order}I', content, 4)
    (num_entries,) = struct.unpack_from(f'{order}H', content, begin)
    if num_entries > _MAX_TAGS:
        raise ValueError(f'{num_entries} tags; expected at most {_MAX_TAGS}')
    tags: dict[int, tuple[int, ...]] = {}
    for entry in range(begin + 2, begin + 2 + 12 * num_entries, 12):
        tag, kind, count = struct.unpack_from(f'{order}HHI', content, entry)
        if tag not in _READ:
            continue
        if tag in tags or kind not in _TYPES or not 1 <= count <= 4:
            raise ValueError(f'tag {tag} is given twice, or has type {kind} and {count} values')
        values = struct.Struct(f'{order}{count}{_TYPES[kind]}')
        at = entry + 8
        if values.size > 4:
            (at,) = struct.unpack_from(f'{order}I', content, at)
        tags[tag] = values.unpack_from(content, at)

    def one_of(tag: int, allowed: set[int], what: str) -> int:
        value = tags.get(tag, (1,))[0]
        if value not in allowed:
            listed = ', '.join(map(str, sorted(allowed)))
            raise ValueError(f'{what} {value}; expected {listed}')
        return value

    samples = one_of(_SAMPLES, {1, 2, 3, 4}, 'samples a pixel')
    # 32 bits: depth in metres.
    bits = one_of(_BITS, {1, 4, 8, 16, 32} if samples == 1 else {8, 16}, 'bits a sample')
    if set(tags.get(_BITS, ())) - {bits}:
        raise ValueError(f'samples of {tags[_BITS]} bits; expected the same for all')
    one_of(_COMPRESSION, _COMPRESSIONS, 'compression')
    one_of(_PHOTOMETRIC, _PHOTOMETRICS, 'photometric interpretation')
    for tag in (_TILE_WIDTH, _TILE_HEIGHT):
        if tag in tags and not _MIN_TILE_SIDE <= tags[tag][0] <= _MAX_TILE_SIDE:
            raise ValueError(
                f'tiles of {tags[tag][0]} pixels; expected {_MIN_TILE_SIDE} to {_MAX_TILE_SIDE}'
            )
    if _WIDTH not in tags or _HEIGHT not in tags:
        raise ValueError('no size')
    return tags[_WIDTH][0], tags[_HEIGHT][0], bits


def has_pages(content: bytes) -> bool:
    """Whether a TIFF that `read_tiff` read has further images; decoders show the first.

    The same image smaller, as in pyramids and beside thumbnails, and masks are none. What is no
    directory ends the search: some leave other numbers where there is no more.
    """
    order = '<' if content.startswith(b'II') else '>'
    (at,) = struct.unpack_from(f'{order}I', content, 4)
    first: tuple[int, int] | None = None
    seen = {0}
    while at not in seen and len(seen) <= _MAX_DIRECTORIES:
        seen.add(at)
        try:
            (num_entries,) = struct.unpack_from(f'{order}H', content, at)
            end = at + 2 + 12 * num_entries
            values = {}
            for tag, kind, _, value in struct.iter_unpack(f'{order}HHI4s', content[at + 2 : end]):
                if kind in (3, 4):  # 16 bits stand at the left
                    (values[tag],) = struct.unpack_from(f'{order}{_TYPES[kind]}', value)
            (at,) = struct.unpack_from(f'{order}I', content, end)
        except struct.error:
            return False
        if num_entries > _MAX_TAGS or _WIDTH not in values or _HEIGHT not in values:
            return False
        size = values[_WIDTH], values[_HEIGHT]
        is_other = values.get(_SUBFILE, 0) & 5 or values.get(_OLD_SUBFILE) == 2
        # Thumbnails often do not say so.
        if first and not is_other and (2 * size[0] > first[0] or 2 * size[1] > first[1]):
            return True
        first = first or size
    return len(seen) > _MAX_DIRECTORIES
