"""Which frames are chosen, how far apart, and what the formats of labelling tools hold."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from desertmind_seg.labelling.choice import Candidate, EvenChoice, least_sure, thinned
from desertmind_seg.labelling.cvat import boxes, run_lengths
from desertmind_seg.labelling.label_studio import packed
from desertmind_seg.labelling.pictures import StillScene, depth_file, image_file
from desertmind_seg.labelling.spacing import LabellingError, Spacing, parse_spacing
from desertmind_seg.labelling.travel import Travel
from desertmind_seg.messages.bags import Bag


@pytest.mark.parametrize(
    ('text', 'spacing'),
    [
        ('2s', Spacing(2.0, 's')),
        ('0.5s', Spacing(0.5, 's')),
        ('1.5m', Spacing(1.5, 'm')),
        ('5 m', Spacing(5.0, 'm')),
        ('30', Spacing(30.0, 'frames')),
    ],
)
def test_a_spacing_is_seconds_metres_or_frames(text: str, spacing: Spacing) -> None:
    assert parse_spacing(text) == spacing


@pytest.mark.parametrize(
    'text', ['', '0', '0s', '-1s', '1.5', '2min', '2h', 's', 'nan', '1e3', '٣']
)
def test_what_is_no_spacing_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match='expected seconds as 2s, metres as 2m, or a number of'):
        parse_spacing(text)


def test_even_choice_takes_the_first_frame_of_each_stretch() -> None:
    choice = EvenChoice(Spacing(2.0, 's'))
    places = [0.0, 0.9, 2.1, 3.9, 3.99, 4.0, 9.0, 9.5, 1.0]  # ... and the recording begins again
    taken = [place for place in places if choice.takes(place)]
    assert taken == [0.0, 2.1, 4.0, 9.0, 1.0]


def test_too_many_are_thinned_over_the_whole_recording() -> None:
    candidates = [Candidate(10 * i, float(i)) for i in range(101)]
    chosen = thinned(candidates, Spacing(1.0, 's'), 5)
    assert [one.candidate.index for one in chosen] == [0, 250, 500, 750, 1000]
    assert chosen[0].why == 'every 1 s, 5 of 101'
    assert len(thinned(candidates, Spacing(1.0, 's'), 200)) == 101
    assert thinned([], Spacing(1.0, 's'), 5) == []


def test_least_sure_frames_lie_apart() -> None:
    # 20 is the least confident of all, 21 the next; 5 flickers most.
    confidences = [0.9 - 0.001 * i for i in range(40)]
    confidences[20], confidences[21] = 0.1, 0.2
    flicker = [0.01] * 40
    flicker[5] = 0.5
    candidates = [
        Candidate(i, i / 10, confidence, share)
        for i, (confidence, share) in enumerate(zip(confidences, flicker, strict=True))
    ]

    chosen = least_sure(candidates, Spacing(1.0, 's'), 3)
    indices = [one.candidate.index for one in chosen]
    assert len(indices) == 3
    assert indices == sorted(indices)
    assert {20, 39} <= set(indices)  # of equal flicker, those of the lowest confidence
    assert np.diff(indices).min() >= 10
    assert 'number 1' in next(one for one in chosen if one.candidate.index == 20).why

    # As many as there is room for, and no more than asked.
    assert len(least_sure(candidates, Spacing(1.0, 's'), 100)) <= 4
    by_flicker = [Candidate(i, float(i), 0.5, share) for i, share in enumerate(flicker)]
    (most,) = least_sure(by_flicker, Spacing(1.0, 's'), 1)
    assert most.candidate.index == 5


def test_flicker_that_is_unknown_counts_for_nothing() -> None:
    candidates = [Candidate(i, float(i), 0.9 - 0.1 * i) for i in range(5)]
    (one,) = least_sure(candidates, Spacing(1.0, 'frames'), 1)
    assert one.candidate.index == 4
    assert least_sure([], Spacing(1.0, 'frames'), 3) == []


def _unpacked(data: bytes) -> npt.NDArray[np.uint8]:
    """Decode thi.ng's rle-pack as its own decoder does, literal runs included."""
    bits, at = ''.join(f'{byte:08b}' for byte in data), 0

    def read(count: int) -> int:
        nonlocal at
        at += count
        return int(bits[at - count : at], 2)

    values, word = read(32), read(5) + 1
    sizes = [read(4) + 1 for _ in range(4)]
    out = np.zeros(values, np.uint8)
    done = 0
    while done < values:
        repeats = read(1)
        end = done + 1 + read(sizes[read(2)])
        if repeats:
            out[done:end] = read(word)
        else:
            out[done:end] = [read(word) for _ in range(end - done)]
        done = end
    assert len(bits) - at < 8
    return out


