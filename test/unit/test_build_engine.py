"""Real TensorRT-RTX builds, without a GPU: graph, types, profiles, refusals."""

from importlib.machinery import ModuleSpec
import importlib.util
import os
from pathlib import Path
import re
import signal
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
from tiny_bundle import write_tiny_bundle
from tiny_typed import write_tiny_typed_bundle

from desertmind_seg import build_engine
from desertmind_seg.build_engine import main
from desertmind_seg.engines import tensorrt_build, tensorrt_library
from desertmind_seg.engines.cache import CACHE_VARIABLE, StoredEngine
from desertmind_seg.engines.cuda import Device
from desertmind_seg.engines.profiles import DYNAMIC, parse_shape
from desertmind_seg.engines.protocol import EngineBuildError, EngineError
from desertmind_seg.engines.tensorrt_build import (
    BuildOptions,
    build_plan,
    stored_engine,
)
from desertmind_seg.engines.tensorrt_library import (
    CURRENT,
    TensorRt,
    choose_target,
    choose_tensorrt,
    installed_tensorrt,
)
from desertmind_seg.engines.tensorrt_network import ParsedNetwork, graph_for_tensorrt
from desertmind_seg.model.bundle import Bundle, read_bundle, with_hash

ROOT = Path(__file__).resolve().parents[2]
ERROR = 'python -m desertmind_seg.build_engine: error: '
RTX_A2000 = Device('NVIDIA RTX A2000 12GB', 'sm86')
H100 = Device('NVIDIA H100 80GB HBM3', 'sm90')


def go_on(what: str, fraction: float) -> bool:
    return True


@pytest.fixture(scope='module')
def tensorrt() -> TensorRt:
    (rtx,) = (found for found in installed_tensorrt() if found.rtx)
    return rtx


@pytest.fixture
def bundle(tiny_bundle: Path) -> Bundle:
    return read_bundle(tiny_bundle)


@pytest.mark.parametrize('modality', ['rgb', 'rgbd'])
def test_the_network_has_the_border_of_a_bundle(
    modality: str, tensorrt: TensorRt, tmp_path: Path
) -> None:
    bundle = write_tiny_bundle(tmp_path / 'tiny.onnx', modality=modality)
    parsed = ParsedNetwork(tensorrt, bundle)
    border = {
        name: (tensor.dtype.name, tuple(tensor.shape))
        for name, tensor in {**parsed.inputs, **parsed.outputs}.items()
    }
    depth = {'depth': ('FLOAT', (1, -1, -1))} if modality == 'rgbd' else {}
    assert border == {
        'image': ('UINT8', (1, -1, -1, 3)),
        **depth,
        **dict.fromkeys(('mask', 'confidence', 'cost'), ('UINT8', (1, -1, -1))),
    }
    profile = parsed.profile(DYNAMIC)
    shapes = {name: [tuple(size) for size in profile.get_shape(name)] for name in parsed.inputs}
    assert shapes['image'] == [(1, 64, 64, 3), (1, 720, 1280, 3), (1, 2160, 3840, 3)]
    if modality == 'rgbd':
        assert shapes['depth'] == [(1, 64, 64), (1, 720, 1280), (1, 2160, 3840)]


def built_lines(report: tuple[str, ...], name: str) -> list[str]:
    return [line for line in report if line.startswith(f'Name: {name}')]


def test_the_builders_report_has_every_profile(tensorrt: TensorRt, bundle: Bundle) -> None:
    parsed = ParsedNetwork(tensorrt, bundle)
    built = build_plan(tensorrt, parsed, 'sm86', parse_shape('480x640,720x1280'), go_on)
    (image,) = (line for line in built.report if line.startswith(' Name: image'))
    assert 'IOMode: Input, DataType: UInt8, Dimensions: [1,-1,-1,3]' in image
    assert re.findall(r'(\w+)Shape: \[([\d,]+)\]', image) == [
        (which, size)
        for size in ('1,480,640,3', '1,720,1280,3')
        for which in ('Min', 'Opt', 'Max')
    ]
    outputs = [line for line in built.report if 'IOMode: Output, DataType: UInt8' in line]
    assert len(outputs) == 3


