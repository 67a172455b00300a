"""Every source of frames, made as its users make it: files, streams, bags, and what is none."""

import base64
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
import os
from pathlib import Path
import struct
import threading
from types import SimpleNamespace

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore
from tiny_bag import (
    DEPTH_TOPIC,
    IMAGE_TOPIC,
    LABEL_TOPIC,
    START_NS,
    DepthShot,
    TinyDrive,
    write_drive,
)

from desertmind_seg.messages.bags import BagError
from desertmind_seg.messages.images import decode_compressed_image
from desertmind_seg.sources import live, network
from desertmind_seg.sources.frames import BadFrame, Selection, Shot, SourceError, SourceFrame
from desertmind_seg.sources.opening import open_source
from desertmind_seg.sources.videos import quiet_opencv

Image = npt.NDArray[np.uint8]
RATE_HZ = 10.0


def scene(index: int, size_hw: tuple[int, int] = (72, 96)) -> Image:
    """A frame with one bright corner, top left, and a level that rises with its number."""
    picture = np.full((*size_hw, 3), 8 * index, np.uint8)
    picture[: size_hw[0] // 3, : size_hw[1] // 3] = (250, 10, 10)
    return picture


def write_video(path: Path, code: str = 'MJPG', frames: int = 12) -> Path:
    writer = cv2.VideoWriter(
        str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*code), RATE_HZ, (96, 72)
    )
    assert writer.isOpened()
    for index in range(frames):
        writer.write(cv2.cvtColor(scene(index), cv2.COLOR_RGB2BGR))
    writer.release()
    return path


def write_image(path: Path, rgb: Image) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))
    return path


def jpeg(rgb: Image) -> bytes:
    return cv2.imencode('.jpg', cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))[1].tobytes()


def good(frames: list[SourceFrame | BadFrame]) -> list[SourceFrame]:
    assert not [frame for frame in frames if isinstance(frame, BadFrame)]
    return [frame for frame in frames if isinstance(frame, SourceFrame)]


def refusal(source: Path | str, **options: str) -> str:
    with pytest.raises((SourceError, OSError)) as caught:
        open_source(str(source), **options)
    return str(caught.value)


def test_images_of_a_folder_and_of_a_pattern(tmp_path: Path) -> None:
    for name in ('a.png', 'deep/er/b.PNG', '.hidden/c.png', 'deep/.d.png'):
        write_image(tmp_path / 'in' / name, scene(3))
    (tmp_path / 'in' / 'deep' / 'notes.txt').touch()
    for text in (f'{tmp_path}/in', f'{tmp_path}/in/**/*.[pP][nN][gG]'):
        with open_source(text) as source:
            assert (source.kind, source.count, source.live) == ('images', 2, False)
            frames = good(list(source))
        assert [frame.name for frame in frames] == ['a', 'deep/er/b']
        assert all(np.array_equal(frame.rgb, scene(3)) for frame in frames)
        assert frames[0].stamp_ns is frames[0].depth_m is None


def test_a_bad_image_takes_no_other_along(tmp_path: Path) -> None:
    write_image(tmp_path / 'a.png', scene(1))
    (tmp_path / 'b.png').write_text('none')
    os.mkfifo(tmp_path / 'c.png')
    write_image(tmp_path / 'd.png', scene(1))
    with open_source(str(tmp_path)) as source:
        first, bad, fifo, last = source
    assert isinstance(first, SourceFrame)
    assert isinstance(last, SourceFrame)
    assert isinstance(bad, BadFrame)
    assert bad.error.startswith('it is no image')
    assert isinstance(fifo, BadFrame)
    assert (fifo.name, fifo.error) == (
        f'{tmp_path}/c.png',
        'it is a FIFO, socket or device; expected a file',
    )