# One pixel, all of them, none, more than the longest run holds, noise.
_REGIONS = {
    'one pixel': np.ones((1, 1), bool),
    'all': np.ones((7, 5), bool),
    'none': np.zeros((7, 5), bool),
    'long': np.arange(200 * 300).reshape(200, 300) > 200 * 300 - 3,
    'noise': np.random.default_rng(0).random((33, 47)) < 0.5,
}


@pytest.mark.parametrize('name', _REGIONS)
def test_a_brush_region_is_unpacked_as_it_was(name: str) -> None:
    region = _REGIONS[name]
    rgba = _unpacked(packed(region)).reshape(*region.shape, 4)
    np.testing.assert_array_equal(rgba, np.repeat(np.where(region, 255, 0)[..., None], 4, 2))


@pytest.mark.parametrize('name', [name for name in _REGIONS if name != 'none'])
def test_runs_and_boxes_give_the_mask_back(name: str) -> None:
    mask = np.where(_REGIONS[name], 3, 255).astype(np.uint8)
    ((class_id, (left, top), inside),) = boxes(mask)
    lengths = run_lengths(inside)

    values = np.arange(len(lengths)) % 2 == 1
    again = np.full(mask.shape, 255, np.uint8)
    box = np.repeat(values, lengths).reshape(inside.shape)
    again[top : top + box.shape[0], left : left + box.shape[1]][box] = class_id
    np.testing.assert_array_equal(again, mask)
    assert list(boxes(np.full((4, 4), 255, np.uint8))) == []


def test_an_image_keeps_its_bytes_where_they_show_the_same() -> None:
    rng = np.random.default_rng(1)
    rgb = rng.integers(0, 256, (40, 50, 3), np.uint8)
    png, suffix = image_file(rgb, b'', lossy=False)
    assert suffix == '.png'
    assert image_file(rgb, png, lossy=False) == (png, '.png')
    jpeg, suffix = image_file(rgb, b'', lossy=True)
    assert suffix == '.jpg'
    # Not where they show something else: colours exchanged, or no image.
    exchanged = np.ascontiguousarray(rgb[..., ::-1])
    assert image_file(exchanged, png, lossy=False)[0] != png
    assert image_file(rgb, jpeg[:100], lossy=False) == (png, '.png')


def test_depth_beyond_16_bits_is_missing_and_counted() -> None:
    depth = np.array([[0.0, 1.2345, 65.534], [65.535, np.nan, np.inf]], np.float32)
    content, beyond = depth_file(depth)
    read = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    assert read is not None
    assert read.dtype == np.uint16
    assert read.tolist() == [[0, 1234, 65534], [0, 0, 0]]
    assert beyond == 1


def test_a_scene_that_stands_still_is_known() -> None:
    rng = np.random.default_rng(2)
    scene = rng.integers(20, 230, (120, 160, 3)).astype(np.uint8)
    noisy = (scene + rng.normal(0, 1.5, scene.shape)).round().clip(0, 255).astype(np.uint8)
    still = StillScene()
    assert not still.is_same(scene)
    assert still.is_same(noisy)
    assert not still.is_same(np.roll(scene, 16, 1))
    assert still.is_same(np.roll(scene, 16, 1))


def _write(path: Path, messages: list[tuple[int, str, str, Any]]) -> Path:
    store = get_typestore(Stores.ROS2_KILTED)
    with Writer(path, version=8, storage_plugin=StoragePlugin.MCAP) as writer:
        connections = {}
        for at_ns, topic, kind, message in messages:
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, kind, typestore=store)
            writer.write(connections[topic], at_ns, store.serialize_cdr(message, kind))
    return path


_NS = 1_000_000_000


