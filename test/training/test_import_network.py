"""training.import_network: bundles of ONNX networks that other programs wrote."""

from dataclasses import replace
from pathlib import Path
import re
import shutil

import cv2
import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, quantize_dynamic, quantize_static
import pytest

from desertmind_seg.engines.load import load_engine
from desertmind_seg.model.bundle import read_bundle
from desertmind_seg.model.ontology import load_ontology
from training.bundles import parity
from training.bundles.weights import load_stage
from training.import_network import build_parser, main
from training.network_imports import importing
from training.network_imports.source import read_network
from training.recipes.schema import RecipeError

HEIGHT, WIDTH = 64, 96
CLASSES = 3
RNG = np.random.default_rng(4)
WEIGHTS = RNG.normal(size=(CLASSES, 3)).astype(np.float32)
MEAN, STD = np.float32([100, 110, 120]), np.float32([50, 60, 70])
NORMALISED = ['--mean', *map(str, MEAN), '--std', *map(str, STD)]
TABLE = """\
name: mine
description: Three classes.
source: a test
classes:
- {id: 0, name: ground, raw: [0], color_rgb: [0, 255, 0], group: traversable, cost: 0}
- {id: 1, name: rock, raw: [1], color_rgb: [255, 0, 0], group: obstacle, cost: 254}
"""
THIRD = '- {id: 2, name: bush, raw: [2], color_rgb: [0, 0, 9], group: obstacle, cost: 200}\n'


