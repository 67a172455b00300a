"""The segment command, run as users run it, on real files."""

from pathlib import Path
import re
import struct
import zlib

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from desertmind_seg.decoding.image_files import EXTENSIONS, read_color_file, read_label_file
from desertmind_seg.decoding.image_header import DecodeError
from desertmind_seg.engines.load import load_engine
from desertmind_seg.model.bundle import read_bundle
from desertmind_seg.model.ontology import load_ontology
from desertmind_seg.pipeline.rendering import colorize, overlay
from desertmind_seg.pipeline.segmenter import Segmenter
from desertmind_seg.segment import SAVE_CHOICES, build_parser, main
from desertmind_seg.segmenting import saving

ERROR = 'python -m desertmind_seg.segment: error: '

Image = npt.NDArray[np.uint8]


def write_image(path: Path, rgb: Image) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))
    return path


def with_exif_orientation(jpeg: bytes, orientation: int) -> bytes:
    """Put an EXIF segment with only an orientation behind the start-of-image marker."""
    entry = b'\x01\x12' + b'\x00\x03' + b'\x00\x00\x00\x01' + bytes([0, orientation, 0, 0])
    tiff = b'MM\x00*\x00\x00\x00\x08' + b'\x00\x01' + entry + bytes(4)
    exif = b'Exif\x00\x00' + tiff
    return jpeg[:2] + b'\xff\xe1' + (len(exif) + 2).to_bytes(2, 'big') + exif + jpeg[2:]


@pytest.fixture
def jpeg(asymmetric_rgb: Image) -> bytes:
    _, encoded = cv2.imencode('.jpg', cv2.cvtColor(asymmetric_rgb, cv2.COLOR_RGB2BGR))
    return encoded.tobytes()


def run(tiny_bundle: Path, source: Path, out: Path, *options: str) -> int:
    return main([str(source), '--out', str(out), '--bundle', str(tiny_bundle), *options])


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob('*') if path.is_file())


def results(stem: str) -> list[str]:
    return [f'{stem}.{end}' for end in ('confidence.png', 'mask.png', 'overlay.jpg')]


