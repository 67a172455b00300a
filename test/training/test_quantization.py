"""int8 graphs: pairs that ONNX Runtime fuses, ranges from real frames, sensitive layers kept."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.utils import Extractor
import onnxruntime
from onnxruntime.quantization.calibrate import TensorsData
import pytest
from tiny_model import EXPORTED, Named, inputs, logits, signal_to_noise_db, traced
from tiny_ycor import write_tiny_ycor

from desertmind_seg.model.ontology import load_ontology
from training.bundles.frame_choice import stratified
from training.bundles.precision import Calibration, PrecisionError
from training.bundles.quantization import (
    SENSITIVE_DB,
    Feeds,
    layers,
    network_feeds,
    network_model,
    quantise,
    sensitivities,
    tensor_ranges,
    with_pairs,
)
from training.data.datasets import class_pixels, list_frames
from training.recipes.schema import Recipe

_LITE, _RESNET = EXPORTED[:2]
_FEEDS = [inputs((65, 127), seed) for seed in range(3)]


def _ranges(model: onnx.ModelProto) -> TensorsData:
    return tensor_ranges(network_model(model), network_feeds(model, _FEEDS), 'minmax')


def _optimised(model: onnx.ModelProto, path: Path) -> Counter[str]:
    """Count what ONNX Runtime makes of the operators."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(path)
    options.log_severity_level = 3
    onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=['CPUExecutionProvider']
    )
    return Counter(node.op_type for node in onnx.load(path).graph.node)


@pytest.mark.parametrize('named', [_LITE, _RESNET], ids=lambda named: named[1])
def test_every_pair_disappears_into_an_integer_operator(named: Named, tmp_path: Path) -> None:
    _, model = traced(named)
    quantised = with_pairs(model, _ranges(model), layers(model))
    onnx.checker.check_model(quantised, full_check=True)
    before = Counter(node.op_type for node in model.graph.node)
    found = _optimised(quantised, tmp_path / 'optimised.onnx')
    assert found['QLinearConv'] == before['Conv'] == len(layers(model))
    assert found['Conv'] == found['Relu'] == 0
    assert found['Clip'] == 1  # the depth encoding's
    network = Counter(node.op_type for node in network_model(model).graph.node)
    assert found['QLinearAdd'] == network['Add'] > 0
    assert found['QLinearConcat'] == network['Concat'] > 0
    # Left are the border of the network, two resizes of the decoder and the mean of its pooling.
    assert found['QuantizeLinear'] <= 4
    assert found['DequantizeLinear'] <= 4
    weights = {tensor.name: tensor for tensor in quantised.graph.initializer}
    for node in quantised.graph.node:
        if node.op_type == 'DequantizeLinear' and node.input[0] in weights:
            scales = numpy_helper.to_array(weights[node.input[1]])
            assert scales.size == weights[node.input[0]].dims[0]  # one a channel


def test_layers_that_are_kept_are_not_quantised_by_onnx_runtime(tmp_path: Path) -> None:
    _, model = traced(_LITE)
    # The layer after the first, a depthwise one, with filters of very different size.
    first, kept = layers(model)[:2]
    uneven = onnx.ModelProto()
    uneven.CopyFrom(model)
    nodes = {node.name: node for node in uneven.graph.node}
    weights = {tensor.name: tensor for tensor in uneven.graph.initializer}
    for name in nodes[kept].input[1:]:
        values = numpy_helper.to_array(weights[name]).copy()
        values[::2] *= 0.002
        weights[name].CopyFrom(numpy_helper.from_array(values, name))
    ranges = _ranges(uneven)
    both = with_pairs(uneven, ranges, [first, layers(model)[2]])
    assert _optimised(both, tmp_path / 'optimised.onnx')['QLinearConv'] == 2
    alone = [with_pairs(uneven, ranges, [name]) for name in (first, layers(model)[2])]
    expected = logits(uneven)
    assert signal_to_noise_db(expected, logits(both)) > (
        min(signal_to_noise_db(expected, logits(one)) for one in alone) - 6.0
    )


