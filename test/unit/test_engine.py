"""The ONNX Runtime engine: results, cut graphs, idling, and refusals."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import chain, combinations, pairwise
import json
import logging
import math
import os
from pathlib import Path
import platform
import re
import subprocess
import sys
import threading
import time
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper
import onnxruntime
import pytest
from tiny_bundle import tiny_metadata, tiny_model, write_tiny_bundle

from desertmind_seg import options
from desertmind_seg.engines import load as load_module
from desertmind_seg.engines import onnxruntime as onnxruntime_module
from desertmind_seg.engines.load import load_engine
from desertmind_seg.engines.onnxruntime import (
    OnnxRuntimeEngine,
    cpu_quota,
    physical_cores,
    usable_cores,
)
from desertmind_seg.engines.protocol import (
    EngineBuildError,
    EngineError,
    Progress,
    check_outputs,
)
from desertmind_seg.model.bundle import MAX_SIZE_HW, OUTPUTS, read_bundle, write_bundle
from desertmind_seg.model.ontology import UNLABELED, load_ontology

ROOT = Path(__file__).resolve().parents[2]
TELEMETRY = 'ORT_DISABLE_TELEMETRY'
SUBSETS = list(chain.from_iterable(combinations(OUTPUTS, count) for count in (1, 2, 3)))


@pytest.fixture
def engine(tiny_bundle: Path) -> OnnxRuntimeEngine:
    return OnnxRuntimeEngine(read_bundle(tiny_bundle), 'cpu')


def test_one_pixel_of_a_class_that_there_is_not_is_an_error(tiny_bundle: Path) -> None:
    bundle, mask = read_bundle(tiny_bundle), np.zeros((3, 4), np.uint8)
    mask[1, 2], mask[2, 3] = 7, UNLABELED
    check_outputs(bundle, (3, 4), {'mask': mask})
    mask[0, 1] = 8
    with pytest.raises(EngineError, match='gives the class 8, but its ontology ycor-8 has'):
        check_outputs(bundle, (3, 4), {'mask': mask})


def test_one_pixel_that_is_sure_of_nothing_is_an_error(tiny_bundle: Path) -> None:
    bundle, confidence = read_bundle(tiny_bundle), np.full((3, 4), 200, np.uint8)
    confidence[1, 2] = 30  # of 8 classes the best has 255 / 8 = 31.9 or more, 1 less by rounding
    check_outputs(bundle, (3, 4), {'confidence': confidence})
    confidence[1, 2] = 29
    with pytest.raises(EngineError, match='gives a confidence of 29/255 for the best of 8'):
        check_outputs(bundle, (3, 4), {'confidence': confidence})


def test_classes_appear_where_their_colours_are(
    engine: OnnxRuntimeEngine, asymmetric_rgb: npt.NDArray[np.uint8]
) -> None:
    ontology = load_ontology('ycor-8')
    result = engine.infer(asymmetric_rgb, outputs=OUTPUTS)
    mask = result['mask']
    for name in OUTPUTS:
        assert (result[name].shape, result[name].dtype) == ((97, 131), np.uint8)
    # A few pixels from the borders, which the resizing softens.
    assert (mask[:36] == ontology.class_id('sky')).all()
    assert (mask[54:76, 19:46] == ontology.class_id('obstacle')).all()
    assert (mask[44:, 55:] == ontology.class_id('rough trail')).all()
    assert result['confidence'][10, 10] > 240
    assert result['cost'][90, 120] == pytest.approx(20, abs=3)  # rough trail
    assert result['cost'][65, 30] == pytest.approx(254, abs=3)  # obstacle


@pytest.mark.skipif(platform.machine() != 'x86_64', reason='needs an x86 CPU on Linux')
def test_only_a_cpu_without_vnni_adds_int8_otherwise() -> None:
    has_vnni = 'vnni' in Path('/proc/cpuinfo').read_text(encoding='utf-8')
    assert onnxruntime_module.sums_saturate() == (not has_vnni)
    options = onnxruntime.SessionOptions()
    onnxruntime_module.add_exactly(options)
    if has_vnni:
        with pytest.raises(RuntimeError):
            options.get_session_config_entry('session.x64quantprecision')
    else:
        assert options.get_session_config_entry('session.x64quantprecision') == '1'


def test_confidence_and_cost_by_hand(tmp_path: Path) -> None:
    """A grey frame: the softmax over 8 known colour distances, worked in float64."""
    ontology = load_ontology('ycor-8')
    bundle = write_tiny_bundle(tmp_path / 'tiny.onnx', temperature=2.5)
    result = load_engine(bundle).infer(np.full((64, 80, 3), 120, np.uint8), outputs=OUTPUTS)
    colors = ontology.colors_rgb[:8].astype(np.float64)
    logits = -((120.0 - colors) ** 2).sum(axis=1) / (2 * 32.0**2)
    likelihood = np.exp(logits / 2.5)
    probability = likelihood / likelihood.sum()
    assert np.unique(result['mask']).tolist() == [probability.argmax()]
    assert np.unique(result['confidence']).tolist() == [round(255 * probability.max())]
    assert np.unique(result['cost']).tolist() == [round(float(probability @ ontology.costs))]


@pytest.mark.parametrize('outputs', SUBSETS)
def test_results_do_not_depend_on_what_else_is_asked(
    engine: OnnxRuntimeEngine, outputs: tuple[str, ...]
) -> None:
    rgb = np.random.default_rng(5).integers(0, 256, (97, 131, 3), dtype=np.uint8)
    everything = engine.infer(rgb, outputs=OUTPUTS)
    some = engine.infer(rgb, outputs=outputs)
    assert set(some) == set(outputs)
    for name in outputs:
        assert np.array_equal(some[name], everything[name])


def kernels(engine: OnnxRuntimeEngine, tmp_path: Path, outputs: tuple[str, ...]) -> Counter[str]:
    """Return how often each operator type ran for one frame, by ONNX Runtime's own profile."""
    engine._options.enable_profiling = True
    engine._options.profile_file_prefix = str(tmp_path / 'profile')
    engine._sessions.clear()
    engine.infer(np.zeros((64, 64, 3), np.uint8), outputs=outputs)
    events = json.loads(Path(engine._session(frozenset(outputs)).end_profiling()).read_text())
    return Counter(
        event['args']['op_name']
        for event in events
        if event.get('cat') == 'Node' and event['name'].endswith('kernel_time')
    )


