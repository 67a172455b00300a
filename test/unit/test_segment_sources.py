"""The segment command on videos, bags, cameras and streams, and what --save keeps of them."""

from collections.abc import Iterator
import errno
import os
from pathlib import Path
import signal

import cv2
import numpy as np
import pytest
from test_sources import IMAGE_TOPIC, jpeg, scene, server, write_image, write_video
from tiny_bag import DEPTH_TOPIC, DepthShot, TinyDrive, write_drive
from tiny_bundle import write_tiny_bundle

from desertmind_seg.decoding.image_files import read_label_file
from desertmind_seg.engines.load import load_engine
from desertmind_seg.model.bundle import read_bundle
from desertmind_seg.model.files import growing_write
from desertmind_seg.model.ontology import load_ontology
from desertmind_seg.pipeline.segmenter import Segmentation, Segmenter
from desertmind_seg.segment import main
from desertmind_seg.segmenting import window
from desertmind_seg.segmenting.annotated import annotated_video
from desertmind_seg.segmenting.saving import FrameFiles
from desertmind_seg.segmenting.window import Window, WindowError
from desertmind_seg.sources.frames import SourceFrame

ERROR = 'python -m desertmind_seg.segment: error: '


def run(bundle: Path, source: Path | str, *options: object) -> int:
    return main([str(source), '--bundle', str(bundle), *map(str, options)])


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob('*') if path.is_file())


def pictures(path: Path) -> list[np.ndarray]:
    capture = cv2.VideoCapture(str(path))
    found = []
    while (read := capture.read())[0]:
        found.append(read[1])
    return found