@pytest.fixture(scope='module')
def frame(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rgb = RNG.integers(0, 256, (HEIGHT // 8, WIDTH // 8, 3), np.uint8)
    path = tmp_path_factory.mktemp('frames') / 'frame.png'
    smooth = cv2.resize(rgb, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    cv2.imwrite(str(path), smooth[..., ::-1])
    return path


def network(
    path: Path,
    *,
    shape: tuple[int | str, ...] = (1, 3, HEIGHT, WIDTH),
    element: int = TensorProto.FLOAT,
    weights: npt.NDArray[np.float32] = WEIGHTS,
    end: str = '',
    opset: int = 13,
    outputs: tuple[str, ...] = ('scores',),
) -> Path:
    """Write a network of one 1x1 convolution, and of what may stand around one."""
    half = element == TensorProto.FLOAT16
    values = weights[:, :, None, None].astype(np.float16 if half else np.float32)
    last = len(shape) == 4 and shape[-1] == 3
    nodes, name = [], 'picture:0'
    if element == TensorProto.UINT8:
        nodes.append(helper.make_node('Cast', [name], ['float'], to=TensorProto.FLOAT))
        name = 'float'
    if last:
        nodes.append(helper.make_node('Transpose', [name], ['first'], perm=[0, 3, 1, 2]))
        name = 'first'
    nodes.append(helper.make_node('Conv', [name, 'weights'], ['conv']))
    name = 'conv'
    if end:
        attributes = {'axis': 1} if end in ('Softmax', 'ArgMax') else {}
        nodes.append(helper.make_node(end, [name], ['ended'], **attributes))
        name = 'ended'
    if last:
        nodes.append(helper.make_node('Transpose', [name], ['back'], perm=[0, 2, 3, 1]))
        name = 'back'
    nodes += [helper.make_node('Identity', [name], [output]) for output in outputs]
    kind = TensorProto.INT64 if end == 'ArgMax' else TensorProto.FLOAT16 if half else 1
    graph = helper.make_graph(
        nodes,
        'g',
        [helper.make_tensor_value_info('picture:0', element, shape)],
        [helper.make_tensor_value_info(output, kind, [None] * 4) for output in outputs],
        [numpy_helper.from_array(values, 'weights')],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', opset)], ir_version=8)
    onnx.save(model, path)
    return path


def table(folder: Path, classes: int = CLASSES) -> Path:
    path = folder / 'classes.yaml'
    path.write_text(TABLE + (THIRD if classes == CLASSES else ''), encoding='utf-8')
    return path


def run(source: Path, frame: Path, *more: str, classes: int = CLASSES) -> tuple[int, Path]:
    """Return the exit status, and where the bundle is."""
    out = source.parent / 'bundle.onnx'
    options = ['--ontology', str(table(source.parent, classes)), '--frames', str(frame)]
    return main([str(source), *options, '--out', str(out), *more]), out


def expected(
    frame: Path,
    scores_of: npt.NDArray[np.float32],
    *,
    normalised: bool = True,
    bgr: bool = False,
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
    """Compute by NumPy the mask, and the probability of its classes."""
    image = cv2.imread(str(frame))[..., ::-1].astype(np.float32)
    if normalised:
        image = (image - MEAN) / STD
    logits = (image[..., ::-1] if bgr else image) @ scores_of.T
    if logits.shape[2] == 1:
        logits = np.concatenate([np.zeros_like(logits), logits], axis=2)
    odds = np.exp(logits - logits.max(axis=2, keepdims=True))
    return logits.argmax(axis=2).astype(np.uint8), (1 / odds.sum(axis=2)).astype(np.float32)


@pytest.mark.parametrize(
    ('given', 'more'),
    [
        pytest.param({'opset': 11}, [], id='logits'),
        pytest.param(
            {
                'shape': ('n', -1, -1, 3),
                'element': TensorProto.UINT8,
                'end': 'Softmax',
                'outputs': ('a', 'b'),
            },
            ['--bgr', '--network-size', f'{HEIGHT}x{WIDTH}', '--output', 'b'],
            id='tensorflow',
        ),
        pytest.param(
            {
                'element': TensorProto.FLOAT16,
                'weights': WEIGHTS[:1],
                'end': 'Sigmoid',
                'opset': 21,
            },
            [],
            id='half_of_two_classes',
        ),
    ],
)
def test_gives_masks_of_network(
    tmp_path: Path,
    frame: Path,
    capsys: pytest.CaptureFixture[str],
    given: dict[str, object],
    more: list[str],
) -> None:
    source = network(tmp_path / 'theirs.onnx', **given)  # type: ignore[arg-type]
    weights = given.get('weights', WEIGHTS)
    assert isinstance(weights, np.ndarray)
    of_bytes = given.get('element') == TensorProto.UINT8
    said = [] if of_bytes else NORMALISED
    status, out = run(source, frame, *said, *more, classes=max(2, len(weights)))
    assert status == 0
    assert ('normalisation none, as' in capsys.readouterr().out) is of_bytes
    bundle = read_bundle(out)
    half = given.get('element') == TensorProto.FLOAT16
    assert bundle.metadata.precision == ('fp16' if half else 'fp32')
    assert bundle.metadata.parity['pixel_agreement'] > 0.995
    rgb = np.ascontiguousarray(cv2.imread(str(frame))[..., ::-1])
    found = load_engine(bundle, 'onnxruntime-cpu').infer(rgb, outputs=('mask', 'confidence'))
    mask, probability = expected(frame, weights, normalised=not of_bytes, bgr='--bgr' in more)
    equal = found['mask'] == mask
    assert equal.mean() > (0.99 if half else 0.9999)
    off = np.abs(found['confidence'].astype(np.float32) - 255 * probability)
    assert off[equal].max() <= (2.0 if half else 0.51)


@pytest.mark.parametrize(
    ('given', 'more', 'of_probabilities'),
    [
        pytest.param({}, [], False, id='logits'),
        # Each is rounded to 1/255, so that the sum of many is up to 0.03 away from 1.
        pytest.param(
            {'weights': np.random.default_rng(1).normal(size=(24, 3)), 'end': 'Softmax'},
            ['--ontology', 'rugd-24'],
            True,
            id='probabilities_of_24_classes',
        ),
    ],
)
def test_takes_int8_as_it_is(
    tmp_path: Path,
    frame: Path,
    given: dict[str, object],
    more: list[str],
    of_probabilities: bool,
) -> None:
    class Frames(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            rgb = cv2.imread(str(frame))[..., ::-1]
            image = ((rgb - MEAN) / STD).astype(np.float32).transpose(2, 0, 1)[None]
            self._left = iter([{'picture:0': image}])

        def get_next(self) -> dict[str, npt.NDArray[np.float32]] | None:
            return next(self._left, None)

    whole = network(tmp_path / 'whole.onnx', **given)  # type: ignore[arg-type]
    quantize_static(str(whole), str(tmp_path / 'int8.onnx'), Frames())
    status, out = run(tmp_path / 'int8.onnx', frame, *NORMALISED, *more)
    assert status == 0
    metadata = read_bundle(out).metadata
    assert metadata.precision == 'int8'
    assert metadata.recipe['imported_network']['of_probabilities'] is of_probabilities
    # Not that an fp32 bundle of it would do.
    with pytest.raises(RecipeError, match='holds a network of another program'):
        load_stage(out, [])


def test_calls_int8_what_is_quantised_as_it_runs(tmp_path: Path) -> None:
    whole = network(tmp_path / 'whole.onnx')
    quantize_dynamic(str(whole), str(tmp_path / 'int8.onnx'))
    assert read_network(tmp_path / 'int8.onnx', CLASSES, None, None).precision == 'int8'


@pytest.mark.parametrize(
    ('shape', 'size_hw', 'last'),
    [
        pytest.param((1, 'h', 'w', 3), (3, 96), True, id='height_is_classes'),
        pytest.param((1, 3, 'h', 'w'), (96, 3), False, id='width_is_classes'),
        pytest.param((1, 'h', 'w', 3), (3, 3), True, id='square_last'),
        pytest.param((1, 3, 'h', 'w'), (3, 3), False, id='square_first'),
    ],
)
def test_tells_classes_from_pixels_where_they_are_as_many(
    tmp_path: Path, shape: tuple[int | str, ...], size_hw: tuple[int, int], last: bool
) -> None:
    source = network(tmp_path / 'theirs.onnx', shape=shape)
    assert read_network(source, CLASSES, size_hw, None).classes_last is last


def refusal(
    capsys: pytest.CaptureFixture[str], source: Path, frame: Path, *more: str, classes: int = 3
) -> str:
    status, out = run(source, frame, *(more or NORMALISED), classes=classes)
    assert status == 2
    assert not out.exists()
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


@pytest.mark.parametrize(
    ('given', 'words'),
    [
        ({'end': 'ArgMax'}, 'export the network without its arg-max'),
        ({'outputs': ('out', 'aux')}, 'several outputs that may be the scores: out, aux'),
        ({'shape': (1, 3, 'h', 'w')}, '--network-size HEIGHTxWIDTH'),
        ({'shape': (2, 3, HEIGHT, WIDTH)}, "input 'picture:0' is float (2, 3, 64, 96)"),
        ({'shape': (1, 4, HEIGHT, WIDTH)}, 'float (1, 4, 64, 96); expected one RGB image'),
        ({'weights': WEIGHTS[:2]}, 'scores float32 (1, 2, 64, 96); expected scores of the 3'),
        ({'weights': WEIGHTS * np.float32(np.nan)}, 'gives NaN or infinity for frame'),
        ({'end': 'Sigmoid'}, 'as of a sigmoid for each class; export it without its sigmoid'),
        ({'end': 'RandomNormalLike'}, 'it draws random numbers, as dropout does in training'),
        ({'end': 'Softplusses'}, 'cannot be loaded by ONNX Runtime'),
        ({'element': TensorProto.UINT8}, 'takes uint8, the bytes of an image as they are; norm'),
    ],
)
def test_refuses_what_is_no_such_network(
    tmp_path: Path,
    frame: Path,
    capsys: pytest.CaptureFixture[str],
    given: dict[str, object],
    words: str,
) -> None:
    source = network(tmp_path / 'theirs.onnx', **given)  # type: ignore[arg-type]
    assert words in refusal(capsys, source, frame)


def test_refuses_what_a_covered_lens_makes_nan(
    tmp_path: Path, frame: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = network(tmp_path / 'theirs.onnx', end='Reciprocal')
    line = refusal(capsys, source, frame, '--normalisation', 'none')
    assert 'gives NaN or infinity for a black image' in line


def test_keeps_the_worst_frame_of_a_bundle_that_disagrees(
    tmp_path: Path,
    frame: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(parity, 'CAMERA_SIZES_HW', ((HEIGHT, WIDTH),))
    source = network(tmp_path / 'theirs.onnx')
    other = network(tmp_path / 'other.onnx', weights=WEIGHTS[::-1])
    given = read_network(source, CLASSES, None, None)
    wrong = replace(given, session=read_network(other, CLASSES, None, None).session)
    monkeypatch.setattr(importing, 'read_network', lambda *_: wrong)
    line = refusal(capsys, source, frame)
    assert '% of pixels agree with ONNX Runtime on theirs.onnx, expected at least 99.5' in line
    picture = tmp_path / 'bundle.worst_frame.png'
    assert f'(ONNX Runtime on theirs.onnx, the bundle, where they differ): {picture}. ' in line
    assert {*tmp_path.iterdir()} == {source, other, tmp_path / 'classes.yaml', picture}


def test_never_writes_over_the_network(
    tmp_path: Path, frame: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = network(tmp_path / 'theirs.onnx')
    before = source.read_bytes()
    status, _ = run(source, frame, *NORMALISED, '--out', str(source))
    assert status == 2
    assert 'itself, the network; give another name' in capsys.readouterr().err
    assert source.read_bytes() == before


def test_wants_the_normalisation_of_floats(
    tmp_path: Path, frame: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refusal(capsys, network(tmp_path / 'theirs.onnx'), frame, '--precision', 'fp16')
    assert 'give --normalisation, or --mean and --std' in line


def test_takes_the_topic_of_a_bag(
    tmp_path: Path, frame: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = network(tmp_path / 'theirs.onnx')
    line = refusal(capsys, source, frame, *NORMALISED, '--image', '/camera/color')
    assert 'is no bag, but topics are given' in line


def test_says_what_cannot_be_asked_of_a_network(
    tmp_path: Path, frame: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = network(tmp_path / 'theirs.onnx', outputs=('out', 'aux'))
    line = refusal(capsys, source, frame, *NORMALISED, '--output', 'uot')
    assert "no output 'uot' (did you mean 'out'?)" in line
    line = refusal(capsys, source, frame, *NORMALISED, '--network-size', '32x32')
    assert 'takes images of 64x96 (height x width) alone, not 32x32' in line


def test_says_what_is_no_network(
    tmp_path: Path, frame: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    web = tmp_path / 'page.onnx'
    web.write_text('<html>', encoding='utf-8')
    assert 'is no whole ONNX file' in refusal(capsys, web, frame)
    ours = shutil.copy('models/ycor8_small_int8.onnx', tmp_path / 'ours.onnx')
    assert 'is a bundle already' in refusal(capsys, ours, frame)


def test_examples_name_tables_that_are_there() -> None:
    named = re.findall(r'--ontology ([\w-]+) ', build_parser().format_help())
    assert named
    assert all(load_ontology(name) for name in named)


@pytest.mark.parametrize(
    ('given', 'words'),
    [
        (['--mean', '0', '0', '0'], 'together'),
        (['--normalisation', 'unit', '--mean', '1', '1', '1'], 'together'),
        (['--mean', '0', '0', '0', '--std', '1', '1', '0'], 'above 0'),
        (
            ['--mean', '.485', '.456', '.406', '--std', '.229', '.224', '.225'],
            'are for values 0 to 1; give those for values 0 to 255',
        ),
    ],
)
def test_wants_the_normalisation(
    frame: Path, capsys: pytest.CaptureFixture[str], given: list[str], words: str
) -> None:
    command = [str(frame), '--ontology', 'ycor-8', '--frames', str(frame), '--out', 'y.onnx']
    with pytest.raises(SystemExit):
        main([*command, *given])
    assert words in capsys.readouterr().err


def test_names_weights_that_were_left_behind(
    tmp_path: Path, frame: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = network(tmp_path / 'theirs.onnx')
    onnx.save(
        onnx.load(source), source, save_as_external_data=True, location='w', size_threshold=0
    )
    (tmp_path / 'w').unlink()
    assert 'keeps weights in files beside it, which cannot be read' in refusal(
        capsys, source, frame
    )