def test_only_asked_outputs_are_computed(engine: OnnxRuntimeEngine, tmp_path: Path) -> None:
    mask = kernels(engine, tmp_path, ('mask',))
    confidence = kernels(engine, tmp_path, ('mask', 'confidence'))
    everything = kernels(engine, tmp_path, OUTPUTS)
    assert mask['ArgMax'] == 1
    assert mask['Exp'] == mask['ReduceSum'] == 0
    assert confidence['Exp'] == confidence['ReduceSum'] == 1
    assert everything['ReduceSum'] == 2


@pytest.mark.parametrize('size_hw', [(64, 64), (65, 127), (480, 640), (2160, 64), (64, 3840)])
def test_every_frame_size(engine: OnnxRuntimeEngine, size_hw: tuple[int, int]) -> None:
    result = engine.infer(np.zeros((*size_hw, 3), np.uint8))
    assert result['mask'].shape == result['confidence'].shape == size_hw


def test_the_largest_frame(engine: OnnxRuntimeEngine) -> None:
    frame = np.zeros((*MAX_SIZE_HW, 3), np.uint8)
    assert engine.infer(frame, outputs=('mask',))['mask'].shape == MAX_SIZE_HW


def test_input_may_be_read_only_or_strided(
    engine: OnnxRuntimeEngine, asymmetric_rgb: npt.NDArray[np.uint8]
) -> None:
    expected = engine.infer(asymmetric_rgb)['mask']
    frozen = np.frombuffer(asymmetric_rgb.tobytes(), np.uint8).reshape(asymmetric_rgb.shape)
    assert not frozen.flags.writeable
    assert np.array_equal(engine.infer(frozen)['mask'], expected)
    strided = asymmetric_rgb[..., ::-1].copy()[..., ::-1]
    assert not strided.flags.c_contiguous
    assert np.array_equal(engine.infer(strided)['mask'], expected)