def test_a_video_becomes_a_video(
    tmp_path: Path, tiny_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    video, out = write_video(tmp_path / 'a.avi'), tmp_path / 'out'
    assert run(tiny_bundle, video, '--out', out) == 0
    (name,) = files(out)
    assert name.startswith('a.overlay.')
    shown = pictures(out / name)
    assert len(shown) == 12
    assert shown[0].shape[0] == 120  # below it the legend cannot be read
    assert shown[0].shape[1] > 96 + 60
    said = capsys.readouterr()
    assert said.out.startswith(f'12 of 12 frames segmented into {out} with tiny (ycor-8) by')
    assert f'Video: {out / name}\n' in said.out
    assert said.err == ''


def test_masks_of_some_frames_of_a_video(tmp_path: Path, tiny_bundle: Path) -> None:
    video, out = write_video(tmp_path / 'a.avi'), tmp_path / 'out'
    assert run(tiny_bundle, video, '--out', out, '--save', 'mask', '--every', '5') == 0
    assert files(out) == [f'a_{index:06d}.mask.png' for index in (0, 5, 10)]
    rgb = cv2.cvtColor(
        cv2.imdecode(np.frombuffer(jpeg(scene(5)), np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB
    )
    segmenter = Segmenter(load_engine(read_bundle(tiny_bundle)))
    agreement = read_label_file(out / 'a_000005.mask.png') == segmenter.segment(rgb).mask
    assert agreement.mean() > 0.9
    assert (
        run(tiny_bundle, video, '--out', out, '--save', 'mask', '--start', '.3', '--end', '.5')
        == 0
    )
    assert 'a_000004.mask.png' in files(out)
    assert 'a_000006.mask.png' not in files(out)


def test_damage_is_named_and_the_rest_done(
    tmp_path: Path, tiny_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    video = write_video(tmp_path / 'a.avi')
    video.write_bytes(video.read_bytes()[: video.stat().st_size * 4 // 5])
    assert run(tiny_bundle, video, '--out', tmp_path / 'out') == 1
    assert ': it was cut off\n' in capsys.readouterr().err
    drive = TinyDrive(num_frames=3, broken={1: {'height': 999}})
    bag = write_drive(tmp_path / 'bag', drive)
    assert run(tiny_bundle, bag, '--image', IMAGE_TOPIC, '--out', tmp_path / 'out') == 1
    said = capsys.readouterr()
    assert said.out.startswith('2 of 3 frames segmented')
    assert f'{ERROR}bag_000001: ' in said.err
    assert f'{ERROR}1 of 3 frames failed: bag_000001\n' in said.err


def test_a_time_after_the_end_is_told(
    tmp_path: Path, tiny_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    video, out = write_video(tmp_path / 'a.avi', frames=2), tmp_path / 'out'
    assert run(tiny_bundle, video, '--out', out, '--start', '9') == 2
    assert 'a.avi gave no frame from 9 s on: it ends before that' in capsys.readouterr().err
    assert files(out) == []


def test_a_full_disk_ends_the_run(
    tmp_path: Path,
    tiny_bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def encoded(_: FrameFiles, choice: str, frame: SourceFrame, found: object) -> bytes:
        if frame.name == 'a_000001':
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return choice.encode()

    monkeypatch.setattr(FrameFiles, '_encoded', encoded)
    video, out = write_video(tmp_path / 'a.avi', frames=4), tmp_path / 'out'
    assert run(tiny_bundle, video, '--out', out, '--save', 'mask, overlay') == 1
    assert files(out) == ['a_000000.mask.png', 'a_000000.overlay.jpg']
    said = capsys.readouterr()
    assert said.out.startswith('1 of 2 frames segmented')
    assert f'{ERROR}the rest was not segmented: there is no room for it\n' in said.err


def test_depth_of_a_bag_reaches_an_rgbd_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = tmp_path / 'rgbd.onnx'
    write_tiny_bundle(bundle, modality='rgbd', depth_class=2)
    depth = np.zeros((66, 90), np.uint16)
    depth[:, 45:] = 60_000  # so far that all of it is of class 2
    bag = write_drive(tmp_path / 'bag', TinyDrive(num_frames=1, depth=(DepthShot(0.0, depth),)))
    options = ('--image', IMAGE_TOPIC, '--save', 'mask', '--out')
    assert run(bundle, bag, '--depth', DEPTH_TOPIC, *options, tmp_path / 'with') == 0
    assert 'note' not in capsys.readouterr().err
    assert run(bundle, bag, *options, tmp_path / 'without') == 0
    said = capsys.readouterr().err
    assert 'tiny takes RGB and depth, and there is no depth: it counts as missing' in said
    assert f'give --depth TOPIC; topics that look like depth: {DEPTH_TOPIC}' in said
    with_depth = read_label_file(tmp_path / 'with/bag_000000.mask.png')
    without = read_label_file(tmp_path / 'without/bag_000000.mask.png')
    assert (with_depth[:, 48:] == 2).all()
    assert not (without[:, 48:] == 2).all()
    assert np.array_equal(with_depth[:, :42], without[:, :42])
    image = write_image(tmp_path / 'a.png', scene(1))
    assert run(bundle, image, '--save', 'none') == 0
    assert 'a bag with --depth TOPIC has some, and an rgb bundle needs none' in (
        capsys.readouterr().err
    )


def test_depth_that_a_model_does_not_take(
    tmp_path: Path, tiny_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shot = DepthShot(0.0, np.full((66, 90), 900, np.uint16))
    bag = write_drive(tmp_path / 'bag', TinyDrive(num_frames=1, depth=(shot,)))
    options = ('--image', IMAGE_TOPIC, '--depth', DEPTH_TOPIC, '--save', 'none')
    assert run(tiny_bundle, bag, *options) == 0
    assert f'tiny takes no depth: masks are made without {DEPTH_TOPIC}' in capsys.readouterr().err


def test_ctrl_c_ends_a_stream_with_its_video_whole(
    tmp_path: Path,
    tiny_bundle: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    part = b'--b\r\nContent-Type: image/jpeg\r\n\r\n' + jpeg(scene(2)) + b'\r\n'
    taken = 0
    segment = Segmenter.segment

    def interrupted(self: Segmenter, *args: object, **options: object) -> Segmentation:
        nonlocal taken
        taken += 1
        if taken == 3:
            signal.raise_signal(signal.SIGINT)
        return segment(self, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Segmenter, 'segment', interrupted)
    before = signal.getsignal(signal.SIGINT)

    def endless() -> Iterator[bytes]:
        while True:
            yield part

    pages = {'/cam': ('multipart/x-mixed-replace; boundary=b', endless())}
    try:
        with server(pages) as address:
            assert run(tiny_bundle, f'{address}/cam', '--out', tmp_path / 'out') == 0
    finally:
        signal.signal(signal.SIGINT, before)
    said = capsys.readouterr()
    assert said.out.startswith('2 of 2 frames segmented')
    assert '/cam: until Ctrl-C\n' in said.err
    (name,) = files(tmp_path / 'out')
    assert pictures(tmp_path / 'out' / name)


def test_a_video_lasts_as_long_as_its_source(tmp_path: Path) -> None:
    ontology = load_ontology('ycor-8')
    mask = np.zeros((130, 150), np.uint8)
    path = tmp_path / 'a.webm'
    with annotated_video(path, ontology, 10.0) as video:
        # A rate twice the video's, then one pause of 1 s, and one of an hour, of which 2 s count.
        for at_s in (0.0, 0.05, 0.1, 0.15, 0.2, 1.2, 3601.2):
            rgb = np.full((130, 150, 3), 200, np.uint8)
            frame = SourceFrame('a', rgb, round(at_s * 1e9))
            assert video.show(frame, Segmentation(mask, None, None, 0.0))
        tall = SourceFrame('b', np.zeros((200, 90, 3), np.uint8), round(3601.3e9))
        video.show(tall, Segmentation(np.zeros((200, 90), np.uint8), None, None, 0.0))
    shown = pictures(path)
    assert abs(len(shown) - (12 + 20 + 1 + 1)) <= 1
    assert len({picture.shape for picture in shown}) == 1
    with annotated_video(tmp_path / 'none.webm', ontology, 10.0):
        pass
    assert files(tmp_path) == ['a.webm']


def test_what_came_is_kept_whatever_ends_it(tmp_path: Path) -> None:
    path = tmp_path / 'a.txt'

    def write() -> None:
        with growing_write(path) as temporary:
            temporary.write_text('as far as it came')
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert path.read_text() == 'as far as it came'
    with pytest.raises(ValueError, match='early'), growing_write(tmp_path / 'b.txt'):
        raise ValueError('early')
    assert files(tmp_path) == ['a.txt']


def test_results_are_no_images(
    tmp_path: Path, tiny_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_image(tmp_path / 'a.png', scene(1))
    assert run(tiny_bundle, f'{tmp_path}/*.png', '--out', tmp_path) == 0
    before = files(tmp_path)
    assert run(tiny_bundle, f'{tmp_path}/*.png', '--out', tmp_path) == 2
    assert 'a.confidence.png is a result of an earlier run into' in capsys.readouterr().err
    assert files(tmp_path) == before


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ((), 'give --out DIR, where results go; to look only: --show or --rerun'),
        (
            ('--save', 'masks'),
            "argument --save: 'masks' is none of mask, confidence, overlay, video",
        ),
        (('--save', 'none,mask'), "'none,mask' is none and something"),
        (('--rerun', 'a.png'), "'a.png' is neither a file FILE.rrd nor an address"),
        (('--out', 'o', '--start', '2', '--end', '1'), '--end 1 is not after --start 2'),
        (('--out', 'o', '--every', '0'), "'0' is not a whole number from 1"),
    ],
)
def test_options_that_do_not_fit(
    tiny_bundle: Path,
    capsys: pytest.CaptureFixture[str],
    options: tuple[str, ...],
    message: str,
) -> None:
    with pytest.raises(SystemExit, match='2'):
        run(tiny_bundle, 'a.png', *options)
    assert message in capsys.readouterr().err


def test_a_window_needs_windows_and_a_display(monkeypatch: pytest.MonkeyPatch) -> None:
    ontology = load_ontology('ycor-8')
    monkeypatch.setattr(cv2, 'getBuildInformation', lambda: '  GUI:                    NONE\n')
    with pytest.raises(WindowError, match=r'has no windows \(opencv-python-headless\): use --rer'):
        Window(ontology, stills=False)
    monkeypatch.setattr(cv2, 'getBuildInformation', lambda: '  GUI:                    QT5\n')
    for name in ('DISPLAY', 'WAYLAND_DISPLAY'):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(WindowError, match=r'there is no display for a window \(DISPLAY and WAY'):
        Window(ontology, stills=False)


def test_q_ends_the_window(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_bundle: Path
) -> None:
    """On stand-ins for OpenCV's window functions, which the wheel for servers lacks."""
    monkeypatch.setenv('DISPLAY', ':0')
    monkeypatch.setattr(window, '_has_windows', lambda: True)
    shown: list[np.ndarray] = []
    keys = iter((-1, ord('q')))
    monkeypatch.setattr(cv2, 'namedWindow', lambda *_: None)
    monkeypatch.setattr(cv2, 'destroyWindow', lambda *_: None)
    monkeypatch.setattr(cv2, 'imshow', lambda _, picture: shown.append(picture))
    monkeypatch.setattr(cv2, 'waitKey', lambda _: next(keys))
    monkeypatch.setattr(cv2, 'getWindowProperty', lambda *_: 1.0)
    assert run(tiny_bundle, write_video(tmp_path / 'a.avi'), '--show') == 0
    assert [picture.shape for picture in shown] == [(72, 96, 3)] * 2