def test_half_and_single_stay_where_the_graph_has_them(tensorrt: TensorRt, tmp_path: Path) -> None:
    bundle = write_tiny_typed_bundle(tmp_path / 'fp16.onnx', 'fp16')
    parsed = ParsedNetwork(tensorrt, bundle)
    types = {name: (kind, dtype) for name, kind, dtype in parsed.layers()}
    assert types['node_of_half_logits'] == ('CONVOLUTION', 'HALF')
    assert types['node_of_layer_norm'] == ('NORMALIZATION', 'FLOAT')
    assert types['node_of_likelihood'] == ('UNARY', 'FLOAT')  # the softmax
    built = build_plan(tensorrt, parsed, 'sm89', parse_shape('dynamic'), go_on)
    (convolution,) = (line for line in built.report if 'node_of_half_logits' in line)
    weights = re.search(r'Constants: \[(.*?)\], Outputs:', convolution)
    assert weights
    assert set(re.findall(r'Datatype: (\w+)', weights[1])) == {'Half'}


def test_int8_weights_and_activations_reach_the_engine(tensorrt: TensorRt, tmp_path: Path) -> None:
    bundle = write_tiny_typed_bundle(tmp_path / 'int8.onnx', 'int8')
    parsed = ParsedNetwork(tensorrt, bundle)
    kinds = [(kind, dtype) for _, kind, dtype in parsed.layers()]
    assert kinds.count(('QUANTIZE', 'INT8')) == 1
    assert kinds.count(('DEQUANTIZE', 'FLOAT')) == 2
    built = build_plan(tensorrt, parsed, 'sm86', parse_shape('dynamic'), go_on)
    (convolution,) = built_lines(built.report, 'node_of_small_logits')
    inputs = re.search(r'Inputs: \[(.*?)\], Constants: \[ (\{.*?\})', convolution)
    assert inputs
    # Quantize, convolution and dequantize became one layer that reads int8.
    assert 'Datatype: Int8' in inputs[1]
    assert 'Datatype: Int8' in inputs[2]


def test_int32_biases_are_dequantized_and_nothing_else_changes(tmp_path: Path) -> None:
    bundle = write_tiny_typed_bundle(tmp_path / 'int8.onnx', 'int8')
    content = bundle.path.read_bytes()
    rewritten = graph_for_tensorrt(content)
    before, after = (onnx.load_model_from_string(text).graph for text in (content, rewritten))
    assert len(after.node) == len(before.node) - 1
    rgb = np.random.default_rng(0).integers(0, 256, (1, 97, 131, 3), np.uint8)
    options = onnxruntime.SessionOptions()
    # As the graphs say, without fusing int8 into operators that round in another order.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    results = [
        onnxruntime.InferenceSession(text, options).run(None, {'image': rgb})
        for text in (content, rewritten)
    ]
    assert len(np.unique(results[0][0])) > 1
    for old, new in zip(*results, strict=True):
        assert np.array_equal(old, new)

    plain = write_tiny_bundle(tmp_path / 'tiny.onnx').path.read_bytes()
    assert graph_for_tensorrt(plain) is plain


def test_probabilities_are_cut_off(tensorrt: TensorRt, tmp_path: Path) -> None:
    bundle = write_tiny_bundle(tmp_path / 'new.onnx', probabilities=True)
    assert 'probabilities' in bundle.outputs
    rewritten = onnx.load_model_from_string(graph_for_tensorrt(bundle.path.read_bytes())).graph
    names = [value.name for value in rewritten.output]
    assert sorted(names) == ['confidence', 'cost', 'mask']
    older = onnx.load(write_tiny_bundle(tmp_path / 'old.onnx').path).graph
    assert sorted(node.op_type for node in rewritten.node) == sorted(
        node.op_type for node in older.node
    )
    assert set(ParsedNetwork(tensorrt, bundle).outputs) == {'mask', 'confidence', 'cost'}