def test_outputs_belong_to_the_caller(
    engine: OnnxRuntimeEngine, asymmetric_rgb: npt.NDArray[np.uint8]
) -> None:
    first = engine.infer(asymmetric_rgb)['mask']
    kept = first.copy()
    engine.infer(255 - asymmetric_rgb)
    assert np.array_equal(first, kept)
    first[:] = 255  # writable


def test_rgbd_takes_depth(tmp_path: Path, asymmetric_rgb: npt.NDArray[np.uint8]) -> None:
    rgb_engine = load_engine(write_tiny_bundle(tmp_path / 'rgb.onnx'))
    rgbd_engine = load_engine(write_tiny_bundle(tmp_path / 'rgbd.onnx', modality='rgbd'))
    depth = np.linspace(0, 10, 97 * 131, dtype=np.float32).reshape(97, 131)
    # The tiny network adds depth to all logits alike: the mask stays.
    expected = rgb_engine.infer(asymmetric_rgb)['mask']
    assert np.array_equal(rgbd_engine.infer(asymmetric_rgb, depth)['mask'], expected)
    with pytest.raises(EngineError, match="'tiny' takes RGB and depth, but no depth"):
        rgbd_engine.infer(asymmetric_rgb)
    with pytest.raises(EngineError, match="'tiny' takes RGB only, but depth was given"):
        rgb_engine.infer(asymmetric_rgb, depth)


def test_idle_engine_leaves_the_cpu_alone(tiny_bundle: Path) -> None:
    engine = load_engine(read_bundle(tiny_bundle), 'onnxruntime-cpu', num_threads=2)
    frame = np.zeros((480, 640, 3), np.uint8)
    idle_cpu_sec = 0.0
    for _ in range(5):
        engine.infer(frame)
        start = time.process_time()
        threading.Event().wait(0.05)
        idle_cpu_sec += time.process_time() - start
    # With spinning allowed each frame leaves 0.037 s of it: 0.18 s in all.
    assert idle_cpu_sec < 0.05


@pytest.mark.parametrize(
    ('outputs', 'message'),
    [
        (('mask', 'depth'), r"outputs \['mask', 'depth'\]: expected some of \['mask', 'conf"),
        ((), r'outputs \[\]: expected some of'),
    ],
)
def test_unknown_outputs(
    engine: OnnxRuntimeEngine, outputs: tuple[str, ...], message: str
) -> None:
    with pytest.raises(EngineError, match=message):
        engine.infer(np.zeros((64, 64, 3), np.uint8), outputs=outputs)


def test_frame_that_the_graph_refuses(engine: OnnxRuntimeEngine) -> None:
    frame: Any = np.zeros((64, 64, 3), np.float32)
    with pytest.raises(
        EngineError, match=r'cpu failed on a frame of shape \(64, 64, 3\), type fl'
    ):
        engine.infer(frame)


def test_closed_engine(engine: OnnxRuntimeEngine) -> None:
    engine.close()
    with pytest.raises(EngineError, match='the engine is closed; load it again'):
        engine.infer(np.zeros((64, 64, 3), np.uint8))


def test_file_that_changed_after_it_was_read(tmp_path: Path) -> None:
    bundle = write_tiny_bundle(tmp_path / 'tiny.onnx')
    write_tiny_bundle(tmp_path / 'tiny.onnx', temperature=2.0)
    with pytest.raises(EngineError, match=f'changed after it was read .*was {bundle.sha256}'):
        load_engine(bundle)