def test_a_pipe_gets_a_line_now_and_then(
    tmp_path: Path,
    tiny_bundle: Path,
    asymmetric_rgb: Image,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ('a', 'c', 'd'):
        write_image(tmp_path / 'in' / f'{name}.png', asymmetric_rgb)
    (tmp_path / 'in' / 'b.png').write_bytes(b'no image')
    assert run(tiny_bundle, tmp_path / 'in', tmp_path / 'out') == 1
    assert 'segmenting' not in capsys.readouterr().err  # too short for a line
    monkeypatch.setattr('desertmind_seg.pipeline.progress.EVERY_SEC', 0.0)
    assert run(tiny_bundle, tmp_path / 'in', tmp_path / 'out') == 1
    lines = capsys.readouterr().err.splitlines()
    said = [line for line in lines if line.startswith('segmenting: ')]
    assert re.fullmatch(r'segmenting: 1 of 4 images, [\d.e+]+ a second, 00:00 left', said[0])
    assert {line.partition(' images')[0][-6:] for line in said} == {f'{n} of 4' for n in (1, 2, 3)}
    # Nothing of a bar: no line is begun again, and the error has a line of its own.
    assert all('\r' not in line and '%' not in line for line in lines)
    assert any(line.startswith(f'{ERROR}{tmp_path / "in/b.png"}: ') for line in lines)


def test_nothing_segmented_leaves_no_folder(
    tmp_path: Path, tiny_bundle: Path, asymmetric_rgb: Image, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / 'bad.png'
    bad.write_bytes(b'no image')
    assert run(tiny_bundle, bad, tmp_path / 'out' / 'deep') == 2
    assert list(tmp_path.iterdir()) == [bad]
    capsys.readouterr()
    good = write_image(tmp_path / 'good.png', asymmetric_rgb)
    assert run(tiny_bundle, good, bad / 'deep') == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        f'{ERROR}{bad} is a file, where results need the folder {bad / "deep"}; name another one'
    )


def test_a_link_to_itself_is_told_in_one_line(
    tmp_path: Path, tiny_bundle: Path, asymmetric_rgb: Image, capsys: pytest.CaptureFixture[str]
) -> None:
    write_image(tmp_path / 'images/a.png', asymmetric_rgb)
    (tmp_path / 'out').symlink_to('out')
    assert run(tiny_bundle, tmp_path / 'images', tmp_path / 'out') == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(ERROR)
    assert str(tmp_path / 'out') in line


def test_folder_keeps_its_structure(
    tmp_path: Path,
    tiny_bundle: Path,
    asymmetric_rgb: Image,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source, out = tmp_path / 'in', tmp_path / 'out'
    write_image(source / 'a.png', asymmetric_rgb)
    write_image(source / 'deep' / 'er' / 'b.v1.JPG', asymmetric_rgb[:80])
    write_image(source / '.thumbnails' / 'hidden.png', asymmetric_rgb)
    write_image(source / '._a.png', asymmetric_rgb)
    (source / 'notes.txt').write_text('not an image')
    assert run(tiny_bundle, source, out) == 0
    assert files(out) == results('a') + results('deep/er/b.v1')
    expected = Segmenter(load_engine(read_bundle(tiny_bundle))).segment(asymmetric_rgb)
    mask = read_label_file(out / 'a.mask.png')
    assert mask.dtype == np.uint8
    assert np.array_equal(mask, expected.mask)
    shown = cv2.cvtColor(cv2.imread(str(out / 'a.mask.png')), cv2.COLOR_BGR2RGB)
    assert np.array_equal(shown, colorize(expected.mask, load_ontology('ycor-8')))
    confidence = cv2.imread(str(out / 'a.confidence.png'), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(confidence, expected.confidence)
    painted = read_color_file(out / 'a.overlay.jpg').astype(int)
    ideal = overlay(asymmetric_rgb, expected.mask, load_ontology('ycor-8'))
    assert np.abs(painted - ideal).mean() < 4  # JPEG
    assert read_label_file(out / 'deep/er/b.v1.mask.png').shape == (80, 131)
    said = capsys.readouterr().out
    assert said.startswith(f'2 of 2 images segmented into {out} with tiny (ycor-8) by onnxruntime')


def test_single_image_beside_itself(
    tmp_path: Path, tiny_bundle: Path, asymmetric_rgb: Image
) -> None:
    image = write_image(tmp_path / 'a.png', asymmetric_rgb)
    assert run(tiny_bundle, image, tmp_path, '--backend', 'onnxruntime-cpu') == 0
    assert files(tmp_path) == sorted([*results('a'), 'a.png'])


def test_larger_pictures_than_a_camera_has(tmp_path: Path, tiny_bundle: Path) -> None:
    fitting = np.random.default_rng(0).integers(0, 256, (2160, 64, 3), np.uint8)
    write_image(tmp_path / 'in/fitting.png', fitting)
    write_image(tmp_path / 'in/twice.png', fitting.repeat(2, axis=0).repeat(2, axis=1))
    assert run(tiny_bundle, tmp_path / 'in', tmp_path / 'out') == 0
    for kind in ('mask', 'confidence'):
        small, large = (
            cv2.imread(str(tmp_path / f'out/{name}.{kind}.png'), cv2.IMREAD_UNCHANGED)
            for name in ('fitting', 'twice')
        )
        assert len(np.unique(small)) > 1
        assert np.array_equal(large, small.repeat(2, axis=0).repeat(2, axis=1))


def test_a_strip_that_cannot_be_shrunk_is_refused_by_its_own_size(
    tmp_path: Path, tiny_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_image(tmp_path / 'strip.png', np.zeros((64, 4000, 3), np.uint8))
    assert run(tiny_bundle, tmp_path / 'strip.png', tmp_path / 'out') == 2
    assert 'frame is 4000 x 64 pixels' in capsys.readouterr().err


def test_threshold_marks_unlabelled(
    tmp_path: Path, tiny_bundle: Path, asymmetric_rgb: Image
) -> None:
    image = write_image(tmp_path / 'a.png', asymmetric_rgb)
    assert run(tiny_bundle, image, tmp_path / 'out', '--confidence-threshold', '0.9') == 0
    mask = read_label_file(tmp_path / 'out/a.mask.png')
    confidence = cv2.imread(str(tmp_path / 'out/a.confidence.png'), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(mask == 255, confidence < 0.9 * 255)
    assert 0 < (mask == 255).mean() < 1


@pytest.mark.parametrize('orientation', [1, 3, 6, 8])
def test_exif_orientation_is_applied(tmp_path: Path, jpeg: bytes, orientation: int) -> None:
    path = tmp_path / 'a.jpg'
    path.write_bytes(jpeg)
    stored = read_color_file(path)
    path.write_bytes(with_exif_orientation(jpeg, orientation))
    # EXIF 2.3: 3 is half a turn, 6 needs a quarter turn clockwise to be upright, 8 one against.
    quarter_turns = {1: 0, 3: 2, 6: 3, 8: 1}[orientation]
    assert np.array_equal(read_color_file(path), np.rot90(stored, quarter_turns))


def test_grey_16_bit_and_alpha_images(tmp_path: Path, asymmetric_rgb: Image) -> None:
    grey = asymmetric_rgb[..., 2]
    assert cv2.imwrite(str(tmp_path / 'grey.png'), grey)
    assert np.array_equal(read_color_file(tmp_path / 'grey.png'), np.dstack([grey] * 3))
    deep = cv2.cvtColor(asymmetric_rgb, cv2.COLOR_RGB2BGR).astype(np.uint16) * 257
    assert cv2.imwrite(str(tmp_path / 'deep.png'), deep)
    assert np.array_equal(read_color_file(tmp_path / 'deep.png'), asymmetric_rgb)
    rgba = cv2.cvtColor(asymmetric_rgb, cv2.COLOR_RGB2BGRA)
    assert cv2.imwrite(str(tmp_path / 'alpha.png'), rgba)
    assert np.array_equal(read_color_file(tmp_path / 'alpha.png'), asymmetric_rgb)


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (b'', 'it is empty; expected JPEG or PNG or TIFF or WebP or BMP'),
        (b'GIF89a' + bytes(50), 'it is GIF; expected JPEG'),
        (b'P6\n64 64\n255\n', 'it is PNM; expected JPEG'),
        (b'version https://git-lfs.github.com/spec/v1\n', 'a Git LFS pointer and not the image'),
        (b'\xff\xd8\xff\xe0', 'its JPEG of 4 bytes is truncated, damaged or not supported'),
    ],
)
def test_unreadable_content(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / 'a.jpg').write_bytes(content)
    with pytest.raises(DecodeError, match=message):
        read_color_file(tmp_path / 'a.jpg')


def test_image_larger_than_the_limit(tmp_path: Path) -> None:
    def chunk(kind: bytes, body: bytes) -> bytes:
        checksum = zlib.crc32(kind + body)
        return struct.pack('>I', len(body)) + kind + body + struct.pack('>I', checksum)

    header = chunk(b'IHDR', struct.pack('>IIBBBBB', 60_000, 60_000, 8, 2, 0, 0, 0))
    pixels = chunk(b'IDAT', zlib.compress(bytes(10)))
    path = tmp_path / 'a.png'
    path.write_bytes(b'\x89PNG\r\n\x1a\n' + header + pixels + chunk(b'IEND', b''))
    with pytest.raises(
        DecodeError, match=r'it claims 60000 x 60000 pixels .*; expected 1 x 1 to 8192 x 8192'
    ):
        read_color_file(path)


@pytest.mark.parametrize('share', [0.5, 0.9, 0.997])
def test_truncated_jpeg(tmp_path: Path, jpeg: bytes, share: float) -> None:
    # With an end marker in its header, as of a thumbnail.
    whole = jpeg[:2] + b'\xff\xe2\x00\x06\xff\xd8\xff\xd9' + jpeg[2:]
    path = tmp_path / 'a.jpg'
    path.write_bytes(whole)
    assert read_color_file(path).shape == (97, 131, 3)
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(DecodeError, match=r'its JPEG .* is truncated'):
        read_color_file(path)


def test_bad_images_are_named_and_the_others_done(
    tmp_path: Path,
    tiny_bundle: Path,
    asymmetric_rgb: Image,
    jpeg: bytes,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source, out = tmp_path / 'in', tmp_path / 'out'
    write_image(source / 'good.png', asymmetric_rgb)
    write_image(source / 'small.png', asymmetric_rgb[:20])
    (source / 'cut.jpg').write_bytes(jpeg[: len(jpeg) // 2])
    (source / 'text.png').write_text('not an image')
    assert run(tiny_bundle, source, out) == 1
    assert files(out) == results('good')
    captured = capsys.readouterr()
    assert captured.out.startswith('1 of 4 images segmented')
    assert (
        f'{ERROR}{source}/cut.jpg: its JPEG of 131 x 97 pixels does not decode: it is truncated'
        in captured.err
    )
    assert (
        f'{ERROR}{source}/text.png: it is no image (it begins with the bytes 6e 6f 74 20)'
        in captured.err
    )
    assert f'{ERROR}{source}/small.png: frame is 131 x 20 pixels; expected 64 x 64' in captured.err
    summary = captured.err.splitlines()[-1]
    assert summary.startswith(f'{ERROR}3 of 4 images failed: {source}/cut.jpg, ')


def test_result_that_cannot_be_written(
    tmp_path: Path,
    tiny_bundle: Path,
    asymmetric_rgb: Image,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source, out = tmp_path / 'in', tmp_path / 'out'
    write_image(source / 'sub' / 'a.png', asymmetric_rgb)
    out.mkdir()
    (out / 'sub').write_text('in the way')
    assert run(tiny_bundle, source, out) == 2
    assert f'{ERROR}{source}/sub/a.png: ' in capsys.readouterr().err
    assert files(out) == ['sub']


@pytest.mark.parametrize('out', ['in', 'in/masks', 'in/../in/masks', 'link/masks'])
def test_out_inside_the_input(
    tmp_path: Path,
    tiny_bundle: Path,
    asymmetric_rgb: Image,
    capsys: pytest.CaptureFixture[str],
    out: str,
) -> None:
    write_image(tmp_path / 'in' / 'a.png', asymmetric_rgb)
    (tmp_path / 'link').symlink_to(tmp_path / 'in')
    assert run(tiny_bundle, tmp_path / 'in', tmp_path / out) == 2
    assert f'{out} lies inside the input {tmp_path}/in: ' in capsys.readouterr().err
    assert files(tmp_path / 'in') == ['a.png']


def test_images_that_differ_in_their_extension_keep_it(
    tmp_path: Path,
    tiny_bundle: Path,
    asymmetric_rgb: Image,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ('a.jpg', 'a.png', 'a.jpg.png', 'b.png', 'sub/a.bmp'):
        write_image(tmp_path / 'in' / name, asymmetric_rgb)
    assert run(tiny_bundle, tmp_path / 'in', tmp_path / 'out', '--save', 'mask') == 0
    assert files(tmp_path / 'out') == [
        f'{name}.mask.png' for name in ('a.jpg', 'a.jpg.png', 'a.png', 'b', 'sub/a')
    ]
    said = f'note: of 3 images, such as {tmp_path}/in/a.jpg: others have its name but for the ext'
    assert said in capsys.readouterr().err


def test_refusals_before_any_work(
    tmp_path: Path,
    tiny_bundle: Path,
    asymmetric_rgb: Image,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / 'out'
    assert run(tiny_bundle, tmp_path / 'absent', out) == 2
    assert 'absent does not exist; give an image or a folder' in capsys.readouterr().err
    (tmp_path / 'empty').mkdir()
    assert run(tiny_bundle, tmp_path / 'empty', out) == 2
    assert 'holds no images in any of its folders; expected files ending in .bmp' in (
        capsys.readouterr().err
    )
    (tmp_path / 'clip.doc').touch()
    assert run(tiny_bundle, tmp_path / 'clip.doc', out) == 2
    assert 'clip.doc is neither image, video nor bag by its name' in capsys.readouterr().err
    image = write_image(tmp_path / 'a.png', asymmetric_rgb)
    assert run(tmp_path / 'absent.onnx', image, out) == 2
    assert 'absent.onnx does not exist; give the path of an .onnx' in capsys.readouterr().err
    (tmp_path / 'foreign.onnx').write_bytes(b'')
    assert run(tmp_path / 'foreign.onnx', image, out) == 2
    assert 'foreign.onnx is no bundle: it is empty. Copy it again.' in capsys.readouterr().err
    assert not out.exists()
    assert run(tiny_bundle, image, tmp_path / 'clip.doc') == 2
    assert 'clip.doc' in capsys.readouterr().err


@pytest.mark.parametrize('threshold', ['2', '-0.1', 'nan', 'high'])
def test_a_threshold_is_a_probability(
    threshold: str, tmp_path: Path, tiny_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match='2'):
        run(tiny_bundle, tmp_path, tmp_path / 'out', f'--confidence-threshold={threshold}')
    said = capsys.readouterr().err
    assert f'{ERROR}argument --confidence-threshold: ' in said
    assert threshold in said


def test_help_teaches_by_example(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match='0'):
        main(['--help'])
    said = capsys.readouterr().out
    assert f'by their extension: {" ".join(EXTENSIONS)}\n' in said
    joined = said.replace('\\\n', '')
    examples = re.findall(r'^    python -m desertmind_seg.segment (.*)', joined, re.M)
    assert len(examples) == 6
    for example in examples:
        assert build_parser().parse_args(example.split()).out == Path('masks')
    assert SAVE_CHOICES == saving.CHOICES
    for choice in SAVE_CHOICES:
        assert f'\n  {choice} ' in said


@pytest.mark.data
def test_real_frames(tmp_path: Path, tiny_bundle: Path, shared_data_dir: Path) -> None:
    source = shared_data_dir / 'desert' / 'Color_Images'
    assert run(tiny_bundle, source, tmp_path / 'out') == 0
    masks = sorted((tmp_path / 'out').glob('*.mask.png'))
    assert len(masks) == 5
    assert read_label_file(masks[0]).shape == (540, 960)