def _header(at_ns: int, frame_id: str) -> Any:
    types = get_typestore(Stores.ROS2_KILTED).types
    stamp = types['builtin_interfaces/msg/Time'](*divmod(at_ns, _NS))
    return types['std_msgs/msg/Header'](stamp, frame_id)


def _odometry(at_ns: int, x: float) -> Any:
    types = get_typestore(Stores.ROS2_KILTED).types
    geometry = 'geometry_msgs/msg/'
    zero = types[f'{geometry}Vector3'](0.0, 0.0, 0.0)
    pose = types[f'{geometry}Pose'](
        types[f'{geometry}Point'](x, 0.0, 0.0), types[f'{geometry}Quaternion'](0.0, 0.0, 0.0, 1.0)
    )
    return types['nav_msgs/msg/Odometry'](
        _header(at_ns, 'odom'),
        'base_link',
        types[f'{geometry}PoseWithCovariance'](pose, np.zeros(36)),
        types[f'{geometry}TwistWithCovariance'](
            types[f'{geometry}Twist'](zero, zero), np.zeros(36)
        ),
    )


def _transform(at_ns: int, parent: str, child: str, x: float) -> Any:
    types = get_typestore(Stores.ROS2_KILTED).types
    geometry = 'geometry_msgs/msg/'
    return types['tf2_msgs/msg/TFMessage'](
        [
            types[f'{geometry}TransformStamped'](
                _header(at_ns, parent),
                child,
                types[f'{geometry}Transform'](
                    types[f'{geometry}Vector3'](x, 0.0, 0.0),
                    types[f'{geometry}Quaternion'](0.0, 0.0, 0.0, 1.0),
                ),
            )
        ]
    )


def test_distance_comes_from_odometry_and_not_from_its_trembling(tmp_path: Path) -> None:
    # 10 s at 1 m/s, 10 s on the spot with 2 cm of noise, back again by 3 m.
    noise = np.random.default_rng(3).normal(0, 0.02, 300)
    xs = [*np.arange(0, 10, 0.1), *(10 + noise[:100]), *np.arange(10, 7, -0.1)]
    bag = _write(
        tmp_path / 'bag',
        [
            (i * _NS // 10 + 1, '/odom', 'nav_msgs/msg/Odometry', _odometry(i * _NS // 10, x))
            for i, x in enumerate(xs)
        ],
    )
    with Bag(bag) as opened:
        travel = Travel(opened)
        assert travel.source == '/odom'
        assert travel.at(0) == 0.0
        assert travel.at(5 * _NS) == pytest.approx(5.0, abs=0.2)
        assert travel.at(19 * _NS) - travel.at(12 * _NS) < 0.3
        assert travel.at(23 * _NS) == pytest.approx(13.0, abs=0.5)
        with pytest.raises(LabellingError, match='/odom has no position within 1 s of the stamp'):
            travel.at(40 * _NS)


def test_distance_comes_from_tf_where_there_is_no_odometry(tmp_path: Path) -> None:
    kind = 'tf2_msgs/msg/TFMessage'
    messages = []
    for i in range(50):
        at_ns = i * _NS // 10
        messages += [
            (at_ns, '/tf', kind, _transform(at_ns, 'map', 'odom', 100.0 * i)),
            (at_ns, '/tf', kind, _transform(at_ns, 'odom', 'base_link', 0.2 * i)),
            (at_ns, '/tf', kind, _transform(at_ns, 'base_link', 'wheel', 7.0 * i)),
        ]
    with Bag(_write(tmp_path / 'bag', messages)) as bag:
        travel = Travel(bag)
        assert travel.source == 'frame odom of /tf'
        assert travel.at(4 * _NS) == pytest.approx(8.0, abs=0.2)


def test_a_bag_without_positions_says_what_it_needs(tmp_path: Path) -> None:
    wheel = _transform(1, 'base_link', 'wheel', 1.0)
    with (
        Bag(_write(tmp_path / 'bag', [(1, '/tf', 'tf2_msgs/msg/TFMessage', wheel)])) as bag,
        pytest.raises(LabellingError, match=r'nav_msgs/msg/Odometry, or transforms from odom'),
    ):
        Travel(bag)