def test_graph_that_onnx_runtime_refuses(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise onnxruntime.capi.onnxruntime_pybind11_state.NotImplemented('no kernel for Foo')

    monkeypatch.setattr(onnxruntime, 'InferenceSession', refuse)
    with pytest.raises(EngineError, match=r'onnxruntime-cpu cannot load .*no kernel for Foo'):
        load_engine(read_bundle(tiny_bundle), 'onnxruntime-cpu')


def heavy_model(of: str, side: int, count: int) -> onnx.ModelProto:
    """Return the tiny model, with matrix products of `side` x `side` before the mask.

    Of the frame they take long in each run; of constants, while ONNX Runtime loads the graph.
    """
    model = tiny_model(load_ontology('ycor-8'))
    graph = model.graph
    (cast,) = (node for node in graph.node if list(node.output) == ['mask'])
    cast.output[0] = 'light_mask'
    zero = numpy_helper.from_array(np.zeros((side, side), np.float32), 'matrix')
    graph.initializer.extend([zero, numpy_helper.from_array(np.int64([0, 1]), 'axes')])
    seed = 'matrix'
    if of == 'frame':
        graph.node.append(helper.make_node('ReduceMin', ['below_best'], ['least'], keepdims=0))
        graph.node.append(helper.make_node('Add', ['matrix', 'least'], ['product_seed']))
        seed = 'product_seed'
    names = [seed, *(f'product{i}' for i in range(count))]
    for above, below in pairwise(names):
        graph.node.append(helper.make_node('MatMul', [above, seed], [below]))
    graph.node.extend(
        [
            helper.make_node('ReduceMin', [names[-1], 'axes'], ['nothing'], keepdims=0),
            helper.make_node('Cast', ['nothing'], ['nothing_uint8'], to=onnx.TensorProto.UINT8),
            helper.make_node('BitwiseOr', ['light_mask', 'nothing_uint8'], ['mask']),
        ]
    )
    return model


def heavy_engine(path: Path, of: str, count: int, progress: Progress) -> OnnxRuntimeEngine:
    """Load a bundle of `count` products that take about 0.1 s each."""
    metadata = tiny_metadata(load_ontology('ycor-8'))
    return OnnxRuntimeEngine(
        write_bundle(heavy_model(of, 1500, count), metadata, path), 'cpu', 1, progress
    )


def await_onnxruntime() -> None:
    """Wait for the threads that load or run."""
    for thread in threading.enumerate():
        if thread.name == 'onnxruntime':
            thread.join(30.0)
            assert not thread.is_alive()


def test_loading_that_takes_too_long_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(onnxruntime_module.LIMIT_SEC, 'cpu', 0.2)
    monkeypatch.setattr(onnxruntime_module, '_STOP_SEC', 0.1)
    pattern = (
        r'heavy\.onnx: loading the model takes more than 0\.2 s on .* does not stop: end this'
    )
    with pytest.raises(EngineError, match=pattern):
        heavy_engine(tmp_path / 'heavy.onnx', 'constants', 20, lambda *_: True)


def test_a_first_frame_that_takes_too_long_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []

    def progress(done: str, fraction: float) -> bool:
        told.append(done)
        return not done.startswith('computing')

    rgb = np.zeros((64, 64, 3), np.uint8)
    engine = heavy_engine(tmp_path / 'heavy.onnx', 'frame', 1000, progress)
    with pytest.raises(EngineBuildError, match=r'computing the first frame of .*heavy\.onnx'):
        engine.infer(rgb)
    assert told[-1] == 'computing the first frame on onnxruntime-cpu, 1 of 60 s'
    monkeypatch.setattr(engine, '_limit_sec', 0.2)
    pattern = r'computing the first frame takes more than 0\.2 s on .* Export a smaller network\.$'
    with pytest.raises(EngineError, match=pattern):
        engine.infer(rgb)
    await_onnxruntime()  # it stopped: all the products would take minutes


def _small_mask(model: onnx.ModelProto) -> None:
    """Give 10 x 10 pixels whatever the frame."""
    model.graph.initializer.extend(
        numpy_helper.from_array(np.int64(value), name)
        for name, value in (('ten', [10, 10]), ('from', [0, 0]), ('plane', [1, 2]))
    )
    _replace_output(model, 'mask', [('Slice', ['mask_old', 'from', 'ten', 'plane'])])


def _replace_output(model: onnx.ModelProto, name: str, nodes: list[tuple[str, list[str]]]) -> None:
    (node,) = (node for node in model.graph.node if list(node.output) == [name])
    node.output[0] = f'{name}_old'
    for operator, inputs in nodes:
        model.graph.node.append(helper.make_node(operator, inputs, [name]))


def _unknown_class(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.uint8(8), 'eight'))
    _replace_output(model, 'mask', [('BitwiseOr', ['mask_old', 'eight'])])