@pytest.mark.parametrize('calibration', get_args(Calibration))
def test_ranges_hold_what_the_frames_have(calibration: Calibration) -> None:
    _, model = traced(_RESNET)
    network = network_model(model)
    # The first layers are enough: entropy takes a second a tensor.
    second = [node for node in network.graph.node if node.op_type == 'Conv'][1]
    reads = [value.name for value in network.graph.input]
    part = Extractor(network).extract_model(reads, list(second.output))
    # Depth that is NaN or infinite is encoded before the network, so nothing here is.
    feeds = network_feeds(model, _FEEDS)
    ranges = tensor_ranges(part, feeds, calibration)
    shown = onnx.ModelProto()
    shown.CopyFrom(part)
    del shown.graph.output[:]
    names = [name for name in ranges.keys() if name not in reads]  # noqa: SIM118
    shown.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names)
    session = onnxruntime.InferenceSession(
        shown.SerializeToString(), providers=['CPUExecutionProvider']
    )
    frames = [session.run(names, dict(feed)) for feed in feeds]
    assert len(names) >= 3
    narrower = 0
    for index, name in enumerate(names):
        values = np.concatenate([frame[index].ravel() for frame in frames])
        low, high = (float(np.ravel(value)[0]) for value in ranges[name].range_value)
        assert np.isfinite([low, high]).all()
        assert values.min() - 1e-4 <= low <= high <= values.max() + 1e-4
        narrower += high - low < 0.999 * (values.max() - values.min())
    assert (narrower > 0) == (calibration != 'minmax')


def test_the_noisiest_layers_stay_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    _, model = traced(_RESNET)
    alone: dict[str, float] = {}

    def watched(
        network: onnx.ModelProto, ranges: TensorsData, feeds: Sequence[Feeds]
    ) -> dict[str, float]:
        # 7 s of CPU time; to measure it here again would show the same.
        assert len(feeds) == 1
        assert network == network_model(model)
        alone.update(sensitivities(network, ranges, feeds))
        return alone

    monkeypatch.setitem(quantise.__globals__, 'sensitivities', watched)
    quantised, made = quantise(model, _FEEDS, 'minmax')
    assert made['layers'] == len(alone) == len(layers(model))
    worst = sorted(alone, key=lambda name: alone[name])[: len(alone) // 10]
    kept = {next(iter(alone)), *(name for name in worst if alone[name] < SENSITIVE_DB)}
    expected = {name: round(alone[name], 1) for name in alone if name in kept}
    assert made['float32_layers'] == expected
    assert len(expected) > 1
    assert made['frames'] == 3
    types = {tensor.name: tensor.data_type for tensor in quantised.graph.initializer}
    whole = {
        node.name
        for node in quantised.graph.node
        if node.op_type == 'Conv' and types.get(node.input[1]) == onnx.TensorProto.FLOAT
    }
    assert whole == set(expected)


def test_calibration_without_a_frame_is_refused() -> None:
    with pytest.raises(PrecisionError, match='but none was given'):
        quantise(traced(_RESNET)[1], [], 'minmax')


def test_every_class_and_group_is_among_the_calibration_frames(
    tiny_recipe: Recipe, tmp_path: Path
) -> None:
    root = write_tiny_ycor(tmp_path, list(range(24)))
    ontology = load_ontology('ycor-8')
    section = tiny_recipe.data.train[0].model_copy(update={'root': str(root)})
    frames = list_frames(section, tiny_recipe.data, ontology)
    groups = {frame.group for frame in frames}
    chosen = stratified(frames, ontology, len(groups))
    assert len(chosen) == len(groups) < len(frames)
    assert {frame.group for frame in chosen} == groups
    present = class_pixels(frames, ontology).sum(axis=0) > 0
    assert np.array_equal(class_pixels(chosen, ontology).sum(axis=0) > 0, present)
    assert stratified(frames, ontology, 10 * len(frames)) == frames