def test_int8_that_is_not_around_0_is_refused(tensorrt: TensorRt, tmp_path: Path) -> None:
    path = tmp_path / 'int8.onnx'
    write_tiny_typed_bundle(path, 'int8')
    model = onnx.load(path)
    (quantize,) = (node for node in model.graph.node if node.op_type == 'QuantizeLinear')
    (zero,) = (each for each in model.graph.initializer if each.name == quantize.input[2])
    zero.CopyFrom(onnx.numpy_helper.from_array(np.int8(3), zero.name))
    path.write_bytes(with_hash(model.SerializeToString()))
    with pytest.raises(EngineError, match=r'to int8 that is not around 0, .* Use the fp16 bundle'):
        ParsedNetwork(tensorrt, read_bundle(path))


@pytest.mark.parametrize('with_zero_point', [True, False])
def test_uint8_activations_are_refused(
    with_zero_point: bool, tensorrt: TensorRt, tmp_path: Path
) -> None:
    """TensorRT itself would only warn, and read them as int8."""
    path = tmp_path / 'int8.onnx'
    bundle = write_tiny_typed_bundle(path, 'int8', np.uint8)
    if not with_zero_point:  # then uint8 is ONNX's default
        model = onnx.load(path)
        (quantize,) = (node for node in model.graph.node if node.op_type == 'QuantizeLinear')
        del quantize.input[2]
        path.write_bytes(with_hash(model.SerializeToString()))
        bundle = read_bundle(path)
    pattern = r'quantizes activations to uint8, .* Use the fp16 bundle of this model'
    with pytest.raises(EngineError, match=pattern):
        ParsedNetwork(tensorrt, bundle)


def test_the_shipped_model_is_single_precision_throughout(
    tensorrt: TensorRt,
) -> None:
    bundle = read_bundle(ROOT / 'models/ycor8_rgb.onnx')
    parsed = ParsedNetwork(tensorrt, bundle)
    layers = parsed.layers()
    convolutions = [dtype for _, kind, dtype in layers if kind == 'CONVOLUTION']
    assert len(convolutions) > 50
    assert set(convolutions) == {'FLOAT'}
    assert {dtype for _, _, dtype in layers} <= {'FLOAT', 'INT32', 'INT64', 'UINT8'}
    assert sum(dtype == 'UINT8' for _, _, dtype in layers) == 3
    built = build_plan(tensorrt, parsed, 'sm86', parse_shape('dynamic'), go_on)
    assert not [line for line in built.report if 'Datatype: Half' in line]


def test_progress_rises_to_the_end(tensorrt: TensorRt, bundle: Bundle) -> None:
    told: list[tuple[str, float]] = []

    def listen(what: str, fraction: float) -> bool:
        told.append((what, fraction))
        return True

    build_plan(tensorrt, ParsedNetwork(tensorrt, bundle), 'sm86', (DYNAMIC,), listen)
    fractions = [fraction for _, fraction in told]
    assert fractions == sorted(fractions)
    assert fractions[0] < 0.1
    assert fractions[-2] > 0.8
    assert told[-1] == ('Engine built', 1.0)
    assert len(set(fractions)) > 20
    assert told[0][0] == 'Building engine'


def test_progress_can_stop_the_builder(tensorrt: TensorRt, bundle: Bundle, tmp_path: Path) -> None:
    options = BuildOptions(folder=tmp_path, progress=lambda what, fraction: fraction < 0.3)
    with pytest.raises(
        EngineBuildError, match=r'stopped while building the engine of .* for sm86'
    ):
        stored_engine(bundle, tensorrt, 'sm86', options)
    assert [path.suffix for path in tmp_path.iterdir()] == ['.lock']


def test_a_graph_that_tensorrt_refuses_is_explained(tensorrt: TensorRt, tmp_path: Path) -> None:
    """TensorRT takes uint8 in no operator but Cast."""
    path = write_tiny_bundle(tmp_path / 'tiny.onnx').path
    model = onnx.load(path)
    cast, transpose = model.graph.node[:2]
    transpose.input[0], transpose.output[0] = 'image', 'image_nchw'
    cast.input[0], cast.output[0] = 'image_nchw', 'nchw'
    model.graph.node[0].CopyFrom(transpose)
    model.graph.node[1].CopyFrom(onnx.helper.make_node('Cast', ['image_nchw'], ['nchw'], to=1))
    path.write_bytes(with_hash(model.SerializeToString()))
    bundle = read_bundle(path)
    pattern = r'tensorrt_rtx [\d.]+ could not (parse|build the engine of) .*tiny.onnx.*UInt8'
    with pytest.raises(EngineError, match=re.compile(pattern, re.DOTALL | re.IGNORECASE)):
        build_plan(tensorrt, ParsedNetwork(tensorrt, bundle), 'sm86', (DYNAMIC,), go_on)