def _nan_weights(model: onnx.ModelProto) -> None:
    (bias,) = (tensor for tensor in model.graph.initializer if tensor.name == 'bias')
    values = numpy_helper.to_array(bias).copy()
    values[3] = np.nan
    bias.CopyFrom(numpy_helper.from_array(values, 'bias'))


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (
            _small_mask,
            r'gives a mask of shape \(10, 10\) and type uint8 for a frame of \(64, 96\)',
        ),
        (_unknown_class, r'gives the class \d+, but its ontology ycor-8 has the classes 0 to 7'),
        (_nan_weights, r'gives a confidence of \d+/255 for the best of 8 classes, .* NaN'),
    ],
)
def test_a_graph_that_does_not_do_what_bundles_promise(
    tmp_path: Path, change: Callable[[onnx.ModelProto], None], message: str
) -> None:
    model = tiny_model(load_ontology('ycor-8'))
    change(model)
    bundle = write_bundle(model, tiny_metadata(load_ontology('ycor-8')), tmp_path / 'odd.onnx')
    engine = OnnxRuntimeEngine(bundle, 'cpu')
    with pytest.raises(EngineError, match=message):
        engine.infer(np.zeros((64, 96, 3), np.uint8))


@pytest.mark.parametrize('outputs', [('mask', 'confidence'), ('probabilities',)])
def test_one_frame_that_overflows(tmp_path: Path, outputs: tuple[str, ...]) -> None:
    """The black frame of the warm-up does not; a bright one would be of class 0 and cost 0."""
    ontology = load_ontology('ycor-8')
    model = tiny_model(ontology, probabilities=True)
    (weight,) = (tensor for tensor in model.graph.initializer if tensor.name == 'weight')
    values = numpy_helper.to_array(weight) * np.float32(2e37)
    weight.CopyFrom(numpy_helper.from_array(values, 'weight'))
    bundle = write_bundle(model, tiny_metadata(ontology), tmp_path / 'bright.onnx')
    engine = OnnxRuntimeEngine(bundle, 'cpu')
    engine.infer(np.zeros((64, 96, 3), np.uint8), outputs=outputs)
    with pytest.raises(EngineError, match=r'gives a confidence of 0/255 .* NaN or infinity'):
        engine.infer(np.full((64, 96, 3), 255, np.uint8), outputs=outputs)
    engine.infer(np.zeros((64, 96, 3), np.uint8), outputs=outputs)


def test_many_classes_that_are_nan(tiny_bundle: Path) -> None:
    """Of 200 classes the best may have 1/255, and none has 0."""
    bundle = read_bundle(tiny_bundle)
    table = bundle.metadata.ontology.model_copy(
        update={'classes': bundle.metadata.ontology.classes[:1] * 200}
    )
    many = replace(bundle, metadata=bundle.metadata.model_copy(update={'ontology': table}))
    faint = np.ones((64, 96), np.uint8)
    check_outputs(many, (64, 96), {'mask': faint, 'confidence': faint})
    with pytest.raises(EngineError, match='0/255 for the best of 200 classes'):
        check_outputs(many, (64, 96), {'mask': faint, 'confidence': faint * 0})


