"""A sender whose format string is wrong about its colours is overruled, in bags as in the node."""

from pathlib import Path

import numpy as np
import pytest
from tiny_bag import COMPRESSED_TOPIC, TinyDrive, write_drive

from desertmind_seg.evaluate_bag import main
from desertmind_seg.messages.bags import MASK_TOPIC, Bag, decode_frame
from desertmind_seg.messages.compressed_format import CompressedFormat
from desertmind_seg.messages.images import decode_image


def test_formats_are_taken_apart() -> None:
    for text, parts in {
        'jpeg': ('jpeg', '', ''),
        'rgb8; jpeg compressed bgr8': ('rgb8', 'jpeg', 'bgr8'),
        'bayer_rggb8; png compressed ': ('bayer_rggb8', 'png', ''),
        'rgb8;jpeg': ('rgb8', 'jpeg', ''),
        '16UC1; compressedDepth png': ('16UC1', 'compressedDepth png', ''),
        '': ('', '', ''),
    }.items():
        assert CompressedFormat.of(text) == CompressedFormat(*parts), text


def masks(folder: Path) -> list[np.ndarray]:
    with Bag(folder / 'masks') as bag:
        return [decode_image(bag.deserialize(raw)) for raw in bag.messages(MASK_TOPIC)]


def test_colours_of_a_bag_are_overruled(tmp_path: Path, tiny_bundle: Path) -> None:
    path = write_drive(tmp_path / 'bag', TinyDrive(num_frames=2))
    with Bag(path) as bag:
        message = bag.deserialize(next(iter(bag.messages(COMPRESSED_TOPIC))))
        stored = decode_frame(bag, COMPRESSED_TOPIC, message)
        bag.compressed_colors = 'exchanged'
        exchanged = decode_frame(bag, COMPRESSED_TOPIC, message)
    np.testing.assert_array_equal(exchanged, stored[..., ::-1])

    for colors in ('auto', 'as_stored', 'exchanged'):
        arguments = [str(path), '--image', COMPRESSED_TOPIC, '--bundle', str(tiny_bundle)]
        out = ['--out', str(tmp_path / colors), '--compressed-colors', colors]
        assert main([*arguments, *out]) == 0
    as_stored = masks(tmp_path / 'as_stored')
    np.testing.assert_array_equal(masks(tmp_path / 'auto'), as_stored)
    assert not np.array_equal(masks(tmp_path / 'exchanged'), as_stored)
    with pytest.raises(SystemExit):
        main([*arguments, '--out', str(tmp_path / 'x'), '--compressed-colors', 'rgb'])