def test_a_bundle_that_changed_is_refused(tensorrt: TensorRt, tmp_path: Path) -> None:
    bundle = write_tiny_bundle(tmp_path / 'tiny.onnx')
    write_tiny_bundle(tmp_path / 'tiny.onnx', temperature=2.0)
    with pytest.raises(EngineError, match='changed after it was read as a bundle'):
        ParsedNetwork(tensorrt, bundle)


# Which TensorRT for which GPU


def test_targets_and_the_gpu_of_the_machine(tensorrt: TensorRt) -> None:
    assert {'sm75', 'sm86', 'sm89', 'sm120'} <= set(tensorrt.targets)
    assert choose_tensorrt('sm89', None) == (tensorrt, 'sm89')
    assert choose_tensorrt('current', RTX_A2000) == (tensorrt, 'sm86')
    for target, device in (('sm99', None), ('sm90', H100), ('current', H100)):
        wanted = target if target != 'current' else r'NVIDIA H100 80GB HBM3 \(sm90\)'
        with pytest.raises(EngineError, match=f"cannot build for target '{wanted}'; .*sm86") as no:
            choose_tensorrt(target, device)
        assert 'does not support' in no.value.clause


def test_plain_tensorrt_builds_for_the_very_gpu(
    tensorrt: TensorRt, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = TensorRt('tensorrt', tensorrt.module, tensorrt.log)
    monkeypatch.setattr(tensorrt_library, 'installed_tensorrt', lambda: [tensorrt, plain])
    assert choose_tensorrt('current', RTX_A2000) == (tensorrt, 'sm86')
    assert choose_tensorrt('current', H100) == (plain, 'sm90-nvidia-h100-80gb-hbm3')
    assert choose_tensorrt('sm90', H100) == (plain, 'sm90-nvidia-h100-80gb-hbm3')
    with pytest.raises(EngineError, match="cannot build for target 'sm87'"):
        choose_tensorrt('sm87', H100)


def test_without_tensorrt(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec

    def without(name: str) -> ModuleSpec | None:
        return None if name.startswith('tensorrt') else real(name)

    monkeypatch.setattr(tensorrt_library, 'find_spec', without)
    with pytest.raises(EngineError, match=r"pip install -c constraints.txt '.\[tensorrt\]'") as no:
        installed_tensorrt()
    assert no.value.clause == 'TensorRT is not installed'


def test_a_tensorrt_that_does_not_load(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> None:
        raise ImportError('libnvinfer.so.10: cannot open shared object file')

    monkeypatch.setattr(tensorrt_library, 'import_module', broken)
    with pytest.raises(EngineError, match=r'tensorrt_rtx_bindings: libnvinfer.so.10: cannot open'):
        installed_tensorrt()


def test_a_tensorrt_that_does_not_load_hides_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def found(name: str) -> str:
        if name == 'tensorrt_rtx':
            raise ImportError('libtensorrt_rtx.so.1: cannot open shared object file')
        return name

    monkeypatch.setattr(tensorrt_library, 'find_spec', lambda _: True)
    monkeypatch.setattr(tensorrt_library, 'import_module', found)
    monkeypatch.setattr(tensorrt_library, '_log_of', lambda _: None)
    assert [(each.flavour, each.module) for each in installed_tensorrt()] == [
        ('tensorrt_rtx', 'tensorrt_rtx_bindings'),
        ('tensorrt', 'tensorrt'),
    ]


# The command


def test_the_command_builds_each_target_once(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(tiny_bundle), '--target', 'sm86,sm89', '--cache-dir', str(tmp_path)]
    assert main(arguments) == 0
    first = capsys.readouterr().out.splitlines()
    assert [line.partition(':')[0] for line in first] == ['sm86', 'sm89']
    assert all(re.search(r'MB, built in [\d.]+ s\)$', line) for line in first)
    engines = sorted(tmp_path.glob('*.engine'))
    contents = [path.read_bytes() for path in engines]
    assert len(set(contents)) == 2

    assert main(arguments) == 0
    assert all(line.endswith('MB, was there)') for line in capsys.readouterr().out.splitlines())
    assert [path.read_bytes() for path in engines] == contents

    assert main([*arguments[:2], 'sm86', *arguments[3:], '--shape', '64x96']) == 0
    assert 'built in' in capsys.readouterr().out
    assert len(list(tmp_path.glob('*.engine'))) == 3


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--target', 'sm86,sm99'], ".* cannot build for target 'sm99'"),
        (['--target', 'sm86', '--shape', '480'], "shape '480': .* no frame size from 64x64 to "),
        (
            ['--target', 'sm86', '--cache-dir', '/sys/kernel/desertmind_seg'],
            '.* cannot be written to: .*set DESERTMIND_SEG_ENGINE_CACHE to a folder',
        ),
    ],
)
def test_the_command_refuses(
    arguments: list[str],
    message: str,
    tiny_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv('DESERTMIND_SEG_ENGINE_CACHE', str(tmp_path))
    assert main([str(tiny_bundle), *arguments]) == 2
    assert re.match(ERROR + message, capsys.readouterr().err)
    assert not list(tmp_path.iterdir())


def test_the_command_without_a_bundle(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(['/nowhere.onnx', '--target', 'sm86']) == 2
    assert f'{ERROR}bundle /nowhere.onnx does not exist' in capsys.readouterr().err


def test_a_target_that_fails_leaves_the_others(
    tiny_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def build(_bundle: Bundle, _tensorrt: TensorRt, target: str, _: BuildOptions) -> StoredEngine:
        if target == 'sm86':
            raise EngineError('could not build for sm86')
        return StoredEngine(tmp_path / 'x.engine', SimpleNamespace(build_sec=1.0), b'', True)  # type: ignore[arg-type]

    monkeypatch.setattr(tensorrt_build, 'stored_engine', build)
    assert main([str(tiny_bundle), '--target', 'sm86,sm89']) == 1
    said = capsys.readouterr()
    assert said.out == f'sm89: {tmp_path}/x.engine (0.0 MB, built in 1.0 s)\n'
    assert said.err.splitlines()[-1] == f'{ERROR}could not build for sm86'


def test_help_names_the_variable_of_the_cache(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match='0'):
        main(['--help'])
    said = capsys.readouterr().out
    assert f'${CACHE_VARIABLE}, else' in said
    examples = re.findall(r'^    python -m desertmind_seg.build_engine (.*)', said, re.M)
    options = [build_engine.build_parser().parse_args(line.split()) for line in examples]
    assert [option.target for option in options] == [CURRENT, 'sm86,sm89']


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGHUP])
def test_ctrl_c_and_a_closed_terminal_stop_the_command_cleanly(
    number: signal.Signals,
    tiny_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = signal.getsignal(signal.SIGINT)  # a command sets its own, for good
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may run under nohup
    tell = build_engine._Bar.progress

    def press(bar: build_engine._Bar, what: str, fraction: float) -> bool:
        if fraction > 0.2:
            os.kill(os.getpid(), number)
        return tell(bar, what, fraction)

    monkeypatch.setattr(build_engine._Bar, 'progress', press)
    arguments = [str(tiny_bundle), '--target', 'sm86,sm89', '--cache-dir', str(tmp_path)]
    try:
        assert main(arguments) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert 'build_engine: stopped' in capsys.readouterr().err
    assert not list(tmp_path.glob('*.engine'))


def test_current_needs_a_driver(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    if Path('/dev/nvidiactl').exists():
        pytest.skip('this machine has an NVIDIA driver')
    assert main(['--cache-dir', str(tmp_path)]) == 2
    assert 'the NVIDIA driver is missing. Install it' in capsys.readouterr().err
    with pytest.raises(EngineError, match='cudaGetDeviceCount failed: cudaErrorInsufficientDri'):
        choose_target('current')