def test_unknown_backend_and_thread_count(tiny_bundle: Path) -> None:
    bundle = read_bundle(tiny_bundle)
    with pytest.raises(
        EngineError, match="no backend 'tpu'; there are auto, tensorrt, onnxruntime-c"
    ):
        load_engine(bundle, 'tpu')
    with pytest.raises(EngineError, match='num_threads is -1; give 0 for automatic'):
        load_engine(bundle, num_threads=-1)


def test_cuda_without_its_provider(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, 'get_available_providers', lambda: ['CPUExecutionProvider'])
    pattern = (
        r"has \['CPUExecutionProvider'\].*pip install onnxruntime-gpu.*choose onnxruntime-cpu"
    )
    with pytest.raises(EngineError, match=pattern):
        load_engine(read_bundle(tiny_bundle), 'onnxruntime-cuda')


@pytest.fixture
def broken_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU build whose CUDA does not start: ONNX Runtime then falls back to the CPU by itself."""
    session = onnxruntime.InferenceSession

    def on_cpu(model: bytes, options: Any, **_: object) -> Any:
        return session(model, options, providers=['CPUExecutionProvider'])

    both = ['CUDAExecutionProvider', 'CPUExecutionProvider']
    monkeypatch.setattr(onnxruntime, 'get_available_providers', lambda: both)
    monkeypatch.setattr(onnxruntime, 'preload_dlls', lambda: None)
    monkeypatch.setattr(onnxruntime, 'InferenceSession', on_cpu)


@pytest.mark.usefixtures('broken_cuda')
def test_cuda_that_does_not_start_is_no_silent_fallback(tiny_bundle: Path) -> None:
    pattern = r"CUDA did not start, only \['CPUExecutionProvider'\] did. Check nvidia-smi"
    with pytest.raises(EngineError, match=pattern):
        load_engine(read_bundle(tiny_bundle), 'onnxruntime-cuda')


@pytest.mark.usefixtures('broken_cuda')
def test_auto_logs_its_choice_and_why(tiny_bundle: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, 'desertmind_seg.engines.load'):
        engine = load_engine(read_bundle(tiny_bundle), num_threads=1)
    assert engine.backend == 'onnxruntime-cpu'
    assert engine.device == 'cpu, 1 threads'
    (message,) = caplog.messages
    # One short clause a backend; the whole story comes when the backend is named.
    assert re.fullmatch(
        r'backend auto chose onnxruntime-cpu on cpu, 1 threads \(passed over tensorrt: no NVIDIA '
        r'driver; onnxruntime-cuda: CUDA did not start\)',
        message,
    )


def test_commands_offer_the_backends_in_the_order_of_auto() -> None:
    assert tuple(load_module.BACKENDS) == options.BACKENDS


def test_auto_without_any_backend(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise EngineError('no such device')

    monkeypatch.setattr(load_module, 'BACKENDS', {'a': fail, 'b': fail})
    pattern = 'no backend can run this bundle here: a: no such device; b: no such device'
    with pytest.raises(EngineError, match=pattern):
        load_engine(read_bundle(tiny_bundle))


def test_auto_does_not_pass_over_a_builder_that_was_stopped(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object) -> None:
        raise EngineBuildError('the engine folder is full')

    backends = {'tensorrt': stopped, 'onnxruntime-cpu': load_module._onnxruntime_cpu}
    monkeypatch.setattr(load_module, 'BACKENDS', backends)
    with pytest.raises(EngineBuildError, match='the engine folder is full'):
        load_engine(read_bundle(tiny_bundle))


def test_threads_are_the_physical_cores_of_this_process(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, 'sched_getaffinity', lambda _pid: {0, 1})
    cores = physical_cores({0, 1})
    assert 1 <= len(cores) <= 2
    engine = load_engine(read_bundle(tiny_bundle), 'onnxruntime-cpu')
    assert engine.device == f'cpu, {len(cores)} threads'


@pytest.mark.parametrize(
    ('own', 'files', 'cpus'),
    [
        # systemd's CPUQuota=150%, in a slice that may take more
        (
            '0::/system.slice/seg.service',
            {
                'system.slice/seg.service/cpu.max': '150000 100000',
                'system.slice/cpu.max': '400000 100000',
            },
            1.5,
        ),
        # that of the slice is less
        ('0::/a/b', {'a/b/cpu.max': 'max 100000', 'a/cpu.max': '50000 100000'}, 0.5),
        # docker run --cpus 2: a container sees its own group as the root
        ('0::/', {'cpu.max': '200000 100000'}, 2.0),
        ('0::/', {'cpu.max': 'max 100000'}, math.inf),
        # version 1, with the path of the host
        (
            '5:memory:/x\n3:cpu,cpuacct:/docker/4711\n0::/',
            {'cpu/cpu.cfs_quota_us': '100000', 'cpu/cpu.cfs_period_us': '50000'},
            2.0,
        ),
        ('1:cpu:/', {'cpu/cpu.cfs_quota_us': '-1', 'cpu/cpu.cfs_period_us': '100000'}, math.inf),
        ('9:name=systemd:/', {}, math.inf),
    ],
)
def test_cpu_quota_of_containers_and_services(
    tmp_path: Path, own: str, files: dict[str, str], cpus: float
) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f'{content}\n')
    (tmp_path / 'own').write_text(f'{own}\n')
    assert cpu_quota(tmp_path, tmp_path / 'own') == cpus
    assert cpu_quota(tmp_path, tmp_path / 'not there') == math.inf


@pytest.mark.parametrize(('quota', 'threads'), [(0.5, 1), (1.0, 1), (1.9, 1), (3.0, 2)])
def test_no_more_threads_than_the_quota_has(
    monkeypatch: pytest.MonkeyPatch, quota: float, threads: int
) -> None:
    monkeypatch.setattr(onnxruntime_module, 'physical_cores', lambda _cpus: {'0', '1'})
    monkeypatch.setattr(onnxruntime_module, 'cpu_quota', lambda: quota)
    assert usable_cores() == threads


@pytest.mark.gpu
def test_cuda_agrees_with_the_cpu(
    tiny_bundle: Path, asymmetric_rgb: npt.NDArray[np.uint8]
) -> None:
    if 'CUDAExecutionProvider' not in onnxruntime.get_available_providers():
        pytest.skip('needs onnxruntime-gpu; this is onnxruntime')
    bundle = read_bundle(tiny_bundle)
    on_gpu = load_engine(bundle, 'onnxruntime-cuda').infer(asymmetric_rgb, outputs=OUTPUTS)
    on_cpu = load_engine(bundle, 'onnxruntime-cpu').infer(asymmetric_rgb, outputs=OUTPUTS)
    assert (on_gpu['mask'] == on_cpu['mask']).mean() > 0.999
    for name in ('confidence', 'cost'):
        assert np.abs(on_gpu[name].astype(int) - on_cpu[name]).max() <= 1


def test_the_runtime_does_not_report_to_its_makers(tmp_path: Path) -> None:
    """It has an identifier of the machine and a database in its user's home where it does."""
    code = 'from desertmind_seg.engines import onnxruntime as ours; import onnxruntime'
    environment = {name: text for name, text in os.environ.items() if name != TELEMETRY}
    environment = {**environment, 'HOME': str(tmp_path), 'XDG_CACHE_HOME': ''}
    subprocess.run([sys.executable, '-c', code], cwd=ROOT, env=environment, check=True)
    assert not list(tmp_path.rglob('*'))
    given = f'import os, desertmind_seg; print(os.environ["{TELEMETRY}"])'
    environment[TELEMETRY] = '0'
    said = subprocess.run(
        [sys.executable, '-c', given], cwd=ROOT, env=environment, check=True, capture_output=True
    )
    assert said.stdout == b'0\n'