def test_pictures_of_kinds_that_are_not_read(tmp_path: Path) -> None:
    for name in ('b.HEIC', 'deep/c.avif', 'a.CR2', '.d.heic'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    said = r'holds no images .* It holds 3 pictures of kinds that are not read'
    with pytest.raises(SourceError, match=said):
        open_source(str(tmp_path))
    with pytest.raises(SourceError, match=r'b\.HEIC is a picture of a kind .* magick mogrify'):
        open_source(str(tmp_path / 'b.HEIC'))
    write_image(tmp_path / 'a.jpg', scene(1))  # of which a.CR2 is the raw picture

    source = open_source(str(tmp_path))

    assert [shot.name for shot in source.shots()] == ['a']
    (loss,) = source.losses
    assert loss.startswith(f'{tmp_path} holds beside images 2 pictures of kinds that are not')
    assert '(b.HEIC, c.avif); convert' in loss


def test_what_is_not_taken_together_with_images_is_named(tmp_path: Path) -> None:
    write_image(tmp_path / 'a.png', scene(1))
    for name in ('drive.mp4', 'clip.GIF', *(f'deep/{n}.avi' for n in range(5)), 'deep/x_0.mcap'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    source = open_source(str(tmp_path))
    assert [shot.name for shot in source.shots()] == ['a']
    assert source.losses == [
        f'{tmp_path} holds beside images 7 videos (clip.GIF, drive.mp4, 0.avi, 1.avi, 2.avi and '
        f"2 more): give them one by one, or by a pattern in quotes, such as '{tmp_path}/*.GIF'",
        f'{tmp_path} holds beside images 1 files of bags (x_0.mcap): give the bags one by one',
    ]
    (loss,) = open_source(f'{tmp_path}/**/*.[pm][nc]*').losses
    assert 'also fits 1 files of bags (x_0.mcap)' in loss


def test_images_beside_a_bag_are_named(tmp_path: Path) -> None:
    write_image(write_drive(tmp_path / 'a', drive()) / 'frames' / '1.png', scene(1))
    with open_source(str(tmp_path / 'a'), image_topic=IMAGE_TOPIC) as source:
        (note,) = source.notes
    assert note.endswith(f"give a pattern in quotes, such as '{tmp_path}/a/frames/*.png'")


def test_linked_folders_are_followed_and_each_is_read_once(tmp_path: Path) -> None:
    for name in ('in/own/1.png', 'disk/2.png', 'disk/deep/3.png', 'in/.store/4.png'):
        write_image(tmp_path / name, scene(1))
    for link, target in {
        'in/a': '../in/own',
        'in/b': '../disk',
        'in/c': '../disk/deep',
        'in/d': '../disk',
        'in/e': '.store',
        'in/own/loop': '..',
        'disk/loop': '../disk',
        'in/up': '../../' + tmp_path.name,
        'in/unplugged': '/media/unplugged',
    }.items():
        (tmp_path / link).symlink_to(target)
    source = open_source(str(tmp_path / 'in'))
    assert [shot.name for shot in source.shots()] == ['b/2', 'c/3', 'e/4', 'own/1']
    assert source.losses == [
        f'{tmp_path}/in/up is a link to {tmp_path}, in which it lies: not followed',
        f'{tmp_path}/in/unplugged is a link to /media/unplugged, which is not there',
    ]
    found = open_source(f'{tmp_path}/in/**/*.png')
    assert [shot.name for shot in found.shots()] == ['b/2', 'c/3', 'e/4', 'own/1']
    assert len(found.losses) == 1
    found = open_source(f'{tmp_path}/**/own/**')
    assert [shot.name for shot in found.shots()] == ['in/own/1']


def test_a_folder_that_may_not_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_image(tmp_path / 'a.png', scene(1))
    (tmp_path / 'locked').mkdir()
    scandir = os.scandir

    def refuse(path: str) -> object:
        if str(path).endswith('locked'):
            raise PermissionError(13, 'Permission denied', str(path))
        return scandir(path)

    monkeypatch.setattr(os, 'scandir', refuse)
    source = open_source(str(tmp_path))
    assert source.losses == [f'{tmp_path}/locked cannot be looked into: Permission denied']


@pytest.mark.parametrize(
    ('name', 'code'), [('a.avi', 'MJPG'), ('a.mp4', 'mp4v'), ('a.mkv', 'MJPG'), ('a.webm', 'VP80')]
)
def test_a_video(tmp_path: Path, name: str, code: str) -> None:
    with open_source(str(write_video(tmp_path / name, code))) as source:
        assert (source.kind, source.count, source.rate_hz) == ('video', 12, RATE_HZ)
        frames = good(list(source))
    assert [frame.name for frame in frames] == [f'a_{index:06d}' for index in range(12)]
    assert [frame.stamp_ns for frame in frames] == [index * 100_000_000 for index in range(12)]
    for index, frame in enumerate(frames):
        assert np.abs(frame.rgb.astype(int) - scene(index))[40:, 40:].mean() < 8
    assert frames[0].rgb[5, 5, 0] > 200 > frames[0].rgb[5, 5, 2]  # red comes first
    assert source.losses == []


@pytest.mark.parametrize(('degrees', 'turns'), [(90, 3), (180, 2), (270, 1)])
def test_a_video_is_turned_upright(tmp_path: Path, degrees: int, turns: int) -> None:
    path = write_video(tmp_path / 'a.mp4', 'mp4v', 2)
    with open_source(str(path)) as source:
        stored = good(list(source))[0].rgb
    # The matrix of the track header (ISO 14496-12, 8.3.2): 16.16 but for its last column.
    content = bytearray(path.read_bytes())
    at = content.index(b'tkhd') + 44
    one = 1 << 16
    a, b = {90: (0, one), 180: (-one, 0), 270: (0, -one)}[degrees]
    content[at : at + 20] = struct.pack('>5i', a, b, 0, -b, a)
    path.write_bytes(content)
    with open_source(str(path)) as source:
        frame = good(list(source))[0]
    assert np.array_equal(frame.rgb, np.rot90(stored, turns))


def test_frames_behind_a_damaged_one_come(tmp_path: Path) -> None:
    path = write_video(tmp_path / 'a.avi')
    content = bytearray(path.read_bytes())
    at = 0
    for _ in range(6):  # the first one stands in the index
        at = content.index(b'00dc', at + 4)
    (size,) = struct.unpack_from('<I', content, at + 4)
    content[at + 8 : at + 8 + size] = bytes(size)
    path.write_bytes(content)
    with open_source(str(path)) as source:
        frames = list(source)
    assert len(frames) == 12
    bad = [frame for frame in frames if isinstance(frame, BadFrame)]
    assert [(each.name, each.error) for each in bad] == [
        ('a_000004', f'frame 4 of {path} does not decode')
    ]


def test_a_video_that_was_cut_off(tmp_path: Path) -> None:
    path = write_video(tmp_path / 'a.avi')
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 4 // 5])
    with open_source(str(path)) as source:
        frames = [frame for frame in source if isinstance(frame, SourceFrame)]
    assert 1 < len(frames) < 11
    assert len(source.losses) == 1
    assert source.losses[0].endswith('of 12 frames, 1.2 s: it was cut off')


def test_several_videos_and_one_that_is_none(tmp_path: Path) -> None:
    for name in ('a.avi', 'c.avi'):
        write_video(tmp_path / name, frames=3)
    (tmp_path / 'b.avi').write_text('text')
    (tmp_path / 'd.avi').symlink_to('nowhere')
    with open_source(f'{tmp_path}/*.avi') as source:
        frames = list(source)
    assert [frame.name for frame in frames] == [
        *('a_000000', 'a_000001', 'a_000002', f'{tmp_path}/b.avi'),
        *('c_000000', 'c_000001', 'c_000002', f'{tmp_path}/d.avi'),
    ]
    errors = [frame.error for frame in frames if isinstance(frame, BadFrame)]
    assert errors[0].startswith('it holds no video that FFmpeg can open')
    assert errors[1] == 'it cannot be read: No such file or directory'
    stamps = [frame.stamp_ns for frame in frames if isinstance(frame, SourceFrame)]
    assert stamps == [index * 100_000_000 for index in range(6)]


def test_videos_of_one_name_keep_what_tells_them_apart(tmp_path: Path) -> None:
    for name in ('a/x.avi', 'b/x.avi', 'b/x.mkv', 'b/y.avi'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_video(tmp_path / name, frames=1)
    with open_source(f'{tmp_path}/*/*.*') as source:
        assert source.name == tmp_path.name
        names = [frame.name for frame in good(list(source))]
    assert names == ['a/x_000000', 'b/x.avi_000000', 'b/x.mkv_000000', 'y_000000']


def test_opencv_4_is_kept_quiet_too(monkeypatch: pytest.MonkeyPatch) -> None:
    # Its functions are not where those of OpenCV 5 are.
    levels = [2]
    monkeypatch.setattr(cv2, 'getLogLevel', lambda: levels[-1], raising=False)
    monkeypatch.setattr(cv2, 'setLogLevel', levels.append, raising=False)

    with quiet_opencv():
        assert levels == [2, 0]

    assert levels == [2, 0, 2]


def test_what_is_no_video(tmp_path: Path) -> None:
    path = tmp_path / 'a.mp4'
    path.touch()
    assert refusal(path) == f'{path}: it is empty (0 bytes): it was not written or copied whole'
    path.write_bytes(b'version https://git-lfs.github.com/spec/v1\n')
    assert 'is a Git LFS pointer and not the video: git lfs pull fetches it' in refusal(path)
    whole = write_video(tmp_path / 'b.mp4', 'mp4v').read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert 'holds no video that FFmpeg can open: it has another format, or' in refusal(path)
    path.unlink()
    os.mkfifo(path)
    assert 'a.mp4: it is a FIFO, socket or device; expected a video file' in refusal(path)


# Two grey frames of 64 x 64 pixels, by libaom.
AV1_IVF = """
REtJRgAAIABBVjAxQABAAAoAAAABAAAAAgAAAAAAAAAeAAAAAAAAAAAAAAASAAoKAAAAAq//m18gCDIOEACWgAACAA
AAAOvGjvAVAAAAAQAAAAAAAAASADIRMAPAgAAABsAAAAKAACAAmRA=
"""


def test_a_codec_that_opencv_has_not(tmp_path: Path) -> None:
    path = tmp_path / 'a.webm'
    path.write_bytes(base64.b64decode(AV1_IVF))
    with open_source(str(path)) as source:
        (bad,) = source
    assert isinstance(bad, BadFrame)
    assert "no frame of it decodes (codec 'AV01'); this OpenCV may lack the codec" in bad.error


def test_frames_are_chosen_by_number_and_time(tmp_path: Path) -> None:
    path = str(write_video(tmp_path / 'a.avi', frames=20))

    def numbers(selection: Selection) -> list[int]:
        with open_source(path, selection=selection) as source:
            return [int(frame.name[2:]) for frame in good(list(source))]

    assert numbers(Selection(every=7)) == [0, 7, 14]
    assert numbers(Selection(rate_hz=5)) == list(range(0, 20, 2))
    assert numbers(Selection(rate_hz=4)) == [0, 2, 5, 7, 10, 12, 15, 17]
    assert numbers(Selection(rate_hz=100)) == list(range(20))
    assert numbers(Selection(start_s=0.5, end_s=1.0)) == [5, 6, 7, 8, 9]
    with open_source(path, selection=Selection(every=7)) as source:
        assert source.count == 3
        assert [shot.name for shot in source.shots() if isinstance(shot, Shot)][1] == 'a_000007'
    with open_source(path, selection=Selection(rate_hz=5)) as source:
        assert source.count is None
    write_image(tmp_path / 'b.png', scene(1))
    with pytest.raises(SourceError, match=r'b.png has no times, so that frames cannot be chosen'):
        open_source(str(tmp_path / 'b.png'), selection=Selection(end_s=1.0))


def drive() -> TinyDrive:
    shots = tuple(
        DepthShot(100.0 * index, np.full((66, 90), 1000 + index, np.uint16)) for index in (0, 1, 3)
    )
    return TinyDrive(num_frames=4, depth=shots, broken={2: {'height': 999}})


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3', 'ros1'])
def test_a_bag_with_depth(tmp_path: Path, storage: str) -> None:
    path = write_drive(tmp_path / ('a.bag' if storage == 'ros1' else 'a'), drive(), storage)
    with open_source(str(path), image_topic=IMAGE_TOPIC, depth_topic=DEPTH_TOPIC) as source:
        assert (source.kind, source.count) == ('bag', 4)
        frames = list(source)
    bad = frames.pop(2)
    assert isinstance(bad, BadFrame)
    assert bad.name == 'a_000002'
    for index, frame in zip((0, 1, 3), good(frames), strict=True):
        assert (frame.name, frame.stamp_ns) == (f'a_{index:06d}', START_NS + 100_000_000 * index)
        assert np.array_equal(frame.rgb, drive().rgb(index))
        assert frame.depth_m is not None
        assert np.allclose(frame.depth_m, 1.0 + index / 1000)
    assert source.losses == [
        '1 times without depth: the nearest depth was further away than max_dt_ms'
    ]


def test_the_image_topic_of_a_bag(tmp_path: Path) -> None:
    path = write_drive(tmp_path / 'a', drive())
    said = refusal(path)
    assert f'has 3 image topics: {IMAGE_TOPIC} (sensor_msgs/msg/Image, 4); ' in said
    assert said.endswith(
        f'{LABEL_TOPIC} (sensor_msgs/msg/Image, 4). Name the one to take: --image {IMAGE_TOPIC}'
    )
    with pytest.raises(BagError, match="has no topic '/none'"):
        open_source(str(path), image_topic='/none')
    assert 'is given as topic of images and of depth' in refusal(
        path, image_topic=DEPTH_TOPIC, depth_topic=DEPTH_TOPIC
    )
    with open_source(str(path), image_topic=IMAGE_TOPIC) as source:
        assert source.description == f'{path}, topic {IMAGE_TOPIC}'


def test_frames_without_stamps_are_chosen_by_log_time(tmp_path: Path) -> None:
    types = get_typestore(Stores.ROS2_KILTED).types
    unset = types['std_msgs/msg/Header'](types['builtin_interfaces/msg/Time'](0, 0), 'camera')
    drive = TinyDrive(num_frames=6, broken={at: {'header': unset} for at in range(6)})
    path = write_drive(tmp_path / 'drive', drive)
    selection = Selection(rate_hz=5.0, start_s=0.1)
    with open_source(str(path), image_topic=IMAGE_TOPIC, selection=selection) as source:
        frames = good(list(source))
    expected = [drive.stamp_ns(index) + drive.log_delay_ns for index in (1, 3, 5)]
    assert [frame.stamp_ns for frame in frames] == expected
    (note,) = source.notes
    assert 'have no stamp (0), so the log time of each is taken' in note


def test_a_first_frame_of_simulated_time_0_leaves_the_stamps_of_the_others(tmp_path: Path) -> None:
    types = get_typestore(Stores.ROS2_KILTED).types
    began = types['std_msgs/msg/Header'](types['builtin_interfaces/msg/Time'](0, 0), 'camera')
    drive = TinyDrive(num_frames=3, broken={0: {'header': began}})
    path = write_drive(tmp_path / 'drive', drive)
    with open_source(str(path), image_topic=IMAGE_TOPIC) as source:
        stamps_ns = [frame.stamp_ns for frame in good(list(source))]
    assert stamps_ns == [0, drive.stamp_ns(1), drive.stamp_ns(2)]
    assert source.notes == []


def test_a_bag_is_named_after_its_folder(tmp_path: Path) -> None:
    bag = write_drive(tmp_path / 'drive', TinyDrive(num_frames=1))
    with open_source(str(bag / 'metadata.yaml'), image_topic=IMAGE_TOPIC) as source:
        assert source.name == 'drive'


@pytest.mark.parametrize('name', ['DRIVE.MCAP', 'drive.mcap.active'])
def test_what_reading_takes_for_a_bag_is_one_here(tmp_path: Path, name: str) -> None:
    drive = write_drive(tmp_path / 'drive', TinyDrive(num_frames=2))
    folder = tmp_path / 'copied'
    folder.mkdir()
    (drive / 'drive.mcap').rename(folder / name)
    for path in (folder, folder / name):
        with open_source(str(path), image_topic=IMAGE_TOPIC) as source:
            assert len(list(source)) == 2


def test_images_beside_a_folder_that_is_named_like_a_bag(tmp_path: Path) -> None:
    write_drive(tmp_path / 'drive.mcap', TinyDrive(num_frames=2))
    write_image(tmp_path / 'a.png', scene(1))
    assert [shot.name for shot in open_source(str(tmp_path)).shots()] == ['a']


def test_a_bag_with_one_camera_needs_no_topic(tmp_path: Path) -> None:
    path = write_drive(tmp_path / 'a', replace(drive(), label_every=0))
    with open_source(str(path)) as source:  # its raw and not its compressed topic, and no depth
        assert source.description == f'{path}, topic {IMAGE_TOPIC}'


def test_a_bag_with_the_transports_of_one_camera_needs_no_topic(tmp_path: Path) -> None:
    path, types = tmp_path / 'a', get_typestore(Stores.ROS2_JAZZY)
    with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        for topic, kind in (
            ('/cam/image', types.types['sensor_msgs/msg/Image']),
            ('/cam/image/compressed', types.types['sensor_msgs/msg/CompressedImage']),
            ('/cam/image/zstd', types.types['sensor_msgs/msg/CompressedImage']),
        ):
            connection = writer.add_connection(topic, kind.__msgtype__, typestore=types)
            writer.write(connection, START_NS, bytes(16))
    with open_source(str(path)) as source:
        assert source.description == f'{path}, topic /cam/image'


def test_what_is_no_source(tmp_path: Path) -> None:
    assert 'nothing does not exist; give an image or a folder' in refusal(tmp_path / 'nothing')
    assert f"no image or video fits the pattern '{tmp_path}/*.jpg'" in refusal(f'{tmp_path}/*.jpg')
    (tmp_path / 'a.doc').touch()
    assert 'a.doc is neither image, video nor bag by its name; expected .bmp' in refusal(
        tmp_path / 'a.doc'
    )
    assert 'holds no images in any of its folders; expected files ending in .bmp' in refusal(
        tmp_path
    )
    write_video(tmp_path / 'a.avi', frames=2)
    assert refusal(tmp_path).endswith(
        '. It holds 1 videos (a.avi): give them one by one, or by a pattern in quotes, such as '
        f"'{tmp_path}/*.avi'"
    )
    write_image(tmp_path / 'b.png', scene(1))
    assert 'fits 1 images and 1 videos; expected one of both kinds' in refusal(
        f'{tmp_path}/*.[ap]*'
    )
    assert 'is no bag, but topics are given (--image, --depth); leave them out, or give a bag' in (
        refusal(tmp_path / 'a.avi', image_topic='/image')
    )
    assert 'there is no camera 991 (/dev/video991); cameras of this machine: ' in refusal('991')
    assert 'there is no camera 991' in refusal('/dev/video991')
    assert "ftp://host/a has the scheme 'ftp'; expected one of http" in refusal('ftp://host/a')
    assert 'rtsp:///a names no host' in refusal('rtsp:///a')
    for address in ('http://[::1/a.jpg', 'http://host:port/a.jpg', 'http://host/a b.jpg'):
        assert f'{address} is no address: its host or port is not valid' in refusal(address)


@pytest.mark.parametrize(
    ('address', 'shown'),
    [
        ('rtsp://me:secret@host:554/a', 'rtsp://me:***@host:554/a'),
        ('rtsp://me:secret@1@host/a', 'rtsp://me:***@host/a'),
        ('rtsp://me:sec/ret@host/a', 'rtsp://me:***@host/a'),
        (
            'http://host/a?user=me&Password=secret&fps=1',
            'http://host/a?user=me&Password=***&fps=1',
        ),
        ('http://host/a?access_token=secret#b', 'http://host/a?access_token=***#b'),
        ('http://host:80/@b/a.jpg?user=me', 'http://host:80/@b/a.jpg?user=me'),
    ],
)
def test_passwords_are_not_shown(address: str, shown: str) -> None:
    assert network.shown_address(address) == shown
    said = refusal(address, image_topic='/image')
    assert said.startswith(f'{shown} is no bag')


@contextmanager
def server(pages: dict[str, tuple[str, Iterable[bytes]]]) -> Iterator[str]:
    """Serve path -> (content type, parts); the address knows a user and a password."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path not in pages:
                self.send_error(404)
                return
            given = self.headers['Authorization']
            if self.path == '/locked.jpg' and given != 'Basic bWU6c2VjcmV0':  # me:secret
                self.send_error(401)
                return
            kind, parts = pages[self.path]
            self.send_response(200)
            self.send_header('Content-Type', kind)
            if isinstance(parts, list) and len(parts) == 1:
                self.send_header('Content-Length', str(len(parts[0])))
            self.end_headers()
            with suppress(OSError):  # who watched a stream has gone
                for part in parts:
                    self.wfile.write(part)

        def log_message(self, *_: object) -> None:
            pass

    running = ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    running.daemon_threads = True
    running.block_on_close = False
    threading.Thread(target=running.serve_forever, daemon=True).start()
    try:
        yield f'http://me:secret@127.0.0.1:{running.server_port}'
    finally:
        running.shutdown()
        running.server_close()


def test_images_and_videos_behind_addresses(tmp_path: Path) -> None:
    video = write_video(tmp_path / 'a.avi').read_bytes()
    film = write_video(tmp_path / 'a.mp4', 'mp4v').read_bytes()
    index_at = film.rindex(b'moov') - 4
    gap = struct.pack('>I', 500_008) + b'free' + bytes(500_000)  # more than FFmpeg reads ahead
    pages = {
        '/a.jpg': ('image/jpeg', [jpeg(scene(4))]),
        '/locked.jpg': ('image/jpeg', [jpeg(scene(4))]),
        '/octets.jpg': ('application/octet-stream', [jpeg(scene(4))]),
        '/cut.jpg': ('image/jpeg', [jpeg(scene(4))[:200]]),
        '/video.avi': ('video/x-msvideo', [video]),
        '/clip.mjpeg': ('video/x-motion-jpeg', [b''.join(jpeg(scene(n)) for n in range(6))]),
        '/index_at_end.mp4': ('video/mp4', [film[:index_at] + gap + film[index_at:]]),
        '/page': ('text/html; charset=utf-8', [b'<html>']),
        '/other': ('text/plain', [b'text']),
    }
    with server(pages) as address:
        plain = address.replace('me:secret@', '')
        assert '401 Unauthorized' in refusal(f'{plain}/locked.jpg')
        for where, name in ((address, 'locked'), (plain, 'a'), (address, 'octets')):
            with open_source(f'{where}/{name}.jpg') as source:
                (frame,) = good(list(source))
                assert (frame.name, source.count) == (name, 1)
                assert np.abs(frame.rgb.astype(int) - scene(4)).mean() < 8
        with open_source(f'{address}/video.avi') as source:
            assert (source.kind, source.count) == ('video', 12)
            assert len(good(list(source))) == 12
        # It says nothing of its length, and is no stream that would begin again at its end.
        with open_source(f'{address}/clip.mjpeg') as source:
            assert (source.kind, source.count) == ('video', None)
            assert len(good(list(source))) == 6
        assert 'cut.jpg: its JPEG' in refusal(f'{address}/cut.jpg')
        assert 'is a web page (text/html); expected image or video' in refusal(f'{address}/page')
        assert refusal(f'{address}/absent').endswith('/absent answers 404 Not Found')
        assert 'its index stands at its end' in refusal(f'{address}/index_at_end.mp4')
        said = refusal(f'{address}/other')
        assert 'gives no video within 10 s' in said
        assert '//me:***@127.0.0.1:' in said
    assert 'cannot be reached: [Errno 111]' in refusal(f'{address}/a.jpg')


def test_a_stream_that_breaks_off_is_opened_again_and_then_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(live, 'PAUSES_SEC', (0.0, 0.0))
    monkeypatch.setattr(network, 'TIMEOUT_SEC', 5.0)
    part = b'--b\r\nContent-Type: image/jpeg\r\n\r\n' + jpeg(scene(2)) + b'\r\n'
    pages = {'/stream': ('multipart/x-mixed-replace; boundary=b', [part] * 5)}
    with server(pages) as address, open_source(f'{address}/stream') as source:
        assert (source.kind, source.live, source.count) == ('live', True, None)
        frames = []
        for frame in source:
            frames.append(frame)
            if isinstance(frame, SourceFrame) and int(frame.name.rpartition('_')[2]) >= 7:
                pages.clear()
    first, last = good(frames)[0], good(frames)[-1]
    assert first.stamp_ns is not None
    assert last.stamp_ns is not None
    assert last.stamp_ns > first.stamp_ns > 1e18
    assert int(last.name.rpartition('_')[2]) + 1 == len(frames) + source.skipped
    (loss,) = source.losses
    assert f'ended after {len(frames) + source.skipped} frames: ' in loss
    assert 'secret' not in loss


def test_a_live_source_is_closed_while_frames_come() -> None:
    part = b'--b\r\nContent-Type: image/jpeg\r\n\r\n' + jpeg(scene(2)) + b'\r\n'
    with server({'/s': ('multipart/x-mixed-replace; boundary=b', [part] * 50)}) as address:
        with open_source(f'{address}/s', selection=Selection(every=2)) as source:
            assert isinstance(next(iter(source)), SourceFrame)
        assert source.losses == []


@pytest.mark.parametrize('name', ['a.png', 'a.tif'])
def test_16_bits_that_are_hardly_used_are_told(tmp_path: Path, name: str) -> None:
    grey = np.linspace(0, 255, 72 * 96).astype(np.uint16).reshape(72, 96)
    for folder, values, dull in (
        ('thermal', 7500 + grey, True),
        ('kelvin', 29000 + 8 * grey, True),
        ('colour', np.dstack([16 * grey] * 3), True),
        ('whole', 257 * grey, False),
        ('black', 0 * grey, True),
        ('eight', grey.astype(np.uint8) // 8, False),
    ):
        (tmp_path / folder).mkdir()
        for number in range(2):
            assert cv2.imwrite(str(tmp_path / folder / f'{number}_{name}'), values)
        with open_source(str(tmp_path / folder)) as source:
            assert len(good(list(source))) == 2
        assert source.losses == []
        said = f'of 2 images, such as {tmp_path}/{folder}/0_{name}: its values use a small part of'
        assert [note.startswith(said) for note in source.notes] == [True] * dull


def test_16_bits_that_are_hardly_used_are_told_of_topics_and_addresses(tmp_path: Path) -> None:
    values = np.full((66, 90), 7500, np.uint16)
    low = cv2.imencode('.png', values)[1]
    thermal = tuple(DepthShot(100.0 * i, values, changes={'encoding': 'mono16'}) for i in range(2))
    path = write_drive(tmp_path / 'a', TinyDrive(num_frames=2, depth=thermal))
    with open_source(str(path), image_topic=DEPTH_TOPIC) as source:
        assert len(good(list(source))) == 2
    (note,) = source.notes
    assert note.startswith(f'of a frame of {DEPTH_TOPIC}, and maybe of more: its values use')
    notes: list[str] = []
    for kind in ('mono16; png compressed', 'bayer_rggb16; png compressed'):
        decode_compressed_image(SimpleNamespace(format=kind, data=low), note=notes.append)
    assert [note.startswith('its values use') for note in notes] == [True, True]
    pages = {'/a.png': ('image/png', [low.tobytes()])}
    with server(pages) as address, open_source(f'{address}/a.png') as source:
        assert source.notes[0].startswith('its values use a small part of their 16 bits')
